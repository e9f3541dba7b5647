"""Amazon S3, and what speaks its protocol, as a sink.

Rules:

- Nothing is overwritten, and the server is asked to see to it: ``If-None-Match: *`` on a small put
  and on the completion of a multipart upload (S3 User Guide, "Conditional writes"). Keys are
  unique besides, for the servers that do not know the header.
- A repeated request meets its own success as a conflict when the first reply was lost. So every
  put carries a token of its own in the object's metadata, and on a conflict the object is asked
  for it.
- An object of up to one part is one request. A larger one is a multipart upload whose parts are in
  memory, :data:`MEMORY_BYTES` in all, and of one size but the last (some servers insist). Part
  numbers end at 10,000 ("Amazon S3 multipart upload limits"), so the larger the object may get, the
  larger are its parts and the fewer at a time; beyond 156 GiB it is one, and memory grows with it.
- To complete an upload may take a store minutes ("CompleteMultipartUpload": it answers 200 at once,
  and sends white space until it knows), of which the SDK tells nothing. So a completion under
  way counts as a sign of life, for :data:`COMPLETION_SECONDS`; real silence ends it by its read
  timeout.
- Every upload carries a checksum that the server compares, in a header and not in a trailer:
  trailers are what many servers do not know, or store (boto/boto3#4398, velero-io/velero#9951).
  An object-lock bucket insists on one. Neither that nor a 200 proves anything: the read-back does.
- A failed upload is aborted, so that no invisible parts cost money; what could not be aborted is
  swept by age, only below our own prefix, and only if the key is one of ours.
- Credentials come from the SDK's own chain and from nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from itertools import chain
from typing import Any, Final

from botocore.exceptions import ClientError
from isal import isal_zlib

from backup.errors import (
    ObjectExistsError,
    SinkError,
    SinkUnavailableError,
    StreamAbortedError,
)
from backup.lanes import unwatched
from backup.model import CHUNK_BYTES, parse_key
from backup.sinks.aws import OUT_OF_RANGE, code, connect, translate
from backup.sinks.base import Object, PlacedSink
from backup.sinks.kinds import ChecksumMode, S3Options
from backup.streams import call, each

MAX_PARTS: Final = 10_000
PART_BYTES: Final = 8 << 20
"""The size of a part, or what it is a multiple of."""
MEMORY_BYTES: Final = 4 * PART_BYTES
"""For all parts of an upload: one is filled while the others are under way."""
COMPLETION_SECONDS: Final = 600.0
PROBE_KEY: Final = "journal-probe-0/probe"

_TOKEN = "journal-backup-put"  # noqa: S105 - a name, and the token is no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A piece of an object, in memory, as the chunks that it came in."""

    number: int
    chunks: tuple[memoryview, ...]
    is_last: bool

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.chunks))


class _Pulse:
    """Says that data moves; and, once the upload is given up, keeps it from moving on."""

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._is_over = False

    def beat(self) -> None:
        if self._is_over:
            raise StreamAbortedError("the upload was given up")
        self._alive()

    def end(self) -> None:
        self._is_over = True


