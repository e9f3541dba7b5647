"""Three servers that speak S3, each with an accent of its own, and the door beside the sink."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.servers.process import HOST, binary, running

REGION = "us-east-1"

_ACCESS_KEY = "test-access-key"
_SECRET_KEY = "test-secret-key"  # noqa: S105 - of servers that live as long as a test

_one_at_a_time = threading.Lock()  # a session of boto3 is for one thread, its clients for all


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A server, and who one is to it."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    root: Path | None = None
    """Where its buckets are directories, if it keeps them so."""
    pid: int

    @property
    def address(self) -> str:
        """Its host and port, as a proxy wants them."""
        return self.endpoint.partition("://")[2]

    @property
    def environment(self) -> dict[str, str]:
        """What names it, and who one is to it, to any program that uses an SDK of AWS."""
        variables = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_SESSION_TOKEN": self.session_token,
            "AWS_REGION": REGION,
        }
        return {name: value for name, value in variables.items() if value is not None}

    def client(self, service: str = "s3", *, ca: Path | None = None, **config: Any) -> Any:
        """Return a client of boto3 which tries once; over TLS it trusts `ca` alone."""
        settings = {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}}
        with _one_at_a_time:
            return _session().client(
                service,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                aws_session_token=self.session_token,
                region_name=REGION,
                endpoint_url=self.endpoint,
                verify=str(ca) if ca else None,
                config=import_module("botocore.config").Config(
                    **{"proxies": {}} | settings | config
                ),
            )

    def fresh_bucket(
        self,
        prefix: str = "test",
        *,
        versioning: bool = False,
        ca: Path | None = None,
        **create: Any,
    ) -> str:
        """Make a bucket of an unused name; `create` goes to CreateBucket."""
        bucket = f"{prefix}-{uuid.uuid4().hex[:12]}"
        client = self.client(ca=ca, retries={"total_max_attempts": 5})  # a MinIO may yet wake up
        client.create_bucket(Bucket=bucket, **create)
        if versioning:
            client.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )
        return bucket

    def limited(self, actions: Iterable[str], bucket: str, *, ca: Path | None = None) -> S3Server:
        """Return a user who is allowed just these actions on a bucket and its objects.

        Only a MinIO holds to it: the user is a session of STS, with the actions as its policy. One
        thing AWS does otherwise: there, who may not list is told 403 of an object that is missing.
        """
        resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        statement = {"Effect": "Allow", "Action": [*actions], "Resource": resources}
        credentials = self.client("sts", ca=ca).assume_role(
            RoleArn="arn:aws:iam::000000000000:role/test",  # has to be one, any will do
            RoleSessionName="test",
            Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
        )["Credentials"]
        return replace(
            self,
            access_key=credentials["AccessKeyId"],
            secret_key=credentials["SecretAccessKey"],
            session_token=credentials["SessionToken"],
        )


@contextmanager
def versitygw(
    directory: Path, *, tls: tuple[Path, Path] | None = None, host: str = HOST
) -> Iterator[S3Server]:
    """Serve S3 from below `directory`, as files; with `tls`, by this certificate and its key."""
    root, users, versions = (directory / name for name in ("buckets", "users", "versions"))
    for path in (root, users, versions):
        path.mkdir(parents=True, exist_ok=True)
    health = "/-health"  # can be no bucket
    options: list[str | Path] = ["--cert", tls[0], "--key", tls[1]] if tls else []
    with running(
        lambda port: [
            binary("versitygw"),
            *("--port", f"{host}:{port}", "--access", _ACCESS_KEY, "--secret", _SECRET_KEY),
            *("--region", REGION, "--health", health, "--iam-dir", users, "--quiet", *options),
            *("posix", "--versioning-dir", versions, root),
        ],
        health=health,
        tls=tls is not None,
        host=host,
    ) as process:
        yield _server(process.port, process.pid, tls=tls is not None, root=root, host=host)


@contextmanager
def minio(directory: Path, *, tls: tuple[Path, Path] | None = None) -> Iterator[S3Server]:
    """Serve S3 from below `directory`; with `tls`, by this certificate and its key."""
    data, certificates = directory / "data", directory / "certificates"
    for path in (data, certificates):
        path.mkdir(parents=True, exist_ok=True)
    for source, name in zip(tls or (), ("public.crt", "private.key"), strict=False):
        shutil.copyfile(source, certificates / name)
    with running(
        lambda port: [
            *(binary("minio"), "server", "--quiet", "--address", f"{HOST}:{port}"),
            *("--certs-dir", certificates, data),
        ],
        health="/minio/health/cluster",
        tls=tls is not None,
        environment={
            "MINIO_ROOT_USER": _ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": _SECRET_KEY,
            "MINIO_REGION": REGION,
            "MINIO_BROWSER": "off",  # which would listen at a port of its own
            "MINIO_UPDATE": "off",
        },
    ) as process:
        # not as files: an object is a directory there
        yield _server(process.port, process.pid, tls=tls is not None)


@contextmanager
def moto() -> Iterator[S3Server]:
    """Serve S3, STS and the rest of AWS from memory, to anyone: no policy is enforced."""
    with running(
        lambda port: [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        health="/moto-api/",
    ) as process:
        yield _server(process.port, process.pid)


@functools.cache
def _session() -> Any:
    """Return what has read the descriptions of AWS's services, which takes long."""
    return import_module("boto3").session.Session()


def _server(
    port: int, pid: int, *, tls: bool = False, root: Path | None = None, host: str = HOST
) -> S3Server:
    return S3Server(
        endpoint=f"{'https' if tls else 'http'}://{host}:{port}",
        access_key=_ACCESS_KEY,
        secret_key=_SECRET_KEY,
        root=root,
        pid=pid,
    )
