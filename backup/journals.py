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

from backup.errors import (
    ConfigError,
    JournalChangedError,
    JournalError,
    JournalExtraError,
    JournalHoleError,
    JournalMissingError,
    JournalUnreadableError,
)
from backup.model import CHUNK_BYTES, JOURNAL_FILE, Clock, Consistency, Digest, Journal, count_lines
from backup.stop import Stop

_PASSED_OVER = re.compile(rb"lost\+found|\.snapshot|\.nfs.*", re.DOTALL)
_FILE, _DIRECTORY = "a file", "a directory"
_LEFT_ALONE = "left to the file system"
_GONE = "gone before it was read"
_CHANGED = "changed while it was read"
_UNREADABLE = "unreadable"
_TOO_MANY = "more than can be named"
_NOT_ODD = {_LEFT_ALONE, _GONE, _CHANGED, _UNREADABLE, _TOO_MANY}
_KINDS = {
    stat.S_IFREG: _FILE,
    stat.S_IFDIR: _DIRECTORY,
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_NEAR_HOLE_BYTES = 64 << 10

_PATH_BYTES = 4096 - 256
"""Of a path in a journal: what stands before it has to find room in PATH_MAX too."""
_TO_ENTER = os.O_RDONLY | os.O_DIRECTORY
_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_REPLACED = {errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.ENXIO}
"""Something else has the name now: another inode (NFS), a link, no directory, a socket."""

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
HOLE_POLL_SECONDS = 0.5


# -- find


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
    hint = "set BACKUP_SOURCE to the directory where the journal volume is mounted"
    try:
        with os.scandir(source) as entries:
            return list(entries)
    except FileNotFoundError as error:
        message = f"BACKUP_SOURCE {source} does not exist"
        raise ConfigError(message, hint) from error
    except NotADirectoryError as error:
        message = f"BACKUP_SOURCE {source} is not a directory"
        raise ConfigError(message, hint) from error
    except OSError as error:
        raise _unreadable(str(source), error) from error


def _why_not(entry: os.DirEntry[str]) -> str | None:
    try:
        if entry.is_symlink():
            return "is a symbolic link, and links are not followed"
        return None if entry.is_dir(follow_symlinks=False) else "is not a directory"
    except OSError:
        return None  # whoever captures it will say what is wrong with it


# -- fix


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
    unread_count: int = 0
    """How many they are in all."""

    @property
    def suspicion(self) -> str | None:
        """What could not be read as it should be, in one line of bounded length."""
        unread = few(self.unread, count=self.unread_count)
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
        self._unread_count = 0
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
            unread_count=self._unread_count,
        )

    def _walk(self) -> None:
        pending = [b""]
        while pending:
            below = pending.pop()
            with self._sparing_the_journal(below), _listed(self._root, below) as entries:
                for entry in entries:
                    path = os.path.join(below, os.fsencode(entry.name))
                    with self._sparing_the_journal(path), _translated(self._root, path):
                        kind = _kind(path, entry)
                        if kind == _DIRECTORY:
                            pending.append(path)
                        else:
                            self._take(path, kind)

    def _take(self, path: bytes, kind: str) -> None:
        if kind != _FILE:
            self._pass_over(path, kind)
        elif self._has_room(path):
            self._fix(path)
        else:
            self._pass_over(path, _TOO_MANY)

    def _pass_over(self, path: bytes, kind: str) -> None:
        self._passed_over_counts[kind] += 1
        if path == JOURNAL_FILE or self._passed_over_counts[kind] <= MAX_NAMED:
            self._passed_over[path] = kind

    def _tell(self, message: str) -> None:
        self._unread_count += 1
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
        with _opened(self._root, path) as fd:
            state = os.fstat(fd)
            size = state.st_size
            end = _end_of_records(fd, size) if path == JOURNAL_FILE else size
            is_cut = is_live and end > 0 and size - end <= MAX_RECORD_BYTES
            bound = end if is_cut else size
            if is_live and bound > end:
                self._suspicions.append(_without_newline(size, end))
            self._members.append(_member(path, state, bound=bound, end=end))

    @contextmanager
    def _sparing_the_journal(self, path: bytes) -> Iterator[None]:
        """Pass over what cannot be read, unless it is the journal itself."""
        try:
            yield
        except (JournalChangedError, JournalUnreadableError) as error:
            if path in {b"", JOURNAL_FILE}:
                raise
            if isinstance(error, JournalUnreadableError):
                self._pass_over(path, _UNREADABLE)
                self._tell(error.message)
            else:
                self._pass_over(path, _GONE)

    def _without_file(self) -> JournalMissingError:
        what = self._passed_over.get(JOURNAL_FILE)
        detail = f"its 'journal' is {what}" if what else "it has no file 'journal'"
        return JournalMissingError(
            f"{self._root} holds no journal: {detail}",
            "check that the volume is mounted where billing mounts it",
        )


