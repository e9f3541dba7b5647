"""A control plane for the tests here, which run only when asked for.

They are slow to prepare (Kubernetes is built once, in minutes), so `make test` leaves them out, and
what is left out is not skipped: with CI=true a skip is a failure. Whoever names this directory, or
something in it, asks for them: `make test-cluster` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.asked_for import ignore_unless_asked
from tests.cluster import controlplane, programs
from tests.cluster.controlplane import ControlPlane
from tests.cluster.site import Site, made_up_nodes, site

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this directory out unless an argument of pytest is in it."""
    return ignore_unless_asked(config, HERE)


@pytest.fixture(scope="session")
def shared_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane, once for each process of tests."""
    if reason := programs.unavailable():
        pytest.skip(reason)
    with controlplane.control_plane(tmp_path_factory.mktemp("cluster")) as plane:
        yield plane


@pytest.fixture
def control_plane(shared_control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """Give a control plane that runs, and have it run after, whatever the test did to it."""
    yield shared_control_plane
    shared_control_plane.start_apiserver()


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """Make a namespace for one test."""
    name = control_plane.create_namespace()
    yield name
    control_plane.start_apiserver()
    control_plane.delete_namespace(name)


@pytest.fixture(scope="session")
def nodes(shared_control_plane: ControlPlane) -> Iterator[None]:
    """Make up nodes, once for each process of tests."""
    with made_up_nodes(shared_control_plane):
        yield


@pytest.fixture
def here(
    control_plane: ControlPlane, nodes: None, namespace: str, tmp_path: Path
) -> Iterator[Site]:
    """Make a site for one test."""
    with site(control_plane, namespace, tmp_path) as made:
        yield made
