"""What is carried into a site without a network is whole, is enough, and is always the same."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml

import backup
from bundle import __main__ as program
from tests.bundle.made import NAME, PROJECT, Made, run
from tests.image.container import Image

PAGE = PROJECT / "docs" / "airgapped.md"
CHART = PROJECT / "charts" / "deepgram-journal-backup"

_FENCED = re.compile(r"^```(?P<kind>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s#]+)(?:#[^)]*)?\)")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- it is whole


def test_its_checksums_check_with_coreutils(made: Made) -> None:
    """As the page says; and no file is left out."""
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=made.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    found = {str(path.relative_to(made.directory)) for path in made.directory.rglob("*.*")}
    found |= {path.name for path in made.directory.iterdir()}
    listed = {line.removesuffix(": OK") for line in done.stdout.splitlines()}

    assert (done.returncode, done.stderr) == (0, "")
    files = {name for name in found if (made.directory / name).is_file()}
    assert files - {"SHA256SUMS"} == listed


def test_it_is_checked_as_written(made: Made, tmp_path: Path) -> None:
    """By the first lines of the page, typed where the file is."""
    script, *_ = [m["text"] for m in _FENCED.finditer(PAGE.read_text()) if m["kind"] == "sh"]
    (tmp_path / f"{NAME}-airgap.tar").symlink_to(made.file)
    done = subprocess.run(
        ["/bin/sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "image.tar.gz: OK" in done.stdout
    assert (tmp_path / NAME / "image.tar").is_file()
    shutil.rmtree(tmp_path / NAME)


def test_damage_is_found(made: Made, tmp_path: Path) -> None:
    """The check itself has to be able to fail."""
    for name in ("SHA256SUMS", "site.yaml"):
        shutil.copy(made.directory / name, tmp_path)
    (tmp_path / "site.yaml").write_bytes((tmp_path / "site.yaml").read_bytes()[:-1])
    done = subprocess.run(
        ["sha256sum", "--check", "--ignore-missing", "SHA256SUMS"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "site.yaml: FAILED\n")


def test_its_image_is_the_one_that_was_made(made: Made, archive: Path, tmp_path: Path) -> None:
    """And an engine takes it, under the name that the chart asks for."""
    unpacked = tmp_path / "image.tar"
    with gzip.open(made.directory / "image.tar.gz") as packed, unpacked.open("wb") as file:
        shutil.copyfileobj(packed, file)
    assert sha256(archive) == sha256(unpacked)

    builder = shutil.which("buildah") or shutil.which("podman")
    if builder is None or os.geteuid() != 0:
        pytest.skip("needs buildah or podman, and root")
    store = [f"--root={tmp_path}/store", f"--runroot={tmp_path}/run"]
    subprocess.run(
        [builder, *store, "pull", "--quiet", f"docker-archive:{unpacked}"],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [builder, *store, "images", "--format", "{{.Name}}:{{.Tag}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    shutil.rmtree(tmp_path / "store")
    assert done.stdout.split() == [program.IMAGE]


def test_the_chart_asks_for_that_image() -> None:
    """Where its values say nothing else: then nothing has to be set once it is imported."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    asked_for = f"{values['image']['path']}:{chart['appVersion']}"
    assert asked_for == program.IMAGE


def test_its_layers_are_those_of_the_sbom(made: Made, image: Image) -> None:
    """So it can be seen that an SBOM is that of an image at hand."""
    properties = {
        each["name"]: each["value"] for each in made.sbom["metadata"]["component"]["properties"]
    }

    layers = image.document["rootfs"]["diff_ids"]
    assert properties["deepgram-journal-backup:layers"].split() == layers
    assert properties["deepgram-journal-backup:architecture"] == image.document["architecture"]


# -- it is enough


def test_links_lead_somewhere(made: Made) -> None:
    """On every page, also to pictures; the code is not carried in, nor are links to it."""
    pages = sorted(made.directory.rglob("*.md"))
    missing = {
        (page.name, target)
        for page in pages
        for target in re.findall(_LINK, _FENCED.sub("", page.read_text()))
        if "://" not in target and not (page.parent / target).exists()
    }

    assert {"INSTALL.md", "README.md", "CHANGELOG.md", "operations.md"} < {p.name for p in pages}
    assert missing == set()


def test_what_does_not_lead_anywhere_is_text(made: Made) -> None:
    """Nothing is left out of a page but the way to what is not there."""
    carried, page = ((d / "README.md").read_text() for d in (made.directory, PROJECT))

    assert "[CONTRIBUTING.md](CONTRIBUTING.md)" in page
    assert "\nCONTRIBUTING.md tells how the code is built" in carried
    assert "![Wall time" in page
    assert "\nWall time of a fresh backup" in carried
    assert "[docs/chart.md](docs/chart.md)" in carried
    assert "![One reading of the journals" in carried
    assert plain(carried) == plain(page)


def plain(page: str) -> str:
    """Return a page without any link."""
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", page)


def test_the_page_is_the_one_of_the_documents(made: Made) -> None:
    """One source: nothing but its links is another."""
    install, page = ((made.directory / p).read_text() for p in ("INSTALL.md", "docs/airgapped.md"))

    assert _LINK.sub("", install) == _LINK.sub("", page)
    assert page == PAGE.read_text()
    assert "](docs/operations.md)" in install


