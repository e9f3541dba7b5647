"""Export: a bundle that is whole, or none; coreutils and tar are all that its reader needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from backup.catalog import archive_key, manifest_key
from backup.errors import (
    BackupError,
    IntegrityError,
    SelectorError,
    SignalledError,
    SinkError,
    TargetError,
)
from backup.events import Event, Progressed
from backup.stop import Stop
from backup.verbs.export import Directory, ExportResult, Stream, Tar, export
from tests.handmade import JOURNAL, MTIME, Chain, archive, file, mark, packed, put, segment
from tests.journal_data import Events, in_run, records
from tests.simulated_sink import SimulatedSink

OTHER = "journal-deepgram-billing-1"
DATA = records(30)
TOP = "deepgram-journals"

Place = Directory | Tar | Stream


@pytest.fixture
def sink() -> SimulatedSink:
    """Make a sink."""
    return SimulatedSink()


def exported(
    sinks: Sequence[SimulatedSink], place: Place, *selectors: str, **how: Any
) -> ExportResult:
    """Export."""
    given: dict[str, Any] = {"journal": None, "emit": Events(), "stop": Stop()}
    return in_run(export, sinks, selectors or ("latest",), place, **(given | how))


def to_directory(
    sinks: Sequence[SimulatedSink], root: Path, *selectors: str, **how: Any
) -> dict[str, bytes]:
    """Make a directory, let sha256sum check it, and read it."""
    exported(sinks, Directory(root / "bundle"), *selectors, **how)
    return checked(root / "bundle")


def to_file(
    sinks: Sequence[SimulatedSink], root: Path, *selectors: str, **how: Any
) -> dict[str, bytes]:
    """Make a tar, unpack it with tar, and so on."""
    exported(sinks, Tar(root / "bundle.tar", TOP), *selectors, **how)
    return unpacked(root / "bundle.tar", root)


def to_stream(
    sinks: Sequence[SimulatedSink], root: Path, *selectors: str, **how: Any
) -> dict[str, bytes]:
    """Write to a stream, likewise."""
    with (root / "streamed.tar").open("xb") as stream:
        exported(sinks, Stream(stream.fileno(), TOP), *selectors, **how)
    return unpacked(root / "streamed.tar", root)


def unpacked(tar: Path, root: Path) -> dict[str, bytes]:
    """Unpack it as its reader would."""
    subprocess.run(["tar", "-C", root, "-xf", tar], check=True)
    return checked(root / TOP)


def checked(bundle: Path) -> dict[str, bytes]:
    """Let sha256sum check a bundle; read what is in it but for the sums."""
    subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=bundle, check=True)
    found = {
        os.fsdecode(os.fsencode(path.relative_to(bundle))): path.read_bytes()
        for path in bundle.rglob("*")
        if path.is_file()
    }
    lines = found.pop("SHA256SUMS").splitlines()
    assert len(lines) == len(found)
    return found


every_place = pytest.mark.parametrize("made", [to_directory, to_file, to_stream])
Made = Callable[..., dict[str, bytes]]


# -- what is in it


@every_place
def test_it_has_journals_and_manifests(sink: SimulatedSink, tmp_path: Path, made: Made) -> None:
    """As billing wrote the ones, and as the sink holds the others."""
    chain = Chain(sink)
    chain.full(records(1))
    first, second = chain.full(DATA), Chain(sink, OTHER).full(b"")

    assert made([sink], tmp_path) == {
        f"{JOURNAL}-{first.id}/journal": DATA,
        f"{JOURNAL}-{first.id}.manifest.json": first.to_bytes(),
        f"{OTHER}-{second.id}/journal": b"",
        f"{OTHER}-{second.id}.manifest.json": second.to_bytes(),
    }


@every_place
def test_what_lies_beside_a_journal_is_in_it(
    sink: SimulatedSink, tmp_path: Path, made: Made
) -> None:
    """Whatever it is called: sha256sum knows how such a name is written."""
    others = {b"sub/dir/a b": b"one", b"odd \xff\n\\\r": b"two", b"empty": b""}
    backup = Chain(sink).full(DATA, others=others)
    found = made([sink], tmp_path)

    for name, data in {b"journal": DATA, **others}.items():
        assert found[f"{JOURNAL}-{backup.id}/{os.fsdecode(name)}"] == data


@every_place
def test_shared_archives_are_put_together(sink: SimulatedSink, tmp_path: Path, made: Made) -> None:
    """Each file in one piece, although others lie between its pieces."""
    chain = Chain(sink)
    first = chain.full(DATA[:100], others={b"a": b"one", b"z": b"two"})
    backup_id = chain.id()
    key = archive_key(JOURNAL, backup_id, 1)
    more, extra = chain.member(b"journal.000000000000100"), chain.member(b"a.000000000000003")
    stored = packed([(extra, b" and more"), (more, DATA[100:])])
    sink.put(key, [stored])
    kept = {f.path: f.segments for f in first.files}
    files = [
        file(b"a", b"one and more", [*kept["a"], segment(key, extra, 3, 9)]),
        file(b"journal", DATA, [*kept["journal"], segment(key, more, 100, len(DATA) - 100)]),
        file(b"z", b"two", kept["z"]),
    ]
    chain.commit(backup_id, [*first.archives, archive(key, stored)], files, "extended")
    found = made([sink], tmp_path)
    name = f"{JOURNAL}-{backup_id}"

    assert [found[f"{name}/{f}"] for f in ("a", "journal", "z")] == [b"one and more", DATA, b"two"]


def test_several_backups_of_a_journal_are_in_one_bundle(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Named by their ids, each once."""
    chain = Chain(sink)
    one, two = chain.full(DATA), chain.full(records(2), continuity="shrunk")
    found = to_directory([sink], tmp_path, one.id, two.id, "latest", one.id)

    assert found[f"{JOURNAL}-{one.id}/journal"] == DATA
    assert found[f"{JOURNAL}-{two.id}/journal"] == records(2)
    assert len(found) == 4


