"""Logs: one line an event, JSON for machines, sentences for people."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from backup import log
from backup.events import (
    BackupCommitted,
    BackupsPruned,
    Event,
    Finding,
    PassRepeated,
    Problem,
    Progressed,
    RemainsSwept,
    RunFinished,
    RunStarted,
    Step,
    Warned,
)

NAS = "file:///mnt/nas"
JOURNAL = "journal-deepgram-billing-0"
EVENTS: tuple[Event, ...] = (
    RunStarted(verb="backup", run_id="run", sinks=(NAS, "file:///pv")),
    PassRepeated(journal=JOURNAL, reason="a hole"),
    BackupCommitted(
        journal=JOURNAL,
        sink=NAS,
        id="20261123T020000Z-3f9a1c",
        continuity="first",
        suspect=False,
        size_bytes=3,
        archive_bytes=2,
        records=1,
        duration_seconds=0.5,
    ),
    Problem(exit_code=5, message="no space left", hints=("make room",), journal=JOURNAL, sink=NAS),
    Warned(message=f"{JOURNAL} is empty", journal=JOURNAL),
    Finding(subject=NAS, message="takes backups"),
    Step(what="billing is scaled to 0"),
    RemainsSwept(sink=NAS, objects=2),
    BackupsPruned(journal=JOURNAL, sink=NAS, backups=2, kept=30),
    RunFinished(verb="backup", exit_code=5, duration_seconds=1.25, figures={"problems": 1}),
)


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    """Leave no configuration behind: it belongs to the process."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


class Ticks:
    """A monotonic clock that stands still until it is told to go on."""

    now = 1000.0

    def __call__(self) -> float:
        """Give the time, in seconds."""
        return self.now


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Read the JSON log; whatever is no JSON fails."""
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_every_event_has_a_name_and_a_sentence() -> None:
    """The names are a closed list, and each of them is said to people too."""
    kinds = Event.__subclasses__()
    assert {kind.name for kind in kinds} | {"bug_met"} == set(log._SENTENCES)


def test_json_is_one_object_a_line_with_everything_in_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Machines get each field under the name it has in the code, with its unit, and the run."""
    emit = log.set_up(level="info", style="json", run_id="run-1")
    for event in EVENTS:
        emit(event)

    entries = lines(capsys)
    assert [(e["level"], e["event"]) for e in entries] == [
        ("info", "run_started"),
        ("warning", "pass_repeated"),
        ("info", "backup_committed"),
        ("error", "problem_found"),
        ("warning", "warning_raised"),
        ("info", "found_good"),
        ("info", "step_taken"),
        ("info", "remains_swept"),
        ("info", "backups_pruned"),
        ("error", "run_finished"),
    ]
    assert all(e["timestamp"].endswith("Z") for e in entries)
    assert {e["run_id"] for e in entries[1:]} == {"run-1"}
    assert entries[3]["hints"] == ["make room"]
    assert entries[6]["what"] == "billing is scaled to 0"
    assert entries[9]["problems"] == 1


def test_what_says_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A key without content is noise in a log that is searched."""
    emit = log.set_up(level="info", style="json", run_id="run-1")
    emit(Problem(exit_code=5, message="m"))

    assert lines(capsys)[0].keys() == {
        "run_id", "exit_code", "message", "event", "level", "timestamp"
    }  # fmt: skip


def test_a_good_end_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Alerts look at the level; zero and false are content and stay."""
    emit = log.set_up(level="info", style="json", run_id="run-1")
    emit(RunFinished(verb="list", exit_code=0, duration_seconds=0.1))

    (entry,) = lines(capsys)
    assert (entry["level"], entry["exit_code"]) == ("info", 0)


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """BACKUP_LOG_LEVEL=error leaves problems and a bad end."""
    emit = log.set_up(level="error", style="json", run_id="run-1")
    for event in EVENTS:
        emit(event)

    assert [e["event"] for e in lines(capsys)] == ["problem_found", "run_finished"]


