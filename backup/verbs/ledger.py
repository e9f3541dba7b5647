"""``mark-delivered``, ``acknowledge``, ``retire``: what an operator knows and journals cannot say.

Rules:

- A mark is an object of its own beside the manifest, which is never changed. It goes to every
  sink that has what it speaks of.
- What was delivered is named by its id, never as ``latest``: a run may have made a later backup
  meanwhile, and its records are not where Deepgram has them.
- With a backup, those are delivered whose records it holds, on every sink
  (:mod:`backup.catalog.delivery`). They are marked from the oldest on, so that an interruption
  leaves a chain that is delivered from its beginning.
- An alarm stands until somebody acknowledges the backup that raised it. Doing so again is fine.
- A sink that cannot be marked is a problem, a smaller one if another took the mark: the alarm still
  stands there, the journal is still expected there, and so the answer has to be given once more.
- Retiring marks a journal's latest backup: from then on the journal is not expected. A newer
  backup, should the journal return, carries no such mark, and so it is expected again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from backup.catalog import OpenSink, open_all
from backup.catalog.delivery import Delivery
from backup.catalog.selection import LATEST, known_journals, select
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    SelectorError,
    SinkError,
    UnsupportedFormatError,
)
from backup.events import Problem, Warned
from backup.manifest import Mark, MarkKind
from backup.page import Page
from backup.results import Result, count, say_warnings
from backup.run import Run
from backup.sinks import Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A mark on one sink."""

    kind: MarkKind
    journal: str
    id: str
    sink: str
    is_new: bool
    """False if the backup had it already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerResult(Result):
    """What came of marking."""

    marks: tuple[Marked, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...] = ()

    def write(self, page: Page) -> None:
        """Write it, for people."""
        order = attrgetter("kind", "journal", "sink")
        for (kind, journal, sink), group in groupby(sorted(self.marks, key=order), key=order):
            *older, mark = group
            already = "" if mark.is_new else "already "
            with_others = f" and {count(len(older), 'backup')} before it" if older else ""
            are = "are" if older else "is"
            page.say(f"{journal} {mark.id}{with_others} {are} {already}{kind} on {sink}")
        say_warnings(page, self.warnings)


class _Place(NamedTuple):
    """A backup on a sink, there or gone."""

    opened: OpenSink
    journal: str
    id: str

    def has(self, kind: MarkKind) -> bool:
        """Whether it has a mark of that kind already."""
        return self.opened.listing.has_mark(self.journal, self.id, kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What is kept of what an operator says, beside what it is about."""

    by: str | None = None
    """Who says so."""
    note: str | None = None
    reference: str | None = None
    """What a delivery is called where it went."""


def mark_delivered(
    run: Run, sinks: Sequence[Sink], selectors: Sequence[str], statement: Statement
) -> LedgerResult:
    """Say that backups are where they were to be sent, and with them what they hold of older ones.

    Args:
        run: told of problems.
        sinks: all of them.
        selectors: ids, or beginnings of them.
        statement: what is kept of it.

    Raises:
        SelectorError: a selector matches none or several, or is ``latest``.
        SinkError: no sink answers.
    """
    if LATEST in selectors:
        message = "what was delivered has an id, and 'latest' may have another one by now"
        raise SelectorError(message, "take the id that the export named, or one of: list")
    opened = open_all(run, sinks)
    named = [choice.backup for text in selectors for choice in select(opened, text)[0]]
    delivery = Delivery(opened, sorted({(backup.journal, backup.id) for backup in named}))
    places = [_Place(c.opened, c.backup.journal, c.backup.id) for c in delivery.copies()]
    if not places:  # every sink that has it has stopped answering
        raise next(sink.lost for sink in opened if sink.lost)
    for sink, error in delivery.unread:
        run.fail(error, sink=sink.url, exit_code=NEEDS_A_LOOK)
    delivery.tell_left_out(run)
    return _mark_all(run, "delivered", places, statement)


