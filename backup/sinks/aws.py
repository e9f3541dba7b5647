"""The AWS SDK: how a client for S3 is made, and what its errors mean.

Rules:

- Credentials, region, profile, proxies and endpoints come from the SDK's own chain; a sink's URL
  may name an endpoint, a region and a profile besides.
- The SDK sleeps between its own attempts and cannot be woken, so it gets two; all further ones are
  :mod:`backup.sinks.base`'s, which end when the run does.
- Checksums are in headers that we make, never in the trailers that the SDK would add. A request is
  signed with its headers, and so with the checksum; the body's SHA-256 is part of the signature
  only where there is no other checksum, or where it is SHA-256 anyway: to make it costs both sides
  more than all else here.
- What may pass is :class:`~backup.errors.SinkUnavailableError`; silence, for which a sink has been
  waited for as long as it may be, is :class:`~backup.errors.SinkStalledError` and not tried again.
  What will not pass (permissions, expired credentials, a missing bucket, a certificate) says so at
  once, and what to do about it.
- An error's text may hold a URL, never a header: no signature and no token is in it. Where the SDK
  quotes a header that cannot be sent, it is not shown; nor is the user of a URL, with whom a
  password may stand.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import boto3
import botocore.session
from botocore import exceptions as sdk
from botocore.config import Config

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
from backup.sinks.kinds import S3Options, without_users
from backup.sinks.trust import ca_bundle, tls_problem

CONNECT_SECONDS: Final = 10
CONNECTIONS: Final = 64
OUT_OF_RANGE: Final = "InvalidRange"


def connect(options: S3Options, ca_cert_file: Path | None, *, stall_seconds: float) -> Any:  # noqa: ANN401 - the SDK makes its classes at run time
    """Make a client, which several threads may use. Nothing is asked yet.

    Args:
        options: how to reach the store.
        ca_cert_file: certificates to trust beside the public ones.
        stall_seconds: how long without any data until a request fails.

    Raises:
        ConfigError: the SDK's settings, or the options, are wrong.
    """
    core = botocore.session.Session(profile=options.profile)
    if ca_cert_file is not None:
        core.set_config_variable("ca_bundle", ca_bundle(ca_cert_file))
    try:
        has_own_endpoint = options.endpoint is not None or _names_endpoint(core)
        return boto3.Session(botocore_session=core).client(
            "s3",
            region_name=options.region or os.environ.get("AWS_REGION"),  # boto3 alone ignores it
            endpoint_url=options.endpoint,
            config=Config(
                connect_timeout=min(CONNECT_SECONDS, stall_seconds),
                read_timeout=stall_seconds,
                tcp_keepalive=True,
                max_pool_connections=CONNECTIONS,
                retries={"mode": "standard", "total_max_attempts": 2},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={
                    "addressing_style": _addressing(
                        path_style=options.path_style, has_own_endpoint=has_own_endpoint
                    ),
                    "payload_signing_enabled": options.checksum_mode in {"sha256", "none"},
                },
            ),
        )
    except _NO_CREDENTIALS:
        raise  # no wrong setting, and perhaps not for long: translated like any other answer
    except (sdk.BotoCoreError, ValueError) as error:
        message = f"the AWS SDK cannot be set up: {_said(error)}"
        raise ConfigError(
            message,
            "check AWS_PROFILE, AWS_CONFIG_FILE, AWS_REGION and the sink's URL",
        ) from error


def _addressing(*, path_style: bool | None, has_own_endpoint: bool) -> str:
    """Return where the bucket's name goes; "auto" is the path at any endpoint of one's own."""
    if path_style is None:
        return "path" if has_own_endpoint else "auto"
    return "path" if path_style else "virtual"


def _names_endpoint(core: botocore.session.Session) -> bool:
    """Whether the SDK's own settings name an endpoint (AWS SDKs Reference, endpoint_url)."""
    named = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    profile = core.get_scoped_config()
    services = core.full_config.get("services", {}).get(profile.get("services"), {})
    return any(map(os.environ.get, named)) or any(
        "endpoint_url" in section for section in (profile, services.get("s3", {}))
    )


# -- what errors mean


def code(error: sdk.ClientError) -> str:
    """Return the word by which S3 calls an error (API Reference, "Error responses")."""
    return str(error.response.get("Error", {}).get("Code", ""))


def translate(message: str, error: Exception) -> SinkError:
    """Translate an exception of the SDK.

    Args:
        message: what could not be done, and where.
        error: the exception.
    """
    if isinstance(error, sdk.ClientError):
        return _refusal(message, error)
    if isinstance(error, sdk.SSLError):
        problem, fix = tls_problem(str(error))
        return SinkError(f"{message}: {problem}", fix)
    if "Invalid header value" in str(error):  # and then shows it: it may be a session token
        return SinkDeniedError(f"{message}: the credentials cannot be sent in a header", _ODD)
    message = f"{message}: {_said(error)}"
    if _is_silence(error):
        return SinkStalledError(message, _NETWORK)
    for kinds, translated, hint in _FAILURES:
        if isinstance(error, kinds):
            return translated(message, hint)
    return SinkError(message)


