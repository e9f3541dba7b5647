"""Progress on a terminal: bars for what is under way, and for nothing else."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from backup.events import Progressed, RunStarted
from backup.progress import ProgressBar


def test_a_progress_bar_forgets_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    """Verifying thousands of backups must not draw, nor keep, thousands of bars."""
    with ProgressBar() as bar:
        bar(RunStarted(verb="verify", run_id="run", sinks=()))
        assert not bar._progress.live.is_started
        for done in (1, 2, 3):
            bar(Progressed(verb="verify", subject="one", done_bytes=done, total_bytes=3))
        bar(Progressed(verb="verify", subject="another", done_bytes=1, total_bytes=3))
        assert [task.description for task in bar._progress.tasks] == ["another"]

    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    """A terminal that can go away."""

    is_there = True

    def isatty(self) -> bool:
        """It is one, or was."""
        return True

    def write(self, text: str) -> int:
        """Take text, while it is there."""
        if not self.is_there:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)

    def flush(self) -> None:
        """Show it."""
        self.write("")


@pytest.mark.parametrize("goes_after", [0, 1])
def test_a_terminal_that_goes_away_costs_the_bar_and_not_the_run(
    monkeypatch: pytest.MonkeyPatch, goes_after: int
) -> None:
    """A detached session: what is written to it from then on fails."""
    monkeypatch.setenv("TERM", "xterm")
    terminal, out = Terminal(), sys.stdout
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressBar() as bar:
        for done in range(4):
            terminal.is_there = done < goes_after
            bar(Progressed(verb="backup", subject="a journal", done_bytes=done, total_bytes=3))

    assert ("a journal" in terminal.getvalue()) == bool(goes_after)
    assert (sys.stderr, sys.stdout) == (terminal, out), "the report is not sent through the bar"
