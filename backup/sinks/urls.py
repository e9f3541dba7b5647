"""URLs of sinks: what they may say, and what is shown of them.

Rules:

- ``file:///directory``, ``s3://bucket/prefix``, ``gs://bucket/prefix``; options of one sink stand
  in its query, so that two stores of one kind can be used in one run. What a query does not say
  is what the settings say.
- Checking a URL imports no SDK and touches no place.
- A URL holds no credentials: they belong to the SDKs' own chains. One that seems to is refused, and
  neither user nor query is ever shown; only the endpoint is, as it tells two places apart. What an
  SDK says may quote a URL that is not ours (of an endpoint in its own settings, of a proxy): it is
  shown without its user, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from backup.errors import ConfigError

ChecksumMode = Literal["crc32", "sha256", "md5", "none"]
ServerSideEncryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]
ObjectLockMode = Literal["GOVERNANCE", "COMPLIANCE"]

SCHEMES = "file:///directory, s3://bucket/prefix or gs://bucket/prefix"

_PLACE = re.compile(r"/[^/\0][^\0]*")
"""An absolute path, but not of the root directory."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
"""S3 allows 63 characters, GCS 222 with dots; what exactly is valid, the store knows best."""
_PREFIX = re.compile(r"[^\0-\x1f\x7f/]+(?:/[^\0-\x1f\x7f/]+)*")
_PREFIX_BYTES = 600
"""S3 and GCS take keys of 1,024 bytes; ours need up to 401 below the prefix."""
_TEXT = re.compile(r"[!-~]+")
_USERS = re.compile(r"""(?<=//)[^\s"'<>]*@|[^\s"'<>@/]+@""")
_DAYS = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options:
    """How to reach an S3 bucket, and how to store in it."""

    endpoint: str | None = None
    """None: AWS, or what the SDK's own settings say."""
    region: str | None = None
    profile: str | None = None
    path_style: bool | None = None
    """None: only with an endpoint of one's own."""
    checksum_mode: ChecksumMode = "crc32"
    """What each upload carries for the server to compare."""
    storage_class: str | None = None
    sse: ServerSideEncryption | None = None
    sse_kms_key_id: str | None = None
    object_lock_mode: ObjectLockMode | None = None
    object_lock_days: int | None = None

    def contradiction(self) -> tuple[str, str] | None:
        """Return what does not go together, and the fix; None where all does."""
        if (self.object_lock_mode is None) != (self.object_lock_days is None):
            return "object_lock_mode and object_lock_days go together", "set both, or neither"
        if self.sse_kms_key_id is not None and self.sse not in {"aws:kms", "aws:kms:dsse"}:
            return "sse_kms_key_id needs KMS", "set sse to aws:kms, or give no key"
        if self.object_lock_mode is not None and self.checksum_mode == "none":
            # Amazon S3 API Reference, PutObject: "required for any request to upload an object with
            # a retention period configured using Amazon S3 Object Lock"
            return "an object lock needs a checksum", "set checksum_mode to crc32, sha256 or md5"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsOptions:
    """How to reach a GCS bucket."""

    endpoint: str | None = None
    """None: Google, or what STORAGE_EMULATOR_HOST says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions:
    """What a directory has to be."""

    require_mount: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """What the settings say about all sinks; a URL's query overrides it."""

    source: Path
    """The journals' directory, which no file sink may lie in."""
    file: FileOptions = FileOptions()
    s3: S3Options = S3Options()
    gcs: GcsOptions = GcsOptions()
    ca_cert_file: Path | None = None
    """Certificates (PEM) to trust beside the public ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A sink's URL, taken apart and checked."""

    scheme: Literal["file", "s3", "gs"]
    bucket: str
    """Empty for a file sink."""
    path: str
    """The directory, or the prefix in the bucket, without slashes at its ends."""
    query: Mapping[str, Any]
    """The options of this sink, by their names in the options' class."""

    def s3(self, defaults: S3Options) -> S3Options:
        """Return all options of an S3 sink."""
        return replace(defaults, **self.query)

    def gcs(self, defaults: GcsOptions) -> GcsOptions:
        """Return all options of a GCS sink."""
        return replace(defaults, **self.query)

    def file(self, defaults: FileOptions) -> FileOptions:
        """Return all options of a file sink."""
        return replace(defaults, **self.query)

    def __str__(self) -> str:
        """Read as what is shown of it: two places never read alike."""
        if self.scheme == "file":
            return f"file://{self.path}"
        place = f"{self.scheme}://{self.bucket}/{self.path}".rstrip("/")
        endpoint = self.query.get("endpoint")
        return place if endpoint is None else f"{place}?endpoint={endpoint}"


