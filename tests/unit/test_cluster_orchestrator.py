"""One run on volumes that it does not mount: what is planned, expected, put right and told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from backup.cluster.lease import RECORD, lease_name
from backup.cluster.rescue import RUN_LABEL, STATEFULSET_LABEL
from backup.errors import (
    BillingDownError,
    ClusterError,
    ClusterMissingError,
    ClusterUnavailableError,
    ConfigError,
    LeaseHeldError,
    SinkStalledError,
)
from backup.events import RunStarted, Warned
from backup.model import Holdings
from backup.report import figures, result_text
from tests.journal_data import NOON, Clock, Events
from tests.simulated_cluster import (
    BILLING,
    RUN_ID,
    RUN_POD,
    SimulatedCluster,
    Worker,
    World,
    hasten,
    perform,
    plan,
)
from tests.simulated_sink import CrashError

LEASE = lease_name(BILLING)
SCALE = "replace statefulsets/scale"
NAMES = [f"journal-{BILLING}-{n}" for n in range(12)]
DOWN: dict[str, Any] = {"strategy": "scale-down", "max_downtime": timedelta(minutes=5)}


@pytest.fixture(autouse=True)
def _hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


def states(result: Any) -> dict[str, str]:
    """Give the states of all journals by their names."""
    return {outcome.journal: outcome.state for outcome in result.journals}


def messages(result: Any) -> list[str]:
    """Give what went wrong."""
    return [problem.message for problem in result.problems]


# -- planned before anything is touched


@pytest.mark.parametrize(
    ("setting", "modes", "shared", "downtime", "strategy"),
    [
        ("auto", ["ReadWriteMany"], True, None, "direct"),
        ("auto", ["ReadWriteOnce"], True, None, "colocated"),
        ("auto", ["ReadWriteOnce"], False, timedelta(minutes=5), "colocated"),
        ("auto", ["ReadWriteOncePod"], False, timedelta(minutes=5), "scale-down"),
        ("colocated", ["ReadWriteMany"], True, None, "colocated"),
        ("scale-down", ["ReadWriteOnce"], False, None, "scale-down"),
    ],
)
def test_strategy_is_chosen_without_touching_anything(
    cluster: SimulatedCluster,
    world: World,
    *,
    setting: str,
    modes: list[str],
    shared: bool,
    downtime: timedelta | None,
    strategy: str,
) -> None:
    """By the volumes, where the setting leaves it open."""
    world.add_billing(2, modes=modes, shared=shared)

    planned = plan(cluster, strategy=setting, max_downtime=downtime)

    assert (planned.strategy, cluster.writes) == (strategy, [])


def test_setting_that_contradicts_the_cluster_is_refused(
    cluster: SimulatedCluster, world: World
) -> None:
    """Before anything is made."""
    world.add_billing(1, modes=["ReadWriteOncePod"])

    with pytest.raises(ConfigError, match="no second pod may read it"):
        plan(cluster, strategy="colocated")


def test_missing_billing_is_refused(cluster: SimulatedCluster) -> None:
    """There is nothing to plan."""
    with pytest.raises(ClusterMissingError):
        plan(cluster)


def test_sink_for_one_node_is_refused(cluster: SimulatedCluster, world: World) -> None:
    """Before the Lease is taken."""
    world.add_billing(1)
    world.add_claim("archive")
    claim = {"name": "archive", "persistentVolumeClaim": {"claimName": "archive"}}
    world.add_run(pod={"volumes": [claim]})

    with pytest.raises(ConfigError, match="archive, which this pod mounts, is ReadWriteOnce:"):
        perform(cluster)

    assert cluster.writes == []


def test_run_outside_of_a_job_is_refused(cluster: SimulatedCluster, world: World) -> None:
    """There is nothing to make workers from."""
    world.add_billing(1)

    with pytest.raises(ConfigError, match="there is no pod 'nobody'"):
        perform(cluster, pod="nobody")

    assert cluster.writes == []


# -- told


def test_result_says_it_all(cluster: SimulatedCluster, world: World) -> None:
    """Journals by number, not as text; and what it cost."""
    world.add_billing(11)
    events = Events()

    result = perform(cluster, emit=events, workers=3)

    assert [outcome.journal for outcome in result.journals] == NAMES[:11]
    assert (result.run_id, result.strategy, result.started_at) == (RUN_ID, "colocated", NOON)
    assert (result.exit_codes, result.problems, result.warnings) == ((), (), ())
    assert result.api_calls == len(cluster.asked)
    assert result.duration_seconds > 0
    assert events[0] == RunStarted(verb="backup", run_id=RUN_ID, sinks=())
    assert figures(result)["journals_stored"] == 11
    assert NAMES[10] in result_text(result, 0, None)


def test_what_is_asked_of_the_api_does_not_grow_with_time(
    cluster: SimulatedCluster, world: World
) -> None:
    """One watch for all pods; of each further journal one write, and nothing else."""
    world.add_billing(1)
    perform(cluster)
    before = len(cluster.asked)
    for n in range(1, 8):
        world.add_claim(NAMES[n])
    world.scale(8)
    other = SimulatedCluster(world)
    world.remove("leases", LEASE)

    result = perform(other, run_id="next")

    writes = len(other.asked) - before - len(other.written("delete jobs *"))
    assert (len(result.journals), writes) == (8, 7)
    assert other.asked.count("watch pods") == 1


# -- expected


def test_expected_journal_without_a_claim_is_missing(
    cluster: SimulatedCluster, world: World
) -> None:
    """Whoever expects it: the replicas that there are, the setting, the sinks."""
    world.add_billing(3)
    world.remove("persistentvolumeclaims", NAMES[2])
    known = Holdings(journals=frozenset({NAMES[9], "journal-other-0", "nonsense"}))

    result = perform(cluster, expect_replicas=5, known=known)

    assert states(result) == {
        **dict.fromkeys(NAMES[:2], "backed up"),
        **dict.fromkeys([NAMES[2], NAMES[3], NAMES[4], NAMES[9]], "missing"),
    }
    assert result.exit_codes == (4, 4, 4, 4)
    assert set(messages(result)) == {"expected, but there is no volume claim of it"}
    by_setting = (
        "BACKUP_EXPECT_REPLICAS=5 promises it: if the journal is gone for good, set it to {} or "
        "less (in the chart, billing.replicas)"
    )
    by_sink = (
        "a sink has backups of it: if the journal is gone for good, "
        f"run journal-backup retire {NAMES[9]}"
    )
    by_billing = f"{BILLING} has 3 replicas: kubectl get pvc shows their claims"
    assert [problem.hints for problem in result.problems] == [
        (by_billing, by_setting.format(2)),
        (by_setting.format(3),),
        (by_setting.format(4),),
        (by_sink,),
    ]


def test_claim_that_is_not_bound_gets_no_worker(cluster: SimulatedCluster, world: World) -> None:
    """A worker would bind it; whether it is expected or not, its journal is missing."""
    world.add_billing(1)
    world.add_claim(NAMES[1], phase="Pending")

    result = perform(cluster)

    assert states(result) == {NAMES[0]: "backed up", NAMES[1]: "missing"}
    assert messages(result) == [f"expected, but its claim {NAMES[1]} is not bound"]
    assert len(cluster.written("create jobs*")) == 1


@pytest.mark.parametrize("strategy", ["colocated", "scale-down"])
def test_billing_without_any_journal_is_no_success(
    cluster: SimulatedCluster, world: World, strategy: str
) -> None:
    """Nothing was read; and nothing is scaled down for it."""
    world.add_billing(0)

    result = perform(cluster, strategy=strategy)

    assert (result.exit_codes, result.journals) == ((4, 3), ())
    assert messages(result) == [
        f"no journal of {BILLING} is on any volume claim",
        f"{BILLING} is scaled to 0, and not by this tool",
    ]
    assert cluster.written(f"{SCALE}*") == []


@pytest.mark.parametrize("strategy", ["colocated", "scale-down"])
def test_shared_volume_without_any_journal_is_no_success(
    cluster: SimulatedCluster, world: World, strategy: str
) -> None:
    """Billing is at 0, and nobody has backups of it: no worker could be told what to read."""
    world.add_billing(0, shared=True)

    result = perform(cluster, strategy=strategy)

    assert (result.exit_codes, cluster.written("create jobs*")) == ((4, 3), [])


# -- what a run that is gone has left


def crash(world: World, pattern: str) -> None:
    """Have a scale-down die right after a write, and its pod with it."""
    cluster = SimulatedCluster(world)

    def die() -> None:
        cluster.process.die()

    cluster.on(f"{pattern} reply", die)
    with pytest.raises(CrashError):
        perform(cluster, **DOWN)
    world.edit("pods", RUN_POD, lambda pod: pod["status"].update(phase="Failed"))


def test_next_run_finds_billing_as_it_was(cluster: SimulatedCluster, world: World) -> None:
    """The plan was made while billing was down, and is made anew: workers go beside its pods."""
    world.add_billing(3)
    crash(world, SCALE)
    assert world.replicas == 0
    events = Events()

    result = perform(
        cluster, strategy="colocated", pod=world.add_run(2), run_id="next", emit=events
    )

    assert (states(result), result.exit_codes) == (dict.fromkeys(NAMES[:3], "backed up"), ())
    assert [outcome.node for outcome in result.journals] == ["node-0", "node-1", "node-2"]
    said = [Warned(message=f"run {RUN_ID} had left billing at 0: it is back")]
    assert (list(result.warnings), events.of(Warned)) == (said, said)
    assert world.replicas == 3


def test_next_run_reads_all_journals_of_a_shared_volume(
    cluster: SimulatedCluster, world: World
) -> None:
    """Also those that only billing's replicas tell of."""
    world.add_billing(3, shared=True)
    crash(world, SCALE)

    result = perform(cluster, strategy="colocated", pod=world.add_run(2), run_id="next")

    assert states(result) == dict.fromkeys(NAMES[:3], "backed up")


