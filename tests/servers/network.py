"""A network that cuts, delays and slows, between a client and a server.

    with toxiproxy() as network, network.proxy(server.address) as proxy:
        with proxy.toxic("latency", latency=200): ...            # milliseconds, on what is answered
        with proxy.toxic("limit_data", stream="upstream", bytes=1 << 20): ...   # cut after a MiB
        proxy.toxic("reset_peer", timeout=0)                     # RST, until the proxy goes
        proxy.disable()                                          # nothing listens

The kinds of toxics are Toxiproxy's: latency (latency, jitter), bandwidth (rate, in KB/s),
slow_close (delay), timeout (timeout; 0 is a black hole, for as long as the server keeps the
connection), reset_peer (timeout), slicer (average_size, size_variation, delay), limit_data (bytes).
Times are in milliseconds.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Literal, Self

from tests.servers.process import HOST, RefusedError, ask, binary, reserved_port, running


@dataclass(frozen=True, slots=True)
class Toxic:
    """One fault of a connection; as a context manager, it ends with the block."""

    url: str

    def remove(self) -> None:
        """End it, unless it has ended; connections that it closed stay closed."""
        try:
            ask(self.url, method="DELETE")
        except RefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A way to one server, which can be spoilt."""

    url: str
    address: str

    def toxic(
        self,
        kind: str,
        *,
        stream: Literal["downstream", "upstream"] = "downstream",
        toxicity: float = 1.0,
        **attributes: int,
    ) -> Toxic:
        """Spoil this share of the connections, those that are open too, in one direction."""
        name = uuid.uuid4().hex
        ask(
            f"{self.url}/toxics",
            {
                "name": name,
                "type": kind,
                "stream": stream,
                "toxicity": toxicity,
                "attributes": attributes,
            },
        )
        return Toxic(f"{self.url}/toxics/{name}")

    def disable(self) -> None:
        """Cut every connection, and refuse new ones."""
        ask(self.url, {"enabled": False})

    def enable(self) -> None:
        """Listen again, at the same address."""
        ask(self.url, {"enabled": True})


@dataclass(frozen=True, slots=True, kw_only=True)
class Toxiproxy:
    """What makes proxies."""

    endpoint: str
    pid: int

    @contextmanager
    def proxy(self, upstream: str) -> Iterator[Proxy]:
        """Open a way to `upstream`, a host and port."""
        name = uuid.uuid4().hex
        with reserved_port() as port:
            address = f"{HOST}:{port}"
            ask(
                f"{self.endpoint}/proxies",
                {"name": name, "listen": address, "upstream": upstream, "enabled": True},
            )
            proxy = Proxy(url=f"{self.endpoint}/proxies/{name}", address=address)
            try:
                yield proxy
            finally:
                ask(proxy.url, method="DELETE")


@contextmanager
def toxiproxy() -> Iterator[Toxiproxy]:
    """Start a Toxiproxy, as yet without proxies."""
    with running(
        lambda port: [binary("toxiproxy"), "-host", HOST, "-port", str(port)], health="/version"
    ) as process:
        yield Toxiproxy(endpoint=f"http://{HOST}:{process.port}", pid=process.pid)
