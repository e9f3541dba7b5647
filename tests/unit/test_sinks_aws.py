"""The AWS SDK as the S3 sink uses it: how a client is made, and what each error means."""

from __future__ import annotations

import inspect
import socket
import ssl
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from botocore import exceptions as sdk

from backup.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectMissingError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkMissingError,
    SinkStalledError,
    SinkUnavailableError,
    SinkUnsupportedError,
)
from backup.settings import StoreSettings
from backup.sinks import aws, open_sink
from backup.sinks.aws import connect, translate
from backup.sinks.kinds import S3Options
from backup.stop import Stop
from tests import httpd
from tests.servers import certificates

CREDENTIALS = "credentials come from the SDK's own chain"
LATER = "it may work later"
SECRETS = ("AKIAEXAMPLE", "secret-key", "session-token")
RESERVED = "192.0.2.1"
"""An address at which nobody is (RFC 5737)."""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the SDK know these credentials, and nothing of the machine; give its configuration."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    given = {
        "AWS_ACCESS_KEY_ID": SECRETS[0],
        "AWS_SECRET_ACCESS_KEY": SECRETS[1],
        "AWS_SESSION_TOKEN": SECRETS[2],
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config"


def refusal(
    word: str, status: int = 400, *, said: str = "No.", operation: str = "PutObject"
) -> sdk.ClientError:
    """Make what the SDK raises for an answer that says no."""
    answer: dict[str, Any] = {
        "Error": {"Code": word, "Message": said},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"x-secret": SECRETS[1]}},
    }
    return sdk.ClientError(cast("Any", answer), operation)


# -- answers


MEANINGS: dict[tuple[str, int], tuple[type[SinkError], str]] = {
    ("AccessDenied", 403): (SinkDeniedError, "the credentials lack s3:PutObject there"),
    ("AccountProblem", 403): (SinkDeniedError, "the credentials lack"),
    ("AllAccessDisabled", 403): (SinkDeniedError, "the credentials lack"),
    ("ExpiredToken", 400): (SinkDeniedError, "expired: renew them"),
    ("ExpiredTokenException", 400): (SinkDeniedError, "expired: renew them"),
    ("Forbidden", 403): (SinkDeniedError, "the credentials lack"),
    ("InvalidAccessKeyId", 403): (SinkDeniedError, "is it the right endpoint?"),
    ("InvalidClientTokenId", 403): (SinkDeniedError, "the credentials lack"),
    ("InvalidIdentityToken", 400): (SinkDeniedError, "the credentials lack"),
    ("InvalidToken", 400): (SinkDeniedError, "the credentials lack"),
    ("KMS.DisabledException", 400): (SinkDeniedError, "the credentials lack"),
    ("RequestTimeTooSkewed", 403): (SinkDeniedError, "set it right (NTP)"),
    ("SignatureDoesNotMatch", 403): (SinkDeniedError, "the secret key is wrong"),
    ("UnauthorizedAccess", 403): (SinkDeniedError, "the credentials lack"),
    ("401", 401): (SinkDeniedError, "the credentials lack"),
    ("403", 403): (SinkDeniedError, "the credentials lack"),
    ("407", 407): (SinkDeniedError, "the proxy wants a user and a password"),
    ("InvalidTokenId", 403): (SinkDeniedError, "the credentials lack"),
    ("400", 400): (SinkError, "is it http:// or https://?"),
    ("301", 301): (SinkError, "it redirects elsewhere"),
    ("302", 302): (SinkError, "it redirects elsewhere"),
    ("303", 303): (SinkError, "it redirects elsewhere"),
    ("307", 307): (SinkError, "it redirects elsewhere"),
    ("PermanentRedirect", 308): (SinkError, "it redirects elsewhere"),
    ("NoSuchKey", 404): (ObjectMissingError, ""),
    ("404", 404): (ObjectMissingError, ""),
    ("NoSuchBucket", 404): (SinkMissingError, "create the bucket"),
    ("PreconditionFailed", 412): (ObjectExistsError, ""),
    ("412", 412): (ObjectExistsError, ""),
    ("NotImplemented", 501): (SinkUnsupportedError, "docs/sinks.md"),
    ("501", 501): (SinkUnsupportedError, "docs/sinks.md"),
    ("InsufficientStorage", 507): (SinkFullError, "make room"),
    ("QuotaExceeded", 403): (SinkFullError, "make room"),
    ("StorageFull", 507): (SinkFullError, "make room"),
    ("XMinioStorageFull", 507): (SinkFullError, "make room"),
    ("507", 507): (SinkFullError, "make room"),
    ("BadDigest", 400): (SinkUnavailableError, LATER),
    ("ConditionalRequestConflict", 409): (SinkUnavailableError, LATER),
    ("IncompleteBody", 400): (SinkUnavailableError, LATER),
    ("InternalError", 500): (SinkUnavailableError, LATER),
    ("InternalError", 200): (SinkUnavailableError, LATER),
    ("NoSuchUpload", 404): (SinkUnavailableError, LATER),
    ("OperationAborted", 409): (SinkUnavailableError, LATER),
    ("RequestTimeout", 400): (SinkUnavailableError, LATER),
    ("RequestTimeoutException", 400): (SinkUnavailableError, LATER),
    ("ServiceUnavailable", 503): (SinkUnavailableError, LATER),
    ("SlowDown", 503): (SinkUnavailableError, LATER),
    ("Throttling", 400): (SinkUnavailableError, LATER),
    ("ThrottlingException", 400): (SinkUnavailableError, LATER),
    ("TooManyRequests", 429): (SinkUnavailableError, LATER),
    ("XAmzContentChecksumMismatch", 400): (SinkUnavailableError, LATER),
    ("XAmzContentSHA256Mismatch", 400): (SinkUnavailableError, LATER),
    **{(str(s), s): (SinkUnavailableError, LATER) for s in (429, 500, 502, 503, 504)},
    ("InvalidRange", 416): (SinkError, ""),
    ("EntityTooLarge", 400): (SinkError, ""),
    ("MethodNotAllowed", 405): (SinkError, ""),
    ("NeverHeardOf", 400): (SinkError, ""),
}


