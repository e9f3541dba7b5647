"""A store's front door with a script of faults: an HTTP server in the process of the test.

A request that no rule is about goes to the real server behind it, if there is one:

    with httpd.serving(server.address) as door:
        door.on(httpd.is_("PUT", query="partNumber"), httpd.answer(503, b"..."), times=2)
        door.on(httpd.is_("POST", query="uploadId"), httpd.lose_reply(), times=1)
        ...
        assert len(door.seen(httpd.is_("PUT"))) == 3

A rule is a condition, what happens instead, and how often; the first that fits is used. What
happens is a function of an :class:`Exchange`, so a test can write one of its own. A signed request
has to arrive as it was sent: whoever changes it signs it anew.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection, HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ssl import SSLContext
from urllib.parse import parse_qsl, urlsplit

HOST = "127.0.0.1"
PIECE_BYTES = 1 << 16
UPSTREAM_SECONDS = 30
_ABORT = struct.pack("ii", 1, 0)
_HOP_BY_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: Mapping[str, str]
    """By their names in lower case."""

    @property
    def path(self) -> str:
        """The path, as it was escaped."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is answered."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Condition = Callable[[Request], bool]
Act = Callable[["Exchange"], None]


class Exchange:
    """One request on its way, and what can be done with it."""

    def __init__(self, handler: _Handler) -> None:
        """Take a request whose head has been read."""
        self._handler = handler
        self.door = handler.server.door
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.request = Request(method=handler.command, target=handler.path, headers=headers)

    @cached_property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Read the body as it comes."""
        self._handler.let_the_body_come()
        if self.request.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunked()
            return
        left = int(self.request.headers.get("content-length", 0))
        while left and (piece := self._handler.rfile.read(min(left, PIECE_BYTES))):
            left -= len(piece)
            yield piece

    def _chunked(self) -> Iterator[bytes]:
        while size := int(self._handler.rfile.readline().partition(b";")[0], 16):
            yield self._handler.rfile.read(size)
            self._handler.rfile.readline()
        self._handler.rfile.readline()

    def forward(self, request: Request | None = None, body: bytes | None = None) -> Answer:
        """Ask the real server, and give its answer."""
        assert self.door.upstream is not None, "there is no server behind this door"
        request, body = request or self.request, self.body if body is None else body
        connection = HTTPConnection(self.door.upstream, timeout=UPSTREAM_SECONDS)
        try:
            connection.putrequest(
                request.method, request.target, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name not in _HOP_BY_HOP | {"content-length"}:
                    connection.putheader(name, value)
            if body or request.method in {"PUT", "POST"}:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(
                status=response.status, headers=_kept(response.headers), body=response.read()
            )
        finally:
            connection.close()

    def reply(self, answer: Answer, *, cut_after: int | None = None) -> None:
        """Answer; the body is cut after so many bytes, whatever the head has promised."""
        handler = self._handler
        handler.send_response_only(answer.status)
        length = {"content-length": str(len(answer.body))}
        for name, value in {**length, **answer.headers}.items():
            handler.send_header(name, value)
        if "body" not in self.__dict__ and "content-length" in self.request.headers:
            handler.send_header("connection", "close")  # it was not read, and is in the way
        handler.end_headers()
        if self.request.method != "HEAD":
            handler.wfile.write(answer.body[:cut_after])
        if cut_after is not None:
            handler.close_connection = True

    def hang_up(self) -> None:
        """End the connection with a reset."""
        self._handler.close_connection = True
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self._handler.connection.close()

    def hold(self) -> None:
        """Keep the connection open in silence until the test has ended, then hang up."""
        self.door.closing.wait()
        self.hang_up()


def _kept(headers: HTTPMessage) -> dict[str, str]:
    return {n.lower(): v for n, v in headers.items() if n.lower() not in _HOP_BY_HOP}


# -- conditions


def is_(
    method: str | None = None, *, query: str | None = None, ends: str = "", header: str = ""
) -> Condition:
    """Be about this method, a parameter in the query, the end of the path and a header."""

    def fits(request: Request) -> bool:
        return (
            method in {None, request.method}
            and (query is None or query in request.query)
            and request.path.endswith(ends)
            and (not header or header in request.headers)
        )

    return fits


def since(condition: Condition) -> Condition:
    """Be about everything from the first request on that fits."""
    seen = threading.Event()

    def fits(request: Request) -> bool:
        if condition(request):
            seen.set()
        return seen.is_set()

    return fits


# -- what happens instead


def answer(status: int, body: bytes = b"", **headers: str) -> Act:
    """Answer at once, without reading the body."""
    return lambda exchange: exchange.reply(Answer(status=status, headers=headers, body=body))


def cut_request(after: int) -> Act:
    """Hang up when so much of the body has come."""

    def act(exchange: Exchange) -> None:
        seen = 0
        for piece in exchange.pieces():
            seen += len(piece)
            if seen >= after:
                break
        exchange.hang_up()

    return act


def lose_reply() -> Act:
    """Let the real server do it, and hang up instead of telling."""

    def act(exchange: Exchange) -> None:
        exchange.forward()
        exchange.hang_up()

    return act


def cut_reply(after: int, *, reset: bool = False) -> Act:
    """Promise the whole of the answer's body, and end in the middle of it."""

    def act(exchange: Exchange) -> None:
        exchange.reply(exchange.forward(), cut_after=after)
        if reset:
            exchange.hang_up()

    return act