def locate(url: str) -> Location:
    """Take a sink's URL apart, without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        message = f"{redacted(url)!r} is not a URL"
        raise ConfigError(message, f"give {SCHEMES}") from error
    kind = _KINDS.get(parts.scheme)
    if kind is None:
        message = f"{redacted(url)!r} has the scheme {parts.scheme!r}"
        raise ConfigError(message, f"give {SCHEMES}")
    bucket, path = kind.place(url, parts)
    return Location(
        scheme=kind.scheme, bucket=bucket, path=path, query=_query(url, parts, kind.options)
    )


def redacted(url: str) -> str:
    """Return a URL as it may be shown: without a user, a password or a query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<not a URL>"
    if not (parts.netloc or parts.path.startswith("/")):  # what seems a scheme may be a user
        return "<not a URL>"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without_users(text: str) -> str:
    """Give what others said as it may be shown: what stands before the @ of a host is hidden."""
    return _USERS.sub("***@", text)


def endpoint(value: str) -> str:
    """Check the URL of a server.

    Raises:
        ValueError: it is none; says what is missing.
    """
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("give https://host:port, without a user")
    if parts.query or parts.fragment:
        raise ValueError("give https://host:port, without a query")
    parts.port  # noqa: B018 - raises ValueError if it is none
    return value.rstrip("/")


# -- what each kind of URL is made of


def _directory(url: str, parts: SplitResult) -> tuple[str, str]:
    path = unquote(parts.path)
    if parts.netloc or _PLACE.fullmatch(path) is None or ".." in path.split("/"):
        message = f"{redacted(url)!r} is not a file URL"
        raise ConfigError(message, "give file:///directory, with three slashes")
    return "", str(Path(path))


def _bucket(url: str, parts: SplitResult) -> tuple[str, str]:
    scheme = parts.scheme
    if "@" in parts.netloc:
        message = f"{redacted(url)!r} holds credentials"
        raise ConfigError(message, f"give {scheme}://bucket/prefix; the SDK finds credentials")
    if _BUCKET.fullmatch(parts.netloc) is None:
        message = f"{redacted(url)!r} names no bucket"
        raise ConfigError(message, f"give {scheme}://bucket/prefix")
    prefix = unquote(parts.path).strip("/")
    is_odd = prefix and _PREFIX.fullmatch(prefix) is None
    if is_odd or {".", ".."} & {*prefix.split("/")} or len(prefix.encode()) > _PREFIX_BYTES:
        message = f"{redacted(url)!r} has an unusable prefix"
        raise ConfigError(message, f"give {scheme}://bucket/prefix, with single slashes")
    return parts.netloc, prefix


def _text(value: str) -> str:
    if _TEXT.fullmatch(value) is None:
        raise ValueError("give it a value")
    return value


def _flag(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError("give true or false")
    return value == "true"


def _days(value: str) -> int:
    if _DAYS.fullmatch(value) is None:
        raise ValueError("give a number of days")
    return int(value)


def _one_of(choices: Any) -> Callable[[str], str]:  # noqa: ANN401 - a Literal has no type of its own
    known = get_args(choices)

    def check(value: str) -> str:
        if value not in known:
            message = f"give {', '.join(known[:-1])} or {known[-1]}"
            raise ValueError(message)
        return value

    return check


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    scheme: Literal["file", "s3", "gs"]
    place: Callable[[str, SplitResult], tuple[str, str]]
    options: Mapping[str, Callable[[str], object]]


_KINDS = {
    "file": _Kind(scheme="file", place=_directory, options={"require_mount": _flag}),
    "s3": _Kind(
        scheme="s3",
        place=_bucket,
        options={
            "endpoint": endpoint,
            "region": _text,
            "profile": _text,
            "path_style": _flag,
            "checksum_mode": _one_of(ChecksumMode),
            "storage_class": _text,
            "sse": _one_of(ServerSideEncryption),
            "sse_kms_key_id": _text,
            "object_lock_mode": _one_of(ObjectLockMode),
            "object_lock_days": _days,
        },
    ),
    "gs": _Kind(scheme="gs", place=_bucket, options={"endpoint": endpoint}),
}


def _query(
    url: str, parts: SplitResult, options: Mapping[str, Callable[[str], object]]
) -> dict[str, object]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(pairs)
    if unknown := sorted(given.keys() - options.keys()) or ["#"] * bool(parts.fragment):
        message = f"{redacted(url)!r} has an unknown option {unknown[0]!r}"
        raise ConfigError(message, f"this kind of sink knows {', '.join(options)}")
    if len(given) < len(pairs):
        message = f"{redacted(url)!r} gives an option twice"
        raise ConfigError(message, "give each option once")
    return {name: _option(url, name, value, options[name]) for name, value in given.items()}


def _option(url: str, name: str, value: str, check: Callable[[str], object]) -> object:
    try:
        return check(value)
    except ValueError as error:
        shown = "" if "@" in value else f" {value!r}"  # it may hold a password
        message = f"{redacted(url)!r}: {name} is{shown or ' not valid'}"
        raise ConfigError(message, f"{name}: {error}") from error
