"""Writes a journal as billing does: `standin.py FILE RECORDS_A_SECOND UMASK`, in a pod.

Records are JSON lines of data and signature. Each holds its number, counted on over restarts, and
is on disk before the next one is made. So whoever reads the file can tell whether any is missing.
It runs with the Python that the image has, and needs nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
from pathlib import Path


def main() -> None:
    """Write until told to end."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    path, pause_seconds = Path(sys.argv[1]), 1 / float(sys.argv[2])
    os.umask(int(sys.argv[3], 8))
    number = len(path.read_bytes().splitlines()) if path.exists() else 0
    with path.open("ab", buffering=0) as journal:
        while not told.is_set():
            journal.write(record(number))
            os.fsync(journal.fileno())
            number += 1
            told.wait(pause_seconds)


def record(number: int) -> bytes:
    """Make the record of a number; the same for the same number, and of no fixed length."""
    data = f"{number:012}-" + hashlib.sha256(str(number).encode()).hexdigest() * (1 + number % 7)
    made = {"d": data, "s": hashlib.sha256(data.encode()).hexdigest()}
    return json.dumps(made, separators=(",", ":")).encode() + b"\n"


if __name__ == "__main__":
    main()
