"""The command line within this process: arguments, and what is done when something breaks."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

import backup
from backup import cli, config, report
from backup.errors import ConfigError, DeadlineError
from backup.model import Problem, Warned
from tests.billing import records, write_journal

JOURNAL = "journal-deepgram-billing-0"
SELECTOR = "20261123T020000Z-3f9a1c"


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    """Leave no configuration behind: it belongs to the process."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a place with a journal and a sink, and the settings that name them."""
    for name in list(os.environ):
        if name.upper().startswith("BACKUP_"):
            monkeypatch.delenv(name)
    (tmp_path / "sink").mkdir()
    write_journal(tmp_path / "journals", 0, records(3))
    monkeypatch.setenv("BACKUP_SOURCE", f"{tmp_path}/journals")
    monkeypatch.setenv("BACKUP_SINKS", f"file://{tmp_path}/sink")
    return tmp_path


class Terminal(io.StringIO):
    """A stream that says it is a terminal, of no known width."""

    def isatty(self) -> bool:
        """Say so."""
        return True

    def fileno(self) -> int:
        """Give one of a device that has no size."""
        return self._fd

    def __init__(self) -> None:
        """Open a pseudo-terminal nobody has sized."""
        super().__init__()
        self._fd, self.other = os.openpty()


@contextmanager
def terminals() -> Iterator[tuple[Terminal, Terminal]]:
    """Make stdout and stderr one terminal, as far as the command can tell."""
    out, err = Terminal(), Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield out, err
    for stream in (out, err):
        os.close(stream.fileno())
        os.close(stream.other)


def on_terminals(*argv: str) -> tuple[int, str, str]:
    """Run a verb there; give the exit code and what stdout and stderr were told."""
    with terminals() as (out, err):
        code = cli.main(argv)
    return code, out.getvalue(), err.getvalue()


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Run a verb; stdout has to be exactly one JSON object."""
    code = cli.main(argv)
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert content["exit_code"] == code
    return code, content


def test_every_verb_on_one_journal(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each does its work, and says it in one JSON object that names the verb."""
    _, made = run_json(capsys, "backup", "--json")
    backup_id = made["journals"][0]["copies"][0]["id"]

    for argv in (
        ["list", "--long"],
        ["show", "latest"],
        ["verify", "--deep"],
        ["verify", backup_id, "--journal", JOURNAL],
        ["restore", backup_id[:12], "--target", f"{site}/restored"],
        ["retire", JOURNAL, "--by", "ada", "--note", "why"],
        ["config"],
        ["version"],
    ):
        code, content = run_json(capsys, *argv, "--json")
        assert (code, content["verb"]) == (0, argv[0])
    assert (site / "restored" / JOURNAL / "journal").read_bytes() == records(3)


