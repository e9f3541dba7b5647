"""Retention: what a policy keeps, and what may go only if its records are safe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.catalog.retention import Candidate, Verdict, plan
from backup.model import id_time, new_id
from backup.settings import RetentionSettings

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
"""A Monday."""


def at(when: datetime, number: int = 0) -> str:
    """Make the id of a backup of that time."""
    return new_id(when, after=(), token=f"{number:06x}")


def backup(when: datetime, number: int = 0, **changes: Any) -> Candidate:
    """Have one that is good, and whose records are safe."""
    safe = Candidate(id=at(when, number), is_good=True, is_delivered=True)
    return replace(safe, **changes)


def days(*ago: float) -> list[Candidate]:
    """Have safe backups of so many days ago."""
    return [backup(NOW - timedelta(days=number)) for number in ago]


def kept(candidates: Sequence[Candidate], now: datetime = NOW, **policy: Any) -> list[float]:
    """Say how many days ago those were made that are kept, the newest first."""
    verdicts = plan(candidates, RetentionSettings(**{"keep_min": 1, **policy}), now)
    assert [v.id for v in verdicts] == sorted(c.id for c in candidates)
    times = [id_time(v.id) for v in reversed(verdicts) if not v.may_go]
    return [(NOW - when) / timedelta(days=1) for when in times]


def verdict(candidates: Sequence[Candidate], which: Candidate, **policy: Any) -> Verdict:
    """Say what is to become of one of them."""
    (found,) = (v for v in plan(candidates, RetentionSettings(**policy), NOW) if v.id == which.id)
    return found


# -- what rules keep


def test_nothing_set_keeps_all() -> None:
    """Pruning is nobody's default."""
    assert kept(days(*range(100))) == [*range(100)]
    assert plan(days(1), RetentionSettings(), NOW)[0].reason == "nothing says what to keep"


def test_the_last_are_kept() -> None:
    """So many, or all where there are fewer."""
    assert kept(days(0, 1, 2, 3), keep_last=2) == [0, 1]
    assert kept(days(0, 1), keep_last=5) == [0, 1]


def test_those_of_a_time_are_kept() -> None:
    """To the second."""
    found = days(0, 1, 2, 2.00002, 3)
    assert kept(found, keep_within=timedelta(days=2)) == [0, 1, 2]


@pytest.mark.parametrize("now", [NOW + timedelta(days=400), datetime(2999, 1, 1, tzinfo=UTC)])
def test_nothing_grows_old_where_no_backups_are_made(now: datetime) -> None:
    """Nor where the clock is ahead: time is reckoned from the newest backup."""
    assert kept(days(0, 1, 2, 9), now, keep_within=timedelta(days=2)) == [0, 1, 2]


def test_a_backup_of_the_future_makes_nothing_old() -> None:
    """Its node's clock was ahead: time is reckoned from now."""
    assert kept(days(-900, 1, 9), keep_within=timedelta(days=2)) == [-900, 1]


def test_the_newest_of_each_day_is_kept() -> None:
    """Of those days that have one, in UTC: 12 hours before NOW is midnight."""
    assert kept(days(0, 0.4, 0.6, 1.2, 5, 5.1, 70), keep_daily=4) == [0, 0.6, 5, 70]


def test_the_newest_of_each_week_is_kept() -> None:
    """A week begins on Monday, and the last one of a year may end in the next one."""
    assert kept(days(0, 0.6, 1, 6.9, 7.6, 30), keep_weekly=3) == [0, 0.6, 7.6]
    new_year = [datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)]
    assert len(kept([backup(when) for when in new_year], keep_weekly=5)) == 1


def test_the_newest_of_each_month_is_kept() -> None:
    """The same month of another year is another one."""
    assert kept(days(0, 20, 23, 40, 365), keep_monthly=3) == [0, 23, 365]


def test_rules_add_up() -> None:
    """And the reasons are all told."""
    found = days(0, 1, 2, 30, 60)
    assert kept(found, keep_last=1, keep_daily=2, keep_monthly=3) == [0, 1, 30, 60]
    assert (
        verdict(found, found[0], keep_last=1, keep_monthly=2).reason
        == "one of the newest, last, monthly"
    )


