"""Billing, scaled down and back: the only code that touches its replicas.

Rules:

- Billing is scaled by PUT on ``statefulsets/scale``, with the version that was read.
- It is scaled down only from the number that the record names, and only after the record is
  written: from the first moment that it may be down, anybody can bring it back.
- It is scaled back only while the StatefulSet is the recorded one (by uid) and stands at 0. Where
  somebody has scaled it meanwhile, that is left alone; where it is gone, or was made anew, the
  record is dropped, and nothing is scaled.
- A rescue removes the workers first, as billing may need the volumes that they have; where that
  fails, billing is brought back all the same.
- *Restored* means ``spec.replicas``. When pods are ready again is for them to say, and is waited
  for only by the run that measures the downtime.
- Where it cannot be scaled back, the error says so with exit code 8 and the one line for kubectl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from backup.cluster.api import Api, Object
from backup.cluster.lease import Held, Lease, Record
from backup.errors import (
    BackupError,
    BillingDownError,
    ClusterConflictError,
    ClusterError,
    ClusterMissingError,
    LeaseHeldError,
    LeaseLostError,
    RefusedError,
)
from backup.model import Emit, Problem, Warned
from backup.stop import Stop

RUN: Final = "deepgram-journal-backup/run"
"""The label of all that a run makes: its id."""
OF: Final = "deepgram-journal-backup/statefulset"

LET_GO_SECONDS: Final = 10.0
"""How long workers are tried to be removed before billing is scaled back."""

_TRIES = 20
_HOW: Final = {
    "gone": "is gone since it was scaled down",
    "made anew": "was made anew since it was scaled down",
}

Back = Literal["restored", "was up", "gone", "made anew"]
Resumed = Literal["nothing to do", "under way", "pushed aside", Back]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatefulSet:
    """Billing's, as it is now."""

    name: str
    uid: str
    replicas: int
    body: Object


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeResult:
    """What ``resume-billing`` found and did."""

    statefulset: str
    state: Resumed
    replicas: int | None
    """What the record says; None where there was none."""
    holder: str | None
    """The run that left it, that is under way, or that was about to scale it down."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Warned, ...] = ()

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """The exit code of every problem."""
        return tuple(p.exit_code for p in self.problems)


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
    return _billing(body)


def _billing(body: Object) -> StatefulSet:
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


def scale_down(api: Api, billing: StatefulSet, *, asking: Callable[[], None]) -> None:
    """Scale billing to 0, from what it was when it was read.

    Args:
        api: the cluster.
        billing: as it was read.
        asking: called before each request; without one, billing is as others have left it.

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
    """Scale billing back to what the record says.

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
        raise _down(api, name, record, how, error) from error
    return found[-1] if is_there else "gone"


def _down(api: Api, name: str, record: Record, how: str, error: BackupError) -> BillingDownError:
    """Say why billing is down, with the one line that brings it back."""
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


# -- what a run that is gone has left


def resume(
    api: Api, statefulset: str, lease: Lease, *, take_over: bool, emit: Emit
) -> ResumeResult:
    """Bring billing back if a run that is gone has left it down.

    Args:
        api: the cluster.
        statefulset: billing's.
        lease: in our hands.
        take_over: bring it back whoever is under way: the release is about to be removed.
        emit: told of what is odd.

    Raises:
        BillingDownError: it may still be down.
        LeaseHeldError: it was to be taken over, and is written by others again and again.
        ClusterError: the cluster did not say.
    """
    for _ in range(_TRIES):
        held = lease.read()
        if held is None or not (held.record or (take_over and _may_scale(held))):
            return ResumeResult(
                statefulset=statefulset, state="nothing to do", replicas=None, holder=None
            )
        under_way = ResumeResult(
            statefulset=statefulset,
            state="under way",
            replicas=held.record.replicas if held.record else None,
            holder=held.holder,
        )
        if not take_over and not lease.is_stale(held):
            return under_way
        try:
            return _take_over(api, statefulset, lease, held, emit=emit)
        except LeaseHeldError:  # by the run itself, which renewed it, or by another rescuer
            if not take_over:
                return under_way
    message = f"the lease {lease.name} was written by others {_TRIES} times"
    raise LeaseHeldError(message, "try again")


def _may_scale(held: Held) -> bool:
    """Whether a run is under way that may yet scale billing down."""
    return bool(held.holder) and held.owner is not None and held.owner.may_scale


def _take_over(api: Api, statefulset: str, lease: Lease, held: Held, *, emit: Emit) -> ResumeResult:
    try:
        lease.seize(held)
        if held.record is not None:
            return recover(api, statefulset, lease, held.record, of=held.holder, emit=emit)
        lease.release()
    except (BillingDownError, LeaseHeldError):
        raise
    except BackupError as error:
        if held.record is None:
            raise
        raise _down(api, statefulset, held.record, "may be down", error) from error
    return ResumeResult(
        statefulset=statefulset, state="pushed aside", replicas=None, holder=held.holder
    )


def recover(
    api: Api, statefulset: str, lease: Lease, record: Record, *, of: str, emit: Emit
) -> ResumeResult:
    """Do what a record says, and remove it; the lease is ours, and is free afterwards.

    Raises:
        BillingDownError: it may still be down.
    """
    problems = [*_let_go(api, f"{OF}={statefulset}")]
    state = bring_back(api, statefulset, record)
    try:
        lease.note(None)
        lease.release()
    except LeaseLostError:  # another rescuer's: it finds billing up, and lets go of it
        pass
    except BackupError as error:  # the next rescuer finds it up
        problems.append(Problem.of(error))
    warnings: tuple[Warned, ...] = ()
    if state in _HOW:
        warnings = (Warned(message=f"{statefulset} {_HOW[state]}: nothing was scaled"),)
    for warning in warnings:
        emit(warning)
    for problem in problems:
        emit(problem)
    return ResumeResult(
        statefulset=statefulset,
        state=state,
        replicas=record.replicas,
        holder=of,
        problems=tuple(problems),
        warnings=warnings,
    )


def _let_go(api: Api, labels: str) -> tuple[Problem, ...]:
    """Remove workers, in a time of its own: what fails here does not keep billing down."""
    try:
        remove_workers(api.under(Stop(seconds=LET_GO_SECONDS)), labels)
    except BackupError as error:
        return (Problem.of(error),)
    return ()


def remove_workers(api: Api, labels: str, *, but: str = "") -> list[str]:
    """Delete Jobs that hold journals' volumes; give their names.

    Their pods get the few seconds' grace that they were made with.
    """
    names = []
    for job in api.list("jobs", labels=labels):
        metadata = job["metadata"]
        if not but or metadata["labels"].get(RUN) != but:
            api.delete("jobs", metadata["name"], uid=metadata["uid"])
            names.append(metadata["name"])
    return names
