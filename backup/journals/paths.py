"""Paths below a journal's directory, gone step by step, and what the operating system says."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backup.errors import (
    JournalChangedError,
    JournalError,
    JournalExtraError,
    JournalMissingError,
    JournalUnreadableError,
)
from backup.model import JOURNAL_FILE

FILE, DIRECTORY = "a file", "a directory"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_TO_ENTER = os.O_RDONLY | os.O_DIRECTORY
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_REPLACED = {errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.ENXIO}
"""Something else has the name now: another inode (NFS), a link, no directory, a socket."""


@contextmanager
def opened(root: Path, path: bytes) -> Iterator[int]:
    """Open a file of a journal."""
    below, name = os.path.split(path)
    with translated(root, path):
        with _directory(root, below) as above:
            fd = os.open(name, _TO_READ, dir_fd=above)
        try:
            if (kind := kind_of(os.fstat(fd))) != FILE:
                message = f"{_name(root, path)!r} was replaced while it was read: by {kind}"
                raise JournalChangedError(message)
            os.set_blocking(fd, True)
            yield fd
        finally:
            os.close(fd)


@contextmanager
def listed(root: Path, below: bytes) -> Iterator[Iterator[os.DirEntry[str]]]:
    """List a directory of a journal."""
    with _directory(root, below) as fd, os.scandir(fd) as entries:
        yield entries


@contextmanager
def _directory(root: Path, below: bytes) -> Iterator[int]:
    """Open a directory of a journal, from the source on: no step of the way may be a link."""
    fd = os.open(root.parent, _TO_ENTER)
    try:
        for name in filter(None, (os.fsencode(root.name), *below.split(b"/"))):
            above, fd = fd, os.open(name, _TO_ENTER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(above)
        yield fd
    finally:
        os.close(fd)


def state_of(root: Path, path: bytes) -> os.stat_result:
    """Look at a file of a journal, whatever it is by now."""
    below, name = os.path.split(path)
    with _directory(root, below) as above:
        return os.stat(name, dir_fd=above, follow_symlinks=False)


def _name(root: Path, path: bytes) -> str:
    return os.fsdecode(os.path.join(os.fsencode(root), path)) if path else str(root)


@contextmanager
def translated(root: Path, path: bytes) -> Iterator[None]:
    """Say what an error means: for the journal, or for a file beside it, which is not to blame."""
    try:
        yield
    except (OSError, JournalChangedError, JournalUnreadableError) as error:
        meant = _meaning(root, path, error) if isinstance(error, OSError) else error
        if path not in {b"", JOURNAL_FILE}:
            is_unreadable = isinstance(meant, JournalUnreadableError)
            meant = JournalExtraError(
                meant.message, *meant.hints, path=path, is_unreadable=is_unreadable
            )
        if meant is error:
            raise
        raise meant from error


def _meaning(root: Path, path: bytes, error: OSError) -> JournalError:
    name = _name(root, path)
    if not path and error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return JournalMissingError(f"{name} is not a directory")
    if error.errno == errno.ENOENT:
        return JournalChangedError(f"{name!r} vanished while it was read")
    if error.errno in _REPLACED:
        return JournalChangedError(f"{name!r} was replaced while it was read: {error.strerror}")
    return unreadable(name, error)


def unreadable(name: str, error: OSError) -> JournalError:
    """Say why something cannot be read, and what to do where it may not."""
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return JournalUnreadableError(f"{name!r} cannot be read: {error.strerror}")
    return JournalUnreadableError(
        f"{name!r} may not be read by uid {os.geteuid()} gid {os.getegid()}: {_owner(Path(name))}",
        "run the pod with that uid and gid (securityContext.runAsUser and runAsGroup); "
        "as root, where they are root's, all capabilities can be dropped",
    )


def _owner(path: Path) -> str:
    """Say whose a path is, or the nearest directory above it that can be looked at."""
    where = next(p for p in (path, *path.parents) if os.path.lexists(p))
    state = where.lstat()
    return (
        f"{str(where)!r} belongs to uid {state.st_uid} gid {state.st_gid},"
        f" mode {stat.S_IMODE(state.st_mode):04o}"
    )


def kind_of(state: os.stat_result) -> str:
    """Name the kind of an entry of a directory."""
    return _KINDS.get(stat.S_IFMT(state.st_mode), "neither a file nor a directory")


def read_at(fd: int, offset: int, size: int) -> bytes:
    """Read so much from there on, or to the end."""
    data = bytearray()
    while len(data) < size and (piece := os.pread(fd, size - len(data), offset + len(data))):
        data += piece
    return bytes(data)
