"""Progress on a terminal: a listener that draws a bar for each subject that is worked on.

A terminal may go away while a run goes on (a detached session): that costs the bar, not the run.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from backup.events import Event, Progressed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressBar:
    """A listener that shows progress on a terminal, and nothing when it is done."""

    def __init__(self) -> None:
        """Draw on stderr, from the first progress on."""
        self._progress = _bar()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        """Wait for something to draw."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Wipe it off."""
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take an event; only progress is drawn."""
        if not isinstance(event, Progressed):
            return
        self._progress.start()
        task = self._tasks.get(event.subject)
        if task is None:
            task = self._progress.add_task(event.subject, total=event.total_bytes)
            self._tasks[event.subject] = task
        self._progress.update(task, completed=event.done_bytes)
        if event.done_bytes >= event.total_bytes:  # verifying thousands must not keep them all
            self._progress.remove_task(self._tasks.pop(event.subject))


class _Terminal:
    """Standard error as it was before the bar, which draws on it and sends others' lines to it."""

    def __init__(self) -> None:
        self._file = sys.stderr
        self.encoding = sys.stderr.encoding

    def isatty(self) -> bool:
        return self._file.isatty()

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # it is gone; ValueError: it is closed
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


def _bar() -> Progress:
    from rich import console, progress  # noqa: PLC0415 - 60 ms that only a terminal has to pay

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(
            file=_Terminal(),  # type: ignore[arg-type]  # all of a file that rich asks for
            soft_wrap=True,  # lines of the log are not folded
        ),
        transient=True,
        expand=True,
    )
