"""What must be reached, and whether it was.

A requirement is a row: what is required, what was measured, and whether that is enough. One that
nothing was measured for, because it was not asked for, has no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.results import Results
from bench.singles import DEADLINE_SECONDS
from bench.sizes import MIB

JUDGED_RESTIC = "0.14.0"
"""The version that the requirement is about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One requirement."""

    subject: str
    required: str
    measured: str
    ok: bool


def judge(results: Results) -> list[Row]:
    """Compare what was measured with what is required."""
    return [
        *_speed(results),
        *_readback(results),
        *_memory(results),
        *_times(results),
        *_throughput(results),
        *_unwinding(results),
        *_findings(results),
    ]


def _speed(results: Results) -> Iterator[Row]:
    """How fast a backup is, as a ratio of median times in this run."""
    ours, growing, floor = map(results.get, ("ours", "growing", "floor"))
    for peer in results.contenders:
        factor = (
            8.0 if peer.name == "guide" else 2.5 if peer.name == f"restic-{JUDGED_RESTIC}" else None
        )
        if ours and factor and peer.samples:
            ratio = peer.wall_seconds / ours.wall_seconds
            yield _least(f"fresh backup against {peer.title}", factor, ratio, "x as fast")
    if ours and floor:
        ratio = ours.wall_seconds / floor.wall_seconds
        yield _most("fresh backup, quiet journal", 1.6, ratio, "x the floor's time")
    if growing and floor:
        ratio = growing.wall_seconds / floor.wall_seconds
        yield _most("fresh backup, growing journal", 1.8, ratio, "x the floor's time")


def _readback(results: Results) -> Iterator[Row]:
    """Judge whether the read-back came from the device: the journal itself is in the cache."""
    ours = results.get("ours")
    if ours:
        shares = [s.device_read_bytes / s.written_bytes for s in ours.samples]
        yield _least("archive read back from the device", 95, 100 * min(shares), "% of it")


def _memory(results: Results) -> Iterator[Row]:
    backups = [s for s in map(results.get, ("ours", "growing", "size", "large")) if s]
    if backups:
        peak = max(sample.peak_rss_bytes for series in backups for sample in series.samples)
        yield _most("peak memory of a backup", 80, peak / MIB, "MiB")
    pairs = {"ours": "large", **{verb: f"large {verb}" for verb in _VERBS}}
    for small, large in pairs.items():
        before, after = results.get(small), results.get(large)
        if before and after:
            grown = (after.peak_rss_bytes - before.peak_rss_bytes) / MIB
            name = "backup" if small == "ours" else small
            sizes = f"{after.journal_bytes // MIB:,} MiB against {before.journal_bytes // MIB:,}"
            yield _most(f"memory of {name}, {sizes} MiB", 5, grown, "MiB more")


_VERBS = {"verify": 400.0, "verify --deep": 200.0, "restore": 250.0}
"""MiB of journal a second."""


def _throughput(results: Results) -> Iterator[Row]:
    for verb, least in _VERBS.items():
        series = results.get(verb)
        if series:
            yield _least(verb, least, series.mib_per_second, "MiB/s of journal")


def _times(results: Results) -> Iterator[Row]:
    for name, most in {"version": 0.2, "help": 0.4, "list": 3.0}.items():
        series = results.get(name)
        if series:
            yield _most(series.title, most, series.wall_seconds, "s")


def _unwinding(results: Results) -> Iterator[Row]:
    """Judge by the slowest; the deadline's figure has the start of the process in it."""
    terminated, overdue = results.get("sigterm"), results.get("deadline")
    unwound = [s.unwind_seconds for s in terminated.samples] if terminated else []
    slowest = max((seconds for seconds in unwound if seconds is not None), default=None)
    if slowest is not None:
        yield _most("from SIGTERM to the end, slowest", 1, slowest, "s")
    if overdue:
        late = max(s.wall_seconds for s in overdue.samples) - DEADLINE_SECONDS
        yield _most("from the deadline to the end, slowest", 1, late, "s")


def _findings(results: Results) -> Iterator[Row]:
    for subject, found in results.findings.items():
        yield Row(
            subject=subject, required="none", measured=", ".join(found) or "none", ok=not found
        )


def _least(subject: str, required: float, measured: float, unit: str) -> Row:
    return Row(
        subject=subject,
        required=f"at least {required:g} {unit}",
        measured=_number(measured),
        ok=measured >= required,
    )


def _most(subject: str, required: float, measured: float, unit: str) -> Row:
    return Row(
        subject=subject,
        required=f"at most {required:g} {unit}",
        measured=_number(measured),
        ok=measured <= required,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
