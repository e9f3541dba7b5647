"""Every error that this package raises on purpose, and the exit code that each one means.

Rules:

- One root, :class:`BackupError`. Anything else that reaches the top is a bug and exits 1.
- The exit code is a class attribute (the idea is borg's ``exit_mcode``); the order of severity
  between codes belongs to :mod:`backup.report`.
- Messages are lowercase, without a full stop, and name the cause; what to do about it goes into
  ``hints``, which the terminal shows as ``hint:`` lines (the form is age's).
- A message never holds a secret: it is built from settings' names, paths and redacted URLs.
"""

from __future__ import annotations

from typing import ClassVar, Final

NEEDS_A_LOOK: Final = 3
"""All is safe, but somebody should look: the one exit code that no error has."""


class BackupError(Exception):
    """The root of all declared errors."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *hints: str) -> None:
        """Take the cause, and one sentence for each thing that the reader can do about it."""
        super().__init__(message)
        self.message = message
        self.hints = hints


# -- configuration: exit 2


class ConfigError(BackupError):
    """A setting or an argument is wrong, or contradicts another one."""

    exit_code = 2


class SettingsError(ConfigError):
    """One or more settings are wrong; all of them are named at once."""

    def __init__(self, problems: tuple[tuple[str, str], ...]) -> None:
        """Take pairs of *problem* and *fix*."""
        self.problems = problems
        count = len(problems)
        super().__init__(f"{count} setting{'s are' if count > 1 else ' is'} wrong")


class SelectorError(ConfigError):
    """A selector matches no backup, or more than one."""


class TargetError(ConfigError):
    """The target of a restore is already there, or cannot be written; nothing is overwritten."""


class UnsupportedFormatError(ConfigError):
    """A manifest was written by a newer major version of the format."""


class ForeignSiteError(ConfigError):
    """The prefix of a sink belongs to another site."""


# -- journals: exit 4


class JournalError(BackupError):
    """A journal could not be read as it should be."""

    exit_code = 4


class JournalMissingError(JournalError):
    """The journal is not where it was."""


class JournalUnreadableError(JournalError):
    """The operating system does not let us read it."""


class JournalChangedError(JournalError):
    """It was truncated, replaced or rewritten while it was read."""


class JournalHoleError(JournalChangedError):
    """A NUL inside a live journal: a block that NFS has not filled yet, not data."""

    def __init__(self, message: str, *, offset: int) -> None:
        """Take the offset of the first NUL, in bytes from the journal's start."""
        super().__init__(message)
        self.offset = offset


class JournalExtraError(JournalError):
    """A file beside the journal changed or could not be read; the journal is not to blame."""

    def __init__(self, message: str, *hints: str, path: bytes, is_unreadable: bool) -> None:
        """Take its path in the journal's directory, and whether the system does not let us read."""
        super().__init__(message, *hints)
        self.path = path
        self.is_unreadable = is_unreadable


# -- sinks: exit 5


class SinkError(BackupError):
    """A sink did not do what it was asked. Only these leave a sink, whatever happened in it."""

    exit_code = 5
    transient: ClassVar[bool] = False
    """Whether the same call may succeed a moment later."""


class SinkUnavailableError(SinkError):
    """The sink does not answer, or its answer says to come back later."""

    transient = True


class SinkStalledError(SinkUnavailableError):
    """The sink has taken or given no data for too long."""


class SinkSlowError(SinkUnavailableError):
    """The sink takes data, but so little that the other sinks of a reading had to wait for it."""


class SinkDeniedError(SinkError):
    """The sink refuses us: permissions, credentials, or a read-only file system."""


class SinkMissingError(SinkError):
    """The bucket or directory is not there, or is not mounted."""


class SinkFullError(SinkError):
    """No space or quota is left."""


class SinkUnsupportedError(SinkError):
    """The sink lacks an operation without which nothing can be committed safely."""


class ObjectMissingError(SinkError):
    """The sink has no object of that key."""


class ObjectExistsError(SinkError):
    """The key is taken by an object with other bytes; it is never overwritten."""


class ReadbackError(SinkError):
    """What the sink holds is not what was sent."""

    exit_code = 6
    transient = True


# -- integrity: exit 6


class IntegrityError(BackupError):
    """Stored bytes contradict what is recorded of them."""

    exit_code = 6


class ManifestError(IntegrityError):
    """A manifest is not valid."""


class ArchiveError(IntegrityError):
    """An archive is damaged, or is not one that this package would write."""


# -- the cluster: exit 7


class ClusterError(BackupError):
    """The cluster did not do what it was asked. Only these leave the cluster wing."""

    exit_code = 7


class ClusterUnavailableError(ClusterError):
    """The API server does not answer, or its answers say to come back later."""


class ClusterDeniedError(ClusterError):
    """The service account lacks a right."""


class ClusterConflictError(ClusterError):
    """The object exists already, or is not any more what it was when it was read."""


class ClusterMissingError(ClusterError):
    """An object that has to be there is not."""


class LeaseHeldError(ClusterError):
    """Another run is under way."""


class LeaseLostError(ClusterError):
    """Another run has taken over: this one has to stop where it is."""


class RefusedError(ClusterError):
    """Going on would put journals or billing at risk."""


# -- billing: exit 8


class BillingDownError(BackupError):
    """Billing was scaled down and could not be scaled back."""

    exit_code = 8


# -- being stopped: exit 9, or 128 + the signal's number


class StopError(BackupError):
    """The run has to end before its work is done."""


class DeadlineError(StopError):
    """The time allowed for the whole run is over."""

    exit_code = 9


class DowntimeError(BackupError):
    """Billing comes first: the time that it may be down is over, or would not have sufficed."""

    exit_code = 9


class SignalledError(StopError):
    """A signal asked the process to end."""

    def __init__(self, message: str, *, signum: int) -> None:
        """Take the signal's number."""
        super().__init__(message)
        self.exit_code = 128 + signum  # type: ignore[misc]  # the one code that is not a constant


class StreamAbortedError(BackupError):
    """What a consumer of a stream meets when the stream's source or its run has failed.

    It never reaches a user: whoever started the stream raises the cause instead.
    """
