"""Journals on their volume: what is found, what is fixed, what is read, and what never is."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backup.errors import (
    ConfigError,
    DeadlineError,
    JournalChangedError,
    JournalError,
    JournalHoleError,
    JournalMissingError,
    JournalUnreadableError,
)
from backup.journals import (
    Capture,
    Reading,
    await_filled,
    bounds,
    capture,
    cut_before,
    discover,
    read,
)
from backup.model import Consistency, Journal
from backup.stop import Stop
from tests.journal_data import (
    NAME,
    NOON,
    Clock,
    append,
    overwrite,
    records,
    replace_file,
    write_journal,
)

BILLING = "deepgram-billing"
JOURNAL = Journal(statefulset=BILLING, ordinal=0)
NOBODY = 65534


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Read and search in pieces of 16 bytes, so that a few records span many."""
    monkeypatch.setattr(bounds, "CHUNK_BYTES", 16)
    monkeypatch.setattr("backup.journals.reading.CHUNK_BYTES", 16)
    return 16


@pytest.fixture
def open_source() -> Iterator[Path]:
    """Make a source that every user can reach, unlike pytest's own directories."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source"
        source.mkdir()
        Path(name).chmod(0o755)
        yield source


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be a user whom modes bind; root is bound by none."""
    if os.geteuid():  # pragma: no cover - whoever is not root is bound already
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def take(source: Path, consistency: Consistency = "live") -> Capture:
    """Capture the first journal."""
    return capture(source, JOURNAL, clock=Clock(), consistency=consistency)


def content(found: Capture, path: bytes = b"journal") -> bytes:
    """Read a captured file."""
    member = next(m for m in found.members if m.path == path)
    return b"".join(read(found, member, Reading()))


# -- discover


def test_finds_journals_by_ordinal_and_counts_the_rest(tmp_path: Path) -> None:
    """Ordinal 10 comes after 2; models and strangers are counted, other journals are named."""
    for ordinal in (10, 2, 0):
        write_journal(tmp_path, ordinal, b"")
    write_journal(tmp_path, 0, b"", name="other")
    (tmp_path / "models").mkdir()
    (tmp_path / "nova.dg").touch()
    (tmp_path / "journal-deepgram-billing-x").mkdir()
    (tmp_path / "journal-deepgram-billing-01").mkdir()
    (tmp_path / "journal-deepgram-billing-0\n").mkdir()
    (tmp_path / os.fsdecode(b"journal-deepgram-billing-\xff1")).mkdir()

    found = discover(tmp_path, BILLING)

    assert [j.ordinal for j in found.journals] == [0, 2, 10]
    assert found.foreign == ("journal-other-0",)
    assert found.odd == ()
    assert found.ignored == 6


def test_names_what_is_called_like_a_journal_and_is_none(tmp_path: Path) -> None:
    """A link is not followed, however good its target; a file is no directory."""
    real = write_journal(tmp_path / "elsewhere", 0, b"{}\n").parent
    (tmp_path / NAME).symlink_to(real)
    (tmp_path / "journal-deepgram-billing-1").touch()

    found = discover(tmp_path, BILLING)

    assert found.journals == ()
    assert found.odd == (
        (NAME, "is a symbolic link, and links are not followed"),
        ("journal-deepgram-billing-1", "is not a directory"),
    )


def test_longer_statefulset_is_another_one(tmp_path: Path) -> None:
    """`journal-deepgram-billing-eu-0` belongs to `deepgram-billing-eu`, not to us."""
    write_journal(tmp_path, 0, b"", name="deepgram-billing-eu")

    assert discover(tmp_path, BILLING).foreign == ("journal-deepgram-billing-eu-0",)
    assert discover(tmp_path, "deepgram-billing-eu").journals[0].ordinal == 0


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_source_that_is_no_directory_is_a_wrong_setting(tmp_path: Path, kind: str) -> None:
    """The setting and the fix are named."""
    source = tmp_path / "source"
    if kind == "file":
        source.touch()
    with pytest.raises(ConfigError, match=r"BACKUP_SOURCE .*/source (does not|is not)") as caught:
        discover(source, BILLING)

    assert "BACKUP_SOURCE" in caught.value.hints[0]


