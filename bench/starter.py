"""Starts a command, waits for it, and says what it took: run by :mod:`bench.measure`.

    python -I -S starter.py FD SECONDS COMMAND…

It answers on the file descriptor FD, in JSON. SIGTERM is sent after SECONDS, if that is not
negative. It imports as little as can be: a process begins its life with the peak memory of the
one that started it, so whatever this one takes is the least that can be measured.
"""

import json
import os
import signal
import sys
import time


def start(argv: list[str], term_after: float) -> dict[str, float | None]:
    """Run a command to its end, and give the figures of it and of its children."""
    begun = time.monotonic()
    pid = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=[signal.SIGPIPE])
    told = _tell(pid, term_after) if term_after >= 0 else None
    _, status, usage = os.wait4(pid, 0)
    ended = time.monotonic()
    code = os.waitstatus_to_exitcode(status)
    return {
        "wall_seconds": ended - begun,
        "user_seconds": usage.ru_utime,
        "system_seconds": usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,  # the kernel counts in KiB
        "device_read_bytes": usage.ru_inblock * 512,
        "exit_code": code if code >= 0 else 128 - code,
        "unwind_seconds": None if told is None else ended - told,
    }


def _tell(pid: int, after: float) -> float | None:
    time.sleep(after)
    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return None
    told = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    return told


if __name__ == "__main__":
    answer = int(sys.argv[1])
    os.set_inheritable(answer, False)  # noqa: FBT003 - it takes no keywords
    result = start(sys.argv[3:], float(sys.argv[2]))
    os.write(answer, json.dumps(result).encode())
