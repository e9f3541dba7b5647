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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from backup.catalog import Backup, OpenSink, StoredManifest, lineage, open_all, retention
from backup.catalog.holdings import require_own_site
from backup.catalog.retention import Candidate
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
    considered: list[Considered] = []
    for sink in opened:
        try:
            require_own_site(sink, site)
            for name in (n for n in names if sink.listing.backups(n)):
                history = _History(run, sink, name)
                fate = history.decide(policy)
                considered += history.carry_out(fate) if confirmed else fate
        except (SinkError, ConfigError) as error:
            run.fail(error, sink=sink.url)
    return PruneResult(
        confirmed=confirmed,
        backups=tuple(considered),
        problems=tuple(run.problems),
        warnings=tuple(run.warnings),
    )


class _History:
    """The backups of a journal on one sink, and what is stored of each."""

    def __init__(self, run: Run, opened: OpenSink, journal: str) -> None:
        self._run = run
        self._opened = opened
        self._journal = journal
        self._backups = opened.listing.backups(journal)
        self._stored: dict[str, StoredManifest] = {}
        self._unread: dict[str, str] = {}
        """Why others cannot be read."""
        found = spread(partial(_read, opened), self._backups, limit=_READERS, stop=run.stop)
        for backup, what in zip(self._backups, found, strict=True):
            if isinstance(what, BackupError):
                self._unread[backup.id] = what.message
            else:
                self._stored[backup.id] = what

    def decide(self, policy: RetentionSettings) -> list[Considered]:
        """Say what is to become of each, the oldest first."""
        if (problem := self._objection()) is not None:
            why = f"the journal is left alone: {problem.message}"
            return [self._considered(backup.id, why) for backup in self._backups]
        good = [backup.id for backup in self._backups if self._flaw(backup.id) is None]
        holders = self._holders(good)
        candidates = [
            Candidate(
                id=backup.id,
                is_good=backup.id in good,
                is_delivered="delivered" in backup.marks and backup.id in self._stored,
                holder=holders.get(backup.id),
            )
            for backup in self._backups
        ]
        return [
            self._considered(verdict.id, f"cannot be read: {self._unread[verdict.id]}")
            if verdict.id in self._unread
            else self._considered(verdict.id, verdict.reason, goes=verdict.may_go)
            for verdict in retention.plan(candidates, policy, self._run.clock())
        ]

    def _considered(self, backup_id: str, reason: str, *, goes: bool = False) -> Considered:
        sink = self._opened.url
        return Considered(journal=self._journal, id=backup_id, sink=sink, goes=goes, reason=reason)

    def _flaw(self, backup_id: str) -> str | None:
        """Say what speaks against a backup; None for a good one."""
        if backup_id in self._unread:
            return self._unread[backup_id]
        flaw = self._opened.flaw_of(self._stored[backup_id].manifest)
        return flaw.message if flaw else None

    def _objection(self) -> Problem | None:
        """Say why nothing of it may go, whatever the policy says; None if nothing is wrong.

        An alarm stands in every manifest since it was raised, in some branch or other.
        """
        opened, newest = self._opened, self._backups[-1].id
        standing = {a for s in self._stored.values() for a in opened.standing_alarms(s.manifest)}
        if standing:
            return self._fail(
                IntegrityError(
                    f"nothing is pruned while an alarm stands: {', '.join(sorted(standing))}",
                    "find out what happened, then: journal-backup acknowledge",
                )
            )
        if (flaw := self._flaw(newest)) is not None:
            message = f"nothing is pruned as {newest}, the newest, is not good: {flaw}"
            return self._fail(BackupError(message, "back up once more"), exit_code=NEEDS_A_LOOK)
        return None

    def _fail(self, error: BackupError, *, exit_code: int | None = None) -> Problem:
        return self._run.fail(
            error, journal=self._journal, sink=self._opened.url, exit_code=exit_code
        )

    def _holders(self, good: Iterable[str]) -> dict[str, str]:
        """Say of each backup which newer good one holds its records: the newest of them."""
        holders: dict[str, str] = {}
        for holder in sorted(good, reverse=True):
            first = self._stored[holder].manifest
            for ancestor in lineage.ancestors(self._opened, first, self._stored.get):
                if ancestor in holders:  # and so are all before it
                    break
                holders[ancestor] = holder
        return holders

    def carry_out(self, considered: Iterable[Considered]) -> list[Considered]:
        """Remove what may go, until one cannot be removed; say what is gone."""
        done: list[Considered] = []
        is_stuck = False
        for backup in considered:
            if backup.goes:
                is_stuck = is_stuck or not self._remove(self._stored[backup.id])
            is_left = backup.goes and is_stuck
            reason = "it could not be removed"
            done.append(replace(backup, goes=False, reason=reason) if is_left else backup)
        gone = sum(backup.goes for backup in done)
        if gone:
            url, kept = self._opened.url, len(done) - gone
            self._run.emit(BackupsPruned(journal=self._journal, sink=url, backups=gone, kept=kept))
        return done

    def _remove(self, stored: StoredManifest) -> bool:
        """Remove a backup; whether it is gone."""
        self._run.stop.check()
        try:
            self._opened.prune(stored, at=self._run.clock())
        except (SinkError, ManifestError) as error:
            self._fail(error, exit_code=NEEDS_A_LOOK)
            return False
        return True


def _read(opened: OpenSink, backup: Backup) -> StoredManifest | BackupError:
    """Read what is stored of a backup; give what keeps it from being read."""
    try:
        stored = opened.manifest(backup.journal, backup.id)
        if "delivered" in backup.marks:
            opened.marked("delivered", backup.journal, backup.id)
    except (ManifestError, UnsupportedFormatError, ObjectMissingError) as error:
        return error
    return stored
