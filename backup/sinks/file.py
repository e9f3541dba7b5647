"""A directory as a sink: an NFS export or any mounted volume.

Rules:

- An object appears whole under its name or not at all: a hidden temporary file in the same
  directory, every byte flushed to the device, then a hard link, which is atomic *and* exclusive
  where a rename would overwrite; then the directory is flushed. (NFS may report a full disk only
  at ``fsync`` or ``close``: both are part of the put.)
- A large object is flushed on the way, so often that no flush takes long: a page cache takes at
  once what a slow server needs minutes for, and that would pass for silence. How many bytes that
  is, the flushes themselves tell.
- The name of a journal's directory is flushed before a run's first object in it, whoever made it:
  that may have failed after it was made.
- A link whose reply was lost fails although it was made: the same inode is success, whatever the
  error says. An archive whose directory cannot be flushed is taken back.
- Owners, modes and times of files on the sink are never set: an NFS server that squashes root
  refuses that.
- Reading drops the page cache first: what counts is what the device holds.
- A file system without hard links is refused: nothing can be committed exclusively on it.
- The directory must exist, and where a mount is required it must not lie on the root file system:
  an unmounted volume must not swallow backups into the container's own layer, nor look like a sink
  without any. So this is asked before every put and listing, not once.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path

from backup.disk import flush_directory, write_all
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
from backup.lanes import unwatched
from backup.model import CHUNK_BYTES
from backup.sinks.base import Object, PlacedSink
from backup.sinks.kinds import FileOptions

_PART = re.compile(
    r"(?:\.probe|(?P<journal>journal-[^/]+)/\.(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*))"
    r"\.[0-9a-f]{8}\.part"
)
"""The path below the root of a temporary file of ours."""
_BEGIN_BYTES = 8 << 20
"""After this many bytes Linux is asked to write them back: POSIX_FADV_DONTNEED has that effect on
dirty pages, and drops clean ones."""
_BEHIND_BYTES = 32 << 20
"""This far behind they are asked for again: what is clean by then is dropped, so the page cache
stays small."""
_FIRST_FLUSH_BYTES = 4 << 20
_MIN_FLUSH_BYTES = 1 << 20
_MAX_FLUSH_BYTES = 256 << 20
"""After so many bytes they are flushed, so the last fsync has no more than this to do."""
_FLUSH_SECONDS = 2.5
"""As many bytes are flushed at once as take about so long."""
_GROWTH = 8
"""A flush is so many times as large as the one before, at most: a small one may tell little."""
_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z: calendars end there, file systems do not."""

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_PASSING = {
    errno.ESTALE,
    errno.EIO,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
}
_MEANINGS: tuple[tuple[set[int], type[SinkError], *tuple[str, ...]], ...] = (
    (
        {errno.ENOSPC, errno.EDQUOT, errno.EFBIG},
        SinkFullError,
        "make room on the volume, or raise its quota",
    ),
    ({errno.EROFS}, SinkDeniedError, "mount the volume so that it can be written"),
    (_PASSING, SinkUnavailableError, "is the file server up?"),
    ({errno.EEXIST}, ObjectExistsError),
)


