"""What runs in a pod of the tests: the real command, whose end can be planned.

    DOOM='{"at": 3, "when": "before", "how": "SIGKILL"}' python tests/cluster/pod.py backup

dies before the third write that it sends to the API server, if it is an orchestrator. The Lease's
times are short (`STALE_SECONDS`, `BEAT_SECONDS`), and the termination message goes to a file.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from backup import cli
from backup.cluster import api, colocated, crew, lease

_WRITES = {"POST", "PUT", "PATCH", "DELETE"}


def main() -> int:
    """Run the command, as told by the environment."""
    cli._TERMINATION_LOG = os.environ.pop("TERMINATION_LOG")
    for module, name in (
        (lease, "STALE_SECONDS"),
        (crew, "BEAT_SECONDS"),
        (crew, "LOOK_SECONDS"),
        (colocated, "WAIT_SECONDS"),
        (crew, "WAIT_SECONDS"),
    ):
        if given := os.environ.get(name, ""):
            setattr(module, name, type(getattr(module, name))(float(given)))
    doom = json.loads(os.environ.pop("DOOM", "{}"))
    writes = os.environ.pop("WRITES", "")
    if sys.argv[1] == "backup":
        _watch(doom, Path(writes) if writes else None)
    code = cli.main()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(f"{cli._TERMINATION_LOG}.rss").write_text(str(peak << 10))
    return code


def _watch(doom: dict[str, Any], writes: Path | None) -> None:
    """Number the writes, note them down, and end the process at one of them."""
    send = api.KubernetesApi._send
    count = 0

    def sent(self: api.KubernetesApi, method: str, path: str, *more: Any, **named: Any) -> Any:
        nonlocal count
        if method not in _WRITES:
            return send(self, method, path, *more, **named)
        count += 1
        if writes is not None:
            with writes.open("a") as file:
                file.write(f"{method} {path.partition('/namespaces/')[2].partition('/')[2]}\n")
        _die(doom, count, "before")
        try:
            return send(self, method, path, *more, **named)
        finally:
            _die(doom, count, "after")

    api.KubernetesApi._send = sent  # type: ignore[method-assign]


def _die(doom: dict[str, Any], count: int, when: str) -> None:
    if (doom.get("at"), doom.get("when")) == (count, when):
        os.kill(os.getpid(), signal.Signals[doom["how"]])


if __name__ == "__main__":
    sys.exit(main())
