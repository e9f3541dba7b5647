"""A directory as a sink: an NFS export or any mounted volume.

Rules:

- An object appears whole under its name or not at all: a hidden temporary file in the same
  directory, every byte flushed to the device, then a hard link, which is atomic *and* exclusive
  where a rename would overwrite; then the directory is flushed. (NFS may report a full disk only
  at ``fsync`` or ``close``: both are part of the put.)
- A link whose reply was lost says "exists" although it is ours: the same inode is success.
- Owners, modes and times of files on the sink are never set: an NFS server that squashes root
  refuses that.
- Reading drops the page cache first: what counts is what the device holds.
- A file system without hard links is refused: nothing can be committed exclusively on it.
- The directory must exist, and where a mount is required it must not lie on the root file system:
  an unmounted volume must not swallow backups into the container's own layer.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from backup.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectMissingError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkMissingError,
    SinkUnavailableError,
    SinkUnsupportedError,
)
from backup.model import CHUNK_BYTES
from backup.sinks.base import Object, Sink
from backup.stop import Stop

_PART = re.compile(r"\.[A-Za-z0-9][A-Za-z0-9._-]*\.[0-9a-f]{8}\.part")
_FLUSH_BYTES = 64 << 20
"""Flushed so often, a large object never has more than this left for its last flush."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_PASSING = {
    errno.ESTALE,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
}


class FileSink(Sink):
    """Objects as files below a directory."""

    def __init__(
        self, root: Path, *, require_mount: bool, source: Path, stop: Stop, patience: float
    ) -> None:
        """Take the place, untouched.

        Args:
            root: the directory.
            require_mount: refuse it if it lies on the root file system.
            source: the journals' directory, which must not contain it.
            stop: see :class:`~backup.sinks.base.Sink`.
            patience: likewise, seconds.
        """
        super().__init__(f"file://{root}", stop=stop, patience=patience)
        self._root = root
        self._require_mount = require_mount
        self._source = source

    # -- checks

    def _probe(self) -> None:
        self._require_place()
        probe, link = (self._root / f".probe.{secrets.token_hex(4)}.part" for _ in range(2))
        try:
            with _created(probe) as fd:
                os.write(fd, b"probe")
                os.fsync(fd)
            self._link(probe, link)
        finally:
            for path in (link, probe):
                with suppress(OSError):
                    path.unlink()

    def _require_place(self) -> None:
        if not self._root.is_dir():
            message = f"{self}: the directory does not exist"
            raise SinkMissingError(message, "mount the volume there, or create the directory")
        real, source = self._root.resolve(), self._source.resolve()
        if real == source or source in real.parents:
            message = f"{self}: lies inside the journals' own directory {source}"
            raise ConfigError(message, "choose a directory outside BACKUP_SOURCE")
        if self._require_mount and _mount_point(real) == Path("/"):
            message = f"{self}: nothing is mounted there"
            raise SinkMissingError(
                message,
                "mount the volume there, or set BACKUP_FILE_REQUIRE_MOUNT=false "
                "if backups really belong on the root file system",
            )

    # -- objects

    def _put(self, key: str, chunks: Iterable[bytes]) -> None:
        final = self._root / key
        self._make_directory(final.parent)
        part = final.with_name(f".{final.name}.{secrets.token_hex(4)}.part")
        try:
            with _created(part) as fd:
                _write(fd, chunks)
            self._link(part, final)
        finally:
            with suppress(OSError):
                part.unlink()
        _flush_directory(final.parent)

    def _put_exclusive(self, key: str, data: bytes) -> None:
        self._put(key, (data,))

    def _link(self, part: Path, final: Path) -> None:
        try:
            os.link(part, final, follow_symlinks=False)
        except FileExistsError:
            if not os.path.samestat(part.lstat(), final.lstat()):
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            message = f"{self}: the file system makes no hard links ({error.strerror})"
            raise SinkUnsupportedError(
                message, "use a file system with hard links: NFS, ext4, xfs; not FAT or SMB"
            ) from error

    def _make_directory(self, directory: Path) -> None:
        if not self._root.is_dir():
            message = f"{self}: the directory is gone"
            raise SinkMissingError(message, "is the volume still mounted?")
        if not directory.is_dir():
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            _flush_directory(directory.parent)

    def _open(self, key: str, offset: int) -> Iterator[bytes]:
        fd = os.open(self._root / key, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            os.lseek(fd, offset, os.SEEK_SET)
            while chunk := os.read(fd, CHUNK_BYTES):
                yield chunk
        finally:
            os.close(fd)

    def _list(self, prefix: str) -> Iterator[Object]:
        for path, state in self._walk(self._root, ""):
            if path.startswith(prefix) and not path.rpartition("/")[2].startswith("."):
                yield Object(
                    key=path,
                    size_bytes=state.st_size,
                    modified_at=datetime.fromtimestamp(state.st_mtime, UTC),
                )

    def _walk(self, directory: Path, below: str) -> Iterator[tuple[str, os.stat_result]]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not below and entry.name.startswith("journal-"):
                        yield from self._walk(directory / entry.name, f"{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        yield below + entry.name, entry.stat(follow_symlinks=False)

    def _size(self, key: str) -> int:
        return (self._root / key).lstat().st_size

    def _delete(self, key: str) -> None:
        path = self._root / key
        with suppress(FileNotFoundError):
            path.unlink()
            _flush_directory(path.parent)

    def _sweep(self, before: datetime) -> int:
        swept = 0
        for path, state in list(self._walk(self._root, "")):
            is_part = _PART.fullmatch(path.rpartition("/")[2]) is not None
            if is_part and state.st_mtime < before.timestamp():
                (self._root / path).unlink(missing_ok=True)
                swept += 1
        return swept

    # -- errors

    def _translate(self, what: str, error: Exception) -> SinkError:
        if not isinstance(error, OSError):
            return SinkError(f"{self}: cannot {what}: {error.__class__.__name__}: {error}")
        message = f"{self}: cannot {what}: {error.strerror}"
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return self._missing(message)
        for codes, kind, hint in self._meanings():
            if error.errno in codes:
                return kind(message, *hint)
        return SinkError(message)

    def _meanings(self) -> Iterator[tuple[set[int], type[SinkError], tuple[str, ...]]]:
        yield _FULL, SinkFullError, ("make room on the volume, or raise its quota",)
        who = f"this process is uid {os.geteuid()} gid {os.getegid()}: let it write"
        yield _DENIED, SinkDeniedError, (who,)
        yield _PASSING, SinkUnavailableError, ("is the file server up?",)
        yield {errno.EEXIST}, ObjectExistsError, ()

    def _missing(self, message: str) -> SinkError:
        with suppress(OSError):
            if self._root.is_dir():
                return ObjectMissingError(message)
        return SinkMissingError(message, "is the volume still mounted?")


@contextmanager
def _created(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    try:
        yield fd
    except BaseException:
        with suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def _write(fd: int, chunks: Iterable[bytes]) -> None:
    unflushed = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]
        unflushed += len(chunk)
        if unflushed >= _FLUSH_BYTES:
            os.fdatasync(fd)
            unflushed = 0
    os.fsync(fd)


def _flush_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems cannot
            raise
    finally:
        os.close(fd)


def _mount_point(path: Path) -> Path:
    """Find the mount that holds a path, in ``/proc/self/mountinfo`` (proc(5)), field 5."""
    mounts = {
        Path(_unescaped(line.split()[4]))
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    }
    return next(p for p in (path, *path.parents) if p in mounts or p == Path("/"))


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
