"""The workers of one run: made, waited for, and taken at their word, or at their deed."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from backup import answer
from backup.answer import Answer, JournalAnswer
from backup.cluster import crew as module
from backup.cluster.api import Object
from backup.cluster.billing import read_billing
from backup.cluster.colocated import Colocated
from backup.cluster.crew import PUT, Copies, Crew, Outcomes, Task, WorkerOutcome
from backup.cluster.layout import Volume
from backup.cluster.lease import BEAT_SECONDS, Lease, Owner, lease_name
from backup.cluster.pods import Pod
from backup.cluster.scaledown import ScaleDown
from backup.cluster.workers import GATE, read_template
from backup.errors import ClusterConflictError, ClusterDeniedError, LeaseLostError
from backup.events import Problem, Warned
from backup.run import Run
from backup.settings import ClusterSettings
from tests.journal_data import Clock, Events
from tests.simulated_cluster import BILLING, RUN_ID, SimulatedCluster, Worker, World, hasten

ONE, TWO = f"journal-{BILLING}-0", f"journal-{BILLING}-1"
BACKED_UP = JournalAnswer(journal=ONE, state="backed up", size_bytes=9, records=1, id="id-1")


@pytest.fixture(autouse=True)
def _hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.fixture
def world(world: World) -> World:
    """Make a namespace with two billing pods."""
    world.add_billing(2)
    return world


def crew_of(
    cluster: SimulatedCluster,
    *,
    deadline: timedelta = timedelta(hours=1),
    copies: type[Copies] = Colocated,
) -> Crew:
    """Make a crew for a run that holds the Lease."""
    pod = cluster.world.add_run()
    uid = cluster.world.get("pods", pod)["metadata"]["uid"]
    owner = Owner(pod=pod, uid=uid)
    run = Run(id=RUN_ID, clock=Clock(), emit=Events(), pod=pod)
    lease = Lease(run, cluster, BILLING, owner=owner)
    lease.take()
    template = read_template(run, cluster, read_billing(cluster, BILLING))
    outcomes = Outcomes(run, lambda run_id: cluster.world.stored.get(run_id, {}), copies.are_drafts)
    settings = ClusterSettings(deadline=deadline)
    cluster.process.writes.clear()
    return Crew(run, cluster, settings, template, lease, outcomes, copies)


@pytest.fixture
def crew(cluster: SimulatedCluster) -> Crew:
    """Make the crew of a run."""
    return crew_of(cluster)


@pytest.fixture
def drafting(cluster: SimulatedCluster) -> Crew:
    """Make one whose workers leave drafts."""
    return crew_of(cluster, copies=ScaleDown)


def task(*journals: str) -> Task:
    """Make a task for a volume with these journals."""
    names = journals or (ONE,)
    volume = Volume(
        claim=ONE,
        journals=names,
        pods=(f"{BILLING}-0",),
        is_shared=len(names) > 1,
        is_idle=False,
        is_bound=True,
        access_modes=("ReadWriteOnce",),
    )
    return Task(volume, job="w")


def begin(crew: Crew, what: Task, **order: Any) -> Task:
    """Make a task's worker, and see its pod, if it gets one."""
    what.job = crew.create(replace(crew.order(what), name="w", **order))
    assert isinstance(crew.api, SimulatedCluster)
    for name in crew.api.world.pods_of("w", "Job"):
        while (pod := crew.pods.get(name)) is None or pod.body != crew.api.world.get("pods", name):
            crew.pods.poll(1)
    crew.look(what)
    return what


def ended(phase: str = "Succeeded", message: str = "") -> Pod:
    """Make a pod that has ended."""
    state: Object = {"terminated": {"exitCode": int(phase != "Succeeded"), "message": message}}
    status = {"phase": phase, "containerStatuses": [{"state": state}]}
    return Pod({"metadata": {"name": "w-x"}, "spec": {"nodeName": "n"}, "status": status})


# -- outcomes


def test_what_is_lost_is_kept_and_told() -> None:
    """At once to the log, and in the end to the result."""
    events = Events()
    run = Run(emit=events)
    outcomes = Outcomes(run, lambda _run_id: {}, are_drafts=False)
    lost = WorkerOutcome(journal=ONE, claim="c", state="failed", worker="j")

    outcomes.lose(lost, "why")

    assert events == run.problems == [Problem(exit_code=4, message="why", journal=ONE)]
    assert outcomes.all == [lost]


