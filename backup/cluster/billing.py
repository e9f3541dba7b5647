"""Billing: the StatefulSet, scaled down and back. The only code that touches its replicas.

Rules:

- It is scaled by PUT on ``statefulsets/scale``, with the version that was read.
- It is scaled down only from the number that the record names, and only after the record is
  written: from the first moment that it may be down, anybody can bring it back.
- It is scaled back only while the StatefulSet is the recorded one (by uid) and stands at 0. Where
  somebody has scaled it meanwhile, that is left alone; where it is gone, or was made anew, nothing
  is scaled.
- *Restored* means ``spec.replicas``. When pods are ready again is for them to say, and is waited
  for only by the run that measures the downtime.
- Where it cannot be scaled back, the error says so with exit code 8 and the one line for kubectl.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal

from backup.cluster.api import Api, Object
from backup.cluster.lease import Record
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    BillingDownError,
    ClusterConflictError,
    ClusterError,
    ClusterMissingError,
    RefusedError,
)
from backup.events import Problem
from backup.model import Journal

_TRIES = 20

Back = Literal["restored", "was up", "gone", "made anew"]
"""What came of scaling billing back: done, or why there was nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatefulSet:
    """Billing's, as it is now."""

    name: str
    uid: str
    replicas: int
    """As many as it is scaled to, ready or not."""
    body: Object

    @property
    def journals(self) -> frozenset[str]:
        """Those of its pods, by their names."""
        return journals_of(self.name, self.replicas)

    def promises(
        self, journal: str, *, replicas: int, held: Container[str] = ()
    ) -> tuple[str, ...]:
        """Say who promises that a journal is there, and what to do about each promise.

        Args:
            journal: one of its journals.
            replicas: the value of BACKUP_EXPECT_REPLICAS.
            held: the journals that sinks have backups of.
        """
        known = Journal(statefulset=self.name, ordinal=int(journal.rpartition("-")[2]))
        holders = ["a sink"] if journal in held else []
        others = known.promises(replicas=replicas, holders=holders)
        if journal not in self.journals:
            return others
        claims = "kubectl get pvc shows their claims"
        return (f"{self.name} has {self.replicas} replicas: {claims}", *others)


def journals_of(statefulset: str, replicas: int) -> frozenset[str]:
    """Name the journals of so many pods."""
    return frozenset(
        Journal(statefulset=statefulset, ordinal=ordinal).name for ordinal in range(replicas)
    )


def read_billing(api: Api, name: str) -> StatefulSet:
    """Read billing's StatefulSet.

    Raises:
        ClusterMissingError: there is none.
    """
    body = api.get("statefulsets", name)
    if body is None:
        message = f"there is no StatefulSet {name} in namespace {api.namespace}"
        raise ClusterMissingError(
            message, "set BACKUP_STATEFULSET to what kubectl get statefulsets shows"
        )
    metadata = body["metadata"]
    replicas = body["spec"].get("replicas", 1)
    return StatefulSet(name=metadata["name"], uid=metadata["uid"], replicas=replicas, body=body)


def require_harmless(api: Api, billing: StatefulSet) -> None:
    """Insist that scaling down deletes no journal, and that we can see what it does.

    Raises:
        RefusedError: it would delete them.
        ClusterDeniedError: we could not even read the replicas, to bring them back.
    """
    api.get("statefulsets", billing.name, sub="scale")
    policy = billing.body["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
    if policy.get("whenScaled") == "Delete":
        message = f"scaling {billing.name} down would delete its journals"
        raise RefusedError(
            message,
            "its persistentVolumeClaimRetentionPolicy.whenScaled is Delete: set it to Retain",
            "or set BACKUP_STRATEGY=colocated",
        )


def was_stopped(billing: StatefulSet) -> Problem:
    """Report that it was at 0 when we came, which may be a mistake."""
    return Problem(
        exit_code=NEEDS_A_LOOK,
        message=f"{billing.name} is scaled to 0, and not by this tool",
        hints=(
            "scale it up, if that is not meant",
            "BACKUP_ALLOW_STOPPED=true says that it is",
        ),
    )


def scale_down(api: Api, billing: StatefulSet, *, asking: Callable[[], None]) -> None:
    """Scale billing to 0, from what it was when it was read.

    Args:
        api: the cluster.
        billing: as it was read.
        asking: called before each request; if never called, this run has not touched billing.

    Raises:
        RefusedError: somebody has changed it since.
    """
    has_asked = False

    def decide(scale: Object) -> int | None:
        nonlocal has_asked
        if scale["metadata"]["uid"] != billing.uid:
            message = f"{billing.name} was made anew meanwhile"
            raise RefusedError(message, "somebody is upgrading it: try again later")
        now = scale["spec"].get("replicas", 0)
        if now == 0 and has_asked:  # by a try of ours whose reply was lost
            return None
        if now != billing.replicas:
            message = f"{billing.name} was scaled from {billing.replicas} to {now} meanwhile"
            raise RefusedError(message, "somebody else is scaling it: try again later")
        has_asked = True
        asking()
        return 0

    _scale(api, billing.name, decide)


def bring_back(api: Api, name: str, record: Record) -> Back:
    """Scale billing back to what the record says, if it is the recorded one, and at 0.

    Args:
        api: the cluster.
        name: billing's.
        record: what it was before.

    Raises:
        BillingDownError: it may still be down.
    """
    found: list[Back] = []

    def decide(scale: Object) -> int | None:
        if scale["metadata"]["uid"] != record.uid:
            found.append("made anew")
            return None
        if scale["spec"].get("replicas", 0):
            found.append("restored" if "restored" in found else "was up")
            return None
        found.append("restored")
        return record.replicas

    try:
        is_there = _scale(api, name, decide)
    except BackupError as error:
        how = "is down and could not be scaled back" if found else "may be down"
        raise still_down(api, name, record, how, error) from error
    return found[-1] if is_there else "gone"


def still_down(
    api: Api, name: str, record: Record, how: str, error: BackupError
) -> BillingDownError:
    """Make the error of billing that is, or may be, down: the line that brings it back comes first.

    Args:
        api: the cluster.
        name: billing's.
        record: what it was before.
        how: whether it is down, or may be.
        error: what kept it from being scaled back.
    """
    line = f"kubectl -n {api.namespace} scale statefulset {name} --replicas={record.replicas}"
    return BillingDownError(f"billing {how}: {error.message}", line, *error.hints)


def _scale(api: Api, name: str, decide: Callable[[Object], int | None]) -> bool:
    """Write the replicas that are decided on after each reading; False if nothing is there."""
    for _ in range(_TRIES):
        scale = api.get("statefulsets", name, sub="scale")
        if scale is None:
            return False
        wanted = decide(scale)
        if wanted is None:
            return True
        spec: dict[str, Any] = {**scale.get("spec", {}), "replicas": wanted}
        try:
            api.replace("statefulsets", name, {**scale, "spec": spec}, sub="scale")
        except ClusterConflictError:
            continue  # the controller writes its status, and with it another version
        return True
    message = f"{name} was changed by others {_TRIES} times while it was to be scaled"
    raise ClusterError(message)
