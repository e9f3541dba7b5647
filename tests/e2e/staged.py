"""Runs the tool in a pod as a test wants it: `staged.py VERB …`, in place of the tool.

What a pod is to do first stands in a file of the stage, a volume that all pods of the tool have,
by the verb and, for a worker, its first journal: nothing, `hold`, or one of :data:`_ACTS`. Tests
write it by `tests.e2e.stage`. Who is held hears no signal (a first process hears none that it does
not ask for), so it is as one that hangs in a system call. Then the tool runs, in this process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_STAGE = Path("/stage")
_SCRATCH = Path("/scratch")
_MIB = bytes(1 << 20)


def main() -> int:
    """Do what the stage says, then what the arguments do."""
    part = _part(sys.argv[1:])
    with (_STAGE / f"{part}.came").open("a") as came:
        came.write(f"{os.environ['POD_NAME']}\n")
    while (act := _act(part)) == "hold":
        time.sleep(0.05)
    _ACTS.get(act, _nothing)()
    return _run()


def _part(arguments: list[str]) -> str:
    """Name the part that this pod has."""
    journals = (a.partition("=")[2] for a in arguments if a.startswith("--journal="))
    return "-".join([arguments[0], *(j.partition(",")[0] for j in journals)])


def _act(part: str) -> str:
    try:
        return (_STAGE / part).read_text()
    except FileNotFoundError:
        return ""


def _nothing() -> None:
    pass


def _take_memory() -> None:
    taken = []
    while True:
        taken.append(bytearray(_MIB * 16))


def _fill_the_disk() -> None:
    """Write more than the pod may, and wait for what comes of it."""
    with (_SCRATCH / "big").open("wb") as file:
        for _ in range(64):
            file.write(_MIB)
    time.sleep(600)


def _say_nothing() -> None:
    sys.exit(1)


_ACTS: Mapping[str, Callable[[], None]] = {
    "take memory": _take_memory,
    "fill the disk": _fill_the_disk,
    "say nothing": _say_nothing,
}


def _run() -> int:
    from backup import cli  # noqa: PLC0415 - this module is read where there is no such package
    from backup.cluster import colocated, crew, drafts  # noqa: PLC0415 - the same

    if patience := os.environ.pop("WAIT_SECONDS", ""):
        for module in (colocated, crew, drafts):
            setattr(module, "WAIT_SECONDS", float(patience))  # noqa: B010 - it is Final
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
