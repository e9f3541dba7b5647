"""Strategies: each is known wherever it is named."""

from __future__ import annotations

from typing import get_args

from backup.cli import grammar
from backup.cluster.strategies import RULES, STRATEGIES
from backup.model import CONSISTENCY, Strategy, StrategySetting


def test_strategies_are_the_same_everywhere() -> None:
    """For settings, for the wing, and for workers."""
    names = get_args(Strategy)

    assert ("direct", *STRATEGIES) == names
    assert grammar._OPTIONS["strategy"][1]["choices"] == tuple(STRATEGIES)


def test_each_setting_has_its_rights() -> None:
    """And so has the verb that brings billing back; ``auto`` has those that it may come to need."""
    settings = get_args(StrategySetting)

    assert set(RULES) == {*settings, "resume-billing"}
    assert all(
        set(rules) <= set(RULES["auto"]) for name, rules in RULES.items() if name in settings
    )


def test_what_a_worker_writes_into_manifests() -> None:
    """Only where billing is down nobody writes meanwhile."""
    assert CONSISTENCY == {"direct": "live", "colocated": "live", "scale-down": "quiesced"}
