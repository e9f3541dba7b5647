"""What is to be done, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How often things are done."""

    rounds: int
    starts: int
    """Of ``version`` and ``--help``."""
    journals: int
    backups: int
    """Of each journal in the catalog that is listed."""
    small: int
    """How many journals of 1 MiB go over a slow link."""


FULL = Extent(rounds=5, starts=10, journals=10, backups=500, small=500)
QUICK = Extent(rounds=2, starts=3, journals=10, backups=50, small=40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done."""

    size: int
    """Of the journal, in bytes."""
    big: int
    """Of the large one."""
    rounds: int
    extent: Extent
    only: tuple[str, ...]
    """Names of parts, and of what is in them; none means all."""
    judged: bool
    """Whether a requirement that is missed is a failure."""

    def wants(self, name: str) -> bool:
        """Whether something was asked for; ``part.name`` by the name of its part too."""
        part, _, within = name.rpartition(".")
        return not self.only or part in self.only or within in self.only
