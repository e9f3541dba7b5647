"""What every sink does, whatever it is made of: the promises in :mod:`backup.sinks.base`."""

from __future__ import annotations

import builtins
import errno
import hashlib
import inspect
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from backup.catalog import Catalog, Stored
from backup.errors import (
    BackupError,
    DeadlineError,
    JournalChangedError,
    ObjectExistsError,
    ObjectMissingError,
    SinkDeniedError,
    SinkError,
    SinkStalledError,
    SinkUnavailableError,
    StreamAbortedError,
)
from backup.sinks import Sink
from backup.sinks.base import SMALL_BYTES
from backup.stop import Stop
from backup.streams import fan_out
from tests.contract.backends import STALL_SECONDS, Place, enforcing

DIRECTORY = "journal-deepgram-billing-0"
ARCHIVE = f"{DIRECTORY}/{DIRECTORY}-20261123T120000Z-3f9a1c.tar.gz"
MARK = f"{DIRECTORY}/{DIRECTORY}-20261123T120000Z-3f9a1c.manifest.json"
HOUR = timedelta(hours=1)

ODD_KEYS = (
    "",
    " ",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../escaped",
    f"{DIRECTORY}/../escaped",
    f"{DIRECTORY}/..",
    f"{DIRECTORY}/",
    f"{DIRECTORY}//x",
    f"{DIRECTORY}/deeper/x",
    f"{DIRECTORY}/.hidden",
    f"{DIRECTORY}/with blank",
    f"{DIRECTORY}/with\nnewline",
    f"{DIRECTORY}/x\n",
    f"{DIRECTORY}/x\0",
    f"{DIRECTORY}/tilde~",
    f"{DIRECTORY}/ünïcode",
    f"{DIRECTORY}/\uff0e\uff0e",
    f"{DIRECTORY}\\x",
    "models/weights",
    f"{DIRECTORY}/{'x' * 201}",
    f"journal-{'x' * 193}/x",
)

METHODS: dict[str, Callable[[Sink, str], object]] = {
    "put": lambda sink, key: sink.put(key, [b"x"]),
    "put_exclusive": lambda sink, key: sink.put_exclusive(key, b"x"),
    "open": lambda sink, key: b"".join(sink.open(key)),
    "read": lambda sink, key: sink.read(key),
    "size": lambda sink, key: sink.size(key),
    "delete": lambda sink, key: sink.delete(key),
}
WAITING: dict[str, Callable[[Sink], object]] = {
    "probe": lambda sink: sink.probe(),
    "put_exclusive": lambda sink: sink.put_exclusive(f"{DIRECTORY}/new", b"x"),
    "read": lambda sink: sink.read(ARCHIVE),
    "list": lambda sink: sink.list(),
    "size": lambda sink: sink.size(ARCHIVE),
    "delete": lambda sink: sink.delete(f"{DIRECTORY}/old"),
}


def every_exception() -> list[Exception]:
    """Make one of each exception that Python and the operating system know, and two of ours."""
    made: list[Exception] = [OSError(code, name) for code, name in sorted(errno.errorcode.items())]
    for kind in vars(builtins).values():
        if inspect.isclass(kind) and issubclass(kind, Exception):
            try:
                made.append(kind("because"))
            except TypeError:  # it wants more arguments
                continue
    return [*made, StreamAbortedError("the source failed"), JournalChangedError("it changed")]


def breaking(error: Exception) -> Iterator[bytes]:
    """Give some data, and fail."""
    yield b"some data"
    raise error


def content(sink: Sink, key: str, offset: int = 0) -> bytes:
    """Read an object as a stream."""
    return b"".join(sink.open(key, offset))


def keys(sink: Sink) -> list[str]:
    """List the keys."""
    return [o.key for o in sink.list()]


def failure(run: Callable[[], object]) -> BaseException | None:
    """Give what a call raises."""
    try:
        run()
    except BaseException as error:  # noqa: BLE001 - a test looks at whatever it is
        return error
    return None


# -- probe


def test_a_probe_leaves_nothing(sink: Sink, place: Place) -> None:
    """It runs before every backup; its traces would add up."""
    sink.probe()
    sink.probe()

    assert keys(sink) == []
    assert place.remains() == []


