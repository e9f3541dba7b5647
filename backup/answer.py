"""Answers: what a worker says when it ends, as the termination message of its container.

Rules:

- Who writes an answer and who reads it are both here, so that they agree.
- A kubelet keeps 4096 bytes of a message (kubernetes.io/docs/tasks/debug/debug-application/
  determine-reason-pod-failure). What does not fit is left out, and the answer says so: warnings
  first, then hints, problems and journals, each from the end. The exit code is never left out.
- A reader that misses something knows where to look: backups are found by their run's id.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any, Final, get_args

from backup.events import Problem, Warned
from backup.model import State

MAX_BYTES: Final = 4096
"""What a kubelet keeps."""

_MAX_CHARACTERS: Final = 300
"""Of one sentence: its beginning names the cause."""

_STATES: Final[dict[object, State]] = {state: state for state in get_args(State)}


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalAnswer:
    """What a worker says of one journal."""

    journal: str
    state: State
    size_bytes: int = 0
    records: int = 0
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker says when it ends."""

    exit_code: int
    journals: tuple[JournalAnswer, ...] = ()
    problems: tuple[Problem, ...] = ()
    """The gravest first: the last ones are left out first."""
    warnings: tuple[Warned, ...] = ()
    is_cut: bool = False
    """Whether there was more to say than fits."""


def write(answer: Answer) -> str:
    """Write an answer in at most 4096 bytes."""
    parts: dict[str, list[Any]] = {
        "journals": [astuple(journal) for journal in answer.journals],
        "problems": [
            (p.exit_code, p.journal, p.sink, p.message[:_MAX_CHARACTERS]) for p in answer.problems
        ],
        "hints": [
            (place, hint[:_MAX_CHARACTERS])
            for place, problem in enumerate(answer.problems)
            for hint in problem.hints
        ],
        "warnings": [(w.journal, w.sink, w.message[:_MAX_CHARACTERS]) for w in answer.warnings],
    }
    is_cut = answer.is_cut
    while True:
        content = {"exit_code": answer.exit_code, "is_cut": is_cut, **parts}
        text = json.dumps(content, separators=(",", ":"))
        least = next((parts[part] for part in reversed(parts) if parts[part]), None)
        if len(text) <= MAX_BYTES or least is None:
            return text
        least.pop()
        is_cut = True


def read(text: str) -> Answer | None:
    """Read an answer; None if it is none."""
    try:
        found = json.loads(text)
        hints = [(int(place), str(hint)) for place, hint in found["hints"]]
        return Answer(
            exit_code=int(found["exit_code"]),
            is_cut=bool(found["is_cut"]),
            journals=tuple(
                JournalAnswer(
                    journal=name, state=_STATES[state], size_bytes=size, records=count, id=id_
                )
                for name, state, size, count, id_ in found["journals"]
            ),
            problems=tuple(
                Problem(
                    exit_code=int(code),
                    message=str(message),
                    hints=tuple(hint for of, hint in hints if of == place),
                    journal=journal,
                    sink=sink,
                )
                for place, (code, journal, sink, message) in enumerate(found["problems"])
            ),
            warnings=tuple(
                Warned(message=str(message), journal=journal, sink=sink)
                for journal, sink, message in found["warnings"]
            ),
        )
    except (ValueError, KeyError, TypeError):
        return None