def test_source_that_may_not_be_listed_says_who_may(open_source: Path) -> None:
    """Who we are, whose it is, and its mode: what one needs to set the uid right."""
    open_source.chmod(0o700)
    with as_nobody(), pytest.raises(JournalUnreadableError) as caught:
        discover(open_source, BILLING)

    assert f"may not be read by uid {NOBODY} gid {NOBODY}" in caught.value.message
    assert "belongs to uid 0 gid 0, mode 0700" in caught.value.message


def test_source_that_cannot_be_reached_names_what_is_in_the_way(open_source: Path) -> None:
    """Its own owner cannot be known then; that of the directory above it can."""
    inner = open_source / "inner"
    inner.mkdir()
    open_source.chmod(0o700)
    with as_nobody(), pytest.raises(JournalUnreadableError) as caught:
        discover(inner, BILLING)

    assert f": '{open_source}' belongs to uid 0 gid 0, mode 0700" in caught.value.message


# -- capture: the directory


def test_takes_every_regular_file_and_reports_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subdirectories are entered; links, FIFOs, sockets and NFS's own files are passed over."""
    root = write_journal(tmp_path, 0, b"{}\n").parent
    names = (b"a b", b"line\nbreak", b"\xff\xfe", b"sub/deep/file")
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)
    (root / "link").symlink_to("/etc/passwd")
    (root / "sub" / "up").symlink_to("..")
    os.mkfifo(root / "fifo")
    (root / "lost+found").mkdir()
    (root / "lost+found" / "inside").touch()
    (root / ".snapshot").mkdir()
    (root / ".nfs000000001").touch()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)  # a socket's address is short
        server.bind("socket")

    found = take(tmp_path)

    assert [m.path for m in found.members] == sorted([b"journal", *names])
    for name in names:
        assert content(found, name) == name
    assert dict(found.passed_over) == {
        b".nfs000000001": "left to the file system",
        b".snapshot": "left to the file system",
        b"fifo": "a FIFO",
        b"link": "a symbolic link",
        b"lost+found": "left to the file system",
        b"socket": "a socket",
        b"sub/up": "a symbolic link",
    }
    assert [path for path, _ in found.odd] == [b"fifo", b"link", b"socket", b"sub/up"]
    assert found.suspicion is None
    assert found.size_bytes == 3 + sum(map(len, names))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_never_opens_a_device(tmp_path: Path) -> None:
    """Opening a tape may rewind it; reading /dev/zero never ends."""
    root = write_journal(tmp_path, 0, b"{}\n").parent
    try:
        os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        os.mknod(root / "disk", stat.S_IFBLK | 0o666, os.makedev(7, 99))
    except PermissionError as error:  # pragma: no cover - a container without CAP_MKNOD
        pytest.skip(f"mknod: {error}")

    assert take(tmp_path).odd == ((b"disk", "a device"), (b"zero", "a device"))


def test_missing_directory(tmp_path: Path) -> None:
    """It may vanish between discovery and now."""
    with pytest.raises(JournalMissingError, match="is not a directory"):
        take(tmp_path)


