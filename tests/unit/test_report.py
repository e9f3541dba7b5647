"""Reports: the worst exit code, JSON whose keys are a contract, text that fits a terminal."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from backup import report
from backup.answer import Answer, JournalAnswer
from backup.cluster import rescue
from backup.cluster.crew import WorkerOutcome
from backup.cluster.orchestrator import ClusterResult
from backup.cluster.rescue import Resumed, ResumeResult
from backup.errors import BackupError, ConfigError, SettingsError, SinkFullError
from backup.events import Finding, Problem, Warned
from backup.manifest import Manifest
from backup.model import size_text
from backup.report import (
    EXIT_CODES,
    config_text,
    error_json,
    error_text,
    events_text,
    figures,
    result_text,
    to_json,
    worst,
)
from backup.results import Result
from backup.transfer.destination import Copy
from backup.verbs.commit import CommitResult, Committed
from backup.verbs.doctor import DoctorResult
from backup.verbs.export import Exported, ExportResult
from backup.verbs.inspect import Details, ListResult, Row, ShowResult
from backup.verbs.ledger import LedgerResult, Marked
from backup.verbs.outcome import BackupResult, JournalOutcome
from backup.verbs.prune import Considered, PruneResult
from backup.verbs.restore import Restored, RestoreResult
from backup.verbs.verify import Verified, VerifyResult
from docs.generate import exit_code_table
from tests import manifests

ZERO, ONE, TWO = (f"journal-deepgram-billing-{n}" for n in range(3))
FIRST, SECOND = "20261122T020000Z-3f9a1c", "20261123T020000Z-3f9a1c"
NAS, PV = "file:///mnt/nas", "file:///mnt/pv"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
FULL = Problem(
    exit_code=5,
    message=f"{NAS}: cannot store: no space left on device",
    hints=("make room on the volume",),
    journal=ZERO,
    sink=NAS,
)


def backup_result(*journals: JournalOutcome, **changes: Any) -> BackupResult:
    """Give what came of a run."""
    given: dict[str, Any] = {
        "run_id": "20261123T020000Z-00000001",
        "started_at": NOON,
        "duration_seconds": 1.23456,
        "journals": journals,
        "ignored_entries": 3,
        "foreign_journals": (),
        "problems": (),
        "warnings": (),
    }
    return BackupResult(**(given | changes))


def outcome(journal: str, *copies: Copy, **changes: Any) -> JournalOutcome:
    """Give what came of a journal."""
    given: dict[str, Any] = {
        "journal": journal,
        "expected": True,
        "found": True,
        "size_bytes": 7_890_000 if copies else 0,
        "records": 20_000 if copies else 0,
        "copies": copies,
    }
    return JournalOutcome(**(given | changes))


def good(sink: str, **changes: Any) -> Copy:
    """Give a copy that is held."""
    given: dict[str, Any] = {"sink": sink, "id": SECOND, "continuity": "extended"}
    return Copy(**(given | changes))


def row(journal: str, backup_id: str, **changes: Any) -> Row:
    """Give a row of a list."""
    given: dict[str, Any] = {
        "journal": journal,
        "id": backup_id,
        "created_at": NOON,
        "archive_bytes": 5_000_000,
        "marks": (),
        "sinks": (NAS,),
    }
    return Row(**(given | changes))


MIXED = backup_result(
    outcome(ZERO, good(NAS, continuity="shrunk", alarms=(SECOND,)), good(PV)),
    outcome(ONE, good(PV), Copy(sink=NAS, error=SinkFullError("no space left"))),
    outcome(TWO, found=False, problem=Problem(exit_code=4, message="expected", journal=TWO)),
    problems=(FULL,),
    warnings=(Warned(message="is empty: no complete record yet", journal=ONE),),
)
DETAILS = Details(
    continuity="extended", size_bytes=7_890_000, records=20_000, suspect=True, alarms=(FIRST,)
)
LISTED = ListResult(
    backups=(
        row(ZERO, FIRST, marks=("acknowledged",)),
        row(ZERO, SECOND, sinks=(NAS, PV)),
        row(ONE, SECOND, sinks=(PV,)),
    ),
    not_backups=1,
    unfinished=2,
    problems=(),
)
SHOWN = ShowResult(
    sink=NAS,
    also_on=(PV,),
    manifest=Manifest.model_validate(manifests.shared()),
    manifest_sha256=manifests.SHA256,
    marks=("acknowledged",),
    standing_alarms=(FIRST,),
    against=f"standing alarm: {FIRST}",
    problems=(),
)
VERIFIED = VerifyResult(
    backups=(
        Verified(journal=ONE, id=SECOND, sink=NAS, findings=("wrong",), archive_bytes=5_000),
        Verified(journal=ZERO, id=SECOND, sink=PV, findings=(), archive_bytes=5_000, records=7),
        Verified(journal=ZERO, id=SECOND, sink=NAS, findings=(), suspect=True, alarms=(FIRST,)),
        Verified(journal=TWO, id=SECOND, sink=NAS, findings=(), records=7, unfinished_bytes=9),
    ),
    problems=(),
)
RESTORED = RestoreResult(
    restored=(
        Restored(
            journal=ZERO,
            id=SECOND,
            sink=NAS,
            path=f"/restored/{ZERO}",
            size_bytes=7_890_000,
            records=20_000,
            duration_seconds=0.5,
        ),
    ),
    problems=(),
)
BUNDLED = ExportResult(
    place="/restored/bundle",
    exported=(
        Exported(journal=ZERO, id=SECOND, sink=NAS, size_bytes=7_890_000, records=20_000),
        Exported(journal=ONE, id=FIRST, sink=NAS, size_bytes=0, records=0),
    ),
    problems=(),
    warnings=(Warned(message=f"{FIRST} is older", journal=ZERO),),
    duration_seconds=0.5,
)
PRUNED = PruneResult(
    confirmed=True,
    backups=(
        Considered(journal=ZERO, id=SECOND, sink=NAS, goes=False, reason="last"),
        Considered(journal=ZERO, id=FIRST, sink=NAS, goes=True, reason="delivered"),
    ),
    problems=(),
)
EXAMINED = DoctorResult(
    findings=(Finding(subject=NAS, message="takes backups"),),
    problems=(Problem(exit_code=7, message="may not: list jobs", hints=("grant it",)),),
    warnings=(Warned(message="is odd", journal=ZERO),),
)
MARKED = LedgerResult(
    marks=(
        Marked(kind="retired", journal=ZERO, id=SECOND, sink=NAS, is_new=True),
        Marked(kind="retired", journal=ZERO, id=SECOND, sink=PV, is_new=False),
    ),
    problems=(),
)


def cluster_result(*journals: WorkerOutcome, **changes: Any) -> ClusterResult:
    """Give what came of a run by workers."""
    given: dict[str, Any] = {
        "run_id": "20261123T020000Z-00000001",
        "strategy": "colocated",
        "started_at": NOON,
        "duration_seconds": 61.23456,
        "downtime_seconds": None,
        "billing_replicas": 3,
        "api_calls": 34,
        "journals": journals,
        "problems": (),
        "warnings": (),
    }
    return ClusterResult(**(given | changes))


def read_by(journal: str, **changes: Any) -> WorkerOutcome:
    """Give what came of a journal that a worker read."""
    given: dict[str, Any] = {
        "journal": journal,
        "claim": journal,
        "state": "backed up",
        "node": "node-3",
        "worker": "journal-backup-29-worker-1a2b3c4d",
        "size_bytes": 7_890_000,
        "records": 20_000,
        "id": SECOND,
    }
    return WorkerOutcome(**(given | changes))


SPREAD = cluster_result(
    read_by(ZERO),
    read_by(ONE, state="suspect"),
    WorkerOutcome(journal=TWO, claim=None, state="missing"),
    problems=(Problem(exit_code=4, message="expected, but its claim is gone", journal=TWO),),
    warnings=(Warned(message="billing's pod has moved"),),
)
COMMITTED = CommitResult(
    run_id="20261123T020000Z-00000001",
    committed=(
        Committed(journal=ZERO, id=SECOND, sink=NAS, continuity="first", size_bytes=7_890_000),
        Committed(journal=ZERO, id=SECOND, sink=PV, continuity="first", size_bytes=7_890_000),
    ),
    problems=(),
)


def resumed(state: Resumed, *, replicas: int | None = 3, **changes: Any) -> ResumeResult:
    """Give what came of bringing billing back."""
    given: dict[str, Any] = {"statefulset": "deepgram-billing", "holder": "run-7"}
    return ResumeResult(state=state, replicas=replicas, **(given | changes))


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare text without colours; one test is about them."""
    monkeypatch.setenv("NO_COLOR", "1")


