"""What an API server replies, as an object or an error: statuses, bodies, the lines of a watch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from backup.errors import ClusterConflictError, ClusterDeniedError, ClusterError

OK: Final = 200
DENIED: Final = {401, 403}
BUSY: Final = {429, 500, 503, 504}
_NOT_FOUND = 404
_ERROR = 400
_CONFLICT = 409

_SHOWN_BYTES = 200
"""Of a body that nobody expected."""


def read_reply(status: int, content: bytes, what: str) -> dict[str, Any] | None:
    """Read a reply that is not to be asked for again; None is "not found", which is no error.

    Args:
        status: of the reply.
        content: its body.
        what: what was asked for.

    Raises:
        ClusterConflictError: the object is there already, or is not what it was.
        ClusterDeniedError: a right is missing.
        ClusterError: any other refusal, or not the reply of an API server.
    """
    if status < _ERROR:
        return _object(content)
    if status == _NOT_FOUND:
        return None
    said = message_of(content)
    if status == _CONFLICT:
        raise ClusterConflictError(said)
    if status in DENIED:
        message = f"the cluster refuses: {said}"
        raise ClusterDeniedError(
            message, "grant it: docs/security.md lists what each strategy needs"
        )
    message = f"the cluster refuses {what}: {status} {said}"
    raise ClusterError(message)


def _object(content: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(content)
    except ValueError as error:
        message = f"what answers is no API server: {message_of(content)}"
        raise ClusterError(message, "is there a proxy between? set NO_PROXY") from error
    return found


def message_of(content: bytes) -> str:
    """Give the message of a Status object, or the beginning of what there is instead."""
    try:
        message: str = json.loads(content)["message"]
    except (ValueError, KeyError, TypeError):
        return content[:_SHOWN_BYTES].decode(errors="replace").strip()
    return message


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream into lines that are not empty; what follows the last line's end is torn."""
    held = b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        yield from (line for line in whole if line)


def cause_of(error: Exception) -> str:
    """Say why there is no reply, by what the client raised."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, str):  # an ApiException's, which begins with the name of its cause
        return reason.replace("\n", ": ")
    return f"{type(reason).__name__}: {reason}"