@contextmanager
def _listed(root: Path, below: bytes) -> Iterator[Iterator[os.DirEntry[str]]]:
    with _translated(root, below), _directory(root, below) as fd, os.scandir(fd) as entries:
        yield entries


def _kind(path: bytes, entry: os.DirEntry[str]) -> str:
    if _PASSED_OVER.fullmatch(os.path.basename(path)):
        return _LEFT_ALONE
    if len(path) > _PATH_BYTES:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return _kind_of(entry.stat(follow_symlinks=False))


def _kind_of(state: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(state.st_mode), "neither a file nor a directory")


def _member(path: bytes, state: os.stat_result, *, bound: int, end: int) -> Member:
    return Member(
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


def _without_newline(size: int, end: int) -> str:
    if not end:
        return f"not one complete record in {size} bytes: no newline"
    return f"no record ends in its last {size - end} bytes: no newline"


def _end_of_records(fd: int, end: int) -> int:
    """Find the end of the last complete line before ``end``, looking backwards; 0 if none."""
    while end > 0:
        begin = max(0, end - CHUNK_BYTES)
        newline = _read_at(fd, begin, end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return 0


def _read_at(fd: int, offset: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := os.pread(fd, size - len(data), offset + len(data))):
        data += piece
    return bytes(data)


# -- read


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
    with _laid_on(member), _opened(captured.root, member.path) as fd:
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
        _require_unchanged(captured, member, _stat(captured.root, member.path))
        if guarded and not member.torn_tail_bytes and not chunk.endswith(b"\n"):
            raise _changed(captured, member, "no record ends where its last one ended")


@contextmanager
def _laid_on(member: Member) -> Iterator[None]:
    """Tell the failure of a file beside the journal from one of the journal."""
    try:
        yield
    except (JournalChangedError, JournalUnreadableError) as error:
        if member.is_journal:
            raise
        raise JournalExtraError(
            error.message,
            *error.hints,
            path=member.path,
            is_unreadable=isinstance(error, JournalUnreadableError),
        ) from error


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


# -- beside the journal


def leave_behind(captured: Capture, lost: JournalExtraError) -> Capture:
    """Go on without a file beside the journal, and without the others that are lost by now.

    All are looked at: who clears a directory of many shall not cost us a reading for each.
    """
    others = [m for m in captured.members if not m.is_journal and m.path != lost.path]
    gone = [lost, *filter(None, (_why_lost(captured, m) for m in others))]
    kinds = {e.path: _UNREADABLE if e.is_unreadable else _CHANGED for e in gone}
    unread = [e.message for e in gone if e.is_unreadable]
    return replace(
        captured,
        members=tuple(m for m in captured.members if m.path not in kinds),
        passed_over=tuple(sorted([*captured.passed_over, *islice(kinds.items(), MAX_NAMED)])),
        passed_over_counts=captured.passed_over_counts + Counter(kinds.values()),
        unread=(*captured.unread, *unread)[:MAX_TOLD],
        unread_count=captured.unread_count + len(unread),
    )


def _why_lost(captured: Capture, member: Member) -> JournalExtraError | None:
    try:
        with _laid_on(member), _translated(captured.root, member.path):
            _require_unchanged(captured, member, _stat(captured.root, member.path))
    except JournalExtraError as error:
        return error
    return None


# -- holes


def await_filled(captured: Capture, offset: int, *, seconds: float, stop: Stop) -> bool:
    """Wait until the bytes from ``offset`` on are no NULs any more.

    The file is opened anew each time and its cached pages are dropped: NFS promises fresh content
    only to whoever opens a file after the writer's data has arrived.

    Returns:
        Whether it was filled in time; with ``seconds`` 0 there is no look, and it was not.
    """
    for _ in range(int(seconds / HOLE_POLL_SECONDS)):
        stop.sleep(HOLE_POLL_SECONDS)
        if 0 not in _fresh(captured, offset):
            return True
    return False


def _fresh(captured: Capture, offset: int) -> bytes:
    with _opened(captured.root, JOURNAL_FILE) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return _read_at(fd, offset, min(_NEAR_HOLE_BYTES, captured.main.size_bytes - offset))


def cut_before(captured: Capture, offset: int) -> Capture:
    """End the journal's bound at the last complete record before a hole that stays."""
    main = captured.main
    with _opened(captured.root, JOURNAL_FILE) as fd:
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


# -- the operating system


@contextmanager
def _opened(root: Path, path: bytes) -> Iterator[int]:
    below, name = os.path.split(path)
    with _translated(root, path):
        with _directory(root, below) as above:
            fd = os.open(name, _TO_READ, dir_fd=above)
        try:
            _require_file(root, path, os.fstat(fd))
            os.set_blocking(fd, True)
            yield fd
        finally:
            os.close(fd)


@contextmanager
def _directory(root: Path, below: bytes) -> Iterator[int]:
    """Open a directory of a journal, from the source on: no step of the way may be a link."""
    fd = os.open(root.parent, _TO_ENTER)
    try:
        for name in filter(None, (os.fsencode(root.name), *below.split(b"/"))):
            above, fd = fd, os.open(name, _TO_ENTER | os.O_NOFOLLOW, dir_fd=fd)
            os.close(above)
        yield fd
    finally:
        os.close(fd)


def _stat(root: Path, path: bytes) -> os.stat_result:
    below, name = os.path.split(path)
    with _directory(root, below) as above:
        return os.stat(name, dir_fd=above, follow_symlinks=False)


def _require_file(root: Path, path: bytes, state: os.stat_result) -> None:
    if (kind := _kind_of(state)) != _FILE:
        message = f"{_name(root, path)!r} was replaced while it was read: by {kind}"
        raise JournalChangedError(message)


def _name(root: Path, path: bytes) -> str:
    return os.fsdecode(os.path.join(os.fsencode(root), path)) if path else str(root)


@contextmanager
def _translated(root: Path, path: bytes) -> Iterator[None]:
    name = _name(root, path)
    try:
        yield
    except OSError as error:
        if not path and error.errno in {errno.ENOENT, errno.ENOTDIR}:
            message = f"{name} is not a directory"
            raise JournalMissingError(message) from error
        if error.errno == errno.ENOENT:
            message = f"{name!r} vanished while it was read"
            raise JournalChangedError(message) from error
        if error.errno in _REPLACED:
            message = f"{name!r} was replaced while it was read: {error.strerror}"
            raise JournalChangedError(message) from error
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> JournalError:
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return JournalUnreadableError(f"{name!r} cannot be read: {error.strerror}")
    return JournalUnreadableError(
        f"{name!r} may not be read by uid {os.geteuid()} gid {os.getegid()}: {_owner(Path(name))}",
        "run the pod with that uid and gid (securityContext.runAsUser and runAsGroup); "
        "as root, where they are root's, all capabilities can be dropped",
    )


def _owner(path: Path) -> str:
    """Say whose a path is, or the nearest directory above it that can be looked at."""
    where = next(p for p in (path, *path.parents) if os.path.lexists(p))
    state = where.lstat()
    return (
        f"{str(where)!r} belongs to uid {state.st_uid} gid {state.st_gid},"
        f" mode {stat.S_IMODE(state.st_mode):04o}"
    )
