"""Whatever happens to journals, sinks and the process, the catalog keeps its promises.

A machine does at random what may happen over months, and looks at everything after each step:

- a backup is there with its archive and checksum file, as its manifest says, or not at all;
- a manifest never changes, and vanishes only by pruning, which leaves a tombstone; the chain is
  a tree without a broken link;
- what is pruned was delivered, or a newer backup has all of its bytes; the newest stay;
- an alarm stands until somebody acknowledges it, and every run says so;
- a sweep removes archives and checksum files of no backup, past the grace by the store's time, and
  nothing else: not what a backup was made of whose manifest somebody has lost, which is told;
- a second run may be under way at the same time, on a node whose clock is wrong, and neither takes
  anything from the other.

The process may die before any call to any sink; beside the random deaths, each number is tried.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import itertools
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backup.catalog import Catalog, OpenSink
from backup.catalog.holdings import SWEEP_GRACE
from backup.catalog.remains import sweep
from backup.manifest import Manifest, parse, parse_mark
from backup.model import Key, Mode, parse_key
from backup.settings import RetentionSettings
from backup.stop import Stop
from backup.verbs.ledger import acknowledge, mark_delivered, retire
from backup.verbs.outcome import BackupResult
from backup.verbs.prune import prune
from tests.journal_data import NOON, Clock, Events, in_run, records, run_backup, write_journal
from tests.simulated_sink import CrashError, Held, Place, SimulatedSink

OPERATIONS = ("probe", "put", "put_exclusive", "open", "list", "size", "delete", "sweep")
CHANGING = ("put_exclusive", "delete")
"""One after the other, where reading is done by many at once."""
FOREIGN = {"model.dg": b"weights", "journal-deepgram-billing-0/notes.txt": b"mine"}
NEVER = 10**9
PAUSE = timedelta(minutes=5)
"""From a crash to the next run."""
FEWEST_CALLS = 9
"""To a sink in a run: probe, list, put, read back, checksum file and manifest twice, size."""


class Death:
    """The process dies before a call of that number, counted over all of its sinks."""

    def __init__(
        self,
        sinks: Sequence[SimulatedSink],
        *,
        before: int,
        operations: Sequence[str] = OPERATIONS,
    ) -> None:
        self.calls = 0
        self._before = before
        self._lock = threading.Lock()
        for sink in sinks:
            for operation in operations:
                sink.on(operation, self._count)

    def _count(self, _key: str) -> None:
        with self._lock:
            self.calls += 1
            if self.calls >= self._before:
                raise CrashError


class Encounter:
    """Something happens once, at a call of that number."""

    def __init__(self, sinks: Sequence[SimulatedSink], *, at: int, act: Callable[[], None]) -> None:
        self._left = at
        self._act = act
        self._lock = threading.Lock()
        for sink in sinks:
            for operation in OPERATIONS:
                sink.on(operation, self._count)

    def _count(self, _key: str) -> None:
        with self._lock:
            self._left -= 1
            is_now = not self._left
        if is_now:
            self._act()


class World:
    """Journals, sinks and a clock; a run is a new process, and what survives it is here."""

    def __init__(self, source: Path, sinks: int) -> None:
        self.source = source
        self.clock = Clock()
        self.mode: Mode = "full"
        self.places = [Place() for _ in range(sinks)]
        for place in self.places:
            place.objects.update({k: Held(v, self.clock()) for k, v in FOREIGN.items()})

    def sinks(self, which: Sequence[int] | None = None) -> list[SimulatedSink]:
        """Open sinks, as a new process does; their time is the store's, and right."""
        numbers = range(len(self.places)) if which is None else which
        return [SimulatedSink(f"s{n}", place=self.places[n], clock=self.clock) for n in numbers]

    def run(
        self,
        which: Sequence[int] | None = None,
        *,
        ahead: timedelta = timedelta(0),
        die_before: int = NEVER,
        meet: Callable[[], None] | None = None,
        at: int = NEVER,
    ) -> tuple[BackupResult | None, int]:
        """Back up; give the result, or None if the process died, and the number of sink calls.

        Args:
            which: numbers of the sinks; None for all.
            ahead: how far the clock of its node is.
            die_before: the call before which it dies.
            meet: what happens meanwhile.
            at: the call at which it does.
        """
        sinks = self.sinks(which)
        death = Death(sinks, before=die_before)
        if meet is not None:
            Encounter(sinks, at=at, act=meet)
        clock = Clock(self.clock() + ahead)
        with suppress(CrashError):
            # One journal after the other, so that calls of one sink have one order.
            done = run_backup(self.source, sinks, clock=clock, concurrency=1, mode=self.mode)
            return done, death.calls
        return None, death.calls


