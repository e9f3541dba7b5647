"""The doctor finds what would keep a backup from being made, before one is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backup.catalog import manifest_key
from backup.errors import ConfigError, SignalledError, SinkDeniedError, SinkError
from backup.events import Finding, Problem, Warned
from backup.model import size_text
from backup.settings import BackupSettings
from backup.stop import Stop
from backup.verbs.doctor import DoctorResult, examine
from tests.handmade import JOURNAL, Chain, mark, put
from tests.journal_data import NOON, Clock, Events, in_run, records, write_journal
from tests.simulated_sink import SimulatedSink

STATEFULSET = "deepgram-billing"
OTHER = "journal-deepgram-billing-1"


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


@pytest.fixture
def options(tmp_path: Path) -> BackupSettings:
    """Give settings, and a journal."""
    write_journal(tmp_path, 0, records(3))
    return BackupSettings(source=tmp_path, statefulset=STATEFULSET)


def examined(*sinks: SimulatedSink, options: BackupSettings, **how: Any) -> DoctorResult:
    """Examine."""
    given: dict[str, Any] = {"clock": Clock(), "emit": Events(), "has_journals": True}
    return in_run(examine, options, sinks=sinks, **(given | how))


def said(result: DoctorResult) -> list[str]:
    """Say what is as it should be."""
    return [f"{f.subject} {f.message}" for f in result.findings]


def wrong(result: DoctorResult) -> list[tuple[int, str]]:
    """Say what is wrong."""
    return [(p.exit_code, p.message) for p in result.problems]


def test_a_site_that_is_set_up_is_fine(sink: SimulatedSink, options: BackupSettings) -> None:
    """Before the first backup; and nothing was written."""
    events = Events()
    result = examined(sink, options=options, emit=events)

    assert said(result) == [
        f"{sink.url} takes backups",
        f"{sink.url} holds no backup yet",
        f"{JOURNAL} holds {size_text(len(records(3)))}, and can be read",
    ]
    assert (result.exit_codes, result.warnings) == ((), ())
    assert events.of(Finding) == [*result.findings]
    assert sink.place.objects == {}


@pytest.mark.parametrize(
    ("later", "age"),
    [
        (timedelta(seconds=-5), "0 min"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=5, minutes=3), "5 h 3 min"),
        (timedelta(days=1, hours=2), "1 day and 2 h"),
        (timedelta(days=9), "9 days and 0 h"),
    ],
)
def test_what_a_sink_holds_is_told(
    sink: SimulatedSink, options: BackupSettings, later: timedelta, age: str
) -> None:
    """How much, and how old: by it one sees that nothing has run for a week."""
    chain = Chain(sink, start=NOON - timedelta(days=2))
    chain.full(records(1))
    chain.full(records(2))
    Chain(sink, OTHER, start=NOON - timedelta(days=3)).full(records(2))
    write_journal(options.source, 1, b"")
    result = examined(sink, options=options, clock=lambda: NOON + later)

    assert said(result)[1:] == [
        f"{sink.url} holds 3 backups of 2 journals, the newest of them {age} old",
        f"{JOURNAL} holds {size_text(len(records(3)))}, and can be read",
        f"{OTHER} is empty, and can be read",
    ]


# -- sinks


def test_every_sink_is_looked_at(sink: SimulatedSink, options: BackupSettings) -> None:
    """Also after one that does not answer, which is one problem, not two."""
    bad = SimulatedSink("bad")
    for operation in ("probe", "list"):
        bad.fail(operation, SinkError("memory://bad: no route to host"))
    result = examined(bad, sink, options=options)

    (problem,) = result.problems
    assert (problem.exit_code, problem.sink) == (5, bad.url)
    assert f"{sink.url} takes backups" in said(result)


def test_what_must_not_be_written_may_be_readable(
    sink: SimulatedSink, options: BackupSettings
) -> None:
    """So what it holds is told all the same."""
    Chain(sink).full(records(1))
    sink.fail("probe", SinkDeniedError("you may not write here"))
    result = examined(sink, options=options)

    assert wrong(result) == [(5, "you may not write here")]
    assert any("holds 1 backup of 1 journal" in text for text in said(result))


def test_another_sites_prefix_is_told(sink: SimulatedSink, options: BackupSettings) -> None:
    """With the prefix to take."""
    Chain(sink).full(records(1), site="north")
    result = examined(sink, options=options.model_copy(update={"site": "south"}))

    ((code, message),) = wrong(result)
    assert (code, "holds backups of site 'north'" in message) == (2, True)


def test_a_newest_backup_that_is_not_good_is_told(
    sink: SimulatedSink, options: BackupSettings
) -> None:
    """An alarm, damage, doubt: each with what to do."""
    chain = Chain(sink)
    raised = chain.id("00beef")
    chain.full(records(1), alarms=(raised,))
    lost = Chain(sink, OTHER).full(records(1))
    del sink.place.objects[lost.archives[0].key]
    third = "journal-deepgram-billing-2"
    Chain(sink, third).full(records(1), suspect=True)
    fourth = "journal-deepgram-billing-3"
    older = Chain(sink, fourth)
    older.full(records(1))
    put(sink, manifest_key(fourth, older.full(records(2)).id), b"{}")
    for ordinal in range(1, 4):
        write_journal(options.source, ordinal, records(1))
    result = examined(sink, options=options)

    by_journal = {p.journal: p for p in result.problems}
    assert {j: p.exit_code for j, p in by_journal.items()} == {
        JOURNAL: 6,
        OTHER: 6,
        third: 3,
        fourth: 6,
    }
    assert by_journal[JOURNAL].hints[0].endswith(f"journal-backup acknowledge {raised}")
    assert "journal-backup verify" in by_journal[OTHER].hints[0]
    assert by_journal[third].hints == ("back up once more",)
    assert manifest_key(fourth, older.last.id) in by_journal[fourth].message
    put(sink, manifest_key(fourth, older.manifests[0].id), b"{}")
    assert [p.journal for p in examined(sink, options=options).problems].count(fourth) == 2
    put(
        sink,
        f"{JOURNAL}/{JOURNAL}-{raised}.acknowledged.json",
        mark("acknowledged", raised).to_bytes(),
    )
    assert JOURNAL not in {p.journal for p in examined(sink, options=options).problems}


@pytest.mark.parametrize("room", [0, 1, -1])
def test_a_sink_without_room_for_one_more_is_told(
    sink: SimulatedSink, options: BackupSettings, room: int
) -> None:
    """By what the last backup of all journals took."""
    sizes = [
        archive.size_bytes
        for chain in (Chain(sink), Chain(sink, OTHER))
        for archive in (chain.full(records(1)), chain.full(records(5)))[1].archives
    ]
    write_journal(options.source, 1, records(5))
    sink.free = sum(sizes) + room
    result = examined(sink, options=options)

    if room < 0:
        ((code, message),) = wrong(result)
        assert code == 3
        assert message.endswith(f"took {size_text(sum(sizes))}")
    else:
        assert f"{sink.url} has {size_text(sink.free)} of room" in said(result)
        assert result.exit_codes == ()


@pytest.mark.parametrize("room", [0, -1])
def test_a_sink_without_room_for_a_first_backup_is_told(
    sink: SimulatedSink, options: BackupSettings, room: int
) -> None:
    """By what journals hold of which it has no backup yet, where these can be looked at."""
    held = sum(archive.size_bytes for archive in Chain(sink).full(records(1)).archives)
    write_journal(options.source, 1, records(5))
    first = len(records(5))
    sink.free = held + first + room
    result = examined(sink, options=options)

    if room < 0:
        told = (
            f"has {size_text(sink.free)} of room, and the next backup of all journals may take "
            f"{size_text(held + first)}: journals without a backup there hold {size_text(first)} "
            "before compression"
        )
        assert wrong(result) == [(3, told)]
    else:
        assert f"{sink.url} has {size_text(sink.free)} of room" in said(result)
        assert result.exit_codes == ()
    assert examined(sink, options=options, has_journals=False).exit_codes == ()


def test_an_empty_sink_smaller_than_the_journals_is_told(
    sink: SimulatedSink, options: BackupSettings
) -> None:
    """Before the first night finds out; each sink by what it has itself."""
    other = SimulatedSink("other")
    Chain(other).full(records(3))
    sink.free = other.free = len(records(3)) - 1
    result = examined(sink, other, options=options)

    assert [(p.sink, p.exit_code) for p in result.problems] == [(sink.url, 3)]


# -- journals


def test_journals_that_have_to_be_there_are_named(
    sink: SimulatedSink, options: BackupSettings
) -> None:
    """Those that are promised, and those that sinks know."""
    Chain(sink, "journal-deepgram-billing-4").full(records(1))
    result = examined(sink, options=options.model_copy(update={"expect_replicas": 2}))

    assert [(p.journal, p.exit_code) for p in result.problems] == [
        (OTHER, 4),
        ("journal-deepgram-billing-4", 4),
    ]
    promised, known = (p.hints[-1] for p in result.problems)
    assert promised.startswith("BACKUP_EXPECT_REPLICAS=2 promises it")
    assert known.endswith("run journal-backup retire journal-deepgram-billing-4")


def test_no_journal_at_all_is_told(sink: SimulatedSink, tmp_path: Path) -> None:
    """It is as wrong as a source that is not there."""
    empty = BackupSettings(source=tmp_path, statefulset=STATEFULSET)
    result = examined(sink, options=empty)
    assert result.exit_codes == (4,)
    assert "no journal of deepgram-billing in" in result.problems[0].message

    nowhere = BackupSettings(source=tmp_path / "none")
    assert examined(sink, options=nowhere).exit_codes == (2,)


def test_oddities_are_told(sink: SimulatedSink, options: BackupSettings) -> None:
    """A journal in doubt, one without its file, another StatefulSet's."""
    source = options.source
    write_journal(source, 0, b"no newline")
    (source / OTHER).mkdir()
    (source / "journal-acme-0").mkdir()
    result = examined(sink, options=options)

    assert {w.journal for w in result.warnings} == {JOURNAL, "journal-acme-0"}
    assert [(p.journal, p.exit_code) for p in result.problems] == [(OTHER, 4)]
    assert not any(JOURNAL in text for text in said(result))