def test_bad_ones_stand_for_no_day() -> None:
    """Whoever needs that day needs the good one."""
    bad = backup(NOW, is_good=False)
    found = [bad, *days(0.1, 0.2, 1)]
    assert kept(found, keep_daily=2) == [0.1, 1]
    assert kept(found, keep_last=1) == [0.1]


# -- what may not go


def test_some_good_ones_are_kept_in_any_case() -> None:
    """Three, unless it is set; and one, whatever is set."""
    bad = [backup(NOW - timedelta(days=n), 1, is_good=False) for n in range(3)]
    found = [*bad, *days(0, 1, 2, 3, 4)]
    assert [v.may_go for v in plan(found, RetentionSettings(keep_last=1), NOW)].count(False) == 3
    assert kept(found, keep_last=1, keep_min=4) == [0, 1, 2, 3]


def test_records_that_are_nowhere_else_are_kept() -> None:
    """Whatever the policy says."""
    lonely = backup(NOW - timedelta(days=90), is_delivered=False)
    found = [*days(0, 1, 2, 3), lonely]
    assert kept(found, keep_last=1) == [0, 90]
    assert verdict(found, lonely, keep_last=1).reason == (
        "not delivered, and its records may be nowhere else"
    )


def test_why_one_may_go_is_told() -> None:
    """Delivered, or held by which one."""
    newest = backup(NOW)
    held = backup(NOW - timedelta(days=5), is_delivered=False, holder=newest.id)
    sent = backup(NOW - timedelta(days=6))
    found = [newest, held, sent]
    reasons = [verdict(found, c, keep_last=1, keep_min=1).reason for c in found]
    assert reasons == ["one of the newest, last", f"{newest.id} holds its records", "delivered"]


# -- laws

RULE = st.none() | st.integers(1, 9)
POLICIES = st.builds(
    RetentionSettings,
    keep_last=RULE,
    keep_within=st.none() | st.timedeltas(timedelta(0), timedelta(days=60)),
    keep_daily=RULE,
    keep_weekly=RULE,
    keep_monthly=RULE,
    keep_min=st.integers(1, 4),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Candidate]:
    """Have backups of some hours, each of which may be good, delivered, or held by a newer one."""
    hours = sorted(draw(st.sets(st.integers(0, 5_000), max_size=25)))
    ids = [at(NOW - timedelta(hours=number)) for number in hours]
    good = [draw(st.booleans()) for _ in ids]
    return [
        Candidate(
            id=backup_id,
            is_good=good[n],
            is_delivered=draw(st.booleans()),
            holder=draw(
                st.sampled_from([None, *(i for i, g in zip(ids[:n], good, strict=False) if g)])
            ),
        )
        for n, backup_id in enumerate(ids)
    ]


def gone(verdicts: Iterable[Verdict]) -> set[str]:
    """Name those that may go."""
    return {v.id for v in verdicts if v.may_go}


@given(histories(), POLICIES)
def test_undelivered_records_never_go(history: list[Candidate], policy: RetentionSettings) -> None:
    """Law 5; and a journal is never emptied of good backups."""
    going = gone(plan(history, policy, NOW))
    good = sorted((c.id for c in history if c.is_good), reverse=True)

    assert going.isdisjoint(good[: policy.keep_min])
    assert all(c.is_delivered or c.holder for c in history if c.id in going)
    assert policy.is_set or not going


@given(histories(), POLICIES, st.integers(1, 5))
def test_a_rule_more_keeps_more(
    history: list[Candidate], policy: RetentionSettings, count: int
) -> None:
    """Or as much."""
    if not policy.is_set:
        return
    more = policy.model_copy(update={"keep_daily": (policy.keep_daily or 0) + count})
    assert gone(plan(history, more, NOW)) <= gone(plan(history, policy, NOW))


@given(histories(), POLICIES)
def test_pruning_twice_is_pruning_once(history: list[Candidate], policy: RetentionSettings) -> None:
    """What has stayed stays."""
    going = gone(plan(history, policy, NOW))
    left = [c for c in history if c.id not in going]
    assert gone(plan(left, policy, NOW)) == set()
