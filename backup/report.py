"""What a verb's result looks like: an exit code, JSON, or text.

Rules:

- Of several exit codes the most severe one counts; one that is unknown is a failure.
- JSON is one object: ``verb``, ``exit_code``, and the result or the ``error``. Its keys are a
  contract. Text is for people: a table, then what went wrong with its hints, then one line that
  says it all.
- Whatever comes from outside is shown so that it can do no harm; see :mod:`backup.page`.
- This module makes text; only :mod:`backup.cli` prints it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from backup.answer import Answer, JournalAnswer
from backup.cluster.orchestrator import ClusterResult
from backup.cluster.rescue import ResumeResult
from backup.errors import BackupError, SettingsError
from backup.manifest import Manifest
from backup.model import Problem, Warned, located, size_text
from backup.page import GAP, Cell, Page, printable, without_surrogates
from backup.verbs.backup import BackupResult, JournalOutcome
from backup.verbs.commit import CommitResult
from backup.verbs.doctor import DoctorResult
from backup.verbs.export import ExportResult
from backup.verbs.inspect import Details, ListResult, ShowResult
from backup.verbs.ledger import LedgerResult, Marked
from backup.verbs.prune import PruneResult
from backup.verbs.restore import RestoreResult
from backup.verbs.verify import VerifyResult

OK = 0
EXIT_CODES: dict[int, str] = {
    0: "all is well",
    1: "an unexpected error: please report it",
    2: "wrong settings or arguments; a selector that matches none or several; a target that exists",
    3: "all is safe, but something needs a look, such as a sink that failed while another did not",
    4: "an expected journal was not read, or is suspect",
    5: "a journal reached no sink, or a sink cannot be read",
    6: "integrity: stored bytes contradict their record, or a journal's alarm stands",
    7: "the cluster refused something, or another run is under way",
    8: "billing was not brought back: the error has the line that does it",
    9: "the deadline, or the time that billing may be down, is over",
}
_SEVERITY = (8, 1, 6, 7, 2, 4, 5, 9, 3, 0)
_FIRST_SIGNAL = 129
_LAST_SIGNAL = 192

Result = (
    BackupResult
    | ListResult
    | ShowResult
    | VerifyResult
    | RestoreResult
    | ExportResult
    | PruneResult
    | DoctorResult
    | LedgerResult
    | CommitResult
    | ClusterResult
    | ResumeResult
)


def worst(codes: Iterable[int]) -> int:
    """Return the most severe of some exit codes: 8, signals, 1, 6, 7, 2, 4, 5, 9, 3, 0."""
    return min(codes, key=_rank, default=OK)


def _rank(code: int) -> float:
    if _FIRST_SIGNAL <= code <= _LAST_SIGNAL:
        return 0.5
    return _SEVERITY.index(code) if code in _SEVERITY else _SEVERITY.index(1)


def exit_code_table() -> str:
    """Make the README's table of exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    signals = "| 128+N | ended by signal N |"
    return "\n".join(["| code | meaning |", "|---|---|", *rows, signals])


def figures(result: Result) -> dict[str, int]:
    """Return what a run's canonical log line counts."""
    counts: dict[str, int] = {"problems": len(result.problems)}
    if isinstance(result, BackupResult):
        stored = [j for j in result.journals if _is_stored(j)]
        counts |= {
            "warnings": len(result.warnings),
            "journals": len(result.journals),
            "journals_stored": len(stored),
            "size_bytes": sum(j.size_bytes for j in stored),
            "records": sum(j.records for j in stored),
        }
    elif isinstance(result, ClusterResult):
        stored_by = [j for j in result.journals if j.id]
        counts |= {
            "warnings": len(result.warnings),
            "journals": len(result.journals),
            "journals_stored": len(stored_by),
            "size_bytes": sum(j.size_bytes for j in stored_by),
            "records": sum(j.records for j in stored_by),
            "api_calls": result.api_calls,
        }
    elif isinstance(result, ListResult | VerifyResult):
        counts["backups"] = len(result.backups)
    elif isinstance(result, RestoreResult):
        counts["journals_restored"] = len(result.restored)
        counts["size_bytes"] = sum(r.size_bytes for r in result.restored)
    elif isinstance(result, PruneResult):
        counts["backups"] = len(result.backups)
        counts["warnings"] = len(result.warnings)
        counts["backups_pruned"] = sum(b.goes for b in result.backups if result.confirmed)
    elif isinstance(result, DoctorResult):
        counts |= {"findings": len(result.findings), "warnings": len(result.warnings)}
    elif isinstance(result, ExportResult):
        counts["warnings"] = len(result.warnings)
        counts["backups"] = len(result.exported)
        counts["size_bytes"] = sum(e.size_bytes for e in result.exported)
    return counts