def test_directory_that_became_a_file(tmp_path: Path) -> None:
    """Likewise."""
    (tmp_path / NAME).touch()
    with pytest.raises(JournalMissingError, match="is not a directory"):
        take(tmp_path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "it has no file 'journal'"),
        ("symlink", "its 'journal' is a symbolic link"),
        ("fifo", "its 'journal' is a FIFO"),
        ("socket", "its 'journal' is a socket"),
        ("device", "its 'journal' is a device"),
        ("directory", "it has no file 'journal'"),
    ],
)
def test_directory_without_file_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    """Whatever else is called `journal`, it is not opened: opening a FIFO would hang."""
    root = tmp_path / NAME
    root.mkdir()
    (root / "other").write_bytes(b"{}\n")
    journal = root / "journal"
    if kind == "symlink":
        journal.symlink_to("other")
    elif kind == "fifo":
        os.mkfifo(journal)
    elif kind == "directory":
        journal.mkdir()
    elif kind == "device":
        if os.geteuid():  # pragma: no cover - only root can make devices
            pytest.skip("only root can make devices")
        os.mknod(journal, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(root)
            server.bind("journal")

    with pytest.raises(JournalMissingError, match="holds no journal") as caught:
        take(tmp_path)

    assert caught.value.message.endswith(said)
    assert "volume" in caught.value.hints[0]


def test_unreadable_journal_names_owner_mode_and_fix(open_source: Path) -> None:
    """A journal that is root's, mode 0600, is the common case in an airgapped cluster."""
    write_journal(open_source, 0, b"{}\n").chmod(0o600)
    with as_nobody(), pytest.raises(JournalUnreadableError) as caught:
        take(open_source)

    path = open_source / NAME / "journal"
    assert caught.value.message == (
        f"'{path}' may not be read by uid {NOBODY} gid {NOBODY}: "
        f"'{path}' belongs to uid 0 gid 0, mode 0600"
    )
    assert "runAsUser" in caught.value.hints[0]


def test_unreadable_directory_names_the_directory(open_source: Path) -> None:
    """Its owner is what must be known, not the owner of the file inside."""
    root = write_journal(open_source, 0, b"{}\n").parent
    root.chmod(0o700)
    with as_nobody(), pytest.raises(JournalUnreadableError) as caught:
        take(open_source)

    assert f"'{root}' belongs to uid 0 gid 0, mode 0700" in caught.value.message


def test_directory_that_may_be_listed_but_not_entered(open_source: Path) -> None:
    """The file cannot even be looked at: the nearest thing above it that can is named."""
    root = write_journal(open_source, 0, b"{}\n").parent
    root.chmod(0o744)
    with as_nobody(), pytest.raises(JournalUnreadableError) as caught:
        take(open_source)

    assert f"'{root}' belongs to uid 0 gid 0, mode 0744" in caught.value.message


def test_unreadable_extra_does_not_cost_the_journal(open_source: Path) -> None:
    """The records are kept, and the backup says that something beside them is not in it."""
    root = write_journal(open_source, 0, b"{}\n").parent
    (root / os.fsdecode(b"lock\xff")).touch(0o600)
    (root / "private").mkdir(0o700)
    with as_nobody():
        found = take(open_source)

    assert content(found) == b"{}\n"
    assert dict(found.passed_over) == {b"lock\xff": "unreadable", b"private": "unreadable"}
    assert found.suspicion is not None
    assert "private' may not be read by uid" in found.suspicion
    assert "lock\\udcff' may not be read by uid" in found.suspicion
    assert found.odd == ()


def test_a_source_that_is_a_link_is_followed(tmp_path: Path) -> None:
    """Who sets BACKUP_SOURCE says where it is; below it, the volume has no say in that."""
    write_journal(tmp_path / "real", 0, b"{}\n")
    (tmp_path / "source").symlink_to("real")

    assert content(take(tmp_path / "source")) == b"{}\n"


def test_directory_that_became_a_link(tmp_path: Path) -> None:
    """It was a directory when it was discovered; what it leads to now is none of ours."""
    elsewhere = write_journal(tmp_path / "elsewhere", 0, b"{}\n").parent
    (tmp_path / NAME).symlink_to(elsewhere)

    with pytest.raises(JournalMissingError, match="is not a directory"):
        take(tmp_path)


@pytest.mark.parametrize("swapped", [NAME, f"{NAME}/sub", f"{NAME}/sub/deep"])
def test_directory_that_became_a_link_since_the_capture(tmp_path: Path, swapped: str) -> None:
    """Nothing is read by way of a link, though it leads to the very file that was captured."""
    path = write_journal(tmp_path, 0, b"{}\n").parent / "sub" / "deep" / "extra"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"extra")
    found = take(tmp_path)
    (tmp_path / swapped).rename(tmp_path / "moved")
    (tmp_path / swapped).symlink_to(tmp_path / "moved")

    with pytest.raises(JournalError, match="was replaced while it was read"):
        content(found, b"sub/deep/extra")


@pytest.mark.parametrize("consistency", ["live", "quiesced"])
def test_fifo_where_a_file_was(tmp_path: Path, consistency: Consistency) -> None:
    """Opening it waits for a writer who never comes, and the whole run with it."""
    path = write_journal(tmp_path, 0, b"")
    found = take(tmp_path, consistency)
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(JournalChangedError, match="was replaced while it was read: by a FIFO"):
        content(found)


