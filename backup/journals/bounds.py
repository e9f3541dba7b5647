"""What will be read of a journal, fixed once: its members, and where each one ends."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from backup.errors import JournalChangedError, JournalExtraError, JournalMissingError
from backup.journals.volume import DIRECTORY, FILE, kind_of, listed, opened, read_at, translated
from backup.model import CHUNK_BYTES, JOURNAL_FILE, Clock, Consistency, Journal

_PASSED_OVER = re.compile(rb"lost\+found|\.snapshot|\.nfs.*", re.DOTALL)
_LEFT_ALONE = "left to the file system"
_GONE = "gone before it was read"
CHANGED = "changed while it was read"
UNREADABLE = "unreadable"
_TOO_MANY = "more than can be named"
_NOT_ODD = {_LEFT_ALONE, _GONE, CHANGED, UNREADABLE, _TOO_MANY}
_PATH_BYTES = 4096 - 256
"""Of a path in a journal: what stands before it has to find room in PATH_MAX too."""

MAX_NAMES_BYTES = 6 << 20
"""As much of a manifest, which is 8 MiB at most, may name the files beside a journal."""
_ENTRY_BYTES = 800  # of a manifest, for each file, without its name
MAX_NAMED = 100
"""Of each kind of entries that are not read, this many are named; the others are counted."""
MAX_TOLD = 20
"""For this many files beside a journal it is reported why they could not be read."""
MAX_TOLD_CHARACTERS = 400
"""What is reported of one of them is no longer than this: its path may be ten times as long."""
MAX_RECORD_BYTES = 1 << 20
"""This much behind the last newline may be a record that is half written; they have 1 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file of a journal, and how much of it will be read."""

    path: bytes
    """Relative to the journal's directory."""
    size_bytes: int
    """The bound: exactly this many bytes are read, from the start."""
    omitted_tail_bytes: int
    """Live: what lies behind the bound, because its record is not complete."""
    torn_tail_bytes: int
    """What lies within the bound although its record is not complete: of a quiesced journal, or
    of a live one that is taken whole."""
    device: int
    inode: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int

    @property
    def is_journal(self) -> bool:
        """Whether this file holds the records."""
        return self.path == JOURNAL_FILE


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """What will be read of one journal: fixed once, the same for every pass and every sink."""

    journal: Journal
    root: Path
    consistency: Consistency
    taken_at: datetime
    """When the bounds were fixed, UTC."""
    members: tuple[Member, ...]
    """By path; the file ``journal`` is always among them."""
    passed_over: tuple[tuple[bytes, str], ...]
    """Entries that are not read, and what they are: the first of each kind."""
    passed_over_counts: Counter[str]
    """How many of each kind they are in all."""
    suspicions: tuple[str, ...] = ()
    """What of the journal could not be read as it should be."""
    unread: tuple[str, ...] = ()
    """What of the files beside it could not be read: the first of them."""

    @property
    def suspicion(self) -> str | None:
        """What could not be read as it should be, in one line of bounded length."""
        counts = self.passed_over_counts
        told = counts[UNREADABLE] + min(counts[_TOO_MANY], 1)  # of those too many it is told once
        unread = few(self.unread, count=told)
        return "; ".join([*self.suspicions, *unread]) or None

    @property
    def odd(self) -> tuple[tuple[bytes, str], ...]:
        """Those of them that are neither files nor directories, and that billing never makes."""
        return tuple(p for p in self.passed_over if p[1] not in _NOT_ODD)

    @property
    def odd_count(self) -> int:
        """How many those are in all."""
        return sum(n for kind, n in self.passed_over_counts.items() if kind not in _NOT_ODD)

    @property
    def main(self) -> Member:
        """The file that holds the records."""
        return next(m for m in self.members if m.is_journal)

    @property
    def size_bytes(self) -> int:
        """How much will be read in all."""
        return sum(m.size_bytes for m in self.members)


def few(texts: Iterable[str], *, count: int) -> list[str]:
    """Keep the first of so many texts, none of them long, and say how many more there are."""
    first = [_shortened(text) for text in islice(texts, MAX_TOLD)]
    return [*first, f"and {count - len(first)} more"] if count > len(first) else first


def _shortened(text: str) -> str:
    """Cut a text in the middle: it begins with what it is about, and ends with the cause."""
    half = MAX_TOLD_CHARACTERS // 2
    return text if len(text) <= MAX_TOLD_CHARACTERS else f"{text[:half]}…{text[1 - half :]}"


def capture(
    source: Path, journal: Journal, *, clock: Clock, consistency: Consistency = "live"
) -> Capture:
    """Fix what will be read of a journal.

    Raises:
        JournalMissingError: the directory, or its file ``journal``, is not there.
        JournalUnreadableError: it is there and may not be read.
        JournalChangedError: it was replaced while we looked, twice.
    """
    root = source / journal.name
    try:
        return _Look(root, consistency).capture(journal, clock)
    except JournalChangedError:
        return _Look(root, consistency).capture(journal, clock)


