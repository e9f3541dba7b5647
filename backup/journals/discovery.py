"""What is on the volume: journals, and what is none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from backup.errors import ConfigError
from backup.journals.paths import unreadable
from backup.model import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What is on the volume."""

    journals: tuple[Journal, ...]
    """Journals of our StatefulSet, by ordinal."""
    foreign: tuple[str, ...]
    """Names that are journals of another StatefulSet."""
    odd: tuple[tuple[str, str], ...]
    """Names that would be journals of ours, and why they are not."""
    ignored: int
    """Entries that have nothing to do with journals; never opened."""


def discover(source: Path, statefulset: str) -> Discovery:
    """Look one level deep for the journals of a StatefulSet.

    Raises:
        ConfigError: the source is missing or not a directory.
        JournalUnreadableError: the source cannot be listed.
    """
    ours: list[Journal] = []
    foreign: list[str] = []
    odd: list[tuple[str, str]] = []
    ignored = 0
    for entry in _scan_source(source):
        journal = Journal.parse(os.fsencode(entry.name).decode("utf-8", "replace"))
        if journal is None:
            ignored += 1
        elif journal.statefulset != statefulset:
            foreign.append(entry.name)
        elif reason := _why_not(entry):
            odd.append((entry.name, reason))
        else:
            ours.append(journal)
    return Discovery(
        journals=tuple(sorted(ours)),
        foreign=tuple(sorted(foreign)),
        odd=tuple(sorted(odd)),
        ignored=ignored,
    )


def _scan_source(source: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(source) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError) as error:
        wrong = "does not exist" if isinstance(error, FileNotFoundError) else "is not a directory"
        message = f"BACKUP_SOURCE {source} {wrong}"
        hint = "set BACKUP_SOURCE to the directory where the journal volume is mounted"
        raise ConfigError(message, hint) from error
    except OSError as error:
        raise unreadable(str(source), error) from error


def _why_not(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_symlink():
            return "is a symbolic link, and links are not followed"
        return None if entry.is_dir(follow_symlinks=False) else "is not a directory"
    except OSError:
        return None  # whoever captures it will say what is wrong with it
