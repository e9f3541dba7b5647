"""A site of Deepgram's on a real control plane: billing, its volumes, and nodes that are made up.

    with made_up_nodes(plane):
        with site(plane, namespace, tmp_path) as here:
            here.create_billing(replicas=3)
            job = here.run_backup("colocated")
            assert here.ended(job).exit_code == 0

All is real but the nodes: API server, controllers, scheduler, and the command under test, which
runs as a process where a kubelet would run a container: with the token of its service account, the
environment of its pod, and the directories of its claims. Billing is a thread that appends records
for as long as its pod is there. So is seen what is asked of the cluster, and what comes of it; how
volumes attach and containers are confined is for the tests on real nodes.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from backup.cluster.api import Rule
from backup.cluster.lease import OWNER, RECORD, lease_name
from backup.cluster.strategies import RULES
from tests.cluster.containers import Container
from tests.cluster.controlplane import Answer, ControlPlane, until

BILLING = "deepgram-billing"
NODES = ("node-a", "node-b")
ACCOUNT = "backup"
STALE_SECONDS = 3
_MERGE = "application/merge-patch+json"
_STRATEGIC = "application/strategic-merge-patch+json"
_MARKS = "marks.test"
"""A group of the API that there is not; roles are told apart by rights to what would be in it."""
_TICK = 0.05
_AWAY = (OSError, KeyError, TypeError, RuntimeError)
"""What asking leads to while the API server is away or begins, or a namespace ends."""

_GROUPS = {
    "statefulsets": "apis/apps/v1",
    "cronjobs": "apis/batch/v1",
    "jobs": "apis/batch/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
}


# -- nodes


@contextmanager
def made_up_nodes(plane: ControlPlane) -> Iterator[None]:
    """Register nodes that seem to be alive."""
    done = threading.Event()
    for name in NODES:
        _create_node(plane, name)

    def live() -> None:
        while not done.wait(2):
            for name in NODES:
                with suppress(*_AWAY):
                    _give_sign_of_life(plane, name)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _create_node(plane: ControlPlane, name: str) -> None:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
    plane.call("POST", "/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
    _give_sign_of_life(plane, name)
    resources = {"cpu": "64", "memory": "64Gi", "pods": "500", "ephemeral-storage": "64Gi"}
    status = {
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "MadeUp", "lastHeartbeatTime": _now()}
        ],
    }
    answer = plane.call(
        "PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, content_type=_MERGE
    )
    assert answer.status == 200, answer.body
    until(partial(_is_usable, plane, name), f"{name} is ready")


def _is_usable(plane: ControlPlane, name: str) -> bool:
    with suppress(*_AWAY):
        return not _taints(plane, name)
    return False


def _taints(plane: ControlPlane, name: str) -> Any:
    return plane.call("GET", f"/api/v1/nodes/{name}").body["spec"].get("taints")


def _give_sign_of_life(plane: ControlPlane, name: str) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": _now(micro=True)}
    found = plane.call("GET", f"{leases}/{name}")
    if found.status == 200:
        plane.call("PUT", f"{leases}/{name}", found.body | {"spec": spec})
    else:
        plane.call("POST", leases, {"metadata": {"name": name}, "spec": spec})


def _now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


# -- a site


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A Job that has ended."""

    exit_code: int
    report: dict[str, Any]
    """What it printed as JSON."""
    log: str


@dataclass(slots=True)
class _Run:
    """A process in place of a container, and what it writes."""

    process: Container
    output: Path
    log: Path
    message: Path


