"""Workers: Jobs of this image that mount journals and run a hidden verb.

Rules:

- A worker is made from the orchestrator's own Job, so it has the same image, settings, sinks and
  secrets. Left out is what is the orchestrator's alone: the labels by which its Job is counted, its
  place (nodeSelector, affinity, spread), the volumes it gets from the cluster's API. Billing's
  tolerations and ``seLinuxOptions`` are added.
- Journals are mounted read-only twice: by the claim, and by the mount. With the latter alone, a
  pod's ``fsGroup`` would re-own billing's live journal.
- A worker has no token for the API, is tried once (the orchestrator knows better when to try
  again), and never has a higher priority than billing, which it would push off its node.
- It answers by its termination message. A lost message is no failure: the backups of a run are
  found by its id.
- Its pod says what went wrong: not scheduled, evicted, out of memory, ended without an answer.
  Where it says too little, or is missing, events do: see :mod:`backup.cluster.pods`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from backup.cluster.api import Api, Object
from backup.cluster.billing import StatefulSet
from backup.cluster.layout import Volume
from backup.cluster.pods import Pod, owner
from backup.cluster.rescue import ROLE_LABEL, RUN_LABEL, STATEFULSET_LABEL
from backup.errors import ConfigError
from backup.run import Run

GATE: Final = "deepgram-journal-backup/billing-is-down"
"""The scheduling gate that holds a pod back until billing is down."""
MAX_NAME: Final = 63
MOUNT: Final = "/journals"
GRACE_SECONDS: Final = 5
"""What a worker gets to clean up, while billing may be waiting for its volume."""
GATED_GRACE_SECONDS: Final = 1
"""The same, while billing is down."""
KEEP_SECONDS: Final = 3600
"""How long an ended worker can be looked at."""

_JOB_LABELS: Final = (
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
)
_NOT_TAKEN_OVER: Final = ("nodeSelector", "nodeName", "affinity", "topologySpreadConstraints")
_SOURCE: Final = "journal-source"
"""The name of a worker's volume with journals."""
_POD_NAME_LABEL: Final = "statefulset.kubernetes.io/pod-name"
_NODE_LABEL: Final = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What all workers of a run have in common."""

    job: Object
    """The orchestrator's Job."""
    priority: int
    """The orchestrator's own, as the cluster has resolved it."""
    run_id: str
    statefulset: str
    billing_template: Object
    """What billing's pods are made from: for workers where none of them is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a worker is to do, and where."""

    name: str
    arguments: tuple[str, ...]
    volume: Volume | None = None
    """None: it needs no journal."""
    beside: str = ""
    """The pod of billing whose node it has to be on."""
    near: tuple[str, ...] = ()
    """Else, nodes that it should be on: the volume may still be attached there."""
    billing_pods: tuple[Object, ...] = ()
    """Whose tolerations, SELinux options and priority it needs; where there are none, those of
    billing's template, if it reads a volume."""
    is_gated: bool = False
    seconds: int = 3600
    """How long it may take."""


def read_template(run: Run, api: Api, billing: StatefulSet) -> Template:
    """Find the Job that we are a pod of.

    Args:
        run: which knows its pod.
        api: the cluster.
        billing: whose pods workers are to get along with.

    Raises:
        ConfigError: we are not a pod of a Job.
    """
    pod_name = run.pod or ""
    pod = api.get("pods", pod_name) if pod_name else None
    if pod is None:
        message = f"workers are made from this run's own Job, and there is no pod {pod_name!r}"
        raise ConfigError(message, "set POD_NAME by the downward API: metadata.name")
    name = owner(pod, "Job")
    job = api.get("jobs", name) if name else None
    if job is None:
        message = f"workers are made from this run's own Job, and pod {pod_name} belongs to none"
        raise ConfigError(message, "run it as: kubectl create job NAME --from=cronjob/...")
    return Template(
        job=job,
        priority=pod["spec"].get("priority") or 0,
        run_id=run.id,
        statefulset=billing.name,
        billing_template=billing.body["spec"]["template"],
    )


def require_rwx(claims: Iterable[Object], template: Template) -> None:
    """Insist that workers on several nodes can mount what our own pod mounts: sinks, mostly.

    Raises:
        ConfigError: one of these claims is for one node only.
    """
    used = {
        (v.get("persistentVolumeClaim") or {}).get("claimName")
        for v in template.job["spec"]["template"]["spec"].get("volumes") or []
    } - {None}
    for claim in claims:
        modes = claim["spec"].get("accessModes") or []
        name = claim["metadata"]["name"]
        if name in used and "ReadWriteMany" not in modes:
            message = (
                f"the claim {name}, which this pod mounts, is {', '.join(modes)}: "
                f"its workers mount it too, and may be on other nodes"
            )
            raise ConfigError(message, "a sink wants a ReadWriteMany volume, such as NFS")


# -- making one


def worker_name(template: Template, role: str, subject: str, attempt: int = 1) -> str:
    """Name a worker: within 63 characters, the same for the same attempt of a run."""
    subject = f"{template.run_id} {role} {subject} {attempt}"
    tail = f"-{role}-{hashlib.sha256(subject.encode()).hexdigest()[:8]}"
    head: str = template.job["metadata"]["name"]
    return head[: MAX_NAME - len(tail)].rstrip("-.") + tail


