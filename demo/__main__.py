"""Run the demonstration; the exit code is 0 only if every step did what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from demo.writer import records

LIVE = "journal-deepgram-billing-0"
QUIET = "journal-deepgram-billing-1"
MODELS = ("nova-3-general.en.batch.dg", "nova-3-general.en.streaming.dg")
PATIENCE_SECONDS = 10.0

COLOURED = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


class DemoError(Exception):
    """A step did not do what it says."""


def main() -> int:
    """Run all steps; give the exit code."""
    place = Path(tempfile.mkdtemp(prefix="journal-backup-demo-"))
    try:
        proved = demonstrate(place)
    except DemoError as error:
        print(paint("1;31", f"\nthe demo failed: {error}"))
        print(f"its files are left in {place}")
        return 1
    print(paint("1;32", f"\nproved: {proved}"))
    print(f"look around in {place}, and remove it with: rm -r {place}")
    return 0


def demonstrate(place: Path) -> str:
    """Take the steps; say what they have proved."""
    shell = Shell(place)
    heading("1. Two journals on one volume, beside models that are none of our business")
    print("(Files of nothing but zeros stand for the models. They take no room.)")
    make_volume(place / "journals")
    (place / "sink").mkdir()
    shell.run("du -ah --apparent-size journals")
    shell.export("BACKUP_SOURCE", f"{place}/journals", "where the volume is mounted")
    shell.export("BACKUP_SINKS", f"file://{place}/sink", "where backups go: NFS, say")
    shell.export("BACKUP_LOG_LEVEL", "error", "only the results, for now")

    live = place / "journals" / LIVE / "journal"
    with appending_to(live) as is_appending:
        heading("2. Back up, while another process keeps appending to the first journal")
        await_growth(live)
        back_up(shell, live, continuity="first")

        heading("3. Back up again: what was there must still be there, and the rest is new")
        await_growth(live)
        back_up(shell, live, continuity="extended")

        heading("4. List the backups, and verify each one: hashes, chain, every record parsed")
        shell.run("journal-backup list --long")
        shell.run("journal-backup verify --deep")

        heading("5. Restore the latest, and compare with the journals")
        shell.run("journal-backup restore latest --target restored")
        print("The first has grown since: its restore is all that was there at the backup.")
        restored = f"restored/{LIVE}/journal"
        shell.run(
            f'cmp -n "$(stat -c %s {restored})" {restored} journals/{LIVE}/journal && echo same'
        )
        shell.run(f"cmp restored/{QUIET}/journal journals/{QUIET}/journal && echo same")
        require_whole_records(place / restored)
        require(is_appending(), "the process that appends has ended early")

    heading("6. Check and unpack the archives without us: coreutils and tar alone")
    archive = newest(place, LIVE)["archives"][0]["key"]
    shell.run(f"cd sink/{LIVE} && sha256sum -c *.sha256")
    shell.run(f"mkdir by-hand && tar -xzf sink/{archive} -C by-hand")
    shell.run(f"cmp by-hand/{LIVE}/journal {restored} && echo same")
    return (
        f"two backups of a journal while it grew from {size(newest(place, LIVE, back=1))}"
        f" to {size(newest(place, LIVE))} bytes; each verified, restored and compared, and"
        " checked with sha256sum and tar alone"
    )


# -- what is shown


def heading(text: str) -> None:
    """Say what comes next."""
    print(paint("1", f"\n{text}"), flush=True)


def paint(code: str, text: str) -> str:
    """Colour a text for a terminal."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURED else text


class Shell:
    """A shell in the demo's directory: what it runs is what it shows."""

    def __init__(self, place: Path) -> None:
        """Begin there, with the command of this checkout first in the PATH."""
        self._place = place
        ours = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("BACKUP_")}
        self._environment = clean | {"PATH": ours}
        self._show(f"cd {place}")

    def _show(self, command: str) -> None:
        print(paint("36", f"$ {command}"), flush=True)

    def export(self, name: str, value: str, why: str) -> None:
        """Set a variable for all that follows."""
        self._environment[name] = value
        shown = f"{name}={value.replace(str(self._place), '$PWD')}"
        self._show(f"export {shown:<30}  # {why}")

    def run(self, command: str) -> None:
        """Run a command line; it has to succeed."""
        self._show(command)
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=self._place, env=self._environment, check=False
        )
        require(done.returncode == 0, f"exit code {done.returncode} from: {command}")


def require(truth: object, message: str) -> None:
    """Go on only if it is so."""
    if not truth:
        raise DemoError(message)


# -- what happens behind it


def make_volume(source: Path) -> None:
    """Make the journals and the models."""
    for name, count, seed in ((LIVE, 20_000, 1), (QUIET, 3_000, 2)):
        (source / name).mkdir(parents=True)
        (source / name / "journal").write_bytes(b"".join(islice(records(seed), count)))
    (source / "models").mkdir()
    for name in MODELS:
        with (source / "models" / name).open("wb") as weights:
            weights.truncate(2 << 30)  # takes no room


@contextmanager
def appending_to(journal: Path) -> Iterator[Any]:
    """Keep a process appending to a journal; give a function that says whether it still does."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "demo.writer", str(journal)]
    with subprocess.Popen(command, cwd=root) as writer:
        try:
            yield lambda: writer.poll() is None
        finally:
            writer.terminate()


def await_growth(journal: Path) -> None:
    """Wait until something was appended."""
    before, until = journal.stat().st_size, time.monotonic() + PATIENCE_SECONDS
    while journal.stat().st_size < before + 10_000:
        require(time.monotonic() < until, f"nobody appends to {journal}")
        time.sleep(0.02)


def back_up(shell: Shell, live: Path, *, continuity: str) -> None:
    """Make a backup while the journal grows, and look up what its manifest says."""
    before = live.stat().st_size
    shell.run("journal-backup backup")
    after = live.stat().st_size
    manifest = newest(live.parents[2], LIVE)
    grown = f"It grew by {after - before:,} bytes while this ran."
    print(f"{grown} Continuity in the manifest: {manifest['continuity']}.")
    require(after > before, f"{live} did not grow during the backup")
    require(manifest["continuity"] == continuity, f"the continuity should be {continuity!r}")


def newest(place: Path, journal: str, *, back: int = 0) -> dict[str, Any]:
    """Read the newest manifest of a journal, or one before it."""
    found = sorted((place / "sink" / journal).glob("*.manifest.json"), reverse=True)
    require(len(found) > back, f"there is no manifest of {journal} in {place}/sink")
    manifest: dict[str, Any] = json.loads(found[back].read_bytes())
    return manifest


def size(manifest: dict[str, Any]) -> str:
    """Give the size of the journal in a manifest."""
    return f"{manifest['files'][0]['size_bytes']:,}"


def require_whole_records(journal: Path) -> None:
    """Insist that a journal ends with a record, and that its records are whole."""
    data = journal.read_bytes()
    require(data.endswith(b"\n"), f"{journal} ends within a record")
    keys = {tuple(json.loads(line)) for line in data.splitlines()}
    require(keys == {("d", "s")}, f"{journal} holds something that is no record")


if __name__ == "__main__":
    sys.exit(main())
