"""Archives: what anybody's tools read, and what is refused of what others wrote."""

from __future__ import annotations

import gzip as stdlib_gzip
import io
import os
import random
import subprocess
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from backup.archive import Entry, frame, gunzip, gzip, unpack
from backup.errors import ArchiveError
from backup.model import CHUNK_BYTES
from backup.stop import Stop
from backup.streams import each
from tests.tars import BLOCK, END, header, member, padded, pax, record

TREE = {
    b"journal-a-0/journal": b'{"d":"x","s":"y"}\n' * 1000,
    b"journal-a-0/empty": b"",
    b"journal-a-0/two words\nand a line": b"1",
    "journal-a-0/Übersicht".encode(): b"2" * 512,
    b"journal-a-0/not \xff\xfe UTF-8": b"3" * 513,
    b"journal-a-0/" + b"deep/" * 40 + b"file": b"4",
    b"journal-a-0/" + b"long" * 60 + b"/" + b"longer" * 40: b"5",
    b"journal-a-0/100%": b"6",
}


def pack(tree: dict[bytes, bytes], **fields: int) -> bytes:
    """Make an archive."""
    return b"".join(gzip(framed(tree, **fields)))


def framed(tree: dict[bytes, bytes], **fields: int) -> Iterator[bytes]:
    """Make a tar stream."""
    return frame(
        (Entry(name=name, size_bytes=len(data), **fields), [data] if data else [])
        for name, data in tree.items()
    )


def unpacked(chunks: Iterable[bytes]) -> dict[bytes, bytes]:
    """Take a tar stream apart."""
    return {entry.name: b"".join(content) for entry, content in unpack(chunks)}


