"""Small pods and a large journal; and the plain manifest, where there is no Helm."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart import programs
from tests.chart.helm import NAME, ROOT
from tests.e2e import chart, standin
from tests.e2e.billing import NAME as BILLING
from tests.e2e.billing import create_billing
from tests.e2e.cluster import Cluster
from tests.e2e.installation import Installation
from tests.e2e.nodes import Nodes
from tests.e2e.volumes import create_volume
from tests.figures import Figure
from tests.servers import process
from tests.servers.s3 import REGION, S3Server, versitygw

EFS = "dg-models-aws-efs-pvc"
JOURNAL = f"journal-{BILLING}-0"
LARGE_BYTES = 2 << 30


@pytest.fixture
def store(cluster: Cluster, nodes: Nodes, namespace: str, tmp_path: Path) -> Iterator[S3Server]:
    """Start an object store with a bucket, and create the Secret with its keys."""
    if reason := process.unavailable("versitygw"):
        pytest.skip(reason)
    with versitygw(tmp_path / "s3", host=nodes.gateway) as server:
        assert server.root
        (server.root / "acme-journals").mkdir()
        keys = {
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        }
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "journal-store"}}
        cluster.create(namespace, secret | {"stringData": keys})
        yield server


@pytest.mark.parametrize(("kind", "limit"), [("file", "128Mi"), ("s3", "192Mi")])
def test_a_large_journal_in_a_small_pod(
    cluster: Cluster,
    namespace: str,
    store: S3Server,
    tmp_path: Path,
    figure: Figure,
    *,
    kind: str,
    limit: str,
) -> None:
    """Two gigabytes; memory does not grow with the journal."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)
    volume = create_volume(cluster, namespace, EFS, mode="ReadWriteMany")
    sha256 = write_large(volume.directory / JOURNAL / "journal")
    assert store.root
    sink = chart.at(store.root / "acme-journals" / "plant-7") if kind == "s3" else None
    release = chart.alone(cluster, namespace, tmp_path, sink=sink)
    values = chart.values(cluster, shared=True)[NAME]
    if kind == "s3":
        values |= {
            "sinks": [{"url": "s3://acme-journals/plant-7"}],
            "aws": {
                "region": REGION,
                "endpointUrl": store.endpoint,
                "secretRef": "journal-store",
            },
        }
    release.install(values | {"resources": {"limits": {"memory": limit, "cpu": "2000m"}}})
    began = time.monotonic()
    ended = release.ended(release.run())
    figure(f"2 GiB to {kind} in a pod of {limit}", time.monotonic() - began)

    assert ended.exit_code == 0, ended.log
    (manifest,) = release.manifests()
    (found,) = manifest["files"]
    assert (found["size_bytes"], found["sha256"]) == (LARGE_BYTES, sha256)


def write_large(journal: Path) -> str:
    """Write a journal of exactly that size; return its SHA-256."""
    records = b"".join(map(standin.record, range(20_000)))
    hashed, left = hashlib.sha256(), LARGE_BYTES
    journal.parent.mkdir()
    with journal.open("wb") as file:
        while left > len(records):
            file.write(records)
            hashed.update(records)
            left -= len(records)
        end = b'{"d":"' + b"e" * (left - len(b'{"d":"","s":""}\n')) + b'","s":""}\n'
        file.write(end)
        hashed.update(end)
    return hashed.hexdigest()


def test_the_plain_manifest_backs_up(cluster: Cluster, namespace: str, store: S3Server) -> None:
    """With kubectl alone, after what it is marked to be changed: those lines and no others."""
    billing = create_billing(
        cluster, namespace, replicas=2, shared_claim="journals", mode="ReadWriteMany"
    )
    billing.await_ready()
    for ordinal in range(2):
        billing.await_records(5, ordinal)
    sink = f"s3://acme-journals/plant-9?endpoint={store.endpoint}"
    keys = "".join(
        f"                - name: {key}\n                  valueFrom:"
        f" {{secretKeyRef: {{name: journal-store, key: {key}}}}}\n"
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    manifest = (ROOT / "examples" / "cronjob.yaml").read_text()
    for mark, change in {
        r"annotations:\n *eks.*CHANGE: the role for the bucket, or a Secret.*": "",
        r'image: ".*" # CHANGE: your registry.*': f'image: "{cluster.image}"',
        r'(BACKUP_EXPECT_REPLICAS) # CHANGE.*(\n *value: )"1"': r'\1\2"2"',
        r'value: "s3:.*" # CHANGE: your sink': f'value: "{sink}"',
        r'(BACKUP_SITE) # CHANGE: your site(\n *value: )".*"': r'\1\2"plant-9"',
        r'( *- name: AWS_REGION) # CHANGE.*(\n *value: )".*"': rf'{keys}\1\2"{REGION}"',
        r'claimName: ".*" # CHANGE: the PVC.*': 'claimName: "journals"',
    }.items():
        manifest, times = re.subn(mark, change, manifest)
        assert times, mark
    assert "# CHANGE" not in manifest
    assert store.root
    tool = Installation(
        cluster=cluster,
        namespace=namespace,
        sink=chart.at(store.root / "acme-journals" / "plant-9"),
    )
    cluster.kubectl("-n", namespace, "apply", "-f", "-", stdin=manifest)
    ended = tool.ended(tool.run("journal-backup-1", "journal-backup"))
    verified = tool.ended(tool.run("verify", "journal-backup-verify"))

    assert ended.exit_code == 0, ended.log
    assert verified.exit_code == 0, verified.log
    assert len(tool.manifests()) == 2
    for ordinal in range(2):
        held = tool.restored(f"journal-{BILLING}-{ordinal}")
        assert billing.read_journal(ordinal).startswith(held)
