"""The Lease: taken once, renewed, lost, found stale."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from backup.cluster.lease import (
    MEASURED,
    OWNER,
    RECORD,
    STALE_SECONDS,
    Lease,
    Measured,
    Owner,
    Record,
    lease_name,
)
from backup.errors import ClusterUnavailableError, LeaseHeldError, LeaseLostError, RefusedError
from backup.run import Run
from tests.journal_data import NOON, Clock
from tests.simulated_cluster import BILLING, SimulatedCluster, World

NAME = lease_name(BILLING)
RECORDED = Record(uid="uid-7", replicas=3, deadline=NOON + timedelta(minutes=7))


@pytest.fixture
def clock() -> Clock:
    """Make a clock that stands still."""
    return Clock()


def lease_of(number: int, cluster: SimulatedCluster, clock: Clock) -> Lease:
    """Give the Lease in the hands of a run whose pod runs."""
    pod = f"journal-backup-{number}-x"
    if ("pods", pod) not in cluster.world.objects:
        cluster.world.add_run(number)
    uid = cluster.world.get("pods", pod)["metadata"]["uid"]
    owner = Owner(pod=pod, uid=uid)
    return Lease(Run(id=f"run-{number}", clock=clock), cluster, BILLING, owner=owner)


@pytest.fixture
def lease(cluster: SimulatedCluster, clock: Clock) -> Lease:
    """Give the Lease in the hands of the first run."""
    return lease_of(1, cluster, clock)


@pytest.fixture
def other(world: World, clock: Clock) -> Lease:
    """Give the Lease in the hands of a second run."""
    return lease_of(2, SimulatedCluster(world), clock)


def holder(world: World) -> str:
    """Say who holds the Lease."""
    who: str = world.get("leases", NAME)["spec"]["holderIdentity"]
    return who


# -- taking it


def test_lease_is_taken_once(lease: Lease, other: Lease, world: World) -> None:
    """The second run is told who is under way, in which pod, and since when."""
    assert lease.take() is None

    with pytest.raises(LeaseHeldError) as caught:
        other.take()

    assert caught.value.exit_code == 7
    assert (
        caught.value.message
        == "run run-1 (pod journal-backup-1-x) is under way, last seen 12:00:00 UTC"
    )
    assert holder(world) == "run-1"


def test_released_lease_is_free_at_once(lease: Lease, other: Lease, world: World) -> None:
    """Nobody waits for a run that has ended well."""
    lease.take()
    lease.release()

    left = other.take()

    assert left is not None
    assert left.holder == ""
    assert holder(world) == "run-2"


@pytest.mark.parametrize("operation", ["create leases", "replace leases"])
def test_lost_reply_of_ones_own_take_is_success(
    lease: Lease, cluster: SimulatedCluster, world: World, operation: str
) -> None:
    """The second try meets the first as a conflict, and finds its own id."""
    if operation == "replace leases":
        lease.take()
        lease.release()
    cluster.lose_reply(operation)

    lease.take()

    assert holder(world) == "run-1"


def test_own_lease_is_taken_again(lease: Lease, other: Lease, clock: Clock, world: World) -> None:
    """A run may ask twice; since when it holds it does not change until another one does."""
    lease.take()
    clock.advance(seconds=30)
    lease.take()
    lease.renew()
    spec = world.get("leases", NAME)["spec"]
    assert (spec["acquireTime"], spec["renewTime"]) == (
        "2026-11-23T12:00:00.000000Z",
        "2026-11-23T12:00:30.000000Z",
    )
    lease.release()

    other.take()

    assert world.get("leases", NAME)["spec"]["acquireTime"] == "2026-11-23T12:00:30.000000Z"


@pytest.mark.parametrize("operation", ["create leases", "replace leases"])
def test_of_two_that_are_equally_fast_one_gets_it(
    lease: Lease, other: Lease, cluster: SimulatedCluster, world: World, operation: str
) -> None:
    """Between the reading and the writing of the one, the other has written."""
    if operation == "replace leases":
        other.take()
        other.release()
    cluster.on(operation, other.take)

    with pytest.raises(LeaseHeldError, match="run run-2"):
        lease.take()

    assert holder(world) == "run-2"


def test_lease_that_vanishes_while_it_is_taken_is_not_ours(
    lease: Lease, cluster: SimulatedCluster, world: World
) -> None:
    """Somebody deletes it at that moment: nothing is known of the holder, and nothing is done."""
    lease.take()
    lease.release()
    cluster.on("replace leases", lambda: world.remove("leases", NAME))

    with pytest.raises(LeaseHeldError, match=r"^another run is under way$"):
        lease.take()


# -- stale, or not


def test_heartbeat_keeps_it(lease: Lease, other: Lease, clock: Clock) -> None:
    """However long the run takes."""
    lease.take()
    for _ in range(5):
        clock.advance(seconds=STALE_SECONDS - 1)
        lease.renew()

    with pytest.raises(LeaseHeldError):
        other.take()


def test_old_heartbeat_is_stale(lease: Lease, other: Lease, clock: Clock, world: World) -> None:
    """The pod of a dead node stays "Running" for minutes: its word is worth nothing."""
    lease.take()
    clock.advance(seconds=STALE_SECONDS)
    with pytest.raises(LeaseHeldError):
        other.take()
    clock.advance(seconds=1)

    other.take()

    assert holder(world) == "run-2"


def test_record_past_its_deadline_is_stale(lease: Lease, other: Lease, clock: Clock) -> None:
    """Billing comes first: a run that is alive and late is pushed aside."""
    lease.take()
    lease.write_record(Record(uid="uid-7", replicas=3, deadline=clock() + timedelta(seconds=5)))
    clock.advance(seconds=5)
    with pytest.raises(LeaseHeldError):
        other.take()
    clock.advance(seconds=1)

    left = other.take()

    assert left is not None
    assert left.record is not None
    assert left.record.replicas == 3


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_owner_that_has_ended_is_stale(
    lease: Lease, other: Lease, world: World, phase: str
) -> None:
    """A pod that was killed cannot come back to it."""
    lease.take()
    world.edit("pods", "journal-backup-1-x", lambda pod: pod["status"].update(phase=phase))

    other.take()

    assert holder(world) == "run-2"


def test_owner_that_is_gone_is_stale(lease: Lease, other: Lease, world: World) -> None:
    """Its pod was deleted."""
    lease.take()
    world.remove("pods", "journal-backup-1-x")

    other.take()

    assert holder(world) == "run-2"


def test_other_pod_of_the_owners_name_is_not_the_owner(
    lease: Lease, other: Lease, world: World
) -> None:
    """Names come again, uids do not."""
    lease.take()
    world.edit("pods", "journal-backup-1-x", lambda pod: pod["metadata"].update(uid="another"))

    other.take()

    assert holder(world) == "run-2"


def test_somebody_at_a_terminal_has_no_pod_to_be_gone(
    cluster: SimulatedCluster, other: Lease, clock: Clock, world: World
) -> None:
    """Of whom only the heartbeat tells anything."""
    Lease(Run(id="me", clock=clock), cluster, BILLING, owner=Owner(pod="", uid="")).take()
    with pytest.raises(LeaseHeldError, match="run me"):
        other.take()
    clock.advance(seconds=STALE_SECONDS + 1)

    other.take()

    assert holder(world) == "run-2"


@pytest.mark.parametrize("missing", ["renewTime", OWNER])
def test_lease_that_says_nothing_of_its_holders_life_is_stale(
    lease: Lease, other: Lease, world: World, missing: str
) -> None:
    """Somebody has made it by hand."""
    lease.take()
    world.edit(
        "leases",
        NAME,
        lambda body: (
            body["spec"].pop(missing, 0),
            body["metadata"]["annotations"].pop(missing, 0),
        ),
    )

    other.take()

    assert holder(world) == "run-2"


@pytest.mark.parametrize(
    ("note", "value"),
    [
        (RECORD, "nonsense"),
        (RECORD, "{}"),
        (RECORD, "[1]"),
        (RECORD, '{"uid": "u", "replicas": "many", "deadline": "2026-11-23T12:00:00.000000Z"}'),
        (RECORD, '{"uid": "u", "replicas": 3, "deadline": "tomorrow"}'),
        (RECORD, '{"uid": "u", "replicas": 3, "deadline": "2026-11-23T12:00:00"}'),
        (RECORD, '{"uid": "u", "replicas": 3, "deadline": "0001-01-01T00:00:00+14:00"}'),
        (RECORD, '{"uid": "u", "replicas": Infinity, "deadline": "2026-11-23T12:00:00Z"}'),
        (OWNER, '{"pod": "p"}'),
    ],
)
def test_edited_nonsense_is_refused(lease: Lease, world: World, note: str, value: str) -> None:
    """Nothing is guessed about how many replicas billing had; the way out is named."""
    lease.take()
    world.edit("leases", NAME, lambda body: body["metadata"]["annotations"].update({note: value}))

    with pytest.raises(RefusedError) as caught:
        lease.take()

    assert caught.value.message.startswith(f"what the lease {NAME} says cannot be read")
    assert f"kubectl delete lease {NAME}" in caught.value.hints[0]


@pytest.mark.parametrize("until", ["2026-11-23T12:07:00Z", "2026-11-23T14:07:00.000+02:00"])
def test_time_is_read_in_every_form_that_has_a_zone(lease: Lease, world: World, until: str) -> None:
    """Somebody writes by hand what the tool has written."""
    lease.take()
    record = json.dumps({"uid": "uid-7", "replicas": 3, "deadline": until})
    world.edit(
        "leases", NAME, lambda body: body["metadata"]["annotations"].update({RECORD: record})
    )

    assert lease.require().record == RECORDED


def test_bare_lease_is_free(lease: Lease, world: World) -> None:
    """Somebody has made it beforehand, say to bind rights to its name."""
    world.put("leases", {"metadata": {"name": NAME}})

    lease.take()

    assert holder(world) == "run-1"


# -- while it is ours


def test_record_survives_heartbeats_and_a_takeover(
    lease: Lease, other: Lease, clock: Clock, cluster: SimulatedCluster
) -> None:
    """Until somebody has done what it says."""
    lease.take()
    lease.write_record(RECORDED)
    lease.remember(Measured(size_bytes=5, seconds=2.5))
    lease.renew()
    clock.advance(minutes=8)

    other.take()
    held = lease_of(3, cluster, clock).read()

    assert held is not None
    assert (held.holder, held.record) == ("run-2", RECORDED)
    assert held.measured == (Measured(size_bytes=5, seconds=2.5),)
    assert held.owner is not None
    assert held.owner.pod == "journal-backup-2-x"


def test_measure_survives_the_end_of_a_run(lease: Lease) -> None:
    """The next one is judged by it."""
    lease.take()
    lease.remember(Measured(size_bytes=5, seconds=2.5))
    lease.release()

    held = lease.read()

    assert held is not None
    assert (held.holder, held.record) == ("", None)
    assert held.measured == (Measured(size_bytes=5, seconds=2.5),)


def test_last_few_measures_are_kept(lease: Lease) -> None:
    """Newest first: one night that was slow is not the rule."""
    lease.take()
    for seconds in (1.0, 2.0, 3.0, 4.0):
        lease.remember(Measured(size_bytes=5, seconds=seconds))

    held = lease.read()

    assert held is not None
    assert [one.seconds for one in held.measured] == [4.0, 3.0, 2.0]


def test_record_is_cleared_once(lease: Lease, cluster: SimulatedCluster) -> None:
    """Where there is none, nothing is written; measures stay."""
    measured = Measured(size_bytes=5, seconds=2.5)
    lease.take()
    lease.write_record(RECORDED)
    lease.remember(measured)
    lease.clear_record()
    written = len(cluster.writes)

    lease.clear_record()

    held = lease.require()
    assert (held.record, held.measured, len(cluster.writes)) == (None, (measured,), written)


def test_lease_with_a_record_is_not_let_go(lease: Lease, world: World) -> None:
    """A run that could not bring billing back leaves word of it, whatever ends it."""
    lease.take()
    lease.write_record(RECORDED)

    lease.release()

    held = lease.read()
    assert held is not None
    assert (held.holder, held.record) == ("run-1", RECORDED)


def test_notes_of_others_stay(lease: Lease, world: World) -> None:
    """What a site has written on it is the site's."""
    lease.take()
    world.edit("leases", NAME, lambda body: body["metadata"]["annotations"].update(team="voice"))

    lease.write_record(RECORDED)

    notes = world.get("leases", NAME)["metadata"]["annotations"]
    assert notes["team"] == "voice"
    assert json.loads(notes[RECORD])["replicas"] == 3


