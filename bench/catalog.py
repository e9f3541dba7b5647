"""A sink that has been in use for a while: many backups of several journals, made in no time.

The files are what a backup leaves there (``backup/catalog`` is the specification), written by
the models and the key functions of the package itself; only the archives hold next to nothing.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup.catalog import archive_key, checksum_key, checksums, manifest_key
from backup.manifest import Archive, File, Manifest, Previous, Segment, Source
from backup.model import Journal, new_id

_START = datetime(2025, 1, 1, 2, tzinfo=UTC)
_GROWTH = 100_000
"""What each backup has more than the one before, in bytes."""


def make_catalog(sink: Path, *, journals: int, backups: int) -> None:
    """Fill a directory as daily backups would.

    Args:
        sink: the directory.
        journals: how many there are.
        backups: how many of each.
    """
    for ordinal in range(journals):
        journal = Journal(statefulset="deepgram-billing", ordinal=ordinal).name
        (sink / journal).mkdir(parents=True)
        previous: Previous | None = None
        for day in range(backups):
            previous = _put(sink, _manifest(journal, day, previous))


def _put(sink: Path, manifest: Manifest) -> Previous:
    data = manifest.to_bytes()
    for archive in manifest.archives:
        (sink / archive.key).write_bytes(_content(archive.key))
    checksum = checksum_key(manifest.journal, manifest.id)
    (sink / checksum).write_bytes(checksums(manifest.archives))
    (sink / manifest_key(manifest.journal, manifest.id)).write_bytes(data)
    return Previous(id=manifest.id, manifest_sha256=hashlib.sha256(data).hexdigest())


def _content(key: str) -> bytes:
    return key.encode()


def _token(journal: str, day: int) -> str:
    return hashlib.sha256(f"{journal} {day}".encode()).hexdigest()[:6]


def _manifest(journal: str, day: int, previous: Previous | None) -> Manifest:
    when = _START + timedelta(days=day)
    backup_id = new_id(when, after=(), token=_token(journal, day))
    key = archive_key(journal, backup_id, 1)
    content = _content(key)
    archive = Archive(
        key=key,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        readback="full",
    )
    return Manifest(
        id=backup_id,
        journal=journal,
        created_at=when,
        tool="deepgram-journal-backup bench",
        run_id=f"run-{backup_id}",
        suspect=False,
        alarms=(),
        source=Source(strategy="direct", consistency="live"),
        previous=previous,
        continuity="first" if previous is None else "extended",
        archives=(archive,),
        files=(_file(journal, key, (day + 1) * _GROWTH, when),),
    )


def _file(journal: str, key: str, size: int, when: datetime) -> File:
    return File(
        path="journal",
        size_bytes=size,
        sha256=hashlib.sha256(f"{journal} {size}".encode()).hexdigest(),
        records=size // 400,
        omitted_tail_bytes=0,
        mode=0o600,
        uid=0,
        gid=0,
        mtime=when,
        segments=(Segment(archive=key, member=f"{journal}/journal", offset=0, length=size),),
    )
