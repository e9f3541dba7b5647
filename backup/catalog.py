"""The catalog of one sink: the on-sink format v1, and the only code that knows its order.

Layout, below the sink's prefix::

    <journal>/<journal>-<id>.tar.gz              the archive
    <journal>/<journal>-<id>.2.tar.gz            the archive of a second attempt
    <journal>/<journal>-<id>.sha256              for ``sha256sum -c``, in that directory
    <journal>/<journal>-<id>.manifest.json       written last, exclusively, never changed
    <journal>/<journal>-<id>.<kind>[-<time>].json    marks: delivered, acknowledged, verified,
                                                 pruned, retired; unknown kinds are left alone
    <journal>/<journal>-<id>.draft.json          put, not yet read back; not a backup

Invariants, and the order of writing that follows from them:

- A backup exists when, and only when, its manifest does. So: archive, read-back, checksum file,
  manifest; an interruption anywhere leaves "absent" or "valid". After the manifest the archive is
  asked for once more: once it is named nobody sweeps it, and until then somebody might have.
- No manifest is written that its readers would refuse: what cannot be read is no backup.
- Nothing is overwritten. Facts that are learned later are objects of their own: marks.
- Every manifest but the first names the SHA-256 of its predecessor's: the history of a journal is
  a hash chain. Two runs at once may fork it: a tree is fine, a broken link is not. What was
  pruned leaves a ``pruned`` mark, its tombstone, so that pruning and tampering differ: it has the
  hash of the manifest that was there, and that manifest's own link. It is written first.
- An alarm is inherited from every branch: from the newest manifest, and from those that its run
  may not have seen. Where there is no fork, that is the newest alone.
- A draft is a manifest that waits for its archive to be read back. It is no backup; what commits it
  compares the archive first, and a draft older than the grace is what an interruption left.
- Objects without a manifest are not backups. What interruptions have left is swept once it is old:
  :mod:`backup.remains` says what that means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from backup.errors import (
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SinkError,
    UnsupportedFormatError,
)
from backup.manifest import MAX_BYTES, Archive, Manifest, Mark, MarkKind, parse, parse_mark
from backup.model import Digest, Key, Readback, parse_key
from backup.sinks import Object, Sink
from backup.stop import Stop
from backup.streams import Feed, prefetch, unwatched

MARK_KINDS: tuple[str, ...] = get_args(MarkKind)


@dataclass(slots=True, kw_only=True)
class Backup:
    """One id of one journal, as the sink's listing shows it."""

    journal: str
    id: str
    has_manifest: bool = False
    has_draft: bool = False
    committed_at: datetime | None = None
    """When its manifest was written, by the store's own clock."""
    archives: dict[str, int] = field(default_factory=dict)
    """Size in bytes of each archive that bears this id, by key."""
    marks: set[str] = field(default_factory=set)
    objects: list[Object] = field(default_factory=list)

    @property
    def is_pruned(self) -> bool:
        """Whether it was a backup, and was let go."""
        return "pruned" in self.marks and not self.has_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the sink holds after a put, as it says itself."""

    key: str
    size_bytes: int
    sha256: str | None
    """None where only the size was asked for."""

    @property
    def readback(self) -> Readback:
        """How it was asked."""
        return "size" if self.sha256 is None else "full"


@dataclass(frozen=True, slots=True)
class Flaw:
    """What speaks against a backup."""

    message: str
    is_damage: bool = False
    """Its manifest or an archive is damaged or missing; else it is as it was made."""


class Listing:
    """All that one listing of a sink shows; no manifest is read for it."""

    def __init__(self, objects: Iterable[Object]) -> None:
        """Sort the objects by what their names say."""
        self.sizes: dict[str, int] = {}
        self.newest_at: datetime | None = None
        """When the newest of our objects was written, by the store's own clock."""
        self._backups: dict[str, dict[str, Backup]] = {}
        for item in objects:
            key = parse_key(item.key)
            if key is not None:
                self._add(item, key)

    def _add(self, item: Object, key: Key) -> None:
        ids = self._backups.setdefault(key.journal, {})
        backup = ids.setdefault(key.id, Backup(journal=key.journal, id=key.id))
        backup.objects.append(item)
        self.newest_at = max(item.modified_at, self.newest_at or item.modified_at)
        if key.role == "archive":
            backup.archives[item.key] = item.size_bytes
            self.sizes[item.key] = item.size_bytes
        elif key.role == "manifest":
            backup.has_manifest = True
            backup.committed_at = item.modified_at
        elif key.role == "draft":
            backup.has_draft = True
        elif key.role == "mark" and key.mark in MARK_KINDS:
            backup.marks.add(key.mark)

    @property
    def journals(self) -> tuple[str, ...]:
        """The journals of which there is a backup."""
        return tuple(sorted(j for j in self._backups if self.backups(j)))

    def backups(self, journal: str) -> list[Backup]:
        """The backups of a journal, oldest first."""
        ids = self._backups.get(journal, {})
        return [ids[i] for i in sorted(ids) if ids[i].has_manifest]

    def every(self) -> Iterator[Backup]:
        """All backups, by journal, oldest first."""
        for journal in self.journals:
            yield from self.backups(journal)

    def remains(self) -> Iterator[Backup]:
        """Ids that are no backups: nothing but what an interruption left."""
        for ids in self._backups.values():
            yield from (b for b in ids.values() if not b.has_manifest)

    def find(self, journal: str, backup_id: str) -> Backup | None:
        """Find what bears this id, a backup or not."""
        return self._backups.get(journal, {}).get(backup_id)

    def ids(self, journal: str) -> tuple[str, ...]:
        """Every id that was ever used for a journal here, backup or not."""
        return tuple(self._backups.get(journal, {}))

    def is_retired(self, journal: str) -> bool:
        """Whether somebody said that this journal will not come back."""
        backups = self.backups(journal)
        return bool(backups) and "retired" in backups[-1].marks

    def has_mark(self, journal: str, backup_id: str, kind: str) -> bool:
        """Whether that id carries a mark of that kind."""
        backup = self.find(journal, backup_id)
        return backup is not None and kind in backup.marks


