"""Finds restic, and builds a newer one where Go is at hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NEWER = "0.18.0"
_MODULE = "github.com/restic/restic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restic:
    """One restic program."""

    path: Path
    version: str
    """As it says itself, such as ``0.14.0``."""


def find(path: str = "restic") -> Restic | None:
    """Find a restic by name or path; None if there is none."""
    found = shutil.which(path)
    if found is None:
        return None
    said = subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"restic ([0-9.]+)", said)
    return Restic(path=Path(found), version=match[1] if match else "?")


def build() -> Restic | None:
    """Build the newer restic from its Go module, once; None where that cannot be done."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    target = cache / "deepgram-journal-backup" / f"restic-{NEWER}"
    if not target.exists() and shutil.which("go") is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _build(target)
        except subprocess.CalledProcessError as error:
            print(f"restic {NEWER} cannot be built: {error.stderr or error}")
    return find(str(target))


def _build(target: Path) -> None:
    # `go install module@version` asks for the list of versions too, which a proxy may not have.
    download = ["go", "mod", "download", "-json", f"{_MODULE}@v{NEWER}"]
    said = subprocess.run(
        download, cwd=target.parent, capture_output=True, text=True, check=True
    ).stdout
    print(f"building restic {NEWER}, once …")
    subprocess.run(
        ["go", "build", "-o", str(target), "./cmd/restic"],
        cwd=json.loads(said)["Dir"],
        capture_output=True,
        text=True,
        check=True,
    )
