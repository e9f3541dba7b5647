"""What runs: each pod, with every strategy."""

from __future__ import annotations

from typing import Any

import pytest

from backup.cli import grammar
from backup.cluster.rescue import REMOVAL_SECONDS
from backup.cluster.scaledown import CLEANUP_SECONDS
from backup.config import SETTINGS
from tests.chart import helm, shapes
from tests.chart.helm import CHART, NAME, RELEASE, HelmError, Object, Rendered
from tests.chart.shapes import at, having

EVERYTHING = CHART / "ci" / "everything-values.yaml"
BILLING_SELECTS = {"app": "deepgram-billing", "app.kubernetes.io/instance": RELEASE}

each_shape = pytest.mark.parametrize("shape", shapes.ALL)


def everywhere() -> list[Rendered]:
    """Render every shape, and the preset with everything."""
    return [*(helm.render(values) for values in shapes.ALL.values()), helm.render({}, EVERYTHING)]


def test_every_setting_exists() -> None:
    """A name that is not a setting is refused by the command, with exit code 2."""
    pods = [pod for rendered in everywhere() for pod in rendered.pods.values()]

    used = {name for pod in pods for name in helm.environment(pod) if name.startswith("BACKUP_")}
    assert used <= SETTINGS.keys()
    assert len(used) >= 10


def test_every_verb_exists() -> None:
    """With its options."""
    for rendered in everywhere():
        for name, pod in rendered.pods.items():
            for container in helm.containers(pod):
                assert ("command" in container) == name.endswith("-toolbox")
                if arguments := container.get("args"):
                    assert grammar.parser().parse_args(arguments).verb == arguments[0]


@each_shape
def test_the_journals_are_read_only_twice_over(shape: str) -> None:
    """In the volume and in the mount; only `direct` mounts them, for the backup and its test."""
    for name, pod in helm.render(shapes.ALL[shape]).pods.items():
        claims = {v["persistentVolumeClaim"]["claimName"]: v for v in claimed(pod)}
        if shape == "direct" and name in {NAME, f"{NAME}-test"}:
            volume = claims["dg-models-aws-efs-pvc"]
            assert volume["persistentVolumeClaim"]["readOnly"] is True
            assert helm.mounts(pod)["/journals"] == {
                "name": volume["name"],
                "mountPath": "/journals",
                "readOnly": True,
            }
        else:
            assert claims == {}
            assert "/journals" not in helm.mounts(pod)


def claimed(pod: Object) -> list[Object]:
    """Return the volumes of a pod that are PVCs."""
    return [v for v in helm.volumes(pod).values() if "persistentVolumeClaim" in v]


@pytest.mark.parametrize(
    ("journal", "claim"),
    [
        ({}, "dg-models-aws-efs-pvc"),
        ({"aws": {"efs": {"modelsNamePrefix": "acme"}}}, "acme-aws-efs-pvc"),
        ({"aws": {"efs": {"existingPvcName": "efs"}}}, "efs"),
        ({"existingPvcName": "own"}, "own"),
        ({"existingPvcName": "own", "aws": {"efs": {"existingPvcName": "efs"}}}, "own"),
        ({"existingPvcName": "own", "aws": {"efs": {"enabled": False}}}, "own"),
    ],
)
def test_the_claim_is_the_one_that_billing_mounts(journal: dict[str, Any], claim: str) -> None:
    """By the Deepgram chart's own order of preference."""
    pod = helm.render(having(shapes.DIRECT, {"billing": {"journal": journal}})).pods[NAME]

    assert [v["persistentVolumeClaim"]["claimName"] for v in claimed(pod)] == [claim]


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        (shapes.DIRECT, "direct"),
        (shapes.DIRECT | {"strategy": "auto"}, "direct"),
        (shapes.DIRECT | {"strategy": "colocated"}, "colocated"),
        (shapes.DIRECT | {"strategy": "scale-down", "maxDowntime": "5m"}, "scale-down"),
        (having(shapes.DIRECT, at("billing.journal.accessMode", "ReadWriteOnce")), "auto"),
        (shapes.AUTO, "auto"),
        (shapes.AUTO_SCALING, "auto"),
    ],
)
def test_direct_is_taken_where_it_can_be(values: dict[str, Any], strategy: str) -> None:
    """It needs no rights; what is asked for by name is what is done."""
    assert helm.environment(helm.render(values).pods[NAME])["BACKUP_STRATEGY"] == strategy


