"""The command line: the only composition root and the only printer.

Rules:

- ``--help`` and ``version`` import nothing but this file's own few modules; everything else is
  imported by the verb that needs it.
- Results go to stdout, as text or (``--json``) as exactly one JSON object, whatever happens:
  wrong arguments and bugs too. Logs, progress and errors for people go to stderr.
- The exit code is always one of the table in :mod:`backup.report`. A reader that has gone away
  (``| head``) changes nothing about it; a report that cannot be written is a failure.
- Without a verb the command prints its help and exits with 2: a CronJob that lost its arguments
  must not look like a success.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import backup
from backup.errors import BackupError, ConfigError, SignalledError

if TYPE_CHECKING:
    from backup.answer import Answer, JournalAnswer
    from backup.cluster.orchestrator import ClusterResult, Orchestrator
    from backup.manifest import Manifest
    from backup.model import Emit, Event, Finding, Problem, Warned
    from backup.results import Result
    from backup.settings import Settings
    from backup.sinks import Sink
    from backup.stop import Stop
    from backup.verbs.outcome import BackupResult
    from backup.verbs.prune import PruneResult

_Swept = TypeVar("_Swept", "ClusterResult", "PruneResult")

_TERMINATION_LOG = "/dev/termination-log"
"""Where the kubelet looks for a message (Pod.spec.containers.terminationMessagePath)."""
_STDOUT = "-"
"""As a file's name."""
_UNEXPECTED = 1
_USAGE_ERROR = 2
_NEW_OBJECTS = 20_000
"""New objects between two garbage collections. Python's default (700; 2,000 from 3.13) is too often
for a short run: it cost a tenth of the start-up."""

_USAGE = "journal-backup VERB [OPTIONS]"
_DESCRIPTION = """\
Back up the usage journals of Deepgram Self-Hosted, and prove that the copies
are whole.
"""
_EPILOG = """\
Settings come from the environment (BACKUP_SOURCE, BACKUP_SINKS, ...): see
journal-backup config.

exit codes (of several, the most severe one):
  0      all is well
  1      an unexpected error: please report it
  2      wrong settings or arguments
  3      all is safe, but something needs a look
  4      an expected journal was not read, or is suspect
  5      a journal reached no sink, or a sink cannot be read
  6      integrity: damaged, or a journal's alarm stands
  7      the cluster refused something, or another run is under way
  8      billing was not brought back
  9      the deadline, or the time that billing may be down, is over
  128+N  ended by signal N
Take any other code for a failure.
"""


@dataclass(frozen=True, slots=True)
class _Run:
    """What a verb is given."""

    args: argparse.Namespace
    settings: Settings
    sinks: Sequence[Sink]
    run_id: str
    emit: Emit
    stop: Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verb:
    """What ``--help`` says of a verb, and what it takes."""

    summary: str
    more: str = ""
    examples: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Keys of :data:`_OPTIONS`; every verb takes ``json`` besides."""
    is_hidden: bool = False
    """Whether people need not know it: this program runs it in Jobs, and reads its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain(_Verb):
    """A verb that needs no run: it asks no sink and logs nothing."""

    answer: Callable[[argparse.Namespace], int]
    """Prints the result, and returns the exit code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Working(_Verb):
    """A verb that is performed in a run, with an id, a log and a result."""

    perform: Callable[[_Run], Result]
    has_deadline: bool = False
    """Whether BACKUP_DEADLINE is about it."""
    needs_sinks: bool = True
    settings: tuple[str, ...] = ()
    """All that it reads, where it has to do its work whatever the others say."""


@dataclass(frozen=True, slots=True)
class _Window:
    """How a run speaks to whoever looks on."""

    style: str
    """Of the log on stderr: ``console`` for people, ``json`` for machines."""
    has_bar: bool
    """Whether stderr is a terminal that a progress bar can be drawn on."""
    has_report: bool
    """Whether the report, which has the problems too, is printed in the same window."""


@dataclass(slots=True)
class _Ending:
    """What the last line of a run's log says."""

    exit_code: int = _UNEXPECTED
    figures: Mapping[str, int] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    gc.set_threshold(_NEW_OBJECTS)
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(given)
    except BackupError as error:
        return _give_up(given, error)
    except KeyboardInterrupt:  # before the run took over its signals
        interrupted = "stopped by SIGINT"
        return _give_up(given, SignalledError(interrupted, signum=signal.SIGINT))
    except Exception as error:  # noqa: BLE001 - the last resort: say that it is a bug, and exit 1
        return _give_up(given, _bug(error))


