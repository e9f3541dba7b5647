"""A source that misbehaves below the file system calls: NFS with holes, stale handles, errors.

A FUSE mount stands for the journals' volume; the sink is in memory, except where the command
itself is run.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.errors import JournalChangedError, JournalUnreadableError
from backup.events import Event, PassRepeated
from backup.journals import Reading, capture, discover, read, reading
from backup.model import Journal
from tests import faultfs
from tests.journal_data import (
    NAME,
    Clock,
    Events,
    exit_code,
    manifests,
    mark,
    records,
    run_backup,
    said,
    states,
    stored_journal,
    write_journal,
)
from tests.simulated_sink import SimulatedSink

REASON = faultfs.available()
BIG = records(2_000) * 4
JOURNAL = Journal(statefulset="deepgram-billing", ordinal=0)
FILE = f"{NAME}/journal"
CAPTURE_BYTES = 1 << 20
"""What a capture reads of it, to find its last newline."""


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[faultfs.FaultFS]:
    """Mount a volume with a journal, beside models."""
    if REASON is not None:
        pytest.skip(f"no FUSE mount: {REASON}")
    with faultfs.mounted(tmp_path, limit=60) as mount:
        write_journal(mount.backing, 0, BIG)
        (mount.backing / "models").mkdir()
        (mount.backing / "models" / "nova.dg").write_bytes(b"weights")
        (mount.backing / "secret.dg").write_bytes(b"weights")
        yield mount


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at holes often, so that nothing really waits."""
    monkeypatch.setattr(reading, "HOLE_POLL_SECONDS", 0.01)


# -- what is touched


