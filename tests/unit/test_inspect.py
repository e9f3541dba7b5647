"""List and show: what is there, on whichever sink."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import Catalog, OpenSink, archive_key, manifest_key
from backup.errors import (
    ManifestError,
    SelectorError,
    SinkDeniedError,
    SinkError,
    SinkUnavailableError,
)
from backup.events import Problem
from backup.model import new_id
from backup.settings import StoreSettings
from backup.sinks import Place, Sink
from backup.sinks.file import FileSink
from backup.sinks.kinds import FileOptions
from backup.stop import Stop
from backup.verbs.inspect import ListResult, list_backups, show
from tests.handmade import JOURNAL, Chain, mark, put
from tests.journal_data import NOON, Events, in_run, records
from tests.simulated_sink import SimulatedSink

OTHER = "journal-deepgram-billing-1"


def listed(sinks: Sequence[Sink], **how: Any) -> ListResult:
    """List."""
    given: dict[str, Any] = {"journal": None, "long": False, "emit": Events()}
    return in_run(list_backups, sinks, **(given | how))


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


# -- list


def test_an_empty_sink_lists_nothing(sink: SimulatedSink) -> None:
    """That is no error: nothing was backed up yet."""
    result = listed([sink])

    assert (result.backups, result.not_backups, result.exit_codes) == ((), 0, ())


def test_backups_are_merged_over_sinks(sink: SimulatedSink) -> None:
    """One row a backup, with every sink that holds it and every mark that any of them shows."""
    two = SimulatedSink("two")
    chains = [Chain(sink), Chain(two)]
    both, _ = (chain.full(records(2)) for chain in chains)
    alone = chains[1].full(records(3))
    Catalog(sink).mark(mark("retired", both.id))
    Catalog(two).mark(mark("verified", both.id))
    first, second = listed([sink, two]).backups

    assert (first.journal, first.id, first.sinks) == (JOURNAL, both.id, (sink.url, two.url))
    assert first.marks == ("retired", "verified")
    assert (first.archive_bytes, first.details) == (both.archive_bytes, None)
    assert first.created_at == both.created_at
    assert (second.id, second.sinks) == (alone.id, (two.url,))


def test_rows_are_sorted_by_journal_then_age(sink: SimulatedSink) -> None:
    """The newest of each journal stands last, where a terminal shows it."""
    for journal in (OTHER, JOURNAL):
        chain = Chain(sink, journal)
        for n in (1, 2):
            chain.full(records(n))
    rows = listed([sink]).backups

    assert [(r.journal, r.id) for r in rows] == sorted((r.journal, r.id) for r in rows)


def test_what_is_no_backup_is_counted_and_not_listed(sink: SimulatedSink) -> None:
    """Drafts and remains are, foreign objects and the tombstones of pruned backups are not."""
    chain = Chain(sink)
    chain.full(records(1))
    ghost, pruned = chain.id(), chain.id()
    put(sink, archive_key(JOURNAL, ghost, 1), b"x")
    put(sink, f"{JOURNAL}/{JOURNAL}-{ghost}.draft.json", b"{}")
    put(sink, f"{JOURNAL}/{JOURNAL}-{pruned}.pruned.json", b"{}")
    put(sink, "model.dg", b"weights")
    result = listed([sink])

    assert (len(result.backups), result.not_backups) == (1, 2)


def test_a_journal_can_be_listed_alone(sink: SimulatedSink) -> None:
    """Its remains too."""
    one, two = Chain(sink).full(records(1)), Chain(sink, OTHER).full(records(1))
    put(sink, archive_key(OTHER, "20261101T000000Z-00dead", 1), b"x")

    assert [r.id for r in listed([sink], journal=OTHER).backups] == [two.id]
    assert [r.id for r in listed([sink], journal=JOURNAL).backups] == [one.id]
    assert listed([sink], journal=JOURNAL).not_backups == 0


def test_what_a_killed_put_has_left_is_told(sink: SimulatedSink, tmp_path: Path) -> None:
    """It has no key yet: nothing else of `list` would show it. A store that hides it says none."""
    place = Place(path=str(tmp_path), options=FileOptions(require_mount=False))
    settings = StoreSettings(source=tmp_path / "source")
    nas = FileSink(place, settings, stop=Stop(), stall_seconds=20)
    Chain(nas).full(records(1))
    Chain(sink, OTHER).full(records(1))
    killed = archive_key(OTHER, "20261101T000000Z-00dead", 1).replace("/", "/.")
    (tmp_path / OTHER).mkdir()
    (tmp_path / f"{killed}.0123abcd.part").write_bytes(b"x")
    (tmp_path / ".probe.0123abcd.part").write_bytes(b"")

    result = listed([nas, sink])
    assert (result.unfinished, result.not_backups) == (1, 0)
    assert [listed([nas, sink], journal=j).unfinished for j in (OTHER, JOURNAL)] == [1, 0]


def test_a_sink_that_goes_away_while_it_is_listed_is_told(sink: SimulatedSink) -> None:
    """What it has shown until then is listed."""
    Chain(sink).full(records(1))
    sink.fail("unfinished", SinkUnavailableError("away"), times=None)
    result = listed([sink])

    assert (len(result.backups), result.unfinished, result.exit_codes) == (1, 0, (3,))


def test_a_misspelt_journal_is_not_an_empty_list(sink: SimulatedSink) -> None:
    """Exit 2, with the names that there are."""
    Chain(sink).full(records(1))

    with pytest.raises(SelectorError):
        listed([sink], journal="journal-deepgram-biling-0")


def test_a_sink_that_is_down_is_told_and_the_others_are_listed(sink: SimulatedSink) -> None:
    """Exit 3; when all are down, 5."""
    down = SimulatedSink("down")
    down.fail("list", SinkDeniedError("down"))
    Chain(sink).full(records(1))
    events = Events()
    result = listed([down, sink], emit=events)

    assert (len(result.backups), result.exit_codes) == (1, (3,))
    assert events == list(result.problems)
    with pytest.raises(SinkError):
        listed([down])


def test_a_list_costs_one_listing_and_no_manifest() -> None:
    """5,000 backups of 10 journals are listed without reading one of them."""
    sink = SimulatedSink()
    for ordinal in range(10):
        name = f"journal-deepgram-billing-{ordinal}"
        for n in range(500):
            backup_id = new_id(NOON + timedelta(days=n), after=(), token=f"{ordinal:06x}")
            for key in (archive_key(name, backup_id, 1), manifest_key(name, backup_id)):
                put(sink, key, b"x")
    result = listed([sink])

    assert len(result.backups) == 5000
    assert sink.calls == [("list", ""), ("unfinished", "")]


def test_a_long_list_reads_each_manifest_once(sink: SimulatedSink) -> None:
    """It tells what only manifests know; alarms are those that still stand."""
    chain = Chain(sink)
    chain.full(records(2))
    raised = chain.full(records(3), alarms=(answered := chain.id(),)).id
    chain.full(records(4), alarms=(answered, raised), suspect=True, suspicion="a hole")
    Catalog(sink).mark(mark("acknowledged", answered))
    sink.calls.clear()
    rows = listed([sink], long=True).backups
    details = [r.details for r in rows]

    assert [op for op, _ in sink.calls] == ["list", "open", "open", "open", "unfinished"]
    assert [(d.records, d.alarms, d.suspect, d.continuity) for d in details if d] == [
        (2, (), False, "first"),
        (3, (), False, "extended"),
        (4, (raised,), True, "extended"),
    ]
    assert [d.size_bytes for d in details if d] == [m.size_bytes for m in chain.manifests]


def test_a_damaged_manifest_is_told_and_the_list_goes_on(sink: SimulatedSink) -> None:
    """Another sink's copy tells the details, where there is one."""
    two = SimulatedSink("two")
    chains = [Chain(sink), Chain(two)]
    both, _ = (chain.full(records(2)) for chain in chains)
    alone = chains[0].full(records(3))
    for made in (both, alone):
        put(sink, manifest_key(JOURNAL, made.id), b"rubbish")
    result = listed([sink, two], long=True)

    assert [r.details is None for r in result.backups] == [False, True]
    assert result.exit_codes == (6, 6)