def test_a_tar_tells_times_and_no_owners(sink: SimulatedSink, tmp_path: Path) -> None:
    """For its reader alone; and the sums come last."""
    backup = Chain(sink).full(DATA)
    exported([sink], Tar(tmp_path / "a.tar", TOP))
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()

    assert [m.name.rpartition("/")[2] for m in members] == [
        "journal",
        f"{JOURNAL}-{backup.id}.manifest.json",
        "SHA256SUMS",
    ]
    assert {(m.mode, m.uid, m.gid, m.uname) for m in members} == {(0o600, 0, 0, "")}
    made_at = int(backup.created_at.timestamp())
    assert [m.mtime for m in members] == [int(MTIME.timestamp()), made_at, made_at]
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600


def test_the_result_says_what_is_in_it(sink: SimulatedSink, tmp_path: Path) -> None:
    """And where it is; progress is told on the way."""
    backup = Chain(sink).full(DATA, others={b"other": b"x"})
    events: list[Event] = []
    result = exported([sink], Directory(tmp_path / "a" / "b"), emit=events.append)
    (found,) = result.exported
    progress = [e for e in events if isinstance(e, Progressed)]

    assert (found.journal, found.id, found.sink) == (JOURNAL, backup.id, "memory://one")
    assert (found.size_bytes, found.records) == (len(DATA) + 1, 30)
    assert (result.place, result.exit_codes) == (str(tmp_path / "a" / "b"), ())
    assert {(e.verb, e.subject, e.total_bytes) for e in progress} == {
        ("export", JOURNAL, len(DATA) + 1)
    }
    assert progress[-1].done_bytes == len(DATA) + 1


# -- what is not in it


def test_a_journal_without_a_good_backup_is_a_problem(sink: SimulatedSink, tmp_path: Path) -> None:
    """The others are in the bundle."""
    backup = Chain(sink).full(DATA)
    Chain(sink, OTHER).full(records(1), suspect=True)
    result = exported([sink], Directory(tmp_path / "bundle"))

    assert [row.id for row in result.exported] == [backup.id]
    assert [(p.exit_code, p.journal) for p in result.problems] == [(2, OTHER)]


