"""The volume: the journals on it, and paths below one, gone step by step."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backup.errors import (
    ConfigError,
    JournalChangedError,
    JournalError,
    JournalExtraError,
    JournalMissingError,
    JournalUnreadableError,
)
from backup.model import JOURNAL_FILE, Journal

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What is on the volume."""

    journals: tuple[Journal, ...]
    """Journals of our StatefulSet, by ordinal."""
    foreign: tuple[str, ...]
    """Names that are journals of another StatefulSet."""
    odd: tuple[tuple[str, str], ...]
    """Names that would be journals of ours, and why they are not."""
    ignored: int
    """Entries that have nothing to do with journals; never opened."""


def discover(source: Path, statefulset: str) -> Discovery:
    """Look one level deep for the journals of a StatefulSet.

    Raises:
        ConfigError: the source is missing or not a directory.
        JournalUnreadableError: the source cannot be listed.
    """
    ours: list[Journal] = []
    foreign: list[str] = []
    odd: list[tuple[str, str]] = []
    ignored = 0
    for entry in _scan_source(source):
        journal = Journal.parse(os.fsencode(entry.name).decode("utf-8", "replace"))
        if journal is None:
            ignored += 1
        elif journal.statefulset != statefulset:
            foreign.append(entry.name)
        elif reason := _why_not(entry):
            odd.append((entry.name, reason))
        else:
            ours.append(journal)
    return Discovery(
        journals=tuple(sorted(ours)),
        foreign=tuple(sorted(foreign)),
        odd=tuple(sorted(odd)),
        ignored=ignored,
    )


def _scan_source(source: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(source) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        wrong = "does not exist" if isinstance(error, FileNotFoundError) else "is not a directory"
        message = f"BACKUP_SOURCE {source} {wrong}"
        hint = "set BACKUP_SOURCE to the directory where the journal volume is mounted"
        raise ConfigError(message, hint) from error
    except OSError as error:
        raise _unreadable(str(source), error) from error


def _why_not(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_symlink():
            return "is a symbolic link, and links are not followed"
        return None if entry.is_dir(follow_symlinks=False) else "is not a directory"
    except OSError:
        return None  # whoever captures it will say what is wrong with it


# -- paths below a journal's directory, and what the operating system says of them


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
    return _unreadable(name, error)


def _unreadable(name: str, error: OSError) -> JournalError:
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
