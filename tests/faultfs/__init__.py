"""A file system that misbehaves on request, for tests of sinks and sources.

A FUSE mount passes every call through to a backing directory, except where the test has told it
to fail, hang or lie. A fault is in force when the call that orders it returns.

    with faultfs.mounted(tmp_path) as fs:
        fs.fail("write", errno.ENOSPC, "*.part", after_bytes=1 << 20)   # a full disk
        fs.fail(faultfs.METADATA, errno.EPERM)                          # NFS root_squash
        fs.fail("link", errno.EOPNOTSUPP)                               # no hard links
        fs.hang("fsync", "*.tar.gz")                                    # until fs.release()
        ...
        assert not fs.calls(faultfs.METADATA)

*Operations* are FUSE's (`server.OPS`); several are joined by `|`, and `*` is all of them. Close is
`flush`, fsync of a directory `fsyncdir`; `getattr` is stat as well as the look-up of a name on the
way to anything else. *Paths* are globs on the path below the mount, where `*` matches `/` too; a
`Path` below `root` or `backing` stands for itself. Rename and link match by either name.

Every fault takes the same limits: `after` lets so many of its calls pass first, `after_bytes` as
many as move no more than so many bytes in all, `times` ends it after so many strikes, `seconds`
after that time.

What it is faithful in: a hang ends when its caller is killed, but by no other signal (a hard NFS
mount); nothing is cached (`cache=True`: pages are, until POSIX_FADV_DONTNEED); a call that fails
with ESTALE on a path is tried twice by the kernel, so `times=1` goes unseen there.
"""

from __future__ import annotations

import errno as codes
import functools
import glob
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypedDict, Unpack

METADATA = "chmod|chown|utimens"
"""What a sink must never need."""
CHANGES = f"{METADATA}|create|link|mkdir|mknod|rename|rmdir|symlink|truncate|unlink|write"
"""Every operation that a read-only file system refuses."""

_SERVER = Path(__file__).with_name("server.py")
_ANSWER_SECONDS = 20.0


class Limits(TypedDict, total=False):
    """How often a fault strikes; by default always."""

    after: int
    after_bytes: int
    times: int
    seconds: float


class Call(NamedTuple):
    """One call that reached the server, whatever became of it; `size` in bytes."""

    op: str
    path: str
    target: str
    size: int


