"""What a run expects, what it finds, and that the result names every journal of either."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backup.errors import ConfigError
from tests.journal_data import (
    NAME,
    Events,
    append,
    exit_code,
    manifests,
    mark,
    metadata,
    records,
    replace_file,
    run_backup,
    said,
    states,
    stored_journal,
    write_journal,
)
from tests.simulated_sink import SimulatedSink

SECOND = "journal-deepgram-billing-1"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume with models on it, and no journal yet."""
    source = tmp_path / "journals"
    (source / "models").mkdir(parents=True)
    return source


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


def retire(sink: SimulatedSink, journal: str = NAME) -> None:
    """Say that a journal will not come back."""
    mark(sink.place, "retired", manifests(sink.place, journal)[-1].id, journal)


def remove(path: Path) -> None:
    """Remove a journal and its directory."""
    path.unlink()
    path.parent.rmdir()


# -- the source


def test_missing_source_is_a_wrong_setting(tmp_path: Path, sink: SimulatedSink) -> None:
    """Exit 2, before a sink is asked for anything."""
    with pytest.raises(ConfigError):
        run_backup(tmp_path / "missing", [sink])

    assert sink.calls == []


def test_unmounted_volume_never_looks_like_success(tmp_path: Path, sink: SimulatedSink) -> None:
    """An empty directory is what an unmounted volume leaves: exit 4, and what to look at."""
    result = run_backup(tmp_path, [sink])

    assert exit_code(result) == 4
    assert "no journal of deepgram-billing in" in said(result)
    assert "is the volume mounted?" in said(result)
    assert "BACKUP_STATEFULSET" in said(result)
    assert result.journals == ()


def test_models_without_a_journal_fail_the_run(source: Path, sink: SimulatedSink) -> None:
    """The volume is there, and billing does not write on it."""
    result = run_backup(source, [sink])

    assert (exit_code(result), result.ignored_entries) == (4, 1)


def test_all_else_is_counted_and_left_alone(source: Path, sink: SimulatedSink) -> None:
    """What is not ours is named with the setting that would back it up, or only counted."""
    write_journal(source, 0, records(3))
    write_journal(source, 0, records(3), name="other")
    (source / "journal-deepgram-billing-x").mkdir()
    (source / "journal-deepgram-billing-7").symlink_to(NAME)
    (source / "journal-deepgram-billing-8").touch()

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert states(result) == {0: "backed up"}
    assert result.ignored_entries == 2
    assert result.foreign_journals == ("journal-other-0",)
    assert "BACKUP_STATEFULSET=other would back it up" in said(result)
    assert "journal-deepgram-billing-7 is a symbolic link" in said(result)
    assert "journal-deepgram-billing-8 is not a directory" in said(result)
    assert {key.partition("/")[0] for key in sink.place.objects} == {NAME}


def test_the_volume_is_only_read(source: Path, sink: SimulatedSink) -> None:
    """Law 3: no owner, mode, time, name or size of anything on it changes."""
    path = write_journal(source, 0, records(3))
    path.chmod(0o600)
    (path.parent / "extra").symlink_to("journal")
    (path.parent / "sub").mkdir(0o700)
    (path.parent / "sub" / "file").touch()
    write_journal(source, 1, b"")
    before = metadata(source)

    result = run_backup(source, [sink], expect_replicas=3)

    assert states(result) == {0: "backed up", 1: "empty", 2: "missing"}
    assert metadata(source) == before


# -- what is expected


def test_promised_ordinal_that_is_missing(source: Path, sink: SimulatedSink) -> None:
    """The others are backed up; the run fails and says which one is not there."""
    write_journal(source, 1, records(3))

    result = run_backup(source, [sink], expect_replicas=3)

    assert exit_code(result) == 4
    assert states(result) == {0: "missing", 1: "backed up", 2: "missing"}
    assert [(o.expected, o.found) for o in result.journals] == [
        (True, False),
        (True, True),
        (True, False),
    ]
    assert f"{source / NAME} is not there" in said(result)
    assert "BACKUP_EXPECT_REPLICAS=3 promises it" in said(result)
    assert "journal-backup retire" not in said(result)


def test_more_than_promised_is_backed_up_too(source: Path, sink: SimulatedSink) -> None:
    """A journal that a scale-in left behind still holds records."""
    write_journal(source, 0, records(3))
    write_journal(source, 9, records(3))

    result = run_backup(source, [sink], expect_replicas=1)

    assert exit_code(result) == 0
    assert states(result) == {0: "backed up", 9: "backed up"}
    assert [o.expected for o in result.journals] == [True, False]


