"""The chart's package: made without Helm, taken by Helm, and vendored in the example."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from pathlib import Path

import pytest
import yaml

from bundle import chart
from tests.chart import helm
from tests.chart.helm import CHART, NAME, PRESETS, ROOT, HelmError

EXAMPLES = ROOT / "examples"
VERSION = helm.load(CHART / "Chart.yaml")["version"]


def package(directory: Path) -> Path:
    """Package the chart as `make package` does."""
    return chart.package(CHART, directory, VERSION)


def contents(path: Path) -> dict[str, bytes]:
    """Give the files of a package."""
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if stream := tar.extractfile(member):
                found[member.name] = stream.read()
    return found


def test_it_holds_what_helm_would_have_packed(tmp_path: Path) -> None:
    """File by file; Helm writes only Chart.yaml anew, in its own order."""
    ours = contents(package(tmp_path / "ours"))
    helm.run("package", str(CHART), f"--destination={tmp_path}")
    theirs = contents(tmp_path / f"{NAME}-{VERSION}.tgz")

    metadata = f"{NAME}/Chart.yaml"
    assert yaml.safe_load(ours.pop(metadata)) == yaml.safe_load(theirs.pop(metadata))
    assert ours == theirs


def test_helm_takes_it(tmp_path: Path) -> None:
    """To look at, to check and to render: as the directory that it was made of."""
    made = package(tmp_path)

    assert yaml.safe_load(helm.run("show", "chart", str(made))) == helm.load(CHART / "Chart.yaml")
    for preset in PRESETS:
        values = f"--values={preset}"
        helm.run("lint", "--strict", f"--kube-version={helm.KUBERNETES}", str(made), values)
        assert helm.render({}, preset, chart=made) == helm.render({}, preset)


def test_it_is_the_same_again(tmp_path: Path) -> None:
    """Byte for byte, whoever has touched the files in between."""
    first = package(tmp_path / "first")
    for path in CHART.rglob("*.yaml"):
        path.touch()

    assert first.read_bytes() == package(tmp_path / "second").read_bytes()


def test_the_example_has_what_is_packaged_today(tmp_path: Path) -> None:
    """Run `make chart-docs` after changing the chart. Another zlib may compress otherwise."""
    (vendored,) = (EXAMPLES / "umbrella" / "charts").glob(f"{NAME}-*.tgz")
    made = package(tmp_path)

    assert vendored.name == made.name
    assert gzip.decompress(vendored.read_bytes()) == gzip.decompress(made.read_bytes())


def test_the_airgapped_example_renders() -> None:
    """Nothing is pulled, and backups go where the example of a PVC is."""
    values = EXAMPLES / "airgapped-values.yaml"
    rendered = helm.render({}, values)
    _, claim = yaml.safe_load_all((EXAMPLES / "airgapped-archive.yaml").read_text())

    (volume,) = [
        each["persistentVolumeClaim"]["claimName"]
        for each in rendered.pods[NAME]["spec"]["volumes"]
        if "persistentVolumeClaim" in each
    ]
    (container,) = helm.containers(rendered.pods[NAME])
    assert container["imagePullPolicy"] == "Never"
    assert volume == claim["metadata"]["name"]
    assert claim["metadata"]["namespace"] == helm.NAMESPACE
    assert helm.environment(rendered.pods[NAME])["BACKUP_SINKS"].startswith("file:///sinks/")


def test_the_airgapped_example_can_keep_pods_to_some_nodes(tmp_path: Path) -> None:
    """All of them, by the lines that are commented out: the hook above all."""
    text = (EXAMPLES / "airgapped-values.yaml").read_text()
    values = tmp_path / "values.yaml"
    values.write_text(re.sub(r"^# (nodeSelector:|  )", r"\1", text, flags=re.MULTILINE))

    pods = helm.render({}, values).pods.values()
    assert {json.dumps(pod["spec"].get("nodeSelector")) for pod in pods} == {
        '{"kubernetes.io/hostname": "node-1"}'
    }


def test_a_package_that_is_damaged_is_refused(tmp_path: Path) -> None:
    """By Helm itself, so nobody installs half of one."""
    made = package(tmp_path)
    made.write_bytes(made.read_bytes()[:-1000])

    with pytest.raises(HelmError, match="unexpected EOF"):
        helm.run("show", "chart", str(made))
