"""Records: the lines of a journal, each of them one JSON object.

Rules:

- A record is parsed in full, by a fast parser (orjson), many of them in one call.
- Lines of one piece are joined into one JSON array with a separator between them that nobody can
  foresee (a random string), so that two wrong lines can never make one right array. Only where
  that array is not what it should be is each line looked at alone.
- Memory is bounded. A line longer than :data:`LONG_LINE_BYTES` is checked as it flows by, by a
  small recogniser of JSON's grammar (RFC 8259), and never held.
"""

from __future__ import annotations

import codecs
import re
import secrets
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import orjson

from backup.model import count_lines

LONG_LINE_BYTES = 4 << 20
_MAX_SCALAR_BYTES = 64 << 10
_MAX_DEPTH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a run of records holds."""

    records: int
    """Complete lines."""
    bad: int
    """Those of them that are not one JSON object."""
    first_bad_offset: int | None
    """Where the first of those begins, in bytes from the start."""
    unfinished_bytes: int = 0
    """Behind the last newline: a record without its end, whole or not."""


class Checker:
    """Counts the records in a stream of bytes and parses each one."""

    def __init__(self) -> None:
        """Start at the beginning of a journal."""
        self._nonce = secrets.token_hex(8)
        self._separator = f',"{self._nonce}",'.encode()
        self._tail = b""
        self._line_offset = 0
        self._long: _LongLine | None = None
        self._records = 0
        self._bad = 0
        self._first_bad: int | None = None

    def update(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._long is not None:
            chunk = self._continue_long_line(self._long, chunk)
        end = chunk.rfind(b"\n") + 1
        if end:
            self._check_lines(self._tail + chunk[:end])
            self._tail = chunk[end:]
        else:
            self._tail += chunk
        if len(self._tail) > LONG_LINE_BYTES:
            self._long = _LongLine()
            self._long.update(self._tail)
            self._tail = b""

    def finish(self) -> Count:
        """Return the result; a last line without an end is no record."""
        return Count(
            records=self._records,
            bad=self._bad,
            first_bad_offset=self._first_bad,
            unfinished_bytes=len(self._tail) if self._long is None else self._long.size_bytes,
        )

    def _continue_long_line(self, line: _LongLine, chunk: bytes) -> bytes:
        head, newline, rest = chunk.partition(b"\n")
        line.update(head)
        if not newline:
            return b""
        self._records += 1
        if not line.is_object():
            self._note_bad(self._line_offset)
        self._line_offset += line.size_bytes + 1
        self._long = None
        return rest

    def _check_lines(self, lines: bytes) -> None:
        count = count_lines(lines)
        self._records += count
        if not self._all_good(lines, count):
            self._check_one_by_one(lines)
        self._line_offset += len(lines)

    def _all_good(self, lines: bytes, count: int) -> bool:
        try:
            joined: list[object] = orjson.loads(
                b"[" + lines[:-1].replace(b"\n", self._separator) + b"]"
            )
        except orjson.JSONDecodeError:
            return False
        return (
            len(joined) == 2 * count - 1
            and joined[1::2].count(self._nonce) == count - 1
            and set(map(type, joined[::2])) == {dict}
        )

    def _check_one_by_one(self, lines: bytes) -> None:
        offset = self._line_offset
        for line in lines[:-1].split(b"\n"):
            if not _is_object(line):
                self._note_bad(offset)
            offset += len(line) + 1

    def _note_bad(self, offset: int) -> None:
        self._bad += 1
        if self._first_bad is None:
            self._first_bad = offset


def _is_object(line: bytes) -> bool:
    try:
        return type(orjson.loads(line)) is dict
    except orjson.JSONDecodeError:
        return False


# -- long lines
#
# orjson wants a document whole, and so do all parsers that are installed here. A line that is too
# long to be held is still not to be called wrong unread, nor right: so its grammar is followed sign
# by sign. A test compares what this says with what orjson says.

_Want = Literal["object", "key or end", "key", "colon", "value", "value or end", "next", "nothing"]

_TEXT = re.compile(rb'[^"\\\x00-\x1f]+')
_ESCAPE = re.compile(
    rb'\\(?:["\\/bfnrt]'
    rb"|u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2})"
    rb"|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_ESCAPE_BYTES = 12
_BLANK = re.compile(rb"[ \t\r]+")
_SCALAR = re.compile(rb"[-+.0-9a-zA-Z]+")
_COMPLETE_SCALAR = re.compile(
    rb"true|false|null|(?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
)


class _LongLine:
    """Recognises one JSON object as it flows by, holding none of it."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._good = True
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._open: list[int] = []
        self._want: _Want = "object"
        self._in_string = False
        self._held = b""
        self._scalar = b""

    def update(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if not self._good:
            return
        try:
            self._utf8.decode(data)
            self._take(self._held + data)
        except ValueError:
            self._good = False

    def is_object(self) -> bool:
        return self._good and self._want == "nothing"

    def _take(self, data: bytes) -> None:
        self._held = b""
        at = 0
        while at < len(data):
            if self._in_string:
                at = self._string(data, at)
            elif match := _SCALAR.match(data, at):
                at = match.end()
                self._add_to_scalar(match[0])
            else:
                self._end_scalar()
                blank = _BLANK.match(data, at)
                at = blank.end() if blank else at + 1
                if blank is None:
                    self._punctuation(data[at - 1])

    def _string(self, data: bytes, at: int) -> int:
        while match := _TEXT.match(data, at) or _ESCAPE.match(data, at):
            at = match.end()
        if at < len(data):
            if data[at] == ord('"'):
                self._in_string = False
                self._want = "colon" if self._want in {"key", "key or end"} else self._after_value()
                return at + 1
            if data[at] != ord("\\") or len(data) - at >= _ESCAPE_BYTES:
                raise ValueError
            self._held = data[at:]  # an escape that may be complete with what comes next
        return len(data)

    def _add_to_scalar(self, piece: bytes) -> None:
        self._scalar += piece
        if self._want not in {"value", "value or end"} or len(self._scalar) > _MAX_SCALAR_BYTES:
            raise ValueError

    def _end_scalar(self) -> None:
        if self._scalar:
            match = _COMPLETE_SCALAR.fullmatch(self._scalar)
            if match is None or not isfinite(float(match["number"] or 0)):
                raise ValueError
            self._scalar = b""
            self._want = self._after_value()

    def _after_value(self) -> _Want:
        return "next" if self._open else "nothing"

    def _punctuation(self, sign: int) -> None:
        step = _GRAMMAR.get((self._want, chr(sign)))
        if step is None:
            raise ValueError
        if sign == ord('"'):
            self._in_string = True
        elif sign in b"{[":
            self._open.append(sign)
            self._want = step
            if len(self._open) > _MAX_DEPTH:
                raise ValueError
        elif sign in b"}]":
            if self._open.pop() != sign - 2:  # in ASCII each closing sign is its opening one + 2
                raise ValueError
            self._want = self._after_value()
        elif sign == ord(","):
            self._want = "key" if self._open[-1] == ord("{") else "value"
        else:
            self._want = step


_GRAMMAR: dict[tuple[_Want, str], _Want] = {
    ("object", "{"): "key or end",
    ("key or end", '"'): "colon",
    ("key or end", "}"): "next",
    ("key", '"'): "colon",
    ("colon", ":"): "value",
    ("value", '"'): "next",
    ("value", "{"): "key or end",
    ("value", "["): "value or end",
    ("value or end", '"'): "next",
    ("value or end", "{"): "key or end",
    ("value or end", "["): "value or end",
    ("value or end", "]"): "next",
    ("next", ","): "key",
    ("next", "}"): "next",
    ("next", "]"): "next",
}
