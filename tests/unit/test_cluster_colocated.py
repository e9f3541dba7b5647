"""Workers beside billing: no downtime, and never in billing's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backup.cluster import colocated, crew
from backup.cluster.colocated import ATTEMPTS
from backup.cluster.lease import lease_name
from backup.errors import ClusterDeniedError, LeaseLostError, SignalledError
from backup.events import Problem, Step
from backup.model import Holdings
from tests.journal_data import Events
from tests.simulated_cluster import (
    BILLING,
    RUN_ID,
    RUN_POD,
    Does,
    SimulatedCluster,
    Worker,
    World,
    hasten,
    perform,
)
from tests.simulated_sink import CrashError

ONE, TWO, THREE = (f"journal-{BILLING}-{n}" for n in range(3))
LEASE = lease_name(BILLING)


@pytest.fixture(autouse=True)
def _hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
def world(world: World) -> World:
    """Make a namespace with two billing pods."""
    world.add_billing(2)
    return world


@pytest.fixture
def _beating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each wait read the Lease, so that a test can act there."""
    monkeypatch.setattr(crew, "BEAT_SECONDS", 0.0)


def run(cluster: SimulatedCluster, **changes: Any) -> Any:
    """Perform a run."""
    return perform(cluster, strategy="colocated", **changes)


def states(result: Any) -> list[str]:
    """Give the states of all journals."""
    return [outcome.state for outcome in result.journals]


def messages(result: Any) -> list[str]:
    """Give what went wrong."""
    return [problem.message for problem in result.problems]


def worker_pods(world: World) -> list[str]:
    """Name the pods of workers."""
    return [name for name in world.names("pods") if "-worker-" in name]


# -- beside billing


def test_copies_are_made_while_billing_runs(cluster: SimulatedCluster, world: World) -> None:
    """On the node of its pod, without touching it."""
    before = [world.get("pods", name)["metadata"]["uid"] for name in world.pods_of(BILLING)]

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert [(j.journal, j.claim, j.node) for j in result.journals] == [
        (ONE, ONE, "node-0"),
        (TWO, TWO, "node-1"),
    ]
    assert sorted(world.stored[RUN_ID]) == [ONE, TWO]
    after = [world.get("pods", name)["metadata"]["uid"] for name in world.pods_of(BILLING)]
    assert (after, result.downtime_seconds) == (before, None)
    assert cluster.written("*statefulsets*") == []


def test_shared_volume_is_read_by_one_worker(world: World, cluster: SimulatedCluster) -> None:
    """Beside whichever pod there is: it is for one node."""
    world.remove("statefulsets", BILLING)
    world.add_billing(2, shared=True)
    world.paused.add("statefulsets")
    world.remove("pods", f"{BILLING}-0")

    result = run(cluster)

    assert [(j.journal, j.claim, j.node) for j in result.journals] == [
        (ONE, "journals", "node-1"),
        (TWO, "journals", "node-1"),
    ]
    assert len(worker_pods(world)) == 1


def test_left_claim_is_read_wherever_it_can_be(cluster: SimulatedCluster, world: World) -> None:
    """No pod of billing's holds it: there is nothing to be beside."""
    world.scale(1)

    result = run(cluster)

    assert states(result) == ["backed up"] * 2
    affinities = {
        pod["spec"]["volumes"][-1]["persistentVolumeClaim"]["claimName"]: "affinity" in pod["spec"]
        for pod in (world.get("pods", name) for name in worker_pods(world))
    }
    assert affinities == {ONE: True, TWO: False}


@pytest.mark.usefixtures("_beating")
def test_at_most_so_many_at_a_time(cluster: SimulatedCluster, world: World) -> None:
    """The others wait until one has ended."""
    world.scale(0)
    for n in range(2, 5):
        world.add_claim(f"journal-{BILLING}-{n}")
    world.scale(5)
    for n in range(5):
        world.script(f"journal-{BILLING}-{n}", Worker(does="run on"))
    seen = []

    def end_one() -> None:
        if running := world.workers():
            seen.append(len(running))
            world.end(running[0])

    cluster.on("get leases", end_one, times=None)

    result = run(cluster, workers=2)

    assert states(result) == ["backed up"] * 5
    assert max(seen) == 2


