"""A way to an object store that can be closed for what is written: a run is held where it is.

    with gate(nodes.gateway, server.address) as way:
        way.close()             # reads pass, writes wait
        way.held.wait()         # until there is one that does
        way.open()

What is held is a request whose head has come, until the way is open again; nothing is lost or
refused. Clients have patience for a minute.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_WRITES = (b"PUT ", b"POST ", b"DELETE ")
_CHUNK_BYTES = 1 << 16
_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The way, which is open at first."""

    endpoint: str
    """Where clients go instead."""
    _open: threading.Event = field(default_factory=threading.Event, repr=False)
    held: threading.Event = field(default_factory=threading.Event, repr=False)
    """Set as soon as something waits."""

    def close(self) -> None:
        """Have writes wait from now on."""
        self.held.clear()
        self._open.clear()

    def open(self) -> None:
        """Let them pass, and what waits."""
        self._open.set()

    def pass_on(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what a client sends, until it has said all."""
        while data := client.recv(_CHUNK_BYTES):
            if data.startswith(_WRITES) and not self._open.is_set():
                self.held.set()
                self._open.wait(_SECONDS)
            server.sendall(data)


@contextmanager
def gate(host: str, upstream: str) -> Iterator[Gate]:
    """Open a way at an address of this machine to a server, named by its host and port."""
    address, _, port = upstream.rpartition(":")

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError), socket.create_connection((address, int(port))) as server:
                back = threading.Thread(target=_copy, args=(server, self.request), daemon=True)
                back.start()
                with suppress(OSError):
                    way.pass_on(self.request, server)
                with suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                back.join(_SECONDS)

    with socketserver.ThreadingTCPServer((host, 0), Connection) as listening:
        listening.daemon_threads = True
        listening.block_on_close = False
        way = Gate(endpoint=f"http://{host}:{listening.server_address[1]}")
        way.open()
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield way
        finally:
            way.open()
            listening.shutdown()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
