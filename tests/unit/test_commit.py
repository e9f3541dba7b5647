"""Drafts: what is put while billing waits, and what makes backups of it afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from backup.catalog import Catalog, OpenSink, draft_key, remains
from backup.errors import (
    DeadlineError,
    ManifestError,
    SignalledError,
    SinkDeniedError,
    SinkUnavailableError,
)
from backup.events import BackupCommitted, Problem
from backup.manifest import Manifest, parse
from backup.report import worst
from backup.sinks.base import ATTEMPTS
from backup.stop import Stop
from backup.verbs.commit import CommitResult, Committed, commit
from backup.verbs.outcome import BackupResult
from backup.verbs.verify import verify
from tests.journal_data import (
    NAME,
    NOON,
    Clock,
    Events,
    exit_code,
    in_run,
    manifests,
    records,
    run_backup,
    said,
    states,
    stored_journal,
    write_journal,
)
from tests.simulated_sink import CrashError, Held, Place, SimulatedSink

DATA = records(50)
OTHER = "journal-deepgram-billing-1"
CALLS = 8
"""To a sink at least: list, draft, archive, checksum file and manifest twice each, delete."""
DENIED = SinkDeniedError("403 forbidden")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume with one journal."""
    source = tmp_path / "journals"
    write_journal(source, 0, DATA)
    return source


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink(clock=lambda: NOON)


def put(
    source: Path,
    sinks: Sequence[SimulatedSink],
    *,
    run_id: str = "run",
    readback: str = "full",
    events: Events | None = None,
    clock: Clock | None = None,
) -> BackupResult:
    """Do what a worker does while billing is down."""
    return run_backup(
        source,
        sinks,
        emit=Events() if events is None else events,
        clock=clock or Clock(),
        draft=True,
        only=(NAME,),
        strategy="scale-down",
        run_id=run_id,
        readback=readback,
        node="node-3",
        pod="worker-7",
    )


def finish(
    sinks: Sequence[SimulatedSink],
    *,
    run_id: str = "run",
    events: Events | None = None,
    stop: Stop | None = None,
) -> CommitResult:
    """Commit."""
    return in_run(
        commit, sinks, id=run_id, emit=Events() if events is None else events, stop=stop or Stop()
    )


def keys(sink: SimulatedSink, suffix: str) -> list[str]:
    """Give the keys of a kind."""
    return [key for key in sorted(sink.place.objects) if key.endswith(suffix)]


def draft(sink: SimulatedSink) -> Manifest:
    """Read the one draft, without the code under test."""
    (key,) = keys(sink, ".draft.json")
    return parse(sink.place.objects[key].data)


def replace(sink: SimulatedSink, suffix: str, data: bytes) -> None:
    """Put other bytes in an object's place."""
    (key,) = keys(sink, suffix)
    sink.place.objects[key] = Held(data, NOON)


def damage(sink: SimulatedSink) -> None:
    """Change the last byte of the archive, and not its size."""
    (key,) = keys(sink, ".tar.gz")
    data = sink.place.objects[key].data
    replace(sink, ".tar.gz", data[:-1] + bytes([data[-1] ^ 1]))


# -- putting


def test_a_draft_is_no_backup(source: Path, sink: SimulatedSink) -> None:
    """Nobody may take for safe what nobody has read back; so nobody is told that it is."""
    events = Events()
    result = put(source, [sink], events=events)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert [len(keys(sink, suffix)) for suffix in (".tar.gz", ".draft.json")] == [1, 1]
    assert len(sink.place.keys()) == 2
    assert OpenSink(sink).listing.journals == ()
    assert events.of(BackupCommitted) == []


def test_a_draft_costs_no_reading_back(source: Path, sink: SimulatedSink) -> None:
    """Billing is down meanwhile: the sink is asked for the archive's size, and no more."""
    put(source, [sink])

    archives = [operation for operation, key in sink.calls if key.endswith(".tar.gz")]
    assert archives == ["put", "size"]


