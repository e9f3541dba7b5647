"""The catalog: what makes a backup exist, what is never changed, and what may be swept."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import (
    Catalog,
    Flaw,
    Listing,
    OpenSink,
    archive_key,
    checksum_key,
    checksums,
    draft_key,
    manifest_key,
)
from backup.catalog.selection import Chosen, judge
from backup.errors import (
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SinkDeniedError,
    SinkError,
    UnsupportedFormatError,
)
from backup.manifest import MAX_BYTES, Manifest, Mark
from backup.sinks.base import Object
from backup.stop import Stop
from backup.streams import Feed, fan_out
from tests.handmade import JOURNAL, Chain, archive, lose, mark, sha256
from tests.journal_data import NOON, records
from tests.simulated_sink import Held, SimulatedSink

DAY = timedelta(days=1)
OTHER = "journal-deepgram-billing-1"
SECOND = timedelta(seconds=1)
GHOST = "20261101T000000Z-00dead"
"""An id that has no manifest."""
RECENT = "journal-other-0/journal-other-0-20261201T000000Z-00feed.sha256"
"""What shows that the store's time has gone on."""


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink whose objects are all as old as NOON."""
    return SimulatedSink(clock=lambda: NOON)


@pytest.fixture
def chain(sink: SimulatedSink) -> Chain:
    """Begin a history."""
    return Chain(sink)


def put(sink: SimulatedSink, key: str, data: bytes = b"x") -> str:
    """Place an object, as old as the sink's clock says."""
    sink.place.objects[key] = Held(data, sink.clock())
    return key


# -- what a listing shows


def test_only_a_manifest_makes_a_backup(sink: SimulatedSink, chain: Chain) -> None:
    """Archives, checksum files, drafts and marks alone are remains, not backups."""
    real = chain.full(records(3))
    put(sink, archive_key(JOURNAL, GHOST, 1))
    put(sink, checksum_key(JOURNAL, GHOST))
    put(sink, f"{OTHER}/{OTHER}-{GHOST}.draft.json")
    listing = OpenSink(sink).listing

    assert [b.id for b in listing.every()] == [real.id]
    assert listing.journals == (JOURNAL,)
    assert sorted((b.journal, b.id) for b in listing.remains()) == [
        (JOURNAL, GHOST),
        (OTHER, GHOST),
    ]
    assert set(listing.ids(JOURNAL)) == {GHOST, real.id}
    assert listing.find(OTHER, GHOST) is not None
    assert listing.find("journal-nobody-0", GHOST) is None
    assert listing.ids("journal-nobody-0") == ()


def test_backups_are_listed_oldest_first(chain: Chain) -> None:
    """The order of ids is the order of time."""
    made = [chain.full(records(n)).id for n in (1, 2, 3)]

    assert [b.id for b in OpenSink(chain.sink).listing.backups(JOURNAL)] == made


@pytest.mark.parametrize(
    "key",
    [
        "model.dg",
        "journal-deepgram-billing-0/notes.txt",
        f"{JOURNAL}/{OTHER}-{GHOST}.tar.gz",
        f"{JOURNAL}/{JOURNAL}-{GHOST}.tar.gz.bak",
        f"{JOURNAL}/{JOURNAL}-20261301T000000Z-00dead.tar.gz",
    ],
)
def test_what_is_not_named_by_the_grammar_is_foreign(key: str) -> None:
    """It plays no part."""
    listing = Listing([Object(key=key, size_bytes=1, modified_at=NOON)])

    assert (list(listing.remains()), listing.journals) == ([], ())


def test_marks_of_unknown_kinds_say_nothing(sink: SimulatedSink, chain: Chain) -> None:
    """A later release may add kinds of marks; this one must not stumble over them."""
    made = chain.full(records(1))
    put(sink, f"{JOURNAL}/{JOURNAL}-{made.id}.blessed.json")
    put(sink, f"{JOURNAL}/{JOURNAL}-{made.id}.verified-20261123T120000Z.json")
    listing = OpenSink(sink).listing

    assert listing.backups(JOURNAL)[0].marks == {"verified"}


