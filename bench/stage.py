"""Where the runs happen: a journal, empty sinks and an empty temporary directory.

All of it is on one file system, and every contender finds the same: the sinks and the temporary
directory empty, the journal in the page cache, and nothing left to be written to the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.bucket import Bucket
from bench.measure import Command
from bench.records import make_journal
from bench.sizes import MIB

ROOT = Path(__file__).parent.parent
"""The checkout that is measured."""
JOURNAL = "journal-deepgram-billing-0"
Sinks = tuple[str, ...]
FILE: Sinks = ("file",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A directory with a journal of a size."""

    directory: Path
    journal_bytes: int
    """Of all journals, where there are several."""
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    """Sinks beside the directory, by what ``sinks`` calls them."""

    @property
    def source(self) -> Path:
        """The volume's root, as with a shared volume."""
        return self.directory / "source"

    @property
    def volume(self) -> Path:
        """The directory with the journal, the volume's root as with a volume for each pod."""
        return self.source / JOURNAL

    @property
    def journal(self) -> Path:
        """The journal."""
        return self.volume / "journal"

    @property
    def sink(self) -> Path:
        """The directory to which backups go: the sink ``file``."""
        return self.directory / "sink"

    @property
    def temporary(self) -> Path:
        """``TMPDIR`` and ``HOME`` of what is run."""
        return self.directory / "tmp"

    def set(self) -> None:
        """Make the journal, unless it is there."""
        if not self.journal.exists():
            make_journal(self.journal, self.journal_bytes)

    def clear(self) -> None:
        """Empty the sinks and the temporary directory."""
        for directory in (self.sink, self.temporary):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        for bucket in self.buckets.values():
            bucket.renew()

    def settle(self) -> None:
        """Read what is in the source into the page cache, and let the disk come to rest."""
        for path in self.source.glob("*/journal"):
            with path.open("rb", buffering=0) as file:
                while file.read(MIB):
                    pass
        os.sync()

    def forget_sinks(self) -> None:
        """Drop what is on the sinks from the page cache, so that it is read from the device."""
        os.sync()
        for path in self._stored():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def written_bytes(self) -> int:
        """The size of everything on the sinks."""
        return sum(path.stat().st_size for path in self._stored())

    def _stored(self) -> Iterator[Path]:
        for root in (self.sink, *(bucket.directory for bucket in self.buckets.values())):
            yield from filter(Path.is_file, root.rglob("*"))

    def command(self, *argv: str | Path, **env: str) -> Command:
        """Prepare a command that sees this stage and little else of the environment."""
        usual = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.temporary),
            "TMPDIR": str(self.temporary),
            "LANG": "C.UTF-8",
        }
        return Command(argv=tuple(map(str, argv)), env=usual | env, cwd=ROOT)

    def ours(self, *argv: str | Path, sinks: Sinks = FILE, **env: str) -> Command:
        """Prepare a command of this project, with its settings for this stage.

        Args:
            argv: its arguments.
            sinks: where to; ``file`` is the directory.
            env: further settings.
        """
        buckets = [self.buckets[name] for name in sinks if name != "file"]
        urls = [bucket.url for bucket in buckets]
        settings = {
            "BACKUP_SOURCE": str(self.source),
            "BACKUP_SINKS": " ".join([f"file://{self.sink}"] * ("file" in sinks) + urls),
            "BACKUP_FILE_REQUIRE_MOUNT": "false",
        }
        for bucket in buckets:
            settings |= bucket.environment
        return self.command(sys.executable, "-m", "backup", *argv, **settings | env)

    @contextmanager
    def growing(self, rate: int) -> Iterator[None]:
        """Have the journal appended to meanwhile; it is cut back afterwards.

        Args:
            rate: bytes a second.
        """
        argv = [sys.executable, "-m", "bench.records", str(self.journal), "--rate", str(rate)]
        writer = subprocess.Popen(argv, cwd=ROOT)
        try:
            while self.journal.stat().st_size == self.journal_bytes and writer.poll() is None:
                time.sleep(0.05)
            yield
            if writer.poll() is not None:
                message = "the writer of the growing journal has ended"
                raise RuntimeError(message)
        finally:
            writer.kill()
            writer.wait()
            os.truncate(self.journal, self.journal_bytes)