def manifests(place: Place) -> dict[str, bytes]:
    """Give the stored manifests."""
    return {k: h.data for k, h in place.objects.items() if k.endswith(".manifest.json")}


_parsed = functools.cache(parse)


def parsed(place: Place) -> list[Manifest]:
    """Give the manifests, oldest first."""
    return sorted(map(_parsed, manifests(place).values()), key=lambda m: m.id)


def sha256(data: bytes) -> str:
    """Hash it."""
    return hashlib.sha256(data).hexdigest()


def remains(place: Place) -> set[str]:
    """Name what belongs to no backup, and never did as far as anybody can tell, but is ours."""
    named = {a.key for m in parsed(place) for a in m.archives}
    spoken = spoken_for(place)
    kept = {(m.journal, m.id) for m in parsed(place)} | spoken
    keys = {key: parse_key(key) for key in place.objects}
    kept -= {(k.journal, k.id) for k in keys.values() if k and is_tombstone(k)}
    kept |= {(m.journal, m.id) for m in parsed(place)}
    return {
        text
        for text, key in keys.items()
        if key
        and (
            (key.role == "archive" and text not in named and (key.journal, key.id) not in spoken)
            or (key.role == "checksum" and (key.journal, key.id) not in kept)
        )
    }


def is_tombstone(key: Key) -> bool:
    """Whether it is of a backup that was pruned."""
    return key.role == "mark" and key.mark == "pruned"


def followed(place: Place) -> set[tuple[str, str]]:
    """Name the backups that others say they follow, but for those that were pruned."""
    keys = [(text, k) for text in place.objects if (k := parse_key(text)) and is_tombstone(k)]
    stones = [parse_mark(place.objects[text].data) for text, _ in keys]
    links = {(m.journal, m.previous.id) for m in parsed(place) if m.previous}
    links |= {(stone.journal, stone.previous.id) for stone in stones if stone.previous}
    return links - {(k.journal, k.id) for _, k in keys}


def spoken_for(place: Place) -> set[tuple[str, str]]:
    """Name what has archives and was a backup, or may have been: a later manifest is gone."""
    made = {(m.journal, m.id) for m in parsed(place)}
    keys = [k for k in map(parse_key, place.objects) if k and k.role == "archive"]
    there = {(k.journal, k.id) for k in keys} | sharing(place)
    gone = (followed(place) - made) & there
    return gone | {
        (j, i) for j, i in there for journal, later in gone if j == journal and i < later
    }


def sharing(place: Place) -> set[tuple[str, str]]:
    """Name what has a checksum file that speaks of an archive which is there."""
    found = set()
    for key in filter(None, map(parse_key, place.objects)):
        if key.role == "checksum":
            lines = place.objects[str(key)].data.decode(errors="replace").splitlines()
            if any(f"{key.journal}/{line.rpartition('  ')[2]}" in place.objects for line in lines):
                found.add((key.journal, key.id))
    return found


