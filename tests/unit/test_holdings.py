"""What a run that reads no journal itself learns from the sinks, and what it sweeps there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from backup.catalog import holdings
from backup.errors import ManifestError, SignalledError, SinkDeniedError, SinkUnavailableError
from backup.events import Event, Problem, RemainsSwept, Warned
from backup.model import Holdings
from backup.run import Run
from backup.stop import Stop
from tests.journal_data import (
    NAME,
    NOON,
    Clock,
    Events,
    manifests,
    mark,
    records,
    run_backup,
    write_journal,
)
from tests.simulated_sink import Held, SimulatedSink

DATA = records(50)
OTHER = "journal-deepgram-billing-1"
DENIED = SinkDeniedError("403 forbidden")
GHOST = f"{NAME}/{NAME}-20261101T000000Z-00dead"
RECENT = f"{OTHER}/{OTHER}-20261101T000000Z-00feed.sha256"
"""What shows that the store's time has gone on."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume with two journals."""
    source = tmp_path / "journals"
    write_journal(source, 0, DATA)
    write_journal(source, 1, DATA)
    return source


@pytest.fixture
def sinks() -> list[SimulatedSink]:
    """Make two sinks."""
    return [SimulatedSink(name) for name in ("one", "two")]


def read(sinks: list[SimulatedSink]) -> Holdings:
    """Learn what there is of billing's journals."""
    return holdings.read(Run(), sinks, "deepgram-billing")


def newest_manifest(sink: SimulatedSink, journal: str) -> str:
    """Give the key of the newest manifest of a journal."""
    keys = [k for k in sink.place.objects if k.startswith(journal) and k.endswith(".manifest.json")]
    return max(keys)


# -- what is expected


def test_what_any_sink_has_is_expected(source: Path, sinks: list[SimulatedSink]) -> None:
    """Its size is that of its newest backup; where sinks differ, the largest one."""
    clock = Clock()
    run_backup(source, sinks, clock=clock)
    clock.advance(days=1)
    longer = DATA + records(9, seed=2)
    write_journal(source, 0, longer)
    run_backup(source, sinks[:1], clock=clock)

    assert read(sinks) == Holdings(
        journals=frozenset({NAME, OTHER}), size_bytes=len(longer) + len(DATA)
    )
    assert read([*reversed(sinks)]) == read(sinks)


def test_no_backup_means_that_nothing_is_known(sinks: list[SimulatedSink]) -> None:
    """The first run of all."""
    assert read(sinks) == Holdings(journals=frozenset(), size_bytes=0)


def test_journals_of_others_are_not_expected(tmp_path: Path, sinks: list[SimulatedSink]) -> None:
    """Another StatefulSet's on the same sink, or what has no such name at all."""
    write_journal(tmp_path, 0, DATA, name="other")
    run_backup(tmp_path, sinks, statefulset="other")

    assert read(sinks).journals == frozenset()


def test_a_retired_journal_is_not_expected(source: Path, sinks: list[SimulatedSink]) -> None:
    """Unless another sink has it, and knows nothing of that."""
    run_backup(source, sinks)
    mark(sinks[0].place, "retired", manifests(sinks[0].place, OTHER)[0].id, OTHER)

    assert read(sinks[:1]) == Holdings(journals=frozenset({NAME}), size_bytes=len(DATA))
    assert read(sinks).journals == {NAME, OTHER}


def test_a_sink_that_does_not_answer_is_a_warning(source: Path, sinks: list[SimulatedSink]) -> None:
    """Workers meet it too, and say for each journal what that means."""
    run_backup(source, sinks)
    sinks[0].fail("list", DENIED)

    warning = Warned(message="what it holds is not known: 403 forbidden", sink=sinks[0].url)
    run = Run()
    found = holdings.read(run, sinks, "deepgram-billing")
    assert (found.journals, run.warnings) == (frozenset({NAME, OTHER}), [warning])