class _Look:
    """A look at a journal's directory, as far as one may look."""

    def __init__(self, root: Path, consistency: Consistency) -> None:
        self._root = root
        self._consistency = consistency
        self._members: list[Member] = []
        self._passed_over: dict[bytes, str] = {}
        self._passed_over_counts = Counter[str]()
        self._suspicions: list[str] = []
        self._unread: list[str] = []
        self._room = MAX_NAMES_BYTES

    def capture(self, journal: Journal, clock: Clock) -> Capture:
        taken_at = clock()
        self._walk()
        if not any(m.is_journal for m in self._members):
            raise self._without_file()
        return Capture(
            journal=journal,
            root=self._root,
            consistency=self._consistency,
            taken_at=taken_at,
            members=tuple(sorted(self._members, key=lambda m: m.path)),
            passed_over=tuple(sorted(self._passed_over.items())),
            passed_over_counts=self._passed_over_counts,
            suspicions=tuple(self._suspicions),
            unread=tuple(self._unread),
        )

    def _walk(self) -> None:
        pending = [b""]
        while pending:
            below = pending.pop()
            with self._sparing_the_journal(below), listed(self._root, below) as entries:
                for entry in entries:
                    path = os.path.join(below, os.fsencode(entry.name))
                    with self._sparing_the_journal(path):
                        kind = _kind(path, entry)
                        if kind == DIRECTORY:
                            pending.append(path)
                        else:
                            self._take(path, kind)

    def _take(self, path: bytes, kind: str) -> None:
        if kind == FILE and not self._has_room(path):
            kind = _TOO_MANY
        if kind == FILE:
            self._fix(path)
        else:
            self._pass_over(path, kind)

    def _pass_over(self, path: bytes, kind: str) -> None:
        self._passed_over_counts[kind] += 1
        if path == JOURNAL_FILE or self._passed_over_counts[kind] <= MAX_NAMED:
            self._passed_over[path] = kind

    def _tell(self, message: str) -> None:
        if len(self._unread) < MAX_TOLD:
            self._unread.append(message)

    def _has_room(self, path: bytes) -> bool:
        if path == JOURNAL_FILE:
            return True
        if self._room < 0:
            return False
        self._room -= _ENTRY_BYTES + 6 * len(path)  # named twice, percent-encoded
        if self._room < 0:
            self._tell("more files than a manifest can name; some are left out")
        return self._room >= 0

    def _fix(self, path: bytes) -> None:
        is_live = self._consistency == "live"
        with opened(self._root, path) as fd:
            state = os.fstat(fd)
            size = state.st_size
            end = _end_of_records(fd, size) if path == JOURNAL_FILE else size
            is_cut = is_live and end > 0 and size - end <= MAX_RECORD_BYTES
            bound = end if is_cut else size
            if is_live and bound > end:
                self._suspicions.append(_without_newline(size, end))
            member = Member(
                path=path,
                size_bytes=bound,
                omitted_tail_bytes=state.st_size - bound,
                torn_tail_bytes=bound - end,
                device=state.st_dev,
                inode=state.st_ino,
                mode=stat.S_IMODE(state.st_mode),
                uid=state.st_uid,
                gid=state.st_gid,
                mtime_ns=state.st_mtime_ns,
            )
            self._members.append(member)

    @contextmanager
    def _sparing_the_journal(self, path: bytes) -> Iterator[None]:
        """Pass over what cannot be read, unless it is the journal itself."""
        try:
            with translated(self._root, path):
                yield
        except JournalExtraError as lost:
            self._pass_over(path, UNREADABLE if lost.is_unreadable else _GONE)
            if lost.is_unreadable:
                self._tell(lost.message)

    def _without_file(self) -> JournalMissingError:
        what = self._passed_over.get(JOURNAL_FILE)
        detail = f"its 'journal' is {what}" if what else "it has no file 'journal'"
        return JournalMissingError(
            f"{self._root} holds no journal: {detail}",
            "check that the volume is mounted where billing mounts it",
        )


def _kind(path: bytes, entry: os.DirEntry[str]) -> str:
    if _PASSED_OVER.fullmatch(os.path.basename(path)):
        return _LEFT_ALONE
    if len(path) > _PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return kind_of(entry.stat(follow_symlinks=False))


def _without_newline(size: int, end: int) -> str:
    if not end:
        return f"not one complete record in {size} bytes: no newline"
    return f"no record ends in its last {size - end} bytes: no newline"


def _end_of_records(fd: int, end: int) -> int:
    """Find the end of the last complete line before ``end``, looking backwards; 0 if none."""
    while end > 0:
        begin = max(0, end - CHUNK_BYTES)
        newline = read_at(fd, begin, end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def cut_before(captured: Capture, offset: int) -> Capture:
    """End the journal's bound at the last complete record before a hole that stays."""
    main = captured.main
    with opened(captured.root, JOURNAL_FILE) as fd:
        end = _end_of_records(fd, offset)
    cut = replace(
        main,
        size_bytes=end,
        omitted_tail_bytes=main.omitted_tail_bytes + main.size_bytes - end,
        torn_tail_bytes=0,
    )
    hole = f"a hole at byte {offset} was not filled; all after byte {end} is left out"
    return replace(
        captured,
        members=tuple(cut if m.is_journal else m for m in captured.members),
        suspicions=(*captured.suspicions, hole),
    )
