"""Threads and queues: order, errors, and that nobody waits for what will never come.

Where a test must wait, it waits for an event. The pauses that are left are those in which
something must *not* happen; a slow machine makes them no worse.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from backup import lanes, streams
from backup.errors import (
    DeadlineError,
    SignalledError,
    SinkFullError,
    SinkSlowError,
    SinkStalledError,
    StopError,
    StreamAbortedError,
)
from backup.lanes import DEPTH, UNWIND_SECONDS
from backup.stop import SLICE_SECONDS, Stop
from backup.streams import Feed, Subscription, call, each, fan_out, prefetch, spread

LONG = 30.0
"""Seconds: more than any of this takes, so a test that fails says so instead of hanging."""

PAUSE = 0.3
"""Seconds in which something that must not happen has its chance."""

AT_ONCE = 2.0
"""Seconds in which everything has unwound, on a machine that has other things to do as well."""

CHUNKS = [bytes([n]) * 3 for n in range(40)]


@pytest.fixture
def stop() -> Stop:
    """Give a stop that nobody has asked for."""
    return Stop()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Give an event for threads that hang; they are let go when the test is over."""
    event = threading.Event()
    yield event
    event.set()


class Source:
    """A generator of chunks that tells how far it is, who runs it, and that it was closed."""

    def __init__(self, chunks: list[bytes], error: BaseException | None = None) -> None:
        self.given = 0
        self.closed = threading.Event()
        self.moved = threading.Condition()
        self.thread = threading.current_thread()
        self.closed_in = threading.current_thread()
        self.chunks = self._run(chunks, error)

    def _run(self, chunks: list[bytes], error: BaseException | None) -> Iterator[bytes]:
        self.thread = threading.current_thread()
        try:
            for chunk in chunks:
                with self.moved:
                    self.given += 1
                    self.moved.notify_all()
                yield chunk
            if error is not None:
                raise error
        finally:
            self.closed_in = threading.current_thread()
            self.closed.set()

    def has_given(self, count: int, *, seconds: float = LONG) -> bool:
        """Wait until so many chunks were taken."""
        with self.moved:
            return self.moved.wait_for(lambda: self.given >= count, seconds)

    def is_over(self) -> bool:
        """Wait until the generator is closed and the thread that ran it has ended."""
        if not self.closed.wait(LONG):
            return False
        self.thread.join(LONG)
        return not self.thread.is_alive()


def hang(release: threading.Event) -> Iterator[bytes]:
    """Give one chunk, then nothing more until the test is over."""
    yield b"one"
    release.wait(LONG)


# -- prefetch


def test_prefetch_gives_the_same_chunks_in_order(stop: Stop) -> None:
    """From another thread, one that the process does not wait for at its end."""
    source = Source(CHUNKS)

    assert list(prefetch(source.chunks, stop=stop)) == CHUNKS
    assert source.is_over()
    assert source.thread is not threading.current_thread()
    assert source.thread.daemon


def test_prefetch_takes_any_iterable(stop: Stop) -> None:
    """What cannot be closed need not be."""
    assert list(prefetch(CHUNKS, stop=stop)) == CHUNKS


@pytest.mark.parametrize("depth", [1, 4])
def test_prefetch_is_only_so_far_ahead(depth: int, stop: Stop) -> None:
    """Memory does not grow with what flows through."""
    source = Source(CHUNKS)
    ahead = prefetch(source.chunks, stop=stop, depth=depth)
    for _ in range(3):
        next(ahead)

    # Given out, waiting in the queue, and in the hand of the thread.
    assert source.has_given(3 + depth + 1)
    assert not source.has_given(3 + depth + 2, seconds=PAUSE)
    ahead.close()


def test_an_error_of_the_source_is_raised_where_its_data_was_due(stop: Stop) -> None:
    """The very same error: whoever is downstream can tell what happened."""
    error = SinkFullError("no space")
    ahead = prefetch(Source([b"one"], error).chunks, stop=stop)

    with pytest.raises(SinkFullError) as caught:
        list(ahead)
    assert caught.value is error


def test_an_error_of_the_source_overtakes_what_waits(stop: Stop) -> None:
    """Nobody should go on with the beginning of what has failed already."""
    taken = threading.Event()
    threads: list[threading.Thread] = []

    def fails() -> Iterator[bytes]:
        threads.append(threading.current_thread())
        yield from CHUNKS[:3]
        assert taken.wait(LONG)
        raise SinkFullError("no space")

    ahead = prefetch(fails(), stop=stop)
    next(ahead)
    taken.set()
    threads[0].join(LONG)

    with pytest.raises(SinkFullError):
        next(ahead)


