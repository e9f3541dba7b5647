"""Each fault does what it says, and nothing of the mount is left behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from functools import partial
from pathlib import Path

import pytest

from tests import faultfs
from tests.faultfs import tmpfs

NOBODY = 65534
REASON = faultfs.available()

needs_fuse = pytest.mark.skipif(REASON is not None, reason=f"no FUSE mount: {REASON}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def fs(tmp_path: Path) -> Iterator[faultfs.FaultFS]:
    """Mount a file system, as yet without faults."""
    if REASON is not None:
        pytest.skip(f"no FUSE mount: {REASON}")
    with faultfs.mounted(tmp_path, limit=30) as mount:
        yield mount


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Make threads for calls that hang."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


def failure(call: Callable[[], object]) -> int | None:
    """Return the errno that a call fails with, or None."""
    try:
        call()
    except OSError as error:
        return error.errno
    return None


def is_mounted(path: Path) -> bool:
    """Tell whether a file system is mounted at a path, dead or alive."""
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def names(directory: Path) -> list[str]:
    """List a directory by the one call readdir."""
    return sorted(path.name for path in directory.iterdir())


def test_passes_through_what_a_sink_does(fs: faultfs.FaultFS) -> None:
    """Files, names, links, syncs and times arrive, and no metadata call is made up on the way."""
    directory = fs.root / "journal-deepgram-billing-0"
    directory.mkdir()
    part, name = directory / ".x.part", os.fsdecode(b"a \xff\n")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    os.write(fd, b"x" * 100_000)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    part.rename(directory / name)
    (directory / "linked").hardlink_to(directory / name)
    (directory / "link").symlink_to("linked")
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)

    assert sorted(["link", "linked", name]) == names(directory)
    assert (fs.backing / directory.name / name).read_bytes() == b"x" * 100_000
    expected, found = (fs.backing / directory.name / name).stat(), (directory / "link").stat()
    for field in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_size", "st_mtime_ns"):
        assert getattr(expected, field) == getattr(found, field)
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert failure(lambda: os.open(directory / "link", os.O_NOFOLLOW)) == errno.ELOOP
    assert failure(lambda: (directory / "linked").hardlink_to(directory / name)) == errno.EEXIST
    assert os.statvfs(fs.backing).f_blocks == os.statvfs(fs.root).f_blocks
    assert fs.calls(faultfs.METADATA) == []
    logged = [call.op for call in fs.calls("write|fsync|rename|link|fsyncdir")]
    assert logged == ["write", "fsync", "rename", "link", "fsyncdir"]
    assert [call.size for call in fs.calls("write", part)] == [100_000]

    os.utime(part.parent / "linked", ns=(1, 2))
    (directory / "linked").unlink()
    (directory / "link").unlink()

    assert (fs.backing / directory.name / name).stat().st_mtime_ns == 2
    assert [name] == names(fs.backing / directory.name)


def test_an_open_file_survives_its_removal(fs: faultfs.FaultFS) -> None:
    """A reader keeps the old file when the path is unlinked or replaced, and sees its inode."""
    (fs.backing / "new").write_bytes(b"new")
    (fs.backing / "old").write_bytes(b"old")
    with (fs.root / "old").open("rb") as old:
        before = os.fstat(old.fileno())
        (fs.root / "new").rename(fs.root / "old")

        assert before.st_ino == os.fstat(old.fileno()).st_ino != (fs.root / "old").stat().st_ino
        assert old.read() == b"old"
        assert names(fs.root) == ["old"]


@pytest.mark.parametrize(
    ("op", "code", "call"),
    [
        ("create", errno.EROFS, lambda f: f.with_name("other").touch()),
        ("open", errno.EACCES, Path.read_bytes),
        ("read", errno.EIO, Path.read_bytes),
        ("write", errno.ENOSPC, lambda f: f.write_bytes(b"x")),
        ("flush", errno.EDQUOT, Path.read_bytes),
        ("getattr", errno.ESTALE, Path.stat),
        ("link", errno.EMLINK, lambda f: f.with_name("other").hardlink_to(f)),
        ("link", errno.EOPNOTSUPP, lambda f: f.with_name("other").hardlink_to(f)),
        ("rename", errno.ESTALE, lambda f: f.rename(f.with_name("other"))),
        ("unlink", errno.EBUSY, Path.unlink),
        ("mkdir", errno.EROFS, lambda f: f.with_name("other").mkdir()),
        ("readdir", errno.EIO, lambda f: names(f.parent)),
        ("statfs", errno.EIO, os.statvfs),
        (faultfs.METADATA, errno.EPERM, lambda f: f.chmod(0o600)),
        (faultfs.METADATA, errno.EPERM, lambda f: os.chown(f, 1, 1)),
        (faultfs.METADATA, errno.EPERM, os.utime),
    ],
)
def test_fails(fs: faultfs.FaultFS, op: str, code: int, call: Callable[[Path], object]) -> None:
    """An operation fails with the error ordered, and works again when the fault is lifted."""
    file = fs.root / "file"
    (fs.backing / "file").write_bytes(b"x")
    fault = fs.fail(op, code)

    assert code == failure(lambda: call(file))

    fs.clear(fault)

    assert failure(lambda: call(file)) is None


def test_limits(fs: faultfs.FaultFS) -> None:
    """A fault waits for its calls and bytes, strikes so often, and only on its paths."""
    flags = os.O_WRONLY | os.O_CREAT
    one, two = os.open(fs.root / "1.part", flags), os.open(fs.root / "2", flags)
    fs.fail("write", errno.EIO, "*.part", after=1, times=1)
    for fd in (one, two):
        os.write(fd, b"x")

    met = [failure(partial(os.write, fd, b"x")) for fd in (two, one, one)]
    assert met == [None, errno.EIO, None]

    fs.clear()
    fs.fail("write", errno.ENOSPC, fs.root / "2", after_bytes=150)

    met = [failure(partial(os.write, two, bytes(size))) for size in (100, 51, 50, 1)]
    assert met == [None, errno.ENOSPC, None, errno.ENOSPC]

    fs.clear()
    fs.fail("getattr", errno.EIO, "2", seconds=0.2)

    assert failure((fs.root / "2").stat) == errno.EIO
    time.sleep(0.2)
    assert failure((fs.root / "2").stat) is None
    os.close(one)
    os.close(two)


def test_refuses_a_misspelt_operation(fs: faultfs.FaultFS) -> None:
    """A fault that could never strike is an error, and so is a look for calls never made."""
    with pytest.raises(RuntimeError, match="no such operation: utime"):
        fs.fail("chown|utime", errno.EPERM)
    with pytest.raises(RuntimeError, match="no such operation: close"):
        fs.calls("close")


def test_hangs_until_released(fs: faultfs.FaultFS, pool: ThreadPoolExecutor) -> None:
    """A hanging call stops neither the others nor the control, and does its work at last."""
    (fs.backing / "other").write_bytes(b"x")
    fs.hang("write", "file")
    stuck = pool.submit((fs.root / "file").write_bytes, b"late")
    fs.wait("write", "file")
    with pytest.raises(StillRunning):
        stuck.result(timeout=0.1)

    assert (fs.root / "other").read_bytes() == b"x"
    assert (fs.backing / "file").read_bytes() == b""

    fs.release()

    assert stuck.result(timeout=5) == 4
    assert (fs.backing / "file").read_bytes() == b"late"


def test_killing_its_caller_ends_a_hang(fs: faultfs.FaultFS) -> None:
    """As on a hard NFS mount, SIGKILL ends a process that hangs, and no lesser signal does."""
    fs.hang("fsync")
    code = (
        "import os, signal, sys, threading\n"
        "signal.signal(signal.SIGTERM, print)\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "os.fsync(fd)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(fs.root / "file")]) as process:
        fs.wait("fsync", "file")
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()

        assert process.wait(timeout=2) == -signal.SIGKILL


def test_exit_leaves_a_hanging_thread_behind(fs: faultfs.FaultFS) -> None:
    """A process may exit while a thread of it hangs: its exit is the thread's end."""
    fs.hang("write|flush")
    code = (
        "import os, sys, threading, time\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "threading.Thread(target=os.write, args=(fd, b'x'), daemon=True).start()\n"
        "sys.stdin.read()\n"
        "os._exit(7)\n"
    )
    command = [sys.executable, "-c", code, str(fs.root / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        fs.wait("write", "file")
        process.communicate(timeout=5)

        assert process.returncode == 7


def test_freezes_and_thaws(fs: faultfs.FaultFS, pool: ThreadPoolExecutor) -> None:
    """A stopped server answers nobody, and everybody once it goes on."""
    fs.freeze()
    stuck = pool.submit(names, fs.root)
    with pytest.raises(StillRunning):
        stuck.result(timeout=0.1)
    with pytest.raises(RuntimeError, match="frozen"):
        fs.clear()

    fs.thaw()

    assert stuck.result(timeout=5) == []
    assert len(fs.calls("readdir")) == 1


def test_vanishes(fs: faultfs.FaultFS) -> None:
    """All that is tried fails, also on an open file, until the file system is back."""
    with (fs.root / "file").open("wb", buffering=0) as file:
        file.write(b"x")
        fs.vanish(errno.ESTALE)

        for call in (
            lambda: file.write(b"y"),
            lambda: os.fsync(file.fileno()),
            lambda: names(fs.root),
            (fs.root / "file").stat,
            (fs.root / "other").touch,
        ):
            assert failure(call) == errno.ESTALE
        fs.clear()

    assert (fs.root / "file").read_bytes() == b"x"


def test_kill(fs: faultfs.FaultFS, pool: ThreadPoolExecutor) -> None:
    """What hangs in a dead server is aborted; the mount is there, and not connected."""
    fs.hang("mkdir")
    stuck = pool.submit(failure, (fs.root / "directory").mkdir)
    fs.wait("mkdir")

    fs.kill()

    assert stuck.result(timeout=5) == errno.ECONNABORTED
    assert failure(fs.root.stat) == errno.ENOTCONN
    assert is_mounted(fs.root)


def test_hole(fs: faultfs.FaultFS) -> None:
    """A hole reads as NULs in a file of full size, until it is filled or its time is over."""
    file = fs.root / "journal"
    (fs.backing / "journal").write_bytes(b"0123456789")
    fs.hole(file, 4, 8)
    with file.open("rb") as opened:
        assert os.fstat(opened.fileno()).st_size == 10
        assert opened.read() == b"0123\0\0\0\x0089"
        assert os.pread(opened.fileno(), 2, 3) == b"3\0"
        assert os.pread(opened.fileno(), 10, 8) == b"89"

        fs.fill(file)

        assert os.pread(opened.fileno(), 10, 0) == b"0123456789"

    fs.hole(file, 0, 1 << 40, seconds=0.2)

    assert bytes(10) == file.read_bytes()
    time.sleep(0.2)
    assert file.read_bytes() == b"0123456789"


def test_flip(fs: faultfs.FaultFS) -> None:
    """One byte of a file yet to be written reads wrong; the rest, and the store, are right."""
    fs.flip("*.tar.gz", 2)
    fs.flip("once", 0, times=1)
    file = fs.root / "x.tar.gz"
    for path in (file, fs.root / "once"):
        path.write_bytes(b"abcd")

    assert [file.read_bytes(), file.read_bytes()] == [b"ab\x9cd", b"ab\x9cd"]
    assert (fs.backing / "x.tar.gz").read_bytes() == b"abcd"
    assert [(fs.root / "once").read_bytes() for _ in range(2)] == [b"\x9ebcd", b"abcd"]


def test_short(fs: faultfs.FaultFS) -> None:
    """Reads give less than was asked for, or the file ends before its size."""
    (fs.backing / "file").write_bytes(b"0123456789")
    with (fs.root / "file").open("rb", buffering=0) as file:
        few = fs.short("file", each=3)
        assert file.read(10) == b"012"
        assert file.read(10) == b"345"

        fs.clear(few)
        fs.short("file", end=7)
        assert file.read(10) == b"6"
        assert file.read(10) == b""
        assert os.fstat(file.fileno()).st_size == 10


@needs_fuse
def test_the_page_cache_hides_what_the_store_holds(tmp_path: Path) -> None:
    """With a cache, what was written is read back from memory, unless it is dropped first."""
    with faultfs.mounted(tmp_path, cache=True, limit=30) as fs:
        fs.flip("file", 0)
        (fs.root / "file").write_bytes(bytes(8192))
        with (fs.root / "file").open("rb", buffering=0) as file:
            assert bytes(8192) == file.read()
            assert fs.calls("read") == []

            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)

            assert b"\xff" + bytes(8191) == file.read()


@needs_fuse
@needs_root
def test_other_users(tmp_path: Path) -> None:
    """Another user comes in, owns what it makes, and meets the modes of what is not its own."""
    with faultfs.mounted(tmp_path, allow_other=True, limit=30) as fs:
        fs.backing.chmod(0o777)
        (fs.backing / "secret").touch(0o600)
        done = subprocess.run(
            ["sh", "-c", "mkdir mine; echo > mine/file; cat secret"],
            cwd=fs.root, user=NOBODY, group=NOBODY, extra_groups=[],
            env=os.environ | {"LC_ALL": "C"}, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

        assert "secret: Permission denied" in done.stderr
        made = (fs.backing / "mine", fs.backing / "mine" / "file")
        assert [(p.stat().st_uid, p.stat().st_gid) for p in made] == [(NOBODY, NOBODY)] * 2
        assert fs.calls("chown") == []


@needs_fuse
def test_read_only(tmp_path: Path) -> None:
    """A read-only mount says so itself, and takes nothing."""
    with faultfs.mounted(tmp_path, read_only=True, limit=30) as fs:
        assert failure((fs.root / "file").touch) == errno.EROFS
        assert os.statvfs(fs.root).f_flag & os.ST_RDONLY


@needs_fuse
@pytest.mark.parametrize("fault", ["hang", "freeze", "kill"])
def test_unmounts_when_the_body_fails(tmp_path: Path, pool: ThreadPoolExecutor, fault: str) -> None:
    """Whatever the server is in, a failing test ends it, its mount and the calls in it."""
    stuck = None
    with pytest.raises(ZeroDivisionError), faultfs.mounted(tmp_path, limit=30) as fs:  # noqa: PT012
        getattr(fs, fault)()
        stuck = pool.submit(failure, fs.root.stat)
        time.sleep(0.05)
        _ = 1 / 0

    assert not is_mounted(fs.root)
    assert stuck is not None
    assert stuck.result(timeout=5) in (errno.ECONNABORTED, errno.ENOTCONN)
    assert not Path(f"/proc/{fs._pid}").exists()


@needs_fuse
def test_limit_ends_a_body_that_hangs(tmp_path: Path) -> None:
    """A test that hangs in its own mount gets an error, not a dead run."""
    with faultfs.mounted(tmp_path, limit=0.5) as fs:
        fs.hang()

        assert failure(fs.root.stat) == errno.ECONNABORTED

    assert not is_mounted(fs.root)


@needs_fuse
@pytest.mark.parametrize(("fault", "limit"), [("hang", 60), ("clear", 60), ("freeze", 1)])
def test_unmounts_when_the_test_is_killed(tmp_path: Path, fault: str, limit: float) -> None:
    """A run that is killed outright, even while it hangs in it, leaves no mount behind."""
    code = (
        "import pathlib, sys, time\n"
        "from tests import faultfs\n"
        "with faultfs.mounted(pathlib.Path(sys.argv[1]), limit=float(sys.argv[3])) as fs:\n"
        "    getattr(fs, sys.argv[2])()\n"
        "    print('ready', flush=True)\n"
        "    fs.root.stat()\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), fault, str(limit)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert is_mounted(tmp_path / "root")
        process.kill()
        process.wait(timeout=5)
    deadline = time.monotonic() + 5
    while is_mounted(tmp_path / "root") and time.monotonic() < deadline:
        time.sleep(0.02)

    assert not is_mounted(tmp_path / "root")


@pytest.mark.skipif(tmpfs.available() is not None, reason=f"no tmpfs: {tmpfs.available()}")
def test_small_tmpfs_fills_up(tmp_path: Path) -> None:
    """A tmpfs takes what it has room for, and is gone at the end, also when still in use."""
    with tmpfs.small_tmpfs(tmp_path / "sink", size="1m") as sink:
        (sink / "half").write_bytes(bytes(1 << 19))
        held = (sink / "half").open("rb")

        assert failure(lambda: (sink / "rest").write_bytes(bytes(1 << 20))) == errno.ENOSPC

    assert not is_mounted(sink)
    held.close()
