"""``list`` and ``show``: what is there?

Rules:

- ``list`` costs one listing a sink and reads no manifest unless asked for more. What a killed run
  was writing is told where names alone tell it, and no other right is needed: in a directory.
- A sink that has stopped answering is not asked once more for each of its backups.
- Showing the latest good backup tells where it is not the latest.
- No verb succeeds because there was nothing to look at: a journal that nobody knows is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backup.catalog import OpenSink, open_all
from backup.catalog.selection import LATEST, Chosen, copies_of, known_journals, passed_over, select
from backup.errors import (
    NEEDS_A_LOOK,
    IntegrityError,
    ObjectMissingError,
    SelectorError,
    SinkError,
    UnsupportedFormatError,
)
from backup.events import Problem
from backup.manifest import Manifest
from backup.model import Continuity, id_time, size_text
from backup.page import Page
from backup.results import Legend, Result, count
from backup.run import Run
from backup.sinks import Sink

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
class ListResult(Result):
    """The backups on all sinks."""

    backups: tuple[Row, ...]
    not_backups: int
    """Objects without a manifest, but for the tombstones of pruned backups: what interruptions
    left, or a run that is under way."""
    unfinished: int
    """Uploads of theirs that have no key yet; what object stores keep of such ones is not asked."""
    problems: tuple[Problem, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {"backups": len(self.backups)}

    def write(self, page: Page) -> None:
        """Write it, for people."""
        legend = Legend(sink for row in self.backups for sink in row.sinks)
        is_long = any(row.details for row in self.backups)
        rows = []
        for row in self.backups:
            *details, notes = _detail_cells(row.details) if is_long else ("", "", "", "")
            marks = [notes, *row.marks] if notes else list(row.marks)
            cells = [row.journal, row.id, size_text(row.archive_bytes), *details]
            rows.append([*cells, legend.cell(row.sinks), ", ".join(marks)])
        columns = ("JOURNAL", "ID", "ARCHIVE", "SIZE", "RECORDS", "CONTINUITY", "SINKS", "NOTES")
        page.table(columns, rows)
        legend.say(page)
        page.line(count(len(self.backups), "backup"))
        if self.not_backups:
            page.line(f"{count(self.not_backups, 'object')} without a manifest: not backups")
        if self.unfinished:
            uploads = count(self.unfinished, "unfinished upload")
            page.line(f"{uploads}: a run is under way, or was interrupted")


def _detail_cells(details: Details | None) -> tuple[str, str, str, str]:
    if details is None:
        return ("", "", "", "not read")
    notes = ["suspect"] if details.suspect else []
    notes += [f"alarm {alarm}" for alarm in details.alarms]
    size, records = size_text(details.size_bytes), f"{details.records:,}"
    return (size, records, details.continuity, ", ".join(notes))


def list_backups(run: Run, sinks: Sequence[Sink], *, journal: str | None, long: bool) -> ListResult:
    """List the backups of all journals, or of one.

    Raises:
        SelectorError: no sink has a backup of the given journal.
        SinkError: no sink answers.
    """
    opened = open_all(run, sinks)
    held: dict[tuple[str, str], list[Chosen]] = defaultdict(list)
    names = known_journals(opened, journal)
    for sink in opened:
        for backup in (b for name in names for b in sink.listing.backups(name)):
            held[backup.journal, backup.id].append(Chosen(sink, backup))
    rows = [
        _row(copies, _read(run, opened, copies) if long else None)
        for _, copies in sorted(held.items())
    ]
    return ListResult(
        backups=tuple(rows),
        not_backups=sum(
            len(b.objects)
            for sink in opened
            for b in sink.listing.remains()
            if journal in {None, b.journal} and "pruned" not in b.marks
        ),
        unfinished=sum(
            journal in {None, key.partition("/")[0]}
            for sink in opened
            if sink.lost is None
            for key in _unfinished(run, sink)
        ),
        problems=tuple(run.problems),
    )


def _unfinished(run: Run, opened: OpenSink) -> Sequence[str]:
    """Name the keys of unfinished uploads; who cannot say has been listed all the same."""
    try:
        return opened.sink.unfinished()
    except SinkError as error:
        opened.give_up(error)
        run.fail(error, sink=opened.url, exit_code=NEEDS_A_LOOK)
        return ()


def _row(copies: Sequence[Chosen], details: Details | None) -> Row:
    backup = copies[0].backup
    return Row(
        journal=backup.journal,
        id=backup.id,
        created_at=id_time(backup.id),
        archive_bytes=sum(backup.archives.values()),
        marks=tuple(sorted({mark for c in copies for mark in c.backup.marks})),
        sinks=tuple(c.opened.url for c in copies),
        details=details,
    )


def _read(run: Run, opened: Sequence[OpenSink], copies: Sequence[Chosen]) -> Details | None:
    """Return what the first good one of the copies says; None if none can be read."""
    for copy in (c for c in copies if c.opened.lost is None):
        exit_code = None
        try:
            manifest = copy.manifest
        except (IntegrityError, UnsupportedFormatError, SinkError) as error:
            if isinstance(error, SinkError):
                if not isinstance(error, ObjectMissingError):  # else removed since it was listed
                    copy.opened.give_up(error)
                exit_code = NEEDS_A_LOOK if any(sink.lost is None for sink in opened) else None
            run.fail(error, journal=copy.backup.journal, sink=copy.opened.url, exit_code=exit_code)
        else:
            return Details(
                continuity=manifest.continuity,
                size_bytes=manifest.size_bytes,
                records=manifest.records,
                suspect=manifest.suspect,
                alarms=copy.opened.standing_alarms(manifest),
            )
    return None


# -- show


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowResult(Result):
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

    def write(self, page: Page) -> None:
        """Write it, for people."""
        manifest = self.manifest
        after = f", after {manifest.previous.id}" if manifest.previous else ""
        facts = [
            ("journal", manifest.journal),
            ("id", manifest.id),
            ("created", f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC by {manifest.tool}"),
            ("site", manifest.site or ""),
            ("continuity", manifest.continuity + after),
            ("suspect", manifest.suspicion or ""),
            *(("alarm", alarm) for alarm in self.standing_alarms),
            ("marks", ", ".join(self.marks)),
            ("good", "yes" if self.against is None else f"no: {self.against}"),
            *(("stored in", f"{sink}/{manifest.journal}") for sink in (self.sink, *self.also_on)),
            ("manifest", f"{manifest.journal}-{manifest.id}.manifest.json"),
            ("  sha256", self.manifest_sha256),
        ]
        for archive in manifest.archives:
            facts += [
                ("archive", archive.key.rpartition("/")[2]),
                ("  sha256", archive.sha256),
                ("  size", f"{archive.size_bytes:,} bytes, read back: {archive.readback}"),
            ]
        for file in manifest.files:
            tail = file.omitted_tail_bytes
            omitted = f", {tail:,} bytes of an unfinished one left out" if tail else ""
            facts += [
                ("file", file.path),
                ("  sha256", file.sha256),
                ("  size", f"{file.size_bytes:,} bytes, {file.records:,} records{omitted}"),
            ]
        for name, value in facts:
            if value:
                page.say(value, f"{name:<11}", "bold")


def show(run: Run, sinks: Sequence[Sink], selector: str, *, journal: str | None) -> ShowResult:
    """Show one backup.

    Raises:
        SelectorError: the selector matches none or several.
        IntegrityError: its manifest is damaged.
        SinkError: no sink answers.
    """
    opened = open_all(run, sinks)
    names = known_journals(opened, journal)
    if selector == LATEST and len(names) > 1:
        message = f"{len(names)} journals have backups: {', '.join(names)}"
        raise SelectorError(message, "name one with --journal")
    found, without = select(opened, selector, journal=journal)
    for problem in without:
        message = f"{problem.journal} {problem.message}"
        raise SelectorError(message, *problem.hints)
    (chosen,) = found
    if (older := passed_over(chosen)) is not None:
        run.fail(older)
    sink, backup = chosen.opened, chosen.backup
    stored = chosen.stored
    manifest = stored.manifest
    flaw = sink.flaw_of(manifest)
    return ShowResult(
        sink=sink.url,
        also_on=tuple(
            copy.opened.url
            for copy in copies_of(opened, backup.journal, backup.id)
            if copy.opened is not sink
        ),
        manifest=manifest,
        manifest_sha256=stored.sha256,
        marks=tuple(sorted(backup.marks)),
        standing_alarms=sink.standing_alarms(manifest),
        against=flaw.message if flaw else None,
        problems=tuple(run.problems),
    )
