"""The catalog: what makes a backup exist, what is never changed, and what may be swept."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import (
    Catalog,
    Flaw,
    Listing,
    Swept,
    archive_key,
    checksum_key,
    checksums,
    draft_key,
    manifest_key,
)
from backup.errors import (
    ManifestError,
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SinkDeniedError,
    SinkError,
    SinkUnavailableError,
    UnsupportedFormatError,
)
from backup.manifest import MAX_BYTES, Manifest, Mark
from backup.sinks.base import Object
from backup.stop import Stop
from backup.streams import Feed, fan_out
from tests.handmade import JOURNAL, Chain, archive, mark, packed, sha256
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


def sweep(sink: SimulatedSink, listing: Listing | None = None, **how: Any) -> int:
    """Sweep what is older than a second past NOON, of a sink that is used the day after."""
    return swept(sink, listing, **how).objects


def swept(sink: SimulatedSink, listing: Listing | None = None, **how: Any) -> Swept:
    """Sweep likewise; give all that came of it."""
    catalog = Catalog(sink)
    sink.place.objects[RECENT] = Held(b"", NOON + 2 * DAY)
    given: dict[str, Any] = {"now": NOON + DAY + SECOND, "grace": DAY}
    found = catalog.sweep(listing or catalog.listing(), **(given | how))
    del sink.place.objects[RECENT]
    return found


# -- what a listing shows


def test_only_a_manifest_makes_a_backup(sink: SimulatedSink, chain: Chain) -> None:
    """Archives, checksum files, drafts and marks alone are remains, not backups."""
    real = chain.full(records(3))
    put(sink, archive_key(JOURNAL, GHOST, 1))
    put(sink, checksum_key(JOURNAL, GHOST))
    put(sink, f"{OTHER}/{OTHER}-{GHOST}.draft.json")
    listing = Catalog(sink).listing()

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

    assert [b.id for b in Catalog(chain.sink).listing().backups(JOURNAL)] == made


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
    listing = Catalog(sink).listing()

    assert listing.backups(JOURNAL)[0].marks == {"verified"}


def test_a_journal_is_retired_while_its_newest_backup_says_so(chain: Chain) -> None:
    """A newer backup carries no such mark, so a journal that returns is expected again."""
    catalog = Catalog(chain.sink)
    first = chain.full(records(1))
    before = catalog.listing().is_retired(JOURNAL)
    catalog.mark(mark("retired", first.id))
    marked = catalog.listing().is_retired(JOURNAL)
    chain.full(records(2))

    assert (before, marked, catalog.listing().is_retired(JOURNAL)) == (False, True, False)
    assert not catalog.listing().is_retired(OTHER)


# -- reading manifests


def test_a_manifest_is_given_with_the_hash_of_its_stored_bytes(chain: Chain) -> None:
    """The hash chain is made of what is stored, not of what was parsed."""
    made = chain.full(records(3))
    stored = chain.sink.read(manifest_key(JOURNAL, made.id))

    assert Catalog(chain.sink).manifest(JOURNAL, made.id) == (made, sha256(stored))
    assert Catalog(chain.sink).manifest_sha256(JOURNAL, made.id) == sha256(stored)


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
    catalog = Catalog(sink)
    found, damaged = catalog.newest(JOURNAL, catalog.listing())

    assert found is not None
    assert found[0] == good
    assert [f"is larger than {MAX_BYTES} bytes" in e.message for e in damaged] == [True]


def test_a_manifest_that_cannot_be_read_is_no_damage(sink: SimulatedSink, chain: Chain) -> None:
    """Nobody knows: history must not go on from an older one."""
    chain.full(records(1))
    chain.full(records(2))
    sink.fail("open", SinkError("some new error"), key=manifest_key(JOURNAL, chain.last.id))
    catalog = Catalog(sink)

    with pytest.raises(SinkError, match="some new error"):
        catalog.newest(JOURNAL, catalog.listing())


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
    catalog = Catalog(sink)
    found, damaged = catalog.newest(JOURNAL, catalog.listing())

    assert found is not None
    assert found[0] == good
    assert len(damaged) == 2
    assert catalog.newest(OTHER, catalog.listing()) == (None, [])


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
    catalog = Catalog(sink)
    whole = catalog.listing()
    assert catalog.why_not_good(whole.backups(JOURNAL)[0], whole) is None
    spoil(sink, made)
    listing = catalog.listing()
    found = catalog.why_not_good(listing.backups(JOURNAL)[0], listing)

    assert found
    assert reason in found.message
    assert found.is_damage == is_damage


def test_a_suspect_backup_is_not_good(chain: Chain) -> None:
    """It says why."""
    chain.full(records(1), suspect=True, suspicion="a hole")
    catalog = Catalog(chain.sink)
    listing = catalog.listing()

    assert catalog.why_not_good(listing.backups(JOURNAL)[0], listing) == Flaw("suspect: a hole")


def test_an_alarm_speaks_against_a_backup_until_it_is_acknowledged(chain: Chain) -> None:
    """The mark of the backup that raised it answers it for every later one too."""
    chain.full(records(1))
    raised = chain.id()
    made = chain.full(records(2), alarms=(raised,))
    catalog = Catalog(chain.sink)
    before = catalog.listing()
    catalog.mark(mark("acknowledged", raised))
    after = catalog.listing()

    assert catalog.why_not_good(before.backups(JOURNAL)[-1], before) == Flaw(
        f"standing alarm: {raised}"
    )
    assert catalog.standing_alarms(made, before) == (raised,)
    assert catalog.why_not_good(after.backups(JOURNAL)[-1], after) is None
    assert catalog.standing_alarms(made, after) == ()


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
    assert (stored.key, stored.size_bytes, stored.readback) == (key, 4, readback)
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
    """So that the chain still closes; a tombstone that is no mark is damage."""
    catalog = Catalog(sink)
    catalog.mark(mark("pruned", GHOST, manifest_sha256="ab" * 32))
    put(sink, f"{OTHER}/{OTHER}-{GHOST}.pruned.json", b"{}")

    assert catalog.pruned_sha256(JOURNAL, GHOST) == "ab" * 32
    with pytest.raises(ManifestError):
        catalog.pruned_sha256(OTHER, GHOST)


# -- drafts


def test_a_draft_is_read_as_it_was_written(sink: SimulatedSink, chain: Chain) -> None:
    """It is a manifest in all but its name, and makes no backup."""
    made = chain.full(records(2))
    other = SimulatedSink("two")
    catalog = Catalog(other)
    catalog.draft(made)

    assert catalog.drafted(JOURNAL, made.id) == made
    assert other.place.keys() == [f"{JOURNAL}/{JOURNAL}-{made.id}.draft.json"]
    (backup,) = catalog.listing().remains()
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
    claimed = told.model_copy(update={"readback": readback, "sha256": "0" * 64, "size_bytes": 1})
    held = Catalog(chain.sink).held(claimed, stop=Stop(), stall_seconds=5.0)

    assert (held.key, held.size_bytes) == (told.key, len(stored))
    assert held.sha256 == {"full": sha256(stored), "size": None}[readback]
    assert held.readback == readback


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


# -- sweeping


def ghost(sink: SimulatedSink, *, journal: str = JOURNAL) -> set[str]:
    """Leave what an interrupted backup leaves."""
    return {
        put(sink, archive_key(journal, GHOST, 1)),
        put(sink, archive_key(journal, GHOST, 2)),
        put(sink, checksum_key(journal, GHOST)),
    }


def test_old_remains_are_swept(sink: SimulatedSink, chain: Chain) -> None:
    """Archives and checksum files of ids without a manifest; the backups stay."""
    chain.full(records(2))
    kept = sink.place.keys()
    ghost(sink)

    assert sweep(sink) == 3
    assert sink.place.keys() == kept


def test_remains_are_swept_only_past_the_grace(sink: SimulatedSink) -> None:
    """A run that is under way looks like remains; each object is judged by its own age."""
    old = put(sink, archive_key(JOURNAL, GHOST, 1))
    sink.clock = lambda: NOON + DAY
    young = put(sink, checksum_key(JOURNAL, GHOST))
    sink.calls.clear()

    assert sweep(sink) == 1
    assert sink.place.keys() == [young]
    assert ("delete", old) in sink.calls


def test_nothing_to_sweep_costs_no_second_listing_and_no_manifest(chain: Chain) -> None:
    """Every run sweeps, so a clean sink must cost next to nothing."""
    chain.full(records(2))
    sink = chain.sink
    assert isinstance(sink, SimulatedSink)
    listing = Catalog(sink).listing()
    sink.calls.clear()

    assert sweep(sink, listing) == 0
    assert sink.calls == [("sweep", "")]


def test_an_empty_sink_is_not_swept(sink: SimulatedSink) -> None:
    """Nothing tells what time it is there; what is under way may be another run's first."""
    sink.place.uploads.append(("old", NOON))
    put(sink, "model.dg")
    catalog = Catalog(sink)

    assert catalog.sweep(catalog.listing(), now=NOON + 9 * DAY, grace=DAY) == Swept()
    assert len(sink.place.uploads) == 1


