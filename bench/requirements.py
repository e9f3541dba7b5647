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
"""The version that the requirements are about."""


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
        *_together(results),
        *_concurrency(results),
        *_readback(results),
        *_memory(results),
        *_times(results),
        *_throughput(results),
        *_unwinding(results),
        *_findings(results),
    ]


_FACTORS = {
    "guide": ("ours", 8.0),
    f"restic-{JUDGED_RESTIC}": ("ours", 2.5),
    "guide-s3": ("s3", 6.0),
    f"restic-{JUDGED_RESTIC}-s3": ("s3", 2.5),
}
"""By a peer's name: which of ours has to be faster, and how many times."""
_FLOORS = {"ours": ("quiet", 1.6), "growing": ("growing", 1.8)}


def _speed(results: Results) -> Iterator[Row]:
    """How fast a backup is, as a ratio of median times in this run."""
    for peer in results.contenders:
        name, factor = _FACTORS.get(peer.name, ("", 0))
        if peer.samples and (ours := results.get(name)):
            ratio = peer.wall_seconds / ours.wall_seconds
            yield _least(f"fresh backup against {peer.title}", factor, ratio, "x as fast")
    floor = results.get("floor")
    for name, (journal, factor) in _FLOORS.items():
        if floor and (ours := results.get(name)):
            ratio = ours.wall_seconds / floor.wall_seconds
            yield _most(f"fresh backup, {journal} journal", factor, ratio, "x the floor's time")


_ALONE = ("file", "s3", "gcs")
_TIMES, _WORK = 1.3, 1.2


def _together(results: Results) -> Iterator[Row]:
    """Judge three sinks at once by time or, where the cores are the limit, by processor time."""
    alone = [s for s in map(results.get, _ALONE) if s]
    three = results.get("three")
    if three and len(alone) == len(_ALONE):
        slowest = max(alone, key=lambda s: s.wall_seconds)
        time = three.wall_seconds / slowest.wall_seconds
        work = three.cpu_seconds / sum(s.cpu_seconds for s in alone)
        held = ["time"] * (time <= _TIMES) + ["CPU"] * (work <= _WORK)
        yield Row(
            subject=f"three sinks at once against each alone, of which {slowest.name} is slowest",
            required=f"at most {_TIMES} x the slowest, or {_WORK} x the sum of CPU",
            measured=f"{time:.3g} x time, {work:.3g} x CPU: {' and '.join(held) or 'neither'}",
            ok=bool(held),
        )


def _concurrency(results: Results) -> Iterator[Row]:
    many, single = results.get("latency"), results.get("one by one")
    if many and single:
        ratio = single.wall_seconds / many.wall_seconds
        yield _least(f"{many.title}, against one by one", 3, ratio, "x as fast")


def _readback(results: Results) -> Iterator[Row]:
    """Judge whether the read-back came from the device: the journal itself is in the cache."""
    ours = results.get("ours")
    if ours:
        shares = [s.device_read_bytes / s.written_bytes for s in ours.samples]
        yield _least("archive read back from the device", 95, 100 * min(shares), "% of it")


_PEAKS: dict[str, tuple[float, tuple[str, ...]]] = {
    "a backup": (80, ("ours", "growing", "size", "large ours")),
    "a backup to S3": (160, ("s3", "large s3", "latency", "one by one")),
    "a backup to three sinks": (200, ("three", "held", "large held")),
}
"""MiB."""


def _memory(results: Results) -> Iterator[Row]:
    for subject, (most, names) in _PEAKS.items():
        samples = [sample for s in map(results.get, names) if s for sample in s.samples]
        if samples:
            peak = max(sample.peak_rss_bytes for sample in samples)
            yield _most(f"peak memory of {subject}", most, peak / MIB, "MiB")
    for large in results.singles:
        small = results.get(large.name.removeprefix("large "))
        if large.samples and small and small is not large:
            before = max(sample.peak_rss_bytes for sample in small.samples)  # it varies
            grown = (large.peak_rss_bytes - before) / MIB
            sizes = f"{large.title} against the most at {small.journal_bytes // MIB:,} MiB"
            yield _most(f"memory of {sizes}", 5, grown, "MiB more")


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
