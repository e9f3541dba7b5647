"""What the interface adds to every kind of sink: repeating, resuming, and declared errors."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice

import pytest

from backup.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SignalledError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkMissingError,
    SinkStalledError,
    SinkUnavailableError,
    SinkUnsupportedError,
)
from backup.sinks.base import ATTEMPTS, PAGE_OBJECTS, Object
from backup.stop import Stop
from tests.simulated_sink import OPERATIONS, CrashError, Held, SimulatedSink

KEY = "journal-a-0/x"
DATA = bytes(range(256)) * 1_000

CALLS: dict[str, Callable[[SimulatedSink], object]] = {
    "probe": lambda sink: sink.probe(),
    "put": lambda sink: sink.put("new", [b"x"]),
    "put_exclusive": lambda sink: sink.put_exclusive("new", b"x"),
    "open": lambda sink: b"".join(sink.open(KEY)),
    "list": lambda sink: sink.list(),
    "size": lambda sink: sink.size(KEY),
    "delete": lambda sink: sink.delete(KEY),
    "sweep": lambda sink: sink.sweep(datetime.now(UTC)),
    "unfinished": lambda sink: sink.unfinished(),
}
LASTING = (
    ConfigError("here not"),
    ObjectExistsError("taken"),
    ObjectMissingError("none"),
    SinkDeniedError("403"),
    SinkError("odd"),
    SinkFullError("full"),
    SinkMissingError("gone"),
    SinkStalledError("stuck"),
    SinkUnsupportedError("no links"),
)


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink that holds one object."""
    made = SimulatedSink()
    made.place.objects[KEY] = Held(DATA, datetime.now(UTC))
    return made


def count(sink: SimulatedSink, operation: str) -> int:
    """Count the calls of an operation."""
    return [name for name, _ in sink.calls].count(operation)


def drain(sink: SimulatedSink, into: bytearray) -> None:
    """Read an object as far as it goes."""
    for chunk in sink.open(KEY):
        into += chunk


def test_the_table_of_calls_is_complete() -> None:
    """Every operation of the interface is tried below."""
    assert set(OPERATIONS) == set(CALLS)


@pytest.mark.parametrize("operation", sorted(CALLS.keys() - {"put", "open"}))
def test_what_may_pass_is_tried_again(sink: SimulatedSink, operation: str) -> None:
    """A short outage is nobody's business; a longer one ends."""
    sink.fail(operation, SinkUnavailableError("503"), times=ATTEMPTS - 1)
    CALLS[operation](sink)

    assert count(sink, operation) == ATTEMPTS

    sink.heal()
    sink.calls.clear()
    sink.fail(operation, SinkUnavailableError("503"))
    with pytest.raises(SinkUnavailableError, match="503"):
        CALLS[operation](sink)

    assert count(sink, operation) == ATTEMPTS


