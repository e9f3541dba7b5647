"""The kinds of sinks: how the place of each is written, and which options it has.

Rules:

- A kind is a class. What it is called and where it is made are class variables; each field is an
  option of one sink, with its type, its rule and its default, once. A kind that is added here, with
  a field of :class:`KindSettings`, is known to URLs, to the settings and to the documents.
- Options stand in the query of a sink's URL, so that two stores of one kind can be used in one run.
  One that has a description is a setting besides, ``BACKUP_<KIND>_<OPTION>``: what a query does not
  say is what the settings say.
- Both are judged by the same rules; but a query is written in one way only, where a setting may say
  ``yes`` or ``1`` for true.
- Nothing here imports an SDK: a kind names the class that does, and is opened by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol
from urllib.parse import SplitResult, unquote

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import ErrorDetails

from backup.lean import Frozen
from backup.sinks.urls import endpoint, refused

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

QUERY = "query"
"""The context of a validation whose values come from a URL."""


def _written(pattern: str, fix: str) -> BeforeValidator:
    """Make the rule how a query writes a value."""

    def check(value: object, info: ValidationInfo) -> object:
        if info.context == QUERY and re.fullmatch(pattern, str(value)) is None:
            raise ValueError(fix)
        return value

    return BeforeValidator(check)


Text = Annotated[str, _written("[!-~]+", "give it a value")]
Flag = Annotated[bool, _written("true|false", "give true or false")]
Days = Annotated[int, Field(ge=1, le=36_500), _written("[1-9][0-9]{0,4}", "give a number of days")]
Endpoint = Annotated[str, AfterValidator(endpoint)]


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
            raise refused(
                url, "holds credentials", f"give {self.example}; the SDK finds credentials"
            )
        if _BUCKET.fullmatch(parts.netloc) is None:
            raise refused(url, "names no bucket", f"give {self.example}")
        prefix = unquote(parts.path).strip("/")
        is_odd = prefix and _PREFIX.fullmatch(prefix) is None
        if is_odd or {".", ".."} & {*prefix.split("/")} or len(prefix.encode()) > _PREFIX_BYTES:
            raise refused(
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
            raise refused(url, "is not a file URL", f"give {self.example}, with three slashes")
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
