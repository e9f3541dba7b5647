"""``export``: the bundle to send: plain journals, their manifests, and sums that coreutils check.

What is in it, as a directory or as one tar (there, below one directory more)::

    <journal>-<id>/journal             as billing wrote it, and whatever lay beside it
    <journal>-<id>.manifest.json       as the sink holds it, so that its hash is the chain's
    SHA256SUMS                         of all of these; sha256sum -c, in that directory

Rules:

- It is whole or it is not: every hash is compared on the way, and one that is wrong ends it. The
  sums come last, so a tar that was cut short has none, and no end either.
- A directory, or a tar that is a file, appears under its name when all is right and never before,
  and overwrites nothing (:mod:`backup.retrieval.target`). On stdout it is the exit code that tells.
- What is older and was never delivered is named if it may have records that the bundle has not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

from backup.archive import Entry, frame
from backup.catalog import manifest_key, open_all
from backup.catalog.delivery import Delivery
from backup.catalog.selection import Chosen, choose
from backup.disk import write_all
from backup.errors import TargetError
from backup.events import Problem, Warned
from backup.manifest import File
from backup.model import Digest, decode_name
from backup.page import Page
from backup.results import Result, count, say_warnings
from backup.retrieval.extraction import extract
from backup.retrieval.target import appearing, appearing_file, require_absent
from backup.run import Run
from backup.sinks import Sink
from backup.streams import call

SUMS = b"SHA256SUMS"

Member = tuple[Entry, Iterable[bytes]]
"""A file of the bundle, and its content, which is made while it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A backup that is in the bundle."""

    journal: str
    id: str
    sink: str
    size_bytes: int
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult(Result):
    """What came of an export."""

    place: str
    """The path of the bundle; ``-`` for stdout."""
    exported: tuple[Exported, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Warned, ...]
    duration_seconds: float

    def figures(self) -> dict[str, int]:
        """Count what the last line of the log tells."""
        return {
            "warnings": len(self.warnings),
            "backups": len(self.exported),
            "size_bytes": sum(e.size_bytes for e in self.exported),
        }

    def write(self, page: Page) -> None:
        """Write it, for people."""
        rows = [
            (row.journal, row.id, f"{row.size_bytes:,}", f"{row.records:,}")
            for row in self.exported
        ]
        page.table(("JOURNAL", "ID", "BYTES", "RECORDS"), rows)
        say_warnings(page, self.warnings)
        if not self.exported:
            page.say("nothing exported")
            return
        place = "stdout" if self.place == "-" else self.place
        page.say(f"{count(len(rows), 'backup')} exported to {place}, every hash compared")
        ids = " ".join(row.id for row in self.exported)
        page.line(f"once Deepgram has it: journal-backup mark-delivered {ids}")


# -- where to


@dataclass(frozen=True, slots=True)
class _Named:
    """The bundle has a name, under which it appears when it is whole."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def require_absent(self) -> None:
        """Refuse one that is there."""
        require_absent(self.path)


@dataclass(frozen=True, slots=True)
class Directory(_Named):
    """The bundle is a directory."""

    def write(self, members: Iterable[Member]) -> None:
        """Make it."""
        with appearing(self.path, "bundle") as target:
            for entry, content in members:
                for _size in target.append(target.create(entry.name), content):
                    pass


@dataclass(frozen=True, slots=True)
class Tar(_Named):
    """The bundle is one tar, which is a file."""

    top: str
    """The directory that all of it is in."""

    def write(self, members: Iterable[Member]) -> None:
        """Make it."""
        with appearing_file(self.path, "bundle") as fd:
            _write_tar(fd, self.top, members)


@dataclass(frozen=True, slots=True)
class Stream:
    """The bundle is one tar, written to a file that is open."""

    fd: int
    top: str

    def __str__(self) -> str:
        return "-"

    def require_absent(self) -> None:
        """Be fine: a stream has no name to be taken."""

    def write(self, members: Iterable[Member]) -> None:
        """Make it.

        Raises:
            TargetError: nobody takes it, or not all of it.
        """
        try:
            _write_tar(self.fd, self.top, members)
        except OSError as error:
            message = f"the bundle cannot be written to stdout: {error.strerror}"
            raise TargetError(message, "what was written has no SHA256SUMS: remove it") from error


