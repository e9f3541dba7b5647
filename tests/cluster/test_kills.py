"""A run that scales billing down is killed at each of its writes, and billing comes back.

What a run writes is all that it does to the cluster, so its steps are its writes: :data:`STEPS`,
which a whole run is compared with. It dies before or after each of them, by SIGKILL (its pod is
seen to fail), by SIGTERM, or with its node (its pod stays "Running", and only the heartbeat tells).
Or it is held after one of them while something happens to it: it is evicted, its rights are taken
away, the API server is gone for half a minute. Then the run itself, the guard or the next run
brings billing back, with exactly the replicas that were there.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backup.cluster.api import RULES
from backup.cluster.lease import RECORD
from tests.cluster.controlplane import ControlPlane, until
from tests.cluster.site import BILLING, Ended, Site, site

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
IDS = [f"{n}-{step}" for n, step in zip(NUMBERS, STEPS, strict=True)]
DOWN_AFTER, BACK_AFTER, COMMIT = 4, 6, 8
"""The writes of billing's way to 0 and back, and of the last thing that counts."""


def steps(here: Site) -> tuple[str, ...]:
    """What a run has written, without its signs of life."""
    lines = (here.root / "writes").read_text().splitlines()
    return tuple(_short(line) for line in lines)


def _short(line: str) -> str:
    method, _, path = line.partition(" ")
    parts = path.split("/")
    return f"{method} {'scale' if parts[-1] == 'scale' else parts[0]}"


def create_billing(here: Site) -> None:
    """Have two replicas, whose number must come back, and one volume, so one worker."""
    here.create_billing(replicas=2, shared="dg-journals")


def run(here: Site, **doom: Any) -> Ended:
    """Run a backup that is doomed."""
    return here.ended(begin_doomed(here, **doom))


def begin_doomed(here: Site, **doom: Any) -> str:
    """Begin a backup that is doomed."""
    here.grant(*RULES["scale-down"], *RULES["resume-billing"])
    silent = {"SILENT": "yes"} if doom.pop("silent", False) else {}
    return here.run_backup(
        "scale-down",
        BEAT_SECONDS="60",
        DOOM=json.dumps(doom),
        WRITES=str(here.root / "writes"),
        **silent,
    )


def begin_held(here: Site, number: int) -> str:
    """Begin a backup, and hold it where it has made a write."""
    job = begin_doomed(here, at=number, when="after", how="SIGSTOP")
    here.await_held(job)
    return job


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
    create_billing(here)
    ended = run(here)

    assert ended.exit_code == 0, ended.log
    assert steps(here) == STEPS


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_and_rescued_by_the_guard(here: Site, number: int, when: str) -> None:
    """Its pod has failed: nobody has to wait for the heartbeat."""
    create_billing(here)
    ended = run(here, at=number, when=when, how="SIGKILL")
    rescue(here)

    assert ended.exit_code == 128 + signal.SIGKILL
    require_back(here)


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_lost_with_its_node_and_rescued_by_the_next_run(here: Site, number: int) -> None:
    """Its pod seems to run on: the next run is refused until the heartbeat is old."""
    create_billing(here)
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


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_a_run_that_is_told_to_end_brings_billing_back_itself(here: Site, number: int) -> None:
    """Within its grace, and whatever it is doing."""
    create_billing(here)
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


@pytest.mark.timeout(300)
def test_the_api_server_is_away_for_half_a_minute(
    control_plane: ControlPlane, nodes: None, tmp_path: Path
) -> None:
    """After any write, in as many namespaces; nobody can take over meanwhile, for want of one."""
    with ExitStack() as stack:
        sites = {
            number: stack.enter_context(new_site(control_plane, tmp_path)) for number in NUMBERS
        }
        for here in sites.values():
            create_billing(here)
        jobs = {number: begin_held(here, number) for number, here in sites.items()}
        control_plane.stop_apiserver()
        for number, here in sites.items():
            here.signal(jobs[number], signal.SIGCONT)
        time.sleep(30)  # this long is what the test is about
        control_plane.start_apiserver()
        for number, here in sites.items():
            ended = here.ended(jobs[number], seconds=150)
            assert ended.exit_code == 0, (STEPS[number - 1], ended.log)
            require_back(here)