class Catalog:
    """The backups on one sink."""

    def __init__(self, sink: Sink) -> None:
        """Read and write through this sink."""
        self.sink = sink

    def listing(self) -> Listing:
        """List the sink, once."""
        return Listing(self.sink.list())

    def manifest(self, journal: str, backup_id: str) -> tuple[Manifest, str]:
        """Read a manifest; return it and the SHA-256 of its stored bytes.

        Raises:
            ManifestError: it is not valid, or not of this backup.
            UnsupportedFormatError: a newer major version of this package wrote it.
            ObjectMissingError: there is none.
        """
        key = manifest_key(journal, backup_id)
        data = self.read(key)
        try:
            manifest = parse(data)
        except (ManifestError, UnsupportedFormatError) as error:
            message = f"{self.sink}: {key}: {error.message}"
            raise type(error)(message, *error.hints) from error
        if (manifest.journal, manifest.id) != (journal, backup_id):
            message = f"{self.sink}: {key}: speaks of {manifest.journal} {manifest.id}"
            raise ManifestError(message)
        return manifest, hashlib.sha256(data).hexdigest()

    def newest(
        self, journal: str, listing: Listing
    ) -> tuple[tuple[Manifest, str] | None, list[ManifestError]]:
        """Read the newest valid manifest of a journal; None if there is none.

        Returns:
            The manifest and the SHA-256 of its stored bytes; and the errors of newer ones.
        """
        damaged: list[ManifestError] = []
        for backup in reversed(listing.backups(journal)):
            try:
                return self.manifest(journal, backup.id), damaged
            except ManifestError as error:
                damaged.append(error)
        return None, damaged

    def alarms_after(
        self, newest: Manifest, listing: Listing
    ) -> tuple[tuple[str, ...], list[ManifestError]]:
        """Name the alarms that the successor of a journal's newest valid manifest inherits.

        Returns:
            Their ids, oldest first; and the errors of manifests that may have carried more.
        """
        alarms = {*newest.alarms}
        damaged: list[ManifestError] = []
        for backup in _unseen(newest, listing):
            try:
                alarms.update(self.manifest(newest.journal, backup.id)[0].alarms)
            except ManifestError as error:
                damaged.append(error)
        return _standing(newest.journal, sorted(alarms), listing), damaged

    def manifest_sha256(self, journal: str, backup_id: str) -> str:
        """Return the SHA-256 of a manifest as it is stored, valid or not."""
        data = self.read(manifest_key(journal, backup_id))
        return hashlib.sha256(data).hexdigest()

    def absent_archives(self, manifest: Manifest, listing: Listing) -> list[str]:
        """Name the archives of a manifest that are not there at their size."""
        return [a.key for a in manifest.archives if listing.sizes.get(a.key) != a.size_bytes]

    def standing_alarms(self, manifest: Manifest, listing: Listing) -> tuple[str, ...]:
        """Name the alarms that a manifest inherited and nobody has acknowledged since."""
        return _standing(manifest.journal, manifest.alarms, listing)

    def marked(self, kind: MarkKind, journal: str, backup_id: str) -> Mark:
        """Read a mark.

        Raises:
            ManifestError: it is not valid, or of another backup or kind.
            ObjectMissingError: there is none.
        """
        key = mark_key(kind, journal, backup_id)
        try:
            mark = parse_mark(self.read(key))
        except ManifestError as error:
            message = f"{self.sink}: {key}: {error.message}"
            raise ManifestError(message, *error.hints) from error
        if (mark.kind, mark.journal, mark.id) != (kind, journal, backup_id):
            message = f"{self.sink}: {key}: speaks of {mark.kind} {mark.journal} {mark.id}"
            raise ManifestError(message)
        return mark

    def read(self, key: str) -> bytes:
        """Read a small object that this package wrote: a manifest, a mark, a checksum file.

        Raises:
            ManifestError: it is larger than any of those.
            ObjectMissingError: there is none.
            SinkError: it could not be read.
        """
        try:
            return self.sink.read(key, limit=MAX_BYTES)
        except SinkError as error:
            if type(error) is SinkError and self.sink.size(key) > MAX_BYTES:
                message = f"{self.sink}: {key} is larger than {MAX_BYTES} bytes"
                raise ManifestError(message) from error
            raise

    def why_not_good(self, backup: Backup, listing: Listing) -> Flaw | None:
        """Return what speaks against a backup; None for a good one. No archive is read."""
        try:
            manifest, _ = self.manifest(backup.journal, backup.id)
        except ManifestError as error:
            return Flaw(error.message, is_damage=True)
        except UnsupportedFormatError as error:
            return Flaw(error.message)
        return self.flaw_of(manifest, listing)

    def flaw_of(self, manifest: Manifest, listing: Listing) -> Flaw | None:
        """Return what speaks against a backup whose manifest is valid; None for a good one."""
        if absent := self.absent_archives(manifest, listing):
            return Flaw(f"{absent[0]} is missing or has another size", is_damage=True)
        if manifest.suspect:
            return Flaw(f"suspect: {manifest.suspicion}")
        if alarms := self.standing_alarms(manifest, listing):
            return Flaw(f"standing alarm: {', '.join(alarms)}")
        return None

    # -- writing, in this order

    def store(
        self, key: str, feed: Feed, *, max_bytes: int, readback: Readback, stop: Stop
    ) -> Stored:
        """Put an archive, and find out what the sink holds; judge nothing."""
        self.sink.put(key, feed, max_bytes=max_bytes, alive=feed.alive)
        feed.alive()
        return self._held(key, readback=readback, stop=stop, alive=feed.alive)

    def require_as_sent(self, stored: Stored, *, size_bytes: int, sha256: str) -> None:
        """Insist that a sink holds an archive as it was sent; discard it if not.

        Raises:
            ReadbackError: it holds something else.
        """
        if stored.size_bytes == size_bytes and stored.sha256 in {None, sha256}:
            return
        self.discard(stored.key)
        message = (
            f"{self.sink}: holds {stored.size_bytes} bytes with SHA-256 {stored.sha256}"
            f" of {stored.key}, where {size_bytes} bytes with {sha256} were sent"
        )
        raise ReadbackError(message, "this sink changes what it stores: do not trust it")

    def _held(
        self,
        key: str,
        *,
        readback: Readback,
        stop: Stop,
        alive: Callable[[], None],
        stall_seconds: float | None = None,
    ) -> Stored:
        if readback == "size":
            return Stored(key=key, size_bytes=self.sink.size(key), sha256=None)
        held = Digest()
        chunks = prefetch(self.sink.open(key), stop=stop, stall_seconds=stall_seconds)
        for chunk in chunks:  # read and hash at once
            held.update(chunk)
            alive()
        return Stored(key=key, size_bytes=held.size_bytes, sha256=held.sha256)

    def commit(self, manifest: Manifest) -> None:
        """Make a backup exist: its checksum file, then its manifest; each is read back.

        Raises:
            ManifestError: nobody could read it; nothing was written.
            ReadbackError: what was written is not there, or an archive is not any more.
            SinkError: it could not be written.
        """
        data = _readable(manifest)
        self._record(checksum_key(manifest.journal, manifest.id), checksums(manifest.archives))
        self._record(manifest_key(manifest.journal, manifest.id), data)
        for archive in manifest.archives:
            self._require_there(archive)

    def _require_there(self, archive: Archive) -> None:
        with suppress(ObjectMissingError):
            if self.sink.size(archive.key) == archive.size_bytes:
                return
        message = f"{self.sink}: {archive.key} was put, and is gone now that its manifest is there"
        raise ReadbackError(message, "find out who removes objects there: this is no backup")

    def draft(self, manifest: Manifest) -> None:
        """Note down a manifest whose archive is put and not read back: no backup yet.

        Whoever finds the archive to be what the draft says commits that manifest.

        Raises:
            ManifestError: nobody could read it; nothing was written.
            SinkError: it could not be written.
        """
        self._record(draft_key(manifest.journal, manifest.id), _readable(manifest))

    def drafted(self, journal: str, backup_id: str) -> Manifest:
        """Read a draft.

        Raises:
            ManifestError: it is not valid, or not of this id.
            ObjectMissingError: there is none.
        """
        manifest = parse(self.read(draft_key(journal, backup_id)))
        if (manifest.journal, manifest.id) != (journal, backup_id):
            message = f"{self.sink}: the draft {backup_id} speaks of {manifest.id}"
            raise ManifestError(message)
        return manifest

    def held(self, archive: Archive, *, stop: Stop, stall_seconds: float) -> Stored:
        """Find out what the sink holds of an archive, as thoroughly as its manifest claims.

        Args:
            archive: as its manifest tells of it.
            stop: asked while waiting.
            stall_seconds: how long without data until the sink counts as stalled.

        Raises:
            SinkStalledError: it has stalled.
            SinkError: it could not be read.
        """
        return self._held(
            archive.key,
            readback=archive.readback,
            stop=stop,
            alive=unwatched,
            stall_seconds=stall_seconds,
        )

    def mark(self, mark: Mark) -> bool:
        """Add a mark; False if the backup has one of that kind already.

        It is looked for first: a store that ignores preconditions would replace it, and unlike
        other names that of a mark is not unique to one run.
        """
        key = mark_key(mark.kind, mark.journal, mark.id)
        with suppress(ObjectMissingError):
            self.sink.size(key)
            return False
        try:
            self._record(key, mark.to_bytes())
        except ObjectExistsError:
            return False
        return True

    def _record(self, key: str, data: bytes) -> None:
        self.sink.put_exclusive(key, data)
        if self.sink.read(key) != data:
            message = f"{self.sink}: {key} does not hold what was written"
            raise ReadbackError(message, "this sink cannot be trusted with backups")

    # -- removing

    def prune(self, manifest: Manifest, *, sha256: str, at: datetime) -> None:
        """Let a backup go: its tombstone, then its manifest. Its archives are remains from then on.

        Args:
            manifest: of the backup.
            sha256: of its stored bytes.
            at: the time, UTC.

        Raises:
            ManifestError: it has a tombstone already, of another manifest.
            SinkError: it could not be removed; it is there as before.
        """
        tombstone = Mark(
            kind="pruned",
            journal=manifest.journal,
            id=manifest.id,
            created_at=at,
            manifest_sha256=sha256,
            previous=manifest.previous,
            continuity=manifest.continuity,
        )
        if not self.mark(tombstone):  # somebody was interrupted here
            there = self.marked("pruned", manifest.journal, manifest.id)
            if there.model_copy(update={"created_at": at}) != tombstone:
                message = f"{self.sink}: the tombstone of {manifest.id} is not of this backup"
                raise ManifestError(message, "somebody has written it who did not prune it")
        self.sink.delete(manifest_key(manifest.journal, manifest.id))

    def discard(self, key: str) -> None:
        """Remove an archive that will not be committed; what cannot be removed is swept later."""
        try:
            self.sink.delete(key)
        except SinkError:
            return