def test_a_journal_is_retired_while_its_newest_backup_says_so(chain: Chain) -> None:
    """A newer backup carries no such mark, so a journal that returns is expected again."""
    catalog = Catalog(chain.sink)
    first = chain.full(records(1))
    before = OpenSink(catalog.sink).listing.is_retired(JOURNAL)
    catalog.mark(mark("retired", first.id))
    marked = OpenSink(catalog.sink).listing.is_retired(JOURNAL)
    chain.full(records(2))

    assert (before, marked, OpenSink(catalog.sink).listing.is_retired(JOURNAL)) == (
        False,
        True,
        False,
    )
    assert not OpenSink(catalog.sink).listing.is_retired(OTHER)


# -- reading manifests


def test_a_manifest_is_given_with_the_hash_of_its_stored_bytes(chain: Chain) -> None:
    """The hash chain is made of what is stored, not of what was parsed."""
    made = chain.full(records(3))
    stored = chain.sink.read(manifest_key(JOURNAL, made.id))

    found = Catalog(chain.sink).manifest(JOURNAL, made.id)
    assert (found.manifest, found.data, found.sha256) == (made, stored, sha256(stored))
    assert OpenSink(chain.sink).manifest_sha256(JOURNAL, made.id) == sha256(stored)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format": "1.0"}', b"\xff"])
def test_an_invalid_manifest_is_named_with_its_place(sink: SimulatedSink, data: bytes) -> None:
    """Whoever repairs it has to find it."""
    key = put(sink, manifest_key(JOURNAL, GHOST), data)

    with pytest.raises(ManifestError) as caught:
        Catalog(sink).manifest(JOURNAL, GHOST)

    assert caught.value.message.startswith(f"memory://one: {key}: ")


def test_a_manifest_too_large_to_be_one_is_damage(sink: SimulatedSink, chain: Chain) -> None:
    """Not a failing sink: history goes on from the backup before it."""
    good = chain.full(records(1))
    put(sink, manifest_key(JOURNAL, chain.id()), b" " * (MAX_BYTES + 1))
    opened = OpenSink(sink)
    found, damaged = opened.newest(JOURNAL)

    assert found is not None
    assert found[0] == good
    assert [f"is larger than {MAX_BYTES} bytes" in e.message for e in damaged] == [True]


def test_a_manifest_that_cannot_be_read_is_no_damage(sink: SimulatedSink, chain: Chain) -> None:
    """Nobody knows: history must not go on from an older one."""
    chain.full(records(1))
    chain.full(records(2))
    sink.fail("open", SinkError("some new error"), key=manifest_key(JOURNAL, chain.last.id))
    opened = OpenSink(sink)

    with pytest.raises(SinkError, match="some new error"):
        opened.newest(JOURNAL)


def test_a_manifest_of_a_newer_format_is_named_with_its_place(sink: SimulatedSink) -> None:
    """It is not damaged: the hint is to use a newer version."""
    key = put(sink, manifest_key(JOURNAL, GHOST), b'{"format": "2.0"}')

    with pytest.raises(UnsupportedFormatError) as caught:
        Catalog(sink).manifest(JOURNAL, GHOST)

    assert caught.value.message.startswith(f"memory://one: {key}: ")
    assert caught.value.hints == ("use a newer deepgram-journal-backup",)


@pytest.mark.parametrize("other", [(JOURNAL, GHOST), (OTHER, None)])
def test_a_manifest_under_another_name_is_refused(
    sink: SimulatedSink, chain: Chain, other: tuple[str, str | None]
) -> None:
    """A copy of a manifest is no backup of another id or journal."""
    made = chain.full(records(1))
    journal, backup_id = other[0], other[1] or made.id
    put(sink, manifest_key(journal, backup_id), sink.read(manifest_key(JOURNAL, made.id)))

    with pytest.raises(ManifestError, match=f"speaks of {JOURNAL} {made.id}"):
        Catalog(sink).manifest(journal, backup_id)


