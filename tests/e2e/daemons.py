"""Programs that run for as long as the tests, each with its log in a file.

As the other servers of tests (`tests.servers.process`, which starts them), they die with the
process that started them, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.programs import PATH
from tests.servers import process

_READY_SECONDS = 60.0
_END_SECONDS = 20.0
_POLL_SECONDS = 0.05
_TAIL_BYTES = 4096


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A program that can be started, ended, and started again."""

    command: Callable[[], Sequence[str | Path]]
    """Gives what to run, each time that it is started."""
    log: Path
    """What it says, of all its runs."""
    ready: Callable[[], bool]
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        """Its process, if it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Run it; does not wait until it is ready."""
        with self.log.open("ab") as log:
            environment = {"PATH": PATH, "HOME": str(self.log.parent)}
            command = [*map(str, self.command())]
            starting = process._STARTER.submit(process._start, command, environment, log)
            self._process = starting.result()

    def await_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it ended, or was not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + _READY_SECONDS
        while not self.ready():
            ended = self._process.poll() if self._process else 0
            if ended is not None or time.monotonic() > deadline:
                became = f"ended with {ended}" if ended is not None else "was not ready in time"
                message = f"{self.log.name} {became}: {self.tail()}"
                raise RuntimeError(message)
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """End it, unless it is ended."""
        running, self._process = self._process, None
        if not running:
            return
        running.terminate()
        try:
            running.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def child(self) -> int:
        """Give the one process that it has started, in the numbers of this machine."""
        pid = self.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def forget(self) -> None:
        """Wait for the end of one whose end is already certain."""
        running, self._process = self._process, None
        if running:
            running.wait()

    def tail(self) -> str:
        """Give the end of its log."""
        with self.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace")


def answers(url: str) -> bool:
    """Tell whether a server answers a request, and well."""
    try:
        process.ask(url)
    except OSError:
        return False
    return True
