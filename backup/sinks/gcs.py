"""A bucket of Google Cloud Storage as a sink.

Rules:

- An object is made with ``ifGenerationMatch=0``, so it never replaces one, and appears whole or not
  at all: small ones in one request, others by a resumable upload, of which one part at a time is
  in memory. A part that broke is taken up where the server says that it stopped.
  https://cloud.google.com/storage/docs/performing-resumable-uploads
- The parts are sent here and not by the SDK's ``BlobWriter``, which makes an object of what it has
  got whenever it is closed, be it by the garbage collector. Here only the last part names the size,
  and nothing else finishes an upload. One that failed is cancelled; one that was abandoned shows
  nowhere, costs nothing and expires within a week.
- Each put marks its object with a token of its own. Where a reply was lost, a repeat may be told
  412, or 404 or 410 of the upload: then the object is looked at, and our token is success.
- The server compares a CRC32C of the whole before it makes the object, and says which it found.
  https://cloud.google.com/storage/docs/data-validation
- ``storage.objects.create``, ``get`` and ``list`` suffice (``delete`` for pruning): the bucket is
  never asked for itself. https://cloud.google.com/storage/docs/access-control/iam-roles
- Objects are read as they are stored: ``Accept-Encoding: identity``, and nothing is decoded.
  https://cloud.google.com/storage/docs/transcoding
- The SDK repeats nothing: its pauses add up to minutes and know no stop. What is safe to repeat is
  repeated by :mod:`backup.sinks.base`.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from http import HTTPStatus
from itertools import chain
from typing import Any, ClassVar

import google_crc32c
from google.cloud.storage import Blob
from google.cloud.storage.exceptions import InvalidResponse
from requests import Response

from backup.errors import (
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SinkError,
    SinkMissingError,
    SinkUnavailableError,
)
from backup.model import CHUNK_BYTES
from backup.sinks.base import Object, PlacedSink, R
from backup.sinks.gcp import Access, access, refusal, response_of, translate
from backup.sinks.kinds import GcsOptions
from backup.stop import Stop

PART_BYTES = 8 << 20
"""All parts but the last have to be multiples of 256 KiB."""
_WHOLE_BYTES = CHUNK_BYTES
"""The largest object that is sent in one request: the SDK copies it more than once."""
_SLICE_BYTES = 128 << 10
"""How much is sent between two looks at the stop."""

_CONNECT_SECONDS = 10.0
_LENIENCE_SECONDS = 1.0
"""Sockets time out this much after the sink, so that a stall is reported as one."""
_CANCEL_SECONDS = 0.4
"""All cleaning up has 0.6 s after a signal, see :mod:`backup.streams`."""

_BINARY = "application/octet-stream"
_MARK = "journal-backup-put"
"""The field of an object's metadata that says which put made it."""

_MADE = {HTTPStatus.OK, HTTPStatus.CREATED}
_LOST = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}


class _UploadLostError(SinkUnavailableError):
    """An upload cannot go on: it was finished before, or has to be begun anew."""

    transient: ClassVar[bool] = False