@functools.cache
def available() -> str | None:
    """Return why no mount can be made here, or None."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if not find_library("fuse3"):
        return "libfuse3 is not installed (Debian: fuse3)"
    if not shutil.which("fusermount3"):
        return "fusermount3 is not installed (Debian: fuse3)"
    if importlib.util.find_spec("mfusepy") is None:
        return "mfusepy is not installed (PyPI)"
    return None


class FaultFS:
    """A mount, its backing directory, and the switches of its faults.

    A method that orders a fault returns its number, which `clear` takes.
    """

    def __init__(self, root: Path, backing: Path, control: socket.socket, answers: TextIO) -> None:
        """Wait for the server to say that it has mounted; RuntimeError when it cannot."""
        self.root = root
        self.backing = backing
        self._control = control
        self._answers = answers
        self._asking = threading.Lock()
        self._state = "running"
        self._pid = int(self._answer())

    def fail(self, op: str, errno: int, path: str | Path = "*", **limits: Unpack[Limits]) -> int:
        """Fail these calls with this error."""
        return self._order("fail", path, op=op, errno=errno, **limits)

    def vanish(self, errno: int = codes.ESTALE) -> int:
        """Fail every call from now on; `kill` is the vanishing with ENOTCONN."""
        return self.fail("*", errno)

    def hang(self, op: str = "*", path: str | Path = "*", **limits: Unpack[Limits]) -> int:
        """Block these calls until `release`, or until their caller is killed."""
        return self._order("hang", path, op=op, **limits)

    def release(self) -> None:
        """Let every hanging call go on, and hang no more."""
        self._ask("drop", kind="hang")

    def hole(self, path: str | Path, start: int, end: int, **limits: Unpack[Limits]) -> int:
        """Read NULs in bytes start to end (exclusive), until `fill`; the size is as it is."""
        return self._order("hole", path, start=start, end=end, **limits)

    def fill(self, path: str | Path = "*") -> None:
        """Fill the holes ordered with this very path, or all."""
        self._ask("drop", kind="hole", path=None if path == "*" else self._pattern(path))

    def flip(self, path: str | Path, offset: int, **limits: Unpack[Limits]) -> int:
        """Read the byte at this offset inverted, whatever was written there."""
        return self._order("flip", path, start=offset, end=offset + 1, **limits)

    def short(
        self,
        path: str | Path,
        *,
        each: int | None = None,
        end: int | None = None,
        **limits: Unpack[Limits],
    ) -> int:
        """Read at most `each` bytes a call, and none past offset `end`; the size is as it is."""
        return self._order("short", path, each=each, end=end, **limits)

    def clear(self, fault: int | None = None) -> None:
        """Lift one fault, or all; what hangs goes on."""
        self._ask("drop", key=fault)

    def calls(self, op: str = "*", path: str | Path = "*") -> list[Call]:
        """Return the calls that reached the server since the mount or `forget`, in order."""
        return [Call(*call) for call in self._ask("calls", op=op, path=self._pattern(path))]

    def forget(self) -> None:
        """Empty the log of calls."""
        self._ask("forget")

    def wait(
        self, op: str, path: str | Path = "*", *, count: int = 1, timeout: float = 10.0
    ) -> None:
        """Wait until so many such calls, which may be hanging now, have reached the server."""
        deadline = time.monotonic() + timeout
        while len(self.calls(op, path)) < count:
            if time.monotonic() > deadline:
                message = f"no {op} of {path} within {timeout} s"
                raise TimeoutError(message)
            time.sleep(0.01)

    def freeze(self) -> None:
        """Stop the server: every call hangs, and not even SIGKILL ends its caller, until `thaw`."""
        os.kill(self._pid, signal.SIGSTOP)
        self._state = "frozen"
        while not all(") T " in task.read_text() for task in self._tasks()):
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        os.kill(self._pid, signal.SIGCONT)
        self._state = "running"

    def kill(self) -> None:
        """Kill the server: what hangs fails with ECONNABORTED, all else with ENOTCONN."""
        dead = os.pidfd_open(self._pid)
        os.kill(self._pid, signal.SIGKILL)
        self._state = "killed"
        select.select([dead], [], [], _ANSWER_SECONDS)
        os.close(dead)

    def _tasks(self) -> Iterator[Path]:
        return Path(f"/proc/{self._pid}/task").glob("*/stat")

    def _pattern(self, path: str | Path) -> str:
        if isinstance(path, Path):
            for base in (self.root, self.backing):
                if path.is_relative_to(base):
                    return glob.escape(str(path.relative_to(base)))
        return str(path)

    def _order(self, kind: str, path: str | Path, **rule: object) -> int:
        return int(self._ask("add", kind=kind, path=self._pattern(path), **rule))

    def _ask(self, verb: str, **arguments: object) -> Any:
        if self._state != "running":
            message = f"the server is {self._state}"
            raise RuntimeError(message)
        with self._asking:
            self._control.sendall(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            return self._answer()

    def _answer(self) -> Any:
        """Return the server's next answer; RuntimeError when it is a refusal, or the end."""
        answer = json.loads(self._answers.readline() or '{"error": "the server has gone"}')
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


@contextmanager
def mounted(
    base: Path,
    *,
    allow_other: bool = False,
    read_only: bool = False,
    cache: bool = False,
    limit: float = 120.0,
) -> Iterator[FaultFS]:
    """Mount `base/backing` at `base/root`, both made if missing, and unmount whatever happens.

    After `limit` seconds the server is killed and the mount detached, so that a body which hangs
    in it gets an error instead. `allow_other` admits other users, by the modes of the files.
    """
    root, backing = base / "root", base / "backing"
    for directory in (root, backing):
        directory.mkdir(parents=True, exist_ok=True)
    options = {
        "allow_other": allow_other,
        "ro": read_only,
        "direct_io": not cache,
        "kernel_cache": cache,
    }
    ours, theirs = socket.socketpair()
    ours.settimeout(_ANSWER_SECONDS)
    arguments = (backing, root, json.dumps(options), limit, theirs.fileno())
    guard = subprocess.Popen(
        [sys.executable, "-X", "utf8", *map(str, (_SERVER, *arguments))],
        pass_fds=[theirs.fileno()],
        start_new_session=True,  # an interrupt from the keyboard must not overtake the clean-up
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )
    theirs.close()
    with ours, ours.makefile() as answers:
        try:
            yield FaultFS(root, backing, ours, answers)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            guard.wait(_ANSWER_SECONDS)
            root.stat()  # raises ENOTCONN if the mount is still there
