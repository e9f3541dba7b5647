"""Rights: those that the code needs, in one namespace, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest

from backup.cluster.api import Rule
from backup.cluster.lease import lease_name
from backup.cluster.strategies import RULES
from tests.chart import helm, shapes
from tests.chart.helm import NAME, Object, Rendered
from tests.chart.shapes import having

BILLING = "acme-billing"
NAMED = {"billing": {"namePrefix": BILLING}}

Right = tuple[str, str, str, str | None]
"""Group, resource, verb, and the name of the one object, if it is bound to one."""

each_shape = pytest.mark.parametrize("shape", shapes.ALL)


def needed(rules: Iterable[Rule]) -> set[Right]:
    """Return the rights that the code says it needs."""
    names = {"leases": lease_name(BILLING)}
    return {
        (rule.group, rule.resource, verb, names.get(rule.resource, BILLING) if rule.named else None)
        for rule in rules
        for verb in rule.verbs
    }


def granted(role: Object) -> Iterator[Right]:
    """Give the rights of a role."""
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    for name in rule.get("resourceNames") or [None]:
                        yield group, resource, verb, name


def roles(rendered: Rendered) -> dict[str, set[Right]]:
    """Return the rights of each service account, by the bindings."""
    found: dict[str, set[Right]] = {}
    for binding in rendered.of("RoleBinding"):
        (subject,) = binding["subjects"]
        assert "namespace" not in subject  # which is that of the binding
        role = rendered.one("Role", binding["roleRef"]["name"])
        found.setdefault(subject["name"], set()).update(granted(role))
    return found


@each_shape
def test_rights_are_those_that_the_code_needs(shape: str) -> None:
    """`auto` that may not scale down needs what `colocated` needs."""
    rights = roles(helm.render(having(shapes.ALL[shape], NAMED)))

    strategy = {"auto": "colocated", "auto-scaling": "auto"}.get(shape, shape)
    expected = {f"{NAME}-resume-sa": needed(RULES["resume-billing"])}
    if strategy != "direct":
        expected[f"{NAME}-sa"] = needed(RULES[strategy])
    if shape in shapes.MAY_SCALE:
        expected[f"{NAME}-guard-sa"] = needed(RULES["resume-billing"])
    assert rights == expected


def test_the_readme_lists_the_rights() -> None:
    """For those who make the Roles themselves."""
    _, _, readme = (helm.CHART / "README.md").read_text().partition("## Rights")
    readme, _, _ = readme.partition("## ")
    rows = re.findall(r"^\| `([a-z/]+)`(?:: `([a-z-]+)`)? \|(.*)\|$", readme, re.MULTILINE)
    listed: dict[str, set[tuple[str, str]]] = {}
    for resource, _, cells in rows:
        for who, verbs in zip(
            ("colocated", "scale-down", "resume-billing"), cells.split("|"), strict=True
        ):
            every = {(resource, verb) for verb in verbs.replace(",", " ").split()}
            listed.setdefault(who, set()).update(every)

    for who, rights in listed.items():
        assert rights == {(rule.resource, verb) for rule in RULES[who] for verb in rule.verbs}
    assert {(resource, name) for resource, name, _ in rows if name} == {
        ("statefulsets", "billing"),
        ("statefulsets/scale", "billing"),
        ("leases", lease_name("billing")),
    }


@each_shape
def test_nothing_reaches_beyond_the_namespace(shape: str) -> None:
    """Nor does any rule say "all"."""
    rendered = helm.render(shapes.ALL[shape])

    assert not {kind for kind, _ in rendered.names} & {"ClusterRole", "ClusterRoleBinding"}
    assert "*" not in {word for role in rendered.of("Role") for r in granted(role) for word in r}


@each_shape
def test_only_who_asks_the_api_server_has_a_token(shape: str) -> None:
    """With `direct` the backup has none at all, and no service account gives one by itself."""
    rendered = helm.render(shapes.ALL[shape])

    tokens = {
        name for name, pod in rendered.pods.items() if pod["spec"]["automountServiceAccountToken"]
    }
    expected = {f"{NAME}-resume"}
    if shape != "direct":
        expected |= {NAME, f"{NAME}-test"}
    if shape in shapes.MAY_SCALE:
        expected.add(f"{NAME}-guard")
    assert tokens == expected
    assert {a["automountServiceAccountToken"] for a in rendered.of("ServiceAccount")} == {False}


@each_shape
def test_every_service_account_is_there(shape: str) -> None:
    """A pod of one that is not would never be made."""
    rendered = helm.render(shapes.ALL[shape])

    used = {pod["spec"]["serviceAccountName"] for pod in rendered.pods.values()}
    assert used == {account["metadata"]["name"] for account in rendered.of("ServiceAccount")}


@each_shape
def test_who_brings_the_roles_brings_one_service_account(shape: str) -> None:
    """Then the chart makes neither."""
    theirs = {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "theirs"}}
    rendered = helm.render(having(shapes.ALL[shape], theirs))

    assert {pod["spec"]["serviceAccountName"] for pod in rendered.pods.values()} == {"theirs"}
    assert not {kind for kind, _ in rendered.names} & {"Role", "RoleBinding", "ServiceAccount"}


def test_what_asks_for_nothing_needs_no_rights() -> None:
    """`direct` without hooks: then who may not create Roles need not bring any."""
    values = having(shapes.DIRECT, {"rbac": {"create": False}, "hooks": {"enabled": False}})
    rendered = helm.render(values)

    assert not {kind for kind, _ in rendered.names} & {"Role", "RoleBinding"}
    assert [each["metadata"]["name"] for each in rendered.of("ServiceAccount")] == [f"{NAME}-sa"]
    assert {p["spec"]["automountServiceAccountToken"] for p in rendered.pods.values()} == {False}


def test_a_service_account_that_is_there_gets_the_rights() -> None:
    """It has the cloud's identity already."""
    theirs = {"serviceAccount": {"create": False, "name": "theirs"}}
    rendered = helm.render(having(shapes.COLOCATED, theirs))

    assert roles(rendered)["theirs"] >= {("batch", "jobs", "create", None)}
    assert ("ServiceAccount", "theirs") not in rendered.names


def test_the_identity_of_a_cloud_hangs_on_what_uses_sinks() -> None:
    """And not on the guard and the hook, which use none."""
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/journal-backup"}
    rendered = helm.render(having(shapes.SCALE_DOWN, {"serviceAccount": {"annotations": role}}))

    marked = {
        account["metadata"]["name"]
        for account in rendered.of("ServiceAccount")
        if role.items() <= (account["metadata"].get("annotations") or {}).items()
    }
    assert marked == {f"{NAME}-sa"}
