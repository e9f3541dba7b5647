"""Threads, and the short bounded queues between them. The only module that starts a thread.

Rules:

- It knows bytes and nothing else: not journals, not sinks.
- Each way of using threads has a name:

  - :func:`prefetch`: one stream, made ahead of whoever reads it.
  - :func:`fan_out`: one stream for several consumers, of which each may fail or stall alone.
  - :func:`each`: a function over a stream of items, several at a time, as ``map`` does it.
  - :func:`spread`: a function over a few items that are all known, several at a time.
  - :func:`call`: one call that may hang.
  - :class:`Subscription`: a source without an end, kept for whoever asks now and then.
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

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from backup.errors import (
    SinkSlowError,
    SinkStalledError,
    SinkUnavailableError,
    StopError,
    StreamAbortedError,
)
from backup.stop import SLICE_SECONDS, Stop

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")

DEPTH = 4
"""Chunks that wait between two stages."""

PACE_BYTES = 4 << 20
"""What a consumer of several has to take for each stall time that the others wait for it."""

UNWIND_SECONDS = 0.6
"""How long consumers get to clean up after a stop, before they are abandoned."""

CLEANUP_SECONDS = 10.0
"""How long they get where the run itself goes on."""


def unwatched() -> None:
    """Be called now and then while something goes on that nobody watches."""


class _Channel(Generic[T]):
    """A bounded queue between one sender and one receiver, either of which may leave."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._chunks: deque[T] = deque()
        self._changed = threading.Condition()
        self._finished = False
        self._error: BaseException | None = None
        self._left = False

    def send(self, chunk: T, *, stop: Stop, waiting: Callable[[], None] = unwatched) -> bool:
        """Hand a chunk over; False if the receiver has left.

        While there is no room, ``waiting`` is asked now and then, and may raise.
        """
        with self._changed:
            while not self._left and len(self._chunks) >= self._depth:
                self._wait(stop)
                waiting()
            if self._left:
                return False
            self._chunks.append(chunk)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """Say that nothing more will come, and why."""
        with self._changed:
            self._finished = True
            self._error = error
            if error is not None:
                self._chunks.clear()
            self._changed.notify_all()

    def leave(self) -> None:
        """Say that nothing more will be taken."""
        with self._changed:
            self._left = True
            self._chunks.clear()
            self._changed.notify_all()

    def receive(self, stop: Stop, *, stall_seconds: float | None = None) -> T | None:
        """Take the next chunk; None at the end. Raises what the sender finished with."""
        since = time.monotonic()
        with self._changed:
            while not self._chunks and not self._finished:
                self._wait(stop)
                if stall_seconds is not None and time.monotonic() - since > stall_seconds:
                    raise _stalled(stall_seconds)
            if self._chunks:
                chunk = self._chunks.popleft()
                self._changed.notify_all()
                return chunk
            if self._error is not None:
                raise self._error
            return None

    def drain(self, seconds: float, *, stop: Stop) -> list[T]:
        """Take all that waits; if nothing does, wait up to ``seconds``.

        Raises:
            Exception: what ended the sender.
        """
        until = time.monotonic() + seconds
        with self._changed:
            while not self._chunks and not self._finished and time.monotonic() < until:
                self._wait(stop)
            taken = [*self._chunks]
            self._chunks.clear()
            self._changed.notify_all()
            if not taken and self._error is not None:
                raise self._error
            return taken

    def _wait(self, stop: Stop) -> None:
        stop.check()
        self._changed.wait(SLICE_SECONDS)


def _stalled(stall_seconds: float) -> SinkStalledError:
    return SinkStalledError(f"no data moved for {stall_seconds:g} s")


_M_ARENA_MAX = -8
"""Of ``mallopt(3)``, in ``malloc.h`` of glibc."""
_ARENAS = 2


