"""A real API server takes what the chart makes, and Pod Security lets it pass where it should."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart import helm, shapes
from tests.chart.helm import CHART, NAME, PRESETS, Object
from tests.cluster import controlplane
from tests.cluster import programs as cluster_programs
from tests.cluster.controlplane import ControlPlane

EVERYTHING = CHART / "ci" / "everything-values.yaml"
REFUSED = {
    # uid 0, and the node's own disk or an inline NFS volume
    "restricted": {"everything-values.yaml", "root-journals-values.yaml"},
    "baseline": {"everything-values.yaml"},
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start a control plane."""
    if reason := cluster_programs.unavailable():
        pytest.skip(reason)
    with controlplane.control_plane(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_a_preset_is_taken(plane: ControlPlane, preset: Path) -> None:
    """By the server's own defaults, checks and field validation, in a dry run."""
    namespace = plane.create_namespace()
    objects = [o for o in helm.render({}, preset).objects if o["kind"] != "PrometheusRule"]

    # A bare pod, as the test is, wants its account and its priority to be there even in a dry run.
    apply(plane, namespace, [o for o in objects if o["kind"] == "ServiceAccount"])
    create_priority(plane)

    said = apply(plane, namespace, objects, "--dry-run=server")
    assert said.count("(server dry run)") == len(objects)


def test_the_plain_manifest_is_taken(plane: ControlPlane) -> None:
    """By `kubectl apply`, where nothing of it is there yet."""
    namespace = plane.create_namespace()
    example = str(helm.ROOT / "examples" / "cronjob.yaml")

    said = plane.kubectl("-n", namespace, "apply", "-f", example, "--dry-run=server")
    assert said.count("created (server dry run)") == len(said.splitlines()) == 3


@pytest.mark.parametrize("level", ["restricted", "baseline"])
@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.stem)
def test_pods_pass_pod_security(
    plane: ControlPlane, preset: Path, level: controlplane.Level
) -> None:
    """Each pod as its Job would make it: a Job whose pods are refused is itself accepted."""
    namespace = plane.create_namespace(enforce=level)
    rendered = helm.render({}, preset)
    statuses = {name: create(plane, namespace, pod, name) for name, pod in rendered.pods.items()}

    refused = {name for name, status in statuses.items() if status == 403}
    assert bool(refused) == (preset.name in REFUSED[level])
    assert {status for name, status in statuses.items() if name not in refused} == {201}


