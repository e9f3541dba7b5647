"""Archives: plain ``tar.gz``, made and taken apart as streams, without touching a disk.

Rules for making one (:func:`frame`, :func:`gzip`):

- POSIX.1-2001 (PAX) tar that ``tar`` anywhere reads; the size of a member is known before its
  first byte, so a member is exactly as long as its header says or the stream fails.
- The same input gives the same bytes: no user names, no clock; gzip's time field is 0 (RFC 1952).

Rules for taking one apart (:func:`gunzip`, :func:`unpack`): it accepts what this module writes and
nothing else. An archive comes from a place where others can write, so everything in it is hostile
until proved otherwise: only regular files, plain relative names, no name twice, no sparse files,
extended headers of bounded size, output in bounded pieces however small the input, nothing after
the end.
"""

from __future__ import annotations

import re
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain

from isal import isal_zlib

from backup.errors import ArchiveError
from backup.model import CHUNK_BYTES

_BLOCK = 512
_HEADER_ROOM = 16 << 10
"""A member's headers, with the longest name, and its padding; in bytes."""
_GZIP_WINDOW = 16 + 15
_RAW_WINDOW = -15
_GZIP_HEADER = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255])  # no name, no time (RFC 1952, 2.3)
_LAST_BLOCK = bytes([3, 0])  # empty and final (RFC 1951, 3.2.3)
_INPUT_BYTES = 64 << 10
_MAX_PAX_BYTES = 64 << 10
_MAX_NAMES_BYTES = 8 << 20  # no manifest could name more members
_PAX_LENGTH = re.compile(rb"[1-9][0-9]{0,5}")
_PAX_NUMBER = re.compile(rb"[0-9]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A member of an archive: a regular file."""

    name: bytes
    size_bytes: int
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    """Seconds since 1970, UTC."""


# -- make


def frame(members: Iterable[tuple[Entry, Iterable[bytes]]]) -> Iterator[bytes]:
    """Pack files into a tar stream.

    Args:
        members: each file and its content, which is read when its turn comes.

    Yields:
        the archive, piece by piece.

    Raises:
        ArchiveError: a file's content is longer or shorter than announced.
    """
    for entry, content in members:
        yield _header(entry)
        written = 0
        for chunk in content:
            written += len(chunk)
            yield chunk
        if written != entry.size_bytes:
            message = f"{entry.name!r} gave {written} bytes instead of {entry.size_bytes}"
            raise ArchiveError(message)
        if padding := -written % _BLOCK:
            yield bytes(padding)
    yield bytes(2 * _BLOCK)


def max_archive_bytes(member_bytes: Iterable[int]) -> int:
    """Return how large an archive of members of these sizes can get, in bytes.

    Deflate stores what it cannot compress, with 5 bytes for each 64 KiB (RFC 1951, 3.2.4); a
    member's header and padding take a few KiB at most. Both are rounded up generously.
    """
    framed = [size + _HEADER_ROOM for size in member_bytes]
    return sum(framed) + sum(framed) // 1_000 + CHUNK_BYTES


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.name.decode("utf-8", "surrogateescape"))
    info.size = entry.size_bytes
    info.mode = entry.mode
    info.uid = entry.uid
    info.gid = entry.gid
    info.mtime = entry.mtime
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_Block = tuple[memoryview, ...]


@dataclass(frozen=True, slots=True)
class _Deflated:
    data: bytes
    crc: int
    size_bytes: int


_Each = Callable[[Callable[[_Block], _Deflated], Iterable[_Block]], Iterable[_Deflated]]
"""What :func:`map` is: calls a function with each item, in order."""


def gzip(chunks: Iterable[bytes], *, level: int = 1, each: _Each = map) -> Iterator[bytes]:
    """Compress a stream into one gzip member.

    The stream is cut into blocks that are compressed independently of each other, so that several
    can be compressed at once; they are put together as pigz does, and any gunzip reads them.

    Args:
        chunks: what to compress.
        level: isal level, 0 to 3.
        each: compresses the blocks; something like ``map``, and perhaps in several threads.
    """
    yield _GZIP_HEADER
    crc = size = 0
    for block in each(partial(_deflate, level), _blocks(chunks)):
        yield block.data
        crc = isal_zlib.crc32_combine(crc, block.crc, block.size_bytes)
        size += block.size_bytes
    yield _LAST_BLOCK + struct.pack("<II", crc, size & 0xFFFFFFFF)


def _blocks(chunks: Iterable[bytes]) -> Iterator[_Block]:
    """Cut a stream into pieces of exactly CHUNK_BYTES, but for the last; nothing is copied."""
    block: list[memoryview] = []
    room = CHUNK_BYTES
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            piece, view = view[:room], view[room:]
            block.append(piece)
            room -= len(piece)
            if not room:
                yield tuple(block)
                block, room = [], CHUNK_BYTES
    if block:
        yield tuple(block)


def _deflate(level: int, block: _Block) -> _Deflated:
    packer = isal_zlib.compressobj(level, isal_zlib.DEFLATED, _RAW_WINDOW)
    crc = size = 0
    packed: list[bytes] = []
    for piece in block:
        packed.append(packer.compress(piece))
        crc = isal_zlib.crc32(piece, crc)
        size += len(piece)
    packed.append(packer.flush(isal_zlib.Z_SYNC_FLUSH))
    return _Deflated(b"".join(packed), crc, size)


