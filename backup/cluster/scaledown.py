"""Copies while billing is down: for volumes that nobody else may mount, or a cold copy.

The order, and why:

- The budget is checked by the measure of the last times, and refused with its numbers.
- Workers are made, and have to be seen as gated pods: what admission refuses costs no downtime.
- The record is written: from now on anybody can bring billing back. Billing goes to 0, its pods
  end, the gates are opened.
- Workers put archives and leave drafts. What is not needed for that waits: reading back is no
  downtime.
- Workers are gone, billing is scaled back, and ready. Whatever has happened, it is scaled back,
  under a stop of its own; past the budget workers are told to go, and nobody waits for them.
- Then a Job without volumes reads back, and commits.
- The time billing was away is measured from its last ready pod to its being ready again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from backup.cluster.api import Object
from backup.cluster.billing import (
    Back,
    StatefulSet,
    bring_back,
    require_harmless,
    scale_down,
)
from backup.cluster.crew import (
    PUT,
    WAIT_SECONDS,
    Crew,
    Task,
    half_known,
)
from backup.cluster.jobs import REMOVAL_SECONDS
from backup.cluster.lease import MEASURED, Measured, Record
from backup.cluster.pods import is_leaving, is_ready
from backup.cluster.workers import Order, Pod, events_about, worker_name
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    ClusterError,
    ClusterUnavailableError,
    DowntimeError,
    JournalError,
    LeaseLostError,
    RefusedError,
    SinkError,
    StopError,
)
from backup.model import Clock, Problem
from backup.stop import Grace, Stop

RETURN_SECONDS: Final = 600.0
"""How long billing's return is tried: a guard will try it too."""
CLEANUP_SECONDS: Final = 60.0
"""How long it is tried once the run was told to end."""
READY_SECONDS: Final = 600.0
"""How long billing is waited for, to say how long it was away."""
_LEEWAY: Final = timedelta(minutes=2)
_HOW: Final = {
    "gone": "was deleted",
    "made anew": "was made anew",
    "was up": "was scaled up by somebody else",
}


@dataclass(slots=True)
class _Downtime:
    """How long billing is away, and may be."""

    budget: timedelta
    scaled_at: float | None = None
    away_at: float | None = None

    def begin(self) -> None:
        """Billing is told to go."""
        self.scaled_at = self.scaled_at or time.monotonic()

    @property
    def has_begun(self) -> bool:
        """Whether billing was told to go."""
        return self.scaled_at is not None

    def note_away(self) -> None:
        """Billing's last ready pod is no longer ready."""
        self.away_at = self.away_at or time.monotonic()

    @property
    def was_away(self) -> bool:
        """Whether no pod of it was ready, for a while."""
        return self.away_at is not None

    def seconds(self) -> float:
        """Since it is away."""
        return time.monotonic() - (self.away_at or self.scaled_at or time.monotonic())

    def seconds_spent(self) -> float:
        """Since it was told to go: this is what the budget is for."""
        return time.monotonic() - (self.scaled_at or time.monotonic())

    def require_time(self, what: str) -> None:
        """Insist that billing may still be away.

        Raises:
            DowntimeError: it may not.
        """
        seconds = self.budget.total_seconds()
        if self.seconds_spent() > seconds:
            message = f"{what} after {seconds:.0f} s: billing comes first"
            raise DowntimeError(message, "raise BACKUP_MAX_DOWNTIME, or use colocated workers")


def _is_back(pod: Object) -> bool:
    """Whether it is ready, and not on its way out: one that somebody deletes is so for a while."""
    return is_ready(pod) and not is_leaving(pod)


