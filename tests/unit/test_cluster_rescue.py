"""Billing comes back after a run that is gone, whoever finds what that has left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from backup.cluster.lease import RECORD, Lease, Owner, Record, lease_name
from backup.cluster.rescue import (
    RUN_LABEL,
    STATEFULSET_LABEL,
    remove_running,
    remove_workers,
    resume,
)
from backup.errors import (
    BackupError,
    BillingDownError,
    ClusterDeniedError,
    ClusterError,
    ClusterUnavailableError,
    DeadlineError,
    LeaseHeldError,
)
from backup.events import Problem, Warned
from backup.run import Run
from tests.journal_data import NOON, Clock, Events
from tests.simulated_cluster import BILLING, RUN_ID, SimulatedCluster, World
from tests.simulated_sink import CrashError

SCALE = "replace statefulsets/scale"
LINE = f"kubectl -n voice scale statefulset {BILLING} --replicas=3"


@pytest.fixture
def world(world: World) -> World:
    """Make a namespace with three billing pods."""
    world.add_billing(3)
    return world


@pytest.fixture
def clock() -> Clock:
    """Make a clock that stands still."""
    return Clock()


def lease_of(run: str, cluster: SimulatedCluster, clock: Clock) -> Lease:
    """Give the Lease in the hands of somebody without a pod."""
    return Lease(Run(id=run, clock=clock), cluster, BILLING, owner=Owner(pod="", uid=""))


def leave_down(world: World, clock: Clock, run: str = "dead") -> None:
    """Scale billing down as a run does that then is heard of no more."""
    cluster = SimulatedCluster(world)
    lease = lease_of(run, cluster, clock)
    uid = world.get("statefulsets", BILLING)["metadata"]["uid"]
    lease.take()
    lease.write_record(Record(uid=uid, replicas=3, deadline=NOON + timedelta(minutes=7)))
    world.scale(0)


def add_worker(world: World, name: str, run: str) -> None:
    """Make a worker that runs."""
    labels = {RUN_LABEL: run, STATEFULSET_LABEL: BILLING}
    world.put("jobs", {"metadata": {"name": name, "labels": labels}, "status": {"active": 0}})


def is_recorded(world: World) -> bool:
    """Whether somebody has to bring billing back."""
    notes = world.get("leases", lease_name(BILLING))["metadata"]["annotations"]
    return RECORD in notes


@pytest.mark.parametrize("is_made", [False, True])
def test_without_a_record_there_is_nothing_to_do(
    cluster: SimulatedCluster, clock: Clock, *, is_made: bool
) -> None:
    """The guard comes every two minutes: it asks once, and writes nothing."""
    if is_made:
        lease_of("other", SimulatedCluster(cluster.world), clock).take()

    result = resume(lease_of("me", cluster, clock), take_over=True)

    assert (result.state, result.replicas, result.holder) == ("nothing to do", None, None)
    assert (cluster.writes, result.exit_codes) == ([], ())
    assert len(cluster.asked) == 1


def test_run_under_way_is_left_alone(cluster: SimulatedCluster, world: World, clock: Clock) -> None:
    """Its heartbeat is fresh: billing is meant to be down."""
    leave_down(world, clock)
    clock.advance(seconds=30)

    result = resume(lease_of("me", cluster, clock), take_over=False)

    assert (result.state, result.replicas, result.holder) == ("under way", 3, "dead")
    assert (world.replicas, cluster.writes) == (0, [])


def test_billing_comes_back_after_a_run_that_is_gone(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """Its workers go first, as they hold the volumes; then nothing is left of it."""
    leave_down(world, clock)
    add_worker(world, "w-1", "dead")
    world.put("jobs", {"metadata": {"name": "not-ours"}, "status": {"active": 0}})
    clock.advance(seconds=61)

    result = resume(lease_of("me", cluster, clock), take_over=False)

    assert (result.state, result.replicas, result.holder) == ("restored", 3, "dead")
    assert (world.replicas, is_recorded(world)) == (3, False)
    assert world.names("jobs") == ["not-ours"]
    assert [write.split()[:2] for write in cluster.writes] == [
        ["replace", "leases"],
        ["delete", "jobs"],
        ["replace", "statefulsets/scale"],
        ["replace", "leases"],
        ["replace", "leases"],
    ]


def test_take_over_does_not_wait(cluster: SimulatedCluster, world: World, clock: Clock) -> None:
    """The release is about to be removed, and the rights to scale go with it."""
    leave_down(world, clock)

    result = resume(lease_of("hook", cluster, clock), take_over=True)

    assert (result.state, world.replicas) == ("restored", 3)


def test_billing_that_somebody_scaled_up_is_left_alone(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """Somebody has pasted the line: the record is done with."""
    leave_down(world, clock)
    world.scale(2)
    clock.advance(minutes=2)

    result = resume(lease_of("me", cluster, clock), take_over=False)

    assert (result.state, world.replicas, is_recorded(world)) == ("was up", 2, False)
    assert result.warnings == ()


@pytest.mark.parametrize(("state", "said"), [("gone", "is gone"), ("made anew", "was made anew")])
def test_record_of_another_billing_is_dropped_with_a_warning(
    cluster: SimulatedCluster, world: World, clock: Clock, state: str, said: str
) -> None:
    """Nothing is scaled: that number was another one's."""
    leave_down(world, clock)
    if state == "gone":
        world.remove("statefulsets", BILLING)
    else:
        world.make_billing_anew(0)
    clock.advance(minutes=2)
    lease, events = lease_of("me", cluster, clock), Events()
    lease.run.emit = events

    result = resume(lease, take_over=False)

    assert (result.state, is_recorded(world)) == (state, False)
    assert [w.message for w in events.of(Warned)] == [
        f"{BILLING} {said} since it was scaled down: nothing was scaled"
    ]
    assert result.warnings == tuple(events.of(Warned))


