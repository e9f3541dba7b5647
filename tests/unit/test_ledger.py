"""Acknowledging alarms and retiring journals: marks beside manifests, on every sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from backup.catalog import OpenSink, manifest_key
from backup.errors import ManifestError, SelectorError, SinkDeniedError, SinkError
from backup.events import Problem
from backup.manifest import parse_mark
from backup.verbs.ledger import LedgerResult, acknowledge, retire
from tests.handmade import JOURNAL, Chain
from tests.journal_data import NOON, Clock, Events, in_run, records
from tests.simulated_sink import Held, SimulatedSink

OTHER = "journal-deepgram-billing-1"


def answer(sinks: Sequence[SimulatedSink], selector: str, **how: Any) -> LedgerResult:
    """Acknowledge."""
    given: dict[str, Any] = {"by": None, "note": None, "clock": Clock(), "emit": Events()}
    return in_run(acknowledge, sinks, selector, **(given | how))


def give_up(sinks: Sequence[SimulatedSink], journal: str, **how: Any) -> LedgerResult:
    """Retire."""
    given: dict[str, Any] = {"by": None, "note": None, "clock": Clock(), "emit": Events()}
    return in_run(retire, sinks, journal, **(given | how))


def alarmed(sink: SimulatedSink, journal: str = JOURNAL, tag: str = "00beef") -> tuple[Chain, str]:
    """Make a history with an alarm; give the id that raised it."""
    chain = Chain(sink, journal)
    chain.full(records(1))
    raised = chain.id(tag)
    chain.full(records(2), alarms=(raised,))
    return chain, raised


def marks(sink: SimulatedSink, kind: str) -> list[str]:
    """Find the marks of a kind."""
    return [key for key in sorted(sink.place.objects) if key.endswith(f".{kind}.json")]


def standing(sink: SimulatedSink, journal: str = JOURNAL) -> tuple[str, ...]:
    """Name the alarms that stand on a sink."""
    opened = OpenSink(sink)
    newest, _ = opened.newest(journal)
    return opened.standing_alarms(newest.manifest) if newest else ()


# -- acknowledge


@pytest.mark.parametrize("cut", [8, 16, None])
def test_an_alarm_is_answered_by_its_id_or_its_beginning(cut: int | None) -> None:
    """The mark tells who, when and what they found."""
    sink = SimulatedSink()
    _, raised = alarmed(sink)
    result = answer([sink], raised[:cut], by="Ann", note="we moved the volume")

    assert standing(sink) == ()
    assert [(m.kind, m.journal, m.id, m.sink, m.is_new) for m in result.marks] == [
        ("acknowledged", JOURNAL, raised, "memory://one", True)
    ]
    assert result.exit_codes == ()
    mark = parse_mark(sink.read(marks(sink, "acknowledged")[0]))
    assert (mark.by, mark.note, mark.created_at) == ("Ann", "we moved the volume", NOON)


def test_answering_again_is_fine() -> None:
    """Also when a later backup no longer carries the alarm."""
    sink = SimulatedSink()
    chain, raised = alarmed(sink)
    answer([sink], raised)
    again = answer([sink], raised)
    chain.full(records(3))
    late = answer([sink], raised)

    assert [m.is_new for m in (*again.marks, *late.marks)] == [False, False]
    assert len(marks(sink, "acknowledged")) == 1


def test_a_beginning_means_the_alarm_that_still_stands() -> None:
    """Those that are answered do not make it ambiguous."""
    sink = SimulatedSink()
    _, raised = alarmed(sink)
    _, other = alarmed(sink, OTHER, "00cafe")
    answer([sink], raised)

    assert [m.id for m in answer([sink], raised[:8]).marks] == [other]


@pytest.mark.parametrize("selector", ["", "1999", "latest"])
def test_an_alarm_that_nobody_raised_cannot_be_answered(selector: str) -> None:
    """The hints name those that stand."""
    sink = SimulatedSink()
    _, raised = alarmed(sink)

    with pytest.raises(SelectorError, match="no alarm matches") as caught:
        answer([sink], selector)
    assert caught.value.hints == (f"{JOURNAL} {raised}",)
    assert marks(sink, "acknowledged") == []


def test_where_no_alarm_stands_the_hint_says_so() -> None:
    """A backup without an alarm cannot be acknowledged in advance."""
    sink = SimulatedSink()
    made = Chain(sink).full(records(1))

    with pytest.raises(SelectorError) as caught:
        answer([sink], made.id)
    assert caught.value.hints == ("no alarm stands: see list --long",)


def test_several_alarms_are_named() -> None:
    """Each has to be answered for itself."""
    sink = SimulatedSink()
    _, one = alarmed(sink)
    _, two = alarmed(sink, OTHER, "00cafe")

    with pytest.raises(SelectorError, match="several alarms match") as caught:
        answer([sink], one[:8])
    assert caught.value.hints == (f"{JOURNAL} {one}", f"{OTHER} {two}")


def test_an_alarm_is_answered_on_every_sink_where_it_stands() -> None:
    """And on no other: a sink with another history never raised it."""
    sinks = [SimulatedSink(name) for name in ("one", "two", "three")]
    (_, raised), _ = (alarmed(sink) for sink in sinks[:2])
    Chain(sinks[2]).full(records(2))
    result = answer(sinks, raised)

    assert [m.sink for m in result.marks] == ["memory://one", "memory://two"]
    assert [len(marks(sink, "acknowledged")) for sink in sinks] == [1, 1, 0]


def test_an_alarm_of_a_branch_is_answered() -> None:
    """The newest backup did not see it; the next one inherits it, so there has to be an answer."""
    sink = SimulatedSink()
    chain, raised = alarmed(sink)
    chain.manifests.pop()
    chain.full(records(3))
    result = answer([sink], raised)

    assert [(m.id, m.is_new) for m in result.marks] == [(raised, True)]
    assert result.problems == ()


def test_a_damaged_branch_is_told() -> None:
    """An alarm that it may carry cannot be denied."""
    sink = SimulatedSink()
    chain, raised = alarmed(sink)
    key = manifest_key(JOURNAL, chain.manifests.pop().id)
    chain.full(records(3))
    sink.place.objects[key] = Held(b"rotten", NOON)
    events = Events()

    with pytest.raises(ManifestError):
        answer([sink], raised, emit=events)
    assert [p.exit_code for p in events.of(Problem)] == [3]


def test_a_journal_whose_manifests_are_all_damaged_is_told() -> None:
    """Nobody knows its alarms; those of others are answered."""
    sink = SimulatedSink()
    made = Chain(sink, OTHER).full(records(1))
    sink.place.objects[manifest_key(OTHER, made.id)] = Held(b"rotten", NOON)
    _, raised = alarmed(sink)
    result = answer([sink], raised)

    assert [m.id for m in result.marks] == [raised]
    assert [(p.journal, p.exit_code) for p in result.problems] == [(OTHER, 3)]


def test_a_branch_that_cannot_be_read_hides_no_other_alarm() -> None:
    """The newest backup carries it, and could be read."""
    sink = SimulatedSink()
    chain = Chain(sink)
    first = chain.full(records(1))
    other = chain.full(records(2))
    chain.manifests[:] = [first]
    raised = chain.id("00beef")
    chain.full(records(3), alarms=(raised,))
    sink.fail("open", SinkDeniedError("may not"), key=manifest_key(JOURNAL, other.id))
    result = answer([sink], raised)

    assert [m.id for m in result.marks] == [raised]
    assert result.exit_codes == (3,)


def test_an_alarm_is_found_although_the_newest_manifest_is_damaged() -> None:
    """An older one carries it; the damage is told, and needs a look."""
    sink = SimulatedSink()
    chain, raised = alarmed(sink)
    broken = chain.full(records(3), alarms=(raised,))
    key = manifest_key(JOURNAL, broken.id)
    sink.place.objects[key] = Held(b"{}", NOON)
    events = Events()
    result = answer([sink], raised, emit=events)

    assert [m.id for m in result.marks] == [raised]
    assert result.exit_codes == (3,)
    assert key in result.problems[0].message
    assert events == list(result.problems)


@pytest.mark.parametrize("newer", [True, False])
def test_a_manifest_that_cannot_be_read_does_not_hide_other_alarms(*, newer: bool) -> None:
    """One journal's trouble is not another's, nor one sink's."""
    sink = SimulatedSink()
    made = Chain(sink, OTHER).full(records(1))
    _, raised = alarmed(sink)
    key = manifest_key(OTHER, made.id)
    if newer:
        sink.place.objects[key] = Held(b'{"format":"2.0"}', NOON)
    else:
        sink.fail("open", SinkDeniedError("may not"), key=key)
    result = answer([sink], raised)

    assert [m.id for m in result.marks] == [raised]
    assert [(p.journal, p.exit_code) for p in result.problems] == [(OTHER, 3)]


