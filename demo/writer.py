"""Journals as billing writes them: JSON lines with data and a signature.

As a program: append records to the file that is named, until told to stop, or until whoever
started it is gone: a demonstration that was killed must not fill a disk. Records are written in two
pieces, so that at most moments the last one is half written.
"""

from __future__ import annotations

import base64
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PAUSE_SECONDS = 0.002


def records(seed: int) -> Iterator[bytes]:
    """Make records without end, the same for the same seed."""
    draw = random.Random(seed)
    while True:
        data = base64.b64encode(draw.randbytes(draw.randrange(60, 400))).decode()
        record = {"d": data, "s": draw.randbytes(32).hex()}
        yield json.dumps(record, separators=(",", ":")).encode() + b"\n"


def main(path: Path) -> None:
    """Append until the process is ended, or is an orphan."""
    parent = os.getppid()
    with path.open("ab", buffering=0) as journal:
        for record in records(seed=3):
            if os.getppid() != parent:
                return
            half = len(record) // 2
            journal.write(record[:half])
            time.sleep(PAUSE_SECONDS)
            journal.write(record[half:])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