# -- put


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([b"in one"], id="one"),
        pytest.param([b"a", b"", b"bc", b"d" * 100], id="uneven"),
        pytest.param([bytes([i]) * (1 << 18) for i in range(13)], id="large"),
        pytest.param([b""], id="empty-chunk"),
        pytest.param([], id="no-chunk"),
    ],
)
def test_put_stores_what_streams_in(sink: Sink, place: Place, chunks: list[bytes]) -> None:
    """Byte for byte, however it is cut; nothing at all is an object too."""
    data = b"".join(chunks)

    sink.put(ARCHIVE, iter(chunks))

    assert content(sink, ARCHIVE) == data
    assert sink.size(ARCHIVE) == len(data)
    assert [(o.key, o.size_bytes) for o in sink.list()] == [(ARCHIVE, len(data))]
    assert place.remains() == []


def test_put_leaves_nothing_when_its_source_fails(sink: Sink, place: Place) -> None:
    """Half an archive must not look whole; and whatever the source raised is a declared error."""
    for error in every_exception():
        raised = failure(partial(sink.put, ARCHIVE, breaking(error)))

        assert isinstance(raised, BackupError), error
        assert not isinstance(error, BackupError) or raised is error
    assert keys(sink) == []
    assert place.remains() == []


def test_put_works_again_after_a_failure(sink: Sink) -> None:
    """What was left behind, if anything, is not in the way."""
    failure(lambda: sink.put(ARCHIVE, breaking(ValueError())))

    sink.put(ARCHIVE, [b"whole"])

    assert content(sink, ARCHIVE) == b"whole"


@enforcing("exclusive")
@pytest.mark.parametrize("first", ["put", "put_exclusive"])
def test_put_never_overwrites(sink: Sink, place: Place, first: str) -> None:
    """What is stored is evidence, be it by a put of the very same bytes."""
    if first == "put":
        sink.put(ARCHIVE, [b"original"])
    else:
        sink.put_exclusive(ARCHIVE, b"original")

    for data in (b"other", b"", b"original", b"original and more"):
        with pytest.raises(ObjectExistsError):
            sink.put(ARCHIVE, [data])

    assert content(sink, ARCHIVE) == b"original"
    assert place.remains() == []


# -- put_exclusive


def test_put_exclusive_stores_the_bytes(sink: Sink, place: Place) -> None:
    """As put does; an empty object is one."""
    sink.put_exclusive(MARK, b"{}")
    sink.put_exclusive(ARCHIVE, b"")

    assert sink.read(MARK) == b"{}"
    assert sink.read(ARCHIVE) == b""
    assert place.remains() == []


@enforcing("exclusive")
def test_put_exclusive_of_the_same_bytes_succeeds(sink: Sink, place: Place) -> None:
    """A lost reply makes our own success look like a conflict."""
    for key, data in (("x", b""), ("y", b"{}"), ("z", b"x" * 100_000)):
        sink.put_exclusive(key, data)
        sink.put_exclusive(key, data)

        assert sink.read(key) == data
    assert place.remains() == []


@enforcing("exclusive")
def test_put_exclusive_of_other_bytes_is_a_conflict(sink: Sink, place: Place) -> None:
    """A manifest is never overwritten."""
    sink.put_exclusive(MARK, b"original")

    for data in (b"", b"origina", b"originaL", b"original and more"):
        with pytest.raises(ObjectExistsError):
            sink.put_exclusive(MARK, data)

    assert sink.read(MARK) == b"original"
    assert place.remains() == []


@enforcing("exclusive")
def test_put_exclusive_does_not_read_a_large_object_to_refuse_it(sink: Sink) -> None:
    """The answer is a conflict, and not that the object is too large to be compared."""
    sink.put(MARK, [b"x" * (SMALL_BYTES + 1)])

    with pytest.raises(ObjectExistsError):
        sink.put_exclusive(MARK, b"{}")


# -- several writers


@enforcing("exclusive")
def test_of_concurrent_puts_exactly_one_wins(place: Place) -> None:
    """All have sent half of their data before any of them ends; the object is the winner's."""
    met = threading.Barrier(4, timeout=30)

    def write(number: int) -> BaseException | None:
        half = bytes([number]) * 70_000

        def chunks() -> Iterator[bytes]:
            yield half
            met.wait()
            yield half

        return failure(lambda: place.sink().put(ARCHIVE, chunks()))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, range(4)))

    winners = [number for number, error in enumerate(results) if error is None]
    assert len(winners) == 1
    assert [type(e) for e in results if e] == [ObjectExistsError] * 3
    assert content(place.sink(), ARCHIVE) == bytes(winners) * 140_000
    assert place.remains() == []