def _is_silence(error: BaseException | None) -> bool:
    """Whether no data has moved for as long as we wait: each further try would cost that again."""
    if error is None or isinstance(error, sdk.ConnectTimeoutError):
        return False
    return isinstance(error, sdk.ReadTimeoutError | TimeoutError) or _is_silence(error.__context__)


def _said(error: Exception) -> str:
    said = without_users(" ".join(str(error).split()).rstrip("."))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_CHAIN = (
    "credentials come from the SDK's own chain: AWS_ACCESS_KEY_ID, AWS_PROFILE, "
    "a web identity token or the pod's identity"
)
_ODD = "they hold a newline, say: what a Secret was made from may end in one"
_NETWORK = "is the store up, and the network?"
_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.MetadataRetrievalError,
    sdk.NoAuthTokenError,
)
_FAILURES: tuple[tuple[tuple[type[Exception], ...], type[SinkError], str], ...] = (
    ((*_NO_CREDENTIALS, FileNotFoundError, PermissionError), SinkDeniedError, _CHAIN),
    ((sdk.ProxyConnectionError,), SinkUnavailableError, "check HTTPS_PROXY and NO_PROXY"),
    ((sdk.EndpointConnectionError,), SinkUnavailableError, "check the endpoint's name and port"),
    (
        (sdk.ConnectionClosedError,),
        SinkUnavailableError,
        "is the store up? a port that wants https:// hangs up, too",
    ),
    (
        (sdk.ConnectionError, sdk.HTTPClientError, sdk.IncompleteReadError, OSError),
        SinkUnavailableError,
        _NETWORK,
    ),
)
"""What goes wrong before there is an answer, or in the middle of it; the first that fits."""


def _refusal(message: str, error: sdk.ClientError) -> SinkError:
    """Translate an answer that says no."""
    word = code(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = error.response.get("Error", {}).get("Message") or f"status {status}"
    message = ": ".join(filter(None, (message, word, said.rstrip("."))))
    if word in _DENIED or word.startswith("KMS."):
        return SinkDeniedError(message, _HINTS.get(word, _permission(error)))
    for signs, translated, hints in _ANSWERS:
        if {word, status} & signs:
            return translated(message, *hints)
    return SinkError(message)


_DENIED = {
    "AccessDenied", "AccountProblem", "AllAccessDisabled", "ExpiredToken", "ExpiredTokenException",
    "Forbidden", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidIdentityToken",
    "InvalidToken", "InvalidTokenId", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
    "UnauthorizedAccess", "401", "403", "407",
}  # fmt: skip
_EXPIRED = "the credentials have expired: renew them where they come from"
_HINTS = {
    "407": "the proxy wants a user and a password: check HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "InvalidAccessKeyId": "the store does not know this access key: is it the right endpoint?",
    "SignatureDoesNotMatch": "the secret key is wrong, or a proxy changes requests",
    "RequestTimeTooSkewed": "this node's clock and the store's differ: set it right (NTP)",
}

_ANSWERS: tuple[tuple[set[str | int], type[SinkError], tuple[str, ...]], ...] = (
    ({"NoSuchKey", "404"}, ObjectMissingError, ()),
    ({"NoSuchBucket"}, SinkMissingError, ("create the bucket, or name another in BACKUP_SINKS",)),
    ({"PreconditionFailed", 412}, ObjectExistsError, ()),
    (
        {301, 302, 303, 307, 308},
        SinkError,
        ("it redirects elsewhere: give that address as the endpoint, or the bucket's region",),
    ),
    ({"400"}, SinkError, ("that is no answer of S3: is it http:// or https://?",)),
    (
        {"NotImplemented", 501},
        SinkUnsupportedError,
        ("docs/sinks.md tells what a store has to know",),
    ),
    (
        {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull", 507},
        SinkFullError,
        ("make room in the store, or raise its quota",),
    ),
    (
        {
            "BadDigest", "ConditionalRequestConflict", "IncompleteBody", "InternalError",
            "NoSuchUpload", "OperationAborted", "RequestTimeout", "RequestTimeoutException",
            "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException",
            "TooManyRequests", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch",
            429, 500, 502, 503, 504,
        },
        SinkUnavailableError,
        ("the store says that it may work later",),
    ),
)  # fmt: skip
"""By the word of an answer, or its HTTP status: what it means; the first that fits."""


def _permission(error: sdk.ClientError) -> str:
    action = _ACTIONS.get(error.operation_name, f"what {error.operation_name} needs")
    return f"the credentials lack {action} there, or are not those that were meant"


_ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "PutObject": "s3:PutObject",
    "GetObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
"""The permission that an operation needs (Service Authorization Reference, Amazon S3)."""
