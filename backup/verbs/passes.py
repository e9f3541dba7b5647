"""One journal in one run: read it, send it to every sink, compare, commit.

A *pass* is one reading of the journal that feeds every sink which still needs it. The rules that
passes follow stand in :mod:`backup.verbs.backup`. What they mean here:

- The bound may be fixed anew, or cut before a hole, only while no sink holds this backup: one id
  means the same bytes everywhere. Once one holds it, a journal that changed is a problem of the
  others, and what was committed is reported all the same.
- A file beside the journal that changed, or cannot be read, is left behind and the rest read again,
  as often as it takes; likewise only while no sink holds this backup. They are read first, so that
  what fails there costs no reading of the journal.
- What failed in a way that may pass is tried again once the sink answers its probe, for which it
  gets :data:`RECOVERY_SECONDS`: many outages are shorter than that (a rolling restart, a leader
  election, throttling), and a nightly run can wait. A sink that does not come back, or hangs, is
  given up for the rest of the run: not every journal shall wait for it anew.
- What a sink holds is judged and committed in that sink's own thread, as soon as the reading is
  complete and the archive is read back, however long the others take: a run that is stopped then
  has lost no copy that was whole. A sink that was given up does not commit any more, for a second
  pass may serve it meanwhile.
- A second pass is for archives, and is decided on once the first is over. It must hash as the first
  one did, or nothing of it is committed. A commit that fails is repeated with the very same
  manifest: its checksum file may be there already, and it names the archive of the first pass.
- A sink that was too slow for the others is served alone: there it may take its time.
- Sinks that hold the same beginning of the journal are served by one reading. That beginning is
  read and compared before anything is packed: where it is not the same any more, all is packed.
  Where nothing follows it, nothing is put, and there is a manifest all the same.
- A sink that holds an id after which there is none fails alone: it is asked before an id is made
  for all.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from backup.archive import Entry, frame, gzip, max_archive_bytes
from backup.catalog import Shelf, Stored, archive_key
from backup.errors import (
    BackupError,
    IntegrityError,
    JournalChangedError,
    JournalError,
    JournalExtraError,
    JournalHoleError,
    ReadbackError,
    SinkError,
    SinkSlowError,
    SinkStalledError,
    StopError,
)
from backup.journals import (
    Capture,
    Member,
    Reading,
    await_filled,
    capture,
    cut_before,
    leave_behind,
    read,
)
from backup.manifest import Archive, File, Manifest, Previous, Segment, Source
from backup.model import (
    JOURNAL_FILE,
    BackupCommitted,
    Clock,
    Continuity,
    Digest,
    Emit,
    Mode,
    PassRepeated,
    Problem,
    Progressed,
    Readback,
    Strategy,
    encode_name,
    new_id,
)
from backup.sinks import STALL_SECONDS
from backup.stop import Stop
from backup.streams import Feed, call, each, fan_out, prefetch, spread
from backup.verbs.increments import Base, base_of, skip

COMPRESSORS = 2
"""Threads that compress. Compressing costs three times what hashing does, and hashing is serial."""

HOLE_SECONDS = 30.0
"""How long a journal's holes are waited for, in all."""
RECOVERY_SECONDS = 120.0
"""How long a sink gets to answer again."""
_BETWEEN_PROBES_SECONDS = 1.0

_LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOptions:
    """What the settings say about how journals are read and stored."""

    run_id: str
    tool: str
    site: str | None = None
    mode: Mode = "full"
    full_every: timedelta = timedelta(days=7)
    """With ``incremental``: after this time all is packed again."""
    readback: Readback = "full"
    compression_level: int = 1
    strategy: Strategy = "direct"
    node: str | None = None
    """The node and the pod that read the journals, where they are known."""
    pod: str | None = None
    draft: bool = False
    """Put archives and note down what is to be committed once they are read back: while billing
    waits, every second counts. See :mod:`backup.verbs.commit`."""
    stall_seconds: float = STALL_SECONDS
    hole_seconds: float = HOLE_SECONDS
    recovery_seconds: float = RECOVERY_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """What came of one journal on one sink."""

    sink: str
    id: str | None = None
    continuity: Continuity | None = None
    archive_bytes: int = 0
    alarms: tuple[str, ...] = ()
    """Alarms of this journal that nobody has acknowledged."""
    problems: tuple[Problem, ...] = ()
    error: BackupError | None = None
    """Why there is no backup; None if there is one."""

    @property
    def is_held(self) -> bool:
        """Whether this backup exists on the sink."""
        return self.id is not None

    @property
    def raised_alarm(self) -> bool:
        """Whether it was this backup that raised an alarm."""
        return self.id in self.alarms


