r"""A cluster in which pods run, as its administrator sees it: nodes of our own, or a given cluster.

    cluster.create(namespace, cluster.pod("probe", "python3", "-c", "print('hello')"))
    cluster.await_phase(namespace, "probe", "Succeeded")
    assert cluster.log(namespace, "probe") == "hello\n"

What is here holds for both. `own` is there where the nodes are ours, and with it all that can only
be done to such: see `tests.e2e.nodes` and `tests.e2e.volumes`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.controlplane import KubectlError, Level, until
from tests.cluster.programs import program
from tests.e2e import images, volumes
from tests.e2e.nodes import Nodes, nodes

_GROUPS = {
    "cronjobs": "apis/batch/v1",
    "jobs": "apis/batch/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "statefulsets": "apis/apps/v1",
}
_KUBECTL_SECONDS = 120
_POD_SECONDS = 60.0
_NAMESPACE_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that runs."""

    kubeconfig: Path
    """The administrator's."""
    image: str
    """The name of the tool's image, which the nodes have or can pull."""
    own: Nodes | None = None
    """The nodes, if they are ours."""
    files: Path | None = None
    """A directory for copies of what is on volumes, if the nodes are others'."""
    shared_class: str = ""
    """The storage class of volumes for many nodes, if the nodes are others' and their default
    class has none."""

    def kubectl(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> str:
        """Run kubectl, as the administrator unless told otherwise; return what it prints.

        Raises:
            KubectlError: it ended with another code than 0.
        """
        done = subprocess.run(
            [_kubectl(), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
            check=False,
            env=os.environ | {"KUBECONFIG": str(kubeconfig or self.kubeconfig)},
        )
        if done.returncode:
            message = f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
            raise KubectlError(message)
        return done.stdout

    # -- objects

    def create(self, namespace: str, *objects: Any) -> None:
        """Create objects; each has its apiVersion and kind, and its name."""
        many = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(many))

    def find(self, namespace: str, kind: str, name: str) -> Any | None:
        """Read an object, if it is there; the kind as in paths of the API: statefulsets."""
        return self._read(f"{_place(namespace, kind)}/{name}")

    def get(self, namespace: str, kind: str, name: str) -> Any:
        """Read an object that is there."""
        found = self.find(namespace, kind, name)
        assert found is not None, f"there is no {name} among {kind}"
        return found

    def list(self, namespace: str, kind: str, labels: str = "") -> Sequence[Any]:
        """Read the objects of a kind that have these labels: app=billing."""
        query = f"?labelSelector={labels.replace('=', '%3D')}" if labels else ""
        found = self._read(f"{_place(namespace, kind)}{query}")
        assert found is not None, f"there are no {kind}"
        items: Sequence[Any] = found["items"]
        return items

    def _read(self, path: str) -> Any | None:
        if self.own:  # no process for each look
            answer = self.own.plane.call("GET", path)
            assert answer.status in {200, 404}, answer.body
            return answer.body if answer.status == 200 else None
        try:
            return json.loads(self.kubectl("get", "--raw", path))
        except KubectlError as error:
            if "NotFound" in str(error):
                return None
            raise

    def events(self, namespace: str, name: str) -> dict[str, str]:
        """Give what was said of an object: the latest message by its reason."""
        said = self.list(namespace, "events")
        return {e["reason"]: e["message"] for e in said if e["involvedObject"]["name"] == name}

    def places(self) -> Sequence[str]:
        """Name the nodes that take any pod."""
        found = json.loads(self.kubectl("get", "nodes", "-o", "json"))["items"]
        return sorted(
            node["metadata"]["labels"]["kubernetes.io/hostname"]
            for node in found
            if not node["spec"].get("taints") and not node["spec"].get("unschedulable")
        )

    # -- namespaces

    def create_namespace(self, *, enforce: Level | None = None) -> str:
        """Create a namespace that is ready for pods; return its name, which nothing else has.

        Args:
            enforce: what Pod Security refuses there; without it, nothing.
        """
        name = f"e2e-{uuid.uuid4().hex[:12]}"
        labels = {"pod-security.kubernetes.io/enforce": enforce} if enforce else {}
        self.create(
            "default",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        )
        until(lambda: self.find(name, "serviceaccounts", "default"), f"{name} has its account")
        return name

    def delete_namespace(self, name: str) -> None:
        """Have a namespace deleted, with its volumes; return when its pods are gone."""
        # The controller that deletes what is in a namespace lets five seconds pass first.
        kinds = "cronjobs,jobs,statefulsets,pods"
        self.kubectl("-n", name, "delete", kinds, "--all", "--wait=false", "--grace-period=1")
        self.kubectl("delete", "namespace", name, "--wait=false")
        until(
            lambda: not self.list(name, "pods"),
            f"the pods of {name} are gone",
            seconds=_NAMESPACE_SECONDS,
        )
        if self.own:
            volumes.remove(self.own, name)

    # -- pods

    def container(self, name: str, *command: str, **fields: Any) -> Any:
        """Describe a container of the tool's image, as `restricted` wants it in a pod without root.

        Args:
            name: what it is called in its pod.
            command: what to run in place of the tool; without it, the tool.
            fields: more of it, or others.
        """
        described: dict[str, Any] = {
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }
        if command:
            described["command"] = list(command)
        return described | fields

    def pod(
        self, name: str, *command: str, container: Any = None, node: str = "", **fields: Any
    ) -> Any:
        """Describe a pod of one container, which runs once and is ended in a second.

        Args:
            name: what it is called.
            command: what to run in place of the tool; without it, the tool.
            container: more of its container.
            node: whose node has to be chosen; else the scheduler is free.
            fields: more of its spec.
        """
        spec: dict[str, Any] = {
            "containers": [self.container("main", *command, **(container or {}))],
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True},
            "terminationGracePeriodSeconds": 1,
        }
        if node:
            spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": spec | fields,
        }

    def phase(self, namespace: str, pod: str) -> str:
        """Give the phase of a pod, or nothing where there is none."""
        found = self.find(namespace, "pods", pod)
        return str(found["status"]["phase"]) if found else ""

    def await_phase(
        self, namespace: str, pod: str, phase: str, *, seconds: float = _POD_SECONDS
    ) -> Any:
        """Wait until a pod has come to a phase; return it.

        Raises:
            TimeoutError: it did not in time; with what was said of it.
        """
        try:
            until(lambda: self.phase(namespace, pod) == phase, f"{pod} is {phase}", seconds=seconds)
        except TimeoutError as error:
            said = self.events(namespace, pod)
            message = f"{error}; it is {self.phase(namespace, pod)!r}, {said}"
            raise TimeoutError(message) from None
        return self.get(namespace, "pods", pod)

    def await_gone(
        self, namespace: str, kind: str, name: str, *, seconds: float = _POD_SECONDS
    ) -> None:
        """Wait until an object is there no more."""
        until(lambda: self.find(namespace, kind, name) is None, f"{name} is gone", seconds=seconds)

    def evict(self, namespace: str, pod: str) -> None:
        """Evict a pod, as a drain does; it ends in its own time."""
        place = f"{_place(namespace, 'pods')}/{pod}/eviction"
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        self.kubectl("create", "--raw", place, "-f", "-", stdin=json.dumps(eviction))

    def log(self, namespace: str, pod: str, *options: str) -> str:
        """Read what a pod has said; options as kubectl's: --previous."""
        return self.kubectl("-n", namespace, "logs", pod, *options)


@contextmanager
def own_cluster(directory: Path, archive: Path) -> Iterator[Cluster]:
    """Start a cluster on this machine, whose nodes have the tool's image from a docker-archive."""
    with nodes(directory, [archive]) as made:
        yield Cluster(kubeconfig=made.plane.kubeconfig, image=images.name_in(archive), own=made)


def given_cluster(kubeconfig: Path, image: str, files: Path, *, shared_class: str = "") -> Cluster:
    """Take a cluster that somebody else has made.

    Args:
        kubeconfig: its administrator's.
        image: the name of one that its nodes have, or can pull.
        files: a directory for copies of what is on volumes.
        shared_class: the storage class of volumes for many nodes; without it, the default one.
    """
    return Cluster(kubeconfig=kubeconfig, image=image, files=files, shared_class=shared_class)


def _kubectl() -> str | Path:
    built = program("kubectl")
    return built if os.access(built, os.X_OK) else shutil.which("kubectl") or "kubectl"


def _place(namespace: str, kind: str) -> str:
    return f"/{_GROUPS.get(kind, 'api/v1')}/namespaces/{namespace}/{kind}"
