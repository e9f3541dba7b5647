"""Workers: made from the run's own Job, and told apart by what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from backup import answer
from backup.answer import Answer
from backup.cluster.api import Object
from backup.cluster.billing import StatefulSet
from backup.cluster.layout import Volume
from backup.cluster.pods import Pod
from backup.cluster.rescue import ROLE_LABEL, RUN_LABEL, STATEFULSET_LABEL
from backup.cluster.workers import (
    GATE,
    MAX_NAME,
    MOUNT,
    Order,
    Template,
    make_job,
    read_template,
    remove_gate,
    require_rwx,
    worker_name,
)
from backup.errors import ConfigError
from backup.run import Run
from tests.simulated_cluster import BILLING, RUN_ID, SimulatedCluster, World

CLAIM = f"journal-{BILLING}-0"
VOLUME = Volume(
    claim=CLAIM,
    journals=(CLAIM,),
    pods=(f"{BILLING}-0",),
    is_shared=False,
    is_idle=False,
    is_bound=True,
    access_modes=("ReadWriteOnce",),
)
SHARED = Volume(
    claim="journals",
    journals=(CLAIM,),
    pods=(f"{BILLING}-0",),
    is_shared=True,
    is_idle=False,
    is_bound=True,
    access_modes=("ReadWriteMany",),
)
STATEFULSET = StatefulSet(
    name=BILLING,
    uid="uid-b",
    replicas=1,
    body={"spec": {"template": {"spec": {"tolerations": [{"key": "gpu"}]}}}},
)
TOKEN = {"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {}}]}}
CLOUD = {
    "name": "aws-iam-token",
    "projected": {"sources": [{"serviceAccountToken": {"audience": "sts.amazonaws.com"}}]},
}
SINK = {"name": "nas", "nfs": {"server": "nas", "path": "/exports"}}
TEMPLATE: Object = {
    "metadata": {
        "labels": {
            "app": "journal-backup",
            "controller-uid": "u",
            "job-name": "j",
            "batch.kubernetes.io/controller-uid": "u",
            "batch.kubernetes.io/job-name": "j",
        },
        "annotations": {"sidecar.istio.io/inject": "false"},
    },
    "spec": {
        "serviceAccountName": "journal-backup",
        "restartPolicy": "OnFailure",
        "nodeSelector": {"pool": "backup"},
        "nodeName": "node-9",
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "tolerations": [{"key": "backup"}],
        "priority": 1000,
        "priorityClassName": "high",
        "containers": [
            {
                "name": "backup",
                "image": "journal-backup:1",
                "args": ["backup"],
                "env": [
                    {"name": "BACKUP_SOURCE", "value": "/journals"},
                    {"name": "BACKUP_SINKS", "value": "file:///sinks/nas"},
                ],
                "volumeMounts": [
                    {"name": "nas", "mountPath": "/sinks/nas"},
                    {"name": "aws-iam-token", "mountPath": "/var/run/aws"},
                    {"name": "kube-api-access", "mountPath": "/var/run/secrets"},
                    {"name": "journal", "mountPath": "/journals"},
                    {"name": "one", "mountPath": "/journals/journal-deepgram-billing-0"},
                ],
            }
        ],
        "volumes": [SINK, CLOUD, TOKEN, {"name": "journal"}, {"name": "one"}],
    },
}


def template(
    pod: Object | None = None,
    *,
    name: str = "journal-backup-29",
    priority: int = 0,
    spec: Object | None = None,
) -> Template:
    """Give what workers are made from."""
    job = {"metadata": {"name": name, "uid": "uid-j"}, "spec": {"template": pod or TEMPLATE}}
    return Template(
        job=job,
        priority=priority,
        run_id=RUN_ID,
        statefulset=BILLING,
        billing_template={"spec": spec or {}},
    )


def order(**changes: Any) -> Order:
    """Give an order, with changes."""
    given: dict[str, Any] = {"name": "w", "arguments": ("worker", "--run=r"), "volume": VOLUME}
    return Order(**{**given, **changes})


def spec_of(made: Object) -> Object:
    """Give the pod of a Job."""
    spec: Object = made["spec"]["template"]["spec"]
    return spec


def billing_pod(**spec: Any) -> Object:
    """Give a pod of billing's."""
    return {"metadata": {"name": f"{BILLING}-0"}, "spec": spec}


# -- what it is made from


