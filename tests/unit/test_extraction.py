"""Taking a backup apart: only what the manifest names comes out, and all of it is compared."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from isal import igzip

from backup.archive import Entry, frame
from backup.catalog import Catalog, archive_key
from backup.errors import (
    ArchiveError,
    IntegrityError,
    ObjectMissingError,
    SinkError,
    SinkUnavailableError,
)
from backup.manifest import Manifest
from backup.retrieval.extraction import extract
from backup.stop import Stop
from tests.handmade import JOURNAL, Chain, archive, file, packed, segment, sha256
from tests.journal_data import NOON, records
from tests.simulated_sink import Held, SimulatedSink

DATA = records(40)
NAME = f"{JOURNAL}/journal".encode()


def contents(sink: SimulatedSink, manifest: Manifest) -> dict[str, bytes]:
    """Extract everything."""
    found: dict[str, bytes] = {f.path: b"" for f in manifest.files}
    for piece in extract(Catalog(sink), manifest, stop=Stop()):
        assert len(found[piece.file.path]) == piece.segment.offset
        found[piece.file.path] += b"".join(piece.content)
    return found


def hostile(sink: SimulatedSink, stored: bytes, data: bytes = DATA) -> Manifest:
    """Commit a manifest that is right about an archive's hash, whatever is in the archive."""
    chain = Chain(sink)
    backup_id = chain.id()
    key = archive_key(JOURNAL, backup_id, 1)
    sink.put(key, [stored])
    files = [file(b"journal", data, [segment(key, NAME, 0, len(data))])]
    return chain.commit(backup_id, [archive(key, stored)], files, "first")


