"""Google's SDK: how its client is made, and what its errors mean.

Rules:

- Credentials come from the SDK's own chain (https://cloud.google.com/docs/authentication), with an
  endpoint of one's own too; with STORAGE_EMULATOR_HOST there are none, as the SDK has it. No
  project is asked for: all that is done here is done to objects of a bucket.
- The site's CA is trusted for objects and for tokens, whatever REQUESTS_CA_BUNDLE says; proxies are
  those of the environment.
- One session serves all threads: its state is the pool of connections, which has a lock, and the
  token, of which two threads may fetch one each, both good. (The SDK's own transfer manager shares
  a client between threads.)
- What may pass is :class:`~backup.errors.SinkUnavailableError`. What will not (permissions,
  credentials, a certificate) says so at once, who we are, and what to do about it.
- An error says what the server said, but holds no URL, as that of an upload is a key to it, and
  nothing that looks like a token. https://cloud.google.com/storage/docs/json_api/v1/status-codes
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import google.auth
import requests
import urllib3
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.storage import Client
from google.cloud.storage.exceptions import DataCorruption
from requests.adapters import HTTPAdapter

from backup.errors import (
    ObjectExistsError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkUnavailableError,
)
from backup.sinks.trust import ca_bundle, tls_problem

S = TypeVar("S", bound=requests.Session)

_CONNECTIONS = 64
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_EMULATOR = "STORAGE_EMULATOR_HOST"
_NO_BUCKET = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
"""Else the SDK asks for the bucket in a thread of its own, traced or not, which we may not do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What is needed to talk to the store."""

    client: Client
    session: AuthorizedSession

    @property
    def who(self) -> str:
        """Who we are there."""
        credentials = self.session.credentials
        if isinstance(credentials, AnonymousCredentials):
            return f"nobody, as {_EMULATOR} is set"
        email = getattr(credentials, "service_account_email", None) or ""
        return email if "@" in email else "whom the application default credentials name"


def access(endpoint: str | None, ca_cert_file: Path | None) -> Access:
    """Find credentials, and make a client of them that asks for no project.

    Raises:
        ConfigError: the CA's file cannot be read, or holds no certificate.
        Exception: what the SDK raises where it finds no credentials.
    """
    os.environ[_NO_BUCKET] = "true"
    ca = None if ca_cert_file is None else ca_bundle(ca_cert_file)
    tokens = Request(_mounted(requests.Session(), ca))
    if os.environ.get(_EMULATOR):
        credentials: Any = AnonymousCredentials()  # type: ignore[no-untyped-call]  # as is the SDK
    else:
        credentials, _project = google.auth.default(scopes=[_SCOPE], request=tokens)
    session = AuthorizedSession(credentials, auth_request=tokens)  # type: ignore[no-untyped-call]  # likewise
    _mounted(session, ca)
    options = {"api_endpoint": endpoint} if endpoint else None
    client = Client(project=None, credentials=credentials, _http=session, client_options=options)
    return Access(client=client, session=session)


class _Adapter(HTTPAdapter):
    """Keeps a connection for each thread, and trusts whom it is told to trust."""

    def __init__(self, ca: str | None) -> None:
        super().__init__(pool_maxsize=_CONNECTIONS)
        self._ca = ca

    def send(
        self,
        request: requests.PreparedRequest,
        *args: Any,  # noqa: ANN401 - of requests: they are passed on
        **how: Any,  # noqa: ANN401 - as above
    ) -> requests.Response:
        if self._ca is not None:
            how["verify"] = self._ca
        return super().send(request, *args, **how)


def _mounted(session: S, ca: str | None) -> S:
    session.mount("https://", _Adapter(ca))
    session.mount("http://", _Adapter(ca))
    return session


# -- what an exception means


def response_of(error: BaseException) -> requests.Response | None:
    """Return the answer that an exception is about; None if it is about none."""
    response = getattr(error, "response", None)
    return response if isinstance(response, requests.Response) else None


def translate(message: str, error: Exception) -> SinkError:
    """Translate an exception of the SDK that is not about an answer of the store.

    Args:
        message: how to begin.
        error: the exception.
    """
    causes = list(_causes(error))
    said = redacted(_innermost(causes))

    def found(*kinds: type[BaseException]) -> list[BaseException]:
        return [c for c in causes if isinstance(c, kinds)]

    if found(requests.exceptions.ProxyError):
        hint = "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        return SinkUnavailableError(f"{message}the proxy: {said}", hint)
    if found(ssl.SSLError) and not found(ssl.SSLEOFError, ssl.SSLZeroReturnError):
        problem, fix = tls_problem(_innermost(causes))
        return SinkError(message + problem, fix)
    if found(DataCorruption):
        return SinkUnavailableError(f"{message}the data was damaged on the way")
    if found(*_BROKEN) and not any(_is_refusal(c) for c in causes):
        hint = "is the store up, and can it be reached?"
        return SinkUnavailableError(message + said, hint)
    if found(GoogleAuthError):
        return _unidentified(message + said, causes)
    return SinkError(f"{message}{error.__class__.__name__}: {said}")


_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    TransportError,
    ConnectionError,
    TimeoutError,
)


def _unidentified(message: str, causes: Sequence[BaseException]) -> SinkError:
    if any(getattr(c, "retryable", False) for c in causes):
        return SinkUnavailableError(message)
    hint = (
        "let the pod's service account stand for one of Google's (Workload Identity), "
        "or GOOGLE_APPLICATION_CREDENTIALS name a file with credentials"
    )
    return SinkDeniedError(message, hint)


def _is_refusal(error: BaseException) -> bool:
    """Whether the metadata server answered, but gave no token: the account is not bound."""
    answer = error.args[-1] if isinstance(error, TransportError) and error.args else None
    return getattr(answer, "status", 0) in _DENIED | {HTTPStatus.NOT_FOUND}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those inside it: the SDK and urllib3 wrap them in several ways."""
    yield error
    for inner in (error.__cause__, getattr(error, "reason", None), *error.args):
        if isinstance(inner, BaseException):
            yield from _causes(inner)


