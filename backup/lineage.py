"""Lineage: which earlier backups' records a backup holds, too.

Rules:

- A backup holds all of its predecessor's journal where it is ``unchanged`` or ``extended``: that
  was proved while it was made. And so on, down its chain. Where it is ``rewritten`` or ``shrunk``,
  what was before it may be nowhere else.
- The chain is followed by hashes: a predecessor that is not the one it was made after ends it, and
  so does one that is gone. Nobody knows what that held.
- Who is not sure says less: a backup that is not named here has to be delivered on its own account.
"""

from __future__ import annotations

from collections.abc import Callable

from backup.catalog import Catalog
from backup.errors import ManifestError, ObjectMissingError

_KEEPING = {"unchanged", "extended"}


def of(
    catalog: Catalog, journal: str, backup_id: str, *, is_enough: Callable[[str], bool]
) -> list[str]:
    """Follow the chain of a backup on one sink, as far as its records are known to be in it.

    Args:
        catalog: of the sink.
        journal: whose backup it is.
        backup_id: its id.
        is_enough: asked with the id of each ancestor; whether to go no further.

    Returns:
        Its id, and those of the ancestors whose records it holds, the newest first.

    Raises:
        ManifestError: the backup's own manifest is damaged.
        UnsupportedFormatError: a newer version wrote one of them.
        SinkError: the sink does not answer.
    """
    manifest, _ = catalog.manifest(journal, backup_id)
    ids = [manifest.id]
    while (link := manifest.previous) and manifest.continuity in _KEEPING:
        if is_enough(link.id):
            break
        try:
            manifest, sha256 = catalog.manifest(journal, link.id)
        except (ManifestError, ObjectMissingError):
            break
        if sha256 != link.manifest_sha256:
            break
        ids.append(manifest.id)
    return ids
