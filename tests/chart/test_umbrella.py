"""Beside the Deepgram chart in an umbrella, as most sites have it.

The Deepgram chart is stood in for by one of the same name: what matters here is what an umbrella
does to ours.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chart import helm, shapes
from tests.chart.helm import CHART, NAME, ROOT, HelmError
from tests.chart.shapes import having

NEIGHBOUR = "deepgram-self-hosted"
EXAMPLE = ROOT / "examples" / "umbrella"
MARK = "REPLACE_ME"
OURS = ("site", "image.path", "sinks", "aws.region", "serviceAccount.annotations")
"""What the example leaves to who copies it."""
STATEFUL_SET = """\
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: deepgram-billing
"""


def write_chart(directory: Path, name: str, **more: Any) -> Path:
    """Write a chart without templates."""
    directory.mkdir(parents=True)
    content = {"apiVersion": "v2", "name": name, "version": "0.42.0"} | more
    (directory / "Chart.yaml").write_text(json.dumps(content))
    return directory


def write_neighbour(charts: Path) -> None:
    """Write what stands in for the Deepgram chart."""
    templates = write_chart(charts / NEIGHBOUR, NEIGHBOUR) / "templates"
    templates.mkdir()
    (templates / "billing.yaml").write_text(STATEFUL_SET)


def umbrella(tmp_path: Path, dependencies: Sequence[Mapping[str, str]]) -> Path:
    """Write an umbrella with the neighbour, and with ours as often as it is named, vendored."""
    found = [{"name": NEIGHBOUR, "version": "0.42.0"}]
    found += [{"name": NAME, "version": "0.1.0", **dependency} for dependency in dependencies]
    chart = write_chart(tmp_path / "umbrella", "deepgram", dependencies=found)
    write_neighbour(chart / "charts")
    helm.run("package", str(CHART), f"--destination={chart / 'charts'}")
    return chart


@pytest.mark.parametrize("is_on", [True, False])
def test_a_condition_turns_it_on_and_off(tmp_path: Path, *, is_on: bool) -> None:
    """All of it; the neighbour stays as it is."""
    chart = umbrella(tmp_path, [{"condition": f"{NAME}.enabled"}])
    rendered = helm.render({NAME: shapes.DIRECT | {"enabled": is_on}}, chart=chart)

    assert rendered.of("StatefulSet") != []
    assert (rendered.of("CronJob") != []) == is_on
    assert (len(rendered.objects) > 1) == is_on


def test_it_is_the_same_as_alone(tmp_path: Path) -> None:
    """Names, labels and all."""
    chart = umbrella(tmp_path, [{}])
    rendered = helm.render({NAME: shapes.SCALE_DOWN}, chart=chart)

    beside = [each for each in rendered.objects if each["kind"] != "StatefulSet"]
    alone = helm.render(shapes.SCALE_DOWN)
    assert sorted(map(json.dumps, beside)) == sorted(map(json.dumps, alone.objects))


def test_two_aliases_do_not_collide(tmp_path: Path) -> None:
    """In names, nor in what selectors select."""
    chart = umbrella(tmp_path, [{"alias": "nightly"}, {"alias": "Monthly"}])
    values = having(
        shapes.SCALE_DOWN, {"networkPolicy": {"enabled": True}, "prometheusRule": {"enabled": True}}
    )
    rendered = helm.render({"nightly": values, "Monthly": values}, chart=chart)

    assert len(rendered.names) == len(rendered.objects)
    names = {name for kind, name in rendered.names if kind != "StatefulSet"}
    assert {name.partition("-")[0] for name in names} == {"nightly", "monthly"}
    for alias, other in (("nightly", "monthly"), ("monthly", "nightly")):
        policy = rendered.one("NetworkPolicy", alias)["spec"]["podSelector"]["matchLabels"]
        toolbox = rendered.one("Deployment", f"{alias}-toolbox")["spec"]["selector"]["matchLabels"]
        for name, pod in rendered.pods.items():
            selected = policy.items() <= pod["metadata"]["labels"].items()
            assert selected == name.startswith(alias)
            if name.startswith(other):
                assert not toolbox.items() <= pod["metadata"]["labels"].items()


def test_two_aliases_share_billings_lock(tmp_path: Path) -> None:
    """There is one billing to scale down, whoever does it."""
    chart = umbrella(tmp_path, [{"alias": "nightly"}, {"alias": "monthly"}])
    rendered = helm.render(
        {"nightly": shapes.SCALE_DOWN, "monthly": shapes.SCALE_DOWN}, chart=chart
    )

    leases = {
        name
        for role in rendered.of("Role")
        for rule in role["rules"]
        if "leases" in rule["resources"]
        for name in rule.get("resourceNames", [])
    }
    assert leases == {"deepgram-billing-journal-backup"}


def test_an_alias_that_cannot_be_a_name_is_said(tmp_path: Path) -> None:
    """Helm takes any."""
    chart = umbrella(tmp_path, [{"alias": "journal_backup"}])

    with pytest.raises(HelmError, match="cannot begin the names of objects: set `namePrefix`"):
        helm.render({"journal_backup": shapes.DIRECT}, chart=chart)


def test_what_is_global_is_shared(tmp_path: Path) -> None:
    """The Deepgram chart's own words."""
    chart = umbrella(tmp_path, [{}])
    shared = {"pullSecretRef": "dg-regcred", "additionalLabels": {"team": "speech"}}
    rendered = helm.render({"global": shared, NAME: shapes.DIRECT}, chart=chart)

    pod = rendered.pods[NAME]
    assert pod["spec"]["imagePullSecrets"] == [{"name": "dg-regcred"}]
    assert pod["metadata"]["labels"]["team"] == "speech"


