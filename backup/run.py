"""A run: who it is, and its account: what failed, what is to be known, and when it is to end.

Rules:

- Whatever a part of the program has to say goes through here: it is emitted at once, and kept for
  the result. So no part collects problems of its own, and the log and the result say the same.
- A warning that was given already is not given again: several workers may meet the same wall.
- A part of a run that is judged for itself has an account of its own (:meth:`Run.aside`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from backup import __version__
from backup.errors import BackupError
from backup.events import Emit, Problem, Progressed, Warned
from backup.model import Clock
from backup.stop import Stop

TOOL = f"deepgram-journal-backup {__version__}"
"""What manifests say of their maker."""


def utc_now() -> datetime:
    """Give the time by the machine's clock."""
    return datetime.now(UTC)


def _drop(_event: object) -> None:
    """Drop an event."""


@dataclass(slots=True, kw_only=True)
class Run:
    """One run of a verb."""

    id: str = ""
    clock: Clock = utc_now
    emit: Emit = _drop
    """Told of all that happens, when it does."""
    stop: Stop = field(default_factory=Stop)
    """Asked wherever the run waits."""
    tool: str = TOOL
    node: str | None = None
    """The node and the pod that it runs on, where they are known."""
    pod: str | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    """By :func:`time.monotonic`."""
    started_at: datetime = field(init=False)

    def __post_init__(self) -> None:
        """Note the time."""
        self.started_at = self.clock()

    @property
    def seconds(self) -> float:
        """How long it has taken until now."""
        return time.monotonic() - self.begun

    def fail(
        self,
        what: Problem | BackupError,
        *,
        journal: str | None = None,
        sink: str | None = None,
        exit_code: int | None = None,
    ) -> Problem:
        """Take in a problem, or an error as one.

        Args:
            what: the problem, or the error.
            journal: which journal the error is about.
            sink: which sink it is about.
            exit_code: what it means for the run, if that is not the error's own.
        """
        if isinstance(what, BackupError):
            what = Problem.of(what, journal=journal, sink=sink, exit_code=exit_code)
        self.problems.append(what)
        self.emit(what)
        return what

    def warn(
        self, what: Warned | str, *, journal: str | None = None, sink: str | None = None
    ) -> None:
        """Take in a warning, unless it was given already."""
        if isinstance(what, str):
            what = Warned(message=what, journal=journal, sink=sink)
        if what not in self.warnings:
            self.warnings.append(what)
            self.emit(what)

    def progress(self, verb: str, subject: str, done_bytes: int, total_bytes: int) -> None:
        """Say how far the work on a subject is."""
        self.emit(
            Progressed(verb=verb, subject=subject, done_bytes=done_bytes, total_bytes=total_bytes)
        )

    def aside(self) -> Run:
        """Give the same run with an account of its own."""
        return replace(self, problems=[], warnings=[])
