"""A run that scales billing down is killed at each of its writes, and billing comes back.

What a run writes is all that it does to the cluster, so its steps are its writes: :data:`STEPS`,
which a whole run is compared with. It dies before or after each of them, by SIGKILL (its pod is
seen to fail), by SIGTERM, or with its node (its pod stays "Running", and only the heartbeat tells).
Then the guard or the next run brings billing back, with exactly the replicas that were there.
"""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest

from backup.cluster.api import RULES
from backup.cluster.lease import RECORD
from tests.cluster.controlplane import until
from tests.cluster.site import BILLING, Ended, Site

LEASE = f"{BILLING}-journal-backup"
STEPS = (
    "POST leases",
    "POST jobs",  # the worker
    "PUT leases",  # the record
    "PUT scale",  # to 0
    "PATCH pods",  # the gate
    "PUT scale",  # back
    "PUT leases",  # no record
    "POST jobs",  # the commit
    "PUT leases",  # what it took
    "PUT leases",  # released
)
NUMBERS = range(1, len(STEPS) + 1)
DOWN_AFTER = 4
"""From this write on billing is at 0 or on its way, until it is scaled back."""


def steps(here: Site) -> tuple[str, ...]:
    """What a run has written, without its signs of life."""
    lines = (here.root / "writes").read_text().splitlines()
    return tuple(_short(line) for line in lines)


def _short(line: str) -> str:
    method, _, path = line.partition(" ")
    parts = path.split("/")
    return f"{method} {'scale' if parts[-1] == 'scale' else parts[0]}"


def run(here: Site, **doom: Any) -> Ended:
    """Run a backup that is doomed."""
    here.grant(*RULES["scale-down"], *RULES["resume-billing"])
    silent = {"SILENT": "yes"} if doom.pop("silent", False) else {}
    job = here.run_backup(
        "scale-down",
        BEAT_SECONDS="60",
        DOOM=json.dumps(doom),
        WRITES=str(here.root / "writes"),
        **silent,
    )
    return here.ended(job)


def rescue(here: Site) -> list[str]:
    """Run what the guard runs, as often as it takes; give what it said each time."""
    said: list[str] = []

    def is_done() -> bool:
        ended = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))
        assert ended.exit_code == 0, ended.log
        said.append(ended.report["state"])
        return said[-1] != "under way"

    until(is_done, "the guard is done")
    return said


def require_back(here: Site, replicas: int = 2) -> None:
    """Insist that billing is as it was, and that nothing is in its way."""
    assert here.replicas() == replicas
    here.await_billing(replicas)
    lease = here.get("leases", LEASE)
    assert lease is None or RECORD not in lease["metadata"].get("annotations", {})


def test_a_run_writes_in_this_order(here: Site) -> None:
    """The record before billing goes, the commit after it is back."""
    here.create_billing(replicas=1)
    ended = run(here)

    assert ended.exit_code == 0, ended.log
    assert steps(here) == STEPS


