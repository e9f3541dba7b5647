"""Tar files that are the same for the same content."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path


def epoch(otherwise: float) -> int:
    """Give the time for all files, in seconds: that of the environment, if it has one."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or otherwise)


def write(path: Path, contents: Mapping[str, Path | bytes], *, mtime: int) -> None:
    """Write a tar of files, by their names in it; until it is whole it is not there.

    Args:
        path: the file; with gzip if it is called .tgz.
        contents: what is in each file, or another file that has it.
        mtime: the time of each file, in seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        if path.suffix == ".tgz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=mtime) as packed:
                _write(packed, contents, mtime)
        else:
            _write(file, contents, mtime)
    partial.replace(path)


def compress(source: Path, target: Path, *, mtime: int) -> None:
    """Write a file with gzip."""
    with (
        source.open("rb") as file,
        target.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=mtime) as packed,
    ):
        shutil.copyfileobj(file, packed, 1 << 20)


def _write(
    file: io.BufferedIOBase | gzip.GzipFile, contents: Mapping[str, Path | bytes], mtime: int
) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.mtime, member.mode = mtime, 0o644
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.size = content.stat().st_size
                with content.open("rb") as source:
                    tar.addfile(member, source)
