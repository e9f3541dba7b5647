"""What Helm does to a release while a run is under way: nothing is lost, and billing comes back.

Runs are held where they write to an object store, by `tests.e2e.gate`, for as long as Helm is at
work; so it is certain that billing is down then, or that the run is not through.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chart import programs
from tests.chart.helm import NAME
from tests.cluster.controlplane import until
from tests.e2e import chart
from tests.e2e.billing import NAME as BILLING
from tests.e2e.billing import Billing, create_billing, whole
from tests.e2e.chart import Release, Values
from tests.e2e.cluster import Cluster
from tests.e2e.gate import Gate, gate
from tests.e2e.nodes import Nodes
from tests.figures import Figure
from tests.servers import process
from tests.servers.s3 import S3Server, versitygw

JOURNAL = f"journal-{BILLING}-0"
SCALE_DOWN: Values = {"strategy": "scale-down", "maxDowntime": "3m"}

_GONE_SECONDS = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """An object store that pods reach by a way that can be closed."""

    server: S3Server
    way: Gate
    bucket: str

    @property
    def directory(self) -> Path:
        """Where its objects are files."""
        assert self.server.root
        return self.server.root / self.bucket / "plant-7"

    def manifests(self) -> list[Path]:
        """Find all manifests."""
        return sorted(self.directory.glob("*/*.manifest.json"))

    @property
    def values(self) -> Values:
        """What our chart is told of it."""
        return {
            "sinks": [{"url": f"s3://{self.bucket}/plant-7"}],
            "aws": {
                "region": "us-east-1",
                "endpointUrl": self.way.endpoint,
                "secretRef": "journal-store",
            },
        }


@pytest.fixture(autouse=True)
def _helm() -> None:
    """Skip everything where there is no Helm."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)


@pytest.fixture
def store(nodes: Nodes, tmp_path: Path) -> Iterator[Store]:
    """Start one."""
    if reason := process.unavailable("versitygw"):
        pytest.skip(reason)
    with versitygw(tmp_path / "s3") as server, gate(nodes.gateway, server.address) as way:
        yield Store(server=server, way=way, bucket=server.fresh_bucket())


@pytest.fixture
def release(cluster: Cluster, namespace: str, store: Store, tmp_path: Path) -> Release:
    """Make an umbrella whose backups go there; nothing is installed."""
    create_secret(cluster, namespace, store)
    return chart.umbrella(cluster, namespace, tmp_path, sink=chart.at(store.directory))


def create_secret(cluster: Cluster, namespace: str, store: Store) -> None:
    """Create the Secret that says who we are to the store."""
    keys = {
        "AWS_ACCESS_KEY_ID": store.server.access_key,
        "AWS_SECRET_ACCESS_KEY": store.server.secret_key,
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "journal-store"}}
    cluster.create(namespace, secret | {"stringData": keys})


def install(
    release: Release, store: Store, *, replicas: int = 2, shared: bool = False, **ours: Any
) -> Billing:
    """Install it; return when billing writes."""
    cluster, namespace = release.cluster, release.namespace
    values = chart.values(cluster, replicas=replicas, shared=shared, **store.values, **ours)
    billing = chart.volumes(cluster, namespace, replicas=replicas, shared=shared)
    release.install(values)
    billing.await_ready()
    for ordinal in range(replicas):
        billing.await_records(5, ordinal)
    return billing


def hold_at_zero(release: Release, store: Store, billing: Billing) -> str:
    """Begin a run, and have it held when billing is down; give its Job. The way stays closed."""
    job = release.run()
    release.await_step(job, "billing goes from 2 to 0")
    store.way.close()
    chart.await_replicas(billing, 0)
    until(store.way.held.is_set, "a worker writes", seconds=60)
    until(lambda: not billing.pods(), "billing is away")
    return job


def test_an_uninstall_brings_billing_back(
    cluster: Cluster, namespace: str, store: Store, tmp_path: Path, figure: Figure
) -> None:
    """Ours alone, beside billing: journals and backups stay, and nothing else does."""
    create_secret(cluster, namespace, store)
    release = chart.alone(cluster, namespace, tmp_path, sink=chart.at(store.directory))
    billing = create_billing(cluster, namespace, replicas=2)
    billing.await_ready()
    values = chart.values(cluster, replicas=2, **store.values, **SCALE_DOWN)[NAME]
    release.install(values)
    ended = release.ended(release.run("before"))
    kept, claims = files(store.directory), names(cluster, namespace)
    hold_at_zero(release, store, billing)
    began = time.monotonic()
    release.uninstall()
    figure("helm uninstall while billing is at 0", time.monotonic() - began)
    replicas = billing.replicas
    store.way.open()
    billing.await_ready()
    until(lambda: not release.objects(), "all of ours is gone", seconds=_GONE_SECONDS)

    assert ended.exit_code == 0, ended.log
    assert replicas == 2
    assert kept.items() <= files(store.directory).items()
    assert names(cluster, namespace) == claims
    assert whole(billing.read_journal())
    release.install(values)
    assert_good(release, "after")


