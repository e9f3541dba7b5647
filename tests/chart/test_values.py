"""Every value is documented, has a place in the schema, and does something."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest

from tests.chart import helm, shapes
from tests.chart.helm import CHART, HelmError
from tests.chart.shapes import at, having

EVERYTHING = CHART / "ci" / "everything-values.yaml"
VALUES: Mapping[str, Any] = helm.load(CHART / "values.yaml")
SCHEMA: Mapping[str, Any] = json.loads((CHART / "values.schema.json").read_text())
FREE = {"securityContext", "containerSecurityContext", "resources"}  # maps that are Kubernetes' own

# What another value hides in the preset with everything, and a change that brings it to light. The
# second is what the value is compared with.
HIDDEN: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "billing.journal.aws.efs.enabled": (shapes.DIRECT, at("strategy", "auto")),
    "billing.journal.aws.efs.existingPvcName": (shapes.DIRECT, at("strategy", "")),
    "billing.journal.aws.efs.modelsNamePrefix": (shapes.DIRECT, at("strategy", "")),
    "billing.journal.accessMode": (shapes.DIRECT, at("strategy", "auto")),
    "billing.journal.existingPvcName": (shapes.DIRECT, at("strategy", "")),
    "caBundle.configMapRef": (shapes.DIRECT, at("caBundle.key", "ca.crt")),
    "image.tag": (shapes.DIRECT, at("strategy", "")),
    "hooks.enabled": (shapes.DIRECT, at("strategy", "")),
    "verify.enabled": (shapes.DIRECT, at("strategy", "")),
    "prometheusRule.maxAge": (shapes.DIRECT, {"prometheusRule": {"enabled": True}}),
    "rbac.create": (
        shapes.DIRECT,
        at("serviceAccount", {"create": False, "name": "theirs"}),
    ),
    "serviceAccount.create": (shapes.DIRECT, at("serviceAccount.name", "theirs")),
    "strategy": (shapes.SCALE_DOWN, at("logLevel", "info")),
}
OTHER: Mapping[str, Any] = {
    "billing.journal.aws.efs.enabled": False,
    "billing.journal.aws.efs.existingPvcName": "other",
    "billing.journal.aws.efs.modelsNamePrefix": "other",
    "billing.journal.accessMode": "ReadWriteOnce",
    "billing.journal.existingPvcName": "other",
    "caBundle.configMapRef": "other",
    "image.tag": "other",
    "hooks.enabled": False,
    "verify.enabled": False,
    "prometheusRule.maxAge": "8d",
    "rbac.create": False,
    "serviceAccount.create": False,
    "strategy": "auto",
}


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Give the paths of the values that a user sets."""
    for key, value in values.items():
        here = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value and key not in FREE:
            yield from leaves(value, here)
        else:
            yield here


