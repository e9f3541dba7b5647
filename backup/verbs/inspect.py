"""``list`` and ``show``: what is there?

Rules:

- ``list`` costs one listing a sink and reads no manifest unless asked for more.
- A sink that has stopped answering is not asked once more for each of its backups.
- Showing the latest good backup tells where it is not the latest.
- No verb succeeds because there was nothing to look at: a journal that nobody knows is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backup.catalog import Shelf
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    IntegrityError,
    ObjectMissingError,
    SelectorError,
    SinkError,
    UnsupportedFormatError,
)
from backup.manifest import Manifest
from backup.model import Continuity, Emit, Problem, WithExitCodes, id_time
from backup.sinks import Sink
from backup.verbs.selection import (
    Chosen,
    copies_of,
    known_journals,
    open_shelves,
    passed_over,
    select,
)

# -- list


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What a manifest adds to a row of the list."""

    continuity: Continuity
    size_bytes: int
    records: int
    suspect: bool
    alarms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One backup, and the sinks that hold it."""

    journal: str
    id: str
    created_at: datetime
    archive_bytes: int
    """Size of the archives that bear this id; a backup may share older ones besides."""
    marks: tuple[str, ...]
    sinks: tuple[str, ...]
    details: Details | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListResult(WithExitCodes):
    """The backups on all sinks."""

    backups: tuple[Row, ...]
    not_backups: int
    """Objects without a manifest, but for the tombstones of pruned backups: what interruptions
    left, or a run that is under way."""
    problems: tuple[Problem, ...]


def list_backups(
    sinks: Sequence[Sink], *, journal: str | None, long: bool, emit: Emit
) -> ListResult:
    """List the backups of all journals, or of one.

    Raises:
        SelectorError: no sink has a backup of the given journal.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    held: dict[tuple[str, str], list[Chosen]] = defaultdict(list)
    names = known_journals(shelves, journal)
    for shelf in shelves:
        for backup in (b for name in names for b in shelf.listing.backups(name)):
            held[backup.journal, backup.id].append(Chosen(shelf, backup))
    reader = _DetailReader(shelves, emit)
    rows = [_row(c, reader.read(c) if long else None) for _, c in sorted(held.items())]
    return ListResult(
        backups=tuple(rows),
        not_backups=sum(
            len(b.objects)
            for s in shelves
            for b in s.listing.remains()
            if journal in {None, b.journal} and "pruned" not in b.marks
        ),
        problems=(*problems, *reader.problems),
    )


def _row(copies: Sequence[Chosen], details: Details | None) -> Row:
    backup = copies[0].backup
    return Row(
        journal=backup.journal,
        id=backup.id,
        created_at=id_time(backup.id),
        archive_bytes=sum(backup.archives.values()),
        marks=tuple(sorted({mark for c in copies for mark in c.backup.marks})),
        sinks=tuple(c.shelf.url for c in copies),
        details=details,
    )


class _DetailReader:
    """Reads manifests from the first sink that has a good copy of each."""

    def __init__(self, shelves: Sequence[Shelf], emit: Emit) -> None:
        self.problems: list[Problem] = []
        self._emit = emit
        self._answering = {shelf.url for shelf in shelves}

    def read(self, copies: Sequence[Chosen]) -> Details | None:
        """Return what one of the copies says; None if none can be read."""
        for copy in copies:
            if copy.shelf.url not in self._answering:
                continue
            try:
                return _details(copy)
            except SinkError as error:
                if not isinstance(error, ObjectMissingError):  # else removed since it was listed
                    self._answering.discard(copy.shelf.url)
                self._note(error, copy, NEEDS_A_LOOK if self._answering else None)
            except (IntegrityError, UnsupportedFormatError) as error:
                self._note(error, copy, None)
        return None

    def _note(self, error: BackupError, copy: Chosen, exit_code: int | None) -> None:
        problem = Problem.of(
            error, journal=copy.backup.journal, sink=copy.shelf.url, exit_code=exit_code
        )
        self.problems.append(problem)
        self._emit(problem)


def _details(chosen: Chosen) -> Details:
    catalog, backup = chosen.shelf.catalog, chosen.backup
    manifest, _ = catalog.manifest(backup.journal, backup.id)
    return Details(
        continuity=manifest.continuity,
        size_bytes=manifest.size_bytes,
        records=manifest.records,
        suspect=manifest.suspect,
        alarms=catalog.standing_alarms(manifest, chosen.shelf.listing),
    )


# -- show


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowResult(WithExitCodes):
    """One backup in full."""

    sink: str
    also_on: tuple[str, ...]
    manifest: Manifest
    manifest_sha256: str
    marks: tuple[str, ...]
    standing_alarms: tuple[str, ...]
    against: str | None
    """Why it is not a good backup; None if it is one."""
    problems: tuple[Problem, ...]


def show(sinks: Sequence[Sink], selector: str, *, journal: str | None, emit: Emit) -> ShowResult:
    """Show one backup.

    Raises:
        SelectorError: the selector matches none or several.
        IntegrityError: its manifest is damaged.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    found, without = select(shelves, selector, journal=journal)
    if len(found) + len(without) > 1:
        names = ", ".join(
            sorted([c.backup.journal for c in found] + [str(p.journal) for p in without])
        )
        message = f"{len(found) + len(without)} journals have backups: {names}"
        raise SelectorError(message, "name one with --journal")
    if without:
        message = f"{without[0].journal} {without[0].message}"
        raise SelectorError(message, *without[0].hints)
    chosen = found[0]
    if (older := passed_over(chosen)) is not None:
        emit(older)
        problems.append(older)
    catalog, backup, listing = chosen.shelf.catalog, chosen.backup, chosen.shelf.listing
    manifest, digest = catalog.manifest(backup.journal, backup.id)
    flaw = catalog.why_not_good(backup, listing)
    return ShowResult(
        sink=chosen.shelf.url,
        also_on=tuple(
            copy.shelf.url
            for copy in copies_of(shelves, backup.journal, backup.id)
            if copy.shelf is not chosen.shelf
        ),
        manifest=manifest,
        manifest_sha256=digest,
        marks=tuple(sorted(backup.marks)),
        standing_alarms=catalog.standing_alarms(manifest, listing),
        against=flaw.message if flaw else None,
        problems=tuple(problems),
    )
