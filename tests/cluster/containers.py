"""Processes in place of containers, each forked from one that has imported the command before.

A pod of a test is a process of its own, with the environment, the output and the end that a
container has. But what it would import at its start, for a second or so, is there already: most
tests run half a dozen pods, and are about what these do, not about how they begin.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

from backup import cli
from tests.cluster import pod

CHECKOUT = Path(__file__).parents[2]
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "tests.cluster.containers",
        "backup.cluster.orchestrator",
        "backup.config",
        "backup.log",
        "backup.report",
        "backup.sinks.file",
        "backup.verbs.backup",
        "backup.verbs.commit",
        "backup.catalog.holdings",
        "kubernetes.client",
        "kubernetes.config",
    ]
)
_LOCK = threading.Lock()
"""Whoever starts one looks after all, and an end is told to one only."""
_POLL_SECONDS = 0.01


class Container:
    """A process that runs the command."""

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], *, output: Path, log: Path
    ) -> None:
        """Begin it; what it prints is in files that are there at once."""
        output.touch()
        log.touch()
        told = ([*arguments], {**env}, output, log)
        self._process = _FORKS.Process(target=_run, args=told, daemon=True)
        with _LOCK:
            self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        with _LOCK:
            return self._process.exitcode is not None

    @property
    def returncode(self) -> int:
        """How it has ended: by a signal, if that is negative; waits for the end."""
        while True:
            with _LOCK:
                if (code := self._process.exitcode) is not None:
                    return code
            time.sleep(_POLL_SECONDS)

    def send_signal(self, signum: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self.has_ended:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """End it, and wait until it has ended."""
        self.send_signal(signal.SIGKILL)
        _ = self.returncode


def _run(arguments: list[str], env: dict[str, str], output: Path, log: Path) -> None:
    """Become the container: this is what runs in the new process."""
    os.environ.clear()
    os.environ.update(env)
    for path, descriptor in ((Path(os.devnull), 0), (output, 1), (log, 2)):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, descriptor)
        os.close(opened)
    assert Path(inspect.getfile(cli.main)).is_relative_to(CHECKOUT)  # and not what is installed
    sys.argv = ["journal-backup", *arguments]
    sys.exit(pod.main())