def test_run_that_renews_at_the_last_moment_is_left_alone(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """It was only slow: compare and swap says so."""
    leave_down(world, clock)
    clock.advance(minutes=2)
    alive = lease_of("dead", SimulatedCluster(world), clock)
    cluster.on("replace leases", alive.renew)

    result = resume(lease_of("me", cluster, clock), take_over=False)

    assert (result.state, world.replicas) == ("under way", 0)


def heartbeat(world: World, clock: Clock) -> Callable[[], None]:
    """Have the run that left billing down give a sign of life."""
    alive = lease_of("dead", SimulatedCluster(world), clock)

    def beat() -> None:
        clock.advance(seconds=1)
        alive.renew()

    return beat


def test_take_over_does_not_end_at_a_heartbeat(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """It has to have an end before the rights of the run are gone."""
    leave_down(world, clock)
    cluster.on("replace leases", heartbeat(world, clock))

    result = resume(lease_of("me", cluster, clock), take_over=True)

    assert (result.state, world.replicas) == ("restored", 3)


def test_take_over_that_never_gets_through_is_no_success(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """Helm goes on after exit code 0, and removes what billing would come back by."""
    leave_down(world, clock)
    cluster.on("replace leases", heartbeat(world, clock), times=None)

    with pytest.raises(LeaseHeldError, match="was written by others 20 times"):
        resume(lease_of("me", cluster, clock), take_over=True)

    assert is_recorded(world)


@pytest.mark.parametrize("may_scale", [True, False])
def test_take_over_pushes_a_run_aside_that_may_scale_down_yet(
    cluster: SimulatedCluster, world: World, clock: Clock, *, may_scale: bool
) -> None:
    """It has no record yet, and its rights are about to go; a run beside billing is left alone."""
    owner = Owner(pod="", uid="", may_scale=may_scale)
    Lease(Run(id="run", clock=clock), SimulatedCluster(world), BILLING, owner=owner).take()

    result = resume(lease_of("me", cluster, clock), take_over=True)

    assert (result.state, result.holder) == (
        ("pushed aside", "run") if may_scale else ("nothing to do", None)
    )
    held = lease_of("me", cluster, clock).read()
    assert held is not None
    assert held.holder == ("" if may_scale else "run")


@pytest.mark.parametrize("step", ["list jobs", "delete jobs"])
def test_workers_that_cannot_be_removed_do_not_keep_billing_down(
    cluster: SimulatedCluster, world: World, clock: Clock, step: str
) -> None:
    """Billing may have to wait for its volume; that is said, and better than no billing."""
    leave_down(world, clock)
    add_worker(world, "w-1", "dead")
    clock.advance(minutes=2)
    cluster.fail(step, ClusterError(f"the cluster refuses {step}"))
    lease, events = lease_of("me", cluster, clock), Events()
    lease.run.emit = events

    result = resume(lease, take_over=False)

    assert (result.state, world.replicas, is_recorded(world)) == ("restored", 3, False)
    assert [(p.exit_code, p.message) for p in result.problems] == [
        (7, f"the cluster refuses {step}")
    ]
    assert events.of(Problem) == [*result.problems]


@pytest.mark.parametrize("step", ["replace leases", "get statefulsets/scale", SCALE])
@pytest.mark.parametrize(
    "error", [ClusterError("the cluster refuses"), DeadlineError("the deadline of 3 s is over")]
)
def test_rescue_that_fails_says_how_to_bring_billing_back(
    cluster: SimulatedCluster, world: World, clock: Clock, step: str, error: BackupError
) -> None:
    """Whatever it was: whoever is woken by it has the one line."""
    leave_down(world, clock)
    clock.advance(minutes=2)
    cluster.fail(step, error)

    with pytest.raises(BillingDownError, match=error.message) as caught:
        resume(lease_of("me", cluster, clock), take_over=False)

    assert (caught.value.hints[0], caught.value.exit_code) == (LINE, 8)


def test_push_that_fails_is_no_billing_that_is_down(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """There is no record; and a hook that fails stops Helm."""
    owner = Owner(pod="", uid="", may_scale=True)
    Lease(Run(id="run", clock=clock), SimulatedCluster(world), BILLING, owner=owner).take()
    cluster.fail("replace leases", ClusterDeniedError("the cluster refuses"))

    with pytest.raises(ClusterDeniedError):
        resume(lease_of("me", cluster, clock), take_over=True)


def test_record_that_cannot_be_removed_is_a_problem_of_its_own(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """Billing is back; the next rescuer finds it up."""
    leave_down(world, clock)
    clock.advance(minutes=2)
    cluster.fail("replace leases", ClusterDeniedError("the cluster refuses PUT"), after=1)

    result = resume(lease_of("me", cluster, clock), take_over=False)

    assert (result.state, world.replicas, result.exit_codes) == ("restored", 3, (7,))


def test_failure_keeps_the_record(cluster: SimulatedCluster, world: World, clock: Clock) -> None:
    """The guard tries again in two minutes, and finds what to do."""
    leave_down(world, clock)
    clock.advance(minutes=2)
    cluster.fail(SCALE, ClusterUnavailableError("away"), times=1)
    with pytest.raises(BillingDownError):
        resume(lease_of("me", cluster, clock), take_over=False)
    assert is_recorded(world)
    clock.advance(minutes=2)

    result = resume(lease_of("again", cluster, clock), take_over=False)

    assert (result.state, world.replicas, is_recorded(world)) == ("restored", 3, False)


def test_of_two_rescuers_the_slower_one_hides_no_success(
    cluster: SimulatedCluster, world: World, clock: Clock
) -> None:
    """It was pushed aside when billing was back already."""
    leave_down(world, clock)
    other = lease_of("hook", SimulatedCluster(world), clock)

    def push_aside() -> None:
        held = other.read()
        assert held is not None
        other.seize(held)

    cluster.on(f"{SCALE} reply", push_aside)

    result = resume(lease_of("me", cluster, clock), take_over=True)

    assert (result.state, world.replicas) == ("restored", 3)
    assert is_recorded(world)  # it is the other one's to remove


@pytest.mark.parametrize("kind", ["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 3, 4, 5])
def test_rescuer_that_dies_is_rescued(world: World, clock: Clock, write: int, kind: str) -> None:
    """At each of its writes; the workers of the first run go, whoever has taken over from it."""
    leave_down(world, clock)
    add_worker(world, "w-1", "dead")
    clock.advance(minutes=2)
    dying = SimulatedCluster(world)
    getattr(dying, f"crash_{kind}")(write)
    with pytest.raises(CrashError):
        resume(lease_of("first", dying, clock), take_over=False)
    clock.advance(minutes=2)
    cluster = SimulatedCluster(world)

    resume(lease_of("second", cluster, clock), take_over=False)

    assert (world.replicas, is_recorded(world), world.names("jobs")) == (3, False, [])


# -- jobs


@pytest.mark.parametrize(("but", "left"), [("mine", ["mine", "other"]), ("", ["other"])])
def test_workers_of_a_statefulset_are_removed(
    cluster: SimulatedCluster, world: World, but: str, left: list[str]
) -> None:
    """Whatever run they are of; only those of the run that asks stay."""
    for name, of in {"mine": BILLING, "old": BILLING, "other": "vosk"}.items():
        labels = {RUN_LABEL: name, STATEFULSET_LABEL: of}
        world.put("jobs", {"metadata": {"name": name, "labels": labels}, "status": {"active": 0}})

    remove_workers(cluster, BILLING, but=but)

    assert world.names("jobs") == left


def test_what_has_ended_can_be_looked_at(world: World, cluster: SimulatedCluster) -> None:
    """Of a run's workers, those that have not ended are removed."""
    states = {"new": {}, "on": {"active": 1}, "done": {"succeeded": 1}, "bad": {"failed": 1}}
    world.paused.add("jobs")
    for name, status in states.items():
        metadata = {"name": name, "labels": {RUN_LABEL: RUN_ID}}
        world.put("jobs", {"metadata": metadata, "status": status})
    world.put("jobs", {"metadata": {"name": "other", "labels": {RUN_LABEL: "other"}}})

    remove_running(cluster, RUN_ID)

    assert world.names("jobs") == ["bad", "done", "other"]