def test_put_is_what_has_an_id_or_lost_its_words() -> None:
    """Only that is worth a worker that commits."""
    outcomes = [
        WorkerOutcome(journal=ONE, claim="c", state="failed"),
        WorkerOutcome(journal=ONE, claim="c", state=PUT),
        WorkerOutcome(journal=ONE, claim="c", state="backed up", id="id-1"),
    ]

    assert [outcome.is_put for outcome in outcomes] == [False, True, True]


# -- waiting


def test_whoever_waits_keeps_the_lease(crew: Crew, cluster: SimulatedCluster) -> None:
    """At each beat, and not more often: a thousand runs ask the same API server."""
    crew.wait()
    crew.wait()
    assert cluster.writes == []
    crew._beaten_at -= BEAT_SECONDS

    crew.wait()
    crew.wait()

    assert cluster.writes == [f"replace leases {lease_name(BILLING)}"]


def test_whoever_waits_learns_that_the_lease_is_lost(
    crew: Crew, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run has taken over."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.0)
    name = lease_name(BILLING)
    world.edit("leases", name, lambda body: body["spec"].update(holderIdentity="other"))

    with pytest.raises(LeaseLostError, match="run other"):
        crew.wait()


@pytest.mark.parametrize(("hours", "least", "most"), [(1, 3590, 3600), (0, 60, 60), (-1, 60, 60)])
def test_worker_may_take_what_is_left(
    cluster: SimulatedCluster, hours: int, least: int, most: int
) -> None:
    """Never less than a minute: Kubernetes takes no deadline of 0."""
    crew = crew_of(cluster, deadline=timedelta(hours=hours))

    assert least <= crew.seconds_left() <= most


# -- making and removing


@pytest.mark.parametrize("has_reply", [True, False])
def test_worker_is_made_once(
    crew: Crew, cluster: SimulatedCluster, world: World, *, has_reply: bool
) -> None:
    """Its name is this run's alone: one that is there was made by a try without a reply."""
    if not has_reply:
        cluster.lose_reply("create jobs")

    begin(crew, task())

    assert world.names("jobs") == ["journal-backup-1", "w"]
    assert world.pods_of("w", "Job") == ["w-x"]


def test_command_line_names_all_journals_of_the_volume(drafting: Crew) -> None:
    """And the run, by which what it stores is found."""
    assert drafting.order(task(ONE, TWO)).arguments == (
        "worker",
        f"--run={RUN_ID}",
        "--strategy=scale-down",
        f"--journal={ONE},{TWO}",
        "--draft",
    )


def test_gate_is_opened_where_there_is_a_pod(
    crew: Crew, cluster: SimulatedCluster, world: World
) -> None:
    """One without a pod is judged later."""
    made = begin(crew, task(), is_gated=True)
    assert world.get("pods", "w-x")["spec"]["schedulingGates"] == [{"name": GATE}]

    crew.open_gate(made)
    crew.open_gate(Task(made.volume, job="none"))

    assert cluster.written("patch *") == ["patch pods w-x"]
    assert made.made_at > 0


@pytest.mark.parametrize("times", [1, 2, 3])
def test_conflict_that_is_no_reply_of_ours_is_tried_again(
    crew: Crew, cluster: SimulatedCluster, world: World, times: int
) -> None:
    """Many Jobs at once meet conflicts over a quota, and are not there then."""
    cluster.fail("create jobs", ClusterConflictError("cannot be fulfilled on quotas"), times=times)

    with pytest.raises(ClusterConflictError) if times == 3 else nullcontext():
        begin(crew, task())

    assert ("w" in world.names("jobs")) is (times < 3)


@pytest.mark.parametrize("does", ["run on", "be refused"])
def test_worker_goes_with_its_job(
    crew: Crew, cluster: SimulatedCluster, world: World, does: Any
) -> None:
    """Also where it has no pod yet; a right over pods, billing's among them, is not asked for."""
    world.script(ONE, Worker(does=does))
    made = begin(crew, task())

    crew.remove(made)

    assert cluster.written("delete *") == ["delete jobs w"]
    assert world.pods_of("w", "Job") == []


# -- looking


def test_worker_that_does_not_begin_is_late(
    crew: Crew, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has begun is not, however long it takes."""
    world.script(ONE, Worker(does="stay unscheduled"), Worker(does="run on"))
    waits = begin(crew, task())
    waits.made_at = 0.0
    monkeypatch.setattr(module, "WAIT_SECONDS", 1e9)
    assert not crew.is_late(waits)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.0)
    assert crew.is_late(waits)
    assert crew.is_late(task())
    crew.remove(waits)

    runs = begin(crew, task())

    assert crew.look(runs)
    assert not crew.is_late(runs)


def test_refused_pod_is_known_by_an_event(
    crew: Crew, cluster: SimulatedCluster, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for only where a pod is overdue, and not all the time."""
    world.script(ONE, Worker(does="be refused", says="exceeded quota"))
    made = begin(crew, task())
    made.made_at = time.monotonic()
    assert crew.refusal(made) is None
    assert "list events involvedObject.name=w" not in cluster.asked
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)

    assert crew.refusal(made) == "FailedCreate: exceeded quota"

    monkeypatch.setattr(module, "LOOK_SECONDS", 60.0)
    assert crew.refusal(made) is None
    assert cluster.asked.count("list events involvedObject.name=w") == 1


def test_other_events_are_no_refusal(
    crew: Crew, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is there one where a pod is."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    world.paused.add("jobs")
    overdue = begin(crew, task())
    world.add_event("w", "FailedScheduling", "no node")
    assert crew.refusal(overdue) is None
    world.go_on("jobs")
    world.add_event("w", "FailedCreate", "once")
    crew.pods.poll(1)

    assert crew.look(overdue)
    assert crew.refusal(overdue) is None


def test_why_a_worker_waits_is_told(crew: Crew, world: World) -> None:
    """By its pod, and by events about it and its Job."""
    assert crew.why_waiting(task()) == "its worker has no pod"
    world.script(ONE, Worker(does="stay unscheduled", says="0/3 nodes"))
    made = begin(crew, task())
    assert crew.why_waiting(made) == "its worker is not scheduled: 0/3 nodes"

    world.add_event("w-x", "FailedMount", "timed out")

    assert crew.why_waiting(made) == (
        "its worker is not scheduled: 0/3 nodes (FailedMount: timed out)"
    )


def test_how_far_a_worker_has_come_is_told(
    crew: Crew, cluster: SimulatedCluster, world: World
) -> None:
    """With its node, and with events; where those are not to be had, without."""
    assert crew.why_unfinished(task()) == "was not copied: its worker had not begun"
    world.script(ONE, Worker(does="lack its image"), Worker(does="run on"))
    waits = begin(crew, task())
    assert crew.why_unfinished(waits) == f"was not copied: its worker{at(waits)} had not begun"
    crew.remove(waits)
    runs = begin(crew, task())
    assert runs.pod
    world.add_event(runs.pod.name, "NodeNotReady", "Node is not ready")
    told = f"was not copied: its worker{at(runs)} had not ended"

    assert crew.why_unfinished(runs) == f"{told} (NodeNotReady: Node is not ready)"
    cluster.fail("list events", ClusterDeniedError("403"))
    assert crew.why_unfinished(runs) == told


def at(what: Task) -> str:
    """Say where a worker is."""
    return f" on {what.pod.node}" if what.pod and what.pod.node else ""


# -- what came of it


def said(exit_code: int, *journals: JournalAnswer, **more: Any) -> str:
    """Write what a worker says."""
    return answer.write(Answer(exit_code=exit_code, journals=journals, **more))


def test_answer_is_taken_at_its_word(crew: Crew) -> None:
    """Outcomes, problems with their hints and warnings are the worker's; node and Job are added."""
    problem = Problem(exit_code=3, message="503", hints=("wait",), journal=ONE, sink="s3://two")
    warning = Warned(message="its tail is torn", journal=ONE)
    partial = replace(BACKED_UP, state="partial")
    done = task()
    for _ in range(2):  # two workers may give the same warning
        crew.outcomes.settle(
            done, ended("Failed", said(3, partial, problems=(problem,), warnings=(warning,)))
        )

    assert crew.outcomes.all[1:] == [
        WorkerOutcome(
            journal=ONE,
            claim=ONE,
            state="partial",
            node="n",
            worker="w",
            size_bytes=9,
            records=1,
            id="id-1",
        )
    ]
    assert crew.run.problems == [problem, problem]
    assert crew.run.warnings == [warning]
    assert done.is_settled


def test_journal_that_an_answer_leaves_out_is_lost(crew: Crew) -> None:
    """Nobody takes silence for success."""
    crew.outcomes.settle(task(ONE, TWO), ended(message=said(0)))

    assert [(o.journal, o.state) for o in crew.outcomes.all] == [
        (ONE, "failed"),
        (TWO, "failed"),
    ]
    assert {p.message for p in crew.run.problems} == {"its worker does not speak of it"}


@pytest.mark.parametrize("told", [(), (4,)])
def test_exit_code_that_no_problem_has_is_a_problem(crew: Crew, told: tuple[int, ...]) -> None:
    """What did not fit into the message still fails the run, as gravely as it should."""
    milder = [Problem(exit_code=code, message="not read", journal=ONE) for code in told]
    failed = replace(BACKED_UP, state="failed", id=None)

    crew.outcomes.settle(
        task(), ended("Failed", said(6, failed, problems=tuple(milder), is_cut=True))
    )

    assert crew.run.problems == [
        *milder,
        Problem(
            exit_code=6,
            message="its worker ended with exit code 6",
            hints=("kubectl logs job/w says why",),
            journal=ONE,
        ),
    ]


def test_journals_that_an_answer_has_no_room_for_are_judged_by_what_is_stored(
    crew: Crew, world: World
) -> None:
    """A volume may have more of them than fit; those that are not stored were not read."""
    journals = [f"journal-deepgram-billing-{n}" for n in range(100)]
    done = {name: replace(BACKED_UP, journal=name) for name in journals}
    lost = replace(done.pop(journals[98]), state="failed", id=None)
    world.stored[RUN_ID] = done
    problem = Problem(exit_code=5, message="no space left on device", journal=lost.journal)
    everything = [*done.values(), lost]
    message = said(5, *everything, problems=(problem,))
    crew.outcomes.settle(task(*journals), ended("Failed", message))

    found = {o.journal: o.state for o in crew.outcomes.all}
    assert found == dict.fromkeys(done, "backed up") | {lost.journal: "failed"}
    assert [(p.exit_code, p.journal) for p in crew.run.problems] == [
        (5, ONE),
        (4, lost.journal),
    ]


@pytest.mark.parametrize("exit_code", [0, 4])
def test_drafts_that_an_answer_has_no_room_for_are_judged_later(
    drafting: Crew, exit_code: int
) -> None:
    """When they are committed."""
    message = said(exit_code, is_cut=True)
    drafting.outcomes.settle(task(), ended("Failed" if exit_code else "Succeeded", message))

    assert [o.state for o in drafting.outcomes.all] == [PUT]
    assert (ONE in drafting.outcomes.silent) is bool(exit_code)
    assert [p.exit_code for p in drafting.run.problems] == [exit_code] * bool(exit_code)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_silent_worker_is_judged_by_its_deed(crew: Crew, world: World, phase: str) -> None:
    """The backups of a run are found by its id."""
    world.stored[RUN_ID] = {ONE: BACKED_UP}

    crew.outcomes.settle(task(), ended(phase))

    (found,) = crew.outcomes.all
    assert (found.state, found.id, found.node) == ("backed up", "id-1", "n")
    codes = [problem.exit_code for problem in crew.run.problems]
    assert codes == ([] if phase == "Succeeded" else [3])  # what else it has met is not known


def test_silent_worker_without_a_deed_has_failed(crew: Crew, world: World) -> None:
    """What another run has stored is not its deed."""
    world.stored = {"other": {ONE: BACKED_UP}}

    crew.outcomes.settle(task(ONE), ended("Failed"))

    assert [o.state for o in crew.outcomes.all] == ["failed"]
    assert crew.run.problems[0].message == (
        "its worker ended with exit code 1 and without an answer"
    )


def test_half_of_its_deeds_is_half_a_failure(crew: Crew, world: World) -> None:
    """Of a volume with two journals, the one that is stored is backed up."""
    world.stored = {RUN_ID: {TWO: replace(BACKED_UP, journal=TWO)}}

    crew.outcomes.settle(task(ONE, TWO), ended("Failed"))

    assert [(o.journal, o.state) for o in crew.outcomes.all] == [
        (TWO, "backed up"),
        (ONE, "failed"),
    ]
    assert [(p.journal, p.exit_code) for p in crew.run.problems] == [(ONE, 4), (TWO, 3)]


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_silent_worker_that_leaves_drafts_is_judged_later(drafting: Crew, phase: str) -> None:
    """What was put shows when it is committed, also of one that has failed in the end."""
    drafting.outcomes.settle(task(), ended(phase))

    assert [o.state for o in drafting.outcomes.all] == [PUT]
    assert (ONE in drafting.outcomes.silent) is (phase == "Failed")
    assert drafting.run.problems == []


def test_given_up_is_every_journal_of_the_volume(crew: Crew) -> None:
    """Each has an outcome; where no worker was made, none is named."""
    lost = task(ONE, TWO)
    lost.job = ""

    crew.outcomes.give_up(lost, "why")

    assert [(o.journal, o.state, o.worker) for o in crew.outcomes.all] == [
        (ONE, "failed", None),
        (TWO, "failed", None),
    ]
    assert lost.is_settled