@functools.cache
def unpacked(data: bytes) -> dict[str, bytes]:
    """Read an archive with the standard library."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]


def require_valid(place: Place, lost: Collection[str] = ()) -> None:
    """Check every backup on a sink, without the code under test where that is possible."""
    stored = {m.id: (m, place.objects[_manifest(m)].data) for m in parsed(place)}
    for made, _ in stored.values():
        lines = []
        contents: dict[str, bytes] = {}
        for archive in made.archives:
            data = place.objects[archive.key].data
            assert (len(data), sha256(data)) == (archive.size_bytes, archive.sha256)
            lines.append(f"{archive.sha256}  {archive.key.rpartition('/')[2]}\n")
            contents |= unpacked(data)
        assert place.objects[_checksum(made)].data.decode() == "".join(lines)
        for file in made.files:
            data = b"".join(contents[s.member] for s in file.segments)
            assert sha256(data) == file.sha256
        link = made.previous
        if link is not None and link.id not in stored and link.id not in lost:
            stone = Catalog(SimulatedSink(place=place)).marked("pruned", made.journal, link.id)
            assert stone.manifest_sha256 == link.manifest_sha256
        elif made.previous is not None and made.previous.id not in lost:
            before, data = stored[made.previous.id]
            assert (before.journal, sha256(data)) == (made.journal, made.previous.manifest_sha256)
            assert before.id < made.id


def _manifest(made: Manifest) -> str:
    return str(Key(journal=made.journal, id=made.id, role="manifest"))


def _checksum(made: Manifest) -> str:
    return str(Key(journal=made.journal, id=made.id, role="checksum"))


ONE = st.sampled_from([(0,), (1,)])
"""With two, a death is a race, and a machine has to find its way again: see below for that."""
SOME = st.sampled_from([(0,), (0, 1)])
HOURS = st.sampled_from([0.013, 1.1, 25.7, 61.3])
"""The store's time goes on; that of a node may be anything, see AHEAD."""
ORDINAL = st.sampled_from([0, 0, 0, 1])
CHANGE = st.sampled_from(["grow", "grow", "grow", "shrink", "empty", "rewrite", "none"])
RULE = st.none() | st.integers(1, 2)
AHEAD = st.sampled_from([0.0, 0.0, 0.0, 48.1, 961.3, -30.9, -80.3]).map(
    lambda hours: timedelta(hours=hours, seconds=7)
)
"""How wrong a node's clock is: never so that its ids are of the same second as another's."""


