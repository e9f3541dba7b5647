"""Settings: the environment as one frozen, checked object.

Rules:

- One prefix, ``BACKUP_``. The SDKs' own names (``AWS_…``, ``GOOGLE_…``, ``*_PROXY``) are theirs.
- Every problem is reported at once, with the setting's name and the fix.
- A name that nobody knows is a problem, because it is a misspelt one; the names that Kubernetes
  injects for a Service called ``backup`` are not.
- Empty means unset. Durations are written ``90s 5m 24h 7d``.
- The README's table is made from the descriptions here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backup.errors import ConfigError, SettingsError
from backup.model import Journal, Readback
from backup.sinks import SinkOptions, check_url, redacted

PREFIX = "BACKUP_"

_DURATION = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SERVICE_LINK = re.compile(
    r"BACKUP(?:_[A-Z0-9_]+)?"
    r"_(?:SERVICE_(?:HOST|PORT(?:_[A-Z0-9_]+)?)|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_[A-Z]+)?)?)"
)


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    if match is None or not int(match["count"]):
        message = f"{value!r} is not a duration: write 90s, 5m, 24h or 7d"
        raise ValueError(message)
    return timedelta(**{_UNITS[match["unit"]]: int(match["count"])})


def _urls(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(url for url in re.split(r"[,\s]+", value) if url)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Urls = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_urls)]


class Settings(BaseSettings):
    """All settings, in the order in which the README lists them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    source: Path = Field(
        default=Path("/journals"), description="directory that holds the journal directories"
    )
    statefulset: str = Field(
        default="deepgram-billing",
        description="names the journals: `journal-<this>-<ordinal>`",
    )
    expect_replicas: int = Field(
        default=0, ge=0, le=10_000, description="ordinals 0 to N-1 must be there"
    )
    sinks: Urls = Field(
        default=(),
        description="where to: one or more sink URLs, separated by commas or blanks",
    )
    site: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="label of this site, kept in every manifest",
    )
    readback: Readback = Field(
        default="full",
        description="after the upload read back every byte (`full`) or ask for the size (`size`)",
    )
    compression_level: int = Field(
        default=1, ge=0, le=3, description="isal level, 0 (fast) to 3 (small)"
    )
    concurrency: int = Field(
        default=4, ge=1, le=64, description="small journals (up to 16 MiB) at a time"
    )
    deadline: Duration = Field(
        default=timedelta(hours=6), description="time allowed for a whole backup run"
    )
    file_require_mount: bool = Field(
        default=False, description="a file sink must be a mounted volume"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="what is logged, on stderr"
    )
    log_format: Literal["json", "console"] | None = Field(
        default=None, description="`json`, or `console` (the default on a terminal)"
    )

    def sink_options(self) -> SinkOptions:
        """Say what the settings say about all sinks."""
        return SinkOptions(source=self.source, file_require_mount=self.file_require_mount)


def load(*, sinks: Sequence[str] = ()) -> Settings:
    """Read the settings from the environment, and check them.

    Args:
        sinks: URLs from the command line, instead of BACKUP_SINKS.

    Raises:
        SettingsError: one or more of them are wrong; it names all.
    """
    problems = list(_unknown(os.environ))
    try:
        settings = Settings(sinks=tuple(sinks)) if sinks else Settings()
    except ValidationError as error:
        raise SettingsError((*problems, *_invalid(error))) from error
    problems += _wrong(settings)
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known and not _SERVICE_LINK.fullmatch(name):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            fix = f"did you mean {near[0]}?" if near else "see: journal-backup config"
            yield f"{name} is not a setting", fix


def _invalid(error: ValidationError) -> Iterator[tuple[str, str]]:
    for item in error.errors(include_url=False):
        name = str(item["loc"][0])
        text = item["msg"].removeprefix("Value error, ")
        text = text[0].lower() + text[1:]
        given = "" if "is not a duration" in text else f"{item['input']!r}: "
        yield (
            f"{PREFIX}{name.upper()}: {given}{text}",
            Settings.model_fields[name].description or "",
        )


def _wrong(settings: Settings) -> Iterator[tuple[str, str]]:
    if Journal.parse(f"journal-{settings.statefulset}-0") is None:
        yield (
            f"BACKUP_STATEFULSET: {settings.statefulset!r} is not the name of a StatefulSet",
            "give the billing StatefulSet's name, as kubectl get statefulsets shows it",
        )
    if not settings.source.is_absolute():
        yield f"BACKUP_SOURCE: {str(settings.source)!r} is not absolute", "begin it with /"
    for url in settings.sinks:
        try:
            check_url(url)
        except ConfigError as error:
            yield f"BACKUP_SINKS: {error.message}", error.hints[0]
    places = [redacted(url).rstrip("/") for url in settings.sinks]
    for place in sorted({p for p in places if places.count(p) > 1}):
        yield f"BACKUP_SINKS: {place!r} is named twice", "name each sink once"


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
            "source": "environment" if os.environ.get(variable) else "default",
            "description": field.description,
        }


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401 - a setting is of any type
    if name == "sinks":
        return [redacted(url) for url in value]
    if isinstance(value, timedelta):
        return duration_text(value)
    return TypeAdapter(type(value)).dump_python(value, mode="json")


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
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
