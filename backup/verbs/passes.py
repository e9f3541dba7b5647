"""One journal in one run: read it, send it to every sink, compare, commit.

A *pass* is one reading of the journal that feeds every sink which still needs it. The rules that
passes follow stand in :mod:`backup.verbs.backup`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from backup.archive import Entry, frame, gzip
from backup.catalog import Catalog, Listing, Stored, archive_key
from backup.errors import (
    BackupError,
    JournalChangedError,
    JournalHoleError,
    ReadbackError,
    SinkError,
    StopError,
)
from backup.journals import Capture, Member, Reading, await_filled, capture, cut_before, read
from backup.manifest import Archive, File, Manifest, Previous, Segment, Source
from backup.model import (
    JOURNAL_FILE,
    BackupCommitted,
    Clock,
    Continuity,
    Digest,
    Emit,
    PassRepeated,
    Problem,
    Progressed,
    Readback,
    encode_name,
    new_id,
)
from backup.stop import Stop
from backup.streams import call, fan_out, prefetch, spread


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOptions:
    """How journals are read and stored."""

    run_id: str
    tool: str
    site: str | None
    readback: Readback
    compression_level: int
    strategy: str
    stall_seconds: float
    hole_seconds: float


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


@dataclass(frozen=True, slots=True)
class History:
    """The newest valid manifest of a journal on a sink."""

    manifest: Manifest
    sha256: str

    @property
    def file(self) -> File | None:
        """The journal as it was then."""
        return self.manifest.file(JOURNAL_FILE)

    @property
    def link(self) -> Previous:
        """What the next manifest says of this one."""
        return Previous(id=self.manifest.id, manifest_sha256=self.sha256)


class Target:
    """A sink that can take backups in this run."""

    def __init__(self, catalog: Catalog, listing: Listing) -> None:
        """Take the sink's catalog, and its listing from the start of the run."""
        self.catalog = catalog
        self.listing = listing
        self.url = catalog.sink.url

    def history(self, journal: str) -> tuple[History | None, list[Problem]]:
        """Find the newest valid manifest; every newer one that is damaged is a problem."""
        newest, damaged = self.catalog.newest(journal, self.listing)
        problems = [Problem.of(e, journal=journal, sink=self.url) for e in damaged]
        return (None if newest is None else History(*newest)), problems


@dataclass(slots=True)
class _Pass:
    """One reading: what went in, what came out, what each sink holds of it."""

    readings: dict[bytes, Reading]
    packed: Digest
    stored: dict[str, Stored | Exception] = field(default_factory=dict)

    def hashes(self) -> dict[bytes, str]:
        return {path: reading.sha256 for path, reading in self.readings.items()}


