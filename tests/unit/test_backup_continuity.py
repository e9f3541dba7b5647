"""Today's journal must extend yesterday's: what each sink is told, and how long an alarm stands."""

from __future__ import annotations

import hashlib
import itertools
from datetime import timedelta
from pathlib import Path

import pytest

from backup.catalog import checksum_key, manifest_key
from backup.errors import SinkUnavailableError
from backup.manifest import File, Manifest
from backup.model import Digest
from backup.stop import Stop
from backup.transfer.passes import compare
from backup.verbs.ledger import acknowledge
from backup.verbs.outcome import BackupResult
from backup.verbs.verify import verify
from tests.journal_data import (
    NAME,
    NOON,
    Clock,
    Meddler,
    append,
    exit_code,
    in_run,
    manifests,
    mark,
    overwrite,
    records,
    run_backup,
    said,
    states,
    stored_journal,
    write_journal,
)
from tests.simulated_sink import Held, SimulatedSink

DAY = records(20)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume."""
    source = tmp_path / "journals"
    source.mkdir()
    return source


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


@pytest.fixture
def journal(source: Path) -> Path:
    """Write a day's records."""
    return write_journal(source, 0, DAY)


class Days:
    """One run a day, at noon."""

    def __init__(self, source: Path, *sinks: SimulatedSink) -> None:
        self._source = source
        self._sinks = sinks
        self.clock = Clock()

    def run(self, *sinks: SimulatedSink) -> BackupResult:
        """Back up, and wait until tomorrow."""
        result = run_backup(self._source, sinks or self._sinks, clock=self.clock)
        self.clock.advance(days=1)
        return result


@pytest.fixture
def days(source: Path, sink: SimulatedSink, journal: Path) -> Days:
    """Begin on the first day, without a backup."""
    return Days(source, sink)


def kinds(sink: SimulatedSink) -> list[str]:
    """Give the continuity of each backup, oldest first."""
    return [m.continuity for m in manifests(sink.place)]


# -- how it compares