@pytest.mark.parametrize("age", [timedelta(0), DAY, DAY + SECOND])
@pytest.mark.parametrize("ahead", [timedelta(0), 9 * DAY])
def test_a_clock_that_is_ahead_sweeps_nothing_that_is_young(
    sink: SimulatedSink, age: timedelta, ahead: timedelta
) -> None:
    """Another run is about to commit it. The newest object tells what time it is at the store."""
    left = ghost(sink)
    sink.place.uploads.append(("upload", NOON))
    sink.clock = lambda: NOON + age
    put(sink, checksum_key(OTHER, GHOST))
    catalog = Catalog(sink)
    found = catalog.sweep(catalog.listing(), now=NOON + age + ahead, grace=DAY)

    is_old = age > DAY
    assert found.objects == (4 if is_old else 0)
    assert left.isdisjoint(sink.place.keys()) == is_old
    assert sink.place.uploads == ([] if is_old else [("upload", NOON)])


def test_a_clock_that_is_behind_is_heeded(sink: SimulatedSink) -> None:
    """Something with a time of the future does not make the rest old."""
    ghost(sink)

    assert sweep(sink, now=NOON + DAY) == 0


@pytest.mark.parametrize("suffix", ["pruned", "delivered", "blessed", "verified-20261123T120000Z"])
def test_what_a_mark_speaks_for_is_not_swept(sink: SimulatedSink, suffix: str) -> None:
    """Of whatever kind: it says that somebody knows the id."""
    ghost(sink)
    put(sink, f"{JOURNAL}/{JOURNAL}-{GHOST}.{suffix}.json")
    before = sink.place.keys()

    assert (sweep(sink), sink.place.keys()) == (0, before)


