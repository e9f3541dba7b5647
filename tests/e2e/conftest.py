"""A cluster for the tests here, which run only when asked for.

They need root, containerd and a Kubernetes that is built once, so `make test` leaves them out, and
what is left out is not skipped: with CI=true a skip is a failure. Whoever names this directory, or
something in it, asks for them: `make test-e2e` does.

By default the cluster is made here, of two nodes, for as long as the tests run. Who has one, and
names its kubeconfig in `KUBECONFIG` and an image in `JOURNAL_BACKUP_IMAGE`, has it used instead,
and the tests that need nodes of our own are skipped. A name in `KUBECONFIG` alone is not enough:
nobody is to have the cluster of their work used by mistake.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.asked_for import ignore_unless_asked
from tests.e2e import programs
from tests.e2e.cluster import Cluster, given_cluster, own_cluster
from tests.e2e.nodes import Nodes

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]

_TIMEOUT_SECONDS = 300  # the first one has the start of the cluster in it


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this directory out unless an argument of pytest is in it."""
    return ignore_unless_asked(config, HERE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give these tests more time than others have."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(_TIMEOUT_SECONDS), append=False)


@pytest.fixture(scope="session")
def image() -> str:
    """Find the image: a docker-archive, or a name."""
    named = os.environ.get("JOURNAL_BACKUP_IMAGE", "")
    archive = named or str(CHECKOUT / "dist" / "image.tar")
    if _is_archive(archive):
        return archive
    if not named or not os.environ.get("KUBECONFIG"):
        pytest.skip(f"there is no image in {archive} (make image writes it)")
    return named


@pytest.fixture(scope="session")
def shared_cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start a cluster, or take the one that is given, once for each process of tests."""
    if not _is_archive(image):
        yield given_cluster(
            Path(os.environ["KUBECONFIG"]),
            image,
            tmp_path_factory.mktemp("volumes"),
            shared_class=os.environ.get("JOURNAL_BACKUP_SHARED_CLASS", ""),
        )
        return
    if reason := programs.unavailable():
        pytest.skip(reason)
    with own_cluster(tmp_path_factory.mktemp("e2e"), Path(image)) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """Give a cluster that runs, and have it run after, whatever the test did to it."""
    yield shared_cluster
    _recover(shared_cluster)


@pytest.fixture
def nodes(cluster: Cluster) -> Nodes:
    """Give the nodes, for tests that do to them what nobody does to nodes of others."""
    if not cluster.own:
        pytest.skip("needs nodes of its own, and KUBECONFIG gave it another's")
    return cluster.own


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Make a namespace for one test; the pods in it have to be such as `restricted` wants them."""
    name = cluster.create_namespace(enforce="restricted")
    yield name
    _recover(cluster)
    cluster.delete_namespace(name)


@pytest.fixture
def lax_namespace(cluster: Cluster) -> Iterator[str]:
    """Make a namespace for one test; pods in it may be anything."""
    name = cluster.create_namespace()
    yield name
    _recover(cluster)
    cluster.delete_namespace(name)


def _is_archive(image: str) -> bool:
    return Path(image).is_file()


def _recover(cluster: Cluster) -> None:
    if cluster.own:
        cluster.own.recover()
