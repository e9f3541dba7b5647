"""The kinds of sinks: their URLs, which options each has, and the place that a URL names.

Rules:

- ``file:///directory``, ``s3://bucket/prefix``, ``gs://bucket/prefix``. Checking a URL imports no
  SDK and touches no place: a kind names the class that does, and is opened by name.
- A kind is a class. What it is called and where it is made are class variables; each field is an
  option of one sink, with its type, its rule and its default, once. A kind that is added here, with
  a field of :class:`KindSettings`, is known to URLs, to the settings and to the documents.
- Options stand in the query of a sink's URL, so that two stores of one kind can be used in one run.
  One that has a description is a setting besides, ``BACKUP_<KIND>_<OPTION>``: what a query does not
  say is what the settings say.
- Both are judged by the same rules; but a query is written in one way only, where a setting may say
  ``yes`` or ``1`` for true.
- A URL holds no credentials: they belong to the SDKs' own chains. One that seems to is refused, and
  neither user nor query is ever shown; only the endpoint is, as it tells two places apart. What an
  SDK says may quote a URL that is not ours (of an endpoint in its own settings, of a proxy): it is
  shown without its user, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from backup.errors import ConfigError
from backup.lean import Frozen

ChecksumMode = Literal["crc32", "sha256", "md5", "none"]
ServerSideEncryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]
ObjectLockMode = Literal["GOVERNANCE", "COMPLIANCE"]

_DIRECTORY = re.compile(r"/[^/\0][^\0]*")
"""An absolute path, but not of the root directory."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
"""S3 allows 63 characters, GCS 222 with dots; what exactly is valid, the store knows best."""
_PREFIX = re.compile(r"[^\0-\x1f\x7f/]+(?:/[^\0-\x1f\x7f/]+)*")
_PREFIX_BYTES = 600
"""S3 and GCS take keys of 1,024 bytes; ours need up to 401 below the prefix."""

_USERS = re.compile(r"""(?<=//)[^\s"'<>]*@|[^\s"'<>@/]+@""")

_QUERY = "query"
"""The context of a validation whose values come from a URL."""


# -- what may be shown of a URL, and how one is refused


def redacted(url: str) -> str:
    """Return a URL as it may be shown: without a user, a password or a query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<not a URL>"
    if not (parts.netloc or parts.path.startswith("/")):  # what seems a scheme may be a user
        return "<not a URL>"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refused(url: str, what: str, fix: str) -> ConfigError:
    """Make the error that says what is wrong with a URL, and how it should be."""
    return ConfigError(f"{redacted(url)!r} {what}", fix)


def without_users(text: str) -> str:
    """Give what others said as it may be shown: what stands before the @ of a host is hidden."""
    return _USERS.sub("***@", text)


def _endpoint(value: str) -> str:
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


# -- kinds


def _written(pattern: str, fix: str) -> BeforeValidator:
    """Make the rule how a query writes a value."""

    def check(value: object, info: ValidationInfo) -> object:
        if info.context == _QUERY and re.fullmatch(pattern, str(value)) is None:
            raise ValueError(fix)
        return value

    return BeforeValidator(check)


Text = Annotated[str, _written("[!-~]+", "give it a value")]
Flag = Annotated[bool, _written("true|false", "give true or false")]
Days = Annotated[int, Field(ge=1, le=36_500), _written("[1-9][0-9]{0,4}", "give a number of days")]
Endpoint = Annotated[str, AfterValidator(_endpoint)]


def fix(wrong: ErrorDetails) -> str:
    """Say what to do about a value that breaks a rule."""
    return wrong["msg"].removeprefix("Value error, ").replace("Input should", "it should")


class Options(Frozen):
    """The options of one sink; a subclass is a kind of sink."""

    scheme: ClassVar[str]
    example: ClassVar[str]
    """A URL, for hints."""
    opener: ClassVar[str]
    """What makes a sink of this kind: ``module:class``."""

    def place(self, url: str, parts: SplitResult) -> tuple[str, str]:
        """Take the bucket out of a URL, and the prefix in it, without slashes at its ends.

        A kind without buckets has its own way.

        Raises:
            ConfigError: they are not written as they should be.
        """
        if "@" in parts.netloc:
            raise _refused(
                url, "holds credentials", f"give {self.example}; the SDK finds credentials"
            )
        if _BUCKET.fullmatch(parts.netloc) is None:
            raise _refused(url, "names no bucket", f"give {self.example}")
        prefix = unquote(parts.path).strip("/")
        is_odd = prefix and _PREFIX.fullmatch(prefix) is None
        if is_odd or {".", ".."} & {*prefix.split("/")} or len(prefix.encode()) > _PREFIX_BYTES:
            raise _refused(
                url, "has an unusable prefix", f"give {self.example}, with single slashes"
            )
        return parts.netloc, prefix

    def contradiction(self) -> tuple[str, str] | None:
        """Return what does not go together, and the fix; None where all does."""
        return None


class FileOptions(Options):
    """What a directory has to be."""

    scheme = "file"
    example = "file:///directory"
    opener = "backup.sinks.file:FileSink"

    require_mount: Flag = Field(
        default=False, description="a file sink must lie on a mounted volume, not on `/`"
    )

    def place(self, url: str, parts: SplitResult) -> tuple[str, str]:
        """Take the directory out of a URL; there is no bucket."""
        path = unquote(parts.path)
        if parts.netloc or _DIRECTORY.fullmatch(path) is None or ".." in path.split("/"):
            raise _refused(url, "is not a file URL", f"give {self.example}, with three slashes")
        return "", str(Path(path))


class S3Options(Options):
    """How to reach an S3 bucket, and how to store in it."""

    scheme = "s3"
    example = "s3://bucket/prefix"
    opener = "backup.sinks.s3:S3Sink"

    endpoint: Endpoint | None = None
    """None: AWS, or what the SDK's own settings say."""
    region: Text | None = None
    profile: Text | None = None
    path_style: Flag | None = Field(
        default=None,
        description="buckets in the path of the URL, not in the host name; "
        "by default only with an endpoint of one's own",
    )
    checksum_mode: ChecksumMode = Field(
        default="crc32",
        description="what each upload carries for the server to compare: "
        "`crc32`, `sha256`, `md5` or `none`",
    )
    storage_class: Text | None = Field(
        default=None, description="storage class of what is uploaded, such as `STANDARD_IA`"
    )
    sse: ServerSideEncryption | None = Field(
        default=None, description="encryption at rest: `AES256`, `aws:kms` or `aws:kms:dsse`"
    )
    sse_kms_key_id: Text | None = Field(
        default=None, description="the KMS key, where it is not the bucket's default"
    )
    object_lock_mode: ObjectLockMode | None = Field(
        default=None,
        description="`GOVERNANCE` or `COMPLIANCE`, where it is not the bucket's default",
    )
    object_lock_days: Days | None = Field(
        default=None, description="days for which each object is locked"
    )

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