@pytest.mark.parametrize(("word", "status"), MEANINGS)
def test_every_answer_has_its_meaning(word: str, status: int) -> None:
    """Whether it may pass, and what to do about it."""
    kind, hint = MEANINGS[word, status]

    said = translate("s3://bucket: cannot store x", refusal(word, status))

    assert type(said) is kind
    assert said.transient == (kind is SinkUnavailableError)
    assert said.message == f"s3://bucket: cannot store x: {word}: No"
    assert hint in " ".join(said.hints)
    assert bool(said.hints) == bool(hint)


def test_no_answer_is_left_out_of_the_table() -> None:
    """The table above is complete."""
    signs = aws._DENIED.union(*(answers[0] for answers in aws._ANSWERS), aws._HINTS)

    assert signs - {sign for meaning in MEANINGS for sign in meaning} == set()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal("SlowDown", 503, said=""), "m: SlowDown: status 503"),
        (refusal("", 500, said=""), "m: status 500"),
        (sdk.ClientError({}, "PutObject"), "m: status 0"),
    ],
)
def test_an_answer_without_words_is_told_by_its_number(
    error: sdk.ClientError, message: str
) -> None:
    """Load balancers answer with less than the protocol asks for."""
    assert translate("m", error).message == message


@pytest.mark.parametrize(
    ("operation", "lacks"), [*aws._ACTIONS.items(), ("HeadBucket", "what HeadBucket needs")]
)
def test_what_is_denied_names_its_permission(operation: str, lacks: str) -> None:
    """By the name that a policy has for it, which often is not that of the operation."""
    (hint,) = translate("m", refusal("AccessDenied", 403, operation=operation)).hints

    assert hint == f"the credentials lack {lacks} there, or are not those that were meant"


# -- failures without an answer


def every_failure() -> dict[str, Exception]:
    """Make one of each exception that the SDK declares, all of whose facts are unknown."""
    kinds: list[Any] = [kind for _, kind in inspect.getmembers(sdk, inspect.isclass)]
    return {kind.__name__: _made(kind) for kind in kinds if issubclass(kind, sdk.BotoCoreError)}


def _made(kind: Any) -> Exception:
    facts = {name for _, name, *_ in string.Formatter().parse(kind.fmt) if name}
    facts |= {*inspect.signature(kind.__init__).parameters} - {"self", "kwargs", "msg"}
    made: Exception = kind(**dict.fromkeys(facts, "x"))
    return made


