"""The programs that look at the chart, found where `setup.sh` has them built.

Helm is that of `tests/servers/helm`, unless `HELM` names another of those beside this file, such as
`HELM=helm-4`: `make test-helm` goes through them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Literal

Name = Literal["helm", "helm-docs", "actionlint"]

_HERE = Path(__file__).parent
_SERVERS = _HERE.parent / "servers"


@functools.cache
def program(name: Name) -> Path:
    """Return where a program is, if it is anywhere."""
    built = os.environ.get("HELM") or name if name == "helm" else name
    module = _SERVERS / built if (_SERVERS / built).is_dir() else _HERE / built
    pins = b"".join((module / file).read_bytes() for file in ("go.mod", "go.sum"))
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    version = hashlib.sha256(pins).hexdigest()[:16]
    return caches / "deepgram-journal-backup" / "servers" / f"{built}-{version}" / built


def unavailable(name: Name) -> str | None:
    """Return why a program cannot run here, or None."""
    if not os.access(program(name), os.X_OK):
        return f"{name} is not built (tests/chart/setup.sh does it, and needs Go)"
    return None