def _unseen(newest: Manifest, listing: Listing) -> Iterator[Backup]:
    """Find the older backups that the newest one's run may not have seen: other branches.

    It saw its predecessor, and so what was committed before that; and what it saw and is older it
    has inherited from. Ids are not enough: a slow run commits long after it has got its id.
    """
    link = newest.previous
    previous = listing.find(newest.journal, link.id) if link else None
    since = previous.committed_at if previous else None
    for backup in listing.backups(newest.journal):
        if backup is previous or backup.id >= newest.id:
            continue
        at = backup.committed_at
        if not (link and since and at and backup.id < link.id and at < since):
            yield backup


def _standing(journal: str, alarms: Iterable[str], listing: Listing) -> tuple[str, ...]:
    return tuple(a for a in alarms if not listing.has_mark(journal, a, "acknowledged"))


def _readable(manifest: Manifest) -> bytes:
    """Write a manifest as it is stored; refuse one that its readers would refuse."""
    data = manifest.to_bytes()
    if len(data) > MAX_BYTES:
        message = f"its manifest would have {len(data)} bytes, and readers accept {MAX_BYTES}"
        raise ManifestError(message, "move files that billing did not make out of its directory")
    parse(data)
    return data


def archive_key(journal: str, backup_id: str, attempt: int) -> str:
    """Name the archive of an attempt, 1 or 2."""
    return str(Key(journal=journal, id=backup_id, role="archive", attempt=attempt))