def shorten_reply(size: int) -> Act:
    """Pass a part of the answer's body off as all of it."""

    def act(exchange: Exchange) -> None:
        given = exchange.forward()
        body = given.body[:size]
        length = {"content-length": str(len(body))}
        exchange.reply(Answer(status=given.status, headers={**given.headers, **length}, body=body))

    return act


def change_request(change: Callable[[Request, bytes], tuple[Request, bytes]]) -> Act:
    """Give the real server another request."""
    return lambda exchange: exchange.reply(
        exchange.forward(*change(exchange.request, exchange.body))
    )


def after(act: Callable[[], object]) -> Act:
    """Let the real server do it, then do something, and tell."""

    def run(exchange: Exchange) -> None:
        given = exchange.forward()
        act()
        exchange.reply(given)

    return run


def first(act: Callable[[], object]) -> Act:
    """Do something, then let the real server do it, and tell."""

    def run(exchange: Exchange) -> None:
        act()
        exchange.reply(exchange.forward())

    return run


def silence(exchange: Exchange) -> None:
    """Take the body, and never say anything."""
    exchange.body  # noqa: B018 - it is read
    exchange.hold()


def deaf(exchange: Exchange) -> None:
    """Take nothing, and never say anything."""
    exchange.hold()


# -- the server


@dataclass(slots=True)
class _Rule:
    fits: Condition
    act: Act
    left: float


class Door:
    """The server, its script and its memory."""

    def __init__(self, upstream: str | None) -> None:
        self.upstream = upstream
        self.endpoint = ""
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self._rules: list[_Rule] = []
        self._changed = threading.Condition()

    def on(self, condition: Condition, act: Act, *, times: float = float("inf")) -> None:
        """Add a rule to the end of the script."""
        with self._changed:
            self._rules.append(_Rule(condition, act, times))

    def clear(self) -> None:
        """Forget the script and what was seen."""
        with self._changed:
            self._rules.clear()
            self.requests.clear()

    def seen(self, condition: Condition) -> list[Request]:
        """Give the requests that have come and fit."""
        with self._changed:
            return [request for request in self.requests if condition(request)]

    def wait(self, condition: Condition, count: int = 1, *, seconds: float = 20.0) -> None:
        """Wait until so many requests have come that fit."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: sum(map(condition, self.requests)) >= count, seconds
            ), f"not seen within {seconds} s, but {self.requests}"

    def perform(self, exchange: Exchange) -> None:
        """Do what the script says, or what the real server does."""
        with self._changed:
            self.requests.append(exchange.request)
            self._changed.notify_all()
            rules = [rule for rule in self._rules if rule.fits(exchange.request) and rule.left > 0]
            for rule in itertools.islice(rules, 1):
                rule.left -= 1
        if rules:
            rules[0].act(exchange)
        else:
            exchange.reply(exchange.forward())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    _expects = False

    def let_the_body_come(self) -> None:
        """Say that the body is wanted, if the client has asked."""
        if self._expects:
            self._expects = False
            self.send_response_only(100)
            self.end_headers()

    def handle_expect_100(self) -> bool:
        """Leave it to whoever wants the body."""
        self._expects = True
        return True

    def handle(self) -> None:
        """Serve, until the client has gone or is sent away."""
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def _perform(self) -> None:
        self._expects = self.headers.get("Expect", "").lower() == "100-continue"
        self.server.door.perform(Exchange(self))

    do_DELETE = do_GET = do_HEAD = do_PATCH = do_POST = do_PUT = _perform  # noqa: N815 - by their methods

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, door: Door, tls: SSLContext | None) -> None:
        super().__init__((HOST, 0), _Handler)
        self.door = door
        self._tls = tls

    def get_request(self) -> tuple[socket.socket, object]:
        """Take a connection; its handshake is made in its own thread."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that broke off."""


@contextmanager
def serving(upstream: str | None = None, *, tls: SSLContext | None = None) -> Iterator[Door]:
    """Serve on a port of its own, in front of a host and port, if given."""
    door = Door(upstream)
    server = _Server(door, tls)
    scheme = "http" if tls is None else "https"
    door.endpoint = f"{scheme}://{HOST}:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
    thread.start()
    try:
        yield door
    finally:
        door.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