# -- exit codes


def test_the_order_of_severity_in_full() -> None:
    """What pages somebody must not hide behind what can wait."""
    order = [8, 143, 1, 6, 7, 2, 4, 5, 9, 3, 0]

    for (place, code), (other_place, other) in itertools.product(enumerate(order), repeat=2):
        assert worst([code, other]) == order[min(place, other_place)]
    assert worst(reversed(order)) == 8
    assert worst([]) == 0


@pytest.mark.parametrize("code", [129, 130, 137, 143, 192])
def test_any_signal_is_a_signal(code: int) -> None:
    """They rank alike, below "billing was not restored" alone."""
    assert worst([1, 6, code]) == code
    assert worst([8, code]) == 8


@pytest.mark.parametrize("code", [10, 42, 128, 193, 255, -1])
def test_an_unknown_code_is_a_failure(code: int) -> None:
    """It counts as an unexpected error, never as success."""
    assert worst([0, 3, 9, 5, 4, 2, 7, 6, code]) == code
    assert worst([code, 8]) == 8


def test_every_code_has_a_rank_and_a_meaning() -> None:
    """A code that the table lacks would be told as "failed"."""
    assert sorted(report._SEVERITY) == sorted(EXIT_CODES)
    assert len(exit_code_table().strip().splitlines()) == len(EXIT_CODES) + 3