def test_no_alarm_is_denied_while_a_manifest_cannot_be_read() -> None:
    """That nothing matches would be a guess: the alarm may stand in what was not read."""
    sink = SimulatedSink()
    _, raised = alarmed(sink)
    sink.fail("open", SinkDeniedError("may not"))

    with pytest.raises(SinkDeniedError, match="may not"):
        answer([sink], raised)

    sink.heal()
    assert standing(sink) == (raised,)


def test_a_sink_that_is_down_has_to_be_answered_later() -> None:
    """Its alarm stands there until then."""
    one, two = SimulatedSink("one"), SimulatedSink("two")
    (_, raised), _ = (alarmed(sink) for sink in (one, two))
    two.fail("list", SinkDeniedError("down"))
    result = answer([one, two], raised)
    two.heal()

    assert result.exit_codes == (3,)
    assert (standing(one), standing(two)) == ((), (raised,))
    assert [(m.sink, m.is_new) for m in answer([one, two], raised).marks] == [
        ("memory://two", True)
    ]


def test_a_mark_that_one_sink_refuses_needs_a_look_and_by_all_is_a_failure() -> None:
    """Exit 3 while another sink took it, 5 when none did."""
    one, two = SimulatedSink("one"), SimulatedSink("two")
    (_, raised), _ = (alarmed(sink) for sink in (one, two))
    two.fail("put_exclusive", SinkDeniedError("read only"))
    some = answer([one, two], raised)
    events = Events()
    none = answer([two], raised, emit=events)

    assert (some.exit_codes, [m.sink for m in some.marks]) == ((3,), ["memory://one"])
    assert (none.exit_codes, none.marks) == ((5,), ())
    assert events == list(none.problems)


