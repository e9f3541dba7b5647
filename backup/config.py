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
- The table in docs/reference.md is made from the descriptions in :mod:`backup.settings` and of the
  kinds of sinks.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from backup.errors import ConfigError, SettingsError, SinkStalledError
from backup.model import Journal
from backup.settings import Settings, duration_text
from backup.sinks import check, locate, redacted
from backup.sinks.kinds import SCHEMES, Options, fix
from backup.stop import Stop
from backup.streams import call

PREFIX = "BACKUP_"


def _settings() -> Iterator[tuple[str, FieldInfo]]:
    """Give each setting by its attribute; those of a kind of sink are one level deeper."""
    for name, value in Settings():
        if not isinstance(value, Options):
            yield name, Settings.model_fields[name]
            continue
        for option, field in type(value).model_fields.items():
            if field.description:
                yield f"{name}.{option}", field


SETTINGS = {PREFIX + at.upper().replace(".", "_"): (at, field) for at, field in _settings()}
"""Every setting by its variable: its attribute, and what is known of it."""

_SERVICE_LINK = re.compile(
    r"BACKUP(?:_+[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_+[A-Z0-9]+)*|PORT"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""What Kubernetes injects for the Services of a namespace; no setting may ever look like that."""
_LOOK_SECONDS = 5.0
_URL = re.compile(r"[a-z][a-z0-9+.-]*://.*", re.DOTALL)


def load(*, sinks: Sequence[str] = (), only: Collection[str] = ()) -> Settings:
    """Read the settings from the environment, and check them.

    Args:
        sinks: URLs from the command line, instead of BACKUP_SINKS.
        only: names of fields: all others keep their defaults, and may be as wrong as they like.

    Raises:
        SettingsError: one or more of them are wrong; it names all.
    """
    problems = list(_unknown(only))
    try:
        settings = Settings.model_validate(_given(only))
        if sinks:
            chosen = tuple(_chosen(url, settings.sinks) for url in sinks)
            settings = settings.model_copy(update={"sinks": chosen})
    except ValidationError as error:
        raise SettingsError((*problems, *_invalid(error))) from error
    problems += _wrong(settings)
    if problems:
        raise SettingsError(tuple(problems))
    return settings


def _given(only: Collection[str]) -> dict[str, Any]:
    """Read the variables that are set; blanks around a value are dropped, and a blank one is unset.

    pydantic-settings would do it, too: its import takes some 60 ms of each start.
    """
    given: dict[str, Any] = {}
    for variable, (at, _) in SETTINGS.items():
        value = os.environ.get(variable, "").strip()
        if value and (not only or at in only):
            kind, _, name = at.rpartition(".")
            (given.setdefault(kind, {}) if kind else given)[name] = value
    return given


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


def _unknown(only: Collection[str]) -> Iterator[tuple[str, str]]:
    stems = [variable.removeprefix(PREFIX) for variable in SETTINGS]
    for name in sorted(os.environ):
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
        variable = PREFIX + "_".join(map(str, item["loc"])).upper()
        yield f"{variable} is {item['input']!r}", fix(item)


def _wrong(settings: Settings) -> Iterator[tuple[str, str]]:
    if Journal.parse(f"journal-{settings.statefulset}-0") is None:
        yield (
            f"BACKUP_STATEFULSET is {settings.statefulset!r}, which names no StatefulSet",
            "give the billing StatefulSet's name, as kubectl get statefulsets shows it",
        )
    if not settings.source.is_absolute():
        yield f"BACKUP_SOURCE is {str(settings.source)!r}, which is not absolute", "begin it with /"
    if settings.prune and not settings.is_set:
        yield (
            "BACKUP_PRUNE is true, and nothing says what to keep",
            "set BACKUP_KEEP_LAST, _WITHIN, _DAILY, _WEEKLY or _MONTHLY",
        )
    places: list[str] = []
    for number, url in enumerate(settings.sinks, start=1):
        try:
            places.append(_place(url, settings))
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


def _place(url: str, settings: Settings) -> str:
    """Check a sink's URL; give it without its secrets, always spelt in the same way."""
    if _URL.fullmatch(url) is None:
        raise ValueError
    return str(check(url, settings))


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
    for variable, (at, field) in SETTINGS.items():
        yield {
            "name": variable,
            "value": _shown(at, attrgetter(at)(settings)),
            "source": "environment" if os.environ.get(variable, "").strip() else "default",
            "description": field.description,
        }


def _shown(name: str, value: Any) -> Any:  # noqa: ANN401 - a setting is of any type
    if name == "sinks":
        return [_shown_place(url) or redacted(url) for url in value]
    if isinstance(value, timedelta):
        return duration_text(value)
    return str(value) if isinstance(value, Path) else value
