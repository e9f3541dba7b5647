"""Volumes of a CSI driver that attaches them to a node before they are mounted, as a disk is.

    volume = create_volume(cluster, namespace, "journal-deepgram-billing-0")
    (volume.directory / "journal").read_bytes()     # what is on it, whoever has it mounted

A volume is a directory of this machine, and `tests/servers/csi-driver` binds it to where a pod
wants it. What Kubernetes does around that is as with any disk: it attaches, waits, refuses, and
re-owns the files of a pod with an fsGroup (`fsGroupPolicy: File`), be the volume in use or not.

Each is made together with its claim, or for a claim that somebody else makes later, as a
StatefulSet does. In a given cluster only the claim is made, of that cluster's default class or
that which was named for volumes of many nodes, and a pod tells what is on it: `contents`.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tests.cluster.controlplane import ControlPlane, until
from tests.e2e.machine import DRIVER

if TYPE_CHECKING:
    from tests.e2e.cluster import Cluster
    from tests.e2e.nodes import Nodes

Mode = Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]

CLASS = "shared-folder"
"""The storage class of these volumes. Nothing is provisioned of it."""

_DEFAULT_CLASS: dict[str, Any] = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": "provisioned",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "e2e.test/provisioner",
}
_PROVISION_SECONDS = 0.2
_OF = "e2e.test/namespace"
_SIZE = "1Gi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume, and the claim that it is for."""

    claim: str
    name: str
    """That of its PersistentVolume, and of its directory."""
    path: Path | None
    """Its directory on this machine, where the nodes are ours."""

    @property
    def directory(self) -> Path:
        """What is on it, whoever has it mounted; only where the nodes are ours."""
        assert self.path is not None, f"{self.claim} is on the nodes of others"
        return self.path


def create_volume(
    cluster: Cluster,
    namespace: str,
    claim: str,
    *,
    mode: Mode = "ReadWriteOnce",
    with_claim: bool = True,
    one_mount: bool = False,
) -> Volume:
    """Make a volume that anyone may write to.

    Args:
        cluster: where.
        namespace: where.
        claim: the name of its claim.
        mode: how it may be used.
        with_claim: make the claim too, and wait until it is bound; else it is made by another.
        one_mount: the driver mounts it into one pod at a time, on the same node too.
    """
    volume = Volume(
        claim=claim,
        name=f"{namespace}-{claim}",
        path=cluster.own.volumes / f"{namespace}-{claim}" if cluster.own else None,
    )
    if cluster.own:
        _create_disk(cluster.own, namespace, volume, mode, one_mount=one_mount)
    if with_claim:
        cluster.create(
            namespace,
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim},
                "spec": claim_spec(cluster, mode),
            },
        )
    if with_claim and cluster.own:
        until(
            lambda: (
                cluster.get(namespace, "persistentvolumeclaims", claim)["status"]["phase"]
                == "Bound"
            ),
            f"{claim} is bound",
        )
    return volume


def claim_spec(cluster: Cluster, mode: Mode) -> dict[str, Any]:
    """Give the spec of a claim, for a volume or in a StatefulSet."""
    theirs = cluster.shared_class if mode == "ReadWriteMany" else ""
    named = CLASS if cluster.own else theirs
    spec = {"accessModes": [mode], "resources": {"requests": {"storage": _SIZE}}}
    return spec | ({"storageClassName": named} if named else {})


