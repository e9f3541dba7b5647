"""The server behind `tests.faultfs`: a pass-through FUSE file system with switchable faults.

Two processes. The *guard* is the one that the test starts; it forks the *server*, which owns the
mount. When the test closes its end of the control socket, dies, or exceeds its time limit, the
guard kills the server (also a stopped one), which aborts every call still hanging in it, and
detaches the mount. Without the server alone the mount stays, and answers ENOTCONN.

Control is one JSON object a line over that socket, each answered by one line once it is in force.
Neither process imports the package, so that this file runs by its path alone.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

OPS = frozenset(
    "chmod chown create flush fsync fsyncdir getattr link mkdir mknod open opendir"  # noqa: SIM905
    " read readdir readlink rename rmdir statfs symlink truncate unlink utimens write".split(),
)

_HIDDEN = ".fuse_hidden"  # what libfuse renames an open file to when it is unlinked
_AUTO_INVAL_DATA = 1 << 12  # FUSE_CAP_AUTO_INVAL_DATA
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_STATUS = tuple(
    name for name in dir(os.stat_result) if name.startswith("st_") and "time" not in name
)
_PF_EXITING = 0x4
_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)
_POLL_SECONDS = 0.05
_MAX_THREADS = 64  # each hanging call holds one
_MAX_THREADS_SINCE = 12  # libfuse 3.12
_MOUNT_OPTIONS: dict[str, Any] = {
    "foreground": True,
    "fsname": "faultfs",
    "subtype": "faultfs",
    "default_permissions": True,
    "use_ino": True,
    "entry_timeout": 0,
    "negative_timeout": 0,
    "attr_timeout": 0,
    "max_idle_threads": 10,
}

Log = list[tuple[str, str, str, int]]


def operations(text: str) -> frozenset[str]:
    """Return the operations that `text` names; ValueError for one that there is not."""
    named = OPS if text == "*" else frozenset(text.split("|"))
    if unknown := named - OPS:
        message = f"no such operation: {', '.join(sorted(unknown))}"
        raise ValueError(message)
    return named


@dataclass(kw_only=True, eq=False)
class Rule:
    """One fault: what it does, to which calls, and how often; sizes and offsets in bytes."""

    kind: str
    op: str = "read"
    path: str = "*"
    errno: int = errno.EIO
    start: int = 0
    end: int | None = None
    each: int | None = None
    after: int = 0
    after_bytes: int | None = None
    times: int | None = None
    seconds: float | None = None
    _born: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        """Refuse a misspelt operation: the fault would never strike."""
        self._ops = operations(self.op)

    @property
    def over(self) -> bool:
        """Whether the fault's time has passed."""
        return self.seconds is not None and time.monotonic() - self._born >= self.seconds

    def strikes(self, op: str, names: list[str], offset: int, size: int) -> bool:
        """Whether this call meets the fault; counts the call, if it is one of the fault's."""
        if op not in self._ops or not any(fnmatchcase(name, self.path) for name in names):
            return False
        if self.kind in ("hole", "flip") and not self._overlap(offset, size):
            return False
        if self.after_bytes is not None and size <= self.after_bytes:
            self.after_bytes -= size
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.over or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def _overlap(self, offset: int, size: int) -> range:
        """Return the indices, in data of this size read at this offset, that the range covers."""
        end = size if self.end is None else min(self.end - offset, size)
        return range(max(self.start - offset, 0), end)

    def shape(self, data: bytes, offset: int) -> bytes:
        """Return what a read that got this data at this offset shall return instead."""
        if self.kind == "short":
            kept = len(data) if self.end is None else max(self.end - offset, 0)
            return data[: kept if self.each is None else min(self.each, kept)]
        hit = self._overlap(offset, len(data))
        lies = bytes(len(hit)) if self.kind == "hole" else bytes(data[i] ^ 0xFF for i in hit)
        return data[: hit.start] + lies + data[hit.stop :] if hit else data


