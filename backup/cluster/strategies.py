"""All strategies that send workers: what each of them is, it says itself.

Rules:

- Whoever has to do with a strategy asks its class: :class:`~backup.cluster.crew.Copies`. To add one
  is to name it in :mod:`backup.model` and for ``worker --strategy``, to write that class, and to
  put it here.
- ``direct`` sends nobody: it asks the cluster for nothing, and has no class.
- ``auto``: a shared ReadWriteMany volume is read directly, if our pod mounts it; ReadWriteOncePod
  leaves no way but to scale down, which somebody has to have allowed, by BACKUP_MAX_DOWNTIME; all
  else is read beside billing. It has the rights of the one that needs most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from backup.cluster.api import Rule
from backup.cluster.colocated import Colocated
from backup.cluster.crew import Copies
from backup.cluster.layout import Volume
from backup.cluster.rescue import RESUME
from backup.cluster.scaledown import ScaleDown
from backup.errors import ConfigError
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
"""By strategy, and for the verb ``resume-billing``; the chart grants these rights and no more."""


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
        strategy = _choose(settings, volumes, has_source=has_source())
    if copies := STRATEGIES.get(strategy):
        copies.require_readable(volumes)
    return strategy


def _choose(settings: ClusterSettings, volumes: Sequence[Volume], *, has_source: bool) -> Strategy:
    """Choose the strategy where the settings leave it open."""
    modes = {mode for volume in volumes for mode in volume.access_modes}
    if "ReadWriteOncePod" in modes:
        if settings.may_scale:
            return "scale-down"
        raise ConfigError(
            "a journal's volume is ReadWriteOncePod: nobody can read it while billing runs",
            "set BACKUP_MAX_DOWNTIME, say 5m, to allow billing to be scaled down for the copy",
        )
    is_shared = all(volume.is_shared for volume in volumes)
    is_direct = has_source and is_shared and "ReadWriteMany" in modes
    return "direct" if is_direct else "colocated"
