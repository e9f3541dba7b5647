"""Each right that a strategy is granted is needed, and a missing one is named.

:data:`backup.cluster.strategies.RULES` is what the chart grants. Here a service account has these
rights and no more, with which runs are good; and with each one of them taken away, a run that comes
to need it ends with exit code 7 (8, where billing may be down for it) and says which it was, with
billing as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from backup.cluster.api import Rule
from backup.cluster.lease import RECORD, lease_name
from backup.cluster.rescue import STATEFULSET_LABEL
from backup.cluster.strategies import RULES
from tests.cluster.controlplane import until
from tests.cluster.site import BILLING, Site


def without(rules: tuple[Rule, ...], resource: str, verb: str) -> Iterator[Rule]:
    """Take a right away."""
    for rule in rules:
        if rule.resource != resource:
            yield rule
        elif verbs := tuple(v for v in rule.verbs if v != verb):
            yield replace(rule, verbs=verbs)


def each(strategy: str) -> list[tuple[str, str]]:
    """Name the rights of a strategy."""
    return [(rule.resource, verb) for rule in RULES[strategy] for verb in rule.verbs]


def leave_a_worker(here: Site) -> None:
    """Have a worker of a run that is gone in the way: it has to be deleted."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "backup", "image": "localhost/none"}]}
    here.create(
        "jobs",
        "left",
        metadata={"labels": {STATEFULSET_LABEL: BILLING}},
        spec={"suspend": True, "template": {"spec": pod}},
    )


def create_billing(here: Site, strategy: str) -> None:
    """Have billing, with a volume for which `auto` becomes a scale-down, if it may."""
    mode = "ReadWriteOncePod" if strategy == "auto" else "ReadWriteOnce"
    here.create_billing(replicas=1, mode=mode)
    if strategy == "auto":
        here.env["BACKUP_MAX_DOWNTIME"] = "2m"


def bring_about(here: Site, strategy: str, resource: str, verb: str) -> None:
    """Have a run come to need a right that not every run needs."""
    if (resource, verb) == ("leases", "update"):  # without a Lease, one is only created
        here.grant(*RULES[strategy])
        assert here.ended(here.run_backup(strategy)).exit_code == 0
    if (resource, verb) == ("jobs", "delete"):
        leave_a_worker(here)
    if (strategy, resource) == ("colocated", "statefulsets/scale"):
        leave_a_record(here)


def leave_a_record(here: Site) -> None:
    """Have a record of a run that is gone, and billing up all the same."""
    here.leave_down(of="run-that-is-gone")
    here.scale(1)
    here.await_billing(1)


MORE = [right for right in each("auto") if right not in each("colocated")]
"""What `auto` needs beside the rights of workers beside billing, once it may scale billing down."""


@pytest.mark.parametrize(
    ("strategy", "resource", "verb"),
    [
        *(("colocated", *right) for right in each("colocated")),
        *(("scale-down", *right) for right in each("scale-down")),
        *(("auto", *right) for right in MORE),
    ],
)
def test_a_right_that_is_missing_is_named(
    here: Site, strategy: str, resource: str, verb: str
) -> None:
    """Before billing goes, or with billing back."""
    create_billing(here, strategy)
    bring_about(here, strategy, resource, verb)
    here.grant(*without(RULES[strategy], resource, verb))
    if resource == "events":
        here.refuse_pods()
    ended = here.ended(here.run_backup(strategy))

    is_in_doubt = (strategy, resource) == ("colocated", "statefulsets/scale")
    assert ended.exit_code == (8 if is_in_doubt else 7), ended.log
    assert f'cannot {verb} resource "{resource}"' in ended.log.replace('\\"', '"')
    assert here.replicas() == 1
    here.await_billing(1)


@pytest.mark.parametrize(
    ("strategy", "resource", "verb"),
    [("scale-down", *right) for right in {**dict.fromkeys(each("scale-down"))}],
)
def test_the_doctor_names_a_right_that_is_missing(
    here: Site, strategy: str, resource: str, verb: str
) -> None:
    """Before a run has come to need it."""
    create_billing(here, strategy)
    here.grant(*without(RULES[strategy], resource, verb))
    ended = here.ended(here.run_backup(strategy, "doctor", "--json"))

    assert ended.exit_code == 7, ended.log
    said = [problem["message"] for problem in ended.report["problems"]]
    assert f"the service account may not: {verb} {resource}" in said


@pytest.mark.parametrize("strategy", ["colocated", "scale-down", "auto"])
def test_a_doctor_with_these_rights_finds_nothing_wrong(here: Site, strategy: str) -> None:
    """It needs no others itself."""
    create_billing(here, strategy)
    here.grant(*RULES[strategy])
    ended = here.ended(here.run_backup(strategy, "doctor", "--json"))

    assert ended.exit_code == 0, ended.log
    assert here.get("leases", lease_name(BILLING)) is None


@pytest.mark.parametrize(
    ("strategy", "becomes"),
    [
        ("colocated", "colocated"),
        ("scale-down", "scale-down"),
        ("auto", "colocated"),  # who sets no maxDowntime in the chart grants no more
        ("auto", "scale-down"),
    ],
)
def test_these_rights_are_enough(here: Site, strategy: str, becomes: str) -> None:
    """With something left to clear away, too."""
    create_billing(here, strategy if becomes == "scale-down" else becomes)
    leave_a_worker(here)
    here.grant(*RULES["colocated" if becomes == "colocated" else strategy])
    ended = here.ended(here.run_backup(strategy))

    assert ended.exit_code == 0, ended.log
    assert ended.report["strategy"] == becomes
    until(lambda: here.get("jobs", "left") is None, "what was left is gone")


def test_a_record_of_another_strategy_is_no_trouble_where_billing_is_up(here: Site) -> None:
    """Who has changed to workers beside billing may not scale it, and need not."""
    here.create_billing(replicas=1)
    leave_a_record(here)
    here.grant(*RULES["colocated"])
    ended = here.ended(here.run_backup("colocated"))

    assert ended.exit_code == 0, ended.log
    assert RECORD not in here.get("leases", lease_name(BILLING))["metadata"]["annotations"]


@pytest.mark.parametrize(("resource", "verb"), each("resume-billing"))
def test_a_right_that_the_guard_lacks_is_named(here: Site, resource: str, verb: str) -> None:
    """By a code of its own where billing stays down for it."""
    here.create_billing(replicas=1)
    here.leave_down(of="run-that-is-gone")
    leave_a_worker(here)
    here.plane.kubectl(
        "-n", here.namespace, "label", "job/left", "deepgram-journal-backup/run=run-that-is-gone"
    )
    here.grant(*without(RULES["resume-billing"], resource, verb))
    ended = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))
    here.grant(*RULES["resume-billing"])
    after = here.ended(here.run_backup("scale-down", "resume-billing", "--json"))

    assert ended.exit_code in {7, 8}, ended.log
    assert f'cannot {verb} resource "{resource}"' in ended.log.replace('\\"', '"')
    assert after.exit_code == 0, after.log
    assert here.replicas() == 1