def test_next_run_sees_what_the_guard_brought_back_meanwhile(
    cluster: SimulatedCluster, world: World
) -> None:
    """Between the plan and the Lease: billing is up, and is not taken for stopped."""
    world.add_billing(2)
    world.scale(0)
    planned = plan(cluster, **DOWN)
    world.scale(2)

    result = planned.perform()

    assert (states(result), result.exit_codes) == (dict.fromkeys(NAMES[:2], "backed up"), ())
    assert (world.replicas, len(cluster.written(f"{SCALE}*"))) == (2, 2)


def test_billing_that_somebody_brought_back_is_no_news(
    cluster: SimulatedCluster, world: World
) -> None:
    """The record is dropped without a word."""
    world.add_billing(2)
    crash(world, SCALE)
    world.scale(2)

    result = perform(cluster, pod=world.add_run(2), run_id="next")

    assert (result.warnings, result.exit_codes) == ((), ())


def test_billing_that_was_made_anew_is_warned_of(cluster: SimulatedCluster, world: World) -> None:
    """Once; and it is backed up as it is."""
    world.add_billing(2)
    crash(world, SCALE)
    world.remove("statefulsets", BILLING)
    world.add_billing(1)

    result = perform(cluster, strategy="colocated", pod=world.add_run(2), run_id="next")

    assert [w.message for w in result.warnings] == [
        f"{BILLING} was made anew since it was scaled down: nothing was scaled"
    ]
    assert states(result) == dict.fromkeys(NAMES[:2], "backed up")


