"""What the sinks hold, beside the backups that are asked for: journals to expect, and remains.

Rules:

- A journal of which any sink has a backup is expected, unless it was retired there.
- A sink that does not answer here is a warning, and fails nothing: the cluster's orchestrator,
  which asks, reads no journal; its workers meet the sink too, and say what that means for each.
- Remains of interrupted runs are swept past their grace. A sink that does not let them be removed
  is a warning: no backup is the worse for it.
- An archive whose manifest is gone is a problem: somebody has spoilt a backup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

from backup.catalog import Backup, OpenSink, checksum_key, manifest_key, remains
from backup.errors import (
    BackupError,
    ForeignSiteError,
    IntegrityError,
    ManifestError,
    SinkError,
    StopError,
    UnsupportedFormatError,
)
from backup.events import RemainsSwept
from backup.manifest import Manifest
from backup.model import Holdings
from backup.run import Run
from backup.sinks import Sink

SWEEP_GRACE = timedelta(hours=24)
"""How old the remains of an interrupted run are, at least, before they are swept."""


def read(run: Run, sinks: Sequence[Sink], statefulset: str) -> Holdings:
    """Learn what there are backups of."""
    sizes: dict[str, int] = {}
    for opened in _open(run, sinks):
        names = opened.listing.expected(statefulset)
        sizes = {**dict.fromkeys(names, 0), **sizes}
        for newest in _newest(run, opened, names):
            sizes[newest.journal] = max(sizes[newest.journal], newest.size_bytes)
    return Holdings(journals=frozenset(sizes), size_bytes=sum(sizes.values()))


def of_run(sinks: Sequence[Sink], run_id: str) -> list[Manifest]:
    """Find the backups of a run, one of each journal; sinks that do not answer have none."""
    unheard = Run()
    found: dict[str, Manifest] = {}
    for opened in _open(unheard, sinks):
        for newest in _newest(unheard, opened, opened.listing.journals):
            if newest.run_id == run_id:
                found[newest.journal] = newest
    return [*found.values()]


def require_own_site(opened: OpenSink, site: str | None) -> None:
    """Insist that a prefix keeps its site, as the newest manifest there has it.

    A prefix without a site may get one: the first run with BACKUP_SITE names it. A prefix that has
    a site keeps it: a run with another BACKUP_SITE, or with none, is refused, as it may be another
    site's that would go on with these histories.

    Raises:
        ForeignSiteError: it has another one, or this run has none.
        UnsupportedFormatError: a newer major version of this package wrote that manifest.
        SinkError: the sink does not answer.
    """
    for backup in sorted(opened.listing.every(), key=lambda b: b.id, reverse=True):
        try:
            manifest = opened.manifest(backup.journal, backup.id).manifest
        except ManifestError:
            continue
        if manifest.site is not None and manifest.site != site:
            raise _foreign(opened.url, manifest.site, site)
        return


def _foreign(url: str, theirs: str, ours: str | None) -> ForeignSiteError:
    place, mark, options = url.partition("?")
    own = f"prefix of its own in BACKUP_SINKS: {place}/{ours or '<site>'}{mark}{options}"
    holds = f"{url} holds backups of site {theirs!r}"
    if ours:
        return ForeignSiteError(
            f"{holds}, this is site {ours!r}",
            f"give each site a {own}",
            "or set BACKUP_SITE to what it was",
        )
    return ForeignSiteError(
        f"{holds}, and BACKUP_SITE is not set: a prefix without a site may get one, and a prefix "
        "that has one keeps it",
        f"if they are backups of this site, set BACKUP_SITE={theirs}",
        f"if not, give this site a {own}",
    )


def _newest(run: Run, opened: OpenSink, names: Iterable[str]) -> Iterator[Manifest]:
    """Read the newest manifest of each journal; a sink that fails once is asked for no more."""
    for name in names:
        try:
            newest, _ = opened.newest(name)
        except UnsupportedFormatError:  # a worker meets it too, and says so
            continue
        except SinkError as error:
            _tell_unknown(run, opened.url, error)
            return
        if newest is not None:
            yield newest.manifest


def sweep_sinks(run: Run, sinks: Sequence[Sink], *, deadline: timedelta) -> None:
    """Remove what interrupted runs have left, once for all workers: as :func:`sweep`."""
    sweep(run, _open(run, sinks), deadline=deadline)


def sweep(run: Run, sinks: Iterable[OpenSink], *, deadline: timedelta) -> None:
    """Remove what interrupted runs have left.

    A sink that does not let it be removed is a warning, a backup that has lost its manifest a
    problem.

    Args:
        run: told of these, and of what was removed.
        sinks: where.
        deadline: that of a run: twice of it is the grace, if that is more than a day.

    Raises:
        StopError: a signal or the deadline came first.
    """
    grace = max(SWEEP_GRACE, 2 * deadline)
    for opened in [*sinks]:
        try:
            swept = remains.sweep(opened, now=run.clock(), grace=grace)
        except StopError:
            raise
        except BackupError as error:
            _tell_unswept(run, opened.url, error)
            continue
        if swept.objects:
            run.emit(RemainsSwept(sink=opened.url, objects=swept.objects))
        if swept.refusals:
            _tell_unswept(run, opened.url, swept.refusals[0], count=len(swept.refusals))
        for backup in swept.bereft:
            run.fail(_bereft(backup), journal=backup.journal, sink=opened.url)


def _tell_unswept(run: Run, url: str, error: BackupError, *, count: int = 1) -> None:
    said = "; ".join((error.message, *error.hints))
    more = f"; and {count - 1} more like this" if count > 1 else ""
    run.warn(f"old remains were not swept: {said}{more}", sink=url)


def _bereft(backup: Backup) -> IntegrityError:
    manifest, sums = (key(backup.journal, backup.id) for key in (manifest_key, checksum_key))
    archives = ", ".join(sorted(backup.archives)) or f"what {sums} names"
    return IntegrityError(
        f"the manifest of {backup.id} is gone, its archive is there",
        f"a later backup names it: put {manifest} back, from a snapshot",
        f"or keep {archives} elsewhere: it unpacks without us",
    )


def _open(run: Run, sinks: Sequence[Sink]) -> Iterator[OpenSink]:
    for sink in sinks:
        try:
            opened = OpenSink(sink)
        except SinkError as error:
            _tell_unknown(run, sink.url, error)
            continue
        yield opened


def _tell_unknown(run: Run, url: str, error: SinkError) -> None:
    run.warn(f"what it holds is not known: {error.message}", sink=url)
