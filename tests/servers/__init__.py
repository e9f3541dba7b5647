"""Real servers for tests of sinks: object stores, and a network that fails between.

Each is a context manager, which starts the server on a port of its own and ends it:

    with servers.versitygw(tmp_path) as server:
        bucket = server.fresh_bucket(ObjectLockEnabledForBucket=True)
        server.client().put_object(Bucket=bucket, Key="k", Body=b"v")       # the door beside

`unavailable` tells why one cannot run here; those of Go are built by `build.sh`, once. What each
enforces, `test_servers.py` says: a store that accepts everything proves nothing about a sink.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import get_args

from tests.servers.certificates import Certificate, Certificates, certificates
from tests.servers.gcs import GcsServer, fake_gcs
from tests.servers.network import Proxy, Toxic, Toxiproxy, toxiproxy
from tests.servers.process import Built, Name, RefusedError, unavailable
from tests.servers.s3 import S3Server, minio, moto, versitygw

__all__ = [
    "NAMES",
    "Certificate",
    "Certificates",
    "GcsServer",
    "Name",
    "Proxy",
    "RefusedError",
    "S3Server",
    "Server",
    "Toxic",
    "Toxiproxy",
    "certificates",
    "fake_gcs",
    "minio",
    "moto",
    "serving",
    "toxiproxy",
    "unavailable",
    "versitygw",
]

Server = S3Server | GcsServer | Toxiproxy

NAMES: tuple[Name, ...] = (*get_args(Built), "moto")


def serving(name: Name, directory: Path) -> AbstractContextManager[Server]:
    """Start a server by its name; what it keeps on disk is in `directory`."""
    match name:
        case "versitygw":
            return versitygw(directory)
        case "minio":
            return minio(directory)
        case "fake-gcs-server":
            return fake_gcs(directory)
        case "toxiproxy":
            return toxiproxy()
        case "moto":
            return moto()
