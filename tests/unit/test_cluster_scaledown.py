"""Copies while billing is down, and billing's return whatever happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

import pytest

from backup.cluster import crew, drafts, scaledown
from backup.cluster.lease import RECORD, Lease, Measured, Owner, lease_name
from backup.cluster.rescue import resume
from backup.cluster.workers import GATE
from backup.errors import (
    BackupError,
    BillingDownError,
    ClusterDeniedError,
    ClusterError,
    ClusterUnavailableError,
    DeadlineError,
    DowntimeError,
    LeaseHeldError,
    LeaseLostError,
    RefusedError,
    SignalledError,
)
from backup.events import Problem
from backup.model import Holdings
from backup.run import Run
from backup.stop import Stop
from tests.journal_data import Clock
from tests.simulated_cluster import (
    BILLING,
    RUN_ID,
    Budget,
    Does,
    SimulatedCluster,
    Worker,
    World,
    hasten,
    perform,
)
from tests.simulated_sink import CrashError

ONE, TWO = f"journal-{BILLING}-0", f"journal-{BILLING}-1"
LEASE = lease_name(BILLING)
SCALE = "replace statefulsets/scale"
LINE = f"kubectl -n voice scale statefulset {BILLING} --replicas=2"
AWAY = ClusterUnavailableError("the API server does not answer", "is it up?")


@pytest.fixture(autouse=True)
def _hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
def _beating(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each wait read the Lease, so that a test can act there."""
    monkeypatch.setattr(crew, "BEAT_SECONDS", 0.0)


def make_world() -> World:
    """Make a namespace with two billing pods, whose volumes are for one pod each."""
    world = World()
    world.add_billing(2, modes=("ReadWriteOncePod",))
    return world


@pytest.fixture
def world() -> Iterator[World]:
    """Give such a namespace."""
    world = make_world()
    yield world
    world.close()


def run(cluster: SimulatedCluster, **changes: Any) -> Any:
    """Perform a run that may scale billing down."""
    return perform(cluster, **{"strategy": "auto", "max_downtime": timedelta(minutes=5), **changes})


def states(result: Any) -> list[str]:
    """Give the states of all journals."""
    return [outcome.state for outcome in result.journals]


def messages(result: Any) -> list[str]:
    """Give what went wrong."""
    return [problem.message for problem in result.problems]


def notes(world: World) -> dict[str, str]:
    """Give what is written on the Lease."""
    found: dict[str, str] = world.get("leases", LEASE)["metadata"]["annotations"]
    return found


def holder(world: World) -> str:
    """Say who holds the Lease."""
    found: str = world.get("leases", LEASE)["spec"]["holderIdentity"]
    return found


def guard(world: World, clock: Clock, *, take_over: bool = False) -> Any:
    """Run ``resume-billing`` as the guard does."""
    cluster = SimulatedCluster(world)
    run = Run(id="guard", clock=clock)
    lease = Lease(run, cluster, BILLING, owner=Owner(pod="", uid=""))
    return resume(lease, take_over=take_over)


def jobs_of(world: World, role: str) -> list[str]:
    """Name the Jobs of workers."""
    return [name for name in world.names("jobs") if f"-{role}-" in name]


# -- the order


def test_everything_in_its_order(cluster: SimulatedCluster, world: World) -> None:
    """Record, down, copies, back, ready; and what needs no downtime comes afterwards."""
    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert [write.rpartition(" journal-backup-1-")[0] or write for write in cluster.writes] == [
        f"create leases {LEASE}",
        "create jobs",
        "create jobs",
        f"replace leases {LEASE}",
        f"{SCALE} {BILLING} to 0",
        "patch pods",
        "patch pods",
        f"{SCALE} {BILLING} to 2",
        f"replace leases {LEASE}",
        "create jobs",
        f"replace leases {LEASE}",
        f"replace leases {LEASE}",
    ]
    assert (world.replicas, len(world.pods_of(BILLING))) == (2, 2)
    assert sorted(world.stored[RUN_ID]) == [ONE, TWO]
    assert (RECORD in notes(world), holder(world)) == (False, "")
    assert result.strategy == "scale-down"
    assert 0 < result.downtime_seconds < result.duration_seconds


def test_record_is_written_before_billing_goes(cluster: SimulatedCluster, world: World) -> None:
    """From the first moment that it may be down, anybody can bring it back."""
    seen = []
    cluster.on(SCALE, lambda: seen.append(notes(world)[RECORD]))

    run(cluster)

    uid = world.get("statefulsets", BILLING)["metadata"]["uid"]
    assert seen == [f'{{"uid": "{uid}", "replicas": 2, "deadline": "2026-11-23T12:07:00.000000Z"}}']