def create(plane: ControlPlane, namespace: str, template: Object, name: str) -> int:
    """Create a pod in a dry run, with the account it runs as; return the server's status."""
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    account = template["spec"]["serviceAccountName"]
    plane.call("POST", accounts, {"metadata": {"name": account}})
    create_priority(plane)
    pod = {"metadata": {"name": name, "labels": template["metadata"]["labels"]}}
    pod |= {"spec": template["spec"] | {"restartPolicy": "Never"}}
    answer = plane.call("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
    return answer.status


def create_priority(plane: ControlPlane) -> None:
    """Create the class that the preset with everything names, unless it is there."""
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    answer = plane.call("POST", classes, {"metadata": {"name": "low"}, "value": -1})
    assert answer.status in {201, 409}


def test_a_release_goes_from_each_shape_to_each(plane: ControlPlane) -> None:
    """Nothing in it is of the kind that cannot be changed, and an uninstall leaves nothing."""
    namespace = plane.create_namespace()
    shown = ["direct", "scale-down", "direct", "colocated", "auto-scaling", "auto", "direct"]

    for shape in shown:
        release(plane, namespace, "upgrade", "--install", shapes.ALL[shape])
        expected = {n for n in helm.render(shapes.ALL[shape]).names if n not in hooks(shape)}
        assert names(plane, namespace) == expected
    release(plane, namespace, "uninstall")
    assert names(plane, namespace) == set()


def test_the_notes_are_shown(plane: ControlPlane) -> None:
    """With how to run it now, and what may not be what is wanted."""
    namespace = plane.create_namespace()
    values = shapes.SCALE_DOWN | {"timeZone": "Europe/Berlin"}

    said = release(plane, namespace, "upgrade", "--install", values)
    assert f"create job --from=cronjob/{NAME} {NAME}-manual-" in said
    assert "with strategy scale-down: billing may be down for 5m." in said
    assert 'WARNING: schedule "0 2 * * *" is between 00:00 and 03:59 in Europe/Berlin' in said


def test_a_job_is_made_from_the_cronjob_by_hand(plane: ControlPlane) -> None:
    """As its annotation says, also while it is suspended; the name leaves room for workers."""
    namespace = plane.create_namespace()
    values = shapes.DIRECT | {"suspend": True, "namePrefix": "j" * 44}
    release(plane, namespace, "upgrade", "--install", values)
    cronjob = json.loads(plane.kubectl("-n", namespace, "get", "cronjob", "j" * 44, "-o", "json"))
    command = cronjob["metadata"]["annotations"]["deepgram-journal-backup/run-now"]
    words = command.replace("$(date +%s)", "1764000000").split()

    said = plane.kubectl(*words[1:])
    assert said == f"job.batch/{'j' * 44}-manual-1764000000 created\n"


def test_what_a_hook_has_left_is_removed_as_written(plane: ControlPlane) -> None:
    """By its label; nothing else of the release is."""
    namespace = plane.create_namespace()
    rendered = helm.render(shapes.SCALE_DOWN | {"networkPolicy": {"enabled": True}})
    apply(plane, namespace, [each for each in rendered.objects if each["kind"] != "Pod"])
    text = (helm.ROOT / "docs" / "chart.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^kubectl (.* delete job,.*)$", text, re.MULTILINE)
    hooks = {name for name, event in rendered.hooks.items() if event != "test"}
    assert hooks <= names(plane, namespace)

    plane.kubectl(*line.replace(helm.NAMESPACE, namespace).split())
    assert names(plane, namespace) == rendered.names - {*rendered.hooks}


def test_rights_hold_in_whatever_namespace_it_is_applied_to(plane: ControlPlane) -> None:
    """Bindings name none, for their own is meant then: what was rendered for another works here."""
    namespace, other = plane.create_namespace(), plane.create_namespace()
    rendered = helm.render(shapes.SCALE_DOWN)
    kinds = {"Role", "RoleBinding", "ServiceAccount"}
    apply(plane, namespace, [each for each in rendered.objects if each["kind"] in kinds])

    def may(where: str, account: str) -> bool:
        resource = {"group": "coordination.k8s.io", "resource": "leases", "verb": "update"}
        resource |= {"namespace": where, "name": "deepgram-billing-journal-backup"}
        user = f"system:serviceaccount:{namespace}:{account}"
        review = {"spec": {"user": user, "resourceAttributes": resource}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(plane.call("POST", path, review).body["status"]["allowed"])

    for account in (f"{NAME}-sa", f"{NAME}-guard-sa", f"{NAME}-resume-sa"):
        assert (may(namespace, account), may(other, account)) == (True, False)


def apply(plane: ControlPlane, namespace: str, objects: list[Object], *options: str) -> str:
    """Have kubectl apply objects."""
    every = {"apiVersion": "v1", "kind": "List", "items": objects}
    return plane.kubectl("-n", namespace, "apply", "-f", "-", *options, stdin=json.dumps(every))


def release(plane: ControlPlane, namespace: str, verb: str, *words: Any) -> str:
    """Run Helm against the control plane; without hooks, whose pods have no node to run on."""
    options = [word for word in words if isinstance(word, str)]
    values = next((word for word in words if isinstance(word, dict)), None)
    if values is not None:
        path = plane.directory / f"{namespace}.json"
        path.write_text(json.dumps(values))
        options += [str(CHART), f"--values={path}"]
    return helm.run(
        verb,
        "acme",
        *options,
        "--no-hooks",
        f"--namespace={namespace}",
        kubeconfig=os.fspath(plane.kubeconfig),
    )


def hooks(shape: str) -> set[tuple[str, str]]:
    """Return what a release does not install."""
    return {*helm.render(shapes.ALL[shape]).hooks}


def names(plane: ControlPlane, namespace: str) -> set[tuple[str, str]]:
    """Return kind and name of all that has the chart's label."""
    kinds = "cronjobs,deployments,jobs,roles,rolebindings,serviceaccounts,networkpolicies"
    label = "app.kubernetes.io/managed-by=Helm"
    found = json.loads(plane.kubectl("-n", namespace, "get", kinds, "-l", label, "-o", "json"))
    return {(item["kind"], item["metadata"]["name"]) for item in found["items"]}
