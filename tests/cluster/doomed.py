"""Runs that are to end, or to be held, at one of their writes, and what has to hold after.

What a run writes is all that it does to the cluster, so its steps are its writes: :data:`STEPS`,
which a whole run is compared with.
"""

from __future__ import annotations

import json
import signal
from typing import Any

from backup.cluster.lease import RECORD, lease_name
from backup.cluster.strategies import RULES
from tests.cluster.controlplane import until
from tests.cluster.site import BILLING, Ended, Site

LEASE = lease_name(BILLING)
STEPS = (
    "POST leases",
    "POST jobs",  # the worker
    "PUT leases",  # the record
    "PUT scale",  # to 0
    "PATCH pods",  # the gate
    "PUT scale",  # back
    "PUT leases",  # no record
    "POST jobs",  # the commit
    "PUT leases",  # what it took
    "PUT leases",  # released
)
RECORD_AFTER, DOWN_AFTER, BACK_AFTER, COMMIT = 3, 4, 6, 8
"""The writes of billing's way to 0 and back, and of the last thing that counts."""
_READS = ("GET", "LIST", "WATCH")


def numbered(steps: tuple[str, ...]) -> list[str]:
    """Name steps that are parameters."""
    return [f"{number}-{step}" for number, step in enumerate(steps, 1)]


def steps(here: Site) -> tuple[str, ...]:
    """What a run has written, without its signs of life."""
    lines = (here.root / "requests").read_text().splitlines()
    return tuple(_short(line) for line in lines if not line.startswith(_READS))


def _short(line: str) -> str:
    method, _, path = line.partition(" ")
    parts = path.split("/")
    return f"{method} {'scale' if parts[-1] == 'scale' else parts[0]}"


# -- runs


def run(here: Site, *arguments: str, **doom: Any) -> Ended:
    """Run a backup that is doomed."""
    return here.ended(begin_doomed(here, *arguments, **doom))


def begin_doomed(here: Site, *arguments: str, **doom: Any) -> str:
    """Begin a backup, or what is said instead, that is doomed."""
    here.grant(*RULES["scale-down"], *RULES["resume-billing"])
    silent = {"SILENT": "yes"} if doom.pop("silent", False) else {}
    env = {"BEAT_SECONDS": "60", **doom.pop("env", {}), **silent}
    requests = str(here.root / "requests")
    return here.run_backup(
        "scale-down", *arguments, DOOM=json.dumps(doom), REQUESTS=requests, **env
    )


def begin_held(here: Site, number: int, *arguments: str, when: str = "after", **more: Any) -> str:
    """Begin a backup, or what is said instead, and hold it at a write."""
    job = begin_doomed(here, *arguments, at=number, when=when, how="SIGSTOP", **more)
    here.await_held(job)
    return job


def go_on(here: Site, *jobs: str) -> None:
    """Let those that are held go on."""
    for job in jobs:
        here.signal(job, signal.SIGCONT)


def begin(here: Site, *, until_step: str, **env: str) -> str:
    """Run a scale-down until it says something."""
    here.grant(*RULES["scale-down"], *RULES["resume-billing"])
    job = here.run_backup("scale-down", **env)
    here.await_step(job, until_step)
    return job


def guard(here: Site, *more: str) -> Ended:
    """Run what the guard runs, or a hook."""
    return here.ended(here.run_backup("scale-down", "resume-billing", "--json", *more))


def rescue(here: Site) -> list[str]:
    """Run what the guard runs, as often as it takes; give what it said each time."""
    said: list[str] = []

    def is_done() -> bool:
        ended = guard(here)
        assert ended.exit_code == 0, ended.log
        said.append(ended.report["state"])
        return said[-1] != "under way"

    until(is_done, "the guard is done")
    return said


# -- billing


def create_billing(here: Site) -> None:
    """Have two replicas, whose number must come back, and one volume, so one worker."""
    here.create_billing(replicas=2, shared="dg-journals")


def delete_billing(here: Site) -> None:
    """Delete the StatefulSet, and leave the volume."""
    here.delete("statefulsets", BILLING)
    until(lambda: here.get("statefulsets", BILLING) is None, "it is gone")


def require_back(here: Site, replicas: int = 2) -> None:
    """Insist that billing is as it was, and that nothing is in its way."""
    assert here.replicas() == replicas
    here.await_billing(replicas)
    require_no_record(here)


def require_no_record(here: Site) -> None:
    """Insist that nobody is told to scale anything."""
    lease = here.get("leases", LEASE)
    assert lease is None or RECORD not in lease["metadata"].get("annotations", {})


def require_nothing_left(here: Site) -> None:
    """Insist that the Lease is free, and that no worker runs or waits."""
    assert here.get("leases", LEASE)["spec"]["holderIdentity"] == ""
    until(lambda: not _live_workers(here), "no worker is left")


def _live_workers(here: Site) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in here.every("pods", "deepgram-journal-backup/role=worker")
        if pod["status"]["phase"] not in {"Succeeded", "Failed"}
    ]
