"""What has no peer to be compared with: the other verbs, starting, stopping, and large journals.

Before each reading of a backup its archive is dropped from the page cache, so it comes from the
device.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import OURS, compete
from bench.measure import Command, CommandError, run
from bench.results import Results, Series
from bench.stage import JOURNAL, Stage
from bench.watch import watch

DEADLINE_SECONDS = 1
TERMINATED = 143
OVERDUE = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How often things are done."""

    rounds: int
    starts: int
    """Of ``version`` and ``--help``."""
    journals: int
    backups: int
    """Of each journal in the catalog that is listed."""


def start(stage: Stage, results: Results, extent: Extent) -> None:
    """Start the command and let it do nothing."""
    stage.clear()
    run(stage.ours("version"))  # the first start compiles
    for name, argument in (("version", "version"), ("help", "--help")):
        samples = [run(stage.ours(argument)) for _ in range(extent.starts)]
        results.singles.append(Series(name=name, title=argument, samples=samples))


def listing(stage: Stage, results: Results, extent: Extent) -> None:
    """List a sink that has been in use for years."""
    from backup.model import ID_PATTERN  # noqa: PLC0415 - only this needs the package itself
    from bench.catalog import make_catalog  # noqa: PLC0415 - as above

    stage.clear()
    make_catalog(stage.sink, journals=extent.journals, backups=extent.backups)
    number = extent.journals * extent.backups
    output = stage.temporary / "list.json"
    series = Series(name="list", title=f"list, {number:,} backups of {extent.journals} journals")
    for _ in range(extent.rounds):
        series.samples.append(run(stage.ours("list", "--json"), stdout=output))
    listed = len(set(ID_PATTERN.findall(output.read_text())))
    if listed != number:
        message = f"list shows {listed} backups of {number}"
        raise CommandError(message)
    results.singles.append(series)


def reading(stage: Stage, results: Results, extent: Extent) -> None:
    """Verify and restore a backup of the stage's journal."""
    compete(OURS, stage)
    _read_back(stage, results, extent.rounds, "")


def large(stage: Stage, results: Results, _extent: Extent) -> None:
    """Back up, verify and restore a large journal, once: does memory grow with it?"""
    stage.set()
    title = f"backup, {stage.journal_bytes >> 20:,} MiB"
    samples = [compete(OURS, stage)]
    results.singles.append(
        Series(name="large", title=title, samples=samples, journal_bytes=stage.journal_bytes)
    )
    _read_back(stage, results, 1, f", {stage.journal_bytes >> 20:,} MiB")


def _read_back(stage: Stage, results: Results, rounds: int, size: str) -> None:
    prefix = "large " if size else ""
    verbs: dict[str, Callable[[], Command]] = {
        "verify": lambda: stage.ours("verify"),
        "verify --deep": lambda: stage.ours("verify", "--deep"),
        "restore": lambda: _fresh_restore(stage),
    }
    for verb, command in verbs.items():
        series = Series(name=prefix + verb, title=verb + size, journal_bytes=stage.journal_bytes)
        for _ in range(rounds):
            prepared = command()
            stage.forget_sink()
            series.samples.append(run(prepared))
        results.singles.append(series)
    _compare(stage)


def _fresh_restore(stage: Stage) -> Command:
    target = stage.temporary / "restored"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    return stage.ours("restore", "latest", "--target", target)


def _compare(stage: Stage) -> None:
    restored = stage.temporary / "restored" / JOURNAL / "journal"
    if not filecmp.cmp(restored, stage.journal, shallow=False):
        message = "what was restored is not what was backed up"
        raise CommandError(message)


def stopping(stage: Stage, results: Results, extent: Extent) -> None:
    """End backups by SIGTERM at several moments, and by the deadline."""
    usual = compete(OURS, stage).wall_seconds
    late = {"BACKUP_DEADLINE": f"{DEADLINE_SECONDS}s"}
    terminated = Series(name="sigterm", title="backup ended by SIGTERM")
    overdue = Series(name="deadline", title=f"backup with a deadline of {DEADLINE_SECONDS} s")
    wrong: list[str] = []
    for number in range(extent.rounds):
        moment = usual * (number + 1) / (extent.rounds + 1)
        wrong += _stop(stage, stage.ours("backup"), terminated, TERMINATED, moment)
        wrong += _stop(stage, stage.ours("backup", **late), overdue, OVERDUE)
    results.singles += [terminated, overdue]
    results.findings["what stopped backups did wrong"] = wrong


def _stop(
    stage: Stage, command: Command, series: Series, right: int, term_after: float = -1
) -> Iterator[str]:
    """Add a sample, unless it was done before it could be stopped; name what was wrong."""
    stage.clear()
    stage.settle()
    sample = run(command, expect=range(256), term_after=term_after)
    if sample.exit_code:
        series.samples.append(sample)
    if sample.exit_code not in {0, right}:
        yield f"exit code {sample.exit_code}, not {right}"
    yield from half_objects(stage.sink)


def half_objects(sink: Path) -> Iterator[str]:
    """Name what looks whole on a sink and is not; gzip is the judge."""
    archives = {path.name for path in sink.rglob("*.tar.gz")}
    for path in sink.rglob("*.tar.gz"):
        if subprocess.run(["gzip", "-t", path], capture_output=True, check=False).returncode:
            yield f"{path.name} is not whole"
    for path in sink.rglob("*.manifest.json"):
        if path.name.replace(".manifest.json", ".tar.gz") not in archives:
            yield f"{path.name} has no archive"


def temporary_files(stage: Stage, results: Results, _extent: Extent) -> None:
    """Watch which files a backup writes; on the sink, one at a time is the archive's own."""
    stage.clear()
    stage.settle()
    results.findings["temporary files"] = watch(stage.ours("backup"), sink=stage.sink)


SINGLES: dict[str, Callable[[Stage, Results, Extent], None]] = {
    "start": start,
    "list": listing,
    "read": reading,
    "stop": stopping,
    "temp": temporary_files,
    "large": large,
}
"""By the names that ``--only`` takes."""