@pytest.mark.usefixtures("_beating")
def test_billing_stays_until_workers_are_admitted(cluster: SimulatedCluster, world: World) -> None:
    """What admission refuses costs no downtime: all are there, and held back by their gates."""
    world.paused.add("jobs")
    cluster.on("get leases", lambda: world.go_on("jobs"), after=5)
    seen = []

    def look() -> None:
        pods = [world.get("pods", name)["spec"] for name in world.workers("Pending")]
        seen.append([pod["schedulingGates"] for pod in pods])

    cluster.on(SCALE, look)

    result = run(cluster)

    assert (states(result), seen) == (["backed up"] * 2, [[[{"name": GATE}]] * 2])


@pytest.mark.usefixtures("_beating")
def test_gates_are_opened_when_billings_pods_are_gone(
    cluster: SimulatedCluster, world: World
) -> None:
    """They end in their own time, and hold their volumes until then."""
    world.is_slow = True
    cluster.on("get leases", world.end_leaving, after=10)
    seen = []
    cluster.on("patch pods", lambda: seen.append(world.pods_of(BILLING)), times=None)

    result = run(cluster)

    assert (states(result), seen) == (["backed up"] * 2, [[], []])
    assert len(cluster.written("patch pods*")) == 2


@pytest.mark.usefixtures("_beating")
def test_at_most_so_many_at_a_time(cluster: SimulatedCluster, world: World) -> None:
    """The other gates stay shut until one has ended."""
    world.script(ONE, Worker(does="run on"))
    world.script(TWO, Worker(does="run on"))
    seen = []

    def end(name: str) -> None:
        seen.append(world.workers())
        world.end(name)

    cluster.meddle(end)

    result = run(cluster, workers=1)

    assert states(result) == ["backed up"] * 2
    assert [len(running) for running in seen] == [1, 1]


def test_worker_likes_the_node_where_billing_was(cluster: SimulatedCluster, world: World) -> None:
    """Where its pod had one; the volume may still be attached there."""
    world.edit("pods", f"{BILLING}-1", lambda pod: pod["spec"].pop("nodeName"))

    run(cluster)

    wishes = {
        spec["volumes"][-1]["persistentVolumeClaim"]["claimName"]: spec.get("affinity", {})
        .get("nodeAffinity", {})
        .get("preferredDuringSchedulingIgnoredDuringExecution", [{}])[0]
        .get("preference", {})
        .get("matchExpressions", [{}])[0]
        .get("values")
        for spec in (
            world.get("jobs", name)["spec"]["template"]["spec"] for name in jobs_of(world, "worker")
        )
    }
    assert wishes == {ONE: ["node-0"], TWO: None}


@pytest.mark.usefixtures("_beating")
def test_downtime_begins_when_no_pod_is_ready(cluster: SimulatedCluster, world: World) -> None:
    """And not when the last of them has ended: nobody is served meanwhile."""
    world.is_slow = True
    since: list[float] = []
    cluster.on(f"{SCALE} reply", lambda: since.append(time.monotonic()))

    def end() -> None:
        if since and time.monotonic() - since[0] > 0.3:
            world.end_leaving()

    cluster.on("get leases", end, times=None)

    result = run(cluster)

    assert result.downtime_seconds > 0.2


# -- refused before anything is touched


def test_volumes_that_go_with_their_pods_are_refused(cluster: SimulatedCluster) -> None:
    """``whenScaled: Delete`` would delete the journals."""
    world = cluster.world
    world.remove("statefulsets", BILLING)
    world.add_billing(2, modes=("ReadWriteOncePod",), when_scaled="Delete")

    with pytest.raises(RefusedError, match="would delete its journals"):
        run(cluster)

    assert cluster.written("create jobs*") + cluster.written(f"{SCALE}*") == []


def measure(world: World, size_bytes: int, seconds: float) -> None:
    """Note what an earlier scale-down took."""
    run = Run(id="old", clock=Clock())
    lease = Lease(run, SimulatedCluster(world), BILLING, owner=Owner())
    lease.take()
    lease.remember(Measured(size_bytes=size_bytes, seconds=seconds))
    lease.release()


def test_budget_that_would_not_suffice_is_refused_with_its_numbers(
    cluster: SimulatedCluster, world: World
) -> None:
    """By the measure of the last times, before billing is touched."""
    measure(world, 1_000_000, 200.0)

    with pytest.raises(DowntimeError) as caught:
        run(cluster, known=Holdings(size_bytes=2_000_000))

    assert caught.value.exit_code == 9
    assert caught.value.message == (
        "billing would be down for 400 s, and may be for 300 s: "
        "1,000,000 bytes took 200 s, and the newest backups hold 2,000,000"
    )
    assert caught.value.hints[1] == (
        "to try it all the same: kubectl -n voice annotate lease deepgram-billing-journal-backup "
        "deepgram-journal-backup/measured-"
    )
    assert (world.replicas, jobs_of(world, "worker"), holder(world)) == (2, [], "")


