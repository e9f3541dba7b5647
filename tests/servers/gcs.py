"""A server that speaks the JSON API of Google Cloud Storage, and the door beside the sink."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from tests.servers.process import HOST, ask, binary, running

PROJECT = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsServer:
    """A server which serves anyone."""

    endpoint: str
    root: Path
    """Where its buckets are directories and its objects files."""
    pid: int

    @property
    def address(self) -> str:
        """Its host and port, as a proxy wants them."""
        return self.endpoint.partition("://")[2]

    def client(self) -> Any:
        """Return a client of google-cloud-storage, without STORAGE_EMULATOR_HOST."""
        credentials = import_module("google.auth.credentials").AnonymousCredentials()
        return import_module("google.cloud.storage").Client(
            project=PROJECT,
            credentials=credentials,
            client_options={"api_endpoint": self.endpoint},
        )

    def fresh_bucket(self, prefix: str = "test", **fields: Any) -> str:
        """Make a bucket of an unused name; `fields` are those of a bucket in the JSON API."""
        name = f"{prefix}-{uuid.uuid4().hex[:12]}"
        ask(f"{self.endpoint}/storage/v1/b?project={PROJECT}", {"name": name, **fields})
        return name

    def put(self, bucket: str, key: str, content: bytes, **parameters: str | int) -> None:
        """Store an object by one plain request, whose query may say more."""
        query = urlencode({"uploadType": "media", "name": key, **parameters})
        url = f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?{query}"
        ask(url, content, headers={"Content-Type": "application/octet-stream"})

    def get(self, bucket: str, key: str) -> bytes:
        """Read an object by one plain request."""
        content: bytes = ask(
            f"{self.endpoint}/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media"
        )
        return content

    def keys(self, bucket: str) -> list[str]:
        """List a bucket of no more than a thousand objects."""
        items = ask(f"{self.endpoint}/storage/v1/b/{bucket}/o").get("items", [])
        return [item["name"] for item in items]


@contextmanager
def fake_gcs(directory: Path, *, host: str = HOST) -> Iterator[GcsServer]:
    """Serve the JSON API from below `directory`."""
    root = directory / "buckets"
    root.mkdir(parents=True, exist_ok=True)
    with running(
        lambda port: [
            *(binary("fake-gcs-server"), "-scheme", "http", "-host", host, "-port", str(port)),
            *("-public-host", f"{host}:{port}", "-external-url", f"http://{host}:{port}"),
            *("-backend", "filesystem", "-filesystem-root", root, "-log-level", "warn"),
        ],
        health="/_internal/healthcheck",
        host=host,
    ) as process:
        yield GcsServer(endpoint=f"http://{host}:{process.port}", root=root, pid=process.pid)