NETWORK = (SinkUnavailableError, "is the store up")
FAILURES: dict[str, tuple[type[SinkError], str]] = {
    **dict.fromkeys(
        (
            *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
            *("NoAuthTokenError", "TokenRetrievalError", "MetadataRetrievalError"),
            *("SSOError", "SSOTokenLoadError", "UnauthorizedSSOTokenError"),
            *("PendingAuthorizationExpiredError",),
        ),
        (SinkDeniedError, CREDENTIALS),
    ),
    **dict.fromkeys(
        (
            *("ConnectionError", "ConnectTimeoutError", "ConnectionClosedError"),
            *("HTTPClientError", "ResponseStreamingError"),
            *("IncompleteReadError",),
        ),
        NETWORK,
    ),
    "ReadTimeoutError": (SinkStalledError, "is the store up"),
    "EndpointConnectionError": (SinkUnavailableError, "the endpoint's name and port"),
    "ProxyConnectionError": (SinkUnavailableError, "check HTTPS_PROXY and NO_PROXY"),
    "SSLError": (SinkError, "check the endpoint, and BACKUP_CA_CERT_FILE"),
}


@pytest.mark.parametrize("name", sorted(every_failure()))
def test_every_failure_of_the_sdk_has_its_meaning(name: str) -> None:
    """What is not listed will not pass by itself."""
    kind, hint = FAILURES.get(name, (SinkError, ""))

    said = translate("s3://bucket: cannot store x", every_failure()[name])

    assert (name, type(said)) == (name, kind)
    assert hint in " ".join(said.hints)
    assert said.message.startswith("s3://bucket: cannot store x: ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("one\n  two."), "m: ValueError: one two"),
        (ValueError(), "m: ValueError"),
        (ConnectionResetError(104, "reset"), "m: ConnectionResetError: [Errno 104] reset"),
    ],
)
def test_every_other_failure_is_told_in_one_line(error: Exception, message: str) -> None:
    """By its kind and its words."""
    said = translate("m", error)

    assert said.message == message
    assert said.transient == isinstance(error, OSError)


# -- secrets


def failure(endpoint: str, **options: Any) -> SinkError:
    """Give what a sink there raises at its first request."""
    url = f"s3://bucket/site?endpoint={endpoint}"
    sink = open_sink(
        url, StoreSettings(source=Path("/nowhere"), **options), stop=Stop(), stall_seconds=5
    )
    with pytest.raises(SinkError) as caught, sink._declared("look"):
        sink._size("journal-deepgram-billing-0/x")
    return caught.value


def all_of(error: SinkError) -> str:
    """Give everything that is said."""
    return " | ".join((error.message, *error.hints))


@pytest.mark.parametrize("name", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"], ids=str)
@pytest.mark.parametrize("odd", ["\n", "\r", "\nsecond line"], ids=repr)
def test_credentials_that_end_in_a_newline_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, odd: str
) -> None:
    """The SDK's own message would quote the header that cannot be sent, and with it the token."""
    with httpd.serving() as door:
        door.on(httpd.is_(), httpd.answer(500))
        monkeypatch.setenv(name, f"{SECRETS[2]}{odd}")
        said = failure(door.endpoint)

    assert type(said) is SinkDeniedError
    assert "a newline" in all_of(said)
    assert SECRETS[2] not in all_of(said)
    assert SECRETS[0] not in all_of(said)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", ["127.0.0.1:9", "[::1]:9", "nowhere.invalid:9", "proxy:notaport"])
def test_a_proxys_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, scheme: str, proxy: str
) -> None:
    """Proxies are told by a URL, which may hold one."""
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:{SECRETS[1]}@{proxy}")
    monkeypatch.setenv(f"{scheme}_proxy", f"http://user:{SECRETS[1]}@{proxy}")

    said = all_of(failure(f"{scheme}://{RESERVED}"))

    assert SECRETS[1] not in said
    assert proxy in said, "the proxy is what has failed"


def test_a_password_in_the_url_of_an_unusual_proxy_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK hides it only where it understands the URL."""
    monkeypatch.setenv("HTTP_PROXY", f"socks5://user:{SECRETS[1]}@127.0.0.1:9")

    said = all_of(failure(f"http://{RESERVED}"))

    assert SECRETS[1] not in said
    assert "127.0.0.1:9" in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL_S3", f"http://user:{SECRETS[1]}@127.0.0.1:9"),
        ("AWS_ENDPOINT_URL", f"http://user:{SECRETS[1]}@127.0.0.1:9"),
        ("AWS_ENDPOINT_URL", f"user:{SECRETS[1]}@127.0.0.1"),
        ("AWS_ENDPOINT_URL", f"http://user:a/{SECRETS[1]}@127.0.0.1:9"),
    ],
)
def test_a_password_in_an_endpoint_of_the_sdks_settings_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It does not belong there; neither does it belong into logs."""
    monkeypatch.setenv(name, value)

    with pytest.raises((ConfigError, SinkError)) as caught:
        open_sink(
            "s3://bucket/site", StoreSettings(source=Path("/nowhere")), stop=Stop(), stall_seconds=5
        ).probe()
    said = " | ".join((caught.value.message, *caught.value.hints))

    assert SECRETS[1] not in said
    assert "user" not in said
    assert "127.0.0.1" in said


