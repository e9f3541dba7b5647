"""Which backup is meant: a selector, and the sink to read it from.

Rules:

- A selector is ``latest``, an id, or a beginning of one that only one backup has; the name of an
  archive without its suffix serves too.
- ``latest`` is the latest *good* one: its manifest is valid, its archives are there at their size,
  it is not suspect, and no alarm stands. A backup that is not good is chosen by its id alone.
- Where that is not the newest one, it is reported: no verb may take the backup before the last for
  all that there is.
- Without a sink being named, the first one that holds a good copy is read. A sink that does not
  answer is skipped and reported.
- A manifest that cannot be read is not a bad one: nobody knows. Another sink may have the copy; if
  none has, ``latest`` fails, because the backup before it is silently older.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from backup.catalog import Backup, Flaw, OpenSink, StoredManifest
from backup.errors import (
    NEEDS_A_LOOK,
    ManifestError,
    ObjectMissingError,
    SelectorError,
    SinkError,
    UnsupportedFormatError,
)
from backup.events import Problem
from backup.manifest import Manifest
from backup.run import Run

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Chosen:
    """One backup, on one sink."""

    opened: OpenSink
    backup: Backup
    newer: tuple[Flaw, ...] = ()
    """Where it is the latest good one: why newer ones are not good."""
    judged: StoredManifest | None = None
    """What was read when it was chosen: what is used is what was judged."""

    @property
    def stored(self) -> StoredManifest:
        """Its manifest as it is stored.

        Raises:
            ManifestError, UnsupportedFormatError, SinkError: it cannot be read.
        """
        return self.judged or self.opened.manifest(self.backup.journal, self.backup.id)

    @property
    def manifest(self) -> Manifest:
        """Likewise, taken apart."""
        return self.stored.manifest


def known_journals(sinks: Iterable[OpenSink], journal: str | None) -> list[str]:
    """Name the journals that have backups; only this one if it is given.

    Raises:
        SelectorError: the given one has none.
    """
    known = sorted({name for sink in sinks for name in sink.listing.journals})
    if journal is None:
        return known
    if journal not in known:
        message = f"there is no backup of {journal!r}"
        raise SelectorError(message, f"journals here: {', '.join(known) or 'none'}")
    return [journal]


def no_backups() -> SelectorError:
    """Make the error that says that there is nothing to choose from."""
    return SelectorError("there is no backup yet", "make one: journal-backup backup")


def select(
    sinks: Sequence[OpenSink], selector: str, *, journal: str | None = None
) -> tuple[list[Chosen], list[Problem]]:
    """Find what a selector means.

    Returns:
        One backup for each journal where the selector is ``latest``, else exactly one; and the
        journals that have backups but no good one, or none that can be read.

    Raises:
        SelectorError: it matches no backup, or several.
    """
    names = known_journals(sinks, journal)
    if selector != LATEST:
        return [_by_id(sinks, selector, names)], []
    if not names:
        raise no_backups()
    chosen: list[Chosen] = []
    problems: list[Problem] = []
    for name in names:
        try:
            chosen.append(_latest_of(sinks, name))
        except (SelectorError, SinkError) as error:
            problems.append(Problem.of(error, journal=name))
    return chosen, problems


def _latest_of(sinks: Sequence[OpenSink], journal: str) -> Chosen:
    flaws: list[Flaw] = []
    candidates = {b.id for sink in sinks for b in sink.listing.backups(journal)}
    for backup_id in sorted(candidates, reverse=True):
        good, against = _first_good(copies_of(sinks, journal, backup_id))
        if good is not None:
            return replace(good, newer=tuple(flaws))
        flaws += [replace(flaw, message=f"{backup_id}: {flaw.message}") for flaw in against]
    message = "has no good backup"
    raise SelectorError(message, *_hints(flaws))


def choose(
    run: Run,
    sinks: Sequence[OpenSink],
    selector: str,
    *,
    journal: str | None,
    damage_code: int = NEEDS_A_LOOK,
) -> list[Chosen]:
    """Find what a selector means, as :func:`select`; what it does not find is the run's problem.

    Args:
        run: told of that, and where the latest good backup is not the latest.
        sinks: where to look.
        selector: what is meant.
        journal: restrict it to this journal.
        damage_code: see :func:`passed_over`.
    """
    chosen, without = select(sinks, selector, journal=journal)
    older = (passed_over(choice, damage_code=damage_code) for choice in chosen)
    for problem in (*without, *filter(None, older)):
        run.fail(problem)
    return chosen


def passed_over(choice: Chosen, *, damage_code: int = NEEDS_A_LOOK) -> Problem | None:
    """Say that the latest good backup is not the latest; None where it is.

    Args:
        choice: what ``latest`` has chosen.
        damage_code: the exit code where one that is newer is damaged; else it needs a look.
    """
    if not choice.newer:
        return None
    is_damage = any(flaw.is_damage for flaw in choice.newer)
    return Problem(
        exit_code=damage_code if is_damage else NEEDS_A_LOOK,
        message=f"{choice.backup.id} is the latest good backup, and not the latest",
        hints=_hints(choice.newer),
        journal=choice.backup.journal,
    )


def _hints(flaws: Sequence[Flaw]) -> tuple[str, ...]:
    reasons = (flaw.message for flaw in flaws[:3])
    return (*reasons, "choose one by its id to use it all the same")


def _by_id(sinks: Sequence[OpenSink], selector: str, names: Sequence[str]) -> Chosen:
    matches = sorted(
        {
            (b.journal, b.id)
            for sink in sinks
            for name in names
            for b in sink.listing.backups(name)
            if b.id.startswith(selector) or f"{b.journal}-{b.id}" == selector
        }
    )
    if not selector or not matches:
        message = f"no backup matches {selector!r}"
        raise SelectorError(message, "see what is there: journal-backup list")
    if len(matches) > 1:
        message = f"{len(matches)} backups match {selector!r}"
        raise SelectorError(message, *(f"{name} {i}" for name, i in matches[:10]))
    return _best(copies_of(sinks, *matches[0]))


def _best(copies: Sequence[Chosen]) -> Chosen:
    """Take a good copy, else one that can at least be read, else any."""
    whole: Chosen | None = None
    for copy in copies:
        with suppress(SinkError):
            found, flaw = judge(copy)
            if flaw is None:
                return found
            if whole is None and found.judged and not copy.opened.absent_archives(found.manifest):
                whole = found
    return whole or copies[0]


def copies_of(sinks: Iterable[OpenSink], journal: str, backup_id: str) -> list[Chosen]:
    """Find a backup on every sink that has it."""
    found = ((sink, sink.listing.find(journal, backup_id)) for sink in sinks)
    return [Chosen(sink, backup) for sink, backup in found if backup and backup.has_manifest]


def _first_good(copies: Sequence[Chosen]) -> tuple[Chosen | None, list[Flaw]]:
    """Find the first good one of a backup's copies; if there is none, say what is wrong with each.

    Raises:
        SinkError: none is good as far as is known, and one could not be read.
    """
    against: list[Flaw] = []
    unread: SinkError | None = None
    for copy in copies:
        try:
            found, flaw = judge(copy)
        except SinkError as error:
            unread = error
            continue
        if flaw is None:
            return found, []
        against.append(flaw)
    if unread is not None:
        raise unread
    return None, against


def judge(copy: Chosen) -> tuple[Chosen, Flaw | None]:
    """Read a copy: give it with what was read, and what speaks against it; no archive is read.

    Raises:
        SinkError: it could not be read.
    """
    try:
        stored = copy.stored
    except ManifestError as error:
        return copy, Flaw(error.message, is_damage=True)
    except (UnsupportedFormatError, ObjectMissingError) as error:  # or removed since
        return copy, Flaw(error.message)
    return replace(copy, judged=stored), copy.opened.flaw_of(stored.manifest)
