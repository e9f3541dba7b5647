"""``mark-delivered``, ``acknowledge``, ``retire``: what an operator knows and journals cannot say.

Rules:

- A mark is an object of its own beside the manifest, which is never changed. It goes to every
  sink that has what it speaks of.
- What was delivered is named by its id, never as ``latest``: a run may have made a later backup
  meanwhile, and its records are not where Deepgram has them.
- With a backup, those are delivered whose records it holds, on every sink
  (:mod:`backup.verbs.delivery`). They are marked from the oldest on, so that an interruption leaves
  a chain that is delivered from its beginning.
- An alarm stands until somebody acknowledges the backup that raised it. Doing so again is fine.
- A sink that cannot be marked is a problem, a smaller one if another took the mark: the alarm still
  stands there, the journal is still expected there, and so the answer has to be given once more.
- Retiring marks a journal's latest backup: from then on the journal is not expected. A newer
  backup, should the journal return, carries no such mark, and so it is expected again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from backup.catalog import Shelf
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    SelectorError,
    SinkError,
    UnsupportedFormatError,
)
from backup.manifest import Mark, MarkKind
from backup.model import Clock, Emit, Problem, Warned
from backup.page import Page
from backup.results import Result, count, say_warnings
from backup.sinks import Sink
from backup.verbs.delivery import Delivery
from backup.verbs.selection import LATEST, known_journals, open_shelves, select


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
        for (kind, journal, sink), group in groupby(
            sorted(self.marks, key=_mark_order), key=_mark_order
        ):
            *older, mark = group
            already = "" if mark.is_new else "already "
            with_others = f" and {count(len(older), 'backup')} before it" if older else ""
            are = "are" if older else "is"
            page.say(f"{journal} {mark.id}{with_others} {are} {already}{kind} on {sink}")
        say_warnings(page, self.warnings)


def _mark_order(mark: Marked) -> tuple[str, str, str]:
    return mark.kind, mark.journal, mark.sink


@dataclass(frozen=True, slots=True)
class _Place:
    shelf: Shelf
    journal: str
    id: str
    is_marked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What is kept of a statement, beside what it is about."""

    by: str | None
    note: str | None
    clock: Clock
    reference: str | None = None

    def mark(self, kind: MarkKind, place: _Place) -> Mark:
        return Mark(
            kind=kind,
            journal=place.journal,
            id=place.id,
            created_at=self.clock(),
            by=self.by,
            note=self.note,
            reference=self.reference,
        )


def mark_delivered(
    sinks: Sequence[Sink],
    selectors: Sequence[str],
    *,
    by: str | None,
    note: str | None,
    reference: str | None,
    clock: Clock,
    emit: Emit,
) -> LedgerResult:
    """Say that backups are where they were to be sent, and with them what they hold of older ones.

    Args:
        sinks: all of them.
        selectors: ids, or beginnings of them.
        by: who says so.
        note: what they say.
        reference: what the delivery is called where it went.
        clock: the time.
        emit: told of problems.

    Raises:
        SelectorError: a selector matches none or several, or is ``latest``.
        SinkError: no sink answers.
    """
    if LATEST in selectors:
        message = "what was delivered has an id, and 'latest' may have another one by now"
        raise SelectorError(message, "take the id that the export named, or one of: list")
    shelves, problems = open_shelves(sinks, emit=emit)
    named = [choice.backup for text in selectors for choice in select(shelves, text)[0]]
    delivery = Delivery(shelves)
    for journal, backup_id in sorted({(backup.journal, backup.id) for backup in named}):
        delivery.add(journal, backup_id)
    places = [
        _Place(copy.shelf, copy.backup.journal, copy.backup.id, "delivered" in copy.backup.marks)
        for copy in delivery.copies()
    ]
    if not places:  # every sink that has it has stopped answering
        raise next(iter(delivery.silent.values()))
    for shelf, error in delivery.unread:
        problems.append(Problem.of(error, sink=shelf.url, exit_code=NEEDS_A_LOOK))
        emit(problems[-1])
    warnings = tuple(delivery.left_out())
    for warning in warnings:
        emit(warning)
    facts = _Facts(by=by, note=note, reference=reference, clock=clock)
    result = _mark_all("delivered", places, problems, facts, emit=emit)
    return replace(result, warnings=warnings)


