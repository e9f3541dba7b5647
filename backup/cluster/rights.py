"""Rights in a namespace: which there are to ask for, and what several parts of the wing need.

Whoever needs more says so itself. :data:`~backup.cluster.strategies.RULES` is all of it, by
strategy: the chart grants these and no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A right that a strategy needs in its namespace."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    named: bool = False
    """Whether it can be granted on the one object that it is about, by its name."""


RESUME: Final = (
    Rule(group="coordination.k8s.io", resource="leases", verbs=("get", "update"), named=True),
    Rule(group="apps", resource="statefulsets/scale", verbs=("get", "update"), named=True),
    Rule(group="", resource="pods", verbs=("get",)),
    Rule(group="batch", resource="jobs", verbs=("list", "delete")),
)
"""For the verb ``resume-billing``, which the guard and the hooks run."""
WORKERS: Final = (
    Rule(group="apps", resource="statefulsets", verbs=("get",), named=True),
    Rule(group="apps", resource="statefulsets/scale", verbs=("get",), named=True),
    Rule(group="", resource="pods", verbs=("get", "list", "watch")),
    Rule(group="", resource="persistentvolumeclaims", verbs=("list",)),
    Rule(group="", resource="events", verbs=("list",)),
    Rule(group="batch", resource="jobs", verbs=("get", "list", "create", "delete")),
    Rule(group="coordination.k8s.io", resource="leases", verbs=("create",)),
    Rule(group="coordination.k8s.io", resource="leases", verbs=("get", "update"), named=True),
)
"""For sending workers."""
