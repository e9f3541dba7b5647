"""Verify: every finding of every backup is told, and nothing is taken on trust."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import pytest

from backup.catalog import Catalog, OpenSink, archive_key, checksum_key, manifest_key
from backup.errors import (
    IntegrityError,
    ManifestError,
    SelectorError,
    SignalledError,
    SinkDeniedError,
    SinkError,
    SinkStalledError,
    SinkUnavailableError,
)
from backup.events import Problem, Progressed
from backup.manifest import Manifest, Previous, Source
from backup.sinks import Sink
from backup.stop import Stop
from backup.verbs.verify import VerifyResult, verify
from tests.handmade import JOURNAL, Chain, archive, file, mark, packed, put, segment
from tests.journal_data import Events, in_run, records
from tests.simulated_sink import SimulatedSink

OTHER = "journal-deepgram-billing-1"


def verified(
    sinks: Sequence[Sink], selector: str | None = None, *, deep: bool = False, **how: Any
) -> VerifyResult:
    """Verify."""
    given: dict[str, Any] = {"journal": None, "emit": Events(), "stop": Stop()}
    return in_run(verify, sinks, selector, deep=deep, **(given | how))


def findings(result: VerifyResult) -> dict[str, tuple[str, ...]]:
    """Give what was found, by id, where something was."""
    return {b.id: b.findings for b in result.backups if b.findings}


def flip(sink: SimulatedSink, key: str, at: int) -> None:
    """Invert a byte of an object."""
    data = bytearray(sink.place.objects[key].data)
    data[at] ^= 0xFF
    put(sink, key, bytes(data))


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


# -- verify: what is good


@pytest.mark.parametrize("deep", [False, True])
def test_good_backups_are_verified_on_every_sink(*, deep: bool) -> None:
    """Each copy for itself; deep counts the records."""
    sinks = [SimulatedSink("one"), SimulatedSink("two")]
    for sink in sinks:
        chain = Chain(sink)
        for n in (2, 5):
            chain.full(records(n), others={b"extra \xff": b"not\njson"})
    result = verified(sinks, deep=deep)

    assert [(b.sink, b.records) for b in result.backups] == [
        (sink.url, n if deep else None) for sink in sinks for n in (2, 5)
    ]
    assert (findings(result), result.exit_codes) == ({}, ())


@pytest.mark.parametrize("deep", [False, True])
def test_shared_archives_are_put_together(sink: SimulatedSink, *, deep: bool) -> None:
    """A record may be cut between two archives; a later release writes such backups."""
    data = records(9)
    chain = Chain(sink)
    chain.full(data[:1000])
    chain.incremental(data[1000:1500])
    chain.incremental(data[1500:])
    chain.unchanged()
    result = verified([sink], chain.last.id, deep=deep)

    assert [b.findings for b in result.backups] == [()]
    assert [b.records for b in result.backups] == [9 if deep else None]
    assert result.backups[0].archive_bytes == sum(a.size_bytes for a in chain.last.archives)


def test_an_archive_that_is_shared_is_hashed_once(sink: SimulatedSink) -> None:
    """Incremental backups of a week would else cost seven times as much."""
    chain = Chain(sink)
    first = chain.full(records(3))
    chain.incremental(records(1))
    chain.incremental(records(2))
    chain.unchanged()
    sink.calls.clear()
    result = verified([sink])

    assert len(result.backups) == 4
    assert sink.calls.count(("open", first.archives[0].key)) == 1
    assert findings(result) == {}


def test_the_same_archive_on_another_sink_is_another_one(sink: SimulatedSink) -> None:
    """One copy being right proves nothing about the other."""
    two = SimulatedSink("two")
    made, _ = (Chain(s).full(records(3)) for s in (sink, two))
    flip(two, made.archives[0].key, 20)
    result = verified([sink, two])

    assert [(b.sink, bool(b.findings)) for b in result.backups] == [
        (sink.url, False),
        (two.url, True),
    ]


def test_a_suspect_or_alarmed_backup_is_noted_and_not_damaged(sink: SimulatedSink) -> None:
    """Its bytes are what they claim to be."""
    chain = Chain(sink)
    chain.full(records(1), suspect=True, suspicion="a hole")
    raised = chain.id()
    chain.full(records(2), alarms=(raised,))
    result = verified([sink], deep=True)

    assert [(b.suspect, b.alarms) for b in result.backups] == [(True, ()), (False, (raised,))]
    assert result.exit_codes == ()


def test_a_fork_of_the_chain_is_no_error(sink: SimulatedSink) -> None:
    """Two runs at once leave a tree."""
    chain = Chain(sink)
    chain.full(records(1))
    link = chain.link()
    chain.full(records(2), previous=link)
    chain.full(records(3), previous=link)
    result = verified([sink])

    assert (len(result.backups), result.exit_codes) == (3, ())


def test_a_pruned_predecessor_leaves_the_chain_whole(sink: SimulatedSink) -> None:
    """Its tombstone tells the hash that its manifest had."""
    chain = Chain(sink)
    pruned = chain.full(records(1))
    stayed = chain.full(records(2))
    bury(sink, pruned, OpenSink(sink).manifest_sha256(JOURNAL, pruned.id))
    result = verified([sink])

    assert ([b.id for b in result.backups], result.exit_codes) == ([stayed.id], ())


def bury(sink: SimulatedSink, pruned: Manifest, digest: str | None) -> None:
    """Remove a backup as pruning does."""
    Catalog(sink).mark(mark("pruned", pruned.id, manifest_sha256=digest))
    for key in (manifest_key(JOURNAL, pruned.id), checksum_key(JOURNAL, pruned.id)):
        del sink.place.objects[key]


# -- verify: what is chosen


def test_a_selector_restricts_what_is_verified(sink: SimulatedSink) -> None:
    """One backup is verified on every sink that has it."""
    two, without = SimulatedSink("two"), SimulatedSink("without")
    chains = [Chain(sink), Chain(two)]
    for chain in chains:
        chain.full(records(1))
    made, _ = (chain.full(records(2)) for chain in chains)
    Chain(sink, OTHER).full(records(1))

    def ids(selector: str | None, journal: str | None) -> list[tuple[str, str]]:
        result = verified([sink, two, without], selector, journal=journal)
        return [(b.id, b.sink) for b in result.backups]

    everywhere = [(made.id, sink.url), (made.id, two.url)]
    assert ids(made.id, None) == everywhere
    assert ids("latest", JOURNAL) == everywhere
    assert len(ids(None, JOURNAL)) == 4
    assert len(ids(None, OTHER)) == 1
    assert len(ids("latest", None)) == 3


def test_a_journal_without_a_good_backup_fails_the_verification_of_the_latest(
    sink: SimulatedSink,
) -> None:
    """Exit 2, and the other journals are verified."""
    Chain(sink).full(records(1), suspect=True, suspicion="a hole")
    Chain(sink, OTHER).full(records(1))
    events = Events()
    result = verified([sink], "latest", emit=events)

    assert [b.journal for b in result.backups] == [OTHER]
    assert [(p.exit_code, p.journal) for p in events.of(Problem)] == [(2, JOURNAL)]
    assert result.exit_codes == (2,)


@pytest.mark.parametrize(
    ("selector", "journal", "message"),
    [
        (None, None, "there is no backup yet"),
        (None, "journal-x-0", "there is no backup of"),
        ("latest", None, "there is no backup yet"),
        ("1999", None, "no backup matches"),
    ],
)
def test_verifying_nothing_is_no_success(
    sink: SimulatedSink, selector: str | None, journal: str | None, message: str
) -> None:
    """A sink that somebody emptied, or a misspelt name, must not look verified."""
    with pytest.raises(SelectorError, match=message):
        verified([sink], selector, journal=journal)


@pytest.mark.parametrize(("how", "code"), [("damaged", 6), ("suspect", 3)])
def test_verifying_the_latest_does_not_pass_over_a_newer_one_in_silence(
    sink: SimulatedSink, how: str, code: int
) -> None:
    """Whoever verifies what came last night must not be told that the night before is fine."""
    chain = Chain(sink)
    good = chain.full(records(1))
    bad = chain.full(records(2), suspect=how == "suspect", suspicion="a hole")
    if how == "damaged":
        del sink.place.objects[bad.archives[0].key]
    events = Events()
    result = verified([sink], "latest", emit=events)

    assert [(b.id, b.findings) for b in result.backups] == [(good.id, ())]
    assert result.exit_codes == (code,)
    assert bad.id in result.problems[0].hints[0]
    assert events.of(Problem) == list(result.problems)


# -- verify: what is damaged


def damage(sink: SimulatedSink, made: Manifest, how: str) -> None:
    """Do something to an archive."""
    key = made.archives[0].key
    data = sink.place.objects[key].data
    if how == "truncated":
        put(sink, key, data[:-1])
    elif how == "grown":
        put(sink, key, data + b"\0")
    elif how == "emptied":
        put(sink, key, b"")
    elif how == "missing":
        del sink.place.objects[key]
    elif how == "two members":
        put(sink, key, data + data)
    else:
        flip(sink, key, int(how))


WAYS = ["0", "3", "9", "11", "500", "-9", "-8", "-4", "-1"]
WAYS += ["truncated", "grown", "emptied", "missing", "two members"]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("how", WAYS)
def test_a_damaged_archive_is_found(sink: SimulatedSink, how: str, *, deep: bool) -> None:
    """Wherever the byte is: header, data, check sum, length, or behind the end."""
    chain = Chain(sink)
    good = chain.full(records(4))
    bad = chain.full(records(5))
    damage(sink, bad, how)
    result = verified([sink], deep=deep)

    assert list(findings(result)) == [bad.id]
    told = findings(result)[bad.id]
    assert all(bad.archives[0].key in finding for finding in told)
    assert len(told) == (1 if how == "missing" or not deep else 2), "what and where; the hash"
    assert good.id in [b.id for b in result.backups]
    assert set(result.exit_codes) == {6}


def test_every_damaged_archive_of_a_backup_is_named(sink: SimulatedSink) -> None:
    """Deep too, although it cannot go on after the first."""
    chain = Chain(sink)
    chain.full(records(3))
    chain.incremental(records(2))
    made = chain.incremental(records(1))
    for archived in (made.archives[0], made.archives[2]):
        flip(sink, archived.key, 40)
    for deep in (False, True):
        told = str(findings(verified([sink], made.id, deep=deep))[made.id])

        assert [a.key in told for a in made.archives] == [True, False, True]


def test_every_backup_that_shares_a_damaged_archive_is_damaged(sink: SimulatedSink) -> None:
    """Hashed once, told for each."""
    chain = Chain(sink)
    first = chain.full(records(3))
    chain.incremental(records(2))
    chain.full(records(9))
    flip(sink, first.archives[0].key, 40)

    assert list(findings(verified([sink]))) == [m.id for m in chain.manifests[:2]]


def test_all_findings_of_a_backup_are_told(sink: SimulatedSink) -> None:
    """One must not hide another: the operator repairs what was named."""
    chain = Chain(sink)
    first = chain.full(records(3))
    made = chain.full(records(2) + b"rubbish\n")
    put(sink, checksum_key(JOURNAL, made.id), b"")
    del sink.place.objects[manifest_key(JOURNAL, first.id)]
    events = Events()
    result = verified([sink], made.id, deep=True, emit=events)
    offset = len(records(2))

    assert result.backups[0].findings == (
        f"its predecessor {first.id} is gone, and nobody pruned it",
        f"{checksum_key(JOURNAL, made.id)} is not right",
        f"1 of 3 records are not JSON objects, the first at byte {offset}",
    )
    assert result.exit_codes == (6, 6, 6)
    assert [p.message for p in events.of(Problem)] == [
        f"{made.id}: {finding}" for finding in result.backups[0].findings
    ]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("content", [b"", b"x", None])
def test_a_checksum_file_that_is_not_right_is_found(
    sink: SimulatedSink, content: bytes | None, *, deep: bool
) -> None:
    """Somebody will rely on it with sha256sum alone."""
    made = Chain(sink).full(records(2))
    key = checksum_key(JOURNAL, made.id)
    if content is None:
        del sink.place.objects[key]
    else:
        put(sink, key, content)
    (found,) = findings(verified([sink], deep=deep))[made.id]

    assert key in found


def edited(sink: SimulatedSink, made: Manifest, **changes: Any) -> None:
    """Edit a manifest so that it is still valid."""
    put(sink, manifest_key(JOURNAL, made.id), made.model_copy(update=changes).to_bytes())


def test_any_edit_of_a_manifest_breaks_the_link_from_its_successor(sink: SimulatedSink) -> None:
    """Even one that changes nothing but a blank."""
    chain = Chain(sink)
    first, second = chain.full(records(1)), chain.full(records(2))
    key = manifest_key(JOURNAL, first.id)
    put(sink, key, sink.place.objects[key].data + b" ")

    assert findings(verified([sink])) == {
        second.id: (f"its predecessor {first.id} is not the one it was made after",)
    }


@pytest.mark.parametrize(
    ("field", "finding"),
    [("sha256", "SHA-256 is"), ("records", "the manifest counts 7 records, not 2")],
)
def test_an_edit_that_contradicts_the_archive_is_found_by_going_deep(
    sink: SimulatedSink, field: str, finding: str
) -> None:
    """Nobody refers to the newest manifest's hash yet, but its content can be checked."""
    made = Chain(sink).full(records(2))
    value: Any = "0" * 64 if field == "sha256" else 7
    edited(sink, made, files=(made.files[0].model_copy(update={field: value}),))
    (found,) = findings(verified([sink], deep=True))[made.id]

    assert finding in found
    assert findings(verified([sink])) == {}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 99, b'{"format":"1.0"}'])
