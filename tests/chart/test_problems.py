"""A wrong combination of values is refused before anything is changed, with what to do instead."""

from __future__ import annotations

import re
from typing import Any

import pytest

from backup.cluster.rescue import REMOVAL_SECONDS
from backup.cluster.scaledown import CLEANUP_SECONDS
from tests.chart import helm, shapes
from tests.chart.helm import HelmError
from tests.chart.shapes import COLOCATED, DIRECT, PER_POD, SCALE_DOWN, SINKS, at, having

RWOP = {"journal": {"existingPvcName": "journals", "accessMode": "ReadWriteOncePod"}}
RWO = {"journal": {"existingPvcName": "journals", "accessMode": "ReadWriteOnce"}}


def refused(values: dict[str, Any], **options: Any) -> list[str]:
    """Return what is said of values that are wrong."""
    with pytest.raises(HelmError) as caught:
        helm.render(values, **options)
    _, count, said = str(caught.value).partition("problem(s) with the values:\n")
    assert count, caught.value
    return [line.removeprefix("- ") for line in said.splitlines() if line.startswith("- ")]


def test_what_an_example_leaves_to_be_set_is_refused() -> None:
    """Another site's account and another site's prefix are worse than none."""
    values = having(
        SCALE_DOWN,
        {
            "site": "REPLACE_ME",
            "sinks": [{"url": "s3://REPLACE_ME/journals"}],
            "serviceAccount": {"annotations": {"role-arn": "arn:aws:iam::REPLACE_ME:role/x"}},
        },
    )

    assert refused(values) == [
        "`role-arn: arn:aws:iam::REPLACE_ME:role/x` is the example's: set it to what this site has",
        "`url: s3://REPLACE_ME/journals` is the example's: set it to what this site has",
        "`site: REPLACE_ME` is the example's: set it to what this site has",
    ]


