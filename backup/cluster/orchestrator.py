"""One run on volumes that it does not mount.

The order, and why:

- Billing that a run which is gone has left down is brought back, before anything else is looked at
  that may be wrong: a sink that hangs, a setting that does not fit.
- Billing and its volumes are read, and the strategy is chosen.
- The Lease keeps other runs out (``concurrencyPolicy: Forbid`` does not see a Job made by hand),
  and workers that are left are removed.
- Every journal that is expected and on no bound claim is missing, and fails the run.
- Workers make the copies: :mod:`backup.cluster.colocated`, :mod:`backup.cluster.scaledown`.
- Whatever ends the run, what it has made and still runs is removed, and the Lease let go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from backup.cluster.api import Api, Object
from backup.cluster.billing import StatefulSet, read_billing, was_stopped
from backup.cluster.colocated import Colocated
from backup.cluster.crew import (
    Crew,
    Find,
    Findings,
    Task,
    WorkerOutcome,
)
from backup.cluster.jobs import remove_running, remove_workers
from backup.cluster.layout import Volume, choose, read_volumes, require_readable
from backup.cluster.lease import Held, Lease, Owner
from backup.cluster.rescue import ResumeResult, recover, resume
from backup.cluster.scaledown import CLEANUP_SECONDS, ScaleDown
from backup.cluster.workers import Template, read_template, require_rwx
from backup.errors import BackupError, JournalError
from backup.events import Emit, Problem, RunStarted, Warned
from backup.model import Clock, Holdings, Journal, Strategy, StrategySetting, size_text
from backup.page import Cell, Page
from backup.results import STATE_STYLES, Result, count, say_warnings
from backup.stop import Stop

_DEFAULT_DOWNTIME: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the settings say about a run in the cluster."""

    run_id: str
    statefulset: str
    strategy: StrategySetting
    pod: str
    """Ours, by its name; empty outside of the cluster."""
    expect_replicas: int = 0
    """How many journals there have to be at least, by their ordinals."""
    workers: int = 4
    """How many work at a time."""
    max_downtime: timedelta | None = None
    """None: ``auto`` may not scale billing down, and ``scale-down`` has five minutes."""
    allow_stopped: bool = False
    deadline: timedelta = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult(Result):
    """What came of a run."""

    run_id: str
    strategy: Strategy
    started_at: datetime
    duration_seconds: float
    downtime_seconds: float | None
    """None where billing was not scaled down."""
    api_calls: int
    """Requests to the API server."""
    journals: tuple[WorkerOutcome, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        stored = [j for j in self.journals if j.id]
        return {
            "warnings": len(self.warnings),
            "journals": len(self.journals),
            "journals_stored": len(stored),
            "size_bytes": sum(j.size_bytes for j in stored),
            "records": sum(j.records for j in stored),
            "api_calls": self.api_calls,
        }

    def write(self, page: Page) -> None:
        """Write it, for people."""
        columns = ("JOURNAL", "STATE", "SIZE", "RECORDS", "ID", "NODE", "WORKER")
        rows: list[list[str | Cell]] = [
            [
                row.journal,
                Cell(row.state, STATE_STYLES.get(row.state, "red")),
                size_text(row.size_bytes) if row.id else "",
                f"{row.records:,}" if row.id else "",
                row.id or "",
                row.node or "",
                row.worker or "",
            ]
            for row in self.journals
        ]
        page.table(columns, rows)
        say_warnings(page, self.warnings)
        stored = sum(row.id is not None for row in self.journals)
        page.say(
            f"{stored} of {count(len(self.journals), 'journal')} backed up"
            f" in {self.duration_seconds:.1f} s, {self.strategy}; {_billing(self)}"
        )


def _billing(result: ClusterResult) -> str:
    """Say what the run has meant for billing."""
    if result.downtime_seconds is not None:
        return f"billing was away for {result.downtime_seconds:.1f} s"
    return "billing ran on" if result.strategy == "colocated" else "billing was left as it is"


class Orchestrator:
    """A run in the cluster: planned with billing up, if it is to be, and then performed."""

    strategy: Strategy
    """Set by :meth:`plan`, as is all that follows."""
    _owner: Owner
    _billing: StatefulSet
    _volumes: tuple[Volume, ...]
    _claims: Sequence[Object]

    def __init__(
        self,
        api: Api,
        options: Options,
        *,
        ask_sinks: Callable[[], Holdings],
        has_source: Callable[[], bool],
        find: Find,
        clock: Clock,
        emit: Emit,
        stop: Stop,
    ) -> None:
        """Take what a run needs.

        Args:
            api: the cluster.
            options: the settings.
            ask_sinks: gives what sinks hold; this wing knows no sink.
            has_source: tells whether our own pod has BACKUP_SOURCE; asked for ``auto``, which reads
                nothing directly without it.
            find: gives the backups that a run has committed, by journal.
            clock: the time.
            emit: takes steps, problems and warnings.
            stop: asked wherever the run waits.
        """
        self._api = api
        self._options = options
        self._ask_sinks = ask_sinks
        self._has_source = has_source
        self._find = find
        self._clock = clock
        self._stop = stop
        self._findings = Findings(emit)
        self._held = Holdings()
        self._expected: set[str] = set()
        self._downtime: float | None = None
        self._started_at, self._begun = clock(), time.monotonic()

    def plan(self) -> None:
        """Bring billing back if it was left down, read its volumes, and choose the strategy.

        Raises:
            ConfigError: the settings do not fit the cluster.
            BillingDownError: billing may still be down.
            ClusterError: the cluster does not say.
        """
        self._owner = Owner.of(self._api, self._options.pod)
        self._resume()
        self._held = self._ask_sinks()
        for warning in self._held.warnings:
            self._findings.pass_on(warning)
        self._expected = {self._journal(n) for n in range(self._options.expect_replicas)} | {
            name for name in self._held.journals if Journal.is_of(self._options.statefulset, name)
        }
        self._claims = self._api.list("persistentvolumeclaims")
        self._read_volumes()
        self.strategy = self._choose()
        require_readable(self._volumes, self.strategy)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What has gone wrong until now."""
        return tuple(self._findings.problems)

    @property
    def warnings(self) -> tuple[Warned, ...]:
        """What needs a look, as of now."""
        return tuple(self._findings.warnings)

    def _lease(self, *, may_scale: bool = False) -> Lease:
        return Lease(
            self._api,
            self._options.statefulset,
            run_id=self._options.run_id,
            owner=replace(self._owner, may_scale=may_scale),
            clock=self._clock,
        )

    def _resume(self) -> None:
        """Bring billing back if a run that is gone has left it down."""
        resumed = resume(
            self._api,
            self._options.statefulset,
            self._lease(),
            take_over=False,
            emit=self._findings.emit,
        )
        self._take_in(resumed)

    def _take_in(self, resumed: ResumeResult) -> None:
        """Keep what a rescue has reported already."""
        self._findings.warnings += resumed.warnings
        self._findings.problems += resumed.problems
        if resumed.state == "restored":
            self._findings.warn(f"run {resumed.holder} had left billing at 0: it is back")

    def _read_volumes(self) -> None:
        """Read billing as it is now, and where its journals are."""
        self._billing = read_billing(self._api, self._options.statefulset)
        self._volumes = read_volumes(self._claims, self._billing, expected=self._expected)

    def _journal(self, ordinal: int) -> str:
        return Journal(statefulset=self._options.statefulset, ordinal=ordinal).name

    def _choose(self) -> Strategy:
        if self._options.strategy != "auto":
            return self._options.strategy
        return choose(
            self._volumes,
            has_source=self._has_source(),
            may_scale=self._options.max_downtime is not None,
        )

    def perform(self) -> ClusterResult:
        """Do what :meth:`plan` has planned.

        Raises:
            BillingDownError: billing may still be down.
            BackupError: the run could not be done; nothing that it made still runs.
        """
        run_id, pod = self._options.run_id, self._options.pod
        self._findings.emit(RunStarted(verb="backup", run_id=run_id, sinks=()))
        template = read_template(self._api, pod, run_id=run_id, billing=self._billing)
        require_rwx(self._claims, template)
        lease = self._lease(may_scale=self.strategy == "scale-down")
        left = lease.take()
        try:
            self._clear_away(lease, left)
            self._read_volumes()  # billing may have been down until now: brought back since
            self._name_missing()
            crew = self._crew(template, lease)
            with closing(crew.pods):
                self._copy(crew)
        except BaseException:
            self._remove_unfinished()
            raise
        finally:
            self._release(lease)
        return self._result()

    def _crew(self, template: Template, lease: Lease) -> Crew:
        return Crew(
            self._api,
            template,
            lease,
            self._findings,
            strategy=self.strategy,
            limit=self._options.workers,
            deadline=self._options.deadline,
            find=self._find,
            stop=self._stop,
        )

    def _copy(self, crew: Crew) -> None:
        if self._billing.replicas == 0 and not self._options.allow_stopped:
            self._findings.fail(was_stopped(self._billing))
        tasks = [Task(v) for v in self._volumes if v.is_bound and v.journals]
        if self.strategy == "colocated":
            Colocated(crew).copy(tasks)
        elif tasks:
            work = ScaleDown(
                crew,
                self._billing,
                budget=self._options.max_downtime or _DEFAULT_DOWNTIME,
                clock=self._clock,
            )
            work.copy(tasks, size_bytes=self._held.size_bytes)
            self._downtime = work.downtime_seconds

    def _result(self) -> ClusterResult:
        found = self._findings
        return ClusterResult(
            run_id=self._options.run_id,
            strategy=self.strategy,
            started_at=self._started_at,
            duration_seconds=time.monotonic() - self._begun,
            downtime_seconds=self._downtime,
            api_calls=self._api.calls.made,
            journals=tuple(
                sorted(found.outcomes, key=lambda o: (Journal.parse(o.journal), o.journal))
            ),
            problems=self.problems,
            warnings=self.warnings,
        )

    # -- before and after

    def _clear_away(self, lease: Lease, left: Held | None) -> None:
        """Recover from a run that died after this one began; remove workers that were left."""
        if left is not None and left.record is not None:
            self._take_in(
                recover(
                    self._api,
                    self._options.statefulset,
                    lease,
                    left.record,
                    of=left.holder,
                    emit=self._findings.emit,
                )
            )
            lease.take()
        remove_workers(self._api, self._options.statefulset, but=self._options.run_id)

    def _remove_unfinished(self) -> None:
        """Remove what this run has made and still runs; a failure here hides no other."""
        with suppress(BackupError):
            remove_running(self._api.under(Stop(seconds=CLEANUP_SECONDS)), self._options.run_id)

    def _release(self, lease: Lease) -> None:
        """Let others have the Lease; a failure here hides no other."""
        with suppress(BackupError):
            lease.under(self._api.under(Stop(seconds=CLEANUP_SECONDS))).release()

    def _name_missing(self) -> None:
        """Report journals that are expected and that no bound claim holds, each by its name."""
        bound = {j for volume in self._volumes if volume.is_bound for j in volume.journals}
        pending = {j: v.claim for v in self._volumes if not v.is_bound for j in v.journals}
        running = {self._journal(n) for n in range(self._billing.replicas)}
        for name in sorted({*running, *self._expected, *pending} - bound):
            claim = pending.get(name)
            why = f"its claim {claim} is not bound" if claim else "there is no volume claim of it"
            self._findings.lose(name, f"expected, but {why}", claim=claim, state="missing")
        if not bound and not self._findings.outcomes:
            message = f"no journal of {self._billing.name} is on any volume claim"
            self._findings.fail(Problem(exit_code=JournalError.exit_code, message=message))
