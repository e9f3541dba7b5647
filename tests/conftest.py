"""What holds for every test.

A test that cannot run here skips and names its reason. Where CI=true a skip is a failure: a
missing server must not pass for a green run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from tests import servers

pytest_plugins = ("tests.figures",)

# The same examples in every run: a failure is never luck, and slow machines get the time they need.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=60
)
hypothesis.settings.load_profile("repeatable")

IN_CI = os.environ.get("CI") == "true"


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure; an expected failure is not a skip."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        where = report.longrepr
        reason = where[2] if isinstance(where, tuple) else str(where)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} is skipped, and CI=true allows no skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Look at each phase of each test."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Look at modules that skip as a whole."""
    report = yield
    _refuse_skip(report)
    return report


# -- servers, each started when a test first asks for it, once for each worker

Start = Callable[[servers.Name], servers.Server]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Give what starts a server, or returns the one that runs."""
    running: dict[servers.Name, servers.Server] = {}
    with ExitStack() as stack:

        def start(name: servers.Name) -> servers.Server:
            if reason := servers.unavailable(name):
                pytest.skip(reason)
            if name not in running:
                directory = tmp_path_factory.mktemp(name)
                running[name] = stack.enter_context(servers.serving(name, directory))
            return running[name]

        yield start


@pytest.fixture(scope="session", params=["minio", "moto", "versitygw"])
def s3(request: pytest.FixtureRequest, start: Start) -> servers.S3Server:
    """Serve S3 in each accent."""
    server = start(request.param)
    assert isinstance(server, servers.S3Server)
    return server


@pytest.fixture(scope="session")
def minio(start: Start) -> servers.S3Server:
    """Serve S3 with users whose policies hold."""
    server = start("minio")
    assert isinstance(server, servers.S3Server)
    return server


@pytest.fixture(scope="session")
def moto(start: Start) -> servers.S3Server:
    """Serve S3 and STS to anyone; it remembers encryption and storage class."""
    server = start("moto")
    assert isinstance(server, servers.S3Server)
    return server


@pytest.fixture(scope="session")
def versitygw(start: Start) -> servers.S3Server:
    """Serve S3 from files."""
    server = start("versitygw")
    assert isinstance(server, servers.S3Server)
    return server


@pytest.fixture(scope="session")
def gcs(start: Start) -> servers.GcsServer:
    """Serve the JSON API of Google Cloud Storage."""
    server = start("fake-gcs-server")
    assert isinstance(server, servers.GcsServer)
    return server


@pytest.fixture(scope="session")
def network(start: Start) -> servers.Toxiproxy:
    """Put a network between."""
    server = start("toxiproxy")
    assert isinstance(server, servers.Toxiproxy)
    return server
