"""Answers of workers: what is written is what is read, and what has no room is missed as said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backup import answer
from backup.answer import MAX_BYTES, Answer, JournalAnswer
from backup.events import Problem, Warned

JOURNAL = "journal-deepgram-billing-0"
ID = "20261123T020000Z-3f9a1c"


def journal(ordinal: int) -> JournalAnswer:
    """Make what is said of a journal that was backed up."""
    name = f"journal-deepgram-billing-{ordinal}"
    return JournalAnswer(journal=name, state="backed up", size_bytes=1 << 30, records=9, id=ID)


def numbered(number: int, **more: Any) -> Problem:
    """Make a problem with as long a message as is kept."""
    return Problem(exit_code=5, message=f"{number}: ".ljust(300, "x"), journal=JOURNAL, **more)


def carried(said: Answer) -> Answer:
    """Have an answer written, kept by a kubelet, and read."""
    text = answer.write(said)
    assert len(text.encode()) <= MAX_BYTES
    read = answer.read(text)
    assert read is not None
    return read


def test_what_is_read_is_what_was_written() -> None:
    """With the hints of each problem, and whatever characters."""
    said = Answer(
        exit_code=6,
        journals=(journal(0), JournalAnswer(journal=JOURNAL, state="missing")),
        problems=(
            Problem(exit_code=6, message="shrank", hints=("look", "acknowledge"), journal=JOURNAL),
            Problem(exit_code=3, message="503 \u2028 ü", sink="s3://two"),
            Problem(exit_code=3, message="again", hints=("wait",)),
        ),
        warnings=(Warned(message="is back", journal=JOURNAL, sink="s3://two"),),
    )

    assert carried(said) == said
    assert carried(Answer(exit_code=0)) == Answer(exit_code=0)


def test_a_long_sentence_is_cut() -> None:
    """Its beginning names the cause."""
    long = "x" * 9_000
    told = carried(
        Answer(exit_code=2, problems=(Problem(exit_code=2, message=long, hints=(long,)),))
    )

    assert told.problems == (Problem(exit_code=2, message="x" * 300, hints=("x" * 300,)),)


def test_what_has_no_room_is_left_out_from_the_end() -> None:
    """Warnings, hints, problems, journals; the exit code is that of all of them."""
    problems = tuple(numbered(n, hints=("do this",)) for n in range(9))
    warnings = tuple(Warned(message="w" * 300) for _ in range(9))
    said = Answer(exit_code=6, journals=(journal(0),), problems=problems, warnings=warnings)
    told = carried(said)

    assert (told.exit_code, told.is_cut, told.journals) == (6, True, (journal(0),))
    assert (len(told.problems), told.warnings) == (9, said.warnings[: len(told.warnings)])
    assert len(told.warnings) < 9

    more = carried(Answer(exit_code=6, problems=tuple(map(numbered, range(40)))))
    assert more.problems == tuple(map(numbered, range(len(more.problems))))
    assert 8 < len(more.problems) < 40


def test_hints_go_before_the_problems_that_they_are_about() -> None:
    """Of the mildest problem first."""
    problems = tuple(numbered(n, hints=("h" * 300,)) for n in range(9))
    told = carried(Answer(exit_code=5, problems=problems))

    assert [p.message for p in told.problems] == [p.message for p in problems]
    hints = [len(p.hints) for p in told.problems]
    assert hints == sorted(hints, reverse=True)
    assert 0 < sum(hints) < 9


def test_of_many_journals_those_that_fit_are_told() -> None:
    """A volume may have as many as it likes."""
    journals = tuple(map(journal, range(100)))
    told = carried(Answer(exit_code=5, journals=journals, problems=(numbered(0),)))

    assert (told.exit_code, told.problems, told.is_cut) == (5, (), True)
    assert told.journals == journals[: len(told.journals)]
    assert len(told.journals) > 30


def test_what_fits_by_no_means_is_said_all_the_same() -> None:
    """An empty answer is one, and short."""
    huge = JournalAnswer(journal="x" * 5_000, state="missing")

    assert carried(Answer(exit_code=5, journals=(huge,))) == Answer(exit_code=5, is_cut=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Traceback (most recent call last):",
        "[]",
        "{}",
        *(
            json.dumps(json.loads(answer.write(Answer(exit_code=0))) | change)
            for change in (
                {"exit_code": "one"},
                {"journals": [{"other": 1}]},
                {"journals": 1},
                {"journals": [["name", "no state", 1, 1, None]]},
                {"problems": [[1]]},
                {"problems": [["x", None, None, "message"]]},
                {"hints": [["x", "hint"]]},
                {"warnings": [["short"]]},
            )
        ),
    ],
)
def test_other_messages_are_no_answer(text: str) -> None:
    """What a runtime writes of its own, or what something else has cut."""
    assert answer.read(text) is None