# -- billing comes first


def test_worker_goes_when_billing_moves(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it has the volume, the volume cannot follow; a moment later it is tried beside it."""
    monkeypatch.setattr(colocated, "AGAIN_SECONDS", 0.03)
    world.script(
        ONE, Worker(does="run on", then=lambda: world.move(f"{BILLING}-0", "node-7")), Worker()
    )
    events = Events()

    result = run(cluster, emit=events)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert result.journals[0].node == "node-7"
    assert len(cluster.written("delete jobs *")) == 1
    assert f"{ONE} is tried again: billing's pod has left or moved" in [
        step.what for step in events.of(Step)
    ]


def test_worker_goes_when_billing_is_made_anew_where_it_was(
    cluster: SimulatedCluster, world: World
) -> None:
    """Another uid is another pod, and it waits for the volume."""
    world.script(
        ONE, Worker(does="run on", then=lambda: world.remove("pods", f"{BILLING}-0")), Worker()
    )

    result = run(cluster)

    assert states(result) == ["backed up"] * 2
    assert len(cluster.written("delete jobs *")) == 1


@pytest.mark.usefixtures("_beating")
def test_no_worker_is_made_while_billing_leaves(cluster: SimulatedCluster, world: World) -> None:
    """The one that there is goes at once: while it has the volume, billing cannot come back."""
    world.scale(1)
    world.remove("persistentvolumeclaims", TWO)
    world.is_slow = True
    leaving = []

    def look() -> None:
        leaving.append("deletionTimestamp" in world.get("pods", f"{BILLING}-0")["metadata"])

    cluster.on("create jobs", look, times=None)
    cluster.on("delete jobs reply", lambda: cluster.on("get leases", world.end_leaving, after=8))
    world.script(
        ONE, Worker(does="run on", then=lambda: world.delete_pod(f"{BILLING}-0")), Worker()
    )

    result = run(cluster)

    assert (states(result), leaving) == (["backed up"], [False, False])


def test_billing_that_never_settles_is_given_up(cluster: SimulatedCluster, world: World) -> None:
    """After so many tries, with the reason; the other journal is none the worse."""
    nodes = iter(("node-4", "node-5", "node-6"))
    moves = Worker(does="run on", then=lambda: world.move(f"{BILLING}-0", next(nodes)))
    world.script(ONE, *[moves] * ATTEMPTS)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["failed", "backed up"], (4,))
    assert messages(result) == ["billing's pod has left or moved, 3 times"]
    assert [name for name in worker_pods(world) if world.workers() == [name]] == []


def test_billing_that_does_not_run_is_given_up(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time, with its name, and with what is said of it: somebody has to look at it."""
    monkeypatch.setattr(colocated, "WAIT_SECONDS", 0.05)
    world.paused.add("statefulsets")
    world.remove("pods", f"{BILLING}-0")
    world.add_event(f"{BILLING}-0", "NodeNotReady", "Node is not ready")

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["failed", "backed up"], (4,))
    assert messages(result) == [f"{BILLING}-0 is not running (NodeNotReady: Node is not ready)"]
    assert result.journals[0].worker is None


