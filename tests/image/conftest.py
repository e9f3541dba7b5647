"""These tests are of a file that `make image` makes: only `make test-image` runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.image.container import Container, Image

ARCHIVE = os.environ.get("JOURNAL_BACKUP_IMAGE")

collect_ignore_glob = [] if ARCHIVE else ["test_*.py"]


@pytest.fixture(scope="session")
def image() -> Image:
    """Give the image under test."""
    assert ARCHIVE is not None
    return Image.read(Path(ARCHIVE))


@pytest.fixture(scope="session")
def container(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """Give its files, unpacked, to look at and to run."""
    return image.unpack(tmp_path_factory.mktemp("image") / "root")
