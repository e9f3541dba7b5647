"""One journal in one run: read it, send it to every sink, compare, commit.

The rules that a run follows stand in :mod:`backup.verbs.backup`. What they mean here:

- What is read may have to be fixed anew (:mod:`backup.transfer.bounds`), and is read again then.
  What a sink has committed before that is reported all the same.
- A second pass is for archives, and is decided on once the first is over. It must hash as the first
  one did, or nothing of it is committed.
- A sink that was too slow for the others is served alone: there it may take its time.
- Sinks that hold the same beginning of the journal are served by one reading. Where the journal
  does not begin so any more, all is packed.
- A sink that holds an id after which there is none fails alone: it is asked before an id is made
  for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from os import urandom
from typing import TypeVar

from backup.archive import gzip
from backup.catalog import OpenSink
from backup.errors import (
    BackupError,
    IntegrityError,
    JournalError,
    SinkError,
    SinkSlowError,
    SinkStalledError,
    StopError,
)
from backup.events import PassRepeated
from backup.journals import Capture, Reading
from backup.model import new_id
from backup.streams import each, fan_out, prefetch, spread
from backup.transfer.bounds import Bounds
from backup.transfer.destination import Copy, Destination
from backup.transfer.passes import OtherBeginningError, Pass, mtime
from backup.transfer.plan import Plan

R = TypeVar("R")

COMPRESSORS = 2
"""Threads that compress. Compressing costs three times what hashing does, and hashing is serial."""


Outcomes = dict[Destination, Copy | Exception]
"""What came of a pass on each of its sinks."""


class JournalBackup:
    """The backup of one journal to all sinks of a run."""

    def __init__(self, plan: Plan, captured: Capture, sinks: Sequence[OpenSink]) -> None:
        """Take what was captured, and the sinks that want it."""
        self.records = 0
        """Complete records in what was committed."""
        self.problem: BackupError | None = None
        """What is wrong with the journal, so that it is missing where it is not held."""
        self._plan = plan
        self._run = plan.run
        self._name = captured.journal.name
        self._destinations = [Destination(sink, self._name, plan) for sink in sinks]
        self._bounds = Bounds(plan, captured)
        self._id = ""

    def perform(self) -> list[Copy]:
        """Do it; what failed on a sink is in its copy, and what failed here in ``problem`` too.

        Raises:
            StopError: the run was stopped.
        """
        able = [d for d in self._destinations if d.learn()]
        try:
            self._back_up(able)
        except (JournalError, IntegrityError) as error:
            self.problem = error
        return [self._concluded(d) for d in self._destinations]

    @property
    def captured(self) -> Capture:
        """What is read of it, as of now."""
        return self._bounds.captured

    @property
    def has_old_tail(self) -> bool:
        """Whether the journal's last backup left out the very bytes that are left out again."""
        main = self.captured.main
        tail = (main.size_bytes, main.omitted_tail_bytes, mtime(main))
        return main.omitted_tail_bytes > 0 and any(
            (f.size_bytes, f.omitted_tail_bytes, f.mtime) == tail
            for f in (d.previous for d in self._destinations)
            if f is not None
        )

    def _concluded(self, destination: Destination) -> Copy:
        copy = destination.copy
        if isinstance(copy.error, SinkStalledError):
            destination.opened.give_up(copy.error)
        return copy if copy.is_held or copy.error else replace(copy, error=self.problem)

    def _back_up(self, able: Sequence[Destination]) -> None:
        if not able:
            return
        used = [backup_id for d in able for backup_id in d.ids]
        self._id = new_id(self._run.clock(), after=used, token=urandom(3).hex())
        first: Pass | None = None
        for group in self._groups(able):
            first, outcomes = self._read_until_steady(group, first)
            again = self._take_down(first, outcomes)
            if again:
                causes = "; ".join(str(d.copy.error) for d in again)
                self._repeat(f"a sink failed in a way that may pass: {causes}")
                self._pass_again(first, self._those_that_recover(again))

    def _groups(self, able: Sequence[Destination]) -> list[list[Destination]]:
        """Put sinks together that one reading can serve."""
        groups: dict[tuple[int, str] | None, list[Destination]] = {}
        for destination in able:
            destination.find_base(self.captured)
            base = destination.base
            beginning = (base.file.size_bytes, base.file.sha256) if base else None
            groups.setdefault(beginning, []).append(destination)
        return [*groups.values()]

    def _pass_again(self, first: Pass, able: Sequence[Destination]) -> None:
        slow = [d for d in able if isinstance(d.copy.error, SinkSlowError)]
        others = [d for d in able if d not in slow]
        for together in (others, *([d] for d in slow)):
            if together:
                second, outcomes = self._read_until_steady(together, first, attempt=2)
                second.require_alike()
                self._take_down(second, outcomes)

    def _those_that_recover(self, failed: Sequence[Destination]) -> list[Destination]:
        wait = Destination.await_recovery
        errors = spread(wait, failed, limit=len(failed), stop=self._run.stop)
        for destination, error in zip(failed, errors, strict=True):
            if error is not None:
                destination.copy = replace(destination.copy, error=error)
        return [d for d, error in zip(failed, errors, strict=True) if error is None]

    def _repeat(self, reason: str) -> None:
        self._run.emit(PassRepeated(journal=self._name, reason=reason))

    def _read_until_steady(
        self, group: Sequence[Destination], first: Pass | None, *, attempt: int = 1
    ) -> tuple[Pass, Outcomes]:
        while True:
            try:
                return self._pass(group, first, attempt)
            except JournalError as error:
                self._bounds.mend(error, is_held=any(d.copy.is_held for d in self._destinations))
            except OtherBeginningError:
                for destination in group:
                    destination.must_be_full = True
                self._repeat("it does not begin as it did: all of it is packed")

    def _pass(
        self, group: Sequence[Destination], first: Pass | None, attempt: int
    ) -> tuple[Pass, Outcomes]:
        captured = self.captured
        for destination in group:
            destination.find_base(captured)
        marks = [d.previous.size_bytes for d in group if d.previous]
        done = Pass(
            id=self._id,
            attempt=attempt,
            of=captured,
            base=group[0].base,
            readings={m.path: Reading(marks if m.is_journal else ()) for m in captured.members},
            first=first,
        )
        tar = done.stream(self._run)
        if tar is None:
            done.require_alike()
            return done, self._settle_without_archive(group, done)
        return done, self._send(group, done, tar)

    def _send(self, group: Sequence[Destination], done: Pass, tar: Iterator[bytes]) -> Outcomes:
        stop = self._run.stop
        packed = gzip(
            prefetch(tar, stop=stop),
            level=self._plan.settings.compression_level,
            each=partial(each, workers=COMPRESSORS, stop=stop),
        )
        return fan_out(
            done.packed.over(packed),
            {destination: partial(destination.serve, done) for destination in group},
            stop=stop,
            stall_seconds=self._plan.patience.stall_seconds,
        )

    def _settle_without_archive(self, group: Sequence[Destination], done: Pass) -> Outcomes:
        """Commit what adds nothing to what its sinks hold."""

        def settle(destination: Destination) -> Copy | Exception:
            try:
                return destination.settle(done)
            except StopError:
                raise
            except BackupError as error:
                return error

        copies = spread(settle, group, limit=len(group), stop=self._run.stop)
        return dict(zip(group, copies, strict=True))

    def _take_down(self, done: Pass, outcomes: Outcomes) -> list[Destination]:
        """Note what came of a reading; name the sinks that are worth a second pass."""
        again: list[Destination] = []
        failures: list[Exception] = []
        for destination, copy in outcomes.items():
            if isinstance(copy, Copy):
                destination.copy = copy
            elif isinstance(copy, SinkError):
                destination.copy = replace(destination.copy, error=copy)
                if copy.transient:
                    again.append(destination)
            else:
                failures.append(copy)
        if any(destination.copy.is_held for destination in outcomes):
            self.records = done.main.records
        if failures:
            raise failures[0]
        return again