def test_a_manifest_that_is_not_one_is_found(
    sink: SimulatedSink, content: bytes, *, deep: bool
) -> None:
    """And the others are verified all the same."""
    chain = Chain(sink)
    bad, good = chain.full(records(1)), Chain(sink, OTHER).full(records(2))
    put(sink, manifest_key(JOURNAL, bad.id), content)
    result = verified([sink], deep=deep)

    assert list(findings(result)) == [bad.id]
    assert [b.id for b in result.backups] == [bad.id, good.id]
    assert set(result.exit_codes) == {6}


def test_a_predecessor_that_is_gone_without_a_tombstone_is_found(sink: SimulatedSink) -> None:
    """That is tampering, or a lost object."""
    chain = Chain(sink)
    first, second = chain.full(records(1)), chain.full(records(2))
    for key in [key for key in sink.place.objects if first.id in key]:
        del sink.place.objects[key]

    assert findings(verified([sink])) == {
        second.id: (f"its predecessor {first.id} is gone, and nobody pruned it",)
    }


@pytest.mark.parametrize("digest", ["00" * 32, None])
def test_a_tombstone_of_another_manifest_is_found(sink: SimulatedSink, digest: str | None) -> None:
    """Whoever tampers cannot cover it with just any tombstone."""
    chain = Chain(sink)
    first, second = chain.full(records(1)), chain.full(records(2))
    bury(sink, first, digest)

    assert findings(verified([sink])) == {
        second.id: (f"its predecessor {first.id} is not the one it was made after",)
    }


