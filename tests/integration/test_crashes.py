"""The real command, ended at every step: absent or valid, and the next run is good.

The sink (or the source) is a file system on which a call hangs, so the step at which the command
is ended is known and not left to luck. After each end: every backup there is can be verified
deeply; the next run exits 0; what was left stays until it is older than the grace, and then goes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import OpenSink
from backup.catalog.holdings import SWEEP_GRACE
from backup.settings import StoreSettings
from backup.sinks import Sink, open_sink
from backup.stop import Stop
from backup.verbs.verify import verify
from tests import faultfs
from tests.journal_data import Events, in_run, records, run_backup, write_journal

CHECKOUT = Path(__file__).parents[2]
JOURNAL = "journal-deepgram-billing-0"
NO_FUSE = faultfs.available()
UNWIND_SECONDS = 5.0
"""Asked for is one; a busy machine gets more."""
GRACE = SWEEP_GRACE.total_seconds()
DATA = records(4000)
MORE = records(900, seed=2)

needs_fuse = pytest.mark.skipif(NO_FUSE is not None, reason=f"no FUSE mount: {NO_FUSE}")


@dataclass(frozen=True)
class Step:
    """A call in which the command hangs when it is ended."""

    name: str
    op: str
    path: str
    after: int = 0
    after_bytes: int | None = None
    commits: bool = False
    """Whether the manifest has its name by then."""

    def arm(self, fs: faultfs.FaultFS) -> None:
        """Let the call hang."""
        if self.after_bytes is None:
            fs.hang(self.op, self.path, after=self.after)
        else:
            fs.hang(self.op, self.path, after_bytes=self.after_bytes)

    def await_reached(self, fs: faultfs.FaultFS, process: subprocess.Popen[bytes]) -> None:
        """Wait until the command hangs there."""
        until = time.monotonic() + 20
        while not self._is_reached(fs):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, f"{self.name} was not reached"
            time.sleep(0.01)

    def _is_reached(self, fs: faultfs.FaultFS) -> bool:
        calls = fs.calls(self.op, self.path)
        if self.after_bytes is None:
            return len(calls) > self.after
        return sum(call.size for call in calls) > self.after_bytes


ARCHIVE, SUM, MANIFEST = "*.tar.gz", "*.sha256", "*.manifest.json"


def part(name: str) -> str:
    """Match the temporary file of an object."""
    return f"{name}.*.part"


PLACE = f"sink/{JOURNAL}"
NEW = f"{PLACE}/{JOURNAL}-20[!0]*"
"""What this century's runs make; the backup before was made by a clock of 2001."""
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
STEPS = (
    Step("probe: create", "create", "sink/.probe.*"),
    Step("probe: fsync", "fsync", "sink/.probe.*"),
    Step("probe: link", "link", "sink/.probe.*"),
    Step("probe: unlink", "unlink", "sink/.probe.*"),
    Step("list", "readdir", PLACE),
    Step("history: read", "read", MANIFEST),
    Step("archive: create", "create", part(ARCHIVE)),
    Step("archive: first write", "write", part(ARCHIVE)),
    Step("archive: half written", "write", part(ARCHIVE), after_bytes=500_000),
    Step("archive: fsync", "fsync", part(ARCHIVE)),
    Step("archive: close", "flush", part(ARCHIVE)),
    Step("archive: link", "link", part(ARCHIVE)),
    Step("archive: directory fsync", "fsyncdir", PLACE),
    Step("archive: unlink of the temporary file", "unlink", part(ARCHIVE)),
    Step("read-back: open", "open", f"{NEW}.tar.gz"),
    Step("read-back: read", "read", f"{NEW}.tar.gz", after=1),
    Step("checksum file: write", "write", part(SUM)),
    Step("checksum file: link", "link", part(SUM)),
    Step("checksum file: directory fsync", "fsyncdir", PLACE, after=1),
    Step("checksum file: read", "read", f"{NEW}.sha256"),
    Step("manifest: create", "create", part(MANIFEST)),
    Step("manifest: write", "write", part(MANIFEST)),
    Step("manifest: fsync", "fsync", part(MANIFEST)),
    Step("manifest: link", "link", part(MANIFEST)),
    Step("manifest: directory fsync", "fsyncdir", PLACE, after=2, commits=True),
    Step("manifest: unlink of the temporary file", "unlink", part(MANIFEST), commits=True),
    Step("manifest: read", "read", f"{NEW}.manifest.json", commits=True),
    Step("sweep: unlink of an archive", "unlink", f"{PLACE}/{JOURNAL}-2000*", commits=True),
    Step("sweep: unlink of a temporary file", "unlink", f"{PLACE}/.old*", commits=True),
)
ENDS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 128 + signal.SIGTERM}


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faultfs.FaultFS]:
    """Mount a file system, once: mounting takes longer than most tests."""
    if NO_FUSE is not None:
        pytest.skip(f"no FUSE mount: {NO_FUSE}")
    with faultfs.mounted(tmp_path_factory.mktemp("faulty"), limit=400) as fs:
        yield fs


