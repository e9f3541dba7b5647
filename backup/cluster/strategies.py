"""All strategies that send workers: what each of them is, it says itself.

Rules:

- Whoever has to do with a strategy asks its class: :class:`~backup.cluster.crew.Copies`. To add one
  is to name it in :mod:`backup.model` and for ``worker --strategy``, to write that class, and to
  put it here.
- ``direct`` sends nobody: it asks the cluster for nothing, and has no class.
- ``auto`` may come to any of them, and has the rights of the one that needs most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from backup.cluster.colocated import Colocated
from backup.cluster.crew import Copies
from backup.cluster.layout import Volume, choose
from backup.cluster.rights import RESUME, Rule
from backup.cluster.scaledown import ScaleDown
from backup.model import Strategy
from backup.settings import ClusterSettings

STRATEGIES: Final[Mapping[str, type[Copies]]] = {
    copies.name: copies for copies in (Colocated, ScaleDown)
}
RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "direct": (),
    **{name: copies.rights for name, copies in STRATEGIES.items()},
    "auto": ScaleDown.rights,
    "resume-billing": RESUME,
}
"""The rights by strategy, and for the verb ``resume-billing``."""


def rights_of(settings: ClusterSettings) -> tuple[Rule, ...]:
    """Give the rights that a run needs; where billing may not be scaled, ``auto`` needs fewer."""
    is_auto = settings.strategy == "auto" and not settings.may_scale
    return RULES[Colocated.name if is_auto else settings.strategy]


def decide(
    settings: ClusterSettings, volumes: Sequence[Volume], *, has_source: Callable[[], bool]
) -> Strategy:
    """Give the strategy of a run: as it is set, or as the volumes want it.

    Args:
        settings: which it is to be, and what is allowed.
        volumes: where journals are.
        has_source: tells whether our own pod has BACKUP_SOURCE; asked for ``auto``, which reads
            nothing directly without it.

    Raises:
        ConfigError: it does not fit the volumes.
    """
    strategy = settings.strategy
    if strategy == "auto":
        strategy = choose(volumes, has_source=has_source(), may_scale=settings.may_scale)
    if copies := STRATEGIES.get(strategy):
        copies.require_readable(volumes)
    return strategy
