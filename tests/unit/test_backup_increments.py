"""Incremental backups: only what was appended is packed, and each restores as a full one does."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup import journals
from backup.catalog import OpenSink, checksum_key
from backup.catalog.remains import sweep
from backup.errors import ManifestError, SignalledError, SinkUnavailableError
from backup.events import PassRepeated
from backup.manifest import Manifest
from backup.settings import RetentionSettings
from backup.stop import Stop
from backup.transfer import increments
from backup.transfer.increments import skip
from backup.verbs.commit import commit
from backup.verbs.outcome import BackupResult
from backup.verbs.prune import prune
from backup.verbs.restore import restore
from backup.verbs.verify import verify
from tests.handmade import put
from tests.journal_data import (
    NAME,
    Clock,
    Events,
    Meddler,
    append,
    exit_code,
    in_run,
    manifests,
    overwrite,
    records,
    run_backup,
    states,
    write_journal,
)
from tests.simulated_sink import SimulatedSink

DAY = records(20)
MORE = records(5, seed=2)
BIG = records(16_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a volume."""
    return tmp_path / "journals"


@pytest.fixture
def clock() -> Clock:
    """Make a clock."""
    return Clock()


@pytest.fixture
def sink(clock: Clock) -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink(clock=clock)


@pytest.fixture
def journal(source: Path) -> Path:
    """Write a day's records."""
    return write_journal(source, 0, DAY)


@pytest.fixture
def run(source: Path, sink: SimulatedSink, clock: Clock, journal: Path) -> Any:
    """Give a way to back up, and to wait until tomorrow."""

    def run(*sinks: SimulatedSink, **how: Any) -> BackupResult:
        given: dict[str, Any] = {"mode": "incremental", "clock": clock}
        result = run_backup(source, sinks or [sink], **(given | how))
        clock.advance(days=1)
        return result

    return run


def restored(tmp_path: Path, *sinks: SimulatedSink, selector: str = "latest") -> bytes:
    """Restore the journal, every hash compared."""
    target = tmp_path / f"restored-{len([*tmp_path.iterdir()])}"
    result = in_run(
        restore, sinks, selector, target=target, journal=NAME, emit=Events(), stop=Stop()
    )
    assert result.exit_codes == ()
    return (target / NAME / "journal").read_bytes()


def require_sound(*sinks: SimulatedSink) -> None:
    """Insist that every backup is whole, and the chain closes."""
    found = in_run(verify, sinks, None, journal=None, deep=True, emit=Events(), stop=Stop())
    assert found.exit_codes == ()


def archives(made: Manifest) -> list[str]:
    """Name the archives of a backup, without their directory."""
    return [archive.key.rpartition("/")[2] for archive in made.archives]


def puts(sink: SimulatedSink) -> int:
    """Count the archives that were put."""
    return [operation for operation, _ in sink.calls].count("put")


# -- what is packed


