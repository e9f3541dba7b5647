"""What a verb's result looks like: an exit code, JSON, or text.

Rules:

- Of several exit codes the most severe one counts; one that is unknown is a failure.
- JSON is one object on stdout: ``verb``, ``exit_code``, and the result or the ``error``.
- Text is for people: tables, then what went wrong with its hints, then one line that says it all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self, TextIO

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from backup.errors import BackupError, SettingsError
from backup.manifest import Manifest
from backup.model import Event, Problem, Progressed, Warned
from backup.verbs.backup import BackupResult, JournalOutcome
from backup.verbs.inspect import Details, ListResult, ShowResult, VerifyResult
from backup.verbs.ledger import LedgerResult
from backup.verbs.restore import RestoreResult

OK = 0
EXIT_CODES: dict[int, str] = {
    0: "all is well",
    1: "an unexpected error: please report it",
    2: "wrong settings or arguments; a selector that matches none or several; a target that exists",
    3: "all is safe, but something needs a look: a sink failed while another holds the journals",
    4: "an expected journal was not read, or is suspect",
    5: "a journal reached no sink, or a sink cannot be read",
    6: "integrity: stored bytes contradict their record, or a journal's alarm stands",
    7: "the cluster refused something",
    8: "billing was not brought back",
    9: "the deadline or the downtime budget is over",
}
_SEVERITY = (8, 1, 6, 7, 2, 4, 5, 9, 3, 0)
_FIRST_SIGNAL = 129
_LAST_SIGNAL = 192

Result = BackupResult | ListResult | ShowResult | VerifyResult | RestoreResult | LedgerResult


def worst(codes: Iterable[int]) -> int:
    """Give the most severe of some exit codes: 8, signals, 1, 6, 7, 2, 4, 5, 9, 3, 0."""
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


# -- JSON


def to_json(verb: str, exit_code: int, result: Any) -> str:
    """Write a result, or anything made of dictionaries, as one JSON object."""
    content = {"verb": verb, "exit_code": exit_code, **_plain(result)}
    options = orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_UTC_Z
    return orjson.dumps(content, default=_plain, option=options).decode()


def error_json(verb: str, error: BackupError) -> str:
    """Write an error as one JSON object."""
    return to_json(verb, error.exit_code, {"error": _error(error)})


def _plain(item: Any) -> Any:
    if isinstance(item, dict):
        return item
    if isinstance(item, Manifest):
        return item.model_dump(mode="json")
    if isinstance(item, BackupError):
        return _error(item)
    plain = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    return {"state": item.state, **plain} if isinstance(item, JournalOutcome) else plain


def _error(error: BackupError) -> dict[str, Any]:
    if isinstance(error, SettingsError):
        problems = [{"message": m, "hints": [h]} for m, h in error.problems]
        return {"message": error.message, "problems": problems}
    return {"message": error.message, "hints": list(error.hints)}


# -- text


def console(stream: TextIO) -> Console:
    """Open a console: as wide as the terminal, or wide enough where there is none."""
    width = None if stream.isatty() else 200
    return Console(file=stream, width=width, highlight=False, soft_wrap=True)


def print_error(error: BackupError, out: Console) -> None:
    """Print an error and what to do about it."""
    if isinstance(error, SettingsError):
        for message, hint in error.problems:
            _print_problem(message, (hint,), out)
    else:
        _print_problem(error.message, error.hints, out)


def _print_problem(message: str, hints: Sequence[str], out: Console, style: str = "red") -> None:
    out.print(Text.assemble(("error: " if style == "red" else "warning: ", style), message))
    for hint in hints:
        out.print(Text.assemble(("  hint: ", "cyan"), hint))


def print_result(result: Result, exit_code: int, out: Console) -> None:
    """Print a verb's result."""
    _PRINTERS[type(result)](result, out)
    for problem in result.problems:
        _print_problem(_about(problem), problem.hints, out)
    if exit_code:
        meaning = EXIT_CODES.get(exit_code, "failed")
        out.print(Text(f"exit code {exit_code}: {meaning}", style="bold"))