@each_shape
def test_billing_does_not_take_our_pods_for_its_own(shape: str) -> None:
    """Its Service and its StatefulSet select by these labels, in the same release and namespace."""
    rendered = helm.render(shapes.ALL[shape])

    for pod in rendered.pods.values():
        assert not BILLING_SELECTS.items() <= pod["metadata"]["labels"].items()
        assert "deepgram-billing" not in pod["metadata"]["labels"].values()


@each_shape
def test_pods_are_fit_for_a_restricted_namespace(shape: str) -> None:
    """The whole list of the Pod Security standard; test_server asks a real API server, too."""
    for pod in helm.render(shapes.ALL[shape]).pods.values():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "fsGroup" not in context
        for container in helm.containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@each_shape
def test_all_pods_have_much_in_common(shape: str) -> None:
    """One image, no service links (they look like settings), no sidecars, and who they are."""
    pods = helm.render(shapes.ALL[shape]).pods.values()

    assert {c["image"] for pod in pods for c in helm.containers(pod)} == {
        "localhost/deepgram-journal-backup:0.1.0"
    }
    for pod in pods:
        assert pod["spec"]["enableServiceLinks"] is False
        assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
        assert pod["metadata"]["annotations"]["linkerd.io/inject"] == "disabled"
        assert {"POD_NAME", "POD_NAMESPACE", "NODE_NAME"} <= {*helm.environment(pod)}


def test_a_mesh_can_be_asked_for() -> None:
    """What the user says of a label holds, and is said once."""
    mesh = {"sidecar.istio.io/inject": "true"}
    pod = helm.render(shapes.DIRECT | {"additionalLabels": mesh}).pods[NAME]

    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"path": "registry.acme.example:5000/x"}, "registry.acme.example:5000/x:0.1.0"),
        ({"tag": "1.2.3"}, "localhost/deepgram-journal-backup:1.2.3"),
        (
            {"tag": "1.2.3", "digest": f"sha256:{'0' * 64}"},
            f"localhost/deepgram-journal-backup@sha256:{'0' * 64}",
        ),
    ],
)
def test_the_image_is_the_one_that_is_named(image: dict[str, str], expected: str) -> None:
    """For every container."""
    pods = helm.render(shapes.SCALE_DOWN | {"image": image}).pods.values()

    assert {c["image"] for pod in pods for c in helm.containers(pod)} == {expected}


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({}, None),
        ({"global": {"pullSecretRef": "a"}}, ["a"]),
        ({"pullSecretRef": "b"}, ["b"]),
        ({"global": {"pullSecretRef": "a"}, "pullSecretRef": "b"}, ["a", "b"]),
        ({"global": {"pullSecretRef": "a"}, "pullSecretRef": "a"}, ["a"]),
    ],
)
def test_every_pod_may_pull(secrets: dict[str, Any], expected: list[str] | None) -> None:
    """With the Deepgram chart's Secret, one of its own, or both."""
    for pod in helm.render(shapes.SCALE_DOWN | secrets).pods.values():
        names = pod["spec"].get("imagePullSecrets")
        assert (names and [each["name"] for each in names]) == expected


# -- the CronJobs


@each_shape
def test_a_run_is_not_doubled_nor_left_hanging(shape: str) -> None:
    """No two at a time, none that starts hours late, none that stays for ever."""
    rendered = helm.render(shapes.ALL[shape])
    spec = rendered.one("CronJob", NAME)["spec"]
    job = spec["jobTemplate"]["spec"]

    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] == 3600
    assert spec["timeZone"] == "Etc/UTC"
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    deadline = 6 * 3600
    assert job["activeDeadlineSeconds"] == (job["backoffLimit"] + 1) * deadline + 900


@pytest.mark.parametrize("shape", shapes.MAY_SCALE)
def test_who_is_told_to_stop_has_time_to_bring_billing_back(shape: str) -> None:
    """SIGKILL would come before, and billing be down until the guard has a look."""
    pods = helm.render(shapes.ALL[shape]).pods

    for name in (NAME, f"{NAME}-guard", f"{NAME}-resume"):
        grace = pods[name]["spec"]["terminationGracePeriodSeconds"]
        assert grace > REMOVAL_SECONDS + CLEANUP_SECONDS


