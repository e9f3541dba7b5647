"""Backups made by hand, as this release reads them but does not write them.

chain = Chain(sink)
chain.full(b"...")              # one archive, one segment a file
chain.incremental(b"more")      # shares the archives before it, adds what was appended
chain.unchanged()               # shares all of them, adds none
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from backup.archive import Entry, frame, gzip
from backup.catalog import archive_key, checksum_key, checksums, manifest_key
from backup.manifest import Archive, File, Manifest, Mark, MarkKind, Previous, Segment, Source
from backup.model import encode_name, new_id
from backup.sinks import Sink
from tests.journal_data import NOON
from tests.simulated_sink import Held, SimulatedSink

JOURNAL = "journal-deepgram-billing-0"
MTIME = NOON - timedelta(days=30, microseconds=-250_000)


def sha256(data: bytes) -> str:
    """Hash it."""
    return hashlib.sha256(data).hexdigest()


def packed(members: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Make an archive of named contents."""
    return b"".join(
        gzip(frame((Entry(name=name, size_bytes=len(data)), (data,)) for name, data in members))
    )


def archive(key: str, data: bytes) -> Archive:
    """Speak of an archive as a manifest does."""
    return Archive(key=key, size_bytes=len(data), sha256=sha256(data), readback="full")


def file(path: bytes, data: bytes, segments: Sequence[Segment], **changes: Any) -> File:
    """Speak of a file as a manifest does."""
    given: dict[str, Any] = {
        "path": encode_name(path),
        "size_bytes": len(data),
        "sha256": sha256(data),
        "records": data.count(b"\n"),
        "omitted_tail_bytes": 0,
        "mode": 0o640,
        "uid": 0,
        "gid": 0,
        "mtime": MTIME,
        "segments": tuple(segments),
    }
    return File(**(given | changes))


def segment(key: str, member: bytes, offset: int, length: int) -> Segment:
    """Speak of a run of a file's bytes."""
    return Segment(archive=key, member=encode_name(member), offset=offset, length=length)


def mark(kind: MarkKind, backup_id: str, **facts: Any) -> Mark:
    """Speak of a fact that was learned later."""
    return Mark(kind=kind, journal=JOURNAL, id=backup_id, created_at=NOON, **facts)


def put(sink: SimulatedSink, key: str, data: bytes) -> None:
    """Place an object, whatever was there."""
    sink.place.objects[key] = Held(data, NOON)


class Chain:
    """The backups of one journal on one sink, a day apart, each after the one before."""

    def __init__(
        self, sink: Sink, journal: str = JOURNAL, *, start: datetime = NOON - timedelta(days=20)
    ) -> None:
        self.sink = sink
        self.journal = journal
        self.manifests: list[Manifest] = []
        self.data = b""
        self._day = start

    @property
    def last(self) -> Manifest:
        """The newest."""
        return self.manifests[-1]

    @property
    def main(self) -> File:
        """The file of records, as the newest speaks of it."""
        return self.last.main

    def id(self, token: str | None = None) -> str:
        """Make the id of the next backup."""
        self._day += timedelta(days=1)
        return new_id(self._day, after=(), token=token or f"{len(self.manifests):06x}")

    def full(
        self, data: bytes, *, others: Mapping[bytes, bytes] | None = None, **changes: Any
    ) -> Manifest:
        """Commit a full backup; ``others`` are further files of the journal's directory."""
        contents = {b"journal": data, **(others or {})}
        backup_id = self.id()
        key = archive_key(self.journal, backup_id, 1)
        stored = packed([(self.member(path), body) for path, body in sorted(contents.items())])
        self.sink.put(key, [stored])
        self.data = data
        files = [
            file(path, body, [segment(key, self.member(path), 0, len(body))])
            for path, body in sorted(contents.items())
        ]
        continuity = changes.pop("continuity", "extended" if self.manifests else "first")
        return self.commit(backup_id, [archive(key, stored)], files, continuity, **changes)

    def incremental(
        self, more: bytes, *, strangers: Sequence[tuple[bytes, bytes]] = (), **changes: Any
    ) -> Manifest:
        """Commit a backup of what was appended; ``strangers`` are members that nobody names."""
        backup_id = self.id()
        key = archive_key(self.journal, backup_id, 1)
        offset = len(self.data)
        member = self.member(f"journal.{offset:015}".encode())
        stored = packed([*strangers, (member, more)])
        self.sink.put(key, [stored])
        self.data += more
        before = self.last
        kept = self.main.segments if offset else ()
        segments = (*kept, segment(key, member, offset, len(more)))
        files = [file(b"journal", self.data, segments)]
        archives = [*before.archives, archive(key, stored)]
        return self.commit(backup_id, archives, files, "extended", **changes)

    def unchanged(self, **changes: Any) -> Manifest:
        """Commit a backup that adds no archive."""
        before = self.last
        return self.commit(self.id(), before.archives, [self.main], "unchanged", **changes)

    def member(self, path: bytes) -> bytes:
        """Name a file's member."""
        return self.journal.encode() + b"/" + path

    def link(self) -> Previous | None:
        """Say what the next manifest says of the last one."""
        if not self.manifests:
            return None
        stored = self.sink.read(manifest_key(self.journal, self.last.id))
        return Previous(id=self.last.id, manifest_sha256=sha256(stored))

    def commit(
        self,
        backup_id: str,
        archives: Sequence[Archive],
        files: Sequence[File],
        continuity: str,
        **changes: Any,
    ) -> Manifest:
        """Write the checksum file and the manifest."""
        given: dict[str, Any] = {
            "id": backup_id,
            "journal": self.journal,
            "created_at": self._day,
            "tool": "test",
            "run_id": "run",
            "suspect": False,
            "alarms": (),
            "source": Source(strategy="direct", consistency="live"),
            "previous": self.link(),
            "continuity": continuity,
            "archives": tuple(archives),
            "files": tuple(files),
        }
        manifest = Manifest(**(given | changes))
        self.sink.put_exclusive(checksum_key(self.journal, backup_id), checksums(archives))
        self.sink.put_exclusive(manifest_key(self.journal, backup_id), manifest.to_bytes())
        self.manifests.append(manifest)
        return manifest


def lose(sink: SimulatedSink, *made: Manifest) -> None:
    """Let somebody remove manifests."""
    for manifest in made:
        del sink.place.objects[manifest_key(JOURNAL, manifest.id)]
