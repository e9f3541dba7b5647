"""One Lease: the lock that keeps two runs apart, and the record by which billing comes back.

Rules:

- Each StatefulSet has one Lease, made by the first run and kept: it belongs to no release, and not
  to the StatefulSet, which sites delete and make anew when they upgrade.
- Every write is compare and swap. Whoever holds it renews it, the *heartbeat*, and reads it before
  each step; a run that finds another one's id in it stops where it is. What others write on it
  beside that (labels, notes of their own) is kept, and no loss.
- The *record* is written before billing is scaled down, and removed once it is scaled back: which
  StatefulSet (by uid), how many replicas, until when. It needs no memory of any process.
- It is *stale* when its heartbeat is older than :data:`STALE_SECONDS`, when its deadline has
  passed, or when its owner is gone or finished. (The pod of a dead node stays "Running" for
  minutes: so the heartbeat counts. A pod that was killed cannot wait a minute: so the owner does.)
- Whoever takes a stale one over first writes itself in, and then does what the record says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import KW_ONLY, asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from backup.cluster.api import Api, Object
from backup.errors import ClusterConflictError, LeaseHeldError, LeaseLostError, RefusedError
from backup.run import Run

STALE_SECONDS: Final = 60
"""After this long without a heartbeat a run is taken for dead."""
BEAT_SECONDS: Final = 10
"""Between two heartbeats."""
RECORD: Final = "deepgram-journal-backup/record"
OWNER: Final = "deepgram-journal-backup/owner"
MEASURED: Final = "deepgram-journal-backup/measured"
MEASURES: Final = 3
"""How many scale-downs are remembered."""

_TRIES = 20
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_ENDED = {"Succeeded", "Failed"}
_NONSENSE = (KeyError, OverflowError, TypeError, ValueError)
"""What reading a note raises that somebody has edited."""
_HOW_LOST: Final = (
    "by resume-billing --take-over, which helm upgrade and helm uninstall run: back up again",
    "or this run did not renew it in time: look at its node, and at the way to the API server",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The pod of a run."""

    pod: str = ""
    """Empty for somebody at a terminal."""
    uid: str = ""
    may_scale: bool = False
    """Whether the run may scale billing down, if it has not yet."""

    @classmethod
    def of(cls, api: Api, pod: str | None) -> Self:
        """Look a pod up by its name; somebody at a terminal has none."""
        body = api.get("pods", pod) if pod else None
        return cls(pod=body["metadata"]["name"], uid=body["metadata"]["uid"]) if body else cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What has to be put back."""

    uid: str
    """The StatefulSet's: one that was made anew is another."""
    replicas: int
    deadline: datetime
    """When billing must be back, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a scale-down took: by the last few, the next one is judged beforehand."""

    size_bytes: int
    """Of all journals that were copied."""
    seconds: float
    """From the scale-down until the last copy was made."""


@dataclass(frozen=True, slots=True)
class Held:
    """A Lease as it was read, or is to be."""

    body: Object
    holder: str
    """The id of the run that holds it; empty if nobody does."""
    renewed_at: datetime | None
    record: Record | None
    owner: Owner | None
    measured: tuple[Measured, ...]
    """The last few, newest first."""


def lease_name(statefulset: str) -> str:
    """Name the Lease of a StatefulSet, whatever the release that backs it up is called."""
    return f"{statefulset}-journal-backup"