@each_shape
@pytest.mark.parametrize("allowed", [True, False])
def test_billing_at_0_may_be_meant(shape: str, *, allowed: bool) -> None:
    """Whoever asks the cluster finds it so, and exits with 3, whether it may scale it or not."""
    rendered = helm.render(shapes.ALL[shape] | {"allowStopped": allowed})

    expected = None if shape == "direct" else str(allowed).lower()
    for name in (NAME, f"{NAME}-test"):
        found = helm.environment(rendered.pods[name]).get("BACKUP_ALLOW_STOPPED")
        assert expected == found


@each_shape
def test_old_backups_go_after_a_run_or_from_the_toolbox(shape: str) -> None:
    """By the same rules, and with the same idea of how long a run may take."""
    rules = {"keepLast": 100_000, "keepWithin": "90d", "keepMonthly": 24}
    values = {"retention": {"prune": True, **rules}, "deadline": "2d"}
    rendered = helm.render(shapes.ALL[shape] | values)

    expected = {
        "BACKUP_DEADLINE": "2d",
        "BACKUP_KEEP_LAST": "100000",
        "BACKUP_KEEP_MIN": "3",
        "BACKUP_KEEP_MONTHLY": "24",
        "BACKUP_KEEP_WITHIN": "90d",
    }
    environments = {name: helm.environment(pod) for name, pod in rendered.pods.items()}
    for name in (NAME, f"{NAME}-toolbox"):
        said = {n: v for n, v in environments[name].items() if n in expected or "_KEEP_" in n}
        assert said == expected
    with_it = {name for name, found in environments.items() if "BACKUP_PRUNE" in found}
    assert with_it == {NAME, f"{NAME}-test"}
    assert environments[NAME]["BACKUP_PRUNE"] == "true"


@each_shape
def test_what_more_runs_do_not_mend_is_not_run_again(shape: str) -> None:
    """And a billing that may be scaled down is not scaled down twice for one night's backup."""
    job = helm.render(shapes.ALL[shape]).one("CronJob", NAME)["spec"]["jobTemplate"]["spec"]
    first, *rest = job["podFailurePolicy"]["rules"]

    assert job["backoffLimit"] == (1 if shape == "direct" else 0)
    assert first["action"] == "FailJob"
    assert first["onExitCodes"] == {
        "containerName": job["template"]["spec"]["containers"][0]["name"],
        "operator": "In",
        "values": [2, 6, 8],
    }
    assert [rule["action"] for rule in rest] == ([] if shape in shapes.MAY_SCALE else ["Ignore"])


def test_retries_can_be_chosen() -> None:
    """Also none."""
    job = helm.render(shapes.DIRECT | {"backoffLimit": 0}).one("CronJob", NAME)["spec"]

    assert job["jobTemplate"]["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize(
    ("deadline", "seconds"), [("90s", 90), ("5m", 300), ("24h", 86_400), ("7d", 604_800)]
)
def test_a_duration_is_read_as_the_command_reads_it(deadline: str, seconds: int) -> None:
    """In the units of all settings."""
    spec = helm.render(shapes.COLOCATED | {"deadline": deadline}).one("CronJob", NAME)["spec"]

    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == seconds + 900


@each_shape
def test_the_guard_is_there_when_it_has_something_to_guard(shape: str) -> None:
    """It looks also while backups are suspended: a run may have been started by hand."""
    rendered = helm.render(shapes.ALL[shape] | {"suspend": True})

    guards = [
        each for each in rendered.of("CronJob") if each["metadata"]["name"].endswith("-guard")
    ]
    assert len(guards) == (shape in shapes.MAY_SCALE)
    for guard in guards:
        assert guard["spec"]["suspend"] is False
        assert guard["spec"]["schedule"] == "*/2 * * * *"
        pod = guard["spec"]["jobTemplate"]["spec"]["template"]
        assert [c["args"] for c in helm.containers(pod)] == [["resume-billing"]]


@pytest.mark.parametrize("suspend", [True, False])
def test_suspended_means_no_schedule(*, suspend: bool) -> None:
    """Neither of backups nor of verifications; either can be made by hand."""
    rendered = helm.render(shapes.DIRECT | {"suspend": suspend})

    found = {each["metadata"]["name"]: each["spec"]["suspend"] for each in rendered.of("CronJob")}
    assert found == {NAME: suspend, f"{NAME}-verify": suspend}


