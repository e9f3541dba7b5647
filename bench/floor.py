"""The floor: what hashing, compressing and storing a journal cost when nothing else is done.

Threads read, hash the source (SHA-256), compress (igzip, level 1), hash the archive (SHA-256)
and write it; at the end it is flushed to the disk. There is no tar, no check of any kind, no
manifest, no second look at what was stored: this is no backup tool, but no backup tool written
in Python can be much faster with the same hashes and the same compressor.

The queues between the threads are short, a chunk is 1 MiB.

    python -m bench.floor JOURNAL ARCHIVE
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

from isal import isal_zlib

CHUNK_BYTES = 1 << 20
DEPTH = 4
"""Chunks that wait between two threads."""
_GZIP = 31
"""Window bits: the largest window, and gzip's header and trailer."""


def store(journal: Path, archive: Path) -> tuple[str, str]:
    """Compress a journal to an archive; give the SHA-256 of both."""
    source, packed = hashlib.sha256(), hashlib.sha256()
    read = _seen(source.update, _read(journal))
    _write(archive, _seen(packed.update, _in_thread(_compressed(_in_thread(read)))))
    return source.hexdigest(), packed.hexdigest()


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _seen(by: Callable[[bytes], None], chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        by(chunk)
        yield chunk


def _compressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    compressor = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP)
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb", buffering=0) as file:
        for chunk in chunks:
            file.write(chunk)
        os.fsync(file.fileno())


def _in_thread(chunks: Iterable[bytes]) -> Iterator[bytes]:
    queue: Queue[bytes | None] = Queue(DEPTH)

    def run() -> None:
        try:
            for chunk in chunks:
                queue.put(chunk)
        finally:
            queue.put(None)

    Thread(target=run, daemon=True).start()
    while (chunk := queue.get()) is not None:
        yield chunk


if __name__ == "__main__":
    print(*store(Path(sys.argv[1]), Path(sys.argv[2])))