@dataclass(slots=True)
class Site:
    """A namespace with billing in it, and the kubelets of its pods."""

    plane: ControlPlane
    namespace: str
    root: Path
    env: dict[str, str] = field(default_factory=dict)
    """More for the environment of the command."""
    sink_claim: str = ""
    """The claim that the sink is on, if it is on one."""
    dead: set[str] = field(default_factory=set)
    """Names of pods whose node is dead: nothing of them runs, and nobody says so."""
    silent: set[str] = field(default_factory=set)
    """Jobs whose node dies with their process: nobody says that it has ended."""
    held: set[str] = field(default_factory=set)
    """Pods of billing that do not become ready."""
    stuck: set[str] = field(default_factory=set)
    """Prefixes of the names of pods that are scheduled, and never begin."""
    records: dict[str, int] = field(default_factory=dict)
    """How many records billing has written, by journal."""
    _containers: dict[str, _Run] = field(default_factory=dict)
    _ends: dict[str, Ended] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)
    _asked: dict[str, float] = field(default_factory=dict)
    _runs: int = 0
    _grants: int = 0
    _granted: tuple[Rule, ...] | None = None

    # -- the API, as administrator

    def path(self, kind: str, name: str = "") -> str:
        """Give the path of the objects of a kind, or of one."""
        place = f"/{_GROUPS.get(kind, 'api/v1')}/namespaces/{self.namespace}/{kind}"
        return f"{place}/{name}" if name else place

    def create(self, kind: str, name: str, **fields: Any) -> Any:
        """Create an object."""
        metadata = {"name": name} | fields.pop("metadata", {})
        answer = self.plane.call("POST", self.path(kind), {"metadata": metadata} | fields)
        assert answer.status == 201, answer.body
        return answer.body

    def get(self, kind: str, name: str) -> Any:
        """Read an object; None if it is not there."""
        answer = self.plane.call("GET", self.path(kind, name))
        return answer.body if answer.status == 200 else None

    def every(self, kind: str, labels: str = "") -> Any:
        """Read all objects of a kind."""
        return self.plane.call("GET", f"{self.path(kind)}?labelSelector={labels}").body["items"]

    def delete(self, kind: str, name: str, **options: Any) -> None:
        """Delete an object."""
        self.plane.call(
            "DELETE", self.path(kind, name), {"propagationPolicy": "Background"} | options
        )

    def patch(self, kind: str, name: str, body: Any, *, content_type: str = _MERGE) -> Answer:
        """Change an object."""
        return self.plane.call("PATCH", self.path(kind, name), body, content_type=content_type)

    # -- billing

    def journal(self, ordinal: int, *, shared: str = "") -> Path:
        """Where the journal of a pod is."""
        name = f"journal-{BILLING}-{ordinal}"
        return self.root / "claims" / (shared or name) / name / "journal"

    def create_claim(self, name: str, *, mode: str = "ReadWriteOnce", bound: bool = True) -> None:
        """Create a claim, and a volume that it is bound to."""
        size = {"storage": "1Gi"}
        volume = f"{self.namespace}-{name}"
        if bound:
            answer = self.plane.call(
                "POST",
                "/api/v1/persistentvolumes",
                {
                    "metadata": {"name": volume},
                    "spec": {
                        "capacity": size,
                        "accessModes": [mode],
                        "hostPath": {"path": f"/nowhere/{volume}"},
                        "claimRef": {"namespace": self.namespace, "name": name},
                        "storageClassName": "none",
                        "persistentVolumeReclaimPolicy": "Retain",
                    },
                },
            )
            assert answer.status == 201, answer.body
        self.create(
            "persistentvolumeclaims",
            name,
            spec={
                "accessModes": [mode],
                "resources": {"requests": size},
                "storageClassName": "none",
                **({"volumeName": volume} if bound else {}),
            },
        )
        if bound:
            until(
                lambda: self.get("persistentvolumeclaims", name)["status"]["phase"] == "Bound",
                f"{name} is bound",
            )

    def create_billing(
        self,
        *,
        replicas: int,
        shared: str = "",
        mode: str = "ReadWriteOnce",
        claims: bool = True,
        spec: Mapping[str, Any] = {},
        pod: Mapping[str, Any] = {},
    ) -> None:
        """Create billing as its chart does, and wait until it is ready."""
        names = [shared] if shared else [f"journal-{BILLING}-{n}" for n in range(replicas)]
        for name in names if claims else []:
            self.create_claim(name, mode=mode)
        labels = {"app": BILLING}
        mount = {"name": "journal", "mountPath": "/journal"}
        source = {"name": "journal", "persistentVolumeClaim": {"claimName": shared}}
        template = {
            "metadata": {"name": "journal"},
            "spec": {
                "accessModes": [mode],
                "resources": {"requests": {"storage": "1Gi"}},
                "storageClassName": "none",
            },
        }
        container = {"name": "billing", "image": "localhost/none", "volumeMounts": [mount]}
        volumes = {"volumes": [source]} if shared else {}
        self.create(
            "statefulsets",
            BILLING,
            spec={
                "replicas": replicas,
                "podManagementPolicy": "Parallel",
                "selector": {"matchLabels": labels},
                "serviceName": BILLING,
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [container], **volumes, **pod},
                },
                **({} if shared else {"volumeClaimTemplates": [template]}),
                **spec,
            },
        )
        self.await_billing(replicas)

    def replicas(self) -> int:
        """How many replicas billing is to have."""
        return int(self.get("statefulsets", BILLING)["spec"]["replicas"])

    def await_billing(self, ready: int) -> None:
        """Wait until so many pods of billing are ready, and no other is there."""
        until(
            lambda: len(pods := self.billing_pods()) == ready and all(_is_ready(p) for p in pods),
            f"{ready} pods of billing are ready",
        )

    def billing_pods(self) -> Any:
        """Billing's pods."""
        return self.every("pods", f"app={BILLING}")

    def scale(self, replicas: int) -> None:
        """Scale billing, as somebody else."""
        answer = self.patch("statefulsets", f"{BILLING}/scale", {"spec": {"replicas": replicas}})
        assert answer.status == 200, answer.body

    def apply_replicas(self, replicas: int) -> Answer:
        """Set billing's replicas by a server-side apply that forces nothing, as Helm 4 does."""
        body = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": BILLING},
            "spec": {"replicas": replicas},
        }
        return self.plane.call(
            "PATCH",
            f"{self.path('statefulsets', BILLING)}?fieldManager=helm&force=false",
            body,
            content_type="application/apply-patch+yaml",
        )

    def bind(self, job: str, node: str) -> None:
        """Put the pod of a Job on a node, as a scheduler would."""
        until(lambda: self.pod_of(job), f"{job} has a pod")
        name = self.pod_of(job)["metadata"]["name"]
        target = {"target": {"kind": "Node", "name": node}, "metadata": {"name": name}}
        self.plane.call("POST", f"{self.path('pods', name)}/binding", target)

    def leave_down(self, *, of: str) -> None:
        """Scale billing down as a run would have that is gone since."""
        found = self.get("statefulsets", BILLING)
        record = {
            "uid": found["metadata"]["uid"],
            "replicas": found["spec"]["replicas"],
            "deadline": "2026-01-01T00:00:00.000000Z",
        }
        owner = {"pod": "gone", "uid": "gone"}
        notes = {RECORD: json.dumps(record), OWNER: json.dumps(owner)}
        long_ago = "2026-01-01T00:00:00.000000Z"
        self.create(
            "leases",
            lease_name(BILLING),
            metadata={"annotations": notes},
            spec={"holderIdentity": of, "renewTime": long_ago, "leaseDurationSeconds": 60},
        )
        self.scale(0)
        self.await_billing(0)

    def refuse_pods(self) -> None:
        """Have all pods but those that are there refused, by a quota."""
        there = len(self.every("pods"))
        self.create("resourcequotas", "none", spec={"hard": {"pods": str(there + 1)}})
        until(
            lambda: "hard" in self.get("resourcequotas", "none").get("status", {}),
            "the quota is in force",
        )

    # -- the command

    def grant(self, *rules: Rule) -> None:
        """Give the service account of the command these rights, and no others."""
        if rules == self._granted:  # whoever is running has them at every moment
            return
        if self._granted is None:
            self.create("serviceaccounts", ACCOUNT)
            self.create(
                "rolebindings",
                ACCOUNT,
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ACCOUNT},
                subjects=[{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": self.namespace}],
            )
        else:
            self.delete("roles", ACCOUNT)
        self._grants += 1
        mark = {"apiGroups": [_MARKS], "resources": [f"grant-{self._grants}"], "verbs": ["get"]}
        self.create("roles", ACCOUNT, rules=[mark, *(as_rbac(rule) for rule in rules)])
        until(self._knows_the_grant, "its rights are in force")
        self._granted = rules

    def _knows_the_grant(self) -> bool:
        """Ask for a right to nothing that only this role has: it is learnt of a moment later."""
        user = f"system:serviceaccount:{self.namespace}:{ACCOUNT}"
        resource = f"grant-{self._grants}"
        wish = {"namespace": self.namespace, "verb": "get", "group": _MARKS, "resource": resource}
        review = {"spec": {"user": user, "resourceAttributes": wish}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self.plane.call("POST", path, review).body["status"]["allowed"])

    def sink(self) -> Path:
        """The directory that backups go to."""
        path = self.root / "sink"
        path.mkdir(exist_ok=True)
        return path

    def manifests(self) -> list[dict[str, Any]]:
        """All manifests on the sink, by journal and age."""
        return [json.loads(p.read_text()) for p in sorted(self.sink().glob("*/*.manifest.json"))]

    def run_backup(self, strategy: str, *arguments: str, **env: str) -> str:
        """Create a Job as the chart's CronJob would; give its name."""
        if self._granted is None:
            self.grant(*RULES[strategy])
        self._runs += 1
        name = f"backup-{self._runs}"
        if env.pop("SILENT", ""):
            self.silent.add(name)
        told = {
            "BACKUP_SINKS": f"file://{self.sink()}",
            "BACKUP_STRATEGY": strategy,
            "BACKUP_SOURCE": "/journals",
            "STALE_SECONDS": str(STALE_SECONDS),
            "BEAT_SECONDS": "0.5",
            "LOOK_SECONDS": "0.5",
            **self.env,
            **env,
        }
        container = {
            "name": "backup",
            "image": "localhost/backup",
            "args": [*(arguments or ("backup", "--json"))],
            "env": [
                *({"name": n, "value": v} for n, v in told.items()),
                *(
                    {"name": n, "valueFrom": {"fieldRef": {"fieldPath": p}}}
                    for n, p in DOWNWARD.items()
                ),
            ],
            "volumeMounts": [{"name": "sink", "mountPath": "/sink"}] if self.sink_claim else [],
        }
        sink = {"name": "sink", "persistentVolumeClaim": {"claimName": self.sink_claim}}
        self.create(
            "jobs",
            name,
            spec={
                "backoffLimit": 0,
                "template": {
                    "metadata": {"labels": {"role": "orchestrator"}},
                    "spec": {
                        "restartPolicy": "Never",
                        "serviceAccountName": ACCOUNT,
                        "terminationGracePeriodSeconds": 60,
                        "containers": [container],
                        "volumes": [sink] if self.sink_claim else [],
                    },
                },
            },
        )
        return name

    def pod_of(self, job: str) -> Any:
        """The pod of a Job; None if it has none."""
        return next(iter(self.every("pods", f"batch.kubernetes.io/job-name={job}")), None)

    def ended(self, job: str, *, seconds: float = 60.0) -> Ended:
        """Wait until a Job's process has ended."""
        until(lambda: self.has_ended(job), f"{job} has ended", seconds=seconds)
        return self._ends[job]

    def has_ended(self, job: str) -> bool:
        """Whether a Job's process has ended."""
        return job in self._ends

    def await_step(self, job: str, text: str) -> None:
        """Wait until a Job has logged something."""
        until(lambda: text in self.log(job), f"{job} says {text!r}")

    def log(self, job: str) -> str:
        """What a Job has logged so far."""
        path = self.root / f"{job}.log"
        return path.read_text() if path.exists() else ""

    def peak_bytes(self, job: str) -> int:
        """The most memory that a Job's process has had."""
        return int((self.root / f"{job}.message.rss").read_text())

    def signal(self, job: str, signum: int) -> None:
        """Send a signal to a Job's process."""
        until(lambda: job in self._containers, f"{job} runs")
        self._containers[job].process.send_signal(signum)

    def await_held(self, job: str) -> None:
        """Wait until a Job's process has stopped itself, by SIGSTOP."""

        def is_held() -> bool:
            if job not in self._containers:
                return False
            assert not self._containers[job].process.has_ended, self.log(job)
            status = Path(f"/proc/{self._containers[job].process.pid}/stat").read_text()
            return status.rpartition(")")[2].split()[0] == "T"

        until(is_held, f"{job} is held")

    def evict(self, job: str) -> None:
        """Evict the pod of a Job, and wait until its process has been told."""
        pod = self.pod_of(job)["metadata"]
        eviction = {"metadata": {"name": pod["name"]}}
        answer = self.plane.call("POST", f"{self.path('pods', pod['name'])}/eviction", eviction)
        assert answer.status == 201, answer.body
        until(lambda: pod["uid"] in self._asked, f"{job} is told to end")

    def lose_node_of(self, job: str) -> None:
        """Have the node of a Job's pod die: its process is gone, its pod stays Running."""
        pod = self.pod_of(job)
        self.dead.add(pod["metadata"]["name"])
        self.signal(job, signal.SIGKILL)

    # -- the kubelets

    def tend(self) -> None:
        """Do for each pod what its kubelet would do now."""
        for pod in self.every("pods"):
            name = pod["metadata"]["name"]
            is_stuck = any(map(name.startswith, self.stuck))
            if name in self.dead:
                continue
            if "deletionTimestamp" in pod["metadata"]:
                self._end(pod)
            elif pod["spec"].get("nodeName") and not is_stuck:
                self._run(pod)

    def _run(self, pod: Any) -> None:
        uid = pod["metadata"]["uid"]
        job = pod["metadata"]["labels"].get("batch.kubernetes.io/job-name")
        if job is None:
            name = pod["metadata"]["name"]
            if uid not in self._seen and name not in self.held:
                self._seen.add(uid)
                self._write(pod)
                self._say(pod, {"phase": "Running", **_status("running", {}, ready=True)})
        elif uid not in self._seen:
            self._containers[job] = self._start(job, pod)
            self._seen.add(uid)
            self._say(pod, {"phase": "Running", **_status("running", {}, ready=True)})
        elif uid not in self._told and self._containers[job].process.has_ended:
            if job in self.silent:
                container = self._containers[job]
                self._note_end(job, container, container.process.returncode)
            else:
                self._tell_end(job, pod)

    def _write(self, pod: Any) -> None:
        """Be billing: append records for as long as the pod is there."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        claim = next(
            v["persistentVolumeClaim"]["claimName"]
            for v in pod["spec"]["volumes"]
            if v["name"] == "journal"
        )
        own = f"journal-{name}"
        path = self.root / "claims" / claim / own / "journal"
        path.parent.mkdir(parents=True, exist_ok=True)

        def write() -> None:
            while uid in self._seen:
                number = self.records.get(own, 0)
                with path.open("ab") as file:
                    file.write(b'{"d":"%d","s":"%s"}\n' % (number, b"0" * 60))
                self.records[own] = number + 1
                time.sleep(0.02)

        threading.Thread(target=write, daemon=True).start()
        until(lambda: path.exists() and path.stat().st_size, f"{own} is written")

    def _start(self, job: str, pod: Any) -> _Run:
        container = pod["spec"]["containers"][0]
        message = self.root / f"{job}.message"
        message.touch()
        env = {
            **{n: os.environ[n] for n in ("PATH", "HOME", "TMPDIR") if n in os.environ},
            **{e["name"]: _value(e, pod) for e in container.get("env", [])},
            "TERMINATION_LOG": str(message),
        }
        if pod["spec"].get("automountServiceAccountToken", True):
            account = pod["spec"].get("serviceAccountName", "default")
            env["KUBECONFIG"] = str(self.plane.kubeconfig_for(account, namespace=self.namespace))
        for volume in pod["spec"].get("volumes", []):
            if volume["name"] == "journal-source":
                claim = volume["persistentVolumeClaim"]["claimName"]
                env["BACKUP_SOURCE"] = str(self.root / "claims" / claim)
        output, log = self.root / f"{job}.out", self.root / f"{job}.log"
        process = Container(container["args"], env, output=output, log=log)
        return _Run(process, output, log, message)

    def _tell_end(self, job: str, pod: Any) -> None:
        container = self._containers[job]
        code = container.process.returncode
        shown = code if code >= 0 else 128 - code
        state = {
            "exitCode": shown,
            "reason": "Error" if shown else "Completed",
            "message": container.message.read_text(),
        }
        phase = "Failed" if shown else "Succeeded"
        self._say(pod, {"phase": phase, **_status("terminated", state, ready=False)})
        self._told.add(pod["metadata"]["uid"])
        self._note_end(job, container, shown)

    def _note_end(self, job: str, container: _Run, code: int) -> None:
        report: dict[str, Any] = {}
        with suppress(ValueError):
            report = json.loads(container.output.read_text())
        self._ends[job] = Ended(exit_code=code, report=report, log=container.log.read_text())

    def _end(self, pod: Any) -> None:
        """End a pod that is to be deleted."""
        metadata = pod["metadata"]
        job = metadata["labels"].get("batch.kubernetes.io/job-name")
        self._seen.discard(metadata["uid"])  # which ends billing
        container = self._containers.get(job) if job else None
        if container and not container.process.has_ended:
            if metadata["uid"] not in self._asked:
                self._asked[metadata["uid"]] = time.monotonic()
                container.process.send_signal(signal.SIGTERM)
            since = self._asked[metadata["uid"]]
            if time.monotonic() - since < (metadata.get("deletionGracePeriodSeconds") or 0):
                self._seen.add(metadata["uid"])
                return
            container.process.kill()
        if container and job:
            self._note_end(job, container, container.process.returncode)
        self.delete("pods", metadata["name"], gracePeriodSeconds=0)

    def _say(self, pod: Any, status: Any) -> None:
        self.plane.call(
            "PATCH",
            f"{self.path('pods', pod['metadata']['name'])}/status",
            {"status": status},
            content_type=_STRATEGIC,
        )


DOWNWARD = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "NODE_NAME": "spec.nodeName",
}


def _value(variable: Any, pod: Any) -> str:
    if "value" in variable:
        return str(variable["value"])
    path = variable["valueFrom"]["fieldRef"]["fieldPath"]
    part, _, name = path.partition(".")
    return str(pod[part][name])


def _status(state: str, told: Any, *, ready: bool) -> Any:
    return {
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [
            {
                "name": "backup",
                "image": "",
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "state": {state: told},
            }
        ],
    }


def _is_ready(pod: Any) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def as_rbac(rule: Rule) -> Any:
    """Write a right as RBAC does, bound to billing's objects where it can be."""
    named = {"leases": lease_name(BILLING)}.get(rule.resource, BILLING)
    return {
        "apiGroups": [rule.group],
        "resources": [rule.resource],
        "verbs": [*rule.verbs],
        **({"resourceNames": [named]} if rule.named else {}),
    }


@contextmanager
def site(plane: ControlPlane, namespace: str, root: Path) -> Iterator[Site]:
    """Tend the pods of a namespace, until the end of the block."""
    here = Site(plane, namespace, root)
    for name in NODES:  # an API server that was away may have thought the same of them
        until(partial(_is_usable, plane, name), f"{name} is ready")
    done = threading.Event()

    def tend() -> None:
        while not done.wait(_TICK):
            with suppress(*_AWAY):
                here.tend()

    thread = threading.Thread(target=tend, daemon=True)
    thread.start()
    try:
        yield here
    finally:
        done.set()
        thread.join()
        here._seen.clear()
        for container in here._containers.values():
            container.process.kill()
