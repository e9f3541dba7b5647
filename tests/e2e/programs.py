"""The programs of a node, found: Debian's, those of Kubernetes, and those of the CSI driver.

`setup.sh` installs and builds them. What `build.sh` built stands in the user's cache under a name
that holds the hash of what it was built from: pins, and sources where they are our own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Literal

from tests.cluster import programs

ServerProgram = Literal["csi-attacher", "driver", "pause"]

CNI = next((d for d in ("/usr/lib/cni", "/opt/cni/bin") if Path(d, "bridge").exists()), "")
"""Where the plugins are that give pods a network; empty where they are not installed."""

PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
"""Where tools of the administrator are found, also if the tests' own PATH lacks them."""

_SERVERS = Path(__file__).parents[1] / "servers"
_TOOLS = ("containerd", "runc", "ctr", "conntrack", "iptables", "ip", "nsenter", "unshare")
_MODULES: dict[ServerProgram, str] = {
    "csi-attacher": "external-attacher",
    "driver": "csi-driver",
    "pause": "csi-driver",
}


def server_program(name: ServerProgram) -> Path:
    """Return where `build.sh` puts a program; it may not have done so."""
    module = _SERVERS / _MODULES[name]
    sources = sorted(map(str, module.rglob("*.go")))
    parts = [module / "go.mod", module / "go.sum", *map(Path, sources)]
    version = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "deepgram-journal-backup" / "servers" / f"{module.name}-{version}" / name


def unavailable() -> str | None:
    """Return why no nodes can run here, or None."""
    if os.geteuid() != 0:
        return "needs root, to make nodes of namespaces"
    lacking = [name for name in _TOOLS if not shutil.which(name, path=PATH)]
    if not CNI:
        lacking.append("containernetworking-plugins")
    needed = {name: server_program(name) for name in _MODULES}
    kubernetes = {name: programs.program(name) for name in ("kubelet", "kube-proxy")}
    lacking += [n for n, path in (needed | kubernetes).items() if not os.access(path, os.X_OK)]
    if lacking:
        return f"not there: {', '.join(lacking)} (tests/e2e/setup.sh installs and builds it)"
    return programs.unavailable()