def test_a_switch_that_nothing_heeds_is_refused() -> None:
    """Only the condition of a dependency turns the chart off: without one, backups would go on."""
    (said,) = refused(DIRECT | {"enabled": False})
    assert said == (
        "`enabled` is false, and no `condition` of a dependency heeds it: in the Chart.yaml of the "
        "umbrella, set `condition: deepgram-journal-backup.enabled` (with an alias, "
        "`<alias>.enabled`); without an umbrella, set `suspend: true`, or uninstall the release"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"billing": {"replicas": 1}},
            "Missing the place that backups go to - see `sinks`",
        ),
        (
            {"sinks": SINKS},
            (
                "Missing number of billing replicas - see `billing.replicas`. "
                "Strategy `direct` cannot ask the cluster how many journals there have to be."
            ),
        ),
        (
            DIRECT | {"namePrefix": "deepgram-billing"},
            (
                '`namePrefix` must not be "deepgram-billing", a name of the Deepgram chart\'s: '
                "its Service would send requests to our pods"
            ),
        ),
        (
            having(DIRECT, {"namePrefix": "acme", "billing": {"namePrefix": "acme"}}),
            (
                '`namePrefix` must not be "acme", a name of the Deepgram chart\'s: '
                "its Service would send requests to our pods"
            ),
        ),
        (
            DIRECT | {"namePrefix": "journals_1"},
            (
                '"journals_1" cannot begin the names of objects: '
                "set `namePrefix` to lowercase letters, digits and dashes"
            ),
        ),
        (
            DIRECT | {"namePrefix": "j" * 45},
            (
                f'"{"j" * 45}" is too long to begin the names of objects: '
                "set `namePrefix` to 44 characters at most"
            ),
        ),
        (
            DIRECT | {"additionalLabels": {"app": "deepgram-billing"}},
            (
                '`additionalLabels` must not set "app": '
                "Services and StatefulSets, billing's above all, select pods by it"
            ),
        ),
        (
            DIRECT | {"global": {"additionalLabels": {"app.kubernetes.io/instance": "other"}}},
            (
                '`global.additionalLabels` must not set "app.kubernetes.io/instance": '
                "Services and StatefulSets, billing's above all, select pods by it"
            ),
        ),
        (
            having(DIRECT, {"strategy": "direct", "billing": PER_POD}),
            (
                "strategy `direct` needs a shared PVC, and `billing.journal` names none: "
                "take `auto` or `colocated`"
            ),
        ),
        (
            having(DIRECT, {"strategy": "direct", "billing": RWO}),
            (
                "strategy `direct` needs `ReadWriteMany`, and `billing.journal.accessMode` is "
                '"ReadWriteOnce": take `auto`'
            ),
        ),
        (
            DIRECT | {"strategy": "direct", "maxDowntime": "5m"},
            (
                "`maxDowntime` is for what scales billing down, and strategy `direct` never does: "
                "leave one of them out"
            ),
        ),
        (
            COLOCATED | {"maxDowntime": "5m"},
            (
                "`maxDowntime` is for what scales billing down, and strategy `colocated` never "
                "does: leave one of them out"
            ),
        ),
        (
            DIRECT | {"maxDowntime": "5m"},
            (
                "`maxDowntime` is for what scales billing down, and strategy `direct`, which a PVC "
                "with `ReadWriteMany` has, never does: leave it out, or set "
                "`billing.journal.accessMode` to that of the PVC, or `strategy`"
            ),
        ),
        (
            SCALE_DOWN | {"maxDowntime": ""},
            "strategy `scale-down` stops billing: say for how long it may, with `maxDowntime`",
        ),
        (
            COLOCATED | {"billing": RWOP},
            (
                "strategy `colocated` cannot read a PVC that is `ReadWriteOncePod`, which no "
                "second pod may mount: take `scale-down`, with `maxDowntime`"
            ),
        ),
        (
            {"billing": RWOP, "sinks": SINKS},
            (
                "a PVC that is `ReadWriteOncePod` can be read only while billing is down: "
                "say for how long it may be, with `maxDowntime`"
            ),
        ),
        (
            SCALE_DOWN | {"terminationGracePeriodSeconds": 74},
            (
                "`terminationGracePeriodSeconds` is 74, and a run that is told to stop may take "
                "70 s to bring billing back: set it to 75 at least"
            ),
        ),
        (
            DIRECT | {"schedule": "CRON_TZ=Europe/Berlin 0 2 * * *"},
            "`schedule` must not name a time zone: set `timeZone`",
        ),
        (
            DIRECT | {"verify": {"schedule": "TZ=UTC 0 2 * * *"}},
            "`verify.schedule` must not name a time zone: set `timeZone`",
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///sinks/nas"}]},
            (
                'the sink "file:///sinks/nas" lies on no volume: give it `existingPvcName` or '
                "`nfs`, or mount one there with `extraVolumes` and `extraVolumeMounts`"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///journals/x", "existingPvcName": "a"}]},
            (
                'the sink "file:///journals/x" lies where the journals are mounted: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///", "existingPvcName": "a"}]},
            (
                'the sink "file:///" has no directory that a volume can be mounted at: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///sinks/..", "existingPvcName": "a"}]},
            (
                'the sink "file:///sinks/.." has no directory that a volume can be mounted at: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///my%20nas", "existingPvcName": "a"}]},
            (
                'the sink "file:///my%20nas" has no directory that a volume can be mounted at: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///sinks/../journals", "existingPvcName": "a"}]},
            (
                'the sink "file:///sinks/../journals" lies where the journals are mounted: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///restored", "existingPvcName": "a"}]},
            (
                'the sink "file:///restored" lies where the toolbox has its scratch volume: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///targets/a", "existingPvcName": "a"}]},
            (
                'the sink "file:///targets/a" lies where the toolbox has what it restores to: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT | {"sinks": [{"url": "file:///etc", "existingPvcName": "a"}]},
            (
                'the sink "file:///etc" lies where certificates and keys are mounted: '
                "take one like file:///sinks/archive"
            ),
        ),
        (
            DIRECT
            | {
                "sinks": [
                    {"url": "file:///sinks/a", "existingPvcName": "a"},
                    {"url": "file:///sinks//a/?require_mount=true", "existingPvcName": "b"},
                ]
            },
            (
                'the sinks "file:///sinks/a" and "file:///sinks//a/?require_mount=true" lie in '
                "one directory: give each its own"
            ),
        ),
        (
            DIRECT
            | {
                "sinks": [{"url": "file:///sinks/a", "existingPvcName": "a"}],
                "extraVolumes": [{"name": "disk", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "disk", "mountPath": "/sinks/a/"}],
            },
            (
                'the sink "file:///sinks/a" has a volume of its own, and `extraVolumeMounts` '
                "mounts another one there: leave one out"
            ),
        ),
        (
            DIRECT | {"extraVolumes": [{"name": "sink-0", "emptyDir": {}}]},
            (
                '`extraVolumes` has a volume "sink-0", which is a name of this chart\'s own '
                "volumes: take another"
            ),
        ),
        (
            DIRECT
            | {
                "sinks": [
                    {
                        "url": "file:///sinks/a",
                        "existingPvcName": "a",
                        "nfs": {"server": "nas", "path": "/a"},
                    }
                ]
            },
            'the sink "file:///sinks/a" has both `existingPvcName` and `nfs`: leave one out',
        ),
        (
            DIRECT | {"sinks": [{"url": "s3://a/b", "existingPvcName": "a"}]},
            'the sink "s3://a/b" has a volume, which only sinks file:// have',
        ),
        (
            DIRECT | {"sinks": SINKS * 2},
            '`sinks` has "s3://acme-journals/plant-7" twice',
        ),
        (
            DIRECT | {"caBundle": {"configMapRef": "a", "secretRef": "b"}},
            "`caBundle` has both `configMapRef` and `secretRef`: leave one out",
        ),
        (
            DIRECT | {"proxy": {"https": "http://me:secret@proxy:3128"}},
            (
                "`proxy.https` holds a password, and values are no place for one: "
                "put the URL into a Secret, and name that in `extraEnv`"
            ),
        ),
        (
            DIRECT | {"extraEnv": [{"name": "BACKUP_SINKS", "value": "s3://x/y"}]},
            "`extraEnv` sets BACKUP_SINKS: set `sinks` instead",
        ),
        (
            DIRECT | {"extraEnv": [{"name": "BACKUP_MAX_DOWNTIME", "value": "5m"}]},
            "`extraEnv` sets BACKUP_MAX_DOWNTIME: set `maxDowntime` instead",
        ),
        (
            DIRECT | {"aws": {"region": "a"}, "extraEnv": [{"name": "AWS_REGION", "value": "b"}]},
            "`extraEnv` sets AWS_REGION: set `aws.region` instead",
        ),
        (
            DIRECT | {"extraEnv": [{"name": "NODE_NAME", "value": "a"}]},
            "`extraEnv` sets NODE_NAME, which this chart sets itself: leave it out",
        ),
        (
            DIRECT | {"prometheusRule": {"enabled": True}, "failedJobsHistoryLimit": 0},
            (
                "with `prometheusRule.enabled`, set `failedJobsHistoryLimit` to 1 at least: "
                "a Job that is not kept raises no alert"
            ),
        ),
        (
            DIRECT | {"prometheusRule": {"enabled": True}, "successfulJobsHistoryLimit": 0},
            (
                "with `prometheusRule.enabled`, set `successfulJobsHistoryLimit` to 1 at least: "
                "a Job that is not kept ends no alert"
            ),
        ),
        (
            DIRECT | {"securityContext": {"runAsUser": 0}},
            (
                "`securityContext.runAsUser` is 0, which `runAsNonRoot: true` does not let start: "
                "set `securityContext.runAsNonRoot` to false as well"
            ),
        ),
        (
            DIRECT | {"rbac": {"create": False}},
            (
                "with `rbac.create: false`, set `serviceAccount.create` to false, and "
                "`serviceAccount.name` to the service account that has the rights"
            ),
        ),
        (
            COLOCATED | {"rbac": {"create": False}, "hooks": {"enabled": False}},
            (
                "with `rbac.create: false`, set `serviceAccount.create` to false, and "
                "`serviceAccount.name` to the service account that has the rights"
            ),
        ),
        (
            DIRECT | {"retention": {"prune": True}},
            (
                "`retention.prune` is true, and nothing says what to keep: set `keepLast`, "
                "`keepWithin`, `keepDaily`, `keepWeekly` or `keepMonthly` beside it"
            ),
        ),
        (
            COLOCATED | {"serviceAccount": {"create": False}},
            (
                "Missing name of the service account, which gets rights in this namespace - "
                "see `serviceAccount.name`"
            ),
        ),
    ],
)
def test_it_is_said(values: dict[str, Any], said: str) -> None:
    """And nothing else is: one cause, one line."""
    assert refused(values) == [said]


@pytest.mark.parametrize("shape", shapes.MAY_SCALE)
def test_a_grace_that_does_not_bring_billing_back_is_refused(shape: str) -> None:
    """With what the code may take, to the second, and some to spare."""
    needed = int(REMOVAL_SECONDS + CLEANUP_SECONDS)
    (said,) = refused(shapes.ALL[shape] | {"terminationGracePeriodSeconds": needed})
    grace = re.search(r"may take (\d+) s .* set it to (\d+) at least", said)
    assert grace is not None, said
    least = int(grace[2])

    assert needed == int(grace[1])
    assert needed < least
    assert refused(shapes.ALL[shape] | {"terminationGracePeriodSeconds": least - 1})
    assert helm.render(shapes.ALL[shape] | {"terminationGracePeriodSeconds": least}).objects


@pytest.mark.parametrize("shape", [s for s in shapes.ALL if s not in shapes.MAY_SCALE])
def test_a_grace_may_be_short_where_billing_goes_on(shape: str) -> None:
    """There is nothing to bring back."""
    assert helm.render(shapes.ALL[shape] | {"terminationGracePeriodSeconds": 30}).objects


def test_an_alias_that_is_no_name_is_said() -> None:
    """Kubernetes would refuse each object by itself, one after the other."""
    assert refused(DIRECT | {"namePrefix": "1st"}) == [
        (
            '"1st" cannot begin the names of objects: '
            "set `namePrefix` to lowercase letters, digits and dashes"
        )
    ]


def test_everything_is_said_at_once() -> None:
    """Nobody wants to be told the next thing after each upgrade."""
    values = having(DIRECT, {"sinks": [], "billing": {"replicas": None}, "namePrefix": "-"})

    assert len(refused(values)) == 3


def test_a_password_is_not_repeated() -> None:
    """Where Helm runs in CI, what it says is in a log."""
    values = DIRECT | {"proxy": {"https": "http://me:hunter2@proxy:3128"}}

    assert "hunter2" not in str(refused(values))


@pytest.mark.parametrize("version", ["1.27.9", "1.20.0"])
def test_a_cluster_that_is_too_old_is_refused(version: str) -> None:
    """By Chart.yaml, when the chart is alone; in an umbrella nobody asks: see test_umbrella."""
    with pytest.raises(HelmError, match="kubeVersion"):
        helm.render(DIRECT, kubernetes=version)


@pytest.mark.parametrize("version", ["v1.28.0", "v1.28.3-gke.100", "v1.37.1-eks-1234567"])
def test_versions_of_the_clouds_are_versions(version: str) -> None:
    """Their suffixes look like those of a version that is not out yet."""
    assert helm.render(DIRECT, kubernetes=version).of("CronJob")


@pytest.mark.parametrize(
    ("changes", "is_warned"),
    [
        ({"timeZone": "Europe/Berlin"}, True),
        ({"timeZone": "Europe/Berlin", "schedule": "30 00 * * *"}, True),
        ({"timeZone": "Europe/Berlin", "schedule": "0 4,2 * * *"}, True),
        ({"timeZone": "Europe/Berlin", "schedule": "0 4 * * *"}, False),
        ({"timeZone": "Europe/Berlin", "schedule": "0 12 * * *"}, False),
        ({"timeZone": "Europe/Berlin", "schedule": "0 20 * * *"}, False),
        ({"timeZone": "Europe/Berlin", "schedule": "0 */6 * * *"}, False),
        ({"timeZone": "Europe/Berlin", "schedule": "@daily"}, True),
        ({"timeZone": "Europe/Berlin", "schedule": "@hourly"}, False),
        ({"timeZone": "UTC"}, False),
        ({"timeZone": ""}, False),
        ({"timeZone": None}, False),
    ],
)
def test_a_night_that_is_skipped_or_repeated_is_warned_of(
    changes: dict[str, Any], *, is_warned: bool
) -> None:
    """On the CronJob, since the NOTES of a subchart are not shown."""
    (cronjob,) = [
        each
        for each in helm.render(DIRECT | changes).of("CronJob")
        if each["metadata"]["name"] == helm.NAME
    ]

    annotations = cronjob["metadata"]["annotations"]
    assert is_warned == ("deepgram-journal-backup/warning" in annotations)


def test_a_sink_on_an_extra_volume_is_fine() -> None:
    """Whatever volume there is, Kubernetes has a word for it."""
    values = shapes.DIRECT | {
        "sinks": [{"url": "file:///mnt/disk/journals"}],
        "extraVolumes": [{"name": "disk", "hostPath": {"path": "/data"}}],
        "extraVolumeMounts": [{"name": "disk", "mountPath": "/mnt/disk"}],
    }

    assert helm.mounts(helm.render(values).pods[helm.NAME])["/mnt/disk"]["name"] == "disk"


def test_a_sink_beside_an_extra_volume_is_not() -> None:
    """`/mnt/disk2` is not on `/mnt/disk`."""
    values = having(
        shapes.DIRECT,
        at("extraVolumeMounts", [{"name": "disk", "mountPath": "/mnt/disk"}])
        | {"sinks": [{"url": "file:///mnt/disk2"}]},
    )

    (said,) = refused(values)
    assert "lies on no volume" in said


def test_a_variable_that_a_value_sets_is_refused() -> None:
    """Whether it is set or not: what the chart makes of the value, such as rights, is more."""
    shapes_and_all = [helm.render(values) for values in shapes.ALL.values()]
    shapes_and_all.append(helm.render({}, helm.CHART / "ci" / "everything-values.yaml"))
    pods = [pod for rendered in shapes_and_all for pod in rendered.pods.values()]
    used = {name for pod in pods for name in helm.environment(pod) if name.startswith("BACKUP_")}
    ours = used - {"BACKUP_S3_STORAGE_CLASS"}  # which is in the preset's own extraEnv

    extra = [{"name": name, "value": "x"} for name in sorted(ours)]
    said = refused(DIRECT | {"extraEnv": extra})
    found = [re.fullmatch(r"`extraEnv` sets (\w+): set `([\w.]+)` instead", each) for each in said]
    assert {match[1] for match in found if match} == ours
    for match in found:
        value: Any = helm.load(helm.CHART / "values.yaml")
        for key in match[2].split(".") if match else ():
            value = value[key]


def test_a_variable_that_no_value_sets_is_fine() -> None:
    """A proxy with a password comes from a Secret."""
    secret = {"secretKeyRef": {"name": "proxy", "key": "url"}}
    values = DIRECT | {"extraEnv": [{"name": "HTTPS_PROXY", "valueFrom": secret}]}

    assert helm.environment(helm.render(values).pods[helm.NAME])["HTTPS_PROXY"] == secret


@pytest.mark.parametrize("limits", [{"failedJobsHistoryLimit": 0, "successfulJobsHistoryLimit": 0}])
def test_jobs_need_not_be_kept_without_alerts(limits: dict[str, int]) -> None:
    """Nobody looks at them then."""
    assert helm.render(DIRECT | limits).one("CronJob", helm.NAME)["spec"].items() >= limits.items()
