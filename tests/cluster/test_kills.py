"""A run that scales billing down is killed at each of its writes, and billing comes back.

It dies before or after each of them (:data:`tests.cluster.doomed.STEPS`), by SIGKILL (its pod is
seen to fail), by SIGTERM, or with its node (its pod stays "Running", and only the heartbeat tells).
Or it is held after one of them while something happens to it: it is evicted, its rights are taken
away, the API server is gone for half a minute. Then the run itself, the guard or the next run
brings billing back, with exactly the replicas that were there: with none, where there were none.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from backup.cluster.strategies import RULES
from tests.cluster.controlplane import ControlPlane, until
from tests.cluster.doomed import (
    BACK_AFTER,
    COMMIT,
    DOWN_AFTER,
    STEPS,
    begin_held,
    create_billing,
    go_on,
    numbered,
    require_back,
    require_no_record,
    require_nothing_left,
    rescue,
    run,
    steps,
)
from tests.cluster.site import BILLING, Site, site

NUMBERS = range(1, len(STEPS) + 1)
IDS = numbered(STEPS)

STOPPED_STEPS = (
    "POST leases",
    "POST jobs",  # the worker
    "PATCH pods",  # the gate
    "POST jobs",  # the commit
    "PUT leases",  # released
)
"""What a run writes where billing is at 0 already."""


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

    until(is_good, "a run is good")

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


# other ends


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
            go_on(here, jobs[number])
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
    go_on(here, job)
    ended = here.ended(job)

    assert "stopped by SIGTERM" in ended.log
    require_back(here)


@pytest.mark.parametrize("number", NUMBERS, ids=IDS)
def test_rights_that_are_taken_away(here: Site, number: int) -> None:
    """As when Helm removes the role first; the first run that has rights again restores billing."""
    create_billing(here)
    job = begin_held(here, number)
    here.grant()
    go_on(here, job)
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


# where billing was at 0 before


def stop_billing(here: Site, *, is_meant: bool) -> int:
    """Have billing at 0, and two journals all the same; give the generation of what is specified.

    It grows by every change: by billing's being scaled up for a moment, too.
    """
    create_billing(here)
    here.scale(0)
    here.await_billing(0)
    here.env |= {"BACKUP_EXPECT_REPLICAS": "2", "BACKUP_ALLOW_STOPPED": str(is_meant).lower()}
    return generation(here)


def generation(here: Site) -> int:
    """How often somebody has changed what billing is to be."""
    return int(here.get("statefulsets", BILLING)["metadata"]["generation"])


def test_a_run_where_billing_is_at_zero_writes_in_this_order(here: Site) -> None:
    """No record, and nothing is scaled."""
    stop_billing(here, is_meant=True)
    ended = run(here)

    assert ended.exit_code == 0, ended.log
    assert steps(here) == STOPPED_STEPS


@pytest.mark.parametrize(
    ("how", "is_meant"),
    [("SIGKILL", True), ("SIGKILL", False), ("SIGTERM", True)],
    ids=["killed", "killed-not-meant", "told-to-end"],
)
@pytest.mark.parametrize("number", range(1, len(STOPPED_STEPS) + 1), ids=numbered(STOPPED_STEPS))
def test_billing_at_zero_stays_there(here: Site, number: int, *, how: str, is_meant: bool) -> None:
    """Whoever comes after: neither the run that ends, nor the guard, nor the next one scales it."""
    before = stop_billing(here, is_meant=is_meant)
    ended = run(here, at=number, when="after", how=how)
    said = rescue(here)
    after = here.ended(here.run_backup("scale-down"))

    assert ended.exit_code == 128 + signal.Signals[how], ended.log
    assert said == ["nothing to do"]
    assert after.exit_code == (0 if is_meant else 3), after.log
    assert {m["journal"] for m in here.manifests()} == {f"journal-{BILLING}-{n}" for n in (0, 1)}
    assert (here.replicas(), generation(here)) == (0, before)
    require_no_record(here)
    require_nothing_left(here)