def test_a_tombstone_that_is_not_one_is_found(sink: SimulatedSink) -> None:
    """It is damage."""
    chain = Chain(sink)
    first, second = chain.full(records(1)), chain.full(records(2))
    bury(sink, first, "00" * 32)
    put(sink, f"{JOURNAL}/{JOURNAL}-{first.id}.pruned.json", b"rubbish")

    assert "not a valid mark" in findings(verified([sink]))[second.id][0]


def test_a_tombstone_beside_its_manifest_does_not_matter(sink: SimulatedSink) -> None:
    """Pruning was interrupted between the two: the backup is still there."""
    chain = Chain(sink)
    first = chain.full(records(1))
    chain.full(records(2))
    Catalog(sink).mark(mark("pruned", first.id, manifest_sha256="00" * 32))

    assert findings(verified([sink])) == {}


GOOD = b'{"d":"","s":""}\n'


@pytest.mark.parametrize(
    ("data", "bad", "total", "offset"),
    [
        (GOOD + b"not json\n" + GOOD, 1, 3, 16),
        (GOOD * 3 + b"[1]\n" + b"2\n", 2, 5, 48),
        (b"\n", 1, 1, 0),
        (GOOD + b"{" * 70_000 + b"\n", 1, 2, 16),
    ],
)
def test_a_record_that_is_no_object_is_counted_and_the_first_is_located(
    sink: SimulatedSink, data: bytes, bad: int, total: int, offset: int
) -> None:
    """Only by going deep: the archive is what it claims to be."""
    made = Chain(sink).full(data)
    expected = (f"{bad} of {total} records are not JSON objects, the first at byte {offset}",)

    assert findings(verified([sink], deep=True)) == {made.id: expected}
    assert findings(verified([sink])) == {}