def test_an_alarm_is_acknowledged(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From exit 6 back to 0: the id that the report names is the one to give."""
    assert cli.main(["backup"]) == 0
    write_journal(site / "journals", 0, records(3, seed=2))
    capsys.readouterr()
    code, content = run_json(capsys, "backup", "--json")
    assert code == 6
    (alarm,) = content["journals"][0]["copies"][0]["alarms"]

    assert cli.main(["acknowledge", alarm, "--by", "ada"]) == 0
    assert cli.main(["backup"]) == 0


def test_text_is_what_people_get(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json, for each kind of verb."""
    assert [cli.main([verb]) for verb in ("backup", "list", "config", "version")] == [0, 0, 0, 0]

    out = capsys.readouterr().out
    assert "1 of 1 journal backed up" in out
    assert "1 backup\n" in out
    assert re.search(rf"BACKUP_SOURCE +{re.escape(str(site))}/journals  \(from the env", out)
    assert f"deepgram-journal-backup {backup.__version__}" in out


def test_sinks_on_the_command_line_replace_the_settings(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several may be named; BACKUP_SINKS is not asked then."""
    assert cli.main(["backup"]) == 0
    (site / "other").mkdir()
    capsys.readouterr()

    _, content = run_json(capsys, "list", "--sink", f"file://{site}/other", "--json")
    assert content["backups"] == []


# -- wrong arguments


def test_no_verb_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """A CronJob that lost its arguments must not look like a success."""
    assert cli.main([]) == 2

    out, err = capsys.readouterr()
    assert (out, err.startswith("usage: journal-backup VERB")) == ("", True)


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["bakcup"], "there is no verb 'bakcup'", "did you mean backup?"),
        (
            ["xyz"],
            "there is no verb 'xyz'",
            "verbs are backup, list, show, verify, restore, acknowledge, retire, config, version",
        ),
        (
            ["restore"],
            "the following arguments are required: SELECTOR, --target",
            "see: journal-backup restore --help",
        ),
        (
            ["list", "--lon"],
            "unrecognized arguments: --lon",
            "see: journal-backup --help",
        ),
        (["--json"], "the following arguments are required: VERB", "see: journal-backup --help"),
    ],
)
def test_wrong_arguments_exit_2_with_a_way_out(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str, hint: str
) -> None:
    """In the form of all errors, and as JSON where that was asked for."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert err == f"error: {message}\n  hint: {hint}\n"
    assert bool(out) is ("--json" in argv)

    code, content = run_json(capsys, *argv, "--json")
    assert code == 2
    assert content["error"]["hints"] == [hint]
    assert content["verb"] == (argv[0] if argv[0] in {"restore", "list"} else None)


def test_wrong_settings_exit_2_naming_all(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the verb, config too: nothing is begun with settings that are half understood."""
    monkeypatch.setenv("BACKUP_READBACK", "no")
    monkeypatch.setenv("BACKUP_SINC", "x")

    for verb in ("backup", "list", "config"):
        code, content = run_json(capsys, verb, "--json")
        assert (code, len(content["error"]["problems"])) == (2, 2)


def test_a_verb_without_sinks_exits_2(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing to list is not the same as nowhere to look."""
    monkeypatch.delenv("BACKUP_SINKS")

    assert cli.main(["list"]) == 2
    assert "error: BACKUP_SINKS is not set" in capsys.readouterr().err


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Ask a verb for help."""
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", cli._VERBS, ids=lambda verb: verb.name)
def test_each_verb_has_help_with_examples_that_work(
    verb: cli._Verb, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fits a terminal of 80 columns, and what it shows can be typed."""
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(verb.name, capsys)

    assert max(map(len, text.splitlines())) < 81
    assert f"usage: journal-backup {verb.name}" in text
    assert verb.examples
    for example in verb.examples:
        _, _, arguments = example.partition("journal-backup ")
        parsed = cli._parser().parse_args(shlex.split(arguments))
        assert parsed.verb == verb.name


# -- what breaks


def breaking(error: BaseException) -> Callable[..., Any]:
    """Give something that breaks when it is called."""

    def broken(*_args: object, **_kwargs: object) -> Any:
        raise error

    return broken


def test_a_bug_exits_1_with_a_traceback_and_says_that_it_is_one(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log for who mends it, in words for who met it, and as JSON for programs."""
    monkeypatch.setattr("backup.verbs.inspect.list_backups", breaking(KeyError("gone")))
    assert cli.main(["list", "--json"]) == 1

    out, err = capsys.readouterr()
    bug = f"this is a bug in version {backup.__version__}"
    assert json.loads(out) == {
        "verb": "list",
        "exit_code": 1,
        "error": {
            "message": "unexpected KeyError: 'gone'",
            "hints": [f"{bug}: please report it, with the log above"],
        },
    }
    entries = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [entry["event"] for entry in entries] == ["run_finished", "bug_met"]
    assert entries[0]["exit_code"] == 1
    assert "Traceback" in entries[1]["exception"]
    assert "error: unexpected KeyError: 'gone'" in err


def test_a_bug_before_the_run_is_told_likewise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even the settings could be read."""
    monkeypatch.setattr(config, "load", breaking(RuntimeError("early")))

    code, content = run_json(capsys, "config", "--json")
    assert (code, content["error"]["message"]) == (1, "unexpected RuntimeError: early")


def test_an_interrupt_before_the_run_is_told_likewise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control-C while modules are being imported is no bug."""
    monkeypatch.setattr(config, "load", breaking(KeyboardInterrupt()))

    code, content = run_json(capsys, "config", "--json")
    assert (code, content["error"]["message"]) == (130, "stopped by SIGINT")


def test_an_error_that_ends_a_run_is_in_its_last_line(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The canonical line says how it ended, whichever way it did."""
    monkeypatch.setattr("backup.verbs.backup.back_up", breaking(DeadlineError("it is over")))

    assert cli.main(["backup"]) == 9
    entry, text = capsys.readouterr().err.split("\n", 1)
    assert json.loads(entry)["exit_code"] == 9
    assert text == "error: it is over\n"


class Broken(io.TextIOWrapper):
    """A stdout that cannot be written."""

    def __init__(self, error: OSError) -> None:
        """Fail like that."""
        super().__init__(io.BytesIO())
        self._error = error

    def flush(self) -> None:
        """Fail."""
        raise self._error

    def fileno(self) -> int:
        """Give the number whose place something harmless takes."""
        return self.number

    number = 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [(BrokenPipeError(), 0), (OSError(28, "No space left on device"), 1)],
)
def test_a_result_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: OSError,
    expected: int,
) -> None:
    """A reader that has had enough changes nothing; a full disk is a failure that is told."""
    stream = Broken(error)
    stream.number = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", stream)

    assert cli.main(["version", "--json"]) == expected
    message = "error: the result cannot be written: No space left on device\n"
    assert capfd.readouterr().err == ("" if expected == 0 else message)
    os.close(stream.number)


# -- terminals


def test_on_a_terminal_problems_are_told_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the report, with their hints; the log beside it tells only what goes on."""
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "2")
    code, out, err = on_terminals("backup")

    assert code == 4
    assert "".join(out.split()).count("journal-deepgram-billing-1isnotthere") == 1
    assert "journal-deepgram-billing-1" not in err
    assert f"{JOURNAL} stored on file://{site}/sink (first)" in err


def test_with_json_the_terminal_still_gets_problems(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no report for people then."""
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "2")
    code, out, err = on_terminals("backup", "--json")

    assert json.loads(out)["exit_code"] == code == 4
    assert err.count("journal-deepgram-billing-1 is not there") == 1


def test_what_a_broken_off_run_had_found_is_not_lost(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No report comes after a deadline, so what was left to it is told after all."""

    def half(*_args: object, emit: Callable[[object], None], **_kwargs: object) -> Any:
        emit(Problem(exit_code=5, message="a sink is full", hints=("make room",)))
        emit(Warned(message="something odd"))
        message = "the deadline is over"
        raise DeadlineError(message)

    monkeypatch.setattr("backup.verbs.backup.back_up", half)
    code, out, err = on_terminals("backup")

    assert (code, out) == (9, "")
    assert err.splitlines() == [
        "warning: something odd",
        "error: a sink is full",
        "  hint: make room",
        "error: the deadline is over",
    ]


def test_a_run_that_was_broken_off_without_findings_says_only_why(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No empty line stands for nothing."""
    monkeypatch.setattr("backup.verbs.backup.back_up", breaking(DeadlineError("it is over")))

    assert on_terminals("backup") == (9, "", "error: it is over\n")


def test_json_logs_may_be_asked_for_on_a_terminal(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BACKUP_LOG_FORMAT decides, where it is set; a progress bar would fold the lines."""
    monkeypatch.setenv("BACKUP_LOG_FORMAT", "json")
    assert on_terminals("backup")[0] == 0
    code, _, err = on_terminals("verify", "--deep")

    assert (code, json.loads(err)["event"]) == (0, "run_finished")


def test_a_terminal_of_unknown_width_counts_as_80_columns() -> None:
    """Some terminals say 0, and a division into no columns helps nobody."""
    with terminals() as (out, _):
        assert cli._width(out) == 80


# -- secrets


def test_no_secret_of_a_url_is_in_any_output(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of a good URL's options, not of a wrong one, in no verb, in text or JSON."""
    urls = (
        f"file://{site}/sink?require_mount=false",
        "s3://ada:hunter2@bucket/x?token=hunter2",
        "file://ada:hunter2@host/x",
        "ada:hunter2@host/x",
        f"file://{site}/sink?token=hunter2",
        f"file://{site}/sink#hunter2",
    )
    said: list[str] = []
    for url in urls:
        monkeypatch.setenv("BACKUP_SINKS", url)
        for argv in (["backup"], ["list"], ["verify"], ["config"], ["show", SELECTOR]):
            for more in ([], ["--json"]):
                cli.main([*argv, *more])
                said.extend(capsys.readouterr())
    cli.main(["list", "--sink", urls[1]])
    said.extend(capsys.readouterr())

    assert "file://" in "".join(said)
    assert "hunter2" not in "".join(said)


def test_records_of_a_journal_are_never_printed(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are the customer's, and Deepgram's."""
    data = b'{"d":"hunter2","s":"x"}\n{"d":hunter2\n'
    (site / "journals" / JOURNAL / "journal").write_bytes(data)

    assert cli.main(["backup"]) == 0
    assert cli.main(["verify", "--deep"]) == 6
    assert "hunter2" not in "".join(capsys.readouterr())


# -- exit codes


def test_help_and_table_tell_the_same_exit_codes() -> None:
    """--help repeats them, because it may not import the report; so they are compared here."""
    listed = cli._EPILOG.partition("one):\n")[2].splitlines()[:-1]
    codes = [code.strip() for line in listed for code in line[2:9].split(",")]

    assert codes == [*map(str, report.EXIT_CODES), "128+N"]


def test_an_error_of_usage_is_a_configuration_error() -> None:
    """One code for all that has to be typed anew."""
    assert ConfigError.exit_code == cli._USAGE_ERROR
