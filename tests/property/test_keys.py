"""Ids and keys, for all of them."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from backup.model import Journal, Key, id_time, is_id, new_id, parse_key, stamp

times = st.integers(0, int(datetime(9999, 12, 30, tzinfo=UTC).timestamp())).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
tokens = st.text("0123456789abcdef", min_size=6, max_size=6)
ids = st.builds(lambda when, token: f"{stamp(when)}-{token}", times, tokens)
labels = st.from_regex(r"[a-z0-9](?:[a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)
journals = st.builds(Journal, statefulset=labels, ordinal=st.integers(0, 999_999_999))
names = journals.map(str)
kinds = st.from_regex(r"[a-z]{1,32}", fullmatch=True)
keys = st.one_of(
    st.builds(Key, journal=names, id=ids, role=st.just("archive"), attempt=st.integers(1, 9)),
    st.builds(Key, journal=names, id=ids, role=st.sampled_from(["checksum", "manifest", "draft"])),
    st.builds(
        Key,
        journal=names,
        id=ids,
        role=st.just("mark"),
        mark=kinds.filter(lambda kind: kind not in {"manifest", "draft"}),
        time=st.none() | times.map(stamp),
    ),
)


@given(now=times, after=st.lists(ids), token=tokens)
def test_a_new_id_is_later_than_every_other(now: datetime, after: list[str], token: str) -> None:
    """By time and as text, whatever the clock says: the newest sorts last."""
    made = new_id(now, after=after, token=token)

    assert is_id(made)
    assert all(made > other for other in after)
    assert all(id_time(made) > id_time(other) for other in after)


@given(journals)
def test_a_journal_comes_back_from_its_name(journal: Journal) -> None:
    """The name holds all of it, though both parts may hold the sign between them."""
    assert journal == Journal.parse(journal.name)


@given(keys)
def test_a_key_comes_back_from_its_text(key: Key) -> None:
    """Nothing is lost, and no key is taken for another."""
    assert key == parse_key(str(key))


@given(keys, st.data())
def test_a_changed_key_is_another_one_or_none(key: Key, data: st.DataObject) -> None:
    """There is one way to write each key: two objects never pass for the same one."""
    text = str(key)
    at = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 2))
    new = data.draw(st.text("/.-_ %\n0129aZzTé", max_size=2))
    changed = text[:at] + new + text[at + gone :]
    parsed = parse_key(changed)

    assert parsed is None or changed == str(parsed)


@given(st.text())
@example("journal-a-0/journal-a-0-99999999T999999Z-aaaaaa.tar.gz")
def test_what_stands_on_a_sink_never_breaks_reading(text: str) -> None:
    """Others write there too: a strange name is passed over, and a known one has a real time."""
    key = parse_key(text)

    assert key is None or is_id(key.id)
