"""Back up the usage journals of Deepgram Self-Hosted, and prove that the copies are whole.

One run reads every journal of the billing container once, stores it on one or more sinks, reads
back what it stored, and only then writes the manifest that makes it a backup. Journals are opened
read-only and nothing else on their volume is opened at all.

What is promised: the on-sink format (:mod:`backup.manifest`, :mod:`backup.catalog`) is versioned,
and every later release reads every format of the same or a lower major number; the verbs, their
``--json`` output, the exit codes and the ``BACKUP_*`` settings change only with a major release.
The Python modules are not an API.

To read the code, begin with the words in :mod:`backup.model`, then :mod:`backup.catalog` (what a
backup is, and how one comes to be), then one run, from :mod:`backup.verbs.backup` on.
``CONTRIBUTING.md`` has a line for each module.
"""

__version__ = "0.1.0"