# -- JSON


def keys(item: Any) -> Any:
    """Give the keys of JSON objects, and those of the first object of each list."""
    if isinstance(item, dict):
        return {key: keys(value) for key, value in item.items()}
    if isinstance(item, list) and item:
        return [keys(item[0])]
    return None


HINTED: dict[str, Any] = {"message": None, "hints": [None]}
PROBLEM = {"exit_code": None, **HINTED, "journal": None, "sink": None}
GOLDEN: dict[str, tuple[Any, Any]] = {
    "backup": (
        MIXED,
        {
            "run_id": None,
            "started_at": None,
            "duration_seconds": None,
            "journals": [
                {
                    "state": None,
                    "journal": None,
                    "expected": None,
                    "found": None,
                    "size_bytes": None,
                    "records": None,
                    "omitted_tail_bytes": None,
                    "is_empty": None,
                    "suspicion": None,
                    "passed_over": None,
                    "passed_over_count": None,
                    "copies": [
                        {
                            "sink": None,
                            "id": None,
                            "continuity": None,
                            "archive_bytes": None,
                            "alarms": [None],
                            "problems": None,
                            "error": None,
                        }
                    ],
                    "problem": None,
                }
            ],
            "ignored_entries": None,
            "foreign_journals": None,
            "problems": [PROBLEM],
            "warnings": [{"message": None, "journal": None, "sink": None}],
        },
    ),
    "list": (
        ListResult(
            backups=(row(ZERO, FIRST, details=DETAILS),),
            not_backups=0,
            unfinished=0,
            problems=(FULL,),
        ),
        {
            "backups": [
                {
                    "journal": None,
                    "id": None,
                    "created_at": None,
                    "archive_bytes": None,
                    "marks": None,
                    "sinks": [None],
                    "details": {
                        "continuity": None,
                        "size_bytes": None,
                        "records": None,
                        "suspect": None,
                        "alarms": [None],
                    },
                }
            ],
            "not_backups": None,
            "unfinished": None,
            "problems": [PROBLEM],
        },
    ),
    "show": (
        SHOWN,
        {
            "sink": None,
            "also_on": [None],
            "manifest": keys(manifests.shared()),
            "manifest_sha256": None,
            "marks": [None],
            "standing_alarms": [None],
            "against": None,
            "problems": None,
        },
    ),
    "verify": (
        VERIFIED,
        {
            "backups": [
                {
                    "journal": None,
                    "id": None,
                    "sink": None,
                    "findings": [None],
                    "archive_bytes": None,
                    "records": None,
                    "unfinished_bytes": None,
                    "suspect": None,
                    "alarms": None,
                }
            ],
            "problems": None,
        },
    ),
    "restore": (
        RESTORED,
        {
            "restored": [
                {
                    "journal": None,
                    "id": None,
                    "sink": None,
                    "path": None,
                    "size_bytes": None,
                    "records": None,
                    "duration_seconds": None,
                }
            ],
            "problems": None,
        },
    ),
    "export": (
        BUNDLED,
        {
            "place": None,
            "exported": [
                {
                    "journal": None,
                    "id": None,
                    "sink": None,
                    "size_bytes": None,
                    "records": None,
                }
            ],
            "problems": None,
            "warnings": [{"message": None, "journal": None, "sink": None}],
            "duration_seconds": None,
        },
    ),
    "prune": (
        PRUNED,
        {
            "confirmed": None,
            "backups": [{"journal": None, "id": None, "sink": None, "goes": None, "reason": None}],
            "problems": None,
            "warnings": None,
        },
    ),
    "doctor": (
        EXAMINED,
        {
            "findings": [{"subject": None, "message": None}],
            "problems": [
                {"exit_code": None, "message": None, "hints": [None], "journal": None, "sink": None}
            ],
            "warnings": [{"message": None, "journal": None, "sink": None}],
        },
    ),
    "retire": (
        MARKED,
        {
            "marks": [{"kind": None, "journal": None, "id": None, "sink": None, "is_new": None}],
            "problems": None,
            "warnings": None,
        },
    ),
    "backup by workers": (
        SPREAD,
        {
            "run_id": None,
            "strategy": None,
            "started_at": None,
            "duration_seconds": None,
            "downtime_seconds": None,
            "billing_replicas": None,
            "api_calls": None,
            "journals": [
                {
                    "journal": None,
                    "claim": None,
                    "state": None,
                    "node": None,
                    "worker": None,
                    "size_bytes": None,
                    "records": None,
                    "id": None,
                }
            ],
            "problems": [{**PROBLEM, "hints": None}],
            "warnings": [{"message": None, "journal": None, "sink": None}],
        },
    ),
    "commit": (
        COMMITTED,
        {
            "run_id": None,
            "committed": [
                {
                    "journal": None,
                    "id": None,
                    "sink": None,
                    "continuity": None,
                    "size_bytes": None,
                }
            ],
            "problems": None,
        },
    ),
    "resume-billing": (
        resumed("gone", warnings=(Warned(message="deepgram-billing is gone"),)),
        {
            "statefulset": None,
            "state": None,
            "replicas": None,
            "holder": None,
            "problems": None,
            "warnings": [{"message": None, "journal": None, "sink": None}],
        },
    ),
}


