"""The one mechanism: a lane, on which things go from a thread to another one.

What is sent is taken in its order, and then how the sender has ended. A call is a lane with one
thing on it.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cache, partial
from math import inf
from typing import Generic, ParamSpec, TypeVar

from backup.errors import SinkStalledError
from backup.stop import SLICE_SECONDS, Stop

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEPTH = 4
"""Chunks that wait between two stages."""

UNWIND_SECONDS = 0.6
"""How long consumers get to clean up after a stop, before they are abandoned."""

_UNWINDING_SECONDS = SLICE_SECONDS + UNWIND_SECONDS
"""That, for those that meet the stop themselves."""

NEVER = Stop()
"""For whoever is not to be stopped, or need not wait."""

Waiting = Callable[[], None]
"""What is called while something is waited for; it may raise."""


def unwatched() -> None:
    """Be called now and then while something goes on that nobody watches."""


class Lane(Generic[T]):
    """A bounded queue from one sender to one receiver, either of which may leave."""

    def __init__(self, depth: int = DEPTH) -> None:
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_over = False
        self._error: BaseException | None = None

    def send(self, item: T, *, stop: Stop, waiting: Waiting = unwatched) -> bool:
        """Hand an item over; False if the receiver has left, or the lane is at its end.

        While there is no room, ``waiting`` is asked now and then, and may raise.
        """
        with self._changed:
            while not self._is_over and len(self._items) >= self._depth:
                stop.check()
                self._changed.wait(SLICE_SECONDS)
                waiting()
            if self._is_over:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def send_all(self, items: Iterable[T], *, stop: Stop) -> None:
        """Hand over a stream and how it ends; it is closed as soon as nobody wants it."""
        error: BaseException | None = None
        try:
            try:
                for item in items:
                    if not self.send(item, stop=stop):
                        break
            finally:
                close(items)
        except BaseException as caught:  # noqa: BLE001 - it is raised again where the data was due
            error = caught
        self.finish(error)

    def finish(self, error: BaseException | None = None) -> None:
        """Say that nothing more will come, and why; an error overtakes what waits."""
        with self._changed:
            self._is_over = True
            self._error = error
            if error is not None:
                self._items.clear()
            self._changed.notify_all()

    def leave(self) -> None:
        """Say that nothing more will be taken."""
        with self._changed:
            self._is_over = True
            self._items.clear()
            self._changed.notify_all()

    def has_news(self, stop: Stop, *, seconds: float = inf) -> bool:
        """Wait a slice at most for something to take; True at the end, too."""
        with self._changed:
            if not self._items and not self._is_over:
                stop.check()
                self._changed.wait(min(seconds, SLICE_SECONDS))
            return bool(self._items) or self._is_over

    def take(self, most: int = 1) -> list[T]:
        """Take what waits; nothing at the end, unless it was an error, which is raised."""
        with self._changed:
            if self._error is not None:
                raise self._error
            taken: list[T] = []
            while self._items and len(taken) < most:
                taken.append(self._items.popleft())
            self._changed.notify_all()
            return taken

    def receive(
        self, stop: Stop, *, stall_seconds: float | None = None, waiting: Waiting = unwatched
    ) -> list[T]:
        """Wait for the next item, and take it; nothing at the end, as with :meth:`take`."""
        since = time.monotonic()
        while not self._items and not self.has_news(stop):
            waiting()
            if stall_seconds is not None and time.monotonic() - since > stall_seconds:
                raise stalled(stall_seconds)
        return self.take()


def stalled(stall_seconds: float) -> SinkStalledError:
    """Say that nothing has moved for so long."""
    return SinkStalledError(f"no data moved for {stall_seconds:g} s")


_M_ARENA_MAX = -8
"""Of ``mallopt(3)``, in ``malloc.h`` of glibc."""
_ARENAS = 2


@cache
def _share_arenas() -> None:
    """Bound malloc's arenas for this process, where the C library can."""
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def start(name: str, items: Iterable[T], *, depth: int = DEPTH, stop: Stop = NEVER) -> Lane[T]:
    """Send all items from a thread of its own, which can be given up but not ended."""
    _share_arenas()
    lane: Lane[T] = Lane(depth)
    run = partial(lane.send_all, items, stop=stop)
    threading.Thread(target=run, name=name, daemon=True).start()
    return lane


def once(run: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
    """Give the one result of a call, when it is asked for."""
    yield run(*args, **kwargs)


def close(items: Iterable[object]) -> None:
    """Close a generator; what is none need not be closed."""
    if isinstance(items, Generator):
        items.close()


def await_all(lanes: Iterable[Lane[R]], *, stop: Stop, seconds: float = _UNWINDING_SECONDS) -> None:
    """Wait for all of them, but not for longer than that, and shorter once there is a stop."""
    until = time.monotonic() + seconds
    for lane in lanes:
        while (left := until - time.monotonic()) > 0 and not lane.has_news(NEVER, seconds=left):
            if stop.requested:
                until = min(until, time.monotonic() + UNWIND_SECONDS)
