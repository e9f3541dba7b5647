"""The file sink on file systems that fail, alone and as one of three in a run of the real verb.

The rules, for every fault: nothing that is half-written has a name, what failed is told with its
sink, the other sinks have their backups, and once the fault is over the next run is good.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest

from backup.errors import (
    ObjectExistsError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkMissingError,
    SinkUnavailableError,
    SinkUnsupportedError,
)
from backup.events import Event, PassRepeated, Progressed
from backup.report import worst
from backup.settings import StoreSettings
from backup.sinks import Sink, open_sink
from backup.sinks.kinds import FileOptions
from backup.stop import Stop
from backup.verbs.outcome import BackupResult
from tests import faultfs, journal_data
from tests.faultfs import tmpfs

CHECKOUT = Path(__file__).parents[2]
JOURNAL = "journal-deepgram-billing-0"
KEY = f"{JOURNAL}/{JOURNAL}-20261123T120000Z-3f9a1c.tar.gz"
PART = "*.tar.gz.*.part"
ARCHIVE = "*.tar.gz"
NOBODY = 65534
NO_FUSE = faultfs.available()
NO_TMPFS = tmpfs.available()

needs_tmpfs = pytest.mark.skipif(NO_TMPFS is not None, reason=f"no tmpfs: {NO_TMPFS}")


# -- three sinks, one of which will fail


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write one journal."""
    journal_data.write_journal(tmp_path / "source", 0, journal_data.records(300))
    return tmp_path / "source"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[faultfs.FaultFS]:
    """Mount a file system for the sink that fails, once: it takes longer than most tests."""
    if NO_FUSE is not None:
        pytest.skip(f"no FUSE mount: {NO_FUSE}")
    with faultfs.mounted(tmp_path_factory.mktemp("bad"), limit=300) as mount:
        yield mount


@pytest.fixture
def fs(shared: faultfs.FaultFS) -> Iterator[faultfs.FaultFS]:
    """Give it without faults, without a history, and empty."""
    yield shared
    shared.clear()
    for path in shared.backing.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shared.forget()


@pytest.fixture
def fs_alone(tmp_path: Path) -> Iterator[faultfs.FaultFS]:
    """Mount one for a test after which something may still be at work in it, or nothing at all."""
    if NO_FUSE is not None:
        pytest.skip(f"no FUSE mount: {NO_FUSE}")
    with faultfs.mounted(tmp_path / "bad", limit=60) as mount:
        yield mount


@pytest.fixture
def unmounted() -> Iterator[Path]:
    """Make a directory on the root file system, which nothing else is mounted on."""
    fields = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mounts = set(map(Path, fields)) - {Path("/")}
    places = (Path(tempfile.gettempdir()).resolve(), Path("/var/tmp"), Path("/"))  # noqa: S108 - a place
    place = next(p for p in places if p.is_dir() and not {p, *p.parents} & mounts)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)


def open_file(root: Path, source: Path, *, stall_seconds: float = 20.0) -> Sink:
    """Open a file sink by its URL."""
    return open_sink(
        f"file://{root}", StoreSettings(source=source), stop=Stop(), stall_seconds=stall_seconds
    )


@dataclass(frozen=True)
class Three:
    """A sink that fails between two that do not."""

    source: Path
    bad: Path
    good: tuple[Path, Path]

    def run(
        self,
        *,
        emit: Callable[[Event], None] = lambda _event: None,
        stall_seconds: float = 20.0,
    ) -> BackupResult:
        """Back up to all of them; a later run has a later clock."""
        one, two = (open_file(root, self.source) for root in self.good)
        bad = open_file(self.bad, self.source, stall_seconds=stall_seconds)
        clock = journal_data.Clock()
        clock.advance(minutes=len(manifests(self.good[0])))
        return journal_data.run_backup(
            self.source, [one, bad, two], clock=clock, emit=emit, stall_seconds=stall_seconds
        )

    def problem(self, result: BackupResult) -> str:
        """Insist that all problems are the bad sink's, and are said to be safe; give them."""
        assert worst(result.exit_codes) == 3
        assert {p.sink for p in result.problems} == {f"file://{self.bad}"}
        return " | ".join(" ".join((p.message, *p.hints)) for p in result.problems)


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Path]:
    """Make two sinks that do not fail."""
    roots = (tmp_path / "one", tmp_path / "two")
    for root in roots:
        root.mkdir()
    return roots


@pytest.fixture
def three(source: Path, good: tuple[Path, Path], fs: faultfs.FaultFS) -> Three:
    """Give the faulty file system two good neighbours."""
    return Three(source, fs.root, good)