def test_models_are_never_opened(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """Nor looked at: 70 GiB of weights are none of ours."""
    (fs.backing / "link.dg").symlink_to("models")
    fs.forget()

    result = run_backup(fs.root, [sink])

    assert (exit_code(result), result.ignored_entries) == (0, 3)
    assert fs.calls("*", "models*") == []
    assert fs.calls("*", "*.dg") == []
    assert {call.path for call in fs.calls("open")} == {FILE}


def test_nothing_on_the_volume_is_changed(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """Law 3, by the log of what the file system was asked to do."""
    (fs.backing / NAME / "extra").write_bytes(b"x")
    fs.forget()

    run_backup(fs.root, [sink])

    assert fs.calls(faultfs.CHANGES) == []
    assert {c.op for c in fs.calls()} <= {
        "getattr", "opendir", "readdir", "releasedir", "open", "read", "flush", "release",
        "readlink", "statfs",
    }  # fmt: skip


def test_a_read_only_volume_is_enough(tmp_path: Path, sink: SimulatedSink) -> None:
    """As the chart mounts it."""
    if REASON is not None:
        pytest.skip(f"no FUSE mount: {REASON}")
    write_journal(tmp_path / "backing", 0, BIG)
    with faultfs.mounted(tmp_path, read_only=True, limit=60) as mount:
        assert exit_code(run_backup(mount.root, [sink])) == 0

    assert stored_journal(sink.place) == BIG


# -- holes, as NFS makes them


class OnRepeat(Events):
    """Does something once a run says that it reads again."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self._act = act

    def __call__(self, event: Event) -> None:
        """Take an event."""
        super().__call__(event)
        if isinstance(event, PassRepeated) and len(self.of(PassRepeated)) == 1:
            self._act()


@pytest.mark.parametrize("cached", [False, True])
def test_hole_that_is_filled_later(tmp_path: Path, sink: SimulatedSink, *, cached: bool) -> None:
    """Also where the client has cached the NULs: the file is opened anew, the cache dropped."""
    if REASON is not None:
        pytest.skip(f"no FUSE mount: {REASON}")
    with faultfs.mounted(tmp_path, cache=cached, limit=60) as mount:
        write_journal(mount.backing, 0, BIG)
        mount.hole(FILE, 1_200_000, 1_204_096)
        events = OnRepeat(mount.fill)

        result = run_backup(mount.root, [sink], emit=events, hole_seconds=30)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert len(events.of(PassRepeated)) == 1
    assert stored_journal(sink.place) == BIG


def test_hole_that_is_never_filled(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """The bound ends before it; the backup is committed, and suspect."""
    fs.hole(FILE, 1_200_000, 1_204_096)

    result = run_backup(fs.root, [sink], hole_seconds=0.05)

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == BIG[: BIG.rindex(b"\n", 0, 1_200_000) + 1]
    assert manifests(sink.place)[0].suspect


# -- stale handles and errors


def test_stale_once_is_captured_anew(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """The server had replaced the file; the next look-up finds the new one."""
    fault = fs.fail("read", errno.ESTALE, FILE, after_bytes=CAPTURE_BYTES)
    events = OnRepeat(lambda: fs.clear(fault))

    result = run_backup(fs.root, [sink], emit=events)

    assert (exit_code(result), states(result)) == (0, {0: "backed up"})
    assert "was replaced while it was read" in events.of(PassRepeated)[0].reason
    assert stored_journal(sink.place) == BIG


def test_stale_while_it_is_captured_is_looked_at_again(fs: faultfs.FaultFS) -> None:
    """Once: the search for the last newline met a handle that is gone."""
    fs.fail("read", errno.ESTALE, FILE, times=1)
    found = capture(fs.root, JOURNAL, clock=Clock())

    assert b"".join(read(found, found.main, Reading())) == BIG

    fs.fail("read", errno.ESTALE, FILE, times=2)
    with pytest.raises(JournalChangedError, match="Stale file handle"):
        capture(fs.root, JOURNAL, clock=Clock())


def test_stale_for_ever_fails_that_journal_alone(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """Exit 4; the other journals on the volume are backed up."""
    write_journal(fs.backing, 1, records(3))
    fs.fail("open|read", errno.ESTALE, FILE)

    result = run_backup(fs.root, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "unreadable", 1: "backed up"})


@pytest.mark.parametrize("after_bytes", [0, CAPTURE_BYTES, 2 * CAPTURE_BYTES])
def test_io_error_is_told_with_the_file(
    fs: faultfs.FaultFS, sink: SimulatedSink, after_bytes: int
) -> None:
    """While it is captured or while it is read: a declared error, and nothing is stored."""
    fs.fail("read", errno.EIO, FILE, after_bytes=after_bytes)
    write_journal(fs.backing, 1, records(3))

    result = run_backup(fs.root, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "unreadable", 1: "backed up"})
    assert f"{FILE}' cannot be read: Input/output error" in said(result)
    assert manifests(sink.place) == []


def test_retired_journal_that_cannot_be_read(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """It is back, and it holds records: that nobody expected it is no excuse."""
    run_backup(fs.root, [sink])
    mark(sink.place, "retired", manifests(sink.place)[0].id)
    fs.fail("open", errno.EIO, FILE)

    result = run_backup(fs.root, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "unreadable"})


def test_source_that_cannot_be_listed(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """Exit 4 at once: nothing can be said about any journal."""
    fs.fail("readdir|opendir", errno.EIO)

    with pytest.raises(JournalUnreadableError, match="cannot be read: Input/output error"):
        run_backup(fs.root, [sink])


def test_entry_whose_kind_cannot_be_found_out(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """An NFS listing gives no types: a journal that cannot be looked at is not passed over."""
    write_journal(fs.backing, 1, records(3))
    fs.fail("getattr", errno.EIO, NAME)

    assert len(discover(fs.root, "deepgram-billing").journals) == 2
    result = run_backup(fs.root, [sink])
    assert (exit_code(result), states(result)) == (4, {0: "unreadable", 1: "backed up"})


def test_short_reads_are_no_end(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """A server may give less than it was asked for, when the newline is searched for too."""
    fs.short(FILE, each=100_000)

    assert exit_code(run_backup(fs.root, [sink])) == 0
    assert stored_journal(sink.place) == BIG


def test_end_of_file_before_its_size(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """The size says more than can be read: what ends with a record is kept, nothing is padded."""
    fs.short(FILE, end=len(BIG) - 1000)

    result = run_backup(fs.root, [sink])

    assert exit_code(result) == 0
    assert stored_journal(sink.place) == BIG[: BIG.rindex(b"\n", 0, len(BIG) - 1000) + 1]


def test_extra_that_vanishes_while_it_is_captured(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """A temporary file beside the journal does not cost the journal its backup."""
    (fs.backing / NAME / "brief").touch()
    (fs.backing / NAME / "gone").touch()
    (fs.backing / NAME / "broken").touch()
    (fs.backing / NAME / "blind").touch()
    fs.fail("open", errno.ENOENT, f"{NAME}/brief")
    fs.fail("getattr", errno.ENOENT, f"{NAME}/gone")
    fs.fail("open", errno.EIO, f"{NAME}/broken")
    fs.fail("getattr", errno.EIO, f"{NAME}/blind")

    result = run_backup(fs.root, [sink])

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert dict(result.journals[0].passed_over) == {
        "blind": "unreadable",
        "brief": "gone before it was read",
        "broken": "unreadable",
        "gone": "gone before it was read",
    }
    assert "broken' cannot be read: Input/output error" in said(result)
    assert "brief" not in said(result)
    assert stored_journal(sink.place) == BIG


def test_extra_with_a_bad_block(fs: faultfs.FaultFS, sink: SimulatedSink) -> None:
    """It could be opened, and cannot be read: suspect, and the records are safe."""
    for name in ("broken", "worse"):
        (fs.backing / NAME / name).write_bytes(b"x")
    fs.fail("read", errno.EIO, f"{NAME}/broken")
    events = OnRepeat(lambda: fs.fail("getattr", errno.EIO, f"{NAME}/worse"))

    result = run_backup(fs.root, [sink], emit=events)

    assert (exit_code(result), states(result)) == (4, {0: "suspect"})
    assert stored_journal(sink.place) == BIG
    assert dict(result.journals[0].passed_over) == {"broken": "unreadable", "worse": "unreadable"}
    assert "broken' cannot be read: Input/output error; " in (
        manifests(sink.place)[0].suspicion or ""
    )


def test_journal_that_vanishes_while_it_is_captured(fs: faultfs.FaultFS) -> None:
    """It was in the listing and could not be opened, twice."""
    fs.fail("open", errno.ENOENT, FILE)

    with pytest.raises(JournalChangedError, match="vanished while it was read"):
        capture(fs.root, JOURNAL, clock=Clock())


# -- the command, as a user whom modes bind


@pytest.fixture
def bound() -> list[str]:
    """Give the beginning of a command line that takes root's power over modes away."""
    if os.geteuid():  # pragma: no cover - whoever is not root is bound already
        return []
    if not shutil.which("setpriv"):  # pragma: no cover - util-linux is everywhere
        pytest.skip("setpriv is not installed (Debian: util-linux)")
    powers = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}", "--"]


def command(bound: list[str], source: Path, sink: Path) -> tuple[int, dict[str, Any]]:
    """Run the command; give its exit code and its result."""
    sink.mkdir(exist_ok=True)
    done = subprocess.run(
        [*bound, sys.executable, "-m", "backup", "backup", "--json"],
        env=os.environ | {"BACKUP_SOURCE": str(source), "BACKUP_SINKS": f"file://{sink}"},
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def make_foreign(path: Path, mode: int) -> int:
    """Give a file to another user, who alone may read it; tell who that is."""
    path.chmod(mode)
    if os.geteuid():  # pragma: no cover - one's own file without any right does as well
        path.chmod(0)
        return os.geteuid()
    os.chown(path, 1234, 1234)
    return 1234


def test_journal_of_another_user(tmp_path: Path, bound: list[str]) -> None:
    """Exit 4: who we are, whose it is, its mode, and the fix; the others are backed up."""
    source = tmp_path / "journals"
    owner = make_foreign(write_journal(source, 0, records(3)), 0o600)
    write_journal(source, 1, records(3))

    code, result = command(bound, source, tmp_path / "sink")

    assert code == 4
    assert [o["state"] for o in result["journals"]] == ["unreadable", "backed up"]
    problem = result["problems"][0]
    mode = stat.S_IMODE((source / FILE).stat().st_mode)
    assert problem["message"] == (
        f"'{source / FILE}' may not be read by uid {os.geteuid()} gid {os.getegid()}:"
        f" '{source / FILE}' belongs to uid {owner} gid {owner}, mode {mode:04o}"
    )
    assert "runAsUser" in problem["hints"][0]


def test_journal_directory_of_another_user(tmp_path: Path, bound: list[str]) -> None:
    """The directory's owner is named, for the file cannot be looked at."""
    source = tmp_path / "journals"
    root = write_journal(source, 0, records(3)).parent
    owner = make_foreign(root, 0o700)
    try:
        code, result = command(bound, source, tmp_path / "sink")
    finally:
        root.chmod(0o700)

    assert code == 4
    assert f"'{root}' belongs to uid {owner}" in result["problems"][0]["message"]


def test_names_of_any_bytes_reach_the_report(tmp_path: Path, bound: list[str]) -> None:
    """A name that is no text breaks neither JSON nor the backup."""
    source = tmp_path / "journals"
    root = write_journal(source, 0, records(3)).parent
    strange = root / os.fsdecode(b"n\xff\n")
    strange.touch()
    make_foreign(strange, 0o600)

    code, result = command(bound, source, tmp_path / "sink")

    assert code == 4
    assert result["journals"][0]["state"] == "suspect"
    assert result["journals"][0]["passed_over"] == [["n%FF%0A", "unreadable"]]