def test_a_sink_that_lists_and_cannot_be_read_fails_nothing_either(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """Its journals are expected all the same. It is told once, and not waited for again."""
    run_backup(source, sinks[:1])
    sinks[0].fail("open", DENIED)
    sinks[0].calls.clear()
    run = Run()
    found = holdings.read(run, sinks, "deepgram-billing")

    assert (found.journals, found.size_bytes) == (frozenset({NAME, OTHER}), 0)
    assert [warned.sink for warned in run.warnings] == [sinks[0].url]
    assert [operation for operation, _ in sinks[0].calls].count("open") == 1


@pytest.mark.parametrize("content", [b'{"format": "2.0"}', b"rotten"])
def test_a_manifest_that_says_nothing_has_no_size(
    source: Path, sinks: list[SimulatedSink], content: bytes
) -> None:
    """Damaged, or of a newer release: the journal is expected, and the others have theirs."""
    run_backup(source, sinks[:1])
    key = newest_manifest(sinks[0], NAME)
    sinks[0].place.objects[key] = Held(content, NOON)

    assert read(sinks) == Holdings(journals=frozenset({NAME, OTHER}), size_bytes=len(DATA))


# -- what a run has made


def test_the_backups_of_a_run_are_found_by_its_id(source: Path, sinks: list[SimulatedSink]) -> None:
    """A worker whose last words were lost has left them; one of each journal is enough."""
    clock = Clock()
    run_backup(source, sinks, clock=clock, run_id="before")
    clock.advance(days=1)
    (source / OTHER / "journal").unlink()
    run_backup(source, sinks, clock=clock, run_id="mine")

    (found,) = holdings.of_run(sinks, "mine")
    assert found == manifests(sinks[0].place)[-1]
    assert [m.journal for m in holdings.of_run(sinks, "before")] == [OTHER]
    assert holdings.of_run(sinks, "nobody's") == []


def test_a_backup_on_one_sink_of_two_is_found(source: Path, sinks: list[SimulatedSink]) -> None:
    """Sinks that do not answer have none; neither is this the place to say so again."""
    run_backup(source, sinks[1:], run_id="mine")
    assert {m.journal for m in holdings.of_run(sinks, "mine")} == {NAME, OTHER}

    sinks[0].fail("list", DENIED)
    assert {m.journal for m in holdings.of_run(sinks, "mine")} == {NAME, OTHER}
    sinks[1].fail("open", DENIED)
    assert holdings.of_run(sinks, "mine") == []


# -- sweeping


def sweep(sinks: list[SimulatedSink], *, hours: float = 6.0) -> list[Event]:
    """Sweep, for runs of so many hours; give what was found, and what was told."""
    for sink in sinks:
        sink.place.objects[RECENT] = Held(b"", NOON)
    events = Events()
    deadline = timedelta(hours=hours)
    run = Run(clock=Clock(), emit=events)
    holdings.sweep_sinks(run, sinks, deadline=deadline)
    return events


def test_old_remains_are_swept_once_for_all_workers(sinks: list[SimulatedSink]) -> None:
    """Past the grace, and no others; a sink with none says nothing."""
    sinks[0].place.objects[f"{GHOST}.tar.gz"] = Held(b"", NOON - timedelta(hours=25))
    sinks[0].place.objects[f"{GHOST}.sha256"] = Held(b"", NOON - timedelta(hours=23))

    assert sweep(sinks) == [RemainsSwept(sink=sinks[0].url, objects=1)]
    assert sinks[0].place.keys() == [f"{GHOST}.sha256", RECENT]


@pytest.mark.parametrize(("hours", "count"), [(29, 0), (30, 1)])
def test_the_grace_is_twice_the_deadline_where_that_is_longer(
    sinks: list[SimulatedSink], hours: int, count: int
) -> None:
    """Another run may take that long."""
    sinks[0].place.objects[f"{GHOST}.tar.gz"] = Held(b"", NOON - timedelta(hours=59))

    sweep(sinks, hours=hours)
    assert len(sinks[0].place.objects) == count + 1


def test_a_sink_that_is_not_swept_is_a_warning(sinks: list[SimulatedSink]) -> None:
    """As is one that refuses it."""
    sinks[0].fail("list", DENIED)

    assert sweep(sinks) == [
        Warned(message="what it holds is not known: 403 forbidden", sink=sinks[0].url)
    ]


def test_refused_deletions_are_a_warning(sinks: list[SimulatedSink]) -> None:
    """One for a sink, however many there were."""
    for suffix in ("tar.gz", "2.tar.gz", "sha256"):
        sinks[0].place.objects[f"{GHOST}.{suffix}"] = Held(b"", NOON - timedelta(hours=25))
    sinks[0].fail("delete", SinkDeniedError("403 forbidden", "allow it"))

    message = "old remains were not swept: 403 forbidden; allow it; and 2 more like this"
    assert sweep(sinks) == [Warned(message=message, sink=sinks[0].url)]


def test_a_lost_manifest_is_a_problem(source: Path, sinks: list[SimulatedSink]) -> None:
    """Exit 6, and the archive stays: it is all that is left of that backup."""
    clock = Clock(NOON - timedelta(days=9))
    sinks[0].clock = clock
    for _ in range(2):
        run_backup(source, sinks[:1], clock=clock)
        clock.advance(days=1)
    first = manifests(sinks[0].place)[0]
    stem = f"{NAME}/{NAME}-{first.id}"
    del sinks[0].place.objects[f"{stem}.manifest.json"]

    (problem,) = sweep(sinks)
    assert problem == Problem(
        exit_code=6,
        message=f"the manifest of {first.id} is gone, its archive is there",
        hints=(
            f"a later backup names it: put {stem}.manifest.json back, from a snapshot",
            f"or keep {stem}.tar.gz elsewhere: it unpacks without us",
        ),
        journal=NAME,
        sink=sinks[0].url,
    )
    assert {f"{stem}.tar.gz", f"{stem}.sha256"} <= set(sinks[0].place.keys())


@pytest.mark.parametrize("error", [SinkUnavailableError("gone"), ManifestError("rotten")])
def test_a_sweep_that_fails_is_a_warning(sinks: list[SimulatedSink], error: Exception) -> None:
    """The backups are safe, and the other sinks are swept."""
    for sink in sinks:
        sink.place.objects[f"{GHOST}.tar.gz"] = Held(b"", NOON - timedelta(hours=25))
    sinks[0].fail("sweep", error)

    warned, swept = sweep(sinks)
    assert isinstance(warned, Warned)
    assert warned.message.startswith("old remains were not swept: ")
    assert swept == RemainsSwept(sink=sinks[1].url, objects=1)


def test_a_signal_ends_the_sweep() -> None:
    """It is the run that ends, and no sink that fails."""
    stop = Stop()
    sink = SimulatedSink(stop=stop)
    sink.on("sweep", lambda _key: stop.request(15))
    sink.hang("sweep")
    try:
        with pytest.raises(SignalledError):
            sweep([sink])
    finally:
        sink.release()
