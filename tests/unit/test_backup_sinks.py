"""Sinks that fail in a run, each in its way and at each step, beside others that do not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from backup import streams
from backup.errors import (
    ConfigError,
    DeadlineError,
    ManifestError,
    ReadbackError,
    SignalledError,
    SinkDeniedError,
    SinkUnavailableError,
)
from backup.events import BackupCommitted, Event, PassRepeated, Progressed, RemainsSwept, Warned
from backup.sinks.base import ATTEMPTS
from backup.stop import Stop
from backup.verbs import backup as verb
from backup.verbs.outcome import BackupResult
from tests.journal_data import (
    NAME,
    NOON,
    Clock,
    Events,
    exit_code,
    manifests,
    records,
    run_backup,
    said,
    states,
    stored_journal,
    write_journal,
)
from tests.simulated_sink import Held, Place, SimulatedSink

DATA = records(50)
BUSY = SinkUnavailableError("503 slow down")
DENIED = SinkDeniedError("403 forbidden")
GHOST = f"{NAME}/{NAME}-20261101T000000Z-00dead"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume with one journal."""
    source = tmp_path / "journals"
    write_journal(source, 0, DATA)
    return source


@pytest.fixture
def sinks() -> list[SimulatedSink]:
    """Make three sinks; the second one is the one that will fail."""
    return [SimulatedSink(name) for name in ("one", "two", "three")]


def held(sinks: list[SimulatedSink]) -> list[int]:
    """Count the backups of the first journal on each sink."""
    return [len(manifests(sink.place)) for sink in sinks]


# -- one of three


@pytest.mark.parametrize(
    ("operation", "key", "times"),
    [
        ("probe", "*", 1),
        ("list", "*", 1),
        ("put", "*", 1),
        ("open", "*.tar.gz", 1),
        ("open", "*.tar.gz", ATTEMPTS),
        ("put_exclusive", "*.sha256", 1),
        ("put_exclusive", "*.sha256", ATTEMPTS),
        ("put_exclusive", "*.manifest.json", 1),
        ("put_exclusive", "*.manifest.json", ATTEMPTS),
        ("open", "*.manifest.json", 1),
        ("open", "*.manifest.json", ATTEMPTS),
        ("open", "*.sha256", ATTEMPTS),
    ],
)
def test_failure_that_passes_is_no_failure(
    source: Path, sinks: list[SimulatedSink], operation: str, key: str, times: int
) -> None:
    """At any step: the step is repeated, or the pass, or the commit; then good is good."""
    sinks[1].fail(operation, BUSY, key=key, times=times)

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert held(sinks) == [1, 1, 1]
    for sink in sinks:
        assert stored_journal(sink.place) == DATA


@pytest.mark.parametrize("error", [BUSY, DENIED, RuntimeError("a bug in an SDK")])
@pytest.mark.parametrize(
    ("operation", "key"),
    [
        ("probe", "*"),
        ("list", "*"),
        ("put", "*"),
        ("open", "*.tar.gz"),
        ("put_exclusive", "*.sha256"),
        ("put_exclusive", "*.manifest.json"),
    ],
)
def test_failing_for_ever_costs_only_that_sink(
    source: Path, sinks: list[SimulatedSink], operation: str, key: str, error: Exception
) -> None:
    """Exit 3: all is safe elsewhere, and the sink and its error are named."""
    sinks[1].fail(operation, error, key=key)

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (3, {0: "partial"})
    assert held(sinks) == [1, 0, 1]
    assert {p.sink for p in result.problems} == {sinks[1].url}
    assert str(error) in said(result)
    copies = {c.sink: c for c in result.journals[0].copies}
    assert set(copies) == {sink.url for sink in sinks}
    assert [copies[sink.url].is_held for sink in sinks] == [True, False, True]