def test_night_that_was_slow_does_not_refuse_all_others(
    cluster: SimulatedCluster, world: World
) -> None:
    """The best of the last few counts: nobody measures again where nothing is done."""
    measure(world, 1000, 100.0)
    measure(world, 1000, 400.0)

    assert states(run(cluster, known=Holdings(size_bytes=1000))) == ["backed up"] * 2


def test_fewer_bytes_are_no_faster(cluster: SimulatedCluster, world: World) -> None:
    """Pods have to end and to start, whatever they hold."""
    measure(world, 1000, 400.0)

    with pytest.raises(DowntimeError, match="would be down for 400 s"):
        run(cluster, known=Holdings(size_bytes=10))


@pytest.mark.parametrize(
    ("measured", "known"), [((1000, 299.0), 10), ((1000, 150.0), 2000), ((0, 1e6), 2000)]
)
def test_budget_that_would_suffice_is_spent(
    cluster: SimulatedCluster, world: World, measured: tuple[int, float], known: int
) -> None:
    """No bytes measure nothing."""
    measure(world, *measured)

    result = run(cluster, known=Holdings(size_bytes=known))

    assert states(result) == ["backed up"] * 2


def test_each_run_measures_for_the_next(cluster: SimulatedCluster, world: World) -> None:
    """Its bytes, and how long the copies took: that is what is allowed for, not billing's start."""

    def start_slowly() -> None:
        world.paused.add("statefulsets")
        threading.Timer(0.3, lambda: world.go_on("statefulsets")).start()

    cluster.on(SCALE, start_slowly, after=1)
    result = run(cluster)

    held = Lease(Run(id="x", clock=Clock()), cluster, BILLING, owner=Owner(pod="", uid="")).read()
    assert held is not None
    assert held.measured[0].size_bytes == 2000
    assert result.downtime_seconds is not None
    assert 0 < held.measured[0].seconds < result.downtime_seconds - 0.25


def test_refused_worker_costs_no_downtime(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admission says why; the other worker is removed."""
    monkeypatch.setattr(crew, "LOOK_SECONDS", 0.0)
    world.script(TWO, Worker(does="be refused", says="violates PodSecurity"))

    with pytest.raises(RefusedError, match="FailedCreate: violates PodSecurity") as caught:
        run(cluster)

    assert caught.value.hints == ("billing was not scaled down",)
    assert (cluster.written(f"{SCALE}*"), jobs_of(world, "worker")) == ([], [])


def test_worker_without_a_pod_costs_no_downtime(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says why: the run does not wait for ever."""
    monkeypatch.setattr(crew, "WAIT_SECONDS", 0.05)
    world.paused.add("jobs")

    with pytest.raises(RefusedError, match="no event says why"):
        run(cluster)

    assert cluster.written(f"{SCALE}*") == []


def test_worker_that_somebody_deletes_at_once_costs_no_downtime(
    cluster: SimulatedCluster, world: World
) -> None:
    """Even where its pod has come and gone between two looks."""

    def delete() -> None:
        for name in [n for n in world.names("pods") if "-worker-" in n]:
            world.remove("pods", name)

    cluster.on("create jobs reply", delete)

    with pytest.raises(RefusedError, match="gets no pod: it was deleted"):
        run(cluster)

    assert cluster.written(f"{SCALE}*") == []


def test_billing_that_was_scaled_meanwhile_is_left_alone(
    cluster: SimulatedCluster, world: World
) -> None:
    """The number in the record would be wrong; no journal was copied, and the run says so."""
    cluster.on(f"get {SCALE.removeprefix('replace ')}", lambda: world.scale(3))

    result = run(cluster)

    assert (states(result), world.replicas) == (["failed"] * 2, 3)
    assert set(result.exit_codes) == {4, 7}
    assert messages(result)[0] == f"{BILLING} was scaled from 2 to 3 meanwhile"
    assert (RECORD in notes(world), jobs_of(world, "commit")) == (False, [])


# -- billing at 0 on arrival


def test_billing_that_somebody_stops_before_we_do_stays_stopped(
    cluster: SimulatedCluster, world: World
) -> None:
    """For maintenance, say: it is not ours to bring back."""
    cluster.on("create jobs", lambda: world.scale(0))

    result = run(cluster)

    assert (states(result), set(result.exit_codes)) == (["failed"] * 2, {4, 7})
    assert f"{BILLING} was scaled from 2 to 0 meanwhile" in messages(result)
    assert (world.replicas, cluster.written(f"{SCALE}*"), world.workers()) == (0, [], [])
    assert (RECORD in notes(world), result.downtime_seconds) == (False, None)


@pytest.mark.parametrize(("allowed", "codes"), [(False, (3,)), (True, ())])
def test_stopped_billing_is_copied_and_stays_stopped(
    cluster: SimulatedCluster, world: World, *, allowed: bool, codes: tuple[int, ...]
) -> None:
    """Somebody has stopped it: whether that is meant is for a setting to say."""
    world.scale(0)

    result = run(cluster, allow_stopped=allowed)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, codes)
    assert (world.replicas, cluster.written(f"{SCALE}*")) == (0, [])
    assert result.downtime_seconds is None
    if codes:
        assert "BACKUP_ALLOW_STOPPED" in result.problems[0].hints[1]


