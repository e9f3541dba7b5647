"""A bundle, made by the command and unpacked by tar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import backup

PROJECT = Path(__file__).parents[2]
NAME = f"deepgram-journal-backup-{backup.__version__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A bundle, and what is in it."""

    file: Path
    directory: Path

    @property
    def sbom(self) -> Any:
        """Read the SBOM."""
        return json.loads((self.directory / f"{NAME}.cdx.json").read_text())

    def components(self, kind: str) -> dict[str, Any]:
        """Give the components with a package URL of a kind, by their name."""
        found = self.sbom["components"]
        return {c["name"]: c for c in found if c.get("purl", "").startswith(f"pkg:{kind}/")}


def run(
    *words: str, archive: Path, directory: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run what makes bundles."""
    return subprocess.run(
        [sys.executable, "-m", "bundle", *words],
        cwd=PROJECT,
        env=os.environ | {"ARCHIVE": str(archive), "DIST": str(directory)} | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def make(archive: Path, directory: Path) -> Made:
    """Make one below a directory."""
    done = run(archive=archive, directory=directory)
    assert done.returncode == 0, done.stderr
    file = Path(done.stdout.strip())
    subprocess.run(["tar", "-xf", file, "-C", directory], check=True)
    return Made(file=file, directory=directory / NAME)