def manifests(root: Path) -> list[Path]:
    """List the manifests in a sink, oldest first."""
    return sorted(root.glob("journal-*/*.manifest.json"))


def manifest(root: Path, number: int = -1) -> dict[str, object]:
    """Read one of them, the newest for choice."""
    content: dict[str, object] = json.loads(manifests(root)[number].read_bytes())
    return content


def files(root: Path) -> list[str]:
    """List every file there, hidden or not."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def require_whole(root: Path) -> None:
    """Insist that what has the name of an archive is one, as gunzip sees it."""
    for path in root.rglob(ARCHIVE):
        assert gzip.decompress(path.read_bytes())


# -- faults on the way of an archive


@dataclass(frozen=True)
class Fault:
    """What breaks, how the sink tells it, and whether another try could help."""

    name: str
    strike: Callable[[faultfs.FaultFS], object]
    kind: type[SinkError]
    says: str


def failing(op: str, code: int, path: str = PART) -> Callable[[faultfs.FaultFS], object]:
    """Make these calls fail."""
    return lambda fs: fs.fail(op, code, path)


def half_full(fs: faultfs.FaultFS) -> None:
    """Let the disk be full when some of an archive is written."""
    fs.fail("write", errno.ENOSPC, PART, after_bytes=10_000)


FAULTS = (
    Fault("full-halfway", half_full, SinkFullError, "make room"),
    Fault("full-at-mkdir", failing("mkdir", errno.ENOSPC, JOURNAL), SinkFullError, "make room"),
    Fault("full-at-create", failing("create", errno.ENOSPC), SinkFullError, "make room"),
    Fault("full-at-fsync", failing("fsync", errno.ENOSPC), SinkFullError, "make room"),
    Fault("full-at-close", failing("flush", errno.ENOSPC), SinkFullError, "make room"),
    Fault("full-at-link", failing("link", errno.ENOSPC), SinkFullError, "make room"),
    Fault("no-quota", failing("write", errno.EDQUOT), SinkFullError, "quota"),
    Fault("too-large", failing("write", errno.EFBIG), SinkFullError, "File too large"),
    Fault("denied", failing("create", errno.EACCES), SinkDeniedError, f"uid {os.geteuid()} gid"),
    Fault("read-only", failing("create", errno.EROFS), SinkDeniedError, "can be written"),
    Fault("no-links", failing("link", errno.EPERM), SinkUnsupportedError, "with hard links"),
    Fault("links-full", failing("link", errno.EMLINK), SinkUnsupportedError, "with hard links"),
    Fault("io-at-write", failing("write", errno.EIO), SinkUnavailableError, "file server"),
    Fault("io-at-fsync", failing("fsync", errno.EIO), SinkUnavailableError, "file server"),
    Fault("io-at-close", failing("flush", errno.EIO), SinkUnavailableError, "file server"),
    Fault("io-at-link", failing("link", errno.EIO), SinkUnavailableError, "file server"),
    Fault(
        "io-at-fsync-of-directory",
        failing("fsyncdir", errno.EIO, JOURNAL),
        SinkUnavailableError,
        "file server",
    ),
    Fault("stale-at-create", failing("create", errno.ESTALE), SinkUnavailableError, "Stale"),
    Fault("stale-at-write", failing("write", errno.ESTALE), SinkUnavailableError, "Stale"),
    Fault("timeout", failing("fsync", errno.ETIMEDOUT), SinkUnavailableError, "timed out"),
    Fault("unheard-of", failing("fsync", errno.EUCLEAN), SinkError, "needs cleaning"),
)
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.name))


@each_fault
def test_a_put_that_fails_leaves_nothing(fs: faultfs.FaultFS, source: Path, fault: Fault) -> None:
    """Neither an object nor a temporary file; and it says what it was and what to do."""
    sink = open_file(fs.root, source)
    fault.strike(fs)

    with pytest.raises(fault.kind) as caught:
        sink.put(KEY, [b"x" * 9_000] * 3)

    assert type(caught.value) is fault.kind
    assert fault.says in " ".join((caught.value.message, *caught.value.hints))
    assert files(fs.backing) == []

    fs.clear()
    sink.put(KEY, [b"whole"])

    assert sink.read(KEY) == b"whole"


@each_fault
def test_a_sink_that_fails_does_not_stop_the_others(
    fs: faultfs.FaultFS, three: Three, fault: Fault
) -> None:
    """Their backups are whole; the next run is good everywhere, each with its own history."""
    fault.strike(fs)
    result = three.run()

    assert fault.says in three.problem(result)
    assert [len(manifests(root)) for root in (*three.good, fs.backing)] == [1, 1, 0]
    assert files(fs.backing) == []

    fs.clear()

    assert three.run().exit_codes == ()
    assert [manifest(root)["continuity"] for root in (*three.good, fs.backing)] == [
        "unchanged",
        "unchanged",
        "first",
    ]
    require_whole(fs.backing)


@pytest.mark.parametrize("suffix", ["sha256", "manifest.json"])
@pytest.mark.parametrize("op", ["create", "write", "fsync", "flush", "link"])
def test_a_commit_that_fails_leaves_no_backup(
    fs: faultfs.FaultFS, three: Three, op: str, suffix: str
) -> None:
    """The archive is there and whole, but what is not committed does not exist."""
    fs.fail(op, errno.ENOSPC, f"*.{suffix}.*.part")
    result = three.run()

    assert "make room" in three.problem(result)
    assert [len(manifests(root)) for root in (*three.good, fs.backing)] == [1, 1, 0]
    assert not [name for name in files(fs.backing) if name.endswith((".part", suffix))]
    require_whole(fs.backing)

    fs.clear()

    assert three.run().exit_codes == ()
    assert manifest(fs.backing)["continuity"] == "first"


# -- faults that pass


@pytest.mark.parametrize("op", ["write", "fsync", "flush", "link"])
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EIO], ids=errno.errorcode.get)
def test_what_passes_is_made_good_by_a_second_pass(
    fs: faultfs.FaultFS, three: Three, op: str, code: int
) -> None:
    """The journal is read once more for that sink alone, and its archive has a key of its own."""
    fs.fail(op, code, PART, times=2 if op == "link" and code == errno.ESTALE else 1)
    events = journal_data.Events()
    result = three.run(emit=events)

    assert result.exit_codes == ()
    assert len(events.of(PassRepeated)) == 1
    archives = {root: [p.name for p in root.rglob(ARCHIVE)] for root in (*three.good, fs.backing)}
    assert [len(names) for names in archives.values()] == [1, 1, 1]
    assert [names[0].endswith(".2.tar.gz") for names in archives.values()] == [False, False, True]
    assert len({p.read_bytes() for root in archives for p in root.rglob(ARCHIVE)}) == 1


@pytest.mark.parametrize("op", ["create", "write", "fsync", "flush"])
@pytest.mark.parametrize("suffix", ["sha256", "manifest.json"])
def test_a_commit_that_fails_once_is_tried_again(
    fs: faultfs.FaultFS, three: Three, op: str, suffix: str
) -> None:
    """It is small and held in memory: no second pass for it."""
    fs.fail(op, errno.EIO, f"*.{suffix}.*.part", times=1)
    events = journal_data.Events()

    assert three.run(emit=events).exit_codes == ()
    assert events.of(PassRepeated) == []
    assert len(manifests(fs.backing)) == 1
    assert not [name for name in files(fs.backing) if ".2.tar.gz" in name]


def test_a_listing_outlives_a_journal_that_is_removed_meanwhile(
    fs: faultfs.FaultFS, source: Path
) -> None:
    """Its directory was seen and is gone when it is opened: the listing is made once more."""
    sink = open_file(fs.root, source)
    sink.put(KEY, [b"x"])
    fs.fail("opendir", errno.ENOENT, JOURNAL, times=1)
    fs.forget()

    assert [o.key for o in sink.list()] == [KEY]
    assert len(fs.calls("opendir", ".")) == 2


def test_a_journal_that_cannot_be_listed_fails_the_listing(
    fs: faultfs.FaultFS, source: Path
) -> None:
    """Half a listing would pass for a sink without that journal's history."""
    sink = open_file(fs.root, source)
    sink.put(KEY, [b"x"])
    fs.fail("opendir", errno.ENOENT, JOURNAL)

    with pytest.raises(SinkUnavailableError, match="vanished while it was listed"):
        sink.list()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_directory_that_cannot_be_flushed_at_all_is_no_fault(
    fs: faultfs.FaultFS, source: Path, code: int
) -> None:
    """Some file systems have no such operation."""
    sink = open_file(fs.root, source)
    fs.fail("fsyncdir", code)

    sink.put(KEY, [b"x"])

    assert sink.read(KEY) == b"x"