class JournalBackup:
    """The backup of one journal to all sinks of a run."""

    def __init__(
        self,
        found: Capture,
        targets: Sequence[Target],
        options: PassOptions,
        *,
        clock: Clock,
        emit: Emit,
        stop: Stop,
    ) -> None:
        """Take what was captured, and the sinks that want it."""
        self.found = found
        self.records = 0
        self._name = found.journal.name
        self._targets = {t.url: t for t in targets}
        self._options = options
        self._clock = clock
        self._emit = emit
        self._stop = stop
        self._begun = time.monotonic()
        self._holes_until: float | None = None
        self._histories: dict[str, History | None] = {}
        self._copies: dict[str, Copy] = {}
        self._id = ""

    def perform(self) -> list[Copy]:
        """Do it; what failed on a sink is in its copy.

        Raises:
            JournalError: the journal cannot be read as it should be.
            StopError: the run was stopped.
        """
        self._learn_histories()
        used = [i for t in self._targets.values() for i in t.listing.ids(self._name)]
        self._id = new_id(self._clock(), after=used, token=secrets.token_hex(3))
        first = self._read_until_steady(attempt=1, urls=list(self._histories))
        again = self._settle_all(first, list(self._histories))
        if again:
            self._repeat("a sink failed in a way that may pass")
            second = self._read_until_steady(attempt=2, urls=again)
            if len(again) < len(self._targets) and second.hashes() != first.hashes():
                message = f"{self._name} was rewritten between two readings of the same bytes"
                raise JournalChangedError(message, "find out what writes there beside billing")
            self._settle_all(second, again)
        return [self._copies[url] for url in self._targets]

    def _repeat(self, reason: str) -> None:
        self._emit(PassRepeated(journal=self._name, reason=reason))

    # -- history

    def _learn_histories(self) -> None:
        for url, target in self._targets.items():
            try:
                self._histories[url], problems = target.history(self._name)
            except BackupError as error:
                if isinstance(error, StopError):
                    raise
                self._copies[url] = Copy(sink=url, error=error)
                continue
            self._copies[url] = Copy(sink=url, problems=tuple(problems))

    def _marks(self, urls: Sequence[str]) -> list[int]:
        files = [h.file for url in urls if (h := self._histories[url]) is not None]
        return [f.size_bytes for f in files if f is not None]

    # -- passes

    def _read_until_steady(self, *, attempt: int, urls: Sequence[str]) -> _Pass:
        changes_allowed = 1
        while True:
            try:
                return self._pass(archive_key(self._name, self._id, attempt), urls)
            except JournalHoleError as hole:
                self._repeat(hole.message)
                self._wait_for(hole)
            except JournalChangedError as change:
                if not changes_allowed:
                    raise
                changes_allowed -= 1
                self._repeat(change.message)
                self.found = self._recapture()

    def _recapture(self) -> Capture:
        again = partial(
            capture,
            self.found.root.parent,
            self.found.journal,
            consistency=self.found.consistency,
        )
        return call(again, stop=self._stop)

    def _wait_for(self, hole: JournalHoleError) -> None:
        now = time.monotonic()
        if self._holes_until is None:
            self._holes_until = now + self._options.hole_seconds
        wait = partial(
            await_filled,
            self.found,
            hole.offset,
            seconds=max(0.0, self._holes_until - now),
            stop=self._stop,
        )
        if not call(wait, stop=self._stop):
            self.found = call(partial(cut_before, self.found, hole.offset), stop=self._stop)

    def _pass(self, key: str, urls: Sequence[str]) -> _Pass:
        marks = self._marks(urls)
        result = _Pass(
            readings={m.path: Reading(marks if m.is_journal else ()) for m in self.found.members},
            packed=Digest(),
        )
        contents = (
            (_entry(self.found, m), read(self.found, m, result.readings[m.path]))
            for m in self.found.members
        )
        tar = prefetch(self._counted(frame(contents)), stop=self._stop)
        packed = prefetch(gzip(tar, level=self._options.compression_level), stop=self._stop)
        result.stored = fan_out(
            result.packed.over(packed),
            {
                url: partial(self._targets[url].catalog.store, key, readback=self._options.readback)
                for url in urls
            },
            stop=self._stop,
            stall=self._options.stall_seconds,
        )
        return result

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        done, total = 0, self.found.size_bytes
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

    # -- settling

    def _settle_all(self, reading: _Pass, urls: Sequence[str]) -> list[str]:
        """Judge and commit on each sink; name those that are worth a second pass."""
        self.records = reading.readings[JOURNAL_FILE].records
        settle = partial(self._settle, reading)
        copies = spread(settle, urls, limit=max(1, len(urls)), stop=self._stop)
        again: list[str] = []
        for url, copy in zip(urls, copies, strict=True):
            self._copies[url] = copy
            if isinstance(copy.error, SinkError) and copy.error.transient:
                again.append(url)
        return again

    def _settle(self, reading: _Pass, url: str) -> Copy:
        known = self._copies[url].problems
        stored = reading.stored[url]
        try:
            if isinstance(stored, Exception):
                raise stored
            self._require_as_sent(url, stored, reading.packed)
            manifest = self._manifest(url, stored, reading)
            self._targets[url].catalog.commit(manifest)
        except SinkError as error:
            return Copy(sink=url, problems=known, error=error)
        self._announce(url, manifest)
        return Copy(
            sink=url,
            id=manifest.id,
            continuity=manifest.continuity,
            archive_bytes=manifest.archive_bytes,
            alarms=manifest.alarms,
            problems=known,
        )

    def _require_as_sent(self, url: str, stored: Stored, sent: Digest) -> None:
        if stored.size_bytes == sent.size_bytes and stored.sha256 in {None, sent.sha256}:
            return
        self._targets[url].catalog.discard(stored.key)
        message = (
            f"{url}: holds {stored.size_bytes} bytes with SHA-256 {stored.sha256} of {stored.key},"
            f" where {sent.size_bytes} bytes with {sent.sha256} were sent"
        )
        raise ReadbackError(message, "this sink changes what it stores: do not trust it")

    def _manifest(self, url: str, stored: Stored, reading: _Pass) -> Manifest:
        history = self._histories[url]
        continuity = compare(history.file if history else None, reading.readings[JOURNAL_FILE])
        return Manifest(
            id=self._id,
            journal=self._name,
            created_at=self._clock(),
            tool=self._options.tool,
            run_id=self._options.run_id,
            site=self._options.site,
            suspect=self.found.suspicion is not None,
            suspicion=self.found.suspicion,
            alarms=self._alarms(url, history, continuity),
            source=Source(strategy=self._options.strategy, consistency=self.found.consistency),
            previous=history.link if history else None,
            continuity=continuity,
            archives=(
                Archive(
                    key=stored.key,
                    size_bytes=reading.packed.size_bytes,
                    sha256=reading.packed.sha256,
                    readback=stored.readback,
                ),
            ),
            files=tuple(
                _file(self._name, m, reading.readings[m.path], stored.key)
                for m in self.found.members
            ),
        )

    def _alarms(self, url: str, history: History | None, continuity: Continuity) -> tuple[str, ...]:
        if history is None:
            return ()
        target, previous = self._targets[url], history.manifest
        alarms = target.catalog.standing_alarms(previous, target.listing)
        delivered = target.listing.has_mark(self._name, previous.id, "delivered")
        if continuity in {"rewritten", "shrunk"} and not delivered:
            alarms += (self._id,)
        return alarms

    def _announce(self, url: str, manifest: Manifest) -> None:
        self._emit(
            BackupCommitted(
                journal=manifest.journal,
                sink=url,
                id=manifest.id,
                continuity=manifest.continuity,
                suspect=manifest.suspect,
                size_bytes=manifest.size_bytes,
                archive_bytes=manifest.archive_bytes,
                records=manifest.records,
                duration_seconds=round(time.monotonic() - self._begun, 3),
            )
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


def _entry(found: Capture, member: Member) -> Entry:
    return Entry(
        name=found.journal.name.encode() + b"/" + member.path,
        size_bytes=member.size_bytes,
        mode=member.mode & 0o777,
        uid=member.uid,
        gid=member.gid,
        mtime=max(0, member.mtime_ns // 1_000_000_000),
    )


def _file(journal: str, member: Member, reading: Reading, archive: str) -> File:
    return File(
        path=encode_name(member.path),
        size_bytes=member.size_bytes,
        sha256=reading.sha256,
        records=reading.records,
        omitted_tail_bytes=member.omitted_tail_bytes,
        mode=member.mode,
        uid=member.uid,
        gid=member.gid,
        mtime=datetime.fromtimestamp(member.mtime_ns / 1e9, UTC),
        segments=(
            Segment(
                archive=archive,
                member=f"{journal}/{encode_name(member.path)}",
                offset=0,
                length=member.size_bytes,
            ),
        ),
    )
