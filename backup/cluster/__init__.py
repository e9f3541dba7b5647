"""The cluster wing: journals on volumes that a run does not mount itself, and billing's downtime.

It talks to the rest of this package only through Jobs: a worker is a pod of the same image that
runs a hidden verb. So it knows no journal's bytes and no sink; what it has to ask about backups is
handed in by :mod:`backup.cli`.

In the order in which they are best read, and in which alone they import each other:

- :mod:`~backup.cluster.replies`: what an API server replies, as an object or an error
- :mod:`~backup.cluster.api`: what is asked of Kubernetes, and how
- :mod:`~backup.cluster.lease`: the lock between runs, and the record by which billing comes back
- :mod:`~backup.cluster.billing`: the StatefulSet, scaled down and back
- :mod:`~backup.cluster.rescue`: what a run that is gone has left is put right: Jobs, and billing
- :mod:`~backup.cluster.layout`: on which volumes journals are
- :mod:`~backup.cluster.pods`: what becomes of all pods, by one watch, and what explains it
- :mod:`~backup.cluster.workers`: one worker, and how its Job is made
- :mod:`~backup.cluster.crew`: the workers of a run: making them, waiting, taking in what they say;
  and what a strategy is
- :mod:`~backup.cluster.colocated`: a run's copies beside billing, while it runs
- :mod:`~backup.cluster.downtime`: how long billing would be away, may be, and is
- :mod:`~backup.cluster.drafts`: what was put while billing was down becomes backups
- :mod:`~backup.cluster.scaledown`: a run's copies while billing is down
- :mod:`~backup.cluster.strategies`: all strategies, their rights, and the one of a run
- :mod:`~backup.cluster.orchestrator`: a run, from its plan to its result
- :mod:`~backup.cluster.checkup`: what a run would meet, looked at without one
"""
