"""Deliveries: what Deepgram has, once it has some backups of a journal.

Rules:

- With a backup, those are delivered whose records it holds (:mod:`backup.catalog.lineage`): on
  every sink, as an id means the same bytes everywhere. Where a copy does not tell what it holds,
  another may.
- What is older, and delivered neither by itself nor with these, is named: its records may be
  nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile

from backup.catalog import OpenSink, StoredManifest, lineage
from backup.catalog.selection import Chosen, copies_of
from backup.errors import (
    BackupError,
    ManifestError,
    ObjectMissingError,
    SinkError,
    UnsupportedFormatError,
)
from backup.run import Run

_SHOWN = 3
"""As many ids are named in one sentence; the newest tell the most."""


class Delivery:
    """What is delivered with some backups, on each sink."""

    def __init__(self, sinks: Sequence[OpenSink], backups: Iterable[tuple[str, str]]) -> None:
        """Find out for these, each a journal and an id."""
        self.unread: list[tuple[OpenSink, BackupError]] = []
        """Whose copy does not tell what it holds of others, and why."""
        self._sinks = sinks
        self._held: set[tuple[str, str]] = set()
        self._newest: dict[str, str] = {}
        for journal, backup_id in backups:
            self._add(journal, backup_id)

    def _add(self, journal: str, backup_id: str) -> None:
        """Add a backup, and those whose records it holds."""
        self._newest[journal] = max(backup_id, self._newest.get(journal, ""))
        self._held.add((journal, backup_id))
        for copy in copies_of(self._sinks, journal, backup_id):
            look = partial(_ancestor, copy.opened, journal)
            try:
                chain = lineage.ancestors(copy.opened, copy.manifest, look)
                found = [*takewhile(lambda i: not self._is_delivered(journal, i), chain)]
            except (ManifestError, UnsupportedFormatError, SinkError) as error:
                self.unread.append((copy.opened, error))
                if isinstance(error, SinkError):
                    copy.opened.give_up(error)
            else:
                self._held.update((journal, i) for i in found)

    def _is_delivered(self, journal: str, backup_id: str) -> bool:
        copies = copies_of(self._sinks, journal, backup_id)
        return bool(copies) and all("delivered" in copy.backup.marks for copy in copies)

    def copies(self) -> list[Chosen]:
        """Find every copy of what is delivered, on sinks that answer, the oldest backups first."""
        return [
            copy
            for journal, i in sorted(self._held)
            for copy in copies_of(self._sinks, journal, i)
            if copy.opened.lost is None
        ]

    def tell_left_out(self, run: Run) -> None:
        """Warn of what is older and not delivered, neither by itself nor with these."""
        for journal, newest in sorted(self._newest.items()):
            older = {
                backup.id
                for sink in self._sinks
                for backup in sink.listing.backups(journal)
                if backup.id < newest and "delivered" not in backup.marks
            }
            if left := sorted(i for i in older if (journal, i) not in self._held):
                run.warn(_left_out(left), journal=journal)


def _ancestor(opened: OpenSink, journal: str, backup_id: str) -> StoredManifest | None:
    with suppress(ManifestError, ObjectMissingError):
        return opened.manifest(journal, backup_id)
    return None


def _left_out(ids: Sequence[str]) -> str:
    *some, last = ids[-_SHOWN:]
    hidden = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    if len(ids) == 1:
        return f"{last} is older, not delivered, and may have records that are in none of these"
    names = f"{', '.join(some)}{',' if hidden else ' and'} {last}{hidden}"
    return f"{names} are older, not delivered, and may have records that are in none of these"