def test_template_is_the_job_of_our_own_pod(world: World, cluster: SimulatedCluster) -> None:
    """Same image, settings, sinks and secrets, without telling them twice."""
    pod = world.add_run()
    world.edit("pods", pod, lambda body: body["spec"].update(priority=7))

    found = read_template(Run(id=RUN_ID, pod=pod), cluster, STATEFULSET)

    assert found.job == world.get("jobs", "journal-backup-1")
    assert (found.priority, found.run_id, found.statefulset) == (7, RUN_ID, BILLING)
    assert found.billing_template == {"spec": {"tolerations": [{"key": "gpu"}]}}


@pytest.mark.parametrize("name", ["", "journal-backup-9-x"])
def test_run_without_a_pod_is_told_what_to_set(cluster: SimulatedCluster, name: str) -> None:
    """The downward API says which pod we are."""
    with pytest.raises(ConfigError, match="there is no pod") as caught:
        read_template(Run(id=RUN_ID, pod=name), cluster, STATEFULSET)

    assert "POD_NAME" in caught.value.hints[0]


@pytest.mark.parametrize(
    "owners",
    [None, [{"kind": "ReplicaSet", "name": "toolbox"}], [{"kind": "Job", "name": "gone"}]],
)
def test_pod_without_a_job_is_told_how_to_run(
    world: World, cluster: SimulatedCluster, owners: list[Object] | None
) -> None:
    """Somebody runs a backup in the toolbox."""
    pod = world.add_run()
    world.paused.add("collector")
    world.edit("pods", pod, lambda body: body["metadata"].update(ownerReferences=owners))

    with pytest.raises(ConfigError, match="belongs to none") as caught:
        read_template(Run(id=RUN_ID, pod=pod), cluster, STATEFULSET)

    assert "--from=cronjob" in caught.value.hints[0]


# -- how it is made


def test_worker_is_the_same_without_what_is_the_orchestrators_alone() -> None:
    """Labels that would have it counted twice, its place, and its token for the API."""
    made = make_job(template(), order(seconds=99))

    labels = {
        "app": "journal-backup",
        RUN_LABEL: RUN_ID,
        STATEFULSET_LABEL: BILLING,
        ROLE_LABEL: "worker",
    }
    assert made["metadata"]["labels"] == labels
    assert made["spec"]["template"]["metadata"]["labels"] == labels
    assert made["spec"]["template"]["metadata"]["annotations"] == {
        "sidecar.istio.io/inject": "false"
    }
    owners = made["metadata"]["ownerReferences"]
    assert [(o["kind"], o["name"], o["uid"]) for o in owners] == [
        ("Job", "journal-backup-29", "uid-j")
    ]
    assert made["spec"]["backoffLimit"] == 0
    assert made["spec"]["activeDeadlineSeconds"] == 99
    spec = spec_of(made)
    assert {"nodeSelector", "nodeName", "affinity", "topologySpreadConstraints"} & set(
        spec
    ) == set()
    assert spec["automountServiceAccountToken"] is False
    assert spec["restartPolicy"] == "Never"
    assert spec["serviceAccountName"] == "journal-backup"
    container = spec["containers"][0]
    assert (container["image"], container["args"]) == ("journal-backup:1", ["worker", "--run=r"])
    assert [v["name"] for v in spec["volumes"]] == ["nas", "aws-iam-token", "journal-source"]
    assert "schedulingGates" not in spec


def test_journal_is_mounted_read_only_twice() -> None:
    """With the mount's alone, a pod's fsGroup would re-own billing's live journal."""
    spec = spec_of(make_job(template(), order()))

    container = spec["containers"][0]
    assert spec["volumes"][-1]["persistentVolumeClaim"] == {"claimName": CLAIM, "readOnly": True}
    assert container["volumeMounts"] == [
        {"name": "nas", "mountPath": "/sinks/nas"},
        {"name": "aws-iam-token", "mountPath": "/var/run/aws"},
        {"name": "journal-source", "mountPath": f"{MOUNT}/{CLAIM}", "readOnly": True},
    ]
    assert container["env"] == [
        {"name": "BACKUP_SINKS", "value": "file:///sinks/nas"},
        {"name": "BACKUP_SOURCE", "value": MOUNT},
    ]


def test_shared_volume_is_the_source_itself() -> None:
    """It has a directory for each journal."""
    spec = spec_of(make_job(template(), order(volume=SHARED)))

    assert spec["containers"][0]["volumeMounts"][-1]["mountPath"] == MOUNT


