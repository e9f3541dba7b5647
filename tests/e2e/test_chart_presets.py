"""Each preset of the chart, installed alone beside billing as that site has it, and run.

What is changed of a preset is what names things out there: the image, and where a store is. All
stores are real servers, on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.chart import programs
from tests.chart.helm import CHART, PRESETS
from tests.e2e import chart
from tests.e2e.billing import NAME as BILLING
from tests.e2e.billing import Billing, create_billing, whole
from tests.e2e.chart import Release, Values
from tests.e2e.cluster import Cluster
from tests.e2e.nodes import Nodes
from tests.e2e.volumes import create_volume
from tests.servers import process
from tests.servers.gcs import fake_gcs
from tests.servers.s3 import REGION, S3Server, versitygw

EFS = "dg-models-aws-efs-pvc"
TRIED = {
    "existing-pvc-rwo",
    "existing-pvc-rwop",
    "minimal",
    "per-pod-gcs",
    "per-pod-nfs-airgapped",
    "root-journals",
    "shared-efs-s3",
}
UNTRIED = {"everything"}
"""Of no site: every value at once, for the tests of the templates."""


@pytest.fixture(autouse=True)
def _helm() -> None:
    """Skip everything where there is no Helm."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)


@pytest.fixture(scope="module", autouse=True)
def _prometheus(shared_cluster: Cluster) -> None:
    """Let the cluster know the kind of the Prometheus operator, whatever is in it."""
    group, plural = "monitoring.coreos.com", "prometheusrules"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True}
    if shared_cluster.own:
        shared_cluster.create(
            "default",
            {
                "apiVersion": "apiextensions.k8s.io/v1",
                "kind": "CustomResourceDefinition",
                "metadata": {"name": f"{plural}.{group}"},
                "spec": {
                    "group": group,
                    "names": {"kind": "PrometheusRule", "plural": plural},
                    "scope": "Namespaced",
                    "versions": [version | {"schema": {"openAPIV3Schema": schema}}],
                },
            },
        )
        crd = f"crd/{plural}.{group}"
        shared_cluster.kubectl("wait", crd, "--for=condition=Established", "--timeout=60s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Where a preset is tried."""

    cluster: Cluster
    nodes: Nodes
    namespace: str
    directory: Path
    stack: ExitStack
    """Has what lasts as long as the test."""

    def s3(
        self, bucket: str = "acme-journals", *, tls: tuple[Path, Path] | None = None
    ) -> S3Server:
        """Start a store with a bucket, and create the Secret with its keys."""
        if reason := process.unavailable("versitygw"):
            pytest.skip(reason)
        server = self.stack.enter_context(
            versitygw(self.directory / "s3", tls=tls, host=self.nodes.gateway)
        )
        assert server.root
        (server.root / bucket).mkdir()
        keys = {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "journal-store"}}
        self.cluster.create(self.namespace, secret | {"stringData": keys})
        return server

    def billing(self, **shape: Any) -> Billing:
        """Create billing, and wait until it has written."""
        billing = create_billing(self.cluster, self.namespace, **shape)
        billing.await_ready()
        for ordinal in range(shape.get("replicas", 1)):
            billing.await_records(5, ordinal)
        return billing

    def back_up(
        self, preset: str, changes: Values, directory: Path, prefix: str = "plant-7"
    ) -> Release:
        """Install a preset with changes, and run it; `directory` is where the store has files."""
        release = chart.alone(
            self.cluster, self.namespace, self.directory, sink=chart.at(directory / prefix)
        )
        values = CHART / "ci" / f"{preset}-values.yaml"
        release.install({"image": chart.image(self.cluster)} | changes, f"--values={values}")
        ended = release.ended(release.run())
        assert ended.exit_code == 0, ended.log
        return release


@pytest.fixture
def stand(cluster: Cluster, nodes: Nodes, namespace: str, tmp_path: Path) -> Iterator[Stand]:
    """Give a namespace that enforces `restricted`."""
    with ExitStack() as stack:
        yield Stand(
            cluster=cluster, nodes=nodes, namespace=namespace, directory=tmp_path, stack=stack
        )


@pytest.fixture
def baseline(cluster: Cluster, nodes: Nodes, tmp_path: Path) -> Iterator[Stand]:
    """Give a namespace that enforces `baseline`."""
    name = cluster.create_namespace(enforce="baseline")
    with ExitStack() as stack:
        stack.callback(cluster.delete_namespace, name)
        yield Stand(cluster=cluster, nodes=nodes, namespace=name, directory=tmp_path, stack=stack)


def at(server: S3Server) -> Values:
    """Give the values that name a store that is not Amazon's."""
    keys = {"region": REGION, "endpointUrl": server.endpoint, "secretRef": "journal-store"}
    return {"aws": keys}


