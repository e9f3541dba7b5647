"""See the package. `ARCHIVE` names the image, `DIST` the directory to write to."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import backup
from bundle import chart, images, sbom, tars

ROOT = Path(__file__).parents[1]
VERSION = backup.__version__
IMAGE = f"localhost/{chart.NAME}:{VERSION}"
"""What the chart calls it where it is told nothing else, so what nodes have to know it by."""
# To another file, not to another site, nor within the page; also to a picture.
_LINK = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")
# The documents lie as in the repository, so that links between them lead somewhere.
_DOCUMENTS = (
    *("LICENSE", "CHANGELOG.md", "README.md", "SECURITY.md"),
    *("docs/*.md", "docs/*.json", "docs/*.svg"),
    *("charts/*/README.md", "charts/*/ci/*.yaml"),
    *("examples/*.yaml", "examples/umbrella/*.yaml", "examples/umbrella/charts/*.tgz"),
)
# These lie on top, and more is not needed to install.
_INSTALL = "docs/airgapped.md"
_OF_A_SITE = {
    "archive.yaml": "examples/airgapped-archive.yaml",
    "site.yaml": "examples/airgapped-values.yaml",
}


def main(arguments: Sequence[str]) -> None:
    """Make what is asked for, and say where it is."""
    made: dict[str, Callable[[Path], Path]]
    made = {"chart": make_chart, "sbom": make_sbom, "": make_bundle}
    what = arguments[0] if arguments else ""
    if what not in made:
        sys.exit(f"error: there is no {what}\nhint: chart, sbom, or nothing for the bundle")
    try:
        print(made[what](Path(os.environ.get("DIST") or ROOT / "dist")))
    except ValueError as error:
        sys.exit(f"error: {error}")


def make_chart(directory: Path) -> Path:
    """Write the chart's package."""
    return chart.package(ROOT / "charts" / chart.NAME, directory, VERSION)


def make_sbom(directory: Path) -> Path:
    """Write the SBOM of the image."""
    image = _image()
    path = directory / f"{chart.NAME}-{VERSION}{_architecture(image)}.cdx.json"
    content = sbom.describe(image, ROOT / "uv.lock", name=chart.NAME, version=VERSION)
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def make_bundle(directory: Path) -> Path:
    """Write the bundle.

    Raises:
        ValueError: what it is made of is not there, or does not fit together.
    """
    image = _image()
    if IMAGE not in image.names:
        message = f"the image is called {', '.join(image.names)}\nhint: the chart wants {IMAGE}"
        raise ValueError(message)
    mtime = tars.epoch(image.created.timestamp())
    top = f"{chart.NAME}-{VERSION}"
    path = directory / f"{top}-airgap{_architecture(image)}.tar"
    package, described = make_chart(directory), make_sbom(directory)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".bundle-") as work:
        packed = Path(work) / "image.tar.gz"
        tars.compress(image.archive, packed, mtime=mtime)
        files: dict[str, Path | bytes] = {file.name: file for file in (packed, package)}
        files |= {f"{top}.cdx.json": described, "INSTALL.md": _install()}
        files |= {name: ROOT / file for name, file in _OF_A_SITE.items()}
        files |= {str(f.relative_to(ROOT)): f for each in _DOCUMENTS for f in ROOT.glob(each)}
        files |= {name: _page(name, files) for name in files if name.endswith(".md")}
        sums = "".join(f"{_sha256(file)}  {name}\n" for name, file in sorted(files.items()))
        files["SHA256SUMS"] = sums.encode()
        tars.write(path, {f"{top}/{name}": file for name, file in files.items()}, mtime=mtime)
    return path


def _install() -> bytes:
    """Give the page on installing, one directory up: its links are those of another place."""
    page = ROOT / _INSTALL

    def moved(link: re.Match[str]) -> str:
        target = (page.parent / link[1]).resolve().relative_to(ROOT)
        return f"]({target}"

    return re.sub(r"\]\((?!\w+:|#)([^)#]+)", moved, page.read_text()).encode()


def _page(name: str, files: Mapping[str, Path | bytes]) -> bytes:
    """Give a page without links to what is not carried in, such as the code: text remains."""
    content = files[name]
    text = content.decode() if isinstance(content, bytes) else content.read_text()
    carried = {(ROOT / file).resolve() for file in files}

    def kept(link: re.Match[str]) -> str:
        target = ((ROOT / name).parent / link["target"]).resolve()
        return link[0] if target in carried else link["text"]

    return _LINK.sub(kept, text).encode()


def _image() -> images.Image:
    path = Path(os.environ.get("ARCHIVE") or ROOT / "dist" / "image.tar")
    if not path.is_file():
        message = f"{path} is not there\nhint: make image writes it"
        raise ValueError(message)
    return images.read(path)


def _architecture(image: images.Image) -> str:
    """Give what a name ends in, where it is not the architecture of most."""
    return "" if image.architecture == "amd64" else f"-{image.architecture}"


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main(sys.argv[1:])
