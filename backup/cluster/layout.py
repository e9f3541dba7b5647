"""Where billing keeps its journals: read from the cluster, and compared with the settings.

Rules:

- The StatefulSet's volume ``journal`` decides: a claim that all pods share (a directory
  ``journal-<pod>`` for each in it), or a claim template (a claim ``journal-<pod>`` for each pod,
  the file at its root). Layout is not access mode: a shared claim may be ReadWriteOnce.
- Every claim counts, also those that a scale-in has left: their journals are owed too.
- Only a bound claim gets a worker. A Pending one would be bound by it, to a node of its choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from backup.cluster.api import Object
from backup.cluster.billing import StatefulSet
from backup.errors import ConfigError
from backup.model import Journal

VOLUME: Final = "journal"
"""The name of billing's volume, and of its claim template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A claim that holds journals."""

    claim: str
    journals: tuple[str, ...]
    """Those that have to be on it; a shared one may hold more."""
    pods: tuple[str, ...]
    """The pods of billing that mount it, by their names, if they are there."""
    is_idle: bool
    """Whether billing, as it is scaled, has none of these pods."""
    is_shared: bool
    is_bound: bool
    access_modes: tuple[str, ...]

    @property
    def at(self) -> str:
        """Its directory below the source; a shared volume is mounted as the source itself."""
        return "" if self.is_shared else self.claim


def read_volumes(
    claims: Iterable[Object], billing: StatefulSet, *, expected: Iterable[str]
) -> tuple[Volume, ...]:
    """Find the claims that hold billing's journals.

    Args:
        claims: all that there are.
        billing: its StatefulSet.
        expected: journals that somebody else knows of: settings, catalogs.

    Raises:
        ConfigError: billing keeps no journal on a claim.
    """
    named = {claim["metadata"]["name"]: claim for claim in claims}
    shared = _shared_claim(billing.body)
    running = billing.journals
    if shared is not None:
        names = tuple(_sorted({*running, *expected}))
        found = named.get(shared)
        return () if found is None else (_volume(found, names, running, is_shared=True),)
    templates = billing.body["spec"].get("volumeClaimTemplates") or []
    if VOLUME not in {template["metadata"]["name"] for template in templates}:
        message = f"{billing.name} keeps no journal on a volume claim"
        raise ConfigError(
            message,
            f"its pods have neither a volume nor a claim template named {VOLUME}",
            "is BACKUP_STATEFULSET billing's?",
        )
    own = [name for name in named if Journal.is_of(billing.name, name)]
    return tuple(_volume(named[name], (name,), running, is_shared=False) for name in _sorted(own))


def _sorted(names: Iterable[str]) -> list[str]:
    known = [(journal.ordinal, name) for name in names if (journal := Journal.parse(name))]
    return [name for _, name in sorted(known)]


def _shared_claim(body: Object) -> str | None:
    volumes = body["spec"]["template"]["spec"].get("volumes") or []
    ours: Object = next((volume for volume in volumes if volume["name"] == VOLUME), {})
    claim: str | None = (ours.get("persistentVolumeClaim") or {}).get("claimName")
    return claim


def _volume(
    claim: Object, journals: tuple[str, ...], running: frozenset[str], *, is_shared: bool
) -> Volume:
    return Volume(
        claim=claim["metadata"]["name"],
        journals=journals,
        pods=tuple(name.removeprefix("journal-") for name in journals),
        is_idle=running.isdisjoint(journals),
        is_shared=is_shared,
        is_bound=claim.get("status", {}).get("phase") == "Bound",
        access_modes=tuple(claim["spec"].get("accessModes") or ()),
    )


def bound_journals(volumes: Iterable[Volume]) -> set[str]:
    """Name the journals that can be read."""
    return {journal for volume in volumes if volume.is_bound for journal in volume.journals}
