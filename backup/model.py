"""The words of this package as types: journals, backup ids, object keys, digests.

Rules:

- Pure: no IO, no clock of its own, no SDK. Everything here can be tested with values alone.
- An id is ``YYYYMMDDTHHMMSSZ-xxxxxx`` (UTC, six hexadecimal digits): sortable as text, free of
  characters that a file system or an object store dislikes, and always later than the ids it
  follows, whatever the clock says (:func:`new_id`).
- A key is ``<journal>/<journal>-<id>.<suffix>``. :func:`parse_key` knows all of them and nothing
  else: what it does not recognise is not ours, is never counted and never removed.
- File names are bytes. Where text is needed they are percent-encoded (:func:`encode_name`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args
from urllib.parse import quote_from_bytes, unquote_to_bytes

from backup.errors import IntegrityError

Clock = Callable[[], datetime]
"""Returns the time now, in UTC."""

Continuity = Literal["first", "unchanged", "extended", "rewritten", "shrunk"]
Consistency = Literal["live", "quiesced"]
Mode = Literal["full", "incremental"]
"""How much of a journal a backup packs: all, or what its predecessor does not hold."""
Readback = Literal["full", "size"]
Strategy = Literal["direct", "colocated", "scale-down"]
"""How journals are reached: as they are mounted, by workers beside billing, or while it is down."""
CONSISTENCY: dict[Strategy, Consistency] = {
    "direct": "live",
    "colocated": "live",
    "scale-down": "quiesced",
}
"""Whether billing may write while a strategy reads."""
StrategySetting = Literal[Strategy, "auto"]
"""A strategy, or the choice left to the run."""
State = Literal[
    "backed up", "put", "empty", "suspect", "partial", "failed", "unreadable", "missing"
]
"""What came of a journal, in one word; *put* is on a sink and not yet known to be a backup."""

JOURNAL_FILE = b"journal"
"""The file in a journal's directory that holds the records."""

CHUNK_BYTES = 1 << 20
"""How much of a file or an object is held at a time, in bytes."""

# -- journals

_LABEL = r"[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?"
_JOURNAL = re.compile(rf"journal-(?P<statefulset>{_LABEL})-(?P<ordinal>0|[1-9][0-9]{{0,8}})")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Journal:
    """One billing pod's journal, named as its directory and its volume claim are."""

    statefulset: str
    ordinal: int

    @property
    def name(self) -> str:
        """``journal-<statefulset>-<ordinal>``."""
        return f"journal-{self.statefulset}-{self.ordinal}"

    def __str__(self) -> str:
        """Read as its name."""
        return self.name

    @classmethod
    def parse(cls, name: str) -> Journal | None:
        """Read a directory's name; None if it names no journal."""
        match = _JOURNAL.fullmatch(name)
        if match is None:
            return None
        return cls(statefulset=match["statefulset"], ordinal=int(match["ordinal"]))

    @classmethod
    def is_of(cls, statefulset: str, name: str) -> bool:
        """Whether a name is that of a journal of this StatefulSet."""
        journal = cls.parse(name)
        return journal is not None and journal.statefulset == statefulset

    def promises(self, *, replicas: int, holders: Sequence[str]) -> tuple[str, ...]:
        """Say who promises that it is there, and what ends each promise.

        Args:
            replicas: the value of BACKUP_EXPECT_REPLICAS.
            holders: the sinks that have backups of it, which nobody retired.
        """
        found: list[str] = []
        if self.ordinal < replicas:
            value = f"{self.ordinal} or less" if self.ordinal else "0"
            found.append(
                f"BACKUP_EXPECT_REPLICAS={replicas} promises it: if the journal is gone for good, "
                f"set it to {value} (in the chart, billing.replicas)"
            )
        if holders:
            have = "has" if len(holders) == 1 else "have"
            found.append(
                f"{' and '.join(holders)} {have} backups of it: if the journal is gone for good, "
                f"run journal-backup retire {self}"
            )
        return tuple(found)


# -- ids

_ID = r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"
ID_PATTERN = re.compile(_ID)
_STAMP = "%Y%m%dT%H%M%SZ"


def new_id(now: datetime, *, after: Iterable[str], token: str) -> str:
    """Make the id of a new backup, later than each one in ``after``.

    Args:
        now: the time by the clock, UTC.
        after: ids of earlier backups of the same journal; a clock that was set back since
            gives way to the latest of them, plus a second.
        token: six hexadecimal digits that nobody else has drawn.

    Raises:
        IntegrityError: one of them is from the last second that an id can name.
    """
    latest = max((id_time(i) for i in after), default=None)
    if latest is None:
        return f"{stamp(now)}-{token}"
    try:
        following = latest + timedelta(seconds=1)
    except OverflowError as error:
        message = f"no id can be later than {stamp(latest)}"
        raise IntegrityError(message, "move what bears that id: no backup was made then") from error
    return f"{stamp(max(now, following))}-{token}"


def id_time(backup_id: str) -> datetime:
    """Read the time in an id, UTC.

    Raises:
        ValueError: no calendar has that time.
    """
    return datetime.strptime(backup_id[:16], _STAMP).replace(tzinfo=UTC)


