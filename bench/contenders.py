"""Who runs against whom, each with a fresh sink and the same journal.

Each contender is run as its users run it: this tool as the command itself, restic with its
defaults (so it compresses, encrypts, and keeps a cache), the guide's script as it stands.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from bench.measure import Command, Sample, run
from bench.restic import Restic
from bench.sizes import MIB
from bench.stage import ROOT, Stage

GROWTH = 2 * MIB
"""How fast the growing journal grows, in bytes a second."""
_RESTIC_ENV = {"RESTIC_PASSWORD": "none of this is secret"}


def _nothing(_stage: Stage) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way of backing up a journal."""

    name: str
    """A word for it, as ``--only`` takes it."""
    title: str
    """What a table calls it."""
    command: Callable[[Stage], Command]
    prepare: Callable[[Stage], None] = _nothing
    """What is done before, and not timed."""
    grows: bool = False
    """Whether the journal is appended to meanwhile."""


def compete(contender: Contender, stage: Stage) -> Sample:
    """Run a contender once on a fresh sink; what it left there stays."""
    stage.clear()
    contender.prepare(stage)
    stage.settle()
    with stage.growing(GROWTH) if contender.grows else nullcontext():
        sample = run(contender.command(stage))
    return replace(sample, written_bytes=stage.written_bytes())


OURS = Contender(name="ours", title="journal-backup", command=lambda stage: stage.ours("backup"))


def contenders(restics: Iterable[Restic]) -> tuple[Contender, ...]:
    """Give all contenders, in the order in which they take turns."""
    return (
        OURS,
        replace(OURS, name="growing", title="journal-backup, growing journal", grows=True),
        Contender(
            name="size",
            title="journal-backup, READBACK=size",
            command=lambda stage: stage.ours("backup", BACKUP_READBACK="size"),
        ),
        Contender(
            name="floor",
            title="the floor",
            command=lambda stage: stage.command(
                sys.executable, "-m", "bench.floor", stage.journal, stage.sink / "archive.gz"
            ),
        ),
        *map(_restic, restics),
        Contender(
            name="guide",
            title="the guide's tar czf, cp",
            command=lambda stage: stage.command(
                ROOT / "bench" / "guide.sh", stage.volume, stage.temporary, stage.sink
            ),
        ),
    )


def _restic(restic: Restic) -> Contender:
    def prepare(stage: Stage) -> None:
        run(stage.command(restic.path, "init", "--repo", stage.sink, **_RESTIC_ENV))

    def command(stage: Stage) -> Command:
        return stage.command(
            restic.path, "backup", "--repo", stage.sink, stage.volume, **_RESTIC_ENV
        )

    return Contender(
        name=f"restic-{restic.version}",
        title=f"restic {restic.version}",
        prepare=prepare,
        command=command,
    )
