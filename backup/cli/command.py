"""One command, from its words to its exit code: the run, its log, its report."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import backup
from backup.cli.grammar import STDOUT, VERBS, Arguments, Verb, parser, require_verb, verb_in
from backup.cli.wiring import PERFORM, Call
from backup.errors import BackupError, ConfigError, SignalledError

if TYPE_CHECKING:
    from backup.answer import Answer
    from backup.events import Emit, Event, Problem, Warned
    from backup.results import Result
    from backup.settings import Settings

_TERMINATION_LOG = "/dev/termination-log"
"""Where the kubelet looks for a message (Pod.spec.containers.terminationMessagePath)."""
_UNEXPECTED = 1
_USAGE_ERROR = 2
_NEW_OBJECTS = 20_000
"""New objects between two garbage collections. Python's default (700; 2,000 from 3.13) is too often
for a short run: it cost a tenth of the start-up."""


@dataclass(frozen=True, slots=True)
class _Window:
    """How a run speaks to whoever looks on."""

    style: str
    """Of the log on stderr: ``console`` for people, ``json`` for machines."""
    has_bar: bool
    """Whether stderr is a terminal that a progress bar can be drawn on."""
    has_report: bool
    """Whether the report, which has the problems too, is printed in the same window."""


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
        parser().print_help(sys.stderr)
        return _USAGE_ERROR
    require_verb(given)
    args = parser(verb_in(given)).parse_args(given)
    if (answer := _PLAIN.get(args.verb)) is not None:
        return answer(args)
    return _perform(VERBS[args.verb], args)


# -- verbs that need no run


def _version(args: Arguments) -> int:
    if args.json:
        import json

        content = {"verb": "version", "exit_code": 0, "version": backup.__version__}
        _print(json.dumps(content, indent=2))
    else:
        _print(f"deepgram-journal-backup {backup.__version__}")
    return 0


def _config(args: Arguments) -> int:
    from backup import config, report

    rows = list(config.describe(config.load()))
    if args.json:
        _print(report.to_json("config", 0, {"settings": rows}))
    else:
        _print(report.config_text(rows, _width(sys.stdout)))
    return 0


_PLAIN = {"version": _version, "config": _config}
"""Verbs that need no run: they ask no sink and log nothing."""


# -- runs


def _perform(verb: Verb, args: Arguments) -> int:
    import time

    from backup import config, log, report
    from backup.events import RunFinished

    report_to = _report_stream(args)
    settings = config.load(sinks=getattr(args, "sink", ()), only=verb.settings)
    if verb.needs_sinks:
        config.require_sinks(settings)
    run_id = getattr(args, "run", None) or _new_run_id()
    window = _window(settings, args, report_to)
    logger = log.set_up(
        level=settings.log_level, style=window.style, run_id=run_id, has_report=window.has_report
    )
    begun, exit_code, figures = time.monotonic(), _UNEXPECTED, dict[str, int]()
    try:
        with _listeners(logger, window) as emit:
            result = _run(verb, args, settings, run_id=run_id, emit=emit)
        exit_code, figures = report.worst(result.exit_codes), report.figures(result)
    except BackupError as error:
        exit_code = error.exit_code
        if verb.is_hidden:
            _leave(report.answer_of_error(error))
        raise
    finally:
        seconds = round(time.monotonic() - begun, 3)
        logger(
            RunFinished(
                verb=args.verb, exit_code=exit_code, duration_seconds=seconds, figures=figures
            )
        )
    if verb.is_hidden:
        _leave(report.answer(result, exit_code))
    if args.json:
        _print(report.to_json(args.verb, exit_code, result))
    else:
        text = report.result_text(result, exit_code, _width(report_to))
        (_print if report_to is sys.stdout else _tell)(text)
    return exit_code


def _report_stream(args: Arguments) -> TextIO:
    """Say where the report goes: to stdout, unless the bundle does.

    Raises:
        ConfigError: it is not clear where the bundle goes, or it cannot go there.
    """
    if "output" not in args:
        return sys.stdout
    if (args.output is None) == (args.target is None):
        message = "a bundle goes to one place"
        raise ConfigError(message, "give one of --target DIR, --output FILE and --output -")
    if args.output != STDOUT:
        return sys.stdout
    if args.json:
        message = "--json and --output - would both write to stdout"
        raise ConfigError(message, "give --output FILE, or leave out --json")
    if sys.stdout.isatty():
        message = "stdout is a terminal, and the bundle is a tar"
        raise ConfigError(message, "send it to a file: --output FILE, or > bundle.tar")
    return sys.stderr


def _new_run_id() -> str:
    from backup.model import stamp
    from backup.run import utc_now

    return f"{stamp(utc_now())}-{os.urandom(4).hex()}"


def _window(settings: Settings, args: Arguments, report_to: TextIO) -> _Window:
    is_terminal = sys.stderr.isatty()
    style = settings.log_format or ("console" if is_terminal else "json")
    has_bar = is_terminal and style == "console"  # it would fold lines of JSON
    return _Window(style, has_bar, has_report=has_bar and not args.json and report_to.isatty())


def _run(verb: Verb, args: Arguments, settings: Settings, *, run_id: str, emit: Emit) -> Result:
    from backup.run import Run
    from backup.sinks import open_sink
    from backup.stop import Stop, on_signals

    stop = Stop(seconds=settings.deadline.total_seconds() if verb.has_deadline else None)
    run = Run(
        id=run_id,
        emit=emit,
        stop=stop,
        node=os.environ.get("NODE_NAME") or None,
        pod=os.environ.get("POD_NAME") or None,
    )
    with on_signals(stop):
        sinks = [open_sink(url, settings, stop=stop) for url in settings.sinks]
        return PERFORM[args.verb](Call(args, settings, sinks, run))


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
    from backup.events import Problem, Warned
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
            _print(report.error_json(verb_in(given), error))
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
