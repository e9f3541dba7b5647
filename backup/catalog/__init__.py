"""The catalog of one sink: the on-sink format v1, and the only code that knows its order.

Layout, below the sink's prefix::

    <journal>/<journal>-<id>.tar.gz              the archive
    <journal>/<journal>-<id>.2.tar.gz            the archive of a second attempt
    <journal>/<journal>-<id>.sha256              for ``sha256sum -c``, in that directory
    <journal>/<journal>-<id>.manifest.json       written last, exclusively, never changed
    <journal>/<journal>-<id>.<kind>[-<time>].json    marks: delivered, acknowledged, verified,
                                                 pruned, retired; unknown kinds are left alone
    <journal>/<journal>-<id>.draft.json          put, not yet read back; not a backup

Invariants, and the order of writing that follows from them:

- A backup exists when, and only when, its manifest does. So: archive, read-back, checksum file,
  manifest; an interruption anywhere leaves "absent" or "valid". After the manifest the archive is
  asked for once more: once it is named nobody sweeps it, and until then somebody might have.
- No manifest is written that its readers would refuse: what cannot be read is no backup.
- Nothing is overwritten. Facts that are learned later are objects of their own: marks.
- Every manifest but the first names the SHA-256 of its predecessor's: the history of a journal is
  a hash chain. Two runs at once may fork it: a tree is fine, a broken link is not. What was
  pruned leaves a ``pruned`` mark, its tombstone, so that pruning and tampering differ: it has the
  hash of the manifest that was there, and that manifest's own link. It is written first.
- An alarm is inherited from every branch: from the newest manifest, and from those that its run
  may not have seen. Where there is no fork, that is the newest alone.
- A draft is a manifest that waits for its archive to be read back. It is no backup; what commits it
  compares the archive first, and a draft older than the grace is what an interruption left.
- Objects without a manifest are not backups. What interruptions have left is swept once it is old:
  :mod:`backup.catalog.remains` says what that means.
"""

from backup.catalog.listing import (
    MARK_KINDS,
    Backup,
    Listing,
    archive_key,
    checksum_key,
    draft_key,
    manifest_key,
    mark_key,
)
from backup.catalog.opened import Flaw, OpenSink, open_all
from backup.catalog.writing import Catalog, Stored, StoredManifest, checksums

__all__ = [
    "MARK_KINDS",
    "Backup",
    "Catalog",
    "Flaw",
    "Listing",
    "OpenSink",
    "Stored",
    "StoredManifest",
    "archive_key",
    "checksum_key",
    "checksums",
    "draft_key",
    "manifest_key",
    "mark_key",
    "open_all",
]
