"""Pruning: nothing goes whose records are not safe, and what goes leaves a chain that closes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from backup.catalog import Catalog, OpenSink, manifest_key, mark_key
from backup.catalog.remains import sweep
from backup.errors import ConfigError, SelectorError, SignalledError, SinkDeniedError, SinkError
from backup.events import BackupsPruned, Problem
from backup.manifest import Manifest, parse_mark
from backup.settings import RetentionSettings
from backup.stop import Stop
from backup.verbs.prune import PruneResult, prune
from backup.verbs.verify import verify
from tests.handmade import JOURNAL, Chain, lose, mark, put
from tests.journal_data import NOON, Clock, Events, in_run, records
from tests.simulated_sink import CrashError, SimulatedSink

OTHER = "journal-deepgram-billing-1"
ONE = RetentionSettings(keep_last=1, keep_min=1)


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


def pruned(
    sinks: Sequence[SimulatedSink], policy: RetentionSettings = ONE, **how: Any
) -> PruneResult:
    """Prune."""
    given: dict[str, Any] = {"site": None, "journal": None, "confirmed": True, "stop": Stop()}
    given |= {"clock": Clock(), "emit": Events()}
    return in_run(prune, sinks, policy, **(given | how))


def grown(sink: SimulatedSink, count: int = 5, *, journal: str = JOURNAL) -> list[Manifest]:
    """Make a history in which the journal only grows."""
    chain = Chain(sink, journal)
    return [chain.full(records(n + 1)) for n in range(count)]


def there(sink: SimulatedSink, journal: str = JOURNAL) -> list[str]:
    """Name the backups on a sink."""
    return [b.id for b in OpenSink(sink).listing.backups(journal)]


def ids(manifests: Sequence[Manifest]) -> list[str]:
    """Name backups."""
    return [manifest.id for manifest in manifests]


def reasons(result: PruneResult) -> dict[str, str]:
    """Say why each one stays or goes."""
    return {b.id: b.reason for b in result.backups}


def deliver(sink: SimulatedSink, *made: Manifest) -> None:
    """Say that Deepgram has them."""
    for manifest in made:
        key = manifest_key(JOURNAL, manifest.id).replace("manifest", "delivered")
        put(sink, key, mark("delivered", manifest.id).to_bytes())


def require_sound(sink: SimulatedSink) -> None:
    """Insist that all that is left is whole, and the chain closes."""
    found = in_run(verify, [sink], None, journal=None, deep=True, emit=Events(), stop=Stop())
    assert found.exit_codes == ()


# -- what goes


def test_it_is_dry_until_it_is_confirmed(sink: SimulatedSink) -> None:
    """Nothing is written either."""
    made = grown(sink)
    before = dict(sink.place.objects)
    result = pruned([sink], confirmed=False)

    assert sink.place.objects == before
    assert not result.confirmed
    assert [(b.id, b.goes) for b in result.backups] == [
        *((manifest.id, True) for manifest in made[:4]),
        (made[4].id, False),
    ]
    assert reasons(result)[made[0].id] == f"{made[4].id} holds its records"


def test_what_newer_ones_hold_goes(sink: SimulatedSink) -> None:
    """With a tombstone each, and the chain still closes; archives stay for now."""
    made = grown(sink)
    kept = {a.key for manifest in made for a in manifest.archives}
    events = Events()
    result = pruned([sink], RetentionSettings(keep_last=2, keep_min=1), emit=events)

    assert there(sink) == ids(made[3:])
    assert kept <= sink.place.objects.keys()
    stone = parse_mark(sink.read(mark_key("pruned", JOURNAL, made[2].id)))
    assert (stone.kind, stone.manifest_sha256) == ("pruned", made[3].previous.manifest_sha256)  # type: ignore[union-attr]
    assert (stone.previous, stone.continuity) == (made[2].previous, "extended")
    assert events.of(BackupsPruned) == [
        BackupsPruned(journal=JOURNAL, sink=sink.url, backups=3, kept=2)
    ]
    assert result.exit_codes == ()
    require_sound(sink)


def test_journals_and_sinks_are_pruned_each_for_itself() -> None:
    """What one sink holds makes nothing safe on another one."""
    one, two = SimulatedSink("one"), SimulatedSink("two")
    grown(one)
    grown(one, 2, journal=OTHER)
    alone = Chain(two).full(records(9))
    pruned([one, two])

    assert (len(there(one)), len(there(one, OTHER)), there(two)) == (1, 1, [alone.id])


def test_one_journal_alone(sink: SimulatedSink) -> None:
    """If it is named; one that nobody knows is an error."""
    grown(sink)
    grown(sink, journal=OTHER)
    pruned([sink], journal=OTHER)

    assert (len(there(sink)), len(there(sink, OTHER))) == (5, 1)
    with pytest.raises(SelectorError):
        pruned([sink], journal="journal-deepgram-billing-9")


def test_what_is_delivered_goes(sink: SimulatedSink) -> None:
    """Also where no newer one holds it."""
    chain = Chain(sink)
    made = [chain.full(records(3)), chain.full(records(1), continuity="shrunk")]
    made.append(chain.full(records(2)))
    deliver(sink, made[0])
    result = pruned([sink])

    assert there(sink) == [made[2].id]
    assert reasons(result)[made[0].id] == "delivered"
    require_sound(sink)


def test_pruning_again_goes_on(sink: SimulatedSink) -> None:
    """Tombstones carry the chain, so what was kept for a while may go later."""
    made = grown(sink)
    deliver(sink, made[1], made[2])
    pruned([sink], RetentionSettings(keep_monthly=9, keep_last=2, keep_min=1))
    assert there(sink) == ids(made[3:])
    made = grown(sink, 4, journal=OTHER)
    catalog = Catalog(sink)
    for manifest in made[1:3]:
        catalog.prune(catalog.manifest(OTHER, manifest.id), at=NOON)
    assert there(sink, OTHER) == [made[0].id, made[3].id]
    result = pruned([sink], journal=OTHER)

    assert there(sink, OTHER) == [made[3].id]
    assert reasons(result)[made[0].id] == f"{made[3].id} holds its records"
    require_sound(sink)


# -- what stays


def test_records_that_may_be_nowhere_else_stay(sink: SimulatedSink) -> None:
    """The last one before the journal was changed, and what stands for it."""
    chain = Chain(sink)
    made = [chain.full(records(2)), chain.full(records(3))]
    made.append(chain.full(records(1), continuity="rewritten"))
    made.append(chain.full(records(2)))
    result = pruned([sink])

    assert there(sink) == [made[1].id, made[3].id]
    assert reasons(result)[made[1].id] == "not delivered, and its records may be nowhere else"
    assert reasons(result)[made[0].id] == f"{made[1].id} holds its records"


@pytest.mark.parametrize("how", ["suspect", "lost archive"])
def test_one_that_is_not_good_holds_nothing(sink: SimulatedSink, how: str) -> None:
    """But good ones after it hold what it held."""
    chain = Chain(sink)
    made = [chain.full(records(2)), chain.full(records(3), suspect=how == "suspect")]
    if how != "suspect":
        del sink.place.objects[made[1].archives[0].key]
    made.append(chain.full(records(1), continuity="shrunk"))
    pruned([sink])
    assert there(sink) == ids(made)

    chain = Chain(sink, OTHER)
    made = [chain.full(records(2)), chain.full(records(3), suspect=True), chain.full(records(4))]
    pruned([sink], journal=OTHER)
    assert there(sink, OTHER) == [made[2].id]


@pytest.mark.parametrize("harm", ["replaced", "gone", "another's tombstone"])
def test_a_broken_chain_holds_nothing(sink: SimulatedSink, harm: str) -> None:
    """Nobody knows what was before."""
    made = grown(sink, 4)
    if harm == "replaced":
        changed = made[1].model_copy(update={"site": "elsewhere"}).to_bytes()
        put(sink, manifest_key(JOURNAL, made[1].id), changed)
    else:
        lose(sink, made[1])
    if harm == "another's tombstone":
        stone = mark("pruned", made[1].id, manifest_sha256="0" * 64, previous=made[1].previous)
        put(sink, mark_key("pruned", JOURNAL, made[1].id), stone.to_bytes())
    pruned([sink])

    stays = made[1] if harm == "replaced" else made[0]  # the newest of those before the break
    assert there(sink) == [stays.id, made[3].id]


@pytest.mark.parametrize("stored", [b"{}", b'{"format": "9.0"}'])
def test_a_manifest_that_cannot_be_read_stays(sink: SimulatedSink, stored: bytes) -> None:
    """Delivered or not: nobody knows what it says; and what it may have held stays, too."""
    made = grown(sink, 4)
    deliver(sink, made[1])
    put(sink, manifest_key(JOURNAL, made[1].id), stored)
    result = pruned([sink])

    assert there(sink) == [made[0].id, made[1].id, made[3].id]
    assert reasons(result)[made[1].id].startswith("cannot be read: ")
    assert manifest_key(JOURNAL, made[1].id) in reasons(result)[made[1].id]


@pytest.mark.parametrize("stored", [b"", mark("delivered", "20261101T000000Z-aaaaaa").to_bytes()])
def test_a_delivery_that_cannot_be_read_is_none(sink: SimulatedSink, stored: bytes) -> None:
    """What is removed because of a mark is removed because of what that says."""
    chain = Chain(sink)
    made = [chain.full(records(2)), chain.full(records(1), continuity="shrunk")]
    key = mark_key("delivered", JOURNAL, made[0].id)
    put(sink, key, stored)
    result = pruned([sink])

    assert there(sink) == ids(made)
    assert key in reasons(result)[made[0].id]


def test_what_is_another_sites_stays() -> None:
    """A prefix that was mistyped is no reason to remove what is there; other sinks are pruned."""
    ours, theirs = SimulatedSink("ours"), SimulatedSink("theirs")
    grown(ours)
    chain = Chain(theirs)
    made = [chain.full(records(n + 1), site="north") for n in range(3)]
    result = pruned([theirs, ours], site="south")

    assert (there(theirs), len(there(ours))) == (ids(made), 1)
    (problem,) = result.problems
    assert (problem.exit_code, problem.sink) == (2, theirs.url)
    assert "holds backups of site 'north', this is site 'south'" in problem.message
    pruned([theirs], site="north")
    assert there(theirs) == [made[2].id]


def test_an_alarm_blocks_its_journal(sink: SimulatedSink) -> None:
    """Until it is acknowledged, whichever branch it stands in; other journals are pruned."""
    chain = Chain(sink)
    made = [chain.full(records(1)), chain.full(records(2))]
    raised = chain.id("00beef")
    made += [chain.full(records(3), alarms=(raised,)), chain.full(records(4))]
    grown(sink, journal=OTHER)
    events = Events()
    result = pruned([sink], emit=events)

    assert there(sink) == ids(made)
    assert len(there(sink, OTHER)) == 1
    (problem,) = result.problems
    assert (problem.exit_code, problem.journal, problem.sink) == (6, JOURNAL, sink.url)
    assert raised in problem.message
    assert events.of(Problem) == [problem]
    put(
        sink,
        f"{JOURNAL}/{JOURNAL}-{raised}.acknowledged.json",
        mark("acknowledged", raised).to_bytes(),
    )
    pruned([sink])
    assert there(sink) == [made[3].id]


@pytest.mark.parametrize("flaw", ["suspect", "damaged"])
def test_a_newest_one_that_is_not_good_blocks_its_journal(sink: SimulatedSink, flaw: str) -> None:
    """First there has to be something to hold on to."""
    chain = Chain(sink)
    made = [chain.full(records(n + 1)) for n in range(4)]
    made.append(chain.full(records(5), suspect=True))
    if flaw == "damaged":
        put(sink, manifest_key(JOURNAL, made[4].id), b"{}")
    result = pruned([sink])

    assert there(sink) == ids(made)
    assert result.exit_codes == (3,)
    assert f"{made[4].id}, the newest, is not good" in result.problems[0].message


def test_the_newest_good_ones_stay_by_default(sink: SimulatedSink) -> None:
    """Three of them."""
    made = grown(sink)
    pruned([sink], RetentionSettings(keep_last=1))

    assert there(sink) == ids(made[2:])


def test_nothing_goes_where_nothing_says_what_to_keep(sink: SimulatedSink) -> None:
    """And it is said how to say it."""
    made = grown(sink)
    with pytest.raises(ConfigError, match="nothing says what to keep") as raised:
        pruned([sink], RetentionSettings())

    assert there(sink) == ids(made)
    assert "BACKUP_KEEP_LAST" in raised.value.hints[0]


# -- trouble


def test_a_sink_that_does_not_answer_is_a_problem() -> None:
    """Others are pruned."""
    one, two = SimulatedSink("one"), SimulatedSink("two")
    for sink in (one, two):
        grown(sink)
        grown(sink, journal=OTHER)
    two.fail("open", SinkError("not today"))
    result = pruned([one, two])

    assert (len(there(one)), len(there(two))) == (1, 5)
    (problem,) = result.problems
    assert (problem.exit_code, problem.sink) == (5, two.url)


def test_what_cannot_be_removed_is_a_problem(sink: SimulatedSink) -> None:
    """No more is tried of that journal; all are still backups."""
    made = grown(sink)
    sink.fail("delete", SinkDeniedError("object lock"))
    result = pruned([sink])

    assert there(sink) == ids(made)
    assert result.exit_codes == (3,)
    assert not any(b.goes for b in result.backups)
    assert reasons(result)[made[0].id] == "it could not be removed"
    require_sound(sink)
    sink.heal()
    pruned([sink])
    assert there(sink) == [made[4].id]
    require_sound(sink)


def test_a_tombstone_that_somebody_else_wrote_keeps_a_backup(sink: SimulatedSink) -> None:
    """Else the chain would not close."""
    made = grown(sink, 2)
    stone = mark("pruned", made[0].id, manifest_sha256="0" * 64)
    put(sink, mark_key("pruned", JOURNAL, made[0].id), stone.to_bytes())
    result = pruned([sink])

    assert there(sink) == ids(made)
    assert "is not of this backup" in result.problems[0].message


def test_a_signal_ends_it(sink: SimulatedSink) -> None:
    """After the removal that is under way; what is gone is the oldest."""
    made = grown(sink)
    stop = Stop()
    sink.on("delete", lambda _key: stop.request(15))
    with pytest.raises(SignalledError):
        pruned([sink], stop=stop)

    assert there(sink) == ids(made[1:])
    require_sound(sink)


@pytest.mark.parametrize("call", range(1, 30))
def test_a_crash_before_any_call_leaves_a_history_that_is_sound(call: int) -> None:
    """A shorter one, whose oldest are gone; the next pruning ends what this one began."""
    sink = SimulatedSink()
    made = grown(sink)
    dying = SimulatedSink(place=sink.place)
    dying.crash_before(call)
    try:
        pruned([dying])
    except CrashError:
        pass
    else:
        assert call > 20
    left = there(sink)

    assert left == ids(made)[-len(left) :]
    require_sound(sink)
    pruned([sink])
    assert there(sink) == [made[4].id]
    require_sound(sink)


# -- archives


def test_archives_are_swept_when_the_tombstone_is_old(sink: SimulatedSink) -> None:
    """Those that no backup names, with their checksum files; tombstones stay for ever."""
    day, now = timedelta(days=1), NOON
    sink.clock = lambda: now
    chain = Chain(sink)
    shared, gone = chain.full(records(3)), None
    chain.incremental(records(1, seed=2))
    gone = chain.full(records(3) + records(1, seed=2))
    last = chain.incremental(records(1, seed=3))
    Chain(sink, OTHER).full(b"")
    now += day
    pruned([sink], clock=lambda: now)
    assert there(sink) == [last.id]

    def swept(after: timedelta) -> int:
        nonlocal now
        now += after
        put_now(sink, now)
        return sweep(OpenSink(sink), now=now, grace=day).objects

    assert swept(day) == 0
    assert swept(timedelta(seconds=1)) == 5  # two archives, three checksum files
    archives = {key for key in sink.place.objects if key.endswith(".tar.gz") and JOURNAL in key}
    assert archives == {a.key for a in last.archives}
    assert gone.archives[0].key in archives
    assert mark_key("pruned", JOURNAL, shared.id) in sink.place.objects
    require_sound(sink)


def put_now(sink: SimulatedSink, _now: Any) -> None:
    """Let the store show what time it is: by a new object of ours."""
    sink.put_exclusive(
        f"{OTHER}/{OTHER}-20261101T000000Z-{len(sink.place.objects):06x}.verified.json", b"{}"
    )
