"""Copies while billing is down: for volumes that nobody else may mount, or a cold copy.

The order, and why:

- The budget is checked by the measure of the last times, and refused with its numbers.
- Workers are made, and have to be seen as gated pods: what admission refuses costs no downtime.
- The record is written: from now on anybody can bring billing back. Billing goes to 0, its pods
  end, the gates are opened.
- Workers put archives and leave drafts. What is not needed for that waits: reading back is no
  downtime.
- Workers are gone, billing is scaled back, and ready. Whatever has happened, it is scaled back,
  under a stop of its own; past the budget workers are deleted, and nobody waits for them.
- Then a Job without volumes reads back, and commits (:mod:`backup.cluster.drafts`). How long all
  this takes, and may take, is known to :mod:`backup.cluster.downtime`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Final

from backup.cluster.api import Api, Rule
from backup.cluster.billing import Back, StatefulSet, bring_back, require_harmless, scale_down
from backup.cluster.crew import WORKERS, Copies, Crew, Task
from backup.cluster.downtime import Downtime
from backup.cluster.drafts import commit
from backup.cluster.lease import MEASURED, Measured, Record
from backup.cluster.pods import Pod
from backup.cluster.rescue import REMOVAL_SECONDS
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    ClusterError,
    ClusterUnavailableError,
    DowntimeError,
    LeaseLostError,
    RefusedError,
    StopError,
)
from backup.events import Problem
from backup.stop import Grace, Stop

RETURN_SECONDS: Final = 600.0
"""How long the run tries to scale billing back; the guard tries it too."""
CLEANUP_SECONDS: Final = 60.0
"""The same, from when the run is told to end."""
READY_SECONDS: Final = 600.0
"""How long billing is waited for, to say how long it was away."""
_DEFAULT_DOWNTIME: Final = timedelta(minutes=5)
_LEEWAY: Final = timedelta(minutes=2)
"""Between the end of the budget and the moment from which others may bring billing back."""
_BY_OTHERS: Final = {
    "gone": "was deleted",
    "made anew": "was made anew",
    "was up": "was scaled up by somebody else",
}


class ScaleDown(Copies):
    """The copies of a run, while billing is down."""

    name = "scale-down"
    rights = (
        *WORKERS,
        Rule(group="apps", resource="statefulsets/scale", verbs=("update",), named=True),
        Rule(group="", resource="pods", verbs=("patch",)),
    )
    may_scale = True
    are_drafts = True

    def __init__(self, crew: Crew, billing: StatefulSet) -> None:
        """See :class:`Copies`."""
        super().__init__(crew, billing)
        self._run = crew.run
        self._downtime = Downtime(crew.settings.max_downtime or _DEFAULT_DOWNTIME)
        self._seconds_for_copies: float | None = None
        self._is_in_doubt = False

    def copy(self, tasks: Sequence[Task], *, size_bytes: int) -> None:
        """See :class:`Copies`.

        Raises:
            BillingDownError: billing may still be down.
            ClusterError, DowntimeError: nothing was done.
        """
        is_stopped = self._billing.replicas == 0
        if not is_stopped:
            require_harmless(self._crew.api, self._billing)
            lease, namespace = self._crew.lease, self._crew.api.namespace
            forget = f"kubectl -n {namespace} annotate lease {lease.name} {MEASURED}-"
            measured = lease.require().measured
            self._downtime.require_affordable(size_bytes, measured, forget=forget)
        self._make_gated(tasks)
        if is_stopped:
            while self._pods_of_billing:
                self._crew.wait()
            self._open_gates(tasks)
        else:
            self._with_billing_down(tasks)
        commit(self._crew)
        self._note_measure()

    @property
    def _pods_of_billing(self) -> list[Pod]:
        return self._crew.pods.of_billing(self._billing.name)

    # -- before billing goes

    def _make_gated(self, tasks: Sequence[Task]) -> None:
        """Make all workers, and see that each has a pod."""
        pods = self._pods_of_billing
        for task in tasks:
            task.made_at = time.monotonic()
            were_on = {p.node for p in pods if p.name in task.volume.pods and p.node}
            order = replace(
                self._crew.order(task),
                near=tuple(sorted(were_on)),
                billing_pods=tuple(pod.body for pod in pods),
                is_gated=True,
            )
            task.job = self._crew.create(order)
        while overdue := [task for task in tasks if not self._crew.look(task)]:
            for task in overdue:
                _require_admitted(self._crew, task)
            self._crew.wait()

    # -- while billing is down

    def _with_billing_down(self, tasks: Sequence[Task]) -> None:
        """Have billing down, the journals copied, and billing back."""
        deadline = self._run.clock() + self._downtime.budget + _LEEWAY
        billing = self._billing
        record = Record(uid=billing.uid, replicas=billing.replicas, deadline=deadline)
        failure: ClusterError | DowntimeError | None = None
        self._write_record(record)
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
            self._await_ready(billing.replicas)
        elif state == "was up" and self._downtime.away_at:  # with as many as somebody else chose
            self._await_ready(1)
        if failure is not None:
            self._run.fail(failure)
            for task in (t for t in tasks if not t.is_settled):
                self._crew.outcomes.give_up(task, self._crew.why_unfinished(task))

    def _write_record(self, record: Record) -> None:
        try:
            self._crew.lease.write_record(record)
        except BaseException:  # it may be written all the same, and nobody will scale anything
            _clear_record(self._crew, _persistent(self._crew))
            raise

    def _scale_to_zero(self) -> None:
        self._crew.step(f"billing goes from {self._billing.replicas} to 0")
        try:
            scale_down(self._crew.api, self._billing, asking=self._downtime.begin)
        except (StopError, ClusterUnavailableError):
            self._is_in_doubt = bool(self._downtime.scaled_at)  # what got no answer may arrive yet
            raise
        self._crew.step("waiting for billing's pods to end")
        while left := self._pods_of_billing:
            if not any(pod.is_ready for pod in left):
                self._downtime.note_away()
            self._downtime.require_time("billing's pods have not ended")
            self._crew.wait()
        self._downtime.note_away()

    def _open_gates(self, tasks: Sequence[Task]) -> None:
        """Let workers begin, so many at a time, and wait until all have ended."""
        self._crew.step("workers copy the journals")
        is_timed = bool(self._billing.replicas)
        waiting, running = deque(tasks), list[Task]()
        while waiting or running:
            while waiting and len(running) < self._crew.settings.workers:
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
        """Look after a worker; True once it is over, whatever came of it."""
        is_there = self._crew.look(task)
        if task.pod is not None and task.pod.has_ended:
            self._crew.outcomes.settle(task, task.pod)
        elif not is_there:
            self._crew.outcomes.give_up(task, "its worker's pod was deleted")
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

        A Lease that somebody has deleted, or that another run holds without a record in it, is lost
        too; but then nobody else would bring billing back.

        Raises:
            BillingDownError: that failed.
        """
        if isinstance(failure, LeaseLostError) and _is_for_another(self._crew):
            return None
        _remove_workers(self._crew, tasks)
        api = _persistent(self._crew)
        state: Back | None = None
        if self._downtime.scaled_at:
            self._crew.step(f"billing goes back to {record.replicas}")
            state = bring_back(api, self._billing.name, record)
        if state == "was up" and self._is_in_doubt:
            self._run.warn("whether billing was scaled down is not known: the guard will see")
            return state
        _clear_record(self._crew, api)
        if state in _BY_OTHERS and not (state == "was up" and failure):  # which says so already
            self._run.warn(f"{self._billing.name} {_BY_OTHERS[state]} meanwhile: left as it is")
        return state

    def _await_ready(self, replicas: int) -> None:
        """Wait for so many pods of billing, and say how long it was away."""
        self._crew.step("waiting for billing to be ready")
        until = time.monotonic() + READY_SECONDS
        while sum(p.is_ready and not p.is_leaving for p in self._pods_of_billing) < replicas:
            if time.monotonic() > until:
                self._run.fail(
                    Problem(
                        exit_code=NEEDS_A_LOOK,
                        message=f"billing is scaled back, and not ready after {READY_SECONDS:g} s",
                        hints=("kubectl describe its pods",),
                    )
                )
                break
            self._crew.wait()
        self.downtime_seconds = self._downtime.seconds()
        self._crew.step(f"billing was away for {self.downtime_seconds:.1f} s")

    def _note_measure(self) -> None:
        """Remember how long the copies took, if all were made; sizes are known since the commit."""
        if self._seconds_for_copies is None or self.downtime_seconds is None:
            return
        size = sum(outcome.size_bytes for outcome in self._crew.outcomes.all)
        measured = Measured(size_bytes=size, seconds=round(self._seconds_for_copies, 3))
        try:
            self._crew.lease.clear_record()  # if that has failed when billing came back
            self._crew.lease.remember(measured)
        except ClusterError as error:
            self._run.warn(f"how long this took could not be noted: {error.message}")


