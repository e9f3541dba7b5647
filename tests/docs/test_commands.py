"""The commands of the documents, run as a reader would, and what they print.

A fenced block of shell is taken line by line. What a reader types of this command (as it is, or in
the toolbox), and the coreutils around it, is run here, in the order of the page, on files: the
page's example paths and ids stand for those of a small site that is made for it. What needs a
cluster, a registry, a bucket of one's own or root is not run here; its reason is counted, so that
nothing slips into it unseen. Lines of ``helm`` and
``kubectl`` are run by tests/e2e and tests/chart.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.journal_data import records, write_journal

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    if re.search(r"^ *```(?:sh|console)$", path.read_text(), re.MULTILINE)
)

NOT_HERE = {
    "kubectl": "needs a cluster",
    "helm": "needs a cluster",
    "kind": "needs a cluster",
    "alias": "needs a cluster",
    "pod=": "needs a cluster",
    "make": "builds an image, or runs all tests",
    "image/wheelhouse.sh": "builds an image, or runs all tests",
    "docker": "needs a registry",
    "cosign": "needs a registry",
    "ctr": "needs a node",
    '"${EDITOR:-vi}"': "opens an editor",
    "aws": "needs a bucket",
    "gcloud": "needs a bucket",
    "systemctl": "needs root",
    "journalctl": "needs root",
    "useradd": "needs root",
    "chown": "needs root",
    "chmod": "needs root",
    "runuser": "needs root",
    "install": "needs root",
}
"""Why a line is not run here, by its first word."""
_BUNDLE = re.compile(r"airgap\.tar|image\.tar|SHA256SUMS && gzip|/export/")
_BUCKET = re.compile(r"(?:s3|gs)://")

_OURS = re.compile(
    r"\bjournal-backup (?!-)|^export BACKUP_|^tar -xf bundle|^\(cd deepgram-journals"
)
"""What is run: this command, and what makes or opens what it needs and gives. The recipes with
coreutils have tests of their own (test_documents.py)."""

COUNTED = (
    299,
    59,
    {
        "needs a cluster": 108,
        "needs a bucket": 18,
        "needs root": 17,
        "needs the bundle": 16,
        "builds an image, or runs all tests": 11,
        "needs a registry": 5,
        "opens an editor": 4,
        "needs a node": 2,
    },
)
"""All lines, those that are run, and why others are not."""

_BLOCK = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
_ID = re.compile(r"\b20[0-9]{6}T[0-9]{6}Z-[0-9a-f]{6}\b")
_NUMBER = re.compile(r"[0-9][0-9,.]*")
_UNIT = re.compile(r"\b(?:[KMG]iB|B)\b")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that a reader types, and what the page shows of its output, if it shows any."""

    text: str
    shown: str = ""

    @property
    def reason(self) -> str | None:
        """Why it is not run here; None where it is."""
        if _BUNDLE.search(self.text):
            return "needs the bundle"
        if "resume-billing" in self.text:
            return "needs a cluster"
        if _BUCKET.search(self.text):
            return "needs a bucket"
        if "/opt/journal-backup" in self.text or "/etc/" in self.text:
            return "needs root"
        first, equals, _ = self.text.split()[0].partition("=")
        return NOT_HERE.get(first + equals)


