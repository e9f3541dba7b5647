"""One journal's way to the sinks: read once, sent to each, proved there, committed.

From the outside in: :mod:`~backup.transfer.journal` is one journal of a run,
:mod:`~backup.transfer.destination` one sink for it, :mod:`~backup.transfer.bounds`
what is read of it, :mod:`~backup.transfer.passes` one reading,
:mod:`~backup.transfer.increments` what need not be sent twice, and
:mod:`~backup.transfer.plan` what holds for all of them.
"""
