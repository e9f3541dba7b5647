"""``acknowledge`` and ``retire``: what an operator knows and the journals cannot say.

Rules:

- A mark is an object of its own beside the manifest, which is never changed. It goes to every
  sink that has what it speaks of.
- An alarm stands until somebody acknowledges the backup that raised it.
- Retiring marks a journal's latest backup: from then on the journal is not expected. A newer
  backup, should the journal return, carries no such mark, and so it is expected again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from backup.errors import SelectorError, SinkError
from backup.manifest import Mark, MarkKind
from backup.model import Clock, Emit, Problem
from backup.sinks import Sink
from backup.verbs.selection import Shelf, open_shelves


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
class LedgerResult:
    """What came of marking."""

    marks: tuple[Marked, ...]
    problems: tuple[Problem, ...]

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(p.exit_code for p in self.problems)


@dataclass(frozen=True, slots=True)
class _Place:
    shelf: Shelf
    journal: str
    id: str


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
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks)
    alarms = [p for shelf in shelves for p in _alarms(shelf)]
    matches = [p for p in alarms if selector and p.id.startswith(selector)]
    if not matches:
        message = f"no alarm matches {selector!r}"
        known = sorted({f"{p.journal} {p.id}" for p in alarms})
        raise SelectorError(message, *(known or ["no alarm was raised: see list --long"]))
    if len({p.id for p in matches}) > 1:
        message = f"several alarms match {selector!r}"
        raise SelectorError(message, *sorted({f"{p.journal} {p.id}" for p in matches}))
    return _mark_all("acknowledged", matches, problems, by=by, note=note, clock=clock, emit=emit)


def _alarms(shelf: Shelf) -> Iterator[_Place]:
    """Find the alarms that the latest manifests of a sink carry, acknowledged or not."""
    for journal in shelf.listing.journals:
        newest, _ = shelf.catalog.newest(journal, shelf.listing)
        if newest is not None:
            for alarm in newest[0].alarms:
                yield _Place(shelf, journal, alarm)


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
    shelves, problems = open_shelves(sinks)
    places = [
        _Place(shelf, journal, backups[-1].id)
        for shelf in shelves
        if (backups := shelf.listing.backups(journal))
    ]
    if not places:
        known = sorted({name for shelf in shelves for name in shelf.listing.journals})
        message = f"there is no backup of {journal!r}"
        raise SelectorError(message, f"journals here: {', '.join(known) or 'none'}")
    return _mark_all("retired", places, problems, by=by, note=note, clock=clock, emit=emit)


def _mark_all(
    kind: MarkKind,
    places: Sequence[_Place],
    problems: list[Problem],
    *,
    by: str | None,
    note: str | None,
    clock: Clock,
    emit: Callable[[Problem], None],
) -> LedgerResult:
    marks: list[Marked] = []
    for place in places:
        mark = Mark(
            kind=kind, journal=place.journal, id=place.id, created_at=clock(), by=by, note=note
        )
        try:
            is_new = place.shelf.catalog.mark(mark)
        except SinkError as error:
            problems.append(Problem.of(error, journal=place.journal, sink=place.shelf.url))
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
    for problem in problems:
        emit(problem)
    return LedgerResult(marks=tuple(marks), problems=tuple(problems))
