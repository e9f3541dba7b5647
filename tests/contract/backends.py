"""The sinks that the contract suite runs over. To add one, add one entry to BACKENDS.

A backend is started once, and then makes a *place* for each test: something empty that keeps
objects, with a door beside the sink, by which a test does what other programs, interruptions and
faults do to it. It declares what it enforces; a test that asks for more leaves it out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import pytest

from backup.sinks import Sink
from backup.sinks.file import FileSink
from backup.stop import Stop
from tests import faultfs, simulator

Enforced = Literal["exclusive", "stuck"]
"""``exclusive``: a key that is taken is refused; ``stuck``: a test can make every call hang."""

PATIENCE = 20.0


class Place(Protocol):
    """Where objects are kept, and the door beside the sink."""

    def sink(self, *, stop: Stop | None = None, patience: float = PATIENCE) -> Sink:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One kind of place."""

    name: str
    start: Callable[[Path], AbstractContextManager[Callable[[str], Place]]]
    """Starts it in a directory of its own, and gives what makes a place of an unused name."""
    unavailable: Callable[[], str | None] = lambda: None
    """Gives the reason why it cannot run here."""
    enforces: frozenset[Enforced] = frozenset({"exclusive"})

    def __str__(self) -> str:
        """Read as its name, in the ids of tests."""
        return self.name


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A directory, perhaps in a file system with faults."""

    root: Path
    fs: faultfs.FaultFS | None = None

    def sink(self, *, stop: Stop | None = None, patience: float = PATIENCE) -> Sink:
        """Open it."""
        return FileSink(
            self.root,
            require_mount=False,
            source=self.root.parent / "source",
            stop=stop or Stop(),
            patience=patience,
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


@dataclass(frozen=True, slots=True)
class SimulatedPlace:
    """A dictionary."""

    kept: simulator.Place = field(default_factory=simulator.Place)
    sinks: list[simulator.SimulatedSink] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def sink(self, *, stop: Stop | None = None, patience: float = PATIENCE) -> Sink:
        """Open it."""
        sink = simulator.SimulatedSink(place=self.kept, stop=stop, patience=patience)
        self.sinks.append(sink)
        return sink

    def plant(self, names: Iterable[str]) -> None:
        """Keep objects; each holds its name."""
        for name in names:
            self.kept.objects[name] = simulator.Held(name.encode(), datetime.now(UTC))

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
            for operation in simulator.OPERATIONS:
                sink.hang(operation)
        try:
            yield
        finally:
            for sink in self.sinks:
                sink.release()


@contextmanager
def _directory(base: Path) -> Iterator[Callable[[str], Place]]:
    def place(name: str) -> Place:
        (base / name).mkdir()
        return FilePlace(base / name)

    yield place


@contextmanager
def _faultfs(base: Path) -> Iterator[Callable[[str], Place]]:
    with faultfs.mounted(base, limit=300) as fs:

        def place(name: str) -> Place:
            (fs.root / name).mkdir()
            return FilePlace(fs.root / name, fs)

        yield place


@contextmanager
def _memory(_base: Path) -> Iterator[Callable[[str], Place]]:
    yield lambda _name: SimulatedPlace()


BACKENDS = (
    Backend(name="file", start=_directory),
    Backend(
        name="file-fuse",
        start=_faultfs,
        unavailable=faultfs.available,
        enforces=frozenset({"exclusive", "stuck"}),
    ),
    Backend(name="simulator", start=_memory, enforces=frozenset({"exclusive", "stuck"})),
)


def enforcing(what: Enforced) -> pytest.MarkDecorator:
    """Run a test only over the backends that enforce this."""
    able = [backend for backend in BACKENDS if what in backend.enforces]
    return pytest.mark.parametrize("place", able, indirect=True, ids=str)
