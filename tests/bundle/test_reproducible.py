"""The image, built once more: with `REPRODUCIBLE=1` only, as it takes as long as the first time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from datetime import datetime
from pathlib import Path

import pytest

from tests.bundle.made import PROJECT
from tests.image.container import Image

Entry = tuple[bytes, int, int, int, float, str, str]


def entries(image: Image) -> dict[str, Entry]:
    """Give all that a layer says of each of its files, of the layers above the base."""
    found: dict[str, Entry] = {}
    with tarfile.open(image.archive) as outer:
        for name in image.own_layers():
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                for each in layer:
                    stream = layer.extractfile(each) if each.isreg() else None
                    digest = hashlib.sha256(stream.read()).hexdigest() if stream else ""
                    said = (each.type, each.mode, each.uid, each.gid, each.mtime, each.linkname)
                    found[each.name] = (*said, digest)
    return found


@pytest.mark.timeout(600)
def test_the_same_files_are_in_it_again(image: Image, tmp_path: Path) -> None:
    """With the same bytes, modes, owners and times; bytecode too. The base is the same file."""
    created = datetime.fromisoformat(image.document["created"]).timestamp()
    archive = tmp_path / "again.tar"
    done = subprocess.run(
        [PROJECT / "image" / "build.sh"],
        env=os.environ
        | {
            "ARCHIVE": str(archive),
            "IMAGE": "localhost/deepgram-journal-backup:again",
            "SOURCE_DATE_EPOCH": str(int(created)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    once, again = entries(image), entries(Image.read(archive))

    assert len(once) > 1000
    assert once.keys() ^ again.keys() == set()
    assert {name: (was, again[name]) for name, was in once.items() if was != again[name]} == {}