# -- made for everybody


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Write an archive to a file."""
    path = tmp_path / "a.tar.gz"
    path.write_bytes(pack(TREE, mode=0o640, mtime=1_700_000_000))
    return path


def test_gnu_tar_extracts_it(made: Path, tmp_path: Path) -> None:
    """A site without this program restores with tar alone: names, bytes, modes and times."""
    target = tmp_path / "out"
    target.mkdir()
    subprocess.run(["tar", "-xzf", made, "-C", target], check=True, capture_output=True)

    actual = {
        os.fsencode(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }
    assert actual == TREE
    state = (target / "journal-a-0" / "journal").stat()
    assert (state.st_mode & 0o777, state.st_mtime) == (0o640, 1_700_000_000)


def test_gzip_finds_nothing_wrong(made: Path) -> None:
    """Nor does it hold a file name or a time."""
    subprocess.run(["gzip", "-t", made], check=True)
    data = made.read_bytes()

    assert data[3:8] == bytes(5)


def test_python_reads_it(made: Path) -> None:
    """Two more implementations: zlib and tarfile."""
    with tarfile.open(made, "r:gz", errors="surrogateescape", encoding="utf-8") as tar:
        members = tar.getmembers()
        actual = {m.name.encode("utf-8", "surrogateescape"): _content(tar, m) for m in members}

    assert actual == TREE
    assert {(m.uname, m.gname, m.uid, m.isreg()) for m in members} == {("", "", 0, True)}


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(info)
    assert content is not None
    return content.read()


def test_what_was_made_is_what_is_taken_apart() -> None:
    """All that an entry says comes back, also where a plain header has no room for it."""
    entry = Entry(
        name=b"\xff" * 300, size_bytes=3, mode=0o777, uid=2**32 - 2, gid=2**31, mtime=2**40
    )
    packed = b"".join(gzip(frame([(entry, [b"a", b"", b"bc"])])))
    actual = [(e, b"".join(content)) for e, content in unpack(gunzip([packed]))]

    assert actual == [(entry, b"abc")]


def test_an_archive_may_hold_nothing() -> None:
    """Then it has an end all the same."""
    assert unpacked(gunzip([pack({})])) == {}


def test_the_same_input_gives_the_same_bytes() -> None:
    """Made again, and in however many threads it is compressed: no clock, no chance."""
    tree = {b"journal": random.Random(1).randbytes(3 << 20)}
    in_threads = partial(each, workers=2, stop=Stop())

    expected = pack(tree)
    assert pack(tree) == expected
    assert b"".join(gzip(framed(tree), each=in_threads)) == expected


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7]
)
def test_any_gunzip_reads_every_level(level: int, size: int) -> None:
    """Blocks that were compressed apart make one stream, its checksum that of the whole."""
    data = (b"%d " % level * size)[:size]
    packed = b"".join(gzip([data], level=level))

    assert stdlib_gzip.decompress(packed) == data
    assert b"".join(gunzip([packed])) == data


def test_compressing_takes_little_memory() -> None:
    """Law 11, and none of the stream is kept."""
    chunk = random.Random(1).randbytes(1 << 20)
    tracemalloc.start()
    try:
        for _ in gzip(chunk for _ in range(64)):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16 << 20


@pytest.mark.parametrize(("announced", "chunks"), [(3, [b"ab"]), (3, [b"ab", b"cd"]), (1, [])])
def test_a_content_of_another_length_than_announced_fails(
    announced: int, chunks: list[bytes]
) -> None:
    """Whatever came after it would be read as something else."""
    given = sum(map(len, chunks))

    with pytest.raises(ArchiveError, match=f"b'journal' gave {given} bytes instead of {announced}"):
        list(frame([(Entry(name=b"journal", size_bytes=announced), chunks)]))


def test_a_member_may_be_larger_than_a_plain_header_can_say() -> None:
    """More than 8 GiB: Python reads the announced size, and so do we."""
    entry = Entry(name=b"journal", size_bytes=(8 << 30) + 1)
    head = next(iter(frame([(entry, [])])))
    with tarfile.open(fileobj=io.BytesIO(head + END)) as tar:
        theirs = tar.next()
    ours, _ = next(iter(unpack([head])))

    assert theirs is not None
    assert (theirs.size, ours.size_bytes) == (entry.size_bytes, entry.size_bytes)


def test_content_is_read_when_its_turn_comes() -> None:
    """Two files of a journal are never open at once."""
    log: list[str] = []

    def content(name: str) -> Iterator[bytes]:
        log.append(f"open {name}")
        yield b"x"
        log.append(f"close {name}")

    members = ((Entry(name=n.encode(), size_bytes=1), content(n)) for n in "ab")
    list(frame(members))

    assert log == ["open a", "close a", "open b", "close b"]


# -- taken apart


@pytest.mark.parametrize("taken", [0, 1])
def test_content_that_is_not_read_is_passed_over(taken: int) -> None:
    """A reader may want only some of the files, or the beginning of one."""
    chunks = [bytes([byte]) for byte in b"".join(framed(TREE))]
    names: list[bytes] = []
    for entry, content in unpack(chunks):
        for _ in range(min(taken, entry.size_bytes)):
            next(content)
        names.append(entry.name)

    assert names == list(TREE)


def test_no_piece_is_larger_than_a_chunk() -> None:
    """However much a few bytes become: a bomb costs time, not memory."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    stream = [header(b"bomb", size=64 << 20), *([bytes(1 << 20)] * 64), END]
    packed = b"".join([*map(bomb.compress, stream), bomb.flush()])
    size = largest = 0
    tracemalloc.start()
    try:
        for _entry, content in unpack(gunzip([packed])):
            for piece in content:
                size += len(piece)
                largest = max(largest, len(piece))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (size, len(packed) < 1 << 20) == (64 << 20, True)
    assert largest <= CHUNK_BYTES
    assert peak < 8 << 20


def test_names_do_not_fill_the_memory() -> None:
    """They are kept, to find repeats; so there is an end to them."""

    def members() -> Iterator[bytes]:
        for number in range(100_000):
            name = b"%060000d" % number
            yield pax(record(b"path", name)) + header()

    with pytest.raises(ArchiveError, match="names too long to be true"):
        unpacked(members())


def test_many_files_are_no_attack() -> None:
    """More than a journal ever has."""
    count = 5_000
    actual = sum(1 for _ in unpack(framed({b"journal-a-0/%d" % n: b"" for n in range(count)})))

    assert actual == count


ZERO = b"0" * 11 + b"\0"
FILE = member(b"journal", b"data")