def test_path_too_long_to_be_restored(tmp_path: Path) -> None:
    """Step by step we could go deeper than any path; who unpacks the backup could not."""
    write_journal(tmp_path, 0, b"{}\n")
    fd = os.open(tmp_path / NAME, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=fd)
        above, fd = fd, os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(above)
    os.close(os.open("extra", os.O_CREAT, dir_fd=fd))
    os.close(fd)

    found = take(tmp_path)

    assert [m.path for m in found.members] == [b"journal"]
    assert [kind for _, kind in found.passed_over] == ["unreadable"]
    assert "File name too long" in (found.suspicion or "")


def test_more_files_than_a_manifest_can_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that nobody could read again would lose the journal with the files."""
    monkeypatch.setattr(bounds, "MAX_NAMES_BYTES", 3 * 900)
    write_journal(tmp_path, 0, records(3))
    for number in range(5):
        (tmp_path / NAME / f"extra-{number}").write_bytes(b"x")

    found = capture(tmp_path, JOURNAL, clock=Clock())

    assert found.main.size_bytes == len(records(3))
    assert len(found.members) == 4
    assert len(found.passed_over) == 2
    assert found.suspicion == "more files than a manifest can name; some are left out"


def test_names_so_much_of_what_it_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may make a million links; the report, and our memory, hold the first ones."""
    monkeypatch.setattr(bounds, "MAX_NAMED", 3)
    root = write_journal(tmp_path, 0, b"{}\n").parent
    for number in range(5):
        (root / f"link-{number}").symlink_to("nowhere")
        (root / f".nfs{number}").touch()

    found = take(tmp_path)

    assert found.passed_over_counts == {"a symbolic link": 5, "left to the file system": 5}
    assert len(found.passed_over) == 6
    assert (len(found.odd), found.odd_count) == (3, 5)


def test_says_what_journal_is_however_much_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in the journal's place is the one that matters."""
    monkeypatch.setattr(bounds, "MAX_NAMED", 0)
    (tmp_path / NAME).mkdir()
    os.mkfifo(tmp_path / NAME / "journal")

    with pytest.raises(JournalMissingError, match="its 'journal' is a FIFO"):
        take(tmp_path)