def test_billing_that_is_not_scheduled_does_not_run(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no node to be on."""
    monkeypatch.setattr(colocated, "WAIT_SECONDS", 0.05)
    world.edit("pods", f"{BILLING}-0", lambda pod: pod["spec"].pop("nodeName"))

    assert messages(run(cluster)) == [f"{BILLING}-0 is not running"]


# -- what becomes of workers


@pytest.mark.usefixtures("_beating")
@pytest.mark.parametrize(("times", "state"), [(2, "backed up"), (ATTEMPTS, "failed")])
def test_deleted_worker_is_tried_again(
    cluster: SimulatedCluster, world: World, times: int, state: str
) -> None:
    """A node was drained; or somebody does not want it there, and it is given up."""
    world.script(ONE, *[Worker(does="run on")] * times)
    cluster.meddle(lambda name: world.remove("pods", name))

    result = run(cluster)

    assert states(result) == [state, "backed up"]
    given_up = ["its worker's pod was deleted, 3 times"]
    assert messages(result) == (given_up if state == "failed" else [])


@pytest.mark.usefixtures("_beating")
@pytest.mark.parametrize("shared", [False, True])
def test_worker_of_a_stopped_billing_makes_room_when_it_is_scaled_up(*, shared: bool) -> None:
    """It may be on another node than the pod that wants its volume, and be there for hours."""
    world = World()
    world.add_billing(2, shared=shared)
    world.scale(0)
    cluster = SimulatedCluster(world)
    for claim in ["journals"] if shared else [ONE, TWO]:
        world.script(claim, Worker(does="run on"))
    acts = iter([lambda: world.scale(2)])
    cluster.meddle(lambda _: next(acts, lambda: None)())
    known = Holdings(journals=frozenset({ONE, TWO}))

    result = perform(cluster, strategy="colocated", allow_stopped=True, known=known)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert all(outcome.node == f"node-{n}" for n, outcome in enumerate(result.journals)) or shared
    assert len(cluster.written("delete jobs*")) == (1 if shared else 2)
    world.close()


@pytest.mark.usefixtures("_beating")
def test_worker_that_is_seen_to_end_when_it_is_deleted_is_tried_again(
    cluster: SimulatedCluster, world: World
) -> None:
    """On a real node a deleted pod fails first, and is gone later."""

    def evict(name: str) -> None:
        world.edit("pods", name, lambda pod: pod["metadata"].update(deletionTimestamp="now"))
        world.end(name, does="fail", exit_code=143)

    world.script(ONE, Worker(does="run on"))
    cluster.meddle(evict)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert len(cluster.written("create jobs*")) == 3


def test_worker_that_was_not_even_seen_is_tried_again(
    cluster: SimulatedCluster, world: World
) -> None:
    """Its pod has come and gone between two looks: nobody waits for it any longer."""

    def delete() -> None:
        for name in worker_pods(world):
            world.remove("pods", name)

    world.script(ONE, Worker(does="run on"))
    cluster.on("create jobs reply", delete)

    assert states(run(cluster)) == ["backed up"] * 2
    assert len(cluster.written("create jobs*")) == 3


def test_lost_message_is_no_failure(cluster: SimulatedCluster, world: World) -> None:
    """The backup is found by the run's id."""
    world.script(ONE, Worker(does="stay silent"))

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert result.journals[0].id == world.stored[RUN_ID][ONE].id


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        (Worker(does="stay silent", stores=False), "ended with exit code 0 and without an answer"),
        (Worker(does="fail", exit_code=1), "ended with exit code 1 and without an answer"),
        (Worker(does="run out of memory"), "ran out of memory: raise resources.limits.memory"),
        (Worker(does="be evicted", says="node is low on disk"), "was evicted: node is low on disk"),
    ],
)
def test_worker_that_fails_says_why(
    cluster: SimulatedCluster, world: World, worker: Worker, why: str
) -> None:
    """Its journal is failed, and the others are backed up."""
    world.script(ONE, worker)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["failed", "backed up"], (4,))
    assert messages(result) == [f"its worker {why}"]
    assert result.journals[0].worker is not None


@pytest.mark.usefixtures("_beating")
@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("stay unscheduled", "its worker is not scheduled: no room"),
        ("lack its image", "its worker ImagePullBackOff: no room"),
    ],
)
def test_worker_that_does_not_begin_is_given_up(
    cluster: SimulatedCluster,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    does: Does,
    why: str,
) -> None:
    """In time, and removed: it would begin when nobody waits for it any more."""
    cluster.meddle(lambda _name: monkeypatch.setattr(crew, "WAIT_SECONDS", 0.0), phase="Pending")
    world.script(ONE, Worker(does=does, says="no room"))

    result = run(cluster)

    assert (states(result), messages(result)) == (["failed", "backed up"], [why])
    assert len(worker_pods(world)) == 1


