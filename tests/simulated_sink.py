"""A sink in memory that does what its script says: the double behind the real interface.

It is a real :class:`~backup.sinks.base.Sink`, so the envelope (validation, mapping, repeating,
idempotence) is the one that users get. Faults are scripted by operation::

    sink = SimulatedSink()
    sink.fail("put", SinkUnavailableError("503"), times=1)   # the next put fails once
    sink.flip("*.tar.gz")                                    # stored bytes differ from sent ones
    sink.crash_before(7)                                     # the process "dies" at the 7th call
    sink.hang("put")                                         # until sink.release()
    sink.tear("*.tar.gz", at=100, error=OSError(), times=1)  # a stream of it breaks there

Operations are those in ``OPERATIONS``; ``calls`` remembers them, and ``offsets`` where each
``open`` began. ``"put_exclusive reply"`` (and ``"put reply"``) is the moment when the object is
stored and the caller does not know it yet. A put whose data is interrupted by a crash leaves an
unfinished upload behind, as S3 does: no key shows it, and ``sweep`` removes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch

from backup.errors import ObjectExistsError, ObjectMissingError, SinkError
from backup.sinks.base import Object, Sink
from backup.stop import Stop

CHUNK = 64 << 10
OPERATIONS = (
    "probe",
    "put",
    "put_exclusive",
    "open",
    "list",
    "size",
    "delete",
    "sweep",
    "unfinished",
)


class CrashError(BaseException):
    """The process is gone: nothing in the code under test may catch this and go on."""


@dataclass(slots=True)
class Fault:
    """What happens to some calls."""

    operation: str
    act: Callable[[str], None]
    key: str = "*"
    after: int = 0
    times: int | None = None

    def meet(self, operation: str, key: str) -> None:
        """Act, if this is a call it is meant for."""
        if operation != self.operation or not fnmatch(key, self.key):
            return
        if self.after:
            self.after -= 1
            return
        if self.times is not None:
            if not self.times:
                return
            self.times -= 1
        self.act(key)


@dataclass(frozen=True, slots=True)
class Held:
    """A stored object."""

    data: bytes
    modified_at: datetime


@dataclass(slots=True)
class Tear:
    """Where a stream of an object breaks, with what, and how often."""

    key: str
    at: int
    error: Exception
    times: int | None


@dataclass(slots=True)
class Place:
    """What survives a crash: the objects. Several sinks may share one place."""

    objects: dict[str, Held] = field(default_factory=dict)
    uploads: list[tuple[str, datetime]] = field(default_factory=list)
    """Puts that have begun and not ended: key and begin."""

    def keys(self) -> list[str]:
        """The keys, sorted."""
        return sorted(self.objects)


class SimulatedSink(Sink):
    """Objects in a dictionary."""

    def __init__(
        self,
        name: str = "one",
        *,
        place: Place | None = None,
        stop: Stop | None = None,
        stall_seconds: float = 5.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(f"memory://{name}", stop=stop or Stop(), stall_seconds=stall_seconds)
        self.place = place or Place()
        self.clock = clock
        self.free: int | None = None
        """Bytes of room; None: nobody knows of a limit."""
        self.calls: list[tuple[str, str]] = []
        self.offsets: list[int] = []
        self._faults: list[Fault] = []
        self._tears: list[Tear] = []
        self._flips: list[str] = []
        self._crash_at: int | None = None
        self._released = threading.Event()
        self._lock = threading.Lock()

    # -- the script

    def fail(
        self,
        operation: str,
        error: Exception,
        *,
        key: str = "*",
        after: int = 0,
        times: int | None = None,
    ) -> None:
        """Let calls of an operation raise."""

        def act(_key: str) -> None:
            raise error

        self._faults.append(Fault(operation, act, key, after, times))

    def hang(self, operation: str, *, key: str = "*", times: int | None = None) -> None:
        """Let calls of an operation wait until :meth:`release`."""

        def act(_key: str) -> None:
            self._released.wait(60)

        self._faults.append(Fault(operation, act, key, 0, times))

    def release(self) -> None:
        """Let everything that hangs go on."""
        self._released.set()

    def on(self, operation: str, act: Callable[[str], None], *, key: str = "*") -> None:
        """Call something at the beginning of each call of an operation."""
        self._faults.append(Fault(operation, act, key))

    def flip(self, key: str) -> None:
        """Store the last byte of matching objects wrong, and say nothing."""
        self._flips.append(key)

    def tear(self, key: str, *, at: int, error: Exception, times: int | None = None) -> None:
        """Let streams of matching objects break before the byte at that offset."""
        self._tears.append(Tear(key, at, error, times))

    def crash_before(self, call: int) -> None:
        """Die before the call of that number, counted from 1; and at every later one."""
        self._crash_at = call

    def heal(self) -> None:
        """Forget the script."""
        self._faults.clear()
        self._flips.clear()
        self._tears.clear()
        self._crash_at = None

    # -- the sink

    def _meet(self, operation: str, key: str = "") -> None:
        with self._lock:
            self.calls.append((operation, key))
            if self._crash_at is not None and len(self.calls) >= self._crash_at:
                raise CrashError
        self._strike(operation, key)

    def _strike(self, operation: str, key: str) -> None:
        for fault in list(self._faults):
            fault.meet(operation, key)

    def _keep(self, operation: str, key: str, data: bytes) -> None:
        if any(fnmatch(key, pattern) for pattern in self._flips) and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        with self._lock:
            if key in self.place.objects:
                message = f"{self}: {key} exists"
                raise ObjectExistsError(message)
            self.place.objects[key] = Held(data, self.clock())
        self._strike(f"{operation} reply", key)

    def _held(self, key: str) -> Held:
        try:
            return self.place.objects[key]
        except KeyError:
            message = f"{self}: there is no {key}"
            raise ObjectMissingError(message) from None

    def _probe(self) -> None:
        self._meet("probe")

    def _free_bytes(self) -> int | None:
        return self.free

    def _put(
        self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None, alive: Callable[[], None]
    ) -> None:
        self._meet("put", key)
        upload = (key, self.clock())
        self.place.uploads.append(upload)
        try:
            data = b"".join(chunks)
        except Exception:
            self.place.uploads.remove(upload)
            raise
        self.place.uploads.remove(upload)
        self._keep("put", key, data)

    def _put_exclusive(self, key: str, data: bytes) -> None:
        self._meet("put_exclusive", key)
        self._keep("put_exclusive", key, data)

    def _open(self, key: str, offset: int) -> Iterator[bytes]:
        self._meet("open", key)
        self.offsets.append(offset)
        data = self._held(key).data
        for begin in range(offset, len(data), CHUNK):
            chunk = data[begin : begin + CHUNK]
            for tear in self._tears:
                if tear.times != 0 and fnmatch(key, tear.key) and 0 <= tear.at - begin < CHUNK:
                    tear.times = None if tear.times is None else tear.times - 1
                    yield chunk[: tear.at - begin]
                    raise tear.error
            yield chunk

    def _list(self) -> Iterator[Object]:
        self._meet("list", "")
        for key, held in sorted(self.place.objects.items()):
            yield Object(key=key, size_bytes=len(held.data), modified_at=held.modified_at)

    def _size(self, key: str) -> int:
        self._meet("size", key)
        return len(self._held(key).data)

    def _delete(self, key: str) -> None:
        self._meet("delete", key)
        with self._lock:
            self.place.objects.pop(key, None)

    def _sweep(self, before: datetime) -> int:
        self._meet("sweep")
        old = [upload for upload in self.place.uploads if upload[1] < before]
        for upload in old:
            self.place.uploads.remove(upload)
        return len(old)

    def _unfinished(self) -> Sequence[str]:
        self._meet("unfinished")
        return super()._unfinished()

    def _translate(self, what: str, error: Exception) -> SinkError:
        return SinkError(f"{self}: cannot {what}: {error.__class__.__name__}: {error}")