def _innermost(causes: Sequence[BaseException]) -> str:
    last = causes[-1]
    if isinstance(last, OSError) and last.strerror:
        return last.strerror
    said = last.args[0] if last.args and isinstance(last.args[0], str) else str(last)
    return said or last.__class__.__name__


def refusal(message: str, response: requests.Response, who: str) -> SinkError:
    """Translate an answer of the store that says no; not 404, which has two meanings.

    Args:
        message: how to begin.
        response: the answer.
        who: who we are.
    """
    status = response.status_code
    reason, said = _answer(response)
    message += f"{said} ({status})"
    if status == HTTPStatus.FORBIDDEN and reason in _RATE_LIMITED:
        return SinkUnavailableError(message)
    if status == HTTPStatus.INSUFFICIENT_STORAGE or reason in _OVER_QUOTA:
        return SinkFullError(message, "raise the quota, or make room in the store")
    if status in _DENIED:
        return SinkDeniedError(message, f"we are {who}: {_fix(status, reason, said)}")
    if status == HTTPStatus.PRECONDITION_FAILED:
        return ObjectExistsError(message)
    is_damage = status == HTTPStatus.BAD_REQUEST and _CHECKSUM.search(said)
    if is_damage or status in _PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return SinkUnavailableError(message)
    return SinkError(message)


_DENIED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS}
_RATE_LIMITED = {"rateLimitExceeded", "userRateLimitExceeded"}
_OVER_QUOTA = {"quotaExceeded", "dailyLimitExceeded"}
_HELD = {"retentionPolicyNotMet", "objectUnderActiveHold"}
_CHECKSUM = re.compile(r"crc32c|md5|hash|checksum", re.IGNORECASE)
_PERMISSION = re.compile(r"storage\.objects\.(create|get|list|delete)\b")
_ROLES = {
    "create": "roles/storage.objectCreator",
    "get": "roles/storage.objectViewer",
    "list": "roles/storage.objectViewer",
    "delete": "roles/storage.objectUser, which only pruning and sweeping need,",
}


def _fix(status: int, reason: str, said: str) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return "is the key still valid, and does this node's clock go right?"
    if reason in _HELD:
        return "the bucket keeps the object until its retention is over"
    found = _PERMISSION.search(said)
    role = _ROLES[found[1]] if found else f"{_ROLES['create']} and {_ROLES['get']}"
    return f"grant it {role} on the bucket"


def _answer(response: requests.Response) -> tuple[str, str]:
    """Return the reason (a word) and the message of a refusal; either may be lacking."""
    said = response.reason or "refused"
    try:
        error = response.json()["error"]
        reason = next((e["reason"] for e in error.get("errors", ())), "")
        return str(reason), redacted(error["message"] or said)
    except (ValueError, LookupError, TypeError, AttributeError):  # it is no answer of Google's
        return "", redacted(said)


_SECRET = re.compile(r"[A-Za-z0-9_+=~-]{32,}")
_SHOWN = 300


def redacted(said: str) -> str:
    """Make what others said one line of ours, without what may be a token, a key or an upload."""
    line = _SECRET.sub("…", " ".join(said.split()))[:_SHOWN].rstrip(". ")
    return line[:1].lower() + line[1:]