@pytest.mark.parametrize("name", sorted(every_failure()))
def test_no_secret_is_in_what_is_said(name: str) -> None:
    """Neither what the answer's headers hold nor what the client signs with."""
    for error in (every_failure()[name], refusal(name, 403)):
        said = all_of(translate("m", error))
        assert not any(secret in said for secret in SECRETS)


# -- connections that fail in earnest


def test_a_port_at_which_nobody_listens_is_told() -> None:
    """With the URL, and what to check."""
    with socket.socket() as holder:
        holder.bind((httpd.HOST, 0))
        said = failure(f"http://{httpd.HOST}:{holder.getsockname()[1]}")

    assert type(said) is SinkUnavailableError
    assert "check the endpoint's name and port" in said.hints
    assert "EndpointConnectionError" in said.message


def test_a_host_that_nobody_knows_is_told() -> None:
    """A misspelt name, or a DNS that is down: the two look alike, so another try is made."""
    said = failure("http://nowhere.invalid")

    assert type(said) is SinkUnavailableError
    assert "nowhere.invalid" in said.message
    assert "check the endpoint's name and port" in said.hints


TLS = {
    "good": (("server", "ca"), "NoSuchKey"),
    "unknown-ca": (("server", "other_ca"), "a CA that is not trusted"),
    "public-cas-only": (("server", None), "a CA that is not trusted"),
    "expired": (("expired", "ca"), "has expired"),
    "other-host": (("elsewhere", "ca"), "is for another"),
}


@pytest.mark.parametrize("case", TLS)
def test_a_certificate_that_is_not_good_is_told(tmp_path: Path, case: str) -> None:
    """What is wrong with it and what to do; nothing of it will pass."""
    (server, ca), says = TLS[case]
    made = certificates(tmp_path / "certificates")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*getattr(made, server))
    trusted = getattr(made, ca) if ca else None
    with httpd.serving(tls=context) as door:
        body = b"<Error><Code>NoSuchKey</Code><Message>No</Message></Error>"
        door.on(httpd.is_(), httpd.answer(404, body))
        said = failure(door.endpoint, ca_cert_file=trusted)

    assert says in all_of(said)
    assert not said.transient
    if ca == "ca":
        return
    assert "BACKUP_CA_CERT_FILE" in all_of(said)


def test_plain_http_where_tls_is_spoken_is_told() -> None:
    """The commonest mistake with a store on the premises."""
    with httpd.serving() as door:
        said = failure(door.endpoint.replace("http://", "https://"))

    assert "does not speak TLS there" in said.message
    assert "give http:// if" in all_of(said)


# -- how a client is made


def client(**options: Any) -> Any:
    """Make one."""
    return connect(S3Options(**options), None, stall_seconds=30)


def style(made: Any) -> str:
    """Give its way to spell a bucket."""
    return str(made.meta.config.s3["addressing_style"])


OWN = "https://s3.example.com"
CONFIG = {
    "plain": "[default]\nregion = eu-west-1\n",
    "endpoint": f"[default]\nendpoint_url = {OWN}\n",
    "services": f"[default]\nservices = own\n[services own]\ns3 =\n  endpoint_url = {OWN}\n",
    "other-services": f"[default]\nservices = own\n[services own]\nsts =\n  endpoint_url = {OWN}\n",
}


@pytest.mark.parametrize(
    ("options", "variables", "config", "endpoint", "expected"),
    [
        ({}, {}, "", None, "auto"),
        ({}, {}, "plain", None, "auto"),
        ({"endpoint": OWN}, {}, "", OWN, "path"),
        ({}, {"AWS_ENDPOINT_URL": OWN}, "", OWN, "path"),
        ({}, {"AWS_ENDPOINT_URL_S3": OWN}, "plain", OWN, "path"),
        ({}, {"AWS_ENDPOINT_URL_S3": ""}, "plain", None, "auto"),
        ({}, {}, "endpoint", OWN, "path"),
        ({}, {}, "services", OWN, "path"),
        ({}, {}, "other-services", None, "auto"),
        ({"endpoint": OWN}, {"AWS_ENDPOINT_URL": "https://other"}, "endpoint", OWN, "path"),
        ({"endpoint": OWN, "path_style": False}, {}, "", OWN, "virtual"),
        ({"path_style": True}, {}, "", None, "path"),
        ({"path_style": False}, {"AWS_ENDPOINT_URL": OWN}, "", OWN, "virtual"),
    ],
)
def test_buckets_are_in_the_path_only_where_the_endpoint_is_ones_own(
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: Mapping[str, Any],
    variables: Mapping[str, str],
    config: str,
    endpoint: str | None,
    expected: str,
) -> None:
    """However it is named; few stores on the premises have a DNS name for each bucket."""
    for name, value in ({"AWS_REGION": "eu-west-1"} | dict(variables)).items():
        monkeypatch.setenv(name, value)
    environment.write_text(CONFIG.get(config, ""))
    made = client(**options)

    assert style(made) == expected
    assert made.meta.endpoint_url == (endpoint or "https://s3.eu-west-1.amazonaws.com")


