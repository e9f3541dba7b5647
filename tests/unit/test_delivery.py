"""Deliveries: what is marked with a backup, and what is named because it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from backup.catalog import OpenSink, manifest_key
from backup.errors import SelectorError, SinkDeniedError, SinkError
from backup.manifest import Manifest, parse_mark
from backup.verbs.ledger import LedgerResult, mark_delivered
from tests.handmade import JOURNAL, Chain, lose, mark, put
from tests.journal_data import NOON, Clock, Events, in_run, records
from tests.simulated_sink import SimulatedSink

OTHER = "journal-deepgram-billing-1"


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


def deliver(sinks: Sequence[SimulatedSink], *ids: str, **how: Any) -> LedgerResult:
    """Say that backups are delivered."""
    given: dict[str, Any] = {"by": None, "note": None, "reference": None}
    given |= {"clock": Clock(), "emit": Events()}
    return in_run(mark_delivered, sinks, ids, **(given | how))


def delivered(sink: SimulatedSink, journal: str = JOURNAL) -> list[str]:
    """Name the backups that carry the mark."""
    listing = OpenSink(sink).listing
    return [b.id for b in listing.backups(journal) if "delivered" in b.marks]


def grown(sink: SimulatedSink, count: int = 4, *, journal: str = JOURNAL) -> list[Manifest]:
    """Make a history in which the journal only grows."""
    chain = Chain(sink, journal)
    return [chain.full(records(n + 1)) for n in range(count)]


def ids(manifests: Sequence[Manifest]) -> list[str]:
    """Name backups."""
    return [manifest.id for manifest in manifests]


# -- what is delivered


def test_a_backup_is_delivered_with_those_whose_records_it_holds(sink: SimulatedSink) -> None:
    """Who, when, and what the delivery is called, beside each; what is newer is not."""
    made = grown(sink)
    result = deliver([sink], made[2].id, by="Ann", note="by post", reference="CASE-17")
    key = manifest_key(JOURNAL, made[0].id).replace(".manifest", ".delivered")
    kept = parse_mark(sink.read(key))

    assert delivered(sink) == ids(made[:3])
    assert [(m.kind, m.id, m.is_new) for m in result.marks] == [
        ("delivered", manifest.id, True) for manifest in made[:3]
    ]
    assert (kept.by, kept.note, kept.reference) == ("Ann", "by post", "CASE-17")
    assert kept.created_at == NOON
    assert (result.exit_codes, result.warnings) == ((), ())


def test_the_oldest_is_marked_first(sink: SimulatedSink) -> None:
    """An interruption leaves a chain that is delivered from its beginning."""
    made = grown(sink)
    sink.fail("put_exclusive", SinkDeniedError("no"), after=2)
    result = deliver([sink], made[3].id)

    assert delivered(sink) == ids(made[:2])
    assert set(result.exit_codes) == {3}
    sink.heal()
    deliver([sink], made[3].id)
    assert delivered(sink) == ids(made)


def test_doing_so_again_is_fine(sink: SimulatedSink) -> None:
    """And reads no manifest of what was delivered before."""
    made = grown(sink)
    deliver([sink], made[2].id)
    later = deliver([sink], made[3].id)
    again = deliver([sink], made[3].id)

    assert [(m.id, m.is_new) for m in later.marks] == [(made[3].id, True)]
    assert [(m.id, m.is_new) for m in again.marks] == [(made[3].id, False)]
    assert delivered(sink) == ids(made)


def test_several_are_delivered_at_once(sink: SimulatedSink) -> None:
    """One of each journal, say."""
    made, others = grown(sink, 2), grown(sink, 1, journal=OTHER)
    deliver([sink], f"{JOURNAL}-{made[1].id}", f"{OTHER}-{others[0].id}")

    assert delivered(sink) == ids(made)
    assert delivered(sink, OTHER) == ids(others)


@pytest.mark.parametrize("how", ["rewritten", "shrunk"])
def test_a_journal_that_was_changed_holds_nothing_of_before(sink: SimulatedSink, how: str) -> None:
    """What is older is named: its records may be nowhere else."""
    chain = Chain(sink)
    made = [chain.full(records(3)), chain.full(records(1), continuity=how)]
    made.append(chain.full(records(2)))
    events = Events()
    result = deliver([sink], made[2].id, emit=events)

    assert delivered(sink) == ids(made[1:])
    (warning,) = result.warnings
    assert warning.journal == JOURNAL
    assert warning.message == (
        f"{made[0].id} is older, not delivered, and may have records that are in none of these"
    )
    assert warning in events
    assert deliver([sink], made[0].id, made[2].id).warnings == ()


def test_few_ids_are_named(sink: SimulatedSink) -> None:
    """The newest, and how many more there are."""
    chain = Chain(sink)
    old = [chain.full(records(9 - n), continuity="shrunk" if n else "first") for n in range(5)]
    newest = chain.full(records(1), continuity="shrunk")
    (warning,) = deliver([sink], newest.id).warnings
    assert warning.message.startswith(
        f"{old[2].id}, {old[3].id}, {old[4].id} and 2 more are older, not delivered"
    )
    deliver([sink], *ids(old[:3]))
    (warning,) = deliver([sink], newest.id).warnings
    assert warning.message.startswith(f"{old[3].id} and {old[4].id} are older")


@pytest.mark.parametrize("harm", ["replaced", "cut", "gone"])
def test_a_chain_is_followed_as_far_as_it_is_whole(sink: SimulatedSink, harm: str) -> None:
    """Nobody knows what was in a backup that is not the one that was extended."""
    made = grown(sink)
    key = manifest_key(JOURNAL, made[1].id)
    if harm == "replaced":
        put(sink, key, made[1].model_copy(update={"site": "elsewhere"}).to_bytes())
    elif harm == "cut":
        put(sink, key, made[1].to_bytes()[:100])
    else:
        lose(sink, made[1])
    result = deliver([sink], made[3].id)

    assert delivered(sink) == ids(made[2:])
    assert made[0].id in result.warnings[0].message


def test_the_pruned_are_not_followed_through(sink: SimulatedSink) -> None:
    """A tombstone does not tell what the backup held; what is older has to be named."""
    made = grown(sink)
    lose(sink, made[1])
    tombstone = mark("pruned", made[1].id, manifest_sha256="0" * 64)
    put(sink, manifest_key(JOURNAL, made[1].id).replace("manifest", "pruned"), tombstone.to_bytes())
    result = deliver([sink], made[3].id)

    assert delivered(sink) == ids(made[2:])
    assert [w.message.split()[0] for w in result.warnings] == [made[0].id]


# -- which


def test_latest_is_refused(sink: SimulatedSink) -> None:
    """By now it may be another one than what was sent."""
    grown(sink)

    with pytest.raises(SelectorError, match="may have another one by now"):
        deliver([sink], "latest")
    assert delivered(sink) == []


def test_all_ids_have_to_be_right(sink: SimulatedSink) -> None:
    """Else nothing is marked."""
    made = grown(sink)

    with pytest.raises(SelectorError, match="no backup matches '1999'"):
        deliver([sink], made[0].id, "1999")
    with pytest.raises(SelectorError, match="4 backups match"):
        deliver([sink], made[0].id, "20")
    assert delivered(sink) == []


# -- several sinks


def both(count: int) -> tuple[list[SimulatedSink], list[Manifest]]:
    """Make the same history on two sinks."""
    sinks = [SimulatedSink("one"), SimulatedSink("two")]
    made, _ = (grown(sink, count) for sink in sinks)
    return sinks, made


def test_every_sink_is_marked() -> None:
    """Also one that lacks the backup itself, and has some that it holds."""
    sinks, made = both(3)
    newest = Chain(sinks[0])
    newest.manifests, newest._day = list(made), made[-1].created_at
    last = newest.full(records(4))
    deliver(sinks, last.id)

    assert delivered(sinks[0]) == [*ids(made), last.id]
    assert delivered(sinks[1]) == ids(made)


def test_a_copy_that_is_damaged_takes_the_word_of_the_other() -> None:
    """The id means the same bytes; that it is damaged is told."""
    sinks, made = both(3)
    put(sinks[0], manifest_key(JOURNAL, made[2].id), b"{}")
    result = deliver(sinks, made[2].id)

    assert [delivered(sink) for sink in sinks] == [ids(made)] * 2
    (problem,) = result.problems
    assert (problem.exit_code, problem.sink) == (3, "memory://one")
    assert "not a valid manifest" in problem.message


def test_a_damaged_backup_is_delivered_alone(sink: SimulatedSink) -> None:
    """Somebody has it, whatever has become of it here; nobody knows what it held of others."""
    made = grown(sink, 2)
    put(sink, manifest_key(JOURNAL, made[1].id), b"{}")
    result = deliver([sink], made[1].id)

    assert delivered(sink) == [made[1].id]
    assert result.exit_codes == (3,)


def test_a_sink_that_stops_answering_is_a_problem_if_another_takes_the_mark() -> None:
    """Doing it again makes it good."""
    sinks, made = both(3)
    sinks[1].fail("open", SinkError("not today"))
    result = deliver(sinks, made[2].id)
    assert [delivered(sink) for sink in sinks] == [ids(made), []]
    assert {(p.exit_code, p.sink) for p in result.problems} == {(3, "memory://two")}

    sinks[1].heal()
    assert deliver(sinks, made[2].id).exit_codes == ()
    assert [delivered(sink) for sink in sinks] == [ids(made)] * 2


def test_a_sink_that_stops_answering_is_an_error_if_it_is_the_only_one(
    sink: SimulatedSink,
) -> None:
    """Nothing was marked."""
    made = grown(sink)
    sink.fail("open", SinkError("not today"))

    with pytest.raises(SinkError, match="not today"):
        deliver([sink], made[0].id)