@pytest.mark.parametrize("is_mount", [True, False])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_mount_that_could_be_written_is_told(
    sink: SimulatedSink,
    options: BackupSettings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_mount: bool,
    read_only: bool,
) -> None:
    """A directory on somebody's own disk is no mount."""
    flags = SimpleNamespace(f_flag=os.ST_RDONLY if read_only else 0)
    monkeypatch.setattr("os.statvfs", lambda _: flags)
    monkeypatch.setattr("os.path.ismount", lambda _: is_mount)
    result = examined(sink, options=options)

    assert (f"{options.source} is mounted read-only" in said(result)) == read_only
    assert bool(result.warnings) == (is_mount and not read_only)


def test_where_nothing_is_mounted_no_journal_is_looked_for(sink: SimulatedSink) -> None:
    """Workers mount them, not this pod."""
    result = examined(sink, options=BackupSettings(), has_journals=False)

    assert all(text.startswith(sink.url) for text in said(result))


# -- the cluster


def test_what_the_cluster_says_comes_last(sink: SimulatedSink, options: BackupSettings) -> None:
    """And what ends that is one problem more."""

    def cluster() -> Iterator[Finding | Problem | Warned]:
        yield Finding(subject="billing", message="is there")
        yield Warned(message="look")
        message = "there is no cluster"
        raise ConfigError(message)

    result = examined(sink, options=options, cluster=cluster())

    assert said(result)[-1] == "billing is there"
    assert result.warnings == (Warned(message="look"),)
    assert wrong(result) == [(2, "there is no cluster")]


@pytest.mark.parametrize("operation", ["probe", "list"])
def test_a_signal_ends_it(sink: SimulatedSink, options: BackupSettings, operation: str) -> None:
    """Whoever waits for a file server may press ^C."""
    stop = Stop()
    hung = SimulatedSink(stop=stop)
    hung.on(operation, lambda _: stop.request(2))
    with pytest.raises(SignalledError):
        examined(hung, options=options, stop=stop)
    with pytest.raises(SignalledError):
        examined(sink, options=options, stop=stop)
