"""URLs: how a place is written, and what is shown of it.

Rules:

- A URL holds no credentials: they belong to the SDKs' own chains. One that seems to is refused, and
  neither user nor query is ever shown; only the endpoint is, as it tells two places apart. What an
  SDK says may quote a URL that is not ours (of an endpoint in its own settings, of a proxy): it is
  shown without its user, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from backup.errors import ConfigError

_PLACE = re.compile(r"/[^/\0][^\0]*")
"""An absolute path, but not of the root directory."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
"""S3 allows 63 characters, GCS 222 with dots; what exactly is valid, the store knows best."""
_PREFIX = re.compile(r"[^\0-\x1f\x7f/]+(?:/[^\0-\x1f\x7f/]+)*")
_PREFIX_BYTES = 600
"""S3 and GCS take keys of 1,024 bytes; ours need up to 401 below the prefix."""
_USERS = re.compile(r"""(?<=//)[^\s"'<>]*@|[^\s"'<>@/]+@""")


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


def directory(url: str, parts: SplitResult) -> str:
    """Take a directory out of a URL.

    Raises:
        ConfigError: it is not written as it should be.
    """
    path = unquote(parts.path)
    if parts.netloc or _PLACE.fullmatch(path) is None or ".." in path.split("/"):
        message = f"{redacted(url)!r} is not a file URL"
        raise ConfigError(message, "give file:///directory, with three slashes")
    return str(Path(path))


def bucket(url: str, parts: SplitResult) -> tuple[str, str]:
    """Take a bucket out of a URL, and the prefix in it, without slashes at its ends.

    Raises:
        ConfigError: they are not written as they should be.
    """
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
