"""Times that tests take and do not judge: they are the machine's as much as ours.

A test asks for the fixture `figure` and notes a time with it; the end of the run tells them all,
those of other processes of tests, too, one a line that begins with `figure: `.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

Figure = Callable[[str, float], None]
"""What it is that took that many seconds."""

_PROPERTY = "figure"


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Give what notes a time, in seconds."""

    def note(what: str, seconds: float) -> None:
        record_property(_PROPERTY, f"{what}: {seconds:.1f} s")

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell them."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if figures := sorted(_noted(reports)):
        terminalreporter.section("figures")
    for said in figures:
        terminalreporter.line(f"figure: {said}")


def _noted(reports: Iterable[pytest.TestReport]) -> Iterable[str]:
    for report in reports:
        if report.when == "call":
            yield from (str(said) for name, said in report.user_properties if name == _PROPERTY)
