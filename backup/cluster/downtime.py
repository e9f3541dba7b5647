"""The clock of a scale-down: how long billing would be away, may be, and is.

Rules:

- What would take longer than it may is refused beforehand, by the best of the last times. The best,
  as a night that was slow once says nothing about the next; and who promises too much is stopped by
  the clock.
- The budget is for the time from the scale-down on: that is what the run answers for.
- What is reported is the time from billing's last ready pod to its being ready again: that is what
  a site has felt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from backup.cluster.lease import Measured
from backup.errors import DowntimeError

_LONGER = "raise BACKUP_MAX_DOWNTIME, or use colocated workers"


@dataclass(slots=True)
class Downtime:
    """How long billing is away, and may be."""

    budget: timedelta
    scaled_at: float | None = None
    """When this run first asked for billing to be scaled down; None if it has not."""
    away_at: float | None = None
    """When billing was first seen without a ready pod; None if it was not."""

    def require_affordable(
        self, size_bytes: int, measured: Iterable[Measured], *, forget: str
    ) -> None:
        """Insist that the budget suffices, as far as is known.

        Args:
            size_bytes: what the newest backups of all journals hold.
            measured: the last scale-downs.
            forget: the command by which they are forgotten.

        Raises:
            DowntimeError: it does not.
        """
        known = {
            one.seconds * max(1.0, size_bytes / one.size_bytes): one
            for one in measured
            if one.size_bytes
        }
        needed = min(known, default=0.0)
        budget = self.budget.total_seconds()
        if needed > budget:
            message = (
                f"billing would be down for {needed:.0f} s, and may be for {budget:.0f} s: "
                f"{known[needed].size_bytes:,} bytes took {known[needed].seconds:.0f} s, "
                f"and the newest backups hold {size_bytes:,}"
            )
            raise DowntimeError(message, _LONGER, f"to try it all the same: {forget}")

    def begin(self) -> None:
        """Billing is scaled down, now or a moment ago."""
        self.scaled_at = self.scaled_at or time.monotonic()

    def note_away(self) -> None:
        """Billing has no ready pod."""
        self.away_at = self.away_at or time.monotonic()

    def seconds(self) -> float:
        """Seconds since its last ready pod (or, unseen, since the scale-down)."""
        return time.monotonic() - (self.away_at or self.scaled_at or time.monotonic())

    def seconds_spent(self) -> float:
        """Seconds since the scale-down: these are what the budget is for."""
        return time.monotonic() - (self.scaled_at or time.monotonic())

    def require_time(self, what: str) -> None:
        """Insist that billing may still be away.

        Args:
            what: what is not done yet.

        Raises:
            DowntimeError: it may not.
        """
        seconds = self.budget.total_seconds()
        if self.seconds_spent() > seconds:
            message = f"{what} after {seconds:.0f} s: billing comes first"
            raise DowntimeError(message, _LONGER)
