"""A real control plane, as processes of a test: etcd, API server, controllers and scheduler.

    with control_plane(tmp_path) as plane:
        namespace = plane.create_namespace(enforce="restricted")
        plane.kubectl("-n", namespace, "apply", "-f", "-", stdin=manifest)
        plane.call("GET", f"/api/v1/namespaces/{namespace}/pods").body["items"]

All is as in a cluster but that there is no node: objects are admitted, authorized, stored and
reconciled, and pods stay Pending. The controllers and the scheduler are who they are in a cluster,
with the rights of the roles that come with Kubernetes, each controller as a service account of its
own; the administrator is of `system:masters`.

All of it listens on 127.0.0.1 alone, at ports chosen by the OS, and dies with the process that
started it, however that ends: see `tests.servers.process`, which starts it.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster.programs import program
from tests.servers import process

Level = Literal["privileged", "baseline", "restricted"]
"""What Pod Security lets pass."""

_SERVICE_ADDRESS = "10.96.0.1"
_SERVICE_ADDRESSES = "10.96.0.0/16"
_ISSUER = "https://kubernetes.default.svc.cluster.local"

_ADMINISTRATOR = "admin"
_CONTROLLERS = "system:kube-controller-manager"
_SCHEDULER = "system:kube-scheduler"

_END_SECONDS = 20.0  # the API server lets go of its clients first, which takes two where it is idle
_ANSWER_SECONDS = 20.0
_KUBECTL_SECONDS = 60.0
_UNTIL_SECONDS = 60.0
_POLL_SECONDS = 0.05

_Result = TypeVar("_Result")


class KubectlError(RuntimeError):
    """A kubectl that did not do it; what it said on stderr."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server answered; refusals are answers too."""

    status: int
    body: Any


_Request = tuple[str, str, bytes | None, Mapping[str, str]]
"""Method, path, body and headers."""


class _Connections:
    """Connections to an API server, kept for the next request: to begin one costs more than to ask.

    Any thread may ask; each gets a connection of its own for as long as that takes.
    """

    def __init__(self) -> None:
        self._idle: list[HTTPSConnection] = []
        weakref.finalize(self, _close_all, self._idle)

    def ask(self, endpoint: str, ca: Path, request: _Request) -> Answer:
        """Ask; a server that was started anew has let go of all that is kept."""
        while self._idle:
            with suppress(IndexError, ConnectionError, HTTPException, ssl.SSLError):
                return self._ask_by(self._idle.pop(), request)
        trusting = ssl.create_default_context(cafile=ca)
        host = endpoint.removeprefix("https://")
        new = HTTPSConnection(host, timeout=_ANSWER_SECONDS, context=trusting)
        try:
            return self._ask_by(new, request)
        except HTTPException as error:
            message = f"{type(error).__name__}: {error}"
            raise OSError(message) from error

    def _ask_by(self, connection: HTTPSConnection, request: _Request) -> Answer:
        try:
            connection.request(*request)
            with connection.getresponse() as response:
                answer = Answer(response.status, _content(response))
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return answer