@pytest.mark.parametrize("operation", ["require", "renew", "release"])
def test_run_that_was_pushed_aside_learns_it(
    lease: Lease, other: Lease, clock: Clock, operation: str
) -> None:
    """It stops where it is."""
    lease.take()
    clock.advance(minutes=2)
    other.take()

    with pytest.raises(LeaseLostError, match="run run-2 has taken over"):
        getattr(lease, operation)()


@pytest.mark.parametrize("is_deleted", [True, False])
def test_lease_that_nobody_holds_is_lost_too(
    lease: Lease, world: World, *, is_deleted: bool
) -> None:
    """Deleted, or emptied by hand."""
    lease.take()
    if is_deleted:
        world.remove("leases", NAME)
    else:
        world.edit("leases", NAME, lambda body: body["spec"].update(holderIdentity=""))

    with pytest.raises(LeaseLostError, match="somebody has taken over"):
        lease.require()


def test_lost_reply_of_a_write_is_success(
    lease: Lease, cluster: SimulatedCluster, world: World
) -> None:
    """It is read again, and says what it should."""
    lease.take()
    cluster.lose_reply("replace leases")

    lease.write_record(RECORDED)

    assert RECORD in world.get("leases", NAME)["metadata"]["annotations"]


@pytest.mark.parametrize("is_deleted", [True, False])
def test_write_that_meets_another_ones_is_a_loss(
    lease: Lease, cluster: SimulatedCluster, world: World, *, is_deleted: bool
) -> None:
    """Compare and swap: what was read is not there any more."""
    lease.take()

    def meddle() -> None:
        if is_deleted:
            world.remove("leases", NAME)
        else:
            world.edit("leases", NAME, lambda body: body["spec"].update(holderIdentity="run-9"))

    cluster.on("replace leases", meddle)

    with pytest.raises(LeaseLostError, match="has taken over the lease"):
        lease.renew()


