"""The open sink: read once, and not waited for twice."""

from __future__ import annotations

import pytest

from backup.catalog import OpenSink, manifest_key, mark_key
from backup.catalog.opened import REMEMBERED, REMEMBERED_BYTES
from backup.catalog.selection import Chosen, judge
from backup.errors import ObjectMissingError, SinkDeniedError, SinkStalledError
from tests.handmade import JOURNAL, Chain, mark, put
from tests.journal_data import records
from tests.simulated_sink import SimulatedSink


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


def test_a_manifest_and_a_mark_are_read_once(sink: SimulatedSink) -> None:
    """Whatever is judged in a run by what they say."""
    made = Chain(sink).full(records(3))
    opened = OpenSink(sink)
    opened.mark(mark("delivered", made.id))
    sink.calls.clear()

    for _ in range(2):
        assert opened.manifest(JOURNAL, made.id).manifest == made
        assert opened.newest(JOURNAL)[0] == opened.manifest(JOURNAL, made.id)
        assert judge(Chosen(opened, opened.listing.backups(JOURNAL)[0]))[1] is None
        assert opened.marked("delivered", JOURNAL, made.id).id == made.id
    opens = [key for operation, key in sink.calls if operation == "open"]
    assert opens == [manifest_key(JOURNAL, made.id), mark_key("delivered", JOURNAL, made.id)]


def test_what_could_not_be_read_is_asked_for_again(sink: SimulatedSink) -> None:
    """It was refused, or was not there yet: the next answer may be another one."""
    made = Chain(sink).full(records(3))
    opened = OpenSink(sink)
    sink.fail("open", SinkDeniedError("403"), times=1)

    with pytest.raises(SinkDeniedError):
        opened.manifest(JOURNAL, made.id)
    assert opened.lost is None
    with pytest.raises(ObjectMissingError):
        opened.marked("delivered", JOURNAL, made.id)
    opened.mark(mark("delivered", made.id))
    assert opened.marked("delivered", JOURNAL, made.id).id == made.id
    assert opened.manifest(JOURNAL, made.id).manifest == made


def test_a_sink_that_hangs_is_lost(sink: SimulatedSink) -> None:
    """For the whole run; and it is the first reason that is told."""
    made = Chain(sink).full(records(3))
    opened = OpenSink(sink)
    sink.fail("open", SinkStalledError("no answer"))

    with pytest.raises(SinkStalledError) as caught:
        opened.manifest(JOURNAL, made.id)
    opened.give_up(SinkDeniedError("403"))
    assert opened.lost is caught.value


def test_what_is_remembered_is_bounded(sink: SimulatedSink) -> None:
    """10,000 backups, and manifests of 8 MiB, are read in constant memory."""
    opened = OpenSink(sink)
    large, *keys = (f"{n}.json" for n in range(REMEMBERED + 2))
    put(sink, large, b"x" * (REMEMBERED_BYTES + 1))
    for key in keys:
        put(sink, key, b"x" * REMEMBERED_BYTES)

    def opens(key: str) -> int:
        sink.calls.clear()
        for _ in range(2):
            opened.read(key)
        return sink.calls.count(("open", key))

    assert opens(large) == 2
    assert [opens(key) for key in keys] == [1] * len(keys)
    assert opens(keys[0]) == 1, "it had to go for the last one"
    assert opens(keys[-1]) == 0