def test_a_newer_format_in_a_long_list_is_told(sink: SimulatedSink) -> None:
    """Exit 2: use a newer version."""
    made = Chain(sink).full(records(2))
    put(sink, manifest_key(JOURNAL, made.id), b'{"format":"2.0"}')
    result = listed([sink], long=True)

    assert (result.backups[0].details, result.exit_codes) == (None, (2,))


def test_a_sink_that_dies_during_a_long_list_is_left_alone_from_then_on(
    sink: SimulatedSink,
) -> None:
    """It is told once, not asked for each backup; another sink's copies tell the details."""
    two = SimulatedSink("two")
    for chain in (Chain(sink), Chain(two)):
        for n in range(3):
            chain.full(records(n))
    sink.fail("open", SinkDeniedError("died"))
    result = listed([sink, two], long=True)

    assert all(row.details for row in result.backups)
    assert [(p.exit_code, p.sink) for p in result.problems] == [(3, sink.url)]
    assert [op for op, _ in sink.calls].count("open") == 0 + 1 + 2, "one of them, and the chain's"


def test_when_the_only_sink_dies_during_a_long_list_what_was_listed_is_shown(
    sink: SimulatedSink,
) -> None:
    """Without details, and with exit 5."""
    chain = Chain(sink)
    for n in range(3):
        chain.full(records(n))
    sink.fail("open", SinkDeniedError("died"), after=1)
    result = listed([sink], long=True)

    assert [row.details is None for row in result.backups] == [False, True, True]
    assert result.exit_codes == (5,)