@enforcing("exclusive")
def test_of_concurrent_exclusive_puts_exactly_one_wins(place: Place) -> None:
    """Two runs may commit at once: one manifest stands, and the other run hears of it."""
    met = threading.Barrier(4, timeout=30)

    def write(number: int) -> BaseException | None:
        sink = place.sink()
        met.wait()
        return failure(lambda: sink.put_exclusive(MARK, bytes([number]) * 1_000))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(write, range(4)))

    winners = [number for number, error in enumerate(results) if error is None]
    assert len(winners) == 1
    assert [type(e) for e in results if e] == [ObjectExistsError] * 3
    assert place.sink().read(MARK) == bytes(winners) * 1_000
    assert place.remains() == []


def test_another_process_sees_what_was_stored(sink: Sink, place: Place) -> None:
    """The next run is another process, perhaps on another node."""
    sink.put(ARCHIVE, [b"data"])

    assert content(place.sink(), ARCHIVE) == b"data"


# -- what goes wrong on the way

LARGE = bytes(range(256)) * (9 << 12)
"""9 MiB: more than one part, where a store takes parts."""


@enforcing("faults")
def test_who_is_refused_is_told_so_at_once(place: Place) -> None:
    """It will not pass, so nothing is repeated, and the message says what is missing."""
    place.sink().put(ARCHIVE, [b"x"])
    with place.faulty("denied") as sink:
        begun = time.monotonic()
        raised = {name: failure(partial(call, sink, ARCHIVE)) for name, call in METHODS.items()}
        raised |= {"probe": failure(sink.probe), "list": failure(sink.list)}
        seconds = time.monotonic() - begun

    assert {n: type(e) for n, e in raised.items()} == dict.fromkeys(raised, SinkDeniedError)
    assert seconds < 5


@enforcing("faults")
def test_what_changed_on_the_way_never_counts_as_stored(
    place: Place, request: pytest.FixtureRequest
) -> None:
    """Either the store refuses it, as its backend declares, or the read-back finds it."""
    enforces = request.node.callspec.params["place"].enforces
    sent = hashlib.sha256(LARGE).hexdigest()
    with place.faulty("changed") as sink:
        store = partial(Catalog(sink).store, ARCHIVE, max_bytes=len(LARGE), readback="full")
        came = fan_out(
            [LARGE],
            {1: lambda feed: store(feed, stop=Stop())},
            stop=Stop(),
            stall_seconds=STALL_SECONDS,
        )[1]

    if "checksum" in enforces:
        assert isinstance(came, SinkError)
        assert came.transient, "another try may go well"
    else:
        assert isinstance(came, Stored)
        assert (came.size_bytes, came.sha256 == sent) == (len(LARGE), False)


@enforcing("faults", "cut")
def test_a_put_that_is_cut_leaves_nothing(place: Place) -> None:
    """Half an archive must not look whole, nor cost anything."""
    with place.faulty("cut") as sink:
        raised = failure(lambda: sink.put(ARCHIVE, [LARGE], max_bytes=len(LARGE)))

    assert isinstance(raised, SinkUnavailableError)
    assert keys(place.sink()) == []
    assert place.remains() == []


@enforcing("faults")
def test_a_stream_that_is_torn_goes_on_where_it_broke(place: Place) -> None:
    """Not from the begin: an archive may be large, and the link bad."""
    place.sink().put(ARCHIVE, [LARGE])
    with place.faulty("torn") as sink:
        held = content(sink, ARCHIVE)

    assert held == LARGE


# -- open, read, size


