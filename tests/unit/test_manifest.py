"""The manifest: what is accepted, and that all else is refused with its place and reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backup.errors import ManifestError, UnsupportedFormatError
from backup.manifest import FORMAT, Manifest, Mark, parse, parse_mark
from docs.generate import schema
from tests import manifests
from tests.manifests import FIRST, JOURNAL, SECOND, SHA256, THIRD

Content = dict[str, Any]
Change = Callable[[Content], object]

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "docs" / "manifest-v1.schema.json"


def stored(content: object) -> bytes:
    """Write JSON."""
    return json.dumps(content).encode()


def at(*path: str | int, **fields: Any) -> Change:
    """Make a change that sets fields of the object at a place."""

    def change(content: Content) -> None:
        place: Any = content
        for step in path:
            place = place[step]
        place |= fields

    return change


def without(*path: str | int) -> Change:
    """Make a change that takes a field away."""

    def change(content: Content) -> None:
        place: Any = content
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]

    return change


def more(field: str, *items: Content) -> Change:
    """Make a change that adds items to a list."""

    def change(content: Content) -> None:
        content[field] += items

    return change


# -- what is accepted


def test_a_manifest_comes_back_from_its_bytes() -> None:
    """What was written is what is read, and writing it again gives the same bytes."""
    manifest = parse(stored(manifests.shared()))

    assert parse(manifest.to_bytes()) == manifest
    assert parse(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


def test_a_manifest_is_json_for_people_too() -> None:
    """Somebody without this program reads it with a pager and jq."""
    data = parse(stored(manifests.plain())).to_bytes()

    assert json.loads(data) == manifests.plain()
    assert data.startswith(b'{\n  "format": "1.0",\n')
    assert data.endswith(b"\n}\n")


def test_a_manifest_adds_up_its_parts() -> None:
    """Sizes and records of all files and archives."""
    content = manifests.shared()
    content["files"].append(manifests.file("odd%20name", manifests.segment(THIRD, 0, 8)))
    manifest = parse(stored(content))

    assert (manifest.size_bytes, manifest.archive_bytes, manifest.records) == (1509, 1200, 6)


def test_the_file_with_the_records_is_found_by_the_bytes_of_its_name() -> None:
    """Wherever it stands in the list, and however it is written."""
    content = manifests.shared()
    content["files"][0]["path"] = "%6Aournal"
    content["files"].insert(0, manifests.file("other", manifests.segment(THIRD, 0, 8)))
    manifest = parse(stored(content))

    assert [file.is_journal for file in manifest.files] == [False, True]
    assert manifest.main == manifest.files[1]


def test_an_empty_journal_has_one_empty_segment() -> None:
    """It is a member of the archive like any other, so it comes back as an empty file."""
    content = manifests.plain()
    content["files"] = [manifests.file("journal", manifests.segment(FIRST, 0, 0))]

    assert parse(stored(content)).size_bytes == 0


def test_optional_facts_may_be_left_out() -> None:
    """A site without a name, a pod without a node."""
    content = manifests.plain()
    for path in (("site",), ("suspicion",), ("source", "node"), ("source", "pod")):
        without(*path)(content)

    assert parse(stored(content)) == parse(stored(manifests.plain()))


@pytest.mark.parametrize("path", [(), ("source",), ("archives", 0), ("files", 0)])
def test_a_field_that_nobody_knows_is_passed_over(path: tuple[str | int, ...]) -> None:
    """A newer minor version may add facts, and this one still restores."""
    content = manifests.plain()
    at(*path, from_the_future={"deep": [1, {"er": None}]})(content)

    assert parse(stored(content)) == parse(stored(manifests.plain()))


def test_a_higher_minor_format_is_read() -> None:
    """It keeps its own number: this reader does not pretend that it wrote it."""
    manifest = parse(stored(manifests.plain() | {"format": "1.7"}))

    assert manifest.format == "1.7"


# -- what is refused


@pytest.mark.parametrize("version", ["2.0", "2.1", "10.0", "999999999.0"])
def test_a_higher_major_format_is_refused_by_name(version: str) -> None:
    """Whatever else it says: nothing of it can be understood, and the fix is a newer version."""
    with pytest.raises(UnsupportedFormatError, match=f"format {version}, .* reads {FORMAT}"):
        parse(stored({"format": version, "files": "another shape"}))


REFUSED: dict[str, tuple[Change, str]] = {
    # the format
    "no format": (without("format"), "format: Field required"),
    "a number as format": (at(format=1.0), "format: Input should be a valid string"),
    "half a format": (at(format="1"), "format: String should match"),
    "digits of another script": (at(format="\u0661.0"), "format: String should match"),
    "a format with a newline": (at(format="1.0\n"), "format: String should match"),
    "a format without end": (at(format="9" * 5000 + ".0"), "format: String should match"),
    "a format below zero": (at(format="-2.0"), "format: String should match"),
    "a format that never was": (at(format="0.9"), "format: there never was a format 0.9"),
    # who and when
    "no id": (without("id"), "id: Field required"),
    "an id of another form": (at(id="yesterday"), "id: String should match"),
    "an id with a newline": (at(id=FIRST + "\n"), "id: String should match"),
    "an id in no calendar": (at(id="20260230T020000Z-3f9a1c"), "id: .*time that there is not"),
    "no journal's name": (at(journal="models"), "'models' is not a journal's name"),
    "a journal elsewhere": (at(journal="../journal-a-0"), "is not a journal's name"),
    "a time without a zone": (at(created_at="2026-11-21T02:00:00"), "created_at: .*timezone"),
    "a number as time": (at(created_at=1), "created_at: "),
    "a time as text": (at(created_at="noon"), "created_at: "),
    "a text as truth": (at(suspect="false"), "suspect: Input should be a valid boolean"),
    "a number as truth": (at(suspect=0), "suspect: Input should be a valid boolean"),
    "an alarm that is no id": (at(alarms=["x"]), "alarms.0: String should match"),
    "an unknown consistency": (at("source", consistency="odd"), "source.consistency: "),
    # the chain
    "a first one with a predecessor": (
        at(previous={"id": SECOND, "manifest_sha256": SHA256}),
        "continuity 'first' contradicts",
    ),
    "a later one without": (at(continuity="extended"), "continuity 'extended' contradicts"),
    "an unknown continuity": (at(continuity="odd"), "continuity: Input should be"),
    "a predecessor without a hash": (at(previous={"id": SECOND}), "previous.manifest_sha256: "),
    "a predecessor of the same id": (
        at(continuity="extended", previous={"id": FIRST, "manifest_sha256": SHA256}),
        f"predecessor {FIRST} is not older than {FIRST}",
    ),
    "a predecessor from the future": (
        at(continuity="extended", previous={"id": SECOND, "manifest_sha256": SHA256}),
        f"predecessor {SECOND} is not older than {FIRST}",
    ),
    # archives
    "an archive of another journal": (
        at("archives", 0, key=f"journal-a-1/journal-a-1-{FIRST}.tar.gz"),
        f"'journal-a-1/.*' is not the key of an archive of {JOURNAL}",
    ),
    "an archive that is a manifest": (
        at("archives", 0, key=f"{JOURNAL}/{JOURNAL}-{FIRST}.manifest.json"),
        "is not the key of an archive",
    ),
    "an archive outside": (at("archives", 0, key="../../etc/passwd"), "'../../etc/passwd' is not"),
    "an archive twice": (
        more("archives", manifests.archive(FIRST)),
        f"the archive {manifests.archive_key(FIRST)} is listed twice",
    ),
    "a size below zero": (at("archives", 0, size_bytes=-1), "archives.0.size_bytes: "),
    "a size beyond all": (at("archives", 0, size_bytes=2**53), "archives.0.size_bytes: "),
    "a size of many digits": (at("archives", 0, size_bytes=10**4000), "archives.0.size_bytes: "),
    "half a byte": (at("archives", 0, size_bytes=1.5), "archives.0.size_bytes: "),
    "a text as size": (at("archives", 0, size_bytes="400"), "archives.0.size_bytes: "),
    "a hash in capitals": (at("archives", 0, sha256=SHA256.upper()), "archives.0.sha256: "),
    "half a hash": (at("archives", 0, sha256=SHA256[:32]), "archives.0.sha256: "),
    "an unknown read-back": (at("archives", 0, readback="none"), "archives.0.readback: "),
    "sizes whose sum is beyond all": (
        lambda c: [
            more("archives", manifests.archive(SECOND))(c),
            *(a.update(size_bytes=2**53 - 1) for a in c["archives"]),
        ],
        "hold more than",
    ),
    # files
    "no files": (at(files=[]), "it has no file 'journal'"),
    "files, but no journal": (at("files", 0, path="other"), "it has no file 'journal'"),
    "files as an object": (at(files={}), "files: Input should be a valid"),
    "a file twice": (
        more("files", manifests.file("journal", manifests.segment(FIRST, 0, 1000))),
        "the file journal is listed twice",
    ),
    "a file twice, spelt otherwise": (
        more("files", manifests.file("%6Aournal", manifests.segment(FIRST, 0, 1000))),
        "the file %6Aournal is listed twice",
    ),
    "a mode beyond all": (at("files", 0, mode=0o10000), "files.0.mode: "),
    "an owner that no system has": (at("files", 0, uid=2**32), "files.0.uid: "),
    "a group below zero": (at("files", 0, gid=-1), "files.0.gid: "),
    # segments
    "a file without a segment": (at("files", 0, size_bytes=0, segments=[]), "files.0.segments: "),
    "a segment that begins late": (
        at("files", 0, segments=[manifests.segment(FIRST, 1, 1000)]),
        "files.0: journal: a segment begins at 1, not at 0",
    ),
    "too few bytes": (
        at("files", 0, size_bytes=1001),
        "files.0: journal: the segments hold 1000 of 1001 bytes",
    ),
    "too many bytes": (
        at("files", 0, size_bytes=999),
        "files.0: journal: the segments hold 1000 of 999 bytes",
    ),
    "an unknown archive": (
        at("files", 0, segments=[manifests.segment(SECOND, 0, 1000)]),
        "journal: its segments do not follow the list of archives",
    ),
    "a member of two files": (
        more("files", manifests.file("other", manifests.segment(FIRST, 0, 1000))),
        f"the segment {manifests.archive_key(FIRST)} {JOURNAL}/journal is listed twice",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_valid_is_refused_with_its_place(change: Change, message: str) -> None:
    """Others can write where a manifest lies: nothing in it is taken on trust."""
    content = manifests.plain()
    change(content)

    with pytest.raises(ManifestError, match=f"^not a valid manifest: .*{message}"):
        parse(stored(content))


def lengths(*spans: tuple[int, int]) -> Change:
    """Make a change that gives the segments of the shared manifest other places."""

    def change(content: Content) -> None:
        for segment, (offset, length) in zip(content["files"][0]["segments"], spans, strict=True):
            segment |= {"offset": offset, "length": length}

    return change


REFUSED_SHARED: dict[str, tuple[Change, str]] = {
    "a gap": (lengths((0, 1000), (1001, 499), (1500, 1)), "begins at 1001, not at 1000"),
    "an overlap": (lengths((0, 1000), (999, 501), (1500, 1)), "begins at 999, not at 1000"),
    "another order": (lengths((1000, 500), (0, 1000), (1500, 1)), "begins at 1000, not at 0"),
    "an empty segment": (lengths((0, 1000), (1000, 0), (1000, 501)), "at 1000 is empty"),
    "archives in another order": (
        lambda c: c["archives"].reverse(),
        "journal: its segments do not follow the list of archives",
    ),
    "a segment twice": (
        lambda c: c["files"][0]["segments"][1].update(
            archive=manifests.archive_key(FIRST), member=f"{JOURNAL}/%6Aournal"
        ),
        f"the segment {manifests.archive_key(FIRST)} {JOURNAL}/%6Aournal is listed twice",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED_SHARED.values(), ids=REFUSED_SHARED)
def test_segments_that_do_not_make_the_file_are_refused(change: Change, message: str) -> None:
    """A restore puts them together in order: no byte may be missing or there twice."""
    content = manifests.shared()
    change(content)

    with pytest.raises(ManifestError, match=message):
        parse(stored(content))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/etc/passwd",
        "..",
        ".",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a%00b",
        "%2e%2e",
        "a%2F..%2Fb",
        "%2Fetc",
    ],
)
@pytest.mark.parametrize("place", ["path", "member"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, place: str) -> None:
    """Also when it is percent-encoded: a restore makes a file of that name."""
    content = manifests.plain()
    change = (
        at("files", 0, path=name) if place == "path" else at("files", 0, "segments", 0, member=name)
    )
    change(content)

    with pytest.raises(ManifestError, match=rf"files\.0\..*{place}: .* is not a plain relative"):
        parse(stored(content))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{",
        b"null",
        b"1",
        b'"1.0"',
        b"[]",
        b'["format"]',
        b"\xff\xfe",
        b"\x1f\x8b\x08\x00",
        b'{"format": "1.0"',
        b'{"format": "1.0"} trailing',
        b'{"format": "1.0", "x": ' + b"9" * 5000 + b"}",
        b'{"format": "1.0", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"format": "2.\\ud800"}',
        '{"format": "1.0"}'.encode("utf-16"),
        b"[" * 100_000,
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    """Half a download, another file, an attack on the parser: one kind of error, one short line."""
    with pytest.raises(ManifestError, match=r"^not a valid manifest: ") as caught:
        parse(data)

    assert len(caught.value.message) < 300


def test_text_that_no_terminal_can_print_is_refused() -> None:
    """Half a surrogate pair cannot be written again as UTF-8."""
    data = stored(manifests.plain() | {"tool": "\ud800"})

    with pytest.raises(ManifestError):
        parse(data)


# -- the published schema


def test_the_published_schema_is_that_of_the_code() -> None:
    """Other people's readers are built on the file."""
    assert json.loads(SCHEMA_FILE.read_bytes()) == schema()