def test_closing_prefetch_closes_the_source_in_its_own_thread(stop: Stop) -> None:
    """A generator must be closed where it ran, and the thread must not stay behind."""
    source = Source(CHUNKS)
    ahead = prefetch(source.chunks, stop=stop)
    next(ahead)
    ahead.close()

    assert source.is_over()
    assert source.closed_in is source.thread
    assert source.given < len(CHUNKS)


def test_a_stop_ends_prefetch_on_both_sides(stop: Stop, release: threading.Event) -> None:
    """The reader raises, though the source is stuck."""
    ahead = prefetch(hang(release), stop=stop)
    next(ahead)
    begun = time.monotonic()
    stop.request(signal.SIGTERM)

    with pytest.raises(SignalledError):
        next(ahead)
    assert time.monotonic() - begun < AT_ONCE


def test_a_stop_closes_a_source_that_nobody_reads_any_more(stop: Stop) -> None:
    """Its thread is waiting for room; it ends, and closes the source where it ran."""
    source = Source(CHUNKS)
    ahead = prefetch(source.chunks, stop=stop)
    next(ahead)
    assert source.has_given(1 + DEPTH + 1)
    stop.request(signal.SIGTERM)

    assert source.is_over()
    assert source.closed_in is source.thread
    with pytest.raises(SignalledError):
        list(ahead)


def test_a_source_that_gives_nothing_for_too_long_is_stalled(
    stop: Stop, release: threading.Event
) -> None:
    """A dead file server must not hold the run."""
    ahead = prefetch(hang(release), stop=stop, stall_seconds=0.01)
    first = next(ahead)

    with pytest.raises(SinkStalledError, match=r"no data moved for 0\.01 s"):
        next(ahead)
    assert first == b"one"


def test_a_slow_source_is_waited_for(stop: Stop) -> None:
    """Without a bound there is no end to it."""

    def slow() -> Iterator[bytes]:
        yield b"one"
        threading.Event().wait(PAUSE)
        yield b"two"

    assert list(prefetch(slow(), stop=stop)) == [b"one", b"two"]


# -- each


