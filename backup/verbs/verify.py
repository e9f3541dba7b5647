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
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

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
    verifier = _Verifier(run, deep=deep)
    results = [
        call(partial(verifier.verify, choice), stop=run.stop)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unpacked:
    """What came of taking the archives of a backup apart."""

    records: int | None = None
    """The records in it; None where the end was not reached."""
    unfinished_bytes: int = 0
    """Behind the last of them."""
    is_damaged: bool = False
    """Whether that was for damage, and not for a sink that cannot be read."""


@dataclass(slots=True)
class _Verifier:
    """Verifies one backup after the other; an archive that several share is hashed once."""

    run: Run
    deep: bool = field(kw_only=True)
    _hashed: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """Size and SHA-256 of archives, by sink and key."""

    def verify(self, chosen: Chosen) -> Verified | None:
        """Verify one backup; None if it could not be read, which is a problem then."""
        self.run.stop.check()
        if chosen.opened.lost is not None:
            return None
        said: list[str] = []
        noted = len(self.run.problems)
        result = self._examine(chosen, said)
        if len(self.run.problems) > noted and not said:
            return None
        findings = tuple(dict.fromkeys(said))
        for finding in findings:
            self._tell(IntegrityError.exit_code, finding, chosen)
        return replace(result, findings=findings)

    def _examine(self, chosen: Chosen, findings: list[str]) -> Verified:
        backup, opened = chosen.backup, chosen.opened
        result = Verified(journal=backup.journal, id=backup.id, sink=opened.url, findings=())
        try:
            manifest = chosen.manifest
        except IntegrityError as error:
            findings.append(error.message)
            return result
        except _UNREADABLE as error:
            self._note(error, chosen)
            return result
        with self._noting(chosen, findings):
            self._compare_link(chosen, manifest, findings)
        with self._noting(chosen, findings):
            self._compare_checksums(chosen, manifest, findings)
        unpacked = self._unpack(chosen, manifest, findings) if self.deep else _Unpacked()
        # Unpacking compares hashes too, but ends at the first archive that is damaged.
        if not self.deep or unpacked.is_damaged:
            self._hash_archives(chosen, manifest, findings)
        return replace(
            result,
            archive_bytes=manifest.archive_bytes,
            records=unpacked.records,
            unfinished_bytes=unpacked.unfinished_bytes,
            suspect=manifest.suspect,
            alarms=opened.standing_alarms(manifest),
        )

    @contextmanager
    def _noting(self, chosen: Chosen, findings: list[str]) -> Iterator[None]:
        """Take what is damaged or missing as a finding, and what cannot be read as a problem."""
        try:
            yield
        except _DAMAGE as error:
            findings.append(error.message)
        except _UNREADABLE as error:
            self._note(error, chosen)

    def _note(self, error: BackupError, chosen: Chosen) -> None:
        message = error.message
        if isinstance(error, SinkStalledError):
            chosen.opened.give_up(error)
            message += "; the backups after it on this sink were not verified"
        self._tell(error.exit_code, message, chosen, error.hints)

    def _tell(
        self, exit_code: int, message: str, chosen: Chosen, hints: Sequence[str] = ()
    ) -> None:
        self.run.fail(
            Problem(
                exit_code=exit_code,
                message=f"{chosen.backup.id}: {message}",
                hints=tuple(hints),
                journal=chosen.backup.journal,
                sink=chosen.opened.url,
            )
        )

    def _compare_link(self, chosen: Chosen, manifest: Manifest, findings: list[str]) -> None:
        previous = manifest.previous
        if previous is None:
            return
        opened = chosen.opened
        before = opened.listing.find(manifest.journal, previous.id)
        if before is not None and before.has_manifest:
            found: str | None = opened.manifest_sha256(manifest.journal, previous.id)
        elif before is not None and "pruned" in before.marks:
            found = opened.marked("pruned", manifest.journal, previous.id).manifest_sha256
        else:
            findings.append(f"its predecessor {previous.id} is gone, and nobody pruned it")
            return
        if found != previous.manifest_sha256:
            findings.append(f"its predecessor {previous.id} is not the one it was made after")

    def _compare_checksums(self, chosen: Chosen, manifest: Manifest, findings: list[str]) -> None:
        key = checksum_key(manifest.journal, manifest.id)
        if chosen.opened.read(key) != checksums(manifest.archives):
            findings.append(f"{key} is not right")

    def _hash_archives(self, chosen: Chosen, manifest: Manifest, findings: list[str]) -> None:
        for archive in manifest.archives:
            with self._noting(chosen, findings):
                self._compare_hash(chosen, archive, findings)

    def _compare_hash(self, chosen: Chosen, archive: Archive, findings: list[str]) -> None:
        place = (chosen.opened.url, archive.key)
        if place not in self._hashed:
            self._hashed[place] = self._hash(chosen, archive)
        size, sha256 = self._hashed[place]
        if (size, sha256) != (archive.size_bytes, archive.sha256):
            findings.append(
                f"{archive.key} holds {size} bytes with SHA-256 {sha256},"
                f" not {archive.size_bytes} with {archive.sha256}"
            )

    def _hash(self, chosen: Chosen, archive: Archive) -> tuple[int, str]:
        digest = Digest()
        chunks = chosen.opened.sink.open(archive.key)
        for chunk in prefetch(chunks, stop=self.run.stop, stall_seconds=STALL_SECONDS):
            digest.update(chunk)
            self._progress(chosen, digest.size_bytes, archive.size_bytes)
        return digest.size_bytes, digest.sha256

    def _unpack(self, chosen: Chosen, manifest: Manifest, findings: list[str]) -> _Unpacked:
        """Take the archives apart, comparing every hash, and parse every record."""
        checker, done = Checker(), 0
        try:
            for piece in extract(chosen.opened, manifest, stop=self.run.stop):
                for chunk in prefetch(
                    piece.content, stop=self.run.stop
                ):  # hashing and parsing at once
                    if piece.file.is_journal:
                        checker.update(chunk)
                    done += len(chunk)
                    self._progress(chosen, done, manifest.size_bytes)
        except _DAMAGE as error:
            findings.append(error.message)
            return _Unpacked(is_damaged=True)
        except _UNREADABLE as error:
            self._note(error, chosen)
            return _Unpacked()
        count = checker.finish()
        findings += _wrong_records(count, manifest)
        return _Unpacked(records=count.records, unfinished_bytes=count.unfinished_bytes)

    def _progress(self, chosen: Chosen, done: int, total: int) -> None:
        backup = chosen.backup
        self.run.progress("verify", f"{backup.journal} {backup.id}", done, total)


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
