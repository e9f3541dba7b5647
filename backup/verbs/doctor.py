"""``doctor``: look at all that a backup needs, before it needs it.

Rules:

- Every probe is made, whatever those before have found. What is wrong comes with the fix, and with
  the exit code that it has for every verb.
- Nothing is left behind: a sink is probed as a backup does it at its start, a journal is opened and
  not read through, the cluster is asked and not changed.
- A sink needs room for one more backup of all journals: as much as their last ones took, and for a
  journal that it has no backup of what the journal holds, where that can be looked at.
- What the cluster knows is handed in by who knows it: :mod:`backup.cluster.checkup`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeAlias

from backup.catalog import Flaw, OpenSink
from backup.catalog.holdings import require_own_site
from backup.errors import NEEDS_A_LOOK, BackupError, IntegrityError, JournalError, StopError
from backup.events import Finding, Problem, Warned
from backup.journals import capture, discover
from backup.manifest import Manifest
from backup.model import Journal, id_time, size_text
from backup.page import Page
from backup.results import Result, count, say_warnings
from backup.run import Run
from backup.settings import BackupSettings
from backup.sinks import Sink
from backup.streams import call
from backup.transfer import expectation

Item: TypeAlias = Finding | Problem | Warned
"""What a probe gives: one for each thing that it has looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorResult(Result):
    """What was found."""

    findings: tuple[Finding, ...]
    """What is as it should be."""
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {"findings": len(self.findings), "warnings": len(self.warnings)}

    def write(self, page: Page) -> None:
        """Write it, for people."""
        for finding in self.findings:
            page.say(f"{finding.subject} {finding.message}", "ok: ", "green")
        say_warnings(page, self.warnings)
        page.say(
            f"{len(self.findings)} as it should be, {len(self.warnings)} to know of, "
            f"{len(self.problems)} wrong"
        )


def examine(
    run: Run,
    settings: BackupSettings,
    *,
    sinks: Sequence[Sink] = (),
    has_journals: bool = False,
    cluster: Iterable[Item] = (),
) -> DoctorResult:
    """Look at the sinks, the journals, and the cluster.

    Args:
        run: told of everything that is found; its stop is asked wherever there is something to
            wait for.
        settings: what is expected, and where.
        sinks: all of them, or none.
        has_journals: whether a backup here reads journals that are mounted.
        cluster: what the cluster has to say; it is asked when this is iterated.

    Raises:
        StopError: a signal came first.
    """
    doctor = _Doctor(run, settings)
    for sink in sinks:
        doctor.take(doctor.look_at_writing(sink), sink=sink.url)
        doctor.take(doctor.look_at_backups(sink), sink=sink.url)
    if has_journals:
        doctor.take(doctor.look_at_journals())
    for opened in doctor.took:
        doctor.take(doctor.look_at_room(opened), sink=opened.url)
    doctor.take(cluster)
    return DoctorResult(
        findings=tuple(doctor.findings),
        problems=tuple(run.problems),
        warnings=tuple(run.warnings),
    )