@pytest.mark.parametrize("verb", GOLDEN)
def test_the_keys_of_json_are_a_contract(verb: str) -> None:
    """Programs read them: to add one is a minor change, to rename one is a major one."""
    result, expected = GOLDEN[verb]

    content = json.loads(to_json(verb, 4, result))
    assert keys(content) == {"verb": None, "exit_code": None, **expected}
    assert (content["verb"], content["exit_code"]) == (verb, 4)


def test_values_in_json_are_what_programs_expect() -> None:
    """Times in UTC with a Z, seconds to the millisecond, errors with their hints."""
    content = json.loads(to_json("backup", 5, MIXED))

    assert content["started_at"] == "2026-11-23T12:00:00Z"
    assert content["duration_seconds"] == 1.235
    assert [j["state"] for j in content["journals"]] == ["backed up", "partial", "missing"]
    assert content["journals"][1]["copies"][1]["error"] == {"message": "no space left", "hints": []}


def test_an_error_in_json_has_message_and_hints() -> None:
    """Whatever was wrong, the same keys; settings have their problems besides."""
    plain = json.loads(error_json(None, BackupError("it broke", "mend it")))
    settings = json.loads(error_json("backup", SettingsError((("A is wrong", "mend A"),))))

    assert plain == {
        "verb": None,
        "exit_code": 1,
        "error": {"message": "it broke", "hints": ["mend it"]},
    }
    assert settings["exit_code"] == 2
    assert settings["error"] == {
        "message": "1 setting is wrong",
        "hints": [],
        "problems": [{"message": "A is wrong", "hints": ["mend A"]}],
    }


def test_bytes_that_are_no_text_do_not_break_json() -> None:
    """A file may be called anything, and Python carries its bytes as surrogates."""
    text = error_json("backup", BackupError("/journals/\udcff\x1b[2J\n may not be read"))

    assert json.loads(text.encode())["error"]["message"] == (
        "/journals/\\xff\x1b[2J\n may not be read"
    )


# -- text


def text_lines(text: str) -> list[str]:
    """Give the lines; none may end in blanks or hold what a terminal would obey."""
    assert not re.search(r"[ \t]$|[\x00-\x09\x0b-\x1f]", text, re.MULTILINE)
    return text.splitlines()


def test_a_backup_off_the_terminal_has_one_line_a_journal() -> None:
    """Logs are searched by line; nothing is cut and nothing is coloured."""
    assert text_lines(result_text(MIXED, 5, None)) == [
        f"JOURNAL{' ' * 21}STATE         SIZE  RECORDS  ID{' ' * 23}CONTINUITY        SINKS",
        f"{ZERO}  backed up  7.5 MiB   20,000  {SECOND}  extended, shrunk  2 of 2",
        f"{ONE}  partial    7.5 MiB   20,000  {SECOND}  extended          1 of 2",
        f"{TWO}  missing",
        f"warning: {ONE}: is empty: no complete record yet",
        "2 of 3 journals backed up in 1.2 s; 3 other entries in the source left alone",
        f"error: {ZERO}: {NAS}: cannot store: no space left on device",
        "  hint: make room on the volume",
        "exit code 5: a journal reached no sink, or a sink cannot be read",
    ]


def test_a_backup_on_a_narrow_terminal_keeps_ids_whole() -> None:
    """The journal gets a line of its own, messages are wrapped at blanks."""
    result = backup_result(
        outcome(ZERO, good(NAS)),
        problems=(FULL,),
        ignored_entries=1,
    )

    lines = text_lines(result_text(result, 5, 80))
    assert max(map(len, lines)) <= 80
    assert lines == [
        "  STATE         SIZE  RECORDS  ID                       CONTINUITY  SINKS",
        ZERO,
        f"  backed up  7.5 MiB   20,000  {SECOND}  extended    1 of 1",
        "1 of 1 journal backed up in 1.2 s; 1 other entry in the source left alone",
        f"error: {ZERO}: {NAS}: cannot store: no space left",
        "       on device",
        "  hint: make room on the volume",
        "exit code 5: a journal reached no sink, or a sink cannot be read",
    ]


def test_a_run_without_journals_has_no_table() -> None:
    """A heading above nothing looks like something."""
    assert text_lines(result_text(backup_result(), 0, None)) == [
        "0 of 0 journals backed up in 1.2 s; 3 other entries in the source left alone"
    ]


def test_a_hint_that_several_share_is_given_once() -> None:
    """A sink that is full says so for each journal; the way out is the same."""
    problems = tuple(
        Problem(exit_code=5, message="full", hints=("make room",), journal=name, sink=NAS)
        for name in (ZERO, ONE)
    )

    assert text_lines(events_text(problems, None)) == [
        f"error: {ZERO} on {NAS}: full",
        f"error: {ONE} on {NAS}: full",
        "  hint: make room",
    ]


