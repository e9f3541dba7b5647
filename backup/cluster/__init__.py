"""The cluster wing: journals on volumes that a run does not mount itself, and billing's downtime.

It talks to the rest of this package only through Jobs: a worker is a pod of the same image that
runs a hidden verb. So it knows no journal's bytes and no sink; what it has to ask about backups is
handed in by :mod:`backup.cli`.
"""