@pytest.mark.parametrize("change", ["enabled", "strategy"])
def test_an_upgrade_brings_billing_back(
    store: Store, release: Release, change: str, figure: Figure
) -> None:
    """To no chart of ours at all, where it is Helm itself that does it, or to another strategy."""
    billing = install(release, store, **SCALE_DOWN)
    job = hold_at_zero(release, store, billing)
    values = chart.values(release.cluster, replicas=2, **store.values)
    began = time.monotonic()
    release.upgrade(values | ({NAME: {"enabled": False}} if change == "enabled" else {}))
    figure(f"helm upgrade while billing is at 0, {change}", time.monotonic() - began)
    replicas = billing.replicas
    store.way.open()
    billing.await_ready()
    left = {name for name in release.objects() if "resume" in name or "guard" in name}

    assert replicas == 2
    assert left == set()
    if change == "enabled":
        until(lambda: not release.objects(), "all of ours is gone", seconds=_GONE_SECONDS)
    else:
        assert release.ended(job).exit_code == 7
    until(lambda: not release.workers(), "no worker is left", seconds=_GONE_SECONDS)
    assert whole(billing.read_journal())
    release.upgrade(values)
    assert_good(release, "after")


@pytest.mark.parametrize("strategy", ["direct", "colocated"])
def test_an_upgrade_leaves_a_run_alone(store: Store, release: Release, strategy: str) -> None:
    """It goes where it was to go; the next one goes where the new values say."""
    billing = install(release, store, shared=strategy == "direct", strategy=strategy)
    store.way.close()
    job = release.run()
    until(store.way.held.is_set, "the run writes", seconds=60)
    elsewhere = {"sinks": [{"url": f"s3://{store.bucket}/plant-8"}]}
    values = chart.values(
        release.cluster,
        shared=strategy == "direct",
        replicas=2,
        **store.values | elsewhere,
        strategy=strategy,
    )
    release.upgrade(values)
    store.way.open()
    ended = release.ended(job)
    first = release.manifests()
    assert_good(release, "next")

    assert ended.exit_code == 0, ended.log
    assert len(first) == 2
    assert release.manifests() == first
    assert len([*(store.directory.parent / "plant-8").glob("*/*.manifest.json")]) == 2
    assert billing.read_journal().startswith(release.restored(JOURNAL))


@pytest.mark.parametrize("strategy", ["direct", "colocated"])
def test_a_run_by_hand_while_one_of_the_schedule_is_under_way(
    store: Store, release: Release, strategy: str
) -> None:
    """Two direct ones are both good; with workers, the second is told who holds the lock."""
    store.way.close()
    billing = install(
        release, store, shared=strategy == "direct", strategy=strategy, schedule="* * * * *"
    )
    until(release.scheduled, "the schedule has started a run", seconds=90)
    until(store.way.held.is_set, "it writes", seconds=60)
    (scheduled, *_) = release.scheduled()
    holder = release.pod_of(scheduled)["metadata"]["name"]
    job = release.run()
    if strategy == "colocated":
        refused = release.ended(job)

        assert refused.exit_code == 7, refused.log
        assert holder in refused.log
        assert not store.manifests()
    store.way.open()
    ended = [release.ended(scheduled)]
    ended += [release.ended(job)] if strategy == "direct" else []

    assert [each.exit_code for each in ended] == [0] * len(ended), [each.log for each in ended]
    assert len(store.manifests()) >= 2 * len(ended)
    assert billing.read_journal().startswith(release.restored(JOURNAL))
    verified = release.ended(release.run("verify", f"{NAME}-verify"))
    assert verified.exit_code == 0, verified.log


def assert_good(release: Release, name: str) -> None:
    """Run it, and expect it to be good."""
    ended = release.ended(release.run(name))
    assert ended.exit_code == 0, ended.log


def files(directory: Path) -> dict[str, bytes]:
    """Read all files below a directory."""
    found = (p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(found)}


def names(cluster: Cluster, namespace: str) -> set[str]:
    """Name the claims that are bound."""
    claims = cluster.list(namespace, "persistentvolumeclaims")
    return {c["metadata"]["name"] for c in claims if c["status"]["phase"] == "Bound"}
