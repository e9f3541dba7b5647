"""The manifest, format v1: what a backup is, and the proof of it.

Rules:

- A backup exists when, and only when, its manifest does. It is written last and never changed.
- Readers accept fields that they do not know and refuse a higher major format, so a newer minor
  version may add facts and an older reader still restores.
- It is a list of archives and, for each file, a list of segments in order. A segment is one whole
  member of one archive. A full backup has one archive and one segment a file; a later backup may
  share the archives of its predecessor and add only what was appended. Readers need not know the
  difference: they put the segments together.
- Everything in it is checked on reading (:func:`parse`): a manifest comes from a place where
  others can write.

The published schema is ``docs/manifest-v1.schema.json``: ``docs/generate.py`` makes it of these
classes and of the docstrings below their fields, and a test keeps it equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from backup.errors import ManifestError, UnsupportedFormatError
from backup.lean import Frozen
from backup.model import (
    ID_PATTERN,
    JOURNAL_FILE,
    Consistency,
    Continuity,
    Journal,
    Readback,
    decode_name,
    is_id,
    parse_key,
)

FORMAT = "1.0"
MAX_BYTES = 8 << 20
"""No manifest is larger; a reader need not take in more."""

_MAX_COUNT = 2**53 - 1
_MAX_OWNER = 2**32 - 1


def _real_id(text: str) -> str:
    if not is_id(text):
        message = f"{text!r} names a time that there is not"
        raise ValueError(message)
    return text


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, Field(pattern=f"^{ID_PATTERN.pattern}$"), AfterValidator(_real_id)]
Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]
"""A number that every JSON reader holds exactly."""
Owner = Annotated[int, Field(ge=0, le=_MAX_OWNER)]


def _safe_name(text: str) -> str:
    parts = decode_name(text).split(b"/")
    if any(part in {b"", b".", b".."} or b"\0" in part for part in parts):
        message = f"{text!r} is not a plain relative path"
        raise ValueError(message)
    return text


Name = Annotated[str, AfterValidator(_safe_name)]
"""A file's name, percent-encoded, relative, without ``..``."""


class _Version(Frozen):
    format: Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$")]


class Source(Frozen):
    """Where and how the journal was read."""

    strategy: str
    """How it was reached: ``direct``, ``colocated``, ``scale-down``, or as a later version does."""
    consistency: Consistency
    """``live``: billing may have been appending; ``quiesced``: it was stopped."""
    node: str | None = None
    """The Kubernetes node, where it is known."""
    pod: str | None = None
    """The pod that read it, where it is known."""


class Previous(Frozen):
    """The backup that this one follows: a link of the hash chain."""

    id: Id
    """Its id."""
    manifest_sha256: Sha256
    """SHA-256 of its manifest as it is stored, hexadecimal."""


class Archive(Frozen):
    """One ``tar.gz`` on the sink."""

    key: str
    """Its key, relative to the sink's prefix."""
    size_bytes: Count
    """Its size as it is stored, in bytes."""
    sha256: Sha256
    """SHA-256 of its bytes as they are stored, hexadecimal."""
    readback: Readback
    """How it was checked after the upload: ``full``, every byte; or ``size``, its size alone."""


class Segment(Frozen):
    """A run of a file's bytes: one whole member of one archive."""

    archive: str
    """The key of the archive."""
    member: Name
    """The member's name in it, percent-encoded."""
    offset: Count
    """Where in the file it begins, in bytes."""
    length: Count
    """Its size, in bytes."""


