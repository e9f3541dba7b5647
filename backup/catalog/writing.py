"""The objects of one sink: how each is read, and in which order they are written and removed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from backup.catalog.listing import checksum_key, draft_key, manifest_key, mark_key
from backup.errors import (
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SinkError,
    UnsupportedFormatError,
)
from backup.lanes import unwatched
from backup.manifest import MAX_BYTES, Archive, Manifest, Mark, MarkKind, parse, parse_mark
from backup.model import Digest, Readback
from backup.sinks import Sink
from backup.stop import Stop
from backup.streams import Feed, prefetch


class StoredManifest(NamedTuple):
    """A manifest, and the bytes that the sink holds of it."""

    manifest: Manifest
    data: bytes

    @property
    def sha256(self) -> str:
        """By which the next manifest names it."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the sink holds after a put, as it says itself."""

    key: str
    size_bytes: int
    sha256: str | None
    """None where only the size was asked for."""


class Catalog:
    """The backups on one sink: reading and writing them, without a memory."""

    def __init__(self, sink: Sink) -> None:
        """Read and write through this sink."""
        self.sink = sink

    # -- reading

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

    def manifest(self, journal: str, backup_id: str) -> StoredManifest:
        """Read a manifest.

        Raises:
            ManifestError: it is not valid, or not of this backup.
            UnsupportedFormatError: a newer major version of this package wrote it.
            ObjectMissingError: there is none.
        """
        key = manifest_key(journal, backup_id)
        data = self.read(key)
        with self._located(key):
            manifest = parse(data)
            _require(f"{manifest.journal} {manifest.id}", f"{journal} {backup_id}")
        return StoredManifest(manifest, data)

    def marked(self, kind: MarkKind, journal: str, backup_id: str) -> Mark:
        """Read a mark.

        Raises:
            ManifestError: it is not valid, or of another backup or kind.
            ObjectMissingError: there is none.
        """
        key = mark_key(kind, journal, backup_id)
        data = self.read(key)
        with self._located(key):
            mark = parse_mark(data)
            _require(f"{mark.kind} {mark.journal} {mark.id}", f"{kind} {journal} {backup_id}")
        return mark

    @contextmanager
    def _located(self, key: str) -> Iterator[None]:
        """Say of which object an error is."""
        try:
            yield
        except (ManifestError, UnsupportedFormatError) as error:
            message = f"{self.sink}: {key}: {error.message}"
            raise type(error)(message, *error.hints) from error

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

    def held(
        self,
        key: str,
        *,
        readback: Readback,
        stop: Stop,
        alive: Callable[[], None] = unwatched,
        stall_seconds: float | None = None,
    ) -> Stored:
        """Find out what the sink holds of an archive.

        Args:
            key: the archive's.
            readback: how thoroughly.
            stop: asked while waiting.
            alive: called while data moves.
            stall_seconds: how long without data until the sink counts as stalled; None: for ever.

        Raises:
            SinkStalledError: it has stalled.
            SinkError: it could not be read.
        """
        if readback == "size":
            return Stored(key=key, size_bytes=self.sink.size(key), sha256=None)
        held = Digest()
        chunks = prefetch(self.sink.open(key), stop=stop, stall_seconds=stall_seconds)
        for chunk in chunks:  # read and hash at once
            held.update(chunk)
            alive()
        return Stored(key=key, size_bytes=held.size_bytes, sha256=held.sha256)

    # -- writing, in this order

    def store(
        self, key: str, feed: Feed, *, max_bytes: int, readback: Readback, stop: Stop
    ) -> Stored:
        """Put an archive, and find out what the sink holds; judge nothing."""
        self.sink.put(key, feed, max_bytes=max_bytes, alive=feed.alive)
        feed.alive()
        return self.held(key, readback=readback, stop=stop, alive=feed.alive)

    def require_as_sent(self, stored: Stored, sent: Digest | Archive) -> None:
        """Insist that a sink holds an archive as it was sent; discard it if not.

        Raises:
            ReadbackError: it holds something else.
        """
        if stored.size_bytes == sent.size_bytes and stored.sha256 in {None, sent.sha256}:
            return
        self.discard(stored.key)
        message = (
            f"{self.sink}: holds {stored.size_bytes} bytes with SHA-256 {stored.sha256}"
            f" of {stored.key}, where {sent.size_bytes} bytes with {sent.sha256} were sent"
        )
        raise ReadbackError(message, "this sink changes what it stores: do not trust it")

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
            _require_there(self.sink, archive)

    def draft(self, manifest: Manifest) -> None:
        """Note down a manifest whose archive is put and not read back: no backup yet.

        Whoever finds the archive to be what the draft says commits that manifest.

        Raises:
            ManifestError: nobody could read it; nothing was written.
            SinkError: it could not be written.
        """
        self._record(draft_key(manifest.journal, manifest.id), _readable(manifest))

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

    def prune(self, stored: StoredManifest, *, at: datetime) -> None:
        """Let a backup go: its tombstone, then its manifest. Its archives are remains from then on.

        Args:
            stored: the backup's manifest.
            at: the time, UTC.

        Raises:
            ManifestError: it has a tombstone already, of another manifest.
            SinkError: it could not be removed; it is there as before.
        """
        manifest = stored.manifest
        tombstone = Mark(
            kind="pruned",
            journal=manifest.journal,
            id=manifest.id,
            created_at=at,
            manifest_sha256=stored.sha256,
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
        with suppress(SinkError):
            self.sink.delete(key)


def _require_there(sink: Sink, archive: Archive) -> None:
    with suppress(ObjectMissingError):
        if sink.size(archive.key) == archive.size_bytes:
            return
    message = f"{sink}: {archive.key} was put, and is gone now that its manifest is there"
    raise ReadbackError(message, "find out who removes objects there: this is no backup")


def _require(found: str, wanted: str) -> None:
    if found != wanted:
        message = f"speaks of {found}"
        raise ManifestError(message)


def _readable(manifest: Manifest) -> bytes:
    """Write a manifest as it is stored; refuse one that its readers would refuse."""
    data = manifest.to_bytes()
    if len(data) > MAX_BYTES:
        message = f"its manifest would have {len(data)} bytes, and readers accept {MAX_BYTES}"
        raise ManifestError(message, "move files that billing did not make out of its directory")
    parse(data)
    return data


def checksums(archives: Iterable[Archive]) -> bytes:
    """Write a checksum file as ``sha256sum`` does: run it with ``-c`` in the same directory."""
    return "".join(f"{a.sha256}  {a.key.rpartition('/')[2]}\n" for a in archives).encode()
