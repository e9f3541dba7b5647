"""Backups on real nodes: real pods of the built image, beside billing or while it is away.

What the control plane alone shows is in `tests/cluster`; here is what only nodes can: where a
worker lands, what it can mount while billing has the volume, and what comes of owners and modes.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.cluster.controlplane import until
from tests.e2e.billing import NAME, create_billing, whole
from tests.e2e.cluster import Cluster
from tests.e2e.installation import install
from tests.e2e.nodes import Nodes
from tests.e2e.stage import set_stage, worker
from tests.e2e.volumes import create_volume
from tests.figures import Figure

JOURNAL = f"journal-{NAME}-0"
_SELECTOR = "/spec/jobTemplate/spec/template/spec/nodeSelector"
_ON_NODE_A = json.dumps(
    [{"op": "add", "path": _SELECTOR, "value": {"kubernetes.io/hostname": "node-a"}}]
)


def ready_since(pod: Any) -> float:
    """Since when a pod is ready, in seconds since the epoch."""
    (ready,) = [c for c in pod["status"]["conditions"] if c["type"] == "Ready"]
    assert ready["status"] == "True"
    return datetime.fromisoformat(ready["lastTransitionTime"]).timestamp()


@pytest.mark.parametrize("group", [None, 4242], ids=["", "fsGroup"])
def test_a_live_volume_is_backed_up_beside_billing(
    cluster: Cluster, namespace: str, group: int | None
) -> None:
    """By a worker on its node, with the orchestrator on the other; nothing of billing changes."""
    billing = create_billing(cluster, namespace)
    billing.await_ready()
    billing.await_records(5)
    other = next(name for name in cluster.places() if name != billing.node())
    pod: dict[str, Any] = {"securityContext": {"runAsNonRoot": True, "fsGroup": group}}
    tool = install(cluster, namespace, "colocated", node=other, pod=pod if group else {})
    before = billing.lives(), billing.owners()
    ended = tool.ended(tool.run())
    after = billing.lives(), billing.owners()
    now = billing.read_journal()

    assert ended.exit_code == 0, ended.log
    assert [j["node"] for j in ended.report["journals"]] == [billing.node()]
    assert tool.pod_of("now")["spec"]["nodeName"] == other
    assert before == after
    assert whole(now)
    assert tool.restored(JOURNAL)
    assert now.startswith(tool.restored(JOURNAL))


def test_a_shared_volume_is_backed_up_by_one_worker(cluster: Cluster, namespace: str) -> None:
    """Two journals, one claim for one node; nothing of billing changes."""
    create_volume(cluster, namespace, "dg-journals")
    billing = create_billing(
        cluster, namespace, replicas=2, shared_claim="dg-journals", node=cluster.places()[0]
    )
    billing.await_ready()
    for ordinal in (0, 1):
        billing.await_records(5, ordinal)
    pod = {"securityContext": {"runAsNonRoot": True, "fsGroup": 4242}}
    tool = install(cluster, namespace, "auto", pod=pod)
    before = billing.lives(), billing.owners(0), billing.owners(1)
    ended = tool.ended(tool.run())
    after = billing.lives(), billing.owners(0), billing.owners(1)

    assert ended.exit_code == 0, ended.log
    assert len(tool.manifests()) == 2
    assert len({j["worker"] for j in ended.report["journals"]}) == 1
    assert before == after
    for ordinal in (0, 1):
        now, held = billing.read_journal(ordinal), tool.restored(f"journal-{NAME}-{ordinal}")
        assert held
        assert whole(now)
        assert now.startswith(held)


def test_billing_is_scaled_down_and_back(cluster: Cluster, namespace: str, figure: Figure) -> None:
    """Where nobody else may mount its volumes; nothing is lost, and the copy is all there was."""
    billing = create_billing(cluster, namespace, replicas=3, mode="ReadWriteOncePod")
    billing.await_ready()
    for ordinal in range(3):
        billing.await_records(5, ordinal)
    tool = install(cluster, namespace, "auto", env={"BACKUP_MAX_DOWNTIME": "3m"})
    ended = tool.ended(tool.run())
    billing.await_ready()

    assert ended.exit_code == 0, ended.log
    assert billing.replicas == 3
    assert ended.report["strategy"] == "scale-down"
    assert ended.report["downtime_seconds"] > 0
    assert len(tool.manifests()) == 3
    put = max(path.stat().st_mtime for path in tool.stored("*.tar.gz"))
    committed = min(path.stat().st_mtime for path in tool.stored("*.manifest.json"))
    back = max(map(ready_since, billing.pods()))
    figure("scale-down, from the last put to billing ready", back - put)
    figure("scale-down of 3 replicas, downtime", ended.report["downtime_seconds"])
    assert back < committed + 1  # the API's times are whole seconds: reading back is no downtime
    for ordinal in range(3):
        now, held = billing.read_journal(ordinal), tool.restored(f"journal-{NAME}-{ordinal}")
        assert whole(now)
        assert now.startswith(held)


def test_a_run_that_dies_with_its_node_is_made_good(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """Its pod stays "Running" in the API: the heartbeat tells, and the guard restores billing."""
    billing = create_billing(cluster, namespace, mode="ReadWriteOncePod", node="node-a")
    billing.await_ready()
    stage = set_stage(cluster, namespace)
    stage.tell(worker(0), "hold")
    tool = install(cluster, namespace, "scale-down", node="node-b", **stage.props())
    job = tool.run()
    stage.await_pod(worker(0))
    nodes.kill("node-b")
    down = billing.replicas, len(billing.pods()), tool.pod_of(job)["status"]["phase"]
    rounds = iter(range(100))

    def guard() -> str:
        ended = tool.ended(tool.run(f"guard-{next(rounds)}", cronjob="guard"))
        assert ended.exit_code == 0, ended.log
        return str(ended.report["state"])

    cluster.kubectl("-n", namespace, "patch", "cronjob", "guard", "--type=json", f"-p={_ON_NODE_A}")
    said = until(lambda: state if (state := guard()) != "under way" else "", "it is made good")
    seen = billing.replicas, tool.pod_of(job)["status"]["phase"]
    billing.await_ready()
    nodes.restart("node-b")

    assert down == (0, 0, "Running")
    assert (said, seen) == ("restored", (1, "Running"))
    assert whole(billing.read_journal())


def test_a_run_that_is_deleted_brings_billing_back(cluster: Cluster, namespace: str) -> None:
    """Within its grace, as `helm uninstall` or a drained node would have it."""
    billing = create_billing(cluster, namespace, mode="ReadWriteOncePod")
    billing.await_ready()
    tool = install(cluster, namespace, "scale-down")
    job = tool.run()
    tool.await_step(job, "billing goes from 1 to 0")
    cluster.kubectl("-n", namespace, "delete", "job", job)
    until(lambda: not tool.pods(f"job-name={job}"), "the run has ended", seconds=120)

    assert billing.replicas == 1
    billing.await_ready()
    assert whole(billing.await_records(1))
