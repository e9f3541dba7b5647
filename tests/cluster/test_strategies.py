"""Backups by workers, on a real control plane: what is asked of it, and what comes of it."""

from __future__ import annotations

import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from backup.cluster.lease import MEASURED, OWNER
from backup.cluster.strategies import RULES
from tests.cluster.controlplane import until
from tests.cluster.doomed import LEASE, steps
from tests.cluster.site import BILLING, NODES, Site


def test_colocated_backs_up_while_billing_runs(here: Site) -> None:
    """Beside its pods."""
    here.create_billing(replicas=2)
    before = {p["metadata"]["uid"] for p in here.billing_pods()}
    ended = here.ended(here.run_backup("colocated"))

    assert ended.exit_code == 0, ended.log
    assert before == {p["metadata"]["uid"] for p in here.billing_pods()}
    assert [m["journal"] for m in here.manifests()] == [f"journal-{BILLING}-{n}" for n in (0, 1)]


def test_scale_down(here: Site) -> None:
    """And back."""
    here.create_billing(replicas=3)
    ended = here.ended(here.run_backup("scale-down"))

    assert ended.exit_code == 0, ended.log
    assert here.replicas() == 3
    here.await_billing(3)
    assert len(here.manifests()) == 3


@pytest.mark.parametrize("replicas", [1, 0], ids=["good", "failed"])
def test_the_readme_waits_for_a_job_of_either_end(here: Site, replicas: int) -> None:
    """Until `condition=Complete` somebody would wait for an hour, where a backup has failed."""
    here.create_billing(replicas=replicas)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (option,) = set(re.findall(r"--for=jsonpath='(\S+)'=True", readme))
    job = here.run_backup("colocated")
    wait = ("wait", f"job/{job}", f"--for=jsonpath={option}=True", "--timeout=50s")
    said = here.plane.kubectl("-n", here.namespace, *wait)

    assert (here.ended(job).exit_code == 0) is bool(replicas)
    assert "condition met" in said


def journals(here: Site) -> list[str]:
    """The journals on the sink, one for each backup."""
    return [m["journal"] for m in here.manifests()]


def restored(here: Site, ordinal: int) -> bytes:
    """A journal as its newest backup has it."""
    name = f"journal-{BILLING}-{ordinal}"
    (archive,) = sorted((here.sink() / name).glob("*.tar.gz"))[-1:]
    with tarfile.open(archive) as tar:
        file = tar.extractfile(f"{name}/journal")
        assert file is not None
        return file.read()


# colocated


def test_a_backup_is_the_begin_of_a_journal_that_goes_on(here: Site) -> None:
    """Nothing is lost, and owner, mode and content stay as they are."""
    here.create_billing(replicas=1)
    path = here.journal(0)
    before = path.stat()
    ended = here.ended(here.run_backup("colocated"))
    after = path.stat()
    held = restored(here, 0)

    assert ended.exit_code == 0, ended.log
    assert held
    assert path.read_bytes().startswith(held)
    assert after.st_size > before.st_size
    assert (before.st_mode, before.st_uid, before.st_gid) == (
        after.st_mode,
        after.st_uid,
        after.st_gid,
    )


def test_a_worker_is_beside_billing(here: Site) -> None:
    """On the node of the pod that has the volume, wherever the orchestrator is."""
    here.create_billing(replicas=2)
    nodes = {p["metadata"]["name"]: p["spec"]["nodeName"] for p in here.billing_pods()}
    ended = here.ended(here.run_backup("colocated"))

    assert {j["journal"].removeprefix("journal-"): j["node"] for j in ended.report["journals"]} == (
        nodes
    )


def test_the_next_backup_extends_the_last(here: Site) -> None:
    """The chain goes on, whatever pod made its links."""
    here.create_billing(replicas=1)
    for _ in range(2):
        assert here.ended(here.run_backup("colocated")).exit_code == 0

    assert [m["continuity"] for m in here.manifests()] == ["first", "extended"]
    assert {m["source"]["strategy"] for m in here.manifests()} == {"colocated"}


