"""Logs: structlog on stderr, JSON for machines, readable on a terminal.

Rules:

- One listener turns events into log lines; nothing else logs, so the names of events are a closed
  list: ``noun_verb``, in the past.
- Keys carry their units. Progress is told every ten seconds at most. A run ends with one
  canonical line, ``run_finished``.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

import structlog

from backup.model import (
    BackupCommitted,
    Emit,
    Event,
    PassRepeated,
    Problem,
    Progressed,
    RemainsSwept,
    RunFinished,
    RunStarted,
    Warned,
)

PROGRESS_SECONDS = 10.0

_NAMES: dict[type[Event], tuple[str, str]] = {
    RunStarted: ("info", "run_started"),
    Progressed: ("info", "bytes_processed"),
    PassRepeated: ("warning", "pass_repeated"),
    BackupCommitted: ("info", "backup_committed"),
    Problem: ("error", "problem_found"),
    Warned: ("warning", "warning_raised"),
    RemainsSwept: ("info", "remains_swept"),
    RunFinished: ("info", "run_finished"),
}
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Stderr:
    """Standard error as it is at the moment of writing: a progress bar may have replaced it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up(*, level: str, style: str, run_id: str) -> Emit:
    """Begin logging.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        style: ``json`` or ``console``.
        run_id: bound to every line.

    Returns:
        The listener that logs events.
    """
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(file=_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    return _Listener(structlog.get_logger().bind(run_id=run_id))


class _Listener:
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._told: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progressed) and not self._is_due(event):
            return
        level, name = _NAMES[type(event)]
        fields = {
            f.name: getattr(event, f.name)
            for f in dataclasses.fields(event)
            if getattr(event, f.name) not in (None, ())
        }
        if isinstance(event, RunFinished) and event.exit_code:
            level = "error"
        getattr(self._logger, level)(name, **fields)

    def _is_due(self, event: Progressed) -> bool:
        now = time.monotonic()
        first = self._told.setdefault(event.subject, now)
        if now - first < PROGRESS_SECONDS:
            return False
        self._told[event.subject] = now
        return True


def bug(error: BaseException) -> None:
    """Log an error that nobody declared, with its traceback."""
    structlog.get_logger().critical("bug_met", exc_info=error)
