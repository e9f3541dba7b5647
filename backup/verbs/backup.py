"""``backup``: read every journal once, store it on every sink, prove it, say so.

Rules:

- What is expected is known before anything is read: the replicas that the settings promise, and
  every journal that a sink's catalog knows and nobody retired. An expected journal that is not
  there fails the run: an unmounted volume must never look like success.
- One reading serves all sinks. Each sink has its own history, so each gets its own manifest: a
  sink that missed yesterday is still right today.
- A manifest is committed only when what the sink holds is what was read; how one journal gets
  there is in :mod:`backup.verbs.passes`.
- A failure that may pass gets one second pass over the same bound, which must hash as the first
  did. A journal that changed under us, or has a hole, is read again; see :mod:`backup.journals`.
- A directory without the file ``journal`` fails the run even where nobody expected that journal:
  billing made it. Only one that was retired may stay behind empty.
- The result names every journal that was expected or found, and for each one every sink.
- A journal that is not what it was (``rewritten``, ``shrunk``) is stored in full, as evidence,
  and raises an alarm that every later manifest inherits until somebody acknowledges it.
- One failing journal or sink never stops the others.
- A sink that holds no backup of a journal while another sink does is reported: it is new, or it has
  lost what it held, and only an operator knows which.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from backup.catalog import Shelf
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    ConfigError,
    IntegrityError,
    JournalError,
    JournalMissingError,
    SinkError,
)
from backup.journals import Capture, Discovery, capture, discover, few
from backup.model import (
    Clock,
    Consistency,
    Emit,
    Journal,
    Problem,
    RunStarted,
    Warned,
    encode_name,
)
from backup.sinks import Sink
from backup.stop import Stop
from backup.streams import call, spread
from backup.verbs import expectation, holdings
from backup.verbs.outcome import BackupResult, JournalOutcome
from backup.verbs.passes import Copy, JournalBackup, PassOptions, Target

SMALL_JOURNAL_BYTES = 16 << 20
"""Journals up to this size are backed up several at a time, larger ones one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(PassOptions):
    """What the settings say about a run."""

    source: Path
    statefulset: str
    expect_replicas: int = 0
    expect_only: tuple[str, ...] | None = None
    """The journals of the volumes that a worker mounts: it knows no others, and so expects none.
    What concerns all of them, it leaves to whoever sent it."""
    concurrency: int = 4
    deadline: timedelta = timedelta(hours=6)
    consistency: Consistency = "live"
    """``quiesced`` where it is certain that billing is stopped."""


def back_up(
    options: Options, sinks: Sequence[Sink], *, clock: Clock, emit: Emit, stop: Stop
) -> BackupResult:
    """Back up every journal to every sink.

    Raises:
        ConfigError: the source is not there.
        JournalError: the source cannot be listed.
        StopError: a signal or the deadline ended the run; what was committed stays.
    """
    return _Run(options, clock=clock, emit=emit, stop=stop).perform(sinks)