class CatalogMachine(RuleBasedStateMachine):
    """What may happen, and what must hold then."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.world = World(self.root, sinks=2)
        self.journals: dict[int, bytes] = {}
        self.count = 0
        self.seen: list[dict[str, bytes]] = [{}, {}]
        self.contents: list[dict[str, bytes]] = [{}, {}]
        """What each backup holds, by sink and id."""
        self.lost: list[dict[str, Manifest]] = [{}, {}]
        """Backups whose manifest is gone, by sink."""
        self.alarms: list[dict[str, set[str]]] = [{}, {}]
        """The alarms that stand, by sink and journal."""
        self.delivered: list[set[str]] = [set(), set()]
        """Backups that are marked so, by sink."""

        self.patch = pytest.MonkeyPatch()
        """Ids come in one order, whatever is drawn: hypothesis wants the same for the same."""
        tokens = map("{:06x}".format, itertools.count(1))
        self.patch.setattr(
            "backup.transfer.journal.urandom", lambda _size: bytes.fromhex(next(tokens))
        )

    def teardown(self) -> None:
        """Remove the volume."""
        self.patch.undo()
        shutil.rmtree(self.root)

    # -- what billing does

    def _change(self, ordinal: int, how: str) -> None:
        """Append records, drop the last, drop all, begin anew, or leave it."""
        self.count += 1
        data = self.journals.get(ordinal, b"")
        lines = data.splitlines(keepends=True)
        changed = {
            "grow": data + records(2, seed=self.count),
            "shrink": b"".join(lines[:-1]),
            "empty": b"",
            "rewrite": records(3, seed=self.count),
        }
        if how in changed:
            write_journal(self.root, ordinal, changed[how])
            self.journals[ordinal] = changed[how]

    @precondition(lambda self: self.journals)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        """Unmount it."""
        ordinal = data.draw(st.sampled_from(sorted(self.journals)))
        shutil.rmtree(self.root / f"journal-deepgram-billing-{ordinal}")
        del self.journals[ordinal]

    # -- what the schedule and operators do

    def _days_later(self, hours: float, ordinal: int, how: str) -> None:
        self.world.clock.advance(hours=hours)
        self._change(ordinal, how)

    @rule(mode=st.sampled_from(["full", "incremental"]))
    def configure(self, mode: Mode) -> None:
        """Pack all of a journal from now on, or what was appended."""
        self.world.mode = mode

    @rule(which=SOME, hours=HOURS, ordinal=ORDINAL, how=CHANGE, ahead=AHEAD)
    def back_up(
        self, which: tuple[int, ...], hours: float, ordinal: int, how: str, ahead: timedelta
    ) -> None:
        """Run to the end, on a node whose clock may be wrong."""
        self._days_later(hours, ordinal, how)
        expected = self._expected_journals(which)
        result = self._run(which, ahead=ahead)
        assert result is not None
        codes = {6 for n in which for stands in self._standing(n) if stands}
        codes |= {6 for n in which if self._miss_old_manifests(n, ahead)}
        if not self.journals and not expected:
            codes.add(4)
        if expected - {f"journal-deepgram-billing-{n}" for n in self.journals}:
            codes.add(4)
        assert codes == set(result.exit_codes)
        for n in which:
            for number, data in self.journals.items():
                assert data == self._newest(n, f"journal-deepgram-billing-{number}")

    @rule(which=ONE, hours=HOURS, ordinal=ORDINAL, how=CHANGE, call=st.integers(3, 12), ahead=AHEAD)
    def cross(  # noqa: PLR0917 - hypothesis gives them by name
        self,
        which: tuple[int, ...],
        hours: float,
        ordinal: int,
        how: str,
        call: int,
        ahead: timedelta,
    ) -> None:
        """Run while another run, on a node whose clock may be wrong, begins and ends."""
        self._days_later(hours, ordinal, how)
        crossed: list[BackupResult | None] = []
        result = self._run(
            which, meet=lambda: crossed.append(self.world.run(which, ahead=ahead)[0]), at=call
        )
        for done in (*crossed, result):
            assert done is not None
            assert [c for o in done.journals for c in o.copies if not c.is_held] == []

    @rule(which=ONE, hours=HOURS, ordinal=ORDINAL, how=CHANGE, call=st.integers(3, 24))
    def die(self, which: tuple[int, ...], hours: float, ordinal: int, how: str, call: int) -> None:
        """Begin a run that dies before some call, if it makes so many."""
        self._days_later(hours, ordinal, how)
        self._run(which, die_before=call)

    def _expected_journals(self, which: Sequence[int]) -> set[str]:
        listings = [OpenSink(s).listing for s in self.world.sinks(which)]
        return {j for lst in listings for j in lst.journals if not lst.is_retired(j)}

    def _standing(self, sink: int) -> list[set[str]]:
        names = [f"journal-deepgram-billing-{n}" for n in self.journals]
        return [self.alarms[sink].get(name, set()) for name in names]

    def _newest(self, sink: int, journal: str) -> bytes:
        made = [m for m in parsed(self.world.places[sink]) if m.journal == journal]
        return self.contents[sink][made[-1].id]

    def _run(self, which: Sequence[int], **how: Any) -> BackupResult | None:
        before = [dict(place.objects) for place in self.world.places]
        orphans = [remains(place) for place in self.world.places]
        result, _ = self.world.run(which, **how)
        for n, place in enumerate(self.world.places):
            self._require_rightly_swept(before[n], orphans[n], place)
            if result is not None and n in which:
                self._require_well_swept(place, how.get("ahead", timedelta(0)))
            self._learn(n, place)
        return result

    def _require_rightly_swept(
        self, before: dict[str, Held], orphans: set[str], place: Place
    ) -> None:
        gone = before.keys() - place.objects.keys()
        assert gone <= orphans
        bound = self.world.clock() - SWEEP_GRACE
        assert all(before[key].modified_at < bound for key in gone)

    def _require_well_swept(self, place: Place, ahead: timedelta) -> None:
        bound = self._bound(place, ahead)
        left = {key for key in remains(place) if place.objects[key].modified_at < bound}
        marked = {k.id for k in map(parse_key, place.objects) if k and k.role == "mark"}
        assert not {key for key in left if _id(key) not in marked}

    def _bound(self, place: Place, ahead: timedelta) -> datetime:
        """Say what a run took for old: by its clock, and by what it saw of the store's."""
        ours = [h.modified_at for k, h in place.objects.items() if parse_key(k)]
        return min(self.world.clock() + ahead, max(ours, default=NOON)) - SWEEP_GRACE

    def _miss_old_manifests(self, n: int, ahead: timedelta) -> bool:
        """Whether a sweep has met an archive whose manifest is lost."""
        place = self.world.places[n]
        bound = self._bound(place, ahead)
        keys = [(k, h) for text, h in place.objects.items() if (k := parse_key(text))]
        marked = {k.id for k, _ in keys if k.role == "mark"}
        told = {i for _, i in followed(place)} & {*self.lost[n]} - marked
        return any(
            k.role in {"archive", "checksum"} and k.id in told and h.modified_at < bound
            for k, h in keys
        )

    def _learn(self, n: int, place: Place) -> None:
        """Take in what a run committed, and check that it compared rightly."""
        known = {journal: set(ids) for journal, ids in self.alarms[n].items()}
        carried: dict[str, set[str]] = {}
        for made in parsed(place):
            if _manifest(made) in self.seen[n]:
                continue
            data = self.journals[int(made.journal.rpartition("-")[2])]
            before = self.contents[n][made.previous.id] if made.previous else None
            assert made.continuity == compared(before, data)
            is_alarming = made.continuity in {"rewritten", "shrunk"}
            is_safe = made.previous is not None and made.previous.id in self.delivered[n]
            raised = {made.id} if is_alarming and not is_safe else set()
            if made.previous and made.previous.id in carried:  # a run that began after it
                raised |= carried[made.previous.id]
            assert set(made.alarms) == known.get(made.journal, set()) | raised
            carried[made.id] = raised
            self.alarms[n].setdefault(made.journal, set()).update(raised)
            self.contents[n][made.id] = data

    @precondition(lambda self: any(ids for a in self.alarms for ids in a.values()))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Acknowledge an alarm, on every sink where it stands."""
        standing = sorted({i for a in self.alarms for ids in a.values() for i in ids})
        alarm = data.draw(st.sampled_from(standing))
        result = in_run(
            acknowledge,
            self.world.sinks(),
            alarm,
            by=None,
            note=None,
            clock=self.world.clock,
            emit=Events(),
        )
        assert result.exit_codes == ()
        for alarms in self.alarms:
            for ids in alarms.values():
                ids.discard(alarm)

    @precondition(lambda self: any(self.contents))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Retire a journal, whether it is gone or not."""
        names = {m.journal for place in self.world.places for m in parsed(place)}
        name = data.draw(st.sampled_from(sorted(names)))
        result = in_run(
            retire,
            self.world.sinks(),
            name,
            by=None,
            note=None,
            clock=self.world.clock,
            emit=Events(),
        )
        assert result.exit_codes == ()

    @precondition(lambda self: any(self.contents))
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Send a backup to Deepgram: what is marked is in it."""
        there = {m.id: m for place in self.world.places for m in parsed(place)}
        if not there:
            return
        made = there[data.draw(st.sampled_from(sorted(there)))]
        result = in_run(
            mark_delivered,
            self.world.sinks(),
            [f"{made.journal}-{made.id}"],
            by=None,
            note=None,
            reference=None,
            clock=self.world.clock,
            emit=Events(),
        )
        assert result.exit_codes == ()
        sent = next(c[made.id] for c in self.contents if made.id in c)
        for n, place in enumerate(self.world.places):
            marked = {k.id for k in map(parse_key, place.objects) if k and k.mark == "delivered"}
            for backup_id in marked - self.delivered[n]:
                assert sent.startswith(self.contents[n][backup_id])
            self.delivered[n] |= marked
            assert made.id in marked or made.id not in {m.id for m in parsed(place)}

    @precondition(lambda self: any(self.contents))
    @rule(
        policy=st.builds(
            RetentionSettings,
            keep_last=st.integers(1, 3),
            keep_daily=RULE,
            keep_min=st.integers(1, 2),
        ),
        call=st.sampled_from([NEVER, NEVER, 1, 2, 3, 4]),
    )
    def prune(self, policy: RetentionSettings, call: int) -> None:
        """Let go of backups, and perhaps die while it is done."""
        before = [parsed(place) for place in self.world.places]
        sinks = self.world.sinks()
        Death(sinks, before=call, operations=CHANGING)
        with suppress(CrashError):
            result = in_run(
                prune,
                sinks,
                policy,
                site=None,
                journal=None,
                confirmed=True,
                clock=self.world.clock,
                emit=Events(),
                stop=Stop(),
            )
            assert set(result.exit_codes) <= {6}
        for n, place in enumerate(self.world.places):
            self._require_rightly_pruned(n, before[n], parsed(place), policy)

    def _require_rightly_pruned(
        self, n: int, before: Sequence[Manifest], now: Sequence[Manifest], policy: RetentionSettings
    ) -> None:
        left = {made.id for made in now}
        for made in (m for m in before if m.id not in left):
            del self.seen[n][_manifest(made)]
            newer = [m.id for m in now if m.journal == made.journal and m.id > made.id]
            assert len(newer) >= policy.keep_min
            assert not self.alarms[n].get(made.journal)
            mine = self.contents[n][made.id]
            assert made.id in self.delivered[n] or any(
                self.contents[n][i].startswith(mine) for i in newer
            )

    @precondition(lambda self: any(remains(p) for p in self.world.places))
    @rule(data=st.data(), content=st.sampled_from([None, b"", b"tampered"]))
    def tamper_with_remains(self, data: st.DataObject, content: bytes | None) -> None:
        """Remove or change what belongs to no backup: that must harm nothing."""
        place = data.draw(st.sampled_from([p for p in self.world.places if remains(p)]))
        key = data.draw(st.sampled_from(sorted(remains(place))))
        held = place.objects.pop(key)
        if content is not None:
            place.objects[key] = Held(content, held.modified_at)

    @precondition(lambda self: any(followed(p) for p in self.world.places))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Let somebody remove the manifest of a backup that another one follows."""
        number = data.draw(st.sampled_from([0, 1]))
        place = self.world.places[number]
        there = [m for m in parsed(place) if (m.journal, m.id) in followed(place)]
        if there:
            made = data.draw(st.sampled_from(there))
            del place.objects[_manifest(made)]
            del self.seen[number][_manifest(made)]
            self.lost[number][made.id] = made

    # -- what must hold

    @invariant()
    def every_backup_is_whole(self) -> None:
        """Its archive and checksum file are there as its manifest says; links are right."""
        for place, lost in zip(self.world.places, self.lost, strict=True):
            require_valid(place, lost)

    @invariant()
    def what_a_lost_manifest_spoke_of_is_kept(self) -> None:
        """Its archives, shared ones too, and its checksum file are all that is left of a backup."""
        for place, lost in zip(self.world.places, self.lost, strict=True):
            for made in lost.values():
                assert {_checksum(made), *(a.key for a in made.archives)} <= {*place.objects}

    @invariant()
    def manifests_never_change(self) -> None:
        """And never vanish: what was pruned, or lost, is not among the seen any more."""
        for n, place in enumerate(self.world.places):
            now = manifests(place)
            assert self.seen[n].items() <= now.items()
            self.seen[n] = now

    @invariant()
    def alarms_stand_until_acknowledged(self) -> None:
        """As the newest backup of each journal tells them, and those that it has not seen."""
        for n, sink in enumerate(self.world.sinks()):
            opened = OpenSink(sink)
            listing = opened.listing
            for journal in listing.journals:
                newest, damaged = opened.newest(journal)
                assert newest is not None
                assert damaged == []
                standing, damaged = opened.alarms_after(newest.manifest)
                assert damaged == []
                assert set(standing) == self.alarms[n].get(journal, set())

    @invariant()
    def foreign_objects_stay(self) -> None:
        """They are nobody's business."""
        for place in self.world.places:
            assert {k: place.objects[k].data for k in FOREIGN} == FOREIGN