@pytest.mark.usefixtures("_beating")
def test_stopped_billings_last_pods_are_waited_for(cluster: SimulatedCluster, world: World) -> None:
    """They hold their volumes until they have ended."""
    world.is_slow = True
    world.scale(0)
    cluster.on("get leases", world.end_leaving, after=10)
    seen = []
    cluster.on("patch pods", lambda: seen.append(world.pods_of(BILLING)), times=None)

    result = run(cluster, allow_stopped=True)

    assert (states(result), seen) == (["backed up"] * 2, [[], []])


def test_stopped_billing_that_comes_back_ends_the_run(
    cluster: SimulatedCluster, world: World
) -> None:
    """Its volumes are needed; workers go."""
    world.scale(0)
    world.script(TWO, Worker(does="run on", then=lambda: world.scale(2)))

    with pytest.raises(RefusedError, match="scaled up by somebody else"):
        run(cluster, allow_stopped=True)

    assert (world.workers(), world.replicas) == ([], 2)


# -- when the time is over


def test_budget_that_is_over_brings_billing_back(cluster: SimulatedCluster, world: World) -> None:
    """Workers go without being waited for; what was put is committed all the same."""
    budget = Budget(minutes=5)
    world.script(TWO, Worker(does="run on", then=lambda: setattr(budget, "is_over", True)))

    result = run(cluster, max_downtime=budget, workers=1)

    assert states(result) == ["backed up", "failed"]
    assert set(result.exit_codes) == {4, 9}
    assert messages(result) == [
        "the copies are not done after 0 s: billing comes first",
        "was not copied: its worker had not begun",  # that it has was not heard of yet
    ]
    assert (world.replicas, len(world.pods_of(BILLING)), world.workers()) == (2, 2, [])
    assert list(world.stored[RUN_ID]) == [ONE]
    before_back = cluster.writes[: cluster.writes.index(f"{SCALE} {BILLING} to 2")]
    assert "delete jobs" in before_back[-1]


@pytest.mark.usefixtures("_beating")
def test_billing_that_does_not_end_in_time_is_brought_back(
    cluster: SimulatedCluster, world: World
) -> None:
    """It does not even go: no gate is opened."""
    budget = Budget(minutes=5)
    world.is_slow = True
    cluster.on("get leases", lambda: setattr(budget, "is_over", True), after=8)
    cluster.on(f"{SCALE} reply", world.end_leaving, after=1)

    result = run(cluster, max_downtime=budget)

    assert states(result) == ["failed", "failed"]
    assert messages(result)[0] == ("billing's pods have not ended after 0 s: billing comes first")
    assert (world.replicas, cluster.written("patch *")) == (2, [])
    assert (jobs_of(world, "commit"), jobs_of(world, "worker")) == ([], [])


# -- what others do meanwhile


def test_somebody_scales_up_while_journals_are_copied(
    cluster: SimulatedCluster, world: World
) -> None:
    """Billing is left as it was scaled, and workers make room; nobody waits for other replicas."""
    world.script(TWO, Worker(does="run on", then=lambda: world.scale(1)))

    result = run(cluster, workers=1)

    assert states(result) == ["backed up", "failed"]
    assert "was scaled up by somebody else" in messages(result)[0]
    assert (world.replicas, world.workers(), RECORD in notes(world)) == (1, [], False)
    assert result.downtime_seconds is not None  # it was away, whoever brought it back


@pytest.mark.parametrize(("is_made_anew", "how"), [(True, "was made anew"), (False, "was deleted")])
def test_billing_that_is_another_one_is_left_alone(
    cluster: SimulatedCluster, world: World, *, is_made_anew: bool, how: str
) -> None:
    """What was copied is committed; nothing is scaled, and nobody is waited for."""

    def upgrade() -> None:
        world.remove("statefulsets", BILLING)
        if is_made_anew:
            world.add_billing(0)

    world.script(TWO, Worker(then=upgrade))

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert [w.message for w in result.warnings] == [f"{BILLING} {how} meanwhile: left as it is"]
    assert cluster.written(f"{SCALE}*") == [f"{SCALE} {BILLING} to 0"]
    assert RECORD not in notes(world)


