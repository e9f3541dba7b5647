"""Which backup is meant, and the sink that it is read from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from backup.catalog import OpenSink, manifest_key, open_all
from backup.catalog.selection import Chosen, known_journals, passed_over, select
from backup.errors import (
    SelectorError,
    SinkDeniedError,
    SinkError,
    SinkUnavailableError,
)
from backup.run import Run
from backup.sinks import Sink
from tests.handmade import JOURNAL, Chain
from tests.journal_data import NOON, Events, records
from tests.simulated_sink import Held, SimulatedSink

OTHER = "journal-deepgram-billing-1"


def chosen(sinks: list[Sink], selector: str, **how: Any) -> list[tuple[str, str, str]]:
    """Select; give what was chosen as journal, id and sink."""
    found, _ = select(open_all(Run(), sinks), selector, **how)
    return [told(c) for c in found]


def told(choice: Chosen) -> tuple[str, str, str]:
    """Say what a choice is."""
    return choice.backup.journal, choice.backup.id, choice.opened.url


def pair() -> tuple[SimulatedSink, SimulatedSink]:
    """Make two sinks."""
    return SimulatedSink("one"), SimulatedSink("two")


# -- opening


def test_a_sink_that_does_not_answer_is_passed_over_and_told() -> None:
    """Another one answers, so that is worth a look, no more: exit 3."""
    good, bad = pair()
    bad.fail("list", SinkDeniedError("no", "let us in"))
    events = Events()
    run = Run(emit=events)
    opened = open_all(run, [bad, good])

    assert [s.url for s in opened] == ["memory://one"]
    assert [(p.exit_code, p.sink, p.hints) for p in run.problems] == [
        (3, "memory://two", ("let us in",))
    ]
    assert events == run.problems


def test_when_no_sink_answers_the_first_error_is_raised() -> None:
    """Exit 5: nothing can be said."""
    one, two = pair()
    one.fail("list", SinkDeniedError("first"))
    two.fail("list", SinkDeniedError("second"))

    with pytest.raises(SinkError, match="first"):
        open_all(Run(), [one, two])


# -- by id


@pytest.mark.parametrize("cut", [16, 20, 23, None])
def test_a_backup_is_named_by_its_id_or_its_beginning(cut: int | None) -> None:
    """Nobody types 23 characters."""
    sink = SimulatedSink()
    chain = Chain(sink)
    chain.full(records(1))
    made = chain.full(records(2))

    assert chosen([sink], made.id[:cut]) == [(JOURNAL, made.id, "memory://one")]


def test_a_backup_is_named_by_its_archive_too() -> None:
    """What a directory listing shows can be pasted."""
    sink = SimulatedSink()
    made = Chain(sink).full(records(1))

    assert chosen([sink], f"{JOURNAL}-{made.id}") == [(JOURNAL, made.id, "memory://one")]


@pytest.mark.parametrize("selector", ["", "1999", "Latest", f"{OTHER}-20261104T120000Z-000000"])
def test_a_selector_that_matches_nothing_is_refused(selector: str) -> None:
    """An empty one matches nothing, rather than everything."""
    sink = SimulatedSink()
    Chain(sink).full(records(1))

    with pytest.raises(SelectorError, match="no backup matches"):
        chosen([sink], selector)


def test_a_selector_that_matches_several_names_them() -> None:
    """So that the next try can be exact; the same time in two journals is not the same backup."""
    sink = SimulatedSink()
    one, other = Chain(sink).full(records(1)), Chain(sink, OTHER).full(records(1))

    with pytest.raises(SelectorError, match="2 backups match") as caught:
        chosen([sink], one.id[:10])
    assert caught.value.hints == (f"{JOURNAL} {one.id}", f"{OTHER} {other.id}")
    assert chosen([sink], one.id[:10], journal=OTHER) == [(OTHER, other.id, "memory://one")]


def test_an_unknown_journal_names_the_known_ones() -> None:
    """A misspelt name must not look like an empty sink."""
    sink = SimulatedSink()
    Chain(sink).full(records(1))

    with pytest.raises(SelectorError, match="no backup of 'journal-x-0'") as caught:
        chosen([sink], "latest", journal="journal-x-0")
    assert caught.value.hints == (f"journals here: {JOURNAL}",)
    assert known_journals([OpenSink(sink)], None) == [JOURNAL]
    assert known_journals([OpenSink(sink)], JOURNAL) == [JOURNAL]


def test_an_id_chooses_a_backup_that_is_not_good() -> None:
    """Whoever names it means it; ``latest`` would not take it."""
    sink = SimulatedSink()
    made = Chain(sink).full(records(1), suspect=True, suspicion="a hole")

    assert chosen([sink], made.id) == [(JOURNAL, made.id, "memory://one")]


def spoil(sink: SimulatedSink, backup: Any, how: str) -> None:
    """Do something to one copy of a backup."""
    manifest, archive = manifest_key(JOURNAL, backup.id), backup.archives[0].key
    if how == "damaged":
        sink.place.objects[manifest] = Held(b"rubbish", NOON)
    elif how == "newer":
        sink.place.objects[manifest] = Held(b'{"format":"3.0"}', NOON)
    elif how == "absent":
        del sink.place.objects[archive]
    elif how == "short":
        sink.place.objects[archive] = Held(b"", NOON)
    elif how == "vanished":

        def vanish(key: str) -> None:
            sink.place.objects.pop(key, None)

        sink.on("open", vanish, key=manifest)
    else:
        sink.fail("open", SinkDeniedError("may not be read"), key=manifest)


@pytest.mark.parametrize("how", ["damaged", "newer", "absent", "short", "vanished", "unreadable"])
@pytest.mark.parametrize("selector", ["latest", "id"])
def test_the_first_sink_with_a_good_copy_is_read(how: str, selector: str) -> None:
    """A copy that is damaged, gone or unreadable on one sink is taken from the next."""
    one, two = pair()
    made, _ = (Chain(sink).full(records(3)) for sink in (one, two))
    spoil(one, made, how)
    selector = made.id if selector == "id" else selector

    assert chosen([one, two], selector) == [(JOURNAL, made.id, "memory://two")]


@pytest.mark.parametrize("how", ["damaged", "newer", "absent", "unreadable"])
def test_an_id_whose_good_copy_is_nowhere_takes_one_that_can_be_read(how: str) -> None:
    """A suspect copy can be restored, a damaged one cannot."""
    one, two = pair()
    made, _ = (Chain(s).full(records(3), suspect=True, suspicion="a hole") for s in (one, two))
    spoil(one, made, how)

    assert chosen([one, two], made.id) == [(JOURNAL, made.id, "memory://two")]


def test_an_id_that_is_damaged_everywhere_is_still_chosen() -> None:
    """So that whoever reads it says what is wrong."""
    one, two = pair()
    made, _ = (Chain(sink).full(records(3)) for sink in (one, two))
    spoil(one, made, "damaged")
    spoil(two, made, "damaged")

    assert chosen([one, two], made.id) == [(JOURNAL, made.id, "memory://one")]


# -- latest


@pytest.mark.parametrize("how", ["damaged", "newer", "absent", "short", "vanished"])
def test_latest_passes_over_what_is_not_good(how: str) -> None:
    """The latest *good* one is meant."""
    sink = SimulatedSink()
    chain = Chain(sink)
    good, bad = chain.full(records(1)), chain.full(records(2))
    spoil(sink, bad, how)

    assert chosen([sink], "latest") == [(JOURNAL, good.id, "memory://one")]


def test_latest_passes_over_suspect_and_alarmed_ones() -> None:
    """Until somebody says otherwise."""
    sink = SimulatedSink()
    chain = Chain(sink)
    good = chain.full(records(1))
    chain.full(records(2), suspect=True, suspicion="a hole")
    chain.full(records(3), alarms=(chain.last.id,))

    assert chosen([sink], "latest") == [(JOURNAL, good.id, "memory://one")]


def test_latest_is_the_latest_of_all_sinks() -> None:
    """A sink that missed last night is not taken because it is the first."""
    one, two = pair()
    Chain(one).full(records(1))
    late = Chain(two, start=NOON)
    made = late.full(records(2))

    assert chosen([one, two], "latest") == [(JOURNAL, made.id, "memory://two")]


def test_latest_means_one_backup_of_each_journal() -> None:
    """A journal without a good one is told, with the reasons, and does not stop the others."""
    sink = SimulatedSink()
    good = Chain(sink, OTHER).full(records(1))
    bad = Chain(sink).full(records(1), suspect=True, suspicion="a hole")
    found, problems = select(open_all(Run(), [sink]), "latest")

    assert [told(c) for c in found] == [(OTHER, good.id, "memory://one")]
    assert [(p.exit_code, p.journal, p.message) for p in problems] == [
        (2, JOURNAL, "has no good backup")
    ]
    assert problems[0].hints[0] == f"{bad.id}: suspect: a hole"


def test_latest_of_nothing_is_refused() -> None:
    """There is nothing to choose from."""
    with pytest.raises(SelectorError, match="there is no backup yet"):
        chosen([SimulatedSink()], "latest")


def test_latest_never_becomes_an_older_one_because_a_sink_failed() -> None:
    """A manifest that cannot be read may be good: yesterday's instead would be silent loss."""
    sink = SimulatedSink()
    chain = Chain(sink)
    chain.full(records(1))
    newest = chain.full(records(2))
    sink.fail("open", SinkUnavailableError("503"), key=manifest_key(JOURNAL, newest.id))
    found, problems = select(open_all(Run(), [sink]), "latest")

    assert found == []
    assert [(p.exit_code, p.journal, p.message) for p in problems] == [(5, JOURNAL, "503")]


