"""A namespace in memory that does what its script says: the double behind the real interface.

:class:`World` is what survives a crash: the objects, and what lives in the cluster. Its controllers
run after every write, before the write returns: a Job gets its pod, a StatefulSet its pods, a pod
that nothing holds back is started, what nobody owns any more is removed. :class:`SimulatedCluster`
is one process that talks to it, a real :class:`~backup.cluster.api.Api`; several may share one
world. A whole run, with what a test says about it::

    world = World()
    world.add_billing(3)                           # StatefulSet, pods on nodes of their own, claims
    world.script("journal-deepgram-billing-1", Worker(does="run out of memory"))
    cluster = SimulatedCluster(world)
    result = perform(cluster, strategy="colocated")   # by the pod of a Job that is made for it
    assert [j.state for j in result.journals] == ["backed up", "failed", "backed up"]
    world.close()                                  # ends the watches

What may be scripted of one process, by operation (``"create jobs"``,
``"replace statefulsets/scale"``, ``"watch pods"``)::

    cluster.fail("create jobs", ClusterDeniedError("403"), times=1)   # the next one fails
    cluster.lose_reply("replace leases")           # done, and asked again: it meets itself
    cluster.on("get leases", act, after=2)         # somebody acts before the third one
    cluster.on("replace statefulsets/scale reply", act)   # or just after it was done
    cluster.crash_before(7)                        # it "dies" at its 7th write,
    cluster.crash_after(7)                         # or when that was done, and has no reply

``writes`` remembers what was written, ``asked`` every request. What a dead process has begun goes
on: its workers are the world's. What a worker does (:data:`Does`) is scripted by its claim, or
``"commit"``, one entry for each attempt; what it stores is in ``world.stored``, and uncommitted in
``world.drafts``, by run and journal. ``world.paused`` names controllers that do nothing for now,
and with ``world.is_slow`` a deleted pod of billing's is on its way out until
:meth:`World.end_leaving`.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatch
from typing import Any, Final, Literal, Self, TypeVar

import pytest

from backup import answer, lanes
from backup.answer import Answer, JournalAnswer
from backup.cluster import colocated, crew, pods
from backup.cluster.api import Api, Calls, Change, Kind, Object, Objects, Rule
from backup.cluster.orchestrator import ClusterResult, Orchestrator
from backup.errors import ClusterConflictError, ClusterError
from backup.events import Emit, Problem, Warned
from backup.model import Clock as ClockLike
from backup.model import Holdings, State
from backup.run import Run
from backup.settings import ClusterSettings
from backup.stop import Stop
from tests.journal_data import Clock, Events
from tests.simulated_sink import CrashError, Fault

T = TypeVar("T")

NAMESPACE: Final = "voice"
BILLING: Final = "deepgram-billing"
RUN_ID: Final = "20261123T120000Z-00aa01"
RUN_POD: Final = "journal-backup-1-x"

Does = Literal[
    "answer",
    "stay silent",
    "fail",
    "run out of memory",
    "be evicted",
    "stay unscheduled",
    "be refused",
    "lack its image",
    "run on",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """What the pod of a worker does once nothing holds it back."""

    does: Does = "answer"
    state: State = "backed up"
    exit_code: int = 0
    journals: tuple[str, ...] | None = None
    """Those that it backs up; None: all that it was told to."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Warned, ...] = ()
    is_cut: bool = False
    """Whether it has more to say than fits."""
    says: str = "because"
    """What an event or a condition says."""
    stores: bool | None = None
    """Whether its backups come to be; None: where it answers, or succeeds without a word."""
    then: Callable[[], object] = lambda: None
    """What happens when it has begun."""


_LOST = {"missing", "unreadable", "failed"}
"""States of which there is no backup."""


@dataclass(slots=True, eq=False)
class Feed:
    """What one watch has yet to tell."""

    kind: Kind
    changes: deque[Change] = field(default_factory=deque)


