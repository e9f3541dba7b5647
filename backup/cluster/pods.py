"""All pods of a namespace, by one list and one watch, and what is to be read off a pod."""

from __future__ import annotations

from backup.cluster.api import Api, Object
from backup.stop import SLICE_SECONDS, Stop
from backup.streams import Subscription


class Pods:
    """All pods of the namespace, by one list and one watch."""

    def __init__(self, api: Api, *, stop: Stop) -> None:
        """Begin to watch; what there is, is known when this returns."""
        self._news = Subscription(api.changes("pods"), stop=stop)
        self._pods: dict[str, Object] = {}
        self._jobs: set[str] = set()
        while not self.poll(SLICE_SECONDS):
            pass

    def poll(self, seconds: float) -> bool:
        """Take in changes; return whether there were any.

        Args:
            seconds: how long to wait for the first.

        Raises:
            ClusterError: the watch has failed.
        """
        news = self._news.poll(seconds)
        for change in news:
            named = {o["metadata"]["name"]: o for o in change.objects}
            self._jobs |= {job for o in change.objects if (job := owner(o, "Job"))}
            if change.kind == "all":
                self._pods = named
            elif change.kind == "there":
                self._pods |= named
            else:
                for name in named:
                    self._pods.pop(name, None)
        return bool(news)

    def get(self, name: str) -> Object | None:
        """Give a pod."""
        return self._pods.get(name)

    def of_job(self, job: str) -> Object | None:
        """Give the pod of a Job that is tried once."""
        return next((p for p in self._pods.values() if owner(p, "Job") == job), None)

    def has_had(self, job: str) -> bool:
        """Whether a Job has had a pod, even one that has come and gone between two looks."""
        return job in self._jobs

    def of_billing(self, name: str) -> list[Object]:
        """Give billing's pods."""
        return [p for p in self._pods.values() if owner(p, "StatefulSet") == name]

    def close(self) -> None:
        """Stop watching."""
        self._news.close()


def owner(pod: Object, kind: str) -> str | None:
    """Name what owns a pod, if it is of that kind."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((o["name"] for o in owners if o["kind"] == kind), None)


def is_leaving(pod: Object) -> bool:
    """Whether somebody has deleted it."""
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Object) -> bool:
    """Whether it says that it is ready."""
    conditions = pod.get("status", {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def identity(pod: Object) -> tuple[str, str | None]:
    """Give uid and node: what changes when a pod is made anew, or moves."""
    return pod["metadata"]["uid"], pod["spec"].get("nodeName")