HOSTILE: dict[str, tuple[bytes, str]] = {
    # names
    "an absolute name": (member(b"/etc/passwd", b"x"), "not a plain relative name"),
    "a name upwards": (member(b"../x", b"x"), "not a plain relative name"),
    "a name upwards within": (member(b"a/../../x", b"x"), "not a plain relative name"),
    "a name upwards at the end": (member(b"a/..", b"x"), "not a plain relative name"),
    "a name that stays": (member(b"./x", b"x"), "not a plain relative name"),
    "a name with an empty part": (member(b"a//x", b"x"), "not a plain relative name"),
    "no name": (member(b"", b"x"), "not a plain relative name"),
    "a name that ends in a slash": (member(b"a/", b"x"), "not a plain relative name"),
    "a prefix upwards": (member(b"x", b"x", prefix=b".."), "not a plain relative name"),
    "an absolute prefix": (member(b"x", b"x", prefix=b"/etc"), "not a plain relative name"),
    "an extended absolute name": (pax(record(b"path", b"/x")) + FILE, "not a plain relative"),
    "an extended name upwards": (pax(record(b"path", b"a/../x")) + FILE, "not a plain relative"),
    "an extended name without end": (pax(record(b"path", b"")) + FILE, "not a plain relative"),
    "a NUL in a name": (pax(record(b"path", b"a\0b")) + FILE, "not a plain relative name"),
    "a name twice": (FILE + FILE, r"b'journal' is there twice"),
    "a name twice, once extended": (
        FILE + pax(record(b"path", b"journal")) + member(b"other"),
        r"b'journal' is there twice",
    ),
    # kinds
    "a hard link": (member(b"x", kind=b"1", link=b"/etc/passwd"), "not a regular file"),
    "a symbolic link": (member(b"x", kind=b"2", link=b"/etc"), "not a regular file"),
    "a character device": (member(b"x", kind=b"3"), "not a regular file"),
    "a block device": (member(b"x", kind=b"4"), "not a regular file"),
    "a directory": (member(b"x", kind=b"5"), "not a regular file"),
    "an old directory": (member(b"x/", kind=b"\0"), "not a regular file"),
    "an old file": (member(b"x", kind=b"\0"), "not a regular file"),
    "a FIFO": (member(b"x", kind=b"6"), "not a regular file"),
    "a contiguous file": (member(b"x", kind=b"7"), "not a regular file"),
    "a kind that nobody knows": (member(b"x", kind=b"Z"), "not a regular file"),
    "a GNU long name": (member(b"././@LongLink", b"x" * 200, kind=b"L") + FILE, "not a regular"),
    "a GNU long link": (member(b"././@LongLink", b"x" * 200, kind=b"K") + FILE, "not a regular"),
    "a GNU sparse file": (member(b"x", kind=b"S"), "not a regular file"),
    "a GNU volume": (member(b"x", kind=b"V"), "not a regular file"),
    "a GNU continuation": (member(b"x", kind=b"M"), "not a regular file"),
    "a Solaris header": (member(b"x", b"9 path=x\n", kind=b"X") + FILE, "not a regular file"),
    "a global header": (pax(record(b"path", b"x"), kind=b"g") + FILE, "not a regular file"),
    "a link by extension": (pax(record(b"linkpath", b"/etc")) + FILE, "has 'linkpath'"),
    # extended headers
    "PAX sparse 1.0": (
        pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0")) + FILE,
        r"has 'GNU.sparse.major'",
    ),
    "PAX sparse 0.1": (pax(record(b"GNU.sparse.map", b"0,1")) + FILE, "has 'GNU.sparse.map'"),
    "a field that nobody knows": (pax(record(b"SCHILY.xattr.x", b"1")) + FILE, "has 'SCHILY"),
    "a field that is no ASCII": (pax(record(b"\xff", b"1")) + FILE, "has '\ufffd'"),
    "two extended headers": (pax(record(b"path", b"a")) * 2 + FILE, "not a regular file"),
    "an empty extended header": (pax() + FILE, "an extended header of 0 bytes"),
    "an extended header below zero": (header(size=b"-0000000001\0", kind=b"x"), "of -1 bytes"),
    "a huge extended header": (
        header(b"x", size=(64 << 10) + 1, kind=b"x") + bytes(66 << 10),
        "an extended header of 65537 bytes",
    ),
    "an extended header of a terabyte": (header(size=b"\x80" + b"\xff" * 11, kind=b"x"), "of "),
    "an extended header alone": (pax(record(b"path", b"a")), "end of the tar stream is malformed"),
    "a record without a length": (pax(b"path=a\n") + FILE, "extended header is malformed"),
    "a record without a space": (pax(b"11") + FILE, "extended header is malformed"),
    "a record too short": (pax(b"2 path=a\n") + FILE, "extended header is malformed"),
    "a record of no length": (pax(b"0 path=a\n") + FILE, "extended header is malformed"),
    "a record of negative length": (pax(b"-9 path=a\n") + FILE, "extended header is malformed"),
    "a record too long": (pax(b"99 path=a\n") + FILE, "extended header is malformed"),
    "a length of many digits": (pax(b"9" * 5000 + b" path=a\n") + FILE, "is malformed"),
    "a record without an equals sign": (pax(b"9 path a\n") + FILE, "extended header is malformed"),
    "a record without a newline": (pax(b"9 path=ab") + FILE, "extended header is malformed"),
    "an extended header that is noise": (pax(b"\xff" * 512) + FILE, "header is malformed"),
    "a size that is no number": (pax(record(b"size", b"x")) + FILE, "size is no number"),
    "a size with a sign": (pax(record(b"size", b"-4")) + FILE, "size is no number"),
    "a size without digits": (pax(record(b"size", b"")) + FILE, "size is no number"),
    "a size of many digits": (pax(record(b"size", b"9" * 5000)) + FILE, "size is no number"),
    "an owner that is no number": (pax(record(b"uid", b"root")) + FILE, "uid is no number"),
    "a time that is no number": (pax(record(b"mtime", b"1.5")) + FILE, "mtime is no number"),
    "an extended size beyond the end": (pax(record(b"size", b"99999")) + FILE, "cut short"),
    # sizes and checksums
    "a size below zero": (header(size=b"-0000000001\0"), "has a negative size"),
    "a binary size below zero": (header(size=b"\xff" * 12), "has a negative size"),
    "a binary size beyond the end": (header(size=b"\x80" + b"\xff" * 11), "cut short"),
    "a size that is noise": (header(size=b"99999999999\0"), "a tar header is damaged"),
    "a mode that is noise": (header(mode=b"rw-r--r-"), "a tar header is damaged"),
    "a wrong checksum": (b"J" + FILE[1:], "a tar header is damaged"),
    "noise": (b"\xff" * 2048, "a tar header is damaged"),
    # the end
    "something after the end": (FILE + END + b"x", "something follows the end of the tar stream"),
    "a second tar after the end": (FILE + END + padded(b"") + FILE, "something follows the end"),
    "half an end": (FILE + bytes(BLOCK) + FILE, "the end of the tar stream is malformed"),
}