class GcsOptions(Options):
    """How to reach a GCS bucket."""

    scheme = "gs"
    example = "gs://bucket/prefix"
    opener = "backup.sinks.gcs:GcsSink"

    endpoint: Endpoint | None = None
    """None: Google, or what STORAGE_EMULATOR_HOST says."""


class KindSettings(Frozen):
    """What the settings say of each kind, and with that the list of all kinds."""

    file: FileOptions = FileOptions()
    s3: S3Options = S3Options()
    gcs: GcsOptions = GcsOptions()

    @property
    def kinds(self) -> Mapping[str, Options]:
        """The options of each kind, by its scheme."""
        return {value.scheme: value for _, value in self if isinstance(value, Options)}


class SinkSettings(Protocol):
    """What sinks read of the settings."""

    @property
    def source(self) -> Path:
        """The journals' directory, which no file sink may lie in."""

    @property
    def ca_cert_file(self) -> Path | None:
        """Certificates (PEM) to trust beside the public ones."""

    @property
    def kinds(self) -> Mapping[str, Options]:
        """The options of each kind, by its scheme."""


KINDS = KindSettings().kinds
"""Every kind, by its scheme, as it is where nothing is set."""

_EXAMPLES = [kind.example for kind in KINDS.values()]
SCHEMES = f"{', '.join(_EXAMPLES[:-1])} or {_EXAMPLES[-1]}"


# -- places

O_co = TypeVar("O_co", bound=Options, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Generic[O_co]):
    """A sink's URL, taken apart and checked."""

    bucket: str = ""
    """Empty for a file sink."""
    path: str
    """The directory, or the prefix in the bucket, without slashes at its ends."""
    options: O_co

    @property
    def prefix(self) -> str:
        """What all keys in the bucket begin with."""
        return f"{self.path}/" if self.path else ""

    def __str__(self) -> str:
        """Read as what is shown of it: two places never read alike."""
        scheme = self.options.scheme
        if not self.bucket:
            return f"{scheme}://{self.path}"
        place = f"{scheme}://{self.bucket}/{self.path}".rstrip("/")
        endpoint = getattr(self.options, "endpoint", None)
        return place if endpoint is None else f"{place}?endpoint={endpoint}"


def locate(url: str, kinds: Mapping[str, Options] = KINDS) -> Place[Any]:
    """Take a sink's URL apart, without touching the place.

    Args:
        url: the URL.
        kinds: the options of each kind, which the query overrides.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _refused(url, "is not a URL", f"give {SCHEMES}") from error
    kind = kinds.get(parts.scheme)
    if kind is None:
        raise _refused(url, f"has the scheme {parts.scheme!r}", f"give {SCHEMES}")
    bucket, path = kind.place(url, parts)
    options = kind.model_copy(update=_query(url, parts, type(kind)))
    return Place(bucket=bucket, path=path, options=options)


def _query(url: str, parts: SplitResult, kind: type[Options]) -> dict[str, object]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given, known = dict(pairs), kind.model_fields
    if unknown := sorted(given.keys() - known.keys()) or ["#"] * bool(parts.fragment):
        hint = f"this kind of sink knows {', '.join(known)}"
        raise _refused(url, f"has an unknown option {unknown[0]!r}", hint)
    if len(given) < len(pairs):
        raise _refused(url, "gives an option twice", "give each option once")
    return {name: _option(url, kind, name, value) for name, value in given.items()}


def _option(url: str, kind: type[Options], name: str, value: str) -> object:
    try:
        return getattr(kind.model_validate({name: value}, context=_QUERY), name)
    except ValidationError as error:
        (wrong,) = error.errors(include_url=False)
        choices = wrong.get("ctx", {}).get("expected", "").replace("'", "")
        hint = f"give {choices}" if choices else fix(wrong)
        shown = "" if "@" in value else f" {value!r}"  # it may hold a password
        message = f"{redacted(url)!r}: {name} is{shown or ' not valid'}"
        raise ConfigError(message, f"{name}: {hint}") from None  # the cause shows the value
