"""Events: all that a run has to say while it runs.

An event says of itself how a log tells it: its level, its name (``noun_verb``, in the past), and
the sentence that a terminal shows, which may name its fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from backup.errors import BackupError
from backup.model import Continuity


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    level: ClassVar[str] = "info"
    name: ClassVar[str]
    sentence: ClassVar[str]
    """``{located}`` is the message, with what it is about."""


Emit = Callable[[Event], None]
"""Takes an event; all listeners are such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A verb has begun its work."""

    name = "run_started"
    sentence = "{verb} to {sinks}"
    verb: str
    run_id: str
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(Event):
    """A part of the work on a subject is done."""

    name = "bytes_processed"
    sentence = "{subject}: {done_bytes:,} of {total_bytes:,} bytes"
    verb: str
    subject: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRepeated(Event):
    """A journal is read once more, because of this."""

    level = "warning"
    name = "pass_repeated"
    sentence = "{journal} is read once more: {reason}"
    journal: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupCommitted(Event):
    """A manifest was written: from now on this backup exists on that sink."""

    name = "backup_committed"
    sentence = "{journal} stored on {sink} ({continuity})"
    journal: str
    sink: str
    id: str
    continuity: Continuity
    suspect: bool
    size_bytes: int
    archive_bytes: int
    records: int
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """Something failed: a journal, a sink, or one on the other."""

    level = "error"
    name = "problem_found"
    sentence = "error: {located}"
    exit_code: int
    message: str
    hints: tuple[str, ...] = ()
    journal: str | None = None
    sink: str | None = None

    @classmethod
    def of(
        cls,
        error: BackupError,
        *,
        journal: str | None = None,
        sink: str | None = None,
        exit_code: int | None = None,
    ) -> Problem:
        """Say what a declared error means for a journal or a sink."""
        return cls(
            exit_code=error.exit_code if exit_code is None else exit_code,
            message=error.message,
            hints=error.hints,
            journal=journal,
            sink=sink,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """All is safe, but somebody should know this."""

    level = "warning"
    name = "warning_raised"
    sentence = "warning: {located}"
    message: str
    journal: str | None = None
    sink: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Event):
    """Something that a backup needs was looked at, and is as it should be."""

    name = "found_good"
    sentence = "{subject} {message}"
    subject: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """What a run in the cluster does now."""

    name = "step_taken"
    sentence = "{what}"
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemainsSwept(Event):
    """Objects that belong to no backup were removed from a sink."""

    name = "remains_swept"
    sentence = "{objects} old remains swept from {sink}"
    sink: str
    objects: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupsPruned(Event):
    """Backups of a journal were let go on a sink, as the retention says."""

    name = "backups_pruned"
    sentence = "{journal}: {backups} backups pruned from {sink}, {kept} kept"
    journal: str
    sink: str
    backups: int
    kept: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The one canonical line of a run."""

    name = "run_finished"
    sentence = "{verb} ended with exit code {exit_code} after {duration_seconds} s"
    verb: str
    exit_code: int
    duration_seconds: float
    figures: Mapping[str, int] = field(default_factory=dict)