class _Run:
    """One run: what it was told, and what it has to say in the end."""

    def __init__(self, options: Options, *, clock: Clock, emit: Emit, stop: Stop) -> None:
        self._options = options
        self._clock = clock
        self._emit = emit
        self._stop = stop
        self._unopened: list[Copy] = []
        self._problems: list[Problem] = []
        self._warnings: list[Warned] = []

    def perform(self, sinks: Sequence[Sink]) -> BackupResult:
        started_at, begun = self._clock(), time.monotonic()
        self._emit(
            RunStarted(
                verb="backup", run_id=self._options.run_id, sinks=tuple(s.url for s in sinks)
            )
        )
        discovery = call(
            partial(discover, self._options.source, self._options.statefulset), stop=self._stop
        )
        targets = self._open(sinks)
        statefulset, shelves = self._options.statefulset, [t.shelf for t in targets]
        for warning in expectation.oddities(discovery, shelves, statefulset):
            self._pass_on(warning)
        wanted = self._expected(shelves)
        outcomes = self._missing(wanted, discovery)
        outcomes += self._each(discovery.journals, targets, wanted)
        if not any(o.found or o.expected for o in outcomes):
            self._fail(Problem.of(expectation.nothing(self._options.source, statefulset)))
        self._sweep(targets)
        return BackupResult(
            run_id=self._options.run_id,
            started_at=started_at,
            duration_seconds=time.monotonic() - begun,
            journals=tuple(sorted(outcomes, key=lambda o: (Journal.parse(o.journal), o.journal))),
            ignored_entries=discovery.ignored,
            foreign_journals=discovery.foreign,
            problems=tuple(self._problems),
            warnings=tuple(self._warnings),
        )

    # -- what is said

    def _fail(self, problem: Problem) -> Problem:
        self._problems.append(problem)
        self._emit(problem)
        return problem

    def _warn(self, message: str, *, journal: str | None = None, sink: str | None = None) -> None:
        self._pass_on(Warned(message=message, journal=journal, sink=sink))

    def _pass_on(self, warning: Warned) -> None:
        self._warnings.append(warning)
        self._emit(warning)

    # -- sinks

    def _open(self, sinks: Sequence[Sink]) -> list[Target]:
        opened = spread(self._open_one, sinks, limit=len(sinks), stop=self._stop)
        targets = [t for t in opened if isinstance(t, Target)]
        for sink, result in zip(sinks, opened, strict=True):
            if isinstance(result, BackupError):
                self._fail(_on_sink(result, sink=sink.url, held=bool(targets)))
                self._unopened.append(Copy(sink=sink.url, error=result))
        return targets

    def _open_one(self, sink: Sink) -> Target | BackupError:
        try:
            sink.probe()
            target = Target(Shelf.of(sink))
            holdings.require_own_site(target.shelf, self._options.site)
        except (SinkError, ConfigError) as error:
            return error
        return target

    def _sweep(self, targets: Sequence[Target]) -> None:
        if self._options.expect_only is not None:
            return
        kept = [t.shelf for t in targets if t.given_up is None]
        options, clock, emit = self._options, self._clock, self._emit
        for found in holdings.sweep(kept, deadline=options.deadline, clock=clock, emit=emit):
            if isinstance(found, Problem):
                self._fail(found)
            else:
                self._pass_on(found)

    # -- what is expected

    def _expected(self, shelves: Sequence[Shelf]) -> set[Journal]:
        options = self._options
        if options.expect_only is not None:
            return {j for name in options.expect_only if (j := Journal.parse(name))}
        return expectation.expected(options.statefulset, shelves, replicas=options.expect_replicas)

    def _missing(self, wanted: set[Journal], discovery: Discovery) -> list[JournalOutcome]:
        return [
            self._lost(
                journal, expected=True, error=expectation.absent(self._options.source, journal)
            )
            for journal in sorted(wanted - set(discovery.journals))
        ]

    def _lost(self, journal: Journal, *, expected: bool, error: JournalError) -> JournalOutcome:
        return JournalOutcome(
            journal=journal.name,
            expected=expected,
            found=not isinstance(error, JournalMissingError),
            problem=self._fail(Problem.of(error, journal=journal.name)),
        )

    # -- journals

    def _each(
        self, journals: Sequence[Journal], targets: list[Target], expected: set[Journal]
    ) -> list[JournalOutcome]:
        outcomes: list[JournalOutcome] = []
        captures: list[Capture] = []
        for journal in journals:
            try:
                captures.append(self._captured(journal))
            except JournalError as error:
                outcomes.append(self._unread(journal, targets, expected, error))
        small = [c for c in captures if c.size_bytes <= SMALL_JOURNAL_BYTES]
        large = [c for c in captures if c.size_bytes > SMALL_JOURNAL_BYTES]
        one = partial(self._one, targets=targets, expected=expected)
        outcomes += spread(one, small, limit=self._options.concurrency, stop=self._stop)
        outcomes += spread(one, large, limit=1, stop=self._stop)
        return outcomes

    def _captured(self, journal: Journal) -> Capture:
        look = partial(
            capture,
            self._options.source,
            journal,
            clock=self._clock,
            consistency=self._options.consistency,
        )
        return call(look, stop=self._stop)

    def _unread(
        self,
        journal: Journal,
        targets: Sequence[Target],
        expected: set[Journal],
        error: JournalError,
    ) -> JournalOutcome:
        is_retired = any(t.listing.is_retired(journal.name) for t in targets)
        if isinstance(error, JournalMissingError) and is_retired and journal not in expected:
            self._warn(f"is retired, and {error.message}", journal=journal.name)
            return JournalOutcome(journal=journal.name, expected=False, found=False)
        return self._lost(journal, expected=journal in expected, error=error)

    def _one(
        self, captured: Capture, *, targets: Sequence[Target], expected: set[Journal]
    ) -> JournalOutcome:
        work = JournalBackup(
            captured,
            targets,
            self._options,
            clock=self._clock,
            emit=self._emit,
            stop=self._stop,
        )
        copies = work.perform()
        outcome = JournalOutcome(
            journal=captured.journal.name,
            expected=captured.journal in expected,
            found=True,
            size_bytes=work.captured.size_bytes,
            records=work.records,
            omitted_tail_bytes=work.captured.main.omitted_tail_bytes,
            is_empty=not work.captured.main.size_bytes,
            suspicion=work.captured.suspicion,
            passed_over=tuple((encode_name(p), kind) for p, kind in work.captured.passed_over),
            passed_over_count=work.captured.passed_over_counts.total(),
            copies=(*copies, *self._unopened),
        )
        self._judge_copies(outcome.journal, copies, problem=work.problem)
        if work.problem is not None:
            problem = Problem.of(work.problem, journal=outcome.journal)
            return replace(outcome, problem=self._fail(problem))
        self._judge_reading(outcome, work)
        self._speak_of_beginnings(outcome, targets)
        self._welcome_back(outcome, targets)
        return outcome

    def _judge_copies(
        self, journal: str, copies: Sequence[Copy], *, problem: BackupError | None
    ) -> None:
        is_held = any(c.is_held for c in copies)
        for copy in copies:
            for damage in copy.problems:
                self._fail(damage)
            if copy.error is None:
                if copy.alarms:
                    self._fail(_alarm(journal, copy))
            elif copy.error is not problem:
                self._fail(_on_sink(copy.error, journal=journal, sink=copy.sink, held=is_held))
        if not copies:
            self._fail(
                Problem(
                    exit_code=SinkError.exit_code,
                    message="reached no sink: none of them can take backups",
                    journal=journal,
                )
            )

    def _judge_reading(self, outcome: JournalOutcome, work: JournalBackup) -> None:
        journal, captured = outcome.journal, work.captured
        if outcome.suspicion is not None:
            self._fail(
                Problem(
                    exit_code=JournalError.exit_code,
                    message=f"suspect: {outcome.suspicion}",
                    hints=("look at the journal where billing runs; tell Deepgram if it stays",),
                    journal=journal,
                )
            )
        elif captured.main.torn_tail_bytes:
            torn = captured.main.torn_tail_bytes
            self._warn(f"ends in the middle of a record: {torn} bytes, kept", journal=journal)
        elif work.has_old_tail:
            tail = captured.main.omitted_tail_bytes
            self._warn(
                f"{tail} bytes after its last complete record were left out, as in its last "
                "backup: billing does not go on with that record",
                journal=journal,
            )
        elif outcome.state == "empty":
            self._warn("is empty: no complete record yet", journal=journal)
        if captured.odd:
            odd = few(
                (f"{encode_name(p)} is {kind}" for p, kind in captured.odd),
                count=captured.odd_count,
            )
            self._warn(f"was backed up without what is no file: {', '.join(odd)}", journal=journal)

    def _speak_of_beginnings(self, outcome: JournalOutcome, targets: Sequence[Target]) -> None:
        known = [t.url for t in targets if t.listing.backups(outcome.journal)]
        begun = {c.sink for c in outcome.copies if c.is_held}.difference(known)
        for url in sorted(begun) if known else ():
            self._warn(
                f"its history begins here with this backup, while {known[0]} has older ones: "
                "the sink is new, or has lost what it held",
                journal=outcome.journal,
                sink=url,
            )

    def _welcome_back(self, outcome: JournalOutcome, targets: Sequence[Target]) -> None:
        held = {c.sink for c in outcome.copies if c.is_held}
        for target in targets:
            if target.url in held and target.listing.is_retired(outcome.journal):
                self._warn(
                    "was retired and is back: it is no longer retired",
                    journal=outcome.journal,
                    sink=target.url,
                )


def _on_sink(error: BackupError, *, sink: str, held: bool, journal: str | None = None) -> Problem:
    """Say what a sink's failure means: less where another sink holds the journal."""
    is_safe = held and not isinstance(error, ConfigError)
    return Problem.of(
        error, journal=journal, sink=sink, exit_code=NEEDS_A_LOOK if is_safe else None
    )


def _alarm(journal: str, copy: Copy) -> Problem:
    how = (
        f"was {copy.continuity} since its last backup"
        if copy.raised_alarm
        else "has a standing alarm"
    )
    return Problem(
        exit_code=IntegrityError.exit_code,
        message=f"{how}: {', '.join(copy.alarms)}",
        hints=(
            "compare the backups before and after it, and find out who changed the journal",
            f"then: journal-backup acknowledge {copy.alarms[0]}",
        ),
        journal=journal,
        sink=copy.sink,
    )