@dataclass(frozen=True, slots=True)
class History:
    """The newest valid manifest of a journal on a sink."""

    manifest: Manifest
    sha256: str
    alarms: tuple[str, ...]
    """Those of the journal that nobody has acknowledged, also of branches that it has not seen."""

    @property
    def link(self) -> Previous:
        """What the next manifest says of this one."""
        return Previous(id=self.manifest.id, manifest_sha256=self.sha256)


class Target:
    """A sink that can take backups in this run."""

    def __init__(self, shelf: Shelf) -> None:
        """Take the sink as it was listed at the start of the run."""
        self.shelf = shelf
        self.catalog, self.listing, self.url = shelf.catalog, shelf.listing, shelf.url
        self.given_up: SinkError | None = None
        """Set once it has hung or not come back: no other journal of this run waits for it."""

    def history(self, journal: str) -> tuple[History | None, list[Problem]]:
        """Find the newest valid manifest; each damaged one that should count too is a problem."""
        newest, damaged = self.catalog.newest(journal, self.listing)
        history = None
        if newest is not None:
            alarms, unread = self.catalog.alarms_after(newest[0], self.listing)
            history = History(*newest, alarms)
            damaged += unread
        return history, [Problem.of(e, journal=journal, sink=self.url) for e in damaged]


@dataclass(slots=True)
class _Pass:
    """One reading: what went in, what came out, what came of it on each sink."""

    of: Capture
    readings: dict[bytes, Reading]
    bases: dict[str, Base] = field(default_factory=dict)
    """What archives hold already on each sink: none, or the same bytes on all of this pass."""
    packed: Digest = field(default_factory=Digest)
    copies: dict[str, Copy | Exception] = field(default_factory=dict)

    @property
    def base(self) -> Base | None:
        """One of them: what can be said of all."""
        return next(iter(self.bases.values()), None)

    @property
    def is_main_held(self) -> bool:
        """Whether archives hold the whole journal already."""
        return self.base is not None and self.base.size_bytes == self.of.main.size_bytes

    @property
    def entries(self) -> list[tuple[Member, Entry]]:
        """What is to be packed, files beside the journal first."""
        begin = self.base.size_bytes if self.base else 0
        beside = [(m, _entry(self.of, m, 0)) for m in self.of.members if not m.is_journal]
        main = self.of.main
        return beside if self.is_main_held else [*beside, (main, _entry(self.of, main, begin))]

    @property
    def is_complete(self) -> bool:
        """Whether it went to the end: it does not once every sink has dropped out."""
        return all(self.readings[m.path].size_bytes == m.size_bytes for m in self.of.members)

    def contradicts(self, other: _Pass) -> bool:
        """Whether two complete readings of the same bounds differ."""
        are_alike = self.of is other.of and self.is_complete and other.is_complete
        return are_alike and any(
            reading.sha256 != other.readings[path].sha256 for path, reading in self.readings.items()
        )


class _OtherBeginningError(Exception):
    """The journal does not begin with what archives hold of it."""


