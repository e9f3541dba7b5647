"""The command itself: real processes, pipes and terminals."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pty
import resource
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.journal_data import records, write_journal

COMMAND = (sys.executable, "-m", "backup")
HEAVY = (
    "pydantic",
    "structlog",
    "rich",
    "isal",
    "orjson",
    "tenacity",
    "asyncio",
    "typing_extensions",
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give settings for a place with two journals and a sink."""
    (tmp_path / "sink").mkdir()
    for ordinal in range(2):
        write_journal(tmp_path / "journals", ordinal, records(50, seed=ordinal))
    given = {k: v for k, v in os.environ.items() if not k.upper().startswith("BACKUP_")}
    return given | {
        "BACKUP_SOURCE": f"{tmp_path}/journals",
        "BACKUP_SINKS": f"file://{tmp_path}/sink",
        "TERM": "xterm-256color",
        "NO_COLOR": "",
    }


def run(
    environment: Mapping[str, str], *argv: str, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run the command off any terminal."""
    return subprocess.run(
        [*COMMAND, *argv],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


def uninstrumented(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what measures coverage, which imports much; and keep what is compiled."""
    without = ("COVERAGE", "PYTHONDONTWRITEBYTECODE")
    return {k: v for k, v in environment.items() if not k.startswith(without)}


# -- streams


def test_stdout_is_the_result_and_stderr_the_log(environment: dict[str, str]) -> None:
    """Off the terminal each line of the log is JSON, and ends with the canonical one."""
    done = run(environment, "backup", "--json")

    assert done.returncode == json.loads(done.stdout)["exit_code"] == 0
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events == ["run_started", "backup_committed", "backup_committed", "run_finished"]


def test_no_arguments_are_no_success(environment: dict[str, str]) -> None:
    """A CronJob that lost them prints help and fails."""
    done = run(environment)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: journal-backup VERB")


def test_the_command_is_installed_under_its_name(environment: dict[str, str]) -> None:
    """What the documents call journal-backup is this."""
    script = Path(sys.executable).with_name("journal-backup")
    done = subprocess.run([script, "version"], capture_output=True, check=True, env=environment)

    assert done.stdout == run(environment, "version").stdout.encode()


def test_importing_the_entry_point_runs_nothing() -> None:
    """Tools that walk a package import all of its modules."""
    assert importlib.import_module("backup.__main__").cli.main is not None


def test_a_reader_that_has_gone_changes_nothing(environment: dict[str, str]) -> None:
    """As in list | head: quiet, and the exit code is what was done."""
    for verb in ("backup", "list", "version"):
        reading, writing = os.pipe()
        os.close(reading)
        done = run(environment | {"BACKUP_LOG_LEVEL": "error"}, verb, stdout=writing)
        os.close(writing)

        assert (verb, done.returncode, done.stderr) == (verb, 0, "")


def test_a_result_that_cannot_be_written_is_a_failure(environment: dict[str, str]) -> None:
    """A full disk under the report: the backup is there, but nobody could read that it is."""
    with Path("/dev/full").open("w") as full:
        done = run(environment | {"BACKUP_LOG_LEVEL": "error"}, "list", stdout=full.fileno())

    assert done.returncode == 1
    assert done.stderr == "error: the result cannot be written: No space left on device\n"


# -- terminals


def on_terminal(environment: Mapping[str, str], *argv: str, columns: int = 80) -> tuple[int, str]:
    """Run the command on a pseudo-terminal; give the exit code and what it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *argv], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65_536)
    except OSError:  # Linux says so when the other side is closed
        return b""


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_shows_sentences_and_whole_ids(
    environment: dict[str, str], columns: int
) -> None:
    """No JSON, no line that the terminal would break, and an id that can be copied."""
    code, shown = on_terminal(environment | {"NO_COLOR": "1"}, "backup", columns=columns)
    assert code == 0
    assert "2 of 2 journals backed up" in shown
    assert '{"' not in shown

    _, listed = on_terminal(environment | {"NO_COLOR": "1"}, "list", columns=columns)
    ids = [b["id"] for b in json.loads(run(environment, "list", "--json").stdout)["backups"]]
    assert len(ids) == 2
    assert all(backup_id in listed for backup_id in ids)
    table = [line for line in listed.splitlines() if not line.startswith("sink: ")]
    assert max(map(len, table)) <= columns


def test_a_terminal_gets_colours_and_a_pipe_none(environment: dict[str, str]) -> None:
    """NO_COLOR is heeded where it is set to anything."""
    _, coloured = on_terminal(environment, "backup")
    assert "\x1b[32mbacked up\x1b[0m" in coloured

    assert "\x1b" not in run(environment, "list").stdout
    assert "\x1b[1m" not in on_terminal(environment | {"NO_COLOR": "1"}, "list")[1]


def test_a_problem_is_read_once_on_a_terminal(environment: dict[str, str]) -> None:
    """With its hint, and the code in words."""
    missing = {"BACKUP_EXPECT_REPLICAS": "3", "NO_COLOR": "1"}
    code, shown = on_terminal(environment | missing, "backup", columns=200)

    assert code == 4
    assert shown.count("journal-deepgram-billing-2 is not there") == 1
    assert shown.count("error: ") == 1
    assert "exit code 4: an expected journal was not read" in shown


# -- start-up


@pytest.mark.parametrize("argument", ["--help", "version", "--version"])
def test_help_and_version_import_nothing_heavy(environment: dict[str, str], argument: str) -> None:
    """They are asked in loops and probes, and must work where a dependency is broken."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "backup", argument],
        env=uninstrumented(environment),
        capture_output=True,
        text=True,
        check=True,
    )

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "backup.cli" in imported
    assert {name for name in imported if name.split(".")[0] in HEAVY} == set()


