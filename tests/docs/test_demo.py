"""The demonstration does what it says, and says so loudly when it does not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from demo import __main__ as demo

ROOT = Path(__file__).resolve().parent.parent.parent


def run(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run what make demo runs, off the terminal."""
    return subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_demonstration_proves_what_it_says(tmp_path: Path) -> None:
    """It shows each command, keeps its files, and ends with what was proved."""
    done = run(tmp_path, BACKUP_SOURCE="/elsewhere", BACKUP_NONSENSE="1")

    assert (done.returncode, done.stderr) == (0, "")
    (place,) = tmp_path.glob("journal-backup-demo-*")
    assert f"$ cd {place}\n" in done.stdout
    assert re.findall(r"Continuity in the manifest: (\w+)\.", done.stdout) == ["first", "extended"]
    assert done.stdout.count(".tar.gz: OK") == 2
    assert done.stdout.count("\nsame\n") == 3
    assert re.search(r"^proved: two backups of a journal while it grew", done.stdout, re.MULTILINE)
    assert (place / "restored" / demo.LIVE / "journal").exists()
    assert "\x1b" not in done.stdout
    assert '{"' not in done.stdout


@pytest.mark.parametrize("command", ["du", "sha256sum"])
def test_a_step_that_fails_fails_the_demonstration(tmp_path: Path, command: str) -> None:
    """Non-zero, naming the command; a demonstration that cannot fail shows nothing."""
    broken = tmp_path / "bin" / command
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    done = run(tmp_path, PATH=f"{broken.parent}{os.pathsep}{os.environ['PATH']}")

    assert done.returncode == 1
    assert "the demo failed: exit code 3 from: " in done.stdout
    assert "proved" not in done.stdout


def test_a_journal_that_nobody_appends_to_fails_the_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was quiet proves nothing about what is live."""
    monkeypatch.setattr(demo, "PATIENCE_SECONDS", 0.05)
    (tmp_path / "journal").write_bytes(b"")

    with pytest.raises(demo.DemoError, match="nobody appends"):
        demo.await_growth(tmp_path / "journal")


def test_a_restore_that_ends_within_a_record_fails_the_demonstration(tmp_path: Path) -> None:
    """The half-written record is what a live journal is about."""
    (tmp_path / "journal").write_bytes(b'{"d":"x","s":"y"}\n{"d":"x"')
    with pytest.raises(demo.DemoError, match="within a record"):
        demo.require_whole_records(tmp_path / "journal")

    (tmp_path / "journal").write_bytes(b'{"d":"x"}\n')
    with pytest.raises(demo.DemoError, match="no record"):
        demo.require_whole_records(tmp_path / "journal")


def test_a_writer_whose_demonstration_was_killed_ends(tmp_path: Path) -> None:
    """Nobody is left to stop it, and it would fill the disk."""
    journal = tmp_path / "journal"
    script = f"'{sys.executable}' -m demo.writer '{journal}' & echo $!; exec sleep 60"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        writer = int(parent.stdout.readline())
        try:
            await_true(lambda: journal.exists() and journal.stat().st_size > 0)
            parent.kill()
            parent.wait()
            await_true(lambda: not is_running(writer))
        finally:
            if is_running(writer):
                os.kill(writer, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def await_true(check: Callable[[], bool]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 20
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)