def test_journal_that_any_catalog_knows_is_expected(source: Path) -> None:
    """One sink out of two has seen it: it must not vanish unnoticed."""
    first, second = SimulatedSink("first"), SimulatedSink("second")
    gone = write_journal(source, 1, records(3))
    write_journal(source, 0, records(3))
    run_backup(source, [second])
    remove(gone)

    result = run_backup(source, [first, second])

    assert exit_code(result) == 4
    assert states(result) == {0: "backed up", 1: "missing"}
    assert f"{SECOND} None: expected, but" in said(result)


def test_result_is_in_the_order_of_ordinals(source: Path, sink: SimulatedSink) -> None:
    """Ten comes after two, whichever was read first and whichever is missing."""
    for ordinal in (10, 2):
        write_journal(source, ordinal, records(1))

    result = run_backup(source, [sink], expect_replicas=4)

    assert list(states(result)) == [0, 1, 2, 3, 10]


def test_retired_journal_is_not_expected(source: Path, sink: SimulatedSink) -> None:
    """Somebody said that it is gone for good."""
    write_journal(source, 0, records(3))
    gone = write_journal(source, 1, records(3))
    run_backup(source, [sink])
    remove(gone)
    retire(sink, SECOND)

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})


def test_promised_journal_is_expected_though_retired(source: Path, sink: SimulatedSink) -> None:
    """Two statements contradict each other: the one that asks for more counts."""
    gone = write_journal(source, 0, records(3))
    run_backup(source, [sink])
    remove(gone)
    retire(sink)

    result = run_backup(source, [sink], expect_replicas=1)

    assert (exit_code(result), states(result)) == (4, {0: "missing"})
    (problem,) = result.problems
    by_setting = (
        "BACKUP_EXPECT_REPLICAS=1 promises it: if the journal is gone for good, set it to 0 "
        "(in the chart, billing.replicas)"
    )
    assert problem.hints == ("is its volume mounted?", by_setting)


def test_missing_journal_names_every_promise_and_its_fix(source: Path) -> None:
    """`retire` ends the promise of a catalog, and not that of the setting."""
    first, second = SimulatedSink("first"), SimulatedSink("second")
    write_journal(source, 0, records(3))
    gone = write_journal(source, 1, records(3))
    run_backup(source, [first, second])
    remove(gone)
    retire(first, SECOND)

    (by_catalog,) = run_backup(source, [first, second]).problems
    (by_both,) = run_backup(source, [first, second], expect_replicas=2).problems

    by_sink = (
        f"{second.url} has backups of it: if the journal is gone for good, "
        f"run journal-backup retire {SECOND}"
    )
    by_setting = (
        "BACKUP_EXPECT_REPLICAS=2 promises it: if the journal is gone for good, set it to 1 or "
        "less (in the chart, billing.replicas)"
    )
    assert by_catalog.hints == ("is its volume mounted?", by_sink)
    assert by_both.hints == ("is its volume mounted?", by_setting, by_sink)


def test_retired_on_one_sink_only_is_still_expected(source: Path) -> None:
    """The sink that was away when it was retired remembers it."""
    sinks = [SimulatedSink("first"), SimulatedSink("second")]
    write_journal(source, 0, records(3))
    gone = write_journal(source, 1, records(3))
    run_backup(source, sinks)
    remove(gone)
    retire(sinks[0], SECOND)

    assert exit_code(run_backup(source, sinks)) == 4


def test_all_journals_retired_is_no_journal_at_all(source: Path, sink: SimulatedSink) -> None:
    """A run that backed up nothing is no success, whatever was retired."""
    gone = write_journal(source, 0, records(3))
    run_backup(source, [sink])
    retire(sink)
    gone.unlink()

    result = run_backup(source, [sink])

    assert exit_code(result) == 4
    assert "no journal of deepgram-billing" in said(result)
    assert states(result) == {0: "missing"}


def test_returned_journal_is_retired_no_longer(source: Path, sink: SimulatedSink) -> None:
    """Its new backup carries no such mark: it is expected again, and a warning says so."""
    path = write_journal(source, 0, records(3))
    run_backup(source, [sink])
    retire(sink)

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert f"{NAME} {sink.url}: was retired and is back: it is no longer retired" in said(result)
    remove(path)
    assert states(run_backup(source, [sink])) == {0: "missing"}