def test_worker_without_a_volume_mounts_no_journal() -> None:
    """The one that commits needs sinks alone."""
    spec = spec_of(make_job(template(), order(volume=None)))

    assert [v["name"] for v in spec["volumes"]] == ["nas", "aws-iam-token"]
    assert spec["containers"][0]["env"] == TEMPLATE["spec"]["containers"][0]["env"]


def test_template_is_not_changed() -> None:
    """Many workers are made of it."""
    once = make_job(template(), order(billing_pods=(billing_pod(tolerations=[{"key": "gpu"}]),)))

    assert spec_of(make_job(template(), order())) != spec_of(once)
    assert TEMPLATE["spec"]["containers"][0]["args"] == ["backup"]


def test_bare_template_is_enough() -> None:
    """No labels, no volumes, no environment."""
    bare = {"spec": {"containers": [{"name": "backup"}]}}

    made = make_job(template(bare), order())

    assert made["metadata"]["labels"] == {
        RUN_LABEL: RUN_ID,
        STATEFULSET_LABEL: BILLING,
        ROLE_LABEL: "worker",
    }
    assert spec_of(made)["containers"][0]["env"] == [{"name": "BACKUP_SOURCE", "value": MOUNT}]
    assert "affinity" not in spec_of(made)
    assert "tolerations" not in spec_of(made)


def test_worker_goes_beside_billing() -> None:
    """On the node of that very pod: the volume is there."""
    spec = spec_of(make_job(template(), order(beside=f"{BILLING}-0")))

    (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchExpressions"] == [
        {
            "key": "statefulset.kubernetes.io/pod-name",
            "operator": "In",
            "values": [f"{BILLING}-0"],
        }
    ]


def test_worker_likes_to_be_where_billing_was() -> None:
    """The volume may still be attached there; but elsewhere is fine."""
    spec = spec_of(make_job(template(), order(near=("node-1", "node-2"))))

    (wish,) = spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert wish["preference"]["matchExpressions"][0]["values"] == ["node-1", "node-2"]
    assert "podAffinity" not in spec["affinity"]


def test_worker_tolerates_what_billing_does() -> None:
    """Else it is not let onto billing's node; each toleration is there once."""
    gpu, backup = {"key": "gpu"}, {"key": "backup"}
    pods = (billing_pod(tolerations=[gpu]), billing_pod(tolerations=[gpu, backup]), billing_pod())

    spec = spec_of(make_job(template(), order(billing_pods=pods)))

    assert spec["tolerations"] == [backup, gpu]


def test_worker_gets_along_with_billing_that_is_not_there() -> None:
    """At 0, or scaled in: its template tells what its volume's node wants; without one, no need."""
    tolerations = [{"key": "gpu"}]
    linux = {"level": "s0:c1"}
    made = template(spec={"tolerations": tolerations, "securityContext": {"seLinuxOptions": linux}})

    spec = spec_of(make_job(made, order()))
    without = spec_of(make_job(made, order(volume=None)))

    assert spec["tolerations"] == [{"key": "backup"}, *tolerations]
    assert spec["securityContext"] == {"seLinuxOptions": linux}
    assert without["tolerations"] == [{"key": "backup"}]
    assert "securityContext" not in without


def test_worker_has_billings_selinux_options() -> None:
    """With other ones it cannot read what billing writes."""
    linux = {"level": "s0:c1,c2"}
    bare: Object = {
        "spec": {"containers": [{"name": "b"}], "securityContext": {"runAsUser": 65532}}
    }
    context = {"seLinuxOptions": linux}
    pods = (billing_pod(securityContext=context), billing_pod(securityContext={}))

    spec = spec_of(make_job(template(bare), order(billing_pods=pods)))

    assert spec["securityContext"] == {"runAsUser": 65532, "seLinuxOptions": linux}
    container = {"name": "billing", "securityContext": {"seLinuxOptions": {"level": "s0:c3"}}}
    pod_with_both = billing_pod(securityContext={"seLinuxOptions": linux}, containers=[container])
    spec = spec_of(make_job(template(bare), order(billing_pods=(pod_with_both,))))
    assert spec["securityContext"]["seLinuxOptions"] == {"level": "s0:c3"}


