"""What events say about Jobs and pods: why one is refused, not scheduled or not mounted.

They are asked for where something is overdue or has failed, and not watched: a namespace has many,
and they say nothing that has to be acted upon.
"""

from __future__ import annotations

from backup.cluster.api import Api, Object

_REASONS = (
    "FailedCreate",
    "FailedMount",
    "FailedAttachVolume",
    "FailedScheduling",
    "Preempted",
    "NodeNotReady",
)
"""Of events that explain something."""


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
