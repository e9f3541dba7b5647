"""Directories of tests that are run only when they are asked for by name."""

from __future__ import annotations

from pathlib import Path

import pytest


def ignore_unless_asked(config: pytest.Config, directory: Path) -> bool | None:
    """Ignore a directory, for ``pytest_ignore_collect``, unless an argument of pytest is in it."""
    names = (argument.partition("::")[0] for argument in config.args)
    asked = any((config.invocation_params.dir / name).is_relative_to(directory) for name in names)
    return None if asked else True