def _is_stored(outcome: JournalOutcome) -> bool:
    return any(copy.is_held for copy in outcome.copies)


# -- JSON


def to_json(verb: str | None, exit_code: int, result: Any) -> str:
    """Write a result, or anything made of dictionaries, as one JSON object."""
    content = {"verb": verb, "exit_code": exit_code, **_plain(result)}
    return json.dumps(content, indent=2, ensure_ascii=False)


def error_json(verb: str | None, error: BackupError) -> str:
    """Write an error as one JSON object."""
    return to_json(verb, error.exit_code, {"error": error})


def _plain(item: Any) -> Any:
    """Turn what results are made of into what JSON knows."""
    if isinstance(item, str):
        return without_surrogates(item)
    if isinstance(item, float):
        return round(item, 3)
    if isinstance(item, datetime):
        return item.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(item, list | tuple):
        return [_plain(each) for each in item]
    if item is None or isinstance(item, int):
        return item
    return {key: _plain(value) for key, value in _fields(item).items()}


def _fields(item: Any) -> Mapping[str, Any]:
    if isinstance(item, dict):
        return item
    if isinstance(item, Manifest):
        return item.model_dump(mode="json")
    if isinstance(item, BackupError):
        return _error(item)
    fields = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    return {"state": item.state, **fields} if isinstance(item, JournalOutcome) else fields


def _error(error: BackupError) -> dict[str, Any]:
    content: dict[str, Any] = {"message": error.message, "hints": error.hints}
    if isinstance(error, SettingsError):
        content["problems"] = [{"message": m, "hints": [h]} for m, h in error.problems]
    return content


# -- text


def error_text(error: BackupError, width: int | None) -> str:
    """Write an error and what to do about it, for a terminal of that width or for none."""
    page = Page(width)
    if isinstance(error, SettingsError):
        for message, hint in error.problems:
            _say_problem(page, message, (hint,))
    else:
        _say_problem(page, error.message, error.hints)
    return str(page)


def events_text(events: Sequence[Problem | Warned], width: int | None) -> str:
    """Write what a run had to say before it was given up."""
    page = Page(width)
    _say_warnings(page, [e for e in events if isinstance(e, Warned)])
    _say_problems(page, [e for e in events if isinstance(e, Problem)])
    return str(page)


def result_text(result: Result, exit_code: int, width: int | None) -> str:
    """Write a verb's result, for a terminal of that width or for none."""
    page = Page(width)
    _WRITERS[type(result)](result, page)
    _say_problems(page, result.problems)
    if exit_code:
        page.say(EXIT_CODES.get(exit_code, "failed"), f"exit code {exit_code}: ", "bold")
    return str(page)


def config_text(rows: Iterable[Mapping[str, Any]], width: int | None) -> str:
    """Write the settings, each with its value, where that came from, and its meaning."""
    rows = list(rows)
    page = Page(width)
    name_width = max(len(row["name"]) for row in rows)
    for row in rows:
        value = row["value"]
        values = value if isinstance(value, list) else [_setting(value)]
        first, *more = values or [_setting(None)]
        origin = "" if row["source"] == "default" else f"  (from the {row['source']})"
        page.say(f"{first}{origin}", f"{row['name']:<{name_width}}  ", "bold")
        for other in more:
            page.line(f"{'':<{name_width}}  {other}")
        page.say(str(row["description"]), GAP)
    return str(page)


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _say_problem(
    page: Page, message: str, hints: Sequence[str], *, label: str = "error: ", style: str = "red"
) -> None:
    page.say(message, label, style)
    for hint in hints:
        page.say(hint, "  hint: ", "cyan")


def _say_problems(page: Page, problems: Sequence[Problem]) -> None:
    """Write problems; hints that several in a row share are written once, after the last."""
    for hints, group in groupby(problems, key=lambda problem: problem.hints):
        *others, last = group
        for problem in others:
            _say_problem(page, _about(problem), ())
        _say_problem(page, _about(last), hints)


def _say_warnings(page: Page, warnings: Sequence[Warned]) -> None:
    for warning in warnings:
        _say_problem(page, _about(warning), (), label="warning: ", style="yellow")


