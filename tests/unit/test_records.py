"""Records: counted, parsed, and the first bad one found, in bounded memory."""

from __future__ import annotations

import tracemalloc

import pytest

from backup import records
from backup.records import Checker, Count

GOOD = b'{"d":"ZGF0YQ==","s":"c2ln"}\n'


def check(*chunks: bytes) -> Count:
    """Run a stream through a checker."""
    checker = Checker()
    for chunk in chunks:
        checker.update(chunk)
    return checker.finish()


def test_good_records_are_counted() -> None:
    """And nothing is said against them."""
    assert check(GOOD * 1000) == Count(records=1000, bad=0, first_bad_offset=None)


def test_an_empty_journal_has_no_records() -> None:
    """Nothing is not a bad record."""
    assert check() == check(b"", b"") == Count(records=0, bad=0, first_bad_offset=None)


@pytest.mark.parametrize("size", [1, 2, 7, len(GOOD), len(GOOD) + 1])
def test_a_record_may_come_in_pieces(size: int) -> None:
    """Chunks know nothing of lines."""
    data = GOOD * 5 + b"bad\n" + GOOD
    chunks = [data[at : at + size] for at in range(0, len(data), size)]

    assert check(*chunks) == Count(records=7, bad=1, first_bad_offset=5 * len(GOOD))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"1",
        b'"text"',
        b"null",
        b"[{}]",
        b'{"d":1',
        b'{"d":1}}',
        b'{"d":1} {"d":2}',
        b'{"d":1},{"d":2}',
        b"{d:1}",
        b'{"d":NaN}',
        b'{"d":01}',
        b'{"d":1e999}',
        b'{"d":"\x00"}',
        b'{"d":"\xff"}',
        b'{"d":"\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"{}\x00",
        b"\x00" * 100,
    ],
)
def test_a_line_that_is_not_one_json_object_is_bad(line: bytes) -> None:
    """Between good ones, and its offset is told."""
    assert check(GOOD + GOOD + line + b"\n" + GOOD) == Count(
        records=4, bad=1, first_bad_offset=2 * len(GOOD)
    )


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b' {"d" : [1, -0.5e-7, true, false, null, {}] }\t\r',
        b'{"d":"\\u00e4\\ud83d\\ude00\\n\\/"}',
        '{"d":"ä😀"}'.encode(),
        b'{"d":1,"d":2}',
    ],
)
def test_a_line_that_is_one_json_object_is_good(line: bytes) -> None:
    """Whatever it says: what Deepgram makes of it is not ours to judge."""
    assert check(GOOD + line + b"\n" + GOOD) == Count(records=3, bad=0, first_bad_offset=None)


def test_a_last_line_without_an_end_is_no_record_and_not_bad() -> None:
    """Whoever knows how the journal was read can say whether it is damage: its size is told."""
    assert check(GOOD + b'{"d":1}') == Count(
        records=1, bad=0, first_bad_offset=None, unfinished_bytes=7
    )


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        # One line gives two values, another two give one: the sum is right.
        ([b"{},{}", b'{"d":[1', b"2]}"], 3),
        ([b"1,2", b'{"d":[1', b"2]}"], 3),
        ([b"{}", b"{},{}", b"[{}", b"{}]"], 3),
        ([b'{"d":"', b'"}'], 2),
        ([b"{}", b'],[{"d":1}'], 1),
        ([b"{}]", b"[{}"], 2),
        ([b'{},"guess",{}', b'{"d":[', b"]}"], 3),
        ([b'{},"guess",{}', b'{"d":[1', b"2]}"], 3),
        ([b'{"d":{', b'"e":1}}'], 2),
    ],
)
def test_wrong_lines_never_make_right_ones_together(lines: list[bytes], bad: int) -> None:
    """They are parsed in one call, so what one opens another could close."""
    data = b"".join(line + b"\n" for line in lines)

    first = next(line for line in lines if line != b"{}")

    assert check(data).bad == bad
    assert check(GOOD + data + GOOD) == Count(
        records=len(lines) + 2, bad=bad, first_bad_offset=len(GOOD) + data.index(first)
    )


