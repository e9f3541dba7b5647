"""The settings as types: frozen slices, so that each part of the program is given what it reads.

Rules:

- A slice is what one part needs: a backup takes :class:`BackupSettings`, and is handed the whole
  settings, which are one. Nothing is copied from one object to another.
- The order of the fields, over all slices, is that of the table in docs/reference.md, made from the
  descriptions here, and for each kind of sink in :mod:`backup.sinks.kinds`.
- Values are checked here, one by one; what they mean together, and where they come from, is known
  to :mod:`backup.config`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from backup.lean import Frozen
from backup.model import Mode, Readback, StrategySetting
from backup.sinks.kinds import KindSettings

_DURATION = re.compile(r"(?P<count>[0-9]{1,6})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=30)
_LONGEST_KEPT = timedelta(days=36_500)
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


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


def duration_text(value: timedelta) -> str:
    """Write a duration as the settings take it."""
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Age = Annotated[timedelta, BeforeValidator(partial(_duration, longest=_LONGEST_KEPT))]
Rule = Annotated[int | None, Field(ge=1, le=100_000)]
Urls = Annotated[tuple[str, ...], BeforeValidator(_urls)]
Site = Annotated[str, AfterValidator(_site)]


class SourceSettings(Frozen):
    """Where journals are, and which of them have to be there."""

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


class BackupSettings(SourceSettings):
    """How journals are read and stored."""

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


class ClusterSettings(BackupSettings):
    """How the journals of a cluster are reached."""

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

    @property
    def may_scale(self) -> bool:
        """Whether a run may scale billing down."""
        is_allowed = self.max_downtime is not None
        return self.strategy == "scale-down" or (self.strategy == "auto" and is_allowed)


class RetentionSettings(Frozen):
    """What is kept, and whether all else goes by itself."""

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

    @property
    def is_set(self) -> bool:
        """Whether any rule is given."""
        rules = (
            self.keep_last,
            self.keep_within,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
        )
        return any(rule is not None for rule in rules)


class StoreSettings(KindSettings, SourceSettings):
    """What holds for all sinks; a URL's query overrides it."""

    ca_cert_file: Path | None = Field(
        default=None,
        description="certificates (PEM) to trust beside the public ones, for S3 and GCS alike",
    )


class Settings(StoreSettings, RetentionSettings, ClusterSettings):
    """All settings: those of each part, and what stderr is told."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`debug`, `info`, `warning` or `error`: what stderr is told"
    )
    log_format: Literal["json", "console"] | None = Field(
        default=None, description="`json`, or `console`: sentences, the default on a terminal"
    )
