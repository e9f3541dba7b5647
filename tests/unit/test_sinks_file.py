"""The file sink's own rules, on a file system that does as it should."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectMissingError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkMissingError,
    SinkUnavailableError,
)
from backup.settings import StoreSettings
from backup.sinks import Place, file
from backup.sinks.file import FileSink
from backup.sinks.kinds import FileOptions
from backup.stop import Stop

KEY = "journal-a-0/journal-a-0.tar.gz"

MEANINGS = {
    **dict.fromkeys(["ENOSPC", "EDQUOT", "EFBIG"], (SinkFullError, "make room")),
    **dict.fromkeys(["EACCES", "EPERM"], (SinkDeniedError, f"uid {os.geteuid()} gid")),
    "EROFS": (SinkDeniedError, "can be written"),
    "EEXIST": (ObjectExistsError, ""),
    "ENOENT": (ObjectMissingError, ""),
    "ENOTDIR": (ObjectMissingError, ""),
    **dict.fromkeys(
        (
            *("ESTALE", "EIO", "EREMOTEIO", "EAGAIN", "EINTR", "EBUSY", "ETIMEDOUT", "ENOTCONN"),
            *("ECONNABORTED", "ECONNREFUSED", "ECONNRESET"),
            *("EHOSTDOWN", "EHOSTUNREACH", "ENETUNREACH"),
        ),
        (SinkUnavailableError, "file server"),
    ),
}


def make(
    root: Path,
    source: Path | None = None,
    *,
    require_mount: bool = False,
    kind: type[FileSink] = FileSink,
) -> FileSink:
    """Open a sink."""
    return kind(
        Place(path=str(root), options=FileOptions(require_mount=require_mount)),
        StoreSettings(source=source or root.parent / "source"),
        stop=Stop(),
        stall_seconds=20,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make its directory."""
    made = tmp_path / "sink"
    made.mkdir()
    return made


@pytest.mark.parametrize("code", sorted(errno.errorcode.values()))
def test_every_code_of_the_system_has_its_meaning(root: Path, code: str) -> None:
    """Whether it may pass, and what to do about it."""
    kind, hint = MEANINGS.get(code, (SinkError, ""))
    number = getattr(errno, code)

    said = make(root)._translate("do this", OSError(number, os.strerror(number)))

    assert type(said) is kind
    assert os.strerror(number) in said.message
    assert hint in " ".join(said.hints)
    assert bool(said.hints) is bool(hint)


def test_a_root_that_is_gone_is_no_missing_object(root: Path) -> None:
    """An unmounted volume must not look like a sink that lacks something."""
    sink = make(root)
    root.rmdir()
    for call in (sink.list, lambda: sink.size(KEY), lambda: sink.put(KEY, [b"x"]), sink.probe):
        with pytest.raises(SinkMissingError, match="does not exist"):
            call()

    assert not root.exists(), "nothing makes it again"


