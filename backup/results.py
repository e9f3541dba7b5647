"""Results: what every verb gives back, and what their reports have in common.

Rules:

- A result writes itself: its module knows its fields, so a column or a figure is one file's change.
- Its problems say how the run exits. What it counts stands in the last line of the run's log.
- :mod:`backup.report` adds what is the same for all: problems, their hints, the exit code, JSON.
- JSON has the fields of a dataclass, and first what its property ``derived`` gives, if it has one.
- A worker's answer has journals and warnings of a result: ``answers()`` and ``notes()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from backup.answer import JournalAnswer
from backup.events import Problem, Warned
from backup.model import located
from backup.page import Page

STATE_STYLES = {"backed up": "green", "empty": "yellow", "partial": "yellow"}
"""Colours of a journal's state; any other is red."""


class Result(ABC):
    """What a verb gives back: a frozen dataclass with its problems, at least."""

    __slots__ = ()

    problems: tuple[Problem, ...]

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(problem.exit_code for problem in self.problems)

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells, beside the problems."""
        return {}

    @abstractmethod
    def write(self, page: Page) -> None:
        """Write it, for people; problems follow."""

    def answers(self) -> tuple[JournalAnswer, ...]:
        """Say of each journal what a worker says of it."""
        return ()

    def notes(self) -> tuple[Warned, ...]:
        """Give the warnings that a worker passes on."""
        return ()


class JournalResult(ABC):
    """What came of one journal of a run: a dataclass with at least these fields."""

    __slots__ = ()

    size_bytes: int
    records: int

    @property
    @abstractmethod
    def is_stored(self) -> bool:
        """Whether any sink holds it."""


class RunResult(Result):
    """What came of a run that makes backups."""

    __slots__ = ()

    duration_seconds: float
    journals: tuple[JournalResult, ...]
    warnings: tuple[Warned, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        stored = [journal for journal in self.journals if journal.is_stored]
        return {
            "warnings": len(self.warnings),
            "journals": len(self.journals),
            "journals_stored": len(stored),
            "size_bytes": sum(journal.size_bytes for journal in stored),
            "records": sum(journal.records for journal in stored),
        }

    def say(self, page: Page, more: str) -> None:
        """Write the warnings, and how many journals are backed up."""
        say_warnings(page, self.warnings)
        stored = sum(journal.is_stored for journal in self.journals)
        of = count(len(self.journals), "journal")
        page.say(f"{stored} of {of} backed up in {self.duration_seconds:.1f} s{more}")


def say_problem(
    page: Page, message: str, hints: Sequence[str], *, label: str = "error: ", style: str = "red"
) -> None:
    """Write what is wrong, and what can be done about it."""
    page.say(message, label, style)
    for hint in hints:
        page.say(hint, "  hint: ", "cyan")


def say_warnings(page: Page, warnings: Sequence[Warned]) -> None:
    """Write warnings."""
    for warning in warnings:
        say_problem(page, about(warning), (), label="warning: ", style="yellow")


def about(item: Problem | Warned) -> str:
    """Say what it is about, and it."""
    return located(item.message, item.journal, item.sink)


def count(number: int, noun: str) -> str:
    """Write so many of something."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Legend:
    """Numbers for sinks: their URLs are too long for a table. One sink needs no number."""

    def __init__(self, sinks: Iterable[str]) -> None:
        """Number these, each once."""
        self._sinks = sorted(set(sinks))

    def cell(self, sinks: Iterable[str]) -> str:
        """Give their numbers, for a table."""
        if len(self._sinks) <= 1:
            return ""
        return " ".join(str(self._sinks.index(sink) + 1) for sink in sinks)

    def say(self, page: Page) -> None:
        """Write which number is which sink."""
        for number, sink in enumerate(self._sinks, start=1):
            page.line(f"sink {number}: {sink}" if len(self._sinks) > 1 else f"sink: {sink}")
