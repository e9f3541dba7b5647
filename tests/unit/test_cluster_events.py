"""What events say about Jobs and pods."""

from __future__ import annotations

from backup.cluster.pods import events_about
from tests.simulated_cluster import SimulatedCluster, World


def test_events_explain_the_rest(world: World, cluster: SimulatedCluster) -> None:
    """The last of each reason that explains something, of the Job and of its pod."""
    world.add_event("job", "FailedCreate", "quota of 10 pods")
    world.add_event("job", "FailedCreate", "quota of 11 pods")
    world.add_event("job", "SuccessfulCreate", "pod p")
    world.add_event("p", "FailedMount", "timed out")
    world.add_event("p", "FailedAttachVolume", None)
    world.add_event("another", "FailedMount", "not ours")

    said = events_about(cluster, "job", "p")

    assert said == "FailedCreate: quota of 11 pods; FailedMount: timed out; FailedAttachVolume: "
    assert events_about(cluster, "nothing") == ""


def test_events_from_before_a_pod_was_scheduled_are_over(
    world: World, cluster: SimulatedCluster
) -> None:
    """They come by name, not by time, and with their times in different fields."""
    mounted, bound = ("2026-11-23T02:00:0" + second for second in ("3Z", "2.000004Z"))
    refused = {"lastObservedTime": "2026-11-23T02:00:01.000002Z"}
    world.add_event("p", "FailedMount", "timed out", lastTimestamp=mounted)
    world.add_event("p", "Scheduled", "to node-a", eventTime=bound, lastTimestamp=None)
    world.add_event("p", "FailedScheduling", "no claim", series=refused, eventTime=bound)
    world.add_event("q", "FailedScheduling", "no node", eventTime=bound)

    assert events_about(cluster, "p", "q") == "FailedMount: timed out; FailedScheduling: no node"