def test_a_file_in_its_place_is_told(root: Path) -> None:
    """Rather than that it does not exist, where everybody sees that it does."""
    (root / "file").write_bytes(b"")

    with pytest.raises(SinkMissingError, match="is not a directory"):
        make(root / "file").probe()
    with pytest.raises(SinkMissingError, match="Not a directory"):
        make(root / "file" / "below").probe()


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_sink_inside_the_source_is_a_mistake_in_the_settings(tmp_path: Path, below: str) -> None:
    """Backups would be written on the volume that billing writes on; also by way of a link."""
    source = tmp_path / "source"
    (source / "sub" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(source)
    for way in (source, tmp_path / "link"):
        with pytest.raises(ConfigError, match="lies inside the journals' own directory"):
            make(way / below, source).probe()

    assert sorted(p.name for p in source.rglob("*")) == ["sub", "sub"]


def test_a_sink_beside_the_source_is_fine(tmp_path: Path) -> None:
    """Even if its name begins in the same way."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source-backups").mkdir()

    make(tmp_path / "source-backups", tmp_path / "source").probe()


def test_the_root_file_system_is_no_mount() -> None:
    """Where a mount is required, what is written there would be gone with the container."""
    sink = make(Path("/"), Path("/nowhere"), require_mount=True)
    for call in (sink.probe, sink.list, lambda: sink.put("x", [b"x"])):
        with pytest.raises(SinkMissingError, match="nothing is mounted there") as caught:
            call()

        assert "BACKUP_FILE_REQUIRE_MOUNT=false" in " ".join(caught.value.hints)
    assert not Path("/x").exists()


@pytest.mark.parametrize("place", ["/proc", "/proc/self"])
def test_a_mount_is_found_above_a_directory(place: str) -> None:
    """The sink may be a directory in the volume."""
    assert file._mount_point(Path(place).resolve()) == Path("/proc")


def test_a_mount_s_name_is_read_as_proc_writes_it() -> None:
    """Blanks, tabs, newlines and backslashes are octal there."""
    assert file._unescaped(r"/mnt/with\040blank\134\011\012") == "/mnt/with blank\\\t\n"


class OddEntry:
    """An entry of a directory that was last changed at some odd time."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name = name
        self._seconds = seconds

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        """Give its state."""
        return os.stat_result((0, 0, 0, 0, 0, 0, 5, 0, self._seconds, 0))


class OddSink(FileSink):
    """A sink whose file system keeps times that no calendar has, as tmpfs and xfs do."""

    def _walk(self, directory: Path, below: str) -> Iterator[tuple[str, Any]]:
        for number, seconds in enumerate((-(1 << 62), 1 << 33, 300_000_000_000)):
            yield f"stray{number}", OddEntry(f"stray{number}", seconds)


def test_times_that_no_calendar_has_do_not_hide_the_rest(root: Path) -> None:
    """One stray file of an odd date would make the whole sink unlistable."""
    found = make(root, kind=OddSink).list()

    assert [o.modified_at.year for o in found] == [1970, 2242, 9999]


@pytest.mark.parametrize(
    ("size", "seconds", "following"),
    [
        (4 << 20, 0.0, 32 << 20),
        (4 << 20, 1.25, 8 << 20),
        (4 << 20, 2.5, 4 << 20),
        (4 << 20, 5.0, 2 << 20),
        (4 << 20, 50.0, 1 << 20),
        (64 << 20, 0.1, 256 << 20),
    ],
)
def test_flushes_are_as_large_as_their_time_allows(
    size: int, seconds: float, following: int
) -> None:
    """Few where the device is fast; short where it is slow: a minute would pass for silence."""
    assert file._next_flush_bytes(size, seconds) == following


class SlowDevice:
    """A file server of 1 MiB/s behind a page cache, by a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dirty = 0
        self.silent: list[float] = []
        self._last = 0.0

    def write(self, _fd: int, data: memoryview) -> int:
        """Take it into the cache, at once."""
        self.dirty += len(data)
        return len(data)

    def flush(self, _fd: int) -> None:
        """Wait until all of it is on the device."""
        self.now += self.dirty / (1 << 20)
        self.dirty = 0

    def alive(self) -> None:
        """Take down how long there was silence."""
        self.silent.append(self.now - self._last)
        self._last = self.now


def test_a_slow_server_is_never_silent_for_long(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the object: what the cache has taken is flushed a few seconds at a time."""
    device = SlowDevice()
    monkeypatch.setattr("os.write", device.write)
    monkeypatch.setattr("os.fsync", device.flush)
    monkeypatch.setattr("os.fdatasync", device.flush)
    monkeypatch.setattr("time.monotonic", lambda: device.now)

    make(root).put(KEY, [bytes(1 << 20)] * 300, alive=device.alive)

    assert device.now == 300
    assert max(device.silent) < 10


def test_links_are_not_followed(root: Path) -> None:
    """A link in the place of an object is no object, wherever it leads."""
    (root / "journal-a-0").mkdir()
    (root / "secret").write_bytes(b"secret")
    (root / KEY).symlink_to(root / "secret")
    (root / "journal-b-0").symlink_to(root / "journal-a-0")
    (root / "journal-a-0" / "directory").mkdir()
    sink = make(root)

    assert [o.key for o in sink.list()] == ["secret"]
    with pytest.raises(SinkError, match="cannot read"):
        sink.read(KEY)
    with pytest.raises(ObjectExistsError):
        sink.put(KEY, [b"x"])
    assert (root / "secret").read_bytes() == b"secret"


def test_names_that_are_no_text_are_passed_over(root: Path) -> None:
    """A listing meets whatever a shared volume holds."""
    (root / "journal-a-0").mkdir()
    (root / "journal-a-0" / os.fsdecode(b"\xff\n")).write_bytes(b"")
    (root / os.fsdecode(b"journal-\xff")).mkdir()

    assert make(root).list() == []


def test_a_file_that_vanishes_while_it_is_listed_is_not_there(root: Path) -> None:
    """Another run may sweep or prune at the same time."""
    sink = make(root)
    for name in ("a", "b"):
        sink.put_exclusive(name, b"")
    listing = sink._list()
    first = next(listing).key
    (root / ("b" if first == "a" else "a")).unlink()

    assert list(listing) == []


class LateSink(FileSink):
    """A sink that looks at what it found a little late."""

    def _walk(self, directory: Path, below: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        found = list(super()._walk(directory, below))
        (self._root / ".probe.0123abcd.part").unlink()
        yield from found


def test_a_part_that_vanishes_while_it_is_swept_is_not_counted(root: Path) -> None:
    """Its own put may have ended just then."""
    (root / ".probe.0123abcd.part").write_bytes(b"")
    (root / ".probe.0123abce.part").write_bytes(b"")

    assert make(root, kind=LateSink).sweep(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert list(root.iterdir()) == []


def test_pages_that_were_read_are_dropped_behind(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large read-back must not push everything else out of the page cache."""
    monkeypatch.setattr(file, "_BEGIN_BYTES", 10)
    monkeypatch.setattr(file, "CHUNK_BYTES", 6)
    dropped: list[tuple[int, int]] = []

    def advise(_fd: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED and length:
            dropped.append((offset, length))

    sink = make(root)
    sink.put("x", [b"0123456789" * 3])
    monkeypatch.setattr("os.posix_fadvise", advise)

    assert b"".join(sink.open("x", 1)) == (b"0123456789" * 3)[1:]
    assert dropped == [(1, 12), (13, 12)]


def test_objects_are_for_the_owner_and_the_group(root: Path) -> None:
    """Journals are a customer's business; no mode is set, so the umask has its say."""
    before = os.umask(0o027)
    try:
        make(root).put(KEY, [b"x"])
    finally:
        os.umask(before)

    assert (root / KEY).stat().st_mode & 0o777 == 0o640
    assert (root / KEY).parent.stat().st_mode & 0o777 == 0o750
