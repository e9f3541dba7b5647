"""The places that the suite runs over, one after the other."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from backup.sinks import Sink
from tests.conftest import Start
from tests.contract.backends import BACKENDS, Backend, Place


@pytest.fixture(scope="session")
def started(
    tmp_path_factory: pytest.TempPathFactory, start: Start
) -> Iterator[Callable[[Backend], Place]]:
    """Start each backend when it is first asked for a place."""
    makers: dict[Backend, Callable[[str], Place]] = {}
    with ExitStack() as stack:

        def place(backend: Backend) -> Place:
            if backend not in makers:
                base = tmp_path_factory.mktemp(backend.name)
                makers[backend] = stack.enter_context(backend.start(base, start))
            return makers[backend](f"test-{uuid.uuid4().hex[:12]}")

        yield place


@pytest.fixture(params=BACKENDS, ids=str)
def place(request: pytest.FixtureRequest, started: Callable[[Backend], Place]) -> Place:
    """Make a place of each kind."""
    backend: Backend = request.param
    if reason := backend.unavailable():
        pytest.skip(f"no {backend}: {reason}")
    return started(backend)


@pytest.fixture
def sink(place: Place) -> Sink:
    """Open a sink there."""
    return place.sink()