def test_nobody_can_foresee_what_stands_between_the_lines() -> None:
    """Who knew it could write lines that make right ones together."""
    assert Checker()._separator != Checker()._separator


def test_the_first_bad_record_is_the_one_told() -> None:
    """All are counted; an operator looks at the first."""
    data = GOOD + b"x\n" + GOOD + b"yy\n"

    assert check(data, GOOD, b"z\n") == Count(records=6, bad=3, first_bad_offset=len(GOOD))


# -- long lines


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every line of more than 16 bytes be a long one."""
    monkeypatch.setattr(records, "LONG_LINE_BYTES", 16)


@pytest.mark.usefixtures("_short")
def test_after_a_long_line_counting_goes_on() -> None:
    """Offsets too: good, long, bad, long and bad, good."""
    long = b'{"d":"' + b"x" * 100 + b'"}\n'
    wrong = b'{"d":"' + b"x" * 100 + b"}\n"
    chunks = [GOOD, long[:50], long[50:] + b"bad\n" + wrong[:40], wrong[40:60], wrong[60:], GOOD]

    assert check(*chunks) == Count(records=5, bad=2, first_bad_offset=len(GOOD) + len(long))


@pytest.mark.usefixtures("_short")
def test_the_offset_of_a_bad_long_line_is_that_of_its_begin() -> None:
    """Not of where the fault is."""
    assert check(GOOD, b'{"d":' + b" " * 100, b"?", b"\n") == Count(
        records=2, bad=1, first_bad_offset=len(GOOD)
    )


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("end", [b"", b'"', b'"}'])
def test_a_long_last_line_without_an_end_is_not_finished(end: bytes) -> None:
    """Though it may be whole: nobody can know."""
    assert check(GOOD, b'{"d":"' + b"x" * 100, b"x" + end) == Count(
        records=1, bad=0, first_bad_offset=None, unfinished_bytes=107 + len(end)
    )


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("depth", [1022, 1023, 1024])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"d":', b"}")])
def test_a_long_line_may_be_as_deep_as_a_short_one(
    depth: int, brackets: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory that nesting takes is bounded, at the same depth for both."""
    line = b'{"d":' + brackets[0] * depth + b"{}" + brackets[1] * depth + b"}"
    in_pieces = check(*(line[at : at + 10] for at in range(0, len(line), 10)), b"\n")
    monkeypatch.setattr(records, "LONG_LINE_BYTES", 1 << 20)

    assert in_pieces == check(line + b"\n")


@pytest.mark.usefixtures("_short")
def test_a_number_without_end_is_bad() -> None:
    """It is never held whole."""
    digits = [b"9" * 1000] * 100

    assert check(b'{"d":0.', *digits, b"}\n").bad == 1


@pytest.mark.parametrize(
    ("body", "end", "bad"),
    [
        (b"x" * (1 << 20), b'"}\n', 0),
        (b"\\u00e4\\n\\\\ \xc3\xa4 " * 50_000, b'"}\n', 0),
        (b"x" * (1 << 20), b"\n", 1),
        (b"\x01" + b"x" * (1 << 20), b'"}\n', 1),
    ],
)
def test_a_long_line_takes_little_memory(body: bytes, end: bytes, bad: int) -> None:
    """Law 11: memory does not grow with the journal, nor with its longest line."""
    size = (6 if b"\\" in body else 100) << 20  # escapes are looked at one by one
    pieces = size // len(body)
    checker = Checker()
    tracemalloc.start()
    try:
        checker.update(GOOD + b'{"d":"')
        for _ in range(pieces):
            checker.update(body)
        checker.update(end + GOOD)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert checker.finish() == Count(
        records=3, bad=bad, first_bad_offset=len(GOOD) if bad else None
    )
    assert peak < 24 << 20
