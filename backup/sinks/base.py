"""The interface of a sink, and all that is the same for every kind of sink.

Rules:

- Public methods are concrete and wrap private ones (the non-virtual interface of python-tuf's
  ``FetcherInterface``), so that only :class:`~backup.errors.SinkError` leaves a sink, whatever
  the SDK beneath it raises.
- Nothing is ever overwritten. ``put`` is all or nothing; ``put_exclusive`` is idempotent: where
  a reply was lost, our own success looks like a conflict, so the object is read and compared, and
  the same bytes are success.
- What may be repeated safely is repeated here, once for all sinks, with jitter and within the
  run's :class:`~backup.stop.Stop`. ``put`` is not repeated as a whole: its chunks are gone.
- A call that hangs is left behind after ``stall_seconds``. ``put`` and ``open`` move data in the
  caller's thread: whoever calls them watches them (:mod:`backup.streams`).
- A key is a name, or a name in a directory ``journal-…``; plain ASCII; no deeper, as another
  site's prefix may lie beneath. It is checked on the way in, and ``list`` shows no other.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from backup.errors import BackupError, ObjectExistsError, SinkError, SinkStalledError
from backup.lanes import unwatched
from backup.sinks.kinds import O_co, Place, SinkSettings
from backup.stop import Stop
from backup.streams import call

R = TypeVar("R")

ATTEMPTS = 4
PAGE_OBJECTS = 1_000
"""Objects of a listing for which a sink gets its ``stall_seconds`` anew: long is not stalled."""

SMALL_BYTES = 16 << 20
"""The largest object that :meth:`Sink.read` takes into memory."""


# At most 200 characters leave a sink room for a temporary name of its own (255 bytes).
_KEY = re.compile(r"(?:journal-[A-Za-z0-9._-]{1,192}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    modified_at: datetime
    """By the store's own clock, UTC."""


