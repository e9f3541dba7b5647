"""Each preset is a site as there are some: it renders, and Kubernetes takes what comes out."""

from __future__ import annotations

import functools
import importlib.util
import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import referencing

import backup
from tests.chart import helm
from tests.chart.helm import CHART, NAME, PRESETS, Object

OURS = {"PrometheusRule"}  # kinds that Kubernetes itself does not know
EXPECTED = {
    "everything": "scale-down",
    "existing-pvc-rwo": "colocated",
    "existing-pvc-rwop": "auto",
    "minimal": "direct",
    "per-pod-gcs": "auto",
    "per-pod-nfs-airgapped": "auto",
    "root-journals": "direct",
    "shared-efs-s3": "direct",
}
VERSIONS = [f"1.{minor}.0" for minor in range(28, 38)]

each_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)


def test_every_preset_is_expected() -> None:
    """One that nobody tests is one that nobody keeps."""
    assert {preset.name.removesuffix("-values.yaml") for preset in PRESETS} == {*EXPECTED}


@each_preset
def test_a_preset_has_the_strategy_that_its_volumes_ask_for(preset: Path) -> None:
    """No preset names `direct` or `auto`: they are found out."""
    pods = helm.render({}, preset).pods
    name = "journals" if preset.stem.startswith("everything") else NAME

    expected = EXPECTED[preset.name.removesuffix("-values.yaml")]
    assert helm.environment(pods[name])["BACKUP_STRATEGY"] == expected


@each_preset
def test_a_preset_passes_the_linter(preset: Path) -> None:
    """A warning counts as a failure."""
    said = helm.run(
        "lint",
        "--strict",
        f"--values={preset}",
        f"--kube-version={helm.KUBERNETES}",
        str(CHART),
    )

    assert "0 chart(s) failed" in said


@each_preset
def test_a_preset_renders_the_same_twice(preset: Path) -> None:
    """What differs each time is upgraded each time."""
    options = [f"--values={preset}", f"--kube-version={helm.KUBERNETES}"]

    first, second = (helm.run("template", "acme", str(CHART), *options) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("version", VERSIONS)
def test_presets_are_what_kubernetes_expects(version: str) -> None:
    """By the schemas of each version, and with no field that it does not know."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed (PyPI)")
    for preset in PRESETS:
        for found in helm.render({}, preset, kubernetes=version).objects:
            if found["kind"] not in OURS:
                errors = [*validator(version, kind(found)).iter_errors(found)]
                assert errors == [], (preset.name, found["metadata"]["name"])


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    """The check itself has to be able to fail."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed (PyPI)")
    job = helm.render({}, PRESETS[0]).of("Job")[0]
    job["spec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"

    assert not validator(VERSIONS[0], kind(job)).is_valid(job)


def test_the_chart_is_of_the_version_of_the_command() -> None:
    """The image of a chart is the one that it was made with, unless its user says otherwise."""
    chart = helm.load(CHART / "Chart.yaml")

    assert chart["appVersion"] == backup.__version__
    assert chart["name"] == NAME


def test_a_package_holds_what_a_site_needs(tmp_path: Path) -> None:
    """Not the presets, nor what the README is made of."""
    helm.run("package", str(CHART), f"--destination={tmp_path}")
    (package,) = tmp_path.iterdir()
    with tarfile.open(package) as packed:
        names = [PurePosixPath(name) for name in packed.getnames()]

    assert {name.parts[1] for name in names} == {
        "Chart.yaml",
        "README.md",
        "templates",
        "values.schema.json",
        "values.yaml",
    }


def kind(found: Object) -> str:
    """Name the schema of an object: `cronjob-batch-v1`."""
    group, _, version = found["apiVersion"].rpartition("/")
    return "-".join(filter(None, (found["kind"].lower(), group.partition(".")[0], version)))


@functools.cache
def definitions(version: str) -> tuple[Path, referencing.Registry[Any]]:
    """Find the schemas of a version, and read once what all of them refer to."""
    package = importlib.util.find_spec("kubernetes_validate")
    assert package is not None
    (where,) = package.submodule_search_locations or []
    directory = Path(where) / "kubernetes-json-schema" / f"v{version}-local-strict"
    shared = json.loads((directory / "_definitions.json").read_text())
    known: referencing.Registry[Any] = referencing.Registry()
    return directory, referencing.Resource.from_contents(shared) @ known


@functools.cache
def validator(version: str, schema: str) -> jsonschema.Draft202012Validator:
    """Read the schema of a kind."""
    directory, known = definitions(version)
    content = json.loads((directory / f"{schema}.json").read_text())
    return jsonschema.Draft202012Validator(content, registry=known)
