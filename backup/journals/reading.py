"""Reading what was captured, and no byte else; what is lost meanwhile, or not yet there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice

from backup.errors import JournalChangedError, JournalExtraError, JournalHoleError
from backup.journals.bounds import CHANGED, MAX_NAMED, MAX_TOLD, UNREADABLE, Capture, Member
from backup.journals.volume import opened, read_at, state_of, translated
from backup.model import CHUNK_BYTES, JOURNAL_FILE, Digest, count_lines
from backup.stop import Stop

_NEAR_HOLE_BYTES = 64 << 10
HOLE_POLL_SECONDS = 0.5


class Reading(Digest):
    """The digest of a journal that is being read: its records too."""

    __slots__ = ("records",)

    def __init__(self, marks: Iterable[int] = ()) -> None:
        """See :class:`~backup.model.Digest`."""
        super().__init__(marks)
        self.records = 0

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes, and count the lines that end in them."""
        self.records += count_lines(bytes(chunk))  # no copy of what is bytes already
        super().update(chunk)


def read(captured: Capture, member: Member, reading: Reading) -> Iterator[bytes]:
    """Read a file up to its bound, exactly.

    Args:
        captured: what the member is of.
        member: what to read.
        reading: takes in every byte before it is passed on.

    Yields:
        the bytes, in chunks of at most CHUNK_BYTES.

    Raises:
        JournalChangedError: the file was truncated or replaced since it was captured, or, where
            it should be quiesced, written.
        JournalHoleError: a live journal holds a NUL.
        JournalUnreadableError: the operating system failed.
        JournalExtraError: one of these, of a file beside the journal.
    """
    guarded = member.is_journal and captured.consistency == "live"
    with opened(captured.root, member.path) as fd:
        _require_unchanged(captured, member, os.fstat(fd))
        os.posix_fadvise(fd, 0, member.size_bytes, os.POSIX_FADV_SEQUENTIAL)
        left = member.size_bytes
        chunk = b"\n"
        while left:
            chunk = os.read(fd, min(CHUNK_BYTES, left))
            if not chunk:
                raise _changed(captured, member, f"it ended {left} bytes early")
            if guarded and (nul := chunk.find(0)) >= 0:
                offset = member.size_bytes - left + nul
                message = f"{captured.journal} has a hole: a NUL at byte {offset}"
                raise JournalHoleError(message, offset=offset)
            left -= len(chunk)
            reading.update(chunk)
            yield chunk
        _require_unchanged(captured, member, state_of(captured.root, member.path))
        if guarded and not member.torn_tail_bytes and not chunk.endswith(b"\n"):
            raise _changed(captured, member, "no record ends where its last one ended")


def _require_unchanged(captured: Capture, member: Member, state: os.stat_result) -> None:
    if (state.st_dev, state.st_ino) != (member.device, member.inode):
        raise _changed(captured, member, "another file took its place")
    if state.st_size < member.size_bytes:
        raise _changed(captured, member, f"it shrank to {state.st_size} bytes")
    if captured.consistency == "quiesced" and (
        state.st_size != member.size_bytes or state.st_mtime_ns != member.mtime_ns
    ):
        raise _changed(captured, member, "it was written although billing is stopped")


def _changed(captured: Capture, member: Member, how: str) -> JournalChangedError:
    name = os.fsdecode(os.path.join(captured.journal.name.encode(), member.path))
    return JournalChangedError(
        f"{name!r} changed while it was read: {how}",
        "nothing of this reading was kept; find out what writes there beside billing",
    )


def leave_behind(captured: Capture, lost: JournalExtraError) -> Capture:
    """Go on without a file beside the journal, and without the others that are lost by now.

    All are looked at: who clears a directory of many shall not cost us a reading for each.
    """
    others = [m for m in captured.members if not m.is_journal and m.path != lost.path]
    gone = [lost, *filter(None, (_why_lost(captured, m) for m in others))]
    kinds = {e.path: UNREADABLE if e.is_unreadable else CHANGED for e in gone}
    unread = [e.message for e in gone if e.is_unreadable]
    return replace(
        captured,
        members=tuple(m for m in captured.members if m.path not in kinds),
        passed_over=tuple(sorted([*captured.passed_over, *islice(kinds.items(), MAX_NAMED)])),
        passed_over_counts=captured.passed_over_counts + Counter(kinds.values()),
        unread=(*captured.unread, *unread)[:MAX_TOLD],
    )


def _why_lost(captured: Capture, member: Member) -> JournalExtraError | None:
    try:
        with translated(captured.root, member.path):
            _require_unchanged(captured, member, state_of(captured.root, member.path))
    except JournalExtraError as error:
        return error
    return None


def await_filled(captured: Capture, offset: int, *, seconds: float, stop: Stop) -> bool:
    """Wait until the bytes from ``offset`` on are no NULs any more.

    The file is opened anew each time and its cached pages are dropped: NFS promises fresh content
    only to whoever opens a file after the writer's data has arrived.

    Returns:
        Whether it was filled in time; with ``seconds`` 0 there is no look, and it was not.
    """
    for _ in range(int(seconds / HOLE_POLL_SECONDS)):
        stop.sleep(HOLE_POLL_SECONDS)
        with opened(captured.root, JOURNAL_FILE) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            size = min(_NEAR_HOLE_BYTES, captured.main.size_bytes - offset)
            if 0 not in read_at(fd, offset, size):
                return True
    return False