def test_each_keeps_the_order_whoever_is_first(stop: Stop) -> None:
    """The second result is there before the first one, and waits for it."""
    second_is_done = threading.Event()

    def run(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(LONG)
        if item == 1:
            second_is_done.set()
        return item * item

    actual = list(each(run, range(20), workers=2, stop=stop))

    assert actual == [n * n for n in range(20)]


def test_each_works_on_several_items_at_once(stop: Stop) -> None:
    """As many as there are workers: all of them meet."""
    meeting = threading.Barrier(3)

    def run(item: int) -> int:
        meeting.wait(LONG)
        return item

    assert list(each(run, range(6), workers=3, stop=stop)) == list(range(6))


def test_each_takes_no_more_items_than_there_is_room_for(stop: Stop) -> None:
    """Results that nobody has taken yet do not pile up."""
    source = Source(CHUNKS)
    results = each(bytes.hex, source.chunks, workers=2, stop=stop)
    first = next(results)

    assert first == CHUNKS[0].hex()
    assert not source.has_given(1 + 2 * 2 + 1, seconds=PAUSE)
    results.close()
    assert source.is_over()


def test_each_raises_an_error_where_its_result_was_due(stop: Stop) -> None:
    """Not before the results of the items that came first."""

    def run(item: int) -> int:
        if item == 3:
            raise SinkFullError("three")
        return item

    results = each(run, range(9), workers=2, stop=stop)
    actual = [next(results) for _ in range(3)]

    assert actual == [0, 1, 2]
    with pytest.raises(SinkFullError, match="three"):
        next(results)


def test_each_raises_an_error_of_the_items_after_their_results(stop: Stop) -> None:
    """What was taken before is whole."""
    results = each(bytes.hex, Source([b"a", b"b"], KeyError("c")).chunks, workers=2, stop=stop)
    actual = [next(results), next(results)]

    assert actual == ["61", "62"]
    with pytest.raises(KeyError, match="c"):
        next(results)


def test_closing_each_closes_the_items_though_a_worker_is_amid_them(
    stop: Stop, release: threading.Event
) -> None:
    """A generator that runs cannot be closed from outside: the last worker does it."""
    closed = threading.Event()
    amid = threading.Event()

    def items() -> Iterator[bytes]:
        try:
            yield b"one"
            amid.set()
            release.wait(LONG)
            yield b"two"
        finally:
            closed.set()

    results = each(bytes.hex, items(), workers=2, stop=stop)
    next(results)
    assert amid.wait(LONG)
    results.close()
    before = closed.is_set()
    release.set()

    assert not before
    assert closed.wait(LONG)


def test_a_stop_ends_each(stop: Stop, release: threading.Event) -> None:
    """Though the items are stuck; and workers that wait for room end too."""
    source = Source(CHUNKS)
    full = each(bytes.hex, source.chunks, workers=2, stop=stop)
    next(full)
    stuck = each(bytes.hex, hang(release), workers=2, stop=stop)
    next(stuck)
    stop.request(signal.SIGTERM)

    with pytest.raises(SignalledError):
        next(stuck)
    assert source.closed.wait(LONG)
    assert source.given < len(CHUNKS)


# -- fan_out


def gather(feed: Feed) -> bytes:
    """Take everything."""
    return b"".join(feed)


def fail(feed: Feed, *, after: int = 0) -> bytes:
    """Take some chunks and fail."""
    for _ in range(after):
        next(feed)
    raise SinkFullError("no space")


def test_every_consumer_gets_every_chunk(stop: Stop) -> None:
    """One reading serves all sinks."""
    actual = fan_out(CHUNKS, dict.fromkeys(range(3), gather), stop=stop, stall_seconds=LONG)

    assert actual == {n: b"".join(CHUNKS) for n in range(3)}


def test_an_empty_stream_is_a_stream(stop: Stop) -> None:
    """Its consumers see the end at once."""
    assert fan_out([], {"a": gather}, stop=stop, stall_seconds=LONG) == {"a": b""}


def test_without_consumers_nothing_is_read(stop: Stop) -> None:
    """The source is closed."""
    source = Source(CHUNKS)

    assert fan_out(source.chunks, {}, stop=stop, stall_seconds=LONG) == {}
    assert source.closed.is_set()


@pytest.mark.parametrize("after", [0, 1, 30])
def test_a_failing_consumer_drops_out_and_the_others_get_everything(after: int, stop: Stop) -> None:
    """Its error is its result; one full sink never stops the others."""
    consumers: dict[str, Callable[[Feed], bytes]] = {
        "bad": partial(fail, after=after),
        "good": gather,
    }

    actual = fan_out(CHUNKS, consumers, stop=stop, stall_seconds=LONG)

    assert actual["good"] == b"".join(CHUNKS)
    assert isinstance(actual["bad"], SinkFullError)


def test_a_consumer_may_have_enough(stop: Stop) -> None:
    """What it returns counts; the others go on."""

    def first(feed: Feed) -> bytes:
        return next(feed)

    actual = fan_out(CHUNKS, {"first": first, "all": gather}, stop=stop, stall_seconds=LONG)

    assert actual == {"first": CHUNKS[0], "all": b"".join(CHUNKS)}


def test_when_all_consumers_fail_the_source_is_left(stop: Stop) -> None:
    """There is no sense in reading on."""
    source = Source(CHUNKS)

    actual = fan_out(source.chunks, {"a": fail, "b": fail}, stop=stop, stall_seconds=LONG)

    assert [type(error) for error in actual.values()] == [SinkFullError, SinkFullError]
    assert source.closed.is_set()
    assert source.given < len(CHUNKS)


def test_a_consumer_that_takes_nothing_for_too_long_drops_out(
    stop: Stop, release: threading.Event
) -> None:
    """A hanging sink costs the stall time once; the others are complete."""

    def stuck(feed: Feed) -> bytes:
        next(feed)
        release.wait(LONG)
        return b"too late"

    actual = fan_out(CHUNKS, {"stuck": stuck, "good": gather}, stop=stop, stall_seconds=0.1)

    assert actual["good"] == b"".join(CHUNKS)
    assert isinstance(actual["stuck"], SinkStalledError)


def test_a_stalled_consumer_that_wakes_up_meets_the_end(
    stop: Stop, release: threading.Event
) -> None:
    """It must not take the few chunks that it got for the whole."""
    met: list[BaseException] = []
    ended = threading.Event()

    def stuck(feed: Feed) -> bytes:
        release.wait(LONG)
        try:
            return gather(feed)
        except BaseException as error:
            met.append(error)
            raise
        finally:
            ended.set()

    fan_out(CHUNKS, {"stuck": stuck}, stop=stop, stall_seconds=0.1)
    release.set()

    assert ended.wait(LONG)
    assert [type(error) for error in met] == [StreamAbortedError]


def test_a_consumer_that_hangs_after_the_end_drops_out_too(
    stop: Stop, release: threading.Event
) -> None:
    """A read-back may hang like a write."""

    def hangs_at_the_end(feed: Feed) -> bytes:
        gather(feed)
        release.wait(LONG)
        return b"too late"

    consumers = {"stuck": hangs_at_the_end, "good": gather}
    actual = fan_out(CHUNKS, consumers, stop=stop, stall_seconds=0.1)

    assert actual["good"] == b"".join(CHUNKS)
    assert isinstance(actual["stuck"], SinkStalledError)


def test_a_consumer_that_works_on_after_the_end_is_waited_for(stop: Stop) -> None:
    """A long read-back says that it is alive, and takes as long as it takes."""

    def reads_back(feed: Feed) -> bytes:
        data = gather(feed)
        for _ in range(30):
            threading.Event().wait(0.05)
            feed.alive()
        return data

    assert fan_out(CHUNKS, {"a": reads_back}, stop=stop, stall_seconds=1.0) == {
        "a": b"".join(CHUNKS)
    }


def test_a_slow_source_does_not_make_its_consumers_stalled(
    stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their time counts from when there was something to take."""
    now = [0.0]
    ended = threading.Event()
    monkeypatch.setattr("backup.streams.time.monotonic", lambda: now[0])

    def slow() -> Iterator[bytes]:
        yield b"one"
        now[0] += 3600
        ended.set()

    def flushes_first(_feed: Feed) -> bytes:
        assert ended.wait(LONG)
        threading.Event().wait(PAUSE)
        return b"done"

    assert fan_out(slow(), {"a": flushes_first}, stop=stop, stall_seconds=60) == {"a": b"done"}


def test_the_source_is_never_far_ahead_of_the_slowest_consumer(
    stop: Stop, release: threading.Event
) -> None:
    """Law 11: memory does not grow with the journal, also where one sink is slow."""
    source = Source(CHUNKS)
    took = threading.Event()

    def slow(feed: Feed) -> bytes:
        data = next(feed)
        took.set()
        assert release.wait(LONG)
        return data + gather(feed)

    def watch() -> bool:
        assert took.wait(LONG)
        too_far = source.has_given(1 + DEPTH + 2, seconds=PAUSE)
        release.set()
        return too_far

    results: list[bool] = []
    watcher = threading.Thread(target=lambda: results.append(watch()), daemon=True)
    watcher.start()
    actual = fan_out(source.chunks, {"slow": slow, "fast": gather}, stop=stop, stall_seconds=LONG)
    watcher.join(LONG)

    assert actual == {"slow": b"".join(CHUNKS), "fast": b"".join(CHUNKS)}
    assert results == [False]


def test_when_the_source_fails_consumers_clean_up_before_it_is_told(stop: Stop) -> None:
    """A half-written object is gone when the caller goes on: it will write the same key again."""
    cleaned: list[str] = []
    error = OSError("the disk is gone")

    def careful(name: str, feed: Feed) -> bytes:
        try:
            return gather(feed)
        except StreamAbortedError as aborted:
            threading.Event().wait(PAUSE)
            cleaned.append(f"{name}: {aborted}")
            raise

    consumers = {name: partial(careful, name) for name in "ab"}
    with pytest.raises(OSError, match="the disk is gone") as caught:
        fan_out(Source(CHUNKS, error).chunks, consumers, stop=stop, stall_seconds=LONG)

    assert caught.value is error
    assert sorted(cleaned) == ["a: the disk is gone", "b: the disk is gone"]


def test_a_consumer_that_swallows_the_end_does_not_hide_it(stop: Stop) -> None:
    """The source's error is what counts, whatever they make of it."""

    def careless(feed: Feed) -> bytes:
        try:
            return gather(feed)
        except StreamAbortedError:
            return b"fine"

    with pytest.raises(OSError, match="gone"):
        fan_out(
            Source(CHUNKS, OSError("gone")).chunks, {"a": careless}, stop=stop, stall_seconds=LONG
        )


def test_a_stop_reaches_through_a_cleanup_that_hangs(stop: Stop, release: threading.Event) -> None:
    """SIGTERM during the ten seconds that a clean-up may take is not kept waiting for them."""
    begun: list[float] = []

    def stuck(feed: Feed) -> bytes:
        try:
            return gather(feed)
        except StreamAbortedError:
            stop.request(signal.SIGTERM)
            begun.append(time.monotonic())
            release.wait(LONG)
            raise

    with pytest.raises(OSError, match="gone"):
        fan_out(Source(CHUNKS, OSError("gone")).chunks, {"a": stuck}, stop=stop, stall_seconds=LONG)

    assert time.monotonic() - begun[0] < AT_ONCE


def stops() -> list[tuple[str, Callable[[], Stop]]]:
    """Give the two ways to be stopped, which begin when they are asked for."""

    def signalled() -> Stop:
        stop = Stop()
        stop.request(signal.SIGTERM)
        return stop

    return [("a signal", signalled), ("a deadline", lambda: Stop(seconds=0))]


@pytest.mark.parametrize("make", [m for _, m in stops()], ids=[n for n, _ in stops()])
def test_a_stop_unwinds_at_once_though_a_consumer_is_stuck(
    make: Callable[[], Stop], release: threading.Event
) -> None:
    """It hangs in a system call and is abandoned; the other one has cleaned up."""
    aborted = threading.Event()
    hangs = threading.Event()

    def stuck(feed: Feed) -> bytes:
        next(feed)
        hangs.set()
        release.wait(LONG)
        return b""

    def careful(feed: Feed) -> bytes:
        try:
            return gather(feed)
        except StreamAbortedError:
            aborted.set()
            raise

    class Late(Stop):
        """A stop that comes when a consumer hangs."""

        def check(self) -> None:
            if hangs.is_set():
                begun.append(time.monotonic())
                make().check()

    begun: list[float] = []
    source = Source(CHUNKS)
    with pytest.raises(StopError):
        fan_out(
            source.chunks, {"stuck": stuck, "careful": careful}, stop=Late(), stall_seconds=LONG
        )

    assert time.monotonic() - begun[0] < AT_ONCE
    assert aborted.is_set()
    assert source.closed.is_set()


def test_what_a_stop_may_take_adds_up_to_a_second() -> None:
    """It is seen after a slice, and waited for; so are the calls around it, a slice longer."""
    assert UNWIND_SECONDS + 2 * SLICE_SECONDS <= 1.0


def test_a_stop_is_seen_though_nobody_ever_waits(stop: Stop) -> None:
    """A stream that flows without a pause is stopped all the same."""
    taken = threading.Semaphore(0)

    def evenly() -> Iterator[bytes]:
        for chunk in CHUNKS:
            yield chunk
            assert taken.acquire(timeout=LONG)
            stop.request(signal.SIGTERM)

    def at_once(feed: Feed) -> bytes:
        for _ in feed:
            taken.release()
        return b"to the end"

    with pytest.raises(SignalledError):
        fan_out(evenly(), {"a": at_once}, stop=stop, stall_seconds=LONG)


def test_a_stop_while_consumers_work_on_after_the_end(stop: Stop, release: threading.Event) -> None:
    """A read-back is cut short as a write is."""

    def reads_back(feed: Feed) -> bytes:
        gather(feed)
        stop.request(signal.SIGTERM)
        release.wait(LONG)
        return b""

    with pytest.raises(SignalledError):
        fan_out(CHUNKS, {"a": reads_back}, stop=stop, stall_seconds=LONG)


def test_a_consumer_that_was_stopped_stops_the_whole(stop: Stop) -> None:
    """A sink's own wait may see the signal first; that is no failure of the sink."""

    def stopped(feed: Feed) -> bytes:
        next(feed)
        message = "the deadline of 1 s is over"
        raise DeadlineError(message)

    with pytest.raises(DeadlineError):
        fan_out(CHUNKS, {"a": stopped, "b": gather}, stop=stop, stall_seconds=LONG)


class CrashError(BaseException):
    """Nothing may catch this and go on."""


def test_what_is_no_exception_is_no_result(stop: Stop) -> None:
    """The end of the process is not an outcome of one sink."""

    def crashes(feed: Feed) -> bytes:
        raise CrashError

    with pytest.raises(CrashError):
        fan_out(CHUNKS, {"a": crashes, "b": gather}, stop=stop, stall_seconds=LONG)


# -- fan_out: the pace of each consumer


class Dawdler:
    """A consumer that takes all, a chunk a minute: by a clock that it alone moves on."""

    def __init__(self, source: Source) -> None:
        self.now = 0.0
        self.source = source

    def __call__(self, feed: Feed) -> bytes:
        """Take a chunk once the source waits for it, and not the other way round."""
        data = b""
        for number, chunk in enumerate(feed, start=1):
            assert self.source.has_given(min(number + DEPTH + 1, len(CHUNKS) * 2))
            threading.Event().wait(0.001)
            self.now += 60
            data += chunk
        return data


@pytest.fixture
def dawdler(monkeypatch: pytest.MonkeyPatch) -> Dawdler:
    """Give one, whose clock counts."""
    made = Dawdler(Source(CHUNKS * 2))
    monkeypatch.setattr("backup.streams.time.monotonic", lambda: made.now)
    monkeypatch.setattr(streams, "PACE_BYTES", 10 * len(CHUNKS[0]))
    return made


def test_a_consumer_that_holds_the_others_back_drops_out(stop: Stop, dawdler: Dawdler) -> None:
    """It takes something now and then, so it is not stalled; but all would go at its pace."""
    consumers: dict[str, Callable[[Feed], bytes]] = {"slow": dawdler, "fast": gather}

    actual = fan_out(dawdler.source.chunks, consumers, stop=stop, stall_seconds=240)

    assert actual["fast"] == b"".join(CHUNKS * 2)
    assert isinstance(actual["slow"], SinkSlowError)


def test_a_consumer_that_is_slow_in_bounds_stays(stop: Stop, dawdler: Dawdler) -> None:
    """The others wait for it, but not for long."""
    consumers: dict[str, Callable[[Feed], bytes]] = {"slow": dawdler, "fast": gather}

    actual = fan_out(dawdler.source.chunks, consumers, stop=stop, stall_seconds=900)

    assert actual == dict.fromkeys(("slow", "fast"), b"".join(CHUNKS * 2))


def test_a_consumer_that_is_alone_may_take_its_time(stop: Stop, dawdler: Dawdler) -> None:
    """Also once all others have failed."""
    consumers: dict[str, Callable[[Feed], bytes]] = {"slow": dawdler, "bad": fail}

    actual = fan_out(dawdler.source.chunks, consumers, stop=stop, stall_seconds=240)

    assert actual["slow"] == b"".join(CHUNKS * 2)


def test_a_sign_of_life_is_enough_where_no_chunk_is_taken(
    stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes large parts over a slow link asks for the next one seldom."""
    now = [0.0]
    source = Source(CHUNKS)
    monkeypatch.setattr("backup.streams.time.monotonic", lambda: now[0])

    def sends_a_part(feed: Feed) -> bytes:
        data = next(feed)
        assert source.has_given(1 + DEPTH + 1)
        for _ in range(20):
            threading.Event().wait(0.02)
            now[0] += 30
            feed.alive()
        return data + gather(feed)

    assert fan_out(source.chunks, {"a": sends_a_part}, stop=stop, stall_seconds=60) == {
        "a": b"".join(CHUNKS)
    }


# -- fan_out: the end of each consumer


def test_who_concludes_waits_for_the_end_of_the_source(stop: Stop) -> None:
    """Not before is it known what all of it was, also for one that has had enough."""
    source = Source(CHUNKS)

    def early(feed: Feed) -> int:
        next(feed)
        feed.conclude()
        return source.given

    assert fan_out(source.chunks, {"a": early}, stop=stop, stall_seconds=LONG) == {"a": len(CHUNKS)}


def test_who_concludes_does_not_wait_for_the_others(stop: Stop) -> None:
    """Whoever is ready goes on; the slow ones have their own time."""
    concluded = threading.Event()

    def ready(feed: Feed) -> bytes:
        data = gather(feed)
        feed.conclude()
        concluded.set()
        return data

    def waits(feed: Feed) -> bytes:
        data = gather(feed)
        assert concluded.wait(LONG)
        return data

    whole = b"".join(CHUNKS)
    actual = fan_out(CHUNKS, {"waits": waits, "ready": ready}, stop=stop, stall_seconds=LONG)

    assert actual == {"waits": whole, "ready": whole}


def test_nobody_concludes_where_the_source_failed(stop: Stop) -> None:
    """What it gave may be anything but the whole."""
    met: list[BaseException] = []

    def concludes(feed: Feed) -> None:
        next(feed)
        try:
            feed.conclude()
        except BaseException as error:
            met.append(error)
            raise

    with pytest.raises(OSError, match="gone"):
        fan_out(
            Source(CHUNKS, OSError("gone")).chunks, {"a": concludes}, stop=stop, stall_seconds=LONG
        )
    assert [type(error) for error in met] == [StreamAbortedError]


def test_who_was_given_up_does_not_conclude(stop: Stop, release: threading.Event) -> None:
    """Somebody may be doing it anew in its place: two of them must not commit."""
    met: list[BaseException] = []
    ended = threading.Event()

    def stuck(feed: Feed) -> None:
        gather(feed)
        release.wait(LONG)
        try:
            feed.conclude()
        except BaseException as error:
            met.append(error)
            raise
        finally:
            ended.set()

    actual = fan_out(CHUNKS, {"a": stuck}, stop=stop, stall_seconds=0.1)
    release.set()

    assert ended.wait(LONG)
    assert isinstance(actual["a"], SinkStalledError)
    assert [type(error) for error in met] == [StreamAbortedError]


def test_who_has_concluded_is_not_given_up(stop: Stop) -> None:
    """Its silence is its own matter: it bounds its calls itself."""

    def commits(feed: Feed) -> str:
        feed.conclude()
        threading.Event().wait(4 * PAUSE)
        return "done"

    assert fan_out(CHUNKS, {"a": commits}, stop=stop, stall_seconds=PAUSE) == {"a": "done"}


# -- call


def test_a_call_gives_its_result(stop: Stop) -> None:
    """From another thread, one that the process does not wait for at its end."""
    thread = call(threading.current_thread, stop=stop)

    assert thread is not threading.current_thread()
    assert thread.daemon


def test_a_call_raises_what_was_raised(stop: Stop) -> None:
    """The very same error."""
    error = SinkFullError("no space")

    def fails() -> None:
        raise error

    with pytest.raises(SinkFullError) as caught:
        call(fails, stop=stop)
    assert caught.value is error


def test_a_slow_call_is_waited_for(stop: Stop) -> None:
    """Longer than a slice, shorter than a stall."""

    def slow() -> str:
        threading.Event().wait(PAUSE)
        return "done"

    assert call(slow, stop=stop, stall_seconds=LONG) == "done"


def test_a_call_that_hangs_is_left_behind(stop: Stop, release: threading.Event) -> None:
    """When it has stalled, or when the run is stopped."""
    with pytest.raises(SinkStalledError):
        call(release.wait, stop=stop, stall_seconds=0.01)
    stop.request(signal.SIGTERM)
    begun = time.monotonic()

    with pytest.raises(SignalledError):
        call(release.wait, stop=stop)
    assert time.monotonic() - begun < AT_ONCE


def test_a_call_that_cleans_up_is_given_a_moment_for_it(stop: Stop) -> None:
    """What is half done is gone when the process ends; a moment, and no more than that."""
    cleaned = threading.Event()

    def careful() -> None:
        try:
            while True:
                stop.sleep(0.01)
        finally:
            threading.Event().wait(PAUSE)
            cleaned.set()

    def told_to_end() -> None:
        threading.Event().wait(PAUSE)
        stop.request(signal.SIGTERM)

    threading.Thread(target=told_to_end).start()
    with pytest.raises(SignalledError):
        call(careful, stop=stop, cleans_up=True)
    assert cleaned.is_set()


def test_a_call_that_neither_returns_nor_cleans_up_is_left_behind_all_the_same() -> None:
    """It may be stuck in a system call, for ever."""
    stop, never = Stop(seconds=PAUSE), threading.Event()
    begun = time.monotonic()

    with pytest.raises(DeadlineError):
        call(never.wait, stop=stop, cleans_up=True)
    assert time.monotonic() - begun < LONG
    never.set()


# -- spread


def test_spread_keeps_the_order(stop: Stop) -> None:
    """The last item is done first."""
    last_is_done = threading.Event()

    def run(item: int) -> int:
        if item == 2:
            last_is_done.set()
        else:
            assert last_is_done.wait(LONG)
        return item * 10

    assert spread(run, [0, 1, 2], limit=3, stop=stop) == [0, 10, 20]


def test_spread_has_nothing_to_do(stop: Stop) -> None:
    """No items, no threads."""
    assert spread(str, [], limit=4, stop=stop) == []


def test_spread_runs_as_many_at_a_time_as_it_may(stop: Stop) -> None:
    """As many meet; one more never does."""
    meeting = threading.Barrier(2)
    lock = threading.Lock()
    running = 0
    most = 0

    def run(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait(LONG)
        with lock:
            running -= 1
        return item

    assert spread(run, range(8), limit=2, stop=stop) == list(range(8))
    assert most == 2


def test_spread_raises_the_first_error_and_begins_nothing_more(stop: Stop) -> None:
    """What runs already is waited for: nothing goes on behind the caller's back."""
    begun: list[int] = []
    finished: list[int] = []
    other_runs = threading.Event()
    failed = threading.Event()

    def run(item: int) -> int:
        begun.append(item)
        if item == 0:
            assert other_runs.wait(LONG)
            failed.set()
            raise SinkFullError("first")
        other_runs.set()
        assert failed.wait(LONG)
        threading.Event().wait(PAUSE)
        finished.append(item)
        return item

    with pytest.raises(SinkFullError, match="first"):
        spread(run, list(range(9)), limit=2, stop=stop)
    assert sorted(begun) == [0, 1]
    assert finished == [1]


def test_a_stop_ends_spread_though_a_call_hangs(stop: Stop, release: threading.Event) -> None:
    """It is abandoned; no further item is begun, even by a call that returns late."""
    begun: list[int] = []

    def run(item: int) -> int:
        begun.append(item)
        if len(begun) == 2:
            stop.request(signal.SIGTERM)
        release.wait(LONG)
        return item

    started = time.monotonic()
    with pytest.raises(SignalledError):
        spread(run, list(range(9)), limit=2, stop=stop)
    taken = time.monotonic() - started
    release.set()

    assert taken < AT_ONCE
    assert len(begun) == 2


def test_after_a_stop_spread_waits_for_calls_that_unwind(
    stop: Stop, release: threading.Event
) -> None:
    """Each has its own clean-up, and a moment for it."""
    unwound = threading.Event()

    def run(item: int) -> int:
        stop.request(signal.SIGTERM)
        threading.Event().wait(PAUSE)
        unwound.set()
        return item

    with pytest.raises(SignalledError):
        spread(run, [1], limit=1, stop=stop)
    assert unwound.is_set()


# -- subscribing


class News:
    """A source that tells what it is given, for ever, and that it was left."""

    def __init__(self) -> None:
        self.items: list[int] = []
        self.told = 0
        self.ended = threading.Event()
        self._more = threading.Condition()
        self._error: BaseException | None = None
        self._is_over = False

    def tell(self, *items: int) -> None:
        """Add items."""
        with self._more:
            self.items += items
            self._more.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """End, with an error or without."""
        with self._more:
            self._error, self._is_over = error, True
            self._more.notify_all()

    def __iter__(self) -> Iterator[int]:
        """Tell."""
        try:
            while True:
                with self._more:
                    assert self._more.wait_for(lambda: self.items or self._is_over, LONG)
                    if not self.items:
                        break
                    item = self.items.pop(0)
                    self.told += 1
                yield item
            if self._error is not None:
                raise self._error
        finally:
            self.ended.set()


def polled(subscription: Subscription[int], count: int) -> list[int]:
    """Ask until so many have been told."""
    taken: list[int] = []
    until = time.monotonic() + LONG
    while len(taken) < count and time.monotonic() < until:
        taken += subscription.poll(LONG)
    return taken


def test_a_subscription_keeps_what_was_told_for_whoever_asks(stop: Stop) -> None:
    """In its order, each once; what is there already is given without waiting."""
    news = News()
    subscription = Subscription(news, stop=stop)
    news.tell(1, 2, 3)

    assert polled(subscription, 3) == [1, 2, 3]
    news.tell(4)
    assert polled(subscription, 1) == [4]
    news.end()


def test_a_subscription_without_news_is_waited_for_as_long_as_is_said(stop: Stop) -> None:
    """Then there is none: whoever asked has other things to do, too."""
    news = News()
    subscription = Subscription(news, stop=stop)

    begun = time.monotonic()
    assert subscription.poll(PAUSE) == []
    assert time.monotonic() - begun >= PAUSE
    assert subscription.poll(0) == []
    news.tell(1)
    assert polled(subscription, 1) == [1]
    news.end()


def test_news_end_the_wait_at_once(stop: Stop) -> None:
    """A pod that is ready is not left waiting for the next look."""
    news = News()
    subscription = Subscription(news, stop=stop)
    threading.Timer(PAUSE, lambda: news.tell(1)).start()

    begun = time.monotonic()
    assert subscription.poll(LONG) == [1]
    assert time.monotonic() - begun < AT_ONCE
    news.end()


def test_what_ends_the_source_reaches_whoever_asks(stop: Stop) -> None:
    """At once, and at every later time: nothing more will come."""
    news = News()
    subscription = Subscription(news, stop=stop)
    news.end(SinkFullError("gone"))

    for _ in range(2):
        with pytest.raises(SinkFullError, match="gone"):
            subscription.poll(LONG)


def test_a_source_that_ends_without_an_error_tells_nothing_more(stop: Stop) -> None:
    """What it told before is given; then nothing, without waiting."""
    news = News()
    subscription = Subscription(news, stop=stop)
    news.tell(1)
    news.end()

    begun = time.monotonic()
    assert polled(subscription, 1) == [1]
    assert subscription.poll(LONG) == []
    assert time.monotonic() - begun < AT_ONCE


def test_a_subscription_that_is_closed_ends_its_source(stop: Stop) -> None:
    """From the next item on: the thread goes, and with it the connection."""
    news = News()
    subscription = Subscription(news, stop=stop)
    subscription.close()
    news.tell(1, 2, 3)

    assert news.ended.wait(LONG)
    assert news.told == 1


def test_a_subscription_that_nobody_asks_makes_its_source_wait(stop: Stop) -> None:
    """So memory stays bounded; once somebody asks, nothing is missing."""
    news = News()
    subscription = Subscription(news, stop=stop)
    count = 3 * streams._NEWS
    news.tell(*range(count))
    until = time.monotonic() + LONG
    while news.told <= streams._NEWS and time.monotonic() < until:
        threading.Event().wait(0.01)
    threading.Event().wait(PAUSE)

    assert news.told == streams._NEWS + 1
    assert polled(subscription, count) == list(range(count))
    news.end()


def test_a_stop_ends_a_subscription(stop: Stop) -> None:
    """The wait for news, and the source that waits to be asked."""
    news = News()
    subscription = Subscription(news, stop=stop)
    threading.Timer(PAUSE, lambda: stop.request(signal.SIGTERM)).start()

    begun = time.monotonic()
    with pytest.raises(SignalledError):
        subscription.poll(LONG)
    assert time.monotonic() - begun < AT_ONCE
    news.tell(*range(2 * streams._NEWS))
    assert news.ended.wait(LONG)


# -- memory

HEAPS = """
import ctypes, threading
from backup.stop import Stop
from backup.streams import spread

met = threading.Barrier(16)

def work(_):
    held = [bytes(1_000) for _ in range(1_000)]
    met.wait(20)
    return len(held)

spread(work, range(16), limit=16, stop=Stop())
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def test_threads_share_two_arenas() -> None:
    """One for each thread would each keep as much as it ever held at once."""
    done = subprocess.run([sys.executable, "-c", HEAPS], capture_output=True, text=True, check=True)

    assert 1 <= done.stdout.count("<heap nr=") <= 2


def test_a_c_library_without_arenas_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Musl has none."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    lanes._share_arenas.cache_clear()

    assert call(lambda: 1, stop=Stop()) == 1
