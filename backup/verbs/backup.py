"""``backup``: read every journal once, store it on every sink, prove it, say so.

Rules:

- What is expected is known before anything is read: the replicas that the settings promise, and
  every journal that a sink's catalog knows and nobody retired. An expected journal that is not
  there fails the run: an unmounted volume must never look like success.
- One reading serves all sinks. Each sink has its own history, so each gets its own manifest: a
  sink that missed yesterday is still right today.
- A manifest is committed only when what the sink holds is what was read; how one journal gets
  there is in :mod:`backup.transfer`.
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

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from backup.catalog import OpenSink, holdings
from backup.errors import (
    NEEDS_A_LOOK,
    BackupError,
    ConfigError,
    IntegrityError,
    JournalError,
    JournalMissingError,
    SinkError,
)
from backup.events import RunStarted
from backup.journals import Capture, discover, few
from backup.model import Journal, encode_name
from backup.sinks import Sink
from backup.streams import call, spread
from backup.transfer import expectation
from backup.transfer.destination import Copy
from backup.transfer.journal import JournalBackup
from backup.transfer.plan import Plan
from backup.verbs.outcome import BackupResult, JournalOutcome

SMALL_JOURNAL_BYTES = 16 << 20
"""Journals up to this size are backed up several at a time, larger ones one by one."""


def back_up(plan: Plan, sinks: Sequence[Sink]) -> BackupResult:
    """Back up every journal to every sink.

    Args:
        plan: the run, and what it was told.
        sinks: where to.

    Raises:
        ConfigError: the source is not there.
        JournalError: the source cannot be listed.
        StopError: a signal or the deadline ended the run; what was committed stays.
    """
    return _BackupRun(plan).perform(sinks)


class _BackupRun:
    """One run: its sinks, its journals, and what came of each."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._run = plan.run
        self._settings = plan.settings
        self._opened: list[OpenSink] = []
        self._unopened: list[Copy] = []
        self._wanted: set[Journal] = set()

    def perform(self, sinks: Sequence[Sink]) -> BackupResult:
        run, settings = self._run, self._settings
        run.emit(RunStarted(verb="backup", run_id=run.id, sinks=tuple(s.url for s in sinks)))
        look = partial(discover, settings.source, settings.statefulset)
        discovery = call(look, stop=run.stop)
        self._open(sinks)
        expectation.tell_oddities(run, settings, discovery, self._opened)
        self._wanted = self._expected()
        missing = sorted(self._wanted - set(discovery.journals))
        absent = partial(expectation.absent, settings, sinks=self._opened)
        outcomes = [self._lost(journal, absent(journal)) for journal in missing]
        outcomes += self._each(discovery.journals)
        if not any(o.found or o.expected for o in outcomes):
            run.fail(expectation.nothing(settings))
        if self._plan.worker.only is None:
            kept = [opened for opened in self._opened if opened.lost is None]
            holdings.sweep(run, kept, deadline=settings.deadline)
        return BackupResult(
            run_id=run.id,
            started_at=run.started_at,
            duration_seconds=run.seconds,
            journals=tuple(sorted(outcomes, key=lambda o: (Journal.parse(o.journal), o.journal))),
            ignored_entries=discovery.ignored,
            foreign_journals=discovery.foreign,
            problems=tuple(run.problems),
            warnings=tuple(run.warnings),
        )

    # -- sinks

    def _open(self, sinks: Sequence[Sink]) -> None:
        opened = spread(self._open_one, sinks, limit=len(sinks), stop=self._run.stop)
        self._opened = [result for result in opened if isinstance(result, OpenSink)]
        for sink, result in zip(sinks, opened, strict=True):
            if isinstance(result, BackupError):
                self._fail_on_sink(result, sink=sink.url, is_held=bool(self._opened))
                self._unopened.append(Copy(sink=sink.url, error=result))

    def _open_one(self, sink: Sink) -> OpenSink | BackupError:
        try:
            sink.probe()
            opened = OpenSink(sink)
            holdings.require_own_site(opened, self._settings.site)
        except (SinkError, ConfigError) as error:
            return error
        return opened

    def _fail_on_sink(
        self, error: BackupError, *, sink: str, is_held: bool, journal: str | None = None
    ) -> None:
        """Say what a sink's failure means: less where another sink holds the journal."""
        is_safe = is_held and not isinstance(error, ConfigError)
        code = NEEDS_A_LOOK if is_safe else None
        self._run.fail(error, journal=journal, sink=sink, exit_code=code)

    # -- what is expected

    def _expected(self) -> set[Journal]:
        only = self._plan.worker.only
        if only is not None:
            return {journal for name in only if (journal := Journal.parse(name))}
        return expectation.expected(self._settings, self._opened)

    def _lost(self, journal: Journal, error: JournalError) -> JournalOutcome:
        return JournalOutcome(
            journal=journal.name,
            expected=journal in self._wanted,
            found=not isinstance(error, JournalMissingError),
            problem=self._run.fail(error, journal=journal.name),
        )

    # -- journals

    def _each(self, journals: Sequence[Journal]) -> list[JournalOutcome]:
        outcomes: list[JournalOutcome] = []
        captures: list[Capture] = []
        for journal in journals:
            try:
                captures.append(self._plan.capture(journal))
            except JournalError as error:
                outcomes.append(self._unread(journal, error))
        small = [c for c in captures if c.size_bytes <= SMALL_JOURNAL_BYTES]
        large = [c for c in captures if c.size_bytes > SMALL_JOURNAL_BYTES]
        stop = self._run.stop
        outcomes += spread(self._one, small, limit=self._settings.concurrency, stop=stop)
        outcomes += spread(self._one, large, limit=1, stop=stop)
        return outcomes

    def _unread(self, journal: Journal, error: JournalError) -> JournalOutcome:
        is_retired = any(s.listing.is_retired(journal.name) for s in self._opened)
        if isinstance(error, JournalMissingError) and is_retired and journal not in self._wanted:
            self._run.warn(f"is retired, and {error.message}", journal=journal.name)
            return JournalOutcome(journal=journal.name, expected=False, found=False)
        return self._lost(journal, error)

    def _one(self, first: Capture) -> JournalOutcome:
        work = JournalBackup(self._plan, first, self._opened)
        copies = work.perform()
        captured = work.captured
        outcome = JournalOutcome(
            journal=captured.journal.name,
            expected=captured.journal in self._wanted,
            found=True,
            size_bytes=captured.size_bytes,
            records=work.records,
            omitted_tail_bytes=captured.main.omitted_tail_bytes,
            is_empty=not captured.main.size_bytes,
            suspicion=captured.suspicion,
            passed_over=tuple((encode_name(p), kind) for p, kind in captured.passed_over),
            passed_over_count=captured.passed_over_counts.total(),
            copies=(*copies, *self._unopened),
        )
        self._judge_copies(outcome.journal, copies, work.problem)
        if work.problem is not None:
            problem = self._run.fail(work.problem, journal=outcome.journal)
            return replace(outcome, problem=problem)
        self._judge_reading(outcome, work)
        self._speak_of_histories(outcome)
        return outcome

    def _judge_copies(self, journal: str, copies: Sequence[Copy], why: BackupError | None) -> None:
        is_held = any(c.is_held for c in copies)
        for copy in copies:
            for damage in copy.problems:
                self._run.fail(damage)
            if copy.error is None:
                if copy.alarms:
                    self._run.fail(_alarm(copy), journal=journal, sink=copy.sink)
            elif copy.error is not why:
                self._fail_on_sink(copy.error, journal=journal, sink=copy.sink, is_held=is_held)
        if not copies:
            error = SinkError("reached no sink: none of them can take backups")
            self._run.fail(error, journal=journal)

    def _judge_reading(self, outcome: JournalOutcome, work: JournalBackup) -> None:
        journal, captured = outcome.journal, work.captured
        if outcome.suspicion is not None:
            suspect = JournalError(
                f"suspect: {outcome.suspicion}",
                "look at the journal where billing runs; tell Deepgram if it stays",
            )
            self._run.fail(suspect, journal=journal)
        elif captured.main.torn_tail_bytes:
            torn = captured.main.torn_tail_bytes
            self._run.warn(f"ends in the middle of a record: {torn} bytes, kept", journal=journal)
        elif work.has_old_tail:
            tail = captured.main.omitted_tail_bytes
            self._run.warn(
                f"{tail} bytes after its last complete record were left out, as in its last "
                "backup: billing does not go on with that record",
                journal=journal,
            )
        elif outcome.state == "empty":
            self._run.warn("is empty: no complete record yet", journal=journal)
        if captured.odd:
            odd = few(
                (f"{encode_name(p)} is {kind}" for p, kind in captured.odd),
                count=captured.odd_count,
            )
            self._run.warn(
                f"was backed up without what is no file: {', '.join(odd)}", journal=journal
            )

    def _speak_of_histories(self, outcome: JournalOutcome) -> None:
        """Say where it begins here, and where it was retired and goes on."""
        journal = outcome.journal
        held = {c.sink for c in outcome.copies if c.is_held}
        known = [s.url for s in self._opened if s.listing.backups(journal)]
        for url in sorted(held.difference(known)) if known else ():
            self._run.warn(
                f"its history begins here with this backup, while {known[0]} has older ones: "
                "the sink is new, or has lost what it held",
                journal=journal,
                sink=url,
            )
        for opened in self._opened:
            if opened.url in held and opened.listing.is_retired(journal):
                message = "was retired and is back: it is no longer retired"
                self._run.warn(message, journal=journal, sink=opened.url)


def _alarm(copy: Copy) -> IntegrityError:
    how = (
        f"was {copy.continuity} since its last backup"
        if copy.raised_alarm
        else "has a standing alarm"
    )
    return IntegrityError(
        f"{how}: {', '.join(copy.alarms)}",
        "compare the backups before and after it, and find out who changed the journal",
        f"then: journal-backup acknowledge {copy.alarms[0]}",
    )