def test_suspicion_stays_short(open_source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the manifest, which nobody reads again once it is too large."""
    monkeypatch.setattr(bounds, "MAX_TOLD", 2)
    root = write_journal(open_source, 0, b"no newline").parent
    for number in range(5):
        (root / f"{number}{'x' * 250}").mkdir(0o700)
    with as_nobody():
        found = take(open_source)

    first, *others, last = (found.suspicion or "").split("; ")
    assert first == "not one complete record in 10 bytes: no newline"
    assert len(others) == 2
    for other in others:
        assert len(other) == bounds.MAX_TOLD_CHARACTERS
        assert "xx…" in other
        assert other.endswith("belongs to uid 0 gid 0, mode 0700")
    assert last == "and 3 more"


# -- capture: the bound


@pytest.mark.parametrize("tail", [0, 1, 15, 16, 17, 40])
@pytest.mark.parametrize("head", [1, 15, 16, 17, 33])
def test_live_bound_is_the_last_newline(
    tmp_path: Path, small_chunks: int, head: int, tail: int
) -> None:
    """Found backwards, wherever the borders of the pieces lie."""
    write_journal(tmp_path, 0, b"a" * (head - 1) + b"\n" + b"t" * tail)

    main = take(tmp_path).main

    assert (main.size_bytes, main.omitted_tail_bytes, main.torn_tail_bytes) == (head, tail, 0)


def test_remembers_the_file_and_the_time(tmp_path: Path) -> None:
    """What a manifest says of a file comes from one fstat, before it is read."""
    path = write_journal(tmp_path, 0, b"{}\n")
    path.chmod(0o640)
    state = path.stat()

    found = take(tmp_path)
    main = found.main

    assert found.taken_at == NOON
    assert (main.device, main.inode) == (state.st_dev, state.st_ino)
    assert (main.uid, main.gid) == (state.st_uid, state.st_gid)
    assert main.mode == 0o640
    assert main.mtime_ns == state.st_mtime_ns


def test_no_newline_is_kept_whole_and_suspect(tmp_path: Path) -> None:
    """Bytes without one record are evidence, not nothing."""
    write_journal(tmp_path, 0, b"x" * 100)

    found = take(tmp_path)

    assert found.main.size_bytes == 100
    assert found.suspicion == "not one complete record in 100 bytes: no newline"


def test_empty_is_not_suspect(tmp_path: Path) -> None:
    """A billing pod that has just started has written nothing."""
    write_journal(tmp_path, 0, b"")

    found = take(tmp_path)

    assert (found.main.size_bytes, found.suspicion) == (0, None)


def test_quiesced_takes_the_torn_tail(tmp_path: Path) -> None:
    """Nobody writes any more: what is torn stays so, and is kept to the byte."""
    write_journal(tmp_path, 0, b'{}\n{"d":')

    found = take(tmp_path, "quiesced")

    main = found.main
    assert (main.size_bytes, main.omitted_tail_bytes, main.torn_tail_bytes) == (8, 0, 5)
    assert content(found) == b'{}\n{"d":'
    assert found.suspicion is None


def test_extras_are_bound_by_their_size(tmp_path: Path) -> None:
    """They need not be lines."""
    (write_journal(tmp_path, 0, b"{}\n").parent / "extra").write_bytes(b"a\nb")

    member = take(tmp_path).members[0]

    assert (member.path, member.size_bytes, member.is_journal) == (b"extra", 3, False)


# -- read


def test_reads_to_the_bound_while_billing_appends(tmp_path: Path, small_chunks: int) -> None:
    """What comes after the bound is tomorrow's."""
    path = write_journal(tmp_path, 0, b"a" * 31 + b"\n")
    found = take(tmp_path)
    reading = Reading([16])
    chunks = read(found, found.main, reading)
    first = next(chunks)
    append(path, b"b" * 31 + b"\n")

    assert first + b"".join(chunks) == b"a" * 31 + b"\n"
    assert (reading.size_bytes, reading.records) == (32, 1)


def test_a_writer_is_never_in_the_way(tmp_path: Path) -> None:
    """Another process appends all the time, torn records included: each reading is a prefix."""
    path = write_journal(tmp_path, 0, records(2))
    program = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)\n"
        "while True:\n"
        "    os.write(fd, b'{\"d\":'); os.write(fd, b'1}\\n')\n"
    )
    readings = {b""}
    with subprocess.Popen([sys.executable, "-c", program, path]) as writer:
        try:
            while len(readings) < 20:
                readings.add(content(take(tmp_path)))
        finally:
            writer.kill()
    whole = path.read_bytes()

    for reading in readings - {b""}:
        assert reading.endswith(b"\n")
        assert whole.startswith(reading)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: os.truncate(path, 20), "ended 28 bytes early"),
        (lambda path: os.truncate(path, 31), "ended 17 bytes early"),
        (lambda path: replace_file(path, b"b" * 47 + b"\n"), "another file took its place"),
        (lambda path: path.unlink(), "vanished"),
        (lambda path: (path.unlink(), path.symlink_to("x")), "another file took its place"),
    ],
)
def test_change_while_reading(tmp_path: Path, small_chunks: int, change: object, said: str) -> None:
    """Truncated, replaced or removed between two pieces: no reading comes of it."""
    path = write_journal(tmp_path, 0, b"a" * 47 + b"\n")
    found = take(tmp_path)
    chunks = read(found, found.main, Reading())
    next(chunks)
    assert callable(change)
    change(path)

    with pytest.raises(JournalChangedError, match=said) as caught:
        list(chunks)

    if said != "vanished":
        assert caught.value.message.startswith(f"'{NAME}/journal' changed while it was read")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: os.truncate(path, 20), "shrank to 20 bytes"),
        (lambda path: replace_file(path, b"b" * 48), "another file took its place"),
        (lambda path: path.unlink(), "vanished"),
        (lambda path: (path.unlink(), path.symlink_to("x")), "was replaced"),
    ],
)
def test_change_before_reading(tmp_path: Path, change: object, said: str) -> None:
    """The bound holds for the very file that was captured."""
    path = write_journal(tmp_path, 0, b"a" * 47 + b"\n")
    found = take(tmp_path)
    assert callable(change)
    change(path)

    with pytest.raises(JournalChangedError, match=said):
        content(found)