@pytest.mark.parametrize("readback", ["full", "size"])
def test_a_draft_says_what_its_commit_will_do(
    source: Path, sink: SimulatedSink, readback: str
) -> None:
    """It is the very manifest that is committed; where it was read is in it."""
    result = put(source, [sink], readback=readback)
    drafted = draft(sink)
    assert result.journals[0].copies[0].id == drafted.id
    assert finish([sink]).exit_codes == ()

    assert manifests(sink.place) == [drafted]
    assert drafted.archives[0].readback == readback
    assert drafted.source.model_dump() == {
        "strategy": "scale-down",
        "consistency": "quiesced",
        "node": "node-3",
        "pod": "worker-7",
    }


def test_a_short_archive_is_found_at_once(source: Path, sink: SimulatedSink) -> None:
    """Its size is asked for; a second reading puts it right while the journal still stands."""

    def shorten(key: str) -> None:
        held = sink.place.objects[key]
        sink.place.objects[key] = Held(held.data[:-1], NOON)

    sink.on("size", shorten, key="*-??????.tar.gz")

    assert exit_code(put(source, [sink])) == 0
    assert draft(sink).archives[0].key.endswith(".2.tar.gz")


def test_a_draft_is_written_again_where_the_sink_was_away(
    source: Path, sink: SimulatedSink
) -> None:
    """As a manifest would be: without a second reading."""
    busy = SinkUnavailableError("503 slow down")
    sink.fail("put_exclusive", busy, key="*.draft.json", times=ATTEMPTS)

    assert exit_code(put(source, [sink])) == 0
    assert [operation for operation, _ in sink.calls].count("put") == 1


def test_a_draft_that_cannot_be_written_is_no_copy(source: Path, sink: SimulatedSink) -> None:
    """Without it nobody would find the archive."""
    sink.fail("put_exclusive", DENIED, key="*.draft.json")
    result = put(source, [sink])

    assert (exit_code(result), states(result)) == (5, {0: "failed"})
    assert finish([sink]).committed == ()


# -- what a worker knows


def test_a_worker_expects_its_own_journals_and_no_others(source: Path, sink: SimulatedSink) -> None:
    """It mounts one volume: what else there is, it cannot know."""
    write_journal(source, 1, DATA)
    run_backup(source, [sink])
    (source / OTHER / "journal").unlink()
    (source / OTHER).rmdir()

    result = run_backup(source, [sink], only=(NAME, "not-a-journal"), expect_replicas=9)
    assert (exit_code(result), states(result)) == (0, {0: "backed up"})


def test_a_worker_misses_what_it_was_sent_for(source: Path, sink: SimulatedSink) -> None:
    """Exit 4, as in a direct run."""
    result = run_backup(source, [sink], only=(NAME, OTHER))

    assert (exit_code(result), states(result)) == (4, {0: "backed up", 1: "missing"})
    assert f"{OTHER} None:" in said(result)


@pytest.mark.parametrize(("expect_only", "count"), [((NAME,), 1), (None, 0)])
def test_a_worker_leaves_the_sweep_to_whoever_sent_it(
    source: Path, sink: SimulatedSink, expect_only: tuple[str, ...] | None, count: int
) -> None:
    """Twenty workers would list each sink twenty times more."""
    ghost = f"{NAME}/{NAME}-20261101T000000Z-00dead.tar.gz"
    sink.place.objects[ghost] = Held(b"", NOON - timedelta(days=9))

    run_backup(source, [sink], only=expect_only)
    assert sink.place.keys().count(ghost) == count


def test_where_a_journal_was_read_is_in_its_manifest(source: Path, sink: SimulatedSink) -> None:
    """Also where nothing else is said of a cluster."""
    run_backup(source, [sink], node="node-3", pod="worker-7")
    (made,) = manifests(sink.place)

    assert (made.source.node, made.source.pod) == ("node-3", "worker-7")


