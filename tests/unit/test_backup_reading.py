"""A journal that changes under a run: what is read again, what is given up, what is still told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.errors import (
    DeadlineError,
    JournalChangedError,
    SinkDeniedError,
    SinkUnavailableError,
)
from backup.events import BackupCommitted, Event, PassRepeated, Progressed
from backup.journals import reading
from backup.stop import Stop
from tests.journal_data import (
    NAME,
    Events,
    Meddler,
    append,
    contents,
    exit_code,
    manifests,
    overwrite,
    records,
    replace_file,
    run_backup,
    said,
    states,
    stored_journal,
    write_journal,
)
from tests.simulated_sink import SimulatedSink

BIG = records(2_000) * 4
"""More than the pieces in which a file is read: 1 MiB each."""

BUSY = SinkUnavailableError("503 slow down")
Change = Callable[[Path], object]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume."""
    source = tmp_path / "journals"
    source.mkdir()
    return source


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


@pytest.fixture
def sinks() -> list[SimulatedSink]:
    """Make two sinks; the second one is busy once."""
    first, second = SimulatedSink("first"), SimulatedSink("second")
    second.fail("put", BUSY, times=1)
    return [first, second]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at holes often, so that nothing really waits."""
    monkeypatch.setattr(reading, "HOLE_POLL_SECONDS", 0.01)


def once(act: Callable[[], object]) -> Callable[[str], None]:
    """Act at the first call only."""
    left = [act]

    def meet(_key: str) -> None:
        if left:
            left.pop()()

    return meet


CHANGES = [
    pytest.param(lambda path: os.truncate(path, path.stat().st_size - 999), id="truncated"),
    pytest.param(lambda path: replace_file(path, path.read_bytes()), id="replaced"),
    pytest.param(lambda path: replace_file(path, BIG[: len(BIG) // 2]), id="replaced-shorter"),
]


# -- while it is read


def test_reads_the_prefix_while_billing_appends(source: Path, sink: SimulatedSink) -> None:
    """What comes after the bound is tomorrow's, and no reason to read again."""
    path = write_journal(source, 0, BIG)
    events = Meddler(lambda: append(path, records(5)))

    result = run_backup(source, [sink], emit=events)

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == BIG
    assert events.of(PassRepeated) == []


@pytest.mark.parametrize("change", CHANGES)
def test_changed_once_is_captured_anew(source: Path, sink: SimulatedSink, change: Change) -> None:
    """The second capture has a bound of its own; what is stored ends with a record."""
    path = write_journal(source, 0, BIG)
    events = Meddler(lambda: change(path))

    result = run_backup(source, [sink], emit=events)

    assert exit_code(result) == 0
    assert len(events.of(PassRepeated)) == 1
    assert "changed while it was read" in events.of(PassRepeated)[0].reason
    now = path.read_bytes()
    assert stored_journal(sink.place) == now[: now.rindex(b"\n") + 1]
    assert result.journals[0].size_bytes == len(stored_journal(sink.place))


@pytest.mark.parametrize("change", CHANGES)
def test_changed_twice_is_given_up(source: Path, sink: SimulatedSink, change: Change) -> None:
    """Exit 4, nothing is stored, not even half; another journal is not held up by it."""
    path = write_journal(source, 0, BIG)
    write_journal(source, 1, records(3))
    events = Meddler(lambda: change(path), readings=9)

    result = run_backup(source, [sink], emit=lambda e: events(e) if of(e) else None)

    assert exit_code(result) == 4
    assert states(result) == {0: "unreadable", 1: "backed up"}
    assert len(events.of(PassRepeated)) == 1
    assert not [key for key in sink.place.objects if key.startswith(NAME)]
    outcome = result.journals[0]
    assert outcome.found
    assert [c.sink for c in outcome.copies] == [sink.url]
    error = outcome.copies[0].error
    assert isinstance(error, JournalChangedError)
    assert error.message in said(result)
    assert len(result.problems) == 1


def of(event: Event) -> bool:
    """Tell the first journal's events from the second's."""
    return getattr(event, "subject", None) in {None, NAME}


