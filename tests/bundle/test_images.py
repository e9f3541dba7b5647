"""What is read of an image, where layers hide what is below them."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bundle import __main__ as program
from bundle import images, sbom
from tests.bundle.made import PROJECT

STATUS = b"""\
Package: libc6
Status: install ok installed
Source: glibc (2.41-12)
Version: 2.41-12+b1
Architecture: amd64

Package: gone
Status: deinstall ok config-files
Version: 1
Architecture: all
"""
BASE = {"var/lib/dpkg/status": STATUS, "usr/lib/os-release": b'ID=debian\nVERSION_ID="13"\n'}
PACKAGES = "opt/journal-backup/lib/python3.13/site-packages"
PYTHON = {
    f"{PACKAGES}/six-1.17.0.dist-info/METADATA": b"Name: six\nVersion: 1.17.0\nLicense: MIT\n",
    f"{PACKAGES}/six-1.17.0.dist-info/WHEEL": b"Tag: py2-none-any\nTag: py3-none-any\n",
}


def tar(contents: Mapping[str, bytes]) -> bytes:
    """Make a tar of files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def write(tmp_path: Path, layers: Sequence[Mapping[str, bytes]], **more: Any) -> images.Image:
    """Write an image in a docker-archive, and read it."""
    names = [f"{number}.tar" for number in range(len(layers))]
    document = {
        "architecture": "amd64",
        "created": "2026-11-25T06:02:33.123456789Z",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"diff_ids": [f"sha256:{name}" for name in names]},
    } | more
    manifest = [{"Config": "config.json", "RepoTags": ["localhost/x:1"], "Layers": names}]
    contents = {name: tar(layer) for name, layer in zip(names, layers, strict=True)}
    contents["config.json"] = json.dumps(document).encode()
    contents["manifest.json"] = json.dumps(manifest).encode()
    archive = tmp_path / "image.tar"
    archive.write_bytes(tar(contents))
    return images.read(archive)


def packages(image: images.Image) -> set[str]:
    """Give the package URLs of an SBOM, without what follows the name and version."""
    text = sbom.describe(image, PROJECT / "uv.lock", name="x", version="1")
    components = json.loads(text)["components"]
    return {each["purl"].partition("?")[0] for each in components if "purl" in each}


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ({"etc/b": b"new"}, {"etc/a": b"1", "etc/b": b"new", "etc/d/c": b"3"}),
        ({"etc/.wh.a": b""}, {"etc/b": b"2", "etc/d/c": b"3"}),
        ({"etc/.wh.d": b""}, {"etc/a": b"1", "etc/b": b"2"}),
        ({"etc/.wh..wh..opq": b"", "etc/b": b"new"}, {"etc/b": b"new"}),
        ({"./etc/b": b"new", ".wh.etc": b""}, {"etc/b": b"new"}),
    ],
    ids=["another", "a file is hidden", "a directory is", "all that was in one", "and made anew"],
)
def test_a_layer_hides_what_is_below_it(
    tmp_path: Path, upper: Mapping[str, bytes], left: Mapping[str, bytes]
) -> None:
    """And not what it brings itself, in whatever order."""
    image = write(tmp_path, [{"./etc/a": b"1", "etc/b": b"2", "etc/d/c": b"3"}, upper])

    assert left == images.files(image, re.compile("etc/.*"))


def test_only_what_is_installed_counts(tmp_path: Path) -> None:
    """Not what Debian remembers of a package, nor the pip that the image's last step takes away."""
    pip = "usr/local/lib/python3.13/site-packages/pip-25.2.dist-info"
    lower = BASE | {f"{pip}/METADATA": b"Name: pip\nVersion: 25.2\n"}
    hidden = {f"{pip.rpartition('/')[0]}/.wh.pip-25.2.dist-info": b""}

    assert packages(write(tmp_path, [lower, PYTHON])) == {
        "pkg:deb/debian/libc6@2.41-12%2Bb1",
        "pkg:pypi/pip@25.2",
        "pkg:pypi/six@1.17.0",
    }
    assert "pkg:pypi/pip@25.2" not in packages(write(tmp_path, [lower, PYTHON | hidden]))


def test_what_debian_packages_of_python_bring_is_counted_once(tmp_path: Path) -> None:
    """By dpkg, which knows the version that Debian has mended."""
    brought = {"usr/lib/python3/dist-packages/x-1.dist-info/METADATA": b"Name: x\nVersion: 1\n"}

    assert "pkg:pypi/x@1" not in packages(write(tmp_path, [BASE | brought, PYTHON]))


def test_a_python_that_is_no_package_is_listed(tmp_path: Path) -> None:
    """Of python:slim, say: nothing but a variable tells of it."""
    config = {"Env": ["PYTHON_VERSION=3.13.9"]}
    image = write(tmp_path, [BASE, PYTHON], config=config)

    assert "pkg:generic/python@3.13.9" in packages(image)


def test_an_image_of_something_else_is_refused(tmp_path: Path) -> None:
    """An SBOM without packages would look like good news."""
    for layers in ([BASE], [PYTHON | {"usr/lib/os-release": b""}]):
        with pytest.raises(ValueError, match="does not hold packages of Debian and of Python"):
            packages(write(tmp_path, layers))


def test_an_image_of_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chart would not find it on the nodes."""
    monkeypatch.setenv("ARCHIVE", str(write(tmp_path, [BASE, PYTHON]).archive))

    with pytest.raises(
        ValueError, match="is called localhost/x:1\nhint: the chart wants localhost"
    ):
        program.make_bundle(tmp_path / "dist")


def test_another_architecture_is_in_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release has a bundle for each."""
    image = write(tmp_path, [BASE, PYTHON], architecture="arm64")
    monkeypatch.setenv("ARCHIVE", str(image.archive))
    monkeypatch.setattr(program, "IMAGE", "localhost/x:1")

    made = program.make_bundle(tmp_path / "dist")
    assert made.name.endswith("-airgap-arm64.tar")
    assert len(list((tmp_path / "dist").glob("*-arm64.cdx.json"))) == 1
