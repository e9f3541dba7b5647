"""``verify``: is every backup what it claims to be?

Rules:

- Nothing is taken on trust: the manifest is parsed, its link to its predecessor is compared, the
  checksum file must say the same, every archive is read and hashed; ``deep`` also takes the
  archives apart, hashes every file, parses every record and counts them.
- A *finding* is a fact about one backup on one sink. Verifying goes on after it: the reader gets
  all of them. What could not be read is no finding but a problem, and a backup of which nothing
  else is known is not among the verified ones.
- A record without its end is damage in a journal that was read to its last newline, and a note in
  one that was taken byte for byte: because billing was stopped, or as evidence, which is suspect.
- A sink that has stopped answering is not asked once more for each of its backups.
- Verifying nothing is an error, not a success; nor is it a success to verify the latest good backup
  where a newer one is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from backup.catalog import OpenSink, checksum_key, checksums, open_all
from backup.catalog.selection import Chosen, choose, copies_of, known_journals, no_backups
from backup.errors import (
    BackupError,
    IntegrityError,
    ObjectMissingError,
    SinkError,
    SinkStalledError,
    UnsupportedFormatError,
)
from backup.events import Problem
from backup.manifest import Archive, Manifest
from backup.model import Digest, size_text
from backup.page import Cell, Page
from backup.records import Checker, Count
from backup.results import Legend, Result, count
from backup.retrieval.extraction import extract
from backup.run import Run
from backup.sinks import STALL_SECONDS, Sink
from backup.streams import call, prefetch

_DAMAGE: Final = (IntegrityError, ObjectMissingError)
"""What is wrong with a backup; looked for before what is wrong with its sink."""
_UNREADABLE: Final = (SinkError, UnsupportedFormatError)
"""What keeps us from knowing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What came of verifying one backup on one sink."""

    journal: str
    id: str
    sink: str
    findings: tuple[str, ...]
    archive_bytes: int = 0
    records: int | None = None
    """Records parsed; None where it was not deep."""
    unfinished_bytes: int = 0
    """Behind the last newline, as the journal was left; 0 where it was not deep."""
    suspect: bool = False
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult(Result):
    """What came of verifying."""

    backups: tuple[Verified, ...]
    problems: tuple[Problem, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {"backups": len(self.backups)}

    def write(self, page: Page) -> None:
        """Write it, for people."""
        legend = Legend(row.sink for row in self.backups)
        rows: list[list[str | Cell]] = []
        for row in sorted(self.backups, key=lambda row: (row.journal, row.id, row.sink)):
            notes = ["suspect"] if row.suspect else []
            notes += ["an unfinished record"] if row.unfinished_bytes else []
            notes += [f"alarm {alarm}" for alarm in row.alarms]
            verdict = "damaged" if row.findings else ", ".join(["ok", *notes])
            style = "red" if row.findings else "yellow" if notes else "green"
            records = "" if row.records is None else f"{row.records:,}"
            cells = [row.journal, row.id, size_text(row.archive_bytes), records]
            rows.append([*cells, legend.cell([row.sink]), Cell(verdict, style)])
        page.table(("JOURNAL", "ID", "ARCHIVE", "RECORDS", "SINK", "RESULT"), rows)
        legend.say(page)
        bad = sum(bool(row.findings) for row in self.backups)
        page.line(f"{count(len(self.backups), 'backup')} verified, {bad} damaged")


def verify(
    run: Run, sinks: Sequence[Sink], selector: str | None, *, journal: str | None, deep: bool
) -> VerifyResult:
    """Verify backups on every sink that holds them.

    Args:
        run: told of progress and findings.
        sinks: all of them are verified.
        selector: see :mod:`backup.catalog.selection`; None for every backup.
        journal: restrict it to this journal.
        deep: take the archives apart and parse every record.

    Raises:
        SelectorError: the selector matches none or several.
        SinkError: no sink answers.
    """
    opened = open_all(run, sinks)
    hashed: _Hashed = {}
    results = [
        call(_Verification(run, choice, hashed, deep=deep).perform, stop=run.stop)
        for choice in _to_verify(run, opened, selector, journal)
    ]
    return VerifyResult(
        backups=tuple(r for r in results if r is not None), problems=tuple(run.problems)
    )


def _to_verify(
    run: Run, opened: Sequence[OpenSink], selector: str | None, journal: str | None
) -> list[Chosen]:
    if selector is None:
        names = known_journals(opened, journal)
        if not names:
            raise no_backups()
        return [
            Chosen(sink, backup)
            for sink in opened
            for name in names
            for backup in sink.listing.backups(name)
        ]
    damage = IntegrityError.exit_code
    return [
        copy
        for choice in choose(run, opened, selector, journal=journal, damage_code=damage)
        for copy in copies_of(opened, choice.backup.journal, choice.backup.id)
    ]


_Hashed: TypeAlias = dict[tuple[str, str], Digest]
"""What archives hold, by sink and key: one that several backups share is hashed once."""


class _Verification:
    """The verification of one backup on one sink."""

    def __init__(self, run: Run, chosen: Chosen, hashed: _Hashed, *, deep: bool) -> None:
        self._run = run
        self._chosen = chosen
        self._opened = chosen.opened
        self._hashed = hashed
        self._deep = deep
        self._findings: list[str] = []

    def perform(self) -> Verified | None:
        """Verify it; None if it could not be read, which is a problem then."""
        self._run.stop.check()
        if self._opened.lost is not None:
            return None
        noted = len(self._run.problems)
        result = self._examine()
        if len(self._run.problems) > noted and not self._findings:
            return None
        findings = tuple(dict.fromkeys(self._findings))
        for finding in findings:
            self._tell(IntegrityError(finding))
        return replace(result, findings=findings)

    def _examine(self) -> Verified:
        backup, opened = self._chosen.backup, self._opened
        result = Verified(journal=backup.journal, id=backup.id, sink=opened.url, findings=())
        try:
            manifest = self._chosen.manifest
        except IntegrityError as error:
            self._findings.append(error.message)
            return result
        except _UNREADABLE as error:
            self._note(error)
            return result
        with self._noting():
            self._compare_link(manifest)
        with self._noting():
            self._compare_checksums(manifest)
        counted: Count | None = None
        if self._deep:
            counted = self._unpack(manifest)
        else:
            self._hash_archives(manifest)
        return replace(
            result,
            archive_bytes=manifest.archive_bytes,
            records=counted.records if counted else None,
            unfinished_bytes=counted.unfinished_bytes if counted else 0,
            suspect=manifest.suspect,
            alarms=opened.standing_alarms(manifest),
        )

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Take what is damaged or missing as a finding, and what cannot be read as a problem."""
        try:
            yield
        except _DAMAGE as error:
            self._findings.append(error.message)
        except _UNREADABLE as error:
            self._note(error)

    def _note(self, error: BackupError) -> None:
        more = ""
        if isinstance(error, SinkStalledError):
            self._opened.give_up(error)
            more = "; the backups after it on this sink were not verified"
        self._tell(error, more)

    def _tell(self, error: BackupError, more: str = "") -> None:
        backup = self._chosen.backup
        problem = Problem.of(error, journal=backup.journal, sink=self._opened.url)
        self._run.fail(replace(problem, message=f"{backup.id}: {problem.message}{more}"))

    def _compare_link(self, manifest: Manifest) -> None:
        previous, opened = manifest.previous, self._opened
        if previous is None:
            return
        before = opened.listing.find(manifest.journal, previous.id)
        if before is not None and before.has_manifest:
            found: str | None = opened.manifest_sha256(manifest.journal, previous.id)
        elif before is not None and before.is_pruned:
            found = opened.marked("pruned", manifest.journal, previous.id).manifest_sha256
        else:
            self._findings.append(f"its predecessor {previous.id} is gone, and nobody pruned it")
            return
        if found != previous.manifest_sha256:
            self._findings.append(f"its predecessor {previous.id} is not the one it was made after")

    def _compare_checksums(self, manifest: Manifest) -> None:
        key = checksum_key(manifest.journal, manifest.id)
        if self._opened.read(key) != checksums(manifest.archives):
            self._findings.append(f"{key} is not right")

    def _hash_archives(self, manifest: Manifest) -> None:
        for archive in manifest.archives:
            with self._noting():
                self._compare_hash(archive)

    def _compare_hash(self, archive: Archive) -> None:
        place = (self._opened.url, archive.key)
        if place not in self._hashed:
            self._hashed[place] = self._hash(archive)
        held = self._hashed[place]
        if (held.size_bytes, held.sha256) != (archive.size_bytes, archive.sha256):
            self._findings.append(
                f"{archive.key} holds {held.size_bytes} bytes with SHA-256 {held.sha256},"
                f" not {archive.size_bytes} with {archive.sha256}"
            )

    def _hash(self, archive: Archive) -> Digest:
        digest = Digest()
        chunks = self._opened.sink.open(archive.key)
        for chunk in prefetch(chunks, stop=self._run.stop, stall_seconds=STALL_SECONDS):
            digest.update(chunk)
            self._progress(digest.size_bytes, archive.size_bytes)
        return digest

    def _unpack(self, manifest: Manifest) -> Count | None:
        """Take the archives apart, comparing every hash; count the records, if the end is there."""
        try:
            counted = self._count(manifest)
        except _DAMAGE as error:
            self._findings.append(error.message)
            self._hash_archives(manifest)  # unpacking ends at the first one that is damaged
            return None
        except _UNREADABLE as error:
            self._note(error)
            return None
        self._findings += _wrong_records(counted, manifest)
        return counted

    def _count(self, manifest: Manifest) -> Count:
        checker, done = Checker(), 0
        for piece in extract(self._opened, manifest, stop=self._run.stop):
            # hashing and parsing at once
            for chunk in prefetch(piece.content, stop=self._run.stop):
                if piece.file.is_journal:
                    checker.update(chunk)
                done += len(chunk)
                self._progress(done, manifest.size_bytes)
        return checker.finish()

    def _progress(self, done: int, total: int) -> None:
        backup = self._chosen.backup
        self._run.progress("verify", f"{backup.journal} {backup.id}", done, total)


def _wrong_records(count: Count, manifest: Manifest) -> Iterator[str]:
    if count.bad:
        yield (
            f"{count.bad} of {count.records} records are not JSON objects,"
            f" the first at byte {count.first_bad_offset}"
        )
    is_as_left = manifest.source.consistency == "quiesced" or manifest.suspect
    if count.unfinished_bytes and not is_as_left:
        size = count.unfinished_bytes
        yield f"the last record is not finished: {size} bytes without a newline"
    recorded = manifest.main.records
    if recorded != count.records:
        yield f"the manifest counts {recorded} records, not {count.records}"