def test_a_list_numbers_the_sinks_and_leaves_empty_columns_out() -> None:
    """URLs are too long for a table; one sink needs no number."""
    assert text_lines(result_text(LISTED, 0, 80)) == [
        "  ID                       ARCHIVE  SINKS  NOTES",
        ZERO,
        f"  {FIRST}  4.8 MiB  1      acknowledged",
        f"  {SECOND}  4.8 MiB  1 2",
        ONE,
        f"  {SECOND}  4.8 MiB  2",
        f"sink 1: {NAS}",
        f"sink 2: {PV}",
        "3 backups",
        "1 object without a manifest: not backups",
        "2 unfinished uploads: a run is under way, or was interrupted",
    ]


def test_a_long_list_puts_what_does_not_fit_below_its_row() -> None:
    """Alarms have to be readable: somebody has to copy the id."""
    listed = ListResult(
        backups=(
            row(ZERO, FIRST, details=DETAILS, marks=("retired",)),
            row(ZERO, SECOND),
            row(ONE, SECOND, details=Details(**{**_details(), "alarms": ()})),
        ),
        not_backups=0,
        unfinished=0,
        problems=(),
    )

    assert text_lines(result_text(listed, 0, 80)) == [
        "  ID                       ARCHIVE     SIZE  RECORDS  CONTINUITY  NOTES",
        ZERO,
        f"  {FIRST}  4.8 MiB  7.5 MiB   20,000  extended",
        f"    suspect, alarm {FIRST}, retired",
        f"  {SECOND}  4.8 MiB                                not read",
        ONE,
        f"  {SECOND}  4.8 MiB  7.5 MiB   20,000  extended    suspect",
        f"sink: {NAS}",
        "3 backups",
    ]


def _details() -> dict[str, Any]:
    return {name: getattr(DETAILS, name) for name in Details.__dataclass_fields__}


def test_a_heading_that_does_not_fit_is_left_out() -> None:
    """A terminal would break it in the middle."""
    lines = text_lines(result_text(LISTED, 0, 47))

    assert lines[0] == "  ID                       ARCHIVE  SINKS"
    assert lines[2:4] == [f"  {FIRST}  4.8 MiB  1", "    acknowledged"]


def test_an_empty_list_says_so() -> None:
    """No backup yet is no error, and no table."""
    assert (
        result_text(ListResult(backups=(), not_backups=0, unfinished=0, problems=()), 0, None)
        == "0 backups"
    )


def test_a_backup_is_shown_with_all_that_proves_it() -> None:
    """Hashes fit a line of 80, to be compared by eye or copied."""
    lines = text_lines(result_text(SHOWN, 0, 80))

    assert lines[:11] == [
        f"journal    {ZERO}",
        f"id         {manifests.THIRD}",
        "created    2026-11-23 02:00:00 UTC by deepgram-journal-backup 0.1.0",
        f"continuity extended, after {manifests.SECOND}",
        f"alarm      {FIRST}",
        "marks      acknowledged",
        f"good       no: standing alarm: {FIRST}",
        f"stored in  {NAS}/{ZERO}",
        f"stored in  {PV}/{ZERO}",
        f"manifest   {ZERO}-{manifests.THIRD}.manifest.json",
        f"  sha256   {manifests.SHA256}",
    ]
    assert lines[-3:] == [
        "file       journal",
        f"  sha256   {manifests.SHA256}",
        "  size     1,501 bytes, 3 records, 7 bytes of an unfinished one left out",
    ]


def test_a_good_backup_is_shown_as_one() -> None:
    """What there is nothing to say about is left out."""
    content = manifests.plain()
    content["files"][0]["omitted_tail_bytes"] = 0
    shown = ShowResult(
        sink=NAS,
        also_on=(),
        manifest=Manifest.model_validate(content),
        manifest_sha256=manifests.SHA256,
        marks=(),
        standing_alarms=(),
        against=None,
        problems=(),
    )

    lines = text_lines(result_text(shown, 0, None))
    assert "continuity first" in lines
    assert "good       yes" in lines
    assert "  size     1,000 bytes, 3 records" in lines


def test_verifying_lists_each_backup_on_each_sink() -> None:
    """By journal, whatever the order of the work; the unsound ones are named."""
    lines = text_lines(result_text(VERIFIED, 6, 80))

    assert lines == [
        "  ID                       ARCHIVE  RECORDS  SINK  RESULT",
        ZERO,
        f"  {SECOND}      0 B           1",
        f"    ok, suspect, alarm {FIRST}",
        f"  {SECOND}  4.9 KiB        7  2     ok",
        ONE,
        f"  {SECOND}  4.9 KiB           1     damaged",
        TWO,
        f"  {SECOND}      0 B        7  1     ok, an unfinished record",
        f"sink 1: {NAS}",
        f"sink 2: {PV}",
        "4 backups verified, 1 damaged",
        "exit code 6: integrity: stored bytes contradict their record, or a journal's",
        "             alarm stands",
    ]


