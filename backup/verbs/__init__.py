"""Verbs: what a user asks for. Each takes its run, the sinks and what was asked; it gives a result.

A verb prints nothing, reads no environment and knows no cluster.

Begin with :mod:`~backup.verbs.backup`, a run, and :mod:`~backup.transfer`, one journal of it;
:mod:`~backup.verbs.commit` finishes what was put while billing was down. What reads backups begins
with :mod:`~backup.catalog.selection` (which one is meant) and ends in
:mod:`~backup.retrieval.extraction` (its bytes, proved).
"""
