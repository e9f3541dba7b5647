"""When to stop: a signal or the deadline of the run.

Rules:

- A signal handler only assigns. (``Event.set()`` inside a handler takes a lock, and a signal
  that arrives while the main thread holds that lock deadlocks the process.)
- Whoever waits, waits in slices and asks :meth:`Stop.check` between them, so every wait in the
  program ends within :data:`SLICE_SECONDS` of being told to.
- Cleaning up happens after the stop, so it gets a short :class:`Stop` of its own.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from backup.errors import DeadlineError, SignalledError

SLICE_SECONDS = 0.2

Monotonic = Callable[[], float]


class Stop:
    """Tells every part of a run whether it should go on."""

    def __init__(
        self, *, seconds: float | None = None, monotonic: Monotonic = time.monotonic
    ) -> None:
        """Start counting.

        Args:
            seconds: the time allowed; None for no deadline.
            monotonic: a clock in seconds that never goes back.
        """
        self._monotonic = monotonic
        self._seconds = seconds
        self._deadline = None if seconds is None else monotonic() + seconds
        self._signum = 0

    def request(self, signum: int, _frame: FrameType | None = None) -> None:
        """Ask for the end; this is the signal handler. The first signal is the one reported."""
        self._signum = self._signum or signum

    @property
    def requested(self) -> bool:
        """Whether :meth:`check` would raise."""
        return bool(self._signum) or self._overdue()

    def _overdue(self) -> bool:
        return self._deadline is not None and self._monotonic() >= self._deadline

    def check(self) -> None:
        """Return if the run may go on.

        Raises:
            SignalledError: a signal has come.
            DeadlineError: the time allowed is over.
        """
        if self._signum:
            name = signal.Signals(self._signum).name
            message = f"stopped by {name}"
            raise SignalledError(message, signum=self._signum)
        if self._overdue():
            message = f"the deadline of {self._seconds:g} s is over"
            raise DeadlineError(
                message, "raise BACKUP_DEADLINE, or find out what was slow in the log"
            )

    def sleep(self, seconds: float) -> None:
        """Sleep for that long, or raise as :meth:`check` does."""
        until = self._monotonic() + seconds
        while (left := until - self._monotonic()) > 0:
            self.check()
            time.sleep(min(left, SLICE_SECONDS))
        self.check()


class Grace(Stop):
    """A stop for clean-up: ``seconds``, cut to ``grace_seconds`` once the run is told to end."""

    def __init__(
        self,
        of: Stop,
        *,
        seconds: float,
        grace_seconds: float,
        monotonic: Monotonic = time.monotonic,
    ) -> None:
        """Start counting.

        Args:
            of: the stop of the run.
            seconds: the time allowed while the run may go on.
            grace_seconds: the time allowed from when it may not.
            monotonic: a clock in seconds that never goes back.
        """
        super().__init__(seconds=seconds, monotonic=monotonic)
        self._of = of
        self._grace_seconds = grace_seconds
        self._is_short = False

    def _overdue(self) -> bool:
        if self._of.requested and not self._is_short:
            self._is_short = True
            self._seconds = self._grace_seconds
            self._deadline = self._monotonic() + self._grace_seconds
        return super()._overdue()


@contextmanager
def on_signals(stop: Stop) -> Iterator[None]:
    """Let SIGTERM and SIGINT ask ``stop`` for the end; afterwards they do what they did before."""
    before = {s: signal.signal(s, stop.request) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
