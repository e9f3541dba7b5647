"""These tests want Helm, built once in minutes: only `make test-chart` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.asked_for import ignore_unless_asked
from tests.chart import programs

HERE = Path(__file__).parent


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Leave this directory out unless an argument of pytest is in it."""
    return ignore_unless_asked(config, HERE)


@pytest.fixture(autouse=True, scope="session")
def _helm() -> None:
    """Skip everything where there is no Helm."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)
