"""The image, built once more: with `REPRODUCIBLE=1` only, as it takes as long as the first time."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Iterable
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


def gather(directory: Path, of: Iterable[str]) -> Path:
    """Fetch the wheels for the Python in an image, as who has a network does for who has none."""
    places = (re.search(r"journal-backup/lib/python([.0-9]+)/", name) for name in of)
    (version,) = {place[1] for place in places if place}
    script = PROJECT / "image" / "wheelhouse.sh"
    subprocess.run([script, directory, version, platform.machine()], check=True)
    return directory


@pytest.mark.timeout(600)
def test_the_same_files_are_in_it_again(image: Image, tmp_path: Path) -> None:
    """With the same bytes, modes, owners and times, bytecode too; out of a folder of wheels.

    Where those are to come from then has none, so nothing can have been fetched. The base is the
    same file.
    """
    created = datetime.fromisoformat(image.document["created"]).timestamp()
    once = entries(image)
    archive, nowhere = tmp_path / "again.tar", tmp_path / "pip.conf"
    nowhere.write_text(f"[global]\nindex-url = file://{tmp_path}/no-index\nno-index = true\n")
    done = subprocess.run(
        [PROJECT / "image" / "build.sh"],
        env=os.environ
        | {
            "ARCHIVE": str(archive),
            "IMAGE": "localhost/deepgram-journal-backup:again",
            "PIP_CONF": str(nowhere),
            "SOURCE_DATE_EPOCH": str(int(created)),
            "WHEELHOUSE": str(gather(tmp_path / "wheels", once)),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    again = entries(Image.read(archive))

    assert len(once) > 1000
    assert once.keys() ^ again.keys() == set()
    assert {name: (was, again[name]) for name, was in once.items() if was != again[name]} == {}