def checksum_key(journal: str, backup_id: str) -> str:
    """Name a backup's checksum file."""
    return str(Key(journal=journal, id=backup_id, role="checksum"))


def manifest_key(journal: str, backup_id: str) -> str:
    """Name a backup's manifest."""
    return str(Key(journal=journal, id=backup_id, role="manifest"))


def mark_key(kind: MarkKind, journal: str, backup_id: str) -> str:
    """Name a mark of a backup."""
    return str(Key(journal=journal, id=backup_id, role="mark", mark=kind))


def draft_key(journal: str, backup_id: str) -> str:
    """Name the draft of a backup."""
    return str(Key(journal=journal, id=backup_id, role="draft"))


def checksums(archives: Iterable[Archive]) -> bytes:
    """Write a checksum file as ``sha256sum`` does: run it with ``-c`` in the same directory."""
    return "".join(f"{a.sha256}  {a.key.rpartition('/')[2]}\n" for a in archives).encode()


@dataclass(frozen=True, slots=True)
class Shelf:
    """A sink that answered, and what it listed."""

    catalog: Catalog
    listing: Listing

    @classmethod
    def of(cls, sink: Sink) -> Shelf:
        """List a sink.

        Raises:
            SinkError: it does not answer.
        """
        catalog = Catalog(sink)
        return cls(catalog, catalog.listing())

    @property
    def url(self) -> str:
        """The sink's URL."""
        return self.catalog.sink.url
