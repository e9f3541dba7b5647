"""What has no peer to be compared with: the other verbs, starting, stopping, and large journals.

Before each reading of a backup its archive is dropped from the page cache, so it comes from the
device.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.contenders import Contender, compete, ours
from bench.measure import Command, CommandError, run
from bench.plan import Extent
from bench.results import Results, Series
from bench.stage import FILE, JOURNAL, Sinks, Stage
from bench.watch import watch

OURS = ours("ours", "journal-backup")
DEADLINE_SECONDS = 1
APPENDED_BYTES = 16 << 20
"""In a day of a site that is not busy."""
TERMINATED = 143
OVERDUE = 9


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
    read_back(stage, results, extent.rounds)


def large(stage: Stage, results: Results, _extent: Extent) -> None:
    """Back up, verify and restore a large journal, once: does memory grow with it?"""
    stage.set()
    results.singles.append(once(OURS, stage, "backup"))
    read_back(stage, results, 1, prefix="large ", suffix=_size(stage))


def once(contender: Contender, stage: Stage, title: str) -> Series:
    """Run a contender once with a large journal."""
    return Series(
        name=f"large {contender.name}",
        title=title + _size(stage),
        samples=[compete(contender, stage)],
        journal_bytes=stage.journal_bytes,
    )


def _size(stage: Stage) -> str:
    return f", {stage.journal_bytes >> 20:,} MiB"


def read_back(
    stage: Stage,
    results: Results,
    rounds: int,
    *,
    sinks: Sinks = FILE,
    prefix: str = "",
    suffix: str = "",
) -> None:
    """Verify and restore the backup that is there.

    Args:
        stage: where it is.
        results: what the series are added to.
        rounds: how often.
        sinks: the one on which it is.
        prefix: of the names of the series.
        suffix: of their titles.
    """
    verbs: dict[str, Callable[[], Command]] = {
        "verify": lambda: stage.ours("verify", sinks=sinks),
        "verify --deep": lambda: stage.ours("verify", "--deep", sinks=sinks),
        "restore": lambda: _fresh_restore(stage, sinks),
    }
    for verb, command in verbs.items():
        series = Series(name=prefix + verb, title=verb + suffix, journal_bytes=stage.journal_bytes)
        for _ in range(rounds):
            prepared = command()
            stage.forget_sinks()
            series.samples.append(run(prepared))
        results.singles.append(series)
    _compare(stage)


def _fresh_restore(stage: Stage, sinks: Sinks) -> Command:
    target = stage.temporary / "restored"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    return stage.ours("restore", "latest", "--target", target, sinks=sinks)


def _compare(stage: Stage) -> None:
    restored = stage.temporary / "restored" / JOURNAL / "journal"
    if not filecmp.cmp(restored, stage.journal, shallow=False):
        message = "what was restored is not what was backed up"
        raise CommandError(message)


def stopping(stage: Stage, results: Results, extent: Extent) -> None:
    """End backups by SIGTERM at several moments, and by the deadline."""
    usual = compete(OURS, stage).wall_seconds
    late = f"{DEADLINE_SECONDS}s"
    terminated = Series(name="sigterm", title="backup ended by SIGTERM")
    overdue = Series(name="deadline", title=f"backup with a deadline of {DEADLINE_SECONDS} s")
    wrong: list[str] = []
    for number in range(extent.rounds):
        moment = usual * (number + 1) / (extent.rounds + 1)
        wrong += _stop(stage, stage.ours("backup"), terminated, TERMINATED, moment)
        wrong += _stop(stage, stage.ours("backup", BACKUP_DEADLINE=late), overdue, OVERDUE)
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


def next_night(stage: Stage, results: Results, extent: Extent) -> None:
    """Back up once more, when nothing was appended, and when a little was: what does that cost?"""
    appended = min(APPENDED_BYTES, stage.journal_bytes)
    unchanged = Series(name="unchanged", title="MODE=incremental, nothing appended")
    extended = Series(name="extended", title=f"MODE=incremental, {appended >> 20} MiB appended")
    with stage.journal.open("rb") as journal:
        more = journal.read(appended)
    more = more[: more.rindex(b"\n") + 1]
    for _ in range(extent.rounds):
        stage.clear()
        run(stage.ours("backup", BACKUP_MODE="incremental"))
        for series in (unchanged, extended):
            if series is extended:
                with stage.journal.open("ab") as journal:
                    journal.write(more)
            stage.settle()
            series.samples.append(run(stage.ours("backup", BACKUP_MODE="incremental")))
        os.truncate(stage.journal, stage.journal_bytes)
    results.singles += [unchanged, extended]


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
    "next": next_night,
    "temp": temporary_files,
    "large": large,
}
"""By the names that ``--only`` takes."""
