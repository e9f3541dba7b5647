"""A control plane that nodes and pods can reach: `tests.cluster.controlplane`, at another address.

The API server answers at one address of this machine, on a network that ends here, and says so to
the cluster: what pods find as `kubernetes.default`, at 10.96.0.1, leads there. The nodes and
kube-proxy are who they are in a cluster, with the rights that come with Kubernetes.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from tests.cluster import controlplane
from tests.cluster.controlplane import ControlPlane
from tests.servers import process

PROXY = "system:kube-proxy"


def node_user(node: str) -> str:
    """Give who a node is for the API server."""
    return f"system:node:{node}"


@contextmanager
def control_plane(
    directory: Path, *, address: str, nodes: Sequence[str]
) -> Iterator[tuple[ControlPlane, Mapping[str, Path]]]:
    """Start a control plane, with kubeconfigs by the users that come with nodes."""
    with ExitStack() as stack:
        files = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="control-plane-", dir=directory))
        )
        ports = [stack.enter_context(process.reserved_port()) for _ in range(4)]
        etcd, apiserver, controllers, scheduler = ports
        endpoint = f"https://{address}:{apiserver}"
        tokens = controlplane._issue(files, endpoint)
        _certify(files, address)
        users = _add_users(files, endpoint, nodes)
        here = process.HOST
        servers = {
            "etcd": controlplane._Server(
                controlplane._etcd(files, etcd), f"http://{here}:{etcd}/health", files
            ),
            "kube-apiserver": controlplane._Server(
                [*controlplane._apiserver(files, apiserver, etcd), *_options(address)],
                f"{endpoint}/readyz",
                files,
            ),
            "kube-controller-manager": controlplane._Server(
                # else it is 50 s; when pods are evicted is for their tolerations to say
                [*controlplane._controllers(files, controllers), "--node-monitor-grace-period=20s"],
                f"https://{here}:{controllers}/healthz",
                files,
            ),
            "kube-scheduler": controlplane._Server(
                controlplane._scheduler(files, scheduler),
                f"https://{here}:{scheduler}/healthz",
                files,
            ),
        }
        for server in servers.values():
            stack.callback(server.stop)
            server.start()
        plane = ControlPlane(
            endpoint=endpoint,
            ca=files / "ca.pem",
            token=tokens[controlplane._ADMINISTRATOR],
            kubeconfig=controlplane._kubeconfig(files, controlplane._ADMINISTRATOR),
            directory=files,
            _servers=servers,
        )
        yield plane, users


def _options(address: str) -> Sequence[str]:
    """Give what the API server is told beside the rest; of two the last one counts."""
    return [
        f"--bind-address={address}",
        f"--advertise-address={address}",
        "--endpoint-reconciler-type=lease",
        "--kubelet-preferred-address-types=InternalIP",  # the names of nodes are in no DNS
    ]


def _certify(files: Path, address: str) -> None:
    """Have another authority certify the API server, at its address and at that of its Service."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(files / "ca.pem")
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    certificate = ca.issue_cert(address, controlplane._SERVICE_ADDRESS, *names)
    (files / "apiserver.pem").write_bytes(
        b"".join(part.bytes() for part in certificate.cert_chain_pems)
    )
    certificate.private_key_pem.write_to_path(files / "apiserver.key")


def _add_users(files: Path, endpoint: str, nodes: Sequence[str]) -> Mapping[str, Path]:
    groups = {PROXY: ""} | {node_user(node): "system:nodes" for node in nodes}
    made = {}
    with (files / "tokens.csv").open("a") as tokens:
        for user, group in groups.items():
            token = secrets.token_hex(16)
            tokens.write(f'{token},{user},{user},"{group}"\n')
            made[user] = files / f"{user.replace(':', '.')}.kubeconfig"
            controlplane._write_kubeconfig(made[user], endpoint, files / "ca.pem", token, "default")
    return made
