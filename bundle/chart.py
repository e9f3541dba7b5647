"""The chart's package, as `helm package` makes it but for the clock."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from bundle import tars

NAME = "deepgram-journal-backup"
# 2020, as in the Dockerfile. Not the commit's: the package in examples/umbrella is part of one.
_TIME = 1_577_836_800


def package(chart: Path, directory: Path, version: str) -> Path:
    """Write the package into a directory; give its path."""
    path = directory / f"{NAME}-{version}.tgz"
    contents = {f"{NAME}/{name}": file for name, file in _files(chart).items()}
    tars.write(path, contents, mtime=tars.epoch(_TIME))
    return path


def _files(chart: Path) -> dict[str, Path]:
    lines = (chart / ".helmignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    found = {str(path.relative_to(chart)): path for path in chart.rglob("*") if path.is_file()}
    return {name: path for name, path in found.items() if not _is_ignored(name, ignored)}


def _is_ignored(name: str, patterns: list[str]) -> bool:
    """Say whether a file, or a directory above it, is not for the package."""
    *directories, file = name.split("/")
    return any(
        fnmatch(part, pattern.rstrip("/"))
        for pattern in patterns
        for part in (directories if pattern.endswith("/") else [*directories, file])
    )
