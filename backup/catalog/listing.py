"""What one listing of a sink shows, by the names of its objects; no manifest is read for it.

A name that is not one of ours is left alone: it is not counted, and never removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from backup.manifest import MarkKind
from backup.model import Journal, Key, parse_key
from backup.sinks import Object

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

    def expected(self, statefulset: str) -> list[str]:
        """Name the journals of a StatefulSet that have backups and are not retired."""
        names = (name for name in self.journals if Journal.is_of(statefulset, name))
        return [name for name in names if not self.is_retired(name)]

    def has_mark(self, journal: str, backup_id: str, kind: str) -> bool:
        """Whether that id carries a mark of that kind."""
        backup = self.find(journal, backup_id)
        return backup is not None and kind in backup.marks


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
