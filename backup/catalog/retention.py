"""Retention: which backups of one journal, on one sink, may go. Pure: nothing is read or removed.

Rules:

- A policy says what is kept; nothing set means that all is. What no rule of it keeps may go, but
  only if its records are safe: it is delivered, or a newer good backup holds all of them.
- Rules count good backups alone: one that is suspect or damaged stands for no day. The newest good
  ones stay, ``keep_min`` of them, whatever else is said.
- Days, weeks (ISO 8601) and months are those of UTC, and only those count in which there is a
  backup: a site that was off for a year loses nothing by it.
- Time is reckoned from the newest backup, or from now if that is earlier: where no backups are made
  any more, or a clock is ahead, nothing grows old.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from backup.model import id_time
from backup.settings import RetentionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What has to be known of a backup."""

    id: str
    is_good: bool
    is_delivered: bool
    holder: str | None = None
    """A newer good backup that holds all its records; None if none does, as far as is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a backup may go, and why."""

    id: str
    may_go: bool
    reason: str


def plan(
    candidates: Sequence[Candidate], policy: RetentionSettings, now: datetime
) -> list[Verdict]:
    """Say of each backup whether it may go.

    Args:
        candidates: all backups of a journal on a sink.
        policy: what is kept.
        now: the time, UTC.

    Returns:
        A verdict on each, the oldest first.
    """
    ordered = sorted(candidates, key=lambda candidate: candidate.id)
    kept = _kept([c.id for c in reversed(ordered) if c.is_good], policy, now)
    return [_verdict(c, kept.get(c.id, []), policy) for c in ordered]


def _verdict(candidate: Candidate, rules: Sequence[str], policy: RetentionSettings) -> Verdict:
    def say(reason: str, *, may_go: bool = False) -> Verdict:
        return Verdict(id=candidate.id, may_go=may_go, reason=reason)

    if not policy.is_set:
        return say("nothing says what to keep")
    if rules:
        return say(", ".join(rules))
    if candidate.is_delivered:
        return say("delivered", may_go=True)
    if candidate.holder is not None:
        return say(f"{candidate.holder} holds its records", may_go=True)
    return say("not delivered, and its records may be nowhere else")


def _kept(good: Sequence[str], policy: RetentionSettings, now: datetime) -> dict[str, list[str]]:
    """Say which rules keep which backups; ``good`` are the ids of good ones, the newest first."""
    kept: defaultdict[str, list[str]] = defaultdict(list)

    def keep(ids: Iterable[str], rule: str) -> None:
        for backup_id in ids:
            kept[backup_id].append(rule)

    keep(good[: policy.keep_min], "one of the newest")
    keep(good[: policy.keep_last or 0], "last")
    if good and policy.keep_within is not None:
        since = min(now, id_time(good[0])) - policy.keep_within
        keep((i for i in good if id_time(i) >= since), "within")
    keep(_newest_of_each(good, datetime.date, policy.keep_daily), "daily")
    keep(_newest_of_each(good, lambda at: at.isocalendar()[:2], policy.keep_weekly), "weekly")
    keep(_newest_of_each(good, lambda at: (at.year, at.month), policy.keep_monthly), "monthly")
    return kept


def _newest_of_each(
    good: Iterable[str], period: Callable[[datetime], object], count: int | None
) -> list[str]:
    newest: dict[object, str] = {}
    for backup_id in good:
        newest.setdefault(period(id_time(backup_id)), backup_id)
    return [*newest.values()][: count or 0]
