"""The tool in a namespace, as its chart installs it: an account with its rights, and a CronJob.

    tool = install(cluster, namespace, "colocated")
    job = tool.run()                     # kubectl create job --from=cronjob/backup
    assert tool.ended(job).exit_code == 0

Backups go to a volume that both nodes can mount, as NFS would be.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backup.cluster.strategies import RULES
from tests.cluster.controlplane import until
from tests.cluster.site import ACCOUNT, DOWNWARD, as_rbac
from tests.e2e.cluster import Cluster
from tests.e2e.volumes import Volume, contents, create_volume

SINK = "journal-archive"
_SECONDS = 180.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that has ended."""

    exit_code: int
    report: Any
    """What it printed as JSON."""
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """The tool, in a namespace."""

    cluster: Cluster
    namespace: str
    sink: Volume

    def run(self, name: str = "now", cronjob: str = "backup") -> str:
        """Run it by hand; give the name of the Job."""
        source = f"--from=cronjob/{cronjob}"
        self.cluster.kubectl("-n", self.namespace, "create", "job", name, source)
        return name

    def pods(self, labels: str) -> Sequence[Any]:
        """Read pods."""
        return self.cluster.list(self.namespace, "pods", labels)

    def pod_of(self, job: str) -> Any:
        """Wait for the pod of a Job."""
        label = f"batch.kubernetes.io/job-name={job}"
        until(lambda: self.pods(label), f"{job} has a pod")
        return self.pods(label)[0]

    def workers(self) -> Sequence[Any]:
        """Read the pods of workers."""
        return self.pods("deepgram-journal-backup/role=worker")

    def log(self, job: str) -> str:
        """Read what a Job has said so far: its log, and its report."""
        return self.cluster.log(self.namespace, self.pod_of(job)["metadata"]["name"])

    def await_step(self, job: str, text: str) -> None:
        """Wait until a Job has said something."""
        until(lambda: self._says(job, text), f"{job} says {text!r}", seconds=_SECONDS)

    def _says(self, job: str, text: str) -> bool:
        phase = self.pod_of(job)["status"]["phase"]
        return phase != "Pending" and text in self.log(job)

    def ended(self, job: str) -> Ended:
        """Wait until a Job's pod has ended; give what came of it."""
        until(
            lambda: self.pod_of(job)["status"]["phase"] in {"Succeeded", "Failed"},
            f"{job} has ended",
            seconds=_SECONDS,
        )
        pod = self.pod_of(job)
        (status,) = pod["status"]["containerStatuses"]
        said = self.log(job)
        return Ended(
            exit_code=status["state"]["terminated"]["exitCode"],
            report=_report(said),
            log=said,
        )

    def manifests(self) -> list[Any]:
        """Read all manifests, by journal and age."""
        return [json.loads(p.read_text()) for p in self.stored("*.manifest.json")]

    def archives(self, journal: str) -> list[Path]:
        """Find the archives of a journal, by age."""
        return [p for p in self.stored("*.tar.gz") if p.parent.name == journal]

    def restored(self, journal: str) -> bytes:
        """Take a journal out of its newest archive."""
        with tarfile.open(self.archives(journal)[-1]) as tar:
            file = tar.extractfile(f"{journal}/journal")
            assert file is not None
            return file.read()

    def stored(self, pattern: str) -> list[Path]:
        """Find what is stored of all journals, by journal and age; like *.tar.gz."""
        return sorted(contents(self.cluster, self.namespace, self.sink).glob(f"*/{pattern}"))


def _report(said: str) -> Any:
    """Find the report in the log: the one object that is written over many lines.

    The two streams of a container meet in its log line by line, so lines of one may stand among
    those of the other: those that are an object by themselves are the log's.
    """
    lines = [line for line in said.splitlines() if not line.startswith('{"')]
    begin = lines.index("{") if "{" in lines else len(lines)
    try:
        return json.JSONDecoder().raw_decode("\n".join(lines[begin:]))[0]
    except ValueError:
        return {}


def install(
    cluster: Cluster,
    namespace: str,
    strategy: str,
    *,
    env: Mapping[str, str] = MappingProxyType({}),
    pod: Mapping[str, Any] = MappingProxyType({}),
    container: Mapping[str, Any] = MappingProxyType({}),
    node: str = "",
) -> Installation:
    """Install it; it runs only by hand.

    Args:
        cluster: where.
        namespace: where.
        strategy: how journals are reached; its rights are what the account has.
        env: more settings.
        pod: more of its pod's spec; volumes beside its own.
        container: more of its container; mounts beside its own.
        node: where the orchestrator has to be.
    """
    sink = create_volume(cluster, namespace, SINK, mode="ReadWriteMany")
    rules = [as_rbac(rule) for rule in (*RULES[strategy], *RULES["resume-billing"])]
    metadata = {"name": ACCOUNT}
    settings = {
        "BACKUP_SINKS": "file:///sinks/archive",
        "BACKUP_STRATEGY": strategy,
        **env,
    }
    cluster.create(
        namespace,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": ACCOUNT,
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
        },
        *(
            _cronjob(cluster, name, arguments, settings, pod=pod, container=container, node=node)
            for name, arguments in (
                ("backup", ["backup", "--json"]),
                ("guard", ["resume-billing", "--json"]),
            )
        ),
    )
    return Installation(cluster=cluster, namespace=namespace, sink=sink)


def _cronjob(
    cluster: Cluster,
    name: str,
    arguments: list[str],
    settings: dict[str, str],
    *,
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    node: str,
) -> Any:
    mounts = [{"name": "archive", "mountPath": "/sinks/archive"}]
    volumes = [{"name": "archive", "persistentVolumeClaim": {"claimName": SINK}}]
    described = cluster.container(
        "backup",
        args=arguments,
        env=[
            *({"name": n, "value": v} for n, v in settings.items()),
            *(
                {"name": n, "valueFrom": {"fieldRef": {"fieldPath": p}}}
                for n, p in DOWNWARD.items()
            ),
        ],
        **{**container, "volumeMounts": [*mounts, *container.get("volumeMounts", [])]},
    )
    spec = {
        "restartPolicy": "Never",
        "serviceAccountName": ACCOUNT,
        "terminationGracePeriodSeconds": 90,
        "securityContext": {"runAsNonRoot": True},
        "containers": [described],
        **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}),
        **pod,
        "volumes": [*volumes, *pod.get("volumes", [])],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": name},
        "spec": {
            "schedule": "0 0 1 1 *",
            "suspend": True,
            "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": spec}}},
        },
    }


def seconds_until(condition: Any, what: str) -> float:
    """Wait for something; give how long it took."""
    begun = time.monotonic()
    until(condition, what, seconds=_SECONDS)
    return time.monotonic() - begun
