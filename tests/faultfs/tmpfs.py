"""A small tmpfs, for a sink that is really full."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CAP_SYS_ADMIN = 1 << 21


def available() -> str | None:
    """Return why no tmpfs can be mounted here, or None."""
    status = Path("/proc/self/status")
    if not status.exists() or not shutil.which("mount"):
        return "no Linux, or no mount command"
    held = next(line for line in status.read_text().splitlines() if line.startswith("CapEff:"))
    if not int(held.split()[1], 16) & _CAP_SYS_ADMIN:
        return "mounting needs root (CAP_SYS_ADMIN)"
    return None


@contextmanager
def small_tmpfs(path: Path, size: str = "8m") -> Iterator[Path]:
    """Mount a tmpfs of this size (as mount(8) writes it) at `path`, made if missing."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
