"""What was measured, and how it is kept: every sample of every series, in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from bench.measure import Sample
from bench.sizes import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Runs of the same thing."""

    name: str
    title: str
    samples: list[Sample] = field(default_factory=list)
    journal_bytes: int = 0
    """The size of the journal that each run went through; 0 where there is none."""

    def median(self, of: Callable[[Sample], float]) -> float:
        """The median of one figure."""
        return median(map(of, self.samples))

    @property
    def wall_seconds(self) -> float:
        """The median time, in seconds."""
        return self.median(lambda s: s.wall_seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The shortest and the longest time, in seconds."""
        times = [s.wall_seconds for s in self.samples]
        return min(times), max(times)

    @property
    def cpu_seconds(self) -> float:
        """The median processor time, in seconds."""
        return self.median(lambda s: s.cpu_seconds)

    @property
    def peak_rss_bytes(self) -> float:
        """The median of the peaks of memory, in bytes."""
        return self.median(lambda s: s.peak_rss_bytes)

    @property
    def written_bytes(self) -> float:
        """The median size of what was left on the sink, in bytes."""
        return self.median(lambda s: s.written_bytes)

    @property
    def mib_per_second(self) -> float:
        """How much journal it went through, by the median time."""
        return self.journal_bytes / MIB / self.wall_seconds


@dataclass(slots=True, kw_only=True)
class Results:
    """All that one part of the comparison found."""

    name: str
    """Of the files."""
    subject: str
    """What the contenders do, but for the journal's size."""
    against: tuple[str, ...]
    """The contenders with which the others are compared."""
    command: str
    machine: dict[str, str]
    contenders: list[Series] = field(default_factory=list)
    singles: list[Series] = field(default_factory=list)
    findings: dict[str, list[str]] = field(default_factory=dict)
    """What was looked for and should not be there, by what was looked for."""

    def get(self, name: str) -> Series | None:
        """Find a series of which there are samples; None if it was not asked for."""
        every = (*self.contenders, *self.singles)
        return next((s for s in every if s.name == name and s.samples), None)

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