def test_worker_that_is_refused_is_given_up_at_once(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Job is taken, and only an event tells that its pod is not."""
    monkeypatch.setattr(crew, "LOOK_SECONDS", 0.0)
    world.script(ONE, Worker(does="be refused", says="violates PodSecurity"))

    result = run(cluster)

    assert (states(result), messages(result)) == (
        ["failed", "backed up"],
        ["the cluster refused its worker's pod: FailedCreate: violates PodSecurity"],
    )
    assert len([name for name in world.names("jobs") if "-worker-" in name]) == 1


def test_worker_that_fails_in_part_is_taken_at_its_word(
    cluster: SimulatedCluster, world: World
) -> None:
    """One journal is suspect, one was left out, and the exit code is the worst of both."""
    world.remove("statefulsets", BILLING)
    world.add_billing(2, shared=True)
    problem = Problem(exit_code=4, journal=ONE, message="is suspect: it ends in nothing")
    world.script(
        "journals", Worker(state="suspect", exit_code=4, journals=(ONE,), problems=(problem,))
    )

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["suspect", "failed"], (4, 4))
    assert messages(result) == ["is suspect: it ends in nothing", "its worker does not speak of it"]
    assert list(world.stored[RUN_ID]) == [ONE]


# -- the end of a run


def interrupt(cluster: SimulatedCluster) -> Callable[[], None]:
    """Give what sends the run a signal."""
    return lambda: cluster.stop.request(15)


def test_signal_removes_what_still_runs(cluster: SimulatedCluster, world: World) -> None:
    """And lets the Lease go; what has ended can be looked at."""
    world.script(TWO, Worker(does="run on", then=interrupt(cluster)))

    with pytest.raises(SignalledError):
        run(cluster)

    assert [world.get("pods", name)["status"]["phase"] for name in worker_pods(world)] == [
        "Succeeded"
    ]
    assert world.get("leases", LEASE)["spec"]["holderIdentity"] == ""


def test_refused_job_ends_the_run(cluster: SimulatedCluster, world: World) -> None:
    """A right is missing: it would be for every worker."""
    cluster.fail("create jobs", ClusterDeniedError("the cluster refuses: jobs is forbidden"))

    with pytest.raises(ClusterDeniedError):
        run(cluster)

    assert world.get("leases", LEASE)["spec"]["holderIdentity"] == ""


@pytest.mark.usefixtures("_beating")
def test_run_that_was_pushed_aside_stops(cluster: SimulatedCluster, world: World) -> None:
    """Its workers go, and the Lease is the other one's."""

    def push() -> None:
        world.edit("leases", LEASE, lambda body: body["spec"].update(holderIdentity="other"))

    world.script(TWO, Worker(does="run on", then=push))

    with pytest.raises(LeaseLostError):
        run(cluster)

    assert world.workers() == []
    assert world.get("leases", LEASE)["spec"]["holderIdentity"] == "other"


@pytest.mark.parametrize("kind", ["before", "after"])
def test_crash_at_any_write_is_put_right(kind: str) -> None:
    """By the next run: it gets the Lease, removes what is left, and backs up all journals."""
    for write in range(1, 5):
        world = World()
        world.add_billing(2)
        dying = SimulatedCluster(world)
        getattr(dying, f"crash_{kind}")(write)
        if write < 4:
            world.script(ONE, Worker(does="run on"))
        with pytest.raises(CrashError):
            run(dying)
        world.script(ONE)
        pod = world.add_run(2)
        world.edit("pods", RUN_POD, lambda pod: pod["status"].update(phase="Failed"))

        result = run(SimulatedCluster(world), run_id="next", pod=pod)

        assert (write, states(result)) == (write, ["backed up"] * 2)
        assert [name for name in world.names("jobs") if name.startswith("journal-backup-1-")] == []
        world.close()
