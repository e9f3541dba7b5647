"""Whom TLS trusts, and what is said where it does not."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import certifi
import pytest
import trustme

from backup.errors import ConfigError
from backup.sinks import trust
from backup.sinks.trust import ca_bundle, tls_problem

HOST = "storage.example"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    """Make the site's own authority."""
    return trustme.CA()


@pytest.fixture
def cert_file(tmp_path: Path, ca: trustme.CA) -> Path:
    """Write its certificate."""
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


# -- the bundle


def subjects(path: str) -> set[bytes]:
    """Give every certificate in a file, as OpenSSL reads it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return set(context.get_ca_certs(binary_form=True))


def test_a_sites_own_ca_is_added_to_the_public_ones(cert_file: Path, ca: trustme.CA) -> None:
    """A store on the premises and one in a public cloud are used in one run."""
    bundle = ca_bundle(cert_file)
    own = ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode())

    assert subjects(bundle) == subjects(certifi.where()) | {own}
    assert own not in subjects(certifi.where())


def test_several_authorities_may_stand_in_one_file(cert_file: Path) -> None:
    """With words between them, as tools write."""
    other = trustme.CA().cert_pem.bytes()
    cert_file.write_bytes(b"# the old one\n" + cert_file.read_bytes() + b"# the new one\n" + other)

    assert len(subjects(ca_bundle(cert_file)) - subjects(certifi.where())) == 2


def test_a_file_is_read_once(cert_file: Path, tmp_path: Path) -> None:
    """Each sink of a run asks for it; another file is another bundle."""
    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().cert_pem.bytes())

    assert ca_bundle(cert_file) == ca_bundle(cert_file)
    assert ca_bundle(other) != ca_bundle(cert_file)


def test_nothing_is_written_to_any_disk(cert_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's file system may be read-only, without so much as a /tmp."""
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    bundle = Path(ca_bundle(cert_file))

    assert bundle.parent == Path("/proc/self/fd")
    assert bundle.readlink().name.startswith("memfd:")
    assert stat.S_ISREG(bundle.stat().st_mode)
    assert subjects(str(bundle)) == subjects(str(bundle)), "it can be read more than once"


NOT_A_CERTIFICATE = {
    "empty": b"",
    "no-pem": b"not a certificate\n",
    "binary": b"\x30\x82\xff\x00",
    "damaged": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    "cut": b"-----BEGIN CERTIFICATE-----\nMIIB",
}


@pytest.mark.parametrize("content", NOT_A_CERTIFICATE.values(), ids=NOT_A_CERTIFICATE)
def test_a_file_without_a_certificate_is_refused(tmp_path: Path, content: bytes) -> None:
    """Or it would seem to be trusted, and every connection would fail."""
    path = tmp_path / "ca.pem"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="holds no certificate in PEM form") as caught:
        ca_bundle(path)
    assert str(path) in caught.value.message
    assert caught.value.message.startswith("BACKUP_CA_CERT_FILE: ")
    assert caught.value.hints == ("it should begin with -----BEGIN CERTIFICATE-----",)


def test_a_key_is_no_certificate(tmp_path: Path, ca: trustme.CA) -> None:
    """And nothing of it is shown."""
    path = tmp_path / "ca.pem"
    path.write_bytes(ca.private_key_pem.bytes())

    with pytest.raises(ConfigError, match="holds no certificate") as caught:
        ca_bundle(path)
    assert "PRIVATE" not in caught.value.message


@pytest.mark.parametrize(("name", "problem"), [("absent", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    """A Secret that was not mounted, say."""
    with pytest.raises(ConfigError, match=f"cannot read .*: {problem}") as caught:
        ca_bundle(tmp_path / name)
    assert "readable for this process" in caught.value.hints[0]


def test_a_file_that_was_refused_can_be_put_right(tmp_path: Path, cert_file: Path) -> None:
    """Only what was good is remembered."""
    path = tmp_path / "late.pem"
    with pytest.raises(ConfigError):
        ca_bundle(path)
    path.write_bytes(cert_file.read_bytes())

    assert subjects(ca_bundle(path)) > subjects(certifi.where())


# -- problems


def handshake(client: ssl.SSLContext, server: ssl.SSLContext | None, *, host: str = HOST) -> str:
    """Shake hands in memory, and give what OpenSSL says of it; None is no TLS at all."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, to_client, server_side=True) if server else None
    if other is None:
        to_client.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    for _ in range(10):
        for side in filter(None, (one, other)):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return str(error)
    return ""


def server_of(ca: trustme.CA, *hosts: str, days: int = 1) -> ssl.SSLContext:
    """Make a server with a certificate that ends so many days from now."""
    now = datetime.now(UTC)
    issued = ca.issue_cert(
        *hosts, not_before=now + timedelta(days=min(days, 0) - 1), not_after=now + timedelta(days)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


def client_of(*cas: trustme.CA) -> ssl.SSLContext:
    """Make a client that trusts these alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for each in cas:
        each.configure_trust(context)
    return context


def not_yet_valid(ca: trustme.CA) -> ssl.SSLContext:
    """Make a server whose certificate begins tomorrow."""
    now = datetime.now(UTC)
    issued = ca.issue_cert(
        HOST, not_before=now + timedelta(days=1), not_after=now + timedelta(days=2)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    return context


def test_what_openssl_says_is_said_in_plain_words(ca: trustme.CA) -> None:
    """These are its own messages, of real handshakes: they differ between its versions."""
    good, other = server_of(ca, HOST), trustme.CA()
    trusting = client_of(ca)

    assert handshake(trusting, good) == ""
    cases = {
        "a CA that is not trusted": handshake(client_of(other), good),
        "certificate has expired": handshake(trusting, server_of(ca, HOST, days=-1)),
        "is not yet valid": handshake(trusting, not_yet_valid(ca)),
        "for another host name": handshake(trusting, good, host="elsewhere.example"),
        "for another address": handshake(trusting, server_of(ca, "10.0.0.1"), host="10.0.0.2"),
        "does not speak TLS there": handshake(trusting, None),
    }
    for problem, said in cases.items():
        told, fix = tls_problem(f"SSL validation failed for https://x {said}")
        assert problem in told, said
        assert fix


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("hostname 'a' doesn't match 'b'", "for another host name", "as the endpoint"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "does not speak TLS", "http://"),
        ("[SSL] record layer failure (_ssl.c:1029)", "does not speak TLS", "http://"),
        ("self-signed certificate: CERTIFICATE_VERIFY_FAILED", "not trusted", trust.SETTING),
        ("[SSL: TLSV1_ALERT_INTERNAL_ERROR]", "the TLS connection failed", trust.SETTING),
        ("", "the TLS connection failed", trust.SETTING),
    ],
)
def test_other_versions_and_libraries_are_understood(text: str, problem: str, fix: str) -> None:
    """What is not known is said to have failed, at least."""
    told, hint = tls_problem(text)

    assert problem in told
    assert fix in hint
