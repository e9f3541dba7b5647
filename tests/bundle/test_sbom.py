"""The SBOM against the image itself, asked by its own Python and its own dpkg."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.bundle.made import PROJECT, Made
from tests.image.container import Container, Image

_ASK = """\
import importlib.metadata, json, sys
found = importlib.metadata.distributions()
print(json.dumps(sorted([each.metadata["Name"], each.version] for each in found)))
"""


def test_it_is_valid(made: Made) -> None:
    """As its specification has it, so that other tools can read it."""
    text = json.dumps(made.sbom)

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_python_packages_are_those_that_python_finds(made: Made, container: Container) -> None:
    """All that `importlib.metadata` finds in the image's environment, and no more."""
    config = {**container.config, "Entrypoint": ["/opt/journal-backup/bin/python3", "-c"]}
    done = Container(root=container.root, config=config).run(_ASK)
    assert done.returncode == 0, done.stderr

    found = made.components("pypi").values()
    listed = sorted([component["name"], component["version"]] for component in found)
    assert len(listed) > 40
    assert json.loads(done.stdout) == listed


def test_debian_packages_are_those_that_dpkg_finds(made: Made, container: Container) -> None:
    """With the source package that each is made of, by which Debian tracks vulnerabilities."""
    form = "${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\\n"
    done = subprocess.run(
        ["dpkg-query", f"--admindir={container.root}/var/lib/dpkg", "-W", f"-f={form}"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"needs dpkg-query: {done.stderr}")
    expected = {tuple(line.split()) for line in done.stdout.splitlines()}

    listed = set()
    for component in made.components("deb").values():
        found = dict(part.split("=") for part in component["purl"].partition("?")[2].split("&"))
        source, _, version = found["upstream"].partition("%40")
        assert re.fullmatch(r"debian-\d+", found["distro"])
        unquoted = version.replace("%3A", ":").replace("%2B", "+")
        of_source = (source.replace("%2B", "+"), unquoted)
        listed.add((component["name"], component["version"], found["arch"], *of_source))
    assert len(listed) > 50
    assert expected == listed


def test_each_python_package_has_a_licence(made: Made) -> None:
    """Lawyers ask for nothing else."""
    without = [name for name, c in made.components("pypi").items() if not c.get("licenses")]

    assert without == []


def test_each_wheel_is_the_locked_one(made: Made) -> None:
    """One, with its hash: what was fetched for this image, not for another architecture."""
    lock = tomllib.loads((PROJECT / "uv.lock").read_text())["package"]
    locked = {wheel["url"]: wheel["hash"] for each in lock for wheel in each.get("wheels", ())}

    for name, component in made.components("pypi").items():
        if name != "deepgram-journal-backup":
            (wheel,) = component["externalReferences"]
            (digest,) = wheel["hashes"]
            assert locked[wheel["url"]] == f"sha256:{digest['content']}"
            assert digest["alg"] == "SHA-256"


def test_all_is_needed_by_something(made: Made) -> None:
    """From the image one comes to every package, or the graph is in pieces."""
    needs = {each["ref"]: each.get("dependsOn", []) for each in made.sbom["dependencies"]}
    seen, open_ = set[str](), [made.sbom["metadata"]["component"]["bom-ref"]]
    while open_:
        ref = open_.pop()
        if ref not in seen:
            seen.add(ref)
            open_ += needs[ref]

    everything = {component["bom-ref"] for component in made.sbom["components"]}
    assert everything - seen == set()
    (ours,) = [ref for ref in everything if ref.startswith("pkg:pypi/deepgram-journal-backup@")]
    assert {re.sub(r"pkg:pypi/(.*)@.*", r"\1", ref) for ref in needs[ours]} >= {"boto3", "isal"}


def test_its_distribution_is_named(made: Made, image: Image) -> None:
    """A scanner matches Debian's packages by it."""
    found = [c for c in made.sbom["components"] if c["type"] == "operating-system"]

    assert [(each["name"], each["version"]) for each in found] == [("debian", "13")]
    assert made.sbom["metadata"]["timestamp"][:19] == image.document["created"][:19]
