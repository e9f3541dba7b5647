"""The command line: the only composition root and the only printer.

Rules:

- ``--help`` and ``version`` import nothing but this file's own few modules; everything else is
  imported by the verb that needs it.
- Results go to stdout, as text or (``--json``) as one JSON object; logs, progress and errors go
  to stderr.
- Whatever happens, the exit code is one of the table in :mod:`backup.report`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backup
from backup.errors import BackupError

if TYPE_CHECKING:
    from backup.config import Settings
    from backup.model import Emit, Event
    from backup.report import Result
    from backup.sinks import Sink
    from backup.stop import Stop

_USAGE_ERROR = 2
_EPILOG = """\
Settings come from the environment (BACKUP_SOURCE, BACKUP_SINKS, ...): journal-backup config
lists them. Exit codes: 0 ok, 1 unexpected, 2 configuration, 3 safe but needs a look, 4 a journal
was not read, 5 a journal reached no sink, 6 integrity, 9 deadline, 128+N signal.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code."""
    args = _parser().parse_args(argv)
    if args.verb is None:
        _parser().print_help(sys.stderr)
        return _USAGE_ERROR
    if args.verb == "version":
        return _version(args)
    try:
        return _config(args) if args.verb == "config" else _perform(args)
    except BackupError as error:
        return _give_up(args, error)


# -- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="journal-backup",
        description="Back up the usage journals of Deepgram Self-Hosted, and prove it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=backup.__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    _add(verbs, "backup", "back up every journal to every sink")
    listing = _add(verbs, "list", "list the backups", "sink", "journal")
    listing.add_argument("--long", action="store_true", help="read the manifests too")
    showing = _add(verbs, "show", "show one backup in full", "sink", "journal")
    _add_selector(showing)
    verifying = _add(verbs, "verify", "prove that backups are what they claim", "sink", "journal")
    _add_selector(verifying, nargs="?", default=None, more="; without it: every backup")
    verifying.add_argument(
        "--deep", action="store_true", help="take archives apart and parse every record"
    )
    restoring = _add(verbs, "restore", "restore one journal, or all", "sink", "journal")
    _add_selector(restoring)
    restoring.add_argument(
        "--target", required=True, metavar="DIR", help="directory that gets <journal>/journal"
    )
    answering = _add(verbs, "acknowledge", "answer the alarm of a backup", "sink", "note")
    answering.add_argument("id", metavar="ID", help="the backup that raised it, as reported")
    retiring = _add(verbs, "retire", "a journal is gone for good", "sink", "note")
    retiring.add_argument("journal", metavar="JOURNAL", help="journal-<statefulset>-<ordinal>")
    _add(verbs, "config", "print every setting and where it came from")
    _add(verbs, "version", "print the version")
    return parser


def _add(verbs: Any, name: str, summary: str, *options: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    if "sink" in options:
        parser.add_argument(
            "--sink",
            action="append",
            default=[],
            metavar="URL",
            help="use this sink instead of BACKUP_SINKS (may be repeated)",
        )
    if "journal" in options:
        parser.add_argument("--journal", metavar="NAME", help="only this journal")
    if "note" in options:
        parser.add_argument("--by", metavar="NAME", help="who says so; kept in the mark")
        parser.add_argument("--note", metavar="TEXT", help="why; kept in the mark")
    return parser


def _add_selector(parser: argparse.ArgumentParser, more: str = "", **options: Any) -> None:
    parser.add_argument(
        "selector",
        metavar="SELECTOR",
        help=f"'latest' (the latest good one), an id, or the beginning of one{more}",
        **options,
    )


# -- verbs that need no sink


def _version(args: argparse.Namespace) -> int:
    if args.json:
        import json

        print(json.dumps({"verb": "version", "exit_code": 0, "version": backup.__version__}))
    else:
        print(f"deepgram-journal-backup {backup.__version__}")
    return 0


def _config(args: argparse.Namespace) -> int:
    from backup import config, report

    settings = config.load()
    rows = list(config.describe(settings))
    if args.json:
        print(report.to_json("config", 0, {"settings": rows}))
    else:
        report.print_config(rows, report.console(sys.stdout))
    return 0


# -- verbs on sinks


def _perform(args: argparse.Namespace) -> int:
    from backup import config, log, report
    from backup.model import RunFinished
    from backup.sinks import open_sink
    from backup.stop import Stop, on_signals

    settings = config.load(sinks=getattr(args, "sink", ()))
    config.require_sinks(settings)
    begun = datetime.now(UTC)
    run_id = _new_run_id(begun)
    style = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    logger = log.set_up(level=settings.log_level, style=style, run_id=run_id)
    allowed = settings.deadline.total_seconds() if args.verb == "backup" else None
    stop = Stop(seconds=allowed)
    code = 1
    try:
        with on_signals(stop), _listeners(logger) as emit:
            sinks = [open_sink(url, settings.sink_options(), stop=stop) for url in settings.sinks]
            result = _VERBS[args.verb](_Run(args, settings, sinks, run_id, emit, stop))
        code = report.worst(result.exit_codes)
    except BackupError as error:
        code = error.exit_code
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: say that it is a bug, and exit 1
        log.bug(error)
        return code
    finally:
        seconds = (datetime.now(UTC) - begun).total_seconds()
        logger(RunFinished(verb=args.verb, exit_code=code, duration_seconds=round(seconds, 3)))
    _print(args, result, code)
    return code


def _new_run_id(now: datetime) -> str:
    import secrets

    from backup.model import stamp

    return f"{stamp(now)}-{secrets.token_hex(4)}"


def _print(args: argparse.Namespace, result: Result, code: int) -> None:
    from backup import report

    if args.json:
        print(report.to_json(args.verb, code, result))
    else:
        report.print_result(result, code, report.console(sys.stdout))


def _give_up(args: argparse.Namespace, error: BackupError) -> int:
    from backup import report

    if args.json:
        print(report.error_json(args.verb, error))
    report.print_error(error, report.console(sys.stderr))
    return error.exit_code


@contextmanager
def _listeners(logger: Emit) -> Iterator[Emit]:
    """Give the log, and on a terminal a progress bar beside it."""
    if not sys.stderr.isatty():
        yield logger
        return
    from backup.report import ProgressBar

    with ProgressBar() as bar:

        def both(event: Event) -> None:
            bar(event)
            logger(event)

        yield both


def _backup(run: _Run) -> Result:
    from backup.verbs.backup import Options, back_up

    settings = run.settings
    options = Options(
        source=settings.source,
        statefulset=settings.statefulset,
        run_id=run.run_id,
        tool=f"deepgram-journal-backup {backup.__version__}",
        expect_replicas=settings.expect_replicas,
        site=settings.site,
        readback=settings.readback,
        compression_level=settings.compression_level,
        concurrency=settings.concurrency,
        deadline=settings.deadline,
    )
    return back_up(options, run.sinks, clock=_now, emit=run.emit, stop=run.stop)


def _list(run: _Run) -> Result:
    from backup.verbs.inspect import list_backups

    return list_backups(run.sinks, journal=run.args.journal, long=run.args.long, emit=run.emit)


def _show(run: _Run) -> Result:
    from backup.verbs.inspect import show

    return show(run.sinks, run.args.selector, journal=run.args.journal, emit=run.emit)


def _verify(run: _Run) -> Result:
    from backup.verbs.inspect import verify

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


def _acknowledge(run: _Run) -> Result:
    from backup.verbs.ledger import acknowledge

    args = run.args
    return acknowledge(run.sinks, args.id, by=args.by, note=args.note, clock=_now, emit=run.emit)


def _retire(run: _Run) -> Result:
    from backup.verbs.ledger import retire

    args = run.args
    return retire(run.sinks, args.journal, by=args.by, note=args.note, clock=_now, emit=run.emit)


def _now() -> datetime:
    return datetime.now(UTC)


_VERBS: dict[str, Callable[[_Run], Result]] = {
    "backup": _backup,
    "list": _list,
    "show": _show,
    "verify": _verify,
    "restore": _restore,
    "acknowledge": _acknowledge,
    "retire": _retire,
}