def test_a_backup_that_is_removed_during_a_long_list_does_not_end_it(sink: SimulatedSink) -> None:
    """Another operator may prune at the same time."""
    chain = Chain(sink)
    gone, stays = chain.full(records(1)), chain.full(records(2))

    def vanish(key: str) -> None:
        sink.place.objects.pop(key, None)

    sink.on("open", vanish, key=manifest_key(JOURNAL, gone.id))
    result = listed([sink], long=True)

    assert [(r.id, r.details is None) for r in result.backups] == [
        (gone.id, True),
        (stays.id, False),
    ]
    assert result.exit_codes == (3,)


# -- show


def test_a_backup_is_shown_in_full(sink: SimulatedSink) -> None:
    """Its manifest and hash, marks, alarms, every sink that has it, and whether it is good."""
    two, empty = SimulatedSink("two"), SimulatedSink("empty")
    chains = [Chain(sink), Chain(two)]
    made, _ = (chain.full(records(2)) for chain in chains)
    Catalog(sink).mark(mark("verified", made.id))
    result = in_run(show, [sink, two, empty], made.id, journal=None, emit=Events())

    assert (result.manifest, result.sink, result.also_on) == (made, sink.url, (two.url,))
    assert result.manifest_sha256 == OpenSink(sink).manifest_sha256(JOURNAL, made.id)
    assert (result.marks, result.standing_alarms, result.against) == (("verified",), (), None)
    assert result.exit_codes == ()


def test_what_speaks_against_a_backup_is_shown(sink: SimulatedSink) -> None:
    """Chosen by its id, it need not be good."""
    chain = Chain(sink)
    chain.full(records(1))
    raised = chain.id()
    made = chain.full(records(2), alarms=(raised,))
    result = in_run(show, [sink], made.id, journal=None, emit=Events())

    assert (result.standing_alarms, result.against) == ((raised,), f"standing alarm: {raised}")


def test_a_damaged_backup_cannot_be_shown(sink: SimulatedSink) -> None:
    """Exit 6."""
    made = Chain(sink).full(records(1))
    put(sink, manifest_key(JOURNAL, made.id), b"{")

    with pytest.raises(ManifestError):
        in_run(show, [sink], made.id, journal=None, emit=Events())


def test_latest_of_several_journals_has_to_be_narrowed_down(sink: SimulatedSink) -> None:
    """Also where only one of them has a good backup: which one was meant is not known."""
    Chain(sink).full(records(1), suspect=True, suspicion="a hole")
    made = Chain(sink, OTHER).full(records(1))

    with pytest.raises(SelectorError, match=f"2 journals have backups: {JOURNAL}, {OTHER}"):
        in_run(show, [sink], "latest", journal=None, emit=Events())
    assert in_run(show, [sink], "latest", journal=OTHER, emit=Events()).manifest == made
    with pytest.raises(SelectorError, match=f"{JOURNAL} has no good backup") as caught:
        in_run(show, [sink], "latest", journal=JOURNAL, emit=Events())
    assert "suspect: a hole" in caught.value.hints[0]


def test_an_older_backup_instead_of_the_latest_is_told(sink: SimulatedSink) -> None:
    """What is shown is not all that there is: exit 3, and the reason."""
    chain = Chain(sink)
    good, bad = chain.full(records(1)), chain.full(records(2))
    put(sink, manifest_key(JOURNAL, bad.id), b"{}")
    events = Events()
    result = in_run(show, [sink], "latest", journal=None, emit=events)

    assert (result.manifest, result.against, result.exit_codes) == (good, None, (3,))
    assert bad.id in result.problems[0].hints[0]
    assert events == list(result.problems)


def test_a_sink_that_is_down_is_told_even_when_nothing_matches(sink: SimulatedSink) -> None:
    """It may be the one that has it."""
    down = SimulatedSink("down")
    down.fail("list", SinkDeniedError("down"))
    Chain(sink).full(records(1))
    events = Events()

    with pytest.raises(SelectorError):
        in_run(show, [sink, down], "1999", journal=None, emit=events)
    assert [p.sink for p in events.of(Problem)] == [down.url]
    assert in_run(show, [sink, down], "latest", journal=None, emit=events).exit_codes == (3,)