class File(Frozen):
    """One file of the journal's directory, as it was read."""

    path: Name
    """Its name, relative to the journal's directory, percent-encoded."""
    size_bytes: Count
    """What was read of it, in bytes."""
    sha256: Sha256
    """SHA-256 of these bytes, hexadecimal."""
    records: Count
    """Complete lines in it."""
    omitted_tail_bytes: Count
    """Bytes after the last complete record, which billing was still writing."""
    mode: Annotated[int, Field(ge=0, le=0o7777)]
    """Its permission bits: 384 is 0600."""
    uid: Owner
    """The user whose it was."""
    gid: Owner
    """The group whose it was."""
    mtime: AwareDatetime
    """Time of the last change when it was read, UTC."""
    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    """Its bytes, in order and without a gap. No segment is empty, unless the file is."""

    @property
    def is_journal(self) -> bool:
        """Whether this file holds the records."""
        return decode_name(self.path) == JOURNAL_FILE

    @model_validator(mode="after")
    def _is_covered(self) -> File:
        reached = 0
        for segment in self.segments:
            if segment.offset != reached:
                message = f"{self.path}: a segment begins at {segment.offset}, not at {reached}"
                raise ValueError(message)
            if self.size_bytes and not segment.length:
                message = f"{self.path}: the segment at {segment.offset} is empty"
                raise ValueError(message)
            reached += segment.length
        if reached != self.size_bytes:
            message = f"{self.path}: the segments hold {reached} of {self.size_bytes} bytes"
            raise ValueError(message)
        return self


class Manifest(Frozen):
    """One backup of one journal on one sink."""

    format: Annotated[str, Field(pattern=r"^[0-9]{1,9}\.[0-9]{1,9}$")] = FORMAT
    """Version of this format, ``major.minor``."""
    id: Id
    """Names this backup: the time in UTC and six hexadecimal digits."""
    journal: str
    """Whose backup it is: ``journal-<statefulset>-<ordinal>``."""
    created_at: AwareDatetime
    """When it was fixed how much of the journal would be read, UTC."""
    tool: str
    """Name and version of the program that wrote it."""
    run_id: str
    """The run that made it; a run may make backups of many journals."""
    site: str | None = None
    """The label of the site, ``BACKUP_SITE``; null if it has none."""
    suspect: bool
    """``true`` where something of the journal could not be read as it should be."""
    suspicion: str | None = None
    """What that was; null where nothing was."""
    alarms: tuple[Id, ...]
    """Ids of backups whose alarms nobody had acknowledged by then; its own if it raised one."""
    source: Source
    """Who read the journal, and how."""
    previous: Previous | None
    """The backup before it; null for the first one of a journal on this sink."""
    continuity: Continuity
    """How the journal compares with what it was at the previous backup."""
    archives: tuple[Archive, ...]
    """All archives that its files are in, its predecessors' too."""
    files: tuple[File, ...]
    """All files of the journal's directory that were read; one of them is ``journal``."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        if Journal.parse(self.journal) is None:
            message = f"{self.journal!r} is not a journal's name"
            raise ValueError(message)
        if (self.previous is None) != (self.continuity == "first"):
            message = f"continuity {self.continuity!r} contradicts the predecessor"
            raise ValueError(message)
        if self.previous is not None and self.previous.id >= self.id:
            message = f"its predecessor {self.previous.id} is not older than {self.id}"
            raise ValueError(message)
        if not any(file.is_journal for file in self.files):
            message = f"it has no file {JOURNAL_FILE.decode()!r}"
            raise ValueError(message)
        self._check_files(self._checked_keys())
        if max(self.size_bytes, self.archive_bytes, self.records) > _MAX_COUNT:
            message = f"its files or archives hold more than {_MAX_COUNT} bytes or records"
            raise ValueError(message)
        return self

    def _check_files(self, keys: dict[str, int]) -> None:
        _refuse_repeats(((decode_name(f.path), f.path) for f in self.files), "file")
        segments = [s for f in self.files for s in f.segments]
        _refuse_repeats(
            (((s.archive, decode_name(s.member)), f"{s.archive} {s.member}") for s in segments),
            "segment",
        )
        for file in self.files:
            order = [keys.get(s.archive, -1) for s in file.segments]
            if -1 in order or order != sorted(order):
                message = f"{file.path}: its segments do not follow the list of archives"
                raise ValueError(message)

    def _checked_keys(self) -> dict[str, int]:
        for archive in self.archives:
            key = parse_key(archive.key)
            if key is None or key.role != "archive" or key.journal != self.journal:
                message = f"{archive.key!r} is not the key of an archive of {self.journal}"
                raise ValueError(message)
        keys = [a.key for a in self.archives]
        _refuse_repeats(((key, key) for key in keys), "archive")
        return {key: index for index, key in enumerate(keys)}

    @property
    def size_bytes(self) -> int:
        """The size of all its files, in bytes."""
        return sum(f.size_bytes for f in self.files)

    @property
    def archive_bytes(self) -> int:
        """The size of all its archives, in bytes."""
        return sum(a.size_bytes for a in self.archives)

    @property
    def own_archives(self) -> tuple[Archive, ...]:
        """The archives that were made for it; it shares the others with those before it."""
        keys = ((archive, parse_key(archive.key)) for archive in self.archives)
        return tuple(archive for archive, key in keys if key and key.id == self.id)

    @property
    def records(self) -> int:
        """The complete records in all its files."""
        return sum(f.records for f in self.files)

    @property
    def main(self) -> File:
        """The file that holds the records: no valid manifest is without."""
        return next(file for file in self.files if file.is_journal)

    def to_bytes(self) -> bytes:
        """Write it as it is stored: indented JSON, UTF-8, one newline at the end."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def _refuse_repeats(things: Iterable[tuple[object, str]], what: str) -> None:
    """Refuse two that mean the same, however they are written."""
    seen: set[object] = set()
    for thing, name in things:
        if thing in seen:
            message = f"the {what} {name} is listed twice"
            raise ValueError(message)
        seen.add(thing)


