"""What others do while a run has billing down, or has left it there: people, Helm, other runs.

Between the record and its removal (:data:`RECORDED`) somebody scales billing, deletes it or makes
it anew; a guard, a hook or other runs come along. What people have done is left as it is, and of
those who come along at once one does what there is to do.
"""

from __future__ import annotations

import pytest

from tests.cluster.controlplane import until
from tests.cluster.doomed import (
    BACK_AFTER,
    DOWN_AFTER,
    RECORD_AFTER,
    STEPS,
    begin,
    begin_held,
    create_billing,
    delete_billing,
    go_on,
    guard,
    numbered,
    require_back,
    require_no_record,
    require_nothing_left,
    rescue,
    run,
)
from tests.cluster.site import Ended, Site

RECORDED = range(RECORD_AFTER, BACK_AFTER + 1)
"""The writes after which there is a record."""
at_each = pytest.mark.parametrize(
    "number", RECORDED, ids=numbered(STEPS)[RECORD_AFTER - 1 : BACK_AFTER]
)

# people


@at_each
def test_what_somebody_else_has_scaled_is_left_alone(here: Site, number: int) -> None:
    """They know better than a record that is old."""
    create_billing(here)
    run(here, at=number, when="after", how="SIGKILL")
    here.scale(1)
    here.await_billing(1)
    said = rescue(here)

    assert said == ["was up"]
    require_back(here, replicas=1)


@at_each
def test_a_stateful_set_that_was_made_anew_is_left_alone(here: Site, number: int) -> None:
    """It is another one, and its number is not ours to know."""
    create_billing(here)
    run(here, at=number, when="after", how="SIGKILL")
    delete_billing(here)
    here.create_billing(replicas=0, shared="dg-journals", claims=False)
    ended = guard(here)

    assert (ended.exit_code, ended.report["state"]) == (0, "made anew"), ended.log
    assert "was made anew" in ended.log
    require_back(here, replicas=0)


@at_each
def test_a_stateful_set_that_is_gone_ends_the_matter(here: Site, number: int) -> None:
    """With a warning."""
    create_billing(here)
    run(here, at=number, when="after", how="SIGKILL")
    delete_billing(here)
    ended = guard(here)

    assert (ended.exit_code, ended.report["state"]) == (0, "gone"), ended.log
    assert "is gone since it was scaled down" in ended.log
    require_no_record(here)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (RECORD_AFTER, "was scaled from 2 to 1 meanwhile"),
        (DOWN_AFTER + 1, "was scaled up by somebody else while its journals were copied"),
    ],
    ids=["before-it-goes", "while-it-is-down"],
)
def test_a_run_leaves_alone_what_somebody_else_scales(here: Site, number: int, why: str) -> None:
    """It ends, and says why."""
    create_billing(here)
    here.stuck.add("backup-1-worker")
    job = begin_held(here, number)
    here.scale(1)
    here.await_billing(1)
    go_on(here, job)
    ended = here.ended(job)

    assert ended.exit_code == 7, ended.log
    assert why in ended.log
    require_back(here, replicas=1)
    require_nothing_left(here)


# others of ours


def test_two_at_once_do_not_meet(here: Site) -> None:
    """A CronJob's Forbid does not see a Job made by hand: the Lease does."""
    create_billing(here)
    here.stuck.add("backup-1-worker")
    first = begin(here, until_step="workers copy")
    second = here.ended(here.run_backup("scale-down"))
    guarded = guard(here)
    here.stuck.clear()
    ended = here.ended(first)

    assert second.exit_code == 7
    assert "is under way" in second.log
    assert here.pod_of(first)["metadata"]["name"] in second.log
    assert (guarded.exit_code, guarded.report["state"]) == (0, "under way")
    assert ended.exit_code == 0, ended.log
    require_back(here)


def gather(here: Site) -> tuple[list[str], str]:
    """Have two runs and a guard find billing down; each is about to write itself in, and is held.

    A run that gets that far waits for its worker until :func:`finish`.
    """
    create_billing(here)
    run(here, at=DOWN_AFTER, when="after", how="SIGKILL")
    here.stuck |= {"backup-2-worker", "backup-3-worker"}
    env = {"STALE_SECONDS": "60", "BEAT_SECONDS": "0.5"}  # who is slow here is not gone
    runs = [begin_held(here, 1, when="before", env=env) for _ in range(2)]
    return runs, begin_held(here, 1, "resume-billing", "--json", when="before", env=env)


def await_loser(here: Site, runs: list[str]) -> None:
    """Wait until one of the runs has ended: what it could meet, it has met."""
    until(lambda: any(map(here.has_ended, runs)), "a run has ended")


def finish(here: Site, runs: list[str], others: tuple[str, ...] = ()) -> list[Ended]:
    """Let workers begin; insist that each run is good, or names another one that was in its way."""
    here.stuck.clear()
    ends = {job: here.ended(job) for job in runs}
    good = [job for job in runs if not ends[job].exit_code]
    for job in set(runs) - set(good):
        assert ends[job].exit_code == 7, ends[job].log
        assert "is under way" in ends[job].log
        named = [here.pod_of(other)["metadata"]["name"] for other in (*good, *others)]
        assert any(name in ends[job].log for name in named), ends[job].log
    assert len(here.manifests()) == 2 * len(good)
    require_back(here)
    require_nothing_left(here)
    return [ends[job] for job in good]


def test_several_find_billing_down_at_once(here: Site) -> None:
    """One writes itself in, and brings it back; then one run backs up, and the other names it.

    (Or both do: while the guard has the Lease, it is in the way of a run as another run is.)
    """
    runs, rescuer = gather(here)
    go_on(here, *runs, rescuer)
    await_loser(here, runs)
    guarded = here.ended(rescuer)
    good = finish(here, runs, (rescuer,))

    assert guarded.exit_code == 0, guarded.log
    assert len(good) == 1 or (not good and guarded.report["state"] == "restored")


def test_runs_that_come_after_the_guard_find_billing_back(here: Site) -> None:
    """What they have read is old: the guard has written since, and is gone."""
    runs, rescuer = gather(here)
    go_on(here, rescuer)
    guarded = here.ended(rescuer)
    require_back(here)
    go_on(here, *runs)
    await_loser(here, runs)

    assert (guarded.exit_code, guarded.report["state"]) == (0, "restored"), guarded.log
    assert len(finish(here, runs)) == 1


def test_a_guard_that_is_late_disturbs_no_copy(here: Site) -> None:
    """What it has read is old: billing is down again, by a run that is under way."""
    runs, rescuer = gather(here)
    go_on(here, *runs)
    await_loser(here, runs)
    until(lambda: any("workers copy" in here.log(job) for job in runs), "billing is down again")
    go_on(here, rescuer)
    guarded = here.ended(rescuer)
    replicas = here.replicas()

    assert (guarded.exit_code, guarded.report["state"]) == (0, "under way"), guarded.log
    assert replicas == 0
    assert len(finish(here, runs)) == 1


def test_a_hook_takes_over_from_a_run_that_is_under_way(here: Site) -> None:
    """The release is about to go, and the run's rights with it; the run stops where it is."""
    create_billing(here)
    here.stuck.add("backup-1-worker")
    first = begin(here, until_step="workers copy")
    hook = guard(here, "--take-over")
    ended = here.ended(first)

    assert (hook.exit_code, hook.report["state"]) == (0, "restored"), hook.log
    assert ended.exit_code == 7, ended.log
    require_back(here)