class FileSink(PlacedSink[FileOptions]):
    """Objects as files below a directory.

    It has many methods as ten are those of every sink: the others are steps of these.
    """

    @cached_property
    def _root(self) -> Path:
        return Path(self._place.path)

    @cached_property
    def _flushed(self) -> set[Path]:
        """Directories whose names the device holds."""
        return set()

    # -- checks

    def _probe(self) -> None:
        self._require_place()
        self._require_outside()
        probe, link = (self._root / f".probe.{os.urandom(4).hex()}.part" for _ in range(2))
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
        try:
            is_directory = stat.S_ISDIR(self._root.stat().st_mode)
        except FileNotFoundError:
            message = f"{self}: the directory does not exist"
            raise SinkMissingError(
                message, "mount the volume there, or create the directory"
            ) from None
        if not is_directory:
            message = f"{self}: is not a directory"
            raise SinkMissingError(message, "name a directory, or mount the volume there")
        if self._place.options.require_mount and _mount_point(self._root.resolve()) == Path("/"):
            message = f"{self}: nothing is mounted there"
            raise SinkMissingError(
                message,
                "mount the volume there, or set BACKUP_FILE_REQUIRE_MOUNT=false "
                "if backups really belong on the root file system",
            )

    def _require_outside(self) -> None:
        real, source = self._root.resolve(), self._settings.source.resolve()
        if real == source or source in real.parents:
            message = f"{self}: lies inside the journals' own directory {source}"
            raise ConfigError(message, "choose a directory outside BACKUP_SOURCE")

    # -- objects

    def _put(
        self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None, alive: Callable[[], None]
    ) -> None:
        del max_bytes  # a file grows as it likes
        final = self._store(key, chunks, alive)
        try:
            flush_directory(final.parent)
        except OSError:
            with suppress(OSError):
                final.unlink()
            raise

    def _put_exclusive(self, key: str, data: bytes) -> None:
        # Never taken back: another try may have found it meanwhile, and counted it as stored.
        try:
            final = self._store(key, (data,))
        except FileExistsError:
            flush_directory((self._root / key).parent)  # it may be ours, of a try that failed here
            raise
        flush_directory(final.parent)

    def _store(
        self, key: str, chunks: Iterable[bytes], alive: Callable[[], None] = unwatched
    ) -> Path:
        self._require_place()
        final = self._root / key
        if final.parent != self._root:
            self._make_directory(final.parent)
        part = final.with_name(f".{final.name}.{os.urandom(4).hex()}.part")
        try:
            with _created(part) as fd:
                _write(fd, chunks, alive)
            self._link(part, final)
        finally:
            with suppress(OSError):
                part.unlink()
        return final

    def _make_directory(self, directory: Path) -> None:
        if not directory.is_dir():
            directory.mkdir(mode=0o750, exist_ok=True)
            self._flushed.discard(directory)
        if directory not in self._flushed:
            flush_directory(self._root)
            self._flushed.add(directory)

    def _link(self, part: Path, final: Path) -> None:
        try:
            os.link(part, final, follow_symlinks=False)
        except OSError as error:
            if _are_same(part, final):
                return
            if error.errno not in _NO_LINKS:
                raise
            message = f"{self}: the file system makes no hard links ({error.strerror})"
            raise SinkUnsupportedError(
                message, "use a file system with hard links: NFS, ext4, xfs; not FAT or SMB"
            ) from error

    def _open(self, key: str, offset: int) -> Iterator[bytes]:
        fd = os.open(self._root / key, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            os.lseek(fd, offset, os.SEEK_SET)
            reached = dropped = offset
            while chunk := os.read(fd, CHUNK_BYTES):
                reached += len(chunk)
                if reached - dropped >= _BEGIN_BYTES:
                    os.posix_fadvise(fd, dropped, reached - dropped, os.POSIX_FADV_DONTNEED)
                    dropped = reached
                yield chunk
        finally:
            os.close(fd)

    def _list(self) -> Iterator[Object]:
        self._require_place()
        for path, entry in self._walk(self._root, ""):
            if not entry.name.startswith("."):
                with suppress(FileNotFoundError):
                    state = entry.stat(follow_symlinks=False)
                    yield Object(
                        key=path,
                        size_bytes=state.st_size,
                        modified_at=_time(state.st_mtime),
                    )

    def _walk(self, directory: Path, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if not below and entry.name.startswith("journal-"):
                        yield from self._walk_journal(entry.name)
                elif entry.is_file(follow_symlinks=False):
                    yield below + entry.name, entry

    def _walk_journal(self, name: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        try:
            yield from self._walk(self._root / name, f"{name}/")
        except FileNotFoundError as error:
            # Either it was removed, or the volume went away: looking again will tell.
            message = f"{self}: {name} vanished while it was listed"
            raise SinkUnavailableError(message, "is the volume still mounted?") from error

    def _size(self, key: str) -> int:
        return (self._root / key).lstat().st_size

    def _delete(self, key: str) -> None:
        path = self._root / key
        with suppress(FileNotFoundError):
            path.unlink()
            flush_directory(path.parent)

    def _sweep(self, before: datetime) -> int:
        swept = 0
        parts = [(p, e) for p, e in self._walk(self._root, "") if _PART.fullmatch(p)]
        for path, entry in parts:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < before.timestamp():
                    (self._root / path).unlink()
                    swept += 1
        return swept

    def _unfinished(self) -> Sequence[str]:
        paths = (path for path, _ in self._walk(self._root, ""))
        parts = (match for match in map(_PART.fullmatch, paths) if match and match["name"])
        return [f"{part['journal']}/{part['name']}" for part in parts]

    def _free_bytes(self) -> int | None:
        self._require_place()
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    # -- errors

    def _translate(self, what: str, error: Exception) -> SinkError:
        if not isinstance(error, OSError):
            return SinkError(f"{self}: cannot {what}: {error.__class__.__name__}: {error}")
        message = f"{self}: cannot {what}: {error.strerror or error!r}"
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return self._missing(message)
        if error.errno in {errno.EACCES, errno.EPERM}:
            who = f"this process is uid {os.geteuid()} gid {os.getegid()}: give it access"
            return SinkDeniedError(message, who)
        for codes, kind, *hints in _MEANINGS:
            if error.errno in codes:
                return kind(message, *hints)
        return SinkError(message)

    def _missing(self, message: str) -> SinkError:
        try:
            self._require_place()
        except SinkMissingError as error:
            return error
        except OSError:
            return SinkMissingError(message, "is the volume still mounted?")
        return ObjectMissingError(message)


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


def _write(fd: int, chunks: Iterable[bytes], alive: Callable[[], None]) -> None:
    written = begun = flushed = 0
    flush_bytes = _FIRST_FLUSH_BYTES
    for chunk in chunks:
        write_all(fd, chunk)
        written += len(chunk)
        if written - begun >= _BEGIN_BYTES:
            since = max(0, begun - _BEHIND_BYTES)
            os.posix_fadvise(fd, since, written - since, os.POSIX_FADV_DONTNEED)
            begun = written
        if written - flushed >= flush_bytes:
            seconds = _seconds(partial(os.fdatasync, fd), alive)
            flush_bytes = _next_flush_bytes(flush_bytes, seconds)
            flushed = written
    _seconds(partial(os.fsync, fd), alive)


def _seconds(flush: Callable[[], None], alive: Callable[[], None]) -> float:
    """Flush, between two signs of life; say how long it took."""
    alive()
    begun = time.monotonic()
    flush()
    alive()
    return time.monotonic() - begun


def _next_flush_bytes(size: int, seconds: float) -> int:
    """Say after how many bytes to flush, where so many took so long."""
    fitting = int(size * _FLUSH_SECONDS / max(seconds, 0.001))
    return max(_MIN_FLUSH_BYTES, min(fitting, _GROWTH * size, _MAX_FLUSH_BYTES))


def _are_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except OSError:
        return False


def _mount_point(path: Path) -> Path:
    """Find the mount that holds a path, in ``/proc/self/mountinfo`` (proc(5)), field 5.

    ``os.path.ismount`` would not do: it knows a mount by another device number, and so does not see
    a directory that is bound into a container from the same file system; nor does it know a
    subdirectory of a mount.
    """
    mounts = {
        Path(_unescaped(line.split()[4]))
        for line in Path("/proc/self/mountinfo")
        .read_text(encoding="utf-8", errors="surrogateescape")
        .splitlines()
    }
    return next(p for p in (path, *path.parents) if p in mounts or p == Path("/"))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(min(max(0.0, seconds), _LAST_SECOND), UTC)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