def make_job(template: Template, order: Order) -> Object:
    """Make the Job of a worker."""
    pod = copy.deepcopy(template.job["spec"]["template"])
    metadata = pod.get("metadata") or {}
    labels = {
        **{n: v for n, v in (metadata.get("labels") or {}).items() if n not in _JOB_LABELS},
        RUN_LABEL: template.run_id,
        STATEFULSET_LABEL: template.statefulset,
        ROLE_LABEL: "worker",
    }
    ours = template.job["metadata"]
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": ours["name"], "uid": ours["uid"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": order.name, "labels": labels, "ownerReferences": [reference]},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": order.seconds,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": {
                "metadata": {"labels": labels, "annotations": metadata.get("annotations") or {}},
                "spec": _pod_spec(template, order, pod["spec"]),
            },
        },
    }


def _pod_spec(template: Template, order: Order, ours: Object) -> Object:
    spec = {
        **{name: value for name, value in ours.items() if name not in _NOT_TAKEN_OVER},
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GATED_GRACE_SECONDS if order.is_gated else GRACE_SECONDS,
        "enableServiceLinks": False,
    }
    container = {**spec["containers"][0], "args": [*order.arguments]}
    volumes, mounts = _without_journals(
        _without_tokens(spec.get("volumes") or []), container.get("volumeMounts") or []
    )
    if order.volume is not None:
        claim = {"claimName": order.volume.claim, "readOnly": True}
        volumes.append({"name": _SOURCE, "persistentVolumeClaim": claim})
        path = f"{MOUNT}/{order.volume.at}".rstrip("/")
        mounts.append({"name": _SOURCE, "mountPath": path, "readOnly": True})
        others = [e for e in container.get("env") or [] if e["name"] != "BACKUP_SOURCE"]
        container["env"] = [*others, {"name": "BACKUP_SOURCE", "value": MOUNT}]
    spec |= {"containers": [{**container, "volumeMounts": mounts}], "volumes": volumes}
    _place(spec, order)
    billing = order.billing_pods or ((template.billing_template,) if order.volume else ())
    _match_billing(spec, billing, priority=template.priority)
    if order.is_gated:
        spec["schedulingGates"] = [{"name": GATE}]
    return spec


def _without_journals(
    volumes: Sequence[Object], mounts: Sequence[Object]
) -> tuple[list[Object], list[Object]]:
    """Leave out the journals that our own pod mounts, and mounts of what is not there any more."""
    journals = {m["name"] for m in mounts if f"{m['mountPath']}/".startswith(f"{MOUNT}/")}
    kept = {v["name"]: v for v in volumes if v["name"] not in journals}
    return [*kept.values()], [m for m in mounts if m["name"] in kept]


def _without_tokens(volumes: Iterable[Object]) -> list[Object]:
    """Leave out tokens for the cluster's API; those for a cloud have an audience of their own."""
    return [
        volume
        for volume in volumes
        if not any(map(_is_token, volume.get("projected", {}).get("sources", [])))
    ]


def _is_token(source: Object) -> bool:
    token = source.get("serviceAccountToken")
    return token is not None and not token.get("audience")


def _place(spec: Object, order: Order) -> None:
    """Say on which node it has to be, and on which ones it should be."""
    if order.beside:
        is_it = {"key": _POD_NAME_LABEL, "operator": "In", "values": [order.beside]}
        term = {"topologyKey": _NODE_LABEL, "labelSelector": {"matchExpressions": [is_it]}}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
        spec["affinity"] = {"podAffinity": required}
    elif order.near:
        is_one = {"key": _NODE_LABEL, "operator": "In", "values": [*order.near]}
        wish = {"weight": 100, "preference": {"matchExpressions": [is_one]}}
        preferred = {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}
        spec["affinity"] = {"nodeAffinity": preferred}


def _match_billing(spec: Object, billing: Sequence[Object], *, priority: int) -> None:
    """Go wherever billing may be, read what it reads, and never rank above it.

    Args:
        spec: the worker's, which is changed.
        billing: pods of billing, or what they are made from.
        priority: the worker's own.
    """
    tolerated = list(spec.get("tolerations") or [])
    for pod in billing:
        tolerated += [t for t in pod["spec"].get("tolerations") or [] if t not in tolerated]
        if linux := _selinux(pod):
            spec["securityContext"] = {**spec.get("securityContext", {}), "seLinuxOptions": linux}
    if tolerated:
        spec["tolerations"] = tolerated
    lowest = min(billing, key=_priority, default=None)
    if lowest is not None and _priority(lowest) < priority:
        spec.pop("priority", None)
        spec.pop("priorityClassName", None)
        if name := lowest["spec"].get("priorityClassName"):
            spec["priorityClassName"] = name


def _priority(pod: Object) -> int:
    return pod["spec"].get("priority") or 0


def _selinux(pod: Object) -> Object | None:
    """Give the label that billing's volume is accessible by: its container's, else its pod's."""
    for place in (*pod["spec"].get("containers", ()), pod["spec"]):
        if found := (place.get("securityContext") or {}).get("seLinuxOptions"):
            return dict(found)
    return None


def remove_gate(api: Api, pod: Pod) -> None:
    """Let a gated pod be scheduled, as far as it is for us to say.

    The patch can be made twice (its reply may be lost): ``add`` replaces what is there, while
    ``remove`` is refused where nothing is.
    """
    gates = pod.body["spec"].get("schedulingGates") or []
    others = [gate for gate in gates if gate["name"] != GATE]
    if others != gates:
        change = {"op": "add", "path": "/spec/schedulingGates", "value": others}
        api.patch("pods", pod.name, [change])
