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

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import datetime

from backup.cluster.api import Api, Object
from backup.cluster.billing import StatefulSet, journals_of, read_billing, was_stopped
from backup.cluster.crew import Copies, Crew, Find, Outcomes, Task, WorkerOutcome
from backup.cluster.layout import Volume, bound_journals, read_volumes
from backup.cluster.lease import Held, Lease, Owner
from backup.cluster.rescue import ResumeResult, recover, remove_running, remove_workers, resume
from backup.cluster.scaledown import CLEANUP_SECONDS
from backup.cluster.strategies import STRATEGIES, decide
from backup.cluster.workers import read_template, require_rwx
from backup.errors import BackupError, JournalError
from backup.events import Problem, RunStarted, Warned
from backup.model import Holdings, Journal, Strategy, size_text
from backup.page import Cell, Page
from backup.results import STATE_STYLES, RunResult
from backup.run import Run
from backup.settings import ClusterSettings
from backup.stop import Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult(RunResult):
    """What came of a run."""

    run_id: str
    strategy: Strategy
    started_at: datetime
    duration_seconds: float
    downtime_seconds: float | None
    """None where billing was not scaled down."""
    billing_replicas: int
    """As many as billing was scaled to when the run began to copy."""
    api_calls: int
    """Requests to the API server."""
    journals: tuple[WorkerOutcome, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {**RunResult.figures(self), "api_calls": self.api_calls}

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
        billing = STRATEGIES[self.strategy].billing_stays
        if self.downtime_seconds is not None:
            billing = f"billing was away for {self.downtime_seconds:.1f} s"
        elif self.billing_replicas == 0:
            billing = "billing was at 0 when the run began, and was left so"
        self.say(page, f", {self.strategy}; {billing}")


@dataclass(slots=True)
class Orchestrator:
    """A run in the cluster: planned with billing up, if it is to be, and then performed."""

    run: Run
    api: Api
    settings: ClusterSettings
    _: KW_ONLY
    ask_sinks: Callable[[], Holdings]
    """Gives what sinks hold; this wing knows no sink."""
    has_source: Callable[[], bool]
    """See :func:`~backup.cluster.strategies.decide`."""
    find: Find
    strategy: Strategy = field(init=False)
    """Set by :meth:`plan`, as is all that follows."""
    _lease: Lease = field(init=False)
    _billing: StatefulSet = field(init=False)
    _volumes: tuple[Volume, ...] = field(init=False)
    _claims: Sequence[Object] = field(init=False)
    _held: Holdings = field(init=False)
    _expected: set[str] = field(init=False)

    def plan(self) -> None:
        """Bring billing back if it was left down, read its volumes, and choose the strategy.

        Raises:
            ConfigError: the settings do not fit the cluster.
            BillingDownError: billing may still be down.
            ClusterError: the cluster does not say.
        """
        name = self.settings.statefulset
        self._lease = Lease(self.run, self.api, name, owner=Owner.of(self.api, self.run.pod))
        self._take_in(resume(self._lease, take_over=False))
        self._held = self.ask_sinks()
        known = {journal for journal in self._held.journals if Journal.is_of(name, journal)}
        self._expected = known | journals_of(name, self.settings.expect_replicas)
        self._claims = self.api.list("persistentvolumeclaims")
        self._read_volumes()
        self.strategy = decide(self.settings, self._volumes, has_source=self.has_source)

    def _take_in(self, resumed: ResumeResult) -> None:
        """Tell of billing that a rescue has brought back."""
        if resumed.state == "restored":
            self.run.warn(f"run {resumed.holder} had left billing at 0: it is back")

    def _read_volumes(self) -> None:
        """Read billing as it is now, and where its journals are."""
        self._billing = read_billing(self.api, self.settings.statefulset)
        self._volumes = read_volumes(self._claims, self._billing, expected=self._expected)

    def perform(self) -> ClusterResult:
        """Do what :meth:`plan` has planned.

        Raises:
            BillingDownError: billing may still be down.
            BackupError: the run could not be done; nothing that it made still runs.
        """
        run, copies = self.run, STRATEGIES[self.strategy]
        run.emit(RunStarted(verb="backup", run_id=run.id, sinks=()))
        template = read_template(run, self.api, self._billing)
        require_rwx(self._claims, template)
        outcomes = Outcomes(run, self.find, copies.are_drafts)
        owner = replace(self._lease.owner, may_scale=copies.may_scale)
        lease = replace(self._lease, owner=owner)
        left = lease.take()
        try:
            self._clear_away(lease, left)
            self._read_volumes()  # billing may have been down until now: brought back since
            self._name_missing(outcomes)
            crew = Crew(run, self.api, self.settings, template, lease, outcomes, copies)
            with closing(crew.pods):
                downtime_seconds = self._copy(copies(crew, self._billing))
        except BaseException:
            self._tidy(lambda api: remove_running(api, run.id))  # what it has made and still runs
            raise
        finally:
            self._tidy(lambda api: lease.under(api).release())
        return self._result(outcomes, downtime_seconds)

    def _copy(self, copies: Copies) -> float | None:
        """Make the copies; give how long billing was away for them."""
        if self._billing.replicas == 0 and not self.settings.allow_stopped:
            self.run.fail(was_stopped(self._billing))
        if tasks := [Task(v) for v in self._volumes if v.is_bound and v.journals]:
            copies.copy(tasks, size_bytes=self._held.size_bytes)
        return copies.downtime_seconds

    def _result(self, outcomes: Outcomes, downtime_seconds: float | None) -> ClusterResult:
        found = sorted(outcomes.all, key=lambda o: (Journal.parse(o.journal), o.journal))
        return ClusterResult(
            run_id=self.run.id,
            strategy=self.strategy,
            started_at=self.run.started_at,
            duration_seconds=self.run.seconds,
            downtime_seconds=downtime_seconds,
            billing_replicas=self._billing.replicas,
            api_calls=self.api.calls.made,
            journals=tuple(found),
            problems=tuple(self.run.problems),
            warnings=tuple(self.run.warnings),
        )

    # -- before and after

    def _clear_away(self, lease: Lease, left: Held | None) -> None:
        """Recover from a run that died after this one began; remove workers that were left."""
        if left is not None and left.record is not None:
            self._take_in(recover(lease, left.record, of=left.holder))
            lease.take()
        remove_workers(self.api, lease.statefulset, but=self.run.id)

    def _tidy(self, tidy: Callable[[Api], None]) -> None:
        """Do what is left to do, in a time of its own; a failure here hides no other."""
        with suppress(BackupError):
            tidy(self.api.under(Stop(seconds=CLEANUP_SECONDS)))

    def _name_missing(self, outcomes: Outcomes) -> None:
        """Report journals that are expected and that no bound claim holds, each by its name."""
        bound = bound_journals(self._volumes)
        pending = {j: v.claim for v in self._volumes if not v.is_bound for j in v.journals}
        for name in sorted({*self._billing.journals, *self._expected, *pending} - bound):
            claim = pending.get(name)
            why = f"its claim {claim} is not bound" if claim else "there is no volume claim of it"
            lost = WorkerOutcome(journal=name, claim=claim, state="missing")
            replicas, held = self.settings.expect_replicas, self._held.journals
            promises = self._billing.promises(name, replicas=replicas, held=held)
            outcomes.lose(lost, f"expected, but {why}", *promises)
        if not bound and not outcomes.all:
            message = f"no journal of {self._billing.name} is on any volume claim"
            self.run.fail(JournalError(message))
