"""What interrupted runs have left: what goes, what stays, and by whose clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from backup.catalog import (
    Catalog,
    OpenSink,
    archive_key,
    checksum_key,
    draft_key,
    manifest_key,
    remains,
)
from backup.catalog.remains import Swept
from backup.errors import (
    SinkDeniedError,
    SinkUnavailableError,
)
from backup.sinks.base import Object
from tests.handmade import JOURNAL, Chain, archive, lose, mark, packed
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


def sweep(sink: SimulatedSink, opened: OpenSink | None = None, **how: Any) -> int:
    """Sweep what is older than a second past NOON, of a sink that is used the day after."""
    return swept(sink, opened, **how).objects


def swept(sink: SimulatedSink, opened: OpenSink | None = None, **how: Any) -> Swept:
    """Sweep likewise; give all that came of it."""
    sink.place.objects[RECENT] = Held(b"", NOON + 2 * DAY)
    given: dict[str, Any] = {"now": NOON + DAY + SECOND, "grace": DAY}
    found = remains.sweep(opened or OpenSink(sink), **(given | how))
    del sink.place.objects[RECENT]
    return found


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
    opened = OpenSink(sink)
    sink.calls.clear()

    assert sweep(sink, opened) == 0
    assert sink.calls == [("sweep", "")]


def test_an_empty_sink_is_not_swept(sink: SimulatedSink) -> None:
    """Nothing tells what time it is there; what is under way may be another run's first."""
    sink.place.uploads.append(("old", NOON))
    put(sink, "model.dg")

    assert remains.sweep(OpenSink(sink), now=NOON + 9 * DAY, grace=DAY) == Swept()
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
    found = remains.sweep(OpenSink(sink), now=NOON + age + ahead, grace=DAY)

    is_old = age > DAY
    assert found.objects == (4 if is_old else 0)
    assert left.isdisjoint(sink.place.keys()) == is_old
    assert sink.place.uploads == ([] if is_old else [("upload", NOON)])


def test_a_clock_that_is_behind_is_heeded(sink: SimulatedSink) -> None:
    """Something with a time of the future does not make the rest old."""
    ghost(sink)

    assert sweep(sink, now=NOON + DAY) == 0


@pytest.mark.parametrize("suffix", ["delivered", "blessed", "verified-20261123T120000Z"])
def test_what_a_mark_speaks_for_is_not_swept(sink: SimulatedSink, suffix: str) -> None:
    """Of whatever kind: it says that somebody knows the id."""
    ghost(sink)
    put(sink, f"{JOURNAL}/{JOURNAL}-{GHOST}.{suffix}.json")
    before = sink.place.keys()

    assert (sweep(sink), sink.place.keys()) == (0, before)


@pytest.mark.parametrize(
    ("age", "is_whole", "swept"),
    [(timedelta(0), True, 3), (DAY, True, 0), (timedelta(0), False, 0)],
)
def test_what_a_tombstone_speaks_for_is_swept_when_that_is_old(
    sink: SimulatedSink, age: timedelta, swept: int, *, is_whole: bool
) -> None:
    """Until then a run may be about to share an archive; the tombstone itself stays.

    One that cannot be read keeps what it speaks for.
    """
    ghost(sink)
    left = sink.place.keys()
    sink.clock = lambda: NOON + age
    stone = mark("pruned", GHOST, manifest_sha256="ab" * 32)
    put(sink, f"{JOURNAL}/{JOURNAL}-{GHOST}.pruned.json", stone.to_bytes() if is_whole else b"x")
    put(sink, f"{JOURNAL}/{JOURNAL}-{GHOST}.delivered.json")

    assert sweep(sink) == swept
    assert set(left).isdisjoint(sink.place.keys()) == bool(swept)
    marks = {f"{JOURNAL}/{JOURNAL}-{GHOST}.{kind}.json" for kind in ("pruned", "delivered")}
    assert marks <= {*sink.place.keys()}


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
    marked = put(sink, f"{OTHER}/{OTHER}-{GHOST}.delivered.json")
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

    assert sweep(sink) == 0
    monkeypatch.undo()
    opened = OpenSink(sink)
    assert opened.absent_archives(opened.manifest(JOURNAL, made.id).manifest) == []


def test_what_was_committed_since_the_listing_is_not_swept(
    sink: SimulatedSink, chain: Chain
) -> None:
    """The listing is as old as the run, and another run may allow itself a longer deadline."""
    made = chain.full(records(2))
    key = manifest_key(JOURNAL, made.id)
    manifest = sink.place.objects.pop(key)
    opened = OpenSink(sink)
    sink.place.objects[key] = manifest
    before = sink.place.keys()

    assert (sweep(sink, opened), sink.place.keys()) == (0, before)


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


def test_a_tombstone_knows_that_its_predecessor_was_a_backup(
    sink: SimulatedSink, chain: Chain
) -> None:
    """What was pruned was the last that named it, and its records may be nowhere else."""
    first, second = chain.full(records(9)), chain.full(records(1), continuity="shrunk")
    chain.full(records(2))
    catalog = Catalog(sink)
    catalog.prune(catalog.manifest(JOURNAL, second.id), at=NOON)
    lose(sink, first)
    found = swept(sink)

    assert [b.id for b in found.bereft] == [first.id]
    assert first.archives[0].key in sink.place.objects


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


def test_a_lost_backup_that_shared_all_is_told_too(sink: SimulatedSink, chain: Chain) -> None:
    """What it shared is there, as its checksum file says: it can be put back."""
    first = chain.full(records(1))
    shared = chain.unchanged()
    chain.full(records(2))
    catalog = Catalog(sink)
    catalog.prune(catalog.manifest(JOURNAL, first.id), at=NOON)
    lose(sink, shared)
    before = sink.place.keys()
    found = swept(sink)

    assert [b.id for b in found.bereft] == [shared.id]
    assert (found.objects, sink.place.keys()) == (0, before)


@pytest.mark.parametrize("content", [b"", b"no sums at all", b"\xff\xfe  x", b"a" * (9 << 20)])
def test_a_checksum_file_that_says_nothing_protects_nothing(
    sink: SimulatedSink, chain: Chain, content: bytes
) -> None:
    """As if it were not there."""
    first = chain.full(records(1))
    shared = chain.unchanged()
    chain.full(records(2))
    lose(sink, shared)
    put(sink, checksum_key(JOURNAL, shared.id), content)
    found = swept(sink)

    assert (found.objects, found.bereft) == (1, ())
    assert first.archives[0].key in sink.place.objects


def test_an_old_draft_alone_is_swept(sink: SimulatedSink, chain: Chain) -> None:
    """It speaks of nothing that is there."""
    put(sink, draft_key(JOURNAL, GHOST))
    chain.full(records(1))

    assert swept(sink) == Swept(objects=1)


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
    read = [key for operation, key in sink.calls if operation == "open"]
    assert sum(key.endswith(".manifest.json") for key in read) == 2
    assert [operation for operation, _ in sink.calls].count("list") == 2
