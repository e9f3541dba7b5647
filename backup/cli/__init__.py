"""The command line: the only composition root and the only printer.

:mod:`~backup.cli.grammar` says what may be typed, :mod:`~backup.cli.wiring` what each verb is made
of, and :mod:`~backup.cli.command` takes one command from its words to its exit code.

Rules:

- ``--help`` and ``version`` import nothing but this wing's own few modules; everything else is
  imported by the verb that needs it.
- Results go to stdout, as text or (``--json``) as exactly one JSON object, whatever happens:
  wrong arguments and bugs too. Logs, progress and errors for people go to stderr.
- The exit code is always one of the table in :mod:`backup.report`. A reader that has gone away
  (``| head``) changes nothing about it; a report that cannot be written is a failure.
- Without a verb the command prints its help and exits with 2: a CronJob that lost its arguments
  must not look like a success.
"""

from backup.cli.command import main

__all__ = ["main"]
