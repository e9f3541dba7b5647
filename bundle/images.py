"""An image in a docker-archive: what it says of itself, and what of its files is wanted."""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a file."""

    archive: Path
    names: tuple[str, ...]
    """`localhost/deepgram-journal-backup:0.1.0`: what it is called once it is imported."""
    architecture: str
    created: datetime
    environment: dict[str, str]
    diff_ids: tuple[str, ...]
    """`sha256:…` of each layer, the lowest first: what every tool shows of an image."""
    layers: tuple[str, ...]
    """Their files in the archive."""


def read(archive: Path) -> Image:
    """Read what an image says of itself.

    Raises:
        ValueError: it is not one image in a docker-archive.
    """
    try:
        with tarfile.open(archive) as outer:
            (entry,) = json.loads(_content(outer, "manifest.json"))
            document: dict[str, Any] = json.loads(_content(outer, entry["Config"]))
    except (KeyError, tarfile.ReadError, ValueError) as error:
        message = f"{archive} is not one image in a docker-archive"
        raise ValueError(message) from error
    return Image(
        archive=archive,
        names=tuple(entry["RepoTags"]),
        architecture=document["architecture"],
        created=datetime.fromisoformat(document["created"]).astimezone(UTC),
        environment=dict(each.split("=", 1) for each in document["config"]["Env"]),
        diff_ids=tuple(document["rootfs"]["diff_ids"]),
        layers=tuple(entry["Layers"]),
    )


def files(image: Image, wanted: re.Pattern[str]) -> dict[str, bytes]:
    """Give those files whose whole name matches, as a container would see them.

    Names have no slash in front. What a layer hides of those below it is left out.
    """
    found: dict[str, bytes] = {}
    with tarfile.open(image.archive) as outer:
        for layer in image.layers:
            hidden, added = _layer(outer, layer, wanted)
            found = {n: c for n, c in found.items() if not hidden & {n, *_above(n)}} | added
    return found


def _layer(
    outer: tarfile.TarFile, name: str, wanted: re.Pattern[str]
) -> tuple[set[str], dict[str, bytes]]:
    """Give what a layer hides (files, and directories with all that is in them) and adds."""
    hidden, added = set[str](), dict[str, bytes]()
    with tarfile.open(fileobj=outer.extractfile(name)) as layer:
        for member in layer:
            path = PurePosixPath(member.name)
            if path.name == _OPAQUE:
                hidden.add(str(path.parent))
            elif path.name.startswith(_WHITEOUT):
                hidden.add(str(path.with_name(path.name.removeprefix(_WHITEOUT))))
            elif member.isfile() and wanted.fullmatch(str(path)):
                added[str(path)] = _content(layer, member)
    return hidden, added


def _above(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents]


def _content(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None:
        message = f"{member} is not a file"
        raise ValueError(message)
    return stream.read()