class World:
    """A namespace: objects, controllers, nodes, and what workers have stored."""

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, str], Object] = {}
        self.stored: dict[str, dict[str, JournalAnswer]] = {}
        self.drafts: dict[str, dict[str, JournalAnswer]] = {}
        self.nodes: dict[str, str] = {}
        """Where the next pod of that name goes."""
        self.paused: set[str] = set()
        self.is_slow = False
        self.lock = threading.RLock()
        self._news = threading.Condition(self.lock)
        self._feeds: list[Feed] = []
        self._closed = False
        self._numbers = itertools.count(1)
        self._scripts: dict[str, deque[Worker]] = {}
        self._workers: dict[str, Worker] = {}
        self._settling = False
        self._changed = False

    # -- what there is

    def add_billing(
        self,
        replicas: int = 2,
        *,
        shared: bool = False,
        modes: Sequence[str] = ("ReadWriteOnce",),
        pod: Object | None = None,
        when_scaled: str = "Retain",
    ) -> None:
        """Make billing: its claims, its StatefulSet, and so its pods."""
        claim = {"name": "journal", "persistentVolumeClaim": {"claimName": "journals"}}
        spec: Object = {"replicas": replicas, "template": {"spec": {**(pod or {})}}}
        if shared:
            spec["template"]["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}, claim]
            self.add_claim("journals", modes=modes)
        else:
            spec["volumeClaimTemplates"] = [{"metadata": {"name": "journal"}}]
            for n in range(replicas):
                self.add_claim(f"journal-{BILLING}-{n}", modes=modes)
        spec["persistentVolumeClaimRetentionPolicy"] = {"whenScaled": when_scaled}
        self.put("statefulsets", {"metadata": {"name": BILLING}, "spec": spec})

    def make_billing_anew(self, replicas: int) -> None:
        """Delete billing and make it again, as an upgrade of immutable fields does."""
        self.remove("statefulsets", BILLING)
        self.add_billing(replicas)

    def add_claim(
        self, name: str, *, modes: Sequence[str] = ("ReadWriteOnce",), phase: str = "Bound"
    ) -> None:
        """Make a volume claim."""
        body: Object = {"metadata": {"name": name}, "spec": {"accessModes": [*modes]}}
        self.put("persistentvolumeclaims", {**body, "status": {"phase": phase}})

    def add_run(self, number: int = 1, *, pod: Object | None = None) -> str:
        """Make the Job of a run, and its pod, which runs; give that pod's name."""
        job = f"journal-backup-{number}"
        template: Object = {"spec": {"containers": [{"name": "backup", "args": ["backup"]}]}}
        template["spec"] |= pod or {}
        body = {"metadata": {"name": job}, "spec": {"template": template}}
        made = self.put("jobs", {**body, "status": {"active": 1}})
        self.put(
            "pods",
            {
                "metadata": {"name": f"{job}-x", "ownerReferences": [_owner("Job", made)]},
                "spec": {**template["spec"], "nodeName": "node-9"},
                "status": {"phase": "Running"},
            },
        )
        return f"{job}-x"

    def add_event(self, about: str, reason: str, message: str | None, **times: Any) -> None:
        """Make an event; of the fields for its time, the API fills in some."""
        name = f"{about}.{next(self._numbers)}"
        body: Object = {"metadata": {"name": name}, "involvedObject": {"name": about}}
        self.put("events", {**body, "reason": reason, "message": message, **times})

    def script(self, subject: str, *workers: Worker) -> None:
        """Say what the workers of a claim do, or of ``"commit"``: one for each attempt."""
        self._scripts[subject] = deque(workers)

    # -- what there is to see

    def get(self, kind: Kind, name: str) -> Object:
        """Look at an object."""
        return self.objects[kind, name]

    def names(self, kind: Kind) -> list[str]:
        """Give the names of what there is of a kind."""
        return sorted(name for of, name in self.objects if of == kind)

    @property
    def replicas(self) -> int:
        """What billing is scaled to."""
        replicas: int = self.get("statefulsets", BILLING)["spec"]["replicas"]
        return replicas

    def pods_of(self, name: str, kind: str = "StatefulSet") -> list[str]:
        """Name the pods that something owns."""
        return [
            pod["metadata"]["name"]
            for pod in self._all("pods")
            if any(
                (o["kind"], o["name"]) == (kind, name)
                for o in pod["metadata"].get("ownerReferences") or ()
            )
        ]

    def ready(self, statefulset: str) -> int:
        """Count its pods that run."""
        with self.lock:
            return sum(self._phase(pod) == "Running" for pod in self.pods_of(statefulset))

    def workers(self, phase: str = "Running") -> list[str]:
        """Name the pods of workers that are in a phase."""
        return [name for name in self._workers if self._phase(name) == phase]

    @property
    def is_told(self) -> bool:
        """Whether every watch has told all that there is to tell."""
        return not any(feed.changes for feed in self._feeds)

    # -- what somebody does

    def put(self, kind: Kind, body: Object) -> Object:
        """Write an object, whatever its version; give it as it is stored."""
        with self.lock:
            metadata = body["metadata"]
            version = str(next(self._numbers))
            metadata = {
                "uid": f"uid-{version}",
                "namespace": NAMESPACE,
                **metadata,
                "resourceVersion": version,
            }
            stored = copy.deepcopy({**body, "metadata": metadata})
            self.objects[kind, metadata["name"]] = stored
            self._tell(kind, Change((stored,), "there"))
            self._settle()
            return copy.deepcopy(stored)

    def edit(self, kind: Kind, name: str, change: Callable[[Object], object]) -> None:
        """Change an object in place."""
        with self.lock:
            body = copy.deepcopy(self.objects[kind, name])
            change(body)
            self.put(kind, body)

    def remove(self, kind: Kind, name: str) -> None:
        """Delete an object, at once and for good."""
        with self.lock:
            body = self.objects.pop((kind, name), None)
            if body is not None:
                self._tell(kind, Change((body,), "gone"))
                self._settle()

    def scale(self, replicas: int) -> None:
        """Scale billing by hand."""
        self.edit("statefulsets", BILLING, lambda body: body["spec"].update(replicas=replicas))

    def move(self, pod: str, node: str) -> None:
        """Have a pod of billing's deleted, and made anew on another node."""
        self.nodes[pod] = node
        self.remove("pods", pod)

    def end_leaving(self) -> None:
        """End the pods that are on their way out."""
        with self.lock:
            for pod in self._all("pods"):
                if "deletionTimestamp" in pod["metadata"]:
                    self.remove("pods", pod["metadata"]["name"])

    def end(self, pod: str, **as_if: Any) -> None:
        """End a worker that runs on, as one that answers, or as it is told."""
        with self.lock:
            self._perform(self.objects["pods", pod], Worker(**as_if))

    def go_on(self, *controllers: str) -> None:
        """Let controllers go on."""
        with self.lock:
            self.paused -= set(controllers)
            self._settle()

    def relist(self, kind: Kind) -> None:
        """Have every watch begin anew."""
        with self.lock:
            self._tell(kind, Change(tuple(self._all(kind)), "all"))

    def close(self) -> None:
        """End every watch."""
        with self.lock:
            self._closed = True
            self._news.notify_all()

    # -- watches

    def watch(self, kind: Kind) -> Iterator[Change]:
        """Tell what is there, and what changes, until the world is closed."""
        with self.lock:
            feed = Feed(kind)
            self._feeds.append(feed)
            everything = tuple(copy.deepcopy(self._all(kind)))
        try:
            yield Change(everything, "all")
            while (change := self._next(feed)) is not None:
                yield change
        finally:
            with self.lock:
                self._feeds.remove(feed)
                self._news.notify_all()

    def _next(self, feed: Feed) -> Change | None:
        with self.lock:
            self._news.wait_for(lambda: feed.changes or self._closed)
            return None if self._closed else feed.changes.popleft()

    def is_left_alone(self, seconds: float) -> bool:
        """Wait so long for the last watch to be given up."""
        with self.lock:
            return self._news.wait_for(lambda: not self._feeds, seconds)

    def _tell(self, kind: Kind, change: Change) -> None:
        self._changed = True
        for feed in self._feeds:
            if feed.kind == kind:
                feed.changes.append(copy.deepcopy(change))
        self._news.notify_all()

    # -- controllers

    def _tell_status(self, kind: Kind, name: str, status: Object) -> None:
        self.edit(kind, name, lambda body: body.update(status=status))

    def _all(self, kind: Kind) -> Objects:
        return [body for (of, _), body in sorted(self.objects.items()) if of == kind]

    def _settle(self) -> None:
        """Run all controllers until none of them has anything to do."""
        if self._settling:
            return
        self._settling = True
        try:
            self._changed = True
            while self._changed:
                self._changed = False
                for name in ("statefulsets", "jobs", "kubelet", "collector"):
                    if name not in self.paused:
                        getattr(self, f"_run_{name}")()
        finally:
            self._settling = False

    def _run_statefulsets(self) -> None:
        for body in self._all("statefulsets"):
            name, wanted = body["metadata"]["name"], body["spec"]["replicas"]
            for pod in self.pods_of(name):
                if int(pod.rpartition("-")[2]) >= wanted:
                    self.delete_pod(pod)
            for n in range(wanted):
                if ("pods", f"{name}-{n}") not in self.objects:
                    self._add_billing_pod(body, n)
            if body.get("status", {}).get("replicas") != wanted:
                self._tell_status("statefulsets", name, {"replicas": wanted})

    def _add_billing_pod(self, body: Object, ordinal: int) -> None:
        name = f"{body['metadata']['name']}-{ordinal}"
        spec = copy.deepcopy(body["spec"]["template"]["spec"])
        if "volumeClaimTemplates" in body["spec"]:
            claim = {"claimName": f"journal-{name}"}
            spec["volumes"] = [{"name": "journal", "persistentVolumeClaim": claim}]
        self.put(
            "pods",
            {
                "metadata": {"name": name, "ownerReferences": [_owner("StatefulSet", body)]},
                "spec": {**spec, "nodeName": self.nodes.get(name, f"node-{ordinal}")},
                "status": {"phase": "Pending"},
            },
        )

    def delete_pod(self, name: str) -> None:
        """Delete a pod; one of billing's takes its time where :attr:`is_slow` says so."""
        pod = self.objects["pods", name]
        if not self.is_slow or name in self._workers:
            self.remove("pods", name)
        elif "deletionTimestamp" not in pod["metadata"]:
            self.edit("pods", name, _leave)

    def _run_jobs(self) -> None:
        for job in self._all("jobs"):
            name, status = job["metadata"]["name"], job.get("status") or {}
            made = self.pods_of(name, "Job")
            if not status:
                self._begin_job(job)
            elif status.get("active"):
                phase = self._phase(made[0]) if made else "Failed"
                ended = {"Succeeded": {"succeeded": 1}, "Failed": {"failed": 1}}.get(phase)
                if ended:
                    self._tell_status("jobs", name, ended)

    def _begin_job(self, job: Object) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        script = self._scripts.get(_subject(template["spec"]))
        worker = script.popleft() if script else Worker()
        if worker.does == "be refused":
            self._tell_status("jobs", name, {"active": 0, "ready": 0})
            self.add_event(name, "FailedCreate", worker.says)
            worker.then()
            return
        self._workers[f"{name}-x"] = worker
        self._tell_status("jobs", name, {"active": 1})
        metadata = copy.deepcopy(template.get("metadata", {}))
        metadata |= {"name": f"{name}-x", "ownerReferences": [_owner("Job", job)]}
        self.put(
            "pods",
            {"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}},
        )

    def _run_collector(self) -> None:
        """Remove what belonged to something that is gone."""
        uids = {body["metadata"]["uid"] for body in self.objects.values()}
        for kind, name in list(self.objects):
            body = self.objects.get((kind, name))
            owners = body["metadata"].get("ownerReferences") if body else None
            if owners and not any(o["uid"] in uids for o in owners):
                if kind == "pods":
                    self.delete_pod(name)
                else:
                    self.remove(kind, name)

    # -- the kubelet, and the scheduler

    def _phase(self, pod: str) -> str:
        body = self.objects.get(("pods", pod), {})
        phase: str = body.get("status", {}).get("phase", "")
        return phase

    def _run_kubelet(self) -> None:
        for pod in self._all("pods"):
            name = pod["metadata"]["name"]
            if self._phase(name) != "Pending" or self._is_held_back(pod):
                continue
            if name in self._workers:
                self._start(pod, self._workers[name])
            else:
                ready = [{"type": "Ready", "status": "True"}]
                status = {"phase": "Running", "conditions": ready}
                self._tell_status("pods", name, status)

    def _is_held_back(self, pod: Object) -> bool:
        if pod["spec"].get("schedulingGates"):
            return True
        for other in self._all("pods"):
            mine, theirs = (_claims(each) & self._exclusive() for each in (pod, other))
            is_over = self._phase(other["metadata"]["name"]) in {"Succeeded", "Failed", "Pending"}
            if other is not pod and mine & theirs and not is_over:
                return True
        beside = _beside(pod)
        return bool(beside) and not any(("pods", name) in self.objects for name in beside)

    def _exclusive(self) -> set[str]:
        return {
            claim["metadata"]["name"]
            for claim in self._all("persistentvolumeclaims")
            if "ReadWriteOncePod" in claim["spec"]["accessModes"]
        }

    def _start(self, pod: Object, worker: Worker) -> None:
        """Schedule a worker's pod, and have it do what its script says."""
        name = pod["metadata"]["name"]
        if worker.does == "stay unscheduled":
            condition = {"type": "PodScheduled", "status": "False", "message": worker.says}
            if pod["status"].get("conditions") != [condition]:
                status = {"phase": "Pending", "conditions": [condition]}
                self._tell_status("pods", name, status)
                worker.then()
            return
        hosts = [self.objects["pods", n] for n in _beside(pod) if ("pods", n) in self.objects]
        node = hosts[0]["spec"]["nodeName"] if hosts else "node-0"
        if worker.does == "lack its image":
            waiting = {"reason": "ImagePullBackOff", "message": worker.says}
            status = _status("Pending", {"waiting": waiting})
            if pod["status"] != status:
                self._tell_status("pods", name, status)
                worker.then()
            return

        def run(body: Object) -> None:
            body["spec"]["nodeName"] = node
            body["status"] = _status("Running", {"running": {}})

        self.edit("pods", name, run)
        worker.then()
        if worker.does != "run on" and self._phase(name) == "Running":
            self._perform(self.objects["pods", name], worker)

    def _perform(self, pod: Object, worker: Worker) -> None:
        """Do what a worker does, and end."""
        done = self._store(pod, worker)
        ended: Object = {"exitCode": worker.exit_code}
        if worker.does == "answer":
            ended["message"] = _answer_of(worker, done)
        if worker.does == "run out of memory":
            ended |= {"exitCode": 137, "reason": "OOMKilled"}
        has_failed = worker.exit_code or worker.does not in {"answer", "stay silent"}
        status = _status("Failed" if has_failed else "Succeeded", {"terminated": ended})
        if worker.does == "be evicted":
            status = {"phase": "Failed", "reason": "Evicted", "message": worker.says}
        self._tell_status("pods", pod["metadata"]["name"], status)

    def _store(self, pod: Object, worker: Worker) -> list[JournalAnswer]:
        """Put backups of what a worker was told to; its drafts wait for the worker that commits."""
        verb, *arguments = pod["spec"]["containers"][0]["args"]
        told = dict(a.removeprefix("--").partition("=")[::2] for a in arguments)
        run_id = told["run"]
        if verb == "commit":
            drafts = self.drafts.pop(run_id, {}) if worker.stores is not False else {}
            self.stored.setdefault(run_id, {}).update(drafts)
            return []
        names = worker.journals if worker.journals is not None else told["journal"].split(",")
        done = [
            JournalAnswer(
                journal=name,
                state=worker.state,
                size_bytes=1000,
                records=10,
                id=f"20261123T120000Z-0000{n:02x}" if worker.state not in _LOST else None,
            )
            for n, name in enumerate(names)
        ]
        speaks = worker.does in {"answer", "stay silent"}
        if speaks if worker.stores is None else worker.stores:
            place = self.drafts if "draft" in told else self.stored
            place.setdefault(run_id, {}).update({d.journal: d for d in done if d.id})
        return done


def _owner(kind: str, body: Object) -> Object:
    return {"kind": kind, "name": body["metadata"]["name"], "uid": body["metadata"]["uid"]}


def _leave(pod: Object) -> None:
    pod["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]


def _status(phase: str, state: Object) -> Object:
    return {"phase": phase, "containerStatuses": [{"state": state}]}


def _claims(pod: Object) -> set[str]:
    volumes = pod["spec"].get("volumes", ())
    claims = (v.get("persistentVolumeClaim", {}).get("claimName") for v in volumes)
    return {claim for claim in claims if claim}


def _subject(spec: Object) -> str:
    """Say what a worker is about: its claim, or ``commit``."""
    sources = [v for v in spec.get("volumes", ()) if v["name"] == "journal-source"]
    claims: list[str] = [v["persistentVolumeClaim"]["claimName"] for v in sources]
    return claims[0] if claims else "commit"


def _beside(pod: Object) -> list[str]:
    terms = pod["spec"].get("affinity", {}).get("podAffinity", {})
    for term in terms.get("requiredDuringSchedulingIgnoredDuringExecution", ()):
        names: list[str] = term["labelSelector"]["matchExpressions"][0]["values"]
        return names
    return []


def _answer_of(worker: Worker, done: Sequence[JournalAnswer]) -> str:
    return answer.write(
        Answer(
            exit_code=worker.exit_code,
            journals=tuple(done),
            problems=worker.problems,
            warnings=worker.warnings,
            is_cut=worker.is_cut,
        )
    )


# -- one process


@dataclass(slots=True)
class Process:
    """What belongs to one process, however many ways to the cluster it uses."""

    calls: Calls = field(default_factory=Calls)
    asked: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    rights_withheld: set[str] = field(default_factory=set)
    """As a verb and a resource: create jobs."""
    written: int = 0
    crash_before: int | None = None
    crash_after: int | None = None
    is_dead: bool = False

    def die(self) -> None:
        """Be gone."""
        self.is_dead = True
        raise CrashError


class _LostError(Exception):
    """A write was done, and its reply does not come."""


class SimulatedCluster(Api):
    """One process that talks to a world."""

    def __init__(
        self,
        world: World | None = None,
        *,
        stop: Stop | None = None,
        process: Process | None = None,
    ) -> None:
        self.namespace = NAMESPACE
        self.world = world or World()
        self.stop = stop or Stop()
        self.process = process or Process()
        self.calls = self.process.calls

    # -- the script

    def fail(
        self,
        operation: str,
        error: Exception,
        *,
        name: str = "*",
        after: int = 0,
        times: int | None = None,
    ) -> None:
        """Let calls of an operation raise."""

        def act(_name: str) -> None:
            raise error

        self.process.faults.append(Fault(operation, act, name, after, times))

    def lose_reply(
        self, operation: str, *, name: str = "*", after: int = 0, times: int | None = 1
    ) -> None:
        """Let writes be done, and then be done once more, as nobody has heard of the first."""
        self.fail(f"{operation} lost", _LostError(), name=name, after=after, times=times)

    def on(
        self,
        operation: str,
        act: Callable[[], object],
        *,
        name: str = "*",
        after: int = 0,
        times: int | None = 1,
    ) -> None:
        """Let somebody act when an operation is asked for, or, with ``reply``, is done."""

        def meet(_name: str) -> None:
            act()

        self.process.faults.append(Fault(operation, meet, name, after, times))

    def crash_before(self, write: int) -> None:
        """Die before the write of that number, counted from 1; and at everything later."""
        self.process.crash_before = write

    def crash_after(self, write: int) -> None:
        """Die when the write of that number is done."""
        self.process.crash_after = write

    @property
    def writes(self) -> list[str]:
        """What has been written: operation, name, and what matters of it."""
        return self.process.writes

    @property
    def asked(self) -> list[str]:
        """What has been asked for: operation and name."""
        return self.process.asked

    def meddle(self, act: Callable[[str], object], *, phase: str = "Running") -> None:
        """Let somebody act on each worker in a phase, when this process has seen it there.

        That it has is known by its having read the Lease three times since: it does so between two
        waits, where ``BEAT_SECONDS`` is 0.
        """
        seen: dict[str, int] = {}

        def look() -> None:
            for name in self.world.workers(phase) if self.world.is_told else ():
                seen[name] = seen.get(name, 0) + 1
                if seen[name] == 3:
                    act(name)

        self.on("get leases", look, times=None)

    def written(self, pattern: str) -> list[str]:
        """Give the writes that look like that."""
        return [write for write in self.writes if fnmatch(write, pattern)]

    # -- the API

    def under(self, stop: Stop, *, patience: float | None = None) -> Self:
        """See :class:`Api`; it is never away for a while, so nobody has to be patient."""
        return type(self)(self.world, stop=stop, process=self.process)

    def get(self, kind: Kind, name: str, *, sub: str = "") -> Object | None:
        """See :class:`Api`."""

        def act() -> Object | None:
            body = copy.deepcopy(self.world.objects.get((kind, name)))
            if body and kind == "statefulsets" and not sub:
                body["status"] = {"readyReplicas": self.world.ready(name), **body["status"]}
            return _scale(body) if body and sub else body

        return self._read(f"get {_path(kind, sub)}", name, act)

    def list(self, kind: Kind, *, labels: str = "", fields: str = "") -> Objects:
        """See :class:`Api`."""

        def act() -> Objects:
            return [
                copy.deepcopy(body)
                for (of, _), body in self.world.objects.items()
                if of == kind and _is_selected(body, labels, fields)
            ]

        return self._read(f"list {kind}", labels or fields, act)

    def create(self, kind: Kind, body: Object) -> Object:
        """See :class:`Api`."""
        name = body["metadata"]["name"]

        def act() -> Object:
            if (kind, name) in self.world.objects:
                message = f'{kind} "{name}" already exists'
                raise ClusterConflictError(message)
            return self.world.put(kind, body)

        return self._write(f"create {kind}", name, act)

    def replace(self, kind: Kind, name: str, body: Object, *, sub: str = "") -> Object:
        """See :class:`Api`."""

        def act() -> Object:
            stored = self.world.objects.get((kind, name))
            if stored is None:
                message = f"{kind} {name} is gone"
                raise ClusterConflictError(message)
            if body["metadata"]["resourceVersion"] != stored["metadata"]["resourceVersion"]:
                message = f'Operation cannot be fulfilled on {kind} "{name}"'
                raise ClusterConflictError(message)
            if not sub:
                return self.world.put(kind, body)
            spec = {**stored["spec"], "replicas": body["spec"]["replicas"]}
            return _scale(self.world.put(kind, {**copy.deepcopy(stored), "spec": spec}))

        what = f" to {body['spec']['replicas']}" if sub else ""
        return self._write(f"replace {_path(kind, sub)}", name, act, what)

    def patch(self, kind: Kind, name: str, body: Objects) -> None:
        """See :class:`Api`."""

        def act() -> None:
            if (kind, name) in self.world.objects:
                self.world.edit(kind, name, lambda stored: _apply(stored, body))

        self._write(f"patch {kind}", name, act)

    def delete(self, kind: Kind, name: str, *, uid: str | None = None) -> None:
        """See :class:`Api`."""

        def act() -> None:
            stored = self.world.objects.get((kind, name))
            if stored is None or (uid is not None and uid != stored["metadata"]["uid"]):
                return
            if kind == "pods":
                self.world.delete_pod(name)
            else:
                self.world.remove(kind, name)

        self._write(f"delete {kind}", name, act)

    def may(self, verb: str, rule: Rule, *, name: str = "") -> bool:
        """See :class:`Api`."""
        what = f"{verb} {rule.resource}"
        return self._read(f"may {what}", name, lambda: what not in self.process.rights_withheld)

    def changes(self, kind: Kind) -> Iterator[Change]:
        """See :class:`Api`."""
        self._read(f"watch {kind}", "", lambda: None)
        yield from self.world.watch(kind)

    # -- requests

    def _read(self, operation: str, name: str, act: Callable[[], T]) -> T:
        self._meet(operation, name)
        with self.world.lock:
            return act()

    def _write(self, operation: str, name: str, act: Callable[[], T], what: str = "") -> T:
        process = self.process
        self._meet(operation, name, is_write=True)
        with self.world.lock:
            result = act()
        process.writes.append(f"{operation} {name}{what}")
        if process.written == process.crash_after:
            process.die()
        try:
            self._strike(f"{operation} lost", name)
        except _LostError:
            with self.world.lock:
                result = act()
        self._strike(f"{operation} reply", name)
        return result

    def _meet(self, operation: str, name: str, *, is_write: bool = False) -> None:
        process = self.process
        if process.is_dead:
            raise CrashError
        self.stop.check()
        process.calls.made += 1
        process.asked.append(f"{operation} {name}".strip())
        process.written += is_write
        if is_write and process.written == process.crash_before:
            process.die()
        self._strike(operation, name)

    def _strike(self, operation: str, name: str) -> None:
        for fault in list(self.process.faults):
            fault.meet(operation, name)


def _path(kind: Kind, sub: str) -> str:
    return f"{kind}/{sub}" if sub else kind


def _scale(body: Object) -> Object:
    """Give the scale of a StatefulSet; as the API has it, a 0 is left out."""
    replicas = body["spec"].get("replicas", 1)
    names = ("name", "uid", "resourceVersion")
    return {
        "metadata": {name: body["metadata"][name] for name in names},
        "spec": {"replicas": replicas} if replicas else {},
    }


def _is_selected(body: Object, labels: str, fields: str) -> bool:
    has = body["metadata"].get("labels") or {}
    wanted = dict(label.split("=") for label in labels.split(",") if label)
    if any(has.get(name) != value for name, value in wanted.items()):
        return False
    about = body.get("involvedObject", {}).get("name")
    return not fields or fields == f"involvedObject.name={about}"


def _apply(body: Object, patch: Objects) -> None:
    """Do what a JSON patch says; removing what is not there is an error, as in the real API."""
    for step in patch:
        *parents, last = step["path"].strip("/").split("/")
        place = body
        for name in parents:
            place = place[name]
        if step["op"] == "add":
            place[last] = step["value"]
        elif place.pop(last, None) is None:
            message = f"the cluster refuses PATCH: 422 remove operation does not apply: {last}"
            raise ClusterError(message)


# -- a whole run


class Budget(timedelta):
    """Time that is over when a test says so, and not before."""

    is_over = False

    def total_seconds(self) -> float:
        """Give the time that there is."""
        return 0.0 if self.is_over else super().total_seconds()


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten what only waits."""
    for module in (lanes, crew, pods):
        monkeypatch.setattr(module, "SLICE_SECONDS", 0.005)
    monkeypatch.setattr(colocated, "AGAIN_SECONDS", 0.0)


def plan(
    cluster: SimulatedCluster,
    *,
    known: Holdings | None = None,
    ask_sinks: Callable[[], Holdings] | None = None,
    clock: ClockLike | None = None,
    emit: Emit | None = None,
    run_id: str = RUN_ID,
    pod: str = RUN_POD,
    **changes: Any,
) -> Orchestrator:
    """Plan a run by the pod of a Job, which is made if it is not there."""
    if ("pods", RUN_POD) not in cluster.world.objects:
        cluster.world.add_run()
    settings: dict[str, Any] = {"statefulset": BILLING, "strategy": "auto", **changes}
    made = Orchestrator(
        Run(
            id=run_id,
            clock=clock or Clock(),
            emit=Events() if emit is None else emit,
            stop=cluster.stop,
            pod=pod,
        ),
        cluster,
        ClusterSettings(**settings),
        ask_sinks=ask_sinks or (lambda: known or Holdings()),
        has_source=lambda: True,
        find=lambda run_id: cluster.world.stored.get(run_id, {}),
    )
    made.plan()
    return made


def perform(cluster: SimulatedCluster, **changes: Any) -> ClusterResult:
    """Perform a run, as :func:`plan` plans it."""
    return plan(cluster, **changes).perform()