def _require_admitted(crew: Crew, task: Task) -> None:
    """Insist that a worker without a pod may yet get one."""
    why = crew.refusal(task)
    if crew.pods.has_had(task.job):
        why = "it was deleted"
    if why or crew.is_late(task):
        message = f"the worker {task.job} gets no pod: {why or 'no event says why'}"
        raise RefusedError(message, "billing was not scaled down")


def _persistent(crew: Crew) -> Api:
    """Give the cluster to whoever has to have his way, also after a stop."""
    return crew.api.under(
        Grace(crew.run.stop, seconds=RETURN_SECONDS, grace_seconds=CLEANUP_SECONDS),
        patience=RETURN_SECONDS,
    )


def _clear_record(crew: Crew, api: Api) -> None:
    with suppress(BackupError):  # billing is up: whoever finds the record finds that out
        crew.lease.under(api).clear_record()


def _is_for_another(crew: Crew) -> bool:
    """Whether another run holds the Lease, with a record in it: scaling back is its task."""
    api = crew.api.under(Stop(seconds=REMOVAL_SECONDS))
    held = None  # as far as is known; and two that bring billing back do no harm
    with suppress(BackupError):
        held = crew.lease.under(api).read()
    return held is not None and bool(held.record) and held.holder not in {"", crew.run.id}


def _remove_workers(crew: Crew, tasks: Sequence[Task]) -> None:
    """Have workers release the volumes that they still have, without waiting for them.

    This has a stop of its own, so that it takes no time from the scaling that follows.
    """
    api = crew.api.under(Stop(seconds=REMOVAL_SECONDS))
    for task in (t for t in tasks if t.pod is None or not t.pod.has_ended):
        with suppress(BackupError):  # billing comes first
            api.delete("jobs", task.job)