def test_a_client_waits_and_tries_as_the_sink_does(environment: Path) -> None:
    """The SDK cannot be woken, so it waits little; and trailers are never sent."""
    config = connect(S3Options(region="eu-west-1"), None, stall_seconds=7).meta.config

    assert (config.connect_timeout, config.read_timeout) == (7, 7)
    assert config.retries == {"mode": "standard", "total_max_attempts": 2}
    assert config.request_checksum_calculation == "when_required"
    assert config.response_checksum_validation == "when_required"
    assert connect(S3Options(), None, stall_seconds=60).meta.config.connect_timeout == 10


def test_profile_and_region_come_from_the_url(environment: Path) -> None:
    """Two sinks of one run may have one each."""
    environment.write_text(
        "[profile one]\nregion = eu-north-1\naws_access_key_id = ONE\naws_secret_access_key = x\n"
        "[profile two]\nregion = eu-south-1\naws_access_key_id = TWO\naws_secret_access_key = x\n"
    )
    one, two = client(profile="one"), client(profile="two", region="eu-west-3")

    assert (one.meta.region_name, two.meta.region_name) == ("eu-north-1", "eu-west-3")
    keys = [made._request_signer._credentials.access_key for made in (one, two)]
    assert keys == ["ONE", "TWO"]


@pytest.mark.parametrize(
    ("options", "variables", "config", "says"),
    [
        ({"profile": "absent"}, {}, "", "ProfileNotFound"),
        ({"profile": "absent", "endpoint": OWN}, {}, "", "ProfileNotFound"),
        ({}, {"AWS_PROFILE": "absent"}, "", "ProfileNotFound"),
        ({}, {}, "no ini file", "ConfigParseError"),
        ({"region": "not a region"}, {}, "", "InvalidRegionError"),
        ({}, {"AWS_ENDPOINT_URL": "no URL"}, "", "ValueError"),
        ({}, {}, "[default]\nservices = absent\nregion = eu-west-1\n", "InvalidConfigError"),
    ],
)
def test_settings_of_the_sdk_that_are_wrong_are_a_mistake_in_the_settings(
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    options: Mapping[str, Any],
    variables: Mapping[str, str],
    config: str,
    says: str,
) -> None:
    """Exit 2, and what to check."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment.write_text(config)

    with pytest.raises(ConfigError, match=f"the AWS SDK cannot be set up: {says}") as caught:
        client(**options)
    assert "AWS_PROFILE" in caught.value.hints[0]


def test_no_credentials_at_all_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the places where the SDK looks for some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with httpd.serving() as door:
        said = failure(door.endpoint)

        assert door.requests == []
    assert type(said) is SinkDeniedError
    assert CREDENTIALS in said.hints[0]


# -- what is imported when


OPENING_A_FILE_SINK = """
from pathlib import Path
from backup.settings import StoreSettings
from backup.sinks import check, open_sink
from backup.stop import Stop

options = StoreSettings(source=Path("/nowhere"))
for url in ("s3://bucket/x", "gs://bucket/x"):
    check(url, options)
open_sink("file:///nowhere", options, stop=Stop())
"""
SDKS = ("boto3", "botocore", "s3transfer", "google", "requests", "urllib3")


@pytest.mark.parametrize(
    "code",
    [
        "import backup.cli",
        "import backup.config, backup.report, backup.log, backup.verbs.backup",
        "import backup.sinks.file",
        "from backup import cli; cli.main(['version'])",
        "from backup import cli\ntry:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass",
        OPENING_A_FILE_SINK,
    ],
)
def test_no_sdk_is_imported_until_its_sink_is_used(code: str) -> None:
    """They take half a second and tens of MiB, and a site may have no use for them."""
    show = f"import sys; print('imported', *sorted(set({SDKS!r}) & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "imported"