def test_what_a_live_draft_speaks_for_is_not_swept(sink: SimulatedSink) -> None:
    """It is a backup to be, however old its archive: reading back a large one takes its time."""
    ghost(sink)
    sink.clock = lambda: NOON + DAY
    put(sink, draft_key(JOURNAL, GHOST))
    before = sink.place.keys()

    assert (sweep(sink), sink.place.keys()) == (0, before)


def test_an_old_draft_is_swept_with_what_it_speaks_for(sink: SimulatedSink, chain: Chain) -> None:
    """Nobody will commit it any more: its run is long over. A mark beside it still protects."""
    chain.full(records(2))
    kept = sink.place.keys()
    ghost(sink)
    put(sink, draft_key(JOURNAL, GHOST))
    marked = put(sink, f"{OTHER}/{OTHER}-{GHOST}.pruned.json")
    protected = put(sink, draft_key(OTHER, GHOST))

    assert sweep(sink) == 4
    assert sink.place.keys() == sorted([*kept, marked, protected])


@pytest.mark.parametrize(("age", "swept"), [(timedelta(0), 1), (DAY, 0)])
def test_the_draft_of_a_committed_backup_is_swept_when_it_is_old(
    sink: SimulatedSink, chain: Chain, age: timedelta, swept: int
) -> None:
    """Its deletion may have failed: the backup stays as it is, without the draft."""
    made = chain.full(records(2))
    kept = sink.place.keys()
    sink.clock = lambda: NOON + age
    left = put(sink, draft_key(JOURNAL, made.id))

    assert sweep(sink) == swept
    assert sink.place.keys() == sorted([*kept, *([] if swept else [left])])


def test_a_draft_that_was_committed_since_the_listing_takes_nothing_along(
    sink: SimulatedSink, chain: Chain
) -> None:
    """Its archive is a backup's now, though the store is late to list the manifest."""
    made = chain.full(records(2))
    put(sink, draft_key(JOURNAL, made.id))
    kept = sink.place.keys()
    hidden = sink.place.objects.pop(manifest_key(JOURNAL, made.id))
    sink.on("size", lambda key: sink.place.objects.update({key: hidden}), key="*.manifest.json")

    assert (sweep(sink), sink.place.keys()) == (0, kept)