def test_a_shared_volume_has_one_worker(here: Site) -> None:
    """Layout is not access mode: a shared claim may be for one node."""
    here.create_billing(replicas=2, shared="dg-journals")
    ended = here.ended(here.run_backup("auto"))

    assert ended.exit_code == 0, ended.log
    assert ended.report["strategy"] == "colocated"
    assert len({j["worker"] for j in ended.report["journals"]}) == 1
    assert len(journals(here)) == 2


def test_what_a_scale_in_has_left_is_backed_up(here: Site) -> None:
    """Its records are owed too; nobody holds its volume."""
    here.create_billing(replicas=2)
    here.scale(1)
    here.await_billing(1)
    ended = here.ended(here.run_backup("colocated"))

    assert ended.exit_code == 0, ended.log
    assert len(journals(here)) == 2


def test_a_claim_that_is_not_bound_is_missing(here: Site) -> None:
    """And no worker binds it."""
    here.create_billing(replicas=1)
    here.create_claim(f"journal-{BILLING}-1", bound=False)
    ended = here.ended(here.run_backup("colocated"))

    assert ended.exit_code == 4
    assert {j["journal"][-1]: j["state"] for j in ended.report["journals"]} == {
        "0": "backed up",
        "1": "missing",
    }


def test_a_claim_that_was_known_and_is_gone_is_missing(here: Site) -> None:
    """The sink remembers it."""
    here.create_billing(replicas=2)
    assert here.ended(here.run_backup("colocated")).exit_code == 0
    here.scale(1)
    here.await_billing(1)
    for worker in here.every("jobs", "deepgram-journal-backup/role=worker"):
        here.delete("jobs", worker["metadata"]["name"])  # a pod that has ended keeps its claims
    here.delete("persistentvolumeclaims", f"journal-{BILLING}-1")
    until(lambda: not here.get("persistentvolumeclaims", f"journal-{BILLING}-1"), "it is gone")
    ended = here.ended(here.run_backup("colocated"))

    assert ended.exit_code == 4
    assert "there is no volume claim of it" in ended.log


def test_billing_that_is_deleted_gets_its_volume_at_once(here: Site) -> None:
    """The worker goes, and is tried again when billing is back."""
    here.create_billing(replicas=1)
    here.stuck.add("backup-1-worker")  # it is there, and does not end
    job = here.run_backup("colocated")
    until(lambda: here.every("jobs", "deepgram-journal-backup/role=worker"), "there is a worker")
    first = here.every("jobs", "deepgram-journal-backup/role=worker")[0]["metadata"]["name"]
    until(lambda: here.pod_of(first), "it has a pod")
    here.delete("pods", f"{BILLING}-0")
    until(lambda: not here.get("jobs", first), "the worker is gone")
    here.stuck.clear()
    ended = here.ended(job)

    assert ended.exit_code == 0, ended.log
    assert "is tried again" in ended.log
    here.await_billing(1)


def test_pod_security_that_refuses_workers_is_told(here: Site) -> None:
    """The Job is taken, and only an event says why nothing comes of it."""
    here.create_billing(replicas=1)
    job = here.run_backup("colocated")
    until(lambda: here.pod_of(job), "the orchestrator has its pod")
    label = "pod-security.kubernetes.io/enforce=restricted"
    here.plane.kubectl("label", "namespace", here.namespace, label)
    ended = here.ended(job)
    here.plane.kubectl("label", "namespace", here.namespace, label.split("=", maxsplit=1)[0] + "-")

    assert ended.exit_code == 4, ended.log
    assert 'violates PodSecurity \\"restricted' in ended.log


def test_a_worker_that_cannot_be_scheduled_is_told(here: Site) -> None:
    """With what the scheduler says."""
    here.create_billing(replicas=1)
    for name in NODES:
        here.plane.kubectl("cordon", name)
    try:
        job = here.run_backup("colocated", WAIT_SECONDS="3")
        here.bind(job, NODES[0])
        ended = here.ended(job)
    finally:
        for name in NODES:
            here.plane.kubectl("uncordon", name)

    assert ended.exit_code == 4, ended.log
    assert "is not scheduled" in ended.log