def test_a_restore_says_where_to() -> None:
    """The directory is the one thing that is needed next."""
    assert text_lines(result_text(RESTORED, 0, 80))[-1] == (
        "1 journal restored into /restored, every hash compared"
    )
    assert result_text(RestoreResult(restored=(), problems=()), 0, None) == "0 journals restored"


def test_marks_are_told_for_each_sink() -> None:
    """One that was there already is no news, and no error."""
    assert text_lines(result_text(MARKED, 0, None)) == [
        f"{ZERO} {SECOND} is retired on {NAS}",
        f"{ZERO} {SECOND} is already retired on {PV}",
    ]


def test_marks_that_came_with_another_are_counted() -> None:
    """Hundreds of lines would hide the one that counts; what may be missing is told."""

    def marked(backup_id: str, sink: str, *, is_new: bool = True) -> Marked:
        return Marked(kind="delivered", journal=ZERO, id=backup_id, sink=sink, is_new=is_new)

    result = LedgerResult(
        marks=(
            *(marked(FIRST, NAS), marked(FIRST, PV), marked(SECOND, NAS)),
            marked(SECOND, PV, is_new=False),
        ),
        problems=(),
        warnings=(Warned(message="older", journal=ONE),),
    )
    assert text_lines(result_text(result, 0, None)) == [
        f"{ZERO} {SECOND} and 1 backup before it are delivered on {NAS}",
        f"{ZERO} {SECOND} and 1 backup before it are already delivered on {PV}",
        f"warning: {ONE}: older",
    ]


def test_pruning_tells_what_goes_and_why_the_rest_stays() -> None:
    """And, until it is confirmed, how to have it done."""
    assert text_lines(result_text(PRUNED, 0, None)) == [
        "JOURNAL                     ID                       FATE    WHY",
        f"{ZERO}  {FIRST}  pruned  delivered",
        f"{ZERO}  {SECOND}  kept    last",
        f"sink: {NAS}",
        "1 of 2 backups pruned",
    ]
    dry = replace(PRUNED, confirmed=False)
    assert text_lines(result_text(dry, 0, None))[-2:] == [
        "1 of 2 backups would go",
        "nothing was removed: journal-backup prune --confirm does it",
    ]
    nothing = replace(dry, backups=PRUNED.backups[:1], warnings=(Warned(message="look"),))
    assert text_lines(result_text(nothing, 0, None))[-2:] == [
        "0 of 1 backup would go",
        "warning: look",
    ]


def test_an_examination_tells_what_is_good_and_what_is_not() -> None:
    """In that order: what is wrong is the last that one reads, with its fix."""
    assert text_lines(result_text(EXAMINED, 7, None)) == [
        f"ok: {NAS} takes backups",
        f"warning: {ZERO}: is odd",
        "1 as it should be, 1 to know of, 1 wrong",
        "error: may not: list jobs",
        "  hint: grant it",
        f"exit code 7: {EXIT_CODES[7]}",
    ]


def test_a_bundle_tells_what_is_next() -> None:
    """With the ids to type, once Deepgram has it."""
    lines = text_lines(result_text(BUNDLED, 0, None))

    assert lines[-3:] == [
        f"warning: {ZERO}: {FIRST} is older",
        "2 backups exported to /restored/bundle, every hash compared",
        f"once Deepgram has it: journal-backup mark-delivered {SECOND} {FIRST}",
    ]
    streamed = text_lines(result_text(replace(BUNDLED, place="-"), 0, None))
    assert streamed[-2] == "2 backups exported to stdout, every hash compared"
    nothing = replace(BUNDLED, exported=(), warnings=())
    assert text_lines(result_text(nothing, 0, None)) == ["nothing exported"]


def test_a_run_by_workers_tells_who_read_what_and_where() -> None:
    """The Job's name is what kubectl logs wants; what was not read has none."""
    assert text_lines(result_text(SPREAD, 4, None)) == [
        (
            "JOURNAL                     STATE         SIZE  RECORDS  ID"
            "                       NODE    WORKER"
        ),
        f"{ZERO}  backed up  7.5 MiB   20,000  {SECOND}  node-3  journal-backup-29-worker-1a2b3c4d",
        f"{ONE}  suspect    7.5 MiB   20,000  {SECOND}  node-3  journal-backup-29-worker-1a2b3c4d",
        f"{TWO}  missing",
        "warning: billing's pod has moved",
        "2 of 3 journals backed up in 61.2 s, colocated; billing ran on",
        f"error: {TWO}: expected, but its claim is gone",
        f"exit code 4: {EXIT_CODES[4]}",
    ]


def test_a_scale_down_that_did_not_happen_does_not_claim_that_billing_ran() -> None:
    """Nobody may know whether it did."""
    result = cluster_result(read_by(ZERO), strategy="scale-down")

    assert text_lines(result_text(result, 0, None))[-1].endswith("billing was left as it is")


