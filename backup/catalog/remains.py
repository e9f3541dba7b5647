"""Remains: what interrupted runs have left on a sink, and how it is swept.

Rules:

- Objects without a manifest are not backups. Archives and checksum files among them are swept once
  they are older than the grace by the store's own times, unless a live draft or a mark speaks for
  them, and only if their names are ours. An archive goes only if no manifest names it, whoever's id
  it bears: backups may share archives. Where a manifest that might name it cannot be read, it
  stays. A listing is not the last word: a store may be late to show a manifest, so it is asked for.
- What was pruned has left its archives to be swept: once its tombstone is older than the grace, no
  run can be about to share them. Marks, tombstones too, are never swept.
- The store's time is that of the newest of our objects that it lists: by a clock of ours that is
  ahead, what another run is about to commit would be remains. A clock that is behind is heeded.
- What a manifest, or a tombstone, names as its predecessor was a backup: its archive without its
  manifest is not what an interruption left but what somebody spoilt, so it stays, and is reported.
  What is older stays too: the manifest that is gone may have named it. A backup that shares all its
  archives has left its checksum file alone, which names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial

from backup.catalog import (
    Backup,
    Listing,
    OpenSink,
    checksum_key,
    draft_key,
    manifest_key,
    mark_key,
)
from backup.errors import ManifestError, ObjectMissingError, SinkError, UnsupportedFormatError


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What came of a sweep."""

    objects: int = 0
    """How many are gone."""
    refusals: tuple[SinkError, ...] = ()
    """Why others could not be removed."""
    bereft: tuple[Backup, ...] = ()
    """What was a backup, as a later manifest says: its own is gone, its archive is there."""


def sweep(opened: OpenSink, *, now: datetime, grace: timedelta) -> Swept:
    """Remove what interruptions left behind on a sink.

    Args:
        opened: listed at any time since the run began. What it shows as left behind is looked up
            once more, for another run may have committed it meanwhile.
        now: by our own clock, UTC. It may be wrong: see above.
        grace: how old what is removed has to be.

    Raises:
        SinkError: the sink does not answer.
    """
    listing = opened.listing
    if any(True for _ in _left_behind(listing, now - grace)):
        listing = opened.relist()
    if listing.newest_at is None:  # nothing tells what time it is there
        return Swept()
    return _Sweep(opened, before=min(now, listing.newest_at) - grace).perform()


class _Sweep:
    """One sweep of one sink."""

    def __init__(self, opened: OpenSink, *, before: datetime) -> None:
        self._opened = opened
        self._before = before
        self._claims = _Claims(opened)
        self._refusals: list[SinkError] = []
        self._bereft: dict[tuple[str, str], Backup] = {}

    def perform(self) -> Swept:
        sink = self._opened.sink
        swept = self._removed(lambda: sink.sweep(self._before))
        for backup, key in list(_left_behind(self._opened.listing, self._before)):
            if not self._is_spoken_for(backup, key):
                swept += self._removed(partial(self._delete, key))
        return Swept(
            objects=swept, refusals=tuple(self._refusals), bereft=tuple(self._bereft.values())
        )

    def _removed(self, remove: Callable[[], int]) -> int:
        """Remove, and count; what is refused concerns that alone."""
        try:
            return remove()
        except SinkError as error:
            if error.transient:
                raise
            self._refusals.append(error)
            return 0

    def _delete(self, key: str) -> int:
        self._opened.sink.delete(key)
        return 1

    def _is_spoken_for(self, owner: Backup, key: str) -> bool:
        if owner.has_manifest:
            return key in owner.archives and self._claims.may_name(owner, key)
        if self._is_committed(owner):
            return True
        if not self._claims.are_about(owner):
            return False
        if not owner.is_pruned and self._claims.are_of_a_successor(owner):
            self._bereft[owner.journal, owner.id] = owner
            return True
        return self._claims.may_name(owner, key)

    def _is_committed(self, backup: Backup) -> bool:
        """Ask for the manifest itself: some stores list late what was written."""
        with suppress(ObjectMissingError):
            self._opened.sink.size(manifest_key(backup.journal, backup.id))
            return True
        return False


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a manifest says of others' objects."""

    predecessor: str | None
    archives: frozenset[str]