def _dispatch(given: Sequence[str]) -> int:
    if not given:
        _parser().print_help(sys.stderr)
        return _USAGE_ERROR
    _require_verb(given)
    args = _parser().parse_args(given)
    verb = _VERBS[args.verb]
    return verb.answer(args) if isinstance(verb, _Plain) else _perform(verb, args)


# -- arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Let :func:`main` say what is wrong, in the form of all errors."""
        raise ConfigError(message, f"see: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, _shown_verbs()))
    lines = [f"  {name:<{width}}  {_VERBS[name].summary}" for name in _shown_verbs()]
    parser = _Parser(
        prog="journal-backup",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog="\n".join(["verbs (each has a --help of its own):", *lines, "", _EPILOG]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=backup.__version__)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", help=argparse.SUPPRESS, prog=parser.prog
    )
    for name, verb in _VERBS.items():
        _add(verbs, name, verb)
    return parser


def _shown_verbs() -> list[str]:
    return [name for name, verb in _VERBS.items() if not verb.is_hidden]


def _add(verbs: Any, name: str, verb: _Verb) -> None:
    parts = [f"{verb.summary[0].upper()}{verb.summary[1:]}.", *([verb.more] if verb.more else [])]
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        description="\n\n".join(parts),
        epilog="\n  ".join(["examples:", *verb.examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for key in (*verb.options, "json"):
        flag, how = _OPTIONS[key]
        parser.add_argument(flag, **how)


_SELECTOR = {
    "metavar": "SELECTOR",
    "help": "'latest' (the latest good one), an id, or the beginning of one",
}
_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "json": ("--json", {"action": "store_true", "help": "print the result as one JSON object"}),
    "sink": (
        "--sink",
        {
            "action": "append",
            "default": [],
            "metavar": "URL",
            "help": "this sink instead of BACKUP_SINKS (may be repeated)",
        },
    ),
    "journal": ("--journal", {"metavar": "NAME", "help": "only this journal"}),
    "by": ("--by", {"metavar": "NAME", "help": "who says so; kept with the backup"}),
    "note": ("--note", {"metavar": "TEXT", "help": "why; kept with the backup"}),
    "long": ("--long", {"action": "store_true", "help": "read the manifests too"}),
    "deep": (
        "--deep",
        {"action": "store_true", "help": "also unpack archives and parse every record"},
    ),
    "target": (
        "--target",
        {"required": True, "metavar": "DIR", "help": "directory that gets <journal>/journal"},
    ),
    "bundle": ("--target", {"metavar": "DIR", "help": "make this directory, the bundle"}),
    "output": (
        "--output",
        {"metavar": "FILE", "help": "make this one tar instead; '-' is stdout"},
    ),
    "selector": ("selector", _SELECTOR),
    "selectors": ("selectors", {**_SELECTOR, "nargs": "+"}),
    "ids": (
        "ids",
        {"nargs": "+", "metavar": "ID", "help": "what was delivered, or the beginning of its id"},
    ),
    "reference": (
        "--reference",
        {"metavar": "TEXT", "help": "what the delivery is called there; kept with the backup"},
    ),
    "selector?": (
        "selector",
        {**_SELECTOR, "nargs": "?", "help": f"{_SELECTOR['help']}; without it: every backup"},
    ),
    "id": ("id", {"metavar": "ID", "help": "the backup that raised it, or the beginning of one"}),
    "confirm": (
        "--confirm",
        {"action": "store_true", "help": "remove; without it, only say what would be removed"},
    ),
    "only": (
        "--only",
        {
            "action": "append",
            "choices": ("sinks", "journals", "cluster"),
            "default": [],
            "help": "look at nothing else (may be repeated)",
        },
    ),
    "run": ("--run", {"required": True, "metavar": "ID", "help": "the run that it belongs to"}),
    "journals": (
        "--journal",
        {"dest": "journals", "required": True, "metavar": "NAMES", "help": "with commas between"},
    ),
    "strategy": (
        "--strategy",
        {
            "default": "colocated",
            "choices": ("colocated", "scale-down"),
            "help": "whose part it is",
        },
    ),
    "draft": ("--draft", {"action": "store_true", "help": "put, and leave the rest to commit"}),
    "take-over": (
        "--take-over",
        {"action": "store_true", "help": "also if that run is under way: it is to be stopped"},
    ),
    "which": ("which", {"metavar": "JOURNAL", "help": "journal-<statefulset>-<ordinal>"}),
}


def _require_verb(given: Sequence[str]) -> None:
    """Refuse a word that is no verb, naming the nearest."""
    word = given[0]
    if word.startswith("-") or _verb_in(given):
        return
    names = _shown_verbs()
    import difflib

    near = difflib.get_close_matches(word, names, n=1)
    fix = f"did you mean {near[0]}?" if near else f"verbs are {', '.join(names)}"
    message = f"there is no verb {word!r}"
    raise ConfigError(message, fix)


def _verb_in(given: Sequence[str]) -> str | None:
    return given[0] if given[0] in _VERBS else None


# -- verbs that need no run


def _version(args: argparse.Namespace) -> int:
    if args.json:
        import json

        content = {"verb": "version", "exit_code": 0, "version": backup.__version__}
        _print(json.dumps(content, indent=2))
    else:
        _print(f"deepgram-journal-backup {backup.__version__}")
    return 0


def _config(args: argparse.Namespace) -> int:
    from backup import config, report

    rows = list(config.describe(config.load()))
    if args.json:
        _print(report.to_json("config", 0, {"settings": rows}))
    else:
        _print(report.config_text(rows, _width(sys.stdout)))
    return 0


# -- runs


def _perform(verb: _Working, args: argparse.Namespace) -> int:
    from backup import config, log, report

    report_to = _report_stream(args)
    settings = config.load(sinks=getattr(args, "sink", ()), only=verb.settings)
    if verb.needs_sinks:
        config.require_sinks(settings)
    run_id = getattr(args, "run", None) or _new_run_id()
    window = _window(settings, args, report_to)
    logger = log.set_up(
        level=settings.log_level, style=window.style, run_id=run_id, has_report=window.has_report
    )
    with _last_line(args.verb, logger) as ending:
        try:
            result = _run(verb, args, settings, run_id=run_id, logger=logger, window=window)
        except BackupError as error:
            ending.exit_code = error.exit_code
            if verb.is_hidden:
                _leave(report.answer_of_error(error))
            raise
        ending.exit_code, ending.figures = report.worst(result.exit_codes), report.figures(result)
    if verb.is_hidden:
        _leave(report.answer(result, ending.exit_code))
    if args.json:
        _print(report.to_json(args.verb, ending.exit_code, result))
    else:
        text = report.result_text(result, ending.exit_code, _width(report_to))
        (_print if report_to is sys.stdout else _tell)(text)
    return ending.exit_code


def _report_stream(args: argparse.Namespace) -> TextIO:
    """Say where the report goes: to stdout, unless the bundle does.

    Raises:
        ConfigError: it is not clear where the bundle goes, or it cannot go there.
    """
    if "output" not in args:
        return sys.stdout
    if (args.output is None) == (args.target is None):
        message = "a bundle goes to one place"
        raise ConfigError(message, "give one of --target DIR, --output FILE and --output -")
    if args.output != _STDOUT:
        return sys.stdout
    if args.json:
        message = "--json and --output - would both write to stdout"
        raise ConfigError(message, "give --output FILE, or leave out --json")
    if sys.stdout.isatty():
        message = "stdout is a terminal, and the bundle is a tar"
        raise ConfigError(message, "send it to a file: --output FILE, or > bundle.tar")
    return sys.stderr


def _new_run_id() -> str:
    import secrets

    from backup.model import stamp

    return f"{stamp(_now())}-{secrets.token_hex(4)}"


def _window(settings: Settings, args: argparse.Namespace, report_to: TextIO) -> _Window:
    is_terminal = sys.stderr.isatty()
    style = settings.log_format or ("console" if is_terminal else "json")
    has_bar = is_terminal and style == "console"  # it would fold lines of JSON
    return _Window(style, has_bar, has_report=has_bar and not args.json and report_to.isatty())


@contextmanager
def _last_line(verb: str, logger: Emit) -> Iterator[_Ending]:
    """Log the line that a run ends with, whatever else it ends with."""
    from backup.model import RunFinished

    begun, ending = _now(), _Ending()
    try:
        yield ending
    finally:
        logger(
            RunFinished(
                verb=verb,
                exit_code=ending.exit_code,
                duration_seconds=round((_now() - begun).total_seconds(), 3),
                figures=ending.figures,
            )
        )


def _run(
    verb: _Working,
    args: argparse.Namespace,
    settings: Settings,
    *,
    run_id: str,
    logger: Emit,
    window: _Window,
) -> Result:
    from backup.sinks import open_sink
    from backup.stop import Stop, on_signals

    stop = Stop(seconds=settings.deadline.total_seconds() if verb.has_deadline else None)
    with _listeners(logger, window) as emit, on_signals(stop):
        sinks = [open_sink(url, settings, stop=stop) for url in settings.sinks]
        return verb.perform(_Run(args, settings, sinks, run_id, emit, stop))


def _leave(answer: Answer) -> None:
    """Leave an answer for whoever sent this worker; without a kubelet there is nobody."""
    from backup.answer import write

    with suppress(OSError), Path(_TERMINATION_LOG).open("r+") as file:
        file.truncate()
        file.write(write(answer))


@contextmanager
def _listeners(logger: Emit, window: _Window) -> Iterator[Emit]:
    """Pair the log with a progress bar, where one can be drawn.

    Problems that were left to the report are written after all if there will be no report.
    """
    if not window.has_bar:
        yield logger
        return
    from backup import report
    from backup.model import Problem, Warned
    from backup.progress import ProgressBar

    kept: list[Problem | Warned] = []
    try:
        with ProgressBar() as bar:

            def every(event: Event) -> None:
                bar(event)
                logger(event)
                if window.has_report and isinstance(event, Problem | Warned):
                    kept.append(event)

            yield every
    except BaseException:
        if kept:
            _tell(report.events_text(kept, _width(sys.stderr)))
        raise


# -- what each of them performs


def _backup(run: _Run) -> Result:
    result = _back_up_all(run)
    return _prune_after(run, result) if run.settings.prune else result


def _prune_after(run: _Run, result: BackupResult | ClusterResult) -> Result:
    """Prune once all is well: of a run that has a problem, nobody knows yet what it means."""
    from backup.errors import NEEDS_A_LOOK, SinkError, StopError
    from backup.model import Problem, Warned

    if result.exit_codes:
        skipped = Warned(message="nothing was pruned: that is for a run in which all went well")
        run.emit(skipped)
        return replace(result, warnings=(*result.warnings, skipped))
    try:
        found = _pruned(run, confirmed=True).problems
        problems = [replace(problem, exit_code=NEEDS_A_LOOK) for problem in found]
    except SinkError as error:
        problems = [Problem.of(error, exit_code=NEEDS_A_LOOK)]
        run.emit(problems[0])
    except StopError as error:  # what was backed up is to be told nevertheless
        problems = [Problem.of(error)]
        run.emit(problems[0])
    return replace(result, problems=(*result.problems, *problems))


def _back_up_all(run: _Run) -> BackupResult | ClusterResult:
    if run.settings.strategy == "direct":
        return _back_up(run)
    orchestrator = _orchestrator(run)
    orchestrator.plan()
    if orchestrator.strategy != "direct":
        return _orchestrate(run, orchestrator)
    result = _back_up(run)
    return replace(
        result,
        problems=(*orchestrator.problems, *result.problems),
        warnings=(*orchestrator.warnings, *result.warnings),
    )


def _back_up(run: _Run, **more: Any) -> BackupResult:
    from backup.verbs.backup import Options, back_up

    settings = run.settings
    options = Options(
        source=settings.source,
        statefulset=settings.statefulset,
        run_id=run.run_id,
        tool=f"deepgram-journal-backup {backup.__version__}",
        expect_replicas=settings.expect_replicas,
        site=settings.site,
        mode=settings.mode,
        full_every=settings.full_every,
        readback=settings.readback,
        compression_level=settings.compression_level,
        concurrency=settings.concurrency,
        deadline=settings.deadline,
        node=os.environ.get("NODE_NAME") or None,
        pod=os.environ.get("POD_NAME") or None,
        **more,
    )
    return back_up(options, run.sinks, clock=_now, emit=run.emit, stop=run.stop)


def _worker(run: _Run) -> Result:
    args = run.args
    return _back_up(
        run,
        expect_only=tuple(args.journals.split(",")),
        strategy=args.strategy,
        draft=args.draft,
        consistency="quiesced" if args.strategy == "scale-down" else "live",
    )


def _commit(run: _Run) -> Result:
    from backup.verbs.commit import commit

    return commit(run.sinks, run.run_id, emit=run.emit, stop=run.stop)


def _orchestrator(run: _Run) -> Orchestrator:
    from backup.cluster.api import connect
    from backup.cluster.orchestrator import Options, Orchestrator
    from backup.verbs import holdings

    settings = run.settings
    return Orchestrator(
        connect(stop=run.stop),
        Options(
            run_id=run.run_id,
            statefulset=settings.statefulset,
            strategy=settings.strategy,
            pod=os.environ.get("POD_NAME", ""),
            expect_replicas=settings.expect_replicas,
            workers=settings.workers,
            max_downtime=settings.max_downtime,
            allow_stopped=settings.allow_stopped,
            deadline=settings.deadline,
        ),
        ask_sinks=lambda: holdings.read(run.sinks, settings.statefulset),
        has_source=lambda: _has_source(run),
        find=lambda run_id: {
            found.journal: _as_answer(found) for found in holdings.of_run(run.sinks, run_id)
        },
        clock=_now,
        emit=run.emit,
        stop=run.stop,
    )


def _orchestrate(run: _Run, orchestrator: Orchestrator) -> ClusterResult:
    return _swept(run, orchestrator.perform())


def _swept(run: _Run, result: _Swept) -> _Swept:
    """Remove remains, and add what there is to say of them."""
    from backup.model import Problem, Warned
    from backup.verbs import holdings

    found = holdings.sweep_sinks(
        run.sinks, deadline=run.settings.deadline, clock=_now, emit=run.emit
    )
    new: list[Warned | Problem] = [item for item in found if item not in result.warnings]
    for item in new:
        run.emit(item)
    return replace(
        result,
        problems=(*result.problems, *(item for item in new if isinstance(item, Problem))),
        warnings=(*result.warnings, *(item for item in new if isinstance(item, Warned))),
    )


def _as_answer(found: Manifest) -> JournalAnswer:
    from backup.answer import JournalAnswer

    return JournalAnswer(
        journal=found.journal,
        state="suspect" if found.suspect else "backed up",
        size_bytes=found.size_bytes,
        records=found.records,
        id=found.id,
    )


def _resume(run: _Run) -> Result:
    from backup.cluster.api import connect
    from backup.cluster.lease import Lease, Owner
    from backup.cluster.rescue import resume

    api = connect(stop=run.stop)
    owner = Owner.of(api, os.environ.get("POD_NAME", ""))
    statefulset = run.settings.statefulset
    lease = Lease(api, statefulset, run_id=run.run_id, owner=owner, clock=_now)
    return resume(api, statefulset, lease, take_over=run.args.take_over, emit=run.emit)


def _list(run: _Run) -> Result:
    from backup.verbs.inspect import list_backups

    return list_backups(run.sinks, journal=run.args.journal, long=run.args.long, emit=run.emit)


def _show(run: _Run) -> Result:
    from backup.verbs.inspect import show

    return show(run.sinks, run.args.selector, journal=run.args.journal, emit=run.emit)


def _verify(run: _Run) -> Result:
    from backup.verbs.verify import verify

    return verify(
        run.sinks,
        run.args.selector,
        journal=run.args.journal,
        deep=run.args.deep,
        emit=run.emit,
        stop=run.stop,
    )


def _restore(run: _Run) -> Result:
    from backup.verbs.restore import restore

    return restore(
        run.sinks,
        run.args.selector,
        Path(run.args.target),
        journal=run.args.journal,
        emit=run.emit,
        stop=run.stop,
    )


def _export(run: _Run) -> Result:
    from backup.verbs.export import Directory, Stream, Tar, export

    target, output, top = run.args.target, run.args.output, f"deepgram-journals-{run.run_id}"
    place: Directory | Stream | Tar
    if target is not None:
        place = Directory(Path(target))
    elif output == _STDOUT:
        place = Stream(sys.stdout.fileno(), top)
    else:
        place = Tar(Path(output), top)
    return export(
        run.sinks,
        run.args.selectors,
        place,
        journal=run.args.journal,
        emit=run.emit,
        stop=run.stop,
    )


def _mark_delivered(run: _Run) -> Result:
    from backup.verbs.ledger import mark_delivered

    args = run.args
    return mark_delivered(
        run.sinks,
        args.ids,
        by=args.by,
        note=args.note,
        reference=args.reference,
        clock=_now,
        emit=run.emit,
    )


def _prune(run: _Run) -> Result:
    result = _pruned(run, confirmed=run.args.confirm)
    return _swept(run, result) if run.args.confirm else result


def _pruned(run: _Run, *, confirmed: bool) -> PruneResult:
    from backup.verbs.prune import prune

    return prune(
        run.sinks,
        run.settings,
        site=run.settings.site,
        journal=getattr(run.args, "journal", None),
        confirmed=confirmed,
        clock=_now,
        emit=run.emit,
        stop=run.stop,
    )


def _doctor(run: _Run) -> Result:
    from backup.verbs.doctor import Options, examine

    settings, only = run.settings, run.args.only or ("sinks", "journals", "cluster")
    is_direct = settings.strategy == "direct"
    mounts = is_direct or (settings.strategy == "auto" and _has_source(run))
    return examine(
        run.sinks if "sinks" in only else (),
        Options(
            source=settings.source if mounts and "journals" in only else None,
            statefulset=settings.statefulset,
            expect_replicas=settings.expect_replicas,
            site=settings.site,
        ),
        cluster=_cluster_items(run) if not is_direct and "cluster" in only else (),
        clock=_now,
        emit=run.emit,
        stop=run.stop,
    )


def _cluster_items(run: _Run) -> Iterator[Finding | Problem | Warned]:
    from backup.cluster import checkup
    from backup.cluster.api import connect

    settings = run.settings
    options = checkup.Options(
        statefulset=settings.statefulset,
        strategy=settings.strategy,
        expect_replicas=settings.expect_replicas,
        max_downtime=settings.max_downtime,
        allow_stopped=settings.allow_stopped,
    )
    api = connect(stop=run.stop)
    yield from checkup.look(api, options, has_source=lambda: _has_source(run), clock=_now)


def _has_source(run: _Run) -> bool:
    """Tell whether our own pod mounts journals; a file server that hangs does not hold us."""
    from backup.streams import call

    return call(partial(os.path.isdir, run.settings.source), stop=run.stop)


def _acknowledge(run: _Run) -> Result:
    from backup.verbs.ledger import acknowledge

    args = run.args
    return acknowledge(run.sinks, args.id, by=args.by, note=args.note, clock=_now, emit=run.emit)


def _retire(run: _Run) -> Result:
    from backup.verbs.ledger import retire

    args = run.args
    return retire(run.sinks, args.which, by=args.by, note=args.note, clock=_now, emit=run.emit)


def _now() -> datetime:
    return datetime.now(UTC)


_VERBS: dict[str, _Plain | _Working] = {
    "backup": _Working(
        summary="back up every journal to every sink",
        more="""\
Reads each journal below BACKUP_SOURCE once, stores it on each sink of
BACKUP_SINKS, reads back what the sink holds, and only then writes the manifest
that makes it a backup. Billing may go on writing.""",
        examples=(
            "BACKUP_SINKS=file:///mnt/nas journal-backup backup",
            "journal-backup backup --json",
        ),
        perform=_backup,
        has_deadline=True,
    ),
    "list": _Working(
        summary="list the backups",
        more="By journal, the oldest first.",
        examples=(
            "journal-backup list --long",
            "journal-backup list --journal journal-deepgram-billing-0",
        ),
        options=("journal", "sink", "long"),
        perform=_list,
    ),
    "show": _Working(
        summary="show one backup in full",
        examples=(
            "journal-backup show 20261123T020000Z-3f9a1c",
            "journal-backup show latest --journal journal-deepgram-billing-0",
        ),
        options=("selector", "journal", "sink"),
        perform=_show,
    ),
    "verify": _Working(
        summary="prove that backups are what they claim",
        more="""\
Checks manifests, the chain that they form, and the hash of every archive, on
every sink.""",
        examples=("journal-backup verify", "journal-backup verify latest --deep"),
        options=("selector?", "journal", "sink", "deep"),
        perform=_verify,
    ),
    "restore": _Working(
        summary="restore one journal, or all",
        more="""\
Whole and proved, or not at all; nothing is ever overwritten. 'latest' restores
every journal.""",
        examples=(
            "journal-backup restore latest --target /restored",
            "journal-backup restore 20261123T020000Z-3f9a1c --target /restored",
        ),
        options=("selector", "target", "journal", "sink"),
        perform=_restore,
    ),
    "export": _Working(
        summary="bundle journals, to send them to Deepgram",
        more="""\
Plain journals, their manifests and SHA256SUMS, every hash compared; as a
directory, or as one tar. 'latest' takes every journal.""",
        examples=(
            "journal-backup export latest --target /restored/bundle",
            "kubectl exec ... -- journal-backup export latest --output - > bundle.tar",
        ),
        options=("selectors", "bundle", "output", "journal", "sink"),
        perform=_export,
    ),
    "mark-delivered": _Working(
        summary="say that Deepgram has a backup",
        more="""\
And with it those before it whose records it holds. Name it by its id, as the
export did: by now another one may be the latest.""",
        examples=("journal-backup mark-delivered 20261123T020000Z-3f9a1c --reference CASE-17",),
        options=("ids", "sink", "by", "note", "reference"),
        perform=_mark_delivered,
    ),
    "prune": _Working(
        summary="let go of old backups whose records are safe",
        more="""\
Only says what would go, until --confirm. BACKUP_KEEP_... say what is kept; kept
as well is what is neither delivered nor in a newer good backup.""",
        examples=(
            "BACKUP_KEEP_DAILY=30 BACKUP_KEEP_MONTHLY=24 journal-backup prune",
            "journal-backup prune --confirm",
        ),
        options=("journal", "sink", "confirm"),
        perform=_prune,
    ),
    "doctor": _Working(
        summary="look at all that a backup needs",
        more="""\
Sinks, journals, and with a strategy that asks the cluster its rights, billing
and the volume claims: whatever is wrong is named with its fix, all at once.
Nothing is changed. The exit code is that of the worst.""",
        examples=("journal-backup doctor", "journal-backup doctor --only sinks"),
        options=("sink", "only"),
        perform=_doctor,
    ),
    "acknowledge": _Working(
        summary="answer the alarm of a backup",
        more="""\
A journal that shrank or was rewritten raises an alarm, and every run exits with
6 until somebody says that it was looked into.""",
        examples=('journal-backup acknowledge 20261123T020000Z-3f9a1c --by ada --note "moved"',),
        options=("id", "sink", "by", "note"),
        perform=_acknowledge,
    ),
    "retire": _Working(
        summary="say that a journal is gone for good",
        more="""\
A journal that was backed up once is expected for ever, until it is retired. Its
backups stay. Should it come back, it is expected again.""",
        examples=("journal-backup retire journal-deepgram-billing-2 --by ada",),
        options=("which", "sink", "by", "note"),
        perform=_retire,
    ),
    "resume-billing": _Working(
        summary="scale billing back up if a run that is gone has left it down",
        more="""\
Every run does so first. In a cluster a guard does it every two minutes, and the
chart before it is removed or upgraded. A run that is under way is left alone.""",
        examples=("journal-backup resume-billing",),
        options=("take-over",),
        perform=_resume,
        needs_sinks=False,
        settings=("statefulset", "log_level", "log_format"),
    ),
    "worker": _Working(
        summary="back up the journals that a worker Job mounts",
        examples=("journal-backup worker --run ID --journal journal-deepgram-billing-0",),
        options=("run", "journals", "strategy", "draft"),
        perform=_worker,
        has_deadline=True,
        is_hidden=True,
    ),
    "commit": _Working(
        summary="read back what was put while billing was down, and make backups of it",
        examples=("journal-backup commit --run ID",),
        options=("run",),
        perform=_commit,
        has_deadline=True,
        is_hidden=True,
    ),
    "config": _Plain(
        summary="print every setting, and where it came from",
        more="Problems of the settings are reported all at once.",
        examples=("journal-backup config", "journal-backup config --json"),
        answer=_config,
    ),
    "version": _Plain(
        summary="print the version",
        examples=("journal-backup version",),
        answer=_version,
    ),
}


# -- printing


def _print(text: str) -> None:
    """Print a result.

    Raises:
        BackupError: stdout cannot take it. A reader that has gone is no error.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard_stdout()
    except OSError as error:
        _discard_stdout()
        message = f"the result cannot be written: {error.strerror}"
        raise BackupError(message) from error


def _discard_stdout() -> None:
    """Keep Python from flushing once more, at exit, what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _give_up(given: Sequence[str], error: BackupError) -> int:
    from backup import report

    _tell(report.error_text(error, _width(sys.stderr)))
    if "--json" in given:
        with suppress(BackupError):
            _print(report.error_json(_verb_in(given), error))
    return error.exit_code


def _tell(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _bug(error: Exception) -> BackupError:
    from backup import log

    log.bug(error)
    return BackupError(
        f"unexpected {error.__class__.__name__}: {error}",
        f"this is a bug in version {backup.__version__}: please report it, with the log above",
    )


def _width(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None where there is none."""
    if not stream.isatty():
        return None
    return os.get_terminal_size(stream.fileno()).columns or 80