@pytest.mark.parametrize("verb", ["backup", "list"])
def test_a_good_run_off_the_terminal_loads_nothing_for_other_runs(
    environment: dict[str, str], verb: str
) -> None:
    """Neither what draws, nor what repeats, nor an SDK, nor the cluster's part."""
    others = {"rich", "tenacity", "pydantic_settings", "boto3", "google", "kubernetes", "requests"}
    program = (
        "import sys; from backup import cli; assert not cli.main(sys.argv[1:]);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, verb],
        env=uninstrumented(environment),
        capture_output=True,
        text=True,
        check=True,
    )

    loaded = {*done.stderr.splitlines()[-1].split()}
    assert {"backup.report", "structlog"} <= loaded
    assert others & {name.partition(".")[0] for name in loaded} == set()
    assert {name for name in loaded if name.startswith("backup.cluster")} == set()


@pytest.mark.parametrize(
    ("verb", "seconds"), [("version", 0.2), ("--help", 0.4), ("list", 0.5), ("backup", 0.5)]
)
def test_the_command_starts_fast(environment: dict[str, str], verb: str, seconds: float) -> None:
    """In so many seconds of a processor on which Python counts to a million in 0.07 s.

    The best of several is taken, each beside such a count: a machine that is slow, or does much
    else, is slow at both.
    """

    def start() -> None:
        assert run(uninstrumented(environment), verb).returncode == 0

    spent: list[float] = []
    for _ in range(8):
        unit = processor_seconds(count_to_a_million) / COUNTING_SECONDS
        spent.append(processor_seconds(start) / max(1.0, unit))
        if spent[-1] <= seconds:
            return

    pytest.fail(f"{verb} took {min(spent):.2f} s at best, and should take {seconds} s")


COUNTING_SECONDS = 0.07


def count_to_a_million() -> None:
    """Do work whose cost is known."""
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(1_000_000))"], check=True)


def processor_seconds(act: Callable[[], object]) -> float:
    """Measure the processor's time of the processes that are run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    act()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