@pytest.mark.usefixtures("_beating")
def test_run_that_was_pushed_aside_does_not_scale(cluster: SimulatedCluster, world: World) -> None:
    """Whoever has taken over brings billing back, and finds nobody in its way."""

    def push() -> None:
        world.edit("leases", LEASE, lambda body: body["spec"].update(holderIdentity="other"))

    world.script(TWO, Worker(does="run on", then=push))

    with pytest.raises(LeaseLostError):
        run(cluster)

    assert (world.replicas, cluster.written(f"{SCALE}*")) == (0, [f"{SCALE} {BILLING} to 0"])
    assert (world.workers(), holder(world), RECORD in notes(world)) == ([], "other", True)
    assert guard(world, Clock(), take_over=True).state == "restored"
    assert world.replicas == 2


def test_lease_is_read_before_gates_are_opened(cluster: SimulatedCluster, world: World) -> None:
    """Whoever has taken over may have begun to bring billing back."""

    def push() -> None:
        world.edit("leases", LEASE, lambda body: body["spec"].update(holderIdentity="other"))

    cluster.on(f"{SCALE} reply", push)

    with pytest.raises(LeaseLostError):
        run(cluster)

    assert (cluster.written("patch *"), RECORD in notes(world)) == ([], True)


@pytest.mark.usefixtures("_beating")
def test_run_that_finds_billing_back_learns_why(cluster: SimulatedCluster, world: World) -> None:
    """A hook has taken over, and is through with it already: nothing is copied or scaled."""
    clock = Clock()
    cluster.on(f"{SCALE} reply", lambda: guard(world, clock, take_over=True))

    with pytest.raises(LeaseLostError):
        run(cluster, clock=clock)

    assert (world.replicas, cluster.written("patch *")) == (2, [])
    assert (cluster.written(f"{SCALE}*"), RECORD in notes(world)) == (
        [f"{SCALE} {BILLING} to 0"],
        False,
    )


def test_run_that_a_hook_ends_while_it_copies_learns_why(
    cluster: SimulatedCluster, world: World
) -> None:
    """It was no GitOps controller that scaled billing up, and no worker was deleted by chance."""
    clock = Clock()

    def hook() -> None:
        guard(world, clock, take_over=True)

    world.script(TWO, Worker(does="run on", then=hook))

    with pytest.raises(LeaseLostError) as caught:
        run(cluster, clock=clock)

    assert "resume-billing --take-over" in caught.value.hints[0]
    assert (world.replicas, world.workers(), holder(world)) == (2, [], "")
    assert cluster.written(f"{SCALE}*") == [f"{SCALE} {BILLING} to 0"]


@pytest.mark.usefixtures("_beating")
def test_deleted_lease_does_not_keep_billing_down(cluster: SimulatedCluster, world: World) -> None:
    """The record went with it: nobody else knows that billing has to come back."""
    world.script(TWO, Worker(does="run on", then=lambda: world.remove("leases", LEASE)))

    with pytest.raises(LeaseLostError):
        run(cluster)

    assert (world.replicas, world.workers()) == (2, [])


def test_second_run_is_kept_out(cluster: SimulatedCluster, world: World) -> None:
    """One made by hand, in the middle of the scheduled one: neither disturbs billing's return."""
    told: list[BackupError] = []
    pod = world.add_run(2)

    def begin() -> None:
        with pytest.raises(LeaseHeldError) as caught:
            run(SimulatedCluster(world), run_id="second", pod=pod, strategy="scale-down")
        told.append(caught.value)

    world.script(ONE, Worker(then=begin))

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert [error.exit_code for error in told] == [7]
    assert (world.replicas, sorted(world.stored)) == (2, [RUN_ID])


def test_run_that_may_not_scale_yet_is_pushed_aside_by_a_hook(
    cluster: SimulatedCluster, world: World
) -> None:
    """Its rights are about to go with the release: after the hook it must not scale down."""
    clock = Clock()
    told = []
    cluster.on("create jobs", lambda: told.append(guard(world, clock, take_over=True)))

    with pytest.raises(LeaseLostError):
        run(cluster, clock=clock)

    assert [(r.state, r.holder) for r in told] == [("pushed aside", RUN_ID)]
    assert (world.replicas, world.workers(), cluster.written(f"{SCALE}*")) == (2, [], [])
    assert (holder(world), RECORD in notes(world)) == ("", False)


def test_lease_lost_to_a_run_without_a_record_brings_billing_back(
    cluster: SimulatedCluster, world: World
) -> None:
    """It was frozen before it scaled down; a guard found billing up, and the next run has begun."""
    clock = Clock()

    def freeze() -> None:
        clock.advance(seconds=61)
        assert guard(world, clock).state == "was up"

    def begin_another() -> None:
        other = SimulatedCluster(world)
        owner = Owner(pod="", uid="")
        Lease(Run(id="second", clock=clock), other, BILLING, owner=owner).take()

    cluster.on("get statefulsets/scale", freeze, after=1)
    cluster.on(f"{SCALE} reply", begin_another)

    with pytest.raises(LeaseLostError):
        run(cluster, clock=clock)

    assert (world.replicas, holder(world)) == (2, "second")


