"""The documents say what the code does: each thing in them that can be checked is checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import jsonschema
import pytest

from backup import catalog, config, manifest, report
from backup.cli import grammar
from docs import generate
from tests import manifests
from tests.journal_data import records, write_journal

ROOT = generate.ROOT
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
JOURNAL = "journal-deepgram-billing-0"
EXAMPLE_ID = "20261123T020000Z-3f9a1c"

_FENCED = re.compile(r"^( *)```(?P<kind>[a-z]*)\n(?P<text>.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Give the fenced blocks of a page: kind and text."""
    for match in _FENCED.finditer(page.read_text()):
        yield match["kind"], match["text"]


def block(page: str, word: str) -> str:
    """Give the one shell block of a page that holds a word."""
    (found,) = [text for kind, text in blocks(ROOT / page) if kind == "sh" and word in text]
    return found


def test_generated_parts_are_as_the_code_says() -> None:
    """Settings, exit codes, --help, fields and schema: run make docs after changing them."""
    assert [str(path.relative_to(ROOT)) for path, _ in generate.outdated()] == []


def test_every_block_is_used() -> None:
    """A table that is made and not shown is forgotten."""
    text = "".join(page.read_text() for page in PAGES)

    assert all(f"<!-- begin {name}: written by make docs -->" in text for name in generate.BLOCKS)


def test_an_outdated_part_is_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check itself has to be able to fail."""
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/reference.md", "docs/manifest-v1.schema.json"):
        (tmp_path / name).write_text((ROOT / name).read_text().replace("BACKUP_SITE", "BACKUP_X"))
    monkeypatch.setattr(generate, "ROOT", tmp_path)

    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    assert "docs/reference.md: outdated, run make docs" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert generate.main() == 0
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 0


@each_page
def test_links_resolve(page: Path) -> None:
    """Files that are there, headings that exist; other sites are not asked."""
    for match in _LINK.finditer(_FENCED.sub("", page.read_text())):
        target = match["target"]
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / unquote(name)) if name else page
        assert other.exists(), target
        if anchor:
            assert anchor in anchors(other), target


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_setting_that_is_mentioned_exists(page: Path) -> None:
    """A name that is not a setting is refused by the command, so nobody may be told to use it."""
    known = config.SETTINGS.keys()

    assert set(re.findall(r"\bBACKUP_[A-Z0-9_]+", page.read_text())) <= known


@each_page
def test_every_command_that_is_shown_parses(page: Path) -> None:
    """In blocks and in running text: it can be typed as it stands."""
    text = page.read_text()
    shown = [line.strip() for _, code in blocks(page) for line in code.splitlines()]
    shown += re.findall(r"`(journal-backup [^`]+)`", _FENCED.sub("", text))
    typed = [line.removeprefix("$ ").removeprefix("toolbox ") for line in shown]
    commands = [line for line in typed if line.startswith("journal-backup ")]
    for command in commands:
        words = shlex.split(command.partition(">")[0], comments=True)[1:]
        if words and not {"--help", "config."} & set(words):
            assert grammar.parser().parse_args(words).verb == words[0], command


def test_the_readme_shows_every_verb() -> None:
    """Some way to use each one, not only its name."""
    text = (ROOT / "README.md").read_text()

    for name, verb in grammar.VERBS.items():
        shown = f"journal-backup {name}" in text
        assert shown is not verb.is_hidden or name == "version"


def test_the_map_has_every_module() -> None:
    """One line each; the cluster wing's own map is in its docstring."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text.partition("| module | holds |\n|---|---|\n")[2].partition("\n\n")[0]
    mapped = re.findall(r"^\| `([a-z0-9/]+)` \|", table, re.MULTILINE)
    paths = [path.relative_to(ROOT / "backup") for path in (ROOT / "backup").rglob("*.py")]
    modules = {str(path.with_suffix("")).removesuffix("/__init__") for path in paths}
    there = {m for m in modules if not m.startswith(("__", "cluster/"))} - {"verbs"}

    assert sorted(mapped) == sorted(there)

    wing = (ROOT / "backup/cluster/__init__.py").read_text()
    listed = re.findall(r"^- :mod:`~backup\.cluster\.([a-z0-9]+)`", wing, re.MULTILINE)
    assert sorted(f"cluster/{name}" for name in listed) == sorted(
        m for m in modules if m.startswith("cluster/")
    )


def test_the_order_of_imports_is_the_one_that_the_linter_keeps() -> None:
    """A module that is new in one of them has to be in both."""
    (chain,) = [block for _, block in blocks(ROOT / "CONTRIBUTING.md") if "→" in block]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]

    assert [step.strip() for step in chain.split("→")] == layers


