"""``list``, ``show`` and ``verify``: what is there, and is it what it claims to be?

Rules:

- ``list`` costs one listing a sink and reads no manifest unless asked for more.
- ``verify`` trusts nothing: the manifest is parsed, its link to its predecessor is compared, the
  checksum file must say the same, every archive is read and hashed; ``deep`` also takes the
  archives apart, hashes every file, parses every record and counts them.
- A finding is a fact about one backup on one sink. Verifying goes on after it: the reader gets
  all of them. What could not be read is no finding but a problem, and such a backup is never
  among the verified ones.
- A sink that has stopped answering is not asked once more for each of its backups.
- No verb succeeds because there was nothing to look at: a journal that nobody knows, and a
  verification of nothing, are errors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from backup.catalog import Backup, Shelf, checksum_key, checksums
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    IntegrityError,
    ObjectMissingError,
    SelectorError,
    SinkError,
    SinkStalledError,
    UnsupportedFormatError,
)
from backup.manifest import Archive, Manifest
from backup.model import (
    Continuity,
    Digest,
    Emit,
    Problem,
    Progressed,
    WithExitCodes,
    id_time,
)
from backup.records import Checker, Count
from backup.sinks import STALL_SECONDS, Sink
from backup.stop import Stop
from backup.streams import call, prefetch
from backup.verbs.extraction import extract
from backup.verbs.selection import (
    Chosen,
    known_journals,
    no_backups,
    open_shelves,
    select,
)

# -- list


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What a manifest adds to a row of the list."""

    continuity: Continuity
    size_bytes: int
    records: int
    suspect: bool
    alarms: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One backup, and the sinks that hold it."""

    journal: str
    id: str
    created_at: datetime
    archive_bytes: int
    """Size of the archives that bear this id; a backup may share older ones besides."""
    marks: tuple[str, ...]
    sinks: tuple[str, ...]
    details: Details | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListResult(WithExitCodes):
    """The backups on all sinks."""

    backups: tuple[Row, ...]
    not_backups: int
    """Objects without a manifest, but for the tombstones of pruned backups: what interruptions
    left, or a run that is under way."""
    problems: tuple[Problem, ...]


def list_backups(
    sinks: Sequence[Sink], *, journal: str | None, long: bool, emit: Emit
) -> ListResult:
    """List the backups of all journals, or of one.

    Raises:
        SelectorError: no sink has a backup of the given journal.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    held: dict[tuple[str, str], list[Chosen]] = defaultdict(list)
    names = known_journals(shelves, journal)
    for shelf in shelves:
        for backup in (b for name in names for b in shelf.listing.backups(name)):
            held[backup.journal, backup.id].append(Chosen(shelf, backup))
    reader = _DetailReader(shelves, emit)
    rows = [_row(c, reader.read(c) if long else None) for _, c in sorted(held.items())]
    return ListResult(
        backups=tuple(rows),
        not_backups=sum(
            len(b.objects)
            for s in shelves
            for b in s.listing.remains()
            if journal in {None, b.journal} and "pruned" not in b.marks
        ),
        problems=(*problems, *reader.problems),
    )


def _row(copies: Sequence[Chosen], details: Details | None) -> Row:
    backup = copies[0].backup
    return Row(
        journal=backup.journal,
        id=backup.id,
        created_at=id_time(backup.id),
        archive_bytes=sum(backup.archives.values()),
        marks=tuple(sorted({mark for c in copies for mark in c.backup.marks})),
        sinks=tuple(c.shelf.url for c in copies),
        details=details,
    )


class _DetailReader:
    """Reads manifests from the first sink that has a good copy of each."""

    def __init__(self, shelves: Sequence[Shelf], emit: Emit) -> None:
        self.problems: list[Problem] = []
        self._emit = emit
        self._answering = {shelf.url for shelf in shelves}

    def read(self, copies: Sequence[Chosen]) -> Details | None:
        """Give what one of the copies says; None if none can be read."""
        for copy in copies:
            if copy.shelf.url not in self._answering:
                continue
            try:
                return _details(copy)
            except SinkError as error:
                if not isinstance(error, ObjectMissingError):  # else removed since it was listed
                    self._answering.discard(copy.shelf.url)
                self._note(error, copy, NEEDS_A_LOOK if self._answering else None)
            except (IntegrityError, UnsupportedFormatError) as error:
                self._note(error, copy, None)
        return None

    def _note(self, error: BackupError, copy: Chosen, exit_code: int | None) -> None:
        problem = Problem.of(
            error, journal=copy.backup.journal, sink=copy.shelf.url, exit_code=exit_code
        )
        self.problems.append(problem)
        self._emit(problem)


def _details(chosen: Chosen) -> Details:
    catalog, backup = chosen.shelf.catalog, chosen.backup
    manifest, _ = catalog.manifest(backup.journal, backup.id)
    return Details(
        continuity=manifest.continuity,
        size_bytes=manifest.size_bytes,
        records=manifest.records,
        suspect=manifest.suspect,
        alarms=catalog.standing_alarms(manifest, chosen.shelf.listing),
    )