def is_id(text: str) -> bool:
    """Whether this is the id of a backup: its form, and a time that there is."""
    return ID_PATTERN.fullmatch(text) is not None and _is_time(text)


def _is_time(text: str) -> bool:
    try:
        id_time(text)
    except ValueError:
        return False
    return True


def stamp(when: datetime) -> str:
    """Write a time as names carry it: ``20261123T020000Z``."""
    return when.astimezone(UTC).strftime(_STAMP)


# -- keys

Role = Literal["archive", "checksum", "manifest", "draft", "mark"]
"""What part an object plays: the group of the pattern that its suffix is matched by."""

_KEY = re.compile(
    rf"(?P<journal>journal-{_LABEL}-(?:0|[1-9][0-9]{{0,8}}))/(?P=journal)-(?P<id>{_ID})\."
    r"(?:(?:(?P<attempt>[2-9])\.)?(?P<archive>tar\.gz)|(?P<checksum>sha256)"
    r"|(?P<manifest>manifest\.json)|(?P<draft>draft\.json)"
    r"|(?P<mark>[a-z]{1,32})(?:-(?P<time>[0-9]{8}T[0-9]{6}Z))?\.json)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What an object's name says: whose it is and what part it plays."""

    journal: str
    id: str
    role: Role
    attempt: int = 1
    mark: str | None = None
    """A mark's kind."""
    time: str | None = None
    """When it was made, as its name says; None for a mark that there can be only one of."""

    def __str__(self) -> str:
        """Write the key, relative to the sink's prefix."""
        stem = f"{self.journal}/{self.journal}-{self.id}"
        if self.role == "archive":
            return f"{stem}{f'.{self.attempt}' if self.attempt > 1 else ''}.tar.gz"
        if self.role == "checksum":
            return f"{stem}.sha256"
        return f"{stem}.{self.mark or self.role}{f'-{self.time}' if self.time else ''}.json"


def parse_key(text: str) -> Key | None:
    """Read an object's key; None if it is not one of ours."""
    match = _KEY.fullmatch(text)
    if match is None or not all(_is_time(t) for t in (match["id"], match["time"]) if t):
        return None
    return Key(
        journal=match["journal"],
        id=match["id"],
        role=next(role for role in get_args(Role) if match[role]),
        attempt=int(match["attempt"] or 1),
        mark=match["mark"],
        time=match["time"],
    )


def encode_name(name: bytes) -> str:
    """Write a file's name, any bytes, as text that every tool can carry."""
    return quote_from_bytes(name, safe="/+,=@~")


def decode_name(text: str) -> bytes:
    """Read a name that :func:`encode_name` wrote."""
    return unquote_to_bytes(text)


# -- digests


def count_lines(chunk: bytes) -> int:
    """Count the lines that end in a chunk: as ``chunk.count``, but three times as fast.

    CPython deletes a byte by memchr(3), which the C library has in vector instructions, and
    counts it in a loop of its own.
    """
    return len(chunk) - len(chunk.replace(b"\n", b""))


class Digest:
    """Size and SHA-256 of a stream, and the SHA-256 of chosen prefixes of it.

    The prefixes cost a copy of the hash state each, so one reading of a journal is compared with
    any number of earlier backups of it.
    """

    __slots__ = ("_at", "_hash", "_pending", "size_bytes")

    def __init__(self, marks: Iterable[int] = ()) -> None:
        """Take the lengths in bytes at which the hash so far will be asked for."""
        self._hash = hashlib.sha256()
        self._pending = sorted(set(marks), reverse=True)
        self._at: dict[int, str] = {}
        self.size_bytes = 0
        self._pass_marks(b"")

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        if self._pending and self.size_bytes + len(chunk) >= self._pending[-1]:
            chunk = self._pass_marks(chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    def _pass_marks(self, chunk: bytes | memoryview) -> bytes | memoryview:
        view = memoryview(chunk)
        while self._pending and self.size_bytes + len(view) >= self._pending[-1]:
            mark = self._pending.pop()
            head = view[: mark - self.size_bytes]
            self._hash.update(head)
            self.size_bytes = mark
            self._at[mark] = self._hash.hexdigest()
            view = view[len(head) :]
        return view

    def over(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on, taking each one in."""
        for chunk in chunks:
            self.update(chunk)
            yield chunk

    @property
    def sha256(self) -> str:
        """The SHA-256 of all bytes so far, in hexadecimal."""
        return self._hash.hexdigest()

    def at(self, length: int) -> str | None:
        """Return the SHA-256 of the first ``length`` bytes; None if the stream was shorter."""
        return self._at.get(length)


def size_text(size_bytes: int) -> str:
    """Write a size for people, in binary units."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:  # noqa: PLR2004 - the step of binary units
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def located(message: str, journal: str | None, sink: str | None) -> str:
    """Begin a message with what it is about, ``journal on sink:``, unless it names that itself."""
    named = [part for part in (journal, sink) if part and part not in message]
    return f"{' on '.join(named)}: {message}" if named else message


# -- what is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What sinks hold of a StatefulSet's journals."""

    journals: frozenset[str] = frozenset()
    """Those that have backups and are not retired: they are expected."""
    size_bytes: int = 0
    """Of their newest backups, in all; of each the largest that a sink has."""