class Faults:
    """The faults in force and the log of calls; safe to use from any thread."""

    def __init__(self, caller: Callable[[], int]) -> None:
        """Start without faults; `caller` tells the thread id behind the current call."""
        self._caller = caller
        self._changed = threading.Condition()
        self._rules: dict[int, Rule] = {}
        self._ids = count(1)
        self._log: Log = []

    def enter(
        self,
        op: str,
        path: str | None,
        target: str | None = None,
        *,
        offset: int = 0,
        size: int = 0,
    ) -> list[Rule]:
        """Log a call; hang or fail it, or return the faults that shape the data it reads."""
        names = [_relative(name) for name in (path, target) if name is not None]
        with self._changed:
            self._log.append((op, names[0] if names else "", "".join(names[1:]), size))
            struck = []
            for key, rule in list(self._rules.items()):
                if key not in self._rules or not rule.strikes(op, names, offset, size):
                    continue
                if rule.kind == "fail":
                    raise OSError(rule.errno, os.strerror(rule.errno))
                if rule.kind == "hang":
                    self._hang(key, rule)
                else:
                    struck.append(rule)
        return struck

    def _hang(self, key: int, rule: Rule) -> None:
        """Wait until the rule is gone or, as on a hard NFS mount, the caller is being killed."""
        caller = self._caller()
        while key in self._rules and not rule.over:
            if _doomed(caller):
                raise InterruptedError(errno.EINTR, "killed")
            self._changed.wait(_POLL_SECONDS)

    def add(self, **rule: Any) -> int:
        """Put a fault in force and return its number."""
        with self._changed:
            key = next(self._ids)
            self._rules[key] = Rule(**rule)
        return key

    def drop(
        self, *, key: int | None = None, kind: str | None = None, path: str | None = None
    ) -> None:
        """Lift the faults that meet every condition given."""
        with self._changed:
            self._rules = {
                number: rule
                for number, rule in self._rules.items()
                if key not in (None, number)
                or kind not in (None, rule.kind)
                or path not in (None, rule.path)
            }
            self._changed.notify_all()

    def calls(self, *, op: str, path: str) -> Log:
        """Return the calls logged, oldest first, as (op, path, target, size)."""
        ops = operations(op)
        with self._changed:
            log = list(self._log)
        return [
            call
            for call in log
            if call[0] in ops and any(fnmatchcase(name, path) for name in call[1:3] if name)
        ]

    def forget(self) -> None:
        """Empty the log."""
        with self._changed:
            self._log.clear()


def _relative(path: str) -> str:
    return path.removeprefix("/") or "."


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(_HIDDEN)


def _doomed(thread: int) -> bool:
    """Whether this thread is being killed or gone: a call of it must not hang any longer."""
    if not thread:
        return False  # the kernel itself, or a caller in a foreign PID namespace
    try:
        fields = Path(f"/proc/{thread}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return True
    return bool(int(fields[6]) & _PF_EXITING or int(fields[28]) & _SIGKILL_PENDING)


def _act(op: str, act: Callable[..., Any], *, new: bool = False) -> Callable[..., Any]:
    """Make the operation that does `act` to the backing path; `new` makes what its caller owns."""

    def operation(self: _Passthrough, path: str, *arguments: Any) -> Any:
        self.faults.enter(op, path)
        result = act(self.real(path), *arguments)
        if new:
            self.adopt(path)
        return result

    return operation


class _Passthrough:
    """The operations as mfusepy calls them: each meets the faults, then the backing directory.

    Paths are absolute inside the mount; None stands for an open directory that has been removed.
    """

    use_ns = True

    def __init__(
        self, backing: str, fuse: ModuleType, ready: Callable[[], None], *, cached: bool
    ) -> None:
        """Serve `backing` by the binding `fuse`; call `ready` when the kernel has connected."""
        self._backing, self._fuse, self._ready, self._cached = backing, fuse, ready, cached
        self.faults = Faults(lambda: int(fuse.fuse_get_context()[2]))

    def real(self, path: str) -> str:
        return self._backing + path

    def adopt(self, path: str) -> None:
        if os.geteuid() == 0:
            uid, gid, _ = self._fuse.fuse_get_context()
            os.lchown(self.real(path), uid, gid)

    def init_with_config(self, connection: Any, _config: Any) -> None:
        if self._cached:  # else the mtime of its own writes would make the kernel drop their pages
            connection.want &= ~_AUTO_INVAL_DATA
        self._ready()

    chmod = _act("chmod", os.chmod)
    chown = _act("chown", os.lchown)
    mkdir = _act("mkdir", os.mkdir, new=True)
    mknod = _act("mknod", os.mknod, new=True)
    readlink = _act("readlink", os.readlink)
    rmdir = _act("rmdir", os.rmdir)
    symlink = _act("symlink", lambda path, content: Path(path).symlink_to(content), new=True)
    truncate = _act("truncate", os.truncate)

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, int]:
        self.faults.enter("getattr", path)
        stat = os.lstat(self.real(path))
        status = {name: getattr(stat, name) for name in _STATUS}
        return status | {f"st_{x}time": getattr(stat, f"st_{x}time_ns") for x in "amc"}

    def statfs(self, path: str) -> dict[str, int]:
        self.faults.enter("statfs", path)
        stat = os.statvfs(self.real(path))
        return {name: getattr(stat, name) for name in dir(stat) if name.startswith("f_")}

    def utimens(self, path: str, times: tuple[int, int]) -> None:
        self.faults.enter("utimens", path)
        stat, now = os.lstat(self.real(path)), time.time_ns()
        atime, mtime = (
            {_UTIME_NOW: now, _UTIME_OMIT: kept}.get(wanted, wanted)
            for wanted, kept in zip(times, (stat.st_atime_ns, stat.st_mtime_ns), strict=True)
        )
        os.utime(self.real(path), ns=(atime, mtime), follow_symlinks=False)

    def link(self, path: str, existing: str) -> None:
        self.faults.enter("link", existing, path)
        os.link(self.real(existing), self.real(path), follow_symlinks=False)

    def rename(self, old: str, new: str) -> None:
        if _hidden(new):
            self.faults.enter("unlink", old)
        else:
            self.faults.enter("rename", old, new)
        Path(self.real(old)).rename(self.real(new))

    def unlink(self, path: str) -> None:
        if not _hidden(path):
            self.faults.enter("unlink", path)
        Path(self.real(path)).unlink()

    def create(self, path: str, mode: int, flags: int) -> int:
        self.faults.enter("create", path)
        fh = self._open(path, flags | os.O_CREAT, mode)
        self.adopt(path)
        return fh

    def open(self, path: str, flags: int) -> int:
        self.faults.enter("open", path)
        return self._open(path, flags)

    def _open(self, path: str, flags: int, mode: int = 0) -> int:
        # The kernel does the appending, and its buffers are not aligned as O_DIRECT wants them.
        flags &= ~(os.O_APPEND | os.O_DIRECT)
        return os.open(self.real(path), flags | os.O_NOFOLLOW, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        struck = self.faults.enter("read", path, offset=offset, size=size)
        data = os.pread(fh, size, offset)
        for rule in struck:
            data = rule.shape(data, offset)
        return data

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self.faults.enter("write", path, offset=offset, size=len(data))
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, _fh: int) -> None:
        self.faults.enter("flush", path)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self.faults.enter("fsync", path)
        (os.fdatasync if datasync else os.fsync)(fh)

    def opendir(self, path: str) -> int:
        self.faults.enter("opendir", path)
        return os.open(self.real(path), os.O_RDONLY | os.O_DIRECTORY)

    def readdir(self, path: str | None, fh: int) -> list[tuple[str, dict[str, int], int]]:
        self.faults.enter("readdir", path)
        with os.scandir(fh) as found:  # no types, only inodes, as an NFS server may have it
            inodes = {e.name: e.inode() for e in found if not _hidden(e.name)}
        inodes |= dict.fromkeys((".", ".."), os.fstat(fh).st_ino)
        return [(name, {"st_ino": inode}, 0) for name, inode in inodes.items()]

    def fsyncdir(self, path: str | None, _datasync: int, fh: int) -> None:
        self.faults.enter("fsyncdir", path)
        os.fsync(fh)

    def release(self, _path: str | None, fh: int) -> None:
        os.close(fh)

    releasedir = release


