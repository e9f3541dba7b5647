"""The control plane is a real one, does what tests count on, and ends whatever happens.

One that admits everything, or reconciles nothing, would prove nothing about who uses it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from tests.cluster import controlplane, programs
from tests.cluster.controlplane import ControlPlane, KubectlError, until

CONTAINER = {"name": "main", "image": "localhost/none"}
RUN_ONCE = {"containers": [CONTAINER], "restartPolicy": "Never"}
JOB = {"backoffLimit": 0, "template": {"spec": RUN_ONCE}}


def path(namespace: str, kind: str, name: str = "") -> str:
    """Give the path of the objects of a kind, or of one."""
    groups = {
        "cronjobs": "apis/batch/v1",
        "jobs": "apis/batch/v1",
        "leases": "apis/coordination.k8s.io/v1",
        "rolebindings": "apis/rbac.authorization.k8s.io/v1",
        "roles": "apis/rbac.authorization.k8s.io/v1",
        "statefulsets": "apis/apps/v1",
    }
    place = f"/{groups.get(kind, 'api/v1')}/namespaces/{namespace}/{kind}"
    return f"{place}/{name}" if name else place


def create(plane: ControlPlane, namespace: str, kind: str, name: str, **fields: Any) -> Any:
    """Create an object that the API server takes; return it as stored."""
    answer = plane.call("POST", path(namespace, kind), {"metadata": {"name": name}} | fields)
    assert answer.status == 201, answer.body
    return answer.body


def get(plane: ControlPlane, namespace: str, kind: str, name: str) -> Any:
    """Read an object that is there."""
    answer = plane.call("GET", path(namespace, kind, name))
    assert answer.status == 200, answer.body
    return answer.body


def listed(plane: ControlPlane, namespace: str, kind: str) -> list[Any]:
    """Read all objects of a kind."""
    found: list[Any] = plane.call("GET", path(namespace, kind)).body["items"]
    return found


def names(plane: ControlPlane, namespace: str, kind: str) -> set[str]:
    """Name all objects of a kind."""
    return {found["metadata"]["name"] for found in listed(plane, namespace, kind)}


def create_stateful_set(plane: ControlPlane, namespace: str, **spec: Any) -> Any:
    """Create a StatefulSet like billing's, and wait until its pods are there."""
    labels = {"app": "billing"}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    created = create(
        plane,
        namespace,
        "statefulsets",
        "billing",
        spec={
            "replicas": 2,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": labels},
            "serviceName": "billing",
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [CONTAINER]}},
            "volumeClaimTemplates": [{"metadata": {"name": "journal"}, "spec": claim}],
        }
        | spec,
    )
    pods = {"billing-0", "billing-1"}
    until(lambda: names(plane, namespace, "pods") == pods, "the StatefulSet has its pods")
    return created


def scheduling(pod: Any) -> str | None:
    """Return what the scheduler has found out about a pod, or None if it has not looked."""
    conditions = pod["status"].get("conditions", [])
    return next((c.get("reason") for c in conditions if c["type"] == "PodScheduled"), None)


# controllers and the scheduler


def test_a_cron_job_is_run_by_hand(control_plane: ControlPlane, namespace: str) -> None:
    """As users do: the Job belongs to the CronJob, and a controller gives it a pod."""
    create(
        control_plane,
        namespace,
        "cronjobs",
        "backup",
        spec={"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": JOB}},
    )
    control_plane.kubectl("-n", namespace, "create", "job", "now", "--from=cronjob/backup")
    job = get(control_plane, namespace, "jobs", "now")["metadata"]
    pods = until(lambda: listed(control_plane, namespace, "pods"), "the Job has a pod")
    owners = [owner for made in (job, pods[0]["metadata"]) for owner in made["ownerReferences"]]

    assert [(o["kind"], o["name"]) for o in owners] == [("CronJob", "backup"), ("Job", "now")]


def test_a_stateful_set_has_pods_and_claims(control_plane: ControlPlane, namespace: str) -> None:
    """Which controllers make; the scheduler looks for nodes, and there is none."""
    create_stateful_set(control_plane, namespace)
    until(
        lambda: all(map(scheduling, listed(control_plane, namespace, "pods"))),
        "the scheduler has looked at each pod",
    )
    pods = listed(control_plane, namespace, "pods")
    claims = names(control_plane, namespace, "persistentvolumeclaims")

    assert (["Pending", "Unschedulable"] * 2, {"journal-billing-0", "journal-billing-1"}) == (
        [said for pod in pods for said in (pod["status"]["phase"], scheduling(pod))],
        claims,
    )


def test_claims_go_with_replicas_if_told_to(control_plane: ControlPlane, namespace: str) -> None:
    """The setting with which a scale-down takes the journals along: it is served, and it bites."""
    policy = {"whenScaled": "Delete", "whenDeleted": "Retain"}
    made = create_stateful_set(
        control_plane, namespace, persistentVolumeClaimRetentionPolicy=policy
    )
    control_plane.kubectl("-n", namespace, "scale", "statefulset/billing", "--replicas=1")
    until(
        lambda: names(control_plane, namespace, "persistentvolumeclaims") == {"journal-billing-0"},
        "the claim of the other replica is gone",
    )

    assert policy == made["spec"]["persistentVolumeClaimRetentionPolicy"]


# what is refused


