"""One stream for several consumers, of which each may fail or stall alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from backup.errors import SinkSlowError, SinkUnavailableError, StopError, StreamAbortedError
from backup.stop import Stop
from backup.streams.lanes import NEVER, UNWIND_SECONDS, Lane, await_all, close, once, stalled, start

K = TypeVar("K")
R = TypeVar("R")

PACE_BYTES = 4 << 20
"""What a consumer of several has to take for each stall time that the others wait for it."""

CLEANUP_SECONDS = 10.0
"""How long they get where the run itself goes on."""


class Feed(Lane[bytes]):
    """What a consumer of :func:`fan_out` reads: an iterator that knows when it was last read."""

    def __init__(self) -> None:
        """Be read from now on."""
        super().__init__()
        self._is_concluded = False
        self._last_sign_of_life = time.monotonic()

    def __iter__(self) -> Iterator[bytes]:
        """Be an iterator."""
        return self

    def __next__(self) -> bytes:
        """Take the next chunk; the end of the run reaches it as StreamAbortedError."""
        self.alive()
        taken = self.receive(NEVER)
        self.alive()
        if not taken:
            raise StopIteration
        return taken[0]

    def alive(self) -> None:
        """Say that work goes on, where it goes on without reading (a read-back, say)."""
        self._last_sign_of_life = time.monotonic()

    def conclude(self) -> None:
        """Wait for the end of the source; from then on, this consumer is not given up any more.

        For what only one may do: whoever was given up may have been replaced already.

        Raises:
            StreamAbortedError: the source failed, or this consumer was given up.
        """
        for _chunk in self:
            pass
        with self._changed:
            self.take()  # it may have been given up since
            self._is_concluded = True


class _Consumer(Feed, Generic[R]):
    """One consumer of a fan-out, from its other side: its thread, and what came of it."""

    def __init__(self, consume: Callable[[Feed], R], *, stop: Stop, stall_seconds: float) -> None:
        super().__init__()
        self._stop = stop
        self._stall_seconds = stall_seconds
        self._given_up: Exception | None = None
        self._waited = 0.0
        """Seconds that the others have waited for it while it took so many bytes."""
        self._taken = 0

        def consumed() -> R:
            try:
                return consume(self)
            finally:
                self.leave()

        self.result = start("consumer", once(consumed))

    def give(self, chunk: bytes, *, is_alone: bool) -> bool:
        """Hand a chunk over; False once this consumer is out."""
        begun = time.monotonic()

        def waiting() -> None:
            if self._is_silent(begun):
                raise stalled(self._stall_seconds)
            if not is_alone and self._waited + time.monotonic() - begun > self._stall_seconds:
                pace = f"{PACE_BYTES >> 20} MiB while others waited {self._stall_seconds:g} s"
                message = f"took less than {pace}"
                raise SinkSlowError(message)

        try:
            is_taken = self.send(chunk, stop=self._stop, waiting=waiting)
        except SinkUnavailableError as error:
            self.give_up(error)
            return False
        self._taken += len(chunk)
        self._waited += time.monotonic() - begun
        if self._taken >= PACE_BYTES:
            self._taken, self._waited = 0, 0.0
        return is_taken

    def wait(self, since: float) -> None:
        """Wait for its end; where the source was slow, its time counts from ``since``."""
        while self._given_up is None and not self.result.has_news(self._stop):
            if self._is_silent(since):
                self.give_up(stalled(self._stall_seconds))

    def _is_silent(self, since: float) -> bool:
        return time.monotonic() - max(since, self._last_sign_of_life) > self._stall_seconds

    def give_up(self, why: Exception) -> None:
        """Let the consumer meet StreamAbortedError, unless it has concluded."""
        with self._changed:
            if not self._is_concluded:
                self._given_up = why
                self.finish(StreamAbortedError(str(why)))

    def outcome(self) -> R | Exception:
        if self._given_up is not None:
            return self._given_up
        try:
            return self.result.take()[0]
        except StopError:
            raise
        except Exception as error:  # noqa: BLE001 - it is what came of this consumer
            return error


def fan_out(
    chunks: Iterable[bytes],
    consumers: Mapping[K, Callable[[Feed], R]],
    *,
    stop: Stop,
    stall_seconds: float,
) -> dict[K, R | Exception]:
    """Give every chunk to every consumer, each in a thread of its own.

    A consumer that fails, or gives no sign of life for ``stall_seconds``, drops out; so does one
    that takes less than :data:`PACE_BYTES` while the others wait so long for it: there is but one
    reading, and all would go at its pace. One that is alone may take its time. The others go on.
    None waits for another one's end: see :meth:`Feed.conclude`.

    Returns:
        For each key what its consumer returned, or the exception that ended it.

    Raises:
        Exception: what the source raised, or the stop; the consumers meet StreamAbortedError and
            get a moment to clean up before it is raised.
    """
    running = {
        key: _Consumer(consume, stop=stop, stall_seconds=stall_seconds)
        for key, consume in consumers.items()
    }
    try:
        _pour(chunks, list(running.values()), stop=stop)
        since = time.monotonic()
        for consumer in running.values():
            consumer.wait(since)
        return {key: consumer.outcome() for key, consumer in running.items()}
    except BaseException as cause:
        for consumer in running.values():
            consumer.give_up(StreamAbortedError(str(cause)))
        close(chunks)
        seconds = UNWIND_SECONDS if isinstance(cause, StopError) else CLEANUP_SECONDS
        await_all([c.result for c in running.values()], stop=stop, seconds=seconds)
        raise


def _pour(chunks: Iterable[bytes], live: list[_Consumer[R]], *, stop: Stop) -> None:
    for chunk in chunks:
        is_alone = len(live) == 1
        live = [consumer for consumer in live if consumer.give(chunk, is_alone=is_alone)]
        if not live:
            close(chunks)
            return
        stop.check()
    for consumer in live:
        consumer.finish()