def test_fifty_volumes_cost_few_requests_and_little_memory(here: Site) -> None:
    """So many workers at a time, and of each kind one list, and one watch, for all of them."""
    here.create_billing(replicas=50)
    here.sink_claim = "journal-archive"  # which has to be one for several nodes: it is looked up
    here.create_claim(here.sink_claim, mode="ReadWriteMany")
    requests = here.root / "requests"
    env = {"BEAT_SECONDS": "10", "LOOK_SECONDS": "60", "REQUESTS": str(requests)}
    job = here.run_backup("colocated", BACKUP_WORKERS="6", **env)
    at_once = 0

    def count() -> bool:
        nonlocal at_once
        workers = here.every("pods", "deepgram-journal-backup/role=worker")
        live = [p for p in workers if p["status"]["phase"] in {"Pending", "Running"}]
        at_once = max(at_once, len(live))
        return job in here._ends

    until(count, "it has ended", seconds=110)
    ended = here.ended(job)
    asked = Counter(requests.read_text().splitlines())

    assert ended.exit_code == 0, ended.log
    assert len(journals(here)) == 50
    assert at_once <= 6
    assert ended.report["api_calls"] <= 50 + 40
    assert {wish: n for wish, n in asked.items() if wish.startswith(("LIST", "WATCH"))} == {
        "LIST jobs": 1,
        "LIST persistentvolumeclaims": 1,
        "LIST pods": 1,
        "WATCH pods": 1,
    }
    assert here.peak_bytes(job) <= 120 << 20


# scaled down


def test_scale_down_makes_a_cold_copy(here: Site) -> None:
    """Byte for byte what was there; read back and committed after billing is back."""
    here.create_billing(replicas=3)
    job = here.run_backup("scale-down")
    here.await_step(job, "billing goes back")
    ended = here.ended(job)
    here.await_billing(3)

    assert ended.exit_code == 0, ended.log
    assert here.replicas() == 3
    assert {m["source"]["consistency"] for m in here.manifests()} == {"quiesced"}
    assert [a["readback"] for m in here.manifests() for a in m["archives"]] == ["full"] * 3
    assert list(here.sink().glob("*/*.draft.json")) == []
    assert ended.report["downtime_seconds"] > 0
    for ordinal in range(3):
        assert here.journal(ordinal).read_bytes().startswith(restored(here, ordinal))


def test_read_write_once_pod_needs_leave_to_scale_down(here: Site) -> None:
    """Nobody else can read it; so billing has to go, and somebody has to have said so."""
    here.create_billing(replicas=1, mode="ReadWriteOncePod")
    refused = here.ended(here.run_backup("auto"))
    allowed = here.ended(here.run_backup("auto", BACKUP_MAX_DOWNTIME="2m"))

    assert refused.exit_code == 2
    assert "set BACKUP_MAX_DOWNTIME" in refused.log
    assert allowed.exit_code == 0, allowed.log
    assert allowed.report["strategy"] == "scale-down"
    assert here.replicas() == 1


def test_claims_that_would_go_with_replicas_are_safe(here: Site) -> None:
    """The setting with which a scale-down takes the journals along: refused, and nothing scaled."""
    policy = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    here.create_billing(replicas=1, spec={"persistentVolumeClaimRetentionPolicy": policy})
    ended = here.ended(here.run_backup("scale-down"))

    assert ended.exit_code == 7
    assert "whenScaled is Delete" in ended.log
    assert here.replicas() == 1
    assert here.get("persistentvolumeclaims", f"journal-{BILLING}-0") is not None


