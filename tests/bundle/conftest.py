"""These tests are of a file that `make image` makes: only `make test-bundle` runs them.

With `REPRODUCIBLE=1` the image is built once more, as `make image` would, and compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bundle.made import Made, make
from tests.image.container import Container, Image

ARCHIVE = os.environ.get("JOURNAL_BACKUP_IMAGE")

collect_ignore_glob = [] if ARCHIVE else ["test_*.py"]
if not os.environ.get("REPRODUCIBLE"):
    collect_ignore_glob.append("test_reproducible.py")


@pytest.fixture(scope="session")
def archive() -> Path:
    """Give the image under test, as a file."""
    assert ARCHIVE is not None
    return Path(ARCHIVE).absolute()


@pytest.fixture(scope="session")
def image(archive: Path) -> Image:
    """Give it taken apart: by other code than that of the bundle."""
    return Image.read(archive)


@pytest.fixture(scope="session")
def container(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """Give its files, unpacked, to be asked what they are."""
    return image.unpack(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture(scope="session")
def made(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Give the bundle, as `make bundle` makes it, and as a site unpacks it."""
    return make(archive, tmp_path_factory.mktemp("bundle"))
