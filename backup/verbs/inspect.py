"""``list``, ``show`` and ``verify``: what is there, and is it what it claims to be?

Rules:

- ``list`` costs one listing a sink and reads no manifest unless asked for more.
- ``verify`` trusts nothing: the manifest is parsed, its link to its predecessor is compared, the
  checksum file must say the same, every archive is read and hashed; ``deep`` also takes the
  archives apart, hashes every file and parses every record.
- A finding is a fact about one backup on one sink. Verifying goes on after it: the reader gets
  all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from backup.catalog import Backup, checksum_key, checksums
from backup.errors import (
    BackupError,
    IntegrityError,
    ObjectMissingError,
    SelectorError,
    SinkError,
    StopError,
    UnsupportedFormatError,
)
from backup.manifest import Archive, Manifest
from backup.model import Continuity, Digest, Emit, Problem, Progressed, id_time
from backup.records import Checker
from backup.sinks import STALL_SECONDS, Sink
from backup.stop import Stop
from backup.streams import call, prefetch
from backup.verbs.extraction import extract
from backup.verbs.selection import Chosen, Shelf, open_shelves, select

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
class ListResult:
    """The backups on all sinks."""

    backups: tuple[Row, ...]
    not_backups: int
    """Objects without a manifest: what interruptions left, or a run that is under way."""
    problems: tuple[Problem, ...]

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(p.exit_code for p in self.problems)


def list_backups(
    sinks: Sequence[Sink], *, journal: str | None, long: bool, emit: Emit
) -> ListResult:
    """List the backups of all journals, or of one.

    Raises:
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks)
    held: dict[tuple[str, str], list[Chosen]] = defaultdict(list)
    for shelf in shelves:
        for backup in shelf.listing.every():
            if journal in {None, backup.journal}:
                held[backup.journal, backup.id].append(Chosen(shelf, backup))
    rows: list[Row] = []
    for _, copies in sorted(held.items()):
        details = None
        if long:
            try:
                details = _details(copies[0])
            except (IntegrityError, UnsupportedFormatError) as error:
                problems.append(_problem(error, copies[0]))
        rows.append(_row(copies, details))
    for problem in problems:
        emit(problem)
    return ListResult(
        backups=tuple(rows),
        not_backups=sum(len(b.objects) for s in shelves for b in s.listing.remains()),
        problems=tuple(problems),
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


def _problem(error: BackupError, chosen: Chosen) -> Problem:
    return Problem.of(error, journal=chosen.backup.journal, sink=chosen.shelf.url)


# -- show


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowResult:
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

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(p.exit_code for p in self.problems)


def show(sinks: Sequence[Sink], selector: str, *, journal: str | None, emit: Emit) -> ShowResult:
    """Show one backup.

    Raises:
        SelectorError: the selector matches none or several.
        IntegrityError: its manifest is damaged.
        SinkError: no sink answers.
    """
    shelves, problems = open_shelves(sinks)
    found, without = select(shelves, selector, journal=journal)
    if len(found) != 1:
        found = [_only(found, without)]
    chosen = found[0]
    catalog, backup, listing = chosen.shelf.catalog, chosen.backup, chosen.shelf.listing
    manifest, digest = catalog.manifest(backup.journal, backup.id)
    for problem in problems:
        emit(problem)
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


def _only(found: Sequence[Chosen], without: Sequence[Problem]) -> Chosen:
    if without:
        message = f"{without[0].journal} {without[0].message}"
        raise SelectorError(message, *without[0].hints)
    names = ", ".join(c.backup.journal for c in found)
    message = f"{len(found)} journals have a latest backup: {names}"
    raise SelectorError(message, "name one with --journal")


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
class VerifyResult:
    """What came of verifying."""

    backups: tuple[Verified, ...]
    problems: tuple[Problem, ...]

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(p.exit_code for p in self.problems)


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
    shelves, problems = open_shelves(sinks)
    chosen, without = _to_verify(shelves, selector, journal)
    problems += without
    for problem in problems:
        emit(problem)
    verifier = _Verifier(deep=deep, emit=emit, stop=stop)
    results: list[Verified] = []
    for choice in chosen:
        result = call(partial(verifier.verify, choice), stop=stop)
        results.append(result)
        for finding in result.findings:
            problem = Problem(
                exit_code=IntegrityError.exit_code,
                message=f"{result.id}: {finding}",
                journal=result.journal,
                sink=result.sink,
            )
            problems.append(problem)
            emit(problem)
    return VerifyResult(backups=tuple(results), problems=tuple(problems) + tuple(verifier.problems))


def _to_verify(
    shelves: Sequence[Shelf], selector: str | None, journal: str | None
) -> tuple[list[Chosen], list[Problem]]:
    if selector is None:
        return [
            Chosen(shelf, backup)
            for shelf in shelves
            for backup in shelf.listing.every()
            if journal in {None, backup.journal}
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
    problems: list[Problem] = field(default_factory=list)
    _hashed: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def verify(self, chosen: Chosen) -> Verified:
        backup = chosen.backup
        result = partial(Verified, journal=backup.journal, id=backup.id, sink=chosen.shelf.url)
        try:
            manifest, _ = chosen.shelf.catalog.manifest(backup.journal, backup.id)
        except IntegrityError as error:
            return result(findings=(error.message,))
        except (SinkError, UnsupportedFormatError) as error:
            self._note(error, chosen)
            return result(findings=())
        findings = [*self._chain(chosen, manifest), *self._checksums(chosen, manifest)]
        records = None
        if self.deep:
            records = self._deep(chosen, manifest, findings)
        else:
            findings += self._archives(chosen, manifest)
        return result(
            findings=tuple(findings),
            archive_bytes=manifest.archive_bytes,
            records=records,
            suspect=manifest.suspect,
            alarms=chosen.shelf.catalog.standing_alarms(manifest, chosen.shelf.listing),
        )

    def _note(self, error: BackupError, chosen: Chosen) -> None:
        problem = _problem(error, chosen)
        self.problems.append(problem)
        self.emit(problem)

    def _try(self, chosen: Chosen, check: Callable[[], str | None]) -> Iterator[str]:
        """Run a check; what it says and what is damaged are findings, the rest is a problem."""
        try:
            finding = check()
        except StopError:
            raise
        except (IntegrityError, ObjectMissingError) as error:
            finding = error.message
        except BackupError as error:
            self._note(error, chosen)
            return
        if finding is not None:
            yield finding

    def _chain(self, chosen: Chosen, manifest: Manifest) -> Iterator[str]:
        previous = manifest.previous
        if previous is None:
            return
        catalog, listing = chosen.shelf.catalog, chosen.shelf.listing
        before = listing.find(manifest.journal, previous.id)

        def check() -> str | None:
            if before is not None and before.has_manifest:
                found: str | None = catalog.manifest_sha256(manifest.journal, previous.id)
            elif before is not None and "pruned" in before.marks:
                found = catalog.pruned_sha256(manifest.journal, previous.id)
            else:
                return f"its predecessor {previous.id} is gone, and nobody pruned it"
            if found != previous.manifest_sha256:
                return f"its predecessor {previous.id} is not the one it was made after"
            return None

        yield from self._try(chosen, check)

    def _checksums(self, chosen: Chosen, manifest: Manifest) -> Iterator[str]:
        key = checksum_key(manifest.journal, manifest.id)

        def check() -> str | None:
            held = chosen.shelf.catalog.sink.read(key)
            return None if held == checksums(manifest.archives) else f"{key} is not right"

        yield from self._try(chosen, check)

    def _archives(self, chosen: Chosen, manifest: Manifest) -> Iterator[str]:
        for archive in manifest.archives:
            yield from self._try(chosen, partial(self._archive, chosen, archive))

    def _archive(self, chosen: Chosen, archive: Archive) -> str | None:
        place = (chosen.shelf.url, archive.key)
        if place not in self._hashed:
            self._hashed[place] = self._hash(chosen, archive)
        size, sha256 = self._hashed[place]
        if (size, sha256) == (archive.size_bytes, archive.sha256):
            return None
        return (
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

    def _deep(self, chosen: Chosen, manifest: Manifest, findings: list[str]) -> int:
        checker = Checker()

        def check() -> str | None:
            done = 0
            for piece in extract(chosen.shelf.catalog, manifest, stop=self.stop):
                holds_records = piece.file.path == "journal"
                for chunk in piece.content:
                    if holds_records:
                        checker.update(chunk)
                    done += len(chunk)
                    self._progress(chosen.backup, done, manifest.size_bytes)
            return None

        findings += self._try(chosen, check)
        count = checker.finish()
        if count.bad and not findings:
            findings.append(
                f"{count.bad} of {count.records} records are not JSON objects,"
                f" the first at byte {count.first_bad_offset}"
            )
        return count.records

    def _progress(self, backup: Backup, done: int, total: int) -> None:
        subject = f"{backup.journal} {backup.id}"
        self.emit(Progressed(verb="verify", subject=subject, done_bytes=done, total_bytes=total))