def _send(control: socket.socket, **message: Any) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _obey(control: socket.socket, faults: Faults) -> None:
    """Answer each request of the test until its end of the socket closes."""
    verbs = {verb.__name__: verb for verb in (faults.add, faults.drop, faults.calls, faults.forget)}
    for line in control.makefile("r"):
        request = json.loads(line)
        try:
            _send(control, result=verbs[request.pop("verb")](**request))
        except (TypeError, ValueError) as error:
            _send(control, error=str(error))


def serve(backing: str, mount: str, options: dict[str, Any], control: socket.socket) -> None:
    """Mount, tell the test so, and serve until killed."""
    os.environ["FUSE_LIBRARY_NAME"] = "fuse3"  # the binding would take libfuse 2 where both are
    os.umask(0)
    try:
        import mfusepy as fuse  # noqa: PLC0415 - it finds its library when it is imported

        if fuse.fuse_version_minor >= _MAX_THREADS_SINCE:
            options["max_threads"] = _MAX_THREADS
        served = _Passthrough(
            backing,
            fuse,
            ready=lambda: _send(control, result=os.getpid()),
            cached=options["kernel_cache"],
        )
        threading.Thread(target=_obey, args=(control, served.faults), daemon=True).start()
        fuse.FUSE(served, mount, **_MOUNT_OPTIONS, **options)
    except (OSError, RuntimeError, ImportError, AttributeError) as error:
        _send(control, error=f"cannot mount: {error!r}")


def guard(server: int, mount: str, limit: float, control: socket.socket) -> None:
    """Wait for the end of the test, or its limit; then end the server and detach the mount."""
    ended = select.poll()
    ended.register(control, select.POLLRDHUP)
    ended.poll(limit * 1000)
    os.kill(server, signal.SIGKILL)  # not reaped yet, so the id is still its own
    os.waitpid(server, 0)
    subprocess.run(["fusermount3", "-uz", mount], check=False, stderr=subprocess.DEVNULL)


def main() -> None:
    """Become the guard; fork the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backing")
    parser.add_argument("mount")
    parser.add_argument("options", type=json.loads, help="more options of the mount, as JSON")
    parser.add_argument("limit", type=float, help="seconds")
    parser.add_argument("control", type=int, help="number of the inherited socket")
    arguments = parser.parse_args()
    control = socket.socket(fileno=arguments.control)
    if server := os.fork():
        guard(server, arguments.mount, arguments.limit, control)
    else:
        serve(arguments.backing, arguments.mount, arguments.options, control)


if __name__ == "__main__":
    main()