def test_truncated_and_grown_again_while_it_is_read(tmp_path: Path, small_chunks: int) -> None:
    """Size and inode say nothing; but where its last record ended, another one is being cut."""
    path = write_journal(tmp_path, 0, b"a" * 31 + b"\n")
    found = take(tmp_path)
    chunks = read(found, found.main, Reading())
    next(chunks)
    path.write_bytes(b"b" * 47 + b"\n")

    with pytest.raises(JournalChangedError, match="no record ends where its last one ended"):
        list(chunks)


def test_truncated_after_its_last_byte_was_read(tmp_path: Path, small_chunks: int) -> None:
    """The file is looked at once more at the end."""
    path = write_journal(tmp_path, 0, b"a" * 31 + b"\n")
    found = take(tmp_path)
    chunks = read(found, found.main, Reading())
    next(chunks), next(chunks)
    os.truncate(path, 0)

    with pytest.raises(JournalChangedError, match="shrank to 0 bytes"):
        next(chunks)


def append_in_secret(path: Path) -> None:
    """Append, and set the time back."""
    append(path, b"x")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "change",
    [
        append_in_secret,
        os.utime,
        lambda path: overwrite(path, 0, b"z"),
    ],
)
def test_quiesced_journal_must_not_be_written(tmp_path: Path, change: object) -> None:
    """Size and mtime are the same before and after, or billing was not stopped."""
    path = write_journal(tmp_path, 0, b"{}\n")
    os.utime(path, ns=(1, 1))
    found = take(tmp_path, "quiesced")
    chunks = read(found, found.main, Reading())
    next(chunks)
    assert callable(change)
    change(path)

    with pytest.raises(JournalChangedError, match="written although billing is stopped"):
        list(chunks)


