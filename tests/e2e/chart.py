"""The packaged chart, installed by the real Helm: in an umbrella beside billing, or alone.

    release = umbrella(cluster, namespace, tmp_path)
    release.install(values)                       # helm install, from a directory with charts/*.tgz
    assert release.ended(release.run()).exit_code == 0
    release.uninstall()

The umbrella has two dependencies, as a site's has: billing, by a chart that stands in for
Deepgram's (`deepgram-self-hosted/`, with Deepgram's values), and ours, as the package that
`helm package` makes, turned on and off by its `condition`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chart import helm
from tests.chart.helm import CHART, NAME
from tests.cluster.controlplane import until
from tests.e2e import standin
from tests.e2e.billing import NAME as BILLING
from tests.e2e.billing import Billing
from tests.e2e.cluster import Cluster
from tests.e2e.installation import Installation
from tests.e2e.volumes import CLASS, Volume, create_volume

RELEASE = "deepgram"
NEIGHBOUR = "deepgram-self-hosted"

_HELM_SECONDS = 240.0
_STANDIN = Path(__file__).with_name(NEIGHBOUR)
_KINDS = (
    "configmaps,cronjobs,deployments,jobs,networkpolicies,pods,rolebindings,roles,secrets,"
    "serviceaccounts,statefulsets"
)

Values = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(Installation):
    """A release, whose backups go to where `sink` is."""

    chart: Path
    """The umbrella, or the package of ours."""
    files: Path
    """A directory for values."""

    def install(self, values: Mapping[str, Any], *options: str) -> str:
        """Install it."""
        return self._apply("install", values, *options)

    def upgrade(self, values: Mapping[str, Any], *options: str) -> str:
        """Upgrade it to other values, which are all there are: nothing is reused."""
        return self._apply("upgrade", values, *options)

    def uninstall(self) -> str:
        """Uninstall it; return when what it had is deleted."""
        return self.helm("uninstall", RELEASE, "--wait")

    def helm(self, *arguments: str) -> str:
        """Run Helm in the namespace."""
        return helm.run(
            *arguments,
            f"--namespace={self.namespace}",
            kubeconfig=str(self.cluster.kubeconfig),
            seconds=_HELM_SECONDS,
        )

    def _apply(self, verb: str, values: Mapping[str, Any], *options: str) -> str:
        path = self.files / "values.json"
        path.write_text(json.dumps(values))
        return self.helm(verb, RELEASE, str(self.chart), *options, f"--values={path}")

    def run(self, name: str = "now", cronjob: str = NAME) -> str:
        """Run it by hand; give the name of the Job."""
        return Installation.run(self, name, cronjob)

    def scheduled(self) -> list[str]:
        """Name the Jobs that the schedule has started, oldest first."""
        jobs = self.cluster.list(self.namespace, "jobs", f"app={NAME}")
        by_hand = "cronjob.kubernetes.io/instantiate"
        return [
            job["metadata"]["name"]
            for job in sorted(jobs, key=lambda job: job["metadata"]["creationTimestamp"])
            if by_hand not in (job["metadata"].get("annotations") or {})
            and [o["name"] for o in job["metadata"].get("ownerReferences", [])] == [NAME]
        ]

    def toolbox(self, *command: str) -> str:
        """Run a command in the toolbox, which has to be up."""
        where = f"deployment/{NAME}-toolbox"
        return self.cluster.kubectl("-n", self.namespace, "exec", where, "--", *command)

    def open_toolbox(self) -> None:
        """Scale the toolbox up, as its users are told to, and wait until it is there."""
        of = ("-n", self.namespace)
        where = f"deployment/{NAME}-toolbox"
        self.cluster.kubectl(*of, "scale", where, "--replicas=1")
        self.cluster.kubectl(*of, "rollout", "status", where, "--timeout=60s")

    def objects(self) -> set[str]:
        """Name all that is there of ours, by kind and name, hooks and Jobs and pods among it."""
        labels = f"app={NAME}"
        found = self.cluster.kubectl(
            "-n", self.namespace, "get", _KINDS, "-l", labels, "-o", "name"
        )
        return set(found.split())


def umbrella(
    cluster: Cluster, namespace: str, directory: Path, *, sink: Volume | None = None
) -> Release:
    """Make an umbrella for a release in a namespace; nothing is installed.

    Args:
        cluster: where.
        namespace: where.
        directory: for the umbrella and its values.
        sink: where backups will be; without it, a volume that both nodes can mount is made.
    """
    chart = directory / "umbrella"
    (chart / "charts").mkdir(parents=True)
    package(chart / "charts")
    shutil.copytree(_STANDIN, chart / "charts" / NEIGHBOUR)
    shutil.copy(standin.__file__, chart / "charts" / NEIGHBOUR / "standin.py")
    ours = helm.load(CHART / "Chart.yaml")["version"]
    neighbour = helm.load(_STANDIN / "Chart.yaml")["version"]
    content = {
        "apiVersion": "v2",
        "name": "umbrella",
        "version": "0.1.0",
        "dependencies": [
            {"name": NEIGHBOUR, "version": neighbour},
            {"name": NAME, "version": ours, "condition": f"{NAME}.enabled"},
        ],
    }
    (chart / "Chart.yaml").write_text(json.dumps(content))
    return _release(cluster, namespace, chart, directory, sink)


def alone(
    cluster: Cluster, namespace: str, directory: Path, *, sink: Volume | None = None
) -> Release:
    """Package the chart for a release of it alone; nothing is installed."""
    return _release(cluster, namespace, package(directory), directory, sink)


def package(directory: Path) -> Path:
    """Package the chart; return the file."""
    helm.run("package", str(CHART), f"--destination={directory}")
    (made,) = directory.glob(f"{NAME}-*.tgz")
    return made


def _release(
    cluster: Cluster, namespace: str, chart: Path, files: Path, sink: Volume | None
) -> Release:
    return Release(
        cluster=cluster,
        namespace=namespace,
        chart=chart,
        files=files,
        sink=sink or create_volume(cluster, namespace, "journal-archive", mode="ReadWriteMany"),
    )


def at(directory: Path) -> Volume:
    """Take the directory below which a server keeps objects for where backups are."""
    return Volume(claim="", name="", path=directory)


def image(cluster: Cluster) -> Values:
    """Give the values that name the image."""
    path, _, tag = cluster.image.rpartition(":")
    return {"path": path, "tag": tag}


FILE_SINK: Sequence[Values] = [
    {"url": "file:///sinks/archive", "existingPvcName": "journal-archive"}
]


def values(
    cluster: Cluster,
    *,
    shared: bool = False,
    replicas: int = 1,
    billing: Mapping[str, Any] | None = None,
    **ours: Any,
) -> Values:
    """Give an umbrella's values.

    Args:
        cluster: where.
        shared: all journals on one volume, as Deepgram's chart comes; else one for each pod.
        replicas: of billing.
        billing: more of what Deepgram's chart is told of billing.
        ours: what our chart is told beside that.
    """
    journal = {"aws": {"efs": {"enabled": shared}}}
    theirs: Values = {
        "enabled": True,
        "replicas": replicas,
        "image": image(cluster),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containerSecurityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "journal": journal | ({"storageClass": CLASS} if cluster.own and not shared else {}),
    }
    own: Values = {
        "enabled": True,
        "image": image(cluster),
        "billing": {"replicas": replicas, "journal": journal},
        "sinks": FILE_SINK,
        # nothing by itself while a test looks, unless the test says so
        "schedule": "0 0 1 1 *",
        "guard": {"schedule": "0 0 1 1 *"},
        "verify": {"schedule": "0 0 1 1 *"},
    }
    return {NEIGHBOUR: {"billing": theirs | dict(billing or {})}, NAME: own | ours}


def volumes(
    cluster: Cluster, namespace: str, *, shared: bool = False, replicas: int = 1
) -> Billing:
    """Make the volumes that billing will want; give billing, which is not there yet."""
    if shared:
        made = [create_volume(cluster, namespace, "dg-models-aws-efs-pvc", mode="ReadWriteMany")]
    else:
        claims = [f"journal-{BILLING}-{ordinal}" for ordinal in range(replicas)]
        made = [create_volume(cluster, namespace, claim, with_claim=False) for claim in claims]
    return Billing(cluster=cluster, namespace=namespace, name=BILLING, volumes=made)


def await_replicas(billing: Billing, replicas: int) -> None:
    """Wait until billing is to have so many replicas."""
    until(lambda: billing.replicas == replicas, f"billing is at {replicas}")
