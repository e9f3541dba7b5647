"""All pods by one watch."""

from __future__ import annotations

import threading

import pytest

from backup.cluster.api import Object
from backup.cluster.pods import Pod, Pods, events_about, owner
from backup.errors import ClusterDeniedError, SignalledError
from backup.stop import Stop
from tests.simulated_cluster import BILLING, SimulatedCluster, World, hasten


@pytest.fixture
def world(world: World) -> World:
    """Make a namespace with two billing pods."""
    world.add_billing(2)
    return world


@pytest.fixture(autouse=True)
def _hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


def names(found: list[Pod]) -> list[str]:
    """Name some pods."""
    return sorted(pod.name for pod in found)


def settled(pods: Pods, world: World) -> Pods:
    """Take in all that has happened."""
    world.put("pods", {"metadata": {"name": "last"}, "spec": {}})
    while pods.get("last") is None:
        pods.poll(1)
    return pods


def test_what_is_there_is_known_at_once(world: World) -> None:
    """One list, one watch, whatever their number."""
    world.add_run()
    cluster = SimulatedCluster(world)

    pods = Pods(cluster, stop=Stop())

    assert names(pods.of_billing(BILLING)) == [f"{BILLING}-0", f"{BILLING}-1"]
    one = pods.of_job("journal-backup-1")
    assert one is not None
    assert one.name == "journal-backup-1-x"
    assert pods.of_job("journal-backup-2") is None
    assert cluster.asked == ["watch pods"]


def test_namespace_without_pods_is_known_too() -> None:
    """The list is there, and empty."""
    world = World()

    pods = Pods(SimulatedCluster(world), stop=Stop())

    assert pods.of_billing(BILLING) == []
    world.close()


def test_what_changes_is_taken_in(world: World) -> None:
    """A pod is made, one is changed, one goes; and all is listed anew where a watch breaks."""
    pods = Pods(SimulatedCluster(world), stop=Stop())
    before = pods.get(f"{BILLING}-0")

    world.move(f"{BILLING}-0", "node-7")
    world.scale(1)
    settled(pods, world)

    assert names(pods.of_billing(BILLING)) == [f"{BILLING}-0"]
    after = pods.get(f"{BILLING}-0")
    assert before is not None
    assert after is not None
    assert after.identity != before.identity
    assert after.identity[1] == "node-7"
    world.remove("pods", "last")
    world.relist("pods")
    settled(pods, world)
    assert names(pods.of_billing(BILLING)) == [f"{BILLING}-0"]


def test_list_that_takes_its_time_is_waited_for(world: World) -> None:
    """Nothing is decided by an empty picture."""
    told = threading.Event()

    class Counting(Stop):
        checks = 0

        def check(self) -> None:
            super().check()
            self.checks += 1
            if self.checks > 5:
                told.set()

    cluster = SimulatedCluster(world)
    cluster.on("watch pods", lambda: told.wait(10))

    pods = Pods(cluster, stop=Counting())

    assert len(pods.of_billing(BILLING)) == 2


def test_signal_ends_the_wait(world: World) -> None:
    """At once, also before the first list is there."""
    told = threading.Event()
    cluster = SimulatedCluster(world)
    cluster.on("watch pods", lambda: told.wait(10))
    stop = Stop()
    stop.request(15)

    with pytest.raises(SignalledError):
        Pods(cluster, stop=stop)

    told.set()


def test_watch_that_is_refused_is_an_error(world: World) -> None:
    """Raised where news are due."""
    cluster = SimulatedCluster(world)
    cluster.fail("watch pods", ClusterDeniedError("the cluster refuses: watch"))

    with pytest.raises(ClusterDeniedError):
        Pods(cluster, stop=Stop())


def test_closed_watch_tells_no_more(world: World) -> None:
    """What comes afterwards is nobody's."""
    pods = Pods(SimulatedCluster(world), stop=Stop())
    pods.close()

    world.scale(5)

    assert pods.poll(0.05) is False
    assert len(pods.of_billing(BILLING)) == 2


def test_pod_tells_of_itself() -> None:
    """Whose it is, whether it is ready, whether it is on its way out, where it is."""
    bare: Object = {"metadata": {"name": "p", "uid": "u"}, "spec": {}}
    ready = {
        "metadata": {
            "name": "p",
            "uid": "u",
            "deletionTimestamp": "2026-11-23T12:00:00Z",
            "ownerReferences": [{"kind": "Job", "name": "j"}],
        },
        "spec": {"nodeName": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    unready = {**bare, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}

    assert [owner(ready, "Job"), owner(ready, "StatefulSet"), owner(bare, "Job")] == [
        "j",
        None,
        None,
    ]
    assert [Pod(pod).is_ready for pod in (ready, unready, bare)] == [True, False, False]
    assert [Pod(pod).is_leaving for pod in (ready, bare)] == [True, False]
    assert [Pod(pod).identity for pod in (ready, bare)] == [("u", "n"), ("u", None)]


def test_pod_that_comes_and_goes_between_two_looks_is_known(world: World) -> None:
    """Its Job has had its one try."""
    cluster = SimulatedCluster(world)
    pods = Pods(cluster, stop=Stop())
    world.remove("pods", world.add_run())

    settled(pods, world)

    assert pods.of_job("journal-backup-1") is None
    assert pods.has_had("journal-backup-1")
    assert not pods.has_had("journal-backup-2")


# -- events


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