# -- committing


def test_what_was_put_becomes_backups(source: Path) -> None:
    """On every sink: read back, committed, and the draft is gone."""
    sinks = [SimulatedSink("one"), SimulatedSink("two")]
    put(source, sinks)
    events = Events()
    ids = [draft(sink).id for sink in sinks]
    for sink in sinks:
        sink.calls.clear()

    result = finish(sinks, events=events)

    assert result == CommitResult(
        run_id="run",
        committed=tuple(
            Committed(
                journal=NAME,
                id=backup_id,
                sink=sink.url,
                continuity="first",
                size_bytes=len(DATA),
            )
            for sink, backup_id in zip(sinks, ids, strict=True)
        ),
        problems=(),
    )
    for sink in sinks:
        assert stored_journal(sink.place) == DATA
        assert len(sink.place.keys()) == 3
        assert ("open", keys(sink, ".tar.gz")[0]) in sink.calls
    told = {(e.journal, e.sink, e.id, e.records) for e in events.of(BackupCommitted)}
    assert told == {
        (NAME, sink.url, backup_id, 50) for sink, backup_id in zip(sinks, ids, strict=True)
    }
    assert len(events) == 2


def test_what_is_committed_stands_up_to_verification(source: Path, sink: SimulatedSink) -> None:
    """Deeply, by another way than the one that wrote it; and the history goes on from it."""
    clock = Clock()
    run_backup(source, [sink], clock=clock)
    clock.advance(days=1)
    write_journal(source, 0, DATA + records(5, seed=2))
    put(source, [sink], clock=clock)
    finish([sink])
    clock.advance(days=1)
    run_backup(source, [sink], clock=clock)

    assert [m.continuity for m in manifests(sink.place)] == ["first", "extended", "unchanged"]
    found = in_run(verify, [sink], None, journal=None, deep=True, emit=Events(), stop=Stop())
    assert [(row.findings, row.records) for row in found.backups] == [
        ((), 50),
        ((), 55),
        ((), 55),
    ]


def test_a_readback_of_the_size_fetches_no_archive(source: Path, sink: SimulatedSink) -> None:
    """As thoroughly as the settings said, and no more."""
    put(source, [sink], readback="size")
    sink.calls.clear()

    assert len(finish([sink]).committed) == 1
    assert {op for op, key in sink.calls if key.endswith(".tar.gz")} == {"size"}


def test_a_damaged_archive_is_discarded_and_no_backup(source: Path, sink: SimulatedSink) -> None:
    """Exit 6: its sink is not to be trusted. The journal itself is unharmed."""
    put(source, [sink])
    damage(sink)
    events = Events()

    result = finish([sink], events=events)

    assert (result.committed, worst(result.exit_codes)) == ((), 6)
    (problem,) = result.problems
    assert (problem.journal, problem.sink) == (NAME, sink.url)
    assert "bytes with SHA-256" in problem.message
    assert problem.hints == ("this sink changes what it stores: do not trust it",)
    assert [keys(sink, suffix) for suffix in (".tar.gz", ".manifest.json", ".sha256")] == [[]] * 3
    assert events == [problem]


def test_a_damaged_archive_beside_a_good_one(source: Path) -> None:
    """Each sink is judged by itself."""
    sinks = [SimulatedSink("one"), SimulatedSink("two")]
    put(source, sinks)
    damage(sinks[0])

    result = finish(sinks)
    assert [c.sink for c in result.committed] == [sinks[1].url]
    assert [(p.sink, p.exit_code) for p in result.problems] == [(sinks[0].url, 6)]
    assert [len(manifests(sink.place)) for sink in sinks] == [0, 1]


