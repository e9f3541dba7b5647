"""Errors carry an exit code, a cause and hints; scripts depend on the codes."""

from __future__ import annotations

from typing import Any

import pytest

from backup import errors
from backup.errors import BackupError, SettingsError, SignalledError, SinkError

CODES = {
    "BackupError": 1,
    "ConfigError": 2,
    "SettingsError": 2,
    "SelectorError": 2,
    "TargetError": 2,
    "UnsupportedFormatError": 2,
    "ForeignSiteError": 2,
    "JournalError": 4,
    "JournalMissingError": 4,
    "JournalUnreadableError": 4,
    "JournalChangedError": 4,
    "JournalHoleError": 4,
    "JournalExtraError": 4,
    "SinkError": 5,
    "SinkUnavailableError": 5,
    "SinkStalledError": 5,
    "SinkSlowError": 5,
    "SinkDeniedError": 5,
    "SinkMissingError": 5,
    "SinkFullError": 5,
    "SinkUnsupportedError": 5,
    "ObjectMissingError": 5,
    "ObjectExistsError": 5,
    "ReadbackError": 6,
    "IntegrityError": 6,
    "ManifestError": 6,
    "ArchiveError": 6,
    "ClusterError": 7,
    "ClusterUnavailableError": 7,
    "ClusterDeniedError": 7,
    "ClusterConflictError": 7,
    "ClusterMissingError": 7,
    "LeaseHeldError": 7,
    "LeaseLostError": 7,
    "RefusedError": 7,
    "BillingDownError": 8,
    "DowntimeError": 9,
    "DeadlineError": 9,
    "StopError": 1,
    "SignalledError": 1,
    "StreamAbortedError": 1,
}


def every_error() -> dict[str, Any]:
    """Give every class of the module that is an exception, by name."""
    return {
        name: item
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, Exception)
    }


def test_every_error_has_the_exit_code_of_the_table() -> None:
    """The codes are an interface: a new class needs a line here, a changed one a major release."""
    actual = {name: item.exit_code for name, item in every_error().items()}

    assert actual == CODES


def test_every_error_has_one_root() -> None:
    """What is not a BackupError counts as a bug at the top."""
    strays = [name for name, item in every_error().items() if not issubclass(item, BackupError)]

    assert strays == []


def test_only_what_may_pass_is_transient() -> None:
    """A transient error is worth a second pass; a full disk or a refusal is not."""
    transient = {
        name
        for name, item in every_error().items()
        if issubclass(item, SinkError) and item.transient
    }

    passing = {"SinkUnavailableError", "SinkStalledError", "SinkSlowError", "ReadbackError"}
    assert passing == transient


def test_an_error_keeps_its_cause_and_its_hints_apart() -> None:
    """The terminal shows them in different ways, and JSON in different fields."""
    error = BackupError("the cause", "first do this", "then that")

    assert (
        str(error),
        error.message,
        error.hints,
    ) == ("the cause", "the cause", ("first do this", "then that"))


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ((("BACKUP_SITE is wrong", "mend it"),), "1 setting is wrong"),
        ((("a", "b"), ("c", "d")), "2 settings are wrong"),
    ],
)
def test_a_settings_error_counts_its_problems(
    problems: tuple[tuple[str, str], ...], message: str
) -> None:
    """All of them are reported at once, so the summary says how many there are."""
    error = SettingsError(problems)

    assert (message, problems) == (error.message, error.problems)


def test_a_signal_gives_the_exit_code_that_shells_give() -> None:
    """128 + N; and one error's code does not leak into the class."""
    codes = [SignalledError("stopped", signum=n).exit_code for n in (15, 2)]

    assert (codes, SignalledError.exit_code) == ([143, 130], 1)


def test_a_hole_says_where_it_is() -> None:
    """The reader waits for that very place to be filled."""
    error = errors.JournalHoleError("a hole", offset=4096)

    assert (error.message, error.offset) == ("a hole", 4096)
