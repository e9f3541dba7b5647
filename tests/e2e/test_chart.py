"""One release of an umbrella, from `helm install` to a journal that is restored.

It is installed once, for all tests here, in a namespace that enforces Pod Security `restricted`.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.chart import programs
from tests.chart.helm import NAME
from tests.e2e import chart
from tests.e2e.billing import NAME as BILLING
from tests.e2e.billing import Billing, whole
from tests.e2e.chart import Release
from tests.e2e.cluster import Cluster
from tests.e2e.installation import Ended
from tests.e2e.volumes import Volume, contents, create_volume
from tests.figures import Figure

JOURNAL = f"journal-{BILLING}-0"

TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What was installed, and what came of its first backup."""

    release: Release
    billing: Billing
    target: Volume
    """A fresh volume to restore to."""
    first: Ended
    seconds: float
    """From `helm install` to the end of the first backup."""


@pytest.fixture(scope="module")
def site(shared_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Install it beside billing, of which there is one pod with a volume of its own."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)
    cluster = shared_cluster
    namespace = cluster.create_namespace(enforce="restricted")
    billing = chart.volumes(cluster, namespace)
    target = create_volume(cluster, namespace, "journal-restored", mode="ReadWriteMany")
    release = chart.umbrella(cluster, namespace, tmp_path_factory.mktemp("umbrella"))
    began = time.monotonic()
    release.install(
        chart.values(
            cluster, toolbox={"restoreTargets": [{"existingPvcName": "journal-restored"}]}
        ),
        "--wait",
    )
    first = release.ended(release.run())
    seconds = time.monotonic() - began
    yield Site(release=release, billing=billing, target=target, first=first, seconds=seconds)
    cluster.delete_namespace(namespace)


def test_the_first_backup_is_there_soon(site: Site, figure: Figure) -> None:
    """From `helm install`, with the image on the nodes; and it was read back."""
    figure("helm install, to the end of the first backup", site.seconds)
    held = site.release.restored(JOURNAL)
    first, *_ = site.release.manifests()

    assert site.first.exit_code == 0, site.first.log
    assert first["id"] in site.first.log
    assert whole(held)
    assert site.billing.read_journal().startswith(held)


@pytest.mark.usefixtures("nodes")
def test_a_container_says_something_soon(site: Site, figure: Figure) -> None:
    """The best of a few, as other tests have the machine too."""
    times = [seconds_to_say_something(site.release, "now")]
    while min(times) >= 1 and len(times) < TRIES:
        job = site.release.run(f"try-{len(times)}")
        site.release.ended(job)
        times.append(seconds_to_say_something(site.release, job))
    figure("start of a container, to its first line", min(times))

    assert min(times) > 0


def seconds_to_say_something(release: Release, job: str) -> float:
    """Measure from when a node was told to start a container, to the first line of its log."""
    assert release.cluster.own
    pod = release.pod_of(job)
    (status,) = pod["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("containerd://")
    node = release.cluster.own.machines[pod["spec"]["nodeName"]]
    told = re.search(
        rf'time="([^"]+)" .*msg="StartContainer for \\"{container}\\""',
        (node.disk / "containerd.log").read_text(),
    )
    assert told
    name = pod["metadata"]["name"]
    line = release.cluster.log(release.namespace, name, "--timestamps").splitlines()[0]
    return (moment(line.split()[0]) - moment(told[1])).total_seconds()


def moment(text: str) -> datetime:
    """Read a time, of which Python takes no more than microseconds."""
    whole_seconds, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole_seconds}.{fraction[:6]:0<6}+00:00")


def test_helm_test_passes(site: Site) -> None:
    """It has the rights, the volumes and the sinks of the backup, and finds nothing wrong."""
    said = site.release.helm("test", chart.RELEASE, "--logs")

    assert "Phase:          Succeeded" in said
    assert f"ok: {JOURNAL} is bound, ReadWriteOnce, for one journal" in said
    assert "ok: file:///sinks/archive takes backups" in said
    assert "0 wrong" in said


def test_the_verification_passes(site: Site) -> None:
    """By its CronJob, as every week."""
    release = site.release
    ended = release.ended(release.run("verify", f"{NAME}-verify"))

    assert ended.exit_code == 0, ended.log
    assert JOURNAL in ended.log


def test_a_bundle_comes_out_of_the_toolbox(site: Site, tmp_path: Path) -> None:
    """As one tar, with nothing written on the way; and what it has is marked as delivered."""
    release = site.release
    release.open_toolbox()
    said = release.toolbox("journal-backup", "export", "latest", "--output", "-")
    with tarfile.open(fileobj=io.BytesIO(said.encode())) as tar:
        found = {m.name.partition("/")[2]: tar.extractfile(m) for m in tar.getmembers()}
    backup_id = next(iter(found)).partition("/")[0].removeprefix(f"{JOURNAL}-")
    name = f"{JOURNAL}-{backup_id}"
    release.toolbox("journal-backup", "mark-delivered", backup_id, "--reference", "CASE-17")
    listed = json.loads(release.toolbox("journal-backup", "list", "--json"))["backups"]

    assert set(found) == {f"{name}/journal", f"{name}.manifest.json", "SHA256SUMS"}
    journal = found[f"{name}/journal"]
    assert journal is not None
    assert journal.read() == release.restored(JOURNAL)
    assert {row["id"]: row["marks"] for row in listed}[backup_id] == ["delivered"]


def test_a_journal_is_restored_by_the_toolbox(site: Site, tmp_path: Path) -> None:
    """Listed, verified, restored into a fresh PVC, and copied to where kubectl is."""
    release = site.release
    release.open_toolbox()
    listed = release.toolbox("journal-backup", "list")
    release.toolbox("journal-backup", "verify", "latest", "--deep")
    release.toolbox(
        *("journal-backup", "restore", "latest"),
        *("--target", "/targets/journal-restored/journals"),
    )
    release.toolbox("journal-backup", "restore", "latest", "--target", "/restored/journals")
    (pod,) = release.pods(f"app={NAME},app.kubernetes.io/component=toolbox")
    source = f"{release.namespace}/{pod['metadata']['name']}:/restored/journals"
    release.cluster.kubectl("cp", source, str(tmp_path / "copied"))
    held = release.restored(JOURNAL)
    target = contents(release.cluster, release.namespace, site.target)

    assert JOURNAL in listed
    assert (target / "journals" / JOURNAL / "journal").read_bytes() == held
    assert (tmp_path / "copied" / JOURNAL / "journal").read_bytes() == held
    assert whole(held)


def test_old_backups_go_by_the_rules_of_the_chart(
    cluster: Cluster, namespace: str, tmp_path: Path
) -> None:
    """After a run, and by the same rules from the toolbox; what is left shares their archives."""
    if reason := programs.unavailable("helm"):
        pytest.skip(reason)
    billing = chart.volumes(cluster, namespace)
    release = chart.umbrella(cluster, namespace, tmp_path)
    rules = {"keepLast": 1, "keepMin": 1}
    release.install(chart.values(cluster, mode="incremental", retention=rules))
    billing.await_ready()
    written = billing.await_records(5)
    first, second = (release.ended(release.run(name)) for name in ("first", "second"))
    release.open_toolbox()
    dry = release.toolbox("journal-backup", "prune")
    before = release.manifests()
    pruning = {"prune": True, **rules}
    release.upgrade(chart.values(cluster, mode="incremental", retention=pruning))
    third = release.ended(release.run("third"))
    after = release.manifests()
    release.open_toolbox()  # which the upgrade has closed
    release.toolbox("journal-backup", "verify", "--deep")
    release.toolbox("journal-backup", "restore", "latest", "--target", "/restored/journals")
    held = release.toolbox("cat", f"/restored/journals/{JOURNAL}/journal").encode()

    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 0, 0), third.log
    assert "1 of 2 backups would go" in dry
    assert (len(before), len(after)) == (2, 1)
    assert after[0]["id"] in third.log
    assert {p.name.split(".")[0] for p in release.stored("*.pruned.json")} == {
        f"{JOURNAL}-{made['id']}" for made in before
    }
    assert len(after[0]["archives"]) == 3
    assert whole(held)
    assert held.startswith(written)
