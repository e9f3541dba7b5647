"""Values that other tests begin with: one for each way to get at the journals."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

Values = dict[str, Any]

SINKS = [{"url": "s3://acme-journals/plant-7"}]
PER_POD = {"journal": {"aws": {"efs": {"enabled": False}}}}

DIRECT: Values = {"billing": {"replicas": 2}, "sinks": SINKS}
COLOCATED: Values = {"billing": PER_POD, "strategy": "colocated", "sinks": SINKS}
SCALE_DOWN: Values = {
    "billing": PER_POD,
    "strategy": "scale-down",
    "maxDowntime": "5m",
    "sinks": SINKS,
}
AUTO: Values = {"billing": PER_POD, "sinks": SINKS}
AUTO_SCALING: Values = AUTO | {"maxDowntime": "5m"}

ALL: Mapping[str, Values] = {
    "direct": DIRECT,
    "colocated": COLOCATED,
    "scale-down": SCALE_DOWN,
    "auto": AUTO,
    "auto-scaling": AUTO_SCALING,
}
MAY_SCALE = ("scale-down", "auto-scaling")


def having(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Values:
    """Return values with changes, which are merged as Helm merges: maps are, lists are not."""
    merged = copy.deepcopy(dict(values))
    for key, value in changes.items():
        before = merged.get(key)
        both = isinstance(before, dict) and isinstance(value, dict)
        merged[key] = having(before, value) if both and before is not None else value
    return merged


def at(path: str, value: object) -> Values:
    """Return values in which one is set: `at("image.tag", "1")`."""
    first, _, rest = path.partition(".")
    return {first: at(rest, value) if rest else value}