@pytest.mark.parametrize(
    "number", NUMBERS, ids=[f"{n}-{s}" for n, s in zip(NUMBERS, STEPS, strict=True)]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_and_rescued_by_the_guard(here: Site, number: int, when: str) -> None:
    """Its pod has failed: nobody has to wait for the heartbeat."""
    here.create_billing(replicas=1)
    ended = run(here, at=number, when=when, how="SIGKILL")
    rescue(here)

    assert ended.exit_code == 128 + signal.SIGKILL
    require_back(here, replicas=1)


@pytest.mark.parametrize(
    "number", NUMBERS, ids=[f"{n}-{s}" for n, s in zip(NUMBERS, STEPS, strict=True)]
)
def test_lost_with_its_node_and_rescued_by_the_next_run(here: Site, number: int) -> None:
    """Its pod seems to run on: the next run is refused until the heartbeat is old."""
    here.create_billing(replicas=2)
    run(here, at=number, when="after", how="SIGKILL", silent=True)
    codes: list[int] = []

    def is_good() -> bool:
        ended = here.ended(here.run_backup("scale-down"))
        codes.append(ended.exit_code)
        assert ended.exit_code in {0, 7}, ended.log
        return not ended.exit_code

    until(is_good, "a run is good", seconds=60)

    require_back(here)
    assert len({m["journal"] for m in here.manifests()}) == 2


@pytest.mark.parametrize(
    "number", NUMBERS, ids=[f"{n}-{s}" for n, s in zip(NUMBERS, STEPS, strict=True)]
)
def test_a_run_that_is_told_to_end_brings_billing_back_itself(here: Site, number: int) -> None:
    """Within its grace, and whatever it is doing."""
    here.create_billing(replicas=2)
    ended = run(here, at=number, when="after", how="SIGTERM")

    assert ended.exit_code == 128 + signal.SIGTERM, ended.log
    require_back(here)
    assert here.ended(here.run_backup("scale-down")).exit_code == 0


# other ends, and other people


def begin(here: Site, *, until_step: str, **env: str) -> str:
    """Run a scale-down until it says something."""
    here.grant(*RULES["scale-down"], *RULES["resume-billing"])
    job = here.run_backup("scale-down", **env)
    here.await_step(job, until_step)
    return job


@pytest.mark.parametrize(
    "step", ["waiting for billing's pods", "workers copy", "waiting for billing to be ready"]
)
def test_the_api_server_is_away_for_half_a_minute(here: Site, step: str) -> None:
    """Which is waited for; nobody else can take over meanwhile, for want of an API server."""
    here.create_billing(replicas=2)
    if step.startswith("waiting for billing"):
        here.held.update({f"{BILLING}-0"} if "ready" in step else set())
    here.stuck.add("backup-1-worker")
    if "ready" in step:
        here.stuck.clear()
    job = begin(here, until_step=step)
    here.plane.stop_apiserver()
    time.sleep(30)  # this long is what the test is about
    here.plane.start_apiserver()
    here.stuck.clear()
    here.held.clear()
    ended = here.ended(job, seconds=110)

    assert ended.exit_code in {0, 7}, ended.log
    if ended.exit_code:  # somebody thought that it was gone
        rescue(here)
    require_back(here)


def test_an_evicted_run_brings_billing_back(here: Site) -> None:
    """Eviction is a deletion, with the grace that the pod has."""
    here.create_billing(replicas=2)
    here.stuck.add("backup-1-worker")
    job = begin(here, until_step="workers copy")
    name = here.pod_of(job)["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    here.plane.call("POST", f"{here.path('pods', name)}/eviction", eviction)
    ended = here.ended(job)

    assert "stopped by SIGTERM" in ended.log
    require_back(here)


def test_a_run_without_rights_says_that_billing_is_down(here: Site) -> None:
    """As when Helm removes the role first; and the first run that has rights again restores it."""
    here.create_billing(replicas=2)
    here.stuck.add("backup-1-worker")
    job = begin(here, until_step="workers copy")
    here.grant()
    here.stuck.clear()
    ended = here.ended(job)
    down = here.replicas()
    here.grant(*RULES["scale-down"])
    after = here.ended(here.run_backup("scale-down"))

    assert (ended.exit_code, down) == (8, 0), ended.log
    assert f"kubectl -n {here.namespace} scale statefulset {BILLING} --replicas=2" in ended.log
    assert after.exit_code == 0, after.log
    require_back(here)


def test_what_somebody_else_has_scaled_is_left_alone(here: Site) -> None:
    """They know better than a record that is old."""
    here.create_billing(replicas=2)
    run(here, at=DOWN_AFTER + 1, when="after", how="SIGKILL")
    here.scale(1)
    here.await_billing(1)
    said = rescue(here)

    assert said == ["was up"]
    require_back(here, replicas=1)


def test_a_stateful_set_that_was_made_anew_is_left_alone(here: Site) -> None:
    """It is another one, and its number is not ours to know."""
    here.create_billing(replicas=2)
    run(here, at=DOWN_AFTER + 1, when="after", how="SIGKILL")
    here.delete("statefulsets", BILLING)
    until(lambda: here.get("statefulsets", BILLING) is None, "it is gone")
    here.create_billing(replicas=0, claims=False)
    ended = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))

    assert (ended.exit_code, ended.report["state"]) == (0, "made anew"), ended.log
    assert "was made anew" in ended.log
    require_back(here, replicas=0)


def test_a_stateful_set_that_is_gone_ends_the_matter(here: Site) -> None:
    """With a warning."""
    here.create_billing(replicas=2)
    run(here, at=DOWN_AFTER + 1, when="after", how="SIGKILL")
    here.delete("statefulsets", BILLING)
    until(lambda: here.get("statefulsets", BILLING) is None, "it is gone")
    ended = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))

    assert (ended.exit_code, ended.report["state"]) == (0, "gone"), ended.log
    assert RECORD not in here.get("leases", LEASE)["metadata"].get("annotations", {})


def test_two_at_once_do_not_meet(here: Site) -> None:
    """A CronJob's Forbid does not see a Job made by hand: the Lease does."""
    here.create_billing(replicas=2)
    here.stuck.add("backup-1-worker")
    first = begin(here, until_step="workers copy")
    second = here.ended(here.run_backup("scale-down"))
    guard = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))
    here.stuck.clear()
    ended = here.ended(first)

    assert second.exit_code == 7
    assert "is under way" in second.log
    assert here.pod_of(first)["metadata"]["name"] in second.log
    assert (guard.exit_code, guard.report["state"]) == (0, "under way")
    assert ended.exit_code == 0, ended.log
    require_back(here)


def test_a_hook_takes_over_from_a_run_that_is_under_way(here: Site) -> None:
    """The release is about to go, and the run's rights with it; the run stops where it is."""
    here.create_billing(replicas=2)
    here.stuck.add("backup-1-worker")
    first = begin(here, until_step="workers copy")
    hook = here.ended(here.run_backup("scale-down", "resume-billing", "--take-over", "--json"))
    ended = here.ended(first)

    assert (hook.exit_code, hook.report["state"]) == (0, "restored"), hook.log
    assert ended.exit_code == 7, ended.log
    require_back(here)