def test_removed_while_it_is_read(source: Path, sink: SimulatedSink) -> None:
    """A second look finds no journal: exit 4, and the cause."""
    path = write_journal(source, 0, BIG)

    result = run_backup(source, [sink], emit=Meddler(path.unlink))

    assert (exit_code(result), states(result)) == (4, {0: "unreadable"})
    assert "it has no file 'journal'" in said(result)
    assert sink.place.keys() == []


def test_rewritten_in_place_is_told_by_the_next_run(source: Path, sink: SimulatedSink) -> None:
    """No stat shows it: what was read is what is stored, and the prefix will not match."""
    path = write_journal(source, 0, BIG)
    run_backup(source, [sink], emit=Meddler(lambda: overwrite(path, 0, b'{"x"')))
    stored = stored_journal(sink.place)

    result = run_backup(source, [sink])

    assert stored == BIG
    assert exit_code(result) == 6
    assert [m.continuity for m in manifests(sink.place)] == ["first", "rewritten"]


@pytest.mark.parametrize(
    "change",
    [lambda path: append(path, b"x"), lambda path: overwrite(path, 0, b"x")],
    ids=["appended", "overwritten"],
)
def test_quiesced_but_written_is_given_up(
    source: Path, sink: SimulatedSink, change: Change
) -> None:
    """Billing is not stopped, whatever somebody believes."""
    path = write_journal(source, 0, BIG)
    os.utime(path, ns=(1, 1))
    ticks = iter(range(2, 99))

    def write() -> None:
        change(path)
        os.utime(path, ns=(1, next(ticks)))

    result = run_backup(source, [sink], emit=Meddler(write, readings=9), strategy="scale-down")

    assert (exit_code(result), sink.place.keys()) == (4, [])
    assert "it was written although billing is stopped" in said(result)


# -- beside the journal


@pytest.fixture
def extra(source: Path) -> Path:
    """Make a journal, and a file beside it that is read in several pieces."""
    path = write_journal(source, 0, BIG).with_name("offset")
    path.write_bytes(b"0" * (3 << 20))
    return path


def become_a_fifo(path: Path) -> None:
    """Leave nothing of a file but its name."""
    path.unlink()
    os.mkfifo(path)


GONE = [
    pytest.param(lambda path: path.unlink(), 1, "vanished", id="removed"),
    pytest.param(lambda path: replace_file(path, b"1"), 1, "another file", id="replaced"),
    pytest.param(lambda path: os.truncate(path, 9), 2, "it ended", id="truncated"),
    pytest.param(become_a_fifo, 1, "by a FIFO", id="fifo"),
]


@pytest.mark.parametrize(("change", "piece", "how"), GONE)
def test_what_changes_beside_the_journal_costs_it_nothing(
    sink: SimulatedSink, extra: Path, change: Change, piece: int, how: str
) -> None:
    """An offset that is replaced every second is no reason to have no backup of the records."""
    events = Meddler(lambda: change(extra), piece=piece)

    result = run_backup(extra.parent.parent, [sink], emit=events)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert contents(sink.place, manifests(sink.place)[0]) == {"journal": BIG}
    assert result.journals[0].passed_over == (("offset", "changed while it was read"),)
    assert result.journals[0].passed_over_count == 1
    assert len(events.of(PassRepeated)) == 1
    assert how in events.of(PassRepeated)[0].reason
    assert result.warnings == ()


def test_many_that_are_gone_cost_one_reading(source: Path, sink: SimulatedSink) -> None:
    """Somebody clears a directory: each of its files would cost a reading of the whole journal."""
    root = write_journal(source, 0, BIG).parent
    for number in range(9):
        (root / f"chunk-{number}").write_bytes(b"x")

    def clear() -> None:
        for number in range(7):
            (root / f"chunk-{number}").unlink()

    events = Meddler(clear, piece=1)

    result = run_backup(source, [sink], emit=events)

    assert exit_code(result) == 0
    assert set(contents(sink.place, manifests(sink.place)[0])) == {"chunk-7", "chunk-8", "journal"}
    assert len(events.of(PassRepeated)) == 1


