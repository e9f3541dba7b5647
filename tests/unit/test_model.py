"""Names, ids, keys, digests: values alone."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup.errors import IntegrityError, SinkFullError
from backup.events import Problem
from backup.model import (
    Digest,
    Journal,
    Key,
    decode_name,
    encode_name,
    id_time,
    is_id,
    located,
    new_id,
    parse_key,
    stamp,
)

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DRAWN = "3f9a1c"
ID = f"20261123T120000Z-{DRAWN}"
NAME = "journal-deepgram-billing-0"
STEM = f"{NAME}/{NAME}-{ID}"


# -- journals


@pytest.mark.parametrize(
    ("name", "statefulset", "ordinal"),
    [
        ("journal-deepgram-billing-0", "deepgram-billing", 0),
        ("journal-a-12", "a", 12),
        ("journal-a-1-2", "a-1", 2),
        ("journal-a.b-999999999", "a.b", 999_999_999),
        ("journal-journal-0-0", "journal-0", 0),
    ],
)
def test_a_journal_is_known_by_its_name(name: str, statefulset: str, ordinal: int) -> None:
    """The directory of a shared volume and the claim of a pod bear the same name."""
    journal = Journal.parse(name)

    assert Journal(statefulset=statefulset, ordinal=ordinal) == journal
    assert name == str(journal)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "journal",
        "journal-0",
        "journal--0",
        "journal-a",
        "journal-a-",
        "journal-a-x",
        "journal-a-00",
        "journal-a-01",
        "journal-a--1",
        "journal-a-1000000000",
        "journal-a-0\n",
        "journal-a-0/",
        "journal-a-\u0661",
        "journal-A-0",
        "journal--a-0",
        "journal-a..-0",
        "journal-../a-0",
        "Journal-a-0",
        " journal-a-0",
        "xjournal-a-0",
    ],
)
def test_other_names_are_no_journals(name: str) -> None:
    """What is not ours is never opened."""
    assert Journal.parse(name) is None


def test_a_journal_is_of_one_statefulset() -> None:
    """Of two whose names begin alike, too; what names no journal is of none."""
    assert Journal.is_of("a", "journal-a-1")
    assert not Journal.is_of("a", "journal-a-1-2")
    assert not Journal.is_of("a", "journal-a")


def test_journals_sort_by_number() -> None:
    """Reports list journal-a-10 after journal-a-9."""
    journals = [Journal(statefulset=s, ordinal=n) for s, n in (("b", 0), ("a", 10), ("a", 9))]

    assert [j.name for j in sorted(journals)] == ["journal-a-9", "journal-a-10", "journal-b-0"]


# -- ids


def made(now: datetime, *after: str) -> str:
    """Make an id, always with the same token."""
    return new_id(now, after=after, token=DRAWN)


def test_an_id_names_the_time_and_the_token() -> None:
    """People read it, and it sorts as text."""
    assert made(NOON) == ID


def test_an_id_is_in_utc() -> None:
    """A clock with a zone must not make names that sort wrong."""
    local = NOON.astimezone(timezone(timedelta(hours=9)))

    assert made(local) == ID


def test_an_id_is_later_than_its_predecessors_though_the_clock_was_set_back() -> None:
    """`latest` and the chain go by ids, so time must not run backwards in them."""
    earlier = ["20261123T120000Z-ffffff", "20261123T115959Z-000000"]

    assert made(NOON - timedelta(days=400), *earlier) == f"20261123T120001Z-{DRAWN}"


def test_an_id_goes_by_the_clock_once_that_is_right_again() -> None:
    """The detour lasts no longer than it must."""
    assert made(NOON, "20261123T115958Z-ffffff") == f"20261123T120000Z-{DRAWN}"


def test_two_ids_within_one_second_differ_in_time() -> None:
    """With the token alone the later one could sort first."""
    now = NOON + timedelta(milliseconds=900)

    assert made(now, ID) == f"20261123T120001Z-{DRAWN}"


def test_no_id_is_later_than_the_end_of_time() -> None:
    """A name that somebody planted on a sink is no bug of ours, and says what to do."""
    with pytest.raises(IntegrityError, match="99991231T235959Z") as caught:
        made(NOON, "99991231T235959Z-000000")

    assert len(caught.value.hints) == 1


def test_an_id_gives_back_its_time() -> None:
    """`list` shows when a backup was made without reading it."""
    assert id_time(ID) == NOON
    assert stamp(NOON) == ID[:16]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20261123T120000Z",
        "20261123T120000Z-3f9a1",
        "20261123T120000Z-3F9A1C",
        "20261123T120000Z-3f9a1c\n",
        "20261323T120000Z-3f9a1c",
        "20260230T120000Z-3f9a1c",
        "20261123T240000Z-3f9a1c",
        "20261123T235960Z-3f9a1c",
        "00000101T000000Z-3f9a1c",
        "99999999T999999Z-3f9a1c",
    ],
)
def test_other_texts_are_no_ids(text: str) -> None:
    """Neither another form nor a time that no calendar has."""
    assert not is_id(text)


# -- keys

KEYS = {
    f"{STEM}.tar.gz": Key(journal=NAME, id=ID, role="archive"),
    f"{STEM}.2.tar.gz": Key(journal=NAME, id=ID, role="archive", attempt=2),
    f"{STEM}.9.tar.gz": Key(journal=NAME, id=ID, role="archive", attempt=9),
    f"{STEM}.sha256": Key(journal=NAME, id=ID, role="checksum"),
    f"{STEM}.manifest.json": Key(journal=NAME, id=ID, role="manifest"),
    f"{STEM}.draft.json": Key(journal=NAME, id=ID, role="draft"),
    f"{STEM}.delivered.json": Key(journal=NAME, id=ID, role="mark", mark="delivered"),
    f"{STEM}.unheardof.json": Key(journal=NAME, id=ID, role="mark", mark="unheardof"),
    f"{STEM}.verified-20261124T050000Z.json": Key(
        journal=NAME, id=ID, role="mark", mark="verified", time="20261124T050000Z"
    ),
    # A mark, however it is called: never taken for the manifest.
    f"{STEM}.manifest-20261124T050000Z.json": Key(
        journal=NAME, id=ID, role="mark", mark="manifest", time="20261124T050000Z"
    ),
    f"{STEM}.draft-20261124T050000Z.json": Key(
        journal=NAME, id=ID, role="mark", mark="draft", time="20261124T050000Z"
    ),
}


@pytest.mark.parametrize(("text", "key"), KEYS.items())
def test_a_key_says_what_the_object_is(text: str, key: Key) -> None:
    """The layout of format v1: both directions are an interface."""
    assert key == parse_key(text)
    assert text == str(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        NAME,
        STEM,
        f"{STEM}.tar",
        f"{STEM}.1.tar.gz",
        f"{STEM}.10.tar.gz",
        f"{STEM}.02.tar.gz",
        f"{STEM}.tar.gz.part",
        f"{STEM}.tar.gz\n",
        f"/{STEM}.tar.gz",
        f"prefix/{STEM}.tar.gz",
        f"{STEM}.sha256.json",
        f"{STEM}.manifest",
        f"{STEM}.Manifest.json",
        f"{STEM}..json",
        f"{STEM}.json",
        f"{STEM}.{'x' * 33}.json",
        f"{STEM}.verified-.json",
        f"{STEM}.verified-20261124.json",
        f"{STEM}.verified-20261324T050000Z.json",
        f"{NAME}/journal-deepgram-billing-1-{ID}.tar.gz",
        f"{NAME}/{NAME}-{ID[:-1]}.tar.gz",
        f"{NAME}/{NAME}-20260230T120000Z-3f9a1c.tar.gz",
        f"journal-a-01/journal-a-01-{ID}.tar.gz",
        f"models/models-{ID}.tar.gz",
    ],
)
def test_other_keys_are_not_ours(text: str) -> None:
    """What is not ours is never counted, and never removed."""
    assert parse_key(text) is None


# -- file names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"journal", "journal"),
        (b"a/b", "a/b"),
        (b"a b\n", "a%20b%0A"),
        (b"100%", "100%25"),
        (b"\xff\xfe", "%FF%FE"),
        ("ä".encode(), "%C3%A4"),
    ],
)
def test_a_file_name_is_text_that_every_tool_can_carry(name: bytes, text: str) -> None:
    """Bytes go in, plain ASCII comes out."""
    assert text == encode_name(name)
    assert name == decode_name(text)


@given(st.binary())
def test_every_file_name_comes_back(name: bytes) -> None:
    """A name is bytes: any bytes."""
    text = encode_name(name)

    assert name == decode_name(text)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


# -- digests


@given(
    data=st.binary(max_size=300),
    cuts=st.lists(st.integers(0, 300)),
    marks=st.lists(st.integers(0, 320)),
    as_view=st.booleans(),
)
@example(data=b"abcdef", cuts=[3], marks=[0, 2, 3, 4, 6, 7], as_view=False)
@example(data=b"", cuts=[], marks=[0, 1], as_view=False)
def test_a_digest_is_the_hash_of_the_stream_and_of_each_marked_prefix(
    data: bytes, cuts: list[int], marks: list[int], *, as_view: bool
) -> None:
    """However the stream is cut: a mark may fall on a border, between two, or beyond the end."""
    digest = Digest(marks)
    bounds = [0, *sorted(c for c in cuts if c <= len(data)), len(data)]
    for begin, end in pairwise(bounds):
        chunk = data[begin:end]
        digest.update(memoryview(chunk) if as_view else chunk)

    expected = {m: hashlib.sha256(data[:m]).hexdigest() if m <= len(data) else None for m in marks}
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest.sha256, digest.size_bytes)
    assert expected == {m: digest.at(m) for m in marks}


def test_a_digest_does_not_know_a_prefix_that_nobody_asked_for() -> None:
    """What is not known must not look like what is equal."""
    digest = Digest([3])
    digest.update(b"abcdef")

    assert digest.at(4) is None


def test_a_digest_passes_the_stream_on() -> None:
    """It sits between two stages and changes nothing; it has each chunk before the next stage."""
    digest = Digest()
    seen = [(chunk, digest.size_bytes) for chunk in digest.over([b"ab", b"", b"c"])]

    assert seen == [(b"ab", 2), (b"", 2), (b"c", 3)]


# -- events


@pytest.mark.parametrize(
    ("message", "journal", "sink", "said"),
    [
        ("failed", None, None, "failed"),
        ("failed", "j-0", None, "j-0: failed"),
        ("failed", "j-0", "s3://a", "j-0 on s3://a: failed"),
        ("s3://a: failed", "j-0", "s3://a", "j-0: s3://a: failed"),
        ("j-0 failed on s3://a", "j-0", "s3://a", "j-0 failed on s3://a"),
    ],
)
def test_a_message_begins_with_what_it_is_about(
    message: str, journal: str | None, sink: str | None, said: str
) -> None:
    """And names nothing twice."""
    assert said == located(message, journal, sink)


def test_a_problem_says_what_an_error_means_for_whom() -> None:
    """Cause, fix and exit code come from the error, the place from where it was met."""
    error = SinkFullError("no space", "make room")

    expected = Problem(exit_code=5, message="no space", hints=("make room",), journal="j", sink="s")
    assert expected == Problem.of(error, journal="j", sink="s")


@pytest.mark.parametrize("code", [0, 3])
def test_a_problem_may_be_smaller_than_its_error(code: int) -> None:
    """A failed sink is less where another one holds the journal."""
    assert code == Problem.of(SinkFullError("no space"), exit_code=code).exit_code
