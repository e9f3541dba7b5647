"""``restore``: bring journals back, whole and proved, or not at all.

Rules:

- Everything is written into a hidden directory of the target, ``.partial-<journal>-<id>-<random>``,
  and renamed to ``<target>/<journal>`` when every hash is right; a failure leaves nothing under the
  final name.
- That directory belongs to one restore, which holds the lock of a file in it to its end. (A file's,
  because NFS shows no client the lock that another one has on a directory.) Of those that a killed
  restore left, the next restore of the same backup removes the ones whose lock it can have: so no
  two restores write into each other's. Where the file system has no locks, an NFS export without a
  lock daemon, nobody can tell whether another restore is alive: then none is removed.
- Before the rename, every file is looked at once more: there may be somebody who heeds no lock.
- Nothing is overwritten: a journal that is already in the target is refused before any reading,
  and of two restores that bring back the same one at once, one names it and the other one fails.
- Names come from a validated manifest and files are created exclusively, so neither an archive
  nor a manifest can write outside the hidden directory, through a link, or more than the
  manifest says.
- Mode and time are restored, owners where the process may, as far as the file system can (a
  USB stick may not keep them). What counts is the content.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backup.catalog import Catalog
from backup.disk import flush_directory, write_all
from backup.errors import BackupError, StopError, TargetError
from backup.manifest import File, Manifest
from backup.model import Emit, Problem, Progressed, WithExitCodes, decode_name
from backup.sinks import Sink
from backup.stop import Stop
from backup.streams import call
from backup.verbs.extraction import extract
from backup.verbs.selection import Chosen, open_shelves, passed_over, select

_LOCK = "lock"
"""The file in a hidden directory whose lock its owner holds; beside the journal's directory."""
_IS_THERE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
"""What a rename of a directory says where something is already."""


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
        if (older := passed_over(choice)) is not None:
            failed.append(older)
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


def _require_absent(final: Path) -> None:
    if os.path.lexists(final):
        raise _already_there(final)


def _already_there(final: Path) -> TargetError:
    message = f"{final} is already there"
    return TargetError(message, "choose another --target; nothing is ever overwritten")


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
    with _target_errors(final), _hidden(final, manifest.id) as hidden:
        whole = hidden / final.name
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
        for file in manifest.files:
            _require_untouched(paths[file.path], file)
        _publish(whole, final)


@contextmanager
def _hidden(final: Path, backup_id: str) -> Iterator[Path]:
    """Make the hidden directory, locked; remove it in the end, and before it what others left."""
    target, name = final.parent, f".partial-{final.name}-{backup_id}"
    target.mkdir(parents=True, exist_ok=True)
    for left in target.glob(f"{name}-*"):
        _remove_left(left, target / f"{name}-{secrets.token_hex(4)}")
    path = target / f"{name}-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    try:
        with _locked(path, final):
            yield path
    finally:  # not locked any more: NFS does not let go of a directory with an open file in it
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(hidden: Path, final: Path) -> Iterator[None]:
    """Hold the lock of one's own hidden directory, if the file system has locks."""
    lock = _open_lock(hidden)
    try:
        if not _may_have(lock) or not os.path.lexists(hidden):
            message = f"{final} is being restored by somebody else"
            raise TargetError(message, "wait for that, or choose another --target")
        yield
    finally:
        os.close(lock)


def _may_have(lock: int) -> bool:
    """Take one's own lock; False if somebody has it who takes us for left behind."""
    with suppress(OSError):  # no locks here, so nobody removes anything
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _remove_left(left: Path, doomed: Path) -> None:
    """Remove a hidden directory unless its owner lives; renamed first, it is lost to them."""
    with suppress(OSError):  # its owner lives, or it is not ours to remove, or there are no locks
        lock = _open_lock(left)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.rename(doomed)
        finally:
            os.close(lock)
        shutil.rmtree(doomed)


def _open_lock(hidden: Path) -> int:
    directory = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW  # to write: NFS asks for that
        return os.open(_LOCK, how, 0o600, dir_fd=directory)
    finally:
        os.close(directory)


def _require_untouched(path: Path, file: File) -> None:
    with suppress(FileNotFoundError):
        state = path.lstat()
        if stat.S_ISREG(state.st_mode) and state.st_size == file.size_bytes:
            return
    message = f"{path} was changed by somebody else"
    raise TargetError(message, "choose a --target where nothing else writes or cleans up")


def _publish(whole: Path, final: Path) -> None:
    _require_absent(final)  # a rename would replace an empty directory
    try:
        whole.rename(final)
    except OSError as error:
        if error.errno in _IS_THERE:
            raise _already_there(final) from error
        raise
    flush_directory(final.parent)


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
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:  # it is not what was written any more, which is found before the rename
        return
    try:
        with suppress(OSError):  # only root may, and not on a server that squashes root
            os.fchown(fd, file.uid, file.gid)
        with suppress(OSError):
            os.fchmod(fd, file.mode & 0o777)
        with suppress(OSError):
            os.utime(fd, (when, when))
    finally:
        os.close(fd)


@contextmanager
def _target_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{final} cannot be written: {error.strerror}"
        raise TargetError(message, "make room, or choose another --target") from error
