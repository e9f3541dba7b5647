"""URLs: what may be shown of them, and how one is refused.

Rules:

- A URL holds no credentials: they belong to the SDKs' own chains. One that seems to is refused, and
  neither user nor query is ever shown; only the endpoint is, as it tells two places apart. What an
  SDK says may quote a URL that is not ours (of an endpoint in its own settings, of a proxy): it is
  shown without its user, too.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from backup.errors import ConfigError

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


def refused(url: str, what: str, fix: str) -> ConfigError:
    """Make the error that says what is wrong with a URL, and how it should be."""
    return ConfigError(f"{redacted(url)!r} {what}", fix)


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