class _Body:
    """A part as a file that the SDK reads: nothing is copied, and each read is a sign of life.

    (Given as bytes, a body has to be sent whole within one time limit: see
    ``socket.socket.sendall``. A slow link is not a dead one.)
    """

    def __init__(self, part: _Part, pulse: _Pulse) -> None:
        self._chunks = part.chunks
        self._size = part.size_bytes
        self._next = 0
        self._pulse = pulse

    def __len__(self) -> int:
        return self._size

    def read(self, _size: int = -1) -> memoryview | bytes:
        """Return the next chunk, whatever its size: http.client sends what it gets."""
        self._pulse.beat()
        if self._next == len(self._chunks):
            return b""
        self._next += 1
        return self._chunks[self._next - 1]

    def tell(self) -> int:
        return sum(map(len, self._chunks[: self._next]))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go back to the beginning, or on to the end: what the SDK needs."""
        self._next = 0 if (offset, whence) == (0, os.SEEK_SET) else len(self._chunks)
        return self.tell()


class S3Sink(PlacedSink[S3Options]):
    """Objects in a bucket, below a prefix.

    It has many methods as ten are those of every sink: the others are steps of these.
    """

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401 - the SDK makes its classes at run time
        return connect(
            self._place.options, self._settings.ca_cert_file, stall_seconds=self._stall_seconds
        )

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": self._place.prefix + key}

    # -- checks

    def _probe(self) -> None:
        self._client.list_objects_v2(
            Bucket=self._place.bucket, Prefix=self._place.prefix, MaxKeys=1
        )
        upload = self._client.create_multipart_upload(**self._at(PROBE_KEY), **self._wishes())
        self._client.abort_multipart_upload(**self._at(PROBE_KEY), UploadId=upload["UploadId"])

    # -- storing

    def _wishes(self) -> dict[str, Any]:
        """Return what the options ask of every new object."""
        options = self._place.options
        wishes: dict[str, Any] = {
            "StorageClass": options.storage_class,
            "ServerSideEncryption": options.sse,
            "SSEKMSKeyId": options.sse_kms_key_id,
            "ObjectLockMode": options.object_lock_mode,
        }
        if options.object_lock_days is not None:
            until = datetime.now(UTC) + timedelta(days=options.object_lock_days)
            wishes["ObjectLockRetainUntilDate"] = until
        return {name: value for name, value in wishes.items() if value is not None}

    def _put(
        self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None, alive: Callable[[], None]
    ) -> None:
        size = part_bytes(max_bytes)
        parts = _parts(chunks, size)
        first = next(parts)
        new: dict[str, Any] = {**self._wishes(), "Metadata": {_TOKEN: secrets.token_hex(16)}}
        if first.is_last:
            with self._unless_ours(key, new):
                self._send(key, "put_object", first, _Pulse(alive), **new, IfNoneMatch="*")
            return
        parts = chain(iter((first,)), parts)  # an iterator lets go of what it has given,
        del first  # or the first part would stay in memory until the last one has gone
        self._multipart(key, parts, new, _Pulse(alive), at_once=max(1, MEMORY_BYTES // size))

    def _put_exclusive(self, key: str, data: bytes) -> None:
        part = _Part(number=1, chunks=(memoryview(data),), is_last=True)
        pulse = _Pulse(unwatched)
        self._send_once(key, "put_object", part, pulse, **self._wishes(), IfNoneMatch="*")

    def _multipart(
        self, key: str, parts: Iterator[_Part], new: dict[str, Any], pulse: _Pulse, *, at_once: int
    ) -> None:
        algorithm = _ALGORITHMS.get(self._place.options.checksum_mode)
        named = {} if algorithm is None else {"ChecksumAlgorithm": algorithm}
        upload = self._ask(key, "create_multipart_upload", **new, **named)["UploadId"]
        try:
            send = partial(self._send_part, key, upload, pulse)
            with closing(each(send, parts, workers=at_once, stop=self._stop)) as sent:
                done = list(sent)
            with self._unless_ours(key, new):
                self._complete(key, upload, done, pulse)
        except BaseException:
            pulse.end()
            with suppress(Exception):  # what is left is swept by a later run
                self._client.abort_multipart_upload(**self._at(key), UploadId=upload)
            raise

    def _complete(self, key: str, upload: str, parts: list[dict[str, Any]], pulse: _Pulse) -> None:
        until = time.monotonic() + COMPLETION_SECONDS
        complete = partial(
            self._ask,
            key,
            "complete_multipart_upload",
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            IfNoneMatch="*",
        )

        def waiting() -> None:
            if time.monotonic() < until:
                pulse.beat()

        call(complete, stop=self._stop, waiting=waiting)

    def _send_part(self, key: str, upload: str, pulse: _Pulse, part: _Part) -> dict[str, Any]:
        response = self._send(
            key, "upload_part", part, pulse, UploadId=upload, PartNumber=part.number
        )
        facts = {name: response[name] for name in _PART_FACTS if name in response}
        return {"PartNumber": part.number, **facts}

    def _send(
        self, key: str, operation: str, part: _Part, pulse: _Pulse, **params: object
    ) -> dict[str, Any]:
        """Make a request with a part as its body, again if need be."""
        return self._persist(partial(self._send_once, key, operation, part, pulse, **params))

    def _send_once(
        self, key: str, operation: str, part: _Part, pulse: _Pulse, **params: object
    ) -> dict[str, Any]:
        checksum = _checksum(self._place.options.checksum_mode, part)
        return self._ask_once(key, operation, **params, **checksum, Body=_Body(part, pulse))

    def _ask(self, key: str, operation: str, **params: object) -> dict[str, Any]:
        return self._persist(partial(self._ask_once, key, operation, **params))

    def _ask_once(self, key: str, operation: str, **params: object) -> dict[str, Any]:
        with self._declared(f"store {key}"):
            response: dict[str, Any] = getattr(self._client, operation)(**self._at(key), **params)
            return response

    @contextmanager
    def _unless_ours(self, key: str, new: Mapping[str, Any]) -> Iterator[None]:
        """Pass over a failure that was a success whose reply was lost."""
        try:
            yield
        except (ObjectExistsError, SinkUnavailableError):
            token = new["Metadata"][_TOKEN]
            if not self._holds(key, token):
                raise

    def _holds(self, key: str, token: str) -> bool:
        try:
            found = self._repeat(f"look up {key}", lambda: self._first_byte(key))
        except SinkError:
            return False
        return token in found["Metadata"].values()  # servers spell the names as they like

    # -- reading

    def _first_byte(self, key: str) -> Any:  # noqa: ANN401 - as _client
        """Ask for an object by its first byte: unlike HEAD, this says why where it fails."""
        response = self._client.get_object(**self._at(key), Range="bytes=0-0")
        with closing(response["Body"]) as body:
            body.read(1)  # not all: a server that ignores the range gives the whole object
        return response

    def _size(self, key: str) -> int:
        try:
            response = self._first_byte(key)
        except ClientError as error:
            if code(error) == OUT_OF_RANGE:  # there is no first byte
                return 0
            raise
        content_range = response.get("ContentRange")
        return int(content_range.rpartition("/")[2] if content_range else response["ContentLength"])

    def _open(self, key: str, offset: int) -> Iterator[bytes]:
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            response = self._client.get_object(**self._at(key), **wanted)
        except ClientError as error:
            if offset and code(error) == OUT_OF_RANGE:
                return
            raise
        with closing(response["Body"]) as body:
            if offset and "ContentRange" not in response:
                _skip(body, offset)
            yield from iter(partial(body.read, CHUNK_BYTES), b"")

    def _list(self) -> Iterator[Object]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._place.bucket, Prefix=self._place.prefix
        )
        for page in pages:
            if "IsTruncated" not in page:  # of any other 200 the SDK makes an empty listing
                message = f"{self}: cannot list: the answer is no listing"
                raise SinkError(message, "is that an S3 endpoint, or a page for people?")
            for item in page.get("Contents", ()):
                yield Object(
                    key=item["Key"].removeprefix(self._place.prefix),
                    size_bytes=item["Size"],
                    modified_at=item["LastModified"].astimezone(UTC),
                )

    # -- removing

    def _delete(self, key: str) -> None:
        self._client.delete_object(**self._at(key))

    def _sweep(self, before: datetime) -> int:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._place.bucket  # of a prefix that is no key, MinIO lists none
        )
        old = [
            upload
            for page in pages
            for upload in page.get("Uploads", ())
            if upload["Initiated"] < before and self._is_own(upload["Key"])
        ]
        for upload in old:
            self._client.abort_multipart_upload(
                Bucket=self._place.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        return len(old)

    def _is_own(self, name: str) -> bool:
        if not name.startswith(self._place.prefix):
            return False
        key = name[len(self._place.prefix) :]
        return key == PROBE_KEY or parse_key(key) is not None

    # -- errors

    def _translate(self, what: str, error: Exception) -> SinkError:
        return translate(f"{self}: cannot {what}", error)


# -- objects, in pieces


def part_bytes(max_bytes: int | None) -> int:
    """Return the size of the parts of an object of at most ``max_bytes``; all in bytes."""
    return max(1, math.ceil((max_bytes or 0) / MAX_PARTS / PART_BYTES)) * PART_BYTES


def _parts(chunks: Iterable[bytes], size: int) -> Iterator[_Part]:
    """Cut a stream into parts of exactly that size, but for the last; nothing is copied."""
    held: list[memoryview] = []
    number, room = 1, size
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            if not room:
                yield _Part(number=number, chunks=tuple(held), is_last=False)
                number, held, room = number + 1, [], size
            held.append(view[:room])
            view = view[room:]
            room -= len(held[-1])
    yield _Part(number=number, chunks=tuple(held), is_last=True)


_ALGORITHMS = {"crc32": "CRC32", "sha256": "SHA256"}
_PART_FACTS = ("ETag", "ChecksumCRC32", "ChecksumSHA256")
"""What the completion repeats of the answer to a part."""


def _checksum(mode: ChecksumMode, part: _Part) -> dict[str, str]:
    """Make the parameter by which the server compares what has arrived."""
    if mode == "none":
        return {}
    if mode == "crc32":
        crc = 0
        for chunk in part.chunks:
            crc = isal_zlib.crc32(chunk, crc)
        return {"ChecksumCRC32": base64.b64encode(crc.to_bytes(4, "big")).decode()}
    digest = hashlib.new(mode, usedforsecurity=False)
    for chunk in part.chunks:
        digest.update(chunk)
    name = "ContentMD5" if mode == "md5" else "ChecksumSHA256"
    return {name: base64.b64encode(digest.digest()).decode()}


def _skip(body: Any, size: int) -> None:  # noqa: ANN401 - a class of the SDK
    """Read past the beginning, where a server has ignored the range that was asked for."""
    while size:
        chunk = body.read(min(size, CHUNK_BYTES))
        if not chunk:
            return
        size -= len(chunk)