def test_open_reads_from_an_offset_on(sink: Sink) -> None:
    """A broken stream is taken up where it broke, even if that is the end."""
    data = b"".join(i.to_bytes(4) for i in range((3 << 20) // 4))
    sink.put(ARCHIVE, [data])

    for offset in (0, 1, 65_535, 65_536, 1 << 20, (3 << 20) - 1, 3 << 20):
        assert content(sink, ARCHIVE, offset) == data[offset:]


def test_an_empty_object_is_read_as_nothing(sink: Sink) -> None:
    """It is there, and it ends at once."""
    sink.put(ARCHIVE, [])

    assert content(sink, ARCHIVE) == b""
    assert sink.read(ARCHIVE, limit=0) == b""
    assert sink.size(ARCHIVE) == 0


def test_a_missing_object_is_told(sink: Sink) -> None:
    """As such: not as an empty one, nor as a sink that is gone; alone, and beside another."""
    for _ in range(2):
        for method in ("open", "read", "size"):
            with pytest.raises(ObjectMissingError):
                METHODS[method](sink, ARCHIVE)
        sink.put_exclusive(MARK, b"{}")


def test_read_takes_no_more_than_its_limit(sink: Sink) -> None:
    """Memory is bounded, whatever somebody put under a manifest's name."""
    sink.put(MARK, [b"x" * 1_000])

    assert sink.read(MARK, limit=1_000) == b"x" * 1_000
    with pytest.raises(SinkError, match="larger than 999 bytes"):
        sink.read(MARK, limit=999)


# -- list


def test_list_is_sorted_by_key(sink: Sink) -> None:
    """Whatever order the store has; ids are made to sort."""
    mixed = ["b", f"{DIRECTORY}/b", "a", f"{DIRECTORY}/a", "journal-a-1/x", "B", "a-b", "a.b"]
    for key in mixed:
        sink.put_exclusive(key, key.encode())

    assert keys(sink) == sorted(mixed)


def test_list_tells_size_and_time(sink: Sink) -> None:
    """Both by the store's own account: what is swept is decided by it."""
    sink.put(ARCHIVE, [b"12345"])

    (found,) = sink.list()

    assert found.size_bytes == 5
    assert abs(found.modified_at - datetime.now(UTC)) < HOUR


def test_list_is_empty_where_nothing_is(sink: Sink) -> None:
    """The first run meets this."""
    assert sink.list() == []


def test_list_knows_no_end(sink: Sink, place: Place) -> None:
    """Stores give at most 1,000 keys at a time."""
    many = [f"{DIRECTORY}/{n:05}" for n in range(1_050)]
    place.plant(many)

    assert keys(sink) == many


def test_list_gives_no_foreign_names_out(sink: Sink, place: Place) -> None:
    """A volume may hold model weights, other sites' prefixes and anybody's files."""
    sink.put_exclusive(ARCHIVE, b"")
    place.plant(
        [
            "models/weights.dg",
            "another-site/journal-deepgram-billing-0/x",
            f"{DIRECTORY}/deeper/x",
            f"{DIRECTORY}/.hidden",
            ".hidden",
            f"{DIRECTORY}/with blank",
            f"{DIRECTORY}/ünïcode",
            f"{DIRECTORY}/{'x' * 201}",
        ]
    )

    assert keys(sink) == [ARCHIVE]


# -- delete, sweep


def test_delete_is_idempotent(sink: Sink) -> None:
    """What is gone is gone, whoever removed it; its neighbours stay."""
    sink.put(ARCHIVE, [b"x"])
    sink.put(MARK, [b"x"])

    sink.delete(ARCHIVE)
    sink.delete(ARCHIVE)
    sink.delete("journal-never-0/was")

    assert keys(sink) == [MARK]


def test_a_deleted_key_is_free(sink: Sink) -> None:
    """Nothing remembers it."""
    sink.put(ARCHIVE, [b"old"])
    sink.delete(ARCHIVE)
    sink.put(ARCHIVE, [b"new"])

    assert content(sink, ARCHIVE) == b"new"


@enforcing("sweep")
def test_sweep_takes_what_is_old_and_ours(sink: Sink, place: Place) -> None:
    """A killed put leaves data that no key shows, and that somebody pays for."""
    sink.put(MARK, [b"{}"])
    place.interrupt(ARCHIVE)
    assert keys(sink) == [MARK]
    assert len(place.remains()) == 1

    assert sink.sweep(datetime.now(UTC) - HOUR) == 0, "a put may be under way"
    assert len(place.remains()) == 1

    assert sink.sweep(datetime.now(UTC) + HOUR) == 1
    assert place.remains() == []
    assert sink.sweep(datetime.now(UTC) + HOUR) == 0
    assert keys(sink) == [MARK]


def test_sweep_leaves_foreign_things_alone(sink: Sink, place: Place) -> None:
    """Also those that look a little like ours."""
    foreign = [
        ".film.0123abcd.part",
        "models/.x.0123abcd.part",
        f"{DIRECTORY}/.x.part",
        f"{DIRECTORY}/.x.0123ABCD.part",
        f"{DIRECTORY}/x.0123abcd.part",
        f"{DIRECTORY}/.x.0123abcd.part.txt",
        f"{DIRECTORY}/deeper/.x.0123abcd.part",
    ]
    place.plant(foreign)
    before = place.remains()

    assert sink.sweep(datetime.now(UTC) + HOUR) == 0
    assert place.remains() == before
    assert keys(sink) == [f"{DIRECTORY}/x.0123abcd.part"]


# -- keys


def test_odd_keys_are_refused(sink: Sink, place: Place) -> None:
    """No crap in, no crap out; nothing leaves the prefix."""
    for key, call in itertools.product(ODD_KEYS, METHODS.values()):
        with pytest.raises(SinkError, match="is not a valid key"):
            call(sink, key)

    assert place.remains() == []
    assert keys(sink) == []


def test_every_valid_key_can_be_stored(sink: Sink) -> None:
    """At its greatest length too, with whatever a sink adds to it for a while."""
    valid = ["X-1.2_3", f"journal-{'j' * 192}/{'x' * 200}", "x", "x" * 200]
    for key in valid:
        sink.put(key, [b"x"])

    assert keys(sink) == valid


# -- room


def test_room_is_known_where_there_is_an_end_to_it(sink: Sink) -> None:
    """Of a directory; object stores know of none."""
    free = sink.free_bytes()

    assert (free is not None) == sink.url.startswith("file://")
    assert free is None or free > 0


# -- errors


def test_every_exception_is_translated(sink: Sink) -> None:
    """Only declared errors leave a sink, and they say which one and what it was doing."""
    for error in every_exception():
        said = sink._translate("do this", error)

        assert isinstance(said, SinkError)
        assert str(sink) in said.message
        assert "None" not in said.message


# -- hanging


def while_stuck(place: Place, sink: Sink) -> tuple[dict[str, BaseException | None], float]:
    """Call everything at once while all hangs; give what each raised, and the seconds it took."""
    with ThreadPoolExecutor(len(WAITING)) as pool, place.stuck():
        begun = time.monotonic()
        calls = {n: pool.submit(failure, partial(c, sink)) for n, c in WAITING.items()}
        raised = {name: call.result() for name, call in calls.items()}
        return raised, time.monotonic() - begun


@enforcing("stuck")
def test_a_call_that_hangs_is_given_up(place: Place) -> None:
    """Nobody waits for a dead file server longer than it may stall; no second try hangs again."""
    place.sink().put(ARCHIVE, [b"x"])
    sink = place.sink(stall_seconds=0.3)

    raised, seconds = while_stuck(place, sink)

    assert {n: type(e) for n, e in raised.items()} == dict.fromkeys(WAITING, SinkStalledError)
    assert all(str(sink) in str(e) for e in raised.values())
    assert seconds < 5


@enforcing("stuck", "sweep")
def test_a_sweep_that_hangs_is_given_up(place: Place) -> None:
    """Where there is something to look for."""
    sink = place.sink(stall_seconds=0.3)

    with place.stuck(), pytest.raises(SinkStalledError, match="no answer"):
        sink.sweep(datetime.now(UTC))


@enforcing("stuck")
def test_a_stop_reaches_a_call_that_hangs(place: Place) -> None:
    """A run that was told to end does not wait until a sink counts as stalled."""
    place.sink().put(ARCHIVE, [b"x"])
    sink = place.sink(stop=Stop(seconds=0.3))

    raised, seconds = while_stuck(place, sink)

    assert {n: type(e) for n, e in raised.items()} == dict.fromkeys(WAITING, DeadlineError)
    assert seconds < 5


@enforcing("stuck")
def test_a_put_that_hangs_is_dropped_from_its_stream(place: Place) -> None:
    """Its neighbour, which does not hang, gets everything; and so does it, once it lives again."""
    hanging = place.sink()

    def store(chunks: Iterator[bytes]) -> str:
        hanging.put(ARCHIVE, chunks)
        return "stored"

    with place.stuck():
        result = fan_out(
            [b"x"] * 9,
            {"stuck": store, "good": lambda feed: b"".join(feed).decode()},
            stop=Stop(),
            stall_seconds=0.3,
        )

    assert type(result["stuck"]) is SinkStalledError
    assert result["good"] == "x" * 9


def test_a_stop_ends_a_stream(place: Place) -> None:
    """Also one that gives data without end."""
    stop = Stop()
    place.sink().put(ARCHIVE, [b"x" * (4 << 20)])
    stream = place.sink(stop=stop).open(ARCHIVE)
    next(stream)

    stop.request(signal.SIGTERM)

    with pytest.raises(BackupError, match="stopped by SIGTERM"):
        next(stream)
