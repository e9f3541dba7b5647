"""Sinks: where archives go. One interface, one file a kind, one way to open them by URL.

Each kind's SDK is imported in its own file, and only when a URL asks for it.
"""

from __future__ import annotations

from pathlib import Path

from backup.errors import ConfigError
from backup.sinks.base import Object, Sink
from backup.sinks.urls import Location, SinkOptions, locate, redacted
from backup.stop import Stop

__all__ = ["Location", "Object", "Sink", "SinkOptions", "check", "locate", "open_sink", "redacted"]

STALL_SECONDS = 60.0
"""A sink that moves no data for this long is dropped from the pass."""


def check(url: str, options: SinkOptions) -> Location:
    """Check a sink's URL together with what the settings say, without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink, or contradicts the settings.
    """
    place = locate(url)
    if place.scheme == "s3" and (wrong := place.s3(options.s3).contradiction()):
        what, fix = wrong
        message = f"{place}: {what}"
        raise ConfigError(message, fix)
    return place


def open_sink(
    url: str, options: SinkOptions, *, stop: Stop, stall_seconds: float = STALL_SECONDS
) -> Sink:
    """Open the sink of a URL, without touching the place.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    place = check(url, options)
    if place.scheme == "file":
        from backup.sinks.file import FileSink  # noqa: PLC0415 - a kind is imported when it is used

        return FileSink(
            Path(place.path),
            require_mount=place.file(options.file).require_mount,
            source=options.source,
            stop=stop,
            stall_seconds=stall_seconds,
        )
    if place.scheme == "s3":
        from backup.sinks.s3 import S3Sink  # noqa: PLC0415 - as above

        return S3Sink(
            place,
            place.s3(options.s3),
            ca_cert_file=options.ca_cert_file,
            stop=stop,
            stall_seconds=stall_seconds,
        )
    from backup.sinks.gcs import GcsSink  # noqa: PLC0415 - as above

    return GcsSink(
        place,
        place.gcs(options.gcs),
        ca_cert_file=options.ca_cert_file,
        stop=stop,
        stall_seconds=stall_seconds,
    )