def test_a_components_label_is_ours() -> None:
    """Whatever is shared with the Deepgram chart: ours is set last."""
    shared = {"global": {"additionalLabels": {"app.kubernetes.io/component": "theirs"}}}
    rendered = helm.render(shapes.SCALE_DOWN | shared)

    for name, pod in rendered.pods.items():
        component = name.removeprefix(NAME).lstrip("-") or "backup"
        assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == component


@each_shape
def test_the_hooks_are_there_with_every_strategy(shape: str) -> None:
    """The strategy before may have been another; the rights come first, and go with the Job."""
    rendered = helm.render(shapes.ALL[shape])
    hooks = {name: event for name, event in rendered.hooks.items() if event != "test"}
    weights = {
        each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"])
        for each in rendered.objects
        if (each["kind"], each["metadata"]["name"]) in hooks
    }

    assert {*hooks} == {
        ("Job", f"{NAME}-resume"),
        ("Role", f"{NAME}-resume-role"),
        ("RoleBinding", f"{NAME}-resume-rolebinding"),
        ("ServiceAccount", f"{NAME}-resume-sa"),
    }
    assert {*hooks.values()} == {"pre-upgrade,pre-rollback,pre-delete"}
    assert weights["ServiceAccount"] == weights["Role"] < weights["RoleBinding"] < weights["Job"]
    (container,) = helm.containers(rendered.pods[f"{NAME}-resume"])
    assert container["args"] == ["resume-billing", "--take-over"]


def test_a_hook_ends_before_helm_gives_up() -> None:
    """After five minutes Helm would only say that it has waited, and the Job would go on."""
    job = helm.render(shapes.DIRECT).one("Job", f"{NAME}-resume")["spec"]

    assert job["activeDeadlineSeconds"] == 240
    assert job["ttlSecondsAfterFinished"] == 86_400


def test_hooks_can_be_left_out() -> None:
    """Argo CD takes them for something else."""
    rendered = helm.render(shapes.DIRECT | {"hooks": {"enabled": False}})

    assert rendered.hooks == {("Pod", f"{NAME}-test"): "test"}


def test_who_only_scales_billing_back_is_never_root() -> None:
    """Whatever the journals need; and it has no sink, nor their Secrets."""
    rendered = helm.render({}, EVERYTHING)

    for name in ("journals-guard", "journals-resume"):
        pod = rendered.pods[name]
        assert pod["spec"]["securityContext"]["runAsUser"] == 65532
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert helm.volumes(pod) == {}
        assert "AWS_SECRET_ACCESS_KEY" not in helm.environment(pod)
    assert rendered.pods["journals"]["spec"]["securityContext"]["runAsUser"] == 0


def test_the_test_has_what_the_backup_has() -> None:
    """Settings, volumes, account and rights: else it would say nothing of the backup."""
    for rendered in everywhere():
        ((name, test),) = ((n, pod) for n, pod in rendered.pods.items() if n.endswith("-test"))
        backup = rendered.pods[name.removesuffix("-test")]
        (container,) = helm.containers(test)

        assert container["args"] == ["doctor"]
        for what in (helm.environment, helm.mounts, helm.volumes):
            assert what(test) == what(backup)
        for key in ("serviceAccountName", "automountServiceAccountToken", "securityContext"):
            assert test["spec"][key] == backup["spec"][key]


# -- sinks


def test_sinks_are_where_the_command_looks_for_them() -> None:
    """Of each kind one."""
    pod = helm.render({}, EVERYTHING).pods["journals"]
    mounts, volumes = helm.mounts(pod), helm.volumes(pod)

    assert volumes[mounts["/sinks/archive"]["name"]]["persistentVolumeClaim"] == {
        "claimName": "journal-archive"
    }
    assert mounts["/sinks/archive"]["subPath"] == "plant-7"
    assert volumes[mounts["/sinks/nas"]["name"]]["nfs"] == {
        "server": "nas.plant-7.example",
        "path": "/export/journals",
    }
    environment = helm.environment(pod)
    assert environment["BACKUP_SINKS"].split(",") == [
        sink["url"] for sink in helm.load(EVERYTHING)["sinks"]
    ]
    for variable, volume in (
        ("BACKUP_CA_CERT_FILE", "ca"),
        ("AWS_CONFIG_FILE", "aws-config"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "gcp-key"),
    ):
        directory, _, file = environment[variable].rpartition("/")
        assert mounts[directory]["name"] == volume
        assert volumes[volume]["secret"]["items"][0]["path"] == file


