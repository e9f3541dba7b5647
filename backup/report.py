"""What is the same for the results of all verbs: exit code, JSON, problems, a worker's answer.

Rules:

- Of several exit codes the most severe one counts; one that is unknown is a failure.
- JSON is one object: ``verb``, ``exit_code``, and the result or the ``error``. Its keys are a
  contract. Text is for people: a table, then what went wrong with its hints, then one line that
  says it all.
- Whatever comes from outside is shown so that it can do no harm; see :mod:`backup.page`.
- It knows no verb: a result writes itself (:mod:`backup.results`).
- This module makes text; only :mod:`backup.cli` prints it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from pydantic import BaseModel

from backup.answer import Answer
from backup.errors import BackupError, SettingsError
from backup.events import Problem, Warned
from backup.page import GAP, Page, printable, without_surrogates
from backup.results import Result, about, say_problem, say_warnings

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


def worst(codes: Iterable[int]) -> int:
    """Return the most severe of some exit codes: 8, signals, 1, 6, 7, 2, 4, 5, 9, 3, 0."""
    return min(codes, key=_rank, default=OK)


def _rank(code: int) -> float:
    if _FIRST_SIGNAL <= code <= _LAST_SIGNAL:
        return 0.5
    return _SEVERITY.index(code) if code in _SEVERITY else _SEVERITY.index(1)


def figures(result: Result) -> dict[str, int]:
    """Return what a run's canonical log line counts."""
    return {"problems": len(result.problems), **result.figures()}


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
    if isinstance(item, BaseModel):
        return item.model_dump(mode="json")
    if isinstance(item, BackupError):
        return _error(item)
    fields = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    return {**getattr(item, "derived", {}), **fields}


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
            say_problem(page, message, (hint,))
    else:
        say_problem(page, error.message, error.hints)
    return str(page)


def events_text(events: Sequence[Problem | Warned], width: int | None) -> str:
    """Write what a run had to say before it was given up."""
    page = Page(width)
    say_warnings(page, [e for e in events if isinstance(e, Warned)])
    _say_problems(page, [e for e in events if isinstance(e, Problem)])
    return str(page)


def result_text(result: Result, exit_code: int, width: int | None) -> str:
    """Write a verb's result, for a terminal of that width or for none."""
    page = Page(width)
    result.write(page)
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


def _say_problems(page: Page, problems: Sequence[Problem]) -> None:
    """Write problems; hints that several in a row share are written once, after the last."""
    for hints, group in groupby(problems, key=lambda problem: problem.hints):
        *others, last = group
        for problem in others:
            say_problem(page, about(problem), ())
        say_problem(page, about(last), hints)


def answer(result: Result, exit_code: int) -> Answer:
    """Make the answer of a worker."""
    return Answer(
        exit_code=exit_code,
        journals=result.answers(),
        problems=tuple(
            map(_printable_problem, sorted(result.problems, key=lambda p: _rank(p.exit_code)))
        ),
        warnings=tuple(replace(w, message=printable(w.message)) for w in result.notes()),
    )


def answer_of_error(error: BackupError) -> Answer:
    """Make the answer of a worker that could not begin, or was ended."""
    problem = _printable_problem(Problem.of(error))
    return Answer(exit_code=error.exit_code, problems=(problem,))


def _printable_problem(problem: Problem) -> Problem:
    hints = tuple(map(printable, problem.hints))
    return replace(problem, message=printable(problem.message), hints=hints)
