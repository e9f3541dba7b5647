"""Which files does a process write? Asked of the kernel, while the process runs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.measure import Command, CommandError

_INTERVAL_SECONDS = 0.005


def watch(command: Command, *, sink: Path) -> list[str]:
    """Run a command to its end; name the files that it should not have had open for writing.

    These are all that are not on the sink, those that have no name, and on the sink every one
    beyond the first that was open at the same time.

    Args:
        command: what to run; a single process.
        sink: where it may write.

    Raises:
        CommandError: it failed.
    """
    found: set[str] = set()
    with subprocess.Popen(
        command.argv,
        env=dict(command.env),
        cwd=command.cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            found |= _unexpected(set(_written(process.pid)), sink)
            time.sleep(_INTERVAL_SECONDS)
    if process.returncode:
        message = f"{' '.join(command.argv)}: exit code {process.returncode}"
        raise CommandError(message)
    return sorted(found)


def _unexpected(written: set[str], sink: Path) -> set[str]:
    ours = {name for name in written if Path(name).is_relative_to(sink)}
    surplus = {name for name in ours if name.endswith(" (deleted)")}
    return (written - ours) | surplus | (ours if len(ours) > 1 else set())


def _written(pid: int) -> Iterator[str]:
    """Name the regular files that a process has open for writing."""
    descriptors = Path(f"/proc/{pid}/fd")
    with suppress(OSError):  # it has just ended, or closed that file
        for link in descriptors.iterdir():
            with suppress(OSError):
                info = (descriptors.parent / "fdinfo" / link.name).read_text()
                if _is_writing(info) and link.is_file():
                    yield str(link.readlink())


def _is_writing(info: str) -> bool:
    flags = next(line.split()[1] for line in info.splitlines() if line.startswith("flags:"))
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
