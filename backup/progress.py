"""Progress on a terminal: a listener that draws a bar for each subject that is worked on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from backup.model import Event, Progressed

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


def _bar() -> Progress:
    from rich.console import Console  # noqa: PLC0415 - 60 ms that only a terminal has to pay
    from rich.progress import (  # noqa: PLC0415 - as above
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, soft_wrap=True),  # lines of the log are not folded
        transient=True,
        expand=True,
    )