@pytest.mark.parametrize(
    ("ours", "billings", "expected"),
    [
        (1000, [{"priority": 10, "priorityClassName": "low"}], "low"),
        (1000, [{"priority": 10}], None),
        (1000, [{}], None),
        (1000, [{"priority": 2000, "priorityClassName": "top"}], "high"),
        (1000, [{"priority": 1000, "priorityClassName": "same"}], "high"),
        (1000, [{"priority": 2000}, {"priority": 5, "priorityClassName": "low"}], "low"),
        (1000, [], None),
    ],
)
def test_worker_never_pushes_billing_off_its_node(
    ours: int, billings: list[Object], expected: str | None
) -> None:
    """The scheduler would evict billing to make room for its backup."""
    pods = tuple(billing_pod(**spec) for spec in billings)

    spec = spec_of(make_job(template(priority=ours), order(billing_pods=pods)))

    assert spec.get("priorityClassName") == expected
    assert ("priority" in spec) == (expected == "high")


def test_gate_holds_a_worker_back() -> None:
    """Until billing is down."""
    assert spec_of(make_job(template(), order(is_gated=True)))["schedulingGates"] == [
        {"name": GATE}
    ]


@pytest.mark.parametrize("job", ["journal-backup-29", "x" * 63, "a-" * 31 + "z", "y" * 40])
@pytest.mark.parametrize("role", ["worker", "commit"])
def test_names_fit(job: str, role: str) -> None:
    """Into a label, and so into a pod's name; each worker of each run has another."""
    made = template(name=job)
    other_run = replace(made, run_id="other")

    names = [
        worker_name(made, role, CLAIM),
        worker_name(made, role, CLAIM, 2),
        worker_name(made, role, "journals"),
        worker_name(other_run, role, CLAIM),
    ]

    assert len(set(names)) == 4
    assert all(len(name) <= MAX_NAME and "--" not in name for name in names)
    assert names[0] == worker_name(made, role, CLAIM, 1)


# -- the gate


def gated(*names: str) -> Object:
    """Make a pod with gates."""
    gates = [{"name": name} for name in names]
    return {"metadata": {"name": "p"}, "spec": {"schedulingGates": gates}, "status": {}}


@pytest.mark.parametrize("has_reply", [True, False])
def test_gate_is_opened(world: World, cluster: SimulatedCluster, *, has_reply: bool) -> None:
    """Also where the reply is lost and it is asked for once more."""
    world.paused.add("kubelet")
    pod = world.put("pods", gated(GATE))
    if not has_reply:
        cluster.lose_reply("patch pods")

    remove_gate(cluster, Pod(pod))

    assert not world.get("pods", "p")["spec"]["schedulingGates"]


def test_gates_of_others_stay_shut(world: World, cluster: SimulatedCluster) -> None:
    """Somebody who queues pods has a gate of his own, and his reasons."""
    pod = world.put("pods", gated("kueue.x-k8s.io/admission", GATE))

    remove_gate(cluster, Pod(pod))

    gates = world.get("pods", "p")["spec"]["schedulingGates"]
    assert gates == [{"name": "kueue.x-k8s.io/admission"}]


def test_open_gate_is_not_opened_again(world: World, cluster: SimulatedCluster) -> None:
    """Nothing is written."""
    world.paused.add("kubelet")
    remove_gate(cluster, Pod(world.put("pods", gated("other"))))
    remove_gate(cluster, Pod({"metadata": {"name": "p"}, "spec": {}}))

    assert cluster.writes == []


# -- what came of it


def pod(phase: str = "Failed", *, state: Object | None = None, **status: Any) -> Pod:
    """Make the pod of a worker."""
    container = [{"state": state}] if state is not None else None
    return Pod(
        {
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n"},
            "status": {"phase": phase, "containerStatuses": container, **status},
        }
    )


def test_pod_tells_where_it_stands() -> None:
    """By its phase and its only container."""
    bare = Pod({"metadata": {"name": "p"}, "spec": {}})
    running = pod("Running", state={"running": {}})
    done = pod("Succeeded", state={"terminated": {"exitCode": 0}})
    starting = pod("Pending", state=None)

    pods = (bare, starting, running, done, pod())
    assert [p.has_ended for p in pods] == [False, False, False, True, True]
    assert [p.is_running for p in pods] == [False, False, True, True, True]
    assert [p.has_succeeded for p in pods] == [False, False, False, True, False]
    assert [p.answer for p in pods] == [None] * 5
    assert (bare.name, bare.node, running.node) == ("p", None, "n")


