"""Progress on a terminal: bars for what is under way, and for nothing else."""

from __future__ import annotations

import pytest

from backup.model import Progressed, RunStarted
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
