"""What is known of pods: all of a namespace, by one list and one watch, and why one is not well.

Events say why one is refused, not scheduled or not mounted. They are asked for where something is
overdue or has failed, and not watched: a namespace has many, and they say nothing that has to be
acted upon.
"""

from __future__ import annotations

from backup import answer
from backup.answer import Answer
from backup.cluster.api import Api, Object
from backup.stop import SLICE_SECONDS, Stop
from backup.streams import Subscription

_REASONS = (
    "FailedCreate",
    "FailedMount",
    "FailedAttachVolume",
    "FailedScheduling",
    "Preempted",
    "NodeNotReady",
)
"""Of events that explain something."""


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

    def get(self, name: str) -> Pod | None:
        """Give a pod."""
        body = self._pods.get(name)
        return None if body is None else Pod(body)

    def of_job(self, job: str) -> Pod | None:
        """Give the pod of a Job that is tried once."""
        return next((Pod(p) for p in self._pods.values() if owner(p, "Job") == job), None)

    def has_had(self, job: str) -> bool:
        """Whether a Job has had a pod, even one that has come and gone between two looks."""
        return job in self._jobs

    def of_billing(self, name: str) -> list[Pod]:
        """Give billing's pods."""
        return [Pod(p) for p in self._pods.values() if owner(p, "StatefulSet") == name]

    def close(self) -> None:
        """Stop watching."""
        self._news.close()


def owner(pod: Object, kind: str) -> str | None:
    """Name what owns a pod, if it is of that kind."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((o["name"] for o in owners if o["kind"] == kind), None)


class Pod:
    """What a pod says about itself, as it was seen."""

    def __init__(self, body: Object) -> None:
        """Look at it, and at its only container, if it is a worker's."""
        self.body = body
        self.name: str = body["metadata"]["name"]
        self.node: str | None = body["spec"].get("nodeName")
        """The node that it is on."""
        self._status: Object = body.get("status", {})
        containers = self._status.get("containerStatuses") or [{}]
        self._state: Object = containers[0].get("state") or {}

    def _condition(self, name: str) -> Object | None:
        conditions = self._status.get("conditions") or []
        return next((c for c in conditions if c["type"] == name), None)

    @property
    def identity(self) -> tuple[str, str | None]:
        """Uid and node: what changes when a pod is made anew, or moves."""
        return self.body["metadata"]["uid"], self.node

    @property
    def is_leaving(self) -> bool:
        """Whether somebody has deleted it."""
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def is_ready(self) -> bool:
        """Whether it says that it is ready; a deleted one says so for a while."""
        return (self._condition("Ready") or {}).get("status") == "True"

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it runs any more, and nothing will."""
        return self._status.get("phase") in {"Succeeded", "Failed"}

    @property
    def has_succeeded(self) -> bool:
        """Whether it ended with exit code 0."""
        return self._status.get("phase") == "Succeeded"

    @property
    def was_deleted(self) -> bool:
        """Whether somebody ended it before it was done: by a drain, say, or an eviction by the API.

        (A kubelet that evicts a pod for what it uses does not delete it.)
        """
        return self.has_ended and self.is_leaving and not self.has_succeeded

    @property
    def is_running(self) -> bool:
        """Whether it has begun."""
        return "running" in self._state or self.has_ended

    @property
    def answer(self) -> Answer | None:
        """What it says, if it has ended and says anything."""
        return answer.read((self._state.get("terminated") or {}).get("message") or "")

    def why_ended(self) -> str:
        """Say why it ended without an answer."""
        ended = self._state.get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return "ran out of memory: raise resources.limits.memory"
        disruption = self._condition("DisruptionTarget")
        if self._status.get("reason") == "Evicted" or disruption:
            why = self._status.get("message") or (disruption or {}).get("message", "")
            return f"was evicted: {why}".rstrip(": ")
        if self._status.get("reason"):
            return f"{self._status['reason']}: {self._status.get('message', '')}".rstrip(": ")
        if ended:
            return f"ended with exit code {ended.get('exitCode')} and without an answer"
        return "ended without an answer"

    def why_waiting(self) -> str:
        """Say what it waits for, as far as the pod itself tells."""
        scheduled = self._condition("PodScheduled")
        if scheduled is not None and scheduled.get("status") == "False":
            return f"is not scheduled: {scheduled.get('message', scheduled.get('reason', ''))}"
        waiting = self._state.get("waiting") or {}
        if waiting.get("reason") not in {None, "ContainerCreating", "PodInitializing"}:
            return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        return "does not begin"


def events_about(api: Api, *names: str) -> str:
    """Give what explains the state of Jobs or pods: the last event of each reason, as one sentence.

    What was said before a pod was scheduled is over.
    """
    messages: dict[tuple[str, str], str] = {}
    for name in names:
        events = api.list("events", fields=f"involvedObject.name={name}")
        for event in sorted(events, key=_last_seen):
            if event.get("reason") == "Scheduled":
                messages = {key: text for key, text in messages.items() if key[0] != name}
            elif event.get("reason") in _REASONS:
                messages[name, event["reason"]] = event.get("message") or ""
    sentences = (f"{reason}: {text}" for (_, reason), text in messages.items())
    return "; ".join(dict.fromkeys(sentences))


def in_brackets(api: Api, *names: str) -> str:
    """Add what events say about Jobs or pods; nothing, where there is nothing."""
    events = events_about(api, *names)
    return f" ({events})" if events else ""


def _last_seen(event: Object) -> str:
    """When, to the second: some have the one field, some the other."""
    series = event.get("series") or {}
    seen = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(seen or "")[:19]