def contents(cluster: Cluster, namespace: str, volume: Volume) -> Path:
    """Find what is on a volume: its directory or, on the nodes of others, a copy as of now.

    A copy is made by a pod that has the volume too, so it has to be one for many.
    """
    if volume.path:
        return volume.path
    assert cluster.files
    reader = f"reader-of-{volume.claim}"
    if not cluster.find(namespace, "pods", reader):
        mount = {"name": "volume", "mountPath": "/volume"}
        claim = {"claimName": volume.claim}
        pod = cluster.pod(
            *(reader, "sleep", "infinity"),
            container={"volumeMounts": [mount]},
            volumes=[{"name": "volume", "persistentVolumeClaim": claim}],
        )
        cluster.create(namespace, pod)
    cluster.await_phase(namespace, reader, "Running")
    packed = "tar -C /volume -c . | base64"
    said = cluster.kubectl("-n", namespace, "exec", reader, "--", "sh", "-c", packed)
    copy = cluster.files / volume.name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    unpack = ("tar", "-C", str(copy), "--no-same-owner", "-x")
    subprocess.run(unpack, input=base64.b64decode(said), check=True)
    return copy


def introduce(plane: ControlPlane) -> None:
    """Tell a cluster of the driver and of its storage class."""
    objects = [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": DRIVER},
            "spec": {"attachRequired": True, "fsGroupPolicy": "File", "podInfoOnMount": False},
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
        },
    ]
    plane.kubectl(
        *("create", "-f", "-"),
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
    )


def remove(own: Nodes, namespace: str) -> None:
    """Remove the volumes of a namespace that is gone."""
    own.plane.kubectl(
        "delete", "persistentvolume", "--wait=false", "--ignore-not-found", f"-l{_OF}={namespace}"
    )
    for directory in own.volumes.glob(f"{namespace}-*"):
        shutil.rmtree(directory)


@contextmanager
def provisioned(own: Nodes) -> Iterator[None]:
    """Have a default class inside the block, of which volumes are made as they are claimed."""
    own.plane.kubectl("create", "-f", "-", stdin=json.dumps(_DEFAULT_CLASS))
    done = threading.Event()
    made: set[str] = set()
    thread = threading.Thread(target=_provision, args=(own, made, done))
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        own.plane.kubectl("delete", "storageclass", _DEFAULT_CLASS["metadata"]["name"])
        for namespace in made:
            remove(own, namespace)


def _provision(own: Nodes, made: set[str], done: threading.Event) -> None:
    while not done.wait(_PROVISION_SECONDS):
        for claim in own.plane.call("GET", "/api/v1/persistentvolumeclaims").body["items"]:
            namespace, name = claim["metadata"]["namespace"], claim["metadata"]["name"]
            volume = Volume(
                claim=name,
                name=f"{namespace}-{name}",
                path=own.volumes / f"{namespace}-{name}",
            )
            wanted = claim["spec"].get("storageClassName") == _DEFAULT_CLASS["metadata"]["name"]
            if wanted and not volume.directory.exists():
                made.add(namespace)
                (mode,) = claim["spec"]["accessModes"]
                _create_disk(own, namespace, volume, mode, of=claim["spec"]["storageClassName"])


def attached(cluster: Cluster, volume: Volume) -> set[str]:
    """Name the nodes that a volume is attached to, as the API has it."""
    assert cluster.own
    found = cluster.own.plane.call("GET", "/apis/storage.k8s.io/v1/volumeattachments").body
    return {
        attachment["spec"]["nodeName"]
        for attachment in found["items"]
        if attachment["spec"]["source"]["persistentVolumeName"] == volume.name
        and attachment.get("status", {}).get("attached")
    }


def _create_disk(
    own: Nodes,
    namespace: str,
    volume: Volume,
    mode: Mode,
    *,
    one_mount: bool = False,
    of: str = CLASS,
) -> None:
    volume.directory.mkdir()
    volume.directory.chmod(0o777)
    csi: dict[str, Any] = {"driver": DRIVER, "volumeHandle": volume.name}
    if one_mount:
        csi["volumeAttributes"] = {"mounts": "one"}
    disk = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume.name, "labels": {_OF: namespace}},
        "spec": {
            "accessModes": [mode],
            "capacity": {"storage": _SIZE},
            "claimRef": {"namespace": namespace, "name": volume.claim},
            "csi": csi,
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": of,
        },
    }
    own.plane.kubectl("create", "-f", "-", stdin=json.dumps(disk))