class JournalBackup:
    """The backup of one journal to all sinks of a run."""

    def __init__(
        self,
        captured: Capture,
        targets: Sequence[Target],
        options: PassOptions,
        *,
        clock: Clock,
        emit: Emit,
        stop: Stop,
    ) -> None:
        """Take what was captured, and the sinks that want it."""
        self.captured = captured
        self.records = 0
        """Complete records in what was committed."""
        self.problem: BackupError | None = None
        """What is wrong with the journal, so that it is missing where it is not held."""
        self._name = captured.journal.name
        self._targets = {t.url: t for t in targets}
        self._options = options
        self._clock = clock
        self._emit = emit
        self._stop = stop
        self._started_at, self._begun = clock(), time.monotonic()
        self._hole_seconds = options.hole_seconds
        self._may_capture_anew = True
        self._histories: dict[str, History | None] = {}
        self._copies: dict[str, Copy] = {}
        self._must_be_full: set[str] = set()
        self._id = ""

    def perform(self) -> list[Copy]:
        """Do it; what failed on a sink is in its copy, and what failed here in ``problem`` too.

        Raises:
            StopError: the run was stopped.
        """
        self._learn_histories()
        try:
            self._back_up(list(self._histories))
        except (JournalError, IntegrityError) as error:
            self.problem = error
        return [self._concluded(url) for url in self._targets]

    @property
    def has_old_tail(self) -> bool:
        """Whether the journal's last backup left out the very bytes that are left out again."""
        main = self.captured.main
        tail = (main.size_bytes, main.omitted_tail_bytes, _mtime(main))
        return main.omitted_tail_bytes > 0 and any(
            (f.size_bytes, f.omitted_tail_bytes, f.mtime) == tail
            for f in self._previous(self._histories)
        )

    def _concluded(self, url: str) -> Copy:
        copy = self._copies[url]
        if isinstance(copy.error, SinkStalledError):
            self._targets[url].given_up = copy.error
        return copy if copy.is_held or copy.error else replace(copy, error=self.problem)

    def _back_up(self, urls: Sequence[str]) -> None:
        if not urls:
            return
        self._id = self._new_id(urls)
        first: _Pass | None = None
        for group in self._groups(urls):
            first = self._read_until_steady(attempt=1, urls=group, first=first)
            again = self._take_down(first)
            if again:
                causes = "; ".join(str(self._copies[url].error) for url in again)
                self._repeat(f"a sink failed in a way that may pass: {causes}")
                self._pass_again(first, self._those_that_recover(again))

    def _groups(self, urls: Sequence[str]) -> list[list[str]]:
        """Put sinks together that one reading can serve."""
        groups: dict[tuple[int, str] | None, list[str]] = {}
        for url in urls:
            base = self._base(url)
            beginning = (base.size_bytes, base.sha256) if base else None
            groups.setdefault(beginning, []).append(url)
        return [*groups.values()]

    def _base(self, url: str) -> Base | None:
        """Say what need not be packed for a sink, if the journal still begins so."""
        history = self._histories[url]
        if self._options.mode == "full" or history is None or url in self._must_be_full:
            return None
        base = base_of(
            history.manifest,
            self._targets[url].shelf,
            full_every=self._options.full_every,
            now=self._started_at,
        )
        if base is None or base.size_bytes > self.captured.main.size_bytes:
            return None
        name = _member_name(JOURNAL_FILE, base.size_bytes)
        is_taken = any(member.path == name for member in self.captured.members)
        return None if is_taken else base

    def _new_id(self, urls: Iterable[str]) -> str:
        used = [i for url in urls for i in self._targets[url].listing.ids(self._name)]
        return new_id(self._clock(), after=used, token=secrets.token_hex(3))

    def _pass_again(self, first: _Pass, urls: Sequence[str]) -> None:
        slow = [u for u in urls if isinstance(self._copies[u].error, SinkSlowError)]
        others = [u for u in urls if u not in slow]
        for together in (others, *([u] for u in slow)):
            if together:
                self._second_pass(first, together)

    def _second_pass(self, first: _Pass, urls: Sequence[str]) -> None:
        second = self._read_until_steady(attempt=2, urls=urls, first=first)
        self._require_alike(first, second)
        self._take_down(second)

    def _require_alike(self, first: _Pass | None, second: _Pass) -> None:
        if first is not None and second.contradicts(first):
            raise self._changed("was rewritten between two readings of the same bytes")

    def _those_that_recover(self, urls: Sequence[str]) -> list[str]:
        errors = spread(self._await_recovery, urls, limit=len(urls), stop=self._stop)
        for url, error in zip(urls, errors, strict=True):
            if error is not None:
                self._copies[url] = replace(self._copies[url], error=error)
        return [url for url, error in zip(urls, errors, strict=True) if error is None]

    def _await_recovery(self, url: str) -> SinkError | None:
        """Wait until a sink answers again; give it up if it does not, and say why."""
        target = self._targets[url]
        until = time.monotonic() + self._options.recovery_seconds
        while target.given_up is None:
            try:
                target.catalog.sink.probe()
            except SinkError as error:
                may_pass = error.transient and not isinstance(error, SinkStalledError)
                if not may_pass or time.monotonic() >= until:
                    target.given_up = error
            else:
                return None
            self._stop.sleep(_BETWEEN_PROBES_SECONDS)
        return target.given_up

    def _changed(self, how: str) -> JournalChangedError:
        return JournalChangedError(
            f"{self._name} {how}", "find out what writes there beside billing"
        )

    @property
    def _is_held(self) -> bool:
        return any(copy.is_held for copy in self._copies.values())

    def _repeat(self, reason: str) -> None:
        self._emit(PassRepeated(journal=self._name, reason=reason))

    # -- history

    def _learn_histories(self) -> None:
        for url, target in self._targets.items():
            if target.given_up is not None:
                self._copies[url] = Copy(sink=url, error=target.given_up)
                continue
            try:
                self._new_id([url])  # raises where none can follow
                self._histories[url], problems = target.history(self._name)
            except BackupError as error:
                if isinstance(error, StopError):
                    raise
                self._copies[url] = Copy(sink=url, error=error)
                continue
            self._copies[url] = Copy(sink=url, problems=tuple(problems))

    def _marks(self, urls: Sequence[str]) -> list[int]:
        return [f.size_bytes for f in self._previous(urls)]

    def _previous(self, urls: Iterable[str]) -> list[File]:
        histories = [self._histories[url] for url in urls]
        return [h.manifest.main for h in histories if h is not None]

    # -- passes

    def _read_until_steady(
        self, *, attempt: int, urls: Sequence[str], first: _Pass | None = None
    ) -> _Pass:
        key = archive_key(self._name, self._id, attempt)
        done: _Pass | None = None
        while done is None:
            try:
                done = self._pass_unless_hole(key, urls, first)
            except JournalExtraError as lost:
                if self._is_held:
                    raise
                self._repeat(lost.message)
                self.captured = call(partial(leave_behind, self.captured, lost), stop=self._stop)
            except JournalChangedError as change:
                if self._is_held or not self._may_capture_anew:
                    raise
                self._may_capture_anew = False
                self._repeat(change.message)
                self.captured = self._captured_anew()
            except _OtherBeginningError:
                self._must_be_full.update(urls)
                self._repeat("it does not begin as it did: all of it is packed")
        return done

    def _pass_unless_hole(self, key: str, urls: Sequence[str], first: _Pass | None) -> _Pass | None:
        try:
            return self._pass(key, urls, first)
        except JournalHoleError as hole:
            self._repeat(hole.message)
            self._wait_for(hole)
            return None

    def _captured_anew(self) -> Capture:
        again = partial(
            capture,
            self.captured.root.parent,
            self.captured.journal,
            clock=self._clock,
            consistency=self.captured.consistency,
        )
        return call(again, stop=self._stop)

    def _wait_for(self, hole: JournalHoleError) -> None:
        begun = time.monotonic()
        wait = partial(
            await_filled, self.captured, hole.offset, seconds=self._hole_seconds, stop=self._stop
        )
        is_filled = call(wait, stop=self._stop)
        self._hole_seconds -= time.monotonic() - begun
        if is_filled:
            return
        if self._is_held:
            how = f"has a hole at byte {hole.offset}, where it had none before"
            raise self._changed(how)
        self.captured = call(partial(cut_before, self.captured, hole.offset), stop=self._stop)

    def _pass(self, key: str, urls: Sequence[str], first: _Pass | None) -> _Pass:
        captured, marks = self.captured, self._marks(urls)
        result = _Pass(
            of=captured,
            readings={m.path: Reading(marks if m.is_journal else ()) for m in captured.members},
            bases={url: base for url in urls if (base := self._base(url))},
        )
        contents = {m.path: read(captured, m, result.readings[m.path]) for m in captured.members}
        if result.base is not None:
            contents[JOURNAL_FILE] = self._after(result.base, contents[JOURNAL_FILE], result)
        if result.is_main_held:
            deque(contents[JOURNAL_FILE], maxlen=0)  # at its end it is looked at once more
        if not result.entries:
            result.copies = self._serve_without_archive(urls, result, first)
            return result
        framed = frame((entry, contents[member.path]) for member, entry in result.entries)
        tar = prefetch(framed if result.base else self._counted(framed), stop=self._stop)
        compress = partial(each, workers=COMPRESSORS, stop=self._stop)
        packed = gzip(tar, level=self._options.compression_level, each=compress)
        result.copies = fan_out(
            result.packed.over(packed),
            {url: partial(self._serve, url, key, result, first) for url in urls},
            stop=self._stop,
            stall_seconds=self._options.stall_seconds,
        )
        return result

    def _after(self, base: Base, chunks: Iterator[bytes], result: _Pass) -> Iterator[bytes]:
        """Read what archives hold already, and compare; give the rest."""
        rest = skip(self._counted(prefetch(chunks, stop=self._stop)), base.size_bytes)
        if result.readings[JOURNAL_FILE].at(base.size_bytes) != base.sha256:
            raise _OtherBeginningError
        return rest

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        done, total = 0, self.captured.size_bytes
        for chunk in chunks:
            done += len(chunk)
            self._emit(
                Progressed(
                    verb="backup",
                    subject=self._name,
                    done_bytes=min(done, total),
                    total_bytes=total,
                )
            )
            yield chunk

    # -- settling, on each sink in its own thread

    def _serve(self, url: str, key: str, done: _Pass, first: _Pass | None, feed: Feed) -> Copy:
        """Store the archive, and once the reading is complete judge and commit it."""
        stored = self._targets[url].catalog.store(
            key,
            feed,
            max_bytes=max_archive_bytes(entry.size_bytes for _, entry in done.entries),
            readback="size" if self._options.draft else self._options.readback,
            stop=self._stop,
        )
        feed.conclude()
        self._require_alike(first, done)
        self._targets[url].catalog.require_as_sent(
            stored, size_bytes=done.packed.size_bytes, sha256=done.packed.sha256
        )
        return self._settle(url, stored, done)

    def _serve_without_archive(
        self, urls: Sequence[str], done: _Pass, first: _Pass | None
    ) -> dict[str, Copy | Exception]:
        """Commit what adds nothing to what its sinks hold."""
        self._require_alike(first, done)

        def serve(url: str) -> Copy | Exception:
            try:
                return self._settle(url, None, done)
            except StopError:
                raise
            except BackupError as error:
                return error

        return dict(zip(urls, spread(serve, urls, limit=len(urls), stop=self._stop), strict=True))

    def _take_down(self, done: _Pass) -> list[str]:
        """Note what came of a reading; name the sinks that are worth a second pass."""
        again: list[str] = []
        failures: list[Exception] = []
        for url, copy in done.copies.items():
            if isinstance(copy, Copy):
                self._copies[url] = copy
            elif isinstance(copy, SinkError):
                self._copies[url] = replace(self._copies[url], error=copy)
                if copy.transient:
                    again.append(url)
            else:
                failures.append(copy)
        if any(self._copies[url].is_held for url in done.copies):
            self.records = done.readings[JOURNAL_FILE].records
        if failures:
            raise failures[0]
        return again

    def _settle(self, url: str, stored: Stored | None, done: _Pass) -> Copy:
        known = self._copies[url].problems
        manifest = self._manifest(url, stored, done)
        try:
            self._commit(url, manifest)
        except SinkError as error:
            return Copy(sink=url, problems=known, error=error)
        if not self._options.draft:
            self._announce(url, manifest)
        return Copy(
            sink=url,
            id=manifest.id,
            continuity=manifest.continuity,
            archive_bytes=done.packed.size_bytes,
            alarms=manifest.alarms,
            problems=known,
        )

    def _commit(self, url: str, manifest: Manifest) -> None:
        catalog = self._targets[url].catalog
        commit = partial(catalog.draft if self._options.draft else catalog.commit, manifest)
        try:
            commit()
        except SinkError as error:
            if not error.transient or isinstance(error, ReadbackError):
                raise
            if self._await_recovery(url) is not None:
                raise
            commit()

    def _manifest(self, url: str, stored: Stored | None, done: _Pass) -> Manifest:
        history, base = self._histories[url], done.bases.get(url)
        archives = [*(base.archives if base else ())]
        if stored is not None:
            archives.append(self._archive(stored, done))
        previous = history.manifest.main if history else None
        continuity = compare(previous, done.readings[JOURNAL_FILE])
        return Manifest(
            id=self._id,
            journal=self._name,
            created_at=self.captured.taken_at,
            tool=self._options.tool,
            run_id=self._options.run_id,
            site=self._options.site,
            suspect=self.captured.suspicion is not None,
            suspicion=self.captured.suspicion,
            alarms=self._alarms(url, history, continuity),
            source=Source(
                strategy=self._options.strategy,
                consistency=self.captured.consistency,
                node=self._options.node,
                pod=self._options.pod,
            ),
            previous=history.link if history else None,
            continuity=continuity,
            archives=tuple(archives),
            files=tuple(
                _file(self._name, m, done, stored.key if stored else "", base)
                for m in self.captured.members
            ),
        )

    def _archive(self, stored: Stored, done: _Pass) -> Archive:
        return Archive(
            key=stored.key,
            size_bytes=done.packed.size_bytes,
            sha256=done.packed.sha256,
            readback=self._options.readback if self._options.draft else stored.readback,
        )

    def _alarms(self, url: str, history: History | None, continuity: Continuity) -> tuple[str, ...]:
        if history is None:
            return ()
        listing = self._targets[url].listing
        delivered = listing.has_mark(self._name, history.manifest.id, "delivered")
        if continuity in {"rewritten", "shrunk"} and not delivered:
            return (*history.alarms, self._id)
        return history.alarms

    def _announce(self, url: str, manifest: Manifest) -> None:
        self._emit(announcement(manifest, url, seconds=time.monotonic() - self._begun))


