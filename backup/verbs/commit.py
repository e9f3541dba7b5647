"""``commit``: read back what was put while billing waited, and make backups of it.

Scaling billing down for a copy is downtime, and reading back is not needed for it. So workers put
archives and leave *drafts*, billing is brought back, and then this verb does what a backup run
does in one go:

- The archive is read back as thoroughly as the settings said when it was put, and must be what the
  draft says; then the draft's very manifest is committed, and the draft removed.
- What is not what was put is discarded, and no backup. The journal itself is unharmed: the next
  run makes another.
- A draft whose manifest is there already is done: a run that was killed in between changes nothing.
- Removing a draft may fail (a sink may allow no deletion): the sweep knows it too.
- A sink that hangs is left behind, and not waited for again by each further draft of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from backup.catalog import Backup, OpenSink, draft_key
from backup.errors import BackupError, SinkError, SinkStalledError, StopError
from backup.events import Problem
from backup.model import Continuity
from backup.page import Page
from backup.results import Result, count
from backup.run import Run
from backup.sinks import STALL_SECONDS, Sink
from backup.streams import spread
from backup.transfer.destination import announce


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A draft that is a backup now."""

    journal: str
    id: str
    sink: str
    continuity: Continuity
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult(Result):
    """What came of the drafts of a run."""

    run_id: str
    committed: tuple[Committed, ...]
    problems: tuple[Problem, ...]

    def write(self, page: Page) -> None:
        """Write it, for people."""
        rows = [(row.journal, row.id, row.sink) for row in self.committed]
        page.table(("JOURNAL", "ID", "SINK"), rows)
        page.say(f"{count(len(self.committed), 'backup')} of run {self.run_id} committed")


def commit(
    run: Run, sinks: Sequence[Sink], *, stall_seconds: float = STALL_SECONDS
) -> CommitResult:
    """Commit the drafts of a run, on every sink.

    Args:
        run: that run; told of backups and problems.
        sinks: all of them.
        stall_seconds: how long a sink may give no data.

    Raises:
        StopError: a signal or the deadline ended it; what was committed stays.
    """
    work = partial(_on_sink, run, stall_seconds=stall_seconds)
    committed = [c for part in spread(work, sinks, limit=len(sinks), stop=run.stop) for c in part]
    return CommitResult(run_id=run.id, committed=tuple(committed), problems=tuple(run.problems))


def _on_sink(run: Run, sink: Sink, *, stall_seconds: float) -> list[Committed]:
    committed: list[Committed] = []
    try:
        opened = OpenSink(sink)
    except SinkError as error:
        run.fail(error, sink=sink.url)
        return committed
    for draft in (backup for backup in opened.listing.remains() if backup.has_draft):
        try:
            if opened.lost is not None:
                raise opened.lost
            committed += _one(run, opened, draft, stall_seconds=stall_seconds)
        except StopError:
            raise
        except BackupError as error:
            if isinstance(error, SinkStalledError):
                opened.give_up(error)
            run.fail(error, journal=draft.journal, sink=opened.url)
    return committed


def _one(run: Run, opened: OpenSink, draft: Backup, *, stall_seconds: float) -> list[Committed]:
    """Commit a draft, unless it is another run's.

    Raises:
        BackupError: it is no backup.
    """
    begun = time.monotonic()
    manifest = opened.drafted(draft.journal, draft.id)
    if manifest.run_id != run.id:
        return []
    for archive in manifest.own_archives:  # others were read back by whoever made them
        held = opened.held(
            archive.key, readback=archive.readback, stop=run.stop, stall_seconds=stall_seconds
        )
        opened.require_as_sent(held, archive)
    opened.commit(manifest)
    with suppress(SinkError):
        opened.sink.delete(draft_key(draft.journal, draft.id))
    announce(run, manifest, opened.url, begun=begun)
    return [
        Committed(
            journal=manifest.journal,
            id=manifest.id,
            sink=opened.url,
            continuity=manifest.continuity,
            size_bytes=manifest.size_bytes,
        )
    ]