def test_lost_lease_that_cannot_be_read_does_not_keep_billing_down(
    cluster: SimulatedCluster, world: World
) -> None:
    """To bring it back twice does no harm."""

    def push() -> None:
        world.edit("leases", LEASE, lambda body: body["spec"].update(holderIdentity="other"))
        cluster.fail("get leases", AWAY, after=1, times=1)

    cluster.on(f"{SCALE} reply", push)

    with pytest.raises(LeaseLostError):
        run(cluster)

    assert world.replicas == 2


# -- whatever ends the run


def test_workers_that_cannot_be_removed_cost_billing_no_time(world: World) -> None:
    """An API server that is away while they are to go may be back for what counts."""
    stops: list[Stop] = []

    class Watched(SimulatedCluster):
        def under(self, stop: Stop, *, patience: float | None = None) -> Self:
            stops.append(stop)
            return super().under(stop, patience=patience)

    cluster = Watched(world)
    budget = Budget(minutes=5)
    world.script(TWO, Worker(does="run on", then=lambda: setattr(budget, "is_over", True)))
    cluster.on("delete jobs", lambda: stops[-1].request(signal.SIGTERM))
    result = run(cluster, max_downtime=budget, workers=1)

    assert (world.replicas, set(result.exit_codes)) == (2, {4, 9})


def test_signal_brings_billing_back(cluster: SimulatedCluster, world: World) -> None:
    """Under a stop of its own; workers go first, as they hold the volumes."""
    world.script(TWO, Worker(does="run on", then=lambda: cluster.stop.request(15)))

    with pytest.raises(SignalledError):
        run(cluster)

    assert (world.replicas, len(world.pods_of(BILLING)), world.workers()) == (2, 2, [])
    assert (RECORD in notes(world), holder(world)) == (False, "")


@pytest.mark.parametrize(
    "error", [AWAY, DeadlineError("the deadline of 3 s is over")], ids=["away", "stopped"]
)
def test_request_without_an_answer_may_arrive_yet(
    cluster: SimulatedCluster, world: World, error: BackupError
) -> None:
    """Billing is up when it is looked at; the record stays for a guard, which looks later."""
    clock = Clock()
    cluster.fail(SCALE, error, times=1)

    with suppress(DeadlineError):
        run(cluster, clock=clock)
    assert (world.replicas, RECORD in notes(world)) == (2, True)
    world.scale(0)  # it arrives
    clock.advance(seconds=61)

    assert (guard(world, clock).state, world.replicas) == ("restored", 2)


@pytest.mark.parametrize(
    "error", [AWAY, SignalledError("stopped by SIGTERM", signum=15)], ids=["away", "stopped"]
)
def test_record_that_is_written_without_an_answer_is_withdrawn(
    cluster: SimulatedCluster, world: World, error: BackupError
) -> None:
    """Billing was not touched, and nobody is to look after it."""
    cluster.fail("replace leases reply", error, times=1)

    with pytest.raises(type(error)):
        run(cluster)
    assert (world.replicas, RECORD in notes(world), holder(world)) == (2, False, "")
    assert not any("scale" in write for write in cluster.writes)


def test_measure_that_cannot_be_noted_is_no_failure(
    cluster: SimulatedCluster, world: World
) -> None:
    """All is backed up, and billing is back."""
    cluster.fail("replace leases", ClusterError("the cluster refuses PUT: 500"), after=2)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert "how long this took could not be noted" in result.warnings[0].message


def test_unknown_error_brings_billing_back(cluster: SimulatedCluster, world: World) -> None:
    """A bug is no reason for billing to stay down."""
    cluster.fail("patch pods", RuntimeError("a bug"))

    with pytest.raises(RuntimeError):
        run(cluster)

    assert (world.replicas, RECORD in notes(world)) == (2, False)


def test_error_while_billing_is_down_brings_it_back(
    cluster: SimulatedCluster, world: World
) -> None:
    """And is the run's."""
    cluster.fail("patch pods", ClusterDeniedError("the cluster refuses: pods is forbidden"))

    result = run(cluster)

    assert (states(result), world.replicas) == (["failed"] * 2, 2)
    assert set(result.exit_codes) == {4, 7}


