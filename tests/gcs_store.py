"""A small Google Cloud Storage in this process, which fails as a test tells it to.

It speaks what the sink needs of the JSON API, and resumable uploads as Google documents them, where
fake-gcs-server takes a question (``bytes */*``) for the end of an upload. A fault is what a test
puts before a kind of request: it is used up by one request, or lasts.

    store.fault("part", answer(503))         # once
    store.fault("begin", answer(429), times=FOREVER)
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import struct
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c

from tests.servers import Certificate

Kind = Literal["list", "get", "media", "create", "begin", "part", "last", "ask", "cancel", "delete"]
Fault = Callable[["Handler"], bool]
"""What happens instead; False if the request goes on after it."""

FOREVER = 10_000
BUCKET = "billing"
TIME = "2026-11-23T12:00:00.123Z"


@dataclass(slots=True)
class Held:
    """An object."""

    data: bytes
    metadata: dict[str, str]


@dataclass(slots=True)
class Upload:
    """An upload that is under way."""

    name: str
    metadata: dict[str, str]
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Store:
    """What is kept, what is asked, and what goes wrong."""

    objects: dict[str, Held] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    faults: list[tuple[Kind, Fault]] = field(default_factory=list)
    asked: list[Kind] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    guard: Callable[[Handler, Kind], bool] = lambda _handler, _kind: True
    """Looks at who asks; answers itself where it gives False."""
    endpoint: str = ""

    def fault(self, kind: Kind, fault: Fault, *, times: int = 1) -> None:
        """Let this go wrong."""
        self.faults += [(kind, fault)] * times

    def take(self, kind: Kind) -> Fault | None:
        """Give what goes wrong now."""
        for place, (of, fault) in enumerate(self.faults):
            if of == kind:
                del self.faults[place]
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    timeout = 20
    store: Store

    def handle(self) -> None:
        """Serve until the client goes away, in whichever way."""
        with suppress(OSError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self.serve
        raise AttributeError(name)

    def serve(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(url.query).items()}
        found = re.search(r"/b/([^/]+)/o(?:/(.+))?$", url.path)
        self.bucket, self.name = (found[1], unquote(found[2] or "")) if found else ("", "")
        kind = self.kind()
        self.store.asked.append(kind)
        self.store.headers.append(dict(self.headers))
        fault = self.store.take(kind)
        if not self.store.guard(self, kind) or (fault is not None and fault(self)):
            return
        body = self.body()
        if self.bucket != BUCKET:
            self.refuse(404, "The specified bucket does not exist.", "notFound")
        else:
            getattr(self, f"_{kind}")(body)

    def kind(self) -> Kind:
        """Tell what is asked."""
        content_range = self.headers.get("Content-Range", "")
        if self.command == "DELETE":
            return "cancel" if "upload_id" in self.query else "delete"
        if content_range.startswith("bytes *"):
            return "ask"
        if content_range:
            return "part" if content_range.endswith("*") else "last"
        if self.command == "POST":
            return "begin" if self.query["uploadType"] == "resumable" else "create"
        is_media = self.query.get("alt") == "media"
        return "list" if not self.name else "media" if is_media else "get"

    def body(self, *, limit: int | None = None) -> bytes:
        """Take what was sent, or so much of it."""
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length if limit is None else min(limit, length))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Say so."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, message: str, reason: str = "") -> None:
        """Say no, as Google does."""
        error = {"code": status, "message": message, "errors": [{"reason": reason}]}
        self.answer(status, json.dumps({"error": error}).encode(), Content_Type="application/json")

    def describe(self, name: str, status: int = 200) -> None:
        """Describe an object."""
        self.answer(status, json.dumps(resource(name, self.store.objects[name])).encode())

    def cut(self) -> None:
        """Reset the connection."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _list(self, _body: bytes) -> None:
        prefix, size = self.query.get("prefix", ""), int(self.query.get("maxResults", 1_000))
        names = sorted(n for n in self.store.objects if n.startswith(prefix))
        after = self.query.get("pageToken", "")
        page = [n for n in names if n > after][:size]
        found: dict[str, Any] = {"items": [resource(n, self.store.objects[n]) for n in page]}
        if page and page[-1] != names[-1]:
            found["nextPageToken"] = page[-1]
        self.answer(200, json.dumps(found).encode())

    def _get(self, _body: bytes) -> None:
        if self.name in self.store.objects:
            self.describe(self.name)
        else:
            self.refuse(404, f"No such object: {self.bucket}/{self.name}", "notFound")

    def _media(self, _body: bytes) -> None:
        if self.name not in self.store.objects:
            self.answer(404, f"No such object: {self.bucket}/{self.name}".encode())
            return
        data = self.store.objects[self.name].data
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        if start and start >= len(data):
            self.answer(416)
        else:
            self.answer(206 if "Range" in self.headers else 200, data[start:])

    def _delete(self, _body: bytes) -> None:
        if self.store.objects.pop(self.name, None) is None:
            self.refuse(404, f"No such object: {self.bucket}/{self.name}", "notFound")
        else:
            self.answer(204)

    def _create(self, body: bytes) -> None:
        boundary = b"--" + self.headers["Content-Type"].partition('boundary="')[2][:-1].encode()
        _, described, rest = body.split(boundary, 2)
        fields = json.loads(described.partition(b"\r\n\r\n")[2])
        data = rest.partition(b"\r\n\r\n")[2].rpartition(b"\r\n" + boundary)[0]
        if fields["crc32c"] != checksum(data):
            self.refuse(400, "Provided CRC32C does not match", "invalid")
        elif self.make(fields["name"], data, fields["metadata"]):
            self.describe(fields["name"])

    def _begin(self, body: bytes) -> None:
        fields = json.loads(body)
        if fields["name"] in self.store.objects:
            self.refuse(412, "At least one of the pre-conditions did not hold.", "conditionNotMet")
            return
        upload_id = uuid.uuid4().hex * 4
        self.store.uploads[upload_id] = Upload(fields["name"], fields.get("metadata", {}))
        self.answer(200, Location=f"{self.store.endpoint}{self.path}&upload_id={upload_id}")

    def _cancel(self, _body: bytes) -> None:
        self.store.uploads.pop(self.query["upload_id"], None)
        self.answer(499)

    def _ask(self, _body: bytes) -> None:
        self.go_on(self.headers["Content-Range"].rpartition("/")[2])

    def _part(self, body: bytes) -> None:
        upload = self.store.uploads.get(self.query["upload_id"])
        given, _, total = self.headers["Content-Range"].removeprefix("bytes ").partition("/")
        if upload is not None:
            assert int(given.partition("-")[0]) == len(upload.data)
            assert int(given.partition("-")[2]) == len(upload.data) + len(body) - 1
            upload.data += body
        self.go_on(total)

    _last = _part

    def go_on(self, total: str) -> None:
        """Tell how far an upload is; make the object once it is complete."""
        upload = self.store.uploads.get(self.query["upload_id"])
        if upload is None:
            self.refuse(410, "Gone", "uploadGone")
        elif total == str(len(upload.data)):
            claimed = self.headers.get("X-Goog-Hash", "").removeprefix("crc32c=")
            if claimed not in {"", checksum(upload.data)}:
                self.refuse(400, "Provided CRC32C does not match", "invalid")
            elif self.make(upload.name, bytes(upload.data), upload.metadata):
                del self.store.uploads[self.query["upload_id"]]
                self.describe(upload.name)
        elif upload.data:
            self.answer(308, Range=f"bytes=0-{len(upload.data) - 1}")
        else:
            self.answer(308)

    def make(self, name: str, data: bytes, metadata: dict[str, str]) -> bool:
        """Make an object, unless there is one."""
        assert "ifGenerationMatch=0" in self.path
        if name in self.store.objects:
            self.refuse(412, "At least one of the pre-conditions did not hold.", "conditionNotMet")
            return False
        self.store.objects[name] = Held(data, metadata)
        return True


