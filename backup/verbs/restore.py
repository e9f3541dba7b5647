"""``restore``: bring journals back, whole and proved, or not at all.

Rules:

- Everything is written into ``<target>/.partial-<id>/`` and renamed to ``<target>/<journal>``
  when every hash is right; a failure leaves nothing under the final name. What a killed restore
  left in that hidden directory, the next restore of the same backup removes.
- Nothing is overwritten: a journal that is already in the target is refused before any reading.
- Names come from a validated manifest and files are created exclusively, so neither an archive
  nor a manifest can write outside the partial directory, through a link, or more than the
  manifest says.
- Mode and time are restored, owners where the process may, as far as the file system can (a
  USB stick may not keep them). What counts is the content.
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

from backup.catalog import Catalog
from backup.disk import flush_directory, write_all
from backup.errors import NEEDS_A_LOOK, BackupError, StopError, TargetError
from backup.manifest import File, Manifest
from backup.model import Emit, Problem, Progressed, WithExitCodes, decode_name
from backup.sinks import Sink
from backup.stop import Stop
from backup.streams import call
from backup.verbs.extraction import extract
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
class RestoreResult(WithExitCodes):
    """What came of a restore."""

    restored: tuple[Restored, ...]
    problems: tuple[Problem, ...]


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
    shelves, problems = open_shelves(sinks, emit=emit)
    chosen, without = select(shelves, selector, journal=journal)
    for choice in chosen:
        _require_absent(target / choice.backup.journal)
    restored: list[Restored] = []
    failed = without
    for choice in chosen:
        if choice.newer:
            failed.append(_older(choice))
        try:
            restored.append(_restore(choice, target, emit=emit, stop=stop))
        except StopError:
            raise
        except BackupError as error:
            failed.append(Problem.of(error, journal=choice.backup.journal, sink=choice.shelf.url))
    for problem in failed:
        emit(problem)
    problems += failed
    return RestoreResult(restored=tuple(restored), problems=tuple(problems))


def _older(choice: Chosen) -> Problem:
    return Problem(
        exit_code=NEEDS_A_LOOK,
        message=f"{choice.backup.id} is the latest good backup, and not the latest",
        hints=(*choice.newer[:3], "choose one by its id to restore it all the same"),
        journal=choice.backup.journal,
    )


def _require_absent(final: Path) -> None:
    if os.path.lexists(final):
        message = f"{final} is already there"
        raise TargetError(message, "choose another --target; nothing is ever overwritten")


def _restore(choice: Chosen, target: Path, *, emit: Emit, stop: Stop) -> Restored:
    begun = time.monotonic()
    catalog, backup = choice.shelf.catalog, choice.backup
    manifest, _ = catalog.manifest(backup.journal, backup.id)
    final = target / backup.journal
    write = partial(_write_all, catalog, manifest, final, emit=emit, stop=stop)
    call(write, stop=stop, cleans_up=True)
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
    catalog: Catalog, manifest: Manifest, final: Path, *, emit: Emit, stop: Stop
) -> None:
    with _target_errors(final), _partial(final.parent, manifest.id) as partial_dir:
        whole = partial_dir / final.name
        whole.mkdir()
        paths = {f.path: whole / os.fsdecode(decode_name(f.path)) for f in manifest.files}
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        done = 0
        for piece in extract(catalog, manifest, stop=stop):
            for size in _append(paths[piece.file.path], piece.content):
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
            _finish(paths[file.path], file)
        for directory in {parent for path in paths.values() for parent in path.parents}:
            if directory.is_relative_to(whole):
                flush_directory(directory)
        stop.check()
        _require_absent(final)
        whole.rename(final)
        flush_directory(final.parent)


@contextmanager
def _partial(target: Path, backup_id: str) -> Iterator[Path]:
    target.mkdir(parents=True, exist_ok=True)
    path = target / f".partial-{backup_id}"
    if os.path.lexists(path):  # of a restore that was killed
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _append(path: Path, content: Iterator[bytes]) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    try:
        for chunk in content:
            write_all(fd, chunk)
            yield len(chunk)
        os.fsync(fd)
    finally:
        os.close(fd)


def _finish(path: Path, file: File) -> None:
    """Restore owner, mode and time, as far as this process may and the file system can."""
    when = file.mtime.timestamp()
    with suppress(OSError):  # only root may, and not on a server that squashes root
        os.chown(path, file.uid, file.gid, follow_symlinks=False)
    with suppress(OSError):
        path.chmod(file.mode & 0o777)
    with suppress(OSError):
        os.utime(path, (when, when), follow_symlinks=False)


@contextmanager
def _target_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{final} cannot be written: {error.strerror}"
        raise TargetError(message, "make room, or choose another --target") from error