@cache
def _share_arenas() -> None:
    """Bound malloc's arenas for this process, where the C library can."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def _start(name: str, run: Callable[[], None]) -> threading.Thread:
    _share_arenas()
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def _close(chunks: Iterable[object]) -> None:
    if isinstance(chunks, Generator):
        chunks.close()


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
    channel: _Channel[bytes] = _Channel(depth)

    def run() -> None:
        error: BaseException | None = None
        try:
            try:
                for chunk in chunks:
                    if not channel.send(chunk, stop=stop):
                        break
            finally:
                _close(chunks)
        except BaseException as caught:  # noqa: BLE001 - it is raised again where the data was due
            error = caught
        channel.finish(error)

    _start("prefetch", run)
    try:
        while (chunk := channel.receive(stop, stall_seconds=stall_seconds)) is not None:
            yield chunk
    finally:
        channel.leave()


class Subscription(Generic[T]):
    """What a source without an end yields, kept for whoever asks now and then."""

    def __init__(self, items: Iterable[T], *, stop: Stop) -> None:
        """Begin to listen, in a thread; the stop ends it."""
        self._channel: _Channel[T] = _Channel(_NEWS)
        self._stop = stop

        def run() -> None:
            error: BaseException | None = None
            try:
                for item in items:
                    if not self._channel.send(item, stop=stop):
                        break
            except BaseException as caught:  # noqa: BLE001 - it is raised again in poll()
                error = caught
            self._channel.finish(error)

        _start("subscription", run)

    def poll(self, seconds: float) -> list[T]:
        """Return what has arrived since the last call; wait up to ``seconds`` if nothing has.

        Raises:
            Exception: whatever ended the source.
        """
        return self._channel.drain(seconds, stop=self._stop)

    def close(self) -> None:
        """Stop listening, from the next item on."""
        self._channel.leave()


_NEWS = 256
"""Items that may wait; the source waits then too."""


def each(
    run: Callable[[T], R], items: Iterable[T], *, workers: int, stop: Stop
) -> Generator[R, None, None]:
    """Call ``run`` with each item, ``workers`` at a time; the results keep the order.

    Items are taken when there is room for their results, so nothing piles up.

    Raises:
        Exception: what a call or the items raised, where its result was due.
    """
    lanes = _Lanes(run, iter(items), workers=workers)
    for _ in range(workers):
        _start("lane", lambda: lanes.work(stop))
    try:
        while (lane := lanes.next_result(stop)) is not None:
            yield lane.value()
    finally:
        lanes.leave()


@dataclass(slots=True)
class _Lane(Generic[R]):
    """The result of one item, in its place."""

    result: R | None = None
    error: BaseException | None = None

    def value(self) -> R:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # no error: run() returned it


class _Lanes(Generic[T, R]):
    """Results in the order of their items, made by several threads."""

    def __init__(self, run: Callable[[T], R], items: Iterator[T], *, workers: int) -> None:
        self._run = run
        self._items = items
        self._workers = workers
        self._room = threading.Semaphore(2 * workers)
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0
        self._given = 0
        self._results: dict[int, _Lane[R]] = {}
        self._ended = False
        self._count = 0

    def work(self, stop: Stop) -> None:
        """Take items and make results until there are no more, or nobody wants them."""
        try:
            self._work(stop)
        finally:
            with self._changed:
                self._workers -= 1
                is_last = not self._workers
            if is_last:  # no other thread can be in the middle of the items now
                _close(self._items)

    def _work(self, stop: Stop) -> None:
        while self._wait_for_room(stop):
            with self._taking:
                if self._ended:
                    return
                place = self._taken
                self._taken += 1
                try:
                    item = next(self._items)
                except StopIteration:
                    self._end(place)
                    return
                except BaseException as error:  # noqa: BLE001 - raised where it was due
                    self._put(place, _Lane(error=error))
                    self._end(place + 1)
                    return
            try:
                lane = _Lane(self._run(item))
            except BaseException as error:  # noqa: BLE001 - raised where its result was due
                lane = _Lane(error=error)
            del item  # it may be large, and the next one is made before this name is used again
            self._put(place, lane)

    def _wait_for_room(self, stop: Stop) -> bool:
        while not self._room.acquire(timeout=SLICE_SECONDS):
            if self._ended or stop.requested:
                return False
        return True

    def _put(self, place: int, lane: _Lane[R]) -> None:
        with self._changed:
            self._results[place] = lane
            self._changed.notify_all()

    def _end(self, count: int) -> None:
        with self._changed:
            self._ended = True
            self._count = count
            self._changed.notify_all()

    def next_result(self, stop: Stop) -> _Lane[R] | None:
        """Wait for the next result; None after the last."""
        with self._changed:
            while self._given not in self._results:
                if self._ended and self._given >= self._count:
                    return None
                stop.check()
                self._changed.wait(SLICE_SECONDS)
            lane = self._results.pop(self._given)
            self._given += 1
        self._room.release()
        return lane

    def leave(self) -> None:
        """Say that no more results are wanted."""
        self._end(0)


class Feed:
    """What a consumer of :func:`fan_out` reads: an iterator that knows when it was last read."""

    def __init__(self, channel: _Channel[bytes]) -> None:
        """Read from that channel."""
        self._channel = channel
        self._never = Stop()
        self._deciding = threading.Lock()
        self._is_concluded = False
        self.last_sign_of_life = time.monotonic()

    def __iter__(self) -> Iterator[bytes]:
        """Be an iterator."""
        return self

    def __next__(self) -> bytes:
        """Take the next chunk; the end of the run reaches it as StreamAbortedError."""
        self.alive()
        chunk = self._channel.receive(self._never)
        self.alive()
        if chunk is None:
            raise StopIteration
        return chunk

    def alive(self) -> None:
        """Say that work goes on, where it goes on without reading (a read-back, say)."""
        self.last_sign_of_life = time.monotonic()

    def conclude(self) -> None:
        """Wait for the end of the source; from then on, this consumer is not given up any more.

        For what only one may do: whoever was given up may have been replaced already.

        Raises:
            StreamAbortedError: the source failed, or this consumer was given up.
        """
        for _chunk in self:
            pass
        with self._deciding:
            self._channel.receive(self._never)  # it may have been given up since
            self._is_concluded = True

    def give_up(self, why: str) -> bool:
        """Let the consumer meet StreamAbortedError; False if it has concluded."""
        with self._deciding:
            if not self._is_concluded:
                self._channel.finish(StreamAbortedError(why))
            return not self._is_concluded


class _Task(Generic[R]):
    """A call in a thread of its own, which can be given up but not ended."""

    def __init__(self, name: str, run: Callable[[], R]) -> None:
        self.done = threading.Event()
        self._run = run
        self._value: R | None = None
        self._error: BaseException | None = None
        _start(name, self._perform)

    def _perform(self) -> None:
        try:
            self._value = self._run()
        except BaseException as error:  # noqa: BLE001 - result() raises it again
            self._error = error
        self.done.set()

    def result(self) -> R:
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # done, and no error: run() returned it


def call(
    run: Callable[[], R],
    *,
    stop: Stop,
    stall_seconds: float | None = None,
    cleans_up: bool = False,
    waiting: Callable[[], None] = unwatched,
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
    task = _Task("call", run)
    since = time.monotonic()
    try:
        while not task.done.wait(SLICE_SECONDS):
            stop.check()
            waiting()
            if stall_seconds is not None and time.monotonic() - since > stall_seconds:
                raise _stalled(stall_seconds)
    except StopError:
        if cleans_up:
            _await_unwound([task.done], stop)
        raise
    return task.result()


def spread(run: Callable[[T], R], items: Sequence[T], *, limit: int, stop: Stop) -> list[R]:
    """Call ``run`` with each item, at most ``limit`` at a time; the results keep the order.

    Raises:
        Exception: the first that a call raised; no further item is begun then.
    """
    waiting = deque(enumerate(items))
    results: dict[int, R] = {}
    failed: list[BaseException] = []

    def work() -> None:
        while not failed:
            try:
                index, item = waiting.popleft()
            except IndexError:
                return
            try:
                results[index] = run(item)
            except BaseException as error:
                failed.append(error)
                raise

    tasks = [_Task("spread", work) for _ in range(min(limit, len(items)))]
    try:
        for task in tasks:
            while not task.done.wait(SLICE_SECONDS):
                stop.check()
    except StopError as cause:
        failed.append(cause)
        _await_unwound([task.done for task in tasks], stop)
        raise
    if failed:
        raise failed[0]
    return [results[i] for i in range(len(items))]


class _Consumer(Generic[R]):
    """One consumer of a fan-out: its thread, its feed, and what came of it."""

    def __init__(self, consume: Callable[[Feed], R]) -> None:
        self.channel: _Channel[bytes] = _Channel(DEPTH)
        self.feed = Feed(self.channel)
        self.dropped: Exception | None = None
        self._waited = 0.0
        """Seconds that the others have waited for it while it took so many bytes."""
        self._taken = 0
        self._task = _Task("consumer", lambda: self._consume(consume))
        self.done = self._task.done

    def _consume(self, consume: Callable[[Feed], R]) -> R:
        try:
            return consume(self.feed)
        finally:
            self.channel.leave()

    def outcome(self) -> R | Exception:
        if self.dropped is not None:
            return self.dropped
        try:
            return self._task.result()
        except StopError:
            raise
        except Exception as error:  # noqa: BLE001 - it is what came of this consumer
            return error

    def give(self, chunk: bytes, *, stop: Stop, stall_seconds: float, is_alone: bool) -> bool:
        """Hand a chunk over; False once this consumer is out."""
        begun = time.monotonic()

        def waiting() -> None:
            now = time.monotonic()
            if now - max(begun, self.feed.last_sign_of_life) > stall_seconds:
                raise _stalled(stall_seconds)
            if not is_alone and self._waited + now - begun > stall_seconds:
                message = (
                    f"took less than {PACE_BYTES >> 20} MiB while others waited {stall_seconds:g} s"
                )
                raise SinkSlowError(message)

        try:
            is_taken = self.channel.send(chunk, stop=stop, waiting=waiting)
        except SinkUnavailableError as error:
            self.drop(error)
            return False
        self._keep_pace(len(chunk), time.monotonic() - begun)
        return is_taken

    def _keep_pace(self, size_bytes: int, seconds: float) -> None:
        self._taken += size_bytes
        self._waited += seconds
        if self._taken >= PACE_BYTES:
            self._taken, self._waited = 0, 0.0

    def drop(self, error: Exception) -> None:
        if self.feed.give_up(error.args[0]):
            self.dropped = error

    def wait(self, *, since: float, stop: Stop, stall_seconds: float) -> None:
        """Wait for its end; where the source was slow, its time counts from ``since``."""
        while self.dropped is None and not self.done.wait(SLICE_SECONDS):
            stop.check()
            if time.monotonic() - max(since, self.feed.last_sign_of_life) > stall_seconds:
                self.drop(_stalled(stall_seconds))


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
    running = {key: _Consumer(consume) for key, consume in consumers.items()}
    try:
        _pour(chunks, list(running.values()), stop=stop, stall_seconds=stall_seconds)
        since = time.monotonic()
        for consumer in running.values():
            consumer.wait(since=since, stop=stop, stall_seconds=stall_seconds)
        return {key: consumer.outcome() for key, consumer in running.items()}
    except BaseException as cause:
        for consumer in running.values():
            consumer.feed.give_up(str(cause))
        _close(chunks)
        seconds = UNWIND_SECONDS if isinstance(cause, StopError) else CLEANUP_SECONDS
        _await_all([consumer.done for consumer in running.values()], seconds, stop=stop)
        raise


def _pour(
    chunks: Iterable[bytes],
    consumers: Sequence[_Consumer[R]],
    *,
    stop: Stop,
    stall_seconds: float,
) -> None:
    live = list(consumers)
    for chunk in chunks:
        is_alone = len(live) == 1
        live = [
            c
            for c in live
            if c.give(chunk, stop=stop, stall_seconds=stall_seconds, is_alone=is_alone)
        ]
        if not live:
            _close(chunks)
            return
        stop.check()
    for consumer in live:
        consumer.channel.finish()


def _await_unwound(events: Iterable[threading.Event], stop: Stop) -> None:
    """Wait for threads that meet the stop themselves, within a slice, and clean up."""
    _await_all(events, SLICE_SECONDS + UNWIND_SECONDS, stop=stop)


def _await_all(events: Iterable[threading.Event], seconds: float, *, stop: Stop) -> None:
    """Wait for all of them, but not for longer than that, and shorter once there is a stop."""
    until = time.monotonic() + seconds
    for event in events:
        while (left := until - time.monotonic()) > 0 and not event.wait(min(left, SLICE_SECONDS)):
            if stop.requested:
                until = min(until, time.monotonic() + UNWIND_SECONDS)
