"""The real command on sinks that somebody tampered with, and on backups made by hand.

What this tool says is compared with what coreutils and tar say of the same directory: a site
without this tool has to come to the same result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backup.settings import StoreSettings
from backup.sinks import open_sink
from backup.stop import Stop
from tests.handmade import JOURNAL, Chain
from tests.journal_data import records

CHECKOUT = Path(__file__).parents[2]
DATA = records(60)
CUTS = (0, *(len(b"".join(DATA.splitlines(keepends=True)[:n])) for n in (8, 30)))
"""Where its archives begin."""


@dataclass(frozen=True)
class Outcome:
    """What the command answered."""

    code: int
    result: dict[str, Any]

    @property
    def told(self) -> str:
        """All that it found wrong."""
        return " | ".join(p["message"] for p in self.result.get("problems", ()))


def command(*arguments: str, sinks: str) -> Outcome:
    """Run the real command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BACKUP_")}
    process = subprocess.run(
        [sys.executable, "-m", "backup", *arguments, "--json"],
        cwd=CHECKOUT,
        env=kept | {"BACKUP_SINKS": sinks},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Outcome(process.returncode, json.loads(process.stdout))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a sink's directory."""
    (tmp_path / "sink").mkdir()
    return tmp_path / "sink"


@pytest.fixture
def chain(root: Path, tmp_path: Path) -> Chain:
    """Make a full backup, two that share its archive, and another full one."""
    options = StoreSettings(source=tmp_path / "source")
    made = Chain(open_sink(f"file://{root}", options, stop=Stop()))
    made.full(DATA[: CUTS[1]])
    made.incremental(DATA[CUTS[1] : CUTS[2]])
    made.incremental(DATA[CUTS[2] :])
    made.full(DATA)
    return made


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    """Change a file in place."""
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def sha256sum(directory: Path) -> int:
    """Check every checksum file of a directory."""
    names = sorted(p.name for p in directory.glob("*.sha256"))
    process = subprocess.run(
        ["sha256sum", "--strict", "--quiet", "-c", *names],
        cwd=directory,
        capture_output=True,
        check=False,
    )
    return process.returncode


def test_what_is_untouched_is_proved_by_both(root: Path, chain: Chain) -> None:
    """By this tool, and by sha256sum alone."""
    for arguments in (("verify",), ("verify", "--deep")):
        outcome = command(*arguments, sinks=f"file://{root}")

        assert (outcome.code, outcome.told) == (0, "")
        assert len(outcome.result["backups"]) == len(chain.manifests)
    assert sha256sum(root / JOURNAL) == 0


def test_a_backup_in_several_archives_is_restored_by_hand_too(
    tmp_path: Path, root: Path, chain: Chain
) -> None:
    """``tar xzf`` of each archive and ``cat`` in order: no tool of ours."""
    made = chain.manifests[2]
    by_hand, by_tool = tmp_path / "hand", tmp_path / "tool"
    by_hand.mkdir()
    for archive in made.archives:
        subprocess.run(["tar", "xzf", root / archive.key], cwd=by_hand, check=True)
    names = [segment.member for segment in made.files[0].segments]
    whole = subprocess.run(["cat", *names], cwd=by_hand, check=True, capture_output=True).stdout
    outcome = command("restore", made.id, "--target", str(by_tool), sinks=f"file://{root}")

    assert outcome.code == 0
    assert len(names) == len(CUTS)
    assert whole == (by_tool / JOURNAL / "journal").read_bytes() == DATA


ARCHIVE_DAMAGE: dict[str, Callable[[Path], None]] = {
    "first byte": lambda p: edit(p, lambda d: d.__setitem__(0, d[0] ^ 1)),
    "in the middle": lambda p: edit(p, lambda d: d.__setitem__(len(d) // 2, 7)),
    "last byte": lambda p: edit(p, lambda d: d.__setitem__(-1, d[-1] ^ 1)),
    "truncated": lambda p: os.truncate(p, p.stat().st_size - 1),
    "emptied": lambda p: os.truncate(p, 0),
    "grown": lambda p: edit(p, lambda d: d.append(0)),
    "missing": lambda p: p.unlink(),
    "another backup's": lambda p: edit(p, lambda d: d.__setitem__(slice(None), other(p))),
}


def other(path: Path) -> bytes:
    """Read another archive of the same directory."""
    return next(p for p in sorted(path.parent.glob("*.tar.gz")) if p != path).read_bytes()


@pytest.mark.parametrize("how", ARCHIVE_DAMAGE)
def test_a_tampered_archive_is_found_and_not_restored(
    tmp_path: Path, root: Path, chain: Chain, how: str
) -> None:
    """By every backup that shares it, and by sha256sum as well; nothing is left in the target."""
    key = chain.manifests[1].archives[1].key
    ARCHIVE_DAMAGE[how](root / key)
    outcome = command("verify", "--deep", sinks=f"file://{root}")
    target = tmp_path / "target"
    restored = command(
        "restore", chain.manifests[2].id, "--target", str(target), sinks=f"file://{root}"
    )

    damaged = [b["id"] for b in outcome.result["backups"] if b["findings"]]
    assert (outcome.code, damaged) == (6, [m.id for m in chain.manifests[1:3]])
    assert key in outcome.told
    assert sha256sum(root / JOURNAL) != 0
    assert restored.code in {5, 6}
    assert not target.exists() or list(target.iterdir()) == []


def rewritten(path: Path, **changes: Any) -> None:
    """Edit a stored manifest so that it stays valid JSON."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


MANIFEST_DAMAGE: dict[str, Callable[[Path], None]] = {
    "a blank": lambda p: edit(p, lambda d: d.extend(b" ")),
    "the site": lambda p: rewritten(p, site="elsewhere"),
    "the journal": lambda p: rewritten(p, journal="journal-deepgram-billing-1"),
    "suspect": lambda p: rewritten(p, suspect=True),
    "no archives": lambda p: rewritten(p, archives=[]),
    "no files": lambda p: rewritten(p, files=[]),
    "reversed": lambda p: edit(p, lambda d: d.reverse()),
    "empty": lambda p: os.truncate(p, 0),
    "removed": lambda p: p.unlink(),
}


@pytest.mark.parametrize("how", MANIFEST_DAMAGE)
def test_a_tampered_manifest_is_found(root: Path, chain: Chain, how: str) -> None:
    """By its successor's link, whatever was edited; the others are verified all the same."""
    victim = chain.manifests[1]
    MANIFEST_DAMAGE[how](root / JOURNAL / f"{JOURNAL}-{victim.id}.manifest.json")
    outcome = command("verify", sinks=f"file://{root}")

    assert outcome.code == 6
    assert victim.id in outcome.told
    found = {b["id"] for b in outcome.result["backups"] if b["findings"]}
    assert chain.manifests[2].id in found
    assert found <= {victim.id, chain.manifests[2].id}


def test_a_tampered_checksum_file_is_found(root: Path, chain: Chain) -> None:
    """It would lead a site without this tool astray."""
    path = root / JOURNAL / f"{JOURNAL}-{chain.last.id}.sha256"
    path.write_text(path.read_text().replace(path.read_text()[:4], "0000"))
    outcome = command("verify", sinks=f"file://{root}")

    assert outcome.code == 6
    assert [b["id"] for b in outcome.result["backups"] if b["findings"]] == [chain.last.id]
    assert path.name in outcome.told


def test_latest_is_taken_from_where_it_is_good(tmp_path: Path, root: Path, chain: Chain) -> None:
    """An archive that is gone on the first sink is restored from the second."""
    second = tmp_path / "second"
    subprocess.run(["cp", "-a", root, second], check=True)
    (root / chain.last.archives[0].key).unlink()
    sinks = f"file://{root},file://{second}"
    target = tmp_path / "target"
    restored = command("restore", "latest", "--target", str(target), sinks=sinks)
    verified = command("verify", "latest", sinks=sinks)

    assert restored.code == 0
    assert [r["sink"] for r in restored.result["restored"]] == [f"file://{second}"]
    assert (target / JOURNAL / "journal").read_bytes() == DATA
    assert verified.code == 6
    assert [bool(b["findings"]) for b in verified.result["backups"]] == [True, False]


@pytest.mark.parametrize(
    ("verb", "one_down"), [(("list",), 3), (("list", "--long"), 3), (("verify",), 3)]
)
def test_a_sink_that_is_gone_is_no_damage(
    tmp_path: Path, root: Path, chain: Chain, verb: tuple[str, ...], one_down: int
) -> None:
    """Exit 3 while another answers, 5 when none does; never 6."""
    gone = f"file://{tmp_path / 'gone'}"
    some = command(*verb, sinks=f"{gone},file://{root}")
    none = command(*verb, sinks=gone)

    assert (some.code, len(some.result["backups"])) == (one_down, len(chain.manifests))
    assert none.code == 5
