"""Increments: what of a journal earlier archives on a sink hold already, and need not hold twice.

Rules:

- A backup that shares is a full one to whoever restores it: its manifest names every archive and
  every run of bytes. What is shared is the beginning of the journal, to the last byte of its last
  backup; whether the journal still begins so, its reading has to show before a byte is packed.
- All is packed anew at first, and where sharing would make a backup worse: past
  ``BACKUP_FULL_EVERY`` since all was packed last (so one archive that rots spoils no more than
  that), past :data:`MAX_ARCHIVES`, and where the sink lacks an archive that would be shared.
- Files beside the journal are packed each time. Billing makes none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain

from backup.catalog import OpenSink
from backup.manifest import Archive, File, Manifest
from backup.model import id_time, parse_key

MAX_ARCHIVES = 250
"""Of so many archives a backup consists at most: each is looked up when it is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The beginning of a journal, as archives on a sink hold it."""

    file: File
    """The journal as its last backup has it, which is that beginning."""
    archives: tuple[Archive, ...]
    """Those that its segments are in."""


def base_of(
    previous: Manifest, opened: OpenSink, *, full_every: timedelta, now: datetime
) -> Base | None:
    """Give what the next backup of a journal can share; None if that has to be a full one.

    Args:
        previous: its newest manifest on the sink.
        opened: the sink.
        full_every: how old what is shared may be.
        now: the time.
    """
    file = previous.main
    keys = {segment.archive for segment in file.segments}
    archives = tuple(archive for archive in previous.archives if archive.key in keys)
    if not file.size_bytes or len(archives) >= MAX_ARCHIVES:
        return None
    if now - _packed_at(archives[0]) >= full_every:
        return None
    if any(opened.listing.sizes.get(a.key) != a.size_bytes for a in archives):
        return None
    return Base(file=file, archives=archives)


def _packed_at(archive: Archive) -> datetime:
    key = parse_key(archive.key)
    return id_time(key.id) if key else datetime.min.replace(tzinfo=UTC)


def skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Take the first bytes of a stream now; give the rest of it.

    Args:
        chunks: a stream of that many bytes at least.
        count: how many to take.
    """
    rest = b""
    while count > 0:
        chunk = next(chunks)
        rest = chunk[count:]
        count -= len(chunk)
    return chain([rest] if rest else [], chunks)