def test_billing_past_its_budget_is_brought_back(here: Site) -> None:
    """Without waiting for workers, which are gone."""
    here.create_billing(replicas=1)
    here.stuck.add("backup-1-worker")
    ended = here.ended(here.run_backup("scale-down", BACKUP_MAX_DOWNTIME="3s"))
    here.await_billing(1)

    assert ended.exit_code == 4, ended.log  # a journal that was not read outranks the budget
    assert sorted(p["exit_code"] for p in ended.report["problems"]) == [4, 9]
    assert "billing comes first" in ended.log
    until(lambda: not here.every("pods", "deepgram-journal-backup/role=worker"), "they are gone")


def test_a_budget_that_is_too_small_is_refused_beforehand(here: Site) -> None:
    """With its numbers, and billing is not touched; who wants it all the same is told how."""
    here.create_billing(replicas=2)
    here.grant(*RULES["scale-down"])
    assert here.ended(here.run_backup("colocated")).exit_code == 0
    size = sum(file["size_bytes"] for m in here.manifests() for file in m["files"])
    half = (size + 1) // 2
    measured = json.dumps(
        [{"size_bytes": size, "seconds": 900}, {"size_bytes": half, "seconds": 80}]
    )
    here.patch("leases", LEASE, {"metadata": {"annotations": {MEASURED: measured}}})
    before = here.get("statefulsets", BILLING)
    requests = str(here.root / "requests")
    refused = here.ended(here.run_backup("scale-down", BACKUP_MAX_DOWNTIME="2m", REQUESTS=requests))
    lease = here.get("leases", LEASE)
    after = here.get("statefulsets", BILLING)
    error = refused.report["error"]
    (forget,) = (hint for hint in error["hints"] if "kubectl" in hint)
    here.plane.kubectl(*forget.partition("kubectl ")[2].split())
    tried = here.ended(here.run_backup("scale-down", BACKUP_MAX_DOWNTIME="2m"))

    assert refused.exit_code == 9, refused.log
    assert error["message"] == (
        f"billing would be down for {80 * size / half:.0f} s, and may be for 120 s: "
        f"{half:,} bytes took 80 s, and the newest backups hold {size:,}"
    )
    assert (before["spec"], before["metadata"]["generation"]) == (
        after["spec"],
        after["metadata"]["generation"],
    )
    assert (lease["metadata"]["annotations"].keys(), lease["spec"]["holderIdentity"]) == (
        {OWNER, MEASURED},
        "",
    )
    assert lease["metadata"]["annotations"][MEASURED] == measured
    assert {"POST jobs", "PUT scale"}.isdisjoint(steps(here))
    assert tried.exit_code == 0, tried.log


def test_billing_at_zero_is_left_there_and_told(here: Site) -> None:
    """Somebody may have meant it."""
    here.create_billing(replicas=1)
    here.scale(0)
    here.await_billing(0)
    told = here.ended(here.run_backup("scale-down"))
    allowed = here.ended(here.run_backup("scale-down", BACKUP_ALLOW_STOPPED="true"))

    assert (told.exit_code, allowed.exit_code) == (3, 0), told.log + allowed.log
    assert "is scaled to 0, and not by this tool" in told.log
    assert here.replicas() == 0
    assert len(journals(here)) == 2


def test_helm_may_set_replicas_after_a_scale_down(here: Site) -> None:
    """The scale subresource leaves no field behind that another manager's apply would meet."""
    here.create_billing(replicas=1)
    assert here.ended(here.run_backup("scale-down")).exit_code == 0
    applied = here.apply_replicas(2)

    assert applied.status == 200, applied.body
    assert here.replicas() == 2


def test_helm_may_set_replicas_during_a_scale_down(here: Site) -> None:
    """Billing is back then, and the run says who did it."""
    here.create_billing(replicas=1)
    here.create_claim(f"journal-{BILLING}-1")
    here.stuck.add("backup-1-worker")
    job = here.run_backup("scale-down")
    here.await_step(job, "workers copy the journals")
    applied = here.apply_replicas(2)
    ended = here.ended(job)
    here.await_billing(2)

    assert applied.status == 200, applied.body
    assert ended.exit_code == 7, ended.log
    assert "scaled up by somebody else" in ended.log
    assert here.replicas() == 2
