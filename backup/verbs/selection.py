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

from backup.catalog import Backup, Flaw, Shelf
from backup.errors import (
    NEEDS_A_LOOK,
    ManifestError,
    ObjectMissingError,
    SelectorError,
    SinkError,
    UnsupportedFormatError,
)
from backup.model import Emit, Problem
from backup.sinks import Sink

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Chosen:
    """One backup, on one sink."""

    shelf: Shelf
    backup: Backup
    newer: tuple[Flaw, ...] = ()
    """Where it is the latest good one: why newer ones are not good."""


def open_shelves(sinks: Sequence[Sink], *, emit: Emit) -> tuple[list[Shelf], list[Problem]]:
    """List every sink; one that does not answer is a problem, a smaller one if others do.

    Returns:
        What answered, and the problems; they are emitted already.

    Raises:
        SinkError: none of them answers.
    """
    shelves: list[Shelf] = []
    failed: list[tuple[Sink, SinkError]] = []
    for sink in sinks:
        try:
            shelves.append(Shelf.of(sink))
        except SinkError as error:
            failed.append((sink, error))
    if not shelves:
        raise failed[0][1]
    problems = [Problem.of(error, sink=sink.url, exit_code=NEEDS_A_LOOK) for sink, error in failed]
    for problem in problems:
        emit(problem)
    return shelves, problems


def known_journals(shelves: Iterable[Shelf], journal: str | None) -> list[str]:
    """Name the journals that have backups; only this one if it is given.

    Raises:
        SelectorError: the given one has none.
    """
    known = sorted({name for shelf in shelves for name in shelf.listing.journals})
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
    shelves: Sequence[Shelf], selector: str, *, journal: str | None = None
) -> tuple[list[Chosen], list[Problem]]:
    """Find what a selector means.

    Returns:
        One backup for each journal where the selector is ``latest``, else exactly one; and the
        journals that have backups but no good one, or none that can be read.

    Raises:
        SelectorError: it matches no backup, or several.
    """
    names = known_journals(shelves, journal)
    if selector == LATEST:
        return _latest(shelves, names)
    return [_by_id(shelves, selector, names)], []


def _latest(shelves: Sequence[Shelf], names: Sequence[str]) -> tuple[list[Chosen], list[Problem]]:
    if not names:
        raise no_backups()
    chosen: list[Chosen] = []
    problems: list[Problem] = []
    for name in names:
        try:
            chosen.append(_latest_of(shelves, name))
        except (SelectorError, SinkError) as error:
            problems.append(Problem.of(error, journal=name))
    return chosen, problems


def _latest_of(shelves: Sequence[Shelf], journal: str) -> Chosen:
    flaws: list[Flaw] = []
    candidates = {b.id for shelf in shelves for b in shelf.listing.backups(journal)}
    for backup_id in sorted(candidates, reverse=True):
        good, against = _first_good(copies_of(shelves, journal, backup_id))
        if good is not None:
            return replace(good, newer=tuple(flaws))
        flaws += [replace(flaw, message=f"{backup_id}: {flaw.message}") for flaw in against]
    message = "has no good backup"
    raise SelectorError(message, *_hints(flaws))


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


def _by_id(shelves: Sequence[Shelf], selector: str, names: Sequence[str]) -> Chosen:
    matches = sorted(
        {
            (b.journal, b.id)
            for shelf in shelves
            for name in names
            for b in shelf.listing.backups(name)
            if b.id.startswith(selector) or f"{b.journal}-{b.id}" == selector
        }
    )
    if not selector or not matches:
        message = f"no backup matches {selector!r}"
        raise SelectorError(message, "see what is there: journal-backup list")
    if len(matches) > 1:
        message = f"{len(matches)} backups match {selector!r}"
        raise SelectorError(message, *(f"{name} {i}" for name, i in matches[:10]))
    return _best(copies_of(shelves, *matches[0]))


def _best(copies: Sequence[Chosen]) -> Chosen:
    """Take a good copy, else one that can at least be read, else any."""
    with suppress(SinkError):
        good, _ = _first_good(copies)
        if good is not None:
            return good
    return next(filter(_is_readable, copies), copies[0])


def copies_of(shelves: Iterable[Shelf], journal: str, backup_id: str) -> list[Chosen]:
    """Find a backup on every sink that has it."""
    found = ((shelf, shelf.listing.find(journal, backup_id)) for shelf in shelves)
    return [Chosen(shelf, backup) for shelf, backup in found if backup and backup.has_manifest]


def _first_good(copies: Sequence[Chosen]) -> tuple[Chosen | None, list[Flaw]]:
    """Find the first good one of a backup's copies; if there is none, say what is wrong with each.

    Raises:
        SinkError: none is good as far as is known, and one could not be read.
    """
    against: list[Flaw] = []
    unread: SinkError | None = None
    for copy in copies:
        try:
            flaw = copy.shelf.catalog.why_not_good(copy.backup, copy.shelf.listing)
        except ObjectMissingError as error:  # removed since it was listed
            flaw = Flaw(error.message)
        except SinkError as error:
            unread = error
            continue
        if flaw is None:
            return copy, []
        against.append(flaw)
    if unread is not None:
        raise unread
    return None, against


def _is_readable(copy: Chosen) -> bool:
    try:
        manifest, _ = copy.shelf.catalog.manifest(copy.backup.journal, copy.backup.id)
    except (ManifestError, UnsupportedFormatError, SinkError):
        return False
    return not copy.shelf.catalog.absent_archives(manifest, copy.shelf.listing)
