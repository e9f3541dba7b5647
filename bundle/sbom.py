"""What is in the image: a CycloneDX document, read from the image itself.

Debian's packages are those of dpkg's database; Python's those whose metadata is installed, with the
wheel of uv.lock that they came by, and its hash; and the Python of the base, where it is not one of
Debian's packages. What needs what is said too. Scanners take it (`trivy sbom`, `grype sbom:`).

The document is a function of the image's files and of uv.lock: it has no random number.
"""

from __future__ import annotations

import json
import re
import tomllib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

from bundle import images, tars

_DPKG = "var/lib/dpkg/status"
_RELEASE = "usr/lib/os-release"
# What Debian's Python packages bring is dpkg's already.
_WANTED = re.compile(
    rf"{re.escape(_DPKG)}|{re.escape(_RELEASE)}"
    r"|(?!.*/dist-packages/).*\.dist-info/(METADATA|WHEEL)"
)

Needs = dict[Component, set[str]]
"""Components, and the names of what each needs; what is not there counts for nothing."""


def describe(image: images.Image, lock: Path, *, name: str, version: str) -> str:
    """Describe an image, as JSON.

    Args:
        image: the image.
        lock: the uv.lock that it was made from.
        name: what the image is called.
        version: which one it is.

    Raises:
        ValueError: it lacks packages of one kind, so it is not this image.
    """
    files = {path: content.decode() for path, content in images.files(image, _WANTED).items()}
    debian = _debian(files.pop(_DPKG, ""), release := _fields(files.pop(_RELEASE, "")))
    python = _python(files, tomllib.loads(lock.read_text())["package"])
    if not (debian and python):
        message = f"{image.archive} does not hold packages of Debian and of Python"
        raise ValueError(message)
    whole = _whole(image, name, version)
    system = [_system(release), *_interpreter(image.environment)]
    bom = Bom(components=[*debian, *python, *system])
    bom.metadata.component = whole
    bom.metadata.timestamp = datetime.fromtimestamp(tars.epoch(image.created.timestamp()), UTC)
    for needs in (debian, python):
        _register(bom, needs)
    bom.register_dependency(whole, [*debian, *system, *_ours(python, name)])
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, _identity(whole, bom.components))
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _whole(image: images.Image, name: str, version: str) -> Component:
    """Describe the image as such: its layers tie it to the file that is carried."""
    said = {"architecture": image.architecture, "layers": " ".join(image.diff_ids)}
    return Component(
        type=ComponentType.CONTAINER,
        name=name,
        version=version,
        bom_ref=f"{name}@{version}",
        properties=[Property(name=f"{name}:{key}", value=value) for key, value in said.items()],
    )


def _system(release: Mapping[str, str]) -> Component:
    """Describe the distribution: scanners match Debian's packages by it."""
    return Component(
        type=ComponentType.OPERATING_SYSTEM,
        name=release["ID"],
        version=release["VERSION_ID"],
        bom_ref=f"os:{release['ID']}@{release['VERSION_ID']}",
    )


def _interpreter(environment: Mapping[str, str]) -> Iterator[Component]:
    """Give the Python of images such as python:slim, which compile their own."""
    if version := environment.get("PYTHON_VERSION"):
        url = PackageURL("generic", None, "python", version)
        yield _component("python", version, url, LicenseFactory().make_from_string("PSF-2.0"))


def _debian(status: str, release: Mapping[str, str]) -> Needs:
    found: Needs = {}
    for paragraph in filter(str.strip, status.split("\n\n")):
        fields = HeaderParser().parsestr(paragraph)
        if not fields["Status"].endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        # "Source: name (version)", where they are not the package's own
        source, _, own = (fields["Source"] or name).partition(" ")
        qualifiers = {
            "arch": fields["Architecture"],
            "distro": f"{release['ID']}-{release['VERSION_ID']}",
            "upstream": f"{source}@{own.strip('()') or version}",
        }
        url = PackageURL("deb", release["ID"], name, version, qualifiers)
        needed = f"{fields['Pre-Depends'] or ''}, {fields['Depends'] or ''}"
        found[_component(name, version, url)] = set(re.findall(r"(?:^|[,|])\s*([\w.+-]+)", needed))
    return found


def _python(files: Mapping[str, str], locked: Iterable[Mapping[str, Any]]) -> Needs:
    found: Needs = {}
    packages = {package["name"]: package for package in locked}
    for path in sorted(path for path in files if path.endswith("/METADATA")):
        fields = HeaderParser().parsestr(files[path])
        name, version = fields["Name"], fields["Version"]
        package = packages.get(canonicalize_name(name), {})
        wheel = files.get(path.removesuffix("METADATA") + "WHEEL", "")
        url = PackageURL("pypi", None, canonicalize_name(name), version)
        references = _came_by(package, HeaderParser().parsestr(wheel))
        component = _component(name, version, url, _licence(fields), references)
        found[component] = {dependency["name"] for dependency in package.get("dependencies", ())}
    return found


def _came_by(package: Mapping[str, Any], installed: Message) -> Iterator[ExternalReference]:
    """Give the wheel of a locked package that has the tags of what is installed."""
    tags = {Tag(*tag.split("-")) for tag in installed.get_all("Tag", [])}
    for wheel in package.get("wheels", ()):
        if tags & parse_wheel_filename(wheel["url"].rpartition("/")[2])[3]:
            hashes = [HashTypeFactory().from_composite_str(wheel["hash"])]
            kind = ExternalReferenceType.DISTRIBUTION
            yield ExternalReference(type=kind, url=XsUri(wheel["url"]), hashes=hashes)


def _licence(fields: Message) -> License | None:
    """Give what a package says, be it an expression of SPDX, a name, or a classifier."""
    classifiers = fields.get_all("Classifier", [])
    classified = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License")]
    said = fields["License-Expression"] or fields["License"] or " or ".join(sorted(classified))
    return LicenseFactory().make_from_string(said.splitlines()[0]) if said else None


def _component(
    name: str,
    version: str,
    url: PackageURL,
    licence: License | None = None,
    references: Iterable[ExternalReference] = (),
) -> Component:
    return Component(
        type=ComponentType.LIBRARY,
        name=name,
        version=version,
        purl=url,
        bom_ref=str(url),
        licenses=[licence] if licence else [],
        external_references=references,
    )


def _register(bom: Bom, needs: Needs) -> None:
    by_name = {canonicalize_name(component.name): component for component in needs}
    for component, names in needs.items():
        there = [by_name[name] for name in map(canonicalize_name, names) if name in by_name]
        bom.register_dependency(component, there)


def _ours(python: Needs, name: str) -> list[Component]:
    return [component for component in python if component.name == name]


def _identity(whole: Component, components: Iterable[Component]) -> str:
    said = [f"{each.name}={each.value}" for each in whole.properties]
    refs = [str(component.bom_ref) for component in (whole, *components)]
    return "\n".join([*sorted(said), *sorted(refs)])


def _fields(release: str) -> dict[str, str]:
    found = re.findall(r"^(\w+)=(.*)$", release, re.MULTILINE)
    return {key: value.strip('"') for key, value in found}
