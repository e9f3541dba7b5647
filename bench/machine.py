"""What the figures were measured on, without anything that names the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from bench.sizes import show_size


def describe(directory: Path) -> dict[str, str]:
    """Name the hardware and the programs.

    Args:
        directory: where the runs happen; its file system is named.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": show_size(memory),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file system": _file_system(directory),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "isal": version("isal"),
        "GNU tar": _last_word("tar", "--version"),
        "gzip": _last_word("gzip", "--version"),
    }


def _processor() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def _file_system(directory: Path) -> str:
    argv = ["df", "--output=fstype", str(directory)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return said.splitlines()[1]


def _last_word(*argv: str) -> str:
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].split()[-1]