def tar(*members: tuple[str, Any], **kind: Any) -> bytes:
    """Make an archive with the standard library, which makes everything that tar can."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind.pop("format", tarfile.PAX_FORMAT)) as made:
        for name, data in members:
            info = tarfile.TarInfo(name)
            for field, value in kind.items():
                setattr(info, field, value)
            info.size = len(data) if info.isreg() else 0
            made.addfile(info, io.BytesIO(data))
    return igzip.compress(out.getvalue())


# -- what is right


@pytest.mark.parametrize("steps", [(0,), (1, 2, 3), (0, 3000), (0, 0, 1), (2999, 3000, 3000)])
def test_segments_are_put_together_in_order(steps: Sequence[int]) -> None:
    """Wherever the journal was cut, an empty beginning included."""
    sink = SimulatedSink()
    chain = Chain(sink)
    chain.full(DATA[: steps[0]])
    for begin, end in zip(steps, [*steps[1:], len(DATA)], strict=True):
        if end > begin:
            chain.incremental(DATA[begin:end])
    chain.unchanged()

    assert contents(sink, chain.last) == {"journal": DATA}


def test_all_files_of_a_backup_are_given() -> None:
    """Names are bytes, and empty files are files."""
    sink = SimulatedSink()
    others = {b"sub/dir/a b": b"one", b"\xff\n": b"two", b"empty": b""}
    made = Chain(sink).full(DATA, others=others)

    assert contents(sink, made) == {
        "journal": DATA,
        "sub/dir/a%20b": b"one",
        "%FF%0A": b"two",
        "empty": b"",
    }


def test_a_broken_stream_goes_on_where_it_broke() -> None:
    """The digest is of what the sink holds, each byte once."""
    sink = SimulatedSink()
    data = records(900)
    made = Chain(sink).full(data)
    sink.tear("*.tar.gz", at=70_000, error=SinkUnavailableError("reset"), times=1)

    assert contents(sink, made) == {"journal": data}
    assert sink.offsets[-1] == 70_000


def test_a_member_that_only_an_earlier_backup_names_is_passed_over() -> None:
    """Its archive is shared; the file has gone since."""
    sink = SimulatedSink()
    chain = Chain(sink)
    chain.full(DATA, others={b"a gone": b"x" * 3000, b"z gone": b"y"})
    chain.incremental(b"{}\n")

    assert contents(sink, chain.last) == {"journal": DATA + b"{}\n"}


def test_the_names_in_the_manifest_count_and_not_the_modes_in_the_archive() -> None:
    """Owners and modes come from the manifest too."""
    sink = SimulatedSink()
    stored = b"".join(
        igzip.compress(b"".join(frame([(entry, [DATA])])))
        for entry in [Entry(name=NAME, size_bytes=len(DATA), mode=0o777, uid=7, gid=7)]
    )

    assert contents(sink, hostile(sink, stored)) == {"journal": DATA}


# -- what is damaged


def flipped(at: int) -> Callable[[bytes], bytes]:
    """Invert a byte."""

    def damage(data: bytes) -> bytes:
        made = bytearray(data)
        made[at] ^= 0x55
        return bytes(made)

    return damage


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "magic": flipped(0),
    "method": flipped(2),
    "time in the header, which decompresses all the same": flipped(4),
    "operating system in the header": flipped(9),
    "first data": flipped(30),
    "middle": flipped(2000),
    "last data": flipped(-9),
    "check sum": flipped(-8),
    "length": flipped(-1),
    "last byte missing": lambda d: d[:-1],
    "trailer missing": lambda d: d[:-8],
    "half missing": lambda d: d[: len(d) // 2],
    "empty": lambda _: b"",
    "a byte behind the end": lambda d: d + b"x",
    "a NUL behind the end": lambda d: d + b"\0",
    "much behind the end": lambda d: d + bytes(1 << 20),
    "a second stream": lambda d: d + igzip.compress(b""),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_archive_is_refused(how: str) -> None:
    """Its bytes are hashed from the first to the last, whatever gzip and tar say to them."""
    sink = SimulatedSink()
    made = Chain(sink).full(DATA)
    key = made.archives[0].key
    sink.place.objects[key] = Held(DAMAGE[how](sink.place.objects[key].data), NOON)

    with pytest.raises(ArchiveError) as caught:
        contents(sink, made)
    assert caught.value.message.startswith(f"memory://one: {key}: ")


def test_damage_in_the_midst_of_a_large_member_is_located() -> None:
    """It is met while the content is read, not where the archive is taken apart."""
    sink = SimulatedSink()
    made = Chain(sink).full(records(9000))
    key = made.archives[0].key
    data = sink.place.objects[key].data
    sink.place.objects[key] = Held(data[: len(data) // 2] + bytes(len(data) // 2), NOON)
    given = 0

    with pytest.raises(ArchiveError) as caught:  # noqa: PT012 - what was given before counts
        for piece in extract(Catalog(sink), made, stop=Stop()):
            for chunk in piece.content:
                given += len(chunk)

    assert given > 0
    assert caught.value.message.startswith(f"memory://one: {key}: ")
    assert caught.value.message.count(key) == 1


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_damaged_archive_is_refused_wherever_it_is_in_the_list(index: int) -> None:
    """Each of them is compared."""
    sink = SimulatedSink()
    chain = Chain(sink)
    chain.full(DATA)
    for n in (1, 2):
        chain.incremental(records(n))
    key = chain.last.archives[index].key
    sink.place.objects[key] = Held(flipped(4)(sink.place.objects[key].data), NOON)

    with pytest.raises(ArchiveError, match="SHA-256"):
        contents(sink, chain.last)


def test_a_file_that_hashes_otherwise_than_the_manifest_says_is_refused() -> None:
    """Even from an archive that is right: one of the two was edited."""
    sink = SimulatedSink()
    made = hostile(sink, packed([(NAME, DATA[::-1])]))

    with pytest.raises(IntegrityError, match=f"SHA-256 is {sha256(DATA[::-1])}") as caught:
        contents(sink, made)
    assert caught.value.hints == ("do not use this backup; choose another one or sink",)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(None, ObjectMissingError), (SinkUnavailableError("503"), SinkError)],
)
def test_an_archive_that_cannot_be_read_is_not_called_damaged(
    error: Exception | None, kind: type[Exception]
) -> None:
    """It is the sink's error, unchanged."""
    sink = SimulatedSink()
    made = Chain(sink).full(DATA)
    if error is None:
        del sink.place.objects[made.archives[0].key]
    else:
        sink.fail("open", error, key="*.tar.gz")

    with pytest.raises(kind):
        contents(sink, made)


