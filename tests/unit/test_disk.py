"""Files on a disk: written whole, however little one call takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backup.disk import flush_directory, write_all


def test_all_is_written_though_one_call_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As write(2) may, on a file system that is nearly full or when a signal comes."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:1000]))
    data = os.urandom(12_345)

    with (tmp_path / "file").open("wb") as file:
        write_all(file.fileno(), data)

    assert (tmp_path / "file").read_bytes() == data


def test_what_is_no_directory_is_not_flushed(tmp_path: Path) -> None:
    """A flush that flushed something else would be no flush."""
    (tmp_path / "file").touch()

    flush_directory(tmp_path)
    with pytest.raises(NotADirectoryError):
        flush_directory(tmp_path / "file")
