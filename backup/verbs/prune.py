"""``prune``: let go of backups that no rule of the retention keeps, and whose records are safe.

Rules:

- It is dry until it is confirmed: what would go is told, and why all else stays.
- Each sink is looked at for itself: what another one holds makes nothing safe here. A sink that
  is another site's, as its newest manifest has it, is left alone.
- A journal whose newest backup is not good, or of which any alarm stands, is left alone as a
  whole, and so is a backup whose manifest or delivery cannot be read: first find out what that
  means.
- :mod:`backup.catalog.retention` says what may go: never what is neither delivered nor held by a
  newer good backup, by an unbroken chain on the same sink; never the newest good ones.
- The oldest go first, so that what is left by an interruption is what a shorter history would be.
- A manifest goes, its tombstone stays. Archives are remains, and swept once no run can be about to
  share them (:mod:`backup.catalog.remains`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from backup.catalog import Backup, Flaw, OpenSink, StoredManifest, lineage, open_all, retention
from backup.catalog.holdings import require_own_site
from backup.catalog.retention import Candidate, Verdict
from backup.catalog.selection import known_journals
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    ConfigError,
    IntegrityError,
    ManifestError,
    ObjectMissingError,
    SinkError,
    UnsupportedFormatError,
)
from backup.events import BackupsPruned, Problem, Warned
from backup.page import Cell, Page
from backup.results import Legend, Result, count, say_warnings
from backup.run import Run
from backup.settings import RetentionSettings
from backup.sinks import Sink
from backup.streams import spread

_READERS = 8
"""Backups that are read at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Considered:
    """A backup on a sink, and what is to become of it."""

    journal: str
    id: str
    sink: str
    goes: bool
    """It may go; where that was confirmed and nothing failed, it is gone."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult(Result):
    """What came of pruning."""

    confirmed: bool
    """False: nothing was removed, and this is what would be."""
    backups: tuple[Considered, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...] = ()

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {
            "backups": len(self.backups),
            "warnings": len(self.warnings),
            "backups_pruned": sum(b.goes for b in self.backups if self.confirmed),
        }

    def write(self, page: Page) -> None:
        """Write it, for people."""
        legend = Legend(row.sink for row in self.backups)
        fate = "pruned" if self.confirmed else "would go"
        rows: list[list[str | Cell]] = [
            [
                row.journal,
                row.id,
                legend.cell([row.sink]),
                Cell(fate, "yellow") if row.goes else Cell("kept", "green"),
                row.reason,
            ]
            for row in sorted(self.backups, key=lambda row: (row.journal, row.id, row.sink))
        ]
        page.table(("JOURNAL", "ID", "SINK", "FATE", "WHY"), rows)
        legend.say(page)
        gone = sum(row.goes for row in self.backups)
        page.line(f"{gone} of {count(len(rows), 'backup')} {fate}")
        if gone and not self.confirmed:
            page.line("nothing was removed: journal-backup prune --confirm does it")
        say_warnings(page, self.warnings)


@dataclass(frozen=True, slots=True)
class _Read:
    """What is stored of a backup; or why it cannot be read."""

    stored: StoredManifest | None
    is_delivered: bool = False
    error: BackupError | None = None


def prune(
    run: Run,
    sinks: Sequence[Sink],
    policy: RetentionSettings,
    *,
    site: str | None,
    journal: str | None,
    confirmed: bool,
) -> PruneResult:
    """Let go of what may go, on every sink; or say what that would be.

    Args:
        run: told of problems, and of what is gone; its stop is asked before each removal.
        sinks: all of them.
        policy: what is kept.
        site: this one; what is another's is left alone.
        journal: only this one.
        confirmed: remove; else nothing is changed.

    Raises:
        ConfigError: nothing says what to keep.
        SelectorError: no sink has a backup of the given journal.
        SinkError: no sink answers.
        StopError: a signal or the deadline came first.
    """
    if not policy.is_set:
        message = "nothing says what to keep"
        raise ConfigError(message, "set BACKUP_KEEP_LAST, _WITHIN, _DAILY, _WEEKLY or _MONTHLY")
    opened = open_all(run, sinks)
    names = known_journals(opened, journal)
    considered = [
        backup
        for sink in opened
        for backup in _Pruning(run, sink, policy, confirmed=confirmed).consider(names, site)
    ]
    return PruneResult(
        confirmed=confirmed,
        backups=tuple(considered),
        problems=tuple(run.problems),
        warnings=tuple(run.warnings),
    )


class _Pruning:
    """The pruning of one sink."""

    def __init__(
        self, run: Run, opened: OpenSink, policy: RetentionSettings, *, confirmed: bool
    ) -> None:
        self._run = run
        self._opened = opened
        self._policy = policy
        self._confirmed = confirmed

    def consider(self, journals: Iterable[str], site: str | None) -> Iterator[Considered]:
        """Decide on all backups of these journals, and remove those that may go."""
        try:
            require_own_site(self._opened, site)
            for journal in journals:
                if backups := self._opened.listing.backups(journal):
                    yield from self._consider(journal, backups)
        except (SinkError, ConfigError) as error:
            self._run.fail(error, sink=self._opened.url)

    def _consider(self, journal: str, backups: Sequence[Backup]) -> list[Considered]:
        found = self._read_all(backups)
        verdicts = self._decide(journal, backups, found)
        if self._confirmed:
            verdicts = self._carry_out(journal, verdicts, found)
        return [
            Considered(
                journal=journal,
                id=verdict.id,
                sink=self._opened.url,
                goes=verdict.may_go,
                reason=verdict.reason,
            )
            for verdict in verdicts
        ]

    def _read_all(self, backups: Sequence[Backup]) -> dict[str, _Read]:
        read = spread(partial(_read, self._opened), backups, limit=_READERS, stop=self._run.stop)
        return {backup.id: found for backup, found in zip(backups, read, strict=True)}

    def _decide(
        self, journal: str, backups: Sequence[Backup], found: dict[str, _Read]
    ) -> list[Verdict]:
        flaws = {backup.id: self._flaw(found[backup.id]) for backup in backups}
        if (problem := self._objection(journal, flaws, found)) is not None:
            self._run.fail(problem)
            why = f"the journal is left alone: {problem.message}"
            return [Verdict(id=backup.id, may_go=False, reason=why) for backup in backups]
        holders = self._holders([i for i, flaw in flaws.items() if flaw is None], found)
        unread = {i: read.error.message for i, read in found.items() if read.error}
        verdicts = retention.plan(
            [
                Candidate(
                    id=backup.id,
                    is_good=flaws[backup.id] is None,
                    is_delivered=found[backup.id].is_delivered,
                    holder=holders.get(backup.id),
                )
                for backup in backups
            ],
            self._policy,
            self._run.clock(),
        )
        return [
            _stays(v, f"cannot be read: {unread[v.id]}") if v.id in unread else v for v in verdicts
        ]

    def _flaw(self, read: _Read) -> Flaw | None:
        if read.stored is None:
            return Flaw(read.error.message if read.error else "")
        return self._opened.flaw_of(read.stored.manifest)

    def _objection(
        self, journal: str, flaws: dict[str, Flaw | None], found: dict[str, _Read]
    ) -> Problem | None:
        """Say why nothing of a journal may go, whatever the policy says; None if nothing is wrong.

        An alarm stands in every manifest since it was raised, in some branch or other.
        """
        standing = {
            alarm
            for read in found.values()
            if read.stored is not None
            for alarm in self._opened.standing_alarms(read.stored.manifest)
        }
        if standing:
            return Problem(
                exit_code=IntegrityError.exit_code,
                message=f"nothing is pruned while an alarm stands: {', '.join(sorted(standing))}",
                hints=("find out what happened, then: journal-backup acknowledge",),
                journal=journal,
                sink=self._opened.url,
            )
        newest = max(flaws)
        if (flaw := flaws[newest]) is not None:
            return Problem(
                exit_code=NEEDS_A_LOOK,
                message=f"nothing is pruned as {newest}, the newest, is not good: {flaw.message}",
                hints=("back up once more",),
                journal=journal,
                sink=self._opened.url,
            )
        return None

    def _holders(self, good: Iterable[str], found: dict[str, _Read]) -> dict[str, str]:
        """Say of each backup which newer good one holds its records: the newest of them."""

        def look(backup_id: str) -> StoredManifest | None:
            read = found.get(backup_id)
            return read.stored if read else None

        holders: dict[str, str] = {}
        for holder in sorted(good, reverse=True):
            stored = found[holder].stored
            chain = lineage.ancestors(self._opened, stored.manifest, look) if stored else ()
            for ancestor in chain:
                if ancestor in holders:  # and so are all before it
                    break
                holders[ancestor] = holder
        return holders

    def _carry_out(
        self, journal: str, verdicts: Sequence[Verdict], found: dict[str, _Read]
    ) -> list[Verdict]:
        done: list[Verdict] = []
        failure: BackupError | None = None
        for verdict in verdicts:
            read = found[verdict.id]
            if not verdict.may_go or read.stored is None:
                done.append(verdict)
                continue
            if failure is None:
                failure = self._remove(read.stored)
            done.append(verdict if failure is None else _stays(verdict, "it could not be removed"))
        gone = sum(verdict.may_go for verdict in done)
        if gone:
            self._run.emit(
                BackupsPruned(
                    journal=journal, sink=self._opened.url, backups=gone, kept=len(done) - gone
                )
            )
        return done

    def _remove(self, stored: StoredManifest) -> BackupError | None:
        """Remove a backup; give what kept it from that."""
        self._run.stop.check()
        try:
            self._opened.prune(stored, at=self._run.clock())
        except (SinkError, ManifestError) as error:
            journal, sink = stored.manifest.journal, self._opened.url
            self._run.fail(error, journal=journal, sink=sink, exit_code=NEEDS_A_LOOK)
            return error
        return None


def _read(opened: OpenSink, backup: Backup) -> _Read:
    try:
        stored = opened.manifest(backup.journal, backup.id)
        if is_delivered := "delivered" in backup.marks:
            opened.marked("delivered", backup.journal, backup.id)
    except (ManifestError, UnsupportedFormatError, ObjectMissingError) as error:
        return _Read(None, error=error)
    return _Read(stored, is_delivered=is_delivered)


def _stays(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, may_go=False, reason=reason)