def test_exit_codes_agree() -> None:
    """In the table, in --help and in the code."""
    table = generate.exit_code_table()
    helped = generate.help_text()

    for code in report.EXIT_CODES:
        assert f"| {code} |" in table
        assert re.search(rf"^  (\d, )?{code}\b", helped, re.MULTILINE)
    order = re.search(r"counts: ([0-9a-z, ]+)\.", (ROOT / "docs/reference.md").read_text())
    assert order is not None
    assert order[1] == ", ".join(["8", "signals", *map(str, report._SEVERITY[1:])])


def test_the_published_schema_takes_what_is_written() -> None:
    """And refuses what it should."""
    schema = json.loads((ROOT / "docs/manifest-v1.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)

    validator.validate(
        json.loads(manifest.parse(json.dumps(manifests.shared()).encode()).to_bytes())
    )
    assert not validator.is_valid(manifests.plain() | {"id": "today"})


def test_the_make_targets_that_are_named_exist() -> None:
    """The first thing that somebody types."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for page in PAGES:
        named = set(re.findall(r"(?:`|^\$ )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE))
        assert named <= targets


# -- what is to be done by hand


def shell(script: str, *, replacing: dict[str, str]) -> str:
    """Run a script of the documents, with other places and ids; give what it prints."""
    for old, new in replacing.items():
        script = script.replace(old, new)
    done = subprocess.run(
        ["/bin/sh", "-euc", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.defpath},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/format.md"])
def test_a_backup_is_checked_and_restored_by_hand_as_written(tmp_path: Path, page: str) -> None:
    """With coreutils and tar alone, at a site that does not have this tool."""
    data = records(20)
    (tmp_path / "nas").mkdir()
    write_journal(tmp_path / "journals", 0, data)
    environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("BACKUP_")}
    done = subprocess.run(
        [sys.executable, "-m", "backup", "backup", "--json"],
        env=environment
        | {"BACKUP_SOURCE": f"{tmp_path}/journals", "BACKUP_SINKS": f"file://{tmp_path}/nas"},
        capture_output=True,
        check=True,
    )
    made = json.loads(done.stdout)["journals"][0]["copies"][0]["id"]

    said = shell(
        block(page, "sha256sum -c"),
        replacing={
            "/mnt/nas": f"{tmp_path}/nas",
            "/restored": f"{tmp_path}/restored",
            EXAMPLE_ID: made,
        },
    )
    assert f"{made}.tar.gz: OK" in said
    assert hashlib.sha256(data).hexdigest() in said
    assert (tmp_path / "restored" / JOURNAL / "journal").read_bytes() == data


@pytest.mark.parametrize("page", ["README.md", "docs/format.md"])
def test_a_backup_of_several_archives_is_restored_by_hand_as_written(
    tmp_path: Path, page: str
) -> None:
    """The pieces are put together in the order of their names."""
    pieces = {0: records(20), 7_000: records(15, seed=2), 90_000: records(3, seed=3)}
    content = manifests.shared()
    directory = tmp_path / "nas" / JOURNAL
    directory.mkdir(parents=True)
    for (offset, data), archive in zip(pieces.items(), content["archives"], strict=True):
        path = tmp_path / "nas" / archive["key"]
        with tarfile.open(path, "w:gz") as packed:
            name = f"{JOURNAL}/journal{f'.{offset:015}' if offset else ''}"
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    key = catalog.manifest_key(JOURNAL, content["id"])
    model = manifest.parse(json.dumps(content).encode())
    (tmp_path / "nas" / key).write_bytes(model.to_bytes())

    shell(
        block(page, "/pieces"),
        replacing={
            "/mnt/nas": f"{tmp_path}/nas",
            "/pieces": f"{tmp_path}/pieces",
            "/whole": f"{tmp_path}/whole",
            EXAMPLE_ID: content["id"],
        },
    )
    assert (tmp_path / "whole").read_bytes() == b"".join(pieces.values())


def test_the_chain_is_followed_by_hand_as_written(tmp_path: Path) -> None:
    """Each link is the SHA-256 of the manifest before it."""
    first = manifest.parse(json.dumps(manifests.plain()).encode()).to_bytes()
    link = hashlib.sha256(first).hexdigest()
    second = manifests.plain() | {
        "id": manifests.SECOND,
        "continuity": "unchanged",
        "previous": {"id": manifests.FIRST, "manifest_sha256": link},
    }
    (tmp_path / "1.manifest.json").write_bytes(first)
    (tmp_path / "2.manifest.json").write_bytes(
        manifest.parse(json.dumps(second).encode()).to_bytes()
    )

    script = block("docs/format.md", '"previous": {')
    said = shell(f"cd {shlex.quote(str(tmp_path))}\n{script}", replacing={})
    assert f"{link}  1.manifest.json" in said
    assert f'"manifest_sha256": "{link}"' in said