def test_what_was_appended_is_packed(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """And no byte more; each manifest says which archives it takes, in which order."""
    run()
    append(journal, MORE)
    run()
    append(journal, DAY)
    result = run()

    assert exit_code(result) == 0
    first, second, third = manifests(sink.place)
    assert [m.continuity for m in (first, second, third)] == ["first", "extended", "extended"]
    assert archives(third) == [f"{NAME}-{m.id}.tar.gz" for m in (first, second, third)]
    assert [(s.member, s.offset, s.length) for s in third.main.segments] == [
        (f"{NAME}/journal", 0, len(DAY)),
        (f"{NAME}/journal.{len(DAY):015}", len(DAY), len(MORE)),
        (f"{NAME}/journal.{len(DAY + MORE):015}", len(DAY + MORE), len(DAY)),
    ]
    assert [len(m.own_archives) for m in (first, second, third)] == [1, 1, 1]
    assert restored(tmp_path, sink) == DAY + MORE + DAY
    assert restored(tmp_path, sink, selector=second.id) == DAY + MORE
    assert third.main.records == 45
    require_sound(sink)


def test_what_did_not_change_is_a_manifest(run: Any, sink: SimulatedSink, tmp_path: Path) -> None:
    """Its checksum file names what it shares; nothing is put."""
    run()
    result = run()
    run()

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    (copy,) = result.journals[0].copies
    assert (copy.continuity, copy.archive_bytes) == ("unchanged", 0)
    made = manifests(sink.place)
    assert puts(sink) == 1
    assert [m.archives for m in made] == [made[0].archives] * 3
    assert [m.files[0].segments for m in made] == [made[0].files[0].segments] * 3
    assert sink.read(checksum_key(NAME, made[2].id)) == sink.read(checksum_key(NAME, made[0].id))
    assert restored(tmp_path, sink) == DAY
    require_sound(sink)


def test_coreutils_restore_it(run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path) -> None:
    """At a site without us: check, unpack each archive, and put the pieces after each other."""
    run()
    append(journal, MORE)
    run()
    append(journal, DAY)
    run()
    (tmp_path / "by-hand").mkdir()
    for key, held in sink.place.objects.items():
        (tmp_path / "by-hand" / key.rpartition("/")[2]).write_bytes(held.data)
    last = manifests(sink.place)[-1]
    script = f"""
        sha256sum --quiet --check {NAME}-{last.id}.sha256
        for archive in $(cut -c 67- {NAME}-{last.id}.sha256); do tar xzf "$archive"; done
        cat {NAME}/journal {NAME}/journal.* > whole
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path / "by-hand", check=True)

    assert (tmp_path / "by-hand" / "whole").read_bytes() == DAY + MORE + DAY


def test_what_is_beside_the_journal_is_packed_each_time(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """It is no journal, so nothing is known of how it changes."""
    journal.with_name("offset").write_bytes(b"1")
    run()
    journal.with_name("offset").write_bytes(b"22")
    run()
    append(journal, MORE)
    run()

    made = manifests(sink.place)
    assert puts(sink) == 3
    assert archives(made[1]) == [f"{NAME}-{m.id}.tar.gz" for m in made[:2]]
    assert archives(made[2]) == [f"{NAME}-{m.id}.tar.gz" for m in (made[0], made[2])]
    target = tmp_path / "all"
    in_run(restore, [sink], "latest", target=target, journal=None, emit=Events(), stop=Stop())
    assert (target / NAME / "offset").read_bytes() == b"22"
    assert (target / NAME / "journal").read_bytes() == DAY + MORE
    require_sound(sink)


def test_a_file_that_has_the_name_of_what_was_appended_costs_nothing_but_room(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """Two members of one name would be told apart by nobody: so all is packed."""
    run()
    journal.with_name(f"journal.{len(DAY):015}").write_bytes(b"mine")
    append(journal, MORE)
    result = run()

    assert exit_code(result) == 0
    assert [len(m.archives) for m in manifests(sink.place)] == [1, 1]
    assert restored(tmp_path, sink) == DAY + MORE
    require_sound(sink)


def test_an_empty_journal_has_nothing_to_share(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """So it is packed, and so are its first records."""
    journal.write_bytes(b"")
    run()
    run()
    append(journal, DAY)
    run()

    assert [len(m.archives) for m in manifests(sink.place)] == [1, 1, 1]
    assert restored(tmp_path, sink) == DAY


# -- when all is packed


@pytest.mark.parametrize("change", ["rewritten", "shrunk"])
def test_a_journal_that_was_changed_is_packed_whole(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path, change: str
) -> None:
    """As evidence, with its alarm; and what follows shares with that."""
    run()
    append(journal, MORE)
    if change == "rewritten":
        overwrite(journal, 3, b"X")
    else:
        journal.write_bytes(DAY[: DAY.index(b"\n") + 1])
    changed = journal.read_bytes()
    events = Events()
    result = run(emit=events)
    append(journal, MORE)
    run()

    assert exit_code(result) == 6
    made = manifests(sink.place)
    assert [m.continuity for m in made] == ["first", change, "extended"]
    assert [len(m.archives) for m in made] == [1, 1, 2]
    assert restored(tmp_path, sink, selector=made[1].id) == changed
    assert restored(tmp_path, sink, selector=made[2].id) == changed + MORE
    said = [event.reason for event in events.of(PassRepeated)]
    assert said == (
        ["it does not begin as it did: all of it is packed"] if change == "rewritten" else []
    )
    (sink_url,) = {copy.sink for copy in result.journals[0].copies}
    assert sink_url == sink.url


@pytest.mark.parametrize("why", ["time", "count", "lost", "cut"])
def test_where_sharing_would_be_worse_all_is_packed(  # noqa: PLR0917 - fixtures
    run: Any,
    sink: SimulatedSink,
    journal: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
) -> None:
    """After a while, after so many, and where the sink has lost what would be shared."""
    if why == "count":
        monkeypatch.setattr(increments, "MAX_ARCHIVES", 2)
    for _ in range(2):
        run(full_every=timedelta(days=2))
        append(journal, MORE)
    key = manifests(sink.place)[0].archives[0].key
    if why == "lost":
        del sink.place.objects[key]
    elif why == "cut":
        put(sink, key, b"")
    run(full_every=timedelta(days=2 if why == "time" else 9))

    made = manifests(sink.place)
    assert [len(m.archives) for m in made] == [1, 2, 1]
    assert made[2].continuity == "extended"
    assert restored(tmp_path, sink) == DAY + MORE * 2


def test_full_is_the_default(run: Any, sink: SimulatedSink, journal: Path) -> None:
    """Each archive stands for itself; and from there one may go on either way."""
    run()
    append(journal, MORE)
    run(mode="full")
    append(journal, MORE)
    run()

    assert [len(m.archives) for m in manifests(sink.place)] == [1, 1, 2]
    require_sound(sink)


# -- several sinks


def test_sinks_that_hold_the_same_are_served_by_one_reading(  # noqa: PLR0917 - fixtures
    run: Any,
    sink: SimulatedSink,
    journal: Path,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others by one of their own; what each one gets is what it lacks, under one id."""
    late, new, twin = (SimulatedSink(name, clock=clock) for name in ("late", "new", "twin"))
    run(sink, twin, late)
    append(journal, MORE)
    run(sink, twin)
    append(journal, DAY)
    readings: list[object] = []

    def read(*given: Any) -> Any:
        readings.append(given)
        return journals.read(*given)

    monkeypatch.setattr("backup.transfer.passes.read", read)
    result = run(sink, twin, late, new)

    assert exit_code(result) == 0
    sinks = (sink, twin, late, new)
    newest = [manifests(s.place)[-1] for s in sinks]
    assert len({made.id for made in newest}) == 1
    assert [len(made.archives) for made in newest] == [3, 3, 2, 1]
    assert newest[0].own_archives == newest[1].own_archives
    assert {restored(tmp_path, s) for s in sinks} == {DAY + MORE + DAY}
    assert len(readings) == 3
    require_sound(*sinks)


def test_a_sink_that_fails_gets_what_it_lacks_by_a_second_pass(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """Under a second name, as ever."""
    run()
    append(journal, MORE)
    sink.fail("put", SinkUnavailableError("503"), times=1)
    result = run()

    assert exit_code(result) == 0
    made = manifests(sink.place)[-1]
    assert archives(made)[1].endswith(".2.tar.gz")
    assert restored(tmp_path, sink) == DAY + MORE
    require_sound(sink)


@pytest.mark.parametrize("operation", ["put_exclusive", "size"])
def test_a_manifest_that_shares_all_may_fail_too(
    run: Any, sink: SimulatedSink, operation: str
) -> None:
    """That sink's problem, and no other's."""
    other = SimulatedSink("other")
    run(sink, other)
    sink.fail(operation, SinkUnavailableError("503"))
    result = run(sink, other, recovery_seconds=0.0)

    assert exit_code(result) == 3
    assert [c.is_held for c in result.journals[0].copies] == [False, True]


def test_a_manifest_that_nobody_could_read_is_not_written(
    run: Any, sink: SimulatedSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would share is safe, and it is said."""
    run()

    def refuse(_made: Manifest) -> bytes:
        message = "its manifest would have 9000000 bytes"
        raise ManifestError(message)

    monkeypatch.setattr("backup.catalog.writing._readable", refuse)
    result = run()

    assert exit_code(result) == 6
    assert "its manifest would have" in result.problems[0].message
    assert len(manifests(sink.place)) == 1


def test_a_signal_ends_what_shares_all(run: Any, sink: SimulatedSink) -> None:
    """As it ends every run."""
    run()
    stop = Stop()

    def fail(_key: str) -> None:
        stop.request(15)
        sink.fail("probe", SinkUnavailableError("503"))
        message = "503"
        raise SinkUnavailableError(message)

    sink.on("put_exclusive", fail)
    with pytest.raises(SignalledError):
        run(stop=stop)

    assert len(manifests(sink.place)) == 1


# -- while it is read


@pytest.mark.parametrize("more", [MORE, b""])
@pytest.mark.parametrize("beside", [True, False])
def test_a_journal_that_is_replaced_meanwhile_is_captured_anew(
    source: Path,
    sink: SimulatedSink,
    run: Any,
    tmp_path: Path,
    more: bytes,
    *,
    beside: bool,
) -> None:
    """And packed whole, if that is shorter than what is held."""
    path = write_journal(source, 0, BIG)
    if beside:
        path.with_name("offset").write_bytes(b"1")
    run()
    append(path, more)

    def replace() -> None:
        new = path.with_name("new")
        new.write_bytes(DAY)
        new.rename(path)

    result = run(emit=Meddler(replace, piece=1))

    assert exit_code(result) == 6
    made = manifests(sink.place)[-1]
    assert (made.continuity, len(made.archives)) == ("shrunk", 1)
    assert restored(tmp_path, sink, selector=made.id) == DAY


def test_a_hole_in_what_is_held_is_no_data(run: Any, sink: SimulatedSink, journal: Path) -> None:
    """It ends the bound, as it does in a full backup: nothing is shared beyond it."""
    run()
    overwrite(journal, 300, b"\0")
    append(journal, MORE)
    result = run()

    assert exit_code(result) == 6
    made = manifests(sink.place)[-1]
    assert (made.continuity, made.suspect, len(made.archives)) == ("shrunk", True, 1)


# -- drafts


@pytest.mark.parametrize("more", [MORE, b""])
def test_a_draft_shares_too(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path, more: bytes
) -> None:
    """What it put is read back by whoever commits it; what it shares was."""
    run()
    append(journal, more)
    run(draft=True)
    sink.calls.clear()
    result = in_run(commit, [sink], id="run", emit=Events(), stop=Stop())

    assert result.exit_codes == ()
    first, made = manifests(sink.place)
    opened = [key for operation, key in sink.calls if operation == "open"]
    assert first.archives[0].key not in opened
    assert [key in opened for key in (a.key for a in made.own_archives)] == [True] * bool(more)
    assert restored(tmp_path, sink) == DAY + more
    require_sound(sink)


def test_a_draft_that_is_not_as_it_was_sent_spoils_nothing_that_it_shares(
    run: Any, sink: SimulatedSink, journal: Path, tmp_path: Path
) -> None:
    """Its own archive is discarded, and no other."""
    run()
    (first,) = manifests(sink.place)
    append(journal, MORE)
    run(draft=True)
    (key,) = (k for op, k in sink.calls if op == "put" and k != first.archives[0].key)
    put(sink, key, gzip.compress(b"other"))
    result = in_run(commit, [sink], id="run", emit=Events(), stop=Stop())

    assert result.exit_codes == (6,)
    assert restored(tmp_path, sink) == DAY


# -- retention


def test_what_newer_ones_share_is_not_swept(
    run: Any, sink: SimulatedSink, journal: Path, clock: Clock, tmp_path: Path
) -> None:
    """The backup goes, its archive stays for as long as it is named."""
    for _ in range(3):
        run(full_every=timedelta(days=30))
        append(journal, MORE)
    policy = RetentionSettings(keep_last=1, keep_min=1)
    given: dict[str, Any] = {"site": None, "journal": None, "confirmed": True}
    in_run(prune, [sink], policy, **given, clock=clock, emit=Events(), stop=Stop())
    shared = manifests(sink.place)[-1].archives
    for _ in range(2):
        clock.advance(days=2)
        run(full_every=timedelta(days=30))
        sweep(OpenSink(sink), now=clock(), grace=timedelta(days=1))
    assert {a.key for a in shared} <= {*sink.place.objects}
    require_sound(sink)
    run(mode="full")
    in_run(prune, [sink], policy, **given, clock=clock, emit=Events(), stop=Stop())
    clock.advance(days=2)
    run(mode="full")
    sweep(OpenSink(sink), now=clock(), grace=timedelta(days=1))

    assert not {a.key for a in shared} & {*sink.place.objects}
    assert restored(tmp_path, sink) == journal.read_bytes()


# -- skipping


@pytest.mark.parametrize("count", range(8))
def test_what_is_skipped_is_taken_and_the_rest_given(count: int) -> None:
    """Wherever a chunk ends."""
    chunks: Sequence[bytes] = [b"ab", b"cde", b"", b"fg"]
    taken: list[bytes] = []

    def stream() -> Any:
        for chunk in chunks:
            taken.append(chunk)
            yield chunk

    rest = skip(stream(), count)

    assert len(b"".join(taken)) >= count
    assert b"".join(rest) == b"abcdefg"[count:]
