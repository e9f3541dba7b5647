"""The sinks that the contract suite runs over. To add one, add one entry to BACKENDS.

A backend is started once, and then makes a *place* for each test: something empty that keeps
objects, with a door beside the sink, by which a test does what other programs, interruptions and
faults do to it. It declares what it enforces; a test that asks for more leaves it out.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import pytest

from backup.errors import SinkDeniedError, SinkUnavailableError
from backup.settings import StoreSettings
from backup.sinks import Sink, kinds
from backup.sinks.file import FileSink
from backup.sinks.kinds import FileOptions
from backup.stop import Stop
from tests import faultfs, simulated_sink
from tests.conftest import Start
from tests.contract import buckets

Enforced = Literal["exclusive", "checksum", "cut", "faults", "stuck", "sweep"]
"""What a place enforces.

``exclusive``: a key that is taken is refused; ``checksum``: bytes that changed on the way are
refused; ``faults``: a test can let something go wrong; ``cut``: also cut a put; ``stuck``: it can
make every call hang; ``sweep``: what an interrupted put leaves behind can be found (on GCS it shows
nowhere).
"""

STALL_SECONDS = 20.0

Fault = Literal["denied", "changed", "cut", "torn"]
"""What goes wrong between a sink and its place.

``denied``: whoever asks is refused; ``changed``: a byte of each put changes on the way; ``cut``: no
put gets through to its end; ``torn``: one stream breaks in the middle.
"""


class Place(Protocol):
    """Where objects are kept, and the door beside the sink."""

    def sink(self, *, stop: Stop | None = None, stall_seconds: float = STALL_SECONDS) -> Sink:
        """Open a sink on it, as one more process would."""
        ...

    def plant(self, names: Iterable[str]) -> None:
        """Keep objects under these names, which may be odd, as another program would."""
        ...

    def interrupt(self, key: str) -> None:
        """Leave behind what a put leaves whose process was killed."""
        ...

    def remains(self) -> list[str]:
        """Name what unfinished puts have left behind."""
        ...

    def stuck(self) -> AbstractContextManager[None]:
        """Let every call hang inside the block."""
        ...

    def faulty(self, fault: Fault) -> AbstractContextManager[Sink]:
        """Open a sink for which something goes wrong inside the block."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One kind of place."""

    name: str
    start: Callable[[Path, Start], AbstractContextManager[Callable[[str], Place]]]
    """Begins with a directory of its own and what starts servers; gives what makes a place of an
    unused name."""
    unavailable: Callable[[], str | None] = lambda: None
    """Gives the reason why it cannot run here."""
    enforces: frozenset[Enforced] = frozenset({"exclusive", "sweep"})

    def __str__(self) -> str:
        """Read as its name, in the ids of tests."""
        return self.name


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A directory, perhaps in a file system with faults."""

    root: Path
    fs: faultfs.FaultFS | None = None

    def sink(self, *, stop: Stop | None = None, stall_seconds: float = STALL_SECONDS) -> Sink:
        """Open it."""
        return FileSink(
            kinds.Place(path=str(self.root), options=FileOptions()),
            StoreSettings(source=self.root.parent / "source"),
            stop=stop or Stop(),
            stall_seconds=stall_seconds,
        )

    def plant(self, names: Iterable[str]) -> None:
        """Write files; each holds its name."""
        for name in names:
            path = self.root / name
            if self.fs:  # by the short way
                path = self.fs.backing / path.relative_to(self.fs.root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def interrupt(self, key: str) -> None:
        """Leave a temporary file."""
        directory, _, name = key.rpartition("/")
        self.plant([f"{directory}/.{name}.0123abcd.part"])

    def remains(self) -> list[str]:
        """Name the hidden files."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob(".*"))

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Let every operation of the file system hang."""
        assert self.fs is not None
        self.fs.hang()
        try:
            yield
        finally:
            self.fs.release()

    @contextmanager
    def faulty(self, fault: Fault) -> Iterator[Sink]:
        """Let the file system do it: it reads wrong what was written right."""
        assert self.fs is not None
        below = f"{self.root.name}*"
        if fault == "denied":
            self.fs.fail("*", errno.EACCES, below)
        elif fault == "changed":
            self.fs.flip(below, 100_000)
        elif fault == "cut":
            self.fs.fail("write", errno.EIO, below, after_bytes=100_000)
        else:
            self.fs.fail("read", errno.EIO, below, after_bytes=1_000_000, times=1)
        try:
            yield self.sink()
        finally:
            self.fs.clear()


@dataclass(frozen=True, slots=True)
class SimulatedPlace:
    """A dictionary."""

    kept: simulated_sink.Place = field(default_factory=simulated_sink.Place)
    sinks: list[simulated_sink.SimulatedSink] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def sink(self, *, stop: Stop | None = None, stall_seconds: float = STALL_SECONDS) -> Sink:
        """Open it."""
        sink = simulated_sink.SimulatedSink(place=self.kept, stop=stop, stall_seconds=stall_seconds)
        self.sinks.append(sink)
        return sink

    def plant(self, names: Iterable[str]) -> None:
        """Keep objects; each holds its name."""
        for name in names:
            self.kept.objects[name] = simulated_sink.Held(name.encode(), datetime.now(UTC))

    def interrupt(self, key: str) -> None:
        """Leave an unfinished upload."""
        self.kept.uploads.append((key, datetime.now(UTC)))

    def remains(self) -> list[str]:
        """Name the unfinished uploads."""
        return sorted(key for key, _ in self.kept.uploads)

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Let every call of every sink opened so far hang."""
        for sink in self.sinks:
            for operation in simulated_sink.OPERATIONS:
                sink.hang(operation)
        try:
            yield
        finally:
            for sink in self.sinks:
                sink.release()

    @contextmanager
    def faulty(self, fault: Fault) -> Iterator[Sink]:
        """Let the script do it."""
        sink = simulated_sink.SimulatedSink(place=self.kept, stall_seconds=STALL_SECONDS)
        if fault == "denied":
            for operation in simulated_sink.OPERATIONS:
                sink.fail(operation, SinkDeniedError("403"))
        elif fault == "changed":
            sink.flip("*")
        elif fault == "cut":
            sink.fail("put", SinkUnavailableError("reset"))
        else:
            sink.tear("*", at=1_000_000, error=SinkUnavailableError("reset"), times=1)
        yield sink


