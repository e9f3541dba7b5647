"""A pass: one reading of a journal, which feeds every sink that still needs it.

Rules:

- Files beside the journal come first, so that what fails there costs no reading of the journal.
- What archives hold already of the journal's beginning is read and compared before anything is
  packed, and is not packed again; where nothing follows it, nothing is put at all.
- A second pass over the same bounds must hash as the first one did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backup.archive import Entry, frame, max_archive_bytes
from backup.catalog import archive_key
from backup.errors import JournalChangedError
from backup.journals import Capture, Member, Reading, read
from backup.manifest import File, Segment
from backup.model import JOURNAL_FILE, Continuity, Digest, encode_name
from backup.run import Run
from backup.streams import prefetch
from backup.transfer.increments import Base, skip

_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z."""


class OtherBeginningError(Exception):
    """The journal does not begin with what archives hold of it."""


@dataclass(slots=True, kw_only=True)
class Pass:
    """One reading: what goes in, and what has come out."""

    id: str
    """Of the backup that it is for."""
    attempt: int
    of: Capture
    base: Base | None
    """What archives hold already: the same bytes on all sinks of this pass."""
    readings: dict[bytes, Reading]
    first: Pass | None = None
    """An earlier one of the same backup."""
    packed: Digest = field(default_factory=Digest)

    @property
    def key(self) -> str:
        """The key of its archive."""
        return archive_key(self.of.journal.name, self.id, self.attempt)

    @property
    def is_main_held(self) -> bool:
        """Whether archives hold the whole journal already."""
        return self.base is not None and self.base.file.size_bytes == self.of.main.size_bytes

    @property
    def entries(self) -> list[tuple[Member, Entry]]:
        """What is to be packed, files beside the journal first."""
        begin = self.base.file.size_bytes if self.base else 0
        beside = [(m, _entry(self.of, m, 0)) for m in self.of.members if not m.is_journal]
        main = self.of.main
        return beside if self.is_main_held else [*beside, (main, _entry(self.of, main, begin))]

    @property
    def max_bytes(self) -> int:
        """A size that its archive will not exceed."""
        return max_archive_bytes(entry.size_bytes for _, entry in self.entries)

    @property
    def main(self) -> Reading:
        """What was read of the journal itself."""
        return self.readings[JOURNAL_FILE]

    @property
    def _is_complete(self) -> bool:
        """Whether it went to the end: it does not once every sink has dropped out."""
        return all(self.readings[m.path].size_bytes == m.size_bytes for m in self.of.members)

    def stream(self, run: Run) -> Iterator[bytes] | None:
        """Begin to read: give the tar of what is to be packed; None where archives hold all.

        Raises:
            OtherBeginningError: the journal does not begin as its last backup.
            JournalError: it cannot be read; so does the stream.
        """
        contents = {m.path: read(self.of, m, self.readings[m.path]) for m in self.of.members}
        if self.base is not None:
            contents[JOURNAL_FILE] = self._after(self.base, contents[JOURNAL_FILE], run)
        if self.is_main_held:
            deque(contents[JOURNAL_FILE], maxlen=0)  # at its end it is looked at once more
        if not self.entries:
            return None
        framed = frame((entry, contents[member.path]) for member, entry in self.entries)
        return framed if self.base else self._counted(framed, run)

    def _after(self, base: Base, chunks: Iterator[bytes], run: Run) -> Iterator[bytes]:
        """Read what archives hold already, and compare; give the rest."""
        held = base.file
        rest = skip(self._counted(prefetch(chunks, stop=run.stop), run), held.size_bytes)
        if self.main.at(held.size_bytes) != held.sha256:
            raise OtherBeginningError
        return rest

    def _counted(self, chunks: Iterator[bytes], run: Run) -> Iterator[bytes]:
        size, total = 0, self.of.size_bytes
        for chunk in chunks:
            size += len(chunk)
            run.progress("backup", self.of.journal.name, min(size, total), total)
            yield chunk

    def require_alike(self) -> None:
        """Insist that two complete readings of the same bounds are the same.

        Raises:
            JournalChangedError: they differ.
        """
        first = self.first
        if first is None or first.of is not self.of:
            return
        if not (self._is_complete and first._is_complete):  # noqa: SLF001 - of the same class
            return
        if any(r.sha256 != first.readings[path].sha256 for path, r in self.readings.items()):
            raise changed(self.of, "was rewritten between two readings of the same bytes")

    def files(self, base: Base | None) -> tuple[File, ...]:
        """Say of each file what was read, and in which archives its bytes are.

        Args:
            base: what the archives of this sink hold.
        """
        return tuple(self._file(m, base if m.is_journal else None) for m in self.of.members)

    def _file(self, member: Member, base: Base | None) -> File:
        offset = base.file.size_bytes if base else 0
        segments = [*(base.file.segments if base else ())]
        if offset < member.size_bytes or not segments:
            name = encode_name(member_name(member.path, offset))
            segments.append(
                Segment(
                    archive=self.key,
                    member=f"{self.of.journal.name}/{name}",
                    offset=offset,
                    length=member.size_bytes - offset,
                )
            )
        reading = self.readings[member.path]
        return File(
            path=encode_name(member.path),
            size_bytes=member.size_bytes,
            sha256=reading.sha256,
            records=reading.records,
            omitted_tail_bytes=member.omitted_tail_bytes,
            mode=member.mode,
            uid=member.uid,
            gid=member.gid,
            mtime=mtime(member),
            segments=tuple(segments),
        )


def changed(captured: Capture, how: str) -> JournalChangedError:
    """Make the error that a journal is not what it was while it was read."""
    message = f"{captured.journal.name} {how}"
    return JournalChangedError(message, "find out what writes there beside billing")


def compare(previous: File | None, now: Digest) -> Continuity:
    """Compare a journal with its last backup: does it extend it?

    Args:
        previous: the file in the last manifest; None if there is no last backup.
        now: the digest of the reading, with a mark at the previous size.
    """
    if previous is None:
        return "first"
    prefix = now.at(previous.size_bytes)
    if prefix is None:
        return "shrunk"
    if prefix != previous.sha256:
        return "rewritten"
    return "unchanged" if now.size_bytes == previous.size_bytes else "extended"


def _entry(captured: Capture, member: Member, offset: int) -> Entry:
    return Entry(
        name=captured.journal.name.encode() + b"/" + member_name(member.path, offset),
        size_bytes=member.size_bytes - offset,
        mode=member.mode & 0o777,
        uid=member.uid,
        gid=member.gid,
        mtime=int(_seconds(member)),
    )


def member_name(path: bytes, offset: int) -> bytes:
    """Name the bytes of a file from an offset on, so that `cat` in the order of names restores."""
    return path + f".{offset:015}".encode() if offset else path


def _seconds(member: Member) -> float:
    """Return the time of the last change, as far as a calendar goes: a file system goes further."""
    return min(max(0.0, member.mtime_ns / 1e9), _LAST_SECOND)


def mtime(member: Member) -> datetime:
    """Return the time of a file's last change, UTC."""
    return datetime.fromtimestamp(_seconds(member), UTC)