@pytest.mark.parametrize(("stream", "message"), HOSTILE.values(), ids=HOSTILE)
def test_what_we_would_not_write_is_refused(stream: bytes, message: str) -> None:
    """An archive comes from a place where others can write."""
    with pytest.raises(ArchiveError, match=message):
        unpacked([stream + (b"" if END in stream else END)])


def test_what_was_made_by_hand_is_read_where_it_is_right() -> None:
    """The test above refuses for the reason it says, not because all of it is strange."""
    stream = (
        FILE
        + member(b"x", b"1", prefix=b"a/b")
        + pax(record(b"path", b"y"), record(b"size", b"3"), record(b"hdrcharset", b"BINARY"))
        + member(b"", b"123")
        + END
    )

    assert unpacked([stream]) == {b"journal": b"data", b"a/b/x": b"1", b"y": b"123"}


def test_more_noughts_after_the_end_are_no_content() -> None:
    """Other tars fill their last record with them."""
    assert unpacked([FILE + END, bytes(9 << 10), b""]) == {b"journal": b"data"}


def test_a_tar_stream_cut_anywhere_is_refused() -> None:
    """Also between two members: the end is marked."""
    stream = b"".join(framed({b"a" * 120: b"x" * 700, b"b": b""}))
    for cut in range(0, len(stream), 37):
        with pytest.raises(ArchiveError):
            unpacked([stream[:cut]])


def test_a_gzip_stream_cut_anywhere_is_refused() -> None:
    """A download that broke off, or a disk that was full."""
    packed = pack({b"journal": b"".join(b"%d\n" % n for n in range(300))})
    for cut in range(len(packed)):
        with pytest.raises(ArchiveError, match=r"cut short|damaged"):
            list(gunzip([packed[:cut]]))


@pytest.mark.parametrize(
    "garbage", [b"\0", b"x", bytes(512), b"\x1f\x8b", pack({b"other": b"x"})], ids=len
)
@pytest.mark.parametrize("apart", [False, True])
def test_whatever_follows_a_gzip_stream_is_refused(garbage: bytes, *, apart: bool) -> None:
    """Also a second gzip member, which gzip itself would append to the first."""
    packed = pack({b"journal": b"x"})

    with pytest.raises(ArchiveError, match="something follows the end of the gzip stream"):
        list(gunzip([packed, garbage] if apart else [packed + garbage]))


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f\x8b", b"PK\3\4" * 100, bytes(100)])
def test_what_is_no_gzip_stream_is_refused(data: bytes) -> None:
    """Nor is nothing at all."""
    with pytest.raises(ArchiveError):
        list(gunzip([data]))


def test_a_wrong_checksum_or_length_is_refused() -> None:
    """The last eight bytes speak for all the others."""
    packed = pack({b"journal": b"x"})
    for at in range(len(packed) - 8, len(packed)):
        wrong = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        with pytest.raises(ArchiveError, match="damaged"):
            list(gunzip([wrong]))