def validator() -> jsonschema.Draft202012Validator:
    """Give a validator that another project wrote."""
    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("content", [manifests.plain(), manifests.shared()])
def test_real_manifests_follow_the_schema(content: Content) -> None:
    """As they are stored, not as they were made."""
    data = parse(stored(content)).to_bytes()

    assert list(validator().iter_errors(json.loads(data))) == []


@pytest.mark.parametrize(
    "change",
    [
        without("id"),
        at(format="one"),
        at(continuity="odd"),
        at("archives", 0, size_bytes=-1),
        at("archives", 0, sha256="x"),
        at("files", 0, segments=[]),
    ],
)
def test_the_schema_refuses_what_the_code_refuses(change: Change) -> None:
    """So far as a schema can say it."""
    content = manifests.plain()
    change(content)

    assert not validator().is_valid(content)


def test_the_schema_explains_its_fields() -> None:
    """Units and meanings go with it."""
    properties = schema()["$defs"]["Segment"]["properties"]

    assert properties["offset"]["description"] == "Where in the file it begins, in bytes."


# -- marks


def test_a_mark_comes_back_from_its_bytes() -> None:
    """A fact that was learned later, in an object of its own."""
    content = {
        "kind": "acknowledged",
        "journal": JOURNAL,
        "id": FIRST,
        "created_at": "2026-11-22T08:00:00Z",
        "by": "kim",
        "note": "disk was replaced",
        "another fact": 1,
    }
    mark = parse_mark(stored(content))

    assert (mark.format, mark.by, mark.note) == (FORMAT, "kim", "disk was replaced")
    assert parse_mark(mark.to_bytes()) == mark


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Invalid JSON"),
        (b"{}", "kind: Field required"),
        (b'{"kind": "odd"}', "kind: Input should be"),
        (
            stored({"kind": "pruned", "journal": JOURNAL, "id": "x", "created_at": "now"}),
            "id: String should match",
        ),
    ],
)
def test_a_damaged_mark_is_refused(data: bytes, message: str) -> None:
    """A tombstone that says nothing closes no chain."""
    with pytest.raises(ManifestError, match=f"^not a valid mark: {message}"):
        parse_mark(data)


def test_models_cannot_be_changed() -> None:
    """What was checked stays what was checked."""
    manifest = parse(stored(manifests.plain()))

    with pytest.raises(ValueError, match="frozen"):
        manifest.id = THIRD  # type: ignore[misc]
    assert Manifest.model_config["frozen"] == Mark.model_config["frozen"]
