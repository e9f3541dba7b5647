"""Sinks: where archives go. One interface, one file a kind, one way to open them by URL.

Each kind's SDK is imported in its own file, and only when a URL asks for it.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from backup.errors import ConfigError
from backup.sinks.base import Object, Sink
from backup.sinks.kinds import Place, SinkSettings, locate, redacted
from backup.stop import Stop

__all__ = ["Object", "Place", "Sink", "check", "locate", "open_sink", "redacted"]

STALL_SECONDS = 60.0
"""A sink that moves no data for this long is dropped from the pass."""


def check(url: str, settings: SinkSettings) -> Place[Any]:
    """Check a sink's URL together with what the settings say, without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink, or contradicts the settings.
    """
    place = locate(url, settings.kinds)
    if wrong := place.options.contradiction():
        what, fix = wrong
        message = f"{place}: {what}"
        raise ConfigError(message, fix)
    return place


def open_sink(
    url: str, settings: SinkSettings, *, stop: Stop, stall_seconds: float = STALL_SECONDS
) -> Sink:
    """Open the sink of a URL, without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    place = check(url, settings)
    make = resolve_name(place.options.opener)
    sink: Sink = make(place, settings, stop=stop, stall_seconds=stall_seconds)
    return sink