def _about(item: Problem | Warned) -> str:
    return located(item.message, item.journal, item.sink)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class _Legend:
    """Numbers for sinks: their URLs are too long for a table. One sink needs no number."""

    def __init__(self, sinks: Iterable[str]) -> None:
        self._sinks = sorted(set(sinks))

    def cell(self, sinks: Iterable[str]) -> str:
        if len(self._sinks) <= 1:
            return ""
        return " ".join(str(self._sinks.index(sink) + 1) for sink in sinks)

    def say(self, page: Page) -> None:
        for number, sink in enumerate(self._sinks, start=1):
            page.line(f"sink {number}: {sink}" if len(self._sinks) > 1 else f"sink: {sink}")


_STATE_STYLES = {"backed up": "green", "empty": "yellow", "partial": "yellow"}
_ALARMING = {"rewritten", "shrunk"}


def _write_backup(result: BackupResult, page: Page) -> None:
    columns = ("JOURNAL", "STATE", "SIZE", "RECORDS", "ID", "CONTINUITY", "SINKS")
    page.table(columns, [_outcome_cells(o) for o in result.journals])
    _say_warnings(page, result.warnings)
    stored = sum(_is_stored(outcome) for outcome in result.journals)
    entries = result.ignored_entries
    others = f"{entries:,} other {'entry' if entries == 1 else 'entries'} in the source"
    page.say(
        f"{stored} of {_count(len(result.journals), 'journal')} backed up"
        f" in {result.duration_seconds:.1f} s; {others} left alone"
    )


def _outcome_cells(outcome: JournalOutcome) -> list[str | Cell]:
    state = Cell(outcome.state, _STATE_STYLES.get(outcome.state, "red"))
    if not outcome.copies:
        return [outcome.journal, state, "", "", "", "", ""]
    good = [c for c in outcome.copies if c.is_held]
    continuity = {c.continuity for c in good if c.continuity}
    return [
        outcome.journal,
        state,
        size_text(outcome.size_bytes),
        f"{outcome.records:,}",
        next((c.id for c in good if c.id), ""),
        Cell(", ".join(sorted(continuity)), "red" if continuity & _ALARMING else ""),
        f"{len(good)} of {len(outcome.copies)}",
    ]


def _write_cluster(result: ClusterResult, page: Page) -> None:
    columns = ("JOURNAL", "STATE", "SIZE", "RECORDS", "ID", "NODE", "WORKER")
    rows: list[list[str | Cell]] = [
        [
            row.journal,
            Cell(row.state, _STATE_STYLES.get(row.state, "red")),
            size_text(row.size_bytes) if row.id else "",
            f"{row.records:,}" if row.id else "",
            row.id or "",
            row.node or "",
            row.worker or "",
        ]
        for row in result.journals
    ]
    page.table(columns, rows)
    _say_warnings(page, result.warnings)
    stored = sum(row.id is not None for row in result.journals)
    page.say(
        f"{stored} of {_count(len(result.journals), 'journal')} backed up"
        f" in {result.duration_seconds:.1f} s, {result.strategy}; {_billing(result)}"
    )


def _billing(result: ClusterResult) -> str:
    """Say what the run has meant for billing."""
    if result.downtime_seconds is not None:
        return f"billing was away for {result.downtime_seconds:.1f} s"
    return "billing ran on" if result.strategy == "colocated" else "billing was left as it is"


def _write_commit(result: CommitResult, page: Page) -> None:
    rows = [(row.journal, row.id, row.sink) for row in result.committed]
    page.table(("JOURNAL", "ID", "SINK"), rows)
    page.say(f"{_count(len(result.committed), 'backup')} of run {result.run_id} committed")


_RESUMED = {
    "nothing to do": "{name} was left down by nobody",
    "under way": "{name} is down for run {holder}, which is under way: left alone",
    "pushed aside": "run {holder} was about to scale {name} down: it will not",
    "restored": "{name} is scaled back to {replicas}, where run {holder} had left it at 0",
    "was up": "{name} was up already; the record of run {holder} is removed",
    "gone": "{name} is gone; the record of run {holder} is removed",
    "made anew": "{name} was made anew; the record of run {holder} is removed",
}


def _write_resume(result: ResumeResult, page: Page) -> None:
    _say_warnings(page, result.warnings)
    said = _RESUMED[result.state]
    page.say(said.format(name=result.statefulset, holder=result.holder, replicas=result.replicas))


