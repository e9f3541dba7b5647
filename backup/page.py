"""Pages: text for a terminal of some width, or for anything else.

Rules:

- An id or a name in a table is never cut and never folded: people copy them. Where a table is too
  wide for the terminal, the first column gets lines of its own; columns without content are left
  out. (That is why tables are made here: rich folds cells, and takes 1.7 s for the 5,000 rows that
  a list may have.) Off the terminal a table is as wide as it is.
- Nothing that a file is named can do anything to a terminal, or break JSON: control characters
  and bytes that are no text are shown as escapes.
"""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
GAP = "  "
"""Between two columns of a table."""


class Cell(NamedTuple):
    """What stands in one place of a table."""

    text: str
    style: str = ""


class Page:
    """Lines of text for a terminal of some width, or, without a width, for anything else."""

    def __init__(self, width: int | None) -> None:
        """Begin empty, for a terminal of ``width`` columns; None where there is none."""
        self.width = width
        self._lines: list[str] = []
        dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._is_coloured = width is not None and not dumb

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def line(self, text: str, style: str = "") -> None:
        """Add a line as it is."""
        self._lines.append(self._paint(printable(text), style))

    def say(self, text: str, label: str = "", style: str = "") -> None:
        """Add a text, after a label if it has one; on a terminal it is wrapped at blanks."""
        room = (self.width or 0) - len(label)
        lines = [printable(text)]
        if self.width is not None:
            lines = textwrap.wrap(
                lines[0], max(room, 20), break_long_words=False, break_on_hyphens=False
            )
        head = self._paint(label, style)
        for line in lines:
            self._lines.append(f"{head}{line}".rstrip())
            head = " " * len(label)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
        """Add a table of rows that are in the order of their first column."""
        if not rows:
            return
        cells = [[_cell(value) for value in row] for row in rows]
        used = [i for i in range(len(columns)) if any(row[i].text for row in cells)]
        head = [Cell(columns[i], "bold") for i in used]
        body = [[row[i] for i in used] for row in cells]
        widths = [max(len(row[i].text) for row in [head, *body]) for i in range(len(used))]
        numbers = [cell.text in _NUMBERS for cell in head]
        if self.width is None or _row_width(widths) <= self.width:
            for row in [head, *body]:
                self._row(row, widths, numbers)
            return
        widths[0] = 0
        self._narrow_row([Cell(""), *head[1:]], widths, numbers, self.width, is_head=True)
        for title, group in groupby(body, key=lambda row: row[0]):
            self.line(title.text, "bold")
            for row in group:
                self._narrow_row([Cell(""), *row[1:]], widths, numbers, self.width)

    def _narrow_row(
        self,
        row: Sequence[Cell],
        widths: Sequence[int],
        numbers: Sequence[bool],
        room: int,
        *,
        is_head: bool = False,
    ) -> None:
        """Add a row whose last cell, where there is no room for it, gets a line of its own."""
        *_, last = row
        if _row_width([*widths[:-1], len(last.text)]) <= room:
            self._row(row, widths, numbers)
            return
        self._row(row[:-1], widths[:-1], numbers[:-1])
        if not is_head:
            self.say(last.text, 2 * GAP)

    def _row(self, row: Sequence[Cell], widths: Sequence[int], numbers: Sequence[bool]) -> None:
        parts = [
            f"{' ' * (width - len(cell.text)) if number else ''}{self._paint(*cell)}"
            f"{'' if number else ' ' * (width - len(cell.text))}"
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ]
        self._lines.append(GAP.join(parts).rstrip())

    def _paint(self, text: str, style: str = "") -> str:
        if not (style and text and self._is_coloured):
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


_NUMBERS = {"SIZE", "ARCHIVE", "RECORDS", "BYTES"}
"""Columns that are aligned to the right."""


def _row_width(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _cell(value: str | Cell) -> Cell:
    text, style = value if isinstance(value, Cell) else (value, "")
    return Cell(printable(text), style)


# -- what may be shown

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def without_surrogates(text: str) -> str:
    """Show bytes that are no text, which Python keeps as surrogates, as escapes."""
    return _SURROGATE.sub(lambda m: f"\\x{ord(m[0]) & 0xFF:02x}", text)


def printable(text: str) -> str:
    """Show what is no text, and what would do something to a terminal, as escapes."""
    return _UNPRINTABLE.sub(lambda m: f"\\x{ord(m[0]):02x}", without_surrogates(text))
