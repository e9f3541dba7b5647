"""What went wrong with a worker is told apart, in words that whoever is woken by it can act on.

Only nodes run out of memory or disk, fail to mount, or are gone; what a scheduler or an admission
says is seen on a control plane too.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.controlplane import until
from tests.e2e.billing import NAME, create_billing, whole
from tests.e2e.cluster import Cluster
from tests.e2e.installation import Ended, install
from tests.e2e.nodes import Nodes
from tests.e2e.stage import set_stage, worker

JOURNAL = f"journal-{NAME}-0"


def problems(ended: Ended) -> dict[str, str]:
    """Give what is wrong, by journal."""
    return {p["journal"] or "": p["message"] for p in ended.report["problems"]}


def test_workers_fail_for_reasons_of_their_own(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """In one run: each journal that was not read says why, and the others are backed up."""
    billing = create_billing(cluster, namespace, replicas=5)
    stage = set_stage(cluster, namespace)
    limits = {"memory": "256Mi", "ephemeral-storage": "32Mi"}
    requests = {"memory": "64Mi", "ephemeral-storage": "1Mi"}
    tool = install(
        cluster,
        namespace,
        "colocated",
        **stage.props(
            env={"BACKUP_WORKERS": "5", "WAIT_SECONDS": "20"},
            container={"resources": {"limits": limits, "requests": requests}},
        ),
    )
    billing.await_ready()
    for ordinal in range(5):
        billing.await_records(1, ordinal)
    stage.tell(worker(1), "take memory")
    stage.tell(worker(2), "fill the disk")
    stage.tell(worker(3), "say nothing")
    broken = billing.volumes[4].directory
    aside = broken.rename(broken.with_name(f"{broken.name}-aside"))
    before = billing.lives()
    try:
        ended = tool.ended(tool.run())
    finally:
        aside.rename(broken)
    said = dict(sorted(problems(ended).items()))

    assert ended.exit_code == 4, ended.log
    assert list(said) == [f"journal-{NAME}-{ordinal}" for ordinal in range(1, 5)]
    memory, disk, silent, mount = said.values()
    assert memory == "its worker ran out of memory: raise resources.limits.memory"
    assert disk.startswith("its worker was evicted: ")
    assert "32Mi" in disk
    assert silent == "its worker ended with exit code 1 and without an answer"
    assert mount.startswith("its worker does not begin (FailedMount: MountVolume.SetUp failed")
    assert "there is no volume" in mount
    assert [m["journal"] for m in tool.manifests()] == [JOURNAL]
    assert billing.lives() == before


@pytest.mark.parametrize("strategy", ["colocated", "scale-down"])
def test_a_worker_is_refused_by_admission(
    cluster: Cluster, nodes: Nodes, lax_namespace: str, strategy: str
) -> None:
    """The namespace became `restricted` after the run began; and that costs no downtime."""
    billing = create_billing(cluster, lax_namespace)
    stage = set_stage(cluster, lax_namespace)
    open_to_all: Any = {"securityContext": {"readOnlyRootFilesystem": True}}
    props = stage.props(container=open_to_all, env={"BACKUP_MAX_DOWNTIME": "3m"})
    tool = install(cluster, lax_namespace, strategy, **props)
    billing.await_ready()
    before = billing.lives()
    stage.tell("backup", "hold")
    job = tool.run()
    stage.await_pod("backup")
    enforced = "pod-security.kubernetes.io/enforce=restricted"
    cluster.kubectl("label", "namespace", lax_namespace, enforced)
    stage.tell("backup", "")
    ended = tool.ended(job)

    assert ended.exit_code == (4 if strategy == "colocated" else 7)
    assert "FailedCreate" in ended.log
    assert "violates PodSecurity" in ended.log
    assert "allowPrivilegeEscalation != false" in ended.log
    assert (billing.lives(), billing.replicas) == (before, 1)
    assert tool.manifests() == []


def test_a_worker_beside_billing_never_answers(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """Its node is out of reach, and billing with it, as far as anybody can tell."""
    gone = [
        {
            "key": f"node.kubernetes.io/{what}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 1,
        }
        for what in ("unreachable", "not-ready")
    ]  # else it takes five minutes until anything happens
    billing = create_billing(cluster, namespace, node="node-b", tolerations=gone)
    stage = set_stage(cluster, namespace)
    props = stage.props(env={"WAIT_SECONDS": "10"})
    tool = install(cluster, namespace, "colocated", node="node-a", **props)
    billing.await_ready()
    billing.await_records(5)
    stage.tell(worker(0), "hold")
    job = tool.run()
    cluster.await_phase(namespace, stage.await_pod(worker(0)), "Running")
    with nodes.unplugged("node-b"):
        ended = tool.ended(job)
    nodes.await_ready("node-b")
    billing.await_ready()

    assert ended.exit_code == 4, ended.log
    assert "is tried again: billing's pod has left or moved" in ended.log
    (said,) = problems(ended).items()
    assert said[0] == JOURNAL
    assert said[1].startswith(f"{NAME}-0 is not running (")
    assert "NodeNotReady: Node is not ready" in said[1]  # and whatever it had been slow with before
    assert whole(billing.read_journal())


def test_a_worker_never_answers_while_billing_is_away(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """Its node is out of reach; billing is scaled back when its time is over."""
    billing = create_billing(cluster, namespace)
    billing.await_ready()
    billing.await_records(5)
    held = billing.node()
    other = next(name for name in nodes.machines if name != held)
    stage = set_stage(cluster, namespace)
    props = stage.props(env={"BACKUP_MAX_DOWNTIME": "40s"})
    tool = install(cluster, namespace, "scale-down", node=other, **props)
    stage.tell(worker(0), "hold")
    job = tool.run()
    pod = cluster.await_phase(namespace, stage.await_pod(worker(0)), "Running")
    with nodes.unplugged(held):
        until(lambda: billing.replicas == 1, "billing is scaled back", seconds=90)
    nodes.await_ready(held)
    ended = tool.ended(job)

    assert pod["spec"]["nodeName"] == held
    assert {p["exit_code"] for p in ended.report["problems"]} == {4, 9}, ended.log
    assert problems(ended) == {
        "": "the copies are not done after 40 s: billing comes first",
        JOURNAL: f"was not copied: its worker on {held} had not ended "
        "(NodeNotReady: Node is not ready)",
    }
    billing.await_ready()
    assert whole(billing.read_journal())


def test_a_worker_that_is_evicted_beside_billing_is_tried_again(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """It may be over before billing's own eviction is heard of, where a node is drained."""
    billing = create_billing(cluster, namespace)
    stage = set_stage(cluster, namespace)
    tool = install(cluster, namespace, "colocated", **stage.props())
    billing.await_ready()
    billing.await_records(5)
    stage.tell(worker(0), "hold")
    job = tool.run()
    cluster.evict(namespace, stage.await_pod(worker(0)))
    stage.await_pod(worker(0), number=2)
    stage.tell(worker(0), "")
    ended = tool.ended(job)

    assert ended.exit_code == 0, ended.log
    assert f"{JOURNAL} is tried again: its worker's pod was deleted" in ended.log
    assert billing.read_journal().startswith(tool.restored(JOURNAL))
