"""``restore``: bring journals back, whole and proved, or not at all.

Rules:

- Everything is written into ``<target>/.partial-<id>/`` and renamed to ``<target>/<journal>``
  when every hash is right; a failure leaves nothing under the final name.
- Nothing is overwritten: a journal that is already in the target is refused before any reading.
- Names come from a validated manifest and files are created exclusively, so neither an archive
  nor a manifest can write outside the partial directory, through a link, or more than the
  manifest says.
- Mode and time are restored; owners where the process is root and the file system lets it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backup.errors import BackupError, StopError, TargetError
from backup.manifest import File, Manifest
from backup.model import Emit, Problem, Progressed, decode_name
from backup.sinks import Sink
from backup.stop import Stop
from backup.streams import call
from backup.verbs.extraction import Piece, extract
from backup.verbs.selection import Chosen, open_shelves, select


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A journal that was brought back."""

    journal: str
    id: str
    sink: str
    path: str
    size_bytes: int
    records: int
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult:
    """What came of a restore."""

    restored: tuple[Restored, ...]
    problems: tuple[Problem, ...]

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(p.exit_code for p in self.problems)


def restore(
    sinks: Sequence[Sink],
    selector: str,
    target: Path,
    *,
    journal: str | None,
    emit: Emit,
    stop: Stop,
) -> RestoreResult:
    """Restore one backup, or the latest good one of every journal.

    Args:
        sinks: where to look, in this order.
        selector: see :mod:`backup.verbs.selection`.
        target: the directory that will hold a directory for each journal.
        journal: restrict the selector to this journal.
        emit: told of progress.
        stop: asked while waiting.

    Raises:
        SelectorError: the selector matches none or several.
        TargetError: a journal is already in the target.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks)
    chosen, without = select(shelves, selector, journal=journal)
    problems += without
    for choice in chosen:
        _require_absent(target / choice.backup.journal)
    restored: list[Restored] = []
    for choice in chosen:
        try:
            restored.append(_restore(choice, target, emit=emit, stop=stop))
        except StopError:
            raise
        except BackupError as error:
            problems.append(Problem.of(error, journal=choice.backup.journal, sink=choice.shelf.url))
    for problem in problems:
        emit(problem)
    return RestoreResult(restored=tuple(restored), problems=tuple(problems))


def _require_absent(final: Path) -> None:
    if os.path.lexists(final):
        message = f"{final} is already there"
        raise TargetError(message, "choose another --target; nothing is ever overwritten")


def _restore(choice: Chosen, target: Path, *, emit: Emit, stop: Stop) -> Restored:
    begun = time.monotonic()
    catalog, backup = choice.shelf.catalog, choice.backup
    manifest, _ = catalog.manifest(backup.journal, backup.id)
    final = target / backup.journal
    pieces = extract(catalog, manifest, stop=stop)
    call(partial(_write_all, manifest, pieces, final, emit=emit, stop=stop), stop=stop)
    return Restored(
        journal=backup.journal,
        id=backup.id,
        sink=choice.shelf.url,
        path=str(final),
        size_bytes=manifest.size_bytes,
        records=manifest.records,
        duration_seconds=round(time.monotonic() - begun, 3),
    )


def _write_all(
    manifest: Manifest, pieces: Iterator[Piece], final: Path, *, emit: Emit, stop: Stop
) -> None:
    with _target_errors(final), _partial(final.parent, manifest.id) as partial_dir:
        done = 0
        for piece in pieces:
            path = partial_dir / os.fsdecode(decode_name(piece.file.path))
            for size in _write(path, piece):
                done += size
                emit(
                    Progressed(
                        verb="restore",
                        subject=manifest.journal,
                        done_bytes=done,
                        total_bytes=manifest.size_bytes,
                    )
                )
        for file in manifest.files:
            _finish(partial_dir / os.fsdecode(decode_name(file.path)), file)
        stop.check()
        _require_absent(final)
        partial_dir.rename(final)
        _flush(final)
        _flush(final.parent)


@contextmanager
def _partial(target: Path, backup_id: str) -> Iterator[Path]:
    target.mkdir(parents=True, exist_ok=True)
    path = target / f".partial-{backup_id}"
    if os.path.lexists(path):  # of a restore that was killed
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _write(path: Path, piece: Piece) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    begins = piece.segment.offset == 0
    flags = os.O_CREAT | os.O_EXCL if begins else os.O_APPEND
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | flags, 0o600)
    try:
        for chunk in piece.content:
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]
            yield len(chunk)
        os.fsync(fd)
    finally:
        os.close(fd)


def _finish(path: Path, file: File) -> None:
    if os.geteuid() == 0:
        with suppress(OSError):  # a server that squashes root says no
            os.chown(path, file.uid, file.gid, follow_symlinks=False)
    path.chmod(file.mode & 0o777)
    when = file.mtime.timestamp()
    os.utime(path, (when, when), follow_symlinks=False)


def _flush(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def _target_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{final} cannot be written: {error.strerror}"
        raise TargetError(message, "make room, or choose another --target") from error