def _about(item: Problem | Warned) -> str:
    place = " on ".join(part for part in (item.journal, item.sink) if part)
    if place and place not in item.message and (item.sink or "") not in item.message:
        return f"{place}: {item.message}"
    if item.journal and item.journal not in item.message:
        return f"{item.journal}: {item.message}"
    return item.message


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column in {"SIZE", "ARCHIVE", "RECORDS", "BYTES"}
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def size_text(size_bytes: int) -> str:
    """Write a size for people, in binary units."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - the step of binary units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


_STATE_STYLES = {"backed up": "green", "empty": "yellow", "partial": "yellow"}


def _print_backup(result: BackupResult, out: Console) -> None:
    table = _table("JOURNAL", "STATE", "SIZE", "RECORDS", "ID", "CONTINUITY", "SINKS")
    for outcome in result.journals:
        good = [c for c in outcome.copies if c.error is None]
        table.add_row(
            escape(outcome.journal),
            Text(outcome.state, style=_STATE_STYLES.get(outcome.state, "red")),
            size_text(outcome.size_bytes) if outcome.copies else "",
            f"{outcome.records:,}" if outcome.copies else "",
            good[0].id if good else "",
            ", ".join(sorted({c.continuity for c in good if c.continuity})),
            f"{len(good)} of {len(outcome.copies)}" if outcome.copies else "",
        )
    if result.journals:
        out.print(table)
    for warning in result.warnings:
        _print_problem(_about(warning), (), out, style="yellow")
    safe = sum(o.state in {"backed up", "empty"} for o in result.journals)
    out.print(
        f"{safe} of {len(result.journals)} journals backed up in {result.duration_seconds:.1f} s;"
        f" {result.ignored_entries} other entries in the source left alone"
    )


def _print_list(result: ListResult, out: Console) -> None:
    long = any(row.details for row in result.backups)
    columns = ["JOURNAL", "ID", "CREATED", "ARCHIVE"]
    columns += ["SIZE", "RECORDS", "CONTINUITY", "NOTES"] if long else []
    several = len({sink for row in result.backups for sink in row.sinks}) > 1
    table = _table(*columns, "MARKS", *(["SINKS"] if several else []))
    for row in result.backups:
        cells = [row.journal, row.id, f"{row.created_at:%Y-%m-%d %H:%M:%S}"]
        cells.append(size_text(row.archive_bytes))
        if long:
            cells += _detail_cells(row.details)
        cells.append(", ".join(row.marks))
        table.add_row(*(escape(c) for c in [*cells, *([" ".join(row.sinks)] if several else [])]))
    if result.backups:
        out.print(table)
    tail = f"; {result.not_backups} objects belong to no backup" if result.not_backups else ""
    out.print(f"{len(result.backups)} backups{tail}")


def _detail_cells(details: Details | None) -> list[str]:
    if details is None:
        return ["", "", "", "damaged"]
    notes = ["suspect"] if details.suspect else []
    notes += [f"alarm {alarm}" for alarm in details.alarms]
    return [
        size_text(details.size_bytes),
        f"{details.records:,}",
        details.continuity,
        ", ".join(notes),
    ]


def _print_show(result: ShowResult, out: Console) -> None:
    manifest = result.manifest
    facts = {
        "journal": manifest.journal,
        "id": manifest.id,
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M:%S} UTC by {manifest.tool}",
        "site": manifest.site or "",
        "continuity": manifest.continuity
        + (f", after {manifest.previous.id}" if manifest.previous else ""),
        "suspect": manifest.suspicion or "",
        "alarms": ", ".join(result.standing_alarms),
        "marks": ", ".join(result.marks),
        "good": "yes" if result.against is None else f"no: {result.against}",
        "sink": " ".join((result.sink, *result.also_on)),
        "manifest": f"sha256 {result.manifest_sha256}",
    }
    for name, value in facts.items():
        if value:
            out.print(Text.assemble((f"{name:<11}", "bold"), value))
    for archive in manifest.archives:
        out.print(Text.assemble((f"{'archive':<11}", "bold"), archive.key))
        out.print(f"{'':<11}{size_text(archive.size_bytes)}, sha256 {archive.sha256}")
    for file in manifest.files:
        out.print(Text.assemble((f"{'file':<11}", "bold"), file.path))
        out.print(
            f"{'':<11}{file.size_bytes:,} bytes, {file.records:,} records, sha256 {file.sha256}"
        )


def _print_verify(result: VerifyResult, out: Console) -> None:
    deep = any(row.records is not None for row in result.backups)
    table = _table("JOURNAL", "ID", "SINK", "RESULT", "ARCHIVE", *(["RECORDS"] if deep else []))
    for row in result.backups:
        notes = ["suspect"] if row.suspect else []
        notes += [f"alarm {alarm}" for alarm in row.alarms]
        verdict = "damaged" if row.findings else ", ".join(["ok", *notes])
        cells: list[Any] = [row.journal, row.id, escape(row.sink)]
        cells.append(Text(verdict, style="red" if row.findings else "green"))
        cells.append(size_text(row.archive_bytes))
        table.add_row(*cells, *([f"{row.records or 0:,}"] if deep else []))
    if result.backups:
        out.print(table)
    bad = sum(bool(row.findings) for row in result.backups)
    out.print(f"{len(result.backups)} backups verified, {bad} damaged")


def _print_restore(result: RestoreResult, out: Console) -> None:
    table = _table("JOURNAL", "ID", "BYTES", "RECORDS", "RESTORED TO")
    for row in result.restored:
        table.add_row(
            row.journal, row.id, f"{row.size_bytes:,}", f"{row.records:,}", escape(row.path)
        )
    if result.restored:
        out.print(table)
    out.print(f"{len(result.restored)} journals restored, every hash compared")


def _print_ledger(result: LedgerResult, out: Console) -> None:
    for mark in result.marks:
        already = "" if mark.is_new else " already"
        out.print(f"{mark.journal} {mark.id} is{already} {mark.kind} on {mark.sink}")


_PRINTERS: dict[type[Any], Callable[[Any, Console], None]] = {
    BackupResult: _print_backup,
    ListResult: _print_list,
    ShowResult: _print_show,
    VerifyResult: _print_verify,
    RestoreResult: _print_restore,
    LedgerResult: _print_ledger,
}


def print_config(rows: Iterable[dict[str, Any]], out: Console) -> None:
    """Print the settings, each with its value, where it came from, and its meaning."""
    table = _table("SETTING", "VALUE", "FROM", "MEANING")
    for row in rows:
        value = row["value"]
        shown = "\n".join(value) if isinstance(value, list) else "" if value is None else str(value)
        table.add_row(row["name"], escape(shown), row["source"], escape(str(row["description"])))
    out.print(table)


class ProgressBar:
    """A listener that shows progress on a terminal, and nothing when it is done."""

    def __init__(self) -> None:
        """Draw on stderr."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Wipe it off."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take an event; only progress is drawn."""
        if not isinstance(event, Progressed):
            return
        task = self._tasks.get(event.subject)
        if task is None:
            task = self._progress.add_task(event.subject, total=event.total_bytes)
            self._tasks[event.subject] = task
        done = event.done_bytes >= event.total_bytes
        self._progress.update(task, completed=event.done_bytes, visible=not done)