def compared(before: bytes | None, now: bytes) -> str:
    """Say how a journal compares with its last backup."""
    if before is None:
        return "first"
    if len(now) < len(before):
        return "shrunk"
    if not now.startswith(before):
        return "rewritten"
    return "unchanged" if now == before else "extended"


def _id(key: str) -> str:
    named = parse_key(key)
    return named.id if named else ""


def test_the_catalog_keeps_its_promises() -> None:
    """See the machine."""
    run_state_machine_as_test(
        CatalogMachine,
        settings=settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],  # to find the shortest failure would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("sinks", [1, 2])
@pytest.mark.parametrize("before", ["nothing", "a backup", "a backup and old remains"])
def test_a_crash_before_any_call_leaves_absent_or_valid(
    tmp_path: Path, sinks: int, before: str
) -> None:
    """Each number is tried until a run gets through.

    Then the next run is good, and what is left is swept past the grace and only then.
    """
    call, result = 0, None
    while result is None:
        call += 1
        source = tmp_path / str(call)
        world = World(source, sinks)
        data = prepare(world, before)
        committed = [manifests(place) for place in world.places]
        result, _ = world.run(die_before=call)
        for place, earlier in zip(world.places, committed, strict=True):
            require_valid(place)
            assert earlier.items() <= manifests(place).items()
        require_good_next_run(world, data)
        require_swept_in_time(world)
    assert result.exit_codes == ()
    assert call >= FEWEST_CALLS * sinks


