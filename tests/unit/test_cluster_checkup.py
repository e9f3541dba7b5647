"""What the cluster has to say to the doctor: what a run would meet, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from backup.cluster.checkup import Item, look
from backup.cluster.lease import Lease, Owner, Record, lease_name
from backup.cluster.strategies import RULES
from backup.errors import ClusterDeniedError
from backup.events import Finding, Problem, Warned
from backup.model import StrategySetting
from backup.run import Run
from backup.settings import ClusterSettings
from tests.journal_data import NOON, Clock
from tests.simulated_cluster import BILLING, NAMESPACE, SimulatedCluster, World

COLOCATED = ClusterSettings(statefulset=BILLING, strategy="colocated")
FIVE_MINUTES = timedelta(minutes=5)


def looked(
    cluster: SimulatedCluster,
    options: ClusterSettings = COLOCATED,
    *,
    clock: Clock | None = None,
    has_source: bool = False,
) -> list[Item]:
    """Look."""
    run = Run(clock=clock or Clock())
    return [*look(run, cluster, options, has_source=lambda: has_source)]


def lease_of(run: str, cluster: SimulatedCluster, clock: Clock) -> Lease:
    """Give the Lease in the hands of somebody without a pod."""
    return Lease(Run(id=run, clock=clock), cluster, BILLING, owner=Owner(pod="", uid=""))


def said(items: Sequence[Item]) -> list[str]:
    """Say what is as it should be."""
    return [f"{i.subject} {i.message}" for i in items if isinstance(i, Finding)]


def wrong(items: Sequence[Item]) -> list[Problem]:
    """Give what is wrong."""
    return [i for i in items if isinstance(i, Problem)]


def test_a_site_that_is_set_up_is_fine(cluster: SimulatedCluster) -> None:
    """And nothing is written."""
    cluster.world.add_billing(2)
    items = looked(cluster)

    assert said(items) == [
        f"namespace {NAMESPACE} grants all the rights that a run needs",
        f"{lease_name(BILLING)} is free: no run is under way",
        f"{BILLING} has 2 of 2 replicas ready",
        f"journal-{BILLING}-0 is bound, ReadWriteOnce, for one journal",
        f"journal-{BILLING}-1 is bound, ReadWriteOnce, for one journal",
        f"{BILLING} would be backed up by strategy colocated",
    ]
    assert len(items) == 6
    assert cluster.writes == []


# -- rights


@pytest.mark.parametrize(
    ("strategy", "budget", "needed"),
    [
        ("colocated", None, "colocated"),
        ("auto", None, "colocated"),
        ("auto", FIVE_MINUTES, "scale-down"),
        ("scale-down", None, "scale-down"),
    ],
)
def test_each_right_that_is_missing_is_named(
    cluster: SimulatedCluster, strategy: StrategySetting, budget: timedelta | None, needed: str
) -> None:
    """Those that the strategy needs, and no others; on the objects that it needs them on."""
    cluster.world.add_billing(1)
    options = ClusterSettings(statefulset=BILLING, strategy=strategy, max_downtime=budget)
    rights = [f"{verb} {rule.resource}" for rule in RULES[needed] for verb in rule.verbs]
    looked(cluster, options)
    assert {call.split()[1] + " " + call.split()[2] for call in cluster.asked if "may" in call} == {
        *rights
    }
    assert f"may update leases {lease_name(BILLING)}" in cluster.asked
    assert f"may get statefulsets {BILLING}" in cluster.asked
    assert "may list jobs" in cluster.asked

    for right in rights:
        cluster.process.rights_withheld = {right, "fly moon"}
        (problem,) = wrong(looked(cluster, options))
        assert problem.exit_code == 7
        assert problem.message == f"the service account may not: {right}"
        assert "rbac.create" in problem.hints[0]


def test_a_refusal_keeps_nobody_from_looking_on(cluster: SimulatedCluster) -> None:
    """Each part is asked, whatever the one before has met."""
    cluster.world.add_billing(1)
    for operation in ("may get statefulsets", "get leases", "get statefulsets"):
        cluster.fail(operation, ClusterDeniedError(f"no {operation}"))
    items = looked(cluster)

    assert [problem.message for problem in wrong(items)] == [
        "no may get statefulsets",
        "no get leases",
        "no get statefulsets",
    ]


# -- the Lease


def leave(cluster: SimulatedCluster, clock: Clock, *, record: bool) -> None:
    """Let a run take the Lease, and be heard of no more."""
    lease = lease_of("dead", SimulatedCluster(cluster.world), clock)
    lease.take()
    if record:
        uid = cluster.world.get("statefulsets", BILLING)["metadata"]["uid"]
        lease.write_record(Record(uid=uid, replicas=2, deadline=NOON + FIVE_MINUTES))
        cluster.world.scale(0)


@pytest.mark.parametrize("record", [True, False])
def test_a_run_that_is_under_way_is_told(cluster: SimulatedCluster, *, record: bool) -> None:
    """Billing at 0 is its business then."""
    cluster.world.add_billing(2)
    clock = Clock()
    leave(cluster, clock, record=record)
    items = looked(cluster, clock=clock)

    assert Warned(message="run dead is under way") in items
    assert wrong(items) == ([] if not record else wrong(items))
    assert not any(p.exit_code in {3, 8} for p in wrong(items))


def test_billing_that_was_left_down_is_told_with_the_line_that_helps(
    cluster: SimulatedCluster,
) -> None:
    """By the code that says so; it is not brought back by who only looks."""
    cluster.world.add_billing(2)
    clock = Clock()
    leave(cluster, clock, record=True)
    clock.now += timedelta(minutes=10)
    items = looked(cluster, clock=clock)

    (problem,) = wrong(items)
    assert problem.exit_code == 8
    assert f"run dead has scaled {BILLING} down from 2, and is gone" in problem.message
    assert "resume-billing" in problem.hints[0]
    assert cluster.world.replicas == 0


def test_a_lease_that_was_left_without_a_record_is_fine(cluster: SimulatedCluster) -> None:
    """The next run takes it."""
    cluster.world.add_billing(2)
    clock = Clock()
    leave(cluster, clock, record=False)
    clock.now += timedelta(minutes=10)
    items = looked(cluster, clock=clock)

    assert f"{lease_name(BILLING)} was left by run dead, and is stale" in said(items)
    assert wrong(items) == []


# -- billing and its claims


@pytest.mark.parametrize("is_allowed", [True, False])
def test_billing_at_0_may_be_meant(cluster: SimulatedCluster, *, is_allowed: bool) -> None:
    """As a run has it."""
    cluster.world.add_billing(2)
    cluster.world.scale(0)
    options = ClusterSettings(statefulset=BILLING, strategy="colocated", allow_stopped=is_allowed)
    items = looked(cluster, options)

    assert [p.exit_code for p in wrong(items)] == ([] if is_allowed else [3])


def test_billing_that_is_not_ready_is_told(cluster: SimulatedCluster) -> None:
    """A worker waits for it."""
    cluster.world.add_billing(2)
    cluster.world.edit("statefulsets", BILLING, lambda body: body["status"].update(readyReplicas=0))
    items = looked(cluster)

    assert Warned(message=f"{BILLING} has 0 of 2 replicas ready") in items


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("no billing", 7, "there is no StatefulSet"),
        ("no volume", 2, "keeps no journal on a volume claim"),
        ("delete", 7, "would delete its journals"),
        ("pod only", 2, "nobody can read it while billing runs"),
        ("colocated pod only", 2, "no second pod may read it"),
    ],
)
def test_what_a_run_would_refuse_is_told(
    cluster: SimulatedCluster, what: str, code: int, words: str
) -> None:
    """In its own words."""
    strategy: StrategySetting = "auto"
    if what == "no volume":
        body: Any = {"replicas": 1, "template": {"spec": {}}}
        cluster.world.put("statefulsets", {"metadata": {"name": BILLING}, "spec": body})
    elif what == "delete":
        strategy = "scale-down"
        cluster.world.add_billing(1, when_scaled="Delete")
    elif what != "no billing":
        strategy = "colocated" if what.startswith("colocated") else "auto"
        cluster.world.add_billing(1, modes=["ReadWriteOncePod"])
    items = looked(cluster, ClusterSettings(statefulset=BILLING, strategy=strategy))

    (problem,) = wrong(items)
    assert (problem.exit_code, words in problem.message) == (code, True)


def test_claims_that_are_missing_or_wait_are_told(cluster: SimulatedCluster) -> None:
    """Each journal that has to be there, and is on no bound claim."""
    world: World = cluster.world
    world.add_billing(2)
    world.edit(
        "persistentvolumeclaims",
        f"journal-{BILLING}-1",
        lambda body: body.update(status={"phase": "Pending"}),
    )
    options = ClusterSettings(statefulset=BILLING, strategy="colocated", expect_replicas=4)
    items = looked(cluster, options)

    assert Warned(message=f"the claim journal-{BILLING}-1 is not bound") in items
    assert [(p.exit_code, p.journal) for p in wrong(items)] == [
        (4, f"journal-{BILLING}-{n}") for n in (1, 2, 3)
    ]
    by_setting = (
        "BACKUP_EXPECT_REPLICAS=4 promises it: if the journal is gone for good, set it to {} or "
        "less (in the chart, billing.replicas)"
    )
    by_billing = f"{BILLING} has 2 replicas: kubectl get pvc shows their claims"
    assert [p.hints for p in wrong(items)] == [
        (by_billing, by_setting.format(1)),
        (by_setting.format(2),),
        (by_setting.format(3),),
    ]


@pytest.mark.parametrize(
    ("modes", "has_source", "budget", "chosen"),
    [
        (["ReadWriteMany"], True, None, "direct"),
        (["ReadWriteMany"], False, None, "colocated"),
        (["ReadWriteOnce"], True, None, "colocated"),
        (["ReadWriteOncePod"], False, FIVE_MINUTES, "scale-down"),
    ],
)
def test_what_auto_comes_to_is_told(
    cluster: SimulatedCluster,
    modes: list[str],
    budget: timedelta | None,
    chosen: str,
    *,
    has_source: bool,
) -> None:
    """As the run will choose."""
    cluster.world.add_billing(2, shared=True, modes=modes)
    options = ClusterSettings(statefulset=BILLING, strategy="auto", max_downtime=budget)
    items = looked(cluster, options, has_source=has_source)

    assert said(items)[-2:] == [
        f"journals is bound, {modes[0]}, for all journals",
        f"{BILLING} would be backed up by strategy {chosen}, chosen by auto",
    ]
    assert wrong(items) == []