def test_scaling_by_a_stale_version_is_refused(control_plane: ControlPlane, namespace: str) -> None:
    """Without it, who scales would undo what another did in between, and not know."""
    create_stateful_set(control_plane, namespace)
    scale = path(namespace, "statefulsets", "billing/scale")

    def scaled(seen: Any, replicas: int) -> int:
        return control_plane.call("PUT", scale, seen | {"spec": {"replicas": replicas}}).status

    stale = control_plane.call("GET", scale).body
    control_plane.kubectl("-n", namespace, "label", "statefulset/billing", "changed=yes")
    refused = scaled(stale, 5)
    # The controller writes the status, and with it another version, until it has settled.
    until(
        lambda: scaled(control_plane.call("GET", scale).body, 0) == 200, "the version was not stale"
    )
    until(lambda: not names(control_plane, namespace, "pods"), "its pods are gone")
    replicas = get(control_plane, namespace, "statefulsets", "billing")["spec"]["replicas"]

    assert (refused, replicas) == (409, 0)


def test_a_lease_is_taken_once(control_plane: ControlPlane, namespace: str) -> None:
    """Of two who saw the same version, one gets it."""
    seen = create(control_plane, namespace, "leases", "backup", spec={})
    lease = path(namespace, "leases", "backup")
    answers = [
        control_plane.call("PUT", lease, seen | {"spec": {"holderIdentity": who}})
        for who in ("first", "second")
    ]
    holder = get(control_plane, namespace, "leases", "backup")["spec"]["holderIdentity"]

    assert ([answer.status for answer in answers], holder) == ([200, 409], "first")


def test_a_service_account_may_do_what_its_role_says(
    control_plane: ControlPlane, namespace: str
) -> None:
    """And no more: each right that is taken away has to be missed."""
    create(control_plane, namespace, "serviceaccounts", "backup")
    token = control_plane.token_for("backup", namespace=namespace)

    def asked(kind: str) -> int:
        return control_plane.call("GET", path(namespace, kind), token=token).status

    before = asked("pods")
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    create(control_plane, namespace, "roles", "backup", rules=[rule])
    create(
        control_plane,
        namespace,
        "rolebindings",
        "backup",
        roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "backup"},
        subjects=[{"kind": "ServiceAccount", "name": "backup", "namespace": namespace}],
    )
    until(lambda: asked("pods") == 200, "the role is in force")

    assert (before, asked("secrets")) == (403, 403)


def test_a_kubeconfig_makes_one_a_service_account(
    control_plane: ControlPlane, namespace: str
) -> None:
    """For programs that take no token; the namespace is in it."""
    create(control_plane, namespace, "serviceaccounts", "backup")
    config = control_plane.kubeconfig_for("backup", namespace=namespace)
    who = control_plane.kubectl("auth", "whoami", kubeconfig=config)
    with pytest.raises(KubectlError, match="forbidden") as refusal:
        control_plane.kubectl("get", "pods", kubeconfig=config)

    user = f"system:serviceaccount:{namespace}:backup"
    assert (user in who, f'in the namespace "{namespace}"' in str(refusal.value)) == (True, True)


def test_a_job_is_taken_whose_pods_are_not(control_plane: ControlPlane) -> None:
    """Pod Security looks at pods: of their Job, only events tell that it will never run."""
    restricted = control_plane.create_namespace(enforce="restricted")
    create(control_plane, restricted, "jobs", "backup", spec=JOB)

    def refusals() -> set[str]:
        events = listed(control_plane, restricted, "events")
        return {event["message"] for event in events if event["reason"] == "FailedCreate"}

    said = until(refusals, "an event tells of it")
    pods = names(control_plane, restricted, "pods")
    control_plane.delete_namespace(restricted)

    assert (set(), True) == (pods, all('violates PodSecurity "restricted' in why for why in said))


# its processes


def test_the_api_server_comes_back_with_all_it_had(
    control_plane: ControlPlane, namespace: str
) -> None:
    """At the same address; and the controllers, who could not reach it, go on."""
    before = create(control_plane, namespace, "configmaps", "kept", data={"key": "value"})
    control_plane.stop_apiserver()
    control_plane.stop_apiserver()
    with pytest.raises(OSError, match="refused"):
        control_plane.call("GET", "/version")
    control_plane.start_apiserver()
    control_plane.start_apiserver()
    after = get(control_plane, namespace, "configmaps", "kept")
    create(control_plane, namespace, "jobs", "later", spec=JOB)
    until(lambda: names(control_plane, namespace, "pods"), "the Job has a pod")

    assert (before["metadata"]["uid"], before["data"]) == (after["metadata"]["uid"], after["data"])


def test_nothing_is_left(tmp_path: Path) -> None:
    """Neither a process nor a file."""
    if reason := programs.unavailable():
        pytest.skip(reason)
    with controlplane.control_plane(tmp_path) as plane:
        version = plane.call("GET", "/version")
        pids = plane.pids
        during = {name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()}
    after = {name for name, pid in pids.items() if Path(f"/proc/{pid}").exists()}

    servers = set(get_args(programs.ControlPlaneProgram)) - {"kubectl"}
    assert (200, servers, set(), []) == (version.status, during, after, [*tmp_path.iterdir()])


# its programs


def put(directory: Path, *found: str) -> None:
    """Put programs there."""
    for name in found:
        (directory / name).touch(0o755)


def test_programs_that_were_brought_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which spares a site the build, where the convention of envtest holds."""
    put(tmp_path, *get_args(programs.ControlPlaneProgram))
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    assert (tmp_path / "kubectl", None) == (programs.program("kubectl"), programs.unavailable())


def test_programs_of_one_version_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What envtest downloads has no controllers, and another's may be too new for them."""
    put(tmp_path, "etcd", "kube-apiserver", "kubectl")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reason = "etcd is not built (tests/cluster/setup.sh does it, and needs Go)"

    assert (False, reason) == (
        programs.program("kube-apiserver").parent == tmp_path,
        programs.unavailable(),
    )