def answer(result: Result, exit_code: int) -> Answer:
    """Make the answer of a worker."""
    journals = result.journals if isinstance(result, BackupResult) else ()
    warnings = result.warnings if isinstance(result, BackupResult) else ()
    return Answer(
        exit_code=exit_code,
        journals=tuple(map(_journal_answer, journals)),
        problems=tuple(map(_printable_problem, sorted(result.problems, key=_severity))),
        warnings=tuple(replace(w, message=printable(w.message)) for w in warnings),
    )


def answer_of_error(error: BackupError) -> Answer:
    """Make the answer of a worker that could not begin, or was ended."""
    problem = _printable_problem(Problem.of(error))
    return Answer(exit_code=error.exit_code, problems=(problem,))


def _severity(problem: Problem) -> float:
    return _rank(problem.exit_code)


def _printable_problem(problem: Problem) -> Problem:
    hints = tuple(map(printable, problem.hints))
    return replace(problem, message=printable(problem.message), hints=hints)


def _journal_answer(outcome: JournalOutcome) -> JournalAnswer:
    return JournalAnswer(
        journal=outcome.journal,
        state=outcome.state,
        size_bytes=outcome.size_bytes,
        records=outcome.records,
        id=next((c.id for c in outcome.copies if c.id), None),
    )


def _write_list(result: ListResult, page: Page) -> None:
    legend = _Legend(sink for row in result.backups for sink in row.sinks)
    is_long = any(row.details for row in result.backups)
    rows = []
    for row in result.backups:
        *details, notes = _detail_cells(row.details) if is_long else ("", "", "", "")
        marks = [notes, *row.marks] if notes else list(row.marks)
        cells = [row.journal, row.id, size_text(row.archive_bytes), *details]
        rows.append([*cells, legend.cell(row.sinks), ", ".join(marks)])
    columns = ("JOURNAL", "ID", "ARCHIVE", "SIZE", "RECORDS", "CONTINUITY", "SINKS", "NOTES")
    page.table(columns, rows)
    legend.say(page)
    page.line(_count(len(result.backups), "backup"))
    if result.not_backups:
        page.line(f"{_count(result.not_backups, 'object')} without a manifest: not backups")


def _detail_cells(details: Details | None) -> tuple[str, str, str, str]:
    if details is None:
        return ("", "", "", "not read")
    notes = ["suspect"] if details.suspect else []
    notes += [f"alarm {alarm}" for alarm in details.alarms]
    size, records = size_text(details.size_bytes), f"{details.records:,}"
    return (size, records, details.continuity, ", ".join(notes))