def test_journal_is_read_after_what_is_beside_it(
    source: Path, sink: SimulatedSink, extra: Path
) -> None:
    """What fails there has then cost no reading of the journal."""
    extra.with_name("zz").write_bytes(b"z")

    run_backup(source, [sink])

    manifest = manifests(sink.place)[0]
    assert list(contents(sink.place, manifest)) == ["offset", "zz", "journal"]
    assert [f.path for f in manifest.files] == ["journal", "offset", "zz"]


def test_journal_that_changes_too_is_captured_anew(
    source: Path, sink: SimulatedSink, extra: Path
) -> None:
    """What was lost beside it did not use up its second chance."""
    events = Meddler(extra.unlink, piece=1)
    journal = Meddler(lambda: os.truncate(extra.with_name("journal"), BIG.index(b"\n") + 1))

    def both(event: Event) -> None:
        if events.of(PassRepeated):
            journal(event)
        events(event)

    result = run_backup(source, [sink], emit=both)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert len(events.of(PassRepeated)) == 2
    assert stored_journal(sink.place) == BIG[: BIG.index(b"\n") + 1]


def test_what_one_sink_holds_keeps_what_is_beside_the_journal(
    source: Path, sinks: list[SimulatedSink], extra: Path
) -> None:
    """One id means the same files everywhere: the other sink has to wait for tomorrow's."""
    sinks[0].on("put_exclusive", once(extra.unlink))

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (4, {0: "partial"})
    assert set(contents(sinks[0].place, manifests(sinks[0].place)[0])) == {"journal", "offset"}
    assert manifests(sinks[1].place) == []
    assert "offset' vanished while it was read" in said(result)


# -- between two readings


def test_second_pass_has_the_same_bound(source: Path, sinks: list[SimulatedSink]) -> None:
    """Billing has appended meanwhile: one id means the same bytes on every sink."""
    path = write_journal(source, 0, BIG)
    sinks[0].on("put_exclusive", once(lambda: append(path, records(7))))
    events = Events()

    result = run_backup(source, sinks, emit=events)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    first, second = (manifests(sink.place)[0] for sink in sinks)
    assert first.id == second.id
    assert first.files[0].sha256 == second.files[0].sha256
    assert second.archives[0].key.endswith(".2.tar.gz")
    assert stored_journal(sinks[1].place) == BIG
    assert result.journals[0].records == BIG.count(b"\n")
    assert [e.reason for e in events.of(PassRepeated)] == [
        f"a sink failed in a way that may pass: {BUSY}"
    ]


def test_second_pass_after_a_bad_readback_has_the_same_bound(
    source: Path, sink: SimulatedSink
) -> None:
    """The damaged archive goes, and the next one holds what the first should have held."""
    path = write_journal(source, 0, BIG)
    sink.flip("*-??????.tar.gz")
    sink.on("delete", once(lambda: append(path, records(7))))

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == BIG
    archives = [key for key in sink.place.objects if key.endswith(".tar.gz")]
    assert archives == [manifests(sink.place)[0].archives[0].key]


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda path: overwrite(path, 2, b"X"), "was rewritten between two readings"),
        (lambda path: os.truncate(path, 100), "shrank to 100 bytes"),
        (lambda path: replace_file(path, BIG), "another file took its place"),
        (lambda path: overwrite(path, 5, b"\0"), "has a hole at byte 5, where it had none before"),
        (lambda path: path.unlink(), "vanished"),
    ],
    ids=["rewritten", "truncated", "replaced", "hole", "removed"],
)
def test_what_was_committed_is_told_though_the_second_pass_fails(
    source: Path, sinks: list[SimulatedSink], change: Change, how: str
) -> None:
    """One sink holds the backup: it is no less there because the journal has changed since."""
    path = write_journal(source, 0, BIG)
    sinks[0].on("put_exclusive", once(lambda: change(path)))

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (4, {0: "partial"})
    outcome = result.journals[0]
    kept, lost = outcome.copies
    assert (kept.sink, kept.id, kept.error) == (
        sinks[0].url,
        manifests(sinks[0].place)[0].id,
        None,
    )
    assert (lost.sink, lost.id, lost.error) == (sinks[1].url, None, BUSY)
    assert outcome.problem is not None
    assert how in outcome.problem.message
    assert outcome.records == BIG.count(b"\n")
    assert outcome.size_bytes == len(BIG)
    assert stored_journal(sinks[0].place) == BIG
    assert manifests(sinks[1].place) == []


