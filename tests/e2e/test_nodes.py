"""The nodes are real: pods run, volumes attach, and what befalls a node befalls its pods.

A node that only says that it is ready, or a volume that anyone may mount anywhere, would prove
nothing about a backup that has to be where the volume is.
"""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import backup
from tests.cluster.controlplane import until
from tests.e2e.billing import USER, create_billing, numbers, whole
from tests.e2e.cluster import Cluster
from tests.e2e.nodes import NAMES, Nodes
from tests.e2e.volumes import attached, create_volume

SLEEP = ("python3", "-c", "import time; time.sleep(600)")
ASK = """
import os, ssl, urllib.error, urllib.request
d = "/var/run/secrets/kubernetes.io/serviceaccount/"
host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
url = f"https://{host}:{port}/apis/apps/v1/namespaces/{open(d + 'namespace').read()}/statefulsets"
sent = {"Authorization": "Bearer " + open(d + "token").read()}
request = urllib.request.Request(url, headers=sent)
trusting = ssl.create_default_context(cafile=d + "ca.crt")
try:
    print(urllib.request.urlopen(request, context=trusting, timeout=20).status)
except urllib.error.HTTPError as refusal:
    print(refusal.status)
"""
GET = """
import sys, time, urllib.request
for url in sys.argv[1:]:
    while True:
        try:
            print(urllib.request.urlopen(url, timeout=5).status)
            break
        except OSError:
            time.sleep(0.1)
"""
WHO = """
import os
def can(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return os.strerror(error.errno)
    return "yes"
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(os.getuid(), can("/x"), can("/tmp/x"), status["CapEff"].strip(), status["Seccomp"].strip())
"""


def with_claim(claim: str, *, read_only: bool = False) -> dict[str, Any]:
    """Give what a pod says that mounts a claim at /v."""
    source = {"claimName": claim, "readOnly": read_only}
    return {
        "container": {"volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": read_only}]},
        "volumes": [{"name": "v", "persistentVolumeClaim": source}],
    }


# -- pods


