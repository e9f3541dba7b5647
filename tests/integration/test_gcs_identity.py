"""Who the command is to Google: the SDK's own chain, each permission by itself, no secret shown.

The store here asks for a bearer token and for the permission of each call, as Google does; tokens
come from an endpoint of OAuth 2.0 or from a metadata server as on GKE with Workload Identity.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.gcs_store import BUCKET, Handler, Kind, Store, serving
from tests.journal_data import records, write_journal
from tests.servers import Certificate

WHO = "backup@acme.iam.gserviceaccount.com"
PERMISSIONS: dict[Kind, str] = {
    "list": "list",
    "get": "get",
    "media": "get",
    "create": "create",
    "begin": "create",
    "delete": "delete",
}
"""What a call needs; an upload under way is bound to who began it."""
ROLES = {"create", "get", "list"}
"""roles/storage.objectCreator and roles/storage.objectViewer."""
METADATA = "/computeMetadata/v1/"


@dataclass(slots=True)
class Google:
    """The store, and who may do what there."""

    store: Store
    granted: set[str] = field(default_factory=lambda: set(ROLES))
    tokens: dict[str, int] = field(default_factory=dict)
    """Each token with the number of calls that it is good for."""
    calls_a_token: int = 1_000
    asked_for_tokens: list[str] = field(default_factory=list)
    revoked: bool = False
    secret: list[str] = field(default_factory=list)

    def guard(self, handler: Handler, kind: Kind) -> bool:
        """Let a call pass that carries a good token and is permitted."""
        scheme, _, token = handler.headers.get("Authorization", "").partition(" ")
        permission = PERMISSIONS.get(kind)
        if scheme != "Bearer" or self.tokens.get(token, 0) < 1:
            handler.body()
            handler.refuse(401, "Invalid Credentials", "authError")
            return False
        self.tokens[token] -= 1
        if permission is not None and permission not in self.granted:
            handler.body()
            said = f"{WHO} does not have storage.objects.{permission} access to the object."
            handler.refuse(403, said, "forbidden")
            return False
        return True

    def issue(self, how: str) -> bytes:
        """Give out a token."""
        self.asked_for_tokens.append(how)
        token = f"ya29.{secrets.token_urlsafe(60)}"
        self.tokens[token] = self.calls_a_token
        self.secret.append(token)
        return json.dumps(
            {"access_token": token, "expires_in": 3_600, "token_type": "Bearer"}
        ).encode()


class Tokens(Handler):
    """An endpoint of OAuth 2.0, and a metadata server."""

    google: Google

    def serve(self) -> None:
        """Answer one request."""
        body = self.body()
        path = self.path.partition("?")[0]
        if path == "/token":
            self.exchange(parse_qs(body.decode()))
        elif path.endswith("/token"):
            self.say(self.google.issue("metadata"))
        elif path.endswith("/service-accounts/default/"):
            self.say(json.dumps({"email": WHO, "scopes": [], "aliases": ["default"]}).encode())
        elif path == f"{METADATA}project/project-id":
            self.say(b"acme", "text/plain")
        elif path == "/":
            self.say(b"", "text/plain")
        else:
            self.answer(404, b"", Metadata_Flavor="Google")

    def say(self, body: bytes, kind: str = "application/json") -> None:
        """Answer as a metadata server does."""
        self.answer(200, body, Content_Type=kind, Metadata_Flavor="Google")

    def exchange(self, form: dict[str, list[str]]) -> None:
        """Give a token for what proves who asks."""
        proof = form.get("assertion") or form["refresh_token"]
        self.google.secret.append(proof[0])
        if self.google.revoked:
            said = {"error": "invalid_grant", "error_description": f"No good: {proof[0]}"}
            self.answer(400, json.dumps(said).encode(), Content_Type="application/json")
        else:
            self.say(self.google.issue(form["grant_type"][0]))


@contextmanager
def tokens_from(google: Google, tls: Certificate | None = None) -> Iterator[str]:
    """Serve tokens; give the endpoint."""
    with serving(Store(), tls, handler=type("Serving", (Tokens,), {"google": google})) as server:
        yield server.endpoint


@pytest.fixture
def google() -> Iterator[Google]:
    """Serve a bucket, to whom it belongs."""
    store = Store()
    google = Google(store)
    store.guard = google.guard
    with serving(store):
        yield google


@pytest.fixture
def environment(tmp_path: Path, google: Google) -> dict[str, str]:
    """Give settings without any credentials."""
    write_journal(tmp_path / "journals", 0, records(50))
    kept = {k: v for k, v in os.environ.items() if k in {"PATH", "LANG"} or "COVERAGE" in k}
    return kept | {
        "HOME": str(tmp_path),
        "BACKUP_SOURCE": str(tmp_path / "journals"),
        "BACKUP_SINKS": f"gs://{BUCKET}/site?endpoint={google.store.endpoint}",
        "NO_GCE_CHECK": "true",
        "BACKUP_LOG_LEVEL": "debug",
    }


@pytest.fixture
def keyed(tmp_path: Path, google: Google, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Give the key of a service account."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    google.secret += pem.splitlines()[1:-1]
    with tokens_from(google) as endpoint:
        given = {
            "type": "service_account",
            "client_email": WHO,
            "private_key_id": "1",
            "private_key": pem,
            "token_uri": f"{endpoint}/token",
        }
        yield environment | credentials(tmp_path, given)


def credentials(directory: Path, given: dict[str, str]) -> dict[str, str]:
    """Write a file with credentials; give the setting that names it."""
    path = directory / "key.json"
    path.write_text(json.dumps(given))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}


def run(
    google: Google, environment: dict[str, str], *argv: str
) -> subprocess.CompletedProcess[str]:
    """Run the command; whatever it says, it shows no secret."""
    done = subprocess.run(
        [sys.executable, "-m", "backup", *argv],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    shown = done.stdout + done.stderr
    assert not [s for s in google.secret if s in shown or base64_of(s) in shown]
    return done


def base64_of(text: str) -> str:
    """Give it as a header of basic authentication would have it."""
    return base64.b64encode(text.encode()).decode()


def walk(google: Google, environment: dict[str, str], directory: Path) -> None:
    """Do all that a site does with its backups."""
    for argv in (
        ("backup",),
        ("list",),
        ("verify", "--deep"),
        ("restore", "latest", "--target", str(directory / "restored")),
    ):
        done = run(google, environment, *argv)
        assert done.returncode == 0, (argv, done.stderr, done.stdout)
    assert "get" in google.store.asked or "media" in google.store.asked


def test_two_roles_suffice(google: Google, keyed: dict[str, str], tmp_path: Path) -> None:
    """To back up, list, verify and restore, by the key of a service account."""
    walk(google, keyed, tmp_path)

    assert set(google.asked_for_tokens) == {"urn:ietf:params:oauth:grant-type:jwt-bearer"}
    assert "delete" not in google.store.asked


@pytest.mark.parametrize(
    ("missing", "verb", "role"),
    [
        ("create", "backup", "roles/storage.objectCreator"),
        ("get", "backup", "roles/storage.objectViewer"),
        ("list", "backup", "roles/storage.objectViewer"),
        ("list", "list", "roles/storage.objectViewer"),
        ("get", "verify", "roles/storage.objectViewer"),
    ],
)
def test_each_missing_permission_is_named(
    google: Google, keyed: dict[str, str], missing: str, verb: str, role: str
) -> None:
    """With who we are, and the role that has it."""
    if verb == "verify":
        assert run(google, keyed, "backup").returncode == 0
    google.granted = ROLES - {missing}

    done = run(google, keyed, verb)

    shown = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"storage.objects.{missing}" in shown
    assert f"we are {WHO}: grant it {role} on the bucket" in shown


def test_a_token_that_expired_is_renewed_midway(
    google: Google, keyed: dict[str, str], tmp_path: Path
) -> None:
    """The store says so, in the middle of whatever is done."""
    google.calls_a_token = 3

    walk(google, keyed, tmp_path)

    assert len(google.asked_for_tokens) > 4


def test_a_key_that_was_revoked_is_told(google: Google, keyed: dict[str, str]) -> None:
    """And what the endpoint repeats of it is not shown."""
    google.revoked = True

    done = run(google, keyed, "list")

    assert done.returncode == 5
    assert "invalid_grant" in done.stderr + done.stdout
    assert "GOOGLE_APPLICATION_CREDENTIALS" in done.stderr + done.stdout


def test_a_token_that_is_refused_is_told(google: Google, keyed: dict[str, str]) -> None:
    """New ones too: the account may be disabled, or a clock wrong."""
    google.calls_a_token = 0

    done = run(google, keyed, "list")

    assert done.returncode == 5
    assert f"we are {WHO}: is the key still valid" in done.stderr + done.stdout


def test_no_credentials_at_all_are_told(google: Google, environment: dict[str, str]) -> None:
    """With what to set."""
    done = run(google, environment, "list")

    assert done.returncode == 5
    assert "Workload Identity" in done.stderr + done.stdout


def test_workload_identity_of_gke(
    google: Google, environment: dict[str, str], tmp_path: Path
) -> None:
    """A metadata server on the node gives tokens of the pod's account; no file is mounted."""
    with tokens_from(google) as endpoint:
        host = endpoint.removeprefix("http://")
        del environment["NO_GCE_CHECK"]
        environment |= {"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host}

        walk(google, environment, tmp_path)
        google.granted = set()
        done = run(google, environment, "list")

    assert set(google.asked_for_tokens) == {"metadata"}
    assert f"we are {WHO}" in done.stderr + done.stdout


def test_a_user_behind_a_proxy_with_its_own_ca(
    google: Google, environment: dict[str, str], tmp_path: Path
) -> None:
    """Tokens too go through the site's proxy, which shows a certificate of the site's CA."""
    ca = trustme.CA()
    issued = ca.issue_cert("oauth2.googleapis.com")
    made = Certificate(tmp_path / "chain.pem", tmp_path / "key.pem")
    issued.private_key_pem.write_to_path(made.key)
    issued.cert_chain_pems[0].write_to_path(made.chain)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    google.secret.append("refresh-me")
    user = {
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": "very-secret",
        "refresh_token": "refresh-me",
    }
    environment |= credentials(tmp_path, user)
    environment |= {"BACKUP_CA_CERT_FILE": str(tmp_path / "ca.pem"), "NO_PROXY": "127.0.0.1"}

    with tokens_from(google, made) as endpoint, proxy_to(endpoint) as proxy:
        walk(google, environment | {"HTTPS_PROXY": proxy}, tmp_path)

    assert set(google.asked_for_tokens) == {"refresh_token"}


@contextmanager
def proxy_to(endpoint: str) -> Iterator[str]:
    """Serve as a proxy that leads every tunnel to one place."""
    host, _, port = endpoint.partition("://")[2].partition(":")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def tunnel(client: socket.socket) -> None:
            with client, socket.create_connection((host, int(port))) as server, suppress(OSError):
                client.recv(65_536)
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                other = {client: server, server: client}
                while ready := select.select([client, server], [], [], 20)[0]:
                    for end in ready:
                        data = end.recv(65_536)
                        if not data:
                            return
                        other[end].sendall(data)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=tunnel, args=(client,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