@dataclass(frozen=True, slots=True)
class Lease:  # each of its many methods is a step of one protocol
    """The Lease of a StatefulSet, in the hands of one run."""

    run: Run
    api: Api
    statefulset: str
    _: KW_ONLY
    owner: Owner
    """The run's pod."""

    @property
    def name(self) -> str:
        """Its own."""
        return lease_name(self.statefulset)

    def under(self, api: Api) -> Lease:
        """Return this Lease with another API: one that may go on after a stop."""
        return replace(self, api=api)

    def read(self) -> Held | None:
        """Read it; None before the first run has made it.

        Raises:
            RefusedError: the record in it makes no sense: somebody has edited it.
        """
        body = self.api.get("leases", self.name)
        return None if body is None else _held(body)

    def is_stale(self, held: Held) -> bool:
        """Whether its holder will not come back to it."""
        now = self.run.clock()
        if held.renewed_at is None or now - held.renewed_at > timedelta(seconds=STALE_SECONDS):
            return True
        if held.record is not None and now > held.record.deadline:
            return True
        return held.owner is None or self._is_gone(held.owner)

    def _is_gone(self, owner: Owner) -> bool:
        if not owner.pod:  # no pod: somebody at a terminal, of whom nothing but the time is known
            return False
        pod = self.api.get("pods", owner.pod)
        return (
            pod is None
            or pod["metadata"]["uid"] != owner.uid
            or pod.get("status", {}).get("phase") in _ENDED
        )

    # -- taking it

    def take(self) -> Held | None:
        """Lock out other runs; give the Lease as it was left.

        Raises:
            LeaseHeldError: another run is under way.
        """
        held = self.read()
        if held is not None and held.holder not in {"", self.run.id} and not self.is_stale(held):
            raise _held_by(held)
        self.seize(held)
        return held

    def seize(self, held: Held | None) -> None:
        """Write ourselves in, whoever holds it; the record stays in it. Where it is None, make it.

        Raises:
            LeaseHeldError: another run was faster.
        """
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        before = held or _held({**kind, "metadata": {"name": self.name}})
        body = self._signed(replace(before, holder=self.run.id))
        try:
            if held is None:
                self.api.create("leases", body)
            else:
                self.api.replace("leases", self.name, body)
        except ClusterConflictError as error:  # another run's, or a try of ours without an answer
            now = self.read()
            if now is None or now.holder != self.run.id:
                raise _held_by(now) from error

    # -- while it is ours

    def require(self) -> Held:
        """Insist that it is still ours.

        Raises:
            LeaseLostError: it is not.
        """
        held = self.read()
        if held is None or held.holder != self.run.id:
            other = f"run {held.holder}" if held and held.holder else "somebody"
            message = f"{other} has taken over the lease {self.name}"
            raise LeaseLostError(message, *_HOW_LOST)
        return held

    def renew(self) -> None:
        """Give a sign of life.

        Raises:
            LeaseLostError: the Lease is not ours any more.
        """
        self._write(lambda held: held)

    def write_record(self, record: Record) -> None:
        """Say what has to be put back; it is there when this returns.

        Raises:
            LeaseLostError: the Lease is not ours any more.
        """
        self._write(lambda held: replace(held, record=record))

    def clear_record(self) -> None:
        """Say that nothing has to be put back any more; where nothing had to, change nothing.

        Raises:
            LeaseLostError: the Lease is not ours any more.
        """
        self._write(lambda held: replace(held, record=None) if held.record else None)

    def remember(self, measured: Measured) -> None:
        """Keep a measure, beside the last few, for the runs to come.

        Raises:
            LeaseLostError: the Lease is not ours any more.
        """
        self._write(lambda held: replace(held, measured=(measured, *held.measured)[:MEASURES]))

    def release(self) -> None:
        """Let others have it; with a record it stays as it is, for whoever brings billing back.

        Raises:
            LeaseLostError: the Lease is not ours any more.
        """
        self._write(lambda held: None if held.record else replace(held, holder=""))

    def _write(self, change: Callable[[Held], Held | None]) -> None:
        """Change it, as long as it is ours; where the change is None, leave it.

        What others write on it meanwhile is read, and kept.
        """
        held = self.require()
        for _ in range(_TRIES):
            changed = change(held)
            if changed is None or self._has_replaced(self._signed(changed)):
                return
            held = self.require()
        message = f"the lease {self.name} was changed by others {_TRIES} times"
        raise LeaseLostError(message, *_HOW_LOST)

    def _has_replaced(self, body: Object) -> bool:
        """Write it; False at a conflict, unless with a try of ours whose reply was lost."""
        try:
            self.api.replace("leases", self.name, body)
        except ClusterConflictError:
            now = self.read()
            return now is not None and _what_it_says(now.body) == _what_it_says(body)
        return True

    def _signed(self, held: Held) -> Object:
        """Give a Lease as it is to be, renewed now and signed by us; notes of others stay."""
        now = self.run.clock().strftime(_TIME)
        metadata, record = held.body["metadata"], held.record
        notes = {**(metadata.get("annotations") or {}), OWNER: json.dumps(asdict(self.owner))}
        notes.pop(RECORD, None)
        if record is not None:
            deadline = record.deadline.strftime(_TIME)
            notes[RECORD] = json.dumps({**asdict(record), "deadline": deadline})
        if held.measured != _measured(notes):
            notes[MEASURED] = json.dumps([asdict(one) for one in held.measured])
        before = held.body.get("spec") or {}
        is_ours = before.get("holderIdentity") == self.run.id
        spec = {
            "holderIdentity": held.holder,
            "leaseDurationSeconds": STALE_SECONDS,
            "acquireTime": before.get("acquireTime", now) if is_ours else now,
            "renewTime": now,
        }
        return {**held.body, "metadata": {**metadata, "annotations": notes}, "spec": spec}


def _what_it_says(body: Object) -> tuple[Object, Object]:
    """Give what is compared to recognise a Lease that we have written."""
    return body["spec"], body["metadata"].get("annotations") or {}


def _held_by(held: Held | None) -> LeaseHeldError:
    holder = f"run {held.holder}" if held and held.holder else "another run"
    pod = f" (pod {held.owner.pod})" if held and held.owner else ""
    seen = f", last seen {held.renewed_at:%H:%M:%S} UTC" if held and held.renewed_at else ""
    message = f"{holder}{pod} is under way{seen}"
    return LeaseHeldError(message, "let it end; one that was killed is taken over within a minute")


def _held(body: Object) -> Held:
    spec = body.get("spec") or {}
    notes = body["metadata"].get("annotations") or {}
    try:
        record = _record(json.loads(notes[RECORD])) if RECORD in notes else None
        owner = _owner(json.loads(notes[OWNER])) if OWNER in notes else None
        measured = _measured(notes)
        renewed_at = _time(spec["renewTime"]) if spec.get("renewTime") else None
    except _NONSENSE as error:
        name = body["metadata"]["name"]
        message = f"what the lease {name} says cannot be read: {error}"
        raise RefusedError(
            message,
            "see that billing has its replicas, then: kubectl delete lease " + name,
        ) from error
    return Held(body, spec.get("holderIdentity") or "", renewed_at, record, owner, measured)


def _owner(found: Object) -> Owner:
    may_scale = bool(found.get("may_scale"))
    return Owner(pod=str(found["pod"]), uid=str(found["uid"]), may_scale=may_scale)


def _measured(notes: dict[str, str]) -> tuple[Measured, ...]:
    """Read the measures; none where they make no sense, as no rescue must fail for them."""
    try:
        return tuple(
            Measured(size_bytes=int(one["size_bytes"]), seconds=float(one["seconds"]))
            for one in json.loads(notes.get(MEASURED, "[]"))
        )
    except _NONSENSE:
        return ()


def _record(found: Object) -> Record:
    return Record(
        uid=str(found["uid"]),
        replicas=int(found["replicas"]),
        deadline=_time(found["deadline"]),
    )


def _time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        message = f"{text} has no time zone"
        raise ValueError(message)
    return when.astimezone(UTC)