class ScaleDown:
    """The copies of a run, while billing is down."""

    def __init__(
        self, crew: Crew, billing: StatefulSet, *, budget: timedelta, clock: Clock
    ) -> None:
        """Take billing as it was found.

        Args:
            crew: the workers' crew.
            billing: its StatefulSet.
            budget: how long it may be down.
            clock: the time.
        """
        self.downtime_seconds: float | None = None
        """None until billing was away, and is back."""
        self._crew = crew
        self._findings = crew.findings
        self._billing = billing
        self._downtime = _Downtime(budget)
        self._seconds_for_copies: float | None = None
        self._is_in_doubt = False
        self._clock = clock

    def copy(self, tasks: Sequence[Task], *, size_bytes: int) -> None:
        """Back up each volume; every journal has an outcome afterwards.

        Args:
            tasks: the volumes.
            size_bytes: what their newest backups hold, in all.

        Raises:
            BillingDownError: billing may still be down.
            ClusterError, DowntimeError: nothing was done.
        """
        is_stopped = self._billing.replicas == 0
        if not is_stopped:
            require_harmless(self._crew.api, self._billing)
            self._require_affordable(size_bytes)
        self._make_gated(tasks)
        if is_stopped:
            while self._pods_of_billing:
                self._crew.wait()
            self._open_gates(tasks)
        else:
            self._with_billing_down(tasks)
        self._commit()
        self._note_measure()

    @property
    def _pods_of_billing(self) -> list[Object]:
        return self._crew.pods.of_billing(self._billing.name)

    def _require_affordable(self, size_bytes: int) -> None:
        """Refuse what would take longer than billing may be down, by the best of the last times.

        The best, as a night that was slow once says nothing about the next; and who promises too
        much is stopped by the clock.
        """
        lease = self._crew.lease
        known = {
            one.seconds * max(1.0, size_bytes / one.size_bytes): one
            for one in lease.require().measured
            if one.size_bytes
        }
        needed = min(known, default=0.0)
        budget = self._downtime.budget.total_seconds()
        if needed > budget:
            message = (
                f"billing would be down for {needed:.0f} s, and may be for {budget:.0f} s: "
                f"{known[needed].size_bytes:,} bytes took {known[needed].seconds:.0f} s, "
                f"and the newest backups hold {size_bytes:,}"
            )
            forget = (
                f"kubectl -n {self._crew.api.namespace} annotate lease {lease.name} {MEASURED}-"
            )
            raise DowntimeError(
                message,
                "raise BACKUP_MAX_DOWNTIME, or use colocated workers",
                f"to try it all the same: {forget}",
            )

    # -- before billing goes

    def _make_gated(self, tasks: Sequence[Task]) -> None:
        pods = tuple(self._pods_of_billing)
        for task in tasks:
            nodes = {
                str(pod["spec"]["nodeName"])
                for pod in pods
                if pod["metadata"]["name"] in task.volume.pods and pod["spec"].get("nodeName")
            }
            task.made_at = time.monotonic()
            task.job = self._crew.create(
                Order(
                    name=worker_name(self._crew.template, "worker", task.volume.claim),
                    arguments=self._crew.arguments(task.volume, "--draft"),
                    volume=task.volume,
                    near=tuple(sorted(nodes)),
                    billing_pods=pods,
                    is_gated=True,
                    seconds=self._crew.seconds_left(),
                )
            )
        while overdue := [task for task in tasks if not self._crew.look(task)]:
            for task in overdue:
                self._require_admitted(task)
            self._crew.wait()

    def _require_admitted(self, task: Task) -> None:
        told = self._crew.refusal(task)
        if self._crew.pods.has_had(task.job):
            told = "it was deleted"
        if told or self._crew.is_late(task):
            message = f"the worker {task.job} gets no pod: {told or 'no event says why'}"
            raise RefusedError(message, "billing was not scaled down")

    # -- while billing is down

    def _with_billing_down(self, tasks: Sequence[Task]) -> None:
        record = Record(
            uid=self._billing.uid,
            replicas=self._billing.replicas,
            deadline=self._clock() + self._downtime.budget + _LEEWAY,
        )
        failure: ClusterError | DowntimeError | None = None
        self._crew.lease.write_record(record)
        try:
            self._scale_to_zero()
            self._crew.lease.require()
            self._open_gates(tasks)
            self._seconds_for_copies = self._downtime.seconds_spent()
        except (ClusterError, DowntimeError) as error:
            failure = error
        finally:
            state = self._bring_back(tasks, record, failure)
        if isinstance(failure, LeaseLostError):
            raise failure
        if state == "restored":
            self._await_ready(self._billing.replicas)
        elif state == "was up" and self._downtime.was_away:  # with as many as somebody else chose
            self._await_ready(1)
        if failure is not None:
            self._findings.fail(Problem.of(failure))
            for task in (t for t in tasks if not t.is_settled):
                self._crew.give_up(task, self._crew.why_unfinished(task))

    def _scale_to_zero(self) -> None:
        self._findings.step(f"billing goes from {self._billing.replicas} to 0")
        try:
            scale_down(self._crew.api, self._billing, asking=self._downtime.begin)
        except (StopError, ClusterUnavailableError):
            self._is_in_doubt = self._downtime.has_begun  # what was not answered may arrive yet
            raise
        self._findings.step("waiting for billing's pods to end")
        while left := self._pods_of_billing:
            if not any(map(is_ready, left)):
                self._downtime.note_away()
            self._downtime.require_time("billing's pods have not ended")
            self._crew.wait()
        self._downtime.note_away()

    def _open_gates(self, tasks: Sequence[Task]) -> None:
        """Let workers begin, so many at a time, and wait until all have ended."""
        self._findings.step("workers copy the journals")
        is_timed = bool(self._billing.replicas)
        waiting, running = deque(tasks), list[Task]()
        while waiting or running:
            while waiting and len(running) < self._crew.limit:
                task = waiting.popleft()
                self._crew.open_gate(task)
                running.append(task)
            running = [task for task in running if not self._has_copied(task)]
            if is_timed:
                self._downtime.require_time("the copies are not done")
            self._require_down()
            if waiting or running:
                self._crew.wait()

    def _has_copied(self, task: Task) -> bool:
        is_there = self._crew.look(task)
        if task.pod is not None and task.pod.has_ended:
            self._crew.settle(task, task.pod, is_draft=True)
        elif not is_there:
            self._crew.give_up(task, "its worker's pod was deleted")
        elif self._crew.is_late(task):
            self._crew.dismiss(task, self._crew.why_waiting(task))
        else:
            return False
        return True

    def _require_down(self) -> None:
        """Insist that nobody has brought billing back while its journals are copied."""
        if self._pods_of_billing:
            self._crew.lease.require()  # else it was a guard or a hook, and says so
            raise RefusedError(
                "billing was scaled up by somebody else while its journals were copied",
                "does a GitOps controller or an autoscaler own its replicas? exclude the field",
            )

    # -- billing's return

    def _bring_back(
        self, tasks: Sequence[Task], record: Record, failure: BackupError | None
    ) -> Back | None:
        """Scale billing back, whatever has happened; None where it is for others to do.

        Where the Lease is lost to nobody (somebody has deleted it), or to a run that has no record
        in it, nobody else would bring billing back.

        Raises:
            BillingDownError: that failed.
        """
        if isinstance(failure, LeaseLostError) and self._is_for_another():
            return None
        self._remove_workers(tasks)
        api = self._crew.api.under(
            Grace(self._crew.stop, seconds=RETURN_SECONDS, grace_seconds=CLEANUP_SECONDS),
            patience=RETURN_SECONDS,
        )
        state: Back | None = None
        if self._downtime.has_begun:
            self._findings.step(f"billing goes back to {record.replicas}")
            state = bring_back(api, self._billing.name, record)
        if state == "was up" and self._is_in_doubt:
            self._findings.warn("whether billing was scaled down is not known: the guard will see")
            return state
        with suppress(BackupError):  # it is back: whoever finds the record finds that out
            self._crew.lease.under(api).clear_record()
        if state in _HOW and not (state == "was up" and failure):  # which says so already
            self._findings.warn(f"{self._billing.name} {_HOW[state]} meanwhile: left as it is")
        return state

    def _is_for_another(self) -> bool:
        api = self._crew.api.under(Stop(seconds=REMOVAL_SECONDS))
        with suppress(BackupError):
            return self._crew.lease.under(api).is_for_another()
        return False  # as far as is known; and two that bring billing back do no harm

    def _remove_workers(self, tasks: Sequence[Task]) -> None:
        """Have workers release the volumes that they still have, without waiting for them.

        In a time of its own: what it costs, the scaling that follows must not lack.
        """
        api = self._crew.api.under(Stop(seconds=REMOVAL_SECONDS))
        for task in (t for t in tasks if t.pod is None or not t.pod.has_ended):
            with suppress(BackupError):  # billing comes first
                api.delete("jobs", task.job)

    def _await_ready(self, replicas: int) -> None:
        self._findings.step("waiting for billing to be ready")
        until = time.monotonic() + READY_SECONDS
        while sum(map(_is_back, self._pods_of_billing)) < replicas:
            if time.monotonic() > until:
                self._findings.fail(
                    Problem(
                        exit_code=NEEDS_A_LOOK,
                        message=f"billing is scaled back, and not ready after {READY_SECONDS:g} s",
                        hints=("kubectl describe its pods",),
                    )
                )
                break
            self._crew.wait()
        self.downtime_seconds = self._downtime.seconds()
        self._findings.step(f"billing was away for {self.downtime_seconds:.1f} s")

    # -- when billing is back

    def _commit(self) -> None:
        """Have what was put read back and committed, while billing runs."""
        if not any(outcome.is_put for outcome in self._findings.outcomes):
            return
        name = self._crew.create(
            Order(
                name=worker_name(self._crew.template, "commit", "drafts"),
                arguments=("commit", f"--run={self._crew.template.run_id}"),
                seconds=self._crew.seconds_left(),
            )
        )
        pod = self._await_end(name)
        answer = pod.answer if pod else None
        if answer:
            self._crew.hear(answer, name)
        why = pod.why_ended() if pod else self._why_not_begun(name)
        self._judge_commit("" if answer else f": its worker {why}")

    def _why_not_begun(self, job: str) -> str:
        told = events_about(self._crew.api, job)
        return f"did not begin{f' ({told})' if told else ''}"

    def _await_end(self, job: str) -> Pod | None:
        """Wait for a Job's end; None if it has not begun in time."""
        begun = time.monotonic()
        while True:
            body = self._crew.pods.of_job(job)
            pod = Pod(body) if body else None
            if pod is not None and pod.has_ended:
                return pod
            is_late = time.monotonic() - begun > WAIT_SECONDS
            if is_late and (pod is None or not pod.is_running):
                return None
            self._crew.wait()

    def _note_measure(self) -> None:
        """Remember how long the copies took, if all were made; sizes are known since the commit."""
        if self._seconds_for_copies is None or self.downtime_seconds is None:
            return
        size = sum(outcome.size_bytes for outcome in self._findings.outcomes)
        measured = Measured(size_bytes=size, seconds=round(self._seconds_for_copies, 3))
        try:
            self._crew.lease.clear_record()  # if that has failed when billing came back
            self._crew.lease.remember(measured)
        except ClusterError as error:
            self._findings.warn(f"how long this took could not be noted: {error.message}")

    def _judge_commit(self, why: str) -> None:
        run_id = self._crew.template.run_id
        backups = self._crew.find(run_id)
        for place, outcome in enumerate(self._findings.outcomes):
            if not outcome.is_put:
                continue
            if found := backups.get(outcome.journal):
                self._findings.outcomes[place] = replace(
                    outcome,
                    state=found.state if outcome.state == PUT else outcome.state,
                    id=found.id,
                    size_bytes=found.size_bytes,
                    records=found.records,
                )
                if silence := self._crew.silent.get(outcome.journal):
                    self._findings.fail(half_known(outcome.journal, silence))
                continue
            self._findings.outcomes[place] = replace(outcome, state="failed", id=None)
            self._findings.fail(self._uncommitted(outcome.journal, why))

    def _uncommitted(self, journal: str, why: str) -> Problem:
        """Say why a journal is on no sink: it was not put at all, if its worker has not said so."""
        if silence := self._crew.silent.get(journal):
            return Problem(
                exit_code=JournalError.exit_code, message=f"its worker {silence}", journal=journal
            )
        return Problem(
            exit_code=SinkError.exit_code,
            message=f"was put, and is not committed{why}",
            hints=(f"journal-backup commit --run {self._crew.template.run_id}",),
            journal=journal,
        )
