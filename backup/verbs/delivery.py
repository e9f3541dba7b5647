"""Deliveries: what Deepgram has, once it has some backups of a journal.

Rules:

- With a backup, those are delivered whose records it holds (:mod:`backup.lineage`): on every sink,
  as an id means the same bytes everywhere. Where a copy does not tell what it holds, another may.
- What is older, and delivered neither by itself nor with these, is named: its records may be
  nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backup import lineage
from backup.catalog import Shelf
from backup.errors import BackupError, ManifestError, SinkError, UnsupportedFormatError
from backup.model import Warned
from backup.verbs.selection import Chosen, copies_of

_SHOWN = 3
"""As many ids are named in one sentence; the newest tell the most."""


class Delivery:
    """What is delivered with some backups, on each sink."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self.unread: list[tuple[Shelf, BackupError]] = []
        """Whose copy does not tell what it holds of others, and why."""
        self.silent: dict[str, SinkError] = {}
        """Sinks that have stopped answering, and how."""
        self._shelves = shelves
        self._held: set[tuple[str, str]] = set()
        self._newest: dict[str, str] = {}

    def add(self, journal: str, backup_id: str) -> None:
        """Add a backup, and those whose records it holds."""
        self._newest[journal] = max(backup_id, self._newest.get(journal, ""))
        self._held.add((journal, backup_id))
        for copy in copies_of(self._shelves, journal, backup_id):
            try:
                found = lineage.of(
                    copy.shelf.catalog,
                    journal,
                    backup_id,
                    is_enough=lambda i: self._is_delivered(journal, i),
                )
            except (ManifestError, UnsupportedFormatError) as error:
                self.unread.append((copy.shelf, error))
            except SinkError as error:
                self.unread.append((copy.shelf, error))
                self.silent.setdefault(copy.shelf.url, error)
            else:
                self._held.update((journal, i) for i in found)

    def _is_delivered(self, journal: str, backup_id: str) -> bool:
        copies = copies_of(self._shelves, journal, backup_id)
        return bool(copies) and all("delivered" in copy.backup.marks for copy in copies)

    def copies(self) -> list[Chosen]:
        """Find every copy of what is delivered, on sinks that answer, the oldest backups first."""
        return [
            copy
            for journal, i in sorted(self._held)
            for copy in copies_of(self._shelves, journal, i)
            if copy.shelf.url not in self.silent
        ]

    def left_out(self) -> Iterator[Warned]:
        """Name what is older and not delivered, neither by itself nor with these."""
        for journal, newest in sorted(self._newest.items()):
            older = {
                backup.id
                for shelf in self._shelves
                for backup in shelf.listing.backups(journal)
                if backup.id < newest and "delivered" not in backup.marks
            }
            if left := sorted(i for i in older if (journal, i) not in self._held):
                yield Warned(message=_left_out(left), journal=journal)


def _left_out(ids: Sequence[str]) -> str:
    *some, last = ids[-_SHOWN:]
    hidden = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    if len(ids) == 1:
        return f"{last} is older, not delivered, and may have records that are in none of these"
    names = f"{', '.join(some)}{',' if hidden else ' and'} {last}{hidden}"
    return f"{names} are older, not delivered, and may have records that are in none of these"
