"""What has to be in the source, and what is to be said of the rest that is there.

Rules:

- Expected is what the settings promise, and what any sink has a backup of and nobody retired. A
  volume that is not mounted must never look like success. Each promise ends in its own way, so a
  journal that is missing is reported with those that name it.
- Journals of another StatefulSet are left alone, and named with the setting that would change that.
"""

from __future__ import annotations

from collections.abc import Iterable

from backup.catalog import OpenSink
from backup.errors import JournalError, JournalMissingError
from backup.journals import Discovery
from backup.model import Journal
from backup.run import Run
from backup.settings import BackupSettings


def expected(settings: BackupSettings, sinks: Iterable[OpenSink]) -> set[Journal]:
    """Name the journals that have to be there.

    Args:
        settings: whose they are, and how many they promise, by their ordinals.
        sinks: those that answer.
    """
    statefulset, replicas = settings.statefulset, settings.expect_replicas
    known = {Journal.parse(name) for s in sinks for name in s.listing.expected(statefulset)}
    promised = {Journal(statefulset=statefulset, ordinal=n) for n in range(replicas)}
    return promised | {journal for journal in known if journal is not None}


def absent(
    settings: BackupSettings, journal: Journal, sinks: Iterable[OpenSink]
) -> JournalMissingError:
    """Make the error that an expected journal is not there; its hints name who promises it."""
    statefulset = settings.statefulset
    holders = [s.url for s in sinks if journal.name in s.listing.expected(statefulset)]
    return JournalMissingError(
        f"expected, but {settings.source / journal.name} is not there",
        "is its volume mounted?",
        *journal.promises(replicas=settings.expect_replicas, holders=holders),
    )


def nothing(settings: BackupSettings) -> JournalError:
    """Make the error that there is no journal at all, and none is expected."""
    statefulset = settings.statefulset
    return JournalError(
        f"no journal of {statefulset} in {settings.source}",
        f"is the volume mounted? it should hold directories like journal-{statefulset}-0",
        "set BACKUP_STATEFULSET if the StatefulSet has another name",
    )


def tell_oddities(
    run: Run, settings: BackupSettings, discovery: Discovery, sinks: Iterable[OpenSink]
) -> None:
    """Say what in the source is not as it should be, and what is another StatefulSet's."""
    for name, reason in discovery.odd:
        run.warn(f"{name} {reason}", journal=name)
    for name in discovery.foreign:
        owner = Journal.parse(name)
        label = owner.statefulset if owner else name
        run.warn(
            f"{name} belongs to another StatefulSet and was left alone; "
            f"BACKUP_STATEFULSET={label} would back it up",
            journal=name,
        )
    for sink in sinks:
        strangers = [n for n in sink.listing.journals if not Journal.is_of(settings.statefulset, n)]
        if strangers:
            run.warn(
                "holds journals of another StatefulSet, which this run does not expect: "
                f"{', '.join(strangers)}",
                sink=sink.url,
            )