def announcement(manifest: Manifest, sink: str, *, seconds: float) -> BackupCommitted:
    """Make the event for a committed manifest, ``seconds`` after its journal's turn began."""
    return BackupCommitted(
        journal=manifest.journal,
        sink=sink,
        id=manifest.id,
        continuity=manifest.continuity,
        suspect=manifest.suspect,
        size_bytes=manifest.size_bytes,
        archive_bytes=sum(archive.size_bytes for archive in manifest.own_archives),
        records=manifest.records,
        duration_seconds=round(seconds, 3),
    )


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
        name=captured.journal.name.encode() + b"/" + _member_name(member.path, offset),
        size_bytes=member.size_bytes - offset,
        mode=member.mode & 0o777,
        uid=member.uid,
        gid=member.gid,
        mtime=int(_seconds(member)),
    )


def _member_name(path: bytes, offset: int) -> bytes:
    """Name the bytes of a file from an offset on, so that `cat` in the order of names restores."""
    return path + f".{offset:015}".encode() if offset else path


def _seconds(member: Member) -> float:
    """Return the time of the last change, as far as a calendar goes: a file system goes further."""
    return min(max(0.0, member.mtime_ns / 1e9), _LAST_SECOND)


def _mtime(member: Member) -> datetime:
    return datetime.fromtimestamp(_seconds(member), UTC)


def _file(journal: str, member: Member, done: _Pass, archive: str, base: Base | None) -> File:
    shared = base if member.is_journal else None
    offset = shared.size_bytes if shared else 0
    segments = [*(shared.segments if shared else ())]
    if offset < member.size_bytes or not segments:
        name = encode_name(_member_name(member.path, offset))
        segments.append(
            Segment(
                archive=archive,
                member=f"{journal}/{name}",
                offset=offset,
                length=member.size_bytes - offset,
            )
        )
    reading = done.readings[member.path]
    return File(
        path=encode_name(member.path),
        size_bytes=member.size_bytes,
        sha256=reading.sha256,
        records=reading.records,
        omitted_tail_bytes=member.omitted_tail_bytes,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=_mtime(member),
        segments=tuple(segments),
    )