# -- take apart


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress one gzip member, in pieces of at most CHUNK_BYTES.

    Raises:
        ArchiveError: it is damaged, cut short, or followed by something else.
    """
    unpacker = isal_zlib.decompressobj(_GZIP_WINDOW)
    for chunk in chunks:
        for begin in range(0, len(chunk), _INPUT_BYTES):
            piece = chunk[begin : begin + _INPUT_BYTES]
            if unpacker.eof:
                raise _garbage("gzip stream")
            while piece and not unpacker.eof:
                try:
                    yield unpacker.decompress(piece, CHUNK_BYTES)
                except isal_zlib.error as error:  # type: ignore[misc]  # a class, whatever its stub says
                    message = f"the gzip stream is damaged: {error}"
                    raise ArchiveError(message) from error
                piece = unpacker.unconsumed_tail
            if unpacker.unused_data:
                raise _garbage("gzip stream")
    if not unpacker.eof:
        message = "the gzip stream is cut short"
        raise ArchiveError(message)


def unpack(chunks: Iterable[bytes]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Take a tar stream apart.

    Yields:
        each file and its content; content that is not read is passed over.

    Raises:
        ArchiveError: the archive is damaged, or is not one that :func:`frame` would write.
    """
    source = _Blocks(chunks)
    names = _Names()
    while (entry := _next_entry(source)) is not None:
        names.add(entry.name)
        content = source.take(entry.size_bytes)
        yield entry, content
        for _ in content:
            pass
        source.exactly(-entry.size_bytes % _BLOCK)
    if any(source.rest()):
        raise _garbage("tar stream")


def _next_entry(source: _Blocks) -> Entry | None:
    extended: dict[str, bytes] = {}
    while True:
        block = source.exactly(_BLOCK)
        if not any(block):
            if extended or any(source.exactly(_BLOCK)):
                message = "the end of the tar stream is malformed"
                raise ArchiveError(message)
            return None
        info = _parsed(block)
        if info.type == tarfile.XHDTYPE and not extended:
            extended = _pax_fields(source, info.size)
        elif info.type == tarfile.REGTYPE:
            return _entry(info, extended)
        else:
            message = f"member {info.name!r} is not a regular file (type {info.type!r})"
            raise ArchiveError(message)


def _parsed(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        message = f"a tar header is damaged: {error}"
        raise ArchiveError(message) from error


def _pax_fields(source: _Blocks, size: int) -> dict[str, bytes]:
    if not 0 < size <= _MAX_PAX_BYTES:
        message = f"an extended header of {size} bytes"
        raise ArchiveError(message)
    data = source.exactly(size + -size % _BLOCK)[:size]
    fields: dict[str, bytes] = {}
    while data:
        length, space, _ = data.partition(b" ")
        end = int(length) if space and _PAX_LENGTH.fullmatch(length) else 0
        name, equals, value = data[len(length) + 1 : end].partition(b"=")
        if not (end <= len(data) and equals and value.endswith(b"\n")):
            message = "an extended header is malformed"
            raise ArchiveError(message)
        fields[name.decode("ascii", "replace")] = value[:-1]
        data = data[end:]
    unknown = fields.keys() - {"path", "size", "mtime", "uid", "gid", "hdrcharset"}
    if unknown:
        message = f"an extended header has {min(unknown)!r}"
        raise ArchiveError(message)
    return fields


def _entry(info: tarfile.TarInfo, extended: dict[str, bytes]) -> Entry:
    numbers = {"size": info.size, "uid": info.uid, "gid": info.gid, "mtime": int(info.mtime)}
    for name in numbers:
        if name in extended:
            if _PAX_NUMBER.fullmatch(extended[name]) is None:
                message = f"an extended header's {name} is no number"
                raise ArchiveError(message)
            numbers[name] = int(extended[name])
    if numbers["size"] < 0:
        message = f"member {info.name!r} has a negative size"
        raise ArchiveError(message)
    return Entry(
        name=extended.get("path", info.name.encode("utf-8", "surrogateescape")),
        size_bytes=numbers.pop("size"),
        mode=info.mode & 0o777,
        **numbers,
    )


class _Names:
    """The names of the members so far: plain, each there once, and not more than can be held."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._room = _MAX_NAMES_BYTES

    def add(self, name: bytes) -> None:
        if any(part in {b"", b".", b".."} for part in name.split(b"/")) or b"\0" in name:
            message = f"member {name!r} is not a plain relative name"
            raise ArchiveError(message)
        if name in self._seen:
            message = f"member {name!r} is there twice"
            raise ArchiveError(message)
        self._room -= _BLOCK // 2 + len(name)
        if self._room < 0:
            message = f"more than {len(self._seen)} members, or names too long to be true"
            raise ArchiveError(message)
        self._seen.add(name)


def _garbage(what: str) -> ArchiveError:
    return ArchiveError(f"something follows the end of the {what}")


class _Blocks:
    """Reads exact amounts from a stream of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")

    def take(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes, in pieces."""
        while size:
            piece = self._some(size)
            size -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        """Return the next ``size`` bytes, in one piece; for small sizes."""
        return b"".join(self.take(size))

    def rest(self) -> Iterator[bytes]:
        """Yield all that is left, in pieces that are empty where there are only NULs."""
        for chunk in chain((self._held,), self._chunks):
            yield bytes(chunk).strip(b"\0")

    def _some(self, most: int) -> bytes:
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                message = "the tar stream is cut short"
                raise ArchiveError(message)
            self._held = memoryview(chunk)
        piece, self._held = self._held[:most], self._held[most:]
        return bytes(piece)
