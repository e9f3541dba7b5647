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
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

from backup.errors import StopError
from backup.stop import Stop
from backup.streams.fan import CLEANUP_SECONDS, PACE_BYTES, Feed, fan_out
from backup.streams.lanes import (
    DEPTH,
    UNWIND_SECONDS,
    Lane,
    Waiting,
    await_all,
    close,
    once,
    start,
    unwatched,
)

__all__ = [
    "CLEANUP_SECONDS",
    "DEPTH",
    "PACE_BYTES",
    "UNWIND_SECONDS",
    "Feed",
    "fan_out",
    "unwatched",
]

R = TypeVar("R")
T = TypeVar("T")

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
