"""What a run was told of how to read journals and to store them: the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from backup.journals import Capture, capture
from backup.model import CONSISTENCY, Consistency, Journal, Strategy
from backup.run import Run
from backup.settings import BackupSettings
from backup.sinks import STALL_SECONDS
from backup.streams import call


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The part of a run that one process does; by default all of it."""

    only: tuple[str, ...] | None = None
    """The journals of the volumes that a worker mounts: it knows no others, and so expects none.
    What concerns all of them, it leaves to whoever sent it."""
    strategy: Strategy = "direct"
    draft: bool = False
    """Put archives and note down what is to be committed once they are read back: while billing
    waits, every second counts. See :mod:`backup.verbs.commit`."""

    @property
    def consistency(self) -> Consistency:
        """``quiesced`` where it is certain that billing is stopped."""
        return CONSISTENCY[self.strategy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a run waits for what may pass."""

    stall_seconds: float = STALL_SECONDS
    hole_seconds: float = 30.0
    """For a journal's holes to be filled, in all."""
    recovery_seconds: float = 120.0
    """For a sink to answer again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, its settings, and its part."""

    run: Run
    settings: BackupSettings
    worker: Worker = field(default_factory=Worker)
    patience: Patience = field(default_factory=Patience)

    def capture(self, journal: Journal) -> Capture:
        """Fix what will be read of a journal; see :func:`backup.journals.capture`."""
        source, consistency = self.settings.source, self.worker.consistency
        look = partial(capture, source, journal, clock=self.run.clock, consistency=consistency)
        return call(look, stop=self.run.stop)