def acknowledge(
    run: Run, sinks: Sequence[Sink], selector: str, statement: Statement
) -> LedgerResult:
    """Answer the alarm of a backup, on every sink where it stands.

    Args:
        run: told of problems.
        sinks: all of them.
        selector: the id of the backup that raised the alarm, or a beginning of it.
        statement: what is kept of it.

    Raises:
        SelectorError: no such alarm was raised, or several match.
        SinkError: no sink answers, or the alarm may be in what could not be read.
        ManifestError: likewise, where a manifest is damaged.
        UnsupportedFormatError: likewise, where it is of a newer format.
    """
    unread: list[BackupError] = []
    alarms = [p for opened in open_all(run, sinks) for p in _alarms(run, opened, unread)]
    matches = [p for p in alarms if selector and p.id.startswith(selector)]
    matches = [p for p in matches if not p.has("acknowledged")] or matches
    names = sorted({f"{p.journal} {p.id}" for p in matches})
    if len(names) > 1:
        message = f"several alarms match {selector!r}"
        raise SelectorError(message, *names)
    if not matches and unread:  # there may be one in what could not be read
        raise unread[0]
    if not matches:
        message = f"no alarm matches {selector!r}"
        standing = sorted({f"{p.journal} {p.id}" for p in alarms if not p.has("acknowledged")})
        raise SelectorError(message, *(standing or ["no alarm stands: see list --long"]))
    return _mark_all(run, "acknowledged", matches, statement)


def _alarms(run: Run, opened: OpenSink, unread: list[BackupError]) -> Iterator[_Place]:
    """Find the alarms of a sink: those that the next backups inherit, and those answered before."""
    listing = opened.listing
    for journal in listing.journals:
        answered = {i for i in listing.ids(journal) if listing.has_mark(journal, i, "acknowledged")}
        carried: set[str] = set()
        unknown: list[BackupError] = []
        try:
            newest, damaged = opened.newest(journal)
            unknown += damaged
            if newest is not None:
                carried.update(newest.manifest.alarms)
                alarms, others = opened.alarms_after(newest.manifest)
                carried.update(alarms)
                unknown += others
        except (SinkError, UnsupportedFormatError) as error:
            unknown = [error]
        for why in unknown:
            run.fail(why, journal=journal, sink=opened.url, exit_code=NEEDS_A_LOOK)
        unread += unknown
        yield from (_Place(opened, journal, alarm) for alarm in sorted(carried | answered))


def retire(run: Run, sinks: Sequence[Sink], journal: str, statement: Statement) -> LedgerResult:
    """Say that a journal will not come back, on every sink that knows it.

    Raises:
        SelectorError: no sink knows the journal.
        SinkError: no sink answers.
    """
    opened = open_all(run, sinks)
    known_journals(opened, journal)
    places = [
        _Place(sink, journal, backups[-1].id)
        for sink in opened
        if (backups := sink.listing.backups(journal))
    ]
    return _mark_all(run, "retired", places, statement)


def _mark_all(
    run: Run, kind: MarkKind, places: Sequence[_Place], statement: Statement
) -> LedgerResult:
    marks: list[Marked] = []
    failed: list[tuple[_Place, SinkError]] = []
    for place in places:
        opened, journal, backup_id = place
        mark = Mark(
            kind=kind,
            journal=journal,
            id=backup_id,
            created_at=run.clock(),
            **asdict(statement),
        )
        try:
            is_new = opened.mark(mark) and not place.has(kind)
        except SinkError as error:
            failed.append((place, error))
            continue
        marks.append(
            Marked(kind=kind, journal=journal, id=backup_id, sink=opened.url, is_new=is_new)
        )
    code = NEEDS_A_LOOK if marks else None
    for place, why in failed:
        run.fail(why, journal=place.journal, sink=place.opened.url, exit_code=code)
    return LedgerResult(
        marks=tuple(marks), problems=tuple(run.problems), warnings=tuple(run.warnings)
    )
