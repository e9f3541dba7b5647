"""A bucket of a server on this machine, which keeps it as a directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Bucket:
    """One bucket at a time: it is emptied by making another."""

    scheme: str
    endpoint: str
    environment: Mapping[str, str]
    """What names the server to an SDK, and who one is to it."""
    root: Path
    """Where the server keeps its buckets."""
    make: Callable[[], str]
    """Makes a bucket and gives its name."""
    name: str = ""

    @property
    def url(self) -> str:
        """What this project calls a place in it."""
        return f"{self.scheme}://{self.name}/site"

    @property
    def directory(self) -> Path:
        """Where the server keeps it."""
        return self.root / self.name

    def renew(self) -> None:
        """Remove the bucket, and make another."""
        self.remove()
        self.name = self.make()

    def remove(self) -> None:
        """Remove the bucket, if there is one."""
        if self.name:
            shutil.rmtree(self.directory)
        self.name = ""