# -- retire


def test_retiring_marks_the_latest_backup_on_every_sink() -> None:
    """Each sink has its own latest; from then on the journal is not expected."""
    one, two = SimulatedSink("one"), SimulatedSink("two")
    ids = []
    for count, sink in enumerate((one, two), start=1):
        chain = Chain(sink)
        for n in range(count):
            chain.full(records(n))
        ids.append(chain.last.id)
    result = give_up([one, two], JOURNAL, by="Ann", note="scaled in")

    assert [(m.kind, m.id, m.is_new) for m in result.marks] == [
        ("retired", ids[0], True),
        ("retired", ids[1], True),
    ]
    assert OpenSink(one).listing.is_retired(JOURNAL)
    assert OpenSink(two).listing.is_retired(JOURNAL)


def test_retiring_again_is_fine() -> None:
    """It says that it was so already."""
    sink = SimulatedSink()
    Chain(sink).full(records(1))
    give_up([sink], JOURNAL)

    assert [m.is_new for m in give_up([sink], JOURNAL).marks] == [False]


def test_a_journal_that_nobody_knows_cannot_be_retired() -> None:
    """A misspelt name would leave the right one expected."""
    sink = SimulatedSink()
    Chain(sink).full(records(1))

    with pytest.raises(SelectorError, match="no backup of") as caught:
        give_up([sink], "journal-deepgram-biling-0")
    assert caught.value.hints == (f"journals here: {JOURNAL}",)


def test_retiring_skips_a_sink_that_does_not_know_the_journal_or_is_down() -> None:
    """The first is fine, the second has to be done later."""
    known, empty, down = (SimulatedSink(n) for n in ("known", "empty", "down"))
    Chain(known).full(records(1))
    Chain(down).full(records(1))
    down.fail("list", SinkDeniedError("down"))
    result = give_up([known, empty, down], JOURNAL)

    assert [m.sink for m in result.marks] == ["memory://known"]
    assert [(p.sink, p.exit_code) for p in result.problems] == [("memory://down", 3)]


def test_retiring_fails_when_no_sink_answers() -> None:
    """Exit 5."""
    sink = SimulatedSink()
    sink.fail("list", SinkDeniedError("down"))

    with pytest.raises(SinkError):
        give_up([sink], JOURNAL)