def test_worker_that_cannot_be_removed_does_not_keep_billing_down(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Billing comes first; that its pod waits for the volume is told."""
    monkeypatch.setattr(scaledown, "READY_SECONDS", 0.05)
    budget = Budget(minutes=5)
    world.script(TWO, Worker(does="run on", then=lambda: setattr(budget, "is_over", True)))
    cluster.fail("delete jobs", AWAY)

    result = run(cluster, max_downtime=budget)

    assert world.replicas == 2
    assert "billing is scaled back, and not ready after 0.05 s" in messages(result)


@pytest.mark.parametrize("error", [AWAY, ClusterDeniedError("no")])
def test_billing_that_cannot_be_brought_back_is_told_and_recorded(
    cluster: SimulatedCluster, world: World, error: BackupError
) -> None:
    """Exit 8 with the line to paste; and the guard goes on trying."""
    clock = Clock()
    cluster.fail(SCALE, error, after=1)

    with pytest.raises(BillingDownError) as caught:
        run(cluster, clock=clock)

    assert (caught.value.exit_code, caught.value.hints[0]) == (8, LINE)
    assert (world.replicas, RECORD in notes(world), holder(world)) == (0, True, RUN_ID)
    clock.advance(seconds=61)
    assert guard(world, clock).state == "restored"
    assert world.replicas == 2


def test_billing_that_is_not_brought_back_in_time_is_told(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server is away for longer than anybody would wait."""
    monkeypatch.setattr(scaledown, "RETURN_SECONDS", 0.0)

    with pytest.raises(BillingDownError, match="billing may be down: the deadline") as caught:
        run(cluster)

    assert caught.value.hints[0] == LINE
    assert RECORD in notes(world)


def test_record_that_cannot_be_removed_is_no_billing_that_is_down(
    cluster: SimulatedCluster, world: World
) -> None:
    """It is back: whoever finds the record finds that out."""
    cluster.fail("replace leases", AWAY, after=1, times=1)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert (world.replicas, RECORD in notes(world)) == (2, False)


def test_billing_that_is_not_ready_is_told(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is scaled back, and something keeps its pods: what was copied is committed."""
    monkeypatch.setattr(scaledown, "READY_SECONDS", 0.05)
    cluster.on(SCALE, lambda: world.paused.add("kubelet"), after=1)
    cluster.on("create jobs", lambda: world.go_on("kubelet"), after=2)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, (3,))
    assert messages(result) == ["billing is scaled back, and not ready after 0.05 s"]


# -- what becomes of workers


@pytest.mark.parametrize(
    ("worker", "why"),
    [
        (
            Worker(does="fail", exit_code=1),
            "its worker ended with exit code 1 and without an answer",
        ),
        (
            Worker(does="run out of memory"),
            "its worker ran out of memory: raise resources.limits.memory",
        ),
    ],
)
def test_worker_that_fails_costs_its_journal_alone(
    cluster: SimulatedCluster, world: World, worker: Worker, why: str
) -> None:
    """Billing is down once for all of them: nothing is tried again."""
    world.script(ONE, worker)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["failed", "backed up"], (4,))
    assert (messages(result), world.replicas) == ([why], 2)


@pytest.mark.usefixtures("_beating")
def test_worker_that_somebody_deletes_costs_its_journal_alone(
    cluster: SimulatedCluster, world: World
) -> None:
    """It is not made anew while billing waits."""
    world.script(ONE, Worker(does="run on"))
    cluster.meddle(lambda name: world.remove("pods", name))

    result = run(cluster)

    assert (states(result), messages(result)) == (
        ["failed", "backed up"],
        ["its worker's pod was deleted"],
    )


@pytest.mark.usefixtures("_beating")
def test_worker_that_does_not_begin_costs_its_journal_alone(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed: it would take the volume from billing later."""
    cluster.meddle(lambda _name: monkeypatch.setattr(crew, "WAIT_SECONDS", 0.0), phase="Succeeded")
    world.script(ONE, Worker(does="stay unscheduled", says="volume node affinity conflict"))

    result = run(cluster)

    assert states(result) == ["failed", "backed up"]
    assert messages(result) == ["its worker is not scheduled: volume node affinity conflict"]
    assert len(jobs_of(world, "worker")) == 1


# -- committed when billing is back


def test_lost_words_are_no_failure(cluster: SimulatedCluster, world: World) -> None:
    """What was put shows when it is committed: its size too."""
    world.script(ONE, Worker(does="stay silent"))
    world.script("commit", Worker(does="stay silent"))

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert [(j.id, j.size_bytes) for j in result.journals] == [
        (found.id, 1000) for _, found in sorted(world.stored[RUN_ID].items())
    ]


@pytest.mark.usefixtures("_beating")
def test_nothing_is_committed_where_nothing_was_put(
    cluster: SimulatedCluster, world: World
) -> None:
    """No worker is made for it, if all have said so."""
    for journal in (ONE, TWO):
        world.script(journal, Worker(does="run on"))
    cluster.meddle(lambda name: world.remove("pods", name))

    result = run(cluster)

    assert (states(result), jobs_of(world, "commit")) == (["failed"] * 2, [])


def test_worker_that_fails_without_a_word_may_have_put_something(
    cluster: SimulatedCluster, world: World
) -> None:
    """Billing was down for it: what is there is committed, and what is not has failed."""
    for journal, stores in ((ONE, True), (TWO, False)):
        world.script(journal, Worker(does="stay silent", exit_code=3, stores=stores))

    result = run(cluster)

    silence = "its worker ended with exit code 3 and without an answer"
    assert states(result) == ["backed up", "failed"]
    assert [(p.exit_code, p.journal, p.message) for p in result.problems] == [
        (3, ONE, f"was stored; {silence}"),
        (4, TWO, silence),
    ]
    assert list(world.stored[RUN_ID]) == [ONE]


def test_trouble_of_a_commit_is_the_runs(cluster: SimulatedCluster, world: World) -> None:
    """It says of which journal, on which sink."""
    problem = Problem(exit_code=3, journal=ONE, sink="s3://two", message="503 slow down")
    world.script("commit", Worker(exit_code=3, problems=(problem,)))

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, (3,))
    assert (result.problems[0].journal, result.problems[0].sink) == (ONE, "s3://two")


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("fail", "its worker ended with exit code 0 and without an answer"),
        ("stay unscheduled", "its worker did not begin"),
        ("be refused", "its worker did not begin (FailedCreate: because)"),
    ],
)
def test_what_is_not_committed_has_failed(
    cluster: SimulatedCluster,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    does: Does,
    why: str,
) -> None:
    """It is put, and is no backup; the one line that commits it is told."""
    if does != "fail":
        monkeypatch.setattr(drafts, "WAIT_SECONDS", 0.05)
    world.script("commit", Worker(does=does, stores=False))

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["failed"] * 2, (5, 5))
    assert [outcome.id for outcome in result.journals] == [None, None]
    assert messages(result) == [f"was put, and is not committed: {why}"] * 2
    assert result.problems[0].hints == (f"journal-backup commit --run {RUN_ID}",)
    assert world.replicas == 2