def test_pod_that_somebody_ended_is_not_one_that_failed() -> None:
    """A drain deletes; a kubelet that evicts for want of disk does not."""
    deleted = {"deletionTimestamp": "now"}
    pods = [pod(phase) for phase in ("Failed", "Running", "Succeeded")]
    assert [p.was_deleted for p in pods] == [False] * 3
    for p in pods:
        p.body["metadata"] |= deleted

    assert [p.was_deleted for p in pods] == [True, False, False]


def test_pod_gives_its_answer() -> None:
    """From the termination message."""
    said = Answer(exit_code=4)

    assert pod(state={"terminated": {"message": answer.write(said)}}).answer == said


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (
            pod(state={"terminated": {"reason": "OOMKilled", "exitCode": 137}}),
            "ran out of memory: raise resources.limits.memory",
        ),
        (pod(reason="Evicted", message="low on disk"), "was evicted: low on disk"),
        (
            pod(conditions=[{"type": "DisruptionTarget", "message": "node drained"}]),
            "was evicted: node drained",
        ),
        (pod(conditions=[{"type": "DisruptionTarget"}]), "was evicted"),
        (pod(reason="Evicted"), "was evicted"),
        (pod(reason="UnexpectedAdmissionError", message="no"), "UnexpectedAdmissionError: no"),
        (pod(reason="NodeLost"), "NodeLost"),
        (
            pod(state={"terminated": {"exitCode": 1, "reason": "Error"}}),
            "ended with exit code 1 and without an answer",
        ),
        (pod(conditions=[{"type": "Ready"}]), "ended without an answer"),
    ],
)
def test_silence_has_a_reason(ended: Pod, why: str) -> None:
    """Each asks for something else."""
    assert ended.why_ended() == why


@pytest.mark.parametrize(
    ("waiting", "why"),
    [
        (
            pod(
                "Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}],
            ),
            "is not scheduled: 0/3 nodes",
        ),
        (
            pod(
                "Pending",
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
                ],
            ),
            "is not scheduled: SchedulingGated",
        ),
        (
            pod("Pending", state={"waiting": {"reason": "ImagePullBackOff", "message": "no such"}}),
            "ImagePullBackOff: no such",
        ),
        (pod("Pending", state={"waiting": {"reason": "CreateError"}}), "CreateError"),
        (
            pod(
                "Pending",
                state={"waiting": {"reason": "ContainerCreating"}},
                conditions=[{"type": "PodScheduled", "status": "True"}],
            ),
            "does not begin",
        ),
        (pod("Pending"), "does not begin"),
    ],
)
def test_waiting_has_a_reason(waiting: Pod, why: str) -> None:
    """As far as the pod itself tells."""
    assert waiting.why_waiting() == why


# -- sinks on claims


def on_claim(name: str) -> Template:
    """Give a template with a sink on a claim."""
    volumes = [SINK, {"name": "archive", "persistentVolumeClaim": {"claimName": name}}]
    return template({"spec": {"containers": [{"name": "b"}], "volumes": volumes}})


def test_sink_for_one_node_is_refused(world: World, cluster: SimulatedCluster) -> None:
    """Workers go to billing's nodes, of which there may be several."""
    world.add_claim("archive", modes=("ReadWriteOnce", "ReadOnlyMany"))

    with pytest.raises(ConfigError, match=r"archive, .* is ReadWriteOnce, ReadOnlyMany:"):
        require_rwx(cluster.list("persistentvolumeclaims"), on_claim("archive"))


def test_sink_for_many_nodes_is_fine(world: World, cluster: SimulatedCluster) -> None:
    """Whatever other claims there are."""
    world.add_claim("archive", modes=("ReadWriteMany",))
    world.add_claim(CLAIM)

    require_rwx(cluster.list("persistentvolumeclaims"), on_claim("archive"))


def test_sinks_without_claims_are_fine(world: World, cluster: SimulatedCluster) -> None:
    """Most sites have object stores."""
    world.add_claim(CLAIM)
    claims = cluster.list("persistentvolumeclaims")

    require_rwx(claims, template())
    require_rwx(claims, template({"spec": {"containers": []}}))


def test_hour_is_enough_for_a_look() -> None:
    """An ended worker is there for an hour, then the cluster removes it."""
    kept = make_job(template(), order())["spec"]["ttlSecondsAfterFinished"]

    assert timedelta(seconds=kept) == timedelta(hours=1)
