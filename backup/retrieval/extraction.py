"""Taking a backup apart as its manifest says: the one way that bytes come back from a sink.

Rules:

- Archives are read in the manifest's order, each once, as streams; memory stays constant.
- A member must be one that the manifest names, of exactly the length it names, and come when its
  file has reached exactly its offset; so nobody can make a reader write more than the manifest
  says, or in another order, whatever an archive claims. (An archive that is
  shared with an earlier backup may hold files that this one does not name: they are passed over.)
- Every archive's and every file's size and SHA-256 is compared. The last of these comparisons
  happens when the last file ends: only a generator that ended without an error has proved all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backup.archive import Entry, gunzip, unpack
from backup.catalog import Catalog
from backup.errors import ArchiveError, IntegrityError
from backup.manifest import Archive, File, Manifest, Segment
from backup.model import Digest, decode_name, parse_key
from backup.sinks import STALL_SECONDS
from backup.stop import Stop
from backup.streams import prefetch


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of a file: one segment of it."""

    file: File
    segment: Segment
    content: Iterator[bytes]


def extract(
    catalog: Catalog, manifest: Manifest, *, stop: Stop, only: File | None = None
) -> Iterator[Piece]:
    """Yield the pieces of all files of a backup, checked.

    Args:
        catalog: where it is.
        manifest: what it is.
        stop: asked while waiting.
        only: yield no other file's, and leave archives alone that have nothing of it.

    Raises:
        IntegrityError: an archive or a file is not what the manifest says.
        SinkError: an archive could not be read.
    """
    files = manifest.files if only is None else (only,)
    digests = {file.path: Digest() for file in files}
    for archive in manifest.archives:
        if only is None or any(segment.archive == archive.key for segment in only.segments):
            yield from _pieces(catalog, manifest, archive, digests, stop)
    for file in files:
        found = digests[file.path]
        if (found.size_bytes, found.sha256) != (file.size_bytes, file.sha256):
            message = (
                f"{manifest.journal}/{file.path}: SHA-256 is {found.sha256}, not {file.sha256}"
            )
            raise IntegrityError(message, "do not use this backup; choose another one or sink")


def _pieces(
    catalog: Catalog,
    manifest: Manifest,
    archive: Archive,
    digests: dict[str, Digest],
    stop: Stop,
) -> Iterator[Piece]:
    wanted = _wanted(manifest, archive)
    whole = Digest()
    stored = whole.over(catalog.sink.open(archive.key))
    raw = prefetch(stored, stop=stop, stall_seconds=STALL_SECONDS)
    with _located(catalog, archive):
        for entry, content in unpack(prefetch(gunzip(raw), stop=stop)):
            place = wanted.pop(entry.name, None)
            if place is None:
                _require_shared(manifest, archive, entry)
                continue
            file, segment = place
            digest = digests.get(file.path)
            if digest is None:  # nobody asked for that file
                continue
            _require_fit(entry, segment, digest.size_bytes)
            yield Piece(file, segment, _content(catalog, archive, digest.over(content)))
        if wanted:
            message = f"member {min(wanted)!r} is missing"
            raise ArchiveError(message)
        _require_same(archive, whole)


def _content(catalog: Catalog, archive: Archive, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Pass on what a consumer reads, who is outside of whatever :func:`_pieces` catches."""
    with _located(catalog, archive):
        yield from chunks


@contextmanager
def _located(catalog: Catalog, archive: Archive) -> Iterator[None]:
    """Say in which archive an error is."""
    try:
        yield
    except ArchiveError as error:
        message = f"{catalog.sink}: {archive.key}: {error.message}"
        raise ArchiveError(message, *error.hints) from error


def _wanted(manifest: Manifest, archive: Archive) -> dict[bytes, tuple[File, Segment]]:
    return {
        decode_name(segment.member): (file, segment)
        for file in manifest.files
        for segment in file.segments
        if segment.archive == archive.key
    }


def _require_shared(manifest: Manifest, archive: Archive, entry: Entry) -> None:
    key = parse_key(archive.key)
    if key is None or key.id == manifest.id:
        message = f"member {entry.name!r} is not in the manifest"
        raise ArchiveError(message)


def _require_fit(entry: Entry, segment: Segment, reached: int) -> None:
    if entry.size_bytes != segment.length:
        message = f"member {entry.name!r} has {entry.size_bytes} bytes, not {segment.length}"
        raise ArchiveError(message)
    if reached != segment.offset:
        message = f"member {entry.name!r} comes at byte {reached} of its file, not {segment.offset}"
        raise ArchiveError(message)


def _require_same(archive: Archive, found: Digest) -> None:
    if (found.size_bytes, found.sha256) != (archive.size_bytes, archive.sha256):
        message = (
            f"{found.size_bytes} bytes with SHA-256 {found.sha256},"
            f" not {archive.size_bytes} with {archive.sha256}"
        )
        raise ArchiveError(message, "do not use this backup; choose another one or sink")