@contextmanager
def new_site(plane: ControlPlane, root: Path) -> Iterator[Site]:
    """Make one more site."""
    namespace = plane.create_namespace()
    (root / namespace).mkdir()
    with site(plane, namespace, root / namespace) as made:
        yield made
    plane.delete_namespace(namespace)


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_an_evicted_run_brings_billing_back(here: Site, number: int) -> None:
    """Eviction is a deletion, with the grace that the pod has."""
    create_billing(here)
    job = begin_held(here, number)
    here.evict(job)
    here.signal(job, signal.SIGCONT)
    ended = here.ended(job)

    assert "stopped by SIGTERM" in ended.log
    require_back(here)


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_rights_that_are_taken_away(here: Site, number: int) -> None:
    """As when Helm removes the role first; the first run that has rights again restores billing."""
    create_billing(here)
    job = begin_held(here, number)
    here.grant()
    here.signal(job, signal.SIGCONT)
    ended = here.ended(job)
    left = here.replicas()
    here.grant(*RULES["scale-down"])
    after = here.ended(here.run_backup("scale-down"))

    is_down = DOWN_AFTER <= number < BACK_AFTER
    assert left == (0 if is_down else 2)
    assert ended.exit_code == (8 if is_down else 7 if number < COMMIT else 0), ended.log
    line = f"kubectl -n {here.namespace} scale statefulset {BILLING} --replicas=2"
    assert (line in ended.log) is is_down
    assert after.exit_code == 0, after.log
    require_back(here)


def test_what_somebody_else_has_scaled_is_left_alone(here: Site) -> None:
    """They know better than a record that is old."""
    create_billing(here)
    run(here, at=DOWN_AFTER + 1, when="after", how="SIGKILL")
    here.scale(1)
    here.await_billing(1)
    said = rescue(here)

    assert said == ["was up"]
    require_back(here, replicas=1)


def test_a_stateful_set_that_was_made_anew_is_left_alone(here: Site) -> None:
    """It is another one, and its number is not ours to know."""
    create_billing(here)
    run(here, at=DOWN_AFTER + 1, when="after", how="SIGKILL")
    here.delete("statefulsets", BILLING)
    until(lambda: here.get("statefulsets", BILLING) is None, "it is gone")
    here.create_billing(replicas=0, shared="dg-journals", claims=False)
    ended = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))

    assert (ended.exit_code, ended.report["state"]) == (0, "made anew"), ended.log
    assert "was made anew" in ended.log
    require_back(here, replicas=0)


def test_a_stateful_set_that_is_gone_ends_the_matter(here: Site) -> None:
    """With a warning."""
    create_billing(here)
    run(here, at=DOWN_AFTER + 1, when="after", how="SIGKILL")
    here.delete("statefulsets", BILLING)
    until(lambda: here.get("statefulsets", BILLING) is None, "it is gone")
    ended = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))

    assert (ended.exit_code, ended.report["state"]) == (0, "gone"), ended.log
    assert RECORD not in here.get("leases", LEASE)["metadata"].get("annotations", {})


def test_two_at_once_do_not_meet(here: Site) -> None:
    """A CronJob's Forbid does not see a Job made by hand: the Lease does."""
    create_billing(here)
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
    create_billing(here)
    here.stuck.add("backup-1-worker")
    first = begin(here, until_step="workers copy")
    hook = here.ended(here.run_backup("scale-down", "resume-billing", "--take-over", "--json"))
    ended = here.ended(first)

    assert (hook.exit_code, hook.report["state"]) == (0, "restored"), hook.log
    assert ended.exit_code == 7, ended.log
    require_back(here)