def test_first_unchanged_extended_rewritten_shrunk(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """All five, in one history; the last two are stored in full, as evidence."""
    codes = [exit_code(days.run())]
    codes.append(exit_code(days.run()))
    append(journal, DAY)
    codes.append(exit_code(days.run()))
    overwrite(journal, 3, b"X")
    rewritten = journal.read_bytes()
    codes.append(exit_code(days.run()))
    assert stored_journal(sink.place) == rewritten
    journal.write_bytes(DAY)
    codes.append(exit_code(days.run()))

    assert kinds(sink) == ["first", "unchanged", "extended", "rewritten", "shrunk"]
    assert codes == [0, 0, 0, 6, 6]
    assert stored_journal(sink.place) == DAY


def test_rewritten_and_longer_is_not_extended(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """Growing does not hide a change in what was there."""
    days.run()
    overwrite(journal, len(DAY) - 4, b"X")
    append(journal, DAY)
    days.run()

    assert kinds(sink) == ["first", "rewritten"]


def test_emptied_before_delivery_is_shrunk(days: Days, sink: SimulatedSink, journal: Path) -> None:
    """It is not called empty: undelivered records are gone from it."""
    days.run()
    journal.write_bytes(b"")

    result = days.run()

    assert (exit_code(result), states(result)) == (6, {0: "backed up"})
    assert kinds(sink) == ["first", "shrunk"]
    assert "was shrunk since its last backup" in said(result)
    assert "is empty" not in said(result)


@pytest.mark.parametrize("now", [b"", DAY[: DAY.index(b"\n") + 1], b"x" * 9 + DAY])
def test_delivered_predecessor_raises_no_alarm(
    days: Days, sink: SimulatedSink, journal: Path, now: bytes
) -> None:
    """Deepgram has it: billing may begin anew."""
    days.run()
    mark(sink.place, "delivered", manifests(sink.place)[0].id)
    journal.write_bytes(now)

    result = days.run()

    assert exit_code(result) == 0
    assert states(result) == {0: "backed up" if now else "empty"}
    assert kinds(sink)[1] in {"shrunk", "rewritten"}
    assert manifests(sink.place)[1].alarms == ()


def test_older_delivered_backup_does_not_excuse_the_newest(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """What was appended since has not been delivered."""
    days.run()
    append(journal, DAY)
    days.run()
    mark(sink.place, "delivered", manifests(sink.place)[0].id)
    journal.write_bytes(b"")

    assert exit_code(days.run()) == 6


def test_compare_without_a_predecessor() -> None:
    """There is nothing to extend."""
    assert compare(None, Digest()) == "first"


def test_compare_with_an_empty_predecessor(days: Days, sink: SimulatedSink, journal: Path) -> None:
    """Everything extends nothing; nothing again is unchanged."""
    empty: File = _file(days, sink, journal)
    digest = Digest([0])

    assert compare(empty, digest) == "unchanged"
    digest.update(b"x")
    assert compare(empty, digest) == "extended"


def _file(days: Days, sink: SimulatedSink, journal: Path) -> File:
    journal.write_bytes(b"")
    days.run()
    return manifests(sink.place)[0].files[0]


# -- the chain


def test_each_manifest_names_the_hash_of_its_predecessor(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """Of the bytes as they are stored."""
    for _ in range(4):
        days.run()
        append(journal, DAY)

    chain = manifests(sink.place)

    assert chain[0].previous is None
    for before, after in itertools.pairwise(chain):
        assert after.previous is not None
        assert after.previous.id == before.id
        data = sink.place.objects[manifest_key(NAME, before.id)].data
        assert after.previous.manifest_sha256 == hashlib.sha256(data).hexdigest()


def test_a_store_that_lists_late_costs_a_branch_and_no_more(
    days: Days, sink: SimulatedSink, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not shown yet cannot be a predecessor; the history then is a tree, and whole."""
    days.run()
    shown = sink._list
    unlisted = set(sink.place.keys())
    append(journal, DAY)
    with monkeypatch.context() as late:
        late.setattr(sink, "_list", lambda: (o for o in shown() if o.key not in unlisted))
        days.run()
    append(journal, DAY)
    days.run()

    made = manifests(sink.place)
    previous = [m.previous.id if m.previous else None for m in made]
    assert [m.continuity for m in made] == ["first", "first", "extended"]
    assert previous == [None, None, made[1].id]
    proof = in_run(
        verify, [sink], None, journal=None, deep=True, emit=lambda _event: None, stop=Stop()
    )
    assert (len(proof.backups), proof.problems) == (3, ())


def test_ids_go_on_when_the_clock_is_set_back(days: Days, sink: SimulatedSink) -> None:
    """A newer backup sorts after an older one, whatever the clock says."""
    days.run()
    days.clock.advance(days=-400)
    days.run()
    days.clock.advance(days=-400)
    days.run()

    ids = [m.id[:16] for m in manifests(sink.place)]
    assert ids == ["20261123T120000Z", "20261123T120001Z", "20261123T120002Z"]
    assert [m.previous.id[:16] for m in manifests(sink.place) if m.previous] == ids[:2]


def test_ids_are_later_than_those_that_only_left_remains(days: Days, sink: SimulatedSink) -> None:
    """What a crashed run left must not be taken for this run's."""
    ghost = "20270101T000000Z-00dead"
    sink.place.objects[checksum_key(NAME, ghost)] = Held(b"", NOON)
    days.run()

    assert manifests(sink.place)[0].id > ghost


def test_id_at_the_end_of_time_fails_that_journal_alone(
    days: Days, sink: SimulatedSink, source: Path
) -> None:
    """No backup was made then: somebody has put that there. The other journals are backed up."""
    sink.place.objects[checksum_key(NAME, "99991231T235959Z-00dead")] = Held(b"", NOON)
    write_journal(source, 1, DAY)

    result = days.run()

    assert exit_code(result) == 6
    assert states(result) == {0: "failed", 1: "backed up"}
    assert [p.journal for p in result.problems] == [NAME]


def test_id_at_the_end_of_time_fails_that_sink_alone(days: Days, sink: SimulatedSink) -> None:
    """Who can write to one sink has no say in what the others get."""
    sink.place.objects[checksum_key(NAME, "99991231T235959Z-00dead")] = Held(b"", NOON)
    other = SimulatedSink("other")

    result = days.run(sink, other)

    assert (exit_code(result), states(result)) == (3, {0: "partial"})
    assert [p.sink for p in result.problems] == [sink.url]
    assert stored_journal(other.place) == DAY
    assert manifests(other.place)[0].id < "2027"


def test_created_at_is_when_the_bound_was_fixed(source: Path, sink: SimulatedSink) -> None:
    """Not when the upload ended: what was written in between is not in it."""
    write_journal(source, 0, DAY)
    clock = Clock()
    sink.on("put", lambda _key: clock.advance(hours=2))
    run_backup(source, [sink], clock=clock)

    assert manifests(sink.place)[0].created_at == NOON


# -- several sinks


def test_sinks_with_different_histories_from_one_reading(
    days: Days, sink: SimulatedSink, source: Path, journal: Path
) -> None:
    """A sink that missed a day is compared with what it has; a new one begins."""
    late, new = SimulatedSink("late"), SimulatedSink("new")
    days.run(sink, late)
    append(journal, DAY)
    days.run(sink)
    append(journal, DAY)
    puts = len(sink.calls)
    result = days.run(sink, late, new)

    assert exit_code(result) == 0
    assert [kinds(s) for s in (sink, late, new)] == [
        ["first", "extended", "extended"],
        ["first", "extended"],
        ["first"],
    ]
    assert len({manifests(s.place)[-1].id for s in (sink, late, new)}) == 1
    assert {stored_journal(s.place) for s in (sink, late, new)} == {DAY * 3}
    previous = [manifests(s.place)[-1].previous for s in (sink, late)]
    assert previous[0] != previous[1]
    assert len(sink.calls) > puts


def test_alarm_stands_only_where_the_history_is_contradicted(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """A new sink has nothing to compare with."""
    days.run()
    overwrite(journal, 3, b"X")
    other = SimulatedSink("other")
    result = days.run(sink, other)

    assert [m.alarms for m in manifests(other.place)] == [()]
    assert [p.sink for p in result.problems] == [sink.url]


# -- alarms


def test_alarm_stands_until_it_is_acknowledged(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """Law 12: ten good days later it is as loud as on the first; one answer ends it."""
    days.run()
    overwrite(journal, 3, b"X")
    raised = days.run()
    alarm = manifests(sink.place)[-1].id

    assert exit_code(raised) == 6
    assert "was rewritten since its last backup" in said(raised)
    assert f"journal-backup acknowledge {alarm}" in said(raised)
    for _ in range(10):
        append(journal, DAY)
        result = days.run()
        assert exit_code(result) == 6
        assert f"has a standing alarm: {alarm}" in said(result)
        assert manifests(sink.place)[-1].alarms == (alarm,)
        assert manifests(sink.place)[-1].continuity == "extended"

    in_run(acknowledge, [sink], alarm, by="Ann", note=None, clock=Clock(), emit=lambda _event: None)
    assert exit_code(days.run()) == 0
    assert manifests(sink.place)[-1].alarms == ()


def test_second_alarm_joins_the_first(days: Days, sink: SimulatedSink, journal: Path) -> None:
    """Each has to be answered."""
    days.run()
    overwrite(journal, 3, b"X")
    days.run()
    overwrite(journal, 3, b"Y")
    days.run()
    first, second = (m.id for m in manifests(sink.place)[1:])

    assert manifests(sink.place)[-1].alarms == (first, second)
    mark(sink.place, "acknowledged", first)
    result = days.run()
    assert (exit_code(result), manifests(sink.place)[-1].alarms) == (6, (second,))


def test_retry_does_not_clear_an_alarm(days: Days, sink: SimulatedSink, journal: Path) -> None:
    """Neither a second pass of the run that raises it, nor the Job that runs again at once."""
    days.run()
    overwrite(journal, 3, b"X")
    sink.fail("put", SinkUnavailableError("503"), times=1)

    assert exit_code(days.run()) == 6
    assert exit_code(days.run()) == 6
    assert kinds(sink) == ["first", "rewritten", "unchanged"]


def test_alarm_of_a_run_at_the_same_time_stands(
    days: Days, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """Law 12: the other run saw a journal that shrank; the newest backup knows nothing of it."""
    days.run()
    stale = tmp_path / "stale"
    write_journal(stale, 0, DAY[:-1].rpartition(b"\n")[0] + b"\n")
    met: list[BackupResult] = []
    other = SimulatedSink(place=sink.place)

    def run(_key: str) -> None:
        if not met:
            met.append(
                run_backup(stale, [other], clock=Clock(days.clock.now - timedelta(seconds=5)))
            )

    sink.on("put", run)
    days.clock.advance(seconds=5)
    results = [days.run()]
    sink.heal()
    results += [days.run(), days.run()]

    (alarm,) = met[0].journals[0].copies[0].alarms
    assert [exit_code(r) for r in (*met, *results)] == [6, 0, 6, 6]
    assert [m.alarms for m in manifests(sink.place)[2:]] == [(), (alarm,), (alarm,)]
    in_run(acknowledge, [sink], alarm, by="Ann", note=None, clock=Clock(), emit=lambda _event: None)
    assert exit_code(days.run()) == 0


# -- damage


def damage(sink: SimulatedSink, manifest: Manifest) -> str:
    """Let a manifest rot; give its id."""
    key = manifest_key(NAME, manifest.id)
    sink.place.objects[key] = Held(sink.place.objects[key].data[:-9], NOON)
    return manifest.id


def test_damaged_predecessor_is_reported_and_the_one_before_used(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """Exit 6, and the backup is taken all the same: it may be needed more than ever."""
    days.run()
    append(journal, DAY)
    days.run()
    good, bad = manifests(sink.place)
    damage(sink, bad)
    append(journal, DAY)

    result = days.run()

    assert (exit_code(result), states(result)) == (6, {0: "backed up"})
    assert manifest_key(NAME, bad.id) in said(result)
    newest = sink.place.objects[
        manifest_key(NAME, str(result.journals[0].copies[0].id))
    ].data.decode()
    assert f'"id": "{good.id}"' in newest
    assert '"continuity": "extended"' in newest


def test_all_predecessors_damaged_is_a_first_backup(days: Days, sink: SimulatedSink) -> None:
    """There is nothing left to compare with, and that is told."""
    days.run()
    damage(sink, manifests(sink.place)[0])

    result = days.run()

    assert exit_code(result) == 6
    assert result.journals[0].copies[0].continuity == "first"


def test_damage_is_told_even_if_the_journal_cannot_be_read(
    days: Days, sink: SimulatedSink, journal: Path
) -> None:
    """Two things are wrong; one does not hide the other."""
    days.run()
    damage(sink, manifests(sink.place)[0])
    remove = Meddler(journal.unlink, piece=1)

    result = run_backup(journal.parents[1], [sink], emit=remove)

    assert states(result) == {0: "unreadable"}
    assert {p.exit_code for p in result.problems} == {4, 6}
