"""Who runs against whom, each with fresh sinks and the same journal.

Each contender is run as its users run it: this tool as the command itself, restic with its
defaults (so it compresses, encrypts, and keeps a cache), the guide's script as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from bench.measure import Command, Sample, run
from bench.restic import Restic
from bench.sizes import MIB
from bench.stage import FILE, ROOT, Sinks, Stage

GROWTH = 2 * MIB
"""How fast the growing journal grows, in bytes a second."""
Repository = tuple[str, Mapping[str, str]]
GuideSink = tuple[str, Sequence[str], Mapping[str, str]]
_RESTIC_ENV = {"RESTIC_PASSWORD": "none of this is secret"}


def _nothing(_stage: Stage) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of backing up a journal."""

    kind: str
    """A word for it, as ``--only`` takes it."""
    name: str
    """The same, but each restic has its own."""
    title: str
    """What a table calls it."""
    command: Callable[[Stage], Command]
    prepare: Callable[[Stage], None] = _nothing
    """What is done before, and not timed."""
    grows: bool = False
    """Whether the journal is appended to meanwhile."""


def compete(contender: Contender, stage: Stage) -> Sample:
    """Run a contender once on fresh sinks; what it left there stays."""
    stage.clear()
    contender.prepare(stage)
    stage.settle()
    with stage.growing(GROWTH) if contender.grows else nullcontext():
        sample = run(contender.command(stage))
    return replace(sample, written_bytes=stage.written_bytes())


def ours(kind: str, title: str, *, sinks: Sinks = FILE, **env: str) -> Contender:
    """Let this tool compete, with these sinks and settings."""
    return Contender(
        kind=kind,
        name=kind,
        title=title,
        command=lambda stage: stage.ours("backup", sinks=sinks, **env),
    )


def restic(kind: str, program: Restic, to: str, at: Callable[[Stage], Repository]) -> Contender:
    """Let a restic compete.

    Args:
        kind: its word.
        program: which restic.
        to: what its title says about where to.
        at: gives the repository's name, and what restic has to know of it.
    """

    def command(stage: Stage, *argv: str | Path) -> Command:
        repository, env = at(stage)
        return stage.command(program.path, *argv, "--repo", repository, **_RESTIC_ENV, **env)

    def prepare(stage: Stage) -> None:
        run(command(stage, "init"))

    return Contender(
        kind=kind,
        name=kind.replace("restic", f"restic-{program.version}"),
        title=f"restic {program.version}{to}",
        prepare=prepare,
        command=lambda stage: command(stage, "backup", stage.volume),
    )


def guide(kind: str, title: str, to: Callable[[Stage], GuideSink]) -> Contender:
    """Let the guide's script compete.

    Args:
        kind: its word.
        title: its title.
        to: gives where to, by which command, and what that has to know.
    """

    def command(stage: Stage) -> Command:
        sink, copy, env = to(stage)
        script = ROOT / "bench" / "guide.sh"
        return stage.command(script, stage.volume, stage.temporary, sink, *copy, **env)

    return Contender(kind=kind, name=kind, title=title, command=command)
