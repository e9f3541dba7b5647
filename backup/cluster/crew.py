"""The workers of one run: making them, waiting for them, taking in what they say.

Both strategies use this, and neither knows the other. Rules:

- Whoever waits here keeps the Lease alive, and sees all pods by one watch.
- Each journal of a volume gets exactly one outcome, whatever its worker says or does not say.
- A worker without an answer is judged by what it has stored: a lost message is no failure. So are
  journals for which an answer had no room; its exit code it always has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from backup.answer import Answer, JournalAnswer
from backup.cluster.api import Api, Object
from backup.cluster.events import events_about
from backup.cluster.layout import Volume
from backup.cluster.lease import BEAT_SECONDS, Lease
from backup.cluster.pods import Pods
from backup.cluster.workers import (
    Order,
    Pod,
    Template,
    make_job,
    remove_gate,
)
from backup.errors import NEEDS_A_LOOK, BackupError, ClusterConflictError, JournalError
from backup.events import Emit, Problem, Step, Warned
from backup.model import State, Strategy
from backup.stop import SLICE_SECONDS, Stop

WAIT_SECONDS: Final = 300.0
"""How long a worker may take to begin, and billing to be there for it."""
LOOK_SECONDS: Final = 5.0
"""After this long events are asked why a Job has no pod, and again after as long."""
PUT: Final = "put"
"""State of a journal whose worker left no answer: something may be stored; the commit will show."""

Find = Callable[[str], Mapping[str, JournalAnswer]]
"""Gives the backups that the run of this id has committed, by journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOutcome:
    """What came of one journal."""

    journal: str
    claim: str | None
    """Its volume's; None where there is none."""
    state: State
    """As its worker has it; ``missing`` where there was no volume, ``failed`` where nothing of it
    is known to be stored."""
    node: str | None = None
    worker: str | None = None
    """The Job that read it."""
    size_bytes: int = 0
    records: int = 0
    id: str | None = None

    @property
    def is_put(self) -> bool:
        """Whether there is something of it on a sink."""
        return self.id is not None or self.state == PUT


@dataclass(slots=True)
class Task:
    """A volume on its way through a run; times are those of :func:`time.monotonic`."""

    volume: Volume
    attempt: int = 1
    job: str = ""
    """Its worker's; empty before one was made."""
    made_at: float = 0.0
    """When its worker was made, or, if it was gated, set free."""
    pod: Pod | None = None
    """Its worker's, as it was seen last."""
    billing_pod: tuple[str, str | None] | None = None
    """Uid and node of the billing pod that its worker is beside."""
    not_before: float = 0.0
    """When its next worker may be made."""
    looked_at: float = 0.0
    """When events were asked about it last."""
    is_settled: bool = False
    """Whether each of its journals has an outcome."""


@dataclass(slots=True)
class Findings:
    """What a run has to say in the end."""

    emit: Emit
    outcomes: list[WorkerOutcome] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Warned] = field(default_factory=list)

    def step(self, what: str) -> None:
        """Say what is being done."""
        self.emit(Step(what=what))

    def fail(self, problem: Problem) -> None:
        """Take in a problem."""
        self.problems.append(problem)
        self.emit(problem)

    def warn(self, message: str) -> None:
        """Take in a warning."""
        self.pass_on(Warned(message=message))

    def pass_on(self, warning: Warned) -> None:
        """Take in a warning of somebody else, unless it was given already."""
        if warning not in self.warnings:
            self.warnings.append(warning)
            self.emit(warning)

    def lose(
        self, journal: str, why: str, *, claim: str | None, state: State, worker: str | None = None
    ) -> None:
        """Note that a journal was not read."""
        self.outcomes.append(
            WorkerOutcome(journal=journal, claim=claim, state=state, worker=worker)
        )
        self.fail(Problem(exit_code=JournalError.exit_code, message=why, journal=journal))


def half_known(journal: str, why: str) -> Problem:
    """Say that a journal is stored, and that its worker has not said what else it has met."""
    message = f"was stored; its worker {why}"
    return Problem(exit_code=NEEDS_A_LOOK, message=message, journal=journal)