def test_no_copy_yet_allows_a_new_capture(source: Path, sinks: list[SimulatedSink]) -> None:
    """Nothing bears the id so far, so the journal may be captured anew in the second pass."""
    path = write_journal(source, 0, BIG)
    sinks[0].fail("put", BUSY, times=1)
    half = BIG[: len(BIG) // 2]
    cut = half[: half.rindex(b"\n") + 1]

    def change(event: Event) -> None:
        if isinstance(event, PassRepeated) and path.stat().st_size > len(cut):
            os.truncate(path, len(cut))

    result = run_backup(source, sinks, emit=change)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert [stored_journal(sink.place) for sink in sinks] == [cut, cut]
    assert result.journals[0].records == cut.count(b"\n")


def test_complete_reading_is_not_compared_with_one_of_another_capture(
    source: Path, sink: SimulatedSink
) -> None:
    """The first one was put whole, and damaged there; the journal was truncated since."""
    path = write_journal(source, 0, BIG)
    sink.flip("*-??????.tar.gz")
    sink.on("delete", once(lambda: os.truncate(path, BIG.index(b"\n") + 1)))

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == BIG[: BIG.index(b"\n") + 1]


def test_rewritten_before_anything_was_committed(source: Path, sink: SimulatedSink) -> None:
    """Two readings of the same bytes differ: that alone must be told, and nothing kept."""
    path = write_journal(source, 0, BIG)
    sink.flip("*-??????.tar.gz")
    sink.on("delete", once(lambda: overwrite(path, 2, b"X")))

    result = run_backup(source, [sink])

    assert exit_code(result) == 6
    assert {p.exit_code for p in result.problems} == {4, 6}
    assert manifests(sink.place) == []


def test_readings_that_were_cut_short_are_not_compared(source: Path) -> None:
    """When every sink has dropped out nobody reads on: half a hash proves nothing."""
    write_journal(source, 0, BIG * 8)
    first, second = SimulatedSink("first"), SimulatedSink("second")
    first.fail("put", SinkDeniedError("no"))
    second.fail("put", BUSY, times=1)

    result = run_backup(source, [first, second])

    assert (exit_code(result), states(result)) == (3, {0: "partial"})
    assert stored_journal(second.place) == BIG * 8


def test_records_are_those_of_what_was_committed(source: Path) -> None:
    """A second pass that every sink leaves early does not make the first one's records fewer."""
    write_journal(source, 0, BIG * 8)
    first, second = SimulatedSink("first"), SimulatedSink("second")
    second.fail("put", BUSY)

    result = run_backup(source, [first, second])

    assert (exit_code(result), states(result)) == (3, {0: "partial"})
    assert result.journals[0].records == (BIG * 8).count(b"\n")


# -- holes


class Filler(Events):
    """Fills holes, one each time that a run says it has met one."""

    def __init__(self, path: Path, *holes: tuple[int, bytes]) -> None:
        super().__init__()
        self._path = path
        self._holes = list(holes)

    def __call__(self, event: Event) -> None:
        """Take an event."""
        super().__call__(event)
        if isinstance(event, PassRepeated) and self._holes:
            overwrite(self._path, *self._holes.pop(0))


def with_holes(source: Path, data: bytes, *offsets: int) -> tuple[Path, list[tuple[int, bytes]]]:
    """Write a journal where NFS has not delivered some bytes yet; give what belongs there."""
    path = write_journal(source, 0, data)
    for offset in offsets:
        overwrite(path, offset, b"\0\0\0")
    return path, [(offset, data[offset : offset + 3]) for offset in offsets]


def test_hole_that_is_filled_is_no_matter(source: Path, sink: SimulatedSink) -> None:
    """Exit 0; the event tells that it was read twice, and why."""
    path, holes = with_holes(source, BIG, 1_500_000)
    events = Filler(path, *holes)

    result = run_backup(source, [sink], emit=events, hole_seconds=30)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert [e.reason for e in events.of(PassRepeated)] == [
        f"{NAME} has a hole: a NUL at byte 1500000"
    ]
    assert stored_journal(sink.place) == BIG
    assert sink.place.keys()[0].endswith(".manifest.json")


def test_hole_that_stays_ends_the_bound(source: Path, sink: SimulatedSink) -> None:
    """Suspect, exit 4, and what is before it is kept; tomorrow's full one extends it."""
    path, holes = with_holes(source, BIG, 1_500_000)
    good = BIG[: BIG.rindex(b"\n", 0, 1_500_000) + 1]
    events = Events()

    result = run_backup(source, [sink], emit=events, hole_seconds=0.03)

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == good
    manifest = manifests(sink.place)[0]
    assert manifest.suspect
    assert manifest.suspicion == (
        f"a hole at byte 1500000 was not filled; all after byte {len(good)} is left out"
    )
    assert f"suspect: {manifest.suspicion}" in said(result)
    assert result.journals[0].omitted_tail_bytes == len(BIG) - len(good)
    assert events.of(BackupCommitted)[0].suspect
    overwrite(path, *holes[0])
    again = run_backup(source, [sink])
    assert (exit_code(again), manifests(sink.place)[1].continuity) == (0, "extended")


def test_hole_at_the_very_start_leaves_nothing(source: Path, sink: SimulatedSink) -> None:
    """Nothing is guessed: the backup is empty and suspect, and not called empty."""
    with_holes(source, records(3), 0)

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == b""
    assert "is empty" not in said(result)


def test_hole_behind_the_last_record_that_is_too_large_for_one(
    source: Path, sink: SimulatedSink
) -> None:
    """It may hide many records: it is waited for, and what stays is told."""
    write_journal(source, 0, BIG + bytes(2 << 20))

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == BIG
    assert result.journals[0].omitted_tail_bytes == 2 << 20
    assert f"a hole at byte {len(BIG)} was not filled" in said(result)


def test_two_holes_one_filled(source: Path, sink: SimulatedSink) -> None:
    """Each is waited for; the one that stays ends the bound."""
    path, holes = with_holes(source, BIG, 300, 1_500_000)
    events = Filler(path, holes[0])

    result = run_backup(source, [sink], emit=events, hole_seconds=0.2)

    assert exit_code(result) == 4
    assert len(events.of(PassRepeated)) == 2
    assert stored_journal(sink.place) == BIG[: BIG.rindex(b"\n", 0, 1_500_000) + 1]


def test_two_holes_both_filled(source: Path, sink: SimulatedSink) -> None:
    """NFS was only slow."""
    path, holes = with_holes(source, BIG, 300, 1_500_000)

    result = run_backup(source, [sink], emit=Filler(path, *holes), hole_seconds=30)

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == BIG


def test_waiting_is_bounded_in_all(source: Path, sink: SimulatedSink) -> None:
    """A hole that opens again at each reading does not keep the run for ever."""
    path, holes = with_holes(source, BIG, 300)
    events = Filler(path, *holes * 99)

    def reopening(event: Event) -> None:
        if isinstance(event, Progressed) and event.done_bytes == 512:
            overwrite(path, 300, b"\0")
        events(event)

    result = run_backup(source, [sink], emit=reopening, hole_seconds=0.05)

    assert exit_code(result) == 4
    assert 1 <= len(events.of(PassRepeated)) <= 6


def test_deadline_counts_while_a_hole_is_waited_for(source: Path, sink: SimulatedSink) -> None:
    """The run's time is over before the hole's: nothing is committed."""
    with_holes(source, BIG, 300)

    with pytest.raises(DeadlineError):
        run_backup(source, [sink], stop=Stop(seconds=0.3), hole_seconds=30)

    assert sink.place.keys() == []


def test_changed_while_a_hole_is_waited_for(source: Path, sink: SimulatedSink) -> None:
    """A file that vanished meanwhile is captured anew, as if it had changed while it was read."""
    path, _ = with_holes(source, BIG, 300)
    other = records(3)

    def change(event: Event) -> None:
        if isinstance(event, PassRepeated):
            path.unlink()
            if "has a hole" in event.reason:
                path.symlink_to("nowhere")
            else:
                path.write_bytes(other)

    result = run_backup(source, [sink], emit=change, hole_seconds=30)

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == other
