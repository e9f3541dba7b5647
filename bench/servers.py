"""Object stores on this machine: the servers of the tests, with their directories on the stage.

They are not measured, but they work on the same cores.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Container, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bench.bucket import Bucket
from bench.stage import ROOT
from tests import gcs_store, servers

_PINS = ROOT / "tests" / "servers"
_NAMES: tuple[servers.Name, ...] = ("versitygw", "fake-gcs-server", "toxiproxy")
DELAY_MS = 25
"""What a slow link adds in each direction."""


def available() -> dict[str, str]:
    """Build the servers, each once; give the versions of those that run here, by their names."""
    subprocess.run([_PINS / "build.sh", *_NAMES], check=True)
    reasons = {name: servers.unavailable(name) for name in _NAMES}
    for reason in filter(None, reasons.values()):
        print(f"left out what needs it: {reason}")
    return {name: _version(_PINS / name / "go.mod") for name in _NAMES if not reasons[name]}


def _version(pins: Path) -> str:
    """Find the version that is pinned of the module in which the tool is."""
    text = pins.read_text()
    tool = re.search(r"^tool (\S+)$", text, re.MULTILINE)
    required = re.findall(r"^(?:require)?\s+(\S+) v([0-9.]+)", text, re.MULTILINE)
    return next((v for module, v in required if tool and tool[1].startswith(module)), "?")


@contextmanager
def buckets(directory: Path, names: Container[str]) -> Iterator[dict[str, Bucket]]:
    """Start the object stores of these names; each has a bucket, called ``s3`` or ``gcs``."""
    made: dict[str, Bucket] = {}
    with ExitStack() as stack:
        if "versitygw" in names:
            s3 = stack.enter_context(servers.versitygw(directory / "versitygw"))
            made["s3"] = Bucket(
                scheme="s3",
                endpoint=s3.endpoint,
                environment=s3.environment,
                root=s3.root or directory,
                make=s3.fresh_bucket,
            )
        if "fake-gcs-server" in names:
            made["gcs"] = _emulated_gcs(directory / "fake-gcs-server", stack)
        yield made


def _emulated_gcs(directory: Path, stack: ExitStack) -> Bucket:
    """Give a GCS that is started anew with each bucket.

    After an upload of 1 GiB the emulator has as much on its heap, and tidies that with a whole core
    for as long as whoever comes next is measured.
    """
    running = stack.enter_context(ExitStack())

    def make() -> str:
        running.close()
        server = running.enter_context(servers.fake_gcs(directory))
        bucket.endpoint = server.endpoint
        bucket.environment = {"STORAGE_EMULATOR_HOST": server.endpoint}
        return server.fresh_bucket()

    bucket = Bucket(scheme="gs", endpoint="", environment={}, root=directory / "buckets", make=make)
    return bucket


@contextmanager
def holding_gcs(directory: Path) -> Iterator[Bucket]:
    """Start a GCS that holds objects in this process, and bears large ones."""
    with gcs_store.serving(gcs_store.Store()) as store:

        def make() -> str:
            store.objects.clear()
            (directory / gcs_store.BUCKET).mkdir(parents=True)
            return gcs_store.BUCKET

        bucket = Bucket(
            scheme="gs",
            endpoint=store.endpoint,
            environment={"STORAGE_EMULATOR_HOST": store.endpoint},
            root=directory,
            make=make,
        )
        yield bucket
        bucket.remove()


@contextmanager
def far_away(bucket: Bucket) -> Iterator[Bucket]:
    """Put a slow link before an S3 server, over which an answer takes twice the delay."""
    with servers.toxiproxy() as network, network.proxy(bucket.endpoint.partition("//")[2]) as proxy:
        proxy.toxic("latency", stream="upstream", latency=DELAY_MS)
        proxy.toxic("latency", stream="downstream", latency=DELAY_MS)
        endpoint = f"http://{proxy.address}"
        there = {"AWS_ENDPOINT_URL_S3": endpoint}
        other = replace(
            bucket, name="", endpoint=endpoint, environment={**bucket.environment, **there}
        )
        yield other
        other.remove()