def test_a_record_without_an_end_is_damage_where_records_were_cut_off_whole(
    sink: SimulatedSink,
) -> None:
    """A live journal is read to its last newline, so there is none behind it."""
    made = Chain(sink).full(GOOD + GOOD[:-1])
    expected = ("the last record is not finished: 15 bytes without a newline",)

    assert findings(verified([sink], deep=True)) == {made.id: expected}
    assert findings(verified([sink])) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"source": Source(strategy="scale-down", consistency="quiesced")},
        {"suspect": True, "suspicion": "not one complete record in 15 bytes: no newline"},
    ],
)
def test_a_record_without_an_end_is_noted_where_the_journal_was_taken_as_it_is(
    sink: SimulatedSink, changes: dict[str, Any]
) -> None:
    """Billing has left it so, and the backup is what was read; a wrong record is still found."""
    chain = Chain(sink)
    chain.full(GOOD + GOOD[:-1], **changes)
    wrong = chain.full(GOOD + b"[]\n" + GOOD[:-1], **changes)
    result = verified([sink], deep=True)

    assert [b.unfinished_bytes for b in result.backups] == [15, 15]
    assert findings(result) == {
        wrong.id: ("1 of 2 records are not JSON objects, the first at byte 16",)
    }
    assert [b.unfinished_bytes for b in verified([sink]).backups] == [0, 0]


