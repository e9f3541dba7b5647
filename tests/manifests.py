"""Manifests for tests: a plain one, one that shares archives, and all that are valid."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from backup.manifest import Archive, File, Manifest, Previous, Segment, Source
from backup.model import encode_name

JOURNAL = "journal-deepgram-billing-0"
FIRST, SECOND, THIRD = (f"2026112{day}T020000Z-3f9a1c" for day in (1, 2, 3))
SHA256 = "0123456789abcdef" * 4


def archive_key(backup_id: str, attempt: str = "") -> str:
    """Name an archive."""
    return f"{JOURNAL}/{JOURNAL}-{backup_id}{attempt}.tar.gz"


def plain() -> dict[str, Any]:
    """Give the first full backup of a journal, as it stands in JSON."""
    return {
        "format": "1.0",
        "id": FIRST,
        "journal": JOURNAL,
        "created_at": "2026-11-21T02:00:00Z",
        "tool": "deepgram-journal-backup 0.1.0",
        "run_id": "20261121T020000Z-00000001",
        "site": None,
        "suspect": False,
        "suspicion": None,
        "alarms": [],
        "source": {"strategy": "direct", "consistency": "live", "node": None, "pod": None},
        "previous": None,
        "continuity": "first",
        "archives": [archive(FIRST)],
        "files": [file("journal", segment(FIRST, 0, 1000))],
    }


def shared() -> dict[str, Any]:
    """Give a backup that shares the archives of its predecessors and adds one."""
    return plain() | {
        "id": THIRD,
        "created_at": "2026-11-23T02:00:00Z",
        "previous": {"id": SECOND, "manifest_sha256": SHA256},
        "continuity": "extended",
        "archives": [archive(FIRST), archive(SECOND), archive(THIRD)],
        "files": [
            file(
                "journal",
                segment(FIRST, 0, 1000),
                segment(SECOND, 1000, 500),
                segment(THIRD, 1500, 1),
            )
        ],
    }


def archive(backup_id: str) -> dict[str, Any]:
    """Give an archive, as it stands in JSON."""
    return {
        "key": archive_key(backup_id),
        "size_bytes": 400,
        "sha256": SHA256,
        "readback": "full",
    }


def segment(backup_id: str, offset: int, length: int) -> dict[str, Any]:
    """Give a segment, as it stands in JSON."""
    member = f"{JOURNAL}/journal" + (f".{offset:015}" if offset else "")
    return {
        "archive": archive_key(backup_id),
        "member": member,
        "offset": offset,
        "length": length,
    }


def file(path: str, *segments: dict[str, Any]) -> dict[str, Any]:
    """Give a file, as it stands in JSON."""
    return {
        "path": path,
        "size_bytes": sum(s["length"] for s in segments),
        "sha256": SHA256,
        "records": 3,
        "omitted_tail_bytes": 7,
        "mode": 0o600,
        "uid": 65532,
        "gid": 65532,
        "mtime": "2026-11-21T01:59:59.123456Z",
        "segments": list(segments),
    }


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_sha256 = st.text("0123456789abcdef", min_size=64, max_size=64)
_times = st.integers(0, 2**35).map(lambda s: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(0, s))
_parts = st.binary(min_size=1, max_size=12).filter(
    lambda part: part not in {b".", b".."} and not {0, ord("/")} & set(part)
)
_names = st.lists(_parts, min_size=1, max_size=3).map(lambda parts: encode_name(b"/".join(parts)))
_counts = st.integers(0, 2**53 - 1)


@st.composite
def _files(draw: st.DrawFn, path: str, keys: list[str]) -> File:
    lengths = draw(st.lists(st.integers(1, 10**9), min_size=1, max_size=4) | st.just([0]))
    used = sorted(draw(st.lists(st.sampled_from(keys), min_size=len(lengths), max_size=4)))
    segments: list[Segment] = []
    offset = 0
    for place, (key, length) in enumerate(zip(used, lengths, strict=False)):
        member = f"{JOURNAL}/{path}.{place}"
        segments.append(Segment(archive=key, member=member, offset=offset, length=length))
        offset += length
    return File(
        path=path,
        size_bytes=offset,
        sha256=draw(_sha256),
        records=draw(st.integers(0, 10**9)),
        omitted_tail_bytes=draw(_counts),
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 1)),
        gid=draw(st.integers(0, 2**32 - 1)),
        mtime=draw(_times),
        segments=tuple(segments),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Draw a valid manifest: with shared archives, odd names, several files."""
    keys = [archive_key(i) for i in (FIRST, SECOND, THIRD)[: draw(st.integers(1, 3))]]
    paths = {"journal", *draw(st.lists(_names, max_size=3))}
    is_first = draw(st.booleans())
    return Manifest(
        format=draw(st.sampled_from(["1.0", "1.1", "1.12"])),
        id=THIRD,
        journal=JOURNAL,
        created_at=draw(_times),
        tool=draw(_texts),
        run_id=draw(_texts),
        site=draw(st.none() | _texts),
        suspect=draw(st.booleans()),
        suspicion=draw(st.none() | _texts),
        alarms=tuple(draw(st.lists(st.sampled_from([FIRST, SECOND, THIRD]), max_size=2))),
        source=Source(
            strategy=draw(_texts),
            consistency=draw(st.sampled_from(["live", "quiesced"])),
            node=draw(st.none() | _texts),
            pod=draw(st.none() | _texts),
        ),
        previous=None if is_first else Previous(id=SECOND, manifest_sha256=draw(_sha256)),
        continuity="first"
        if is_first
        else draw(st.sampled_from(["unchanged", "extended", "rewritten", "shrunk"])),
        archives=tuple(
            Archive(
                key=key,
                size_bytes=draw(_counts.map(lambda n: n // 4)),
                sha256=draw(_sha256),
                readback=draw(st.sampled_from(["full", "size"])),
            )
            for key in keys
        ),
        files=tuple(draw(_files(path, keys)) for path in sorted(paths)),
    )