def acknowledge(
    sinks: Sequence[Sink],
    selector: str,
    *,
    by: str | None,
    note: str | None,
    clock: Clock,
    emit: Emit,
) -> LedgerResult:
    """Answer the alarm of a backup, on every sink where it stands.

    Args:
        sinks: all of them.
        selector: the id of the backup that raised the alarm, or a beginning of it.
        by: who answers it.
        note: what they found.
        clock: the time.
        emit: told of problems.

    Raises:
        SelectorError: no such alarm was raised, or several match.
        SinkError: no sink answers, or the alarm may be in what could not be read.
        ManifestError: likewise, where a manifest is damaged.
        UnsupportedFormatError: likewise, where it is of a newer format.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    unread: list[BackupError] = []

    def miss(error: BackupError, place: str, journal: str) -> None:
        unread.append(error)
        problems.append(Problem.of(error, journal=journal, sink=place, exit_code=NEEDS_A_LOOK))
        emit(problems[-1])

    alarms = [p for shelf in shelves for p in _alarms(shelf, miss)]
    matches = [p for p in alarms if selector and p.id.startswith(selector)]
    matches = [p for p in matches if not p.is_marked] or matches
    names = sorted({f"{p.journal} {p.id}" for p in matches})
    if len(names) > 1:
        message = f"several alarms match {selector!r}"
        raise SelectorError(message, *names)
    if not matches and unread:  # there may be one in what could not be read
        raise unread[0]
    if not matches:
        message = f"no alarm matches {selector!r}"
        standing = sorted({f"{p.journal} {p.id}" for p in alarms if not p.is_marked})
        raise SelectorError(message, *(standing or ["no alarm stands: see list --long"]))
    facts = _Facts(by=by, note=note, clock=clock)
    return _mark_all("acknowledged", matches, problems, facts, emit=emit)


def _alarms(shelf: Shelf, miss: Callable[[BackupError, str, str], None]) -> Iterator[_Place]:
    """Find the alarms of a sink: those that the next backups inherit, and those answered before."""
    listing = shelf.listing
    for journal in listing.journals:
        answered = {i for i in listing.ids(journal) if listing.has_mark(journal, i, "acknowledged")}
        carried: set[str] = set()
        try:
            newest, damaged = shelf.catalog.newest(journal, listing)
            if newest is not None:
                carried = {*newest[0].alarms}
                alarms, unread = shelf.catalog.alarms_after(newest[0], listing)
                carried.update(alarms)
                damaged += unread
        except (SinkError, UnsupportedFormatError) as error:
            miss(error, shelf.url, journal)
        else:
            for damage in damaged:
                miss(damage, shelf.url, journal)
        for alarm in sorted(carried | answered):
            yield _Place(shelf, journal, alarm, is_marked=alarm in answered)


def retire(
    sinks: Sequence[Sink],
    journal: str,
    *,
    by: str | None,
    note: str | None,
    clock: Clock,
    emit: Emit,
) -> LedgerResult:
    """Say that a journal will not come back, on every sink that knows it.

    Raises:
        SelectorError: no sink knows the journal.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    known_journals(shelves, journal)
    places = [
        _Place(shelf, journal, backups[-1].id, is_marked=shelf.listing.is_retired(journal))
        for shelf in shelves
        if (backups := shelf.listing.backups(journal))
    ]
    facts = _Facts(by=by, note=note, clock=clock)
    return _mark_all("retired", places, problems, facts, emit=emit)


def _mark_all(
    kind: MarkKind,
    places: Sequence[_Place],
    problems: list[Problem],
    facts: _Facts,
    *,
    emit: Emit,
) -> LedgerResult:
    marks: list[Marked] = []
    failed: list[Problem] = []
    for place in places:
        mark = facts.mark(kind, place)
        try:
            is_new = place.shelf.catalog.mark(mark) and not place.is_marked
        except SinkError as error:
            failed.append(Problem.of(error, journal=place.journal, sink=place.shelf.url))
            continue
        marks.append(
            Marked(
                kind=kind,
                journal=place.journal,
                id=place.id,
                sink=place.shelf.url,
                is_new=is_new,
            )
        )
    if marks:
        failed = [replace(problem, exit_code=NEEDS_A_LOOK) for problem in failed]
    for problem in failed:
        emit(problem)
    return LedgerResult(marks=tuple(marks), problems=(*problems, *failed))
