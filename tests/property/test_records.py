"""Records against another judge: a JSON parser that sees one whole line at a time."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backup import records
from backup.records import Checker, Count

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
good = st.builds(
    lambda value, ascii_only, wide: json.dumps(
        value, ensure_ascii=ascii_only, separators=None if wide else (",", ":")
    ).encode(),
    st.dictionaries(texts, values, max_size=4),
    st.booleans(),
    st.booleans(),
)
tokens = [
    *(bytes([sign]) for sign in b'{}[]:,"\\ \t\r\x00\x1f\x7f\x80\xc3\xa4\xffu-+.eE019'),
    *(b"true", b"false", b"null", b"nul", b"-0", b"1.5e-7", b"1e999", b"1.", b"01", b"NaN"),
    *(b'"d"', b'"":', b"\\u12", b"\\ud83d\\ude00", b"\\ud800", b"\\udc00", b"\\ud83d\\u0041"),
    *(b"\\x", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xef\xbb\xbf", b"\x0c"),
]
tokenised = st.lists(st.sampled_from(tokens), max_size=8).map(b"".join)
wrapped = tokenised.map(lambda inside: b'{"d":' + inside + b"}")
quoted = tokenised.map(lambda inside: b'{"d":"' + inside + b'"}')


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    line = draw(good)
    at = draw(st.integers(0, len(line)))
    gone = draw(st.integers(0, 2))
    return line[:at] + draw(st.sampled_from([b"", *tokens])) + line[at + gone :]


lines = st.one_of(good, tokenised, wrapped, quoted, _mutated(), st.binary(max_size=9)).map(
    lambda line: line.replace(b"\n", b"")
)
cuts = st.lists(st.integers(1, 30), max_size=40)


def judged(whole: list[bytes], torn: bytes) -> Count:
    """Look at each line alone."""
    bad: list[int] = []
    offset = 0
    for line in whole:
        try:
            is_object = isinstance(orjson.loads(line), dict)
        except orjson.JSONDecodeError:
            is_object = False
        if not is_object:
            bad.append(offset)
        offset += len(line) + 1
    return Count(
        records=len(whole),
        bad=len(bad),
        first_bad_offset=bad[0] if bad else None,
        unfinished_bytes=len(torn),
    )


def checked(data: bytes, sizes: list[int], *, long_line_bytes: int | None = None) -> Count:
    """Run a stream through a checker, in pieces."""
    with pytest.MonkeyPatch.context() as patch:
        if long_line_bytes is not None:
            patch.setattr(records, "LONG_LINE_BYTES", long_line_bytes)
        checker = Checker()
        for size in sizes:
            checker.update(data[:size])
            data = data[size:]
        checker.update(data)
        return checker.finish()


@given(st.lists(good, max_size=10), cuts)
def test_what_a_json_library_wrote_is_good(written: list[bytes], sizes: list[int]) -> None:
    """The other direction of the same judge: no good record is called bad."""
    data = b"".join(line + b"\n" for line in written)

    assert checked(data, sizes) == Count(records=len(written), bad=0, first_bad_offset=None)


@settings(max_examples=200)
@given(st.lists(lines, max_size=10), lines | st.just(b""), cuts)
@example([b"1,2", b'{"a":[1', b"2]}"], b"", [])
def test_any_lines_are_judged_one_by_one(whole: list[bytes], torn: bytes, sizes: list[int]) -> None:
    """However they are cut into chunks, and whatever their neighbours are."""
    data = b"".join(line + b"\n" for line in whole) + torn

    assert checked(data, sizes) == judged(whole, torn)


@settings(max_examples=400)
@given(st.lists(lines, max_size=4), lines | st.just(b""), cuts, st.integers(0, 12))
@example([b'{"d":"\\ud83d\\ude00"}'], b"", [1] * 30, 0)
@example([b'{"d":"\\ud83d\\u0041"}'], b"", [1] * 30, 0)
@example([b'{"d":"\\ud83ddc00"}'], b"", [1] * 30, 0)
@example([b'{"d":-0.1e+5}'], b"", [1] * 30, 0)
@example([b'{"d":tru}'], b"", [1] * 30, 0)
@example([b'{"d":1e999}'], b"", [1] * 30, 0)
@example([b'{"d":[1,]}'], b"", [1] * 30, 0)
@example([b'{"d":[1}'], b"", [1] * 30, 0)
@example([b'{"d":1"e":2}'], b"", [1] * 30, 0)
@example([b'{"\xc3'], b"", [1] * 30, 0)
def test_long_lines_are_judged_as_short_ones(
    whole: list[bytes], torn: bytes, sizes: list[int], long_line_bytes: int
) -> None:
    """They are never held, so another recogniser looks at them: it must say the same."""
    data = b"".join(line + b"\n" for line in whole) + torn

    assert checked(data, sizes, long_line_bytes=long_line_bytes) == judged(whole, torn)