def test_foreign_objects_are_never_swept(sink: SimulatedSink) -> None:
    """What is not exactly ours by name is not ours."""
    for key in ("model.dg", f"{JOURNAL}/notes.txt", f"{JOURNAL}/{JOURNAL}-{GHOST}.tar.gz.old"):
        put(sink, key)
    before = sink.place.keys()

    assert (sweep(sink), sink.place.keys()) == (0, before)


@pytest.mark.parametrize("named", [1, 2])
def test_the_attempt_that_the_manifest_does_not_name_is_swept(
    sink: SimulatedSink, chain: Chain, named: int
) -> None:
    """The archive of a failed attempt beside a backup goes, and never the backup's own."""
    other = 3 - named
    stored = packed([(chain.member(b"journal"), b"{}\n")])
    backup_id = chain.id()
    key = put(sink, archive_key(JOURNAL, backup_id, named), stored)
    made = chain.full(b"{}\n")
    chain.manifests.clear()
    files = [
        f.model_copy(update={"segments": (f.segments[0].model_copy(update={"archive": key}),)})
        for f in made.files
    ]
    chain.commit(backup_id, [archive(key, stored)], files, "first")
    kept = sink.place.keys()
    put(sink, archive_key(JOURNAL, backup_id, other))

    assert (sweep(sink), sink.place.keys()) == (1, kept)


def test_an_archive_that_a_later_backup_names_is_never_swept(
    sink: SimulatedSink, chain: Chain
) -> None:
    """Backups share archives: whoever's manifest is gone, another one may need its archive."""
    first = chain.full(records(2))
    chain.incremental(records(1))
    for key in (manifest_key(JOURNAL, first.id), checksum_key(JOURNAL, first.id)):
        del sink.place.objects[key]
    before = sink.place.keys()

    assert (sweep(sink), sink.place.keys()) == (0, before)


@pytest.mark.parametrize("content", [b"rubbish", b'{"format": "7.0"}'])
def test_a_manifest_that_cannot_be_read_protects_older_archives(
    sink: SimulatedSink, chain: Chain, content: bytes
) -> None:
    """Nobody knows what it names. What is swept goes for ever; what stays costs some space."""
    left = ghost(sink)
    chain.id()
    put(sink, manifest_key(JOURNAL, "20261102T000000Z-00beef"), content)
    put(sink, archive_key(OTHER, GHOST, 1))

    assert sweep(sink) == 1, "the other journal's archive"
    assert left <= set(sink.place.keys())


def test_an_older_manifest_that_cannot_be_read_protects_nothing(sink: SimulatedSink) -> None:
    """No backup names an archive that was made after it."""
    put(sink, manifest_key(JOURNAL, "20261031T000000Z-00beef"), b"rubbish")
    ghost(sink)

    assert sweep(sink) == 3


