"""What came of a backup run: of each journal, on each sink, and how it is written.

Rules:

- Every journal that was expected or found is in the result, and for each one every sink.
- One word says what came of a journal: the worst that is true of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backup.answer import JournalAnswer
from backup.events import Problem, Warned
from backup.model import State, size_text
from backup.page import Cell, Page
from backup.results import STATE_STYLES, JournalResult, RunResult
from backup.transfer.destination import Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOutcome(JournalResult):
    """What came of one journal."""

    journal: str
    expected: bool
    found: bool
    size_bytes: int = 0
    records: int = 0
    omitted_tail_bytes: int = 0
    is_empty: bool = False
    """Whether the file ``journal`` gave no byte."""
    suspicion: str | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    """Entries of its directory that were not read, and what they are: the first of each kind."""
    passed_over_count: int = 0
    """How many they are in all."""
    copies: tuple[Copy, ...] = ()
    """One for each sink of the run; none where the journal could not even be captured."""
    problem: Problem | None = None

    @property
    def derived(self) -> dict[str, str]:
        """What JSON says beside the fields."""
        return {"state": self.state}

    @property
    def is_stored(self) -> bool:
        """Whether any sink holds it."""
        return any(copy.is_held for copy in self.copies)

    @property
    def state(self) -> State:
        """One word for it."""
        good = [c for c in self.copies if c.is_held]
        if not self.found:
            return "missing"
        if not good:
            return "unreadable" if self.problem else "failed"
        if self.suspicion:
            return "suspect"
        if len(good) < len(self.copies):
            return "partial"
        is_shrunk = any(c.raised_alarm for c in good)
        return "empty" if self.is_empty and not is_shrunk else "backed up"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupResult(RunResult):
    """What came of a run."""

    run_id: str
    started_at: datetime
    duration_seconds: float
    journals: tuple[JournalOutcome, ...]
    ignored_entries: int
    foreign_journals: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...]

    def write(self, page: Page) -> None:
        """Write it, for people."""
        columns = ("JOURNAL", "STATE", "SIZE", "RECORDS", "ID", "CONTINUITY", "SINKS")
        page.table(columns, [_outcome_cells(o) for o in self.journals])
        entries = self.ignored_entries
        others = f"{entries:,} other {'entry' if entries == 1 else 'entries'} in the source"
        self.say(page, f"; {others} left alone")

    def notes(self) -> tuple[Warned, ...]:
        """Give the warnings that a worker passes on."""
        return self.warnings

    def answers(self) -> tuple[JournalAnswer, ...]:
        """Say of each journal what a worker says of it."""
        return tuple(
            JournalAnswer(
                journal=outcome.journal,
                state=outcome.state,
                size_bytes=outcome.size_bytes,
                records=outcome.records,
                id=next((c.id for c in outcome.copies if c.id), None),
            )
            for outcome in self.journals
        )


_ALARMING = {"rewritten", "shrunk"}


def _outcome_cells(outcome: JournalOutcome) -> list[str | Cell]:
    state = Cell(outcome.state, STATE_STYLES.get(outcome.state, "red"))
    if not outcome.copies:
        return [outcome.journal, state, "", "", "", "", ""]
    good = [c for c in outcome.copies if c.is_held]
    continuity = {c.continuity for c in good if c.continuity}
    return [
        outcome.journal,
        state,
        size_text(outcome.size_bytes),
        f"{outcome.records:,}",
        next((c.id for c in good if c.id), ""),
        Cell(", ".join(sorted(continuity)), "red" if continuity & _ALARMING else ""),
        f"{len(good)} of {len(outcome.copies)}",
    ]
