"""Billing: read, scaled down and scaled back."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backup.cluster.billing import (
    bring_back,
    read_billing,
    require_harmless,
    scale_down,
)
from backup.cluster.lease import Record
from backup.errors import (
    BillingDownError,
    ClusterDeniedError,
    ClusterError,
    ClusterMissingError,
    ClusterUnavailableError,
    RefusedError,
)
from tests.journal_data import NOON
from tests.simulated_cluster import BILLING, SimulatedCluster, World

SCALE = "replace statefulsets/scale"
LINE = f"kubectl -n voice scale statefulset {BILLING} --replicas=3"


@pytest.fixture
def world(world: World) -> World:
    """Make a namespace with three billing pods."""
    world.add_billing(3)
    return world


def record_of(world: World) -> Record:
    """Say how billing was."""
    uid = world.get("statefulsets", BILLING)["metadata"]["uid"]
    return Record(uid=uid, replicas=3, deadline=NOON + timedelta(minutes=7))


def touch(world: World) -> None:
    """Have the controller write something of its own, and so another version."""
    world.edit("statefulsets", BILLING, lambda body: body["status"].update(observed="x"))


def nothing() -> None:
    """Do nothing."""


# -- reading it


def test_billing_is_read(cluster: SimulatedCluster, world: World) -> None:
    """Its uid tells it from one that is made anew."""
    billing = read_billing(cluster, BILLING)

    uid = world.get("statefulsets", BILLING)["metadata"]["uid"]
    assert (billing.name, billing.uid, billing.replicas) == (BILLING, uid, 3)


def test_missing_billing_names_the_setting(cluster: SimulatedCluster) -> None:
    """The name is wrong, or the namespace."""
    with pytest.raises(ClusterMissingError, match="no StatefulSet vosk in namespace voice") as c:
        read_billing(cluster, "vosk")

    assert "BACKUP_STATEFULSET" in c.value.hints[0]


@pytest.mark.parametrize("policy", [None, {}, {"whenScaled": "Retain", "whenDeleted": "Delete"}])
def test_scaling_that_keeps_claims_is_harmless(
    cluster: SimulatedCluster, world: World, policy: dict[str, str] | None
) -> None:
    """Kubernetes keeps them unless it is told not to."""
    name = "persistentVolumeClaimRetentionPolicy"
    world.edit("statefulsets", BILLING, lambda body: body["spec"].update({name: policy}))

    require_harmless(cluster, read_billing(cluster, BILLING))


def test_scaling_that_deletes_journals_is_refused(cluster: SimulatedCluster, world: World) -> None:
    """The claims would go with the pods."""
    name = "persistentVolumeClaimRetentionPolicy"
    policy = {name: {"whenScaled": "Delete"}}
    world.edit("statefulsets", BILLING, lambda body: body["spec"].update(policy))

    with pytest.raises(RefusedError, match="would delete its journals"):
        require_harmless(cluster, read_billing(cluster, BILLING))


def test_billing_whose_replicas_we_may_not_read_is_not_scaled(cluster: SimulatedCluster) -> None:
    """It could not be brought back."""
    cluster.fail("get statefulsets/scale", ClusterDeniedError("the cluster refuses: no"))

    with pytest.raises(ClusterDeniedError):
        require_harmless(cluster, read_billing(cluster, BILLING))


# -- down


def test_billing_is_scaled_by_its_scale_and_nothing_else(
    cluster: SimulatedCluster, world: World
) -> None:
    """The right to change the rest of it is not asked for."""
    scale_down(cluster, read_billing(cluster, BILLING), asking=nothing)

    assert (world.replicas, world.pods_of(BILLING)) == (0, [])
    assert cluster.writes == [f"{SCALE} {BILLING} to 0"]


def test_conflict_is_read_again(cluster: SimulatedCluster, world: World) -> None:
    """The controller writes its status whenever it likes."""
    cluster.on(SCALE, lambda: touch(world), times=3)

    scale_down(cluster, read_billing(cluster, BILLING), asking=nothing)

    assert world.replicas == 0


def test_conflicts_without_end_are_an_error(cluster: SimulatedCluster, world: World) -> None:
    """Somebody fights over it."""
    billing = read_billing(cluster, BILLING)
    cluster.on(SCALE, lambda: touch(world), times=None)

    with pytest.raises(ClusterError, match="was changed by others 20 times"):
        scale_down(cluster, billing, asking=nothing)

    assert world.replicas == 3


def test_lost_reply_of_scaling_down_is_success(cluster: SimulatedCluster, world: World) -> None:
    """It is found at 0."""
    cluster.lose_reply(SCALE)

    scale_down(cluster, read_billing(cluster, BILLING), asking=nothing)

    assert world.replicas == 0


def test_billing_that_was_scaled_meanwhile_is_left_alone(
    cluster: SimulatedCluster, world: World
) -> None:
    """The record would bring back a number that nobody wants any more."""
    billing = read_billing(cluster, BILLING)
    world.scale(5)

    with pytest.raises(RefusedError, match="was scaled from 3 to 5 meanwhile"):
        scale_down(cluster, billing, asking=nothing)

    assert world.replicas == 5


def test_billing_that_was_made_anew_meanwhile_is_left_alone(
    cluster: SimulatedCluster, world: World
) -> None:
    """It is another one, and somebody is at work on it."""
    billing = read_billing(cluster, BILLING)
    world.make_billing_anew(2)

    with pytest.raises(RefusedError, match="was made anew meanwhile"):
        scale_down(cluster, billing, asking=nothing)

    assert world.replicas == 2


# -- and back


def test_billing_comes_back_from_0(cluster: SimulatedCluster, world: World) -> None:
    """To what the record says."""
    record = record_of(world)
    world.scale(0)

    assert bring_back(cluster, BILLING, record) == "restored"
    assert (world.replicas, len(world.pods_of(BILLING))) == (3, 3)


def test_conflict_does_not_keep_billing_down(cluster: SimulatedCluster, world: World) -> None:
    """It is tried until it is up."""
    record = record_of(world)
    world.scale(0)
    cluster.on(SCALE, lambda: touch(world), times=5)

    assert bring_back(cluster, BILLING, record) == "restored"
    assert world.replicas == 3


def test_lost_reply_of_scaling_back_is_success(cluster: SimulatedCluster, world: World) -> None:
    """It was us."""
    record = record_of(world)
    world.scale(0)
    cluster.lose_reply(SCALE)

    assert bring_back(cluster, BILLING, record) == "restored"
    assert world.replicas == 3


def test_billing_that_is_up_is_left_alone(cluster: SimulatedCluster, world: World) -> None:
    """Whoever has scaled it knew the number."""
    record = record_of(world)
    world.scale(1)

    assert bring_back(cluster, BILLING, record) == "was up"
    assert (world.replicas, cluster.writes) == (1, [])


def test_billing_that_is_gone_is_not_made(cluster: SimulatedCluster, world: World) -> None:
    """The release was removed."""
    record = record_of(world)
    world.remove("statefulsets", BILLING)

    assert bring_back(cluster, BILLING, record) == "gone"
    assert cluster.writes == []


def test_other_billing_of_that_name_is_left_alone(cluster: SimulatedCluster, world: World) -> None:
    """Even at 0: perhaps it is meant to be there."""
    record = record_of(world)
    world.make_billing_anew(0)

    assert bring_back(cluster, BILLING, record) == "made anew"
    assert (world.replicas, cluster.writes) == (0, [])


@pytest.mark.parametrize(
    "error",
    [
        ClusterUnavailableError("the API server does not answer", "is it up?"),
        ClusterDeniedError("the cluster refuses: no", "grant it"),
    ],
)
def test_failure_says_how_to_bring_billing_back(
    cluster: SimulatedCluster, world: World, error: ClusterError
) -> None:
    """Exit 8, and the one line to paste comes first."""
    record = record_of(world)
    world.scale(0)
    cluster.fail(SCALE, error)

    with pytest.raises(BillingDownError) as caught:
        bring_back(cluster, BILLING, record)

    assert caught.value.exit_code == 8
    assert error.message in caught.value.message
    assert caught.value.hints == (LINE, *error.hints)
