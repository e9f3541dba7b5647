"""Workers beside billing, while it runs: no downtime.

Rules:

- A worker runs on the node of the billing pod that holds the volume: a ReadWriteOnce volume is for
  one node, and not for one pod. A claim that a scale-in has left is held by nobody, and is read
  wherever it can be.
- Billing comes first. Where its pod is deleted, or is another one or elsewhere, the worker goes at
  once: while it has the volume, the volume cannot follow billing to another node. None is made
  while billing's pod is on its way out. When billing is back, it is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from backup.cluster.billing import StatefulSet
from backup.cluster.crew import WAIT_SECONDS, Copies, Crew, Task
from backup.cluster.layout import Volume
from backup.cluster.pods import Pod, in_brackets
from backup.errors import ConfigError

ATTEMPTS: Final = 3
"""How often a worker is made for a volume."""
AGAIN_SECONDS: Final = 1.0
"""Between the end of a worker and the next one for the same volume."""


class Colocated(Copies):
    """The copies of a run, beside billing."""

    name = "colocated"
    billing_stays = "billing ran on"

    def __init__(self, crew: Crew, billing: StatefulSet) -> None:
        """See :class:`Copies`."""
        super().__init__(crew, billing)
        self._running: list[Task] = []
        self._waiting: list[Task] = []

    @classmethod
    def require_readable(cls, volumes: Iterable[Volume]) -> None:
        """Refuse a volume that is ReadWriteOncePod: billing has it."""
        for volume in volumes:
            if "ReadWriteOncePod" in volume.access_modes:
                message = f"{volume.claim} is ReadWriteOncePod: no second pod may read it"
                raise ConfigError(
                    message,
                    "set BACKUP_STRATEGY=scale-down, and BACKUP_MAX_DOWNTIME to what is fine",
                )

    def copy(self, tasks: Sequence[Task], *, size_bytes: int) -> None:  # noqa: ARG002 - as the base
        """See :class:`Copies`; so many at a time."""
        self._waiting.extend(tasks)
        moved_at = time.monotonic()
        while self._waiting or self._running:
            has_begun, has_ended = self._begin_some(), self._settle_some()
            if has_begun or has_ended:
                moved_at = time.monotonic()
            elif not self._running and time.monotonic() - moved_at > WAIT_SECONDS:
                self._abandon()
            else:
                self._crew.wait()

    def _begin_some(self) -> bool:
        """Begin the tasks that may begin; return whether there were any."""
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            if len(self._running) < self._crew.settings.workers and self._may_begin(task):
                self._begin(task)
            else:
                self._waiting.append(task)
        return len(self._waiting) < len(waiting)

    def _may_begin(self, task: Task) -> bool:
        """Whether billing's pod is where it will stay, as far as anybody knows."""
        if time.monotonic() < task.not_before:
            return False
        if self._billing_pod(task) is not None:
            return True
        return task.volume.is_idle and not self._billing_pods(task)

    def _billing_pods(self, task: Task) -> list[Pod]:
        """Give the pods of billing that have a volume, or want it."""
        return [pod for name in task.volume.pods if (pod := self._crew.pods.get(name))]

    def _billing_pod(self, task: Task) -> Pod | None:
        """Give the pod of billing to be beside: one that is on a node, and stays there."""
        pods = self._billing_pods(task)
        return next((p for p in pods if p.node and not p.is_leaving), None)

    def _begin(self, task: Task) -> None:
        pod = self._billing_pod(task)
        task.billing_pod = pod.identity if pod else None
        task.pod = None
        task.made_at = time.monotonic()
        self._running.append(task)
        order = self._crew.order(task)
        if pod:
            order = replace(order, beside=pod.name, billing_pods=(pod.body,))
        task.job = self._crew.create(order)

    def _settle_some(self) -> bool:
        """Take in what has come of workers; return whether any is over."""
        running = self._running
        self._running = [task for task in running if not self._is_over(task)]
        return len(self._running) < len(running)

    def _is_over(self, task: Task) -> bool:
        """Look after a worker; True once it has ended, or has to be tried again."""
        is_there = self._crew.look(task)
        was_deleted = task.pod is not None and task.pod.was_deleted
        if task.pod is not None and task.pod.has_ended and not was_deleted:
            self._crew.outcomes.settle(task, task.pod)
        elif self._is_in_the_way(task):
            self._crew.remove(task)
            self._try_again(task, "billing's pod has left or moved")
        elif was_deleted or (not is_there and self._crew.pods.has_had(task.job)):
            self._crew.remove(task)
            self._try_again(task, "its worker's pod was deleted")
        elif self._crew.is_late(task):
            self._crew.dismiss(task, self._crew.why_waiting(task))
        elif why_not := self._crew.refusal(task):
            self._crew.dismiss(task, f"the cluster refused its worker's pod: {why_not}")
        else:
            return False
        return True

    def _is_in_the_way(self, task: Task) -> bool:
        """Whether billing's pod has come, left or moved since the worker was made."""
        if task.billing_pod is None:  # there was none: has billing been scaled up?
            return bool(self._billing_pods(task))
        now = self._billing_pod(task)
        return now is None or now.identity != task.billing_pod

    def _try_again(self, task: Task, why: str) -> None:
        if task.attempt >= ATTEMPTS:
            self._crew.outcomes.give_up(task, f"{why}, {ATTEMPTS} times")
            return
        self._crew.step(f"{task.volume.claim} is tried again: {why}")
        task.attempt += 1
        task.not_before = time.monotonic() + AGAIN_SECONDS
        self._waiting.append(task)

    def _abandon(self) -> None:
        """Give up what waits for pods of billing that do not come."""
        for task in self._waiting:
            pods = task.volume.pods
            why = f"{' or '.join(pods)} is not running{in_brackets(self._crew.api, *pods)}"
            self._crew.outcomes.give_up(task, why)
        self._waiting.clear()