def _write_show(result: ShowResult, page: Page) -> None:
    manifest = result.manifest
    after = f", after {manifest.previous.id}" if manifest.previous else ""
    facts = [
        ("journal", manifest.journal),
        ("id", manifest.id),
        ("created", f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC by {manifest.tool}"),
        ("site", manifest.site or ""),
        ("continuity", manifest.continuity + after),
        ("suspect", manifest.suspicion or ""),
        *(("alarm", alarm) for alarm in result.standing_alarms),
        ("marks", ", ".join(result.marks)),
        ("good", "yes" if result.against is None else f"no: {result.against}"),
        *(("stored in", f"{sink}/{manifest.journal}") for sink in (result.sink, *result.also_on)),
        ("manifest", f"{manifest.journal}-{manifest.id}.manifest.json"),
        ("  sha256", result.manifest_sha256),
    ]
    for archive in manifest.archives:
        facts += [
            ("archive", archive.key.rpartition("/")[2]),
            ("  sha256", archive.sha256),
            ("  size", f"{archive.size_bytes:,} bytes, read back: {archive.readback}"),
        ]
    for file in manifest.files:
        tail = file.omitted_tail_bytes
        omitted = f", {tail:,} bytes of an unfinished one left out" if tail else ""
        facts += [
            ("file", file.path),
            ("  sha256", file.sha256),
            ("  size", f"{file.size_bytes:,} bytes, {file.records:,} records{omitted}"),
        ]
    for name, value in facts:
        if value:
            page.say(value, f"{name:<11}", "bold")


def _write_verify(result: VerifyResult, page: Page) -> None:
    legend = _Legend(row.sink for row in result.backups)
    rows: list[list[str | Cell]] = []
    for row in sorted(result.backups, key=lambda row: (row.journal, row.id, row.sink)):
        notes = ["suspect"] if row.suspect else []
        notes += ["an unfinished record"] if row.unfinished_bytes else []
        notes += [f"alarm {alarm}" for alarm in row.alarms]
        verdict = "damaged" if row.findings else ", ".join(["ok", *notes])
        style = "red" if row.findings else "yellow" if notes else "green"
        records = "" if row.records is None else f"{row.records:,}"
        cells = [row.journal, row.id, size_text(row.archive_bytes), records]
        rows.append([*cells, legend.cell([row.sink]), Cell(verdict, style)])
    page.table(("JOURNAL", "ID", "ARCHIVE", "RECORDS", "SINK", "RESULT"), rows)
    legend.say(page)
    bad = sum(bool(row.findings) for row in result.backups)
    page.line(f"{_count(len(result.backups), 'backup')} verified, {bad} damaged")


def _write_restore(result: RestoreResult, page: Page) -> None:
    rows = [
        (row.journal, row.id, f"{row.size_bytes:,}", f"{row.records:,}") for row in result.restored
    ]
    page.table(("JOURNAL", "ID", "BYTES", "RECORDS"), rows)
    places = ", ".join(sorted({str(Path(row.path).parent) for row in result.restored}))
    where = f" into {places}, every hash compared" if places else ""
    page.say(f"{_count(len(result.restored), 'journal')} restored{where}")


def _write_export(result: ExportResult, page: Page) -> None:
    rows = [
        (row.journal, row.id, f"{row.size_bytes:,}", f"{row.records:,}") for row in result.exported
    ]
    page.table(("JOURNAL", "ID", "BYTES", "RECORDS"), rows)
    _say_warnings(page, result.warnings)
    if not result.exported:
        page.say("nothing exported")
        return
    place = "stdout" if result.place == "-" else result.place
    page.say(f"{_count(len(rows), 'backup')} exported to {place}, every hash compared")
    ids = " ".join(row.id for row in result.exported)
    page.line(f"once Deepgram has it: journal-backup mark-delivered {ids}")


def _write_prune(result: PruneResult, page: Page) -> None:
    legend = _Legend(row.sink for row in result.backups)
    fate = "pruned" if result.confirmed else "would go"
    rows: list[list[str | Cell]] = [
        [
            row.journal,
            row.id,
            legend.cell([row.sink]),
            Cell(fate, "yellow") if row.goes else Cell("kept", "green"),
            row.reason,
        ]
        for row in sorted(result.backups, key=lambda row: (row.journal, row.id, row.sink))
    ]
    page.table(("JOURNAL", "ID", "SINK", "FATE", "WHY"), rows)
    legend.say(page)
    gone = sum(row.goes for row in result.backups)
    page.line(f"{gone} of {_count(len(rows), 'backup')} {fate}")
    if gone and not result.confirmed:
        page.line("nothing was removed: journal-backup prune --confirm does it")
    _say_warnings(page, result.warnings)


def _write_doctor(result: DoctorResult, page: Page) -> None:
    for finding in result.findings:
        page.say(f"{finding.subject} {finding.message}", "ok: ", "green")
    _say_warnings(page, result.warnings)
    page.say(
        f"{len(result.findings)} as it should be, {len(result.warnings)} to know of, "
        f"{len(result.problems)} wrong"
    )


def _write_ledger(result: LedgerResult, page: Page) -> None:
    for (kind, journal, sink), group in groupby(
        sorted(result.marks, key=_mark_order), key=_mark_order
    ):
        *older, mark = group
        already = "" if mark.is_new else "already "
        with_others = f" and {_count(len(older), 'backup')} before it" if older else ""
        are = "are" if older else "is"
        page.say(f"{journal} {mark.id}{with_others} {are} {already}{kind} on {sink}")
    _say_warnings(page, result.warnings)


def _mark_order(mark: Marked) -> tuple[str, str, str]:
    return mark.kind, mark.journal, mark.sink


_WRITERS: dict[type[Any], Callable[[Any, Page], None]] = {
    BackupResult: _write_backup,
    ListResult: _write_list,
    ShowResult: _write_show,
    VerifyResult: _write_verify,
    RestoreResult: _write_restore,
    ExportResult: _write_export,
    PruneResult: _write_prune,
    DoctorResult: _write_doctor,
    LedgerResult: _write_ledger,
    CommitResult: _write_commit,
    ClusterResult: _write_cluster,
    ResumeResult: _write_resume,
}