@contextmanager
def _directory(base: Path, _start: Start) -> Iterator[Callable[[str], Place]]:
    def place(name: str) -> Place:
        (base / name).mkdir()
        return FilePlace(base / name)

    yield place


@contextmanager
def _faultfs(base: Path, _start: Start) -> Iterator[Callable[[str], Place]]:
    with faultfs.mounted(base, limit=300) as fs:

        def place(name: str) -> Place:
            (fs.root / name).mkdir()
            return FilePlace(fs.root / name, fs)

        yield place


@contextmanager
def _memory(_base: Path, _start: Start) -> Iterator[Callable[[str], Place]]:
    yield lambda _name: SimulatedPlace()


BACKENDS = (
    Backend(name="file", start=_directory),
    Backend(
        name="file-fuse",
        start=_faultfs,
        unavailable=faultfs.available,
        enforces=frozenset({"exclusive", "cut", "faults", "stuck", "sweep"}),
    ),
    Backend(
        name="simulator",
        start=_memory,
        enforces=frozenset({"exclusive", "cut", "faults", "stuck", "sweep"}),
    ),
    Backend(
        name="s3-versitygw",
        start=partial(buckets.s3, "versitygw"),
        enforces=frozenset({"exclusive", "checksum", "cut", "faults", "stuck", "sweep"}),
    ),
    Backend(
        name="s3-minio",
        start=partial(buckets.s3, "minio"),
        enforces=frozenset({"exclusive", "checksum", "cut", "faults", "stuck", "sweep"}),
    ),
    Backend(
        name="s3-moto",  # where every upload began in 2010
        start=partial(buckets.s3, "moto"),
        enforces=frozenset({"exclusive", "cut", "faults"}),
    ),
    Backend(
        name="gcs",  # which takes a question after a cut for the end of the upload
        start=buckets.gcs,
        enforces=frozenset({"exclusive", "checksum", "faults", "stuck"}),
    ),
)


def enforcing(*what: Enforced) -> pytest.MarkDecorator:
    """Run a test only over the backends that enforce this."""
    able = [backend for backend in BACKENDS if backend.enforces.issuperset(what)]
    return pytest.mark.parametrize("place", able, indirect=True, ids=str)