@pytest.mark.usefixtures("_beating")
def test_commit_that_takes_its_time_is_waited_for(
    cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long: billing runs, and gigabytes are read back."""
    world.script("commit", Worker(does="run on"))

    def go_on(name: str) -> None:
        monkeypatch.setattr(drafts, "WAIT_SECONDS", 0.0)
        cluster.on("get leases", lambda: world.end(name), after=5)

    cluster.meddle(go_on)

    result = run(cluster)

    assert states(result) == ["backed up"] * 2


# -- crashes


def count_writes() -> int:
    """Count the writes of a run that nothing disturbs."""
    world = make_world()
    cluster = SimulatedCluster(world)
    run(cluster)
    world.close()
    return len(cluster.writes)


def crash(world: World, clock: Clock, write: int, kind: str) -> None:
    """Have a run die before or after its n-th write."""
    cluster = SimulatedCluster(world)
    getattr(cluster, f"crash_{kind}")(write)
    with pytest.raises(CrashError):
        run(cluster, clock=clock)


Rescue = Callable[[World, Clock], None]


def by_guard(world: World, clock: Clock) -> None:
    """Bring billing back by the guard, a minute later."""
    clock.advance(seconds=61)
    guard(world, clock)


def by_hook(world: World, clock: Clock) -> None:
    """Bring billing back by a hook, at once."""
    guard(world, clock, take_over=True)


def by_next_run(world: World, clock: Clock) -> None:
    """Bring billing back by the next run, which copies all journals."""
    world.edit("pods", "journal-backup-1-x", lambda pod: pod["status"].update(phase="Failed"))
    pod = world.add_run(2)

    result = run(SimulatedCluster(world), run_id="next", pod=pod, clock=clock)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert sorted(world.stored["next"]) == [ONE, TWO]
    assert holder(world) == ""
    assert not [name for name in world.names("jobs") if name.startswith("journal-backup-1-")]


@pytest.mark.parametrize("rescue", [by_guard, by_hook, by_next_run])
@pytest.mark.parametrize("kind", ["before", "after"])
def test_crash_at_any_write_is_put_right(kind: str, rescue: Rescue) -> None:
    """Billing has exactly the replicas that it had, and nothing is left to be done."""
    for write in range(1, count_writes() + 1):
        world, clock = make_world(), Clock()
        crash(world, clock, write, kind)

        rescue(world, clock)

        left = ("leases", LEASE) in world.objects and RECORD in notes(world)
        assert (write, world.replicas, len(world.pods_of(BILLING)), left) == (write, 2, 2, False)
        world.close()


def test_lost_replies_are_no_failure(cluster: SimulatedCluster, world: World) -> None:
    """Each kind of write is made twice, and the second time meets itself."""
    for operation in (
        "create leases",
        "replace leases",
        "create jobs",
        SCALE,
        "patch pods",
        "delete jobs",
    ):
        cluster.lose_reply(operation, times=None)

    result = run(cluster)

    assert (states(result), result.exit_codes) == (["backed up"] * 2, ())
    assert (world.replicas, holder(world)) == (2, "")
