"""The programs of a control plane, found: those that somebody brought, or those that were built.

As envtest, and what else tests against a real API server, this looks in `KUBEBUILDER_ASSETS` first.
A control plane is of one version, so that directory counts only where it has them all. The rest is
as with the other servers: `setup.sh` builds what is missing, from pinned modules, into the user's
cache, under a name that holds the hash of the pins.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal, get_args

ControlPlaneProgram = Literal[
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"
]
NodeProgram = Literal["kubelet", "kube-proxy"]
"""Built only on demand: `tests/servers/build.sh kubernetes/kubelet kubernetes/kube-proxy`."""

_MODULES = Path(__file__).parents[1] / "servers"


def program(name: ControlPlaneProgram | NodeProgram) -> Path:
    """Return where a program is, if it is anywhere."""
    brought = _brought()
    if brought and os.access(brought / name, os.X_OK):
        return brought / name
    return _built(name)


def unavailable() -> str | None:
    """Return why no control plane can run here, or None."""
    for name in get_args(ControlPlaneProgram):
        if not os.access(program(name), os.X_OK):
            return f"{name} is not built (tests/cluster/setup.sh does it, and needs Go)"
    return None


def _brought() -> Path | None:
    """Return the directory of programs that were brought along, if it has a control plane."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        return None
    directory = Path(named)
    whole = all(os.access(directory / name, os.X_OK) for name in get_args(ControlPlaneProgram))
    return directory if whole else None


def _built(name: str) -> Path:
    """Return where `build.sh` puts a program."""
    module = "etcd" if name == "etcd" else "kubernetes"
    pins = b"".join((_MODULES / module / file).read_bytes() for file in ("go.mod", "go.sum"))
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = hashlib.sha256(pins).hexdigest()[:16]
    return caches / "deepgram-journal-backup" / "servers" / f"{module}-{version}" / name
