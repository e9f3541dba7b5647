"""Logs on stderr: structlog's JSON for machines, sentences on a terminal.

Rules:

- One listener turns events into log lines; nothing else logs, so the names in a log are those of
  :mod:`backup.events`, and one for bugs.
- Keys carry their units; what says nothing (none, empty) is left out. Progress is logged every ten
  seconds at most. A run ends with one canonical line, ``run_finished``, with the run's figures.
- On a terminal a line is a sentence, and what the report is about to say in the same window is
  left to it: nobody should read a problem twice. JSON leaves nothing out.
- Standard error that has gone away (a closed pipe, a full disk) must never end a backup.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

from backup.events import (
    Emit,
    Event,
    Finding,
    Problem,
    Progressed,
    RunFinished,
    Warned,
)
from backup.lean import standing_in
from backup.model import located
from backup.stop import Monotonic

# structlog imports asyncio for methods that are awaited, and rich where it is installed, for a
# renderer: neither is used here, and together they are half of the time that its import takes.
with standing_in(rich=None, asyncio=ModuleType("asyncio")):
    import structlog

PROGRESS_SECONDS = 10.0

_BUG = "bug_met"
_SENTENCES = {kind.name: kind.sentence for kind in Event.__subclasses__()} | {
    _BUG: "a bug in this program:\n{exception}"
}
_TOLD_BY_REPORT = (Problem, Warned, Finding, RunFinished)
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Stderr:
    """Standard error as it is at the moment of writing: a progress bar may have replaced it."""

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            return sys.stderr.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def set_up(
    *,
    level: str,
    style: str,
    run_id: str,
    has_report: bool = False,
    monotonic: Monotonic = time.monotonic,
) -> Emit:
    """Begin logging.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        style: ``json`` or ``console``.
        run_id: bound to every line.
        has_report: the report, which has the problems too, will be printed in the same window.
        monotonic: a clock in seconds that never goes back.

    Returns:
        The listener that logs events.
    """
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer() if style == "json" else _sentence,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=_Stderr()),  # type: ignore[arg-type]  # all that it uses
        cache_logger_on_first_use=False,
    )
    left_out = _TOLD_BY_REPORT if has_report else ()
    return _Listener(structlog.get_logger().bind(run_id=run_id), left_out, monotonic)


def _sentence(_logger: object, _method: str, entry: Mapping[str, Any]) -> str:
    words = dict(
        entry,
        located=located(entry.get("message", ""), entry.get("journal"), entry.get("sink")),
        sinks=", ".join(entry.get("sinks", ())),
    )
    return f"{entry['timestamp'][11:19]}Z {_SENTENCES[entry['event']].format_map(words)}"


class _Listener:
    def __init__(
        self, logger: Any, left_out: tuple[type[Event], ...], monotonic: Monotonic
    ) -> None:
        self._logger = logger
        self._left_out = left_out
        self._monotonic = monotonic
        self._told_at = monotonic()

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._left_out) or not self._is_due(event):
            return
        level = event.level
        fields = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
        fields |= fields.pop("figures", {})
        if isinstance(event, RunFinished) and event.exit_code:
            level = "error"
        telling = {key: value for key, value in fields.items() if value not in (None, ())}
        getattr(self._logger, level)(event.name, **telling)

    def _is_due(self, event: Event) -> bool:
        if not isinstance(event, Progressed):
            return True
        now = self._monotonic()
        if now - self._told_at < PROGRESS_SECONDS:
            return False
        self._told_at = now
        return True


def bug(error: BaseException) -> None:
    """Log an error that nobody declared, with its traceback."""
    if not structlog.is_configured():
        set_up(level="error", style="console" if sys.stderr.isatty() else "json", run_id="none")
    structlog.get_logger().critical(_BUG, exc_info=error)