def test_what_others_write_on_it_is_kept_and_is_no_loss(
    lease: Lease, cluster: SimulatedCluster, world: World
) -> None:
    """Somebody labels it, or forgets the measures, between our reading and our writing."""
    lease.take()
    lease.write_record(RECORDED)

    def meddle() -> None:
        world.edit("leases", NAME, lambda body: body["metadata"].update(labels={"team": "voice"}))

    cluster.on("replace leases", meddle)
    lease.renew()

    held = lease.require()
    assert (held.body["metadata"]["labels"], held.record) == ({"team": "voice"}, RECORDED)


def test_lease_that_others_write_on_and_on_is_lost(
    lease: Lease, cluster: SimulatedCluster, world: World
) -> None:
    """Two controllers that fight over a label end the run, and not its night."""
    lease.take()
    cluster.on(
        "replace leases",
        lambda: world.edit("leases", NAME, lambda body: body["spec"].update(strategy="x")),
        times=None,
    )

    with pytest.raises(LeaseLostError, match="was changed by others 20 times"):
        lease.renew()


@pytest.mark.parametrize(
    "note", ["[{}]", "nonsense", "3", '[{"size_bytes": "many"}]', '[{"size_bytes": Infinity}]']
)
def test_measures_that_make_no_sense_keep_nobody_from_a_rescue(
    lease: Lease, world: World, note: str
) -> None:
    """They are statistics."""
    lease.take()
    lease.write_record(RECORDED)
    world.edit(
        "leases", NAME, lambda body: body["metadata"]["annotations"].update({MEASURED: note})
    )

    held = lease.require()

    assert (held.measured, held.record) == ((), RECORDED)


def test_owner_of_a_later_version_is_an_owner(lease: Lease, world: World) -> None:
    """What it says beside that is its own."""
    owner = '{"pod": "p", "uid": "u", "may_scale": true, "phase": "copying"}'
    lease.take()
    world.edit("leases", NAME, lambda body: body["metadata"]["annotations"].update({OWNER: owner}))

    assert lease.require().owner == Owner(pod="p", uid="u", may_scale=True)


def test_other_way_to_the_cluster_is_the_same_lease(
    lease: Lease, cluster: SimulatedCluster, world: World
) -> None:
    """After a stop, one that may still ask lets it go."""
    lease.take()
    cluster.fail("get leases", ClusterUnavailableError("away"), times=1)
    with pytest.raises(ClusterUnavailableError):
        lease.release()

    lease.under(cluster.under(cluster.stop)).release()

    assert holder(world) == ""