@dataclass(slots=True)
class Site:
    """What a page's examples stand for."""

    root: Path
    alarm: str = ""
    newest: str = ""
    env: dict[str, str] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make journals, a sink with a history, and an alarm that stands."""
        names = ("journals", "nas", "sinks/archive", "restored", "targets", "work")
        self.places = {f"/{name}": self.root / name for name in names}
        for path in self.places.values():
            path.mkdir(parents=True)
        archive = self.places["/sinks/archive"]
        self.env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BACKUP_")},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BACKUP_SOURCE": str(self.places["/journals"]),
            "BACKUP_SINKS": f"file://{archive}",
            "COLUMNS": "200",
        }
        for ordinal, count in ((0, 300), (1, 200), (2, 10)):
            write_journal(self.places["/journals"], ordinal, records(count))
        self._backup()
        write_journal(self.places["/journals"], 0, records(400))
        write_journal(self.places["/journals"], 1, records(1, seed=2))
        self._backup()
        self.newest = self._id(archive, 0)
        self.alarm = self._id(archive, 1)
        shutil.rmtree(self.places["/journals"] / "journal-deepgram-billing-2")

    def _backup(self) -> None:
        command = [sys.executable, "-m", "backup", "backup"]
        subprocess.run(command, env=self.env, cwd=ROOT, check=False, capture_output=True)

    @staticmethod
    def _id(archive: Path, ordinal: int) -> str:
        names = (archive / f"journal-deepgram-billing-{ordinal}").glob("*.manifest.json")
        return str(max(found for name in names for found in _ID.findall(name.name)))

    def here(self, text: str) -> str:
        """Say a line of the page with the paths and ids of this site."""
        for path, place in self.places.items():
            text = re.sub(rf"(?<![\w.]){re.escape(path)}\b", str(place), text)
        backup_id = self.alarm if "acknowledge" in text else self.newest
        return str(_ID.sub(backup_id, text))


def lines(page: str) -> Iterator[Line]:
    """Read what a page lets its reader type, in order."""
    blocks = [*_BLOCK.finditer((ROOT / page).read_text())]
    for number, block in enumerate(blocks):
        if block["language"] not in {"sh", "console"}:
            continue
        after = blocks[number + 1] if number + 1 < len(blocks) else None
        is_output = after is not None and after["language"] == "text"
        shown = after["body"] if after is not None and is_output else ""
        typed = re.sub(r"\\\n\s*", " ", block["body"]).splitlines()
        if block["language"] == "console":
            typed = [line.strip()[2:] for line in typed if line.strip().startswith("$ ")]
        told = [line.strip() for line in typed if line.strip() and not line.strip().startswith("#")]
        for line in told:
            yield Line(line, shown)


def shape(text: str) -> set[str]:
    """Give what is the same in every run: titles and sentences, without ids and numbers."""
    plain = _UNIT.sub("B", _NUMBER.sub("N", _ID.sub("ID", text)))
    words = (re.sub(r"\s+", " ", line).strip() for line in plain.splitlines())
    return {re.sub(r"\b(journal|backup)s\b", r"\1", line) for line in words if line}


PRELUDE = """
shopt -s expand_aliases
toolbox() { "$@"; }
journal-backup() { python -m backup "$@"; }
env() { ( while [[ $1 == *=* ]]; do export "$1"; shift; done; "$@" ) }
"""
_END = "::exit "
_BUGS = {1, 2, 126, 127}
"""An unexpected error, wrong words, and what is no command."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Make a site."""
    return Site(tmp_path / "site")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_lets_its_reader_type_works(site: Site, page: str) -> None:
    """Line after line, in one shell, in the order of the page."""
    run = [line for line in lines(page) if line.reason is None and _OURS.search(line.text)]
    script = [
        PRELUDE,
        *(f"{site.here(line.text)}\ncode=$?; echo; echo {_END}$code" for line in run),
    ]
    done = subprocess.run(
        ["bash", "-s"],
        input="\n".join(script),
        env={**site.env, "PYTHONPATH": str(ROOT)},
        cwd=site.places["/work"],
        check=False,
        capture_output=True,
        text=True,
    )
    codes = [int(code) for code in re.findall(rf"^{_END}([0-9]+)$", done.stdout, re.MULTILINE)]
    failed = [line.text for line, code in zip(run, codes, strict=True) if code in _BUGS]
    assert failed == [], done.stderr[-3000:]

    printed = shape(done.stdout)
    titles = {t for line in run for t in shape(line.shown) if t.startswith("JOURNAL ")}
    assert titles <= printed


def test_what_is_not_run_has_its_reason() -> None:
    """They are counted: whether a line that is new can be run here is to be decided."""
    every = [line for page in PAGES for line in lines(page)]
    reasons = Counter(line.reason for line in every if line.reason)
    run = sum(bool(_OURS.search(line.text)) for line in every if not line.reason)

    assert (len(every), run, dict(reasons)) == COUNTED
