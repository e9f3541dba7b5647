"""What the tests of the cluster wing begin with: a namespace, and a process that is in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulated_cluster import SimulatedCluster, World


@pytest.fixture
def world() -> Iterator[World]:
    """Make an empty namespace."""
    world = World()
    yield world
    world.close()


@pytest.fixture
def cluster(world: World) -> SimulatedCluster:
    """Make a process."""
    return SimulatedCluster(world)