def test_credentials_come_from_the_secret_that_is_named() -> None:
    """The keys are those of the guide's own Secret."""
    pod = helm.render(shapes.DIRECT | {"aws": {"secretRef": "store"}}).pods[NAME]

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert helm.environment(pod)[name] == {"secretKeyRef": {"name": "store", "key": name}}


def test_a_certificate_may_come_from_a_config_map() -> None:
    """It is no secret."""
    values = shapes.DIRECT | {"caBundle": {"configMapRef": "company", "key": "bundle.pem"}}
    pod = helm.render(values).pods[NAME]

    assert helm.volumes(pod)["ca"]["configMap"] == {
        "name": "company",
        "items": [{"key": "bundle.pem", "path": "ca.crt"}],
    }


def test_a_proxy_is_no_way_to_the_api_server() -> None:
    """Nor to where a pod in a cloud asks who it is."""
    values = shapes.COLOCATED | {
        "proxy": {"https": "http://proxy:3128", "noProxy": ".acme.example"}
    }
    environment = helm.environment(helm.render(values).pods[NAME])

    assert environment["HTTPS_PROXY"] == "http://proxy:3128"
    direct = environment["NO_PROXY"].split(",")
    assert {"$(KUBERNETES_SERVICE_HOST)", ".svc", "169.254.169.254", ".acme.example"} <= {*direct}


def test_a_pvc_to_restore_to_may_be_a_name_alone() -> None:
    """As most write it at first; the longer form is that of the other PVCs of the values."""
    targets = ["journal-restored", {"existingPvcName": "journal-compared"}]
    pod = helm.render(having(shapes.DIRECT, {"toolbox": {"restoreTargets": targets}})).pods[
        f"{NAME}-toolbox"
    ]

    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if volume["name"].startswith("target-")
    }
    (container,) = helm.containers(pod)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert claims == {"target-0": "journal-restored", "target-1": "journal-compared"}
    assert [mounts[name] for name in claims] == [f"/targets/{claim}" for claim in claims.values()]
    for wrong in ("Restored", {}, {"name": "journal-restored"}, 5):
        with pytest.raises(HelmError, match=r"restoreTargets[./]0"):
            helm.render(having(shapes.DIRECT, {"toolbox": {"restoreTargets": [wrong]}}))


