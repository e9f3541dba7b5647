"""Settings: the environment as one frozen, checked object.

Rules:

- One prefix, ``BACKUP_``. The SDKs' own names (``AWS_…``, ``GOOGLE_…``, ``*_PROXY``) are theirs.
- Every problem is reported at once, with the setting's name and the fix.
- A name that nobody knows is a problem, because it is a misspelt one, and what it was meant to
  set would silently keep its default. Only the names that Kubernetes injects for Services called
  ``backup`` or ``backup-…`` are passed over, and only in exactly the forms that it makes.
- Blanks around a value are dropped (a Secret made from a file ends in a newline), and nothing
  but blanks means unset. Durations are written ``90s 5m 24h 7d``.
- A value that may hold a secret is never shown: of URLs neither user nor query, and of what is
  no URL nothing at all.
- Two sinks are two places: a directory that is named twice, in whatever way, would pass for a
  second copy.
- The README's table is made from the descriptions here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from backup.errors import ConfigError, SettingsError, SinkStalledError
from backup.model import Journal, Mode, Readback, StrategySetting
from backup.retention import Policy
from backup.sinks import SinkOptions, check, locate, redacted
from backup.sinks.urls import (
    SCHEMES,
    ChecksumMode,
    FileOptions,
    ObjectLockMode,
    S3Options,
    ServerSideEncryption,
)
from backup.stop import Stop
from backup.streams import call

PREFIX = "BACKUP_"

_DURATION = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=30)
_LONGEST_KEPT = timedelta(days=36_500)
_SERVICE_LINK = re.compile(
    r"BACKUP(?:_+[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_+[A-Z0-9]+)*|PORT"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""What Kubernetes injects for the Services of a namespace; no setting may ever look like that."""
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LOOK_SECONDS = 5.0
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.DOTALL)


def _duration(value: object, longest: timedelta = _LONGEST) -> object:
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None or not int(match["count"]):
        message = "write a duration: 90s, 5m, 24h or 7d"
        raise ValueError(message)
    duration = timedelta(**{_UNITS[match["unit"]]: int(match["count"])})
    if duration > longest:
        message = f"give no more than {duration_text(longest)}"
        raise ValueError(message)
    return duration