def test_what_the_store_lists_late_is_not_swept(
    sink: SimulatedSink, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive whose manifest is there, and does not show, is a backup."""
    made = chain.full(records(1))
    shown = sink._list

    def late() -> Iterator[Object]:
        return (o for o in shown() if not o.key.endswith(".manifest.json"))

    monkeypatch.setattr(sink, "_list", late)
    catalog = Catalog(sink)

    assert sweep(sink) == 0
    monkeypatch.undo()
    assert catalog.absent_archives(catalog.manifest(JOURNAL, made.id)[0], catalog.listing()) == []


def test_what_was_committed_since_the_listing_is_not_swept(
    sink: SimulatedSink, chain: Chain
) -> None:
    """The listing is as old as the run, and another run may allow itself a longer deadline."""
    made = chain.full(records(2))
    key = manifest_key(JOURNAL, made.id)
    manifest = sink.place.objects.pop(key)
    listing = Catalog(sink).listing()
    sink.place.objects[key] = manifest
    before = sink.place.keys()

    assert (sweep(sink, listing), sink.place.keys()) == (0, before)


def test_unfinished_uploads_of_the_sink_are_swept_too(sink: SimulatedSink) -> None:
    """What no key shows, only the sink itself can find."""
    sink.place.uploads += [("old", NOON), ("young", NOON + DAY)]

    assert sweep(sink) == 1
    assert [key for key, _ in sink.place.uploads] == ["young"]


def test_a_sweep_that_the_sink_refuses_is_a_declared_error(sink: SimulatedSink) -> None:
    """The run warns; what was left is swept another day."""
    ghost(sink)
    sink.fail("delete", SinkUnavailableError("gone"), key="*.sha256")

    with pytest.raises(SinkUnavailableError):
        sweep(sink)
    sink.heal()
    sweep(sink)
    assert sink.place.keys() == []


def test_what_may_not_be_removed_keeps_nothing_else(sink: SimulatedSink) -> None:
    """A lock on one object, or a right that is lacking: the rest goes, and each refusal is told."""
    (kept,) = (key for key in ghost(sink) if key.endswith(".2.tar.gz"))
    denied = SinkDeniedError("AccessDenied")
    sink.fail("delete", denied, key=kept)
    sink.fail("sweep", denied)
    found = swept(sink)

    assert (found.objects, found.refusals) == (2, (denied, denied))
    assert sink.place.keys() == [kept]


def test_refused_deletions_keep_no_upload(sink: SimulatedSink) -> None:
    """They cost money where nobody sees them."""
    ghost(sink)
    sink.place.uploads.append(("old", NOON))
    sink.fail("delete", SinkDeniedError("AccessDenied"))

    assert sweep(sink) == 1
    assert sink.place.uploads == []


# -- lost manifests


def lose(sink: SimulatedSink, *made: Manifest) -> None:
    """Let somebody remove manifests."""
    for manifest in made:
        del sink.place.objects[manifest_key(JOURNAL, manifest.id)]


def test_the_archive_of_a_lost_manifest_is_kept_and_told(sink: SimulatedSink, chain: Chain) -> None:
    """Its successor says that it was a backup: to remove the archive would finish the damage."""
    first, second = chain.full(records(1)), chain.full(records(2))
    chain.full(records(3))
    lose(sink, second)
    before = sink.place.keys()
    ghost(sink, journal=OTHER)
    found = swept(sink)

    assert [(b.journal, b.id) for b in found.bereft] == [(JOURNAL, second.id)]
    assert (found.objects, sink.place.keys()) == (3, before)
    assert first.id < second.id


def test_what_a_lost_manifest_may_have_named_is_kept(sink: SimulatedSink, chain: Chain) -> None:
    """Where two in a row are lost, only one is still named: the older one was a backup too."""
    first, second = chain.full(records(1)), chain.full(records(2))
    chain.full(records(3))
    lose(sink, first, second)
    before = sink.place.keys()
    found = swept(sink)

    assert [b.id for b in found.bereft] == [second.id]
    assert (found.objects, sink.place.keys()) == (0, before)


@pytest.mark.parametrize("kind", ["archive", "all"])
def test_a_lost_backup_without_archives_protects_nothing(
    sink: SimulatedSink, chain: Chain, kind: str
) -> None:
    """Somebody has moved it away: there is nothing to be saved, and verify tells of the gap."""
    chain.full(records(1))
    ghost(sink)
    second = chain.full(records(2))
    chain.full(records(3))
    lose(sink, second)
    del sink.place.objects[second.archives[0].key]
    if kind == "all":
        del sink.place.objects[checksum_key(JOURNAL, second.id)]
    found = swept(sink)

    assert (found.objects, found.bereft) == ({"archive": 4, "all": 3}[kind], ())


def test_the_newest_manifest_lost_is_not_known(sink: SimulatedSink, chain: Chain) -> None:
    """No other names it: it looks like what a run leaves that dies before its manifest."""
    chain.full(records(1))
    lose(sink, chain.full(records(2)))

    assert swept(sink) == Swept(objects=2)


def test_each_manifest_is_read_once_for_a_sweep(sink: SimulatedSink, chain: Chain) -> None:
    """However much is left behind; and none for what has no archive."""
    put(sink, checksum_key(JOURNAL, "20261031T000000Z-00beef"))
    ghost(sink)
    chain.full(records(1))
    chain.full(records(2))
    sink.calls.clear()

    assert sweep(sink) == 4
    assert [operation for operation, _ in sink.calls].count("open") == 2
    assert [operation for operation, _ in sink.calls].count("list") == 2


# -- alarms of branches


def alarms_after(sink: SimulatedSink) -> tuple[str, ...]:
    """Name the alarms that the next backup inherits."""
    catalog = Catalog(sink)
    listing = catalog.listing()
    newest, _ = catalog.newest(JOURNAL, listing)
    assert newest is not None
    sink.calls.clear()
    return catalog.alarms_after(newest[0], listing)[0]


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
    catalog = Catalog(sink)
    alarms, (error,) = catalog.alarms_after(newest, catalog.listing())

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