def _write_tar(fd: int, top: str, members: Iterable[Member]) -> None:
    below = ((replace(entry, name=os.fsencode(top) + b"/" + entry.name), c) for entry, c in members)
    for chunk in frame(below):
        write_all(fd, chunk)


# -- what


def export(
    run: Run,
    sinks: Sequence[Sink],
    selectors: Sequence[str],
    place: Directory | Tar | Stream,
    *,
    journal: str | None,
) -> ExportResult:
    """Bundle backups, to be sent.

    Args:
        run: told of progress, problems and warnings.
        sinks: where to look, in this order.
        selectors: each as in :mod:`backup.catalog.selection`.
        place: where the bundle goes.
        journal: restrict the selectors to this journal.

    Raises:
        SelectorError: a selector matches none or several.
        TargetError: the bundle is already there, or cannot be written.
        IntegrityError: something is not what a manifest says; there is no bundle.
        SinkError: no sink answers, or the one that was read does not any more.
    """
    begun = time.monotonic()
    place.require_absent()
    opened = open_all(run, sinks)
    chosen = {
        (choice.backup.journal, choice.backup.id): choice
        for selector in selectors
        for choice in choose(run, opened, selector, journal=journal)
    }
    backups = [choice for _, choice in sorted(chosen.items())]
    if backups:
        call(partial(place.write, _members(run, backups)), stop=run.stop, cleans_up=True)
    Delivery(opened, chosen).tell_left_out(run)
    return ExportResult(
        place=str(place),
        exported=tuple(map(_exported, backups)),
        problems=tuple(run.problems),
        warnings=tuple(run.warnings),
        duration_seconds=round(time.monotonic() - begun, 3),
    )


def _exported(choice: Chosen) -> Exported:
    manifest = choice.manifest
    return Exported(
        journal=manifest.journal,
        id=manifest.id,
        sink=choice.opened.url,
        size_bytes=manifest.size_bytes,
        records=manifest.records,
    )


def _members(run: Run, backups: Sequence[Chosen]) -> Iterator[Member]:
    """Yield all that is in the bundle; each has to be read before the next one is asked for."""
    sums: list[bytes] = []
    for backup in backups:
        for entry, content in _members_of(run, backup):
            digest = Digest()
            yield entry, digest.over(content)
            sums.append(_sum(entry.name, digest.sha256))
    lines = b"".join(sums)
    made = max(_made(backup) for backup in backups)
    yield Entry(name=SUMS, size_bytes=len(lines), mtime=made), (lines,)


def _made(backup: Chosen) -> int:
    return int(backup.manifest.created_at.timestamp())


def _members_of(run: Run, backup: Chosen) -> Iterator[Member]:
    manifest, done = backup.manifest, 0

    def watched(content: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal done
        for chunk in content:
            yield chunk
            done += len(chunk)
            run.progress("export", manifest.journal, done, manifest.size_bytes)

    for file, content in _contents(run, backup):
        name = os.fsencode(f"{manifest.journal}-{manifest.id}") + b"/" + decode_name(file.path)
        entry = Entry(name=name, size_bytes=file.size_bytes, mtime=int(file.mtime.timestamp()))
        yield entry, watched(content)
    name = os.fsencode(manifest_key(manifest.journal, manifest.id).rpartition("/")[2])
    data = backup.stored.data
    yield Entry(name=name, size_bytes=len(data), mtime=_made(backup)), (data,)


def _contents(run: Run, backup: Chosen) -> Iterator[tuple[File, Iterable[bytes]]]:
    """Yield each file with all of its bytes.

    Files of one piece come as they lie in the archives. Where one has several, those of others lie
    between them: then the archives are read once for each file.
    """
    pieces = partial(extract, backup.opened, backup.manifest, stop=run.stop)
    if all(len(file.segments) == 1 for file in backup.manifest.files):
        yield from ((piece.file, piece.content) for piece in pieces())
        return
    for file in backup.manifest.files:
        yield file, chain.from_iterable(piece.content for piece in pieces(only=file))


def _sum(name: bytes, sha256: str) -> bytes:
    """Write a line as sha256sum does: where a name would break the line, it is escaped."""
    escaped = name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    mark = b"\\" if escaped != name else b""
    return b"%s%s  %s\n" % (mark, sha256.encode(), escaped)
