"""The cgroups below which a kubelet puts its pods: made, and removed with all that it left there.

Of the first version of cgroups there are many hierarchies, beside each other below
`/sys/fs/cgroup`, of the second one; a machine can have both. In each the same path is made. Only
empty ones are removed, and nothing is ended to empty them.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.cluster.controlplane import until

_ROOT = Path("/sys/fs/cgroup")


def create(path: str) -> None:
    """Make a cgroup in every hierarchy, ready to hold others."""
    for hierarchy in _hierarchies():
        above = hierarchy
        for part in Path(path).parts:
            _pass_on(above)
            below = above / part
            below.mkdir(exist_ok=True)
            _fill(above, below)
            above = below
        _pass_on(above)


def remove(path: str) -> None:
    """Remove a cgroup from every hierarchy, with those below, as soon as their processes are gone.

    Raises:
        TimeoutError: there are processes in it that do not end.
    """
    for hierarchy in _hierarchies():
        until(lambda top=hierarchy / path: _removed(top), f"{path} is empty")  # type: ignore[misc]


def left(path: str) -> list[Path]:
    """Give those of this path that are there."""
    return [hierarchy / path for hierarchy in _hierarchies() if (hierarchy / path).exists()]


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.procs").exists():
        return [_ROOT]
    # links are other names of some (cpu,cpuacct)
    found = [d for d in _ROOT.iterdir() if not d.is_symlink() and (d / "cgroup.procs").exists()]
    return sorted(found)


def _fill(above: Path, below: Path) -> None:
    """Give it the processors and the memory that it would have none of, in the first version."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (above / name).exists() and (above / "cpuset.cpu_exclusive").exists():
            (below / name).write_text((above / name).read_text())


def _pass_on(above: Path) -> None:
    """Have those below controlled by what controls this one, in the second version."""
    controllers = above / "cgroup.controllers"
    if controllers.exists():
        for name in controllers.read_text().split():
            with suppress(OSError):  # one that the machine keeps for itself
                (above / "cgroup.subtree_control").write_text(f"+{name}")


def _removed(top: Path) -> bool:
    if not top.exists():
        return True
    for directory in [*(d for d in sorted(top.rglob("*"), reverse=True) if d.is_dir()), top]:
        with suppress(FileNotFoundError, OSError):
            directory.rmdir()
    return not top.exists()