def test_null_takes_a_default_away_as_the_readme_says(tmp_path: Path) -> None:
    """In an umbrella it depends on the Helm: what OpenShift's users are told has to be so."""
    chart = umbrella(tmp_path, [{}])
    null = {NAME: having(shapes.DIRECT, {"securityContext": {"runAsUser": None}})}
    version = helm.run("version", "--template={{.Version}}").lstrip("v").split(".")
    given = helm.render(null, chart=chart).pods[NAME]
    (chart / "values.yaml").write_text(json.dumps(null))
    own = helm.render({}, chart=chart).pods[NAME]

    major, minor = (int(part) for part in version[:2])
    heeded = ("runAsUser" not in pod["spec"]["securityContext"] for pod in (given, own))
    assert [*heeded] == [(major, minor) >= (3, 18), major == 3]


def test_a_neighbours_values_are_not_ours(tmp_path: Path) -> None:
    """What is wrong is said in an umbrella, too: by the schema and by the templates."""
    chart = umbrella(tmp_path, [{}])

    with pytest.raises(HelmError, match="shedule"):
        helm.render({NAME: shapes.DIRECT | {"shedule": "x"}}, chart=chart)
    with pytest.raises(HelmError, match="Missing the place that backups go to"):
        helm.render({NEIGHBOUR: {"billing": {"replicas": 2}}, NAME: {}}, chart=chart)


def test_a_cluster_that_is_too_old_is_refused(tmp_path: Path) -> None:
    """The kubeVersion of a subchart is not enforced by Helm; the templates do it."""
    chart = umbrella(tmp_path, [{}])

    with pytest.raises(HelmError, match=r"Kubernetes v1\.27\.9 is too old: 1\.28 is the least"):
        helm.render({NAME: shapes.DIRECT}, chart=chart, kubernetes="1.27.9")


def example(tmp_path: Path) -> Path:
    """Copy the example, with the neighbour; nothing is fetched, and no repository is asked."""
    chart = tmp_path / "umbrella"
    shutil.copytree(EXAMPLE, chart, ignore=shutil.ignore_patterns("deepgram-self-*", "Chart.lock"))
    write_neighbour(chart / "charts")
    return chart


def test_the_example_fails_until_it_is_set(tmp_path: Path) -> None:
    """Else who copies it keeps another site's account, and another site's prefix."""
    with pytest.raises(HelmError) as caught:
        helm.render({}, chart=example(tmp_path))

    said = str(caught.value)
    marked = (EXAMPLE / "values.yaml").read_text().splitlines()
    marked = [line for line in marked if MARK in line and not line.startswith("#")]
    assert said.count("is the example's: set it to what this site has") == len(OURS)
    assert len(marked) == len(OURS) + 1, "and one of the neighbour's"


def test_the_example_renders_once_it_is_set(tmp_path: Path) -> None:
    """With nothing else set than what is marked."""
    chart = example(tmp_path)
    values = (chart / "values.yaml").read_text()
    (chart / "values.yaml").write_text(values.replace(MARK, "acme"))
    rendered = helm.render({}, chart=chart)

    environment = helm.environment(rendered.pods[NAME])
    assert environment["BACKUP_STRATEGY"] == "direct"
    assert environment["BACKUP_EXPECT_REPLICAS"] == "2"
    assert rendered.pods[NAME]["spec"]["imagePullSecrets"] == [{"name": "dg-regcred"}]
    off = helm.render({NAME: {"enabled": False}}, chart=chart)
    assert {kind for kind, _ in off.names} == {"StatefulSet"}


def test_the_example_repeats_what_has_to_be_repeated() -> None:
    """Billing's replicas, in both charts' values."""
    values = helm.load(EXAMPLE / "values.yaml")

    assert values[NAME]["billing"]["replicas"] == values[NEIGHBOUR]["billing"]["replicas"]
    (ours,) = [d for d in helm.load(EXAMPLE / "Chart.yaml")["dependencies"] if d["name"] == NAME]
    assert ours["version"] == helm.load(CHART / "Chart.yaml")["version"]
    assert ours["condition"] == f"{NAME}.enabled"
    assert "repository" not in ours