def test_an_archive_of_another_size_is_damaged_too(source: Path, sink: SimulatedSink) -> None:
    """Where only the size is asked for, it has to be that one."""
    put(source, [sink], readback="size")
    replace(sink, ".tar.gz", b"short")

    assert worst(finish([sink]).exit_codes) == 6
    assert keys(sink, ".tar.gz") == []


def test_a_missing_archive_is_no_backup(source: Path, sink: SimulatedSink) -> None:
    """Somebody has removed it: exit 5, and the other journals go on."""
    write_journal(source, 1, DATA)
    put(source, [sink])
    (key,) = [k for k in keys(sink, ".tar.gz") if k.startswith(NAME)]
    del sink.place.objects[key]

    result = finish([sink])
    assert [(p.journal, p.exit_code) for p in result.problems] == [(NAME, 5)]
    assert [c.journal for c in result.committed] == [OTHER]
    assert manifests(sink.place) == []


def test_the_draft_of_another_run_is_left_alone(source: Path, sink: SimulatedSink) -> None:
    """That run commits it itself; what it did not, its own drafts tell."""
    put(source, [sink], run_id="other")
    before = dict(sink.place.objects)
    sink.calls.clear()

    assert finish([sink]) == CommitResult(run_id="run", committed=(), problems=())
    assert sink.place.objects == before
    assert [op for op, key in sink.calls if key.endswith(".tar.gz")] == []


def test_a_damaged_draft_is_told(source: Path, sink: SimulatedSink) -> None:
    """What cannot be read may have been of this run: exit 6, and the archive stays."""
    put(source, [sink])
    replace(sink, ".draft.json", b"rotten")

    result = finish([sink])
    assert ([p.exit_code for p in result.problems], result.committed) == ([6], ())
    assert (len(keys(sink, ".tar.gz")), keys(sink, ".manifest.json")) == (1, [])


def test_a_draft_that_speaks_of_another_backup_is_damaged(
    source: Path, sink: SimulatedSink
) -> None:
    """Somebody has copied it: committing it would give a backup the archive of another."""
    put(source, [sink])
    drafted = draft(sink)
    ghost = "20261101T000000Z-00dead"
    sink.place.objects[draft_key(NAME, ghost)] = Held(drafted.to_bytes(), NOON)

    with pytest.raises(ManifestError, match=f"the draft {ghost} speaks of {drafted.id}"):
        Catalog(sink).drafted(NAME, ghost)
    result = finish([sink])
    assert [c.id for c in result.committed] == [drafted.id]
    assert [p.exit_code for p in result.problems] == [6]


def test_a_sink_that_cannot_be_listed_costs_only_itself(source: Path) -> None:
    """Exit 5: it is named, and the others are committed."""
    sinks = [SimulatedSink("one"), SimulatedSink("two")]
    put(source, sinks)
    sinks[0].fail("list", DENIED)

    result = finish(sinks)
    assert [c.sink for c in result.committed] == [sinks[1].url]
    assert result.problems == (Problem.of(DENIED, sink=sinks[0].url),)


def test_a_manifest_that_cannot_be_written_is_told(source: Path, sink: SimulatedSink) -> None:
    """The draft stays, so it can be tried again."""
    put(source, [sink])
    sink.fail("put_exclusive", DENIED, key="*.manifest.json")
    assert worst(finish([sink]).exit_codes) == 5
    assert len(keys(sink, ".draft.json")) == 1

    sink.heal()
    assert len(finish([sink]).committed) == 1
    assert stored_journal(sink.place) == DATA


def test_a_draft_that_cannot_be_removed_harms_nothing(source: Path, sink: SimulatedSink) -> None:
    """A sink may allow no deletion: the backup is one, and the next commit passes it over."""
    put(source, [sink])
    sink.fail("delete", DENIED)
    assert finish([sink]).problems == ()
    assert len(keys(sink, ".draft.json")) == 1

    assert finish([sink]) == CommitResult(run_id="run", committed=(), problems=())
    assert len(manifests(sink.place)) == 1


