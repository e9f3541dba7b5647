"""What befalls a scale-down on real nodes, once it has billing at 0: one case a fault.

The matrix of all steps and faults is in `tests/cluster`. Here it is seen with what only nodes have:
processes and their grace, volumes that a pod has to let go of before billing can have them, and
how long all of it takes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from backup.cluster.lease import RECORD, lease_name
from tests.cluster.controlplane import until
from tests.cluster.site import ACCOUNT
from tests.e2e.billing import NAME, Billing, create_billing, whole
from tests.e2e.cluster import Cluster
from tests.e2e.installation import Installation, install
from tests.e2e.nodes import Nodes
from tests.e2e.stage import Record, Stage, note, set_stage, worker

REPLICAS = 2
JOURNALS = [f"journal-{NAME}-{ordinal}" for ordinal in range(REPLICAS)]
KEEP = "e2e.test/keep"
READY_SECONDS = 15
"""How long after the end of the last put billing may take to be ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Billing, whose volumes nobody else may have, and the tool, on a stage."""

    cluster: Cluster
    billing: Billing
    tool: Installation
    stage: Stage

    def begin(self, hold: str = worker(0)) -> str:
        """Begin a scale-down, and hold it where it is; by default where billing is at 0."""
        self.stage.tell(hold, "hold")
        job = self.tool.run()
        self.stage.await_pod(hold)
        return job

    def go_on(self, held: str = worker(0)) -> None:
        """Let what is held go on."""
        self.stage.tell(held, "")

    def records(self) -> list[int]:
        """Count the records on each volume."""
        return [self.journal(n).count(b"\n") for n in range(REPLICAS)]

    def journal(self, ordinal: int) -> bytes:
        """Read a journal, whether billing is there or not."""
        return (self.billing.volumes[ordinal].directory / "journal").read_bytes()

    @contextmanager
    def kept(self, job: str) -> Iterator[str]:
        """Have the pod of a Job stay in the block, also when it is deleted; give its name."""
        name: str = self.tool.pod_of(job)["metadata"]["name"]
        patch = ("-n", self.billing.namespace, "patch", "pod", name, "--type=json")
        keep = f'[{{"op": "add", "path": "/metadata/finalizers/-", "value": "{KEEP}"}}]'
        self.cluster.kubectl(*patch, f"--patch={keep}")
        try:
            yield name
        finally:
            pod = self.cluster.get(self.billing.namespace, "pods", name)
            place = f"/metadata/finalizers/{pod['metadata']['finalizers'].index(KEEP)}"
            self.cluster.kubectl(*patch, f'--patch=[{{"op": "remove", "path": "{place}"}}]')

    def require_back(self) -> None:
        """Insist that billing is as it was, that it lost nothing, and that it writes on."""
        assert self.billing.replicas == REPLICAS
        self.billing.await_ready()
        before = self.records()
        until(lambda: all(map(int.__gt__, self.records(), before)), "billing writes on")
        for ordinal in range(REPLICAS):
            assert whole(self.billing.read_journal(ordinal))
        assert self.record() is None

    def record(self) -> str | None:
        """Read what has to be put back; None if there is nothing."""
        lease = self.cluster.get(self.billing.namespace, "leases", lease_name(NAME))
        record: str | None = lease["metadata"]["annotations"].get(RECORD)
        return record

    def require_backed_up(self, *journals: str) -> None:
        """Insist on a backup of each, which is the beginning of what billing has now."""
        assert sorted({m["journal"] for m in self.tool.manifests()}) == sorted(journals)
        for journal in journals:
            held = self.tool.restored(journal)
            assert held
            assert self.journal(JOURNALS.index(journal)).startswith(held)


@pytest.fixture
def site(cluster: Cluster, nodes: Nodes, namespace: str) -> Site:
    """Have billing run, and the tool ready to scale it down."""
    billing = create_billing(cluster, namespace, replicas=REPLICAS, mode="ReadWriteOncePod")
    stage = set_stage(cluster, namespace)
    props = stage.props(env={"BACKUP_MAX_DOWNTIME": "3m"})
    tool = install(cluster, namespace, "scale-down", **props)
    billing.await_ready()
    for ordinal in range(REPLICAS):
        billing.await_records(5, ordinal)
    return Site(cluster=cluster, billing=billing, tool=tool, stage=stage)


def test_billing_is_ready_soon_and_before_anything_is_read_back(
    site: Site, record_property: Record
) -> None:
    """The commit comes when billing runs, however long it then takes."""
    job = site.begin("commit")
    ready = max(since(pod, "Ready") for pod in site.billing.pods())
    put = max(p.stat().st_mtime for journal in JOURNALS for p in site.tool.archives(journal))
    drafts = [p.stat().st_mtime for p in site.tool.sink.directory.glob("*/*.draft.json")]
    uncommitted = site.tool.manifests()
    serving = site.billing.replicas, len(site.billing.pods())
    site.go_on("commit")
    ended = site.tool.ended(job)
    committed = min(p.stat().st_mtime for p in site.tool.sink.directory.glob("*/*.manifest.json"))
    downtime = ended.report["downtime_seconds"]
    note(record_property, "scale_down", put_to_ready=ready - put, downtime=downtime)

    assert serving == (REPLICAS, REPLICAS)
    assert len(drafts) == REPLICAS
    assert uncommitted == []
    assert put <= max(drafts) <= ready + 1 <= committed + 1  # Kubernetes' times are whole seconds
    assert ready - put <= READY_SECONDS
    assert ended.exit_code == 0, ended.log
    site.require_back()
    site.require_backed_up(*JOURNALS)


def test_the_api_server_is_away_for_half_a_minute(
    site: Site, nodes: Nodes, record_property: Record
) -> None:
    """The copies are made meanwhile, and the run goes to its end."""
    job = site.begin()
    with nodes.without_apiserver():
        site.go_on()
        time.sleep(30)  # this long is what the test is about
    begun = time.monotonic()
    until(lambda: site.billing.replicas == REPLICAS, "it is scaled back", seconds=60)
    scaled = time.monotonic() - begun
    ended = site.tool.ended(job)  # Kubernetes' own controllers take their time after it is back
    note(record_property, "api_server_away", scaled_back=scaled, ended=time.monotonic() - begun)

    assert ended.exit_code == 0, ended.log
    site.require_back()
    site.require_backed_up(*JOURNALS)


def delete(site: Site, pod: str) -> None:
    """Delete a pod, as `kubectl delete` and a controller do."""
    site.cluster.kubectl("-n", site.billing.namespace, "delete", "pod", pod, "--wait=false")


def evict(site: Site, pod: str) -> None:
    """Evict a pod, as a drain and an autoscaler do."""
    site.cluster.evict(site.billing.namespace, pod)


@pytest.mark.parametrize("blow", [delete, evict])
def test_a_run_that_is_told_to_end_brings_billing_back(
    site: Site, blow: Callable[[Site, str], None], record_property: Record
) -> None:
    """Within its grace, though a worker hangs with a volume that billing needs."""
    job = site.begin()
    with site.kept(job) as pod:
        blow(site, pod)
        begun = time.monotonic()
        until(lambda: site.billing.replicas == REPLICAS, "it is scaled back", seconds=60)
        scaled = time.monotonic() - begun
        site.billing.await_ready()
        ready = time.monotonic() - begun
        ended = site.tool.ended(job)
    note(record_property, f"run_after_{blow.__name__}", scaled_back=scaled, ready=ready)

    assert ended.exit_code == 128 + signal.SIGTERM
    site.require_back()
    site.go_on()
    assert site.tool.ended(site.tool.run("next")).exit_code == 0
    site.require_backed_up(*JOURNALS)


def test_a_run_that_is_killed_is_made_good_by_the_next(
    site: Site, nodes: Nodes, record_property: Record
) -> None:
    """It has no time for anything, and billing stays at 0 until then."""
    job = site.begin()
    (process,) = nodes.processes(site.tool.pod_of(job)["metadata"]["uid"])
    os.kill(process, signal.SIGKILL)
    killed = site.tool.ended(job)
    left = site.billing.replicas, site.record() is not None
    site.go_on()
    begun = time.monotonic()
    ended = site.tool.ended(site.tool.run("next"))
    note(record_property, "run_after_a_kill", seconds=time.monotonic() - begun)

    assert (killed.exit_code, *left) == (128 + signal.SIGKILL, 0, True)
    assert ended.exit_code == 0, ended.log
    assert "had left billing at 0: it is back" in ended.log
    site.require_back()
    site.require_backed_up(*JOURNALS)


def test_a_run_without_its_rights_says_so_and_is_made_good_by_the_guard(
    site: Site, record_property: Record
) -> None:
    """As when Helm removes the role first."""
    job = site.begin()
    in_namespace = ("-n", site.billing.namespace)
    binding = site.cluster.get(site.billing.namespace, "rolebindings", ACCOUNT)
    site.cluster.kubectl(*in_namespace, "delete", "rolebinding", ACCOUNT)
    site.go_on()
    begun = time.monotonic()
    ended = site.tool.ended(job)
    said_after = time.monotonic() - begun
    left = site.billing.replicas, site.record() is not None
    del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
    site.cluster.create(site.billing.namespace, binding)
    guard = site.tool.ended(site.tool.run("guard", cronjob="guard"))
    note(record_property, "run_without_rights", said_after=said_after)

    assert (ended.exit_code, *left) == (8, 0, True), ended.log
    line = f"kubectl -n {site.billing.namespace} scale statefulset {NAME} --replicas={REPLICAS}"
    assert line in ended.log
    assert (guard.exit_code, guard.report["state"]) == (0, "restored"), guard.log
    site.require_back()


def test_a_worker_that_is_evicted_while_billing_is_away_costs_its_journal_only(site: Site) -> None:
    """Billing is not kept away for another try; the report says what happened."""
    job = site.begin()
    evict(site, site.stage.came(worker(0))[0])
    ended = site.tool.ended(job)
    problems = {p["journal"]: p["message"] for p in ended.report["problems"]}

    assert ended.exit_code == 4, ended.log
    assert list(problems) == JOURNALS[:1]
    assert problems[JOURNALS[0]] == "its worker was evicted: Eviction API: evicting"
    site.require_back()
    site.require_backed_up(JOURNALS[1])


def since(pod: Any, condition: str) -> float:
    """Give the time from which on a condition of a pod holds, in seconds."""
    (time_,) = (
        c["lastTransitionTime"]
        for c in pod["status"]["conditions"]
        if (c["type"], c["status"]) == (condition, "True")
    )
    return datetime.fromisoformat(time_).timestamp()