def assert_right(release: Release, billing: Billing, journals: Sequence[int] = (0,)) -> None:
    """Compare what is stored with what billing has."""
    assert [m["journal"] for m in release.manifests()] == [
        f"journal-{BILLING}-{n}" for n in journals
    ]
    for ordinal in journals:
        held = release.restored(f"journal-{BILLING}-{ordinal}")
        assert held
        assert billing.read_journal(ordinal).startswith(held)


def test_every_preset_is_tried() -> None:
    """But for the one that is no site."""
    assert {p.name.removesuffix("-values.yaml") for p in PRESETS} == TRIED | UNTRIED


@pytest.mark.parametrize(("preset", "replicas"), [("minimal", 1), ("shared-efs-s3", 2)])
def test_all_journals_on_the_models_volume(stand: Stand, preset: str, replicas: int) -> None:
    """Models are beside them, and are not copied; nothing of billing changes."""
    volume = create_volume(stand.cluster, stand.namespace, EFS, mode="ReadWriteMany")
    (volume.directory / "model.dg").write_bytes(b"weights" * 100_000)
    billing = stand.billing(replicas=replicas, shared_claim=EFS)
    server = stand.s3()
    assert server.root
    before = billing.lives(), [billing.owners(ordinal) for ordinal in range(replicas)]
    changes = at(server) | {"securityContext": {"fsGroup": 4242}}
    release = stand.back_up(preset, changes, server.root / "acme-journals")
    after = billing.lives(), [billing.owners(ordinal) for ordinal in range(replicas)]

    assert_right(release, billing, range(replicas))
    assert before == after
    assert all(whole(billing.read_journal(ordinal)) for ordinal in range(replicas))
    assert release.pod_of("now")["spec"]["automountServiceAccountToken"] is False


def test_journals_of_root(baseline: Stand) -> None:
    """Mode 0600, and they stay so: read by uid 0 without capabilities."""
    billing = baseline.billing(shared_claim=EFS, mode="ReadWriteMany", user=0, umask="077")
    journal = billing.volumes[0].directory / f"journal-{BILLING}-0" / "journal"
    before = owner(journal), owner(journal.parent)
    server = baseline.s3()
    assert server.root
    release = baseline.back_up("root-journals", at(server), server.root / "acme-journals")

    assert before[0] == (0, 0, 0o100600)
    assert (owner(journal), owner(journal.parent)) == before
    assert_right(release, billing)


def owner(path: Path) -> tuple[int, int, int]:
    """Say whose a file is, and who may what."""
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode


def test_one_volume_of_one_node(stand: Stand) -> None:
    """To a store of the site's own, whose certificate a CA of the site's own has signed."""
    files = stand.directory
    ca, host = trustme.CA(), stand.nodes.gateway
    certificate = ca.issue_cert(host)
    certificate.private_key_pem.write_to_path(files / "server.key")
    for part in certificate.cert_chain_pems:
        part.write_to_path(files / "server.pem", append=True)
    server = stand.s3("journals", tls=(files / "server.pem", files / "server.key"))
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "company-ca"}}
    data = {"ca.crt": ca.cert_pem.bytes().decode()}
    stand.cluster.create(stand.namespace, config | {"data": data})
    billing = stand.billing(replicas=2, shared_claim="billing-journals", node="node-a")
    sinks = [{"url": f"s3://journals/plant-7?endpoint={server.endpoint}"}]
    assert server.root
    release = stand.back_up(
        "existing-pvc-rwo", {"sinks": sinks, "aws": {"region": REGION}}, server.root / "journals"
    )

    assert_right(release, billing, range(2))


def test_a_volume_that_one_pod_may_mount(stand: Stand) -> None:
    """Billing is scaled down and back."""
    billing = stand.billing(shared_claim="billing-journals", mode="ReadWriteOncePod")
    server = stand.s3()
    assert server.root
    release = stand.back_up("existing-pvc-rwop", at(server), server.root / "acme-journals")
    billing.await_ready()

    assert billing.replicas == 1
    assert "scale-down; billing was away for" in release.log("now")
    assert_right(release, billing)


def test_a_volume_for_each_pod_to_gcs(stand: Stand) -> None:
    """By workers on the nodes of billing's pods."""
    if reason := process.unavailable("fake-gcs-server"):
        pytest.skip(reason)
    server = stand.stack.enter_context(fake_gcs(stand.directory, host=stand.nodes.gateway))
    (server.root / "acme-journals").mkdir()
    billing = stand.billing(replicas=2)
    emulator = {"name": "STORAGE_EMULATOR_HOST", "value": server.endpoint}
    release = stand.back_up("per-pod-gcs", {"extraEnv": [emulator]}, server.root / "acme-journals")

    assert_right(release, billing, range(2))


def test_a_volume_for_each_pod_without_a_network(stand: Stand) -> None:
    """To a claim that both nodes can mount, and with an image that nothing pulls."""
    sink = create_volume(stand.cluster, stand.namespace, "journal-archive", mode="ReadWriteMany")
    billing = stand.billing(replicas=2)
    release = stand.back_up("per-pod-nfs-airgapped", {}, sink.directory, "")

    assert_right(release, billing, range(2))
