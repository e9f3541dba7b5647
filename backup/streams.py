"""Threads, and the short bounded queues between them. Nothing else starts a thread.

Rules:

- It knows bytes and nothing else: not journals, not sinks.
- Each way of using threads has a name:

  - :func:`prefetch`: one stream, made ahead of whoever reads it.
  - :func:`fan_out`: one stream for several consumers, of which each may fail or stall alone.
  - :func:`each`: a function over a stream of items, several at a time, as ``map`` does it.
  - :func:`spread`: a function over a few items that are all known, several at a time.
  - :func:`call`: one call that may hang.
  - :class:`Subscription`: a source without an end, kept for whoever asks now and then.
- One mechanism carries them all, a *lane*: a short queue from one thread to one other, with how it
  ended. A call is a lane with one thing on it, and :func:`each` and :func:`spread` are lanes in a
  lane.
- Every thread is a daemon. Python waits for all others at exit, and an executor does so too, so
  a thread stuck in a system call on a dead file server would keep the process for ever.
- Every queue is short, so memory does not grow with what flows through it, and every wait on one
  asks the run's :class:`~backup.stop.Stop` in slices.
- Threads share two of malloc's arenas. glibc gives nearly each one its own, and as chunks are made
  in one thread and freed in another, every arena keeps as much as it ever held at once: measured on
  three sinks and 4 GiB, 149 MiB instead of 165, and half the time in the kernel (fresh pages).
- An error travels downstream and is raised where the data was expected. Leaving travels
  upstream: a generator that is closed ends the thread that fed it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from backup.errors import SinkSlowError, SinkUnavailableError, StopError, StreamAbortedError
from backup.lanes import (
    DEPTH,
    NEVER,
    UNWIND_SECONDS,
    Lane,
    Waiting,
    await_all,
    close,
    once,
    stalled,
    start,
    unwatched,
)
from backup.stop import Stop

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

PACE_BYTES = 4 << 20
"""What a consumer of several has to take for each stall time that the others wait for it."""

CLEANUP_SECONDS = 10.0
"""How long they get where the run itself goes on."""

_NEWS = 256
"""Items of a subscription that may wait; the source waits then too."""


def prefetch(
    chunks: Iterable[bytes],
    *,
    stop: Stop,
    depth: int = DEPTH,
    stall_seconds: float | None = None,
) -> Generator[bytes, None, None]:
    """Run a generator in a thread of its own, at most ``depth`` chunks ahead.

    Args:
        chunks: what to run. Closing the result closes it too, in its thread.
        stop: asked while waiting.
        depth: chunks that may wait.
        stall_seconds: how long without a chunk until the source counts as stalled; None: for ever.

    Yields:
        the same chunks.

    Raises:
        SinkStalledError: the source has stalled.
        Exception: whatever the generator raised.
    """
    lane = start("prefetch", chunks, depth=depth, stop=stop)
    try:
        while taken := lane.receive(stop, stall_seconds=stall_seconds):
            yield from taken
    finally:
        lane.leave()


class Subscription(Generic[T]):
    """What a source without an end yields, kept for whoever asks now and then."""

    def __init__(self, items: Iterable[T], *, stop: Stop) -> None:
        """Begin to listen, in a thread; the stop ends it."""
        self._lane = start("subscription", items, depth=_NEWS, stop=stop)
        self._stop = stop

    def poll(self, seconds: float) -> list[T]:
        """Return what has arrived since the last call; wait up to ``seconds`` if nothing has.

        Raises:
            Exception: whatever ended the source.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._lane.has_news(self._stop):
            pass
        return self._lane.take(_NEWS)

    def close(self) -> None:
        """Stop listening, from the next item on."""
        self._lane.leave()


def each(
    run: Callable[[T], R], items: Iterable[T], *, workers: int, stop: Stop
) -> Generator[R, None, None]:
    """Call ``run`` with each item, ``workers`` at a time; the results keep the order.

    Items are taken when there is room for their results, so nothing piles up.

    Raises:
        Exception: what a call or the items raised, where its result was due.
    """
    lanes, _ = _lanes(run, items, workers=workers, depth=2 * workers, stop=stop)
    try:
        while taken := lanes.receive(stop):
            yield from taken[0].receive(stop)
    finally:
        lanes.leave()


def _lanes(
    run: Callable[[T], R], items: Iterable[T], *, workers: int, depth: int, stop: Stop
) -> tuple[Lane[Lane[R]], list[Lane[None]]]:
    """Let several threads make a lane for each item, in their order, with its result.

    Returns:
        The lanes, of which the last may be empty, and the ends of the threads.
    """
    left = iter(items)
    taking = threading.Lock()
    lanes: Lane[Lane[R]] = Lane(depth)

    def begin() -> Callable[[], None] | None:
        with taking:
            lane: Lane[R] = Lane()
            if not lanes.send(lane, stop=stop):
                return None
            try:
                return partial(lane.send_all, once(run, next(left)), stop=stop)
            except StopIteration:
                lane.finish()
            except BaseException as error:  # noqa: BLE001 - raised where its result was due
                lane.finish(error)
            lanes.finish()
            return None

    def work() -> None:
        try:
            while (job := begin()) is not None:
                job()
                del job  # its item may be large, and the next one is made before job is bound again
        finally:
            with taking:  # nobody can be in the middle of the items now
                close(left)

    return lanes, [start("lane", once(work)) for _ in range(workers)]


def spread(run: Callable[[T], R], items: Sequence[T], *, limit: int, stop: Stop) -> list[R]:
    """Call ``run`` with each item, at most ``limit`` at a time; the results keep the order.

    Raises:
        Exception: the first that a call raised; no further item is begun then.
    """
    failed: list[BaseException] = []

    def attempt(item: T) -> R:
        try:
            return run(item)
        except BaseException as error:
            failed.append(error)
            raise

    left = (item for item in items if not failed)
    workers = min(limit, len(items))
    lanes, ends = _lanes(attempt, left, workers=workers, depth=len(items) + 1, stop=stop)
    try:
        for end in ends:
            end.receive(stop)
    except StopError as cause:
        failed.append(cause)
        await_all(ends, stop=stop)
        raise
    if failed:
        raise failed[0]
    return [result for lane in lanes.take(len(items)) for result in lane.take()]


def call(
    run: Callable[[], R],
    *,
    stop: Stop,
    stall_seconds: float | None = None,
    cleans_up: bool = False,
    waiting: Waiting = unwatched,
) -> R:
    """Call something that may hang; when it does, leave it behind.

    Args:
        run: what to call, in a thread of its own.
        stop: asked before, and while waiting.
        stall_seconds: how long to wait; None: until ``stop`` says otherwise.
        cleans_up: whether it asks ``stop`` too and has to clean up then: it gets a moment for that.
        waiting: called now and then meanwhile.

    Returns:
        What it returned.

    Raises:
        SinkStalledError: it has not returned in time.
        Exception: whatever it raised.
    """
    stop.check()
    lane = start("call", once(run))
    try:
        [result] = lane.receive(stop, stall_seconds=stall_seconds, waiting=waiting)
    except StopError:
        if cleans_up:
            await_all([lane], stop=stop)
        raise
    return result


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
