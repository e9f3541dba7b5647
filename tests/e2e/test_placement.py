"""Where workers are, on real nodes, and that billing does not notice them.

A volume that attaches to one node at a time cannot follow billing while a worker has it; and a pod
of a higher priority takes the place of one of a lower. Both cost minutes of billing, and neither
shows on a control plane alone.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.controlplane import until
from tests.e2e.billing import NAME, Billing, create_billing, whole
from tests.e2e.cluster import Cluster
from tests.e2e.installation import install
from tests.e2e.nodes import NAMES, Nodes
from tests.e2e.stage import Record, note, set_stage, worker

JOURNAL = f"journal-{NAME}-0"
SLEEP = ("python3", "-c", "import time; time.sleep(600)")
MORE_SECONDS = 10
"""What a backup may cost a billing pod that moves."""


# -- billing moves


@pytest.fixture
def schedulable(cluster: Cluster, nodes: Nodes) -> Iterator[None]:
    """Have pods scheduled on both nodes again, whatever the test did."""
    yield
    cluster.kubectl("uncordon", *nodes.machines)


def drain(cluster: Cluster, billing: Billing) -> str:
    """Drain the node of billing's pod, as for an upgrade of the node."""
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=90s")
    return cluster.kubectl("drain", billing.node(), *options)


def delete(cluster: Cluster, billing: Billing) -> str:
    """Delete billing's pod."""
    return cluster.kubectl("-n", billing.namespace, "delete", "pod", f"{NAME}-0")


Blow = Callable[[Cluster, Billing], str]


def seconds_away(cluster: Cluster, billing: Billing, blow: Blow) -> float:
    """Have something befall billing's pod; give how long it takes until another one is ready."""
    (before,) = billing.pods()
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as thread:
        struck = thread.submit(blow, cluster, billing)
        until(lambda: is_renewed(billing, before), "billing is back", seconds=120)
        took = time.monotonic() - begun
        struck.result()
    return took


def is_renewed(billing: Billing, before: Any) -> bool:
    """Tell whether another pod than that one is ready."""
    pods = [p for p in billing.pods() if p["metadata"]["uid"] != before["metadata"]["uid"]]
    return any(
        c["type"] == "Ready" and c["status"] == "True"
        for p in pods
        for c in p["status"].get("conditions", [])
    )


@pytest.mark.usefixtures("schedulable")
@pytest.mark.parametrize("blow", [drain, delete])
def test_a_billing_pod_that_goes_in_mid_backup_is_back_as_fast_as_without(
    cluster: Cluster,
    nodes: Nodes,
    namespace: str,
    blow: Blow,
    record_property: Record,
) -> None:
    """The worker that hangs with its volume lets go, and the backup is made where billing is."""
    billing = create_billing(cluster, namespace)
    billing.await_ready()
    billing.await_records(5)
    without = seconds_away(cluster, billing, blow)
    cluster.kubectl("uncordon", *nodes.machines)
    stage = set_stage(cluster, namespace)
    other = next(name for name in NAMES if name != billing.node())
    tool = install(cluster, namespace, "colocated", node=other, **stage.props())
    stage.tell(worker(0), "hold")
    job = tool.run()
    stage.await_pod(worker(0))
    during = seconds_away(cluster, billing, blow)
    stage.tell(worker(0), "")
    ended = tool.ended(job)
    note(record_property, f"{blow.__name__}_to_ready", without=without, during=during)

    assert ended.exit_code == 0, ended.log
    assert "is tried again: billing's pod has left or moved" in ended.log
    assert [j["node"] for j in ended.report["journals"]] == [billing.node()]
    assert during <= without + MORE_SECONDS
    now = billing.read_journal()
    assert whole(now)
    assert now.startswith(tool.restored(JOURNAL))


# -- billing stays


@pytest.fixture
def important(cluster: Cluster) -> Iterator[str]:
    """Have a priority that is higher than that of pods which say nothing of it."""
    name = f"important-{uuid.uuid4().hex[:8]}"
    cluster.create(
        "default",
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": 1_000_000,
        },
    )
    yield name
    cluster.kubectl("delete", "priorityclass", name)


def test_a_worker_takes_no_place_of_billings(
    cluster: Cluster, nodes: Nodes, namespace: str, important: str
) -> None:
    """Where there is none for it, it says so; while a pod as important as its sender gets one."""
    processors = nodes.node("node-a")["status"]["allocatable"]["cpu"]
    thousandths = int(processors[:-1]) if processors.endswith("m") else int(processors) * 1000
    wanted = {"requests": {"cpu": f"{thousandths * 9 // 20}m"}}  # of which a node has two
    billing = create_billing(cluster, namespace, replicas=2, node="node-a", resources=wanted)
    billing.await_ready()
    for ordinal in range(2):
        billing.await_records(5, ordinal)
    before = billing.lives()
    stage = set_stage(cluster, namespace)
    props = stage.props(
        env={"WAIT_SECONDS": "8"},
        pod={"priorityClassName": important},
        container={"resources": wanted},
    )
    tool = install(cluster, namespace, "colocated", node="node-b", **props)
    job = tool.run()
    ended = tool.ended(job)
    after = billing.lives()
    priority = tool.pod_of(job)["spec"]["priority"]
    taker = cluster.pod("taker", *SLEEP, node="node-a", priorityClassName=important)
    cluster.create(namespace, taker | {"spec": taker["spec"] | {"resources": wanted}})
    until(lambda: billing.lives() != before, "one that is as important takes a place")

    assert before == after
    assert priority == 1_000_000
    assert ended.exit_code == 4
    for ordinal in range(2):
        (said,) = (p for p in ended.report["problems"] if p["journal"].endswith(f"-{ordinal}"))
        assert "its worker is not scheduled: 0/2 nodes are available" in said["message"]
        assert "1 Insufficient cpu" in said["message"]


def test_nothing_of_a_quiet_journal_changes(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """Owner, mode and even the time of the last change, with an fsGroup that could change them.

    One has a billing pod that writes nothing; the other was left by a scale-in, and is owed too.
    """
    billing = create_billing(cluster, namespace, replicas=2, records_a_second=1e-4)
    billing.await_ready()
    for ordinal in range(2):
        billing.await_records(1, ordinal)
    billing.scale(1)
    files = [
        path
        for volume in billing.volumes
        for path in (volume.directory, volume.directory / "journal")
    ]
    before = [state(path) for path in files]
    group = {"securityContext": {"runAsNonRoot": True, "fsGroup": 4242}}
    tool = install(cluster, namespace, "colocated", pod=group)
    ended = tool.ended(tool.run())

    assert ended.exit_code == 0, ended.log
    assert [m["journal"] for m in tool.manifests()] == [f"journal-{NAME}-{n}" for n in range(2)]
    assert [j["state"] for j in ended.report["journals"]] == ["backed up"] * 2
    assert before == [state(path) for path in files]
    for volume in billing.volumes:
        assert tool.restored(volume.claim) == (volume.directory / "journal").read_bytes()


def state(path: Path) -> tuple[int, ...]:
    """Say whose a file is, who may what, and when that, or what is in it, was last changed."""
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode, found.st_ctime_ns