def test_tail_that_is_too_long_for_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer billing may part its records otherwise: nothing of that may be left out for ever."""
    monkeypatch.setattr(bounds, "MAX_RECORD_BYTES", 100)
    path = write_journal(tmp_path, 0, b"{}\n" + b"x" * 100)

    main = take(tmp_path).main
    append(path, b"x")
    found = take(tmp_path)

    assert (main.size_bytes, main.omitted_tail_bytes) == (3, 100)
    assert (found.main.size_bytes, found.main.omitted_tail_bytes) == (104, 0)
    assert content(found) == b"{}\n" + b"x" * 101
    assert found.suspicion == "no record ends in its last 101 bytes: no newline"


def test_long_line_takes_constant_memory(tmp_path: Path) -> None:
    """A line of 100 MiB is read and searched in pieces."""
    size = 100 << 20
    path = write_journal(tmp_path, 0, b"{}\n")
    piece = b"x" * (1 << 20)
    with path.open("ab") as file:
        for _ in range(size >> 20):
            file.write(piece)

    tracemalloc.start()
    try:
        found = take(tmp_path)
        append(path, b"\n")
        whole = take(tmp_path)
        read_bytes = sum(len(chunk) for chunk in read(whole, whole.main, Reading()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (found.main.size_bytes, found.main.omitted_tail_bytes) == (3 + size, 0)
    assert read_bytes == size + 4
    assert peak < 8 << 20


# -- holes


@pytest.mark.parametrize("offset", [0, 15, 16, 31])
def test_nul_in_a_live_journal_is_a_hole(tmp_path: Path, small_chunks: int, offset: int) -> None:
    """JSON has no NUL: its offset is told, whichever piece it lies in."""
    path = write_journal(tmp_path, 0, b"a" * 31 + b"\n" + b"b" * 31 + b"\n")
    overwrite(path, offset, b"\0\0")
    found = take(tmp_path)

    with pytest.raises(JournalHoleError) as caught:
        content(found)

    assert caught.value.offset == offset
    assert caught.value.message == f"{NAME} has a hole: a NUL at byte {offset}"


def test_nul_is_data_elsewhere(tmp_path: Path) -> None:
    """In a file beside the journal, and in a journal that nobody writes."""
    root = write_journal(tmp_path, 0, b"\0\n").parent
    (root / "extra").write_bytes(b"\0" * 5)

    assert content(take(tmp_path), b"extra") == b"\0" * 5
    assert content(take(tmp_path, "quiesced")) == b"\0\n"


def test_nuls_behind_the_last_newline_are_only_omitted(tmp_path: Path) -> None:
    """The file has grown already, and its last block has not come: nothing to wait for."""
    write_journal(tmp_path, 0, b"{}\n" + b"\0" * 5000)

    found = take(tmp_path)

    assert content(found) == b"{}\n"
    assert found.main.omitted_tail_bytes == 5000


class _Stop(Stop):
    """Counts its naps, and does something in one of them instead of sleeping."""

    def __init__(self, act: object = None, *, at: int = 0) -> None:
        super().__init__()
        self.naps: list[float] = []
        self._act = act
        self._at = at

    def sleep(self, seconds: float) -> None:
        """Do not sleep."""
        self.naps.append(seconds)
        if callable(self._act) and len(self.naps) == self._at:
            self._act()


def test_waits_for_a_hole_and_sees_it_filled(tmp_path: Path) -> None:
    """It looks again after each pause, and stops looking when the bytes are there."""
    path = write_journal(tmp_path, 0, b"{}\n\0\0\n")
    found = take(tmp_path)
    stop = _Stop(lambda: overwrite(path, 3, b"{}"), at=3)

    assert await_filled(found, 3, seconds=30, stop=stop)
    assert stop.naps == [0.5, 0.5, 0.5]
    assert content(found) == b"{}\n{}\n"


@pytest.mark.parametrize(("seconds", "naps"), [(30, 60), (0.6, 1), (0, 0), (-1, 0)])
def test_waits_no_longer_than_it_may(tmp_path: Path, seconds: float, naps: int) -> None:
    """Thirty seconds are sixty pauses; no time left is no pause at all."""
    write_journal(tmp_path, 0, b"{}\n\0\0\n")
    stop = _Stop()

    assert not await_filled(take(tmp_path), 3, seconds=seconds, stop=stop)
    assert stop.naps == [0.5] * naps


def test_deadline_ends_the_wait(tmp_path: Path) -> None:
    """A run that is over does not wait for NFS."""
    write_journal(tmp_path, 0, b"{}\n\0\0\n")
    with pytest.raises(DeadlineError):
        await_filled(take(tmp_path), 3, seconds=30, stop=Stop(seconds=0))


def test_looks_only_near_the_hole(tmp_path: Path) -> None:
    """A second hole far behind is found by the next reading, and does not delay this one."""
    path = write_journal(tmp_path, 0, b"a" * (200 << 10) + b"\n")
    overwrite(path, 150 << 10, b"\0")
    found = take(tmp_path)

    assert await_filled(found, 0, seconds=1, stop=_Stop())
    assert not await_filled(found, 100 << 10, seconds=1, stop=_Stop())


def test_cuts_at_the_last_record_before_a_hole(tmp_path: Path, small_chunks: int) -> None:
    """All that is left out is counted, the first tail too."""
    write_journal(tmp_path, 0, b"a" * 31 + b"\n" + b"bb\0b\n" + b"tail")

    cut = cut_before(take(tmp_path), 34)

    assert content(cut) == b"a" * 31 + b"\n"
    assert (cut.main.omitted_tail_bytes, cut.main.torn_tail_bytes) == (9, 0)
    assert cut.suspicion == "a hole at byte 34 was not filled; all after byte 32 is left out"


def test_cuts_all_before_a_hole_at_the_start(tmp_path: Path) -> None:
    """Never guess: there is nothing before it. What was suspect before is still told."""
    root = write_journal(tmp_path, 0, b"\0" * 9).parent
    (root / "extra").touch()

    cut = cut_before(take(tmp_path), 0)

    assert [m.size_bytes for m in cut.members] == [0, 0]
    assert (cut.main.omitted_tail_bytes, cut.main.torn_tail_bytes) == (9, 0)
    assert cut.suspicion is not None
    assert cut.suspicion.startswith("not one complete record in 9 bytes: no newline; a hole at")