@pytest.mark.parametrize("error", LASTING, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("operation", sorted(CALLS.keys() - {"put_exclusive"}))
def test_what_will_not_pass_is_told_at_once(
    sink: SimulatedSink, operation: str, error: Exception
) -> None:
    """Trying again costs time, and may lock an account."""
    sink.fail(operation, error)
    with pytest.raises(type(error)):
        CALLS[operation](sink)

    assert count(sink, operation) == 1


def test_a_put_is_not_tried_again(sink: SimulatedSink) -> None:
    """Its chunks are gone: a second try would store the rest of them as the whole."""
    sink.fail("put", SinkUnavailableError("503"))
    with pytest.raises(SinkUnavailableError):
        sink.put("new", iter([b"a", b"b"]))

    assert count(sink, "put") == 1


def test_a_lost_reply_is_success(sink: SimulatedSink) -> None:
    """The second try meets our own object, and it holds what it should."""
    sink.fail("put_exclusive reply", SinkUnavailableError("reset"), times=1)
    sink.put_exclusive("new", b"{}")

    assert sink.place.objects["new"].data == b"{}"
    assert count(sink, "put_exclusive") == 2


def test_a_lost_reply_does_not_hide_a_conflict(sink: SimulatedSink) -> None:
    """Somebody else's bytes are not ours, whatever was lost."""
    sink.fail("put_exclusive", SinkUnavailableError("reset"), times=1)
    sink.on("put_exclusive", lambda key: sink.place.objects.update({key: sink.place.objects[KEY]}))
    with pytest.raises(ObjectExistsError):
        sink.put_exclusive("new", DATA[:-1] + b"?")

    assert sink.place.objects["new"].data == DATA


def test_a_stop_ends_the_tries(sink: SimulatedSink) -> None:
    """A run that is told to end does not wait for the sink's next try."""
    stop = Stop()
    sink = SimulatedSink(stop=stop)
    sink.on("list", lambda _key: stop.request(signal.SIGTERM))
    sink.fail("list", SinkUnavailableError("503"))
    with pytest.raises(SignalledError):
        sink.list()

    assert count(sink, "list") == 1


# -- open


def test_a_broken_stream_is_taken_up_where_it_broke(sink: SimulatedSink) -> None:
    """However often, as long as it gets further."""
    breaks = [1, 70_000, 70_001, 100_000, 131_072, 200_000, len(DATA) - 1]
    for at in breaks:
        sink.tear(KEY, at=at, error=SinkUnavailableError("reset"), times=1)

    assert b"".join(sink.open(KEY)) == DATA
    assert sink.offsets == [0, *breaks]


def test_a_stream_that_gets_no_further_is_given_up(sink: SimulatedSink) -> None:
    """What it gave before stays given; the offset stays the one reached."""
    sink.tear(KEY, at=100_000, error=SinkUnavailableError("reset"))
    given = bytearray()
    with pytest.raises(SinkUnavailableError, match="reset"):
        drain(sink, given)

    assert bytes(given) == DATA[:100_000]
    assert sink.offsets == [0, *[100_000] * (ATTEMPTS - 1)]


def test_a_stream_that_breaks_for_good_is_not_reopened(sink: SimulatedSink) -> None:
    """An object that was deleted while it was read is gone."""
    sink.tear(KEY, at=100_000, error=ObjectMissingError("gone"))
    with pytest.raises(ObjectMissingError):
        drain(sink, bytearray())

    assert sink.offsets == [0]


def test_a_stop_ends_the_wait_for_a_stream(sink: SimulatedSink) -> None:
    """Between two openings it is asked too."""
    stop = Stop()
    sink = SimulatedSink(stop=stop)
    sink.on("open", lambda _key: stop.request(signal.SIGTERM))
    sink.fail("open", SinkUnavailableError("503"))
    with pytest.raises(SignalledError):
        drain(sink, bytearray())

    assert count(sink, "open") == 1


# -- list


class SlowSink(SimulatedSink):
    """A sink whose listing takes its time for each page."""

    seconds = 0.0

    def _list(self) -> Iterator[Object]:
        objects = super()._list()
        while page := list(islice(objects, PAGE_OBJECTS)):
            self._released.wait(self.seconds)
            yield from page


@pytest.fixture
def slow() -> SlowSink:
    """Make one with six pages of objects."""
    sink = SlowSink(stall_seconds=0.8)
    held = Held(b"", datetime.now(UTC))
    sink.place.objects.update({f"journal-a-0/{n:05}": held for n in range(6 * PAGE_OBJECTS)})
    return sink


def test_a_long_listing_is_not_a_stalled_one(slow: SlowSink) -> None:
    """A sink with years of backups takes longer to list than any call may hang."""
    slow.seconds = 0.2

    begun = time.monotonic()
    found = slow.list()

    assert len(found) == 6 * PAGE_OBJECTS
    assert time.monotonic() - begun > slow._stall_seconds


def test_a_listing_that_hangs_midway_is_given_up(slow: SlowSink) -> None:
    """Half a listing would pass for a sink that lacks the other half."""
    slow.seconds = 60
    try:
        with pytest.raises(SinkStalledError, match=r"cannot list: no answer for 0\.8 s"):
            slow.list()
    finally:
        slow.release()

    assert count(slow, "list") == 1


# -- declared errors


@pytest.mark.parametrize("operation", sorted(CALLS))
@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "EIO"),
        ValueError("v"),
        KeyError("k"),
        StopIteration(),
        RuntimeError(),
        EOFError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_only_declared_errors_leave(sink: SimulatedSink, operation: str, error: Exception) -> None:
    """Whatever the code beneath raises, callers have one family to catch; the cause is kept."""
    sink.fail(operation, error)
    with pytest.raises(SinkError, match="memory://one: cannot") as caught:
        CALLS[operation](sink)

    assert caught.value.__cause__ is not None


class EagerSink(SimulatedSink):
    """A sink whose private methods do their work before they give an iterator."""

    def _list(self) -> Iterator[Object]:
        raise ValueError

    def _open(self, key: str, offset: int) -> Iterator[bytes]:
        raise ValueError


def test_only_declared_errors_leave_before_the_first_item() -> None:
    """An SDK's first request is made when it is called, or when it is asked for an item."""
    for operation in ("list", "open"):
        with pytest.raises(SinkError, match="ValueError"):
            CALLS[operation](EagerSink())


@pytest.mark.parametrize("operation", sorted(CALLS))
def test_the_end_of_the_process_is_no_error(sink: SimulatedSink, operation: str) -> None:
    """What is no Exception is not dressed up as one."""
    sink.crash_before(1)
    with pytest.raises(CrashError):
        CALLS[operation](sink)


def test_damage_is_not_taken_for_an_outage(sink: SimulatedSink) -> None:
    """A read-back that differs is declared as what it is."""
    sink.fail("size", ReadbackError("differs"), times=ATTEMPTS)
    with pytest.raises(ReadbackError):
        sink.size(KEY)


def test_a_sink_reads_as_its_url(sink: SimulatedSink) -> None:
    """Messages begin with it."""
    assert str(sink) == sink.url == "memory://one"
