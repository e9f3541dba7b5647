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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from backup.catalog import Catalog, Listing, Shelf, draft_key
from backup.errors import BackupError, SinkError, SinkStalledError, StopError
from backup.model import Continuity, Emit, Problem
from backup.page import Page
from backup.results import Result, count
from backup.sinks import STALL_SECONDS, Sink
from backup.stop import Stop
from backup.streams import spread
from backup.verbs.passes import announcement


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
    sinks: Sequence[Sink],
    run_id: str,
    *,
    emit: Emit,
    stop: Stop,
    stall_seconds: float = STALL_SECONDS,
) -> CommitResult:
    """Commit the drafts of a run, on every sink.

    Args:
        sinks: all of them.
        run_id: the run's.
        emit: told of backups and problems.
        stop: asked while waiting.
        stall_seconds: how long a sink may give no data.

    Raises:
        StopError: a signal or the deadline ended it; what was committed stays.
    """
    work = partial(_on_sink, run_id=run_id, emit=emit, stop=stop, stall_seconds=stall_seconds)
    found = [item for part in spread(work, sinks, limit=len(sinks), stop=stop) for item in part]
    problems = tuple(item for item in found if isinstance(item, Problem))
    for problem in problems:
        emit(problem)
    return CommitResult(
        run_id=run_id,
        committed=tuple(item for item in found if isinstance(item, Committed)),
        problems=problems,
    )


def _on_sink(
    sink: Sink, *, run_id: str, emit: Emit, stop: Stop, stall_seconds: float
) -> list[Committed | Problem]:
    try:
        shelf = Shelf.of(sink)
    except SinkError as error:
        return [Problem.of(error, sink=sink.url)]
    one = partial(
        _one, shelf.catalog, run_id=run_id, emit=emit, stop=stop, stall_seconds=stall_seconds
    )
    results: list[Committed | Problem | None] = []
    hung: SinkStalledError | None = None
    for journal, backup_id in _drafts(shelf.listing):
        if hung is None:
            try:
                results.append(one(journal, backup_id))
            except SinkStalledError as error:
                hung = error
        if hung is not None:
            results.append(Problem.of(hung, journal=journal, sink=sink.url))
    return [result for result in results if result is not None]


def _drafts(listing: Listing) -> Iterator[tuple[str, str]]:
    for backup in listing.remains():
        if backup.has_draft:
            yield backup.journal, backup.id


def _one(
    catalog: Catalog,
    journal: str,
    backup_id: str,
    *,
    run_id: str,
    emit: Emit,
    stop: Stop,
    stall_seconds: float,
) -> Committed | Problem | None:
    """Commit a draft; None for one of another run.

    Raises:
        SinkStalledError: the sink hangs.
    """
    begun = time.monotonic()
    try:
        manifest = catalog.drafted(journal, backup_id)
        if manifest.run_id != run_id:
            return None
        for archive in manifest.own_archives:  # others were read back by whoever made them
            held = catalog.held(archive, stop=stop, stall_seconds=stall_seconds)
            catalog.require_as_sent(held, size_bytes=archive.size_bytes, sha256=archive.sha256)
        catalog.commit(manifest)
    except (StopError, SinkStalledError):
        raise
    except BackupError as error:
        return Problem.of(error, journal=journal, sink=catalog.sink.url)
    with suppress(SinkError):
        catalog.sink.delete(draft_key(journal, backup_id))
    emit(announcement(manifest, catalog.sink.url, seconds=time.monotonic() - begun))
    return Committed(
        journal=journal,
        id=backup_id,
        sink=catalog.sink.url,
        continuity=manifest.continuity,
        size_bytes=manifest.size_bytes,
    )