class _Claims:
    """What the manifests of a sink say of others' objects; each is read once, and if need be."""

    def __init__(self, opened: OpenSink) -> None:
        self._opened = opened
        self._listing = opened.listing
        self._claim = cache(self._read)

    def may_name(self, owner: Backup, archive: str) -> bool:
        """Whether a manifest names this archive, or one that is damaged or gone might have."""
        return any(
            c is None or archive in c.archives or self._is_gone(c.predecessor, owner)
            for c in self._later(owner)
        )

    def _is_gone(self, predecessor: str | None, owner: Backup) -> bool:
        """Whether this is a later backup without its manifest: nobody knows what that named."""
        if predecessor is None or predecessor <= owner.id:
            return False
        there = self._listing.find(owner.journal, predecessor)
        if there is None or there.has_manifest or there.is_pruned:
            return False
        return self.are_about(there)

    def are_about(self, backup: Backup) -> bool:
        """Whether anything that is there may be what this one was: archives, its own or shared."""
        return bool(backup.archives) or any(k in self._listing.sizes for k in self._summed(backup))

    def _summed(self, backup: Backup) -> Iterator[str]:
        """Name the archives of which its checksum file speaks."""
        key = checksum_key(backup.journal, backup.id)
        if any(found.key == key for found in backup.objects):
            with suppress(ManifestError, ObjectMissingError):
                for line in self._opened.read(key).decode(errors="replace").splitlines():
                    yield f"{backup.journal}/{line.rpartition('  ')[2]}"

    def are_of_a_successor(self, owner: Backup) -> bool:
        """Whether a manifest says that it follows this backup."""
        return any(c is not None and c.predecessor == owner.id for c in self._later(owner))

    def _later(self, owner: Backup) -> Iterator[_Claim | None]:
        """Find what those claim that are not older, pruned ones too: no other knew the owner."""
        for backup_id in self._listing.ids(owner.journal):
            backup = self._listing.find(owner.journal, backup_id)
            if backup and backup_id >= owner.id and (backup.has_manifest or backup.is_pruned):
                yield self._claim(backup.journal, backup.id, is_pruned=backup.is_pruned)

    def _read(self, journal: str, backup_id: str, *, is_pruned: bool) -> _Claim | None:
        try:
            if is_pruned:
                stone = self._opened.marked("pruned", journal, backup_id)
                return _Claim(stone.previous.id if stone.previous else None, frozenset())
            manifest = self._opened.manifest(journal, backup_id).manifest
        except (ManifestError, UnsupportedFormatError):
            return None
        return _Claim(
            manifest.previous.id if manifest.previous else None,
            frozenset(a.key for a in manifest.archives),
        )


def _left_behind(listing: Listing, before: datetime) -> Iterator[tuple[Backup, str]]:
    """Find the keys that may go: by what bears the same id, whatever other manifests name."""
    for backup in listing.remains():
        old = [o.key for o in backup.objects if o.modified_at < before]
        keys = {o.key for o in backup.objects}
        draft = draft_key(backup.journal, backup.id)
        ours = {*backup.archives, checksum_key(backup.journal, backup.id), draft}
        is_live = draft in keys.difference(old)
        is_pruned = mark_key("pruned", backup.journal, backup.id) in old
        if not is_live and (is_pruned or keys <= ours):  # nor a mark of any kind
            yield from ((backup, key) for key in old if key in ours)
    for backup in listing.every():
        spare = {draft_key(backup.journal, backup.id)}
        if len(backup.archives) > 1:
            spare |= {*backup.archives}
        for found in backup.objects:
            if found.key in spare and found.modified_at < before:
                yield backup, found.key