def test_returned_journal_stays_retired_where_it_could_not_be_stored(source: Path) -> None:
    """Nothing was committed there, so nothing has changed there."""
    sinks = [SimulatedSink("first"), SimulatedSink("second")]
    write_journal(source, 0, records(3))
    run_backup(source, sinks)
    for sink in sinks:
        retire(sink)
    sinks[0].fail("put", RuntimeError("broken"))

    warned = {w.sink for w in run_backup(source, sinks).warnings}

    assert warned == {sinks[1].url}


def test_empty_directory_of_a_retired_journal_is_fine(source: Path, sink: SimulatedSink) -> None:
    """It may stay behind on a shared volume; it is named, and fails nothing."""
    write_journal(source, 0, records(3))
    path = write_journal(source, 1, records(3))
    run_backup(source, [sink])
    retire(sink, SECOND)
    path.unlink()

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (0, {0: "backed up", 1: "missing"})
    assert f"{SECOND} None: is retired, and" in said(result)
    assert exit_code(run_backup(source, [sink], expect_replicas=2)) == 4


@pytest.mark.parametrize("replicas", [0, 2])
def test_directory_without_a_journal_fails_the_run(
    source: Path, sink: SimulatedSink, replicas: int
) -> None:
    """Expected or not: billing made that directory, so its records ought to be in it."""
    write_journal(source, 0, records(3))
    (source / SECOND).mkdir()

    result = run_backup(source, [sink], expect_replicas=replicas)

    assert (exit_code(result), states(result)) == (4, {0: "backed up", 1: "missing"})
    assert "it has no file 'journal'" in said(result)


def test_journal_that_vanishes_after_it_was_found(source: Path) -> None:
    """The sinks are asked in between, and that can take a while."""
    sink = SimulatedSink()
    write_journal(source, 0, records(3))
    path = write_journal(source, 1, records(3))
    sink.on("list", lambda _key: remove(path) if path.exists() else None)

    result = run_backup(source, [sink], expect_replicas=2)

    assert (exit_code(result), states(result)) == (4, {0: "backed up", 1: "missing"})


def test_journals_of_another_statefulset_are_not_expected(
    source: Path, sink: SimulatedSink
) -> None:
    """After billing.namePrefix has changed, the old ones are told once and fail nothing."""
    write_journal(source, 0, records(3), name="old")
    run_backup(source, [sink], statefulset="old")
    write_journal(source, 0, records(3))

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert states(result) == {0: "backed up"}
    assert f"None {sink.url}: holds journals of another StatefulSet" in said(result)
    assert "journal-old-0" in said(result)


# -- what a journal's directory holds


def test_strange_entries_are_reported_and_extras_packed(source: Path, sink: SimulatedSink) -> None:
    """A link may stand for records that are elsewhere: somebody should know."""
    root = write_journal(source, 0, records(3)).parent
    (root / "a link").symlink_to("journal")
    (root / ".nfs1").touch()
    (root / "an extra\n").write_bytes(b"\0extra")

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert "was backed up without what is no file: a%20link is a symbolic link" in said(result)
    assert result.journals[0].passed_over == (
        (".nfs1", "left to the file system"),
        ("a%20link", "a symbolic link"),
    )
    assert [f.path for f in manifests(sink.place)[0].files] == ["an%20extra%0A", "journal"]


def test_strange_entries_without_end_are_counted(source: Path, sink: SimulatedSink) -> None:
    """The first are named, for the others can be seen where they are."""
    root = write_journal(source, 0, records(3)).parent
    for number in range(200):
        (root / f"link-{number}").symlink_to("nowhere")

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert said(result).count("is a symbolic link") == 20
    assert "and 180 more" in said(result)
    assert len(result.journals[0].passed_over) == 100
    assert result.journals[0].passed_over_count == 200


def test_empty_journal_without_history_is_a_warning(source: Path, sink: SimulatedSink) -> None:
    """Billing has just begun; tomorrow's must extend it."""
    path = write_journal(source, 0, b"")
    (path.parent / "extra").write_bytes(b"not empty")

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (0, {0: "empty"})
    assert "is empty: no complete record yet" in said(result)
    path.write_bytes(records(1))
    again = run_backup(source, [sink])
    assert (exit_code(again), states(again)) == (0, {0: "backed up"})
    assert [m.continuity for m in manifests(sink.place)] == ["first", "extended"]


