"""Journals of realistic records, made fast, and a writer that keeps appending to one.

Rules:

- A record is one line, ``{"d":"<base64 of a usage event>","s":"<base64 signature>"}``, of about
  180 to 750 B. An event is JSON with the same few keys in each, so most of it compresses; its
  request id, its figures and the signature are drawn afresh, so a part of it does not: gzip
  leaves about a third.
- No two blocks share more than a few words in a row, so a compressor with a large window gains
  nothing over one with a small window, and there is nothing to deduplicate.
- A seed gives the same journal again, whatever its size. It is made of blocks of one size, so
  that several processes can make one file.
- Speed comes from doing a whole block at a time in compiled code. A field is padded with spaces
  to a multiple of three bytes, so that fields can be encoded apart and joined as text.

Run as a program it appends to a journal until it is ended::

    python -m bench.records JOURNAL --rate 2MiB
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import os
import random
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path

from bench.sizes import MIB, parse_size

BLOCK_BYTES = 4 * MIB
_RECORDS_PER_BLOCK = 12_000
"""More than fill a block: the rest is cut off."""
_ID_DIGITS = 36
_SIGNATURE_BYTES = 48

_MODELS = ("nova-3-general", "nova-3-medical", "nova-2-phonecall", "nova-2-meeting", "aura-2-en")
_LANGUAGES = ("en-US", "en-GB", "es-419", "de", "fr-CA", "hi", "pt-BR", "multi")
_FEATURES = (
    "punctuate",
    "diarize",
    "smart_format",
    "utterances",
    "paragraphs",
    "redact=pci",
    "redact=ssn",
    "profanity_filter",
    "detect_language",
    "keyterm",
    "summarize=v2",
    "topics",
    "intents",
    "sentiment",
    "filler_words",
    "multichannel",
)


class Blocks:
    """Makes the blocks of one journal: each of whole records, and of ``BLOCK_BYTES`` exactly."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(f"{seed} pools")
        self._seed = seed
        self._heads = [_encode(_head(draw)) for _ in range(512)]
        self._figures = [_encode(_figures(draw)) for _ in range(1 << 16)]
        self._tails = [_encode(_tail(draw)) for _ in range(1024)]

    def __getitem__(self, index: int) -> bytes:
        """Make the block of that index: the same for the same seed, and like no other."""
        draw = random.Random(f"{self._seed} {index}")
        number = _RECORDS_PER_BLOCK
        ids = draw.randbytes(number * _ID_DIGITS // 2).hex().encode()
        signatures = draw.randbytes(number * _SIGNATURE_BYTES)
        fields = (
            repeat(b'{"d":"', number),
            draw.choices(self._heads, k=number),
            _split(base64.b64encode(ids), number),
            draw.choices(self._figures, k=number),
            draw.choices(self._tails, k=number),
            repeat(b'","s":"', number),
            _split(base64.b64encode(signatures), number),
            repeat(b'"}\n', number),
        )
        return fit(b"".join(chain.from_iterable(zip(*fields, strict=True))), BLOCK_BYTES)


def fit(records: bytes, size: int) -> bytes:
    """Cut records to ``size`` bytes; spaces before the last newline make up for a cut record."""
    whole = records[: records.rfind(b"\n", 0, size)]
    return whole.ljust(size - 1) + b"\n"


def make_journal(path: Path, size: int, *, seed: int = 1, processes: int = 2) -> None:
    """Write a journal of whole records and of ``size`` bytes exactly; it is flushed to the disk.

    Args:
        path: the file to make; its directory is made if need be.
        size: in bytes.
        seed: another seed gives another journal.
        processes: how many make blocks at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    number = -(-size // BLOCK_BYTES)
    shares = [range(share, number, processes) for share in range(processes)]
    with multiprocessing.Pool(processes) as pool:
        pool.map(partial(_write_share, path, size, seed), shares)


def make_small_journals(paths: Iterable[Path], size: int, *, seed: int = 1) -> None:
    """Write journals of whole records and of ``size`` bytes each, which is at most a block's."""
    blocks = Blocks(seed)
    for index, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.write_bytes(fit(blocks[index], size))


def _write_share(path: Path, size: int, seed: int, share: Sequence[int]) -> None:
    blocks = Blocks(seed)
    with path.open("r+b", buffering=0) as file:
        for index in share:
            start = index * BLOCK_BYTES
            block = blocks[index]
            piece = block if start + BLOCK_BYTES <= size else fit(block, size - start)
            os.pwrite(file.fileno(), piece, start)
        os.fsync(file.fileno())


def append_forever(path: Path, rate: int, *, seed: int) -> None:
    """Append to a journal at ``rate`` bytes a second until the process is ended.

    It writes twenty times a second what is due, as a program that buffers does: a write ends
    where the buffer ends, seldom at the end of a record.
    """
    blocks = Blocks(seed)
    with path.open("ab", buffering=0) as file:
        start, written = time.monotonic(), 0
        for index in count():
            for due in _paced(blocks[index], rate, start, written):
                written += file.write(due)


def _paced(block: bytes, rate: int, start: float, written: int) -> Iterator[memoryview]:
    rest = memoryview(block)
    while rest:
        time.sleep(0.05)
        due = int((time.monotonic() - start) * rate) - written
        yield rest[:due]
        written += len(rest[:due])
        rest = rest[due:]


def _head(draw: random.Random) -> str:
    event = {"product": "stt", "model": draw.choice(_MODELS), "language": draw.choice(_LANGUAGES)}
    kept = dict(draw.sample(list(event.items()), k=draw.choice((0, 2, 3, 3))))
    text = json.dumps(kept | {"request_id": ""}, separators=(",", ":"))
    return _pad(text.removesuffix('"}'), str.rjust)


def _figures(draw: random.Random) -> str:
    when = (
        f'","created":"2026-11-{draw.randint(1, 30):02}T{draw.randint(0, 23):02}:'
        f'{draw.randint(0, 59):02}:{draw.uniform(0, 60):06.3f}Z"'
    )
    seconds = f',"audio_seconds":{draw.expovariate(1 / 90):.3f},"channels":{draw.randint(1, 2)}'
    return _pad(draw.choice(('"', when, when + seconds, when + seconds)), str.ljust)


def _tail(draw: random.Random) -> str:
    number = draw.choice((0, 1, 2, 3, 4, 6, 16))
    tail = {"features": draw.sample(_FEATURES, k=number), "tier": draw.randint(1, 4)}
    return _pad("," + json.dumps(tail, separators=(",", ":"))[1:], str.ljust)


def _pad(text: str, pad: Callable[[str, int], str]) -> str:
    return pad(text, -(-len(text) // 3) * 3)


def _encode(text: str) -> bytes:
    return base64.b64encode(text.encode())


def _split(data: bytes, number: int) -> Iterator[bytes]:
    pieces = struct.iter_unpack(f"{len(data) // number}s", data)
    return chain.from_iterable(pieces)


def _main() -> None:
    parser = argparse.ArgumentParser(description="append records to a journal until ended")
    parser.add_argument("journal", type=Path)
    parser.add_argument("--rate", type=parse_size, default=2 * MIB, help="bytes a second")
    parser.add_argument("--seed", type=int, default=2)
    args = parser.parse_args()
    append_forever(args.journal, args.rate, seed=args.seed)


if __name__ == "__main__":
    _main()