def _urls(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(url for url in re.split(r"[,\s]+", value) if url)


def _site(value: str) -> str:
    if _SITE.fullmatch(value) is None:
        message = "use letters, digits, dots, dashes and underscores: 63 at most"
        raise ValueError(message)
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Age = Annotated[timedelta, BeforeValidator(partial(_duration, longest=_LONGEST_KEPT))]
Rule = Annotated[int | None, Field(ge=1, le=100_000)]
Urls = Annotated[tuple[str, ...], BeforeValidator(_urls)]
Site = Annotated[str, AfterValidator(_site)]


class Settings(BaseModel):
    """All settings, in the order in which the README lists them."""

    model_config = ConfigDict(frozen=True)

    source: Path = Field(
        default=Path("/journals"), description="directory that holds the journal directories"
    )
    statefulset: str = Field(
        default="deepgram-billing",
        description="names the journals: `journal-<this>-<ordinal>`",
    )
    expect_replicas: int = Field(
        default=0, ge=0, le=10_000, description="a number N: the ordinals 0 to N-1 must be there"
    )
    sinks: Urls = Field(
        default=(),
        description="where to: one or more sink URLs, separated by commas or blanks",
    )
    site: Site | None = Field(
        default=None,
        description="label of this site, kept in every manifest: a prefix belongs to one site",
    )
    mode: Mode = Field(
        default="full",
        description="pack the whole journal each time (`full`), or what was appended "
        "(`incremental`)",
    )
    full_every: Duration = Field(
        default=timedelta(days=7),
        description="with `incremental`: after this time the whole journal is packed again, `30d` "
        "at most",
    )
    readback: Readback = Field(
        default="full",
        description="after the upload, read back every byte (`full`) or ask the size (`size`)",
    )
    compression_level: int = Field(
        default=1, ge=0, le=3, description="isal level, 0 (fast) to 3 (small)"
    )
    concurrency: int = Field(
        default=4, ge=1, le=64, description="small journals (up to 16 MiB) at a time"
    )
    deadline: Duration = Field(
        default=timedelta(hours=6), description="time allowed for a whole backup run, `30d` at most"
    )
    strategy: StrategySetting = Field(
        default="direct",
        description="how journals are reached: `direct` reads what is mounted; `colocated` sends "
        "workers beside billing; `scale-down` stops billing for the copy; `auto` chooses",
    )
    workers: int = Field(default=4, ge=1, le=64, description="worker Jobs at a time")
    max_downtime: Duration | None = Field(
        default=None,
        description="how long billing may be down, 5m if not set; setting it allows `auto` to "
        "scale down where nothing else can read the journals",
    )
    allow_stopped: bool = Field(
        default=False,
        description="billing at 0 when a run begins is meant to be, whatever the strategy: no exit "
        "code 3 for it",
    )
    prune: bool = Field(
        default=False,
        description="after a run in which all went well, let go of backups that no rule "
        "keeps; never of records that are not delivered and in no newer good backup",
    )
    keep_last: Rule = Field(
        default=None, description="keep so many, the newest; nothing set keeps all backups"
    )
    keep_within: Age | None = Field(
        default=None, description="keep all that are no older than the newest by this, as `90d`"
    )
    keep_daily: Rule = Field(
        default=None, description="keep the newest of each day (UTC), for so many days"
    )
    keep_weekly: Rule = Field(default=None, description="likewise of each week")
    keep_monthly: Rule = Field(default=None, description="likewise of each month")
    keep_min: int = Field(
        default=3, ge=1, le=100_000, description="so many good ones are kept in any case"
    )
    file_require_mount: bool = Field(
        default=False, description="a file sink must lie on a mounted volume, not on `/`"
    )
    s3_path_style: bool | None = Field(
        default=None,
        description="buckets in the path of the URL, not in the host name; "
        "by default only with an endpoint of one's own",
    )
    s3_checksum_mode: ChecksumMode = Field(
        default="crc32",
        description="what each upload carries for the server to compare: "
        "`crc32`, `sha256`, `md5` or `none`",
    )
    s3_storage_class: str | None = Field(
        default=None, description="storage class of what is uploaded, such as `STANDARD_IA`"
    )
    s3_sse: ServerSideEncryption | None = Field(
        default=None, description="encryption at rest: `AES256`, `aws:kms` or `aws:kms:dsse`"
    )
    s3_sse_kms_key_id: str | None = Field(
        default=None, description="the KMS key, where it is not the bucket's default"
    )
    s3_object_lock_mode: ObjectLockMode | None = Field(
        default=None,
        description="`GOVERNANCE` or `COMPLIANCE`, where it is not the bucket's default",
    )
    s3_object_lock_days: int | None = Field(
        default=None, ge=1, le=36_500, description="days for which each object is locked"
    )
    ca_cert_file: Path | None = Field(
        default=None,
        description="certificates (PEM) to trust beside the public ones, for S3 and GCS alike",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`: what stderr is told"
    )
    log_format: Literal["json", "console"] | None = Field(
        default=None, description="`json`, or `console`: sentences, the default on a terminal"
    )

    def policy(self) -> Policy:
        """Return what the settings say about keeping backups."""
        return Policy(
            last=self.keep_last,
            within=self.keep_within,
            daily=self.keep_daily,
            weekly=self.keep_weekly,
            monthly=self.keep_monthly,
            least=self.keep_min,
        )

    def sink_options(self) -> SinkOptions:
        """Return what the settings say about all sinks."""
        return SinkOptions(
            source=self.source,
            file=FileOptions(require_mount=self.file_require_mount),
            s3=S3Options(
                path_style=self.s3_path_style,
                checksum_mode=self.s3_checksum_mode,
                storage_class=self.s3_storage_class,
                sse=self.s3_sse,
                sse_kms_key_id=self.s3_sse_kms_key_id,
                object_lock_mode=self.s3_object_lock_mode,
                object_lock_days=self.s3_object_lock_days,
            ),
            ca_cert_file=self.ca_cert_file,
        )


def load(*, sinks: Sequence[str] = (), only: Collection[str] = ()) -> Settings:
    """Read the settings from the environment, and check them.

    Args:
        sinks: URLs from the command line, instead of BACKUP_SINKS.
        only: names of fields: all others keep their defaults, and may be as wrong as they like.

    Raises:
        SettingsError: one or more of them are wrong; it names all.
    """
    problems = list(_unknown(os.environ, only))
    try:
        settings = Settings.model_validate(_given(os.environ, only))
        if sinks:
            chosen = tuple(_chosen(url, settings.sinks) for url in sinks)
            settings = settings.model_copy(update={"sinks": chosen})
    except ValidationError as error:
        raise SettingsError((*problems, *_invalid(error))) from error
    problems += _wrong(settings)
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _given(environ: Mapping[str, str], only: Collection[str]) -> dict[str, str]:
    """Read the variables that are set; blanks around a value are dropped, and a blank one is unset.

    pydantic-settings would do it, too: its import takes some 60 ms of each start.
    """
    names = [name for name in Settings.model_fields if not only or name in only]
    values = {name: environ.get(PREFIX + name.upper(), "").strip() for name in names}
    return {name: value for name, value in values.items() if value}


def _chosen(typed: str, configured: Sequence[str]) -> str:
    """Find the sink that somebody means who types a URL without its options."""
    known = {url: place for url in configured if (place := _shown_place(url)) is not None}
    if exact := [url for url, place in known.items() if typed == place]:
        return exact[0]
    alike = [url for url, place in known.items() if typed.rstrip("/") == place.partition("?")[0]]
    if len(alike) > 1:
        message = f"--sink {redacted(typed)} names {len(alike)} sinks of BACKUP_SINKS"
        shown = ", ".join(known[url] for url in alike)
        raise ConfigError(message, f"give one as it is shown: {shown}")
    return alike[0] if alike else typed


def _shown_place(url: str) -> str | None:
    try:
        return str(locate(url))
    except ConfigError:
        return None


def _unknown(environ: Mapping[str, str], only: Collection[str]) -> Iterator[tuple[str, str]]:
    stems = [name.upper() for name in Settings.model_fields]
    for name in sorted(environ):
        prefix, stem = name[: len(PREFIX)], name[len(PREFIX) :]
        if prefix.upper() != PREFIX or _SERVICE_LINK.fullmatch(name):
            continue
        if prefix != PREFIX or stem not in stems:
            near = difflib.get_close_matches(stem.upper(), stems, n=1)
            if only and not {name.lower() for name in near} & {*only}:
                continue
            fix = f"did you mean {PREFIX}{near[0]}?" if near else "see: journal-backup config"
            yield f"{name} is not a setting", fix


def _invalid(error: ValidationError) -> Iterator[tuple[str, str]]:
    for item in error.errors(include_url=False):
        variable = PREFIX + str(item["loc"][0]).upper()
        fix = item["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        yield f"{variable} is {item['input']!r}", fix


def _wrong(settings: Settings) -> Iterator[tuple[str, str]]:
    if Journal.parse(f"journal-{settings.statefulset}-0") is None:
        yield (
            f"BACKUP_STATEFULSET is {settings.statefulset!r}, which names no StatefulSet",
            "give the billing StatefulSet's name, as kubectl get statefulsets shows it",
        )
    if not settings.source.is_absolute():
        yield f"BACKUP_SOURCE is {str(settings.source)!r}, which is not absolute", "begin it with /"
    if settings.prune and not settings.policy().is_set:
        yield (
            "BACKUP_PRUNE is true, and nothing says what to keep",
            "set BACKUP_KEEP_LAST, _WITHIN, _DAILY, _WEEKLY or _MONTHLY",
        )
    places: list[str] = []
    for number, url in enumerate(settings.sinks, start=1):
        try:
            places.append(_place(url, settings.sink_options()))
        except ConfigError as error:
            yield f"BACKUP_SINKS: {error.message}", error.hints[0]
        except ValueError:
            yield f"BACKUP_SINKS: number {number} is not a URL", f"give {SCHEMES}"
    for place in sorted({p for p in places if places.count(p) > 1}):
        yield f"BACKUP_SINKS: {place!r} is named twice", "name each sink once"
    for one, other in _same_directories(sorted({p for p in places if p.startswith("file:")})):
        yield f"BACKUP_SINKS: {one!r} and {other!r} are one directory", "name each sink once"


def _same_directories(places: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Find directories that have two names: by a link, say, or mounted twice."""
    names: dict[tuple[int, int], str] = {}
    for place in places if len(places) > 1 else ():
        identity = _identity(place.removeprefix("file://"))
        if identity is not None and names.setdefault(identity, place) != place:
            yield names[identity], place


def _identity(path: str) -> tuple[int, int] | None:
    """Say which directory that is; None if it is not there, or its server does not answer soon."""
    try:
        state = call(partial(os.stat, path), stop=Stop(), stall_seconds=_LOOK_SECONDS)
    except (OSError, SinkStalledError):  # the run will meet it, and say what that means
        return None
    return state.st_dev, state.st_ino


def _place(url: str, options: SinkOptions) -> str:
    """Check a sink's URL; give it without its secrets, always spelt in the same way."""
    if _URL.fullmatch(url) is None:
        raise ValueError
    return str(check(url, options))


def require_sinks(settings: Settings) -> None:
    """Insist on at least one sink.

    Raises:
        SettingsError: there is none.
    """
    if not settings.sinks:
        raise SettingsError(
            (("BACKUP_SINKS is not set", "say where backups go, for example file:///mnt/sink"),)
        )


def describe(settings: Settings) -> Iterator[dict[str, Any]]:
    """Say of every setting what it is, where it came from and what it means; no secret is shown."""
    for name, field in Settings.model_fields.items():
        variable = PREFIX + name.upper()
        yield {
            "name": variable,
            "value": _shown(name, getattr(settings, name)),
            "source": "environment" if os.environ.get(variable, "").strip() else "default",
            "description": field.description,
        }


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401 - a setting is of any type
    if name == "sinks":
        return [_shown_place(url) or redacted(url) for url in value]
    if isinstance(value, timedelta):
        return duration_text(value)
    return str(value) if isinstance(value, Path) else value


def duration_text(value: timedelta) -> str:
    """Write a duration as the settings take it."""
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def table() -> str:
    """Make the README's table of settings."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {_default(name, field)} | {field.description} |"
        )
    return "\n".join(lines)


def _default(name: str, field: FieldInfo) -> str:
    if name == "sinks":
        return "required"
    value = _shown(name, field.default)
    if value is None:
        return "not set"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