def test_workers_of_other_runs_are_removed(cluster: SimulatedCluster, world: World) -> None:
    """They hold volumes; those of another billing stay."""
    world.add_billing(1)
    for name, of in (("old", BILLING), ("other", "vosk")):
        labels = {RUN_LABEL: "dead", STATEFULSET_LABEL: of}
        world.put("jobs", {"metadata": {"name": name, "labels": labels}, "status": {"failed": 1}})

    perform(cluster)

    assert {"old", "other"} & set(world.names("jobs")) == {"other"}


def test_billing_comes_back_before_a_sink_is_read(cluster: SimulatedCluster, world: World) -> None:
    """A sink that hangs, or that no setting of this run fits, must not keep it down."""
    world.add_billing(2)
    crash(world, SCALE)
    pod = world.add_run(2)
    seen = []

    def know() -> Holdings:
        seen.append(world.replicas)
        message = "no answer for 60 s"
        raise SinkStalledError(message)

    with pytest.raises(SinkStalledError):
        plan(cluster, pod=pod, run_id="next", ask_sinks=know)

    assert (seen, RECORD in world.get("leases", LEASE)["metadata"]["annotations"]) == ([2], False)


def test_billing_comes_back_before_settings_are_refused(
    cluster: SimulatedCluster, world: World
) -> None:
    """Nor does a setting that does not fit the cluster."""
    world.add_billing(2, modes=("ReadWriteOncePod",))
    crash(world, SCALE)
    pod = world.add_run(2)

    with pytest.raises(ConfigError, match="ReadWriteOncePod"):
        plan(cluster, pod=pod, run_id="next")

    assert world.replicas == 2


def test_run_that_dies_after_we_began_is_put_right_too(
    cluster: SimulatedCluster, world: World
) -> None:
    """Reading the sinks may take minutes: enough for another run to begin, and to die."""
    world.add_billing(2)
    world.add_run(2)
    planned = plan(cluster, pod="journal-backup-2-x", run_id="next", strategy="colocated")
    crash(world, SCALE)

    result = planned.perform()

    assert (states(result), result.exit_codes) == (dict.fromkeys(NAMES[:2], "backed up"), ())
    assert [w.message for w in result.warnings] == [
        f"run {RUN_ID} had left billing at 0: it is back"
    ]
    assert world.replicas == 2