_M = TypeVar("_M", bound=BaseModel)


def _validated(model: type[_M], data: bytes, what: str) -> _M:
    """Take JSON for what it says: a text is no number, and a number is no truth value."""
    try:
        return model.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        message = f"not a valid {what}: {where}{first['msg'].removeprefix('Value error, ')}"
        raise ManifestError(message) from error


def parse(data: bytes) -> Manifest:
    """Read a stored manifest.

    Raises:
        ManifestError: it is not a valid manifest.
        UnsupportedFormatError: a newer major version of this package wrote it.
    """
    version = _validated(_Version, data, "manifest").format
    if _major(version) > _major(FORMAT):
        message = f"the manifest has format {version}, this version reads {FORMAT}"
        raise UnsupportedFormatError(message, "use a newer deepgram-journal-backup")
    if _major(version) < _major(FORMAT):
        message = f"not a valid manifest: format: there never was a format {version}"
        raise ManifestError(message)
    return _validated(Manifest, data, "manifest")


def _major(version: str) -> int:
    return int(version.partition(".")[0])


MarkKind = Literal["delivered", "acknowledged", "verified", "pruned", "retired"]


class Mark(Frozen):
    """A fact about a backup that was learned later: an object of its own, beside the manifest."""

    format: str = FORMAT
    """Version of this format, ``major.minor``."""
    kind: MarkKind
    """What was learned."""
    journal: str
    """The journal whose backup it is about."""
    id: Id
    """The backup that it is about."""
    created_at: AwareDatetime
    """When it was learned, UTC."""
    by: str | None = None
    """Who said so; null if nobody was named."""
    note: str | None = None
    """What they said; null if nothing."""
    reference: str | None = None
    """``delivered``: what the delivery is called where it went, a ticket say; null for none."""
    manifest_sha256: Sha256 | None = None
    """``pruned``: the SHA-256 of the manifest that was there, so that the chain still closes;
    null for other kinds."""
    previous: Previous | None = None
    """``pruned``: what that manifest named as its predecessor, so that the chain goes on."""
    continuity: Continuity | None = None
    """``pruned``: likewise, how the journal compared with it."""

    def to_bytes(self) -> bytes:
        """Write it as it is stored."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def parse_mark(data: bytes) -> Mark:
    """Read a stored mark.

    Raises:
        ManifestError: it is not a valid mark.
    """
    return _validated(Mark, data, "mark")