class GcsSink(PlacedSink[GcsOptions]):
    """Objects below a prefix of a bucket.

    It has many methods as ten are those of every sink: the others are steps of these.
    """

    @cached_property
    def _access(self) -> Access:
        """Look for credentials, at the first call."""
        # Two threads may come first: then there are two for a moment, and each is as good.
        return access(self._place.options.endpoint, self._settings.ca_cert_file)

    @property
    def _timeout(self) -> tuple[float, float]:
        return _CONNECT_SECONDS, self._stall_seconds + _LENIENCE_SECONDS

    @property
    def _once(self) -> dict[str, Any]:
        """Keep the SDK from repeating a call."""
        return {"timeout": self._timeout, "retry": None}

    def _blob(self, key: str, token: str | None = None) -> Blob:
        blob = self._access.client.bucket(self._place.bucket).blob(self._place.prefix + key)
        if token is not None:
            blob.metadata = {_MARK: token}
        return blob

    def _probe(self) -> None:
        self._require_bucket()
        self._cancel(self._begin(self._blob(".probe")))

    def _require_bucket(self) -> None:
        next(self._blobs(max_results=1), None)

    # -- storing

    def _put(
        self, key: str, chunks: Iterable[bytes], *, max_bytes: int | None, alive: Callable[[], None]
    ) -> None:
        del max_bytes  # all parts are of one size, whatever the object's
        put = _Put(key=key, alive=alive, stop=self._stop)
        parts = _parts(put.summed(chunks))
        part, is_last = next(parts)
        try:
            if is_last and len(part) <= _WHOLE_BYTES:
                self._try(put, lambda: self._create(key, bytes(part), put.token))
            else:
                self._upload(put, chain([(part, is_last)], parts))
        except (ObjectExistsError, _UploadLostError) as error:
            self._require_ours(put, error)

    def _put_exclusive(self, key: str, data: bytes) -> None:
        self._create(key, data, secrets.token_hex())

    def _create(self, key: str, data: bytes, token: str) -> None:
        self._stop.check()
        self._blob(key, token).upload_from_string(
            data, content_type=_BINARY, if_generation_match=0, checksum="crc32c", **self._once
        )

    def _upload(self, put: _Put, parts: Iterable[tuple[memoryview, bool]]) -> None:
        put.url = self._try(put, lambda: self._begin(self._blob(put.key, put.token)))
        try:
            for part, is_last in parts:
                self._deliver(put, part, is_last=is_last)
        except BaseException:
            self._cancel(put.url)
            raise
        self._require_whole(put, put.made.get("crc32c"))

    def _begin(self, blob: Blob) -> str:
        url: str = blob.create_resumable_upload_session(
            content_type=_BINARY, if_generation_match=0, checksum=None, **self._once
        )
        return url

    def _cancel(self, url: str) -> None:
        with suppress(Exception):
            self._access.session.delete(url, timeout=_CANCEL_SECONDS)

    def _deliver(self, put: _Put, part: memoryview, *, is_last: bool) -> None:
        """Send a part; what moves the upload on makes the next try count as the first."""
        start, end = put.kept, put.kept + len(part)
        total = end if is_last else "*"

        def attempt() -> None:
            before = put.kept
            if put.in_doubt or before == end:
                self._exchange(put, f"bytes */{total}", is_last=is_last)
            if put.kept == before < end and not put.made:
                data = _Body(part[before - start :], put.tick)
                self._exchange(put, f"bytes {before}-{end - 1}/{total}", data, is_last=is_last)
            if not start <= put.kept <= end:
                raise _UploadLostError(self._cannot(put, "the server lost data"))
            if put.kept == before and not put.made:
                raise SinkUnavailableError(self._cannot(put, "the server takes nothing"))

        while not put.made and (is_last or put.kept < end):
            self._try(put, attempt)

    def _exchange(
        self, put: _Put, content_range: str, data: _Body | None = None, *, is_last: bool
    ) -> None:
        """Send to an upload, perhaps nothing, and see how far it is."""
        headers = {"Content-Range": content_range}
        if is_last:
            headers["X-Goog-Hash"] = f"crc32c={put.crc32c}"
        put.in_doubt = True
        response = self._access.session.put(
            put.url, data=data, headers=headers, timeout=self._timeout
        )
        if response.status_code in _MADE:
            put.made = response.json()
        elif response.status_code == HTTPStatus.PERMANENT_REDIRECT:
            put.kept = _kept(response.headers.get("Range"))
        elif response.status_code in _LOST:
            raise _UploadLostError(self._cannot(put, "the upload is gone"))
        else:
            raise _unexpected(response)
        put.in_doubt = False

    def _require_ours(self, put: _Put, error: SinkError) -> None:
        """Accept a failure which only echoes a success: the object is of this very put."""
        blob = self._blob(put.key)
        try:
            self._try(put, lambda: blob.reload(**self._once))
        except ObjectMissingError:
            raise SinkUnavailableError(error.message) from error
        if (blob.metadata or {}).get(_MARK) != put.token:
            raise ObjectExistsError(self._cannot(put, "it exists")) from error
        self._require_whole(put, blob.crc32c)

    def _require_whole(self, put: _Put, crc32c: str | None) -> None:
        if crc32c != put.crc32c:
            raise ReadbackError(self._cannot(put, "the object has another checksum"))

    def _cannot(self, put: _Put, why: str) -> str:
        return f"{self}: cannot store {put.key}: {why}"

    def _try(self, put: _Put, run: Callable[[], R]) -> R:
        """Run what may be repeated in this thread, which is watched by whoever called us."""
        return self._persist(self._declared(f"store {put.key}")(run))

    # -- reading and removing

    def _open(self, key: str, offset: int) -> Iterator[bytes]:
        url = f"{self._access.client.api_endpoint}/download/storage/v1{self._blob(key).path}"
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._access.session.get(
            f"{url}?alt=media", headers=headers, stream=True, timeout=self._timeout
        ) as response:
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # nothing is left from there on
            if response.status_code != (HTTPStatus.PARTIAL_CONTENT if offset else HTTPStatus.OK):
                raise _unexpected(response)
            while chunk := response.raw.read(CHUNK_BYTES, decode_content=False):
                yield chunk

    def _list(self) -> Iterator[Object]:
        for blob in self._blobs():
            yield Object(
                key=blob.name.removeprefix(self._place.prefix),
                size_bytes=blob.size,
                modified_at=blob.time_created,
            )

    def _blobs(self, *, max_results: int | None = None) -> Iterator[Blob]:
        yield from self._access.client.list_blobs(
            self._place.bucket,
            prefix=self._place.prefix,
            max_results=max_results,
            fields="items(name,size,timeCreated),nextPageToken",
            **self._once,
        )

    def _size(self, key: str) -> int:
        blob = self._blob(key)
        blob.reload(**self._once)
        size: int = blob.size
        return size

    def _delete(self, key: str) -> None:
        with suppress(ObjectMissingError), self._declared(f"delete {key}"):
            self._blob(key).delete(**self._once)

    def _sweep(self, before: datetime) -> int:
        """Find nothing: an upload that nobody finished shows nowhere, costs nothing and expires."""
        del before
        return 0

    # -- errors

    def _translate(self, what: str, error: Exception) -> SinkError:
        message = f"{self}: cannot {what}: "
        response = response_of(error)
        if response is None or response.ok:
            return translate(message, error)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return self._missing(message)
        return refusal(message, response, self._access.who)

    def _missing(self, message: str) -> SinkError:
        """Find out whether the object is missing or the bucket: the status is the same."""
        try:
            self._require_bucket()
        except Exception as error:  # noqa: BLE001 - of whatever kind, it is translated
            response = response_of(error)
            if response is None or response.status_code != HTTPStatus.NOT_FOUND:
                return self._translate("list", error)
            return SinkMissingError(
                f"{self}: bucket {self._place.bucket} does not exist",
                "create it, or correct the URL",
            )
        return ObjectMissingError(f"{message}there is no such object")