def test_a_record_across_two_archives_is_one_record(sink: SimulatedSink) -> None:
    """Offsets count from the journal's first byte, whichever archive it is in."""
    chain = Chain(sink)
    chain.full(GOOD + GOOD[:5])
    chain.incremental(GOOD[5:] + b"bad\n")
    (found,) = findings(verified([sink], chain.last.id, deep=True))[chain.last.id]

    assert found == "1 of 3 records are not JSON objects, the first at byte 32"


def test_an_unknown_member_of_a_shared_archive_is_passed_over(sink: SimulatedSink) -> None:
    """The backup before may have had files that this one has not."""
    chain = Chain(sink)
    chain.full(records(2), others={b"gone since": b"x" * 5000})
    made = chain.incremental(records(1))

    assert findings(verified([sink], made.id, deep=True)) == {}


def test_an_unknown_member_of_its_own_archive_is_found(sink: SimulatedSink) -> None:
    """Nobody put it there by this tool."""
    chain = Chain(sink)
    chain.full(records(2))
    made = chain.incremental(records(1), strangers=[(b"stranger", b"hello")])

    assert "b'stranger' is not in the manifest" in str(
        findings(verified([sink], made.id, deep=True))
    )


# -- verify: what cannot be read


def test_a_sink_that_cannot_be_read_is_no_damage(sink: SimulatedSink) -> None:
    """Exit 5, and such a backup does not stand among the verified ones."""
    chain = Chain(sink)
    bad, good = chain.full(records(1)), chain.full(records(2))
    sink.fail("open", SinkDeniedError("may not"), key=bad.archives[0].key)
    for deep in (False, True):
        events = Events()
        result = verified([sink], deep=deep, emit=events)

        assert [b.id for b in result.backups] == [good.id]
        assert [(p.exit_code, p.message) for p in events.of(Problem)] == [(5, f"{bad.id}: may not")]
        assert result.exit_codes == (5,)


@pytest.mark.parametrize("what", ["manifest", "checksum", "predecessor"])
def test_whatever_cannot_be_read_is_a_problem(sink: SimulatedSink, what: str) -> None:
    """Also a small object."""
    chain = Chain(sink)
    first, made = chain.full(records(1)), chain.full(records(2))
    keys = {
        "manifest": manifest_key(JOURNAL, made.id),
        "checksum": checksum_key(JOURNAL, made.id),
        "predecessor": manifest_key(JOURNAL, first.id),
    }
    sink.fail("open", SinkDeniedError("may not"), key=keys[what])
    result = verified([sink], made.id)

    assert (result.backups, result.exit_codes) == ((), (5,))


def test_a_finding_is_told_although_something_else_cannot_be_read(sink: SimulatedSink) -> None:
    """Damage outweighs it."""
    made = Chain(sink).full(records(1))
    put(sink, checksum_key(JOURNAL, made.id), b"")
    sink.fail("open", SinkDeniedError("may not"), key=made.archives[0].key)
    result = verified([sink])

    assert list(findings(result)) == [made.id]
    assert sorted(result.exit_codes) == [5, 6]


