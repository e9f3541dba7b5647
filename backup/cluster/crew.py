"""The workers of one run: making them, waiting for them, taking in what they say.

All strategies use this, and none knows another. Rules:

- Whoever waits here keeps the Lease alive, and sees all pods by one watch.
- Each journal of a volume gets exactly one outcome, whatever its worker says or does not say.
- A worker without an answer is judged by what it has stored: a lost message is no failure. So are
  journals for which an answer had no room; its exit code it always has.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Final

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from backup.answer import Answer, JournalAnswer
from backup.cluster.api import Api, Rule
from backup.cluster.billing import StatefulSet
from backup.cluster.layout import Volume
from backup.cluster.lease import BEAT_SECONDS, Lease
from backup.cluster.pods import Pod, Pods, events_about, in_brackets
from backup.cluster.workers import Order, Template, make_job, remove_gate, worker_name
from backup.errors import NEEDS_A_LOOK, BackupError, ClusterConflictError, JournalError
from backup.events import Problem, Step
from backup.model import State, Strategy
from backup.results import JournalResult
from backup.run import Run
from backup.settings import ClusterSettings
from backup.stop import SLICE_SECONDS

WAIT_SECONDS: Final = 300.0
"""How long a worker may take to begin, and billing to be there for it."""
LOOK_SECONDS: Final = 5.0
"""After this long events are asked why a Job has no pod, and again after as long."""
PUT: Final = "put"
"""State of a journal whose worker left no answer: something may be stored; the commit will show."""
WORKERS: Final = (
    Rule(group="apps", resource="statefulsets", verbs=("get",), named=True),
    Rule(group="apps", resource="statefulsets/scale", verbs=("get",), named=True),
    Rule(group="", resource="pods", verbs=("get", "list", "watch")),
    Rule(group="", resource="persistentvolumeclaims", verbs=("list",)),
    Rule(group="", resource="events", verbs=("list",)),
    Rule(group="batch", resource="jobs", verbs=("get", "list", "create", "delete")),
    Rule(group="coordination.k8s.io", resource="leases", verbs=("create",)),
    Rule(group="coordination.k8s.io", resource="leases", verbs=("get", "update"), named=True),
)
"""The rights for sending workers; a strategy that needs more says so itself."""

Find = Callable[[str], Mapping[str, JournalAnswer]]
"""Gives the backups that the run of this id has committed, by journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOutcome(JournalResult):
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
    def is_stored(self) -> bool:
        """Whether it is a backup."""
        return self.id is not None

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


def half_known(journal: str, why: str) -> Problem:
    """Say that a journal is stored, and that its worker has not said what else it has met."""
    message = f"was stored; its worker {why}"
    return Problem(exit_code=NEEDS_A_LOOK, message=message, journal=journal)


@dataclass(slots=True)
class Outcomes:
    """What came of each journal of a run, and what the run has to say of that."""

    run: Run
    find: Find
    are_drafts: bool
    """See :class:`Copies`."""
    all: list[WorkerOutcome] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    """Journals whose worker ended without an answer, and how it ended."""

    def lose(self, outcome: WorkerOutcome, why: str, *hints: str) -> None:
        """Note that a journal was not read."""
        self.all.append(outcome)
        self.run.fail(JournalError(why, *hints), journal=outcome.journal)

    def give_up(self, task: Task, why: str, journals: Iterable[str] | None = None) -> None:
        """Note that the journals of a volume were not read: these, or all of them."""
        task.is_settled = True
        claim, worker = task.volume.claim, task.job or None
        for name in task.volume.journals if journals is None else journals:
            self.lose(WorkerOutcome(journal=name, claim=claim, state="failed", worker=worker), why)

    def settle(self, task: Task, pod: Pod) -> None:
        """Take in what a worker that has ended says, or else has done."""
        answer = pod.answer or Answer(exit_code=0, is_cut=True)
        answered = {journal.journal for journal in answer.journals}
        others = [name for name in task.volume.journals if name not in answered]
        silence = "does not speak of it" if pod.answer else pod.why_ended()
        found = self._find_others(others, pod, silence) if answer.is_cut else ()
        self.all.extend(
            WorkerOutcome(**asdict(one), claim=task.volume.claim, node=pod.node, worker=task.job)
            for one in (*answer.journals, *found)
        )
        self.hear(answer, task.job, about=task.volume.journals[0])
        known = {journal.journal for journal in found}
        lost = [name for name in others if name not in known]
        self.give_up(task, f"its worker {silence}", lost)
        if not pod.answer and not pod.has_succeeded and not self.are_drafts:
            for journal in found:
                self.run.fail(half_known(journal.journal, silence))

    def _find_others(self, names: Sequence[str], pod: Pod, silence: str) -> Sequence[JournalAnswer]:
        """Find what came of journals that a worker had no room, or no time, to speak of."""
        if self.are_drafts:  # what was put shows when it is committed
            if not pod.has_succeeded:
                self.silent |= dict.fromkeys(names, silence)
            return [JournalAnswer(journal=name, state=PUT) for name in names]
        backups = self.find(self.run.id) if names else {}
        return [backups[name] for name in names if name in backups]

    def hear(self, answer: Answer, job: str, *, about: str | None = None) -> None:
        """Take in an answer's warnings, problems and exit code.

        Args:
            answer: what a worker says.
            job: its Job.
            about: a journal of it, to which an exit code that no problem explains is put down.
        """
        for warning in answer.warnings:
            self.run.warn(warning)
        for problem in answer.problems:
            self.run.fail(problem)
        if answer.exit_code and answer.exit_code not in {p.exit_code for p in answer.problems}:
            self.run.fail(
                Problem(
                    exit_code=answer.exit_code,
                    message=f"its worker ended with exit code {answer.exit_code}",
                    hints=(f"kubectl logs job/{job} says why",),
                    journal=about,
                )
            )


