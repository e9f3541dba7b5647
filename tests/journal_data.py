"""Journals as billing writes them, for tests: records, volumes, and a run of the real verb.

What a run stored is looked at by Python's own gzip and tarfile, not by the code under test.
"""

from __future__ import annotations

import base64
import io
import json
import random
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from backup.events import Event, Progressed
from backup.manifest import Manifest, Mark, MarkKind, parse
from backup.model import parse_key
from backup.report import worst
from backup.run import Run
from backup.settings import BackupSettings
from backup.sinks.base import Sink
from backup.transfer.plan import Patience, Plan, Worker
from backup.verbs.backup import back_up
from backup.verbs.ledger import Statement
from backup.verbs.outcome import BackupResult
from tests.simulated_sink import Held, Place

R = TypeVar("R")

NAME = "journal-deepgram-billing-0"
"""The first journal."""

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


class Meddler(Events):
    """A listener that meddles while a journal is read.

    At the n-th piece of each reading it acts; the first piece is the archive's header, when the
    file is not open yet, and at the second one it is.
    """

    def __init__(self, act: Callable[[], object], *, piece: int = 2, readings: int = 1) -> None:
        super().__init__()
        self._act = act
        self._piece = piece
        self._readings = readings
        self._seen = 0
        self._reached = 0

    def __call__(self, event: Event) -> None:
        """Take an event."""
        super().__call__(event)
        if not isinstance(event, Progressed):
            return
        self._seen = 1 if event.done_bytes < self._reached else self._seen + 1
        self._reached = event.done_bytes
        if self._seen == self._piece and self._readings:
            self._readings -= 1
            self._act()


def append(path: Path, data: bytes) -> None:
    """Append as billing does."""
    with path.open("ab") as file:
        file.write(data)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    """Write into a file, in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def replace_file(path: Path, data: bytes) -> None:
    """Put another file in its place."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.rename(path)


def plan(source: Path, **changes: Any) -> Plan:
    """Plan a run that waits for nothing long; changes are of any part of the plan."""
    given: dict[str, Any] = {
        "id": changes.pop("run_id", "run"),
        "tool": "test",
        "clock": Clock(),
        "source": source,
        "statefulset": "deepgram-billing",
        "stall_seconds": 5.0,
        "hole_seconds": 0.0,
        "recovery_seconds": 0.5,
        **changes,
    }

    def some(kind: type[Any], names: Iterable[str]) -> Any:
        return kind(**{name: given.pop(name) for name in names if name in given})

    made = Plan(
        run=some(Run, (f.name for f in fields(Run) if f.init)),
        settings=some(BackupSettings, BackupSettings.model_fields),
        worker=some(Worker, (f.name for f in fields(Worker))),
        patience=some(Patience, (f.name for f in fields(Patience))),
    )
    assert not given
    return made


def run_backup(source: Path, sinks: Sequence[Sink], **changes: Any) -> BackupResult:
    """Run the real verb."""
    return back_up(plan(source, **changes), sinks)


def in_run(verb: Callable[..., R], *args: Any, **how: Any) -> R:
    """Call a verb in a run of its own, with what is the run's and what an operator says."""
    of_run = {name: how.pop(name) for name in ("emit", "stop", "clock", "id") if name in how}
    said = {name: how.pop(name) for name in ("by", "note", "reference") if name in how}
    return verb(Run(**of_run), *args, *([Statement(**said)] if said else []), **how)


def exit_code(result: BackupResult) -> int:
    """Give the exit code of a run."""
    return worst(result.exit_codes)


def states(result: BackupResult) -> dict[int, str]:
    """Give the state of each journal by its ordinal, in the order of the result."""
    return {int(o.journal.rpartition("-")[2]): o.state for o in result.journals}


def said(result: BackupResult) -> str:
    """Give all that a run has to say: problems, hints and warnings, one a line."""
    problems = [f"{p.journal} {p.sink}: {p.message}" for p in result.problems]
    hints = [hint for p in result.problems for hint in p.hints]
    warnings = [f"{w.journal} {w.sink}: {w.message}" for w in result.warnings]
    return "\n".join([*problems, *hints, *warnings])


def manifests(place: Place, journal: str = NAME) -> list[Manifest]:
    """Read the manifests of a journal, oldest first."""
    keys = [k for k in map(parse_key, place.keys()) if k and k.journal == journal]
    return [
        parse(place.objects[str(k)].data)
        for k in sorted(keys, key=lambda k: k.id)
        if k.role == "manifest"
    ]


def contents(place: Place, manifest: Manifest) -> dict[str, bytes]:
    """Unpack a backup's archive: each file by the name that it has in the journal's directory."""
    data = place.objects[manifest.archives[0].key].data
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return {
            member.name.removeprefix(f"{manifest.journal}/"): _content(archive, member)
            for member in archive
        }


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def stored_journal(place: Place, journal: str = NAME) -> bytes:
    """Give the journal as the newest backup has it."""
    return contents(place, manifests(place, journal)[-1])["journal"]


def mark(place: Place, kind: MarkKind, backup_id: str, journal: str = NAME) -> None:
    """Add a mark, as the verbs of day two do."""
    made = Mark(kind=kind, journal=journal, id=backup_id, created_at=NOON)
    key = f"{journal}/{journal}-{backup_id}.{kind}.json"
    place.objects[key] = Held(made.to_bytes(), NOON)


def metadata(root: Path) -> dict[str, tuple[int, ...]]:
    """Take down all that must not change below a directory; reading may touch atime alone."""
    states = {str(path): path.lstat() for path in (root, *root.rglob("*"))}
    return {
        path: (s.st_ino, s.st_nlink, s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, s.st_ctime_ns)
        for path, s in states.items()
    }