def test_a_newer_format_cannot_be_verified(sink: SimulatedSink) -> None:
    """Exit 2: use a newer version."""
    made = Chain(sink).full(records(1))
    put(sink, manifest_key(JOURNAL, made.id), b'{"format":"2.0"}')
    result = verified([sink])

    assert (result.backups, result.exit_codes) == ((), (2,))


def test_a_sink_that_is_down_is_told_and_the_others_are_verified(sink: SimulatedSink) -> None:
    """Exit 3; when all are down, 5."""
    down = SimulatedSink("down")
    down.fail("list", SinkDeniedError("down"))
    Chain(sink).full(records(1))
    result = verified([down, sink])

    assert (len(result.backups), result.exit_codes) == (1, (3,))
    with pytest.raises(SinkError):
        verified([down])


def test_a_sink_that_hangs_is_waited_for_once(
    sink: SimulatedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a minute for each of its backups; the other sinks are verified."""
    monkeypatch.setattr("backup.verbs.verify.STALL_SECONDS", 0.3)
    two = SimulatedSink("two")
    for chain in (Chain(sink), Chain(two)):
        for n in range(3):
            chain.full(records(n))
    sink.hang("open", key="*.tar.gz")
    result = verified([sink, two])
    sink.release()

    assert [b.sink for b in result.backups] == [two.url] * 3
    assert [(p.exit_code, p.sink) for p in result.problems] == [(5, sink.url)]
    assert "backups after it on this sink were not verified" in result.problems[0].message
    assert SinkStalledError.exit_code == 5


def test_a_broken_stream_is_taken_up_where_it_broke(sink: SimulatedSink) -> None:
    """One reset is no finding."""
    made = Chain(sink).full(records(900))
    sink.tear(made.archives[0].key, at=100_000, error=SinkUnavailableError("reset"), times=1)

    assert findings(verified([sink], deep=True)) == {}


@pytest.mark.parametrize("deep", [False, True])
def test_a_signal_ends_a_verification(sink: SimulatedSink, *, deep: bool) -> None:
    """It is no finding."""
    for journal in (JOURNAL, OTHER):
        Chain(sink, journal).full(records(5))
    stop = Stop()
    sink.on("open", lambda _key: stop.request(signal.SIGTERM), key="*.tar.gz")

    with pytest.raises(SignalledError):
        verified([sink], deep=deep, stop=stop)


@pytest.mark.parametrize("deep", [False, True])
def test_progress_is_told_to_the_end(sink: SimulatedSink, *, deep: bool) -> None:
    """In bytes of the journal where it goes deep, else of the archive."""
    made = Chain(sink).full(records(2000))
    events = Events()
    verified([sink], deep=deep, emit=events)
    told = [(p.done_bytes, p.total_bytes) for p in events.of(Progressed)]
    total = made.size_bytes if deep else made.archive_bytes

    assert told[-1] == (total, total)
    assert told == sorted(told)


def test_a_member_that_is_named_otherwise_is_the_journal_all_the_same(
    sink: SimulatedSink,
) -> None:
    """Percent-encoding must not be a way around the records' check."""
    chain = Chain(sink)
    backup_id, data = chain.id(), b"not json\n"
    key = archive_key(JOURNAL, backup_id, 1)
    stored = packed([(chain.member(b"journal"), data)])
    put(sink, key, stored)
    named = file(b"journal", data, [segment(key, chain.member(b"journal"), 0, len(data))])
    hidden = named.model_copy(update={"path": "%6aournal"})
    chain.commit(backup_id, [archive(key, stored)], [hidden], "first")

    assert "not JSON objects" in str(findings(verified([sink], deep=True)))


def test_a_link_to_a_predecessor_that_never_was_is_found(sink: SimulatedSink) -> None:
    """A manifest that was copied here from elsewhere does not fit in."""
    chain = Chain(sink)
    chain.full(records(1))
    ghost = Previous(id="20260101T000000Z-00dead", manifest_sha256="00" * 32)
    made = chain.full(records(2), previous=ghost)

    assert "20260101T000000Z-00dead is gone" in findings(verified([sink]))[made.id][0]
    assert issubclass(ManifestError, IntegrityError)