# -- what is hostile: the manifest's hash is right, the archive is not what it should be

HOSTILE: dict[str, bytes] = {
    "absolute": tar(("/etc/passwd", DATA)),
    "upwards": tar((f"{JOURNAL}/../../journal", DATA)),
    "dot": tar((f"./{JOURNAL}/journal", DATA)),
    "another name": tar((f"{JOURNAL}/journal2", DATA)),
    "another journal": tar(("journal-deepgram-billing-1/journal", DATA)),
    "one more": tar((NAME.decode(), DATA), (f"{JOURNAL}/more", b"x")),
    "one more before": tar((f"{JOURNAL}/a", b"x"), (NAME.decode(), DATA)),
    "twice": tar((NAME.decode(), DATA), (NAME.decode(), DATA)),
    "missing": tar(),
    "longer": tar((NAME.decode(), DATA + b"x")),
    "shorter": tar((NAME.decode(), DATA[:-1])),
    "bomb": tar((NAME.decode(), bytes(64 << 20))),
    "symbolic link": tar((NAME.decode(), b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": tar((NAME.decode(), b""), type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "character device": tar((NAME.decode(), b""), type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": tar((NAME.decode(), b""), type=tarfile.BLKTYPE, devmajor=8),
    "fifo": tar((NAME.decode(), b""), type=tarfile.FIFOTYPE),
    "directory": tar((NAME.decode(), b""), type=tarfile.DIRTYPE),
    "contiguous": tar((NAME.decode(), DATA), type=tarfile.CONTTYPE),
    "sparse": tar((NAME.decode(), DATA), type=tarfile.GNUTYPE_SPARSE),
    "sparse by header": tar(
        (NAME.decode(), DATA), pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    ),
    "long name by GNU": tar(("x" * 300, DATA), format=tarfile.GNU_FORMAT),
    "not a tar": igzip.compress(DATA),
    "nothing": igzip.compress(b""),
    "cut tar": igzip.compress(
        b"".join(frame([(Entry(name=NAME, size_bytes=len(DATA)), [DATA])]))[:-1024]
    ),
    "behind the end": igzip.compress(
        b"".join(frame([(Entry(name=NAME, size_bytes=len(DATA)), [DATA])])) + b"x" * 512
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_archive_is_refused(how: str) -> None:
    """Whatever it claims, no more comes out of it than the manifest says."""
    sink = SimulatedSink()
    made = hostile(sink, HOSTILE[how])
    given = 0

    def take() -> None:
        nonlocal given
        for piece in extract(Catalog(sink), made, stop=Stop()):
            for chunk in piece.content:
                given += len(chunk)

    with pytest.raises(ArchiveError):
        take()
    assert given <= len(DATA)


def test_segments_that_come_in_another_order_are_refused() -> None:
    """A file is written from its first byte to its last."""
    sink = SimulatedSink()
    chain = Chain(sink)
    backup_id = chain.id()
    key = archive_key(JOURNAL, backup_id, 1)
    cut = len(DATA) // 2
    stored = packed([(NAME + b".2", DATA[cut:]), (NAME + b".1", DATA[:cut])])
    sink.put(key, [stored])
    segments = [
        segment(key, NAME + b".1", 0, cut),
        segment(key, NAME + b".2", cut, len(DATA) - cut),
    ]
    made = chain.commit(
        backup_id, [archive(key, stored)], [file(b"journal", DATA, segments)], "first"
    )

    with pytest.raises(ArchiveError, match=f"comes at byte 0 of its file, not {cut}"):
        contents(sink, made)


def test_content_that_is_not_taken_does_not_pass_for_proved() -> None:
    """Only whoever reads everything to the end has proved it."""
    sink = SimulatedSink()
    made = Chain(sink).full(DATA)

    with pytest.raises(IntegrityError):
        for _ in extract(Catalog(sink), made, stop=Stop()):
            pass