class Crew:
    """The workers of a run, and the run's Lease while it waits for them."""

    def __init__(
        self,
        api: Api,
        template: Template,
        lease: Lease,
        findings: Findings,
        *,
        strategy: Strategy,
        limit: int,
        deadline: timedelta,
        find: Find,
        stop: Stop,
    ) -> None:
        """Begin to watch pods.

        Args:
            api: the cluster.
            template: what workers are made of.
            lease: in our hands.
            findings: gets outcomes, problems and steps.
            strategy: for the workers' manifests.
            limit: workers at a time.
            deadline: of the whole run.
            find: see :data:`Find`.
            stop: asked wherever there is something to wait for.
        """
        self.api = api
        self.template = template
        self.lease = lease
        self.findings = findings
        self.strategy = strategy
        self.limit = limit
        self.find = find
        self.stop = stop
        self.silent: dict[str, str] = {}
        """Journals whose worker ended without an answer, and how it ended."""
        self.pods = Pods(api, stop=stop)
        self._deadline = time.monotonic() + deadline.total_seconds()
        self._beaten_at = time.monotonic()

    # -- waiting

    def wait(self) -> None:
        """Wait for news of pods, or a moment; keep the Lease alive.

        Raises:
            LeaseLostError: another run has taken over.
        """
        self.pods.poll(SLICE_SECONDS)
        if time.monotonic() - self._beaten_at >= BEAT_SECONDS:
            self.lease.renew()
            self._beaten_at = time.monotonic()

    def seconds_left(self) -> int:
        """Give the time that a worker may take."""
        return max(60, int(self._deadline - time.monotonic()))

    # -- making and removing

    def create(self, order: Order) -> str:
        """Make a worker; give its Job's name."""
        tried_again = retry_if_exception_type(ClusterConflictError)
        retrying = Retrying(stop=stop_after_attempt(3), retry=tried_again, reraise=True)
        retrying(self._make, order.name, make_job(self.template, order))
        self.findings.step(f"worker {order.name} made")
        return order.name

    def _make(self, name: str, body: Object) -> None:
        """Create a Job, unless it is there: by a try of ours whose reply was lost.

        Raises:
            ClusterConflictError: it is not: a quota meets conflicts, too.
        """
        try:
            self.api.create("jobs", body)
        except ClusterConflictError:
            if self.api.get("jobs", name) is None:
                raise

    def arguments(self, volume: Volume, *more: str) -> tuple[str, ...]:
        """Give the command line of a worker."""
        return (
            "worker",
            f"--run={self.template.run_id}",
            f"--strategy={self.strategy}",
            f"--journal={','.join(volume.journals)}",
            *more,
        )

    def open_gate(self, task: Task) -> None:
        """Let a worker that waits for billing's end begin."""
        task.made_at = time.monotonic()
        if body := self.pods.of_job(task.job):
            remove_gate(self.api, body)

    def remove(self, task: Task) -> None:
        """Delete a worker, and with it its pod, which gets the little grace that it was made with.

        Deleting the pod itself would want a right over all pods, billing's among them.
        """
        self.api.delete("jobs", task.job)

    # -- looking

    def look(self, task: Task) -> bool:
        """Take in how a worker's pod is now; False if there is none."""
        body = self.pods.of_job(task.job)
        if body is not None:
            task.pod = Pod(body)
        return body is not None

    def is_late(self, task: Task) -> bool:
        """Whether it has not begun in time."""
        has_begun = task.pod is not None and task.pod.is_running
        return not has_begun and time.monotonic() - task.made_at > WAIT_SECONDS

    def refusal(self, task: Task) -> str | None:
        """Say why admission refused a worker's pod; None if it has not, as far as is known.

        Nobody watches events: they are asked for, every few seconds, where a pod is overdue.
        """
        now = time.monotonic()
        if task.pod is not None or now - max(task.made_at, task.looked_at) < LOOK_SECONDS:
            return None
        task.looked_at = now
        events = events_about(self.api, task.job)
        return events if "FailedCreate" in events else None

    def why_waiting(self, task: Task) -> str:
        """Say why a worker has not begun."""
        names = [task.job, *([task.pod.name] if task.pod else [])]
        why = task.pod.why_waiting() if task.pod else "has no pod"
        return f"its worker {why}{self.in_brackets(*names)}"

    def why_without_billing(self, task: Task) -> str:
        """Say why a worker that has to be beside billing was not made."""
        pods = task.volume.pods
        return f"{' or '.join(pods)} is not running{self.in_brackets(*pods)}"

    def why_unfinished(self, task: Task) -> str:
        """Say how far a worker had come whose copy is not waited for any longer."""
        how = "ended" if task.pod is not None and task.pod.is_running else "begun"
        where = f" on {task.pod.node}" if task.pod is not None and task.pod.node else ""
        why = ""
        with suppress(BackupError):  # billing is back, and what failed has been reported
            why = self.in_brackets(*([task.pod.name] if task.pod else []))
        return f"was not copied: its worker{where} had not {how}{why}"

    def in_brackets(self, *names: str) -> str:
        """Add what events say about Jobs or pods; nothing, where there is nothing."""
        events = events_about(self.api, *names)
        return f" ({events})" if events else ""

    # -- what came of it

    def give_up(self, task: Task, why: str) -> None:
        """Note that the journals of a volume were not read."""
        task.is_settled = True
        self._lose(task, task.volume.journals, why)

    def dismiss(self, task: Task, why: str) -> None:
        """Delete a worker that is not waited for any longer, and give its journals up."""
        self.remove(task)
        self.give_up(task, why)

    def settle(self, task: Task, pod: Pod, *, is_draft: bool = False) -> None:
        """Take in what a worker that has ended says, or else has done."""
        task.is_settled = True
        answer = pod.answer or Answer(exit_code=0, is_cut=True)
        answered = {journal.journal for journal in answer.journals}
        others = [name for name in task.volume.journals if name not in answered]
        silence = "does not speak of it" if pod.answer else pod.why_ended()
        found = self._find_others(others, pod, silence, is_draft=is_draft) if answer.is_cut else ()
        self._note(task, pod, (*answer.journals, *found))
        self.hear(answer, task.job, about=task.volume.journals[0])
        known = {journal.journal for journal in found}
        self._lose(task, [name for name in others if name not in known], f"its worker {silence}")
        if not pod.answer and not pod.has_succeeded and not is_draft:
            for journal in found:
                self.findings.fail(half_known(journal.journal, silence))

    def _lose(self, task: Task, journals: Iterable[str], why: str) -> None:
        for journal in journals:
            self.findings.lose(
                journal, why, claim=task.volume.claim, state="failed", worker=task.job or None
            )

    def _find_others(
        self, names: Sequence[str], pod: Pod, silence: str, *, is_draft: bool
    ) -> tuple[JournalAnswer, ...]:
        """Find what came of journals that a worker had no room, or no time, to speak of."""
        if is_draft:  # what was put shows when it is committed
            if not pod.has_succeeded:
                self.silent |= dict.fromkeys(names, silence)
            return tuple(JournalAnswer(journal=name, state=PUT) for name in names)
        backups = self.find(self.template.run_id) if names else {}
        return tuple(backups[name] for name in names if name in backups)

    def hear(self, answer: Answer, job: str, *, about: str | None = None) -> None:
        """Take in an answer's warnings, problems and exit code.

        Args:
            answer: what a worker says.
            job: its Job.
            about: a journal of it, to which an exit code that no problem explains is put down.
        """
        for warning in answer.warnings:
            self.findings.pass_on(warning)
        for problem in answer.problems:
            self.findings.fail(problem)
        if answer.exit_code and answer.exit_code not in {p.exit_code for p in answer.problems}:
            self.findings.fail(
                Problem(
                    exit_code=answer.exit_code,
                    message=f"its worker ended with exit code {answer.exit_code}",
                    hints=(f"kubectl logs job/{job} says why",),
                    journal=about,
                )
            )

    def _note(self, task: Task, pod: Pod, journals: Sequence[JournalAnswer]) -> None:
        for journal in journals:
            self.findings.outcomes.append(
                WorkerOutcome(
                    journal=journal.journal,
                    claim=task.volume.claim,
                    state=journal.state,
                    node=pod.node,
                    worker=task.job,
                    size_bytes=journal.size_bytes,
                    records=journal.records,
                    id=journal.id,
                )
            )
