"""Journals on their volume: find them, fix what will be read of them, read it.

Rules:

- The volume is only ever read: nothing is opened for writing, no owner, mode or time is changed.
- Only directories named ``journal-<statefulset>-<ordinal>`` are entered. Everything else on the
  volume (model weights!) is counted and never opened. Links are never followed; devices, sockets
  and FIFOs are never opened; ``lost+found``, ``.snapshot`` and ``.nfs*`` are passed over.
- A path is gone step by step: each directory is opened in the one above it, and must be one; so
  must a file be a file, without waiting for a FIFO's writer. A name that was good when it was
  listed may be a link, or a FIFO, by the time it is opened. Only ``BACKUP_SOURCE`` may be a link.
- What will be read is fixed once, by :func:`capture`, for all passes and all sinks. Of a live
  journal it ends at its last complete record, because a record may be half written; billing goes
  on appending behind that bound and is not disturbed. Of a quiesced one every byte is taken.
- A short read, another inode, or a file that is now smaller than the bound means that it was
  replaced under us: :class:`~backup.errors.JournalChangedError`, and nothing is kept of the pass.
- Files beside the file ``journal`` are taken along, but they never cost the journal its backup:
  one that vanishes or changes is passed over, one that cannot be read makes the backup suspect;
  also if that shows only while it is read (:func:`leave_behind`). Nor do they
  cost it room: as many are taken as a manifest can name, and the first others are reported.
- A NUL inside the bound of a live journal is not data. JSON has none; it is a block that NFS shows
  before its content has arrived: :class:`~backup.errors.JournalHoleError`. It is waited for
  (:func:`await_filled`), and if it stays, the bound ends before it (:func:`cut_before`) and the
  backup is marked suspect. Nothing is ever padded or guessed.
- A live journal without a single newline has no complete record; it is taken whole, as evidence,
  and marked suspect. So is one with more behind its last newline than a record that is half
  written can be: what does not part records as we believe must not be left out night after night.
- Where a live journal's last record ended, one must end when it is read. A file that was truncated
  and has grown beyond the bound since shows that in nothing else: it has changed.
"""

from __future__ import annotations

from backup.journals.bounds import Capture, Member, capture, cut_before, few
from backup.journals.reading import Reading, await_filled, leave_behind, read
from backup.journals.volume import Discovery, discover

__all__ = [
    "Capture",
    "Discovery",
    "Member",
    "Reading",
    "await_filled",
    "capture",
    "cut_before",
    "discover",
    "few",
    "leave_behind",
    "read",
]
