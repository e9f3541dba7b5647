"""What is read of a journal in one run: fixed once, and anew only where it has to be.

Rules:

- It may be fixed anew, or cut before a hole, only while no sink holds this backup: one id means the
  same bytes everywhere. Once one holds it, a journal that changed is a problem of the others.
- A file beside the journal that changed, or cannot be read, is left behind and the rest read again,
  as often as it takes; likewise only while no sink holds this backup.
- Holes are waited for, all of them together no longer than the plan allows.
"""

from __future__ import annotations

import time
from functools import partial

from backup.errors import JournalChangedError, JournalError, JournalExtraError, JournalHoleError
from backup.events import PassRepeated
from backup.journals import Capture, await_filled, cut_before, leave_behind
from backup.streams import call
from backup.transfer.passes import changed
from backup.transfer.plan import Plan


class Bounds:
    """A journal as it is captured, and captured anew."""

    def __init__(self, plan: Plan, captured: Capture) -> None:
        """Take what was captured at first."""
        self.captured = captured
        self._plan = plan
        self._stop = plan.run.stop
        self._hole_seconds = plan.patience.hole_seconds
        self._may_capture_anew = True

    def mend(self, error: JournalError, *, is_held: bool) -> None:
        """Fix anew what is read, so that it can be read again.

        Args:
            error: what has ended its reading.
            is_held: whether a sink holds this backup already.

        Raises:
            JournalError: that cannot be, or may not be any more.
        """
        if isinstance(error, JournalHoleError):
            self._repeat(error)
            try:
                self._wait_for(error, is_held=is_held)
            except JournalChangedError as change:
                error = change
            else:
                return
        if is_held:
            raise error
        if isinstance(error, JournalExtraError):
            self._repeat(error)
            self.captured = call(partial(leave_behind, self.captured, error), stop=self._stop)
        elif isinstance(error, JournalChangedError) and self._may_capture_anew:
            self._may_capture_anew = False
            self._repeat(error)
            self.captured = self._plan.capture(self.captured.journal)
        else:
            raise error

    def _repeat(self, error: JournalError) -> None:
        name = self.captured.journal.name
        self._plan.run.emit(PassRepeated(journal=name, reason=error.message))

    def _wait_for(self, hole: JournalHoleError, *, is_held: bool) -> None:
        begun = time.monotonic()
        seconds, stop = self._hole_seconds, self._stop
        wait = partial(await_filled, self.captured, hole.offset, seconds=seconds, stop=stop)
        is_filled = call(wait, stop=stop)
        self._hole_seconds -= time.monotonic() - begun
        if is_filled:
            return
        if is_held:
            how = f"has a hole at byte {hole.offset}, where it had none before"
            raise changed(self.captured, how)
        self.captured = call(partial(cut_before, self.captured, hole.offset), stop=stop)