def test_committing_again_changes_nothing(source: Path, sink: SimulatedSink) -> None:
    """Its worker may be made anew."""
    put(source, [sink])
    finish([sink])
    before = dict(sink.place.objects)

    assert finish([sink]) == CommitResult(run_id="run", committed=(), problems=())
    assert sink.place.objects == before


def dies_before(call: int, place: Place) -> bool:
    """Commit in a process that dies before that call to the sink, if it gets there."""
    sink = SimulatedSink(place=place)
    sink.crash_before(call)
    with suppress(CrashError):
        finish([sink])
        return False
    return True


def test_a_death_before_any_call_is_made_good_by_the_next_commit(source: Path) -> None:
    """Whenever the node goes: the next one ends in one valid backup, and the draft goes as well."""
    for call in itertools.count(1):
        place = Place()
        put(source, [SimulatedSink(place=place)])
        if not dies_before(call, place):
            break

        sink = SimulatedSink(place=place)
        assert finish([sink]).problems == ()
        assert stored_journal(place) == DATA
        now = max(held.modified_at for held in place.objects.values())
        late = f"{OTHER}/{OTHER}-20261101T000000Z-00dead.pruned.json"
        place.objects[late] = Held(b"", now + timedelta(hours=1))
        remains.sweep(OpenSink(sink), now=now, grace=timedelta(0))
        del place.objects[late]
        assert [key.partition(".")[2] for key in sorted(place.objects)] == [
            "manifest.json",
            "sha256",
            "tar.gz",
        ]
    assert call > CALLS


def test_a_sink_that_hangs_is_left_behind(source: Path) -> None:
    """Once, and not by each of its drafts: the others are committed, and the drafts stay."""
    write_journal(source, 1, DATA)
    place = Place()
    sinks = [SimulatedSink("one", place=place), SimulatedSink("two")]
    run_backup(source, sinks, draft=True, strategy="scale-down")
    hung = SimulatedSink("one", place=place)
    hung.hang("open", key="*.tar.gz")
    try:
        result = in_run(
            commit, [hung, sinks[1]], id="run", emit=Events(), stop=Stop(), stall_seconds=0.3
        )
    finally:
        hung.release()

    assert [(p.journal, p.sink, p.exit_code) for p in result.problems] == [
        (name, hung.url, 5) for name in (NAME, OTHER)
    ]
    assert {c.sink for c in result.committed} == {sinks[1].url}
    assert [op for op, key in hung.calls if key.endswith(".tar.gz")] == ["open"]
    assert len([k for k in place.objects if k.endswith(".draft.json")]) == 2


@pytest.mark.parametrize("operation", ["list", "open", "put_exclusive"])
def test_a_signal_ends_it(source: Path, operation: str) -> None:
    """What hangs is left behind, and the drafts with it."""
    stop = Stop()
    place = Place()
    put(source, [SimulatedSink(place=place)])
    sink = SimulatedSink(place=place, stop=stop)
    sink.on(operation, lambda _key: stop.request(15))
    sink.hang(operation)
    try:
        with pytest.raises(SignalledError):
            finish([sink], stop=stop)
    finally:
        sink.heal()
        sink.release()

    assert len(finish([SimulatedSink(place=place)]).committed) == 1


def test_what_was_committed_before_the_deadline_stays(source: Path) -> None:
    """Its draft is gone; the other one's is not."""
    write_journal(source, 1, DATA)
    now = [0.0]
    stop = Stop(seconds=100, monotonic=lambda: now[0])
    sink = SimulatedSink(stop=stop)
    put(source, [sink])

    class Tick(Events):
        def __call__(self, event: object) -> None:
            now[0] = 101.0

    with pytest.raises(DeadlineError):
        finish([sink], events=Tick(), stop=stop)
    assert len(keys(sink, ".manifest.json")) == 1
    assert len(keys(sink, ".draft.json")) == 1
