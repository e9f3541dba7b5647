"""Lineage: which earlier backups' records a backup holds, too.

Rules:

- A backup holds all of its predecessor's journal where it is ``unchanged`` or ``extended``: that
  was proved while it was made. And so on, down its chain. Where it is ``rewritten`` or ``shrunk``,
  what was before it may be nowhere else.
- The chain is followed by hashes: a predecessor that is not the one it was made after ends it, and
  so does one that is gone, unless it was pruned: its tombstone has its hash, and tells what it was
  made after.
- Who is not sure says less: a backup that is not named here has to be delivered on its own account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from backup.catalog import OpenSink, StoredManifest
from backup.errors import ManifestError, ObjectMissingError
from backup.manifest import Manifest, Mark

Look = Callable[[str], StoredManifest | None]
"""Gives the manifest of an id; None if there is none."""

_KEEPING = {"unchanged", "extended"}


def ancestors(opened: OpenSink, first: Manifest, look: Look) -> Iterator[str]:
    """Follow the chain of a backup on one sink, as far as its records are known to be in it.

    Args:
        opened: the sink.
        first: the backup's manifest.
        look: finds those of its ancestors.

    Yields:
        the ids of those ancestors that are there, the newest first.

    Raises:
        SinkError: the sink does not answer.
    """
    link, continuity = first.previous, first.continuity
    while link is not None and continuity in _KEEPING:
        found = look(link.id)
        if found is not None:
            before: Manifest | Mark | None = found.manifest
            sha256 = found.sha256
        else:
            before = _tombstone(opened, first.journal, link.id)
            sha256 = before.manifest_sha256 or "" if before else ""
        if before is None or sha256 != link.manifest_sha256:
            return
        if found is not None:
            yield link.id
        link, continuity = before.previous, before.continuity or "first"


def _tombstone(opened: OpenSink, journal: str, backup_id: str) -> Mark | None:
    with suppress(ManifestError, ObjectMissingError):
        return opened.marked("pruned", journal, backup_id)
    return None
