"""The command as a pod runs it: journals, an empty home, and an environment that holds no more.

And a witness: an HTTP server of the test's own between the command and a store, or beside it. It
remembers what it is asked, and answers itself, passes it on, or tunnels.
"""

from __future__ import annotations

import http.client
import io
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock
from urllib.parse import urlsplit

from backup import cli
from tests.journal_data import records, write_journal
from tests.servers.s3 import REGION

COMMAND = (sys.executable, "-m", "backup")
SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a run has left: its exit code, and all that it said."""

    code: int
    stdout: str
    stderr: str
    argv: bytes = b""
    """What the other users of the machine could see of it: /proc/PID/cmdline."""

    @property
    def said(self) -> str:
        """All of it."""
        return self.stdout + self.stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A place with one journal."""

    root: Path

    @classmethod
    def at(cls, root: Path) -> Site:
        """Make one."""
        write_journal(root / "journals", 0, records(50))
        (root / "home").mkdir()
        return cls(root=root)

    def environment(self, *sinks: str, **variables: str) -> dict[str, str]:
        """Give all variables of a run to these sinks; of the test's own only what it needs."""
        kept = {k: v for k, v in os.environ.items() if k == "PATH" or k.startswith("COVERAGE")}
        return kept | {
            "HOME": f"{self.root}/home",
            "BACKUP_SOURCE": f"{self.root}/journals",
            "BACKUP_SINKS": "\n".join(sinks),
            "AWS_EC2_METADATA_DISABLED": "true",  # where the test runs must not lend it a role
            "AWS_REGION": REGION,
            **variables,
        }


def run(environment: Mapping[str, str], *argv: str) -> Done:
    """Run the command in a process of its own, off any terminal."""
    with subprocess.Popen(
        [*COMMAND, *argv],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        try:
            stdout, stderr = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return Done(code=process.returncode, stdout=stdout, stderr=stderr, argv=shown)


def run_here(environment: Mapping[str, str], *argv: str) -> Done:
    """Run the command in this process: where starting it would say nothing, and take a second."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        code = cli.main(argv)
    return Done(code=code, stdout=stdout.getvalue(), stderr=stderr.getvalue())


# -- the witness


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request."""

    method: str
    target: str
    """A path; as a proxy is asked, a whole URL, or a host and port."""
    headers: Mapping[str, str]
    """By their names in small letters."""
    body: bytes

    @property
    def access_key(self) -> str:
        """Whose signature it bears; empty if none."""
        return self.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said to it."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, message: str) -> Answer:
    """Say no as S3 does."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status=status, body=body.encode(), headers={"Content-Type": "application/xml"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What was asked, in order, and where."""

    address: str
    asked: list[Asked]

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{self.address}"

    def of(self, method: str) -> list[Asked]:
        """Give the requests of one method."""
        return [a for a in self.asked if a.method == method]


Decide = Callable[[Asked], Answer | None]


@contextmanager
def witness(decide: Decide = lambda _asked: None, *, upstream: str = "") -> Iterator[Witness]:
    """Serve HTTP on loopback.

    Args:
        decide: gives the answer to a request; None passes it on.
        upstream: host and port to which is passed on what does not say where it is to go.
    """
    asked: list[Asked] = []

    class Bound(_Handler):
        pass

    Bound.asked, Bound.decide, Bound.upstream = asked, staticmethod(decide), upstream
    with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as server:
        server.block_on_close = True
        server.daemon_threads = False  # so that leaving waits for what is being answered
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Witness(address=f"127.0.0.1:{server.server_address[1]}", asked=asked)
        finally:
            server.shutdown()
            thread.join()


_HOP = {"connection", "expect", "proxy-authorization", "proxy-connection", "transfer-encoding"}


class _Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[Asked]]
    decide: ClassVar[Any]
    upstream: ClassVar[str]

    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        self.close_connection = True
        length = int(self.headers.get("Content-Length") or 0)
        request = Asked(
            method=self.command,
            target=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length),
        )
        self.asked.append(request)
        answer = self.decide(request)
        if answer is None and request.method == "CONNECT":
            self._tunnel(request.target)
        else:
            self._say(answer or self._passed_on(request))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_CONNECT = _serve  # noqa: N815 - as it wants

    def _passed_on(self, request: Asked) -> Answer:
        parts = urlsplit(request.target)
        path = request.target.partition(parts.netloc)[2] if parts.scheme else request.target
        onward = http.client.HTTPConnection(
            (parts.netloc if parts.scheme else "") or self.upstream, timeout=20
        )
        headers = {k: v for k, v in request.headers.items() if k not in _HOP}
        try:
            onward.request(request.method, path, body=request.body, headers=headers)
            response = onward.getresponse()
            return Answer(
                status=response.status, body=response.read(), headers=dict(response.getheaders())
            )
        finally:
            onward.close()

    def _say(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in {*_HOP, "content-length"}:
                self.send_header(name, value)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        if answer.status not in {http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED}:
            self.send_header("Content-Length", length or str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _tunnel(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=20) as onward:
            self.send_response_only(200)
            self.end_headers()
            ways = {self.connection: onward, onward: self.connection}
            while True:
                for end in select.select(list(ways), [], [], SECONDS)[0]:
                    data = end.recv(65_536)
                    if not data:
                        return
                    ways[end].sendall(data)

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr, which is under test."""
