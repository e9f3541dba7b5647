"""The open sink: a sink that answered, read in one run, and what is known of it since.

Rules:

- It is listed once, when it is opened, and each of its small objects is read once: what a run has
  judged, it does not ask for again. Memory is bounded: the last :data:`REMEMBERED` are kept, and
  none that is larger than :data:`REMEMBERED_BYTES`, as a manifest may have 8 MiB. A chosen backup
  has its manifest with it (:mod:`backup.catalog.selection`).
- A sink that hangs, or that was given up, stays so for the run: no later backup waits for it. A
  verb that reads backup after backup asks :attr:`OpenSink.lost` first.
- What can be said of backups by their manifests and the listing is said here; archives are not
  read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from backup.catalog.listing import Backup, Listing, manifest_key
from backup.catalog.writing import Catalog, StoredManifest
from backup.errors import (
    NEEDS_A_LOOK,
    ManifestError,
    SinkError,
    SinkStalledError,
)
from backup.manifest import Manifest
from backup.run import Run
from backup.sinks import Sink

REMEMBERED = 32
"""How many small objects are kept."""
REMEMBERED_BYTES = 256 << 10
"""The largest of them: a manifest has 2 KiB, and 100 where it names 250 archives."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """What speaks against a backup."""

    message: str
    is_damage: bool = False
    """Its manifest or an archive is damaged or missing; else it is as it was made."""


class OpenSink(Catalog):
    """A sink that answered, what it listed, and what was read of it."""

    def __init__(self, sink: Sink) -> None:
        """List a sink.

        Raises:
            SinkError: it does not answer.
        """
        super().__init__(sink)
        self.url = sink.url
        self.lost: SinkError | None = None
        """Why it is asked no more in this run; None while it answers."""
        self._remembered: dict[str, bytes] = {}
        self.listing = Listing(sink.list())

    def relist(self) -> Listing:
        """List it again, before what no backup needs is removed."""
        self.listing = Listing(self.sink.list())
        return self.listing

    def read(self, key: str) -> bytes:
        """Read a small object, once; a sink that hangs is lost."""
        if (data := self._remembered.get(key)) is not None:
            return data
        try:
            data = super().read(key)
        except SinkStalledError as error:
            self.give_up(error)
            raise
        if len(data) <= REMEMBERED_BYTES:
            self._remembered[key] = data
            for oldest in [*self._remembered][:-REMEMBERED]:  # several threads may read
                self._remembered.pop(oldest, None)
        return data

    def give_up(self, error: SinkError) -> None:
        """Ask it no more in this run; the first reason is kept."""
        self.lost = self.lost or error

    def manifest_sha256(self, journal: str, backup_id: str) -> str:
        """Return the SHA-256 of a manifest as it is stored, valid or not."""
        return hashlib.sha256(self.read(manifest_key(journal, backup_id))).hexdigest()

    def newest(self, journal: str) -> tuple[StoredManifest | None, list[ManifestError]]:
        """Read the newest valid manifest of a journal; None if there is none.

        Returns:
            It; and the errors of newer ones.
        """
        damaged: list[ManifestError] = []
        for backup in reversed(self.listing.backups(journal)):
            try:
                return self.manifest(journal, backup.id), damaged
            except ManifestError as error:
                damaged.append(error)
        return None, damaged

    def alarms_after(self, newest: Manifest) -> tuple[tuple[str, ...], list[ManifestError]]:
        """Name the alarms that the successor of a journal's newest valid manifest inherits.

        Returns:
            Their ids, oldest first; and the errors of manifests that may have carried more.
        """
        alarms = {*newest.alarms}
        damaged: list[ManifestError] = []
        for backup in _unseen(newest, self.listing):
            try:
                alarms.update(self.manifest(newest.journal, backup.id).manifest.alarms)
            except ManifestError as error:
                damaged.append(error)
        return self._standing(newest.journal, sorted(alarms)), damaged

    def standing_alarms(self, manifest: Manifest) -> tuple[str, ...]:
        """Name the alarms that a manifest inherited and nobody has acknowledged since."""
        return self._standing(manifest.journal, manifest.alarms)

    def _standing(self, journal: str, alarms: Iterable[str]) -> tuple[str, ...]:
        has_mark = self.listing.has_mark
        return tuple(a for a in alarms if not has_mark(journal, a, "acknowledged"))

    def absent_archives(self, manifest: Manifest) -> list[str]:
        """Name the archives of a manifest that are not there at their size."""
        return [a.key for a in manifest.archives if self.listing.sizes.get(a.key) != a.size_bytes]

    def flaw_of(self, manifest: Manifest) -> Flaw | None:
        """Return what speaks against a backup whose manifest is valid; None for a good one."""
        if absent := self.absent_archives(manifest):
            return Flaw(f"{absent[0]} is missing or has another size", is_damage=True)
        if manifest.suspect:
            return Flaw(f"suspect: {manifest.suspicion}")
        if alarms := self.standing_alarms(manifest):
            return Flaw(f"standing alarm: {', '.join(alarms)}")
        return None


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


def open_all(run: Run, sinks: Sequence[Sink]) -> list[OpenSink]:
    """List every sink; one that does not answer is a problem, a smaller one if others do.

    Raises:
        SinkError: none of them answers.
    """
    opened: list[OpenSink] = []
    failed: list[tuple[Sink, SinkError]] = []
    for sink in sinks:
        try:
            opened.append(OpenSink(sink))
        except SinkError as error:
            failed.append((sink, error))
    if not opened:
        raise failed[0][1]
    for sink, why in failed:
        run.fail(why, sink=sink.url, exit_code=NEEDS_A_LOOK)
    return opened
