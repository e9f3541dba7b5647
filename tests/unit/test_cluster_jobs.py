"""The Jobs of runs: known by their labels, and removed where nobody needs them any more."""

from __future__ import annotations

import pytest

from backup.cluster.jobs import RUN_LABEL, STATEFULSET_LABEL, remove_running, remove_workers
from tests.simulated_cluster import BILLING, RUN_ID, SimulatedCluster, World


@pytest.mark.parametrize(("but", "left"), [("mine", ["mine", "other"]), ("", ["other"])])
def test_workers_of_a_statefulset_are_removed(
    cluster: SimulatedCluster, world: World, but: str, left: list[str]
) -> None:
    """Whatever run they are of; only those of the run that asks stay."""
    for name, of in {"mine": BILLING, "old": BILLING, "other": "vosk"}.items():
        labels = {RUN_LABEL: name, STATEFULSET_LABEL: of}
        world.put("jobs", {"metadata": {"name": name, "labels": labels}, "status": {"active": 0}})

    remove_workers(cluster, BILLING, but=but)

    assert world.names("jobs") == left


def test_what_has_ended_can_be_looked_at(world: World, cluster: SimulatedCluster) -> None:
    """Of a run's workers, those that have not ended are removed."""
    states = {"new": {}, "on": {"active": 1}, "done": {"succeeded": 1}, "bad": {"failed": 1}}
    world.paused.add("jobs")
    for name, status in states.items():
        metadata = {"name": name, "labels": {RUN_LABEL: RUN_ID}}
        world.put("jobs", {"metadata": metadata, "status": status})
    world.put("jobs", {"metadata": {"name": "other", "labels": {RUN_LABEL: "other"}}})

    remove_running(cluster, RUN_ID)

    assert world.names("jobs") == ["bad", "done", "other"]