@dataclass(slots=True)
class Crew:
    """The workers of a run, and the run's Lease while it waits for them."""

    run: Run
    api: Api
    settings: ClusterSettings
    """How many may work at a time, and how long all of it may take."""
    template: Template
    lease: Lease
    """In our hands."""
    outcomes: Outcomes
    """Gets that of each journal."""
    copies: type[Copies]
    """The strategy."""
    pods: Pods = field(init=False)
    _deadline: float = field(init=False)
    _beaten_at: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin to watch pods."""
        self.pods = Pods(self.api, stop=self.run.stop)
        self._deadline = time.monotonic() + self.settings.deadline.total_seconds()
        self._beaten_at = time.monotonic()

    def step(self, what: str) -> None:
        """Say what is being done."""
        self.run.emit(Step(what=what))

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
        """Make a worker; give its Job's name.

        Raises:
            ClusterConflictError: it is not there: a quota meets conflicts, too.
        """
        body = make_job(self.template, order)
        tried_again = retry_if_exception_type(ClusterConflictError)
        for attempt in Retrying(stop=stop_after_attempt(3), retry=tried_again, reraise=True):
            with attempt:
                try:
                    self.api.create("jobs", body)
                except ClusterConflictError:  # also by a try of ours whose reply was lost
                    if self.api.get("jobs", order.name) is None:
                        raise
        self.step(f"worker {order.name} made")
        return order.name

    def order(self, task: Task) -> Order:
        """Give what a volume's worker is to do; where, is for the strategy to say."""
        return Order(
            name=worker_name(self.template, "worker", task.volume.claim, task.attempt),
            arguments=(
                "worker",
                f"--run={self.run.id}",
                f"--strategy={self.copies.name}",
                f"--journal={','.join(task.volume.journals)}",
                *(["--draft"] if self.copies.are_drafts else []),
            ),
            volume=task.volume,
            seconds=self.seconds_left(),
        )

    def open_gate(self, task: Task) -> None:
        """Let a worker that waits for billing's end begin."""
        task.made_at = time.monotonic()
        if pod := self.pods.of_job(task.job):
            remove_gate(self.api, pod)

    def remove(self, task: Task) -> None:
        """Delete a worker, and with it its pod, which gets the little grace that it was made with.

        Deleting the pod itself would want a right over all pods, billing's among them.
        """
        self.api.delete("jobs", task.job)

    # -- looking

    def look(self, task: Task) -> bool:
        """Take in how a worker's pod is now; False if there is none."""
        pod = self.pods.of_job(task.job)
        task.pod = pod or task.pod
        return pod is not None

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
        return f"its worker {why}{in_brackets(self.api, *names)}"

    def why_unfinished(self, task: Task) -> str:
        """Say how far a worker had come whose copy is not waited for any longer."""
        how = "ended" if task.pod is not None and task.pod.is_running else "begun"
        where = f" on {task.pod.node}" if task.pod is not None and task.pod.node else ""
        why = ""
        with suppress(BackupError):  # billing is back, and what failed has been reported
            why = in_brackets(self.api, *([task.pod.name] if task.pod else []))
        return f"was not copied: its worker{where} had not {how}{why}"

    def dismiss(self, task: Task, why: str) -> None:
        """Delete a worker that is not waited for any longer, and give its journals up."""
        self.remove(task)
        self.outcomes.give_up(task, why)


class Copies(ABC):
    """A strategy that sends workers: how the copies of a run are made, and what that means."""

    name: ClassVar[Strategy]
    rights: ClassVar[tuple[Rule, ...]] = WORKERS
    """Those that it needs in billing's namespace."""
    may_scale: ClassVar[bool] = False
    """Whether it may scale billing down."""
    are_drafts: ClassVar[bool] = False
    """Whether workers only put, and leave the rest to ``commit``."""
    billing_stays: ClassVar[str] = "billing was left as it is"
    """What the report says where billing was not away."""
    downtime_seconds: float | None = None
    """None until billing was away, and is back."""

    def __init__(self, crew: Crew, billing: StatefulSet) -> None:
        """Take the workers' crew, and billing as it was found."""
        self._crew = crew
        self._billing = billing

    @classmethod  # noqa: B027 - without it, all can be mounted
    def require_readable(cls, volumes: Iterable[Volume]) -> None:
        """Insist that workers can mount these volumes, where the strategy has a say in it.

        Raises:
            ConfigError: they cannot.
        """

    @abstractmethod
    def copy(self, tasks: Sequence[Task], *, size_bytes: int) -> None:
        """Back up each volume; every journal has an outcome afterwards.

        Args:
            tasks: the volumes.
            size_bytes: what their newest backups hold, in all.

        Raises:
            BillingDownError: billing may still be down.
            ClusterError: the cluster does not answer, or another run has taken over.
        """
