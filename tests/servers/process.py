"""Servers of other makers, as processes of a test: found, started on a free port, and ended.

A server dies with the process that started it, however that ends: the kernel kills it. What the
kernel looks at is the thread, so one that lives as long as the process starts them all.

A port is chosen by the OS and stays reserved while its server runs: a bound socket that does not
listen keeps the OS from giving the port to anyone who asks for a free one, and lets the server in,
which is told the number. So no server is ever taken for another one.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

HOST = "127.0.0.1"

Built = Literal["versitygw", "minio", "fake-gcs-server", "toxiproxy"]
"""The servers that `build.sh` builds, each from its go.mod."""
Name = Built | Literal["moto"]

_READY_SECONDS = 60.0  # a second at most where nothing else runs
_ANSWER_SECONDS = 20.0
_END_SECONDS = 5.0
_POLL_SECONDS = 0.02
_ATTEMPTS = 3
_TAIL_BYTES = 4096

_ORPHAN_PROOF = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""
_STARTER = ThreadPoolExecutor(1, "starts-servers")

_anyone = ssl.create_default_context()
_anyone.check_hostname = False
_anyone.verify_mode = ssl.CERT_NONE  # whether a certificate is good is for tests to find out
_http = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_anyone)
)


class PortTakenError(Exception):
    """A program that did not ask for just any port was there before the server."""


class RefusedError(OSError):
    """A server answered a plain request with an error."""

    def __init__(self, status: int, answer: str) -> None:
        super().__init__(f"{status}: {answer}")
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    port: int
    pid: int


def binary(name: Built) -> Path:
    """Return where `build.sh` puts a server; it may not have done so."""
    module = Path(__file__).with_name(name)
    pins = (module / "go.mod").read_bytes() + (module / "go.sum").read_bytes()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = hashlib.sha256(pins).hexdigest()[:16]
    return caches / "deepgram-journal-backup" / "servers" / f"{name}-{version}" / name


@functools.cache
def unavailable(name: Name) -> str | None:
    """Return why a server cannot run here, or None."""
    if name == "moto":
        missing = [part for part in ("moto", "flask") if importlib.util.find_spec(part) is None]
        return f"{missing[0]} is not installed (PyPI: moto[server])" if missing else None
    if not os.access(binary(name), os.X_OK):
        return f"{name} is not built (tests/servers/build.sh does it, and needs Go)"
    return None


def ask(
    url: str, body: object = None, *, method: str | None = None, headers: Mapping[str, str] = {}
) -> Any:
    """Send a request, with a body of bytes or as JSON; return the answer, taken apart if JSON.

    Raises:
        RefusedError: the server did not do it.
        OSError: it could not be reached.
    """
    sent = dict(headers)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("Content-Type", "application/json")
    request = urllib.request.Request(url, body, sent, method=method)  # noqa: S310 - made here
    try:
        with _http.open(request, timeout=_ANSWER_SECONDS) as answer:
            content: bytes = answer.read()
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        with error:
            raise RefusedError(error.code, error.read().decode(errors="replace")) from None
    return json.loads(content) if kind == "application/json" and content else content


@contextmanager
def reserved_port(host: str = HOST) -> Iterator[int]:
    """Give a free port which, inside the block, only a server that is told of it will use."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, 0))
        port: int = holder.getsockname()[1]
        yield port


@contextmanager
def running(
    command: Callable[[int], Sequence[str | Path]],
    *,
    health: str,
    tls: bool = False,
    environment: Mapping[str, str] = {},
    host: str = HOST,
) -> Iterator[Running]:
    """Run what `command` gives for a port of `host`, from when it answers at the path `health`.

    Of the environment of the tests it gets only PATH and TMPDIR, so that no setting of theirs
    changes what the server does.

    Raises:
        RuntimeError: it died, or did not answer in time; with the end of its log.
    """
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="server-"))
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                server = stack.enter_context(
                    _running(
                        command,
                        {"HOME": home} | kept | dict(environment),
                        health,
                        tls=tls,
                        host=host,
                    )
                )
            except PortTakenError:
                if not attempts_left:
                    raise
            else:
                yield server
                return


@contextmanager
def _running(
    command: Callable[[int], Sequence[str | Path]],
    environment: Mapping[str, str],
    health: str,
    *,
    tls: bool,
    host: str,
) -> Iterator[Running]:
    with reserved_port(host) as port, tempfile.TemporaryFile() as log:
        process = _STARTER.submit(_start, [*map(str, command(port))], environment, log).result()
        try:
            _await(process, f"{'https' if tls else 'http'}://{host}:{port}{health}", log)
            yield Running(port=port, pid=process.pid)
        finally:
            _end(process)


def _start(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-ISc", _ORPHAN_PROOF, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # an interrupt from the keyboard must not overtake the clean-up
    )


def _await(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = _tail(log)
            if "already in use" in said.lower():
                raise PortTakenError(said)
            message = f"{process.args!r} ended with {process.returncode}: {said}"
            raise RuntimeError(message)
        try:
            ask(url)
        except OSError:
            time.sleep(_POLL_SECONDS)
        else:
            return
    message = f"{process.args!r} did not answer within {_READY_SECONDS} s: {_tail(log)}"
    raise RuntimeError(message)


def _tail(log: IO[bytes]) -> str:
    # by offset: the server writes through the same open file
    size = os.fstat(log.fileno()).st_size
    return os.pread(log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES)).decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
