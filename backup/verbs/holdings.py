"""What the sinks hold, for a run that reads no journal itself: the cluster's orchestrator.

Rules:

- A journal of which any sink has a backup is expected, unless it was retired there.
- A sink that does not answer here is told, and fails nothing: workers meet it too, and say for
  each journal what that means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from backup.catalog import Catalog, Listing
from backup.errors import BackupError, SinkError, StopError, UnsupportedFormatError
from backup.manifest import Manifest
from backup.model import Clock, Emit, Event, Journal, RemainsSwept, Warned
from backup.sinks import Sink
from backup.verbs.backup import SWEEP_GRACE

_UNKNOWN = "what it holds is not known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What is known of a StatefulSet's journals."""

    expected: frozenset[str]
    size_bytes: int
    """Of their newest backups, in all; of each the largest that a sink has."""


def read(sinks: Sequence[Sink], statefulset: str, *, emit: Emit) -> Holdings:
    """Learn what there are backups of."""
    sizes: dict[str, int] = {}
    for catalog, listing in _open(sinks, emit=emit):
        names = [name for name in listing.journals if _is_expected(name, statefulset, listing)]
        sizes = {**dict.fromkeys(names, 0), **sizes}
        for newest in _newest(catalog, listing, names, emit=emit):
            sizes[newest.journal] = max(sizes[newest.journal], newest.size_bytes)
    return Holdings(expected=frozenset(sizes), size_bytes=sum(sizes.values()))


def of_run(sinks: Sequence[Sink], run_id: str) -> list[Manifest]:
    """Find the backups of a run, one of each journal; sinks that do not answer have none."""
    found: dict[str, Manifest] = {}
    for catalog, listing in _open(sinks, emit=_nobody):
        for newest in _newest(catalog, listing, listing.journals, emit=_nobody):
            if newest.run_id == run_id:
                found[newest.journal] = newest
    return [*found.values()]


def _is_expected(name: str, statefulset: str, listing: Listing) -> bool:
    journal = Journal.parse(name)
    is_ours = journal is not None and journal.statefulset == statefulset
    return is_ours and not listing.is_retired(name)


def _newest(
    catalog: Catalog, listing: Listing, names: Iterable[str], *, emit: Emit
) -> Iterator[Manifest]:
    """Read the newest manifest of each journal; a sink that fails once is asked for no more."""
    for name in names:
        try:
            newest, _ = catalog.newest(name, listing)
        except UnsupportedFormatError:  # a worker meets it too, and says so
            continue
        except SinkError as error:
            emit(Warned(message=f"{_UNKNOWN}: {error.message}", sink=catalog.sink.url))
            return
        if newest is not None:
            yield newest[0]


def sweep(sinks: Sequence[Sink], *, deadline: timedelta, clock: Clock, emit: Emit) -> None:
    """Remove what interrupted runs have left, once for all workers."""
    before = clock() - max(SWEEP_GRACE, 2 * deadline)
    for catalog, listing in _open(sinks, emit=emit):
        try:
            swept = catalog.sweep(listing, before=before)
        except StopError:
            raise
        except BackupError as error:
            emit(
                Warned(
                    message=f"old remains were not swept: {error.message}", sink=catalog.sink.url
                )
            )
            continue
        if swept:
            emit(RemainsSwept(sink=catalog.sink.url, objects=swept))


def _open(sinks: Sequence[Sink], *, emit: Emit) -> Iterator[tuple[Catalog, Listing]]:
    for sink in sinks:
        catalog = Catalog(sink)
        try:
            listing = catalog.listing()
        except SinkError as error:
            emit(Warned(message=f"{_UNKNOWN}: {error.message}", sink=sink.url))
            continue
        yield catalog, listing


def _nobody(_event: Event) -> None:
    """Tell nobody."""