def test_the_toolbox_has_what_a_restore_needs() -> None:
    """Sinks it may write marks to, room, and the PVCs to restore to; no journals, no token."""
    rendered = helm.render({}, EVERYTHING)
    pod = rendered.pods["journals-toolbox"]
    mounts, volumes = helm.mounts(pod), helm.volumes(pod)

    assert volumes[mounts["/restored"]["name"]] == {
        "name": "restored",
        "emptyDir": {"sizeLimit": "20Gi"},
    }
    target = volumes[mounts["/targets/journal-restored"]["name"]]
    assert target["persistentVolumeClaim"] == {"claimName": "journal-restored"}
    assert "readOnly" not in mounts["/sinks/archive"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert helm.render(shapes.DIRECT).of("Deployment")[0]["spec"]["replicas"] == 0


def test_selectors_hold_what_does_not_change() -> None:
    """A selector cannot be changed: no version, and no label that a user sets."""
    for values in (shapes.DIRECT, helm.load(EVERYTHING)):
        (toolbox,) = helm.render(values).of("Deployment")
        labels = toolbox["spec"]["selector"]["matchLabels"]
        assert {*labels} == {"app", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
        assert labels.items() <= toolbox["spec"]["template"]["metadata"]["labels"].items()


# -- network and alerts


def test_the_network_policy_is_for_all_pods_and_lets_nothing_in() -> None:
    """Workers have the labels of the backup's pod, so it is for them, too."""
    rendered = helm.render(shapes.SCALE_DOWN | {"networkPolicy": {"enabled": True}})
    policy = rendered.one("NetworkPolicy", NAME)["spec"]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    for pod in rendered.pods.values():
        labels = pod["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("values", "port"),
    [
        ({"sinks": [{"url": "s3://a/b?endpoint=https://store.example:9000"}]}, 9000),
        ({"sinks": [{"url": "s3://a/b?x=1&endpoint=https%3A%2F%2Fstore.example%3A9001"}]}, 9001),
        ({"sinks": [{"url": "s3://a/b?endpoint=http://store.example"}]}, 80),
        ({"aws": {"endpointUrl": "https://store.example:9002/path:1"}}, 9002),
        ({"proxy": {"https": "http://proxy.example:3128"}}, 3128),
        ({"networkPolicy": {"apiServerPorts": [16443]}}, 16443),
        ({}, 443),
    ],
)
def test_the_network_policy_lets_out_what_urls_name(values: dict[str, Any], port: int) -> None:
    """A port that nobody thought of is a backup that hangs until its deadline."""
    values = having(shapes.DIRECT | {"networkPolicy": {"enabled": True}}, values)
    policy = helm.render(values).one("NetworkPolicy", NAME)

    ports = {
        p["port"] for rule in policy["spec"]["egress"] if "to" not in rule for p in rule["ports"]
    }
    assert port in ports
    assert {53, 5353, 443} <= ports  # OpenShift's DNS listens on 5353


def test_the_hook_brings_its_own_network_policy() -> None:
    """Before the first upgrade with a policy there is none, and the namespace may deny all."""
    rendered = helm.render(having(shapes.DIRECT, {"networkPolicy": {"enabled": True}}))
    found = [each for each in rendered.of("NetworkPolicy") if each["metadata"]["name"] != NAME]
    (own,) = found
    hook = {key: own["metadata"]["annotations"][key] for key in own["metadata"]["annotations"]}
    role = rendered.one("Role", f"{NAME}-resume-role")["metadata"]["annotations"]
    labels = {
        name: own["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        for name, pod in rendered.pods.items()
    }

    assert hook == role
    assert own["spec"]["egress"] == rendered.one("NetworkPolicy", NAME)["spec"]["egress"]
    assert {name for name, is_selected in labels.items() if is_selected} == {f"{NAME}-resume"}
    for off in ({"hooks": {"enabled": False}}, {"networkPolicy": {"enabled": False}}):
        values = having(shapes.DIRECT, {"networkPolicy": {"enabled": True}})
        assert f"{NAME}-resume" not in {
            each["metadata"]["name"]
            for each in helm.render(having(values, off)).of("NetworkPolicy")
        }


@each_shape
def test_alerts_speak_of_what_is_there(shape: str) -> None:
    """Billing at 0 only where something scales it down; the names are those of the CronJobs."""
    rendered = helm.render(shapes.ALL[shape] | {"prometheusRule": {"enabled": True}})
    (group,) = rendered.of("PrometheusRule")[0]["spec"]["groups"]
    rules = {rule["alert"]: rule for rule in group["rules"]}

    expected = {"JournalBackupTooOld", "JournalBackupFailed", "JournalVerifyFailed"}
    assert {*rules} == expected | ({"BillingHeldAtZero"} if shape in shapes.MAY_SCALE else set())
    assert rules["JournalBackupTooOld"]["expr"].endswith("> 93600")
    for alert, name in (("JournalBackupFailed", NAME), ("JournalVerifyFailed", f"{NAME}-verify")):
        assert f'owner_name="{name}"' in rules[alert]["expr"]
        assert ("CronJob", name) in rendered.names
    if shape in shapes.MAY_SCALE:
        assert rules["BillingHeldAtZero"]["for"] == "600s"


def test_no_alert_waits_for_what_is_not_to_be() -> None:
    """A backup that runs on no schedule is never too old, and billing at 0 may be meant."""
    values = shapes.SCALE_DOWN | {"prometheusRule": {"enabled": True}}
    off = {"suspend": "JournalBackupTooOld", "allowStopped": "BillingHeldAtZero"}

    for value, alert in off.items():
        assert alert in alerts(values)
        assert alerts(values) - alerts(values | {value: True}) == {alert}


def alerts(values: dict[str, Any]) -> set[str]:
    """Return the names of the alerts."""
    (group,) = helm.render(values).of("PrometheusRule")[0]["spec"]["groups"]
    return {rule["alert"] for rule in group["rules"]}