def test_the_newest_manifest_is_the_newest_valid_one(sink: SimulatedSink, chain: Chain) -> None:
    """History goes on from the last backup that can be read, and the damage is told."""
    good = chain.full(records(1))
    for _ in range(2):
        put(sink, manifest_key(JOURNAL, chain.id()), b"rubbish")
    opened = OpenSink(sink)
    found, damaged = opened.newest(JOURNAL)

    assert found is not None
    assert found[0] == good
    assert len(damaged) == 2
    assert opened.newest(OTHER) == (None, [])


# -- what makes a backup good


@pytest.mark.parametrize(
    ("spoil", "reason", "is_damage"),
    [
        (lambda s, m: put(s, m.archives[0].key, b"short"), "is missing or has another size", True),
        (lambda s, m: s.place.objects.pop(m.archives[0].key), "is missing or has another", True),
        (lambda s, m: put(s, manifest_key(JOURNAL, m.id), b"{}"), "not a valid manifest", True),
        (
            lambda s, m: put(s, manifest_key(JOURNAL, m.id), b'{"format":"9.0"}'),
            "format 9.0",
            False,
        ),
    ],
)
def test_a_good_backup_has_a_valid_manifest_and_its_archives(
    sink: SimulatedSink, chain: Chain, spoil: Any, reason: str, *, is_damage: bool
) -> None:
    """``latest`` must be one that can be restored, as far as a listing tells."""
    made = chain.full(records(5))
    whole = OpenSink(sink)
    assert judge(Chosen(whole, whole.listing.backups(JOURNAL)[0]))[1] is None
    spoil(sink, made)
    spoilt = OpenSink(sink)
    found = judge(Chosen(spoilt, spoilt.listing.backups(JOURNAL)[0]))[1]

    assert found
    assert reason in found.message
    assert found.is_damage == is_damage


def test_a_suspect_backup_is_not_good(chain: Chain) -> None:
    """It says why."""
    chain.full(records(1), suspect=True, suspicion="a hole")
    opened = OpenSink(chain.sink)

    assert judge(Chosen(opened, opened.listing.backups(JOURNAL)[0]))[1] == Flaw("suspect: a hole")


def test_an_alarm_speaks_against_a_backup_until_it_is_acknowledged(chain: Chain) -> None:
    """The mark of the backup that raised it answers it for every later one too."""
    chain.full(records(1))
    raised = chain.id()
    made = chain.full(records(2), alarms=(raised,))
    before = OpenSink(chain.sink)
    before.mark(mark("acknowledged", raised))
    after = OpenSink(chain.sink)

    assert judge(Chosen(before, before.listing.backups(JOURNAL)[-1]))[1] == Flaw(
        f"standing alarm: {raised}"
    )
    assert before.standing_alarms(made) == (raised,)
    assert judge(Chosen(after, after.listing.backups(JOURNAL)[-1]))[1] is None
    assert after.standing_alarms(made) == ()


# -- writing


def store(catalog: Catalog, key: str, data: bytes, **how: Any) -> Any:
    """Store through a real fan-out of one."""

    def consume(feed: Feed) -> object:
        return catalog.store(key, feed, max_bytes=len(data), stop=Stop(), **how)

    return fan_out([data], {1: consume}, stop=Stop(), stall_seconds=5)[1]


def test_of_two_who_mark_at_once_the_first_is_heard(sink: SimulatedSink) -> None:
    """Both have looked, and found none."""
    catalog = Catalog(sink)

    def mark(by: str) -> bool:
        return catalog.mark(
            Mark(kind="delivered", journal=JOURNAL, id=GHOST, created_at=NOON, by=by)
        )

    others: list[bool] = []

    def meanwhile(_key: str) -> None:
        if not others:
            others.append(False)
            others[0] = mark("ada")

    sink.on("put_exclusive", meanwhile)

    assert (mark("eve"), others) == (False, [True])


