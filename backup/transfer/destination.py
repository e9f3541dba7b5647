"""A destination: one sink for one journal, from what it holds to what is committed there.

Rules:

- Each sink has its own history, and so its own manifest: a sink that missed yesterday is still
  right today.
- What a sink holds is judged and committed in that sink's own thread, as soon as the reading is
  complete and the archive is read back, however long the others take: a run that is stopped then
  has lost no copy that was whole. A sink that was given up does not commit any more, for a second
  pass may serve it meanwhile.
- What failed in a way that may pass is tried again once the sink answers its probe, for which it
  gets :attr:`~backup.transfer.plan.Patience.recovery_seconds`: many outages are shorter than that
  (a rolling restart, a leader election, throttling), and a nightly run can wait. A sink that does
  not come back, or hangs, is lost for the rest of the run: not every journal shall wait for it
  anew.
- A commit that fails is repeated with the very same manifest: its checksum file may be there
  already, and it names the archive of the first pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from backup.catalog import OpenSink
from backup.errors import BackupError, ReadbackError, SinkError, SinkStalledError, StopError
from backup.events import BackupCommitted, Problem
from backup.journals import Capture
from backup.manifest import Archive, File, Manifest, Previous, Source
from backup.model import JOURNAL_FILE, Continuity, new_id
from backup.run import Run
from backup.streams import Feed
from backup.transfer.increments import Base, base_of
from backup.transfer.passes import Pass, compare, member_name
from backup.transfer.plan import Plan

_BETWEEN_PROBES_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """What came of one journal on one sink."""

    sink: str
    id: str | None = None
    continuity: Continuity | None = None
    archive_bytes: int = 0
    alarms: tuple[str, ...] = ()
    """Alarms of this journal that nobody has acknowledged."""
    problems: tuple[Problem, ...] = ()
    error: BackupError | None = None
    """Why there is no backup; None if there is one."""

    @property
    def is_held(self) -> bool:
        """Whether this backup exists on the sink."""
        return self.id is not None

    @property
    def raised_alarm(self) -> bool:
        """Whether it was this backup that raised an alarm."""
        return self.id in self.alarms


class Destination:
    """One sink for one journal."""

    def __init__(self, opened: OpenSink, journal: str, plan: Plan) -> None:
        """Take the sink as it was opened at the start of the run."""
        self.opened = opened
        self.copy = Copy(sink=opened.url)
        """What has come of it until now."""
        self.base: Base | None = None
        """What need not be packed for it."""
        self.must_be_full = False
        self._journal = journal
        self._plan = plan
        self._run = plan.run
        self._previous: Manifest | None = None
        self._link: Previous | None = None
        self._standing: tuple[str, ...] = ()
        self._started_at, self._begun = plan.run.clock(), time.monotonic()

    # -- what it holds already

    @property
    def previous(self) -> File | None:
        """The journal as its last backup here has it."""
        return self._previous.main if self._previous else None

    @property
    def ids(self) -> Iterable[str]:
        """Every id that was ever used for the journal here."""
        return self.opened.listing.ids(self._journal)

    def learn(self) -> bool:
        """Find the newest valid manifest; each damaged one that should count too is a problem.

        Returns:
            Whether it can take a backup; if not, its copy says why.

        Raises:
            StopError: the run was stopped.
        """
        if self.opened.lost is not None:
            return self._fail(self.opened.lost)
        try:
            new_id(self._started_at, after=self.ids, token="")  # raises where none can follow
            newest, damaged = self.opened.newest(self._journal)
            if newest is not None:
                self._previous = newest.manifest
                self._link = Previous(id=newest.manifest.id, manifest_sha256=newest.sha256)
                self._standing, unread = self.opened.alarms_after(newest.manifest)
                damaged += unread
        except StopError:
            raise
        except BackupError as error:
            return self._fail(error)
        problems = (Problem.of(e, journal=self._journal, sink=self.opened.url) for e in damaged)
        self.copy = replace(self.copy, problems=tuple(problems))
        return True

    def _fail(self, error: BackupError) -> bool:
        self.copy = replace(self.copy, error=error)
        return False

    def find_base(self, captured: Capture) -> None:
        """Find out what need not be packed, if the journal still begins so."""
        settings, previous = self._plan.settings, self._previous
        self.base = None
        if settings.mode == "full" or previous is None or self.must_be_full:
            return
        base = base_of(previous, self.opened, full_every=settings.full_every, now=self._started_at)
        if base is None or base.file.size_bytes > captured.main.size_bytes:
            return
        name = member_name(JOURNAL_FILE, base.file.size_bytes)
        if all(member.path != name for member in captured.members):
            self.base = base

    # -- what it is given, in a thread of its own

    def serve(self, done: Pass, feed: Feed) -> Copy:
        """Store the archive, and once the reading is complete judge and commit it."""
        stored = self.opened.store(
            done.key,
            feed,
            max_bytes=done.max_bytes,
            readback="size" if self._plan.worker.draft else self._plan.settings.readback,
            stop=self._run.stop,
        )
        feed.conclude()
        done.require_alike()
        self.opened.require_as_sent(stored, done.packed)
        return self.settle(done)

    def settle(self, done: Pass) -> Copy:
        """Commit what was stored; nothing, where it adds nothing to what the sink holds."""
        manifest = self._manifest(done)
        try:
            self._commit(manifest)
        except SinkError as error:
            return replace(self.copy, error=error)
        if not self._plan.worker.draft:
            announce(self._run, manifest, self.opened.url, begun=self._begun)
        return replace(
            self.copy,
            id=manifest.id,
            continuity=manifest.continuity,
            archive_bytes=done.packed.size_bytes,
            alarms=manifest.alarms,
            error=None,
        )

    def _commit(self, manifest: Manifest) -> None:
        opened = self.opened
        commit = partial(opened.draft if self._plan.worker.draft else opened.commit, manifest)
        try:
            commit()
        except SinkError as error:
            if not error.transient or isinstance(error, ReadbackError):
                raise
            if self.await_recovery() is not None:
                raise
            commit()

    def await_recovery(self) -> SinkError | None:
        """Wait until the sink answers again; give it up if it does not, and say why."""
        until = time.monotonic() + self._plan.patience.recovery_seconds
        while self.opened.lost is None:
            try:
                self.opened.sink.probe()
            except SinkError as error:
                may_pass = error.transient and not isinstance(error, SinkStalledError)
                if not may_pass or time.monotonic() >= until:
                    self.opened.give_up(error)
            else:
                return None
            self._run.stop.sleep(_BETWEEN_PROBES_SECONDS)
        return self.opened.lost

    # -- what is said of it

    def _manifest(self, done: Pass) -> Manifest:
        base, captured, settings = self.base, done.of, self._plan.settings
        archives = [*(base.archives if base else ())]
        if done.packed.size_bytes:
            archives.append(
                Archive(
                    key=done.key,
                    size_bytes=done.packed.size_bytes,
                    sha256=done.packed.sha256,
                    readback=settings.readback,
                )
            )
        continuity = compare(self.previous, done.main)
        return Manifest(
            id=done.id,
            journal=self._journal,
            created_at=captured.taken_at,
            tool=self._run.tool,
            run_id=self._run.id,
            site=settings.site,
            suspect=captured.suspicion is not None,
            suspicion=captured.suspicion,
            alarms=self._alarms(done.id, continuity),
            source=Source(
                strategy=self._plan.worker.strategy,
                consistency=captured.consistency,
                node=self._run.node,
                pod=self._run.pod,
            ),
            previous=self._link,
            continuity=continuity,
            archives=tuple(archives),
            files=done.files(base),
        )

    def _alarms(self, backup_id: str, continuity: Continuity) -> tuple[str, ...]:
        if self._previous is None:
            return ()
        delivered = self.opened.listing.has_mark(self._journal, self._previous.id, "delivered")
        if continuity in {"rewritten", "shrunk"} and not delivered:
            return (*self._standing, backup_id)
        return self._standing


def announce(run: Run, manifest: Manifest, sink: str, *, begun: float) -> None:
    """Say that a manifest is committed, whose journal's turn had begun at that monotonic time."""
    committed = BackupCommitted(
        journal=manifest.journal,
        sink=sink,
        id=manifest.id,
        continuity=manifest.continuity,
        suspect=manifest.suspect,
        size_bytes=manifest.size_bytes,
        archive_bytes=sum(archive.size_bytes for archive in manifest.own_archives),
        records=manifest.records,
        duration_seconds=round(time.monotonic() - begun, 3),
    )
    run.emit(committed)