def groups(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Give the paths of all maps that have a list of keys."""
    for key, part in schema["properties"].items():
        if "properties" in part:
            here = f"{path}.{key}".lstrip(".")
            yield here
            yield from groups(part, here)


def known(path: str) -> Any:
    """Return the default of a value."""
    value: Any = VALUES
    for key in path.split("."):
        value = value[key]
    return value


LEAVES = [*leaves(VALUES)]
each_leaf = pytest.mark.parametrize("path", LEAVES)


@each_leaf
def test_a_value_is_documented(path: str) -> None:
    """In the README, which is made of the comments: one that has none is an empty row."""
    readme = (CHART / "README.md").read_text()

    row = re.search(rf"^\| {re.escape(path)} \| [a-z/]+ \| .+ \| (.+) \|$", readme, re.MULTILINE)
    assert row is not None
    assert len(row[1]) > 3


@each_leaf
def test_a_value_does_something(path: str) -> None:
    """What comes out differs when the value does."""
    if path in HIDDEN:
        values, change = HIDDEN[path]
        values = having(values, change)
        before, after = (helm.render(v) for v in (values, having(values, at(path, OTHER[path]))))
    else:
        before = helm.render({}, EVERYTHING)
        after = helm.render(at(path, counterpart(path)), EVERYTHING)

    assert before != after


def counterpart(path: str) -> Any:
    """Return a value that differs from the one in the preset with everything."""
    preset: Any = helm.load(EVERYTHING)
    for key in path.split("."):
        preset = preset.get(key, {}) if isinstance(preset, dict) else {}
    default = known(path)
    special = {
        "billing.namePrefix": "other-billing",
        "extraVolumeMounts": [
            {"name": "disk", "mountPath": "/sinks/disk"},
            {"name": "disk", "mountPath": "/more"},
        ],
        "maxDowntime": "1m",
        "fullEvery": "3d",
        "sinks": shapes.SINKS,
        "resources": {"limits": {"cpu": "1"}},
        "securityContext": {"fsGroup": 1},
        "containerSecurityContext": {"privileged": None},
        "billing.replicas": 7,
        "additionalLabels": {"tier": "other"},
        "additionalAnnotations": {"acme.example/owner": "other"},
        "prometheusRule.labels": {"release": "other"},
        "affinity": {"nodeAffinity": None},
        "nodeSelector": {"kubernetes.io/os": "other"},
        "serviceAccount.annotations": {"eks.amazonaws.com/role-arn": "other"},
        "global.additionalLabels": {"team": "other"},
        "toolbox.securityContext": {"fsGroup": 1},
        "image.digest": "",
        "backoffLimit": 3,
    }
    return special.get(path, default if default != preset else flipped(default))


def flipped(value: Any) -> Any:
    """Return another value of the same kind."""
    return not value if isinstance(value, bool) else f"{value}x"


def test_the_schema_is_one() -> None:
    """Of the draft that Helm knows."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert "draft-07" in SCHEMA["$schema"]


def test_the_schema_knows_what_there_is_and_no_more() -> None:
    """But for `enabled`, which conditions of dependencies use, and no template does."""
    listed = {path for path in leaves_of(SCHEMA) if path != "enabled"}

    assert {path for path in LEAVES if path not in FREE} == {p for p in listed if p not in FREE}


def leaves_of(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Give the paths that a schema lists."""
    for key, part in schema["properties"].items():
        here = f"{path}.{key}".lstrip(".")
        if "properties" in part:
            yield from leaves_of(part, here)
        else:
            yield here


@pytest.mark.parametrize("group", ["", *(g for g in groups(SCHEMA) if g != "global")])
def test_an_unknown_key_is_refused(group: str) -> None:
    """It is a misspelt one, and what it was to set would keep its default."""
    values = having(shapes.DIRECT, at(f"{group}.shedule".lstrip("."), "x"))

    with pytest.raises(HelmError, match=r"[Aa]dditional propert.*shedule"):
        helm.render(values)


def test_what_an_umbrella_adds_is_accepted() -> None:
    """The switch of a dependency's condition, and what its other charts share."""
    values = shapes.DIRECT | {"enabled": True, "global": {"deepgramSecretRef": "key", "x": {}}}

    assert helm.render(values) == helm.render(shapes.DIRECT)


@pytest.mark.parametrize("nothing", [{"global": None}, {"global": {}}, {}])
def test_nothing_global_is_needed(nothing: dict[str, Any]) -> None:
    """Alone, there may be no `global` at all."""
    assert helm.render(shapes.DIRECT | nothing) == helm.render(shapes.DIRECT)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("billing.journal.accessMode", "ReadOnlyMany"),
        ("billing.namePrefix", "Deepgram_Billing"),
        ("billing.replicas", 0),
        ("billing.replicas", "2"),
        ("deadline", "6 hours"),
        ("image.digest", "sha256:abc"),
        ("image.path", "registry.example/image:1.0"),
        ("image.pullPolicy", "Sometimes"),
        ("maxDowntime", "300"),
        ("nodeSelector", {"gpu": True}),
        ("sinks", [{"url": "ftp://host/x"}]),
        ("sinks", [{"url": "s3://a/b,s3://c/d"}]),
        ("sinks", [{"path": "/x"}]),
        ("sinks", "s3://a/b"),
        ("site", "plant 7"),
        ("strategy", "scaledown"),
        ("suspend", "yes"),
        ("toolbox.replicas", 2),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused(path: str, value: object) -> None:
    """By the schema, before anything is rendered."""
    with pytest.raises(HelmError, match="values don't meet the specifications of the schema"):
        helm.render(having(shapes.DIRECT, at(path, value)))


@pytest.mark.parametrize("path", [*groups(SCHEMA), *LEAVES])
def test_null_is_a_value_or_is_refused(path: str) -> None:
    """No template stumbles over what is missing then."""
    said = tried(at(path, None))

    expected = r"rendered|specifications of the schema|problem\(s\) with the values"
    assert re.search(expected, said)
    assert "<nil>" not in said


def tried(values: Mapping[str, Any]) -> str:
    """Return what becomes of values on top of everything, or what is said of them."""
    try:
        return "rendered " + json.dumps(helm.render(values, EVERYTHING).objects)
    except HelmError as error:
        return str(error)


@pytest.mark.parametrize("group", ["", *groups(SCHEMA)])
def test_what_may_not_be_null_is_required(group: str) -> None:
    """Helm takes a key that is null for one that is not there, before it asks the schema."""
    schema: Any = SCHEMA
    for key in group.split(".") if group else ():
        schema = schema["properties"][key]
    validator = jsonschema.Draft7Validator({"definitions": SCHEMA["definitions"], **schema})
    refused = {
        key
        for key in schema["properties"]
        if any([*error.path] == [key] for error in validator.iter_errors({key: None}))
    }

    of_the_condition = {"enabled"} if not group else set()
    assert refused - of_the_condition == {*schema.get("required", [])}


@pytest.mark.parametrize("path", ["securityContext", "containerSecurityContext", "resources"])
def test_null_takes_a_whole_map_away(path: str) -> None:
    """The cluster has a default of its own for each."""
    for pod in helm.render(having(shapes.SCALE_DOWN, at(path, None))).pods.values():
        for container in helm.containers(pod):
            spec = pod["spec"] if path == "securityContext" else container
            assert not spec[path.replace("containerS", "s")]


@pytest.mark.parametrize("path", ["additionalLabels", "global.additionalLabels"])
def test_labels_may_be_numbers(path: str) -> None:
    """The Deepgram chart takes them, and quotes them."""
    labels = {"tier": 2, "cost-center": 1000000, "ratio": 0.5, "gpu": True}
    rendered = helm.render(shapes.DIRECT | at(path, labels))

    expected = {"tier": "2", "cost-center": "1000000", "ratio": "0.5", "gpu": "true"}
    for each in rendered.objects:
        assert expected.items() <= each["metadata"]["labels"].items()
    for pod in rendered.pods.values():
        assert expected.items() <= pod["metadata"]["labels"].items()


def test_null_takes_a_default_away() -> None:
    """OpenShift gives out users itself, and refuses a pod that names one."""
    null = {"securityContext": {"runAsUser": None, "runAsGroup": None}}

    for pod in helm.render(having(shapes.SCALE_DOWN, null)).pods.values():
        assert not {"runAsUser", "runAsGroup"} & {*pod["spec"]["securityContext"]}