def test_a_large_object_is_flushed_on_the_way(
    fs: faultfs.FaultFS, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its last flush would take longer than a sink may be silent; each is a sign of life."""
    monkeypatch.setattr("backup.sinks.file._BEGIN_BYTES", 1 << 16)
    for name in ("_FIRST_FLUSH_BYTES", "_MIN_FLUSH_BYTES", "_MAX_FLUSH_BYTES"):
        monkeypatch.setattr(f"backup.sinks.file.{name}", 1 << 18)
    signs: list[int] = []
    sink = open_file(fs.root, source)
    sink.put(KEY, [bytes(1 << 15)] * 20, alive=lambda: signs.append(len(fs.calls("fsync", PART))))

    assert signs == [0, 1, 1, 2, 2, 3]
    assert (fs.backing / KEY).stat().st_size == 20 << 15


def test_a_directory_that_could_not_be_flushed_is_flushed_by_the_next_put(
    fs: faultfs.FaultFS, source: Path
) -> None:
    """Or a power failure takes it away with all that is in it; after that, once is enough."""
    sink = open_file(fs.root, source)
    fs.fail("fsyncdir", errno.EIO, ".", times=1)
    with pytest.raises(SinkUnavailableError):
        sink.put(KEY, [b"x"])
    flushes = []
    for suffix in ("", "2", "3"):
        fs.forget()
        sink.put(KEY + suffix, [b"x"])
        flushes.append(len(fs.calls("fsyncdir", ".")))

    assert flushes == [1, 0, 0]


# -- vanishing midway


def at_first_progress(act: Callable[[], object]) -> Callable[[Event], None]:
    """Make a listener that acts when the journal begins to be read."""
    acted = threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Progressed) and not acted.is_set():
            acted.set()
            act()

    return listen


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE, errno.EIO], ids=errno.errorcode.get)
def test_a_sink_that_vanishes_midway_is_told(fs: faultfs.FaultFS, three: Three, code: int) -> None:
    """Whatever its remains are, they have no name of ours, and are swept when they are old."""
    result = three.run(emit=at_first_progress(lambda: fs.vanish(code)))

    assert f"file://{fs.root}" in three.problem(result)
    assert [len(manifests(root)) for root in (*three.good, fs.backing)] == [1, 1, 0]

    fs.clear()
    open_file(fs.root, three.source).sweep(datetime.now(UTC) + timedelta(hours=1))

    assert files(fs.backing) == []
    assert three.run().exit_codes == ()


def test_a_file_server_that_dies_midway_is_told(
    fs_alone: faultfs.FaultFS, source: Path, good: tuple[Path, Path]
) -> None:
    """Every call fails at once then; nothing waits."""
    three = Three(source, fs_alone.root, good)
    begun = time.monotonic()
    result = three.run(emit=at_first_progress(fs_alone.kill))

    assert "file server" in three.problem(result)
    assert [len(manifests(root)) for root in (*good, fs_alone.backing)] == [1, 1, 0]
    assert time.monotonic() - begun < 20


def test_a_sink_whose_root_is_gone_midway_is_not_made_again(
    tmp_path: Path, source: Path, good: tuple[Path, Path]
) -> None:
    """The directory below the mount point is the container's own."""
    (tmp_path / "gone").mkdir()
    three = Three(source, tmp_path / "gone", good)
    result = three.run(emit=at_first_progress(lambda: (tmp_path / "gone").rename(tmp_path / "old")))

    assert "does not exist" in three.problem(result)
    assert [len(manifests(root)) for root in (*good, tmp_path / "old")] == [1, 1, 0]
    assert not (tmp_path / "gone").exists()


@needs_tmpfs
def test_a_volume_that_is_unmounted_midway_swallows_nothing(unmounted: Path, source: Path) -> None:
    """What lies below the mount point is the container's own layer, where a mount is required."""
    root = unmounted / "volume"
    sink = open_sink(
        f"file://{root}?require_mount=true",
        StoreSettings(source=source),
        stop=Stop(),
        stall_seconds=20,
    )
    with tmpfs.small_tmpfs(root):
        sink.probe()
        sink.put(KEY, [b"x"])
        assert [o.key for o in sink.list()] == [KEY]

    for call in (sink.probe, sink.list, lambda: sink.put(KEY, [b"x"]), lambda: sink.size(KEY)):
        with pytest.raises(SinkMissingError, match="nothing is mounted there"):
            call()
    assert files(root) == []


# -- hanging


HANGS = {
    "write": ("write", PART),
    "fsync": ("fsync", PART),
    "link": ("link", PART),
    "fsync-of-directory": ("fsyncdir", JOURNAL),
    "read": ("read", ARCHIVE),
    "list": ("readdir", "*"),
}


@pytest.mark.parametrize("where", HANGS)
def test_a_sink_that_hangs_is_dropped(
    fs_alone: faultfs.FaultFS, source: Path, good: tuple[Path, Path], where: str
) -> None:
    """The others end well and soon; what hung may end later, and commits nothing then."""
    fs, three = fs_alone, Three(source, fs_alone.root, good)
    fs.hang(*HANGS[where])
    try:
        begun = time.monotonic()
        result = three.run(stall_seconds=1.0)
        seconds = time.monotonic() - begun
    finally:
        fs.release()

    problem = three.problem(result)
    assert "no data moved for 1 s" in problem or "no answer for 1 s" in problem
    assert [len(manifests(root)) for root in three.good] == [1, 1]
    assert seconds < 12

    wait_until(lambda: not [name for name in files(fs.backing) if name.endswith(".part")])
    assert manifests(fs.backing) == []
    require_whole(fs.backing)
    assert three.run().exit_codes == ()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- what the sink never asks for


def test_owners_modes_and_times_are_never_set(fs: faultfs.FaultFS, three: Three) -> None:
    """An NFS server that squashes root refuses that, and it is not needed."""
    fs.fail(faultfs.METADATA, errno.EPERM)

    assert three.run().exit_codes == ()
    assert fs.calls(faultfs.METADATA) == []
    assert len(manifests(fs.backing)) == 1


# -- a link whose reply was lost


@pytest.mark.parametrize("code", [None, errno.ETIMEDOUT, errno.EIO, errno.EPERM])
def test_a_link_whose_reply_was_lost_is_success(
    fs: faultfs.FaultFS, source: Path, code: int | None
) -> None:
    """The server made it; what the client is told is "exists", or a failure."""
    fs.hang("link", PART)
    if code is not None:
        fs.fail("link", code, PART)
    try:
        with ThreadPoolExecutor(1) as pool:
            put = pool.submit(open_file(fs.root, source).put, KEY, [b"ours"])
            fs.wait("link", PART)
            (part,) = (fs.backing / JOURNAL).glob(".*.part")
            os.link(part, fs.backing / KEY)
            fs.release()
            put.result(timeout=20)
    finally:
        fs.release()

    assert files(fs.backing) == [KEY]
    assert (fs.backing / KEY).read_bytes() == b"ours"


def test_a_link_of_somebody_else_is_a_conflict(fs: faultfs.FaultFS, source: Path) -> None:
    """Even with the same bytes: another inode is another's object. It stays as it is."""
    fs.hang("link", PART)
    try:
        with ThreadPoolExecutor(1) as pool:
            put = pool.submit(open_file(fs.root, source).put, KEY, [b"theirs"])
            fs.wait("link", PART)
            (fs.backing / KEY).write_bytes(b"theirs")
            fs.release()
            with pytest.raises(ObjectExistsError):
                put.result(timeout=20)
    finally:
        fs.release()

    assert files(fs.backing) == [KEY]
    assert (fs.backing / KEY).read_bytes() == b"theirs"


def test_an_object_found_again_is_flushed_before_it_counts(
    fs: faultfs.FaultFS, source: Path
) -> None:
    """It may be of a try that made the link and failed before its directory was flushed."""
    sink = open_file(fs.root, source)
    sink.put_exclusive(KEY, b"{}")
    fs.forget()
    sink.put_exclusive(KEY, b"{}")

    assert len(fs.calls("fsyncdir", JOURNAL)) == 1


def test_an_exclusive_object_is_not_taken_back(fs: faultfs.FaultFS, source: Path) -> None:
    """Another try, even one that was given up long ago, may have counted it as stored."""
    sink = open_file(fs.root, source)
    fs.fail("fsyncdir", errno.EIO, JOURNAL)

    with pytest.raises(SinkUnavailableError):
        sink.put_exclusive(KEY, b"{}")
    assert files(fs.backing) == [KEY]

    fs.clear()
    sink.put_exclusive(KEY, b"{}")

    assert files(fs.backing) == [KEY]


_WRITER = """
import sys
from pathlib import Path
from backup.errors import ObjectExistsError
from backup.settings import StoreSettings
from backup.sinks import open_sink
from backup.stop import Stop

url, key, text = sys.argv[1:]
sink = open_sink(url, StoreSettings(source=Path("/nowhere")), stop=Stop())

def chunks():
    yield text.encode()
    print("ready", flush=True)
    sys.stdin.read()
    yield text.encode()

try:
    sink.put(key, chunks())
except ObjectExistsError:
    sys.exit(5)
"""


def test_of_several_processes_that_write_one_key_one_wins(
    fs: faultfs.FaultFS, source: Path
) -> None:
    """All are in the middle of it at once; the object is the winner's, whole."""
    texts = ("a" * 5_000, "b" * 5_000, "c" * 5_000)
    arguments = [sys.executable, "-c", _WRITER, f"file://{fs.root}", KEY]
    writers = [
        subprocess.Popen(
            [*arguments, text], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for text in texts
    ]
    try:
        for writer in writers:
            assert writer.stdout
            assert writer.stdout.readline() == b"ready\n"
        for writer in writers:
            writer.communicate(timeout=20)
    finally:
        for writer in writers:
            writer.kill()

    codes = [writer.returncode for writer in writers]
    assert sorted(codes) == [0, 5, 5]
    assert (fs.backing / KEY).read_text() == texts[codes.index(0)] * 2
    assert files(fs.backing) == [KEY]


# -- reading back


def test_reading_asks_the_server_and_not_the_page_cache(tmp_path: Path, source: Path) -> None:
    """What was just written is in memory, and as it was sent; what counts is what is stored."""
    if NO_FUSE is not None:
        pytest.skip(f"no FUSE mount: {NO_FUSE}")
    with faultfs.mounted(tmp_path / "cached", cache=True, limit=60) as fs:
        sink = open_file(fs.root, source)
        sink.put(KEY, [b"sent" * 10_000])
        (fs.root / KEY).read_bytes()
        fs.flip(KEY, 20_000)
        cached = (fs.root / KEY).read_bytes()
        read = b"".join(sink.open(KEY))

    assert cached == b"sent" * 10_000
    assert [i for i in range(40_000) if read[i] != cached[i]] == [20_000]


def test_a_byte_that_changed_on_the_way_is_made_good(fs: faultfs.FaultFS, three: Three) -> None:
    """The archive is stored once more under a key of its own, and the bad one is removed."""
    fs.flip(ARCHIVE, 100, times=1)

    assert three.run().exit_codes == ()
    assert [p.name.endswith(".2.tar.gz") for p in fs.backing.rglob(ARCHIVE)] == [True]
    (checksum,) = fs.backing.rglob("*.sha256")
    subprocess.run(["sha256sum", "-c", checksum.name], cwd=checksum.parent, check=True)


def test_a_sink_that_always_changes_what_it_stores_is_not_trusted(
    fs: faultfs.FaultFS, three: Three
) -> None:
    """No manifest there; another sink holds the journal, so the run is safe."""
    fs.flip(ARCHIVE, 100)

    assert "do not trust it" in three.problem(three.run())
    assert [len(manifests(root)) for root in (*three.good, fs.backing)] == [1, 1, 0]
    assert not list(fs.backing.rglob(ARCHIVE))


def test_a_sink_that_always_changes_what_it_stores_alone_is_damage(
    fs: faultfs.FaultFS, source: Path
) -> None:
    """The journal is nowhere, and somebody's storage lies."""
    fs.flip(ARCHIVE, 100)
    result = journal_data.run_backup(source, [open_file(fs.root, source)])

    assert worst(result.exit_codes) == 6
    assert manifests(fs.backing) == []


def test_a_commit_that_reads_back_otherwise_is_not_trusted(
    fs: faultfs.FaultFS, three: Three
) -> None:
    """A manifest is what everything else is judged by."""
    fs.flip("*.manifest.json", 10)

    assert "cannot be trusted" in three.problem(three.run())


# -- places that are refused


@dataclass(frozen=True)
class Refusal:
    """A place that cannot be a sink; what is said of it, and the exit code if there is no other."""

    name: str
    url: Callable[[pytest.FixtureRequest, ExitStack], str]
    exit_code: int
    says: tuple[str, ...]


def _below(name: str) -> Callable[[pytest.FixtureRequest, ExitStack], str]:
    return lambda request, _stack: f"file://{request.getfixturevalue('tmp_path')}/{name}"


def _file(request: pytest.FixtureRequest, _stack: ExitStack) -> str:
    path: Path = request.getfixturevalue("tmp_path") / "file"
    path.write_bytes(b"")
    return f"file://{path}"


def _inside(request: pytest.FixtureRequest, _stack: ExitStack) -> str:
    path: Path = request.getfixturevalue("source") / "sink"
    path.mkdir()
    return f"file://{path}"


def _read_only(request: pytest.FixtureRequest, stack: ExitStack) -> str:
    if NO_FUSE is not None:
        pytest.skip(f"no FUSE mount: {NO_FUSE}")
    path: Path = request.getfixturevalue("tmp_path") / "ro"
    return f"file://{stack.enter_context(faultfs.mounted(path, read_only=True, limit=60)).root}"


def _no_links(request: pytest.FixtureRequest, _stack: ExitStack) -> str:
    fs: faultfs.FaultFS = request.getfixturevalue("fs")
    fs.fail("link", errno.EOPNOTSUPP)
    return f"file://{fs.root}"


def _full(request: pytest.FixtureRequest, _stack: ExitStack) -> str:
    fs: faultfs.FaultFS = request.getfixturevalue("fs")
    fs.fail("write", errno.ENOSPC)
    return f"file://{fs.root}"


def _unmounted(request: pytest.FixtureRequest, _stack: ExitStack) -> str:
    return f"file://{request.getfixturevalue('unmounted')}?require_mount=true"


REFUSALS = (
    Refusal("missing", _below("absent"), 5, ("does not exist", "create the directory")),
    Refusal("file", _file, 5, ("is not a directory", "mount the volume there")),
    Refusal("inside-source", _inside, 2, ("journals' own directory", "outside BACKUP_SOURCE")),
    Refusal("read-only", _read_only, 5, ("Read-only file system", "can be written")),
    Refusal("no-links", _no_links, 5, ("no hard links", "with hard links: NFS")),
    Refusal("full", _full, 5, ("No space left", "make room")),
    Refusal("no-mount", _unmounted, 5, ("nothing is mounted", "BACKUP_FILE_REQUIRE_MOUNT=false")),
)
each_refusal = pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: str(refusal.name))


@each_refusal
def test_a_place_that_cannot_be_a_sink_is_refused(
    request: pytest.FixtureRequest, source: Path, refusal: Refusal
) -> None:
    """The real command says what is wrong and what to do, and stores nothing at all."""
    with ExitStack() as stack:
        url = refusal.url(request, stack)
        ended = command(source, url)

        assert ended.returncode == refusal.exit_code
        for words in refusal.says:
            assert words in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        assert files(Path(urlsplit(url).path)) == []


@each_refusal
def test_a_place_that_cannot_be_a_sink_does_not_stop_the_others(
    request: pytest.FixtureRequest, source: Path, good: tuple[Path, Path], refusal: Refusal
) -> None:
    """They have their backups; a mistake in the settings is told as one all the same."""
    options = StoreSettings(source=source)
    with ExitStack() as stack:
        bad = open_sink(refusal.url(request, stack), options, stop=Stop(), stall_seconds=20)
        result = journal_data.run_backup(
            source, [open_file(good[0], source), bad, open_file(good[1], source)]
        )

    assert worst(result.exit_codes) == (2 if refusal.exit_code == 2 else 3)
    assert [p.sink for p in result.problems] == [bad.url]
    assert [len(manifests(root)) for root in good] == [1, 1]


@pytest.mark.parametrize(
    ("setting", "query", "refused"),
    [
        (True, "", True),
        (True, "?require_mount=false", False),
        (False, "", False),
        (False, "?require_mount=true", True),
    ],
)
def test_a_url_overrides_whether_a_mount_is_required(
    unmounted: Path, source: Path, query: str, *, setting: bool, refused: bool
) -> None:
    """One sink of several may be a directory of the node, on purpose."""
    options = StoreSettings(source=source, file=FileOptions(require_mount=setting))
    result = journal_data.run_backup(
        source, [open_sink(f"file://{unmounted}{query}", options, stop=Stop())]
    )

    assert worst(result.exit_codes) == (5 if refused else 0)
    assert len(manifests(unmounted)) == (0 if refused else 1)


@needs_tmpfs
def test_a_mounted_volume_is_one(tmp_path: Path, source: Path) -> None:
    """Also where its name is written with an escape, and the sink is a directory in it."""
    with tmpfs.small_tmpfs(tmp_path / "my volume") as volume:
        (volume / "site").mkdir()
        url = f"file://{tmp_path}/my%20volume/site?require_mount=true"
        sink = open_sink(url, StoreSettings(source=source), stop=Stop())

        assert journal_data.run_backup(source, [sink]).exit_codes == ()
        assert len(manifests(volume / "site")) == 1


_AS_ANOTHER = """
import locale, os, sys  # argparse imports locale when it is used: by then it may be out of reach
from backup import cli, config, log, report
from backup.sinks import file
from backup.verbs import backup

os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
sys.exit(cli.main(["backup"]))
"""


def test_a_sink_of_another_user_is_refused_with_ids() -> None:
    """The uid and gid that ask are told: they are what the export or the pod has to change."""
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        base.chmod(0o755)
        source, sink = base / "source", base / "sink"
        journal_data.write_journal(source, 0, journal_data.records(3))
        sink.mkdir(mode=0o555)
        prepare = ("-c", _AS_ANOTHER, str(uid)) if uid == NOBODY else ("-m", "backup", "backup")
        ended = command(source, f"file://{sink}", prepare=prepare)

        assert ended.returncode == 5
        assert "Permission denied" in ended.stderr
        assert f"uid {uid} gid " in ended.stderr
        assert files(sink) == []


@needs_tmpfs
def test_a_volume_that_is_really_full_is_good_again_once_there_is_room(tmp_path: Path) -> None:
    """Nothing half-written is left in the way of the next run, which needs that room."""
    source = tmp_path / "source"
    data = journal_data.records(9_000)
    journal_data.write_journal(source, 0, data)
    with tmpfs.small_tmpfs(tmp_path / "volume", size="1m") as volume:
        full = command(source, f"file://{volume}")

        assert full.returncode == 5
        assert "No space left on device" in full.stderr
        assert files(volume) == []

        subprocess.run(["mount", "-o", "remount,size=16m", volume], check=True)
        again = command(source, f"file://{volume}")

        assert again.returncode == 0
        (checksum,) = volume.rglob("*.sha256")
        subprocess.run(["sha256sum", "-c", checksum.name], cwd=checksum.parent, check=True)
        (archive,) = volume.rglob(ARCHIVE)
        unpacked = subprocess.run(
            ["tar", "xzOf", archive, f"{JOURNAL}/journal"], capture_output=True, check=True
        )
        assert unpacked.stdout == data


@pytest.mark.parametrize("op", ["create", "write", "fsync", "flush", "link"])
def test_a_probe_finds_out_what_a_put_needs(fs: faultfs.FaultFS, source: Path, op: str) -> None:
    """A run that cannot commit is told so before it has sent an archive; no trace is left."""
    fs.fail(op, errno.EPERM)

    with pytest.raises(SinkUnsupportedError if op == "link" else SinkDeniedError):
        open_file(fs.root, source).probe()
    assert files(fs.backing) == []


# -- the process


def test_the_command_ends_while_a_call_still_hangs(fs: faultfs.FaultFS, source: Path) -> None:
    """A thread in a system call cannot be ended; the process can, at its deadline."""
    fs.hang("write", PART)
    try:
        ended = command(source, f"file://{fs.root}", settings={"BACKUP_DEADLINE": "1s"})
    finally:
        fs.release()

    assert ended.returncode == 9
    assert "the deadline of 1 s is over" in ended.stderr
    assert manifests(fs.backing) == []


def test_a_signal_ends_the_command_while_a_call_hangs(fs: faultfs.FaultFS, source: Path) -> None:
    """Kubernetes sends SIGTERM, and SIGKILL when the grace is over."""
    fs.hang("fsync", PART)
    process = start(source, f"file://{fs.root}")
    try:
        fs.wait("fsync", PART, timeout=20)
        process.terminate()
        process.communicate(timeout=20)
    finally:
        process.kill()
        fs.release()

    assert process.returncode == 128 + signal.SIGTERM
    assert manifests(fs.backing) == []


_DROPPING = """
import sys
from pathlib import Path
from backup.report import worst
from backup.settings import StoreSettings
from backup.sinks import open_sink
from backup.stop import Stop
from tests import journal_data

source, *urls = sys.argv[1:]
options = StoreSettings(source=Path(source))
sinks = [open_sink(url, options, stop=Stop(), stall_seconds=1) for url in urls]
result = journal_data.run_backup(Path(source), sinks, stall_seconds=1)
sys.exit(worst(result.exit_codes))
"""


def test_a_process_that_dropped_a_sink_ends(
    fs: faultfs.FaultFS, source: Path, tmp_path: Path
) -> None:
    """What it left behind hangs in a thread until the file server lives again; nobody waits."""
    (tmp_path / "good").mkdir()
    urls = (f"file://{fs.root}", f"file://{tmp_path}/good")
    fs.hang("write", PART)
    try:
        ended = command(source, prepare=("-c", _DROPPING, str(source), *urls))
    finally:
        fs.release()

    assert (ended.returncode, ended.stderr) == (3, "")
    assert len(manifests(tmp_path / "good")) == 1


def start(
    source: Path,
    *urls: str,
    prepare: Sequence[str] = ("-m", "backup", "backup"),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[str]:
    """Start the real command."""
    ours = {"BACKUP_SOURCE": str(source), "BACKUP_SINKS": ",".join(urls), **settings}
    inherited = {n: v for n, v in os.environ.items() if not n.startswith("BACKUP_")}
    return subprocess.Popen(
        [sys.executable, *prepare],
        cwd=CHECKOUT,
        env=inherited | ours,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(source: Path, *urls: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command to its end."""
    process = start(source, *urls, **how)
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
