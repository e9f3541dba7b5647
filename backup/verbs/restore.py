"""``restore``: bring journals back, whole and proved, or not at all.

Rules:

- A journal appears as ``<target>/<journal>`` when every hash is right, and never before:
  :mod:`backup.retrieval.target` says how.
- Names come from a validated manifest and files are created exclusively, so neither an archive
  nor a manifest can write outside the hidden directory, through a link, or more than the
  manifest says.
- Mode and time are restored, owners where the process may, as far as the file system can (a
  USB stick may not keep them). What counts is the content.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backup.catalog import open_all
from backup.catalog.selection import Chosen, choose
from backup.errors import BackupError, StopError
from backup.events import Problem
from backup.manifest import File
from backup.model import decode_name
from backup.page import Page
from backup.results import Result, count
from backup.retrieval.extraction import extract
from backup.retrieval.target import appearing, require_absent
from backup.run import Run
from backup.sinks import Sink
from backup.streams import call


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A journal that was brought back."""

    journal: str
    id: str
    sink: str
    path: str
    size_bytes: int
    records: int
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreResult(Result):
    """What came of a restore."""

    restored: tuple[Restored, ...]
    problems: tuple[Problem, ...]

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {
            "journals_restored": len(self.restored),
            "size_bytes": sum(r.size_bytes for r in self.restored),
        }

    def write(self, page: Page) -> None:
        """Write it, for people."""
        rows = [
            (row.journal, row.id, f"{row.size_bytes:,}", f"{row.records:,}")
            for row in self.restored
        ]
        page.table(("JOURNAL", "ID", "BYTES", "RECORDS"), rows)
        places = ", ".join(sorted({str(Path(row.path).parent) for row in self.restored}))
        where = f" into {places}, every hash compared" if places else ""
        page.say(f"{count(len(self.restored), 'journal')} restored{where}")


def restore(
    run: Run, sinks: Sequence[Sink], selector: str, target: Path, *, journal: str | None
) -> RestoreResult:
    """Restore one backup, or the latest good one of every journal.

    Args:
        run: told of progress.
        sinks: where to look, in this order.
        selector: see :mod:`backup.catalog.selection`.
        target: the directory that will hold a directory for each journal.
        journal: restrict the selector to this journal.

    Raises:
        SelectorError: the selector matches none or several.
        TargetError: a journal is already in the target.
        SinkError: no sink answers.
    """
    chosen = choose(run, open_all(run, sinks), selector, journal=journal)
    for choice in chosen:
        require_absent(target / choice.backup.journal)
    restored: list[Restored] = []
    for choice in chosen:
        try:
            restored.append(_restore(run, choice, target))
        except StopError:
            raise
        except BackupError as error:
            run.fail(error, journal=choice.backup.journal, sink=choice.opened.url)
    return RestoreResult(restored=tuple(restored), problems=tuple(run.problems))


def _restore(run: Run, choice: Chosen, target: Path) -> Restored:
    begun = time.monotonic()
    manifest = choice.manifest
    final = target / manifest.journal
    call(partial(_write_all, run, choice, final), stop=run.stop, cleans_up=True)
    return Restored(
        journal=manifest.journal,
        id=manifest.id,
        sink=choice.opened.url,
        path=str(final),
        size_bytes=manifest.size_bytes,
        records=manifest.records,
        duration_seconds=round(time.monotonic() - begun, 3),
    )


def _write_all(run: Run, choice: Chosen, final: Path) -> None:
    manifest, done = choice.manifest, 0
    with appearing(final, manifest.id) as target:
        paths = {f.path: target.create(decode_name(f.path)) for f in manifest.files}
        for piece in extract(choice.opened, manifest, stop=run.stop):
            for size in target.append(paths[piece.file.path], piece.content):
                done += size
                run.progress("restore", manifest.journal, done, manifest.size_bytes)
        for file in manifest.files:
            _finish(paths[file.path], file)
        run.stop.check()


def _finish(path: Path, file: File) -> None:
    """Restore owner, mode and time, as far as this process may and the file system can."""
    when = file.mtime.timestamp()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:  # it is not what was written any more, which is found before the rename
        return
    try:
        with suppress(OSError):  # only root may, and not on a server that squashes root
            os.fchown(fd, file.uid, file.gid)
        with suppress(OSError):
            os.fchmod(fd, file.mode & 0o777)
        with suppress(OSError):
            os.utime(fd, (when, when))
    finally:
        os.close(fd)
