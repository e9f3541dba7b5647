"""What the cluster has to say to ``doctor``: nothing is changed, neither a Lease nor billing.

Rules:

- The rights are asked for one by one (SelfSubjectAccessReview), those that the strategy needs and
  no others, so that a missing one is named before a night's run meets it.
- What a run would refuse (a claim that no second pod may mount, a scale-down that would delete
  journals) is said in the same words, by the same code.
- Billing that a run left at 0 is told with the line that brings it back. Bringing it back is for
  ``resume-billing``: whoever looks is not to be surprised by what that does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from backup.cluster.api import Api
from backup.cluster.billing import (
    StatefulSet,
    journals_of,
    read_billing,
    require_harmless,
    was_stopped,
)
from backup.cluster.layout import Volume, bound_journals, read_volumes
from backup.cluster.lease import Lease, Owner
from backup.cluster.strategies import decide, rights_of
from backup.errors import (
    BillingDownError,
    ClusterDeniedError,
    ClusterError,
    ConfigError,
    JournalMissingError,
)
from backup.events import Finding, Problem, Warned
from backup.run import Run
from backup.settings import ClusterSettings

Item = Finding | Problem | Warned

_HINT: Final = "the chart's Role has it (rbac.create); by hand: README of the chart, Rights"


def look(
    run: Run, api: Api, settings: ClusterSettings, *, has_source: Callable[[], bool]
) -> Iterator[Item]:
    """Look at rights, billing, the Lease, and the claims.

    Args:
        run: whose clock tells what is stale.
        api: the cluster.
        settings: how journals are reached.
        has_source: see :func:`~backup.cluster.strategies.decide`.
    """
    lease = Lease(run, api, settings.statefulset, owner=Owner())
    for probe in (
        _rights(lease, settings),
        _lease(lease),
        _billing(lease, settings, has_source),
    ):
        try:
            yield from probe
        except (ClusterError, ConfigError) as error:
            yield Problem.of(error)


def _rights(lease: Lease, settings: ClusterSettings) -> Iterator[Item]:
    api, billing = lease.api, lease.statefulset
    names = {"leases": lease.name, "statefulsets": billing, "statefulsets/scale": billing}
    missing = [
        f"{verb} {rule.resource}"
        for rule in rights_of(settings)
        for verb in rule.verbs
        if not api.may(verb, rule, name=names.get(rule.resource, "") if rule.named else "")
    ]
    if missing:
        message = f"the service account may not: {', '.join(missing)}"
        yield Problem.of(ClusterDeniedError(message, _HINT))
    else:
        where = f"namespace {api.namespace}"
        yield Finding(subject=where, message="grants all the rights that a run needs")


def _lease(lease: Lease) -> Iterator[Item]:
    held = lease.read()
    if held is None or not (held.holder or held.record):
        yield Finding(subject=lease.name, message="is free: no run is under way")
    elif not lease.is_stale(held):
        yield Warned(message=f"run {held.holder} is under way")
    elif held.record is not None:
        down = f"has scaled {lease.statefulset} down from {held.record.replicas}, and is gone"
        hint = "journal-backup resume-billing, which the guard runs too, brings it back"
        yield Problem.of(BillingDownError(f"run {held.holder} {down}", hint))
    else:
        yield Finding(subject=lease.name, message=f"was left by run {held.holder}, and is stale")


def _billing(
    lease: Lease, settings: ClusterSettings, has_source: Callable[[], bool]
) -> Iterator[Item]:
    api, billing = lease.api, read_billing(lease.api, lease.statefulset)
    yield from _replicas(billing, lease, settings)
    if settings.may_scale:
        require_harmless(api, billing)
    promised = journals_of(billing.name, settings.expect_replicas)
    volumes = read_volumes(api.list("persistentvolumeclaims"), billing, expected=promised)
    for volume in volumes:
        yield _claim(volume)
    for journal in sorted((promised | billing.journals) - bound_journals(volumes)):
        why = "expected, but there is no volume claim of it that is bound"
        promises = billing.promises(journal, replicas=settings.expect_replicas)
        yield Problem.of(JournalMissingError(why, *promises), journal=journal)
    strategy = decide(settings, volumes, has_source=has_source)
    chosen = ", chosen by auto" if settings.strategy == "auto" else ""
    message = f"would be backed up by strategy {strategy}{chosen}"
    yield Finding(subject=billing.name, message=message)


def _replicas(billing: StatefulSet, lease: Lease, settings: ClusterSettings) -> Iterator[Item]:
    ready = billing.body.get("status", {}).get("readyReplicas", 0)
    of = f"{ready} of {billing.replicas} replicas"
    held = lease.read()
    if billing.replicas == 0 and not (held and held.record) and not settings.allow_stopped:
        yield was_stopped(billing)
    elif ready < billing.replicas:
        yield Warned(message=f"{billing.name} has {of} ready")
    else:
        yield Finding(subject=billing.name, message=f"has {of} ready")


def _claim(volume: Volume) -> Item:
    modes = ", ".join(volume.access_modes)
    if not volume.is_bound:
        return Warned(message=f"the claim {volume.claim} is not bound")
    holds = "for all journals" if volume.is_shared else "for one journal"
    return Finding(subject=volume.claim, message=f"is bound, {modes}, {holds}")
