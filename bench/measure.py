"""One run of one command, measured: wall time, processor time, peak memory.

The command is started by a small process of its own (``starter.py``), which waits for it: so the
kernel's account of that process's children is the command's own, and that of everything which
the command started and waited for. Peak memory below that process's own, some 10 MiB, cannot be
told apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path

_STARTER = Path(__file__).with_name("starter.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run: with these variables and no others, in that directory."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one run took."""

    wall_seconds: float
    """From the start to the end of the process."""
    user_seconds: float
    """Processor time of the command and its children, in user mode."""
    system_seconds: float
    """The same, in the kernel."""
    peak_rss_bytes: int
    """The largest resident set of any one process of the command."""
    device_read_bytes: int
    """What did not come from the page cache."""
    exit_code: int
    """128 and the signal's number, if one ended it."""
    unwind_seconds: float | None = None
    """From SIGTERM to the end; None if none was sent, or it had ended before."""
    written_bytes: int = 0
    """What the sink holds after the run."""

    @property
    def cpu_seconds(self) -> float:
        """Processor time, user and system."""
        return self.user_seconds + self.system_seconds


class CommandError(Exception):
    """A command did not end as it should."""


def run(
    command: Command,
    *,
    expect: Container[int] = (0,),
    term_after: float = -1,
    stdout: Path = Path(os.devnull),
) -> Sample:
    """Run a command to its end and measure it.

    Args:
        command: what to run.
        expect: the exit codes that are right.
        term_after: seconds after which SIGTERM is sent; negative: never.
        stdout: the file that takes its standard output.

    Raises:
        CommandError: it ended with another code; the message has the end of its stderr.
    """
    with tempfile.TemporaryFile() as errors, stdout.open("wb") as output:
        sample = Sample(**json.loads(_start(command, term_after, output.fileno(), errors.fileno())))
        if sample.exit_code not in expect:
            errors.seek(max(errors.seek(0, os.SEEK_END) - 2000, 0))
            said = errors.read().decode(errors="replace")
            message = f"{' '.join(command.argv)}: exit code {sample.exit_code}\n{said}"
            raise CommandError(message)
    return sample


def _start(command: Command, term_after: float, stdout: int, stderr: int) -> bytes:
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as answer:
        try:
            starter = (sys.executable, "-I", "-S", str(_STARTER), str(theirs), str(term_after))
            subprocess.run(
                [*starter, *command.argv],
                env=dict(command.env),
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(theirs,),
                check=True,
            )
        finally:
            os.close(theirs)
        return answer.read()