@pytest.fixture
def fs(mount: faultfs.FaultFS) -> Iterator[faultfs.FaultFS]:
    """Give it empty, without faults and without a history."""
    mount.forget()
    yield mount
    mount.clear()
    for path in mount.backing.iterdir():
        shutil.rmtree(path)


@dataclass(frozen=True)
class Site:
    """A volume with a journal, and sinks as they are below the faulty file system."""

    source: Path
    sinks: tuple[Path, ...]

    def open(self) -> list[Sink]:
        """Open the sinks where nothing hangs."""
        given = StoreSettings(source=self.source)
        return [open_sink(f"file://{s}", given, stop=Stop()) for s in self.sinks]

    def run(self, now: datetime | None = None) -> tuple[int, ...]:
        """Back up in this process, where nothing hangs; give the exit codes."""
        clock = lambda: now or datetime.now(UTC)  # noqa: E731 - it stands for a function's name
        return run_backup(self.source, self.open(), clock=clock).exit_codes

    def backups(self) -> list[int]:
        """Count the backups on each sink, all of which have to be valid."""
        counts = []
        for sink in self.open():
            result = in_run(
                verify, [sink], None, journal=None, deep=True, emit=Events(), stop=Stop()
            )
            assert result.problems == ()
            counts.append(len(result.backups))
        return counts

    def remains(self) -> set[Path]:
        """Name what belongs to no backup: hidden files, and objects of ids without a manifest."""
        found = {p for s in self.sinks for p in s.rglob(".*") if p.is_file()}
        for sink, root in zip(self.open(), self.sinks, strict=True):
            listing = OpenSink(sink).listing
            found |= {root / o.key for b in listing.remains() for o in b.objects}
        return found

    def young_remains(self) -> set[Path]:
        """Name those that are within the grace."""
        return {p for p in self.remains() if p.stat().st_mtime > time.time() - GRACE}


def age(paths: set[Path], seconds: float) -> None:
    """Make files so old."""
    when = time.time() - seconds
    for path in paths:
        os.utime(path, (when, when))


def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start the real command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKUP_")}
    return subprocess.Popen(
        [sys.executable, "-m", "backup", *arguments],
        cwd=CHECKOUT,
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(process: subprocess.Popen[bytes], *, within: float) -> int:
    """Wait for its end; give the exit code."""
    begun = time.monotonic()
    try:
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - begun < within
    return process.returncode


def require_next_run_good(site: Site, before: list[int]) -> None:
    """The next run is good; remains stay until they are older than the grace, and then go."""
    left = site.young_remains()
    age(left, GRACE - 600)

    assert site.run() == ()
    assert [after - count for after, count in zip(site.backups(), before, strict=True)] == [
        1 for _ in before
    ]
    assert site.remains() == left

    age(left, GRACE + 600)

    assert site.run() == ()
    assert site.remains() == set()
    site.backups()


def old_remains(root: Path) -> None:
    """Leave what an interruption left long ago."""
    for name in (f"{JOURNAL}-20000101T000000Z-00dead.tar.gz", ".old.tar.gz.00000000.part"):
        path = root / JOURNAL / name
        path.write_bytes(b"half")
        os.utime(path, (0, 0))


@needs_fuse
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.name))
def test_a_backup_that_is_ended_leaves_absent_or_valid(
    tmp_path: Path, fs: faultfs.FaultFS, step: Step, end: str
) -> None:
    """Wherever it is in its work on the sink, and although a thread is stuck in a system call."""
    (fs.backing / "sink").mkdir()
    site = Site(tmp_path / "source", (fs.backing / "sink",))
    write_journal(site.source, 0, DATA)
    assert site.run(LONG_AGO) == ()
    write_journal(site.source, 0, DATA + MORE)
    old_remains(site.sinks[0])
    step.arm(fs)
    process = start(
        "backup", BACKUP_SOURCE=str(site.source), BACKUP_SINKS=f"file://{fs.root / 'sink'}"
    )
    step.await_reached(fs, process)
    process.send_signal(signal.Signals[end])

    assert ended(process, within=UNWIND_SECONDS) == ENDS[end]
    fs.clear()
    assert site.backups() == [2 if step.commits else 1]
    require_next_run_good(site, site.backups())
    assert json.loads(newest(site.sinks[0]))["files"][0]["size_bytes"] == len(DATA + MORE)


def newest(sink: Path) -> bytes:
    """Read the newest manifest."""
    return max((sink / JOURNAL).glob("*.manifest.json")).read_bytes()