def prepare(world: World, before: str) -> bytes:
    """Make a journal with a past."""
    data = records(3)
    write_journal(world.source, 0, data)
    if before != "nothing":
        assert world.run()[0] is not None
        if before != "a backup":
            write_journal(world.source, 0, data + records(1, seed=2))
            die_before_the_manifest(world)
            world.clock.advance(hours=25)
        data += records(2, seed=3)
        write_journal(world.source, 0, data)
    return data


def die_before_the_manifest(world: World) -> None:
    """Leave an archive and its checksum file on every sink."""

    def die(_key: str) -> None:
        raise CrashError

    for number in range(len(world.places)):
        (sink,) = world.sinks([number])
        sink.on("put_exclusive", die, key="*.manifest.json")
        with pytest.raises(CrashError):
            run_backup(world.source, [sink], clock=world.clock)
        assert len(remains(world.places[number])) == len(("archive", "checksum file"))


def require_good_next_run(world: World, data: bytes) -> None:
    """Run again, as the schedule does."""
    world.clock.now += PAUSE
    result, _ = world.run()
    assert result is not None
    assert result.exit_codes == ()
    for place in world.places:
        require_valid(place)
        newest = parsed(place)[-1]
        assert newest.files[0].sha256 == sha256(data)
        assert newest.continuity in {"first", "extended", "unchanged"}


