"""The place that a sink's URL names, with its options.

Rules:

- ``file:///directory``, ``s3://bucket/prefix``, ``gs://bucket/prefix``; options of one sink stand
  in its query. What a query does not say is what the settings say.
- Checking a URL imports no SDK and touches no place.
- What a query's value may be is for the kind's own rules to say: see :mod:`backup.sinks.kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import ValidationError

from backup.errors import ConfigError
from backup.sinks.kinds import KINDS, QUERY, SCHEMES, Options, fix
from backup.sinks.urls import redacted, refused

O_co = TypeVar("O_co", bound=Options, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Generic[O_co]):
    """A sink's URL, taken apart and checked."""

    bucket: str = ""
    """Empty for a file sink."""
    path: str
    """The directory, or the prefix in the bucket, without slashes at its ends."""
    options: O_co

    @property
    def prefix(self) -> str:
        """What all keys in the bucket begin with."""
        return f"{self.path}/" if self.path else ""

    def __str__(self) -> str:
        """Read as what is shown of it: two places never read alike."""
        scheme = self.options.scheme
        if not self.bucket:
            return f"{scheme}://{self.path}"
        place = f"{scheme}://{self.bucket}/{self.path}".rstrip("/")
        endpoint = getattr(self.options, "endpoint", None)
        return place if endpoint is None else f"{place}?endpoint={endpoint}"


def locate(url: str, kinds: Mapping[str, Options] = KINDS) -> Place[Any]:
    """Take a sink's URL apart, without touching the place.

    Args:
        url: the URL.
        kinds: the options of each kind, which the query overrides.

    Raises:
        ConfigError: it is not a URL of a sink.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise refused(url, "is not a URL", f"give {SCHEMES}") from error
    kind = kinds.get(parts.scheme)
    if kind is None:
        raise refused(url, f"has the scheme {parts.scheme!r}", f"give {SCHEMES}")
    bucket, path = kind.place(url, parts)
    options = kind.model_copy(update=_query(url, parts, type(kind)))
    return Place(bucket=bucket, path=path, options=options)


def _query(url: str, parts: SplitResult, kind: type[Options]) -> dict[str, object]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    given, known = dict(pairs), kind.model_fields
    if unknown := sorted(given.keys() - known.keys()) or ["#"] * bool(parts.fragment):
        hint = f"this kind of sink knows {', '.join(known)}"
        raise refused(url, f"has an unknown option {unknown[0]!r}", hint)
    if len(given) < len(pairs):
        raise refused(url, "gives an option twice", "give each option once")
    return {name: _option(url, kind, name, value) for name, value in given.items()}


def _option(url: str, kind: type[Options], name: str, value: str) -> object:
    try:
        return getattr(kind.model_validate({name: value}, context=QUERY), name)
    except ValidationError as error:
        (wrong,) = error.errors(include_url=False)
        choices = wrong.get("ctx", {}).get("expected", "").replace("'", "")
        hint = f"give {choices}" if choices else fix(wrong)
        shown = "" if "@" in value else f" {value!r}"  # it may hold a password
        message = f"{redacted(url)!r}: {name} is{shown or ' not valid'}"
        raise ConfigError(message, f"{name}: {hint}") from None  # the cause shows the value