def _close_all(connections: list[HTTPSConnection]) -> None:
    for connection in connections:
        connection.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """A control plane that runs, and its administrator."""

    endpoint: str
    """The URL of the API server, the same for as long as the control plane is there."""
    ca: Path
    """The certificate that a client is to trust."""
    token: str = field(repr=False)
    """The administrator's."""
    kubeconfig: Path
    """The administrator's."""
    directory: Path
    """Of kubeconfigs and other files; gone with the control plane."""
    _servers: Mapping[str, _Server] = field(repr=False)
    _connections: _Connections = field(default_factory=_Connections, repr=False)

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run now, by the names of their programs."""
        return {name: server.pid for name, server in self._servers.items() if server.pid}

    def stop_apiserver(self) -> None:
        """End the API server, unless it is ended; what is stored stays, and the port reserved."""
        self._servers["kube-apiserver"].stop()

    def start_apiserver(self) -> None:
        """Start the API server again, unless it runs; return when it is ready.

        The controllers and the scheduler are started anew with it. In a cluster they would have
        lost their leases and ended; these have none, and would look again only when their patience,
        which doubles with each attempt, is over: 40 s after the API server was away for 30.
        """
        if "kube-apiserver" in self.pids:
            return
        self._servers["kube-apiserver"].start()
        for name in ("kube-controller-manager", "kube-scheduler"):
            self._servers[name].stop()
            self._servers[name].start()

    def kubectl(self, *arguments: str, stdin: str = "", kubeconfig: Path | None = None) -> str:
        """Run kubectl, as the administrator unless told otherwise; return what it prints.

        Raises:
            KubectlError: it ended with another code than 0.
        """
        done = subprocess.run(
            [program("kubectl"), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
            check=False,
            # nothing of whose machine it is, neither its clusters nor its proxies
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.directory),  # of its cache
                "KUBECONFIG": str(kubeconfig or self.kubeconfig),
            },
        )
        if done.returncode:
            message = f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
            raise KubectlError(message)
        return done.stdout

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Ask the API server itself, as the administrator unless another's token is given.

        Raises:
            OSError: there was no answer.
        """
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": content_type}
        return self._connections.ask(self.endpoint, self.ca, (method, path, content, headers))

    def create_namespace(self, *, enforce: Level | None = None) -> str:
        """Create a namespace that is ready for pods; return its name, which nothing else has.

        Args:
            enforce: what Pod Security refuses there; without it, nothing.
        """
        name = f"test-{uuid.uuid4().hex[:12]}"
        labels = {"pod-security.kubernetes.io/enforce": enforce} if enforce else {}
        created = self.call(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        )
        _expect(created, 201)
        # A pod is refused for as long as the controllers have not made the account it runs as.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        until(lambda: self.call("GET", account).status == 200, f"{account} is there")
        return name

    def delete_namespace(self, name: str) -> None:
        """Have a namespace deleted, with all that is in it; does not wait until it is gone."""
        _expect(self.call("DELETE", f"/api/v1/namespaces/{name}"), 200)

    def token_for(self, service_account: str, *, namespace: str) -> str:
        """Ask for a token of a service account, by TokenRequest, as a kubelet does for a pod."""
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        answer = self.call(
            "POST",
            f"{accounts}/{service_account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        )
        _expect(answer, 201)
        token: str = answer.body["status"]["token"]
        return token

    def kubeconfig_for(self, service_account: str, *, namespace: str) -> Path:
        """Write a kubeconfig with which one is that service account, in its namespace."""
        path = self.directory / f"{namespace}.{service_account}.kubeconfig"
        token = self.token_for(service_account, namespace=namespace)
        _write_kubeconfig(path, self.endpoint, self.ca, token, namespace)
        return path


def until(
    condition: Callable[[], _Result], what: str, *, seconds: float = _UNTIL_SECONDS
) -> _Result:
    """Wait until a condition holds, and return what it gives then.

    Raises:
        TimeoutError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            message = f"not within {seconds} s: {what}"
            raise TimeoutError(message)
        time.sleep(_POLL_SECONDS)
    return result


@contextmanager
def control_plane(directory: Path) -> Iterator[ControlPlane]:
    """Start a control plane which keeps its files in a new directory below `directory`."""
    with ExitStack() as stack:
        files = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="control-plane-", dir=directory))
        )
        ports = [stack.enter_context(process.reserved_port()) for _ in range(4)]
        etcd, apiserver, controllers, scheduler = ports
        endpoint = f"https://{process.HOST}:{apiserver}"
        tokens = _issue(files, endpoint)
        servers = {
            "etcd": _Server(_etcd(files, etcd), f"http://{process.HOST}:{etcd}/health", files),
            "kube-apiserver": _Server(
                _apiserver(files, apiserver, etcd), f"{endpoint}/readyz", files
            ),
            "kube-controller-manager": _Server(
                _controllers(files, controllers),
                f"https://{process.HOST}:{controllers}/healthz",
                files,
            ),
            "kube-scheduler": _Server(
                _scheduler(files, scheduler), f"https://{process.HOST}:{scheduler}/healthz", files
            ),
        }
        for server in servers.values():
            stack.callback(server.stop)
            server.start()
        yield ControlPlane(
            endpoint=endpoint,
            ca=files / "ca.pem",
            token=tokens[_ADMINISTRATOR],
            kubeconfig=_kubeconfig(files, _ADMINISTRATOR),
            directory=files,
            _servers=servers,
        )


# -- what they are told

_Command = Sequence[str | Path]


def _etcd(files: Path, port: int) -> _Command:
    url = f"http://{process.HOST}:{port}"
    return [
        program("etcd"),
        *("--data-dir", files / "etcd"),
        *("--listen-client-urls", url, "--advertise-client-urls", url),
        *("--listen-peer-urls", f"http://{process.HOST}:0"),  # has to be, and has no peer
        "--unsafe-no-fsync",  # no test cuts the power
        *("--log-level", "warn"),
    ]


def _apiserver(files: Path, port: int, etcd: int) -> _Command:
    return [
        program("kube-apiserver"),
        f"--etcd-servers=http://{process.HOST}:{etcd}",
        *(f"--bind-address={process.HOST}", f"--secure-port={port}"),
        # No pod asks for it at its Service, and an Endpoints object must not name the loopback.
        *(f"--advertise-address={process.HOST}", "--endpoint-reconciler-type=none"),
        f"--service-cluster-ip-range={_SERVICE_ADDRESSES}",
        f"--tls-cert-file={files / 'apiserver.pem'}",
        f"--tls-private-key-file={files / 'apiserver.key'}",
        f"--service-account-issuer={_ISSUER}",
        f"--service-account-key-file={files / 'service-accounts.key'}",
        f"--service-account-signing-key-file={files / 'service-accounts.key'}",
        f"--token-auth-file={files / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",  # beside the usual, Pod Security among them
        "--allow-privileged=true",  # as installers of clusters set it: Pod Security is to refuse
        "--shutdown-watch-termination-grace-period=2s",  # else its end waits a minute for watches
    ]


def _controllers(files: Path, port: int) -> _Command:
    return [
        program("kube-controller-manager"),
        *(f"--bind-address={process.HOST}", f"--secure-port={port}"),
        f"--kubeconfig={_kubeconfig(files, _CONTROLLERS)}",
        f"--service-account-private-key-file={files / 'service-accounts.key'}",
        f"--root-ca-file={files / 'ca.pem'}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",  # who leads would end with the API server
        "--pvclaimbinder-sync-period=1s",  # else a claim may wait 15 s for its volume
    ]


def _scheduler(files: Path, port: int) -> _Command:
    return [
        program("kube-scheduler"),
        *(f"--bind-address={process.HOST}", f"--secure-port={port}"),
        f"--kubeconfig={_kubeconfig(files, _SCHEDULER)}",
        "--leader-elect=false",
    ]


# -- who they are


def _issue(files: Path, endpoint: str) -> dict[str, str]:
    """Write keys, certificates, tokens and kubeconfigs; return the tokens by their users."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(files / "ca.pem")
    names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    certificate = ca.issue_cert(process.HOST, "localhost", _SERVICE_ADDRESS, *names)
    for part in certificate.cert_chain_pems:
        part.write_to_path(files / "apiserver.pem", append=True)
    certificate.private_key_pem.write_to_path(files / "apiserver.key")

    signing = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (files / "service-accounts.key").write_bytes(signing)

    groups = {_ADMINISTRATOR: "system:masters", _CONTROLLERS: "", _SCHEDULER: ""}
    tokens = {user: secrets.token_hex(16) for user in groups}
    lines = [f'{tokens[user]},{user},{user},"{group}"' for user, group in groups.items()]
    (files / "tokens.csv").write_text("\n".join(lines) + "\n")
    for user, token in tokens.items():
        _write_kubeconfig(_kubeconfig(files, user), endpoint, files / "ca.pem", token, "default")
    return tokens


def _kubeconfig(files: Path, user: str) -> Path:
    return files / f"{user.removeprefix('system:')}.kubeconfig"


def _write_kubeconfig(path: Path, endpoint: str, ca: Path, token: str, namespace: str) -> None:
    """Write what every client of Kubernetes reads; JSON is YAML."""
    name = "test"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": endpoint, "certificate-authority": str(ca)}}
        ],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}
        ],
        "current-context": name,
    }
    path.touch(0o600)
    path.write_text(json.dumps(config))


# -- their processes


class _Server:
    """A program that can be ended and started again; it tells at a URL when it is ready.

    Of the environment of the tests it gets what `tests.servers.process.running` gives.
    """

    def __init__(self, command: _Command, ready: str, home: Path) -> None:
        self._command = [*map(str, command)]
        self._ready = ready
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        self._environment = {"HOME": str(home)} | kept
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process, if it runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Run it, unless it runs, from when it is ready.

        Raises:
            RuntimeError: it died, or was not ready in time; with the end of its log.
        """
        if self._process:
            return
        with tempfile.TemporaryFile() as log:  # its own descriptor stays open
            self._process = self._launch(log)
            try:
                process._await(self._process, self._ready, log)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End it, unless it is ended."""
        running, self._process = self._process, None
        if not running:
            return
        running.terminate()
        try:
            running.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    def _launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        starting = process._STARTER.submit(process._start, self._command, self._environment, log)
        return starting.result()


def _content(answer: IO[bytes]) -> Any:
    """Take apart what was answered; a few paths answer in plain text."""
    content = answer.read()
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def _expect(answer: Answer, status: int) -> None:
    if answer.status != status:
        message = f"{answer.status} instead of {status}: {answer.body}"
        raise RuntimeError(message)
