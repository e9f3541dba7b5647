"""Restore: whole and proved under the final name, or nothing there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import archive_key, manifest_key
from backup.errors import (
    SelectorError,
    SignalledError,
    SinkDeniedError,
    SinkError,
    TargetError,
)
from backup.events import Event, Problem, Progressed
from backup.manifest import Manifest
from backup.stop import Stop
from backup.verbs.restore import RestoreResult, restore
from tests import faultfs
from tests.faultfs import tmpfs
from tests.handmade import JOURNAL, MTIME, Chain, archive, file, packed, segment
from tests.journal_data import NOON, Events, in_run, records
from tests.simulated_sink import Held, SimulatedSink

OTHER = "journal-deepgram-billing-1"
DATA = records(30)

needs_fuse = pytest.mark.skipif(
    faultfs.available() is not None, reason=f"no FUSE mount: {faultfs.available()}"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def restored(
    sinks: Sequence[SimulatedSink], target: Path, selector: str = "latest", **how: Any
) -> RestoreResult:
    """Restore."""
    given: dict[str, Any] = {"journal": None, "emit": Events(), "stop": Stop()}
    return in_run(restore, sinks, selector, target, **(given | how))


def tree(root: Path) -> dict[str, bytes]:
    """Read all files below a directory."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


# -- what comes back


def test_a_journal_comes_back_byte_for_byte(sink: SimulatedSink, tmp_path: Path) -> None:
    """With its mode and time, in a directory that is made if need be."""
    made = Chain(sink).full(DATA)
    target = tmp_path / "a" / "b"
    (result,) = restored([sink], target).restored
    state = (target / JOURNAL / "journal").stat()

    assert tree(target) == {f"{JOURNAL}/journal": DATA}
    assert (stat.S_IMODE(state.st_mode), state.st_mtime) == (0o640, MTIME.timestamp())
    assert (result.journal, result.id, result.sink) == (JOURNAL, made.id, sink.url)
    assert (result.size_bytes, result.records) == (len(DATA), 30)
    assert result.path == str(target / JOURNAL)
    assert [p.name for p in target.iterdir()] == [JOURNAL]


def test_every_file_of_the_directory_comes_back(sink: SimulatedSink, tmp_path: Path) -> None:
    """Whatever its name, and empty ones too."""
    others = {b"sub/dir/a b": b"one", b"odd \xff\n": b"two", b"empty": b""}
    Chain(sink).full(b"", others=others)
    restored([sink], tmp_path)
    found = {os.fsencode(name.partition("/")[2]): data for name, data in tree(tmp_path).items()}

    assert found == {b"journal": b"", **others}


def test_shared_archives_are_put_together(sink: SimulatedSink, tmp_path: Path) -> None:
    """Also where the first backup was of an empty journal."""
    chain = Chain(sink)
    chain.full(b"")
    for begin, end in ((0, 100), (100, 4000), (4000, len(DATA))):
        chain.incremental(DATA[begin:end])
    chain.unchanged()
    restored([sink], tmp_path)

    assert tree(tmp_path) == {f"{JOURNAL}/journal": DATA}


