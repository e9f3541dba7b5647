"""Archives, for all of them: what was packed comes back, and nothing hostile does harm."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.archive import Entry, frame, gunzip, gzip, unpack
from backup.errors import ArchiveError
from backup.model import CHUNK_BYTES
from tests.tars import END, header, member, pax, record

Members = list[tuple[Entry, bytes]]

parts = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"a b", b"a\nb", b"\xff\xfe", b"n" * 101, b"n" * 255, "ä".encode() * 60]),
).filter(lambda part: part not in {b".", b".."} and not {0, ord("/")} & set(part))
names = st.lists(parts, min_size=1, max_size=3).map(b"/".join)
sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([511, 512, 513, 1023, 1024, 1025]),
    st.sampled_from([CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1]),
)
contents = st.builds(
    lambda seed, size: (seed * (size // len(seed) + 1))[:size],
    st.binary(min_size=1, max_size=9),
    sizes,
)


@st.composite
def _entries(draw: st.DrawFn, name: bytes) -> tuple[Entry, bytes]:
    content = draw(contents)
    entry = Entry(
        name=name,
        size_bytes=len(content),
        mode=draw(st.integers(0, 0o777)),
        uid=draw(st.integers(0, 2**32 - 1)),
        gid=draw(st.integers(0, 2**32 - 1)),
        mtime=draw(st.integers(0, 2**36)),
    )
    return entry, content


@st.composite
def _trees(draw: st.DrawFn) -> Members:
    unique = draw(st.lists(names, max_size=4, unique=True))
    return [draw(_entries(name)) for name in unique]


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut a stream into chunks, the last as long as it gets."""
    chunks: list[bytes] = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


def framed(members: Members, sizes: list[int]) -> bytes:
    """Make a tar stream."""
    return b"".join(frame((entry, cut(content, sizes)) for entry, content in members))


def taken_apart(chunks: list[bytes]) -> Members:
    """Take an archive apart; pieces are never larger than a chunk."""
    taken: Members = []
    for entry, content in unpack(gunzip(chunks)):
        pieces = list(content)
        assert max(map(len, pieces), default=0) <= CHUNK_BYTES
        taken.append((entry, b"".join(pieces)))
    return taken


cuts = st.lists(st.integers(0, 700), max_size=8)


@given(_trees(), cuts, cuts, st.integers(0, 3))
def test_what_was_packed_comes_back(
    members: Members, in_cuts: list[int], out_cuts: list[int], level: int
) -> None:
    """Names, bytes, modes, owners and times; however the streams are cut on their way."""
    packed = b"".join(gzip(cut(framed(members, in_cuts), in_cuts), level=level))

    assert taken_apart(cut(packed, out_cuts)) == members


@given(_trees())
def test_another_implementation_reads_the_same(members: Members) -> None:
    """Python's tarfile, which shares nothing with how we read."""
    packed = b"".join(gzip([framed(members, [])]))
    actual: Members = []
    with tarfile.open(
        fileobj=io.BytesIO(packed), mode="r:gz", encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for info in tar:
            content = tar.extractfile(info)
            assert content is not None
            entry = Entry(
                name=info.name.encode("utf-8", "surrogateescape"),
                size_bytes=info.size,
                mode=info.mode,
                uid=info.uid,
                gid=info.gid,
                mtime=int(info.mtime),
            )
            actual.append((entry, content.read()))

    assert actual == members


SMALL: Members = [
    (Entry(name=b"journal-a-0/" + b"\xff" * 120, size_bytes=1500), b"0123456789" * 150),
    (Entry(name=b"journal-a-0/journal", size_bytes=3, mtime=2**34), b"abc"),
]
TAR = framed(SMALL, [])
PACKED = b"".join(gzip([TAR]))


@settings(max_examples=200)
@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_found_or_changes_nothing(at: int, flip: int) -> None:
    """There are a few that mean nothing, such as the operating system in gzip's header."""
    damaged = PACKED[:at] + bytes([PACKED[at] ^ flip]) + PACKED[at + 1 :]
    try:
        actual = taken_apart([damaged])
    except ArchiveError:
        return

    assert actual == SMALL


blocks = st.one_of(
    st.binary(max_size=600),
    st.sampled_from([TAR[:512], TAR[512:1536], TAR, END, bytes(512), b"\xff" * 512]),
    st.builds(header, st.binary(max_size=100), size=st.integers(0, 2000)),
    st.builds(
        header,
        st.just(b"x"),
        size=st.binary(min_size=12, max_size=12),
        kind=st.binary(min_size=1, max_size=1),
    ),
    st.builds(
        header,
        st.just(b"x"),
        mode=st.binary(min_size=8, max_size=8),
        uid=st.binary(min_size=8, max_size=8),
        mtime=st.binary(min_size=12, max_size=12),
    ),
    st.builds(member, names.map(lambda name: name[:100]), st.binary(max_size=600)),
    st.builds(pax, st.binary(max_size=60)),
    st.builds(
        lambda name, value: pax(record(name, value)) + member(b"x", b"12"),
        st.sampled_from([b"path", b"size", b"uid", b"gid", b"mtime", b"hdrcharset", b"other"]),
        st.binary(max_size=9) | st.integers().map(lambda n: b"%d" % n),
    ),
)


@settings(max_examples=200)
@given(st.lists(blocks, max_size=5), cuts)
def test_any_tar_stream_is_read_or_refused_but_never_breaks(
    stream: list[bytes], sizes: list[int]
) -> None:
    """Nothing but ArchiveError leaves, and every name that does is harmless."""
    try:
        for entry, content in unpack(cut(b"".join(stream), sizes)):
            assert not {b"", b".", b".."} & set(entry.name.split(b"/"))
            assert sum(map(len, content)) == entry.size_bytes
    except ArchiveError:
        return

    assert END in b"".join(stream)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_tar_stream_is_read_or_refused_but_never_breaks(data: st.DataObject) -> None:
    """As above, with streams that are nearly right."""
    damaged = bytearray(TAR)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        gone = data.draw(st.integers(0, 4))
        damaged[at : at + gone] = data.draw(st.binary(max_size=4))
    try:
        for _, content in unpack([bytes(damaged)]):
            list(content)
    except ArchiveError:
        return

    assert len(damaged) >= len(END)


@given(st.binary(max_size=2000), cuts)
def test_any_bytes_are_no_gzip_stream(noise: bytes, sizes: list[int]) -> None:
    """Nor when they begin like one; nothing but ArchiveError leaves."""
    for data in (noise, PACKED[:10] + noise, PACKED[:100] + noise):
        with pytest.raises(ArchiveError):
            list(gunzip(cut(data, sizes)))
