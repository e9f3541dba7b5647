"""A bucket as a place of the contract suite, on servers that speak S3 or the JSON API of GCS.

What goes wrong on the way to a bucket goes wrong at a door before its server.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from backup.settings import StoreSettings
from backup.sinks import Sink, open_sink
from backup.stop import Stop
from tests import httpd, servers
from tests.environment import environment

if TYPE_CHECKING:
    from tests.conftest import Start
    from tests.contract.backends import Fault, Place

STALL_SECONDS = 20.0
PREFIX = "site/a"
_CUT_AFTER = 100_000


@dataclass(frozen=True, slots=True)
class BucketPlace(ABC):
    """A prefix in a bucket of its own."""

    scheme: ClassVar[str]
    refusal: ClassVar[bytes]
    """The body of a 403, as the store would write it."""

    server: servers.S3Server | servers.GcsServer
    bucket: str

    def sink(self, *, stop: Stop | None = None, stall_seconds: float = STALL_SECONDS) -> Sink:
        """Open it."""
        return self._open(self.server.endpoint, stop=stop, stall_seconds=stall_seconds)

    def _open(
        self, endpoint: str, *, stop: Stop | None = None, stall_seconds: float = STALL_SECONDS
    ) -> Sink:
        sink = open_sink(
            f"{self.scheme}://{self.bucket}/{PREFIX}?endpoint={endpoint}",
            StoreSettings(source=Path("/journals")),
            stop=stop or Stop(),
            stall_seconds=stall_seconds,
        )
        with environment(self.identity(endpoint)):
            self.identify(sink)
        return sink

    @abstractmethod
    def identity(self, endpoint: str) -> Mapping[str, str]:
        """Give the variables from which the SDK learns who we are there."""

    @abstractmethod
    def identify(self, sink: Sink) -> None:
        """Let the sink learn it now."""

    @contextmanager
    def stuck(self) -> Iterator[None]:
        """Halt the server, and all its clients with it."""
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)

    @contextmanager
    def faulty(self, fault: Fault) -> Iterator[Sink]:
        """Open it by a door at which that happens."""
        with httpd.serving(self.server.address) as door:
            if fault == "denied":
                door.on(httpd.is_(), httpd.answer(403, self.refusal))
            elif fault == "changed":
                door.on(_carries_data, httpd.change_request(_one_byte_other))
            elif fault == "cut":
                door.on(_carries_data, httpd.cut_request(_CUT_AFTER))
            else:
                door.on(_gives_data, httpd.cut_reply(1_000_000), times=1)
            door.on(_begins, partial(_go_on_here, self.server.address, door.endpoint))
            yield self._open(door.endpoint)


class S3Place(BucketPlace):
    """A place on a server that speaks S3."""

    __slots__ = ()
    scheme = "s3"
    refusal = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    server: servers.S3Server

    def identity(self, endpoint: str) -> Mapping[str, str]:
        """Be whom the server knows."""
        return self.server.environment

    def identify(self, sink: Sink) -> None:
        """Make its client."""
        sink._client  # type: ignore[attr-defined] # noqa: B018 - made when it is looked at

    def plant(self, names: Iterable[str]) -> None:
        """Store objects; each holds its name."""
        client = self.server.client(max_pool_connections=16)

        def put(name: str) -> None:
            client.put_object(Bucket=self.bucket, Key=f"{PREFIX}/{name}", Body=name.encode())

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(put, names))

    def interrupt(self, key: str) -> None:
        """Leave a multipart upload with a part."""
        at = {"Bucket": self.bucket, "Key": f"{PREFIX}/{key}"}
        client = self.server.client()
        upload = client.create_multipart_upload(**at)["UploadId"]
        client.upload_part(**at, UploadId=upload, PartNumber=1, Body=b"part")

    def remains(self) -> list[str]:
        """Name the unfinished uploads."""
        pages = self.server.client().get_paginator("list_multipart_uploads")
        found = [page.get("Uploads", ()) for page in pages.paginate(Bucket=self.bucket)]
        return [upload["Key"] for uploads in found for upload in uploads]


class GcsPlace(BucketPlace):
    """A place on a server that speaks Google's JSON API, and serves anyone."""

    __slots__ = ()
    scheme = "gs"
    refusal = b'{"error": {"code": 403, "message": "does not have storage.objects.get access"}}'
    server: servers.GcsServer

    def identity(self, endpoint: str) -> Mapping[str, str]:
        """Be nobody."""
        return {"STORAGE_EMULATOR_HOST": endpoint}

    def identify(self, sink: Sink) -> None:
        """Make its client."""
        sink._access  # type: ignore[attr-defined] # noqa: B018 - made when it is looked at

    def plant(self, names: Iterable[str]) -> None:
        """Store objects; each holds its name."""
        for name in names:
            self.server.put(self.bucket, f"{PREFIX}/{name}", name.encode())

    def interrupt(self, key: str) -> None:
        """Leave nothing: an upload that nobody finished shows nowhere, and expires by itself."""

    def remains(self) -> list[str]:
        """Name nothing, likewise."""
        return []


@contextmanager
def s3(name: servers.Name, _base: Path, start: Start) -> Iterator[Callable[[str], Place]]:
    """Start a server that speaks S3."""
    server = start(name)
    assert isinstance(server, servers.S3Server)
    yield lambda place: S3Place(server, server.fresh_bucket(place))


@contextmanager
def gcs(_base: Path, start: Start) -> Iterator[Callable[[str], Place]]:
    """Start fake-gcs-server."""
    server = start("fake-gcs-server")
    assert isinstance(server, servers.GcsServer)
    yield lambda place: GcsPlace(server, server.fresh_bucket(place))


# -- what happens at the door


def _carries_data(request: httpd.Request) -> bool:
    size = int(request.headers.get("content-length", 0))
    return request.method in {"PUT", "POST"} and size > _CUT_AFTER


def _gives_data(request: httpd.Request) -> bool:
    return request.method == "GET" and request.path.endswith(".tar.gz")


def _begins(request: httpd.Request) -> bool:
    return request.query.get("uploadType") == "resumable"


def _one_byte_other(request: httpd.Request, body: bytes) -> tuple[httpd.Request, bytes]:
    middle = len(body) // 2
    return request, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def _go_on_here(upstream: str, endpoint: str, exchange: httpd.Exchange) -> None:
    """Let an upload come through the door too, wherever the store would have it go."""
    given = exchange.forward()
    there = given.headers.get("location", "")
    here = {"location": there.replace(f"http://{upstream}", endpoint)}
    exchange.reply(replace(given, headers={**given.headers, **here}))