def test_an_empty_journal_in_two_empty_segments_comes_back(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """The format allows it."""
    chain = Chain(sink)
    backup_id = chain.id()
    key = archive_key(JOURNAL, backup_id, 1)
    names = [chain.member(name) for name in (b"journal", b"journal.000000000000000")]
    stored = packed([(name, b"") for name in names])
    sink.put(key, [stored])
    files = [file(b"journal", b"", [segment(key, name, 0, 0) for name in names])]
    chain.commit(backup_id, [archive(key, stored)], files, "first")
    restored([sink], tmp_path)

    assert tree(tmp_path) == {f"{JOURNAL}/journal": b""}


@needs_root
def test_owners_come_back_where_the_process_is_root(sink: SimulatedSink, tmp_path: Path) -> None:
    """Billing may run as anybody; a set-user-id bit does not come back."""
    chain = Chain(sink)
    made = chain.full(DATA)
    owned = made.files[0].model_copy(update={"uid": 1234, "gid": 4321, "mode": 0o4600})
    rewrite(sink, made, files=(owned,))
    restored([sink], tmp_path)
    state = (tmp_path / JOURNAL / "journal").stat()

    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (1234, 4321, 0o600)


def rewrite(sink: SimulatedSink, made: Manifest, **changes: Any) -> None:
    """Change a stored manifest."""
    data = made.model_copy(update=changes).to_bytes()
    sink.place.objects[manifest_key(JOURNAL, made.id)] = Held(data, NOON)


@needs_fuse
def test_a_file_system_without_owners_modes_and_times_takes_the_content(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """A memory stick on its way to Deepgram: what counts is the content."""
    Chain(sink).full(DATA)
    with faultfs.mounted(tmp_path / "stick", limit=30) as fs:
        fs.fail(faultfs.METADATA, errno.EPERM)
        fs.fail("fsyncdir", errno.EINVAL)
        result = restored([sink], fs.root / "out")

        assert result.exit_codes == ()
        assert tree(fs.root / "out") == {f"{JOURNAL}/journal": DATA}


def test_directories_can_be_entered_as_the_umask_says(sink: SimulatedSink, tmp_path: Path) -> None:
    """The files have their own modes back; a directory of mode 0700 would lock their owner out."""
    plain = tmp_path / "plain"
    plain.mkdir()
    Chain(sink).full(DATA, others={b"sub/x": b"1"})
    restored([sink], tmp_path / "out")
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").rglob("*") if p.is_dir()}

    assert modes == {stat.S_IMODE(plain.stat().st_mode)}


def test_progress_is_told_to_the_end(sink: SimulatedSink, tmp_path: Path) -> None:
    """In bytes of the journal."""
    data = records(4000)
    Chain(sink).full(data)
    events = Events()
    restored([sink], tmp_path, emit=events)
    told = [p.done_bytes for p in events.of(Progressed)]

    assert (told, told[-1]) == (sorted(told), len(data))


# -- which


def test_latest_is_one_backup_of_each_journal(sink: SimulatedSink, tmp_path: Path) -> None:
    """Or of one, where it is named."""
    for number, journal in enumerate((JOURNAL, OTHER), start=1):
        chain = Chain(sink, journal)
        chain.full(b"old\n")
        chain.full(records(number))
    restored([sink], tmp_path / "all")
    restored([sink], tmp_path / "one", journal=OTHER)

    assert tree(tmp_path / "all") == {
        f"{JOURNAL}/journal": records(1),
        f"{OTHER}/journal": records(2),
    }
    assert tree(tmp_path / "one") == {f"{OTHER}/journal": records(2)}


def test_an_older_backup_comes_back_by_its_id_or_its_beginning(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Evidence is of use only if one can get at it."""
    chain = Chain(sink)
    old = chain.full(b"old\n")
    chain.full(DATA)
    restored([sink], tmp_path / "id", old.id)
    restored([sink], tmp_path / "prefix", old.id[:20])

    assert tree(tmp_path / "id") == tree(tmp_path / "prefix") == {f"{JOURNAL}/journal": b"old\n"}


@pytest.mark.parametrize("selector", ["2026", "1999", ""])
def test_a_selector_that_means_none_or_several_restores_nothing(
    sink: SimulatedSink, tmp_path: Path, selector: str
) -> None:
    """Exit 2, and the target is untouched."""
    chain = Chain(sink)
    chain.full(DATA)
    chain.full(DATA)

    with pytest.raises(SelectorError):
        restored([sink], tmp_path / "out", selector)
    assert not (tmp_path / "out").exists()


def test_latest_falls_to_the_next_sink(tmp_path: Path) -> None:
    """Where the first one is down, or its copy is not good."""
    down, bad, good = (SimulatedSink(n) for n in ("down", "bad", "good"))
    down.fail("list", SinkDeniedError("down"))
    made, _ = (Chain(s).full(DATA) for s in (bad, good))
    del bad.place.objects[made.archives[0].key]
    result = restored([down, bad, good], tmp_path)

    assert [r.sink for r in result.restored] == [good.url]
    assert result.exit_codes == (3,)
    assert tree(tmp_path) == {f"{JOURNAL}/journal": DATA}


def test_an_older_backup_instead_of_the_latest_is_told(sink: SimulatedSink, tmp_path: Path) -> None:
    """Nobody must take it for all that there is: exit 3, and the reason."""
    chain = Chain(sink)
    good = chain.full(DATA)
    later = chain.full(DATA + DATA, suspect=True, suspicion="a hole")
    result = restored([sink], tmp_path)

    assert [r.id for r in result.restored] == [good.id]
    assert result.exit_codes == (3,)
    assert result.problems[0].hints[0] == f"{later.id}: suspect: a hole"


def test_when_no_sink_answers_nothing_is_restored(sink: SimulatedSink, tmp_path: Path) -> None:
    """Exit 5."""
    sink.fail("list", SinkDeniedError("down"))

    with pytest.raises(SinkError):
        restored([sink], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_journal_without_a_good_backup_does_not_stop_the_others(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """It is told, with exit 2."""
    Chain(sink).full(DATA, suspect=True, suspicion="a hole")
    Chain(sink, OTHER).full(DATA)
    events = Events()
    result = restored([sink], tmp_path, emit=events)

    assert tree(tmp_path) == {f"{OTHER}/journal": DATA}
    assert result.exit_codes == (2,)
    assert events.of(Problem) == list(result.problems)


# -- what is there already


@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling link"])
def test_nothing_that_is_there_is_overwritten(
    sink: SimulatedSink, tmp_path: Path, kind: str
) -> None:
    """All journals are refused before any is read."""
    Chain(sink).full(DATA)
    Chain(sink, OTHER).full(DATA)
    final = tmp_path / OTHER
    if kind == "directory":
        final.mkdir()
    elif kind == "file":
        final.touch()
    else:
        final.symlink_to(tmp_path if kind == "link" else tmp_path / "nowhere")
    sink.calls.clear()

    with pytest.raises(TargetError, match="is already there"):
        restored([sink], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [OTHER]
    assert not any(key.endswith(".tar.gz") for _, key in sink.calls)


def test_what_appears_meanwhile_is_not_overwritten_either(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Somebody else restores at the same time."""
    Chain(sink).full(DATA)
    final = tmp_path / JOURNAL
    sink.on("open", lambda _key: final.mkdir(), key="*.tar.gz")
    result = restored([sink], tmp_path)

    assert result.exit_codes == (2,)
    assert list(final.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == [JOURNAL]


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR])
@needs_fuse
def test_what_appears_at_the_last_moment_is_named(
    sink: SimulatedSink, tmp_path: Path, code: int
) -> None:
    """Between the last look and the rename, which tells it in one of these ways."""
    Chain(sink).full(DATA)
    with faultfs.mounted(tmp_path, limit=30) as fs:
        fs.fail("rename", code)
        result = restored([sink], fs.root / "out")

        assert result.exit_codes == (2,)
        assert result.problems[0].message == f"{fs.root / 'out' / JOURNAL} is already there"
        assert nothing_left(fs.root / "out")


# -- several restores, and what was left of one


def left_behind(target: Path, made: Manifest, *, has_lock: bool = True) -> Path:
    """Make what a killed restore leaves; give the hidden directory."""
    hidden = target / f".partial-{made.journal}-{made.id}-00c0ffee"
    (hidden / JOURNAL).mkdir(parents=True)
    (hidden / JOURNAL / "journal").write_bytes(b"half")
    if has_lock:
        (hidden / "lock").touch()
    return hidden


@pytest.mark.parametrize("has_lock", [True, False])
def test_what_a_killed_restore_left_is_removed(
    sink: SimulatedSink, tmp_path: Path, *, has_lock: bool
) -> None:
    """By the next one of the same backup; the hidden directory never looks like a journal."""
    left_behind(tmp_path, Chain(sink).full(DATA), has_lock=has_lock)
    restored([sink], tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == [JOURNAL]
    assert tree(tmp_path) == {f"{JOURNAL}/journal": DATA}


def test_what_is_in_use_is_not_taken_for_left_behind(sink: SimulatedSink, tmp_path: Path) -> None:
    """Whoever holds the lock is alive."""
    left = left_behind(tmp_path, Chain(sink).full(DATA))
    with (left / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = restored([sink], tmp_path)

    assert result.exit_codes == ()
    assert (left / JOURNAL / "journal").read_bytes() == b"half"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_nothing_is_removed(
    sink: SimulatedSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """An NFS export without a lock daemon: who knows whether the other one is alive?"""

    def flock(_fd: int, _operation: int) -> None:
        raise OSError(code, os.strerror(code))

    left = left_behind(tmp_path, Chain(sink).full(DATA))
    monkeypatch.setattr(fcntl, "flock", flock)
    result = restored([sink], tmp_path)

    assert result.exit_codes == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == [left.name, JOURNAL]
    assert (tmp_path / JOURNAL / "journal").read_bytes() == DATA


def test_a_link_in_place_of_the_hidden_directory_is_not_followed(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Nothing behind it is removed or written."""
    made = Chain(sink).full(DATA)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    out = tmp_path / "out"
    out.mkdir()
    (out / f".partial-{made.journal}-{made.id}-00c0ffee").symlink_to(elsewhere)
    restored([sink], out)

    assert [p.name for p in elsewhere.iterdir()] == ["precious"]
    assert (out / JOURNAL / "journal").read_bytes() == DATA


def test_two_restores_of_one_backup_do_not_write_into_each_other(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """The first ends while the second is half through: what it names is whole, and its own."""
    data = records(3000)
    Chain(sink).full(data)
    is_half, may_go_on = threading.Event(), threading.Event()
    results: list[RestoreResult] = []

    def pause(event: Event) -> None:
        if isinstance(event, Progressed):
            is_half.set()
            may_go_on.wait(30)

    other = threading.Thread(
        target=lambda: results.append(
            restored([SimulatedSink("two", place=sink.place)], tmp_path, emit=pause)
        )
    )

    def begin_the_other(event: Event) -> None:
        if isinstance(event, Progressed) and not is_half.is_set():
            other.start()
            is_half.wait(30)

    first = restored([sink], tmp_path, emit=begin_the_other)
    named = tree(tmp_path / JOURNAL)
    may_go_on.set()
    other.join(30)

    assert ([r.journal for r in first.restored], first.exit_codes) == ([JOURNAL], ())
    assert named == {"journal": data}
    assert [r.exit_codes for r in results] == [(2,)]
    assert results[0].problems[0].message == f"{tmp_path / JOURNAL} is already there"
    assert tree(tmp_path) == {f"{JOURNAL}/journal": data}
    assert [p.name for p in tmp_path.iterdir()] == [JOURNAL]


def meanwhile(act: Callable[[], object]) -> Callable[[Event], None]:
    """Make a listener that acts once, when the first bytes are written."""
    todo = [act]

    def emit(event: Event) -> None:
        if isinstance(event, Progressed) and todo:
            todo.pop()()

    return emit


def test_each_journal_is_named_by_one_of_two_restores(sink: SimulatedSink, tmp_path: Path) -> None:
    """The whole second one runs while the first is at its first journal."""
    Chain(sink).full(DATA)
    Chain(sink, OTHER).full(DATA)
    again = SimulatedSink("two", place=sink.place)
    inner: list[RestoreResult] = []
    first = restored(
        [sink], tmp_path, emit=meanwhile(lambda: inner.append(restored([again], tmp_path)))
    )

    assert [r.journal for r in inner[0].restored] == [JOURNAL, OTHER]
    assert (first.restored, first.exit_codes) == ((), (2, 2))
    assert tree(tmp_path) == {f"{JOURNAL}/journal": DATA, f"{OTHER}/journal": DATA}
    assert sorted(p.name for p in tmp_path.iterdir()) == [JOURNAL, OTHER]


def test_restores_of_different_journals_leave_each_other_alone(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Although their ids may be the same."""
    Chain(sink).full(DATA)
    Chain(sink, OTHER).full(DATA)
    again = SimulatedSink("two", place=sink.place)
    inner: list[RestoreResult] = []
    first = restored(
        [sink],
        tmp_path,
        journal=JOURNAL,
        emit=meanwhile(lambda: inner.append(restored([again], tmp_path, journal=OTHER))),
    )

    assert (first.exit_codes, inner[0].exit_codes) == ((), ())
    assert tree(tmp_path) == {f"{JOURNAL}/journal": DATA, f"{OTHER}/journal": DATA}


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_restore_that_is_taken_for_left_behind_as_it_begins_says_so(
    sink: SimulatedSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_lock: bool
) -> None:
    """Another one has looked between the making of the hidden directory and its lock."""
    Chain(sink).full(DATA)
    kernel = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", kernel)
        if has_lock:
            raise BlockingIOError(errno.EAGAIN, "held")
        (hidden,) = tmp_path.glob(".partial-*")
        hidden.rename(tmp_path / "doomed")
        kernel(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    result = restored([sink], tmp_path)

    assert result.exit_codes == (2,)
    assert result.problems[0].message.endswith("is being written by somebody else")
    assert not (tmp_path / JOURNAL).exists()
    assert list(tmp_path.glob(".partial-*")) == []


@pytest.mark.parametrize("how", ["removed", "shortened", "replaced"])
def test_what_somebody_does_to_the_files_meanwhile_is_found(
    sink: SimulatedSink, tmp_path: Path, how: str
) -> None:
    """A clean-up job, or another node that sees no lock: what was hashed must be what is named."""
    Chain(sink).full(DATA)
    precious = tmp_path / "precious"
    precious.touch(mode=0o604)
    out = tmp_path / "out"

    def meddle() -> None:
        (path,) = out.glob(".partial-*/*/journal")
        if how == "shortened":
            os.truncate(path, 0)
        else:
            path.unlink()
            if how == "replaced":
                path.symlink_to(precious)

    result = restored([sink], out, emit=meanwhile(meddle))

    assert (result.restored, result.exit_codes) == ((), (2,))
    assert "was changed by somebody else" in result.problems[0].message
    assert nothing_left(out)
    assert stat.S_IMODE(precious.stat().st_mode) == 0o604, "nobody goes through the link"


# -- what fails leaves nothing


def nothing_left(target: Path) -> bool:
    """Tell whether a target is empty or not there."""
    return not target.exists() or list(target.iterdir()) == []


@pytest.mark.parametrize("at", [5, 40, -9, -8, -1])
def test_a_damaged_archive_leaves_nothing(sink: SimulatedSink, tmp_path: Path, at: int) -> None:
    """Exit 6, with the advice to take another backup or sink."""
    made = Chain(sink).full(DATA)
    key = made.archives[0].key
    data = bytearray(sink.place.objects[key].data)
    data[at] ^= 1
    sink.place.objects[key] = Held(bytes(data), NOON)
    events = Events()
    result = restored([sink], tmp_path, emit=events)

    assert (result.restored, result.exit_codes) == ((), (6,))
    assert [(p.journal, p.sink) for p in events.of(Problem)] == [(JOURNAL, sink.url)]
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["/etc/owned", "../owned", f"{JOURNAL}/../../owned"])
def test_a_hostile_archive_writes_nowhere(sink: SimulatedSink, tmp_path: Path, name: str) -> None:
    """Although the manifest is right about its hash."""
    chain = Chain(sink)
    backup_id = chain.id()
    key = archive_key(JOURNAL, backup_id, 1)
    stored = packed([(name.encode(), DATA)])
    sink.put(key, [stored])
    member = chain.member(b"journal")
    files = [file(b"journal", DATA, [segment(key, member, 0, len(DATA))])]
    chain.commit(backup_id, [archive(key, stored)], files, "first")
    result = restored([sink], tmp_path / "out")

    assert result.exit_codes == (6,)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    "path", ["../owned", "/etc/owned", "a/../../owned", "%2e%2e/owned", "a%00b"]
)
def test_a_hostile_manifest_is_not_a_manifest(
    sink: SimulatedSink, tmp_path: Path, path: str
) -> None:
    """Its names never reach the file system."""
    made = Chain(sink).full(DATA)
    rewrite(sink, made, files=(made.files[0].model_copy(update={"path": path}),))
    result = restored([sink], tmp_path / "out")

    assert result.exit_codes == (2,), "there is no good backup"
    by_id = restored([sink], tmp_path / "out", made.id)
    assert by_id.exit_codes == (6,)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("path", ["journal/inside", "x" * 300, "/".join(["deep"] * 2000)])
def test_a_name_that_cannot_be_written_leaves_nothing(
    sink: SimulatedSink, tmp_path: Path, path: str
) -> None:
    """A file as a directory, or a name longer than the file system takes."""
    Chain(sink).full(DATA, others={path.encode(): b"1"})
    result = restored([sink], tmp_path)

    assert result.exit_codes == (2,)
    assert nothing_left(tmp_path)


def test_an_archive_that_cannot_be_read_leaves_nothing(sink: SimulatedSink, tmp_path: Path) -> None:
    """Exit 5; another journal is restored all the same."""
    made = Chain(sink).full(DATA)
    Chain(sink, OTHER).full(DATA)
    sink.fail("open", SinkDeniedError("may not"), key=made.archives[0].key)
    result = restored([sink], tmp_path)

    assert result.exit_codes == (5,)
    assert tree(tmp_path) == {f"{OTHER}/journal": DATA}


def test_a_stream_that_breaks_for_good_leaves_nothing(sink: SimulatedSink, tmp_path: Path) -> None:
    """Half a journal was written by then."""
    made = Chain(sink).full(records(900))
    sink.tear(made.archives[0].key, at=100_000, error=SinkDeniedError("no more"))
    result = restored([sink], tmp_path)

    assert result.exit_codes == (5,)
    assert nothing_left(tmp_path)


@pytest.mark.skipif(tmpfs.available() is not None, reason=f"no tmpfs: {tmpfs.available()}")
def test_a_full_disk_leaves_nothing(sink: SimulatedSink, tmp_path: Path) -> None:
    """Exit 2, with the hint to make room; the next try elsewhere works."""
    data = records(9000)
    Chain(sink).full(data)
    with tmpfs.small_tmpfs(tmp_path / "small", "1m") as small:
        result = restored([sink], small)

        assert result.exit_codes == (2,)
        assert "No space left on device" in result.problems[0].message
        assert result.problems[0].hints == ("make room, or choose another place",)
        assert nothing_left(small)
    restored([sink], tmp_path / "large")
    assert tree(tmp_path / "large") == {f"{JOURNAL}/journal": data}


def test_a_target_that_is_a_file_is_refused(sink: SimulatedSink, tmp_path: Path) -> None:
    """Exit 2, with a hint."""
    Chain(sink).full(DATA)
    (tmp_path / "file").write_bytes(b"precious")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        result = restored([sink], target)

        assert result.exit_codes == (2,)
        assert result.problems[0].hints
    assert tree(tmp_path) == {"file": b"precious"}


@needs_fuse
@pytest.mark.parametrize(
    ("op", "code"),
    [
        ("mkdir", errno.EROFS),
        ("create", errno.EACCES),
        ("write", errno.EIO),
        ("fsync", errno.EDQUOT),
        ("fsyncdir", errno.EIO),
        ("rename", errno.EIO),
    ],
)
def test_a_target_that_cannot_be_written_gets_nothing(
    sink: SimulatedSink, tmp_path: Path, op: str, code: int
) -> None:
    """Whatever fails, the final name stays free: exit 2, with a hint."""
    Chain(sink).full(DATA)
    with faultfs.mounted(tmp_path, limit=30) as fs:
        fault = fs.fail(op, code)
        result = restored([sink], fs.root / ".")
        fs.clear(fault)

        assert result.exit_codes == (2,)
        assert os.strerror(code) in result.problems[0].message
        assert result.problems[0].hints
        assert nothing_left(fs.root)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing(sink: SimulatedSink, tmp_path: Path, signum: int) -> None:
    """Neither under the final name nor beside it: there is a moment to clean up."""
    Chain(sink).full(records(900))
    stop = Stop()
    sink.on("open", lambda _key: stop.request(signum), key="*.tar.gz")

    with pytest.raises(SignalledError):
        restored([sink], tmp_path, stop=stop)
    assert nothing_left(tmp_path)


def test_a_signal_at_the_last_moment_leaves_nothing(sink: SimulatedSink, tmp_path: Path) -> None:
    """All was written, but not yet named: what reports "ended by a signal" must not be there."""
    Chain(sink).full(DATA)
    stop = Stop()

    def emit(event: Event) -> None:
        if isinstance(event, Progressed) and event.done_bytes == event.total_bytes:
            stop.request(signal.SIGTERM)

    with pytest.raises(SignalledError):
        restored([sink], tmp_path, emit=emit, stop=stop)
    assert nothing_left(tmp_path)


@needs_fuse
def test_a_signalled_restore_waits_a_moment_for_its_clean_up(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """The process ends when it returns, and takes the thread that removes files with it."""
    Chain(sink).full(DATA)
    stop = Stop()
    with faultfs.mounted(tmp_path, limit=30) as fs:

        def end(_key: str) -> None:
            fs.hang("unlink", seconds=0.4)
            stop.request(signal.SIGTERM)

        sink.on("open", end, key="*.tar.gz")
        with pytest.raises(SignalledError):
            restored([sink], fs.root / "out", stop=stop)

        assert nothing_left(fs.backing / "out")


def test_a_sink_that_hangs_does_not_keep_a_signalled_restore(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """The thread that waits for it is left behind; nothing is under the final name."""
    Chain(sink).full(DATA)
    stop = Stop()
    sink.on("open", lambda _key: stop.request(signal.SIGTERM), key="*.tar.gz")
    sink.hang("open", key="*.tar.gz")

    with pytest.raises(SignalledError):
        restored([sink], tmp_path, stop=stop)
    assert not (tmp_path / JOURNAL).exists()
    sink.release()