@needs_fuse
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "step",
    [
        Step("list the volume", "readdir", "source"),
        Step("list the journal", "readdir", f"source/{JOURNAL}"),
        Step("open the journal", "open", "*/journal"),
        Step("read the journal", "read", "*/journal", after=4),
    ],
    ids=lambda step: str(step.name),
)
def test_a_backup_that_is_ended_while_it_reads_leaves_nothing_whole(
    tmp_path: Path, fs: faultfs.FaultFS, step: Step, end: str
) -> None:
    """A journal's volume can hang as a sink can."""
    source = fs.backing / "source"
    write_journal(source, 0, DATA)
    site = Site(source, (tmp_path / "sink",))
    site.sinks[0].mkdir()
    step.arm(fs)
    process = start(
        "backup", BACKUP_SOURCE=str(fs.root / "source"), BACKUP_SINKS=f"file://{site.sinks[0]}"
    )
    step.await_reached(fs, process)
    process.send_signal(signal.Signals[end])

    assert ended(process, within=UNWIND_SECONDS) == ENDS[end]
    fs.clear()
    assert list(site.sinks[0].glob("*/*.tar.gz")) == []
    require_next_run_good(site, [0])


@needs_fuse
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("op", ["fsync", "link"])
def test_a_good_sink_beside_one_that_hangs_is_absent_or_valid_too(
    tmp_path: Path, fs: faultfs.FaultFS, op: str, end: str
) -> None:
    """Each sink commits its own manifest as soon as it may: no half backup, and none is lost."""
    (fs.backing / "sink").mkdir()
    (tmp_path / "good").mkdir()
    site = Site(tmp_path / "source", (fs.backing / "sink", tmp_path / "good"))
    write_journal(site.source, 0, DATA)
    step = Step(op, op, part(ARCHIVE))
    step.arm(fs)
    urls = f"file://{fs.root / 'sink'},file://{tmp_path / 'good'}"
    process = start("backup", BACKUP_SOURCE=str(site.source), BACKUP_SINKS=urls)
    step.await_reached(fs, process)
    until = time.monotonic() + 20
    while not list((tmp_path / "good").glob("*/*.manifest.json")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.Signals[end])

    assert ended(process, within=UNWIND_SECONDS) == ENDS[end]
    fs.clear()
    assert [len(list(root.glob("*/*.manifest.json"))) for root in site.sinks] == [0, 1]
    require_next_run_good(site, [0, 1])


@needs_fuse
@pytest.mark.parametrize(
    ("how", "code"),
    [
        (lambda process: process.send_signal(signal.SIGINT), 130),
        (lambda process: process.send_signal(signal.SIGTERM), 143),
        (lambda _: None, 9),
    ],
    ids=["SIGINT", "SIGTERM", "deadline"],
)
@pytest.mark.parametrize("op", ["write", "open"])
def test_the_exit_code_says_what_ended_a_backup(
    tmp_path: Path, fs: faultfs.FaultFS, op: str, how: Callable[[Any], None], code: int
) -> None:
    """With a thread stuck in a system call; a deadline needs nobody to send a signal."""
    (fs.backing / "sink").mkdir()
    site = Site(tmp_path / "source", (fs.backing / "sink",))
    write_journal(site.source, 0, DATA)
    step = Step(op, op, "*.tar.gz" if op == "open" else part(ARCHIVE))
    step.arm(fs)
    process = start(
        "backup",
        "--json",
        BACKUP_SOURCE=str(site.source),
        BACKUP_SINKS=f"file://{fs.root / 'sink'}",
        BACKUP_DEADLINE="2s" if code == 9 else "1h",
    )
    step.await_reached(fs, process)
    how(process)
    out, _ = process.communicate(timeout=2 + UNWIND_SECONDS)

    assert process.returncode == code
    assert json.loads(out)["exit_code"] == code
    fs.clear()
    require_next_run_good(site, [0])


@needs_fuse
@pytest.mark.parametrize("end", ENDS)
def test_a_restore_that_is_ended_leaves_nothing_under_the_final_name(
    tmp_path: Path, fs: faultfs.FaultFS, end: str
) -> None:
    """The next restore removes the hidden directory of the first."""
    (fs.backing / "sink").mkdir()
    site = Site(tmp_path / "source", (fs.backing / "sink",))
    journal = write_journal(site.source, 0, DATA)
    assert site.run() == ()
    step = Step("read", "read", ARCHIVE, after=2)
    step.arm(fs)
    target = tmp_path / "target"
    arguments = ("restore", "latest", "--target", str(target))
    url = f"file://{fs.root / 'sink'}"
    process = start(*arguments, BACKUP_SINKS=url)
    step.await_reached(fs, process)
    process.send_signal(signal.Signals[end])

    assert ended(process, within=UNWIND_SECONDS) == ENDS[end]
    assert not (target / JOURNAL).exists()
    fs.clear()
    assert ended(start(*arguments, BACKUP_SINKS=url), within=30) == 0
    assert [p.name for p in target.iterdir()] == [JOURNAL]
    assert (target / JOURNAL / "journal").read_bytes() == journal.read_bytes()
