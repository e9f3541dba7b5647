"""What each verb is made of: here alone the parts of the program are put together.

A verb's modules are imported when it is performed, and no others: that is most of its start-up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backup.cli.grammar import STDOUT, VERBS, Arguments

if TYPE_CHECKING:
    from backup.answer import JournalAnswer
    from backup.events import Finding, Problem, Warned
    from backup.manifest import Manifest
    from backup.results import Result
    from backup.run import Run
    from backup.settings import Settings
    from backup.sinks import Sink
    from backup.transfer.plan import Worker
    from backup.verbs.export import Directory, Stream, Tar
    from backup.verbs.outcome import BackupResult
    from backup.verbs.prune import PruneResult


class Call(NamedTuple):
    """What a verb is given."""

    args: Arguments
    settings: Settings
    sinks: Sequence[Sink]
    run: Run


def _retold(run: Run, result: Any) -> Result:
    """Add what the run has met since the result was made."""
    told: Result = replace(result, problems=tuple(run.problems), warnings=tuple(run.warnings))
    return told


# -- backups


def _backup(call: Call) -> Result:
    result = _back_up_all(call)
    return _prune_after(call, result) if call.settings.prune else result


def _prune_after(call: Call, result: Result) -> Result:
    """Prune once all is well: of a run that has a problem, nobody knows yet what it means."""
    from backup.errors import NEEDS_A_LOOK, SinkError, StopError

    run = call.run
    if result.exit_codes:
        run.warn("nothing was pruned: that is for a run in which all went well")
        return _retold(run, result)
    aside = run.aside()
    try:
        _pruned(call, aside, is_confirmed=True)
    except SinkError as error:
        aside.fail(error, exit_code=NEEDS_A_LOOK)
    except StopError as error:  # what was backed up is to be told nevertheless
        run.fail(error)
    run.problems += [replace(problem, exit_code=NEEDS_A_LOOK) for problem in aside.problems]
    return _retold(run, result)


def _back_up_all(call: Call) -> Result:
    if call.settings.strategy == "direct":
        return _back_up(call)
    from backup.catalog import holdings
    from backup.cluster.api import connect
    from backup.cluster.orchestrator import Orchestrator

    run, settings, sinks = call.run, call.settings, call.sinks
    orchestrator = Orchestrator(
        run,
        connect(stop=run.stop),
        settings,
        ask_sinks=lambda: holdings.read(run, sinks, settings.statefulset),
        has_source=partial(_has_source, call),
        find=lambda run_id: {
            found.journal: _as_answer(found) for found in holdings.of_run(sinks, run_id)
        },
    )
    orchestrator.plan()
    if orchestrator.strategy == "direct":
        return _back_up(call)
    result = orchestrator.perform()
    holdings.sweep_sinks(run, sinks, deadline=settings.deadline)
    return _retold(run, result)


def _as_answer(found: Manifest) -> JournalAnswer:
    from backup.answer import JournalAnswer

    return JournalAnswer(
        journal=found.journal,
        state="suspect" if found.suspect else "backed up",
        size_bytes=found.size_bytes,
        records=found.records,
        id=found.id,
    )


def _back_up(call: Call, worker: Worker | None = None) -> BackupResult:
    from backup.transfer.plan import Plan, Worker
    from backup.verbs.backup import back_up

    plan = Plan(run=call.run, settings=call.settings, worker=worker or Worker())
    return back_up(plan, call.sinks)


def _worker(call: Call) -> Result:
    from backup.transfer.plan import Worker

    args = call.args
    only = tuple(args.journals.split(","))
    return _back_up(call, Worker(only=only, strategy=args.strategy, draft=args.draft))


def _commit(call: Call) -> Result:
    from backup.verbs.commit import commit

    return commit(call.run, call.sinks)


def _resume(call: Call) -> Result:
    from backup.cluster.api import connect
    from backup.cluster.lease import Lease, Owner
    from backup.cluster.rescue import resume

    api = connect(stop=call.run.stop)
    owner = Owner.of(api, call.run.pod)
    lease = Lease(call.run, api, call.settings.statefulset, owner=owner)
    return resume(lease, take_over=call.args.take_over)


# -- what is there, and getting it back


def _list(call: Call) -> Result:
    from backup.verbs.inspect import list_backups

    args = call.args
    return list_backups(call.run, call.sinks, journal=args.journal, long=args.long)


def _show(call: Call) -> Result:
    from backup.verbs.inspect import show

    return show(call.run, call.sinks, call.args.selector, journal=call.args.journal)


def _verify(call: Call) -> Result:
    from backup.verbs.verify import verify

    args = call.args
    return verify(call.run, call.sinks, args.selector, journal=args.journal, deep=args.deep)


def _restore(call: Call) -> Result:
    from backup.verbs.restore import restore

    args = call.args
    return restore(call.run, call.sinks, args.selector, Path(args.target), journal=args.journal)


def _export(call: Call) -> Result:
    from backup.verbs.export import Directory, Stream, Tar, export

    args, top = call.args, f"deepgram-journals-{call.run.id}"
    place: Directory | Stream | Tar
    if args.target is not None:
        place = Directory(Path(args.target))
    elif args.output == STDOUT:
        place = Stream(sys.stdout.fileno(), top)
    else:
        place = Tar(Path(args.output), top)
    return export(call.run, call.sinks, args.selectors, place, journal=args.journal)


# -- what an operator says


def _mark(call: Call) -> Result:
    """Perform any verb that marks: it is called as its function is."""
    from backup.verbs import ledger

    args = call.args
    reference = getattr(args, "reference", None)
    statement = ledger.Statement(by=args.by, note=args.note, reference=reference)
    mark: Callable[..., Result] = getattr(ledger, args.verb.replace("-", "_"))
    return mark(call.run, call.sinks, args.what, statement)


# -- housekeeping


def _prune(call: Call) -> Result:
    from backup.catalog import holdings

    run, is_confirmed = call.run, call.args.confirm
    result = _pruned(call, run, is_confirmed=is_confirmed)
    if is_confirmed:
        holdings.sweep_sinks(run, call.sinks, deadline=call.settings.deadline)
    return _retold(run, result)


def _pruned(call: Call, run: Run, *, is_confirmed: bool) -> PruneResult:
    from backup.verbs.prune import prune

    return prune(
        run,
        call.sinks,
        call.settings,
        site=call.settings.site,
        journal=getattr(call.args, "journal", None),
        confirmed=is_confirmed,
    )


def _doctor(call: Call) -> Result:
    from backup.verbs.doctor import examine

    settings, only = call.settings, call.args.only or ("sinks", "journals", "cluster")
    is_direct = settings.strategy == "direct"
    return examine(
        call.run,
        settings,
        sinks=call.sinks if "sinks" in only else (),
        has_journals="journals" in only
        and (is_direct or (settings.strategy == "auto" and _has_source(call))),
        cluster=_cluster_items(call) if not is_direct and "cluster" in only else (),
    )


def _cluster_items(call: Call) -> Iterator[Finding | Problem | Warned]:
    from backup.cluster import checkup
    from backup.cluster.api import connect

    api = connect(stop=call.run.stop)
    yield from checkup.look(call.run, api, call.settings, has_source=partial(_has_source, call))


def _has_source(call: Call) -> bool:
    """Tell whether our own pod mounts journals; a file server that hangs does not hold us."""
    from backup.streams import call as call_in_thread

    return call_in_thread(partial(os.path.isdir, call.settings.source), stop=call.run.stop)


PERFORM: Mapping[str, Callable[[Call], Result]] = {
    "backup": _backup,
    "list": _list,
    "show": _show,
    "verify": _verify,
    "restore": _restore,
    "export": _export,
    "prune": _prune,
    "doctor": _doctor,
    "resume-billing": _resume,
    "worker": _worker,
    "commit": _commit,
    **{name: _mark for name, verb in VERBS.items() if "by" in verb.options},
}