# -- show


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowResult(WithExitCodes):
    """One backup in full."""

    sink: str
    also_on: tuple[str, ...]
    manifest: Manifest
    manifest_sha256: str
    marks: tuple[str, ...]
    standing_alarms: tuple[str, ...]
    against: str | None
    """Why it is not a good backup; None if it is one."""
    problems: tuple[Problem, ...]


def show(sinks: Sequence[Sink], selector: str, *, journal: str | None, emit: Emit) -> ShowResult:
    """Show one backup.

    Raises:
        SelectorError: the selector matches none or several.
        IntegrityError: its manifest is damaged.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    found, without = select(shelves, selector, journal=journal)
    if len(found) + len(without) > 1:
        names = ", ".join(
            sorted([c.backup.journal for c in found] + [str(p.journal) for p in without])
        )
        message = f"{len(found) + len(without)} journals have backups: {names}"
        raise SelectorError(message, "name one with --journal")
    if without:
        message = f"{without[0].journal} {without[0].message}"
        raise SelectorError(message, *without[0].hints)
    chosen = found[0]
    catalog, backup, listing = chosen.shelf.catalog, chosen.backup, chosen.shelf.listing
    manifest, digest = catalog.manifest(backup.journal, backup.id)
    return ShowResult(
        sink=chosen.shelf.url,
        also_on=tuple(
            s.url
            for s in shelves
            if s is not chosen.shelf
            and (copy := s.listing.find(backup.journal, backup.id)) is not None
            and copy.has_manifest
        ),
        manifest=manifest,
        manifest_sha256=digest,
        marks=tuple(sorted(backup.marks)),
        standing_alarms=catalog.standing_alarms(manifest, listing),
        against=catalog.why_not_good(backup, listing),
        problems=tuple(problems),
    )


# -- verify


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
    suspect: bool = False
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult(WithExitCodes):
    """What came of verifying."""

    backups: tuple[Verified, ...]
    problems: tuple[Problem, ...]


def verify(
    sinks: Sequence[Sink],
    selector: str | None,
    *,
    journal: str | None,
    deep: bool,
    emit: Emit,
    stop: Stop,
) -> VerifyResult:
    """Verify backups on every sink that holds them.

    Args:
        sinks: all of them are verified.
        selector: see :mod:`backup.verbs.selection`; None for every backup.
        journal: restrict it to this journal.
        deep: take the archives apart and parse every record.
        emit: told of progress and findings.
        stop: asked while waiting.

    Raises:
        SelectorError: the selector matches none or several.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks, emit=emit)
    chosen, without = _to_verify(shelves, selector, journal)
    for problem in without:
        emit(problem)
    verifier = _Verifier(deep=deep, emit=emit, stop=stop, problems=problems + without)
    results = [call(partial(verifier.verify, choice), stop=stop) for choice in chosen]
    return VerifyResult(
        backups=tuple(r for r in results if r is not None), problems=tuple(verifier.problems)
    )


def _to_verify(
    shelves: Sequence[Shelf], selector: str | None, journal: str | None
) -> tuple[list[Chosen], list[Problem]]:
    if selector is None:
        names = known_journals(shelves, journal)
        if not names:
            raise no_backups()
        return [
            Chosen(shelf, backup)
            for shelf in shelves
            for name in names
            for backup in shelf.listing.backups(name)
        ], []
    chosen, without = select(shelves, selector, journal=journal)
    everywhere = [
        Chosen(shelf, copy)
        for choice in chosen
        for shelf in shelves
        if (copy := shelf.listing.find(choice.backup.journal, choice.backup.id)) is not None
        and copy.has_manifest
    ]
    return everywhere, without