def test_commit_is_repeated_without_a_second_reading(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """The checksum file is there already and names that archive: nothing else may be committed."""
    sinks[1].fail("put_exclusive", BUSY, key="*.manifest.json", times=ATTEMPTS)
    events = Events()

    run_backup(source, sinks, emit=events)

    assert events.of(PassRepeated) == []
    assert [op for op, _ in sinks[1].calls].count("put") == 1
    assert len(events.of(BackupCommitted)) == 3


def test_failure_that_will_not_pass_is_not_repeated(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """A refusal is an answer: no second reading for it."""
    sinks[1].fail("put", DENIED)
    events = Events()

    run_backup(source, sinks, emit=events)

    assert events.of(PassRepeated) == []
    assert [op for op, _ in sinks[1].calls].count("put") == 1


def test_sink_that_takes_no_data_is_dropped(source: Path, sinks: list[SimulatedSink]) -> None:
    """From both passes; the others do not wait for it longer than that."""
    sinks[1].hang("put")
    try:
        result = run_backup(source, sinks, stall_seconds=0.3)
    finally:
        sinks[1].release()

    assert exit_code(result) == 3
    assert held(sinks) == [1, 0, 1]
    assert "no data moved for 0.3 s" in said(result)


def test_sink_that_hung_is_not_waited_for_again(source: Path, sinks: list[SimulatedSink]) -> None:
    """Hundreds of journals, a minute each, would eat the whole deadline."""
    for ordinal in (1, 2, 3):
        write_journal(source, ordinal, DATA)
    sinks[1].hang("put")
    try:
        result = run_backup(source, sinks, stall_seconds=0.3, concurrency=1)
    finally:
        sinks[1].release()

    assert exit_code(result) == 3
    assert [op for op, _ in sinks[1].calls].count("put") == 2
    assert [op for op, _ in sinks[1].calls].count("sweep") == 0
    assert [outcome.state for outcome in result.journals] == ["partial"] * 4


@pytest.mark.parametrize("operation", ["put", "put_exclusive"])
def test_outage_is_waited_out(
    source: Path, sinks: list[SimulatedSink], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """A store that restarts for a minute costs a minute, and not the night's backup."""
    monkeypatch.setattr("backup.transfer.destination._BETWEEN_PROBES_SECONDS", 0.01)
    begun: list[str] = []

    def begin(key: str) -> None:
        if not begun:
            sinks[1].fail("probe", BUSY, times=2 * ATTEMPTS)
        begun.append(key)

    sinks[1].on(operation, begin)
    sinks[1].fail(operation, BUSY, times=1 if operation == "put" else ATTEMPTS)

    result = run_backup(source, sinks, recovery_seconds=60)

    assert exit_code(result) == 0
    assert [operation for operation, _ in sinks[1].calls].count("probe") == 2 * ATTEMPTS + 2
    assert [len(manifests(sink.place)) for sink in sinks] == [1, 1, 1]


@pytest.mark.parametrize("operation", ["put", "put_exclusive"])
def test_sink_that_does_not_come_back_is_not_waited_for_again(
    source: Path, sinks: list[SimulatedSink], operation: str
) -> None:
    """Once is enough for one run; the error is the newest one."""
    for ordinal in (1, 2, 3):
        write_journal(source, ordinal, DATA)
    gone = SinkUnavailableError("connection refused")
    sinks[1].on(operation, lambda _key: sinks[1].fail("probe", gone))
    sinks[1].fail(operation, BUSY)

    result = run_backup(source, sinks, recovery_seconds=0.2, concurrency=1)

    assert exit_code(result) == 3
    assert [outcome.state for outcome in result.journals] == ["partial"] * 4
    assert len({key for op, key in sinks[1].calls if op == "put"}) == 1
    assert "connection refused" in str(result.problems[-1].message)


def test_sink_that_refuses_after_its_outage_is_told_as_such(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """Waiting would not help: the newest answer counts."""
    sinks[1].on("put", lambda _key: sinks[1].fail("probe", DENIED))
    sinks[1].fail("put", BUSY)

    result = run_backup(source, sinks, recovery_seconds=60)

    assert exit_code(result) == 3
    assert [p.message for p in result.problems] == [DENIED.message]


def test_sink_that_hangs_after_its_outage_is_given_up(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """A hung probe has been waited for already."""
    sinks[1] = SimulatedSink("two", stall_seconds=0.3)
    sinks[1].on("put", lambda _key: sinks[1].hang("probe"))
    sinks[1].fail("put", BUSY)
    try:
        result = run_backup(source, sinks, recovery_seconds=60)
    finally:
        sinks[1].release()

    assert exit_code(result) == 3
    assert "no answer" in result.problems[0].message


def test_stop_ends_the_wait_for_a_sink(source: Path, sinks: list[SimulatedSink]) -> None:
    """A run that was told to end does not wait for a store."""
    sinks[1].on("put", lambda _key: sinks[1].fail("probe", BUSY))
    sinks[1].fail("put", BUSY)
    begun = time.monotonic()

    with pytest.raises(DeadlineError):
        run_backup(source, sinks, recovery_seconds=60, stop=Stop(seconds=1))

    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("operation", "key"),
    [("probe", "*"), ("list", "*"), ("put", "*"), ("put_exclusive", "*"), ("open", "*.tar.gz")],
)
def test_all_failing_is_exit_5(
    source: Path, sinks: list[SimulatedSink], operation: str, key: str
) -> None:
    """The journal reached no sink; it is named, and so is each sink."""
    write_journal(source, 1, DATA)
    for sink in sinks:
        sink.fail(operation, DENIED, key=key)

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (5, {0: "failed", 1: "failed"})
    assert {p.sink for p in result.problems if p.sink} == {s.url for s in sinks}
    assert {p.exit_code for p in result.problems} == {5}
    for outcome in result.journals:
        assert [c.sink for c in outcome.copies] == [s.url for s in sinks]
    assert held(sinks) == [0, 0, 0]


def test_no_sink_opens_means_that_nothing_is_read(source: Path) -> None:
    """There is nobody to read for."""
    sink = SimulatedSink()
    sink.fail("probe", DENIED)
    events = Events()

    result = run_backup(source, [sink], emit=events)

    assert "reached no sink: none of them can take backups" in said(result)
    assert events.of(Progressed) == []


def test_each_journal_has_a_second_pass_of_its_own(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """One that fails for good does not take the other's chance."""
    write_journal(source, 1, DATA)
    sinks[1].fail("put", DENIED, key=f"{NAME}/*")
    sinks[1].fail("put", BUSY, key="journal-deepgram-billing-1/*", times=1)

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (3, {0: "partial", 1: "backed up"})


def test_history_that_cannot_be_read(source: Path, sinks: list[SimulatedSink]) -> None:
    """Without its history a sink cannot be told what continuity is: it is left out."""
    run_backup(source, sinks)
    sinks[1].fail("open", DENIED, key="*.manifest.json")
    sinks[1].calls.clear()

    result = run_backup(source, sinks)

    assert exit_code(result) == 3
    assert held(sinks) == [2, 1, 2]
    assert not [op for op, _ in sinks[1].calls if op.startswith("put")]


def make_newer_one(source: Path, sinks: Sequence[SimulatedSink]) -> None:
    """Back up another journal later: it is its manifest that tells at first whose the sink is."""
    other = source.with_name("others")
    write_journal(other, 1, DATA)
    later = Clock(NOON + timedelta(hours=1))
    run_backup(other, sinks, only=("journal-deepgram-billing-1",), clock=later)


def test_history_that_breaks_after_the_sink_was_opened(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """The same, where it fails only for the journal itself."""
    run_backup(source, sinks)
    make_newer_one(source, sinks)
    sinks[1].fail("open", DENIED, key=f"{NAME}/*.manifest.json")

    result = run_backup(source, sinks, only=(NAME,))

    assert (exit_code(result), states(result)) == (3, {0: "partial"})
    assert held(sinks) == [2, 1, 2]


def test_history_that_breaks_everywhere(source: Path) -> None:
    """Nobody is left to read for: exit 5."""
    sink = SimulatedSink()
    run_backup(source, [sink])
    sink.fail("open", DENIED, key="*.manifest.json", after=1)

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (5, {0: "failed"})


def test_what_is_no_fault_of_a_sink_does_not_hide_the_other_copies(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """A manifest that cannot be committed, say: the journal has a problem, and two backups."""
    sinks[1].fail("put_exclusive", ManifestError("too large"), key="*.manifest.json")

    result = run_backup(source, sinks)

    (outcome,) = result.journals
    assert exit_code(result) == 6
    assert [c.is_held for c in outcome.copies] == [True, False, True]
    assert outcome.problem is not None
    assert outcome.problem.message == "too large"
    assert outcome.records == DATA.count(b"\n")


# -- sinks that are slower than others


def await_manifest(sink: SimulatedSink, *, seconds: float = 10.0) -> bool:
    """Wait until a sink holds a backup."""
    until = time.monotonic() + seconds
    while not manifests(sink.place) and time.monotonic() < until:
        threading.Event().wait(0.01)
    return bool(manifests(sink.place))


@pytest.mark.parametrize("operation", ["put reply", "open", "put_exclusive"])
def test_backup_is_committed_however_long_the_others_take(
    source: Path, sinks: list[SimulatedSink], operation: str
) -> None:
    """The slow one has not even read back when the others hold theirs."""
    seen: list[bool] = []

    def wait(_key: str) -> None:
        seen.append(await_manifest(sinks[0]) and await_manifest(sinks[2]))

    sinks[1].on(operation, wait, key="*.tar.gz" if operation != "put_exclusive" else "*.sha256")

    result = run_backup(source, sinks, stall_seconds=30)

    assert seen == [True]
    assert (exit_code(result), held(sinks)) == (0, [1, 1, 1])


@pytest.mark.parametrize("operation", ["put reply", "open"])
def test_stop_loses_no_copy_that_was_whole(
    source: Path, sinks: list[SimulatedSink], operation: str
) -> None:
    """SIGTERM, or the deadline, while one sink takes its time."""
    stop, events = Stop(), Events()

    def end(_key: str) -> None:
        for sink in (sinks[0], sinks[2]):
            await_manifest(sink)
        stop.request(15)

    sinks[1].on(operation, end, key="*.tar.gz")
    sinks[1].hang(operation, key="*.tar.gz")
    try:
        with pytest.raises(SignalledError):
            run_backup(source, sinks, stop=stop, emit=events, stall_seconds=30)
    finally:
        sinks[1].release()

    assert held(sinks) == [1, 0, 1]
    assert {e.sink for e in events.of(BackupCommitted)} == {sinks[0].url, sinks[2].url}


def test_sink_that_was_given_up_commits_nothing_when_it_wakes_up(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """The second pass has put another archive for the same manifest."""
    sinks[1].hang("open", key="*.tar.gz", times=1)
    try:
        result = run_backup(source, sinks, stall_seconds=0.3)
        before = list(sinks[1].calls)
    finally:
        sinks[1].release()
    for thread in threading.enumerate():
        if thread.name in {"consumer", "prefetch"}:
            thread.join(5)

    assert (exit_code(result), held(sinks)) == (0, [1, 1, 1])
    assert manifests(sinks[1].place)[0].archives[0].key.endswith(".2.tar.gz")
    assert [call for call in sinks[1].calls if call not in before] == []


class SlowSink(SimulatedSink):
    """A sink that takes a chunk in twenty seconds, by a clock that it alone moves on."""

    now = 0.0

    def _put(
        self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None, alive: Callable[[], None]
    ) -> None:
        super()._put(key, self._slowly(chunks), max_bytes=max_bytes, alive=alive)

    def _slowly(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            threading.Event().wait(0.05)  # by now the source waits
            SlowSink.now += 20
            yield chunk


def test_slow_sink_is_served_alone_when_the_others_hold_theirs(
    source: Path, sinks: list[SimulatedSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not go at its pace; alone it may take its time, and then all is well."""
    monkeypatch.setattr("backup.streams.time.monotonic", lambda: SlowSink.now)
    monkeypatch.setattr(streams, "DEPTH", 1)
    write_journal(source, 0, DATA * 900)
    slow = [SlowSink("two"), SlowSink("four")]
    events = Events()
    seen: list[bool] = []

    def look(_key: str) -> None:
        seen.append(all(manifests(s.place) for s in (sinks[0], sinks[2])))

    for sink in slow:
        sink.on("put", look, key="*.2.tar.gz")

    result = run_backup(source, [sinks[0], *slow, sinks[2]], emit=events, stall_seconds=60)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert seen == [True, True]
    keys = [manifests(s.place)[0].archives[0].key for s in (sinks[0], *slow, sinks[2])]
    assert [key.endswith(".2.tar.gz") for key in keys] == [False, True, True, False]
    (repeated,) = events.of(PassRepeated)
    assert "took less than 4 MiB while others waited 60 s" in repeated.reason


# -- read-back


def test_readback_that_differs_once_is_put_right(source: Path, sinks: list[SimulatedSink]) -> None:
    """The damaged archive is removed, and the second one has a name of its own."""
    sinks[1].flip("*-??????.tar.gz")

    result = run_backup(source, sinks)

    assert exit_code(result) == 0
    assert manifests(sinks[1].place)[0].archives[0].key.endswith(".2.tar.gz")
    assert len([k for k in sinks[1].place.objects if k.endswith(".tar.gz")]) == 1


def test_readback_that_always_differs_beside_good_sinks(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """All is safe elsewhere: exit 3. Nothing that looks whole is left there."""
    sinks[1].flip("*.tar.gz")

    result = run_backup(source, sinks)

    assert exit_code(result) == 3
    assert "this sink changes what it stores: do not trust it" in said(result)
    assert sinks[1].place.keys() == []
    copy = result.journals[0].copies[1]
    assert isinstance(copy.error, ReadbackError)


def test_readback_that_always_differs_alone(source: Path) -> None:
    """Nobody holds the journal: exit 6."""
    sink = SimulatedSink()
    sink.flip("*.tar.gz")

    assert exit_code(run_backup(source, [sink])) == 6


@pytest.mark.parametrize("key", ["*.sha256", "*.manifest.json"])
def test_small_objects_are_read_back_too(source: Path, key: str) -> None:
    """A manifest that rots at once is no backup; repeating cannot help, and hides nothing."""
    sink = SimulatedSink()
    sink.flip(key)

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (6, {0: "failed"})
    assert "does not hold what was written" in said(result)


def test_damage_that_cannot_be_removed_is_left_to_the_sweep(source: Path) -> None:
    """A bucket with object lock deletes nothing: the second archive is good all the same."""
    sink = SimulatedSink()
    sink.flip("*-??????.tar.gz")
    sink.fail("delete", DENIED)

    assert exit_code(run_backup(source, [sink])) == 0
    assert len([k for k in sink.place.objects if k.endswith(".tar.gz")]) == 2


def test_readback_of_the_size_alone(source: Path) -> None:
    """No archive is fetched, and the manifest says so."""
    sink = SimulatedSink()

    assert exit_code(run_backup(source, [sink], readback="size")) == 0
    assert manifests(sink.place)[0].archives[0].readback == "size"
    assert not [key for op, key in sink.calls if op == "open" and key.endswith(".tar.gz")]


def test_readback_of_the_size_finds_a_short_archive(source: Path) -> None:
    """It is less than reading it, and it is not nothing."""
    sink = SimulatedSink()

    def shorten(key: str) -> None:
        held = sink.place.objects[key]
        sink.place.objects[key] = Held(held.data[:-1], held.modified_at)

    sink.on("size", shorten, key="*.tar.gz")

    assert exit_code(run_backup(source, [sink], readback="size")) == 6


# -- whose sink it is


def test_prefix_of_another_site_is_refused(source: Path, sinks: list[SimulatedSink]) -> None:
    """Exit 2, with the prefix to add; the other sinks are served."""
    run_backup(source, [sinks[1]], site="berlin")

    result = run_backup(source, sinks, site="paris")

    assert (exit_code(result), states(result)) == (2, {0: "partial"})
    assert held(sinks) == [1, 1, 1]
    assert "holds backups of site 'berlin', this is site 'paris'" in said(result)
    assert f"{sinks[1].url}/paris" in said(result)


@pytest.mark.parametrize(
    ("before", "now", "code"),
    [(None, None, 0), (None, "paris", 0), ("paris", "paris", 0), ("paris", None, 2)],
)
def test_site_may_be_set_but_not_unset(
    source: Path, before: str | None, now: str | None, code: int
) -> None:
    """A site that has no name yet may get one; one that has a name keeps it."""
    sink = SimulatedSink()
    run_backup(source, [sink], site=before)

    assert exit_code(run_backup(source, [sink], site=now)) == code


def test_a_run_without_a_site_is_told_how_to_set_it(source: Path) -> None:
    """The prefix has got a site since; who set it, or forgot to, reads what to do."""
    sink = SimulatedSink()
    run_backup(source, [sink], site="plant-7")

    problem, *_ = run_backup(source, [sink]).problems

    assert problem.message == (
        f"{sink.url} holds backups of site 'plant-7', and BACKUP_SITE is not set: a prefix without "
        "a site may get one, and a prefix that has one keeps it"
    )
    assert problem.hints == (
        "if they are backups of this site, set BACKUP_SITE=plant-7",
        f"if not, give this site a prefix of its own in BACKUP_SINKS: {sink.url}/<site>",
    )


def test_site_is_told_by_the_newest_valid_manifest(source: Path) -> None:
    """A manifest that rots names no site, and does not lock the site out."""
    sink = SimulatedSink()
    clock = Clock()
    run_backup(source, [sink], site="paris", clock=clock)
    clock.advance(days=1)
    run_backup(source, [sink], site="paris", clock=clock)
    key = max(k for k in sink.place.objects if k.endswith("manifest.json"))
    sink.place.objects[key] = Held(b"rotten", NOON)

    assert exit_code(run_backup(source, [sink], site="london")) == 2
    assert exit_code(run_backup(source, [sink], site="paris")) == 6


def test_sink_inside_the_source_is_a_wrong_setting(
    source: Path, sinks: list[SimulatedSink]
) -> None:
    """Exit 2, although another sink holds the journal."""
    sinks[1].fail("probe", ConfigError("lies inside the journals' own directory"))

    result = run_backup(source, sinks)

    assert exit_code(result) == 2
    assert held(sinks) == [1, 0, 1]


def test_newer_format_is_not_appended_to(source: Path, sinks: list[SimulatedSink]) -> None:
    """Exit 2: an older release must not go on with a history that it does not understand."""
    run_backup(source, sinks)
    key = next(k for k in sinks[1].place.objects if k.endswith("manifest.json"))
    sinks[1].place.objects[key] = Held(b'{"format": "2.0"}', NOON)

    result = run_backup(source, sinks)

    assert (exit_code(result), states(result)) == (2, {0: "partial"})
    assert len(sinks[1].place.keys()) == 3


# -- severity


def test_the_worst_of_several_problems_counts(source: Path, sinks: list[SimulatedSink]) -> None:
    """A sink that failed (3), a journal that is missing (4), an alarm (6): 6."""
    run_backup(source, sinks)
    write_journal(source, 0, b"x" + DATA)
    sinks[1].fail("put", DENIED)

    result = run_backup(source, sinks, expect_replicas=2)

    assert {p.exit_code for p in result.problems} == {3, 4, 6}
    assert exit_code(result) == 6


# -- several journals


class Gate:
    """Counts how many are inside at once, and lets none leave before so many have come."""

    def __init__(self, *, wait_for: int) -> None:
        self.most = 0
        self._inside = 0
        self._came = 0
        self._wait_for = wait_for
        self._changed = threading.Condition()

    def enter(self, _key: str) -> None:
        """Come in."""
        with self._changed:
            self._inside += 1
            self._came += 1
            self.most = max(self.most, self._inside)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._came >= self._wait_for, timeout=5)

    def leave(self, _key: str) -> None:
        """Go."""
        with self._changed:
            self._inside -= 1


@pytest.mark.parametrize("limit", [1, 3])
def test_small_journals_are_backed_up_several_at_a_time(source: Path, limit: int) -> None:
    """As many as the setting says and no more; the result is in order all the same."""
    for ordinal in range(1, 6):
        write_journal(source, ordinal, DATA)
    sink, gate = SimulatedSink(), Gate(wait_for=limit)
    sink.on("put", gate.enter)
    sink.on("put_exclusive", gate.leave, key="*.manifest.json")

    result = run_backup(source, [sink], concurrency=limit)

    assert gate.most == limit
    assert list(states(result).items()) == [(n, "backed up") for n in range(6)]


def test_large_journals_are_backed_up_one_by_one(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the small ones: memory stays bounded, however many there are."""
    monkeypatch.setattr(verb, "SMALL_JOURNAL_BYTES", len(DATA))
    for ordinal in (1, 2, 3):
        write_journal(source, ordinal, DATA * 2)
    write_journal(source, 4, DATA)
    sink, gate = SimulatedSink(), Gate(wait_for=1)
    sink.on("put", gate.enter, key="*-[123]/*")
    sink.on("put_exclusive", gate.leave, key="*-[123]/*.manifest.json")
    order: list[str] = []
    sink.on(
        "put_exclusive", lambda key: order.append(key.partition("/")[0][-1]), key="*.manifest.json"
    )

    result = run_backup(source, [sink], concurrency=4)

    assert gate.most == 1
    assert sorted(order[:2]) == ["0", "4"]
    assert order[2:] == ["1", "2", "3"]
    assert list(states(result)) == [0, 1, 2, 3, 4]


def test_one_failing_journal_does_not_stop_the_others(source: Path) -> None:
    """Unreadable, suspect, refused by its sink: each in its own line of the result."""
    sink = SimulatedSink()
    write_journal(source, 1, b"torn")
    write_journal(source, 2, DATA)
    write_journal(source, 3, DATA)
    (source / "journal-deepgram-billing-4").mkdir()
    sink.fail("put", DENIED, key="*billing-2/*")

    result = run_backup(source, [sink], expect_replicas=6)

    assert states(result) == {
        0: "backed up",
        1: "suspect",
        2: "failed",
        3: "backed up",
        4: "missing",
        5: "missing",
    }
    assert exit_code(result) == 4
    assert {p.journal for p in result.problems} == {
        f"journal-deepgram-billing-{n}" for n in (1, 2, 4, 5)
    }


# -- being stopped


@pytest.mark.parametrize("operation", ["probe", "list", "put", "open", "put_exclusive"])
def test_signal_unwinds_within_a_second(source: Path, operation: str) -> None:
    """Whatever hangs is left behind; what looks whole is whole, and the next run is good."""
    stop = Stop()
    place = Place()
    sink = SimulatedSink(place=place, stop=stop)
    asked: list[float] = []

    def ask(_key: str) -> None:
        asked.append(time.monotonic())
        stop.request(15)

    sink.on(operation, ask)
    sink.hang(operation)
    try:
        with pytest.raises(SignalledError) as caught:
            run_backup(source, [sink], stop=stop)
        seconds = time.monotonic() - asked[0]
        assert manifests(place) == []
    finally:
        sink.heal()
        sink.release()

    assert caught.value.exit_code == 128 + 15
    assert seconds < 1.0
    assert exit_code(run_backup(source, [SimulatedSink(place=place)])) == 0


def test_deadline_keeps_what_was_committed(source: Path) -> None:
    """One journal is safe, the other one is not begun; the events tell which."""
    write_journal(source, 1, DATA)
    now = [0.0]
    stop = Stop(seconds=100, monotonic=lambda: now[0])
    sink = SimulatedSink(stop=stop)
    events = Events()

    def tick(event: Event) -> None:
        events(event)
        if isinstance(event, BackupCommitted):
            now[0] = 101.0

    with pytest.raises(DeadlineError):
        run_backup(source, [sink], stop=stop, emit=tick, concurrency=1)

    assert [e.journal for e in events.of(BackupCommitted)] == [NAME]
    assert len(manifests(sink.place)) == 1
    assert manifests(sink.place, "journal-deepgram-billing-1") == []


def test_stop_while_a_history_is_read(source: Path) -> None:
    """It is the run that ends, not that sink that fails."""
    sink = SimulatedSink()
    run_backup(source, [sink])
    make_newer_one(source, [sink])
    stop = Stop()
    again = SimulatedSink(place=sink.place, stop=stop)
    released = threading.Event()

    def ask(_key: str) -> None:
        stop.request(15)
        released.wait(5)

    again.on("open", ask, key=f"{NAME}/*.json")
    try:
        with pytest.raises(SignalledError):
            run_backup(source, [again], stop=stop, only=(NAME,))
    finally:
        released.set()

    assert held([sink]) == [1]


# -- beginnings


def beginnings(result: BackupResult) -> list[Warned]:
    """Give what is said of sinks that had no backup of a journal."""
    return [w for w in result.warnings if "its history begins here" in w.message]


def test_sink_without_what_another_has_is_told(source: Path) -> None:
    """It is new, or somebody has emptied it: the run makes it good either way, once."""
    old, new = SimulatedSink("old"), SimulatedSink("new")
    run_backup(source, [old])
    result = run_backup(source, [new, old])

    assert exit_code(result) == 0
    assert [(w.journal, w.sink) for w in beginnings(result)] == [(NAME, new.url)]
    assert old.url in beginnings(result)[0].message
    assert beginnings(run_backup(source, [new, old])) == []


def test_first_backup_of_all_is_no_warning(source: Path) -> None:
    """Nor is the sink that could not take it: that is told as a failure."""
    old, new = SimulatedSink("old"), SimulatedSink("new")
    assert beginnings(run_backup(source, [old, new])) == []

    new.place.objects.clear()
    new.fail("put", DENIED)
    assert beginnings(run_backup(source, [old, new])) == []


# -- what is gone


def test_archive_removed_before_its_manifest_came(source: Path) -> None:
    """Another run with a wrong clock, or somebody's own cleaning: never exit 0."""
    sink = SimulatedSink()

    def remove(key: str) -> None:
        del sink.place.objects[key.replace("manifest.json", "tar.gz")]

    sink.on("put_exclusive", remove, key="*.manifest.json")
    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (6, {0: "failed"})
    assert "is gone now that its manifest is there" in said(result)


def test_run_on_a_node_whose_clock_is_ahead_spares_another(source: Path, tmp_path: Path) -> None:
    """What that one has put, and not committed yet, is two days old by the wrong clock alone."""
    place, other = Place(), tmp_path / "other"
    write_journal(other, 1, DATA)
    sink = SimulatedSink(place=place, clock=lambda: NOON)
    ahead = Clock(NOON + timedelta(days=2))

    def run(_key: str) -> None:
        met.append(run_backup(other, [SimulatedSink(place=place, clock=lambda: NOON)], clock=ahead))

    met: list[BackupResult] = []
    sink.on("put_exclusive", run, key="*.sha256")
    result = run_backup(source, [sink])

    assert [exit_code(r) for r in (*met, result)] == [0, 0]
    (made,) = manifests(place)
    assert made.archives[0].key in place.objects


# -- sweeping


def test_backup_that_lost_its_manifest_is_exit_6(source: Path) -> None:
    """Each run says so, until somebody has put it back or moved it away."""
    clock = Clock()
    sink = SimulatedSink(clock=clock)
    for _ in range(4):
        run_backup(source, [sink], clock=clock)
        clock.advance(days=1)
    lost = manifests(sink.place)[1]
    del sink.place.objects[f"{NAME}/{NAME}-{lost.id}.manifest.json"]
    results = [run_backup(source, [sink], clock=clock) for _ in range(2)]

    assert [exit_code(r) for r in results] == [6, 6]
    assert f"the manifest of {lost.id} is gone, its archive is there" in said(results[1])
    assert lost.archives[0].key in sink.place.objects


def test_old_remains_are_swept_after_the_run(source: Path) -> None:
    """Past the grace by the store's own times; the younger ones may belong to a run at work."""
    sink = SimulatedSink()
    sink.place.objects[f"{GHOST}.tar.gz"] = Held(b"", NOON - timedelta(hours=25))
    sink.place.objects[f"{GHOST}.sha256"] = Held(b"", NOON - timedelta(hours=23))
    events = Events()

    run_backup(source, [sink], emit=events)

    assert f"{GHOST}.tar.gz" not in sink.place.objects
    assert f"{GHOST}.sha256" in sink.place.objects
    assert events.of(RemainsSwept) == [RemainsSwept(sink=sink.url, objects=1)]


def test_grace_is_twice_the_deadline_where_that_is_longer(source: Path) -> None:
    """Another run may take that long."""
    sink = SimulatedSink()
    sink.place.objects[f"{GHOST}.tar.gz"] = Held(b"", NOON - timedelta(hours=59))

    run_backup(source, [sink], deadline=timedelta(hours=30))
    assert f"{GHOST}.tar.gz" in sink.place.objects
    run_backup(source, [sink], deadline=timedelta(hours=29))
    assert f"{GHOST}.tar.gz" not in sink.place.objects


@pytest.mark.parametrize(
    "act",
    [SinkUnavailableError("gone"), ManifestError("rotten"), ConfigError("a newer format")],
)
def test_sweep_that_fails_is_a_warning(source: Path, act: Exception) -> None:
    """The backups are safe; the other sinks are swept."""
    sinks = [SimulatedSink("one"), SimulatedSink("two")]
    for sink in sinks:
        sink.place.objects[f"{GHOST}.tar.gz"] = Held(b"", NOON - timedelta(hours=25))
    sinks[0].fail("sweep", act)
    events = Events()

    result = run_backup(source, sinks, emit=events)

    assert exit_code(result) == 0
    assert f"None {sinks[0].url}: old remains were not swept" in said(result)
    assert [e.sink for e in events.of(RemainsSwept)] == [sinks[1].url]


def test_stop_while_sweeping_ends_the_run(source: Path) -> None:
    """A signal is not a sink's failure."""
    stop = Stop()
    sink = SimulatedSink(stop=stop)
    run_backup(source, [sink])
    sink.on("sweep", lambda _key: stop.request(15))
    sink.hang("sweep")
    try:
        with pytest.raises(SignalledError):
            run_backup(source, [sink], stop=stop)
    finally:
        sink.release()