def test_a_mark_is_not_replaced_where_the_store_ignores_preconditions(
    sink: SimulatedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What somebody has said of a backup stands, whatever the store would let us do."""

    def overwrite(key: str, data: bytes) -> None:
        sink.place.objects[key] = Held(data, NOON)

    monkeypatch.setattr(sink, "_put_exclusive", overwrite)
    catalog = Catalog(sink)

    said = [
        catalog.mark(Mark(kind="delivered", journal=JOURNAL, id=GHOST, created_at=NOON, by=by))
        for by in ("ada", "eve")
    ]

    assert said == [True, False]
    assert [b'"ada"' in held.data for held in sink.place.objects.values()] == [True]


@pytest.mark.parametrize("readback", ["full", "size"])
def test_storing_says_what_the_sink_holds(sink: SimulatedSink, readback: Any) -> None:
    """Not what was sent: the sink is asked."""
    key = archive_key(JOURNAL, GHOST, 1)
    sink.flip("*.tar.gz")
    stored = store(Catalog(sink), key, b"sent", readback=readback)
    held = sink.place.objects[key].data

    assert held != b"sent"
    assert (stored.key, stored.size_bytes) == (key, 4)
    assert stored.sha256 == (sha256(held) if readback == "full" else None)


def test_a_backup_begins_to_exist_with_its_manifest_the_last_object(
    sink: SimulatedSink, chain: Chain
) -> None:
    """Checksum file first, each read back: whatever interrupts it leaves "absent" or "valid"."""
    made = chain.full(records(2))
    for key in (checksum_key(JOURNAL, made.id), manifest_key(JOURNAL, made.id)):
        del sink.place.objects[key]
    sink.calls.clear()
    Catalog(sink).commit(made)

    assert sink.calls == [
        ("put_exclusive", checksum_key(JOURNAL, made.id)),
        ("open", checksum_key(JOURNAL, made.id)),
        ("put_exclusive", manifest_key(JOURNAL, made.id)),
        ("open", manifest_key(JOURNAL, made.id)),
        ("size", made.archives[0].key),
    ]
    assert sink.read(manifest_key(JOURNAL, made.id)) == made.to_bytes()


def test_committing_the_same_again_is_success_and_another_is_refused(chain: Chain) -> None:
    """A reply may be lost; a manifest is never overwritten."""
    made = chain.full(records(2))
    stored = chain.sink.read(manifest_key(JOURNAL, made.id))
    catalog = Catalog(chain.sink)

    catalog.commit(made)
    with pytest.raises(ObjectExistsError):
        catalog.commit(made.model_copy(update={"run_id": "another"}))
    assert chain.sink.read(manifest_key(JOURNAL, made.id)) == stored


@pytest.mark.parametrize("pattern", ["*.sha256", "*.manifest.json", "*.retired.json"])
def test_what_is_recorded_is_read_back(sink: SimulatedSink, pattern: str) -> None:
    """A sink that changes what it stores cannot be trusted with manifests and marks either."""
    made = Chain(SimulatedSink()).full(records(2))
    sink.flip(pattern)

    def write() -> None:
        Catalog(sink).commit(made)
        Catalog(sink).mark(mark("retired", made.id))

    with pytest.raises(ReadbackError):
        write()


def test_the_first_mark_of_a_kind_stays(chain: Chain) -> None:
    """Who answered first is kept; answering again is no error."""
    made = chain.full(records(1))
    catalog = Catalog(chain.sink)

    assert catalog.mark(mark("retired", made.id, by="Ann"))
    assert not catalog.mark(mark("retired", made.id, by="Bob"))
    assert catalog.mark(mark("acknowledged", made.id))
    assert b"Ann" in chain.sink.read(f"{JOURNAL}/{JOURNAL}-{made.id}.retired.json")


def test_a_tombstone_tells_the_hash_that_the_manifest_had(sink: SimulatedSink) -> None:
    """So that the chain still closes; one that is no mark, or of another backup, is damage."""
    catalog = Catalog(sink)
    stone = mark("pruned", GHOST, manifest_sha256="ab" * 32)
    catalog.mark(stone)

    assert catalog.marked("pruned", JOURNAL, GHOST) == stone
    for stored in (b"{}", stone.to_bytes()):
        put(sink, f"{OTHER}/{OTHER}-{GHOST}.pruned.json", stored)
        with pytest.raises(ManifestError):
            catalog.marked("pruned", OTHER, GHOST)


# -- drafts


def test_a_draft_is_read_as_it_was_written(sink: SimulatedSink, chain: Chain) -> None:
    """It is a manifest in all but its name, and makes no backup."""
    made = chain.full(records(2))
    other = SimulatedSink("two")
    catalog = Catalog(other)
    catalog.draft(made)

    assert catalog.drafted(JOURNAL, made.id) == made
    assert other.place.keys() == [f"{JOURNAL}/{JOURNAL}-{made.id}.draft.json"]
    (backup,) = OpenSink(catalog.sink).listing.remains()
    assert (backup.has_draft, backup.has_manifest) == (True, False)


def test_a_draft_is_read_back(chain: Chain) -> None:
    """A sink that loses it loses the archive with it."""
    sink = SimulatedSink("two")
    sink.flip("*.draft.json")

    with pytest.raises(ReadbackError):
        Catalog(sink).draft(chain.full(records(2)))


def test_a_draft_that_is_not_there_or_no_manifest(sink: SimulatedSink) -> None:
    """Told apart: gone is not damaged."""
    with pytest.raises(ObjectMissingError):
        Catalog(sink).drafted(JOURNAL, GHOST)
    put(sink, draft_key(JOURNAL, GHOST), b"{}")
    with pytest.raises(ManifestError):
        Catalog(sink).drafted(JOURNAL, GHOST)


@pytest.mark.parametrize("readback", ["full", "size"])
def test_what_is_held_is_said_as_thoroughly_as_the_manifest_claims(
    chain: Chain, readback: Any
) -> None:
    """Whatever the manifest says of it: the sink alone is asked."""
    (told,) = chain.full(records(2)).archives
    stored = chain.sink.read(told.key)
    held = Catalog(chain.sink).held(told.key, readback=readback, stop=Stop(), stall_seconds=5.0)

    assert (held.key, held.size_bytes) == (told.key, len(stored))
    assert held.sha256 == {"full": sha256(stored), "size": None}[readback]


def test_discarding_is_best_effort(sink: SimulatedSink) -> None:
    """What cannot be removed now is swept later."""
    key = put(sink, archive_key(JOURNAL, GHOST, 1))
    sink.fail("delete", SinkDeniedError("no"), times=1)
    Catalog(sink).discard(key)
    still = sink.place.keys()
    Catalog(sink).discard(key)

    assert (still, sink.place.keys()) == ([key], [])


def test_a_checksum_file_is_what_sha256sum_checks(tmp_path: Path) -> None:
    """A site without this tool proves its archives with coreutils, in that directory."""
    data = {archive_key(JOURNAL, GHOST, n): b"x" * n for n in (1, 2)}
    for key, content in data.items():
        (tmp_path / Path(key).name).write_bytes(content)
    text = checksums(archive(key, content) for key, content in data.items())
    result = subprocess.run(
        ["sha256sum", "--strict", "-c"], cwd=tmp_path, input=text, check=True, capture_output=True
    )

    assert result.stdout.count(b": OK") == 2


# -- alarms of branches


def alarms_after(sink: SimulatedSink) -> tuple[str, ...]:
    """Name the alarms that the next backup inherits."""
    opened = OpenSink(sink)
    newest, _ = opened.newest(JOURNAL)
    assert newest is not None
    sink.calls.clear()
    return opened.alarms_after(newest.manifest)[0]


@pytest.fixture
def daily(sink: SimulatedSink, chain: Chain) -> Chain:
    """Let a day go by between the backups of a history, as the store sees it."""
    days = itertools.count()
    sink.clock = lambda: NOON + next(days) * DAY
    return chain


def test_without_a_branch_no_other_manifest_is_read(sink: SimulatedSink, daily: Chain) -> None:
    """Every run asks, for every journal."""
    for count in range(1, 6):
        daily.full(records(count), alarms=(GHOST,))

    assert alarms_after(sink) == (GHOST,)
    assert sink.calls == []


def test_an_alarm_of_a_branch_is_inherited(sink: SimulatedSink, daily: Chain) -> None:
    """Two runs at once followed the same backup; only the older one saw the journal shrink."""
    first = daily.full(records(1))
    daily.full(records(2), alarms=(GHOST,))
    daily.manifests[:] = [first]
    daily.full(records(3))

    assert alarms_after(sink) == (GHOST,)
    Catalog(sink).mark(mark("acknowledged", GHOST))
    assert alarms_after(sink) == ()


def test_an_alarm_of_a_slow_run_is_inherited(sink: SimulatedSink, daily: Chain) -> None:
    """It got its id first and committed last: its id says nothing of who has seen it."""
    daily.full(records(1))
    slow = daily.full(records(2), alarms=(GHOST,))
    daily.manifests.pop()
    held = sink.place.objects.pop(manifest_key(JOURNAL, slow.id))
    daily.full(records(3))
    daily.full(records(4))
    put(sink, manifest_key(JOURNAL, slow.id), held.data)

    assert alarms_after(sink) == (GHOST,)


@pytest.mark.parametrize("how", ["first", "lost"])
def test_without_a_predecessor_every_branch_counts(
    sink: SimulatedSink, daily: Chain, how: str
) -> None:
    """A late listing made it a first one, or its predecessor's manifest is gone."""
    daily.full(records(1), alarms=(GHOST,))
    before = daily.full(records(2))
    if how == "first":
        daily.manifests.clear()
    daily.full(records(3))
    if how == "lost":
        lose(sink, before)

    assert alarms_after(sink) == (GHOST,)


def test_a_damaged_branch_is_told(sink: SimulatedSink, daily: Chain) -> None:
    """It may have carried an alarm; what others carry is known all the same."""
    first = daily.full(records(1))
    broken = daily.full(records(2))
    daily.manifests[:] = [first]
    newest = daily.full(records(3), alarms=(GHOST,))
    put(sink, manifest_key(JOURNAL, broken.id), b"rotten")
    alarms, (error,) = OpenSink(sink).alarms_after(newest)

    assert alarms == (GHOST,)
    assert manifest_key(JOURNAL, broken.id) in error.message


# -- what is not written


@pytest.mark.parametrize("write", [Catalog.commit, Catalog.draft])
@pytest.mark.parametrize("what", ["large", "wrong"])
def test_what_readers_would_refuse_is_not_written(
    sink: SimulatedSink, write: Callable[[Catalog, Manifest], object], what: str
) -> None:
    """It would look like a backup, and never be restored."""
    made = Chain(SimulatedSink()).full(records(2))
    changes = {"large": {"suspicion": "x" * MAX_BYTES}, "wrong": {"journal": "billing"}}
    with pytest.raises(ManifestError):
        write(Catalog(sink), made.model_copy(update=changes[what]))

    assert sink.place.keys() == []


@pytest.mark.parametrize("data", [None, b"short"])
def test_an_archive_that_goes_before_its_manifest_comes_is_told(
    sink: SimulatedSink, chain: Chain, data: bytes | None
) -> None:
    """Somebody removed it after it was read back: success would be a lie."""
    made = chain.full(records(2))
    (archive,) = made.archives
    lose(sink, made)
    del sink.place.objects[archive.key]
    if data is not None:
        put(sink, archive.key, data)

    with pytest.raises(ReadbackError, match="is gone now that its manifest is there"):
        Catalog(sink).commit(made)


def test_a_missing_manifest_is_told_as_such(sink: SimulatedSink) -> None:
    """It is no damage: there is no backup."""
    with pytest.raises(ObjectMissingError):
        Catalog(sink).manifest(JOURNAL, GHOST)
