"""A part of the comparison: contenders that take turns, and what has no peer, with one result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.bucket import Bucket
from bench.contenders import Contender, compete
from bench.measure import CommandError
from bench.plan import Extent, Plan
from bench.restic import Restic
from bench.results import Results, Series
from bench.sizes import MIB, show_size
from bench.stage import Stage

Single = Callable[[Stage, Results, Extent], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """What can be measured on this machine, from now on."""

    contenders: Sequence[Contender]
    """In the order in which they take turns."""
    singles: Mapping[str, Single]
    """By the names that ``--only`` takes; what begins with ``large`` gets the large journal."""
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    """Versions of what has a hand in it, beside what is always told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the comparison."""

    name: str
    subject: str
    """See :class:`~bench.results.Results`."""
    against: tuple[str, ...]
    names: tuple[str, ...]
    """Everything that ``--only`` can ask for."""
    opened: Callable[[Path, Iterable[Restic]], AbstractContextManager[Lineup]]
    """Starts what is needed, in a directory, and ends it."""

    def wants(self, plan: Plan, name: str) -> bool:
        """Whether something in this part was asked for."""
        return plan.wants(f"{self.name}.{name}")

    def wanted(self, plan: Plan) -> list[str]:
        """Name what was asked for."""
        return [name for name in self.names if self.wants(plan, name)]

    def measure(
        self,
        directory: Path,
        plan: Plan,
        restics: Iterable[Restic],
        *,
        command: str,
        machine: Mapping[str, str],
    ) -> Results:
        """Measure what was asked for.

        Args:
            directory: where to work.
            plan: what was asked for.
            restics: those that compete.
            command: what was typed, for the results.
            machine: what this is measured on, likewise.
        """
        with self.opened(directory, restics) as lineup:
            results = Results(
                name=self.name,
                subject=self.subject,
                against=self.against,
                command=command,
                machine={**machine, **lineup.programs},
            )
            self._fill(results, lineup, directory, plan)
        return results

    def _fill(self, results: Results, lineup: Lineup, directory: Path, plan: Plan) -> None:
        def stage(name: str, size: int) -> Stage:
            return Stage(directory=directory / name, journal_bytes=size, buckets=lineup.buckets)

        usual, large = stage("usual", plan.size), stage("large", plan.big)
        chosen = [c for c in lineup.contenders if self.wants(plan, c.kind)]
        _warm(chosen, stage("warm", 8 * MIB))
        print(f"{self.name}: a journal of {show_size(plan.size)} …")
        usual.set()
        _take_turns(chosen, usual, plan.rounds, results)
        for name, measure in lineup.singles.items():
            if self.wants(plan, name):
                print(f"{name} …", flush=True)
                with _failures(results, f"failures of {name}"):
                    measure(large if name.startswith("large") else usual, results, plan.extent)


@contextmanager
def _failures(results: Results, subject: str) -> Iterator[None]:
    """Go on after a command failed, and keep that it did; what it said is printed."""
    try:
        yield
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        results.findings.setdefault(subject, []).append("a command failed")


def _take_turns(chosen: Sequence[Contender], stage: Stage, rounds: int, results: Results) -> None:
    results.contenders = [
        Series(name=c.name, title=c.title, journal_bytes=stage.journal_bytes) for c in chosen
    ]
    for number in range(rounds):
        for contender, series in zip(chosen, results.contenders, strict=True):
            with _failures(results, f"failures of {contender.title}"):
                series.samples.append(compete(contender, stage))
                took = series.samples[-1].wall_seconds
                print(f"round {number + 1}: {contender.title}: {took:.2f} s", flush=True)


def _warm(chosen: Sequence[Contender], stage: Stage) -> None:
    """Let each contender run once, uncounted: the first run of a program reads and compiles it."""
    stage.set()
    for contender in chosen:
        with suppress(CommandError):  # it will fail again, and be heard
            compete(contender, stage)
