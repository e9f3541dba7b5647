"""What runs in a pod of the tests: the real command, whose end can be planned.

    DOOM='{"at": 3, "when": "before", "how": "SIGKILL"}' python tests/cluster/pod.py backup

dies before the third write that it sends to the API server, if it is one that asks it (workers,
which have the same environment, do not). What it asks for goes to a file, `REQUESTS`. The Lease's
times are short (`STALE_SECONDS`, `BEAT_SECONDS`), and the termination message goes to a file.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backup import cli
from backup.cli import command
from backup.cluster import api, colocated, crew, lease

_ASKING = {"backup", "resume-billing"}


def main() -> int:
    """Run the command, as told by the environment."""
    command._TERMINATION_LOG = os.environ.pop("TERMINATION_LOG")
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
    requests = os.environ.pop("REQUESTS", "")
    if sys.argv[1] in _ASKING:
        _watch(doom, Path(requests) if requests else None)
    code = cli.main()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(f"{command._TERMINATION_LOG}.rss").write_text(str(peak << 10))
    return code


def _watch(doom: dict[str, Any], requests: Path | None) -> None:
    """Note down what is asked for, number the writes, and end the process at one of them."""
    send = api.Api._send
    count = 0

    def sent(
        self: api.Api,
        method: str,
        path: str,
        query: Mapping[str, str],
        *more: Any,
        **named: Any,
    ) -> Any:
        nonlocal count
        if requests is not None:
            with requests.open("a") as file:
                file.write(f"{_wish(method, path, query)}\n")
        if method == "GET":
            return send(self, method, path, query, *more, **named)
        count += 1
        _die(doom, count, "before")
        try:
            return send(self, method, path, query, *more, **named)
        finally:
            _die(doom, count, "after")

    api.Api._send = sent  # type: ignore[method-assign]


def _wish(method: str, path: str, query: Mapping[str, str]) -> str:
    """Say what is asked for, with `GET` for one object only."""
    what = path.partition("/namespaces/")[2].partition("/")[2]
    if method == "GET" and "/" not in what:
        method = "WATCH" if "watch" in query else "LIST"
    return f"{method} {what}"


def _die(doom: dict[str, Any], count: int, when: str) -> None:
    if (doom.get("at"), doom.get("when")) == (count, when):
        # By this thread itself: a process that is told to stop may first send what it is about to.
        signal.raise_signal(signal.Signals[doom["how"]])


if __name__ == "__main__":
    sys.exit(main())
