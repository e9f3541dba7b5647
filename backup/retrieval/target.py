"""Directories and files that appear whole under their final name, or not at all.

Rules:

- What is made is made in a hidden directory beside it, ``.partial-<name>-<tag>-<random>``, and
  renamed when all of it is right; a failure leaves nothing under the final name.
- That directory belongs to one process, which holds the lock of a file in it to its end. (A file's,
  because NFS shows no client the lock that another one has on a directory.) Of those that a killed
  process left, the next one of the same name and tag removes the ones whose lock it can have: so no
  two write into each other's. Where the file system has no locks, an NFS export without a lock
  daemon, nobody can tell whether another process is alive: then none is removed.
- Before the rename, every file is looked at once more: there may be somebody who heeds no lock.
- Nothing is overwritten: what is already there is refused before any reading, and of two that make
  the same thing at once, one names it and the other one fails.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backup.disk import flush_directory, write_all
from backup.errors import TargetError

_LOCK = "lock"
"""The file in a hidden directory whose lock its owner holds; beside what is made."""
_IS_THERE = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
"""What a rename of a directory says where something is already."""


def require_absent(final: Path) -> None:
    """Insist that nothing has this name yet.

    Raises:
        TargetError: something has.
    """
    if os.path.lexists(final):
        raise _already_there(final)


def _already_there(final: Path) -> TargetError:
    message = f"{final} is already there"
    return TargetError(message, "choose another place; nothing is ever overwritten")


class Target:
    """A directory that is being made: what is in it, while it is still hidden."""

    def __init__(self, whole: Path) -> None:
        """Take the hidden directory."""
        self._whole = whole
        self._sizes: dict[Path, int] = {}

    def create(self, name: bytes) -> Path:
        """Create an empty file, and the directories that it is in.

        Args:
            name: its path in the target: a plain relative one.
        """
        path = self._whole / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        self._sizes[path] = 0
        return path

    def append(self, path: Path, content: Iterable[bytes]) -> Iterator[int]:
        """Append to a file that was created here, and flush it; yield the size of each piece."""
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        try:
            for chunk in content:
                write_all(fd, chunk)
                self._sizes[path] += len(chunk)
                yield len(chunk)
            os.fsync(fd)
        finally:
            os.close(fd)

    def conclude(self) -> None:
        """Flush the names of all files to the device, and look at every file once more.

        Raises:
            TargetError: somebody else has changed one.
        """
        for directory in {parent for path in self._sizes for parent in path.parents}:
            if directory.is_relative_to(self._whole):
                flush_directory(directory)
        for path, size in self._sizes.items():
            _require_untouched(path, size)


@contextmanager
def appearing(final: Path, tag: str) -> Iterator[Target]:
    """Make a directory that has its name only if the block ends well.

    Args:
        final: its path. The directories above it are made.
        tag: of two that are made under the same name, who is to remove what the other left?
            Only those with the same tag.

    Raises:
        TargetError: it is there already, cannot be written, or was changed by somebody else.
    """
    with _target_errors(final), _hidden(final, tag) as hidden:
        whole = hidden / final.name
        whole.mkdir()
        target = Target(whole)
        yield target
        target.conclude()
        _publish(whole, final)


@contextmanager
def appearing_file(final: Path, tag: str) -> Iterator[int]:
    """Make a file that has its name only if the block ends well; yield where to write.

    Args:
        final: its path. The directories above it are made.
        tag: as for :func:`appearing`.

    Raises:
        TargetError: it is there already, or cannot be written.
    """
    with _target_errors(final), _hidden(final, tag) as hidden:
        whole = hidden / final.name
        fd = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            yield fd
            os.fsync(fd)
        finally:
            os.close(fd)
        _publish_file(whole, final)


@contextmanager
def _target_errors(final: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{final} cannot be written: {error.strerror}"
        raise TargetError(message, "make room, or choose another place") from error


@contextmanager
def _hidden(final: Path, tag: str) -> Iterator[Path]:
    """Make the hidden directory, locked; remove it in the end, and before it what others left."""
    parent, name = final.parent, f".partial-{final.name}-{tag}"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f"{name}-*"):
        _remove_left(left, parent / f"{name}-{secrets.token_hex(4)}")
    path = parent / f"{name}-{secrets.token_hex(4)}"
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
            message = f"{final} is being written by somebody else"
            raise TargetError(message, "wait for that, or choose another place")
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


def _require_untouched(path: Path, size_bytes: int) -> None:
    with suppress(FileNotFoundError):
        state = path.lstat()
        if stat.S_ISREG(state.st_mode) and state.st_size == size_bytes:
            return
    message = f"{path} was changed by somebody else"
    raise TargetError(message, "choose a --target where nothing else writes or cleans up")


def _publish(whole: Path, final: Path) -> None:
    require_absent(final)  # a rename would replace an empty directory
    try:
        whole.rename(final)
    except OSError as error:
        if error.errno in _IS_THERE:
            raise _already_there(final) from error
        raise
    flush_directory(final.parent)


def _publish_file(whole: Path, final: Path) -> None:
    try:
        final.hardlink_to(whole)  # a rename would replace what is there
    except FileExistsError as error:
        raise _already_there(final) from error
    except OSError:  # a file system without links
        require_absent(final)
        whole.rename(final)
    flush_directory(final.parent)