def test_no_newline_is_kept_and_suspect(source: Path, sink: SimulatedSink) -> None:
    """Exit 4; the bytes are on the sink all the same, and tomorrow's may extend them."""
    path = write_journal(source, 0, b'{"d":')

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == b'{"d":'
    manifest = manifests(sink.place)[0]
    assert (manifest.suspect, manifest.continuity) == (True, "first")
    assert manifest.suspicion == "not one complete record in 5 bytes: no newline"
    path.write_bytes(b'{"d":1}\n')
    again = run_backup(source, [sink])
    assert (exit_code(again), states(again)) == (0, {0: "backed up"})
    assert manifests(sink.place)[1].continuity == "extended"


def test_record_cut_in_the_middle_is_left_for_tomorrow(source: Path, sink: SimulatedSink) -> None:
    """What is omitted is counted in the result and in the manifest."""
    whole = records(3)
    write_journal(source, 0, whole + b'{"d":"half')

    result = run_backup(source, [sink])

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == whole
    outcome = result.journals[0]
    assert (outcome.records, outcome.size_bytes) == (3, len(whole))
    assert outcome.omitted_tail_bytes == 10
    assert manifests(sink.place)[0].files[0].omitted_tail_bytes == 10


def test_tail_that_stays_is_told(source: Path, sink: SimulatedSink) -> None:
    """Tomorrow's reading takes what is half written today; what is not written on is lost."""
    path = write_journal(source, 0, records(3) + b'{"d":"half')
    first = run_backup(source, [sink])

    same = run_backup(source, [sink])
    os.utime(path, (1, 1))
    touched = run_backup(source, [sink])
    append(path, b'"}\n{"d":"another')
    longer = run_backup(source, [sink])

    assert [exit_code(r) for r in (first, same, touched, longer)] == [0, 0, 0, 0]
    assert "10 bytes after its last complete record were left out, as in its last backup" in said(
        same
    )
    assert [said(r) for r in (first, touched, longer)] == ["", "", ""]


def test_nothing_that_stays_is_nothing_to_tell(source: Path, sink: SimulatedSink) -> None:
    """A journal at rest ends with a record."""
    write_journal(source, 0, records(3))
    run_backup(source, [sink])

    assert said(run_backup(source, [sink])) == ""


def test_tail_too_long_for_a_record_is_kept_and_suspect(source: Path, sink: SimulatedSink) -> None:
    """Exit 4, and no byte is left out; tomorrow's may extend it."""
    data = records(3) + records(9000).replace(b"\n", b",")
    path = write_journal(source, 0, data)

    result = run_backup(source, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == data
    path.write_bytes(data + b"\n")
    again = run_backup(source, [sink])
    assert (exit_code(again), manifests(sink.place)[1].continuity) == (0, "extended")


def test_quiesced_keeps_the_torn_tail_and_tells_of_it(source: Path, sink: SimulatedSink) -> None:
    """Byte for byte: never cut, never suspect."""
    data = records(3) + b'{"d":"half'
    write_journal(source, 0, data)

    result = run_backup(source, [sink], strategy="scale-down")

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == data
    assert "ends in the middle of a record: 10 bytes, kept" in said(result)
    manifest = manifests(sink.place)[0]
    assert manifest.source.consistency == "quiesced"
    assert manifest.files[0].omitted_tail_bytes == 0


def test_quiesced_takes_nuls_for_data(source: Path, sink: SimulatedSink) -> None:
    """Nobody will fill them any more."""
    write_journal(source, 0, b"{}\n\0\0\n")
    events = Events()

    result = run_backup(source, [sink], strategy="scale-down", emit=events)

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == b"{}\n\0\0\n"


def test_replaced_before_it_could_be_read(source: Path) -> None:
    """A small journal in the queue was captured, and is another file when its turn comes."""
    sink = SimulatedSink()
    path = write_journal(source, 0, records(3))
    replaced = records(4, seed=2)
    run_backup(source, [sink])
    sink.on("open", lambda _key: replace_file(path, replaced), key="*.manifest.json")

    run_backup(source, [sink])

    assert stored_journal(sink.place) == replaced


def test_weird_times_are_carried_as_far_as_a_calendar_goes(
    source: Path, sink: SimulatedSink
) -> None:
    """A file system knows times before 1970 and after 9999; tar and JSON do not."""
    root = write_journal(source, 0, records(1)).parent
    for name, when in (("early", -5), ("late", 1 << 40)):
        (root / name).touch()
        try:
            os.utime(root / name, (when, when))
        except OverflowError as error:  # pragma: no cover - depends on the file system
            pytest.skip(f"utime: {error}")

    assert exit_code(run_backup(source, [sink])) == 0
    years = {f.path: f.mtime.year for f in manifests(sink.place)[0].files}
    assert years["early"] == 1970
