"""What a run that is gone has left is put right: its workers go, and billing comes back.

Every run begins with it, the guard repeats it, and the hooks of the chart insist on it. Rules:

- The record in the Lease says what to do, and only a record does. A run that is under way is left
  alone, unless it is to be taken over: the release, and with it the right to scale, is about to go.
- All that a run makes bears its id and billing's name. So whoever comes later (the next run, the
  guard, a hook) finds what a run that is gone has left, and needs nothing but billing's name.
- Workers are Jobs: their pods go with them, in the few seconds' grace that they were made with.
  Deleting pods themselves would want a right over all pods, billing's among them.
- Workers are removed first, as billing may need the volumes that they have; where that fails,
  billing is brought back all the same.
- The record is removed last. Who dies before that is rescued by the next one, who finds billing up.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from backup.cluster.api import Api, Rule
from backup.cluster.billing import Back, bring_back, still_down
from backup.cluster.lease import Held, Lease, Record
from backup.errors import BackupError, BillingDownError, LeaseHeldError, LeaseLostError
from backup.events import Problem, Warned
from backup.page import Page
from backup.results import Result, say_warnings
from backup.stop import Stop

RUN_LABEL: Final = "deepgram-journal-backup/run"
"""Bears the id of the run that made it."""
STATEFULSET_LABEL: Final = "deepgram-journal-backup/statefulset"
"""Bears billing's name."""
ROLE_LABEL: Final = "deepgram-journal-backup/role"
"""Bears ``worker``: people select by it."""
REMOVAL_SECONDS: Final = 10.0
"""How long removing workers may take before billing is scaled back all the same."""
RESUME: Final = (
    Rule(group="coordination.k8s.io", resource="leases", verbs=("get", "update"), named=True),
    Rule(group="apps", resource="statefulsets/scale", verbs=("get", "update"), named=True),
    Rule(group="", resource="pods", verbs=("get",)),
    Rule(group="batch", resource="jobs", verbs=("list", "delete")),
)
"""The rights for the verb ``resume-billing``, which the guard and the hooks run."""

_TRIES = 20
_NOT_SCALED: Final = {
    "gone": "is gone since it was scaled down",
    "made anew": "was made anew since it was scaled down",
}

Resumed = Literal["nothing to do", "under way", "pushed aside", Back]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeResult(Result):
    """What ``resume-billing`` found and did."""

    statefulset: str
    state: Resumed
    replicas: int | None = None
    """What the record says; None where there was none."""
    holder: str | None = None
    """The run that left it, that is under way, or that was about to scale it down."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Warned, ...] = ()

    def write(self, page: Page) -> None:
        """Write it, for people."""
        say_warnings(page, self.warnings)
        said = _RESUMED[self.state]
        page.say(said.format(name=self.statefulset, holder=self.holder, replicas=self.replicas))


_RESUMED = {
    "nothing to do": "{name} was left down by nobody",
    "under way": "{name} is down for run {holder}, which is under way: left alone",
    "pushed aside": "run {holder} was about to scale {name} down: it will not",
    "restored": "{name} is scaled back to {replicas}, where run {holder} had left it at 0",
    "was up": "{name} was up already; the record of run {holder} is removed",
    "gone": "{name} is gone; the record of run {holder} is removed",
    "made anew": "{name} was made anew; the record of run {holder} is removed",
}


def resume(lease: Lease, *, take_over: bool) -> ResumeResult:
    """Bring billing back if a run that is gone has left it down.

    Args:
        lease: billing's, in the hands of the run whose account gets problems and warnings.
        take_over: bring it back whoever is under way: the release is about to be removed.

    Raises:
        BillingDownError: it may still be down.
        LeaseHeldError: it was to be taken over, and is written by others again and again.
        ClusterError: the cluster did not say.
    """
    for _ in range(_TRIES):
        held = lease.read()
        if held is None or not (held.record or (take_over and _may_scale(held))):
            return ResumeResult(statefulset=lease.statefulset, state="nothing to do")
        if take_over or lease.is_stale(held):
            with suppress(LeaseHeldError):  # by the run itself, which renewed it, or a rescuer
                return _take_over(lease, held)
        if not take_over:
            return ResumeResult(
                statefulset=lease.statefulset,
                state="under way",
                replicas=held.record.replicas if held.record else None,
                holder=held.holder,
            )
    message = f"the lease {lease.name} was written by others {_TRIES} times"
    raise LeaseHeldError(message, "try again")


def _may_scale(held: Held) -> bool:
    """Whether a run is under way that may yet scale billing down."""
    return bool(held.holder) and held.owner is not None and held.owner.may_scale


def _take_over(lease: Lease, held: Held) -> ResumeResult:
    try:
        lease.seize(held)
        if held.record is not None:
            return recover(lease, held.record, of=held.holder)
        lease.release()
    except (BillingDownError, LeaseHeldError):
        raise
    except BackupError as error:
        if held.record is None:
            raise
        raise still_down(lease.api, lease.statefulset, held.record, "may be down", error) from error
    return ResumeResult(statefulset=lease.statefulset, state="pushed aside", holder=held.holder)


def recover(lease: Lease, record: Record, *, of: str) -> ResumeResult:
    """Do what a record says, and remove it; the Lease is ours, and is free afterwards.

    Args:
        lease: as for :func:`resume`.
        record: what it says.
        of: the run that left it.

    Raises:
        BillingDownError: it may still be down.
    """
    run, api, statefulset = lease.run, lease.api, lease.statefulset
    failed: list[BackupError] = []
    try:  # in a time of its own; and a failure keeps nobody from going on
        remove_workers(api.under(Stop(seconds=REMOVAL_SECONDS)), statefulset)
    except BackupError as error:
        failed.append(error)
    state = bring_back(api, statefulset, record)
    try:
        lease.clear_record()
        lease.release()
    except LeaseLostError:  # another rescuer's: it finds billing up, and lets go of it
        pass
    except BackupError as error:  # the next rescuer finds it up
        failed.append(error)
    if state in _NOT_SCALED:
        run.warn(f"{statefulset} {_NOT_SCALED[state]}: nothing was scaled")
    for failure in failed:
        run.fail(failure)
    return ResumeResult(
        statefulset=statefulset,
        state=state,
        replicas=record.replicas,
        holder=of,
        problems=tuple(run.problems),
        warnings=tuple(run.warnings),
    )


# -- Jobs


def remove_workers(api: Api, statefulset: str, *, but: str = "") -> None:
    """Delete the workers of all runs on a StatefulSet, ended or not.

    Args:
        api: the cluster.
        statefulset: billing's.
        but: the run whose workers stay.
    """
    for job in api.list("jobs", labels=f"{STATEFULSET_LABEL}={statefulset}"):
        metadata = job["metadata"]
        if not but or metadata["labels"].get(RUN_LABEL) != but:
            api.delete("jobs", metadata["name"], uid=metadata["uid"])


def remove_running(api: Api, run_id: str) -> None:
    """Delete the workers of a run that have not ended; the others can still be looked at."""
    for job in api.list("jobs", labels=f"{RUN_LABEL}={run_id}"):
        status = job.get("status") or {}
        if not status.get("succeeded") and not status.get("failed"):
            api.delete("jobs", job["metadata"]["name"])
