"""Journals as billing writes them, for tests: records, volumes, and a run of the real verb."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup.model import Emit, Event
from backup.sinks.base import Sink
from backup.stop import Stop
from backup.verbs.backup import BackupResult, Options, back_up

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def records(count: int, *, seed: int = 1) -> bytes:
    """Make complete records, the same for the same seed."""
    draw = random.Random(seed)
    return b"".join(
        json.dumps(
            {
                "d": base64.b64encode(draw.randbytes(draw.randrange(60, 400))).decode(),
                "s": draw.randbytes(32).hex(),
            },
            separators=(",", ":"),
        ).encode()
        + b"\n"
        for _ in range(count)
    )


def write_journal(
    source: Path, ordinal: int, data: bytes, *, name: str = "deepgram-billing"
) -> Path:
    """Write a journal in its directory; give the file."""
    path = source / f"journal-{name}-{ordinal}" / "journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """Give the time."""
        return self.now

    def advance(self, **by: float) -> None:
        """Go on (or back) by a timedelta's arguments."""
        self.now += timedelta(**by)


class Events(list[Event]):
    """A listener that remembers."""

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """Give those of a kind."""
        return [e for e in self if isinstance(e, kind)]


def options(source: Path, **changes: Any) -> Options:
    """Give options for a run that waits for nothing long."""
    given: dict[str, Any] = {
        "source": source,
        "statefulset": "deepgram-billing",
        "run_id": "run",
        "tool": "test",
        "stall_seconds": 5.0,
        "hole_seconds": 0.0,
    }
    return Options(**(given | changes))


def run_backup(
    source: Path,
    sinks: Sequence[Sink],
    *,
    clock: Clock | None = None,
    emit: Emit = lambda _event: None,
    stop: Stop | None = None,
    **changes: Any,
) -> BackupResult:
    """Run the real verb."""
    return back_up(
        options(source, **changes),
        sinks,
        clock=clock or Clock(),
        emit=emit,
        stop=stop or Stop(),
    )
