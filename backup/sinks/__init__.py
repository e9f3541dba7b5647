"""Sinks: where archives go. One interface, one file a kind, one way to open them by URL.

Each kind's SDK is imported in its own file, and only when a URL asks for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from backup.errors import ConfigError
from backup.sinks.base import Object, Sink
from backup.stop import Stop

__all__ = ["Object", "Sink", "SinkOptions", "open_sink"]

_PLACE = re.compile(r"/[^/\0][^\0]*")
"""An absolute path, but not of the root directory."""

STALL_SECONDS = 60.0
"""A sink that moves no data for so long is dropped from the pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """What the settings say about all sinks of a kind; a URL's query overrides it."""

    source: Path
    """The journals' directory, which no file sink may lie in."""
    file_require_mount: bool = False


def check_url(url: str) -> None:
    """Check a sink's URL without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        message = f"{redacted(url)!r} is not a URL"
        raise ConfigError(message, "give file:///directory") from error
    if parts.scheme != "file":
        message = f"{redacted(url)!r} has the scheme {parts.scheme!r}"
        raise ConfigError(message, "give file:///directory")
    path = unquote(parts.path)
    if parts.netloc or _PLACE.fullmatch(path) is None or ".." in path.split("/"):
        message = f"{redacted(url)!r} is not a file URL"
        raise ConfigError(message, "give file:///directory, with three slashes")
    unknown = dict(parse_qsl(parts.query, keep_blank_values=True)).keys() - {"require_mount"}
    if unknown or parts.fragment:
        message = f"{redacted(url)!r} has an unknown option {(sorted(unknown) or ['#'])[0]!r}"
        raise ConfigError(message, "a file sink knows require_mount=true or false")
    _require_mount(url, default=False)


def open_sink(
    url: str, options: SinkOptions, *, stop: Stop, patience: float = STALL_SECONDS
) -> Sink:
    """Open the sink of a URL, without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    check_url(url)
    from backup.sinks.file import FileSink  # noqa: PLC0415 - a kind is imported when it is used

    return FileSink(
        Path(unquote(urlsplit(url).path)),
        require_mount=_require_mount(url, default=options.file_require_mount),
        source=options.source,
        stop=stop,
        patience=patience,
    )


def redacted(url: str) -> str:
    """Give a URL as it may be shown: without a user, a password or a query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<not a URL>"
    if not (parts.netloc or parts.path.startswith("/")):  # what seems a scheme may be a user
        return "<not a URL>"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _require_mount(url: str, *, default: bool) -> bool:
    value = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True)).get("require_mount")
    if value is None:
        return default
    if value not in {"true", "false"}:
        message = f"{redacted(url)!r}: require_mount is {value!r}"
        raise ConfigError(message, "give require_mount=true or require_mount=false")
    return value == "true"