@pytest.mark.parametrize("strategy", ["colocated", "scale-down"])
def test_a_run_that_found_billing_stopped_says_so(strategy: str) -> None:
    """It was at 0 before, and is at 0 after: it did not run on."""
    result = cluster_result(read_by(ZERO), strategy=strategy, billing_replicas=0)

    assert text_lines(result_text(result, 0, None))[-1] == (
        f"1 of 1 journal backed up in 61.2 s, {strategy}; "
        "billing was at 0 when the run began, and was left so"
    )


def test_a_run_that_scaled_down_tells_how_long_billing_was_away() -> None:
    """That is what somebody has to answer for."""
    result = cluster_result(read_by(ZERO), strategy="scale-down", downtime_seconds=21.04)

    assert text_lines(result_text(result, 0, None))[-1] == (
        "1 of 1 journal backed up in 61.2 s, scale-down; billing was away for 21.0 s"
    )


def test_what_was_committed_is_told_for_each_sink() -> None:
    """And that nothing was, where it is so."""
    assert text_lines(result_text(COMMITTED, 0, None)) == [
        "JOURNAL                     ID                       SINK",
        f"{ZERO}  {SECOND}  {NAS}",
        f"{ZERO}  {SECOND}  {PV}",
        "2 backups of run 20261123T020000Z-00000001 committed",
    ]
    nothing = CommitResult(run_id="run", committed=(), problems=())
    assert result_text(nothing, 0, None) == "0 backups of run run committed"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (
            resumed("nothing to do", replicas=None, holder=None),
            "deepgram-billing was left down by nobody",
        ),
        (
            resumed("under way"),
            "deepgram-billing is down for run run-7, which is under way: left alone",
        ),
        (
            resumed("restored"),
            "deepgram-billing is scaled back to 3, where run run-7 had left it at 0",
        ),
        (
            resumed("was up"),
            "deepgram-billing was up already; the record of run run-7 is removed",
        ),
        (resumed("gone"), "deepgram-billing is gone; the record of run run-7 is removed"),
        (
            resumed("made anew"),
            "deepgram-billing was made anew; the record of run run-7 is removed",
        ),
    ],
)
def test_what_became_of_billing_is_one_sentence(result: ResumeResult, said: str) -> None:
    """Each way that it may end has one of its own."""
    assert result_text(result, 0, None) == said


def test_each_way_that_billing_may_come_back_has_a_sentence() -> None:
    """A state that is new and has none would be a bug in the worst moment."""
    assert set(rescue._RESUMED) == set(get_args(Resumed))


def test_a_warning_about_billing_is_told() -> None:
    """Nothing was scaled, and somebody may have to look."""
    warned = resumed("gone", warnings=(Warned(message="nothing was scaled"),))

    assert text_lines(result_text(warned, 0, None))[0] == "warning: nothing was scaled"


def test_an_unknown_exit_code_is_told_as_a_failure() -> None:
    """Text must not fall silent where a code is new."""
    assert result_text(MARKED, 143, None).splitlines()[-1] == "exit code 143: failed"


def test_an_error_is_lowercase_with_its_hints() -> None:
    """The cause, and what to do about it, one line each off the terminal."""
    assert error_text(BackupError("it broke", "mend it", "or leave it"), None) == (
        "error: it broke\n  hint: mend it\n  hint: or leave it"
    )
    settings = SettingsError((("A is wrong", "mend A"), ("B is wrong", "mend B")))
    assert error_text(settings, None).splitlines() == [
        "error: A is wrong",
        "  hint: mend A",
        "error: B is wrong",
        "  hint: mend B",
    ]


def test_the_name_of_a_file_cannot_command_a_terminal() -> None:
    """Escapes, new lines and reversed text are shown, not obeyed."""
    text = error_text(BackupError("x\x1b[2J\r\n\u202e\udcffy"), None)

    assert text == "error: x\\x1b[2J\\x0d\\x0a\\x202e\\xffy"


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR and dumb terminals are heeded, and a pipe never gets any."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    error = BackupError("it broke")

    assert error_text(error, 80) == "\x1b[31merror: \x1b[0mit broke"
    assert error_text(error, None) == "error: it broke"
    monkeypatch.setenv("TERM", "dumb")
    assert error_text(error, 80) == "error: it broke"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert error_text(error, 80) == "error: it broke"


def test_a_column_is_as_wide_as_its_text_and_not_as_its_colour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Escapes take no room on the screen."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = result_text(MIXED, 5, 120)

    monkeypatch.setenv("NO_COLOR", "1")
    plain = re.sub(r"\x1b\[[0-9]+m", "", coloured)
    assert plain == result_text(MIXED, 5, 120)