def test_without_any_good_backup_there_is_no_bundle(sink: SimulatedSink, tmp_path: Path) -> None:
    """An empty one would look like a delivery."""
    Chain(sink).full(records(1), suspect=True)
    result = exported([sink], Directory(tmp_path / "bundle"))

    assert (result.exported, result.exit_codes) == ((), (2,))
    assert list(tmp_path.iterdir()) == []


def test_that_the_latest_good_one_is_not_the_latest_is_told(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Its records are not all that there are."""
    chain = Chain(sink)
    chain.full(DATA)
    chain.full(records(31), suspect=True)
    result = exported([sink], Directory(tmp_path / "bundle"))

    assert result.exit_codes == (3,)
    assert "the latest good backup, and not the latest" in result.problems[0].message


def test_older_backups_that_nobody_delivered_are_named(sink: SimulatedSink, tmp_path: Path) -> None:
    """If the bundle may lack their records; what grew since is in it."""
    chain = Chain(sink)
    one = chain.full(DATA)
    chain.full(records(2), continuity="shrunk")
    chain.full(records(3))
    events = Events()
    (warning,) = exported([sink], Directory(tmp_path / "one"), emit=events).warnings
    assert warning.journal == JOURNAL
    assert warning.message.startswith(f"{one.id} is older, not delivered")
    assert warning in events

    key = manifest_key(JOURNAL, one.id).replace("manifest", "delivered")
    put(sink, key, mark("delivered", one.id).to_bytes())
    assert exported([sink], Directory(tmp_path / "two")).warnings == ()


# -- whole or not at all


def leftovers(root: Path) -> list[str]:
    """Name what is in a directory."""
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize("is_tar", [False, True])
@pytest.mark.parametrize("harm", ["damaged", "lost", "silent"])
def test_what_is_not_right_ends_it(
    sink: SimulatedSink, tmp_path: Path, harm: str, *, is_tar: bool
) -> None:
    """There is no bundle, of the good ones neither."""
    Chain(sink, OTHER).full(DATA)
    chain = Chain(sink)
    backup = chain.full(DATA)
    key = backup.archives[0].key
    if harm == "damaged":
        put(sink, key, packed([(chain.member(b"journal"), DATA[::-1])]))
        error: type[BackupError] = IntegrityError
    elif harm == "lost":
        sink.on("open", lambda _key: sink.place.objects.clear(), key=key)
        error = SinkError
    else:
        sink.tear(key, at=10, error=SinkError("not today"))
        error = SinkError
    place = Tar(tmp_path / "bundle", TOP) if is_tar else Directory(tmp_path / "bundle")
    with pytest.raises(error):
        exported([sink], place, f"{JOURNAL}-{backup.id}", "latest")

    assert leftovers(tmp_path) == []


def test_a_stream_that_is_cut_short_has_no_sums(sink: SimulatedSink, tmp_path: Path) -> None:
    """And no end: nobody can take it for whole."""
    chain = Chain(sink)
    backup = chain.full(DATA, others={b"z": b"more"})
    put(sink, backup.archives[0].key, packed([(chain.member(b"journal"), DATA)]))
    with (tmp_path / "a.tar").open("xb") as stream, pytest.raises(IntegrityError):
        exported([sink], Stream(stream.fileno(), TOP), backup.id)
    done = subprocess.run(
        ["tar", "-tf", tmp_path / "a.tar"], capture_output=True, text=True, check=False
    )

    assert "SHA256SUMS" not in done.stdout
    assert "manifest" not in done.stdout


@pytest.mark.parametrize("remembered", [0, 1 << 20])
def test_a_manifest_is_bundled_as_it_was_judged(
    sink: SimulatedSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    """Whatever becomes of it meanwhile, and though it is too large to be remembered by the sink."""
    monkeypatch.setattr("backup.catalog.opened.REMEMBERED_BYTES", remembered)
    backup = Chain(sink).full(DATA)
    key = manifest_key(JOURNAL, backup.id)
    changed = backup.model_copy(update={"site": "elsewhere"}).to_bytes()

    def change(_key: str) -> None:
        if sink.calls.count(("open", key)) > 1:
            put(sink, key, changed)

    sink.on("open", change, key=key)
    exported([sink], Directory(tmp_path / "bundle"), backup.id)

    bundled = tmp_path / "bundle" / key.rpartition("/")[2]
    assert bundled.read_bytes() == backup.to_bytes()
    assert (sink.calls.count(("open", key)) == 1) == bool(remembered)


@pytest.mark.parametrize("place", [Directory, Tar])
def test_nothing_is_overwritten(sink: SimulatedSink, tmp_path: Path, place: Any) -> None:
    """It is refused before anything is read."""
    Chain(sink).full(DATA)
    there = tmp_path / "there"
    there.symlink_to("nowhere")
    sink.calls.clear()
    with pytest.raises(TargetError, match="is already there"):
        exported([sink], place(there) if place is Directory else Tar(there, TOP))

    assert sink.calls == []


@pytest.mark.parametrize("has_links", [True, False])
def test_a_tar_that_appears_meanwhile_is_not_overwritten(
    sink: SimulatedSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_links: bool
) -> None:
    """Also where the file system has no hard links."""
    Chain(sink).full(DATA)
    final = tmp_path / "bundle.tar"
    without_links(monkeypatch, is_so=not has_links)
    exported([sink], Tar(final, TOP))
    good = final.read_bytes()
    final.unlink()

    def appear(_key: str) -> None:
        final.write_bytes(b"theirs")

    sink.on("open", appear, key="*.tar.gz")
    with pytest.raises(TargetError, match="is already there"):
        exported([sink], Tar(final, TOP))

    assert final.read_bytes() == b"theirs"
    assert good
    assert leftovers(tmp_path) == ["bundle.tar"]


def without_links(monkeypatch: pytest.MonkeyPatch, *, is_so: bool) -> None:
    """Let the file system have no hard links, if it is so."""

    def refuse(*_paths: object, **_how: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if is_so:
        monkeypatch.setattr(os, "link", refuse)


def test_a_stream_that_nobody_reads_is_an_error(sink: SimulatedSink) -> None:
    """Unlike a report: the bundle is the result."""
    Chain(sink).full(DATA)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with pytest.raises(TargetError, match="cannot be written to stdout: Broken pipe"):
            exported([sink], Stream(writer, TOP))
    finally:
        os.close(writer)


def test_a_full_disk_leaves_nothing(sink: SimulatedSink) -> None:
    """Of a tar as of a directory."""
    Chain(sink).full(DATA)
    with pytest.raises(TargetError, match="No space left on device"):
        exported([sink], Stream(os.open("/dev/full", os.O_WRONLY), TOP))


def test_a_signal_ends_it(sink: SimulatedSink, tmp_path: Path) -> None:
    """Also while nobody reads the stream."""
    Chain(sink).full(os.urandom(1 << 20))
    stop = Stop()
    reader, writer = os.pipe()
    sink.on("open", lambda _key: stop.request(15), key="*.tar.gz")
    try:
        with pytest.raises(SignalledError):
            exported([sink], Stream(writer, TOP), stop=stop)
        sink.heal()
        sink.on("open", lambda _key: stop.request(15), key="*.tar.gz")
        with pytest.raises(SignalledError):
            exported([sink], Directory(tmp_path / "bundle"), stop=stop)
    finally:
        os.close(reader)
        os.close(writer)
    assert leftovers(tmp_path) == []


def test_what_a_killed_export_left_is_removed_by_the_next(
    sink: SimulatedSink, tmp_path: Path
) -> None:
    """Of the same name; nobody else's."""
    Chain(sink).full(DATA)
    for name in (".partial-bundle-bundle-0123", ".partial-other-bundle-0123"):
        (tmp_path / name / "bundle").mkdir(parents=True)
    to_directory([sink], tmp_path)

    assert leftovers(tmp_path) == [".partial-other-bundle-0123", "bundle"]
    shutil.rmtree(tmp_path / "bundle")


def test_a_selector_that_matches_nothing_is_an_error(sink: SimulatedSink, tmp_path: Path) -> None:
    """Nothing is made."""
    Chain(sink).full(DATA)
    with pytest.raises(SelectorError):
        exported([sink], Directory(tmp_path / "bundle"), "latest", "1999")

    assert leftovers(tmp_path) == []
