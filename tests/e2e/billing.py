"""A stand-in for billing: a StatefulSet as Deepgram's chart makes it, that writes journals.

    billing = create_billing(cluster, namespace)                      # a volume for each pod
    billing = create_billing(cluster, namespace, shared_claim="all")  # a directory for each
    billing.await_ready()
    billing.scale(0)
    assert whole(billing.read_journal(0))

Its shape is that of `deepgram-self-hosted`: names, labels, `podManagementPolicy`, the two layouts
of journals, the time that a pod has to end. It is the tool's image, with `standin.py` in place of
the tool: no other image has to be brought. Journals hold nothing but what can be computed, so one
that was restored is right if it is the beginning of what the same numbers give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.controlplane import KubectlError, until
from tests.e2e import standin
from tests.e2e.cluster import Cluster
from tests.e2e.volumes import Mode, Volume, claim_spec, create_volume

NAME = "deepgram-billing"
APP = "app=deepgram-billing"
"""The label that its pods have, whatever the StatefulSet is called."""

USER = 65532
"""Who writes journals unless told otherwise."""

_SCRIPT = "billing-standin"
_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """Billing, in a namespace."""

    cluster: Cluster
    namespace: str
    name: str
    volumes: Sequence[Volume]
    """One for each pod, or the one that they share, if it was made here."""

    def scale(self, replicas: int) -> None:
        """Have another number of pods, and wait until they are ready, or gone."""
        self.cluster.kubectl(
            *("-n", self.namespace, "scale", f"statefulset/{self.name}"), f"--replicas={replicas}"
        )
        self.await_ready()

    @property
    def replicas(self) -> int:
        """The number of pods that it is to have."""
        number: int = self._set()["spec"]["replicas"]
        return number

    def await_ready(self, *, seconds: float = _SECONDS) -> None:
        """Wait until all of its pods are ready, and no others are there.

        Raises:
            TimeoutError: they are not in time; with what was said of them.
        """
        try:
            until(self._is_ready, f"{self.name} is ready", seconds=seconds)
        except TimeoutError as error:
            pods = [pod["metadata"]["name"] for pod in self.pods()]
            said = [self.cluster.events(self.namespace, pod) for pod in pods]
            message = f"{error}: {pods}, {said}"
            raise TimeoutError(message) from None

    def pods(self) -> Sequence[Any]:
        """Read its pods, also those that are about to end."""
        return self.cluster.list(self.namespace, "pods", APP)

    def lives(self) -> set[str]:
        """Tell pods that are the same, and were never restarted, from those that are new."""
        return {
            f"{pod['metadata']['uid']} {status['restartCount']}"
            for pod in self.pods()
            for status in pod["status"].get("containerStatuses", [{"restartCount": 0}])
        }

    def node(self, ordinal: int = 0) -> str:
        """Name the node on which a pod is."""
        pod = self.cluster.get(self.namespace, "pods", f"{self.name}-{ordinal}")
        return str(pod["spec"]["nodeName"])

    def read_journal(self, ordinal: int = 0) -> bytes:
        """Read a journal as its pod has it."""
        return self._in_pod(ordinal, "cat", "/journal/journal").encode()

    def owners(self, ordinal: int = 0) -> str:
        """Tell whose a journal and its directory are, and who may what: uid, gid, mode."""
        return self._in_pod(ordinal, "stat", "--format=%u %g %a", "/journal/journal", "/journal")

    def _in_pod(self, ordinal: int, *command: str) -> str:
        """Run a command in a pod, once it runs: nodes tell of their pods with a delay."""
        pod = f"{self.name}-{ordinal}"
        refused = []

        def said() -> Sequence[str]:
            try:
                return [self.cluster.kubectl("-n", self.namespace, "exec", pod, "--", *command)]
            except KubectlError as error:
                refused.append(str(error))
                return []

        try:
            (text,) = until(said, f"{pod} runs {command[0]}", seconds=_SECONDS)
        except TimeoutError as error:
            message = f"{error}: {refused[-1]}"
            raise TimeoutError(message) from None
        return text

    def await_records(self, count: int, ordinal: int = 0) -> bytes:
        """Wait until a journal has so many records; return it."""
        return until(
            lambda: (
                journal if (journal := self.read_journal(ordinal)).count(b"\n") >= count else b""
            ),
            f"{count} records are there",
        )

    def _set(self) -> Any:
        return self.cluster.get(self.namespace, "statefulsets", self.name)

    def _is_ready(self) -> bool:
        found = self._set()
        status, replicas = found["status"], found["spec"]["replicas"]
        seen = status.get("observedGeneration") == found["metadata"]["generation"]
        ready = status.get("readyReplicas", 0) == replicas
        pods = self.pods()
        return bool(seen and ready and len(pods) == replicas and all(map(_stays, pods)))


def _stays(pod: Any) -> bool:
    """Tell whether a pod is ready, and not about to end."""
    conditions = pod["status"].get("conditions", [])
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def numbers(journal: bytes) -> list[int]:
    """Give the numbers of the records of a journal, each compared with what it is to be.

    Raises:
        ValueError: a line is not a record of the stand-in.
    """
    found = []
    for line in journal.splitlines(keepends=True):
        number = int(line[len(b'{"d":"') :].partition(b"-")[0])
        if line != standin.record(number):
            message = f"not a record: {line!r}"
            raise ValueError(message)
        found.append(number)
    return found


def whole(journal: bytes) -> bool:
    """Tell whether a journal has every record from the first one on, in turn, and each once."""
    found = numbers(journal)
    return bool(found) and found == [*range(len(found))]


def create_billing(
    cluster: Cluster,
    namespace: str,
    *,
    replicas: int = 1,
    shared_claim: str = "",
    mode: Mode = "ReadWriteOnce",
    one_mount: bool = False,
    user: int = USER,
    umask: str = "022",
    node: str = "",
    records_a_second: float = 10,
    name: str = NAME,
    **pod: Any,
) -> Billing:
    """Create billing; does not wait until it is ready.

    Args:
        cluster: where.
        namespace: where.
        replicas: the number of its pods, and of volumes that are there for them.
        shared_claim: the claim that holds the journals of all pods, made if it is not there;
            without it, each pod has a volume of its own.
        mode: how those volumes may be used.
        one_mount: whether they can be mounted by one pod at a time only.
        user: who writes: 0 for root, which `restricted` does not let pass.
        umask: what others may not do with a journal: 077 for mode 0600.
        node: the one node for its pods.
        records_a_second: the rate of each pod.
        name: that of the StatefulSet.
        pod: more of the pods' spec.
    """
    volumes = []
    if not shared_claim:
        claims = [f"journal-{name}-{ordinal}" for ordinal in range(replicas)]
        more: Any = {"mode": mode, "with_claim": False, "one_mount": one_mount}
        volumes = [create_volume(cluster, namespace, claim, **more) for claim in claims]
    elif not cluster.find(namespace, "persistentvolumeclaims", shared_claim):
        volumes = [create_volume(cluster, namespace, shared_claim, mode=mode, one_mount=one_mount)]
    placed: dict[str, Any] = {
        "securityContext": {"runAsUser": user, "runAsNonRoot": user != 0},
        **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
    }
    labels = {"app": NAME, "app.kubernetes.io/instance": namespace}
    command = ("python3", "/standin/standin.py", "/journal/journal", str(records_a_second), umask)
    cluster.create(
        namespace,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{name}-{_SCRIPT}"},
            "data": {"standin.py": Path(standin.__file__).read_text()},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": replicas,
                "serviceName": name,
                "podManagementPolicy": "Parallel",
                "updateStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 1},
                },
                "selector": {"matchLabels": {"app": NAME}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": _pod_spec(cluster, command, name, shared_claim) | placed | pod,
                },
            }
            | ({} if shared_claim else {"volumeClaimTemplates": [_template(cluster, mode)]}),
        },
    )
    return Billing(cluster=cluster, namespace=namespace, name=name, volumes=volumes)


def _pod_spec(
    cluster: Cluster, command: Sequence[str], name: str, shared_claim: str
) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": "journal", "mountPath": "/journal"}
    volumes: list[Any] = [{"name": "standin", "configMap": {"name": f"{name}-{_SCRIPT}"}}]
    if shared_claim:
        mount["subPathExpr"] = "journal-$(POD_NAME)"
        volumes.append({"name": "journal", "persistentVolumeClaim": {"claimName": shared_claim}})
    container = cluster.container(
        "billing",
        *command,
        env=[{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        volumeMounts=[mount, {"name": "standin", "mountPath": "/standin"}],
    )
    return {"containers": [container], "terminationGracePeriodSeconds": 30, "volumes": volumes}


def _template(cluster: Cluster, mode: Mode) -> dict[str, Any]:
    return {"metadata": {"name": "journal"}, "spec": claim_spec(cluster, mode)}