def test_a_very_narrow_terminal_is_no_reason_to_fail() -> None:
    """Somebody has a window of ten columns."""
    results: tuple[Result, ...] = (LISTED, SHOWN, VERIFIED)
    for width, result in itertools.product((1, 10, 30), results):
        assert FIRST in result_text(result, 6, width)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1 << 20, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 40, "3.0 TiB"),
        (4096 << 40, "4096.0 TiB"),
    ],
)
def test_sizes_are_in_binary_units(size: int, text: str) -> None:
    """As ls -h and df -h show them."""
    assert size_text(size) == text


def test_settings_are_shown_with_value_origin_and_meaning() -> None:
    """What is not set says so; a list has a line an item."""
    rows: Iterable[dict[str, Any]] = [
        {"name": "BACKUP_A", "value": True, "source": "default", "description": "a switch"},
        {"name": "BACKUP_BB", "value": [NAS, PV], "source": "environment", "description": "two"},
        {"name": "BACKUP_C", "value": None, "source": "default", "description": "nothing"},
        {"name": "BACKUP_D", "value": [], "source": "default", "description": "empty"},
    ]

    assert text_lines(config_text(rows, None)) == [
        "BACKUP_A   true",
        "  a switch",
        f"BACKUP_BB  {NAS}  (from the environment)",
        f"           {PV}",
        "  two",
        "BACKUP_C   not set",
        "  nothing",
        "BACKUP_D   not set",
        "  empty",
    ]


# -- figures


def test_the_canonical_line_counts_what_a_run_did() -> None:
    """Dashboards are made of it."""
    assert figures(MIXED) == {
        "problems": 1,
        "warnings": 1,
        "journals": 3,
        "journals_stored": 2,
        "size_bytes": 15_780_000,
        "records": 40_000,
    }
    assert figures(LISTED) == {"problems": 0, "backups": 3}
    assert figures(VERIFIED) == {"problems": 0, "backups": 4}
    assert figures(RESTORED) == {"problems": 0, "journals_restored": 1, "size_bytes": 7_890_000}
    assert figures(MARKED) == {"problems": 0}
    assert figures(EXAMINED) == {"problems": 1, "findings": 1, "warnings": 1}
    assert figures(PRUNED) == {"problems": 0, "warnings": 0, "backups": 2, "backups_pruned": 1}
    assert figures(replace(PRUNED, confirmed=False))["backups_pruned"] == 0
    assert figures(BUNDLED) == {
        "problems": 0,
        "warnings": 1,
        "backups": 2,
        "size_bytes": 7_890_000,
    }
    assert figures(SPREAD) == {
        "problems": 1,
        "warnings": 1,
        "journals": 3,
        "journals_stored": 2,
        "size_bytes": 15_780_000,
        "records": 40_000,
        "api_calls": 34,
    }
    assert figures(COMMITTED) == {"problems": 0}
    assert figures(resumed("restored")) == {"problems": 0}


# -- what a worker says in the end


def test_a_worker_says_what_came_of_each_journal() -> None:
    """As who sent it reads it: its state, and the id wherever a copy is held."""
    assert report.answer(MIXED, 5) == Answer(
        exit_code=5,
        journals=(
            JournalAnswer(
                journal=ZERO, state="backed up", size_bytes=7_890_000, records=20_000, id=SECOND
            ),
            JournalAnswer(
                journal=ONE, state="partial", size_bytes=7_890_000, records=20_000, id=SECOND
            ),
            JournalAnswer(journal=TWO, state="missing"),
        ),
        problems=(FULL,),
        warnings=MIXED.warnings,
    )


def test_a_worker_that_commits_says_what_went_wrong() -> None:
    """It has read no journal: who sent it finds the backups by their run."""
    result = CommitResult(run_id="run", committed=COMMITTED.committed, problems=(FULL,))

    assert report.answer(result, 5) == Answer(exit_code=5, problems=(FULL,))


def test_a_worker_that_could_not_begin_says_why() -> None:
    """In the same form, with what helps."""
    error = ConfigError("BACKUP_SOURCE does not exist", "mount it")
    problem = Problem(exit_code=2, message="BACKUP_SOURCE does not exist", hints=("mount it",))

    assert report.answer_of_error(error) == Answer(exit_code=2, problems=(problem,))


def test_a_worker_begins_with_the_gravest() -> None:
    """What comes last is left out first, where there is no room."""
    problems = tuple(Problem(exit_code=code, message=str(code)) for code in (3, 5, 6, 3))
    answer = report.answer(backup_result(outcome(ZERO), problems=problems), 6)

    assert [p.exit_code for p in answer.problems] == [6, 5, 3, 3]


def test_an_answer_holds_only_what_a_terminal_can() -> None:
    """The names of files are bytes, and kubectl shows them as they are."""
    error = ConfigError("\x1b[31m \udcff ü", "\x1b[31m")
    told = report.answer_of_error(error).problems[0]
    warned = Warned(message="\x1b[31m")
    (warning,) = report.answer(replace(MIXED, warnings=(warned,)), 0).warnings

    assert told.message.startswith("\\x1b[31m ")
    assert told.message.isprintable()
    assert (told.hints, warning.message) == (("\\x1b[31m",), "\\x1b[31m")