class _Doctor:
    """One examination, and what it has found until now."""

    def __init__(self, run: Run, settings: BackupSettings) -> None:
        self.findings: list[Finding] = []
        self._run = run
        self._settings = settings
        self._opened: list[OpenSink] = []
        self.took: dict[OpenSink, int] = {}
        """How many bytes the newest backups of all journals took on each sink."""
        self._sizes: dict[str, int] = {}
        """How many bytes each journal holds that could be looked at."""

    def take(self, probe: Iterable[Item], *, sink: str | None = None) -> None:
        """Make a probe; what ends it is a problem, and the next one is made."""
        try:
            for item in probe:
                self._note(item)
        except StopError:
            raise
        except BackupError as error:
            self._note(Problem.of(error, sink=sink))

    def _note(self, item: Item) -> None:
        if isinstance(item, Warned):
            self._run.warn(item)
        elif isinstance(item, Finding):
            self.findings.append(item)
            self._run.emit(item)
        elif item not in self._run.problems:  # two probes may meet the same wall
            self._run.fail(item)

    # -- sinks

    def look_at_writing(self, sink: Sink) -> Iterator[Item]:
        sink.probe()
        yield Finding(subject=sink.url, message="takes backups")

    def look_at_backups(self, sink: Sink) -> Iterator[Item]:
        opened = OpenSink(sink)
        require_own_site(opened, self._settings.site)
        self._opened.append(opened)
        newest: list[Manifest] = []
        for journal in opened.listing.journals:
            found, damaged = opened.newest(journal)
            for error in damaged:
                yield Problem.of(error, journal=journal, sink=sink.url)
            if found is not None:
                newest.append(found.manifest)
                yield from _flaws(found.manifest, opened)
        self.took[opened] = sum(a.size_bytes for made in newest for a in made.archives)
        yield Finding(subject=sink.url, message=self._contents(opened, newest))

    def look_at_room(self, opened: OpenSink) -> Iterator[Item]:
        free = opened.sink.free_bytes()
        if free is None:
            return
        known, took = {*opened.listing.journals}, self.took[opened]
        first = sum(size for journal, size in self._sizes.items() if journal not in known)
        if free >= took + first:
            yield Finding(subject=opened.url, message=f"has {size_text(free)} of room")
            return
        why = f"the last backup of all journals took {size_text(took)}"
        if first:
            why = (
                f"the next backup of all journals may take {size_text(took + first)}: journals "
                f"without a backup there hold {size_text(first)} before compression"
            )
        yield Problem(
            exit_code=NEEDS_A_LOOK,
            message=f"has {size_text(free)} of room, and {why}",
            hints=("enlarge the volume, or let old backups go: journal-backup prune",),
            sink=opened.url,
        )

    def _contents(self, opened: OpenSink, newest: Sequence[Manifest]) -> str:
        backups = count(len([*opened.listing.every()]), "backup")
        if not newest:
            return "holds no backup yet"
        age = _age_text(self._run.clock() - max(id_time(manifest.id) for manifest in newest))
        return f"holds {backups} of {count(len(newest), 'journal')}, the newest of them {age} old"

    # -- journals

    def look_at_journals(self) -> Iterator[Item]:
        settings, source = self._settings, self._settings.source
        discovery = call(partial(discover, source, settings.statefulset), stop=self._run.stop)
        yield from self._look_at_mount(source)
        expectation.tell_oddities(self._run, settings, discovery, self._opened)
        for journal in discovery.journals:
            yield self._look_at(source, journal)
        wanted = expectation.expected(settings, self._opened)
        for journal in sorted(wanted - {*discovery.journals}):
            absent = expectation.absent(settings, journal, self._opened)
            yield Problem.of(absent, journal=journal.name)
        if not (discovery.journals or wanted):
            yield Problem.of(expectation.nothing(settings))

    def _look_at_mount(self, source: Path) -> Iterator[Item]:
        is_mount, is_read_only = call(partial(_mount, source), stop=self._run.stop)
        if is_read_only:
            yield Finding(subject=str(source), message="is mounted read-only")
        elif is_mount:
            yield Warned(
                message=f"{source} is mounted for writing, which no backup does: set readOnly on "
                "the claim's volume and on the mount"
            )

    def _look_at(self, source: Path, journal: Journal) -> Item:
        look = partial(capture, source, journal, clock=self._run.clock)
        try:
            found = call(look, stop=self._run.stop)
        except JournalError as error:
            return Problem.of(error, journal=journal.name)
        self._sizes[journal.name] = found.size_bytes
        if found.suspicion:
            return Warned(message=found.suspicion, journal=journal.name)
        holds = f"holds {size_text(found.size_bytes)}" if found.size_bytes else "is empty"
        return Finding(subject=journal.name, message=f"{holds}, and can be read")


def _mount(source: Path) -> tuple[bool, bool]:
    """Say whether something is mounted there, and whether it could not be written."""
    return os.path.ismount(source), bool(os.statvfs(source).f_flag & os.ST_RDONLY)


def _flaws(newest: Manifest, opened: OpenSink) -> Iterator[Problem]:
    flaw = opened.flaw_of(newest)
    if flaw is None:
        return
    alarms = opened.standing_alarms(newest)
    message = f"the newest backup, {newest.id}, is not good: {flaw.message}"
    code = IntegrityError.exit_code if alarms or flaw.is_damage else NEEDS_A_LOOK
    error = BackupError(message, _fix(flaw, alarms))
    yield Problem.of(error, journal=newest.journal, sink=opened.url, exit_code=code)


def _fix(flaw: Flaw, alarms: Sequence[str]) -> str:
    if flaw.is_damage:
        return "keep what is there, and find out more: journal-backup verify"
    if alarms:
        return f"find out what happened, then: journal-backup acknowledge {alarms[0]}"
    return "back up once more"


def _age_text(age: timedelta) -> str:
    minutes = max(0, int(age.total_seconds())) // 60
    days, hours = divmod(minutes // 60, 24)
    if days:
        return f"{count(days, 'day')} and {hours} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
