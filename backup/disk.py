"""Files on a disk: written whole, and still there after a power failure.

``fsync`` of a file says nothing of its name: a name is as safe as the directory that holds it, so
that is flushed too (fsync(2)).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def write_all(fd: int, data: bytes) -> None:
    """Write all of it: one write(2) may take less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def flush_directory(directory: Path) -> None:
    """Flush the names in a directory to the device."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some file systems cannot
            raise
    finally:
        os.close(fd)