def require_swept_in_time(world: World) -> None:
    """Let the grace pass: what was left stays until then, and not longer."""
    young = [remains(place) for place in world.places]
    left_at = world.clock() - PAUSE
    world.clock.now = left_at + SWEEP_GRACE
    assert world.run()[0] is not None
    assert [remains(place) for place in world.places] == young
    world.clock.advance(seconds=1)
    assert world.run()[0] is not None
    assert [remains(place) for place in world.places] == [set() for _ in young]
    for place in world.places:
        require_valid(place)


@pytest.mark.parametrize("call", range(1, 12))
def test_a_sweep_that_dies_has_removed_nothing_else(tmp_path: Path, call: int) -> None:
    """And the next one removes the rest."""
    world = World(tmp_path, 1)
    write_journal(tmp_path, 0, records(3))
    die_before_the_manifest(world)
    world.run(die_before=FEWEST_CALLS - 4)
    world.run()
    world.clock.advance(hours=25)
    place = world.places[0]
    kept = set(place.objects) - remains(place)
    assert len(remains(place)) == 3
    sinks = world.sinks()
    Death(sinks, before=call)
    with suppress(CrashError):
        sweep(OpenSink(sinks[0]), now=world.clock(), grace=SWEEP_GRACE)

    assert kept <= set(place.objects)
    require_valid(place)
    world.run()
    assert remains(place) == set()


def test_an_alarm_stands_over_ten_runs(tmp_path: Path) -> None:
    """No retry clears it; the acknowledgement does."""
    world = World(tmp_path, 1)
    codes: list[Any] = []
    for seed in (1, 2):
        write_journal(tmp_path, 0, records(3, seed=seed))
        result, _ = world.run()
    for _ in range(10):
        world.clock.advance(days=1)
        result, _ = world.run()
        assert result is not None
        codes.append(result.exit_codes)
    raised = parsed(world.places[0])[1].id
    in_run(acknowledge, world.sinks(), raised, by=None, note=None, clock=world.clock, emit=Events())
    result, _ = world.run()

    assert codes == [(6,)] * 10
    assert result is not None
    assert result.exit_codes == ()
    assert parsed(world.places[0])[-1].alarms == ()