@dataclass(slots=True)
class _Verifier:
    """Verifies one backup after the other; an archive that several share is hashed once."""

    deep: bool
    emit: Emit
    stop: Stop
    problems: list[Problem]
    _hashed: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    _silent: set[str] = field(default_factory=set)

    def verify(self, chosen: Chosen) -> Verified | None:
        """Verify one backup; None if it could not be read, which is a problem then."""
        self.stop.check()
        if chosen.shelf.url in self._silent:
            return None
        noted, findings = len(self.problems), _Findings()
        result = self._examine(chosen, findings)
        if len(self.problems) > noted and not findings:
            return None
        for finding in findings:
            self._tell(IntegrityError.exit_code, finding, chosen)
        return replace(result, findings=tuple(findings))

    def _examine(self, chosen: Chosen, findings: _Findings) -> Verified:
        backup, catalog = chosen.backup, chosen.shelf.catalog
        result = Verified(journal=backup.journal, id=backup.id, sink=chosen.shelf.url, findings=())
        try:
            manifest, _ = catalog.manifest(backup.journal, backup.id)
        except IntegrityError as error:
            findings.append(error.message)
            return result
        except (SinkError, UnsupportedFormatError) as error:
            self._note(error, chosen)
            return result
        with self._noting(chosen, findings):
            self._chain(chosen, manifest, findings)
        with self._noting(chosen, findings):
            self._checksums(chosen, manifest, findings)
        so_far = len(findings)
        records = self._deep(chosen, manifest, findings) if self.deep else None
        if not self.deep or (records is None and len(findings) > so_far):  # which, if not all?
            self._archives(chosen, manifest, findings)
        return replace(
            result,
            archive_bytes=manifest.archive_bytes,
            records=records,
            suspect=manifest.suspect,
            alarms=catalog.standing_alarms(manifest, chosen.shelf.listing),
        )

    @contextmanager
    def _noting(self, chosen: Chosen, findings: _Findings) -> Iterator[None]:
        """Take what is damaged or missing as a finding, and what cannot be read as a problem."""
        try:
            yield
        except (IntegrityError, ObjectMissingError) as error:
            findings.append(error.message)
        except (SinkError, UnsupportedFormatError) as error:
            self._note(error, chosen)

    def _note(self, error: BackupError, chosen: Chosen) -> None:
        message = error.message
        if isinstance(error, SinkStalledError):
            self._silent.add(chosen.shelf.url)
            message += "; the backups after it on this sink were not verified"
        self._tell(error.exit_code, message, chosen, error.hints)

    def _tell(
        self, exit_code: int, message: str, chosen: Chosen, hints: Sequence[str] = ()
    ) -> None:
        problem = Problem(
            exit_code=exit_code,
            message=f"{chosen.backup.id}: {message}",
            hints=tuple(hints),
            journal=chosen.backup.journal,
            sink=chosen.shelf.url,
        )
        self.problems.append(problem)
        self.emit(problem)

    def _chain(self, chosen: Chosen, manifest: Manifest, findings: _Findings) -> None:
        previous = manifest.previous
        if previous is None:
            return
        catalog, listing = chosen.shelf.catalog, chosen.shelf.listing
        before = listing.find(manifest.journal, previous.id)
        if before is not None and before.has_manifest:
            found: str | None = catalog.manifest_sha256(manifest.journal, previous.id)
        elif before is not None and "pruned" in before.marks:
            found = catalog.pruned_sha256(manifest.journal, previous.id)
        else:
            findings.append(f"its predecessor {previous.id} is gone, and nobody pruned it")
            return
        if found != previous.manifest_sha256:
            findings.append(f"its predecessor {previous.id} is not the one it was made after")

    def _checksums(self, chosen: Chosen, manifest: Manifest, findings: _Findings) -> None:
        key = checksum_key(manifest.journal, manifest.id)
        if chosen.shelf.catalog.read(key) != checksums(manifest.archives):
            findings.append(f"{key} is not right")

    def _archives(self, chosen: Chosen, manifest: Manifest, findings: _Findings) -> None:
        for archive in manifest.archives:
            with self._noting(chosen, findings):
                self._archive(chosen, archive, findings)

    def _archive(self, chosen: Chosen, archive: Archive, findings: _Findings) -> None:
        place = (chosen.shelf.url, archive.key)
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
        chunks = chosen.shelf.catalog.sink.open(archive.key)
        for chunk in prefetch(chunks, stop=self.stop, patience=STALL_SECONDS):
            digest.update(chunk)
            self._progress(chosen.backup, digest.size_bytes, archive.size_bytes)
        return digest.size_bytes, digest.sha256

    def _deep(self, chosen: Chosen, manifest: Manifest, findings: _Findings) -> int | None:
        """Take the archives apart; None if that was not possible to the end."""
        checker, done = Checker(), 0
        records: int | None = None
        with self._noting(chosen, findings):
            for piece in extract(chosen.shelf.catalog, manifest, stop=self.stop):
                for chunk in prefetch(piece.content, stop=self.stop):  # hashing and parsing at once
                    if piece.file.is_journal:
                        checker.update(chunk)
                    done += len(chunk)
                    self._progress(chosen.backup, done, manifest.size_bytes)
            records = self._records(checker.finish(), manifest, findings)
        return records  # noqa: RET504 - the block may have ended before it had any

    def _records(self, count: Count, manifest: Manifest, findings: _Findings) -> int:
        if count.bad:
            findings.append(
                f"{count.bad} of {count.records} records are not JSON objects,"
                f" the first at byte {count.first_bad_offset}"
            )
        recorded = manifest.main.records
        if recorded != count.records:
            findings.append(f"the manifest counts {recorded} records, not {count.records}")
        return count.records

    def _progress(self, backup: Backup, done: int, total: int) -> None:
        subject = f"{backup.journal} {backup.id}"
        self.emit(Progressed(verb="verify", subject=subject, done_bytes=done, total_bytes=total))


class _Findings(list[str]):
    """What is wrong with one backup; nothing is said twice."""

    def append(self, finding: str) -> None:
        if finding not in self:
            super().append(finding)