class Sink(ABC):
    """A place that keeps objects by key, under a prefix of its own.

    It has many methods as each operation is two: what callers call, and what a kind does.
    """

    def __init__(self, url: str, *, stop: Stop, stall_seconds: float) -> None:
        """Do not touch the place yet.

        Args:
            url: what reports call this sink; holds no secret.
            stop: asked wherever the sink waits.
            stall_seconds: a call that has not returned after this long counts as stalled.
        """
        self.url = url
        self._stop = stop
        self._stall_seconds = stall_seconds

    def __str__(self) -> str:
        """Read as its URL."""
        return self.url

    def probe(self) -> None:
        """Find out whether backups can be stored here, without leaving anything.

        Raises:
            ConfigError: this place must not be a sink.
            SinkError: nothing can be stored.
        """
        self._repeat("probe", self._probe)

    def put(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        max_bytes: int | None = None,
        alive: Callable[[], None] = unwatched,
    ) -> None:
        """Store an object as it streams in; after an error there is none.

        Args:
            key: its name.
            chunks: its content.
            max_bytes: a size that it will not exceed, where that is known: some stores have to
                cut large objects by it.
            alive: called while data moves, also when no chunk is taken for a while.

        Raises:
            ObjectExistsError: the key is taken.
            SinkError: it could not be stored.
        """
        with self._declared(f"store {_valid(key)}"):
            self._put(key, chunks, max_bytes=max_bytes, alive=alive)

    def put_exclusive(self, key: str, data: bytes) -> None:
        """Store a small object that nobody else has stored; the same bytes again are success.

        Raises:
            ObjectExistsError: the key is taken by other bytes.
            SinkError: it could not be stored.
        """
        try:
            self._repeat(f"store {_valid(key)}", lambda: self._put_exclusive(key, data))
        except ObjectExistsError:
            if self.size(key) != len(data) or self.read(key, limit=len(data)) != data:
                raise

    def open(self, key: str, offset: int = 0) -> Generator[bytes, None, None]:
        """Read an object from ``offset`` on; a broken stream is taken up where it broke.

        Only :data:`ATTEMPTS` in a row that give nothing are too many.

        Raises:
            ObjectMissingError: there is none.
            SinkError: it could not be read.
        """
        reached = offset
        broken = 0
        while True:
            try:
                with self._declared(f"read {_valid(key)}"):
                    for chunk in self._open(key, reached):
                        self._stop.check()
                        if chunk:
                            broken = 0
                            reached += len(chunk)
                            yield chunk
            except SinkError as error:
                broken += 1
                if not _worth_repeating(error) or broken >= ATTEMPTS:
                    raise
                self._stop.sleep(0.1 * 2**broken)
            else:
                return

    def read(self, key: str, *, limit: int = SMALL_BYTES) -> bytes:
        """Read a small object whole.

        Raises:
            ObjectMissingError: there is none.
            SinkError: it could not be read, or is larger than ``limit`` bytes.
        """

        def gather() -> bytes:
            data = bytearray()
            for chunk in self._open(key, 0):
                data += chunk
                if len(data) > limit:
                    message = f"{self}: {key} is larger than {limit} bytes"
                    raise SinkError(message)
            return bytes(data)

        return self._repeat(f"read {_valid(key)}", gather)

    def list(self) -> list[Object]:
        """List the objects, by key."""
        listing = self._persist(lambda: list(self._pages()))
        return sorted((o for o in listing if _KEY.fullmatch(o.key)), key=lambda o: o.key)

    def size(self, key: str) -> int:
        """Return an object's size in bytes.

        Raises:
            ObjectMissingError: there is none.
        """
        return self._repeat(f"look up {_valid(key)}", lambda: self._size(key))

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        self._repeat(f"delete {_valid(key)}", lambda: self._delete(key))

    def sweep(self, before: datetime) -> int:
        """Remove what interrupted puts of this package left behind before then; count it."""
        return self._repeat("sweep", lambda: self._sweep(before))

    def unfinished(self) -> Sequence[str]:
        """Name the keys that puts have not stored yet: under way, or interrupted.

        None where a store hides them, or shows them only to who has one more right.
        """
        return self._repeat("look for unfinished uploads", self._unfinished)

    def free_bytes(self) -> int | None:
        """Return how much room is left; None where nobody knows of a limit."""
        return self._repeat("look at the room", self._free_bytes)

    # -- what a kind of sink is

    @abstractmethod
    def _probe(self) -> None: ...

    @abstractmethod
    def _put(
        self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None, alive: Callable[[], None]
    ) -> None: ...

    @abstractmethod
    def _put_exclusive(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def _open(self, key: str, offset: int) -> Iterator[bytes]: ...

    @abstractmethod
    def _list(self) -> Iterator[Object]: ...

    @abstractmethod
    def _size(self, key: str) -> int: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _sweep(self, before: datetime) -> int: ...

    def _unfinished(self) -> Sequence[str]:
        return ()

    def _free_bytes(self) -> int | None:
        return None

    @abstractmethod
    def _translate(self, what: str, error: Exception) -> SinkError:
        """Say in the words of :mod:`backup.errors` what an exception of the SDK means."""

    # -- the envelope

    @contextmanager
    def _declared(self, what: str) -> Iterator[None]:
        try:
            yield
        except BackupError:
            raise
        except Exception as error:
            raise self._translate(what, error) from error

    def _pages(self) -> Iterator[Object]:
        objects = self._answer("list", self._list)
        while page := self._answer("list", lambda: [*islice(objects, PAGE_OBJECTS)]):
            yield from page

    def _repeat(self, what: str, run: Callable[[], R]) -> R:
        return self._persist(partial(self._answer, what, run))

    def _persist(self, run: Callable[[], R]) -> R:
        try:
            return run()
        except SinkError as error:
            if not _worth_repeating(error):
                raise
            return self._try_again(run, error)

    def _try_again(self, run: Callable[[], R], first: SinkError) -> R:
        """Repeat what has failed once."""
        import tenacity  # noqa: PLC0415 - start-up: only what has failed needs it

        failed: list[SinkError] = [first]

        def attempt() -> R:
            if failed:
                raise failed.pop()
            return run()

        return tenacity.Retrying(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            retry=tenacity.retry_if_exception(_worth_repeating),
            sleep=self._stop.sleep,
            reraise=True,
        )(attempt)

    def _answer(self, what: str, run: Callable[[], R]) -> R:
        once = self._declared(what)(run)  # to translate an error asks the sink, too
        try:
            return call(once, stop=self._stop, stall_seconds=self._stall_seconds)
        except SinkStalledError as error:
            message = f"{self}: cannot {what}: no answer for {self._stall_seconds:g} s"
            raise SinkStalledError(message) from error


class PlacedSink(Sink, Generic[O_co]):
    """A sink that a URL names."""

    def __init__(
        self, place: Place[O_co], settings: SinkSettings, *, stop: Stop, stall_seconds: float
    ) -> None:
        """Take the place, untouched.

        Args:
            place: where it is, how to reach it, and how to store in it.
            settings: what holds for all sinks.
            stop: see :class:`Sink`.
            stall_seconds: likewise.
        """
        super().__init__(str(place), stop=stop, stall_seconds=stall_seconds)
        self._place = place
        self._settings = settings


def _worth_repeating(error: BaseException) -> bool:
    return (
        isinstance(error, SinkError) and error.transient and not isinstance(error, SinkStalledError)
    )


def _valid(key: str) -> str:
    if _KEY.fullmatch(key) is None:
        message = f"{key!r} is not a valid key"
        raise SinkError(message)
    return key
