"""The core: a backup to a directory, beside its peers and a floor."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.contenders import Contender, guide, ours, restic
from bench.part import Lineup, Part
from bench.restic import Restic
from bench.singles import OURS, SINGLES


def _contenders(restics: Iterable[Restic]) -> Iterator[Contender]:
    yield OURS
    yield replace(
        OURS,
        kind="growing",
        name="growing",
        title="journal-backup, growing journal",
        grows=True,
    )
    yield ours("size", "journal-backup, READBACK=size", BACKUP_READBACK="size")
    yield Contender(
        kind="floor",
        name="floor",
        title="the floor",
        command=lambda stage: stage.command(
            sys.executable, "-m", "bench.floor", stage.journal, stage.sink / "archive.gz"
        ),
    )
    for program in restics:
        yield restic("restic", program, "", lambda stage: (str(stage.sink), {}))
    yield guide("guide", "the guide's tar czf, cp", lambda stage: (str(stage.sink), ("cp",), {}))


@contextmanager
def _opened(_directory: Path, restics: Iterable[Restic]) -> Iterator[Lineup]:
    yield Lineup(contenders=[*_contenders(restics)], singles=SINGLES)


CORE = Part(
    name="core",
    subject="Fresh backup of a journal of {}",
    against=("ours", "floor"),
    names=("ours", "growing", "size", "floor", "restic", "guide", *SINGLES),
    opened=_opened,
)