def test_latest_of_a_later_day_needs_no_look_at_older_ones() -> None:
    """One manifest is read where the newest is good."""
    sink = SimulatedSink()
    chain = Chain(sink, start=NOON - timedelta(days=90))
    for n in range(9):
        chain.full(records(n))
    sink.calls.clear()
    chosen([sink], "latest")

    assert sink.calls == [("list", ""), ("open", manifest_key(JOURNAL, chain.last.id))]


# -- latest, when it is not the newest


def latest(sink: SimulatedSink) -> Chosen:
    """Select the latest good backup of the only journal."""
    ((choice,), _) = select(open_all(Run(), [sink]), "latest")
    return choice


def test_nothing_is_passed_over_where_the_newest_is_good() -> None:
    """So there is nothing to tell."""
    sink = SimulatedSink()
    Chain(sink).full(records(1))

    assert passed_over(latest(sink), damage_code=6) is None


@pytest.mark.parametrize(
    ("how", "is_damage"),
    [
        ("damaged", True),
        ("absent", True),
        ("short", True),
        ("newer", False),
        ("vanished", False),
        ("suspect", False),
        ("alarmed", False),
    ],
)
def test_what_was_passed_over_is_told_with_the_reason(how: str, *, is_damage: bool) -> None:
    """Damage weighs as much as the reader says; what is only suspect needs a look: exit 3."""
    sink = SimulatedSink()
    chain = Chain(sink)
    good = chain.full(records(1))
    ways: dict[str, dict[str, Any]] = {
        "suspect": {"suspect": True, "suspicion": "a hole"},
        "alarmed": {"alarms": (good.id,)},
    }
    changes = ways.get(how, {})
    bad = chain.full(records(2), **changes)
    if not changes:
        spoil(sink, bad, how)
    choice = latest(sink)
    lenient, strict = passed_over(choice), passed_over(choice, damage_code=6)

    assert lenient
    assert strict
    assert (lenient.exit_code, strict.exit_code) == (3, 6 if is_damage else 3)
    assert lenient.message == f"{good.id} is the latest good backup, and not the latest"
    assert lenient.hints[0].startswith(f"{bad.id}: ")
    assert (lenient.journal, lenient.sink) == (JOURNAL, None)


def test_one_damaged_backup_among_those_passed_over_is_enough() -> None:
    """Also where the newest is only suspect."""
    sink = SimulatedSink()
    chain = Chain(sink)
    chain.full(records(1))
    damaged = chain.full(records(2))
    chain.full(records(3), suspect=True, suspicion="a hole")
    spoil(sink, damaged, "damaged")
    problem = passed_over(latest(sink), damage_code=6)

    assert problem
    assert problem.exit_code == 6