def test_files_that_the_page_names_are_there(made: Made) -> None:
    """Whoever types what it says finds them."""
    said = "".join(match["text"] for match in _FENCED.finditer(PAGE.read_text()))
    names = set(re.findall(r"(?<![\w./-])([\w.-]+\.(?:yaml|tgz|tar\.gz|tar))\b", said))
    made_by_hand = {"image.tar", "my-values.yaml", f"{NAME}-airgap.tar"}

    assert {"site.yaml", "archive.yaml", "image.tar.gz", f"{NAME}.tgz"} <= names
    assert {name for name in names if not (made.directory / name).is_file()} == made_by_hand


def test_the_page_is_of_this_version() -> None:
    """In every line that names one."""
    text = PAGE.read_text()
    found = set(re.findall(r"deepgram-journal-backup[-:](\d+\.\d+\.\d+)", text))
    found |= set(re.findall(r"(?:version: |refs/tags/v)(\d+\.\d+\.\d+)", text))

    assert found == {backup.__version__}


def test_its_values_are_those_of_the_examples(made: Made) -> None:
    """The PVC that one makes is the one that the other uses."""
    site = yaml.safe_load((made.directory / "site.yaml").read_text())
    volume, claim = yaml.safe_load_all((made.directory / "archive.yaml").read_text())

    assert [sink["existingPvcName"] for sink in site["sinks"]] == [claim["metadata"]["name"]]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"] == ["ReadWriteMany"]


# -- it is always the same


def test_two_are_the_same(made: Made, archive: Path, tmp_path: Path) -> None:
    """Byte for byte; made later, elsewhere, by someone with other habits."""
    time.sleep(1)
    os.utime(PAGE)
    old = os.umask(0o077)
    try:
        done = run(archive=archive, directory=tmp_path / "x", TZ="Asia/Kathmandu", LC_ALL="C")
    finally:
        os.umask(old)

    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "x").glob("*.tar")
    assert sha256(made.file) == sha256(file)
    assert sorted(path.suffix for path in (tmp_path / "x").iterdir()) == [".json", ".tar", ".tgz"]


def test_names_are_sorted_and_owners_and_modes_fixed(made: Made, image: Image) -> None:
    """And the time is that of the image, which has that of its commit."""
    with tarfile.open(made.file) as tar:
        members = tar.getmembers()

    names = [member.name for member in members]
    assert names == sorted(names)
    assert {name.partition("/")[0] for name in names} == {NAME}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, "", "", 0o644)}
    (mtime,) = {member.mtime for member in members}
    written = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(mtime))
    assert image.document["created"].startswith(written)


def test_the_time_can_be_set(archive: Path, tmp_path: Path) -> None:
    """As https://reproducible-builds.org/specs/source-date-epoch/ has it."""
    for words in (["chart"], ["sbom"]):
        done = run(*words, archive=archive, directory=tmp_path, SOURCE_DATE_EPOCH="1000000000")
        assert done.returncode == 0, done.stderr

    with tarfile.open(tmp_path / f"{NAME}.tgz") as tar:
        assert {member.mtime for member in tar} == {1_000_000_000}
    (sbom,) = tmp_path.glob(f"{NAME}*.cdx.json")
    assert '"timestamp": "2001-09-09T01:46:40+00:00"' in sbom.read_text()


def test_two_wheels_are_the_same(tmp_path: Path) -> None:
    """Made of files of other times and modes."""
    sums = set()
    for name, mode in (("one", 0o644), ("two", 0o600)):
        copy = tmp_path / name
        copy.mkdir()
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(PROJECT / file, copy / file)
        shutil.copytree(
            PROJECT / "backup", copy / "backup", ignore=shutil.ignore_patterns("__pycache__")
        )
        for path in copy.rglob("*"):
            if path.is_file():
                path.chmod(mode)
                os.utime(path, (mode, mode))
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        subprocess.run(command, cwd=copy, check=True)
        (wheel,) = (copy / "dist").glob("*.whl")
        sums.add((wheel.name, sha256(wheel)))

    assert len(sums) == 1


# -- when it cannot be made


def test_an_image_that_is_not_there_is_said(tmp_path: Path) -> None:
    """With what writes it; and nothing is left that looks like a bundle."""
    done = run(archive=tmp_path / "image.tar", directory=tmp_path)

    assert done.returncode == 1
    assert f"error: {tmp_path}/image.tar is not there\nhint: make image writes it\n" == done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_an_image_is_said(tmp_path: Path) -> None:
    """An empty file, or some other tar."""
    (tmp_path / "empty").touch()
    with tarfile.open(tmp_path / "other", "w") as tar:
        tar.add(PAGE, "manifest.json")
    for name in ("empty", "other"):
        done = run("sbom", archive=tmp_path / name, directory=tmp_path)

        assert done.returncode == 1
        assert f"error: {tmp_path}/{name} is not one image in a docker-archive\n" == done.stderr


def test_a_word_that_is_none_is_said(tmp_path: Path) -> None:
    """Rather than to make something else."""
    done = run("charts", archive=tmp_path, directory=tmp_path)

    assert (done.returncode, done.stderr.partition("\n")[0]) == (1, "error: there is no charts")
