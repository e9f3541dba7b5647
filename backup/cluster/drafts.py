"""What was put while billing was down becomes backups, now that it runs.

Rules:

- A Job without volumes reads back and commits what the workers have put: that needs no journal, and
  is no downtime.
- What the sinks hold afterwards decides, and not what that Job says: a lost message is no failure.
- A journal that was put and is not committed has failed; the one line that commits it is named.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

from backup.answer import JournalAnswer
from backup.cluster.crew import PUT, WAIT_SECONDS, Crew, WorkerOutcome, half_known
from backup.cluster.pods import Pod, in_brackets
from backup.cluster.workers import Order, worker_name
from backup.errors import BackupError, JournalError, SinkError


def commit(crew: Crew) -> None:
    """Have a run's drafts committed, if there are any, and put right what is known of each journal.

    Raises:
        ClusterError: the cluster does not answer, or another run has taken over.
    """
    if not any(outcome.is_put for outcome in crew.outcomes.all):
        return
    job = crew.create(
        Order(
            name=worker_name(crew.template, "commit", "drafts"),
            arguments=("commit", f"--run={crew.run.id}"),
            seconds=crew.seconds_left(),
        )
    )
    pod = _await_end(crew, job)
    answer = pod.answer if pod else None
    if answer:
        crew.outcomes.hear(answer, job)
    why = pod.why_ended() if pod else f"did not begin{in_brackets(crew.api, job)}"
    said = "" if answer else f": its worker {why}"
    backups = crew.outcomes.find(crew.run.id)
    crew.outcomes.all = [
        _judged(crew, outcome, backups.get(outcome.journal), said) if outcome.is_put else outcome
        for outcome in crew.outcomes.all
    ]


def _await_end(crew: Crew, job: str) -> Pod | None:
    """Wait for a Job's end; None if it has not begun in time."""
    begun = time.monotonic()
    while True:
        pod = crew.pods.of_job(job)
        if pod is not None and pod.has_ended:
            return pod
        is_late = time.monotonic() - begun > WAIT_SECONDS
        if is_late and (pod is None or not pod.is_running):
            return None
        crew.wait()


def _judged(
    crew: Crew, outcome: WorkerOutcome, backup: JournalAnswer | None, why: str
) -> WorkerOutcome:
    """Say what came of a journal that was put, by what the sinks hold.

    Args:
        crew: the run's.
        outcome: what was known before.
        backup: what there is.
        why: why there is no more, if that is known.
    """
    silence = crew.outcomes.silent.get(outcome.journal)
    if backup is None:
        hint = f"journal-backup commit --run {crew.run.id}"
        lost: BackupError = SinkError(f"was put, and is not committed{why}", hint)
        if silence:  # it was not put at all, if its worker has not said so
            lost = JournalError(f"its worker {silence}")
        crew.run.fail(lost, journal=outcome.journal)
        return replace(outcome, state="failed", id=None)
    if silence:
        crew.run.fail(half_known(outcome.journal, silence))
    state = backup.state if outcome.state == PUT else outcome.state
    return replace(outcome, **{**asdict(backup), "state": state})