def checksum(data: bytes | bytearray) -> str:
    """Give the CRC32C as Google writes it."""
    made: Any = google_crc32c.Checksum
    return base64.b64encode(made(bytes(data)).digest()).decode()


def resource(name: str, held: Held) -> dict[str, Any]:
    """Describe an object as the JSON API does."""
    return {
        "name": name,
        "size": str(len(held.data)),
        "timeCreated": TIME,
        "crc32c": checksum(held.data),
        "metadata": held.metadata,
    }


# -- what can go wrong


def answer(status: int, message: str = "because", reason: str = "") -> Fault:
    """Answer so, whatever was asked."""

    def fault(handler: Handler) -> bool:
        handler.body()
        handler.refuse(status, message, reason)
        return True

    return fault


def says(status: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with a body that is not of Google's."""

    def fault(handler: Handler) -> bool:
        handler.body()
        handler.answer(status, body, **headers)
        return True

    return fault


def cut_after(kept: int) -> Fault:
    """Keep some bytes of a part, and reset the connection in the middle of it."""

    def fault(handler: Handler) -> bool:
        handler.store.uploads[handler.query["upload_id"]].data += handler.body(limit=kept)
        handler.cut()
        return True

    return fault


def lose_reply(handler: Handler) -> bool:
    """Do all that was asked, but say nothing."""
    handler.answer = lambda *_args, **_headers: handler.cut()  # type: ignore[method-assign]
    return False


def truncate(kept: int) -> Fault:
    """Promise the whole, and end after some bytes of the answer."""

    def fault(handler: Handler) -> bool:
        def answer(status: int, body: bytes = b"", **_headers: str) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[:kept])
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True

        handler.answer = answer  # type: ignore[method-assign]
        return False

    return fault


@contextmanager
def serving(
    store: Store, tls: Certificate | None = None, *, handler: type[Handler] = Handler
) -> Iterator[Store]:
    """Serve on a free port, with TLS if there is a certificate."""
    kind = type("Serving", (handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    server.handle_error = lambda *_args: None  # type: ignore[method-assign]
    scheme = "http"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.chain, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    store.endpoint = f"{scheme}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
