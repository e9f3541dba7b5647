"""The Jobs of runs: by which labels they are known, and how what a run has left is removed.

Rules:

- All that a run makes bears its id and billing's name. So whoever comes later (the next run, the
  guard, a hook) finds what a run that is gone has left, and needs nothing but billing's name.
- Jobs are removed, and their pods go with them, in the few seconds' grace that they were made
  with. Deleting pods themselves would want a right over all pods, billing's among them.
"""

from __future__ import annotations

from typing import Final

from backup.cluster.api import Api

RUN_LABEL: Final = "deepgram-journal-backup/run"
"""Bears the id of the run that made it."""
STATEFULSET_LABEL: Final = "deepgram-journal-backup/statefulset"
"""Bears billing's name."""
ROLE_LABEL: Final = "deepgram-journal-backup/role"
"""Bears ``worker``: people select by it."""

REMOVAL_SECONDS: Final = 10.0
"""How long removing workers may take before billing is scaled back all the same."""


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