def test_left_workers_that_cannot_be_removed_are_told(
    cluster: SimulatedCluster, world: World
) -> None:
    """Billing is back all the same."""
    world.add_billing(2)
    crash(world, SCALE)
    cluster.fail("list jobs", ClusterError("the cluster refuses GET: 500"), times=1)

    result = perform(cluster, strategy="colocated", pod=world.add_run(2), run_id="next")

    assert (result.exit_codes, messages(result)) == ((7,), ["the cluster refuses GET: 500"])
    assert (states(result), world.replicas) == (dict.fromkeys(NAMES[:2], "backed up"), 2)


@pytest.mark.parametrize("allowed", [False, True])
def test_stopped_billing_is_told_of_in_every_strategy(
    cluster: SimulatedCluster, world: World, *, allowed: bool
) -> None:
    """Somebody has stopped it: whether that is meant is for a setting to say."""
    world.add_billing(2)
    world.scale(0)

    result = perform(cluster, strategy="colocated", allow_stopped=allowed)

    assert states(result) == dict.fromkeys(NAMES[:2], "backed up")
    assert result.exit_codes == (() if allowed else (3,))
    told = "colocated; billing was at 0 when the run began, and was left so"
    assert told in result_text(result, 0, None).splitlines()[3]


def test_billing_that_stays_down_stays_recorded(cluster: SimulatedCluster, world: World) -> None:
    """A run that cannot bring it back leaves word of it, and backs up nothing."""
    world.add_billing(2)
    crash(world, SCALE)
    cluster.fail(SCALE, ClusterUnavailableError("away"))

    with pytest.raises(BillingDownError):
        perform(cluster, pod=world.add_run(2), run_id="next")

    assert RECORD in world.get("leases", LEASE)["metadata"]["annotations"]
    assert cluster.written("create jobs*") == []


# -- one at a time


def test_other_run_under_way_keeps_this_one_out(cluster: SimulatedCluster, world: World) -> None:
    """Nothing is made, and its Lease is not touched."""
    world.add_billing(1)
    other = SimulatedCluster(world)
    pod = world.add_run(2)

    def begin() -> None:
        with pytest.raises(LeaseHeldError, match=f"run {RUN_ID}"):
            perform(other, run_id="other", pod=pod)

    world.script(NAMES[0], Worker(then=begin))

    result = perform(cluster)

    assert (states(result), other.writes) == ({NAMES[0]: "backed up"}, [])


def test_of_two_runs_that_begin_at_once_one_is_done(
    cluster: SimulatedCluster, world: World
) -> None:
    """The other one had read that there is no Lease, and is too late to make it."""
    world.add_billing(2)
    pod = world.add_run(2)
    done = []
    other = SimulatedCluster(world)
    cluster.on(
        "create leases", lambda: done.append(perform(other, run_id="other", pod=pod, **DOWN))
    )

    with pytest.raises(LeaseHeldError):
        perform(cluster, **DOWN)

    assert [states(result) for result in done] == [dict.fromkeys(NAMES[:2], "backed up")]
    assert (world.replicas, cluster.writes) == (2, [])


def test_lease_is_let_go_in_the_end(cluster: SimulatedCluster, world: World) -> None:
    """The next run need not wait a minute for it."""
    world.add_billing(1)
    perform(cluster)

    result = perform(SimulatedCluster(world), run_id="next", pod=world.add_run(2), clock=Clock())

    assert states(result) == {NAMES[0]: "backed up"}


def test_watch_is_given_up_in_the_end(cluster: SimulatedCluster, world: World) -> None:
    """At the next news: nobody listens to a cluster for nothing."""
    world.add_billing(1)
    perform(cluster)

    world.scale(2)

    assert world.is_left_alone(10)


def test_lease_that_cannot_be_let_go_hides_no_result(
    cluster: SimulatedCluster, world: World
) -> None:
    """It becomes stale by itself."""
    world.add_billing(1)
    cluster.fail("replace leases", ClusterUnavailableError("away"))

    result = perform(cluster)

    assert (states(result), result.exit_codes) == ({NAMES[0]: "backed up"}, ())


def test_worker_that_cannot_be_removed_hides_no_error(
    cluster: SimulatedCluster, world: World
) -> None:
    """The first error is the run's."""
    world.add_billing(1)
    cluster.fail("create jobs", RuntimeError("a bug"))
    cluster.fail("list jobs", ClusterUnavailableError("away"), after=1)

    with pytest.raises(RuntimeError, match="a bug"):
        perform(cluster)

    assert world.get("leases", LEASE)["spec"]["holderIdentity"] == ""