def test_a_pod_runs_on_each_node(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """And what it says is read from there, which takes the kubelet of its node."""
    hello = ("python3", "-c", "print('hello')")
    for node in NAMES:
        cluster.create(namespace, cluster.pod(f"on-{node}", *hello, node=node))
    pods = [cluster.await_phase(namespace, f"on-{node}", "Succeeded") for node in NAMES]

    assert [(node, "hello\n") for node in NAMES] == [
        (pod["spec"]["nodeName"], cluster.log(namespace, pod["metadata"]["name"])) for pod in pods
    ]


def test_a_command_runs_in_a_pod(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """As users do it by hand."""
    for node in NAMES:
        cluster.create(namespace, cluster.pod(f"on-{node}", *SLEEP, node=node))
        cluster.await_phase(namespace, f"on-{node}", "Running")
    said = [
        cluster.kubectl("-n", namespace, "exec", f"on-{node}", "--", "cat", "/etc/hostname")
        for node in NAMES
    ]

    assert [f"on-{node}\n" for node in NAMES] == said


def test_a_pod_reaches_the_api_server(cluster: Cluster, namespace: str) -> None:
    """At its Service, with the token of its account, which may do what its role says."""
    cluster.create(namespace, cluster.pod("refused", "python3", "-c", ASK))
    cluster.await_phase(namespace, "refused", "Succeeded")
    roles = ("role", "reader", "--verb=list", "--resource=statefulsets.apps")
    cluster.kubectl("-n", namespace, "create", *roles)
    binding = ("rolebinding", "reader", "--role=reader", f"--serviceaccount={namespace}:default")
    cluster.kubectl("-n", namespace, "create", *binding)
    cluster.create(namespace, cluster.pod("allowed", "python3", "-c", ASK))
    cluster.await_phase(namespace, "allowed", "Succeeded")
    said = [cluster.log(namespace, pod) for pod in ("refused", "allowed")]

    assert said == ["403\n", "200\n"]


def test_a_pod_reaches_servers_of_the_tests_and_other_pods(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """An object store can run beside the tests; and the networks of the nodes are one."""
    serve = ("python3", "-m", "http.server", "8000", "--directory", "/opt")
    cluster.create(namespace, cluster.pod("server", *serve, node="node-b"))
    pod = cluster.await_phase(namespace, "server", "Running")["status"]["podIP"]
    handler = http.server.SimpleHTTPRequestHandler
    with http.server.ThreadingHTTPServer((nodes.gateway, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        urls = [f"http://{nodes.gateway}:{server.server_port}/", f"http://{pod}:8000/"]
        cluster.create(namespace, cluster.pod("client", "python3", "-c", GET, *urls, node="node-a"))
        try:
            cluster.await_phase(namespace, "client", "Succeeded")
        finally:
            server.shutdown()
            thread.join()

    assert cluster.log(namespace, "client") == "200\n200\n"


def test_a_restricted_pod_has_no_more_than_it_needs(cluster: Cluster, namespace: str) -> None:
    """No root, no place to write but what is mounted, no capability, and filtered calls."""
    scratch = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}  # noqa: S108
    cluster.create(
        namespace,
        cluster.pod(
            "who",
            *("python3", "-c", WHO),
            container=scratch,
            volumes=[{"name": "tmp", "emptyDir": {}}],
        ),
    )
    cluster.await_phase(namespace, "who", "Succeeded")

    assert cluster.log(namespace, "who").split("\n")[0] == (
        f"{USER} Read-only file system yes {'0' * 16} 2"
    )


def test_the_tool_itself_runs(cluster: Cluster, namespace: str) -> None:
    """The image of the tool is on the nodes, and starts by its own entry point."""
    cluster.create(namespace, cluster.pod("tool", container={"args": ["--version"]}))
    cluster.await_phase(namespace, "tool", "Succeeded")

    assert cluster.log(namespace, "tool") == f"{backup.__version__}\n"


# -- volumes


def test_a_volume_is_on_one_node_at_a_time(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """A pod on another node waits, and says for what, until the first one is gone."""
    volume = create_volume(cluster, namespace, "disk")
    mounted = with_claim("disk")
    cluster.create(namespace, cluster.pod("first", *SLEEP, node="node-a", **mounted))
    cluster.await_phase(namespace, "first", "Running")
    cluster.create(namespace, cluster.pod("second", *SLEEP, node="node-b", **mounted))
    until(
        lambda: "FailedAttachVolume" in cluster.events(namespace, "second"),
        "the second pod is refused the volume",
    )
    refused = cluster.events(namespace, "second")["FailedAttachVolume"].partition(" for")[0]
    before = cluster.phase(namespace, "second"), attached(cluster, volume)
    cluster.kubectl("-n", namespace, "delete", "pod", "first")
    cluster.await_phase(namespace, "second", "Running", seconds=120)

    assert ("Multi-Attach error", ("Pending", {"node-a"}), {"node-b"}) == (
        refused,
        before,
        attached(cluster, volume),
    )


def test_a_second_pod_on_the_node_reads_what_billing_writes(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """ReadWriteOnce is one node, not one pod; and who mounts it read-only cannot write."""
    billing = create_billing(cluster, namespace)
    billing.await_ready()
    billing.await_records(5)
    touch = (
        "import os, sys\n"
        "print(len(open('/v/journal', 'rb').read()) > 0)\n"
        "try: open('/v/x', 'w')\n"
        "except OSError as error: print(os.strerror(error.errno))"
    )
    claim = with_claim("journal-deepgram-billing-0", read_only=True)
    reader = cluster.pod("reader", "python3", "-c", touch, node=billing.node(), **claim)
    cluster.create(namespace, reader)
    cluster.await_phase(namespace, "reader", "Succeeded")

    assert cluster.log(namespace, "reader") == "True\nRead-only file system\n"


def test_a_volume_for_one_pod_is_refused_to_a_second(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """ReadWriteOncePod, which the scheduler enforces, on the node of the first one too."""
    create_volume(cluster, namespace, "disk", mode="ReadWriteOncePod")
    mounted = with_claim("disk", read_only=True)
    cluster.create(namespace, cluster.pod("first", *SLEEP, **mounted))
    cluster.await_phase(namespace, "first", "Running")
    cluster.create(namespace, cluster.pod("second", *SLEEP, **mounted))
    said = until(
        lambda: cluster.events(namespace, "second").get("FailedScheduling"),
        "the scheduler has refused the second pod",
    )

    assert (
        cluster.phase(namespace, "second"),
        "ReadWriteOncePod" in str(said),
    ) == ("Pending", True)


def test_a_driver_may_refuse_a_second_mount(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """Some do, of a ReadWriteOnce volume and on its own node, and only the pod's events tell."""
    create_volume(cluster, namespace, "disk", one_mount=True)
    mounted = with_claim("disk", read_only=True)
    for name in ("first", "second"):
        cluster.create(namespace, cluster.pod(name, *SLEEP, node="node-a", **mounted))
        until(
            lambda name=name: (  # type: ignore[misc]
                cluster.phase(namespace, name) == "Running"
                or "FailedMount" in cluster.events(namespace, name)
            ),
            f"{name} is running or refused",
        )

    assert [cluster.phase(namespace, n) for n in ("first", "second")] == ["Running", "Pending"]


def test_a_volume_for_many_is_on_both_nodes(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """What a pod on one node writes, a pod on the other reads."""
    volume = create_volume(cluster, namespace, "share", mode="ReadWriteMany")
    mounted = with_claim("share")
    write = ("python3", "-c", "open('/v/x', 'w').write('hello')")
    read = ("python3", "-c", "print(open('/v/x').read())")
    cluster.create(namespace, cluster.pod("writer", *write, node="node-a", **mounted))
    cluster.await_phase(namespace, "writer", "Succeeded")
    cluster.create(namespace, cluster.pod("reader", *read, node="node-b", **mounted))
    cluster.await_phase(namespace, "reader", "Succeeded")

    assert (
        cluster.log(namespace, "reader"),
        (volume.directory / "x").read_text(),
    ) == ("hello\n", "hello")


@pytest.mark.parametrize("read_only", [True, False])
def test_a_group_takes_over_what_it_may_write(
    cluster: Cluster, nodes: Nodes, namespace: str, *, read_only: bool
) -> None:
    """A pod with an fsGroup re-owns the files of a volume, unless the claim is used read-only."""
    volume = create_volume(cluster, namespace, "disk")
    journal = volume.directory / "journal"
    journal.write_text("{}\n")
    journal.chmod(0o600)
    pod = cluster.pod(
        "reader",
        *("python3", "-c", ""),
        securityContext={"runAsNonRoot": True, "fsGroup": 4321},
        **with_claim("disk", read_only=read_only),
    )
    cluster.create(namespace, pod)
    cluster.await_phase(namespace, "reader", "Succeeded")
    seen = journal.stat()

    assert ((0, 0o600) if read_only else (4321, 0o660)) == (seen.st_gid, seen.st_mode & 0o777)


# -- billing


@pytest.mark.parametrize("shared", [False, True])
def test_billing_stops_and_goes_on(cluster: Cluster, namespace: str, *, shared: bool) -> None:
    """Within seconds, and no record is lost, whether each pod has a volume or all share one."""
    claim = "all-journals" if shared else ""
    if claim:
        create_volume(cluster, namespace, claim, mode="ReadWriteMany")
    billing = create_billing(cluster, namespace, replicas=2, shared_claim=claim)
    billing.await_ready()
    before = [billing.await_records(10, ordinal) for ordinal in range(2)]
    began = time.monotonic()
    billing.scale(0)
    billing.scale(2)
    took = time.monotonic() - began
    after = [
        billing.await_records(len(numbers(seen)) + 10, ordinal)
        for ordinal, seen in enumerate(before)
    ]

    assert (
        [whole(journal) for journal in after],
        [now.startswith(then) for now, then in zip(after, before, strict=True)],
        took < 30,
    ) == ([True] * 2, [True] * 2, True)


def test_a_journal_can_be_the_roots_own(cluster: Cluster, nodes: Nodes, lax_namespace: str) -> None:
    """As billing's may be: 0600, which nobody else reads."""
    billing = create_billing(cluster, lax_namespace, user=0, umask="077")
    billing.await_ready()
    billing.await_records(1)
    journal = (billing.volumes[0].directory / "journal").stat()

    assert (journal.st_uid, journal.st_mode & 0o777) == (0, 0o600)


def test_billing_is_ready_when_its_pod_is_there_to_stay(cluster: Cluster, namespace: str) -> None:
    """While a pod ends, its set still counts it as ready, and nothing can be run in it."""
    billing = create_billing(cluster, namespace)
    billing.await_ready()
    before = billing.lives()
    written = billing.await_records(5)
    cluster.kubectl("-n", namespace, "delete", "pod", "deepgram-billing-0", "--wait=false")
    billing.await_ready()
    journal = billing.read_journal()

    assert before.isdisjoint(billing.lives())
    assert journal.startswith(written)
    assert whole(journal)


# -- faults


def test_a_dead_nodes_pod_goes_on_running_in_the_api(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """Its processes are gone, nobody says so, and after a start it runs again."""
    billing = create_billing(cluster, namespace, node="node-a")
    billing.await_ready()
    billing.await_records(5)
    journal = billing.volumes[0].directory / "journal"
    nodes.kill("node-a")
    written = journal.read_bytes()
    until(lambda: not _is_ready(nodes, "node-a"), "the node is missed", seconds=90)
    seen = cluster.phase(namespace, "deepgram-billing-0"), journal.read_bytes() == written
    nodes.restart("node-a")
    count = len(numbers(written))
    until(lambda: journal.read_bytes().count(b"\n") > count, "billing writes again", seconds=90)
    billing.await_ready()

    assert (seen, whole(billing.read_journal())) == (("Running", True), True)


def test_a_pod_goes_on_without_the_api_server(
    cluster: Cluster, nodes: Nodes, namespace: str
) -> None:
    """What it does has nothing to do with whether anyone manages it."""
    billing = create_billing(cluster, namespace)
    billing.await_ready()
    billing.await_records(5)
    journal = billing.volumes[0].directory / "journal"
    with nodes.without_apiserver():
        count = journal.read_bytes().count(b"\n")
        until(lambda: journal.read_bytes().count(b"\n") > count + 10, "billing writes on")
    billing.await_ready()

    assert whole(billing.read_journal())


def test_an_unplugged_node_is_missed(cluster: Cluster, nodes: Nodes, namespace: str) -> None:
    """Its pods go on, and what they did is seen when it is back."""
    billing = create_billing(cluster, namespace, node="node-b")
    billing.await_ready()
    billing.await_records(5)
    journal = billing.volumes[0].directory / "journal"
    with nodes.unplugged("node-b"):
        until(lambda: not _is_ready(nodes, "node-b"), "the node is missed", seconds=90)
        count = journal.read_bytes().count(b"\n")
        until(lambda: journal.read_bytes().count(b"\n") > count + 10, "billing writes on")
    nodes.await_ready("node-b")

    assert whole(billing.read_journal())


def _is_ready(nodes: Nodes, name: str) -> bool:
    conditions = nodes.node(name)["status"]["conditions"]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


# -- what is left


SECOND = """
import sys, time
from pathlib import Path
from tests.e2e.nodes import nodes
with nodes(Path(sys.argv[1]), [], number=int(sys.argv[2])) as made:
    print(*(m.pid for m in made.machines.values()), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("number", "signum"),
    [(98, 0), (99, signal.SIGKILL)],  # a place for each, as they may run at the same time
    ids=["ended", "killed"],
)
def test_nothing_is_left(
    cluster: Cluster, nodes: Nodes, tmp_path: Path, number: int, signum: int
) -> None:
    """Of a second cluster: not after its end; and of a killed one, not after the next."""
    pids = _second_cluster(tmp_path, number, signum)
    left = [*tmp_path.iterdir(), *_links(number)]
    if signum:
        pids += _second_cluster(tmp_path, number, 0)

    assert (bool(signum), [], [], [], False) == (
        bool(left),
        [*tmp_path.iterdir(), *_links(number)],
        [*Path("/sys/fs/cgroup").rglob(_place(number))],
        [pid for pid in pids if Path(f"/proc/{pid}").exists()],
        str(tmp_path) in Path("/proc/mounts").read_text(),
    )


def _place(number: int) -> str:
    return f"jb-e2e-{number}"


def _links(number: int) -> list[str]:
    """Name the links of this machine that are of a second cluster."""
    return [name for _, name in socket.if_nameindex() if name.startswith(_place(number))]


def _second_cluster(directory: Path, number: int, signum: int) -> list[int]:
    """Start one, beside that of the tests, and end it; give the processes of its nodes."""
    with subprocess.Popen(
        [sys.executable, "-c", SECOND, str(directory), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout
        told = [int(word) for word in process.stdout.readline().split()]
        if signum:
            os.kill(process.pid, signum)
        process.communicate(timeout=60)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in told), "its nodes are dead")
    return told