def test_progress_is_told_every_ten_seconds_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the number of subjects: verifying thousands of small backups is progress too."""
    ticks = Ticks()
    emit = log.set_up(level="info", style="json", run_id="run-1", monotonic=ticks)
    for second in range(31):
        ticks.now = 1000.0 + second
        for part in range(3):
            subject = f"backup {second}.{part}"
            emit(Progressed(verb="verify", subject=subject, done_bytes=second, total_bytes=99))

    entries = lines(capsys)
    assert [e["done_bytes"] for e in entries] == [10, 20, 30]
    assert {e["event"] for e in entries} == {"bytes_processed"}


def sentences(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Give the log for people, without the times."""
    err = capsys.readouterr().err
    return [line.partition("Z ")[2] for line in err.splitlines()]


def test_people_get_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """Each fits a terminal, and a place that the message names is not said twice."""
    ticks = Ticks()
    emit = log.set_up(level="info", style="console", run_id="run-1", monotonic=ticks)
    for event in EVENTS:
        emit(event)
    ticks.now += 10
    emit(Progressed(verb="backup", subject=JOURNAL, done_bytes=1_000, total_bytes=2_000_000))

    assert sentences(capsys) == [
        "backup to file:///mnt/nas, file:///pv",
        "journal-deepgram-billing-0 is read once more: a hole",
        "journal-deepgram-billing-0 stored on file:///mnt/nas (first)",
        "error: journal-deepgram-billing-0 on file:///mnt/nas: no space left",
        "warning: journal-deepgram-billing-0 is empty",
        "file:///mnt/nas takes backups",
        "billing is scaled to 0",
        "2 old remains swept from file:///mnt/nas",
        "journal-deepgram-billing-0: 2 backups pruned from file:///mnt/nas, 30 kept",
        "backup ended with exit code 5 after 1.25 s",
        "journal-deepgram-billing-0: 1,000 of 2,000,000 bytes",
    ]


def test_what_the_report_will_say_is_left_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    """In one window a problem is read once."""
    emit = log.set_up(level="info", style="console", run_id="run-1", has_report=True)
    for event in EVENTS:
        emit(event)

    said = sentences(capsys)
    assert len(said) == 6
    assert not [line for line in said if "error" in line or "warning" in line or "ended" in line]


def test_a_bug_is_logged_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """Without one nobody can mend it; values of variables may be secrets and are not in it."""
    log.set_up(level="error", style="json", run_id="run-1")
    records: dict[int, str] = {}
    hunter2 = "the password"
    try:
        _ = records[len(hunter2)]
    except KeyError as error:
        log.bug(error)

    (entry,) = lines(capsys)
    assert (entry["event"], entry["level"]) == ("bug_met", "critical")
    assert "Traceback" in entry["exception"]
    assert "KeyError: 12" in entry["exception"]
    assert "the password" not in entry["exception"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_bug_before_logging_began_is_logged_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool
) -> None:
    """And not on stdout, which is the result's, as structlog would have it by itself."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    log.bug(ValueError("early"))

    out, err = capsys.readouterr()
    assert out == ""
    assert "ValueError: early" in err
    assert err.startswith("{") is not is_terminal


class Gone(io.TextIOBase):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError

    def flush(self) -> None:
        """Fail likewise."""
        raise BrokenPipeError


def test_a_log_that_nobody_takes_ends_no_backup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals matter more than what is said about them."""
    emit = log.set_up(level="info", style="json", run_id="run-1")
    monkeypatch.setattr(sys, "stderr", Gone())

    for event in EVENTS:
        emit(event)


def test_a_log_goes_to_stderr_as_it_is_when_a_line_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A progress bar replaces it for a while, so that lines do not mangle the bar."""
    emit = log.set_up(level="info", style="json", run_id="run-1")
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)
    emit(EVENTS[1])

    assert json.loads(replaced.getvalue())["event"] == "pass_repeated"