@dataclass(slots=True, kw_only=True)
class _Put:
    """A put, and how far it is."""

    key: str
    alive: Callable[[], None]
    stop: Stop
    token: str = field(default_factory=secrets.token_hex)
    checksum: Any = field(default_factory=google_crc32c.Checksum)
    url: str = ""
    """Of its resumable upload, if it needs one; whoever has it may write."""
    kept: int = 0
    """Bytes that the server has for good."""
    in_doubt: bool = False
    """Whether the server may have more, or even the whole."""
    made: dict[str, Any] = field(default_factory=dict)
    """The object as the server describes it, once it is made."""

    @property
    def crc32c(self) -> str:
        """The checksum of all that was given, as Google writes it."""
        return base64.b64encode(self.checksum.digest()).decode()

    def tick(self) -> None:
        """Take notice that data moves, and whether it still should."""
        self.stop.check()
        self.alive()

    def summed(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass the chunks on, and take each into the checksum."""
        for chunk in chunks:
            self.checksum.update(chunk)
            yield chunk


@dataclass(frozen=True, slots=True)
class _Body:
    """What one request sends, in slices."""

    data: memoryview
    tick: Callable[[], None]

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), _SLICE_BYTES):
            self.tick()
            yield bytes(self.data[start : start + _SLICE_BYTES])


def _parts(chunks: Iterable[bytes]) -> Iterator[tuple[memoryview, bool]]:
    """Fill parts, each over the one before it, and say which is the last; it may be empty."""
    buffer, filled = memoryview(bytearray(PART_BYTES)), 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            if filled == PART_BYTES:
                yield buffer, False
                filled = 0
            taken = min(len(rest), PART_BYTES - filled)
            buffer[filled : filled + taken] = rest[:taken]
            filled, rest = filled + taken, rest[taken:]
    yield buffer[:filled], True


def _kept(content_range: str | None) -> int:
    """Read how much of an upload the server has: ``bytes=0-41`` are 42, and no header is none."""
    return 0 if content_range is None else int(content_range.rpartition("-")[2]) + 1


def _unexpected(response: Response) -> InvalidResponse:
    if not response.ok:
        response.content  # noqa: B018 - the reason is read while the connection stands
    return InvalidResponse(response, f"the server answered {response.status_code}")
