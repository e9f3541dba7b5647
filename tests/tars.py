"""Tar streams made by hand, as nobody's tar would make them."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name: bytes = b"journal",
    *,
    size: int | bytes = 0,
    kind: bytes = b"0",
    link: bytes = b"",
    mode: bytes = b"0000600\0",
    uid: bytes = b"0000000\0",
    mtime: bytes = b"00000000000\0",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
) -> bytes:
    """Make one header block (POSIX.1-1988, ustar) with a right checksum."""
    digits = b"%011o\0" % size if isinstance(size, int) else size
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            mode,
            uid,
            b"0000000\0",
            digits,
            mtime,
            b" " * 8,
            kind,
            link.ljust(100, b"\0"),
            magic,
            bytes(32 + 32 + 8 + 8),
            prefix.ljust(155, b"\0"),
        )
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    """Fill the last block."""
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes = b"journal", data: bytes = b"", **fields: bytes) -> bytes:
    """Make a member: its header, which may be wrong, and its content."""
    return header(name, size=len(data), **fields) + padded(data)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """Make an extended header of records as they are given."""
    data = b"".join(records)
    return header(b"PaxHeader", size=len(data), kind=kind) + padded(data)


def record(name: bytes, value: bytes) -> bytes:
    """Make a record of an extended header: its length counts itself."""
    rest = b" " + name + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest
