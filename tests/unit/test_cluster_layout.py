"""Which claims hold which journals, and how they are to be read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backup.cluster.billing import read_billing
from backup.cluster.layout import Volume, read_volumes
from backup.cluster.strategies import decide
from backup.errors import ConfigError
from backup.model import Strategy
from backup.settings import ClusterSettings
from tests.simulated_cluster import BILLING, SimulatedCluster, World


def read(world: World, *expected: str) -> tuple[Volume, ...]:
    """Read billing's volumes."""
    cluster = SimulatedCluster(world)
    return read_volumes(
        cluster.list("persistentvolumeclaims"), read_billing(cluster, BILLING), expected=expected
    )


def volume(*modes: str, is_shared: bool = False) -> Volume:
    """Make a volume with these access modes."""
    return Volume(
        claim="c",
        journals=(),
        pods=(),
        is_idle=False,
        is_shared=is_shared,
        is_bound=True,
        access_modes=modes,
    )


# -- where journals are


def test_claim_templates_give_each_pod_a_claim(world: World) -> None:
    """Each holds one journal, at its root, and goes into a directory of its own."""
    world.add_billing(11)

    volumes = read(world)

    assert [v.claim for v in volumes] == [f"journal-{BILLING}-{n}" for n in range(11)]
    assert [v.journals for v in volumes] == [(v.claim,) for v in volumes]
    assert [v.pods for v in volumes] == [(f"{BILLING}-{n}",) for n in range(11)]
    assert [v.at for v in volumes] == [v.claim for v in volumes]
    assert {v.access_modes for v in volumes} == {("ReadWriteOnce",)}
    assert not any(v.is_shared for v in volumes)


def test_claim_that_a_scale_in_has_left_is_owed_too(world: World) -> None:
    """It has no pod to be beside, unless billing is scaled out again."""
    world.add_billing(3)
    world.scale(1)

    volumes = read(world)

    assert [v.journals for v in volumes] == [(f"journal-{BILLING}-{n}",) for n in range(3)]
    assert [v.pods for v in volumes] == [(f"{BILLING}-{n}",) for n in range(3)]
    assert [v.is_idle for v in volumes] == [False, True, True]


def test_claims_of_others_do_not_count(world: World) -> None:
    """Another billing's, the sink's, one that only looks alike."""
    world.add_billing(1)
    for name in (f"journal-{BILLING}-canary-0", "journal-archive", f"journal-{BILLING}-01"):
        world.add_claim(name)

    assert [v.claim for v in read(world)] == [f"journal-{BILLING}-0"]


def test_claim_that_is_not_bound_is_seen(world: World) -> None:
    """A worker would bind it, to a node of its choice."""
    world.add_billing(1)
    world.add_claim(f"journal-{BILLING}-1", phase="Pending")
    world.put("persistentvolumeclaims", {"metadata": {"name": f"journal-{BILLING}-2"}, "spec": {}})

    assert [v.is_bound for v in read(world)] == [True, False, False]


def test_shared_claim_holds_all_journals(world: World) -> None:
    """Those of the pods, and those that somebody else knows of, each once and by number."""
    world.add_billing(2, shared=True, modes=("ReadWriteMany",))

    (shared,) = read(world, f"journal-{BILLING}-10", f"journal-{BILLING}-1", "nonsense")

    assert shared == Volume(
        claim="journals",
        journals=tuple(f"journal-{BILLING}-{n}" for n in (0, 1, 10)),
        pods=tuple(f"{BILLING}-{n}" for n in (0, 1, 10)),
        is_idle=False,
        is_shared=True,
        is_bound=True,
        access_modes=("ReadWriteMany",),
    )
    assert shared.at == ""


def test_shared_claim_that_is_missing_holds_nothing(world: World) -> None:
    """The pods wait for it, and the run names their journals."""
    world.add_billing(2, shared=True)
    world.remove("persistentvolumeclaims", "journals")

    assert read(world) == ()


@pytest.mark.parametrize(
    "spec",
    [
        {"template": {"spec": {}}},
        {"template": {"spec": {"volumes": None}}, "volumeClaimTemplates": None},
        {"template": {"spec": {"volumes": [{"name": "journal", "emptyDir": {}}]}}},
        {
            "template": {"spec": {"volumes": [{"name": "models"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
        },
    ],
)
def test_statefulset_without_journals_is_another_one(world: World, spec: dict[str, object]) -> None:
    """Say the engine's: the setting is named."""
    world.put("statefulsets", {"metadata": {"name": BILLING}, "spec": {"replicas": 0, **spec}})

    with pytest.raises(ConfigError, match="keeps no journal on a volume claim") as caught:
        read(world)

    assert "is BACKUP_STATEFULSET billing's?" in caught.value.hints


# -- how they are read


def read_by(strategy: Strategy, volumes: list[Volume]) -> Strategy:
    """Have a strategy read these volumes."""
    settings = ClusterSettings(strategy=strategy)
    return decide(settings, volumes, has_source=lambda: True)


def choose(volumes: list[Volume], *, has_source: bool, may_scale: bool) -> Strategy:
    """Leave the strategy open."""
    allowed = timedelta(minutes=5) if may_scale else None
    settings = ClusterSettings(strategy="auto", max_downtime=allowed)
    return decide(settings, volumes, has_source=lambda: has_source)


@pytest.mark.parametrize("may_scale", [True, False])
@pytest.mark.parametrize(
    ("volumes", "strategy"),
    [
        ([volume("ReadWriteMany", is_shared=True)], "direct"),
        ([volume("ReadWriteOnce", "ReadWriteMany", is_shared=True)], "direct"),
        ([volume("ReadWriteOnce", is_shared=True)], "colocated"),
        ([volume("ReadWriteOnce")], "colocated"),
        ([volume("ReadWriteMany"), volume("ReadWriteMany")], "colocated"),
        ([], "colocated"),
    ],
)
def test_billing_stays_up_wherever_it_can(
    volumes: list[Volume], strategy: Strategy, *, may_scale: bool
) -> None:
    """That it may be scaled down is no reason to do so."""
    assert choose(volumes, has_source=True, may_scale=may_scale) == strategy


def test_volume_that_is_not_mounted_is_read_by_workers() -> None:
    """Our pod may have been made for another layout: nothing can be read directly there."""
    volumes = [volume("ReadWriteMany", is_shared=True)]

    assert choose(volumes, has_source=False, may_scale=True) == "colocated"


def test_exclusive_volume_leaves_no_other_way(world: World) -> None:
    """One is enough."""
    volumes = [volume("ReadWriteOnce"), volume("ReadWriteOncePod")]

    assert choose(volumes, has_source=True, may_scale=True) == "scale-down"


def test_nobody_scales_billing_down_without_being_allowed_to() -> None:
    """The setting that allows it is named."""
    with pytest.raises(ConfigError, match="ReadWriteOncePod") as caught:
        choose([volume("ReadWriteOncePod")], has_source=True, may_scale=False)

    assert "BACKUP_MAX_DOWNTIME" in caught.value.hints[0]


def test_second_pod_on_an_exclusive_volume_is_a_contradiction() -> None:
    """It would wait for ever; so it is said before anything is made."""
    with pytest.raises(ConfigError, match="c is ReadWriteOncePod: no second pod may read it"):
        read_by("colocated", [volume("ReadWriteOnce"), volume("ReadWriteOncePod")])


@pytest.mark.parametrize("strategy", ["direct", "scale-down"])
def test_exclusive_volume_is_readable_without_billing(strategy: Strategy) -> None:
    """Nobody else has it then."""
    assert read_by(strategy, [volume("ReadWriteOncePod")]) == strategy


def test_other_volumes_are_readable_beside_billing() -> None:
    """On the same node."""
    assert read_by("colocated", [volume("ReadWriteOnce")]) == "colocated"
