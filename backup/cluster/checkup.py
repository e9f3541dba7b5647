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
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from backup.cluster.api import RULES, Api, Rule
from backup.cluster.billing import StatefulSet, read_billing, require_harmless, was_stopped
from backup.cluster.layout import Volume, choose, read_volumes, require_readable
from backup.cluster.lease import Held, Lease, Owner, lease_name
from backup.errors import (
    BillingDownError,
    ClusterDeniedError,
    ClusterError,
    ConfigError,
    JournalMissingError,
)
from backup.events import Finding, Problem, Warned
from backup.model import Clock, Journal, Strategy, StrategySetting

Item = Finding | Problem | Warned

_HINT: Final = "the chart's Role has it (rbac.create); by hand: README of the chart, Rights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the settings say."""

    statefulset: str
    strategy: StrategySetting
    expect_replicas: int = 0
    max_downtime: timedelta | None = None
    allow_stopped: bool = False

    @property
    def may_scale(self) -> bool:
        """Whether a run may scale billing down."""
        is_allowed = self.max_downtime is not None
        return self.strategy == "scale-down" or (self.strategy == "auto" and is_allowed)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rights that a run needs."""
        return RULES["scale-down" if self.may_scale else "colocated"]


def look(
    api: Api, options: Options, *, has_source: Callable[[], bool], clock: Clock
) -> Iterator[Item]:
    """Look at rights, billing, the Lease, and the claims.

    Args:
        api: the cluster.
        options: the settings.
        has_source: tells whether our own pod has BACKUP_SOURCE.
        clock: the time.
    """
    nobody = Owner(pod="", uid="")
    lease = Lease(api, options.statefulset, run_id="", owner=nobody, clock=clock)
    for probe in (
        _rights(api, options),
        _lease(lease, options),
        _billing(api, options, lease, has_source),
    ):
        try:
            yield from probe
        except (ClusterError, ConfigError) as error:
            yield Problem.of(error)


def _rights(api: Api, options: Options) -> Iterator[Item]:
    names = {
        "leases": lease_name(options.statefulset),
        "statefulsets": options.statefulset,
        "statefulsets/scale": options.statefulset,
    }
    missing = [
        f"{verb} {rule.resource}"
        for rule in options.rules
        for verb in rule.verbs
        if not api.may(verb, rule, name=names.get(rule.resource, "") if rule.named else "")
    ]
    if missing:
        yield Problem(
            exit_code=ClusterDeniedError.exit_code,
            message=f"the service account may not: {', '.join(missing)}",
            hints=(_HINT,),
        )
    else:
        where = f"namespace {api.namespace}"
        yield Finding(subject=where, message="grants all the rights that a run needs")


def _lease(lease: Lease, options: Options) -> Iterator[Item]:
    held = lease.read()
    if held is None or not (held.holder or held.record):
        yield Finding(subject=lease.name, message="is free: no run is under way")
    elif not lease.is_stale(held):
        yield Warned(message=f"run {held.holder} is under way")
    elif held.record is not None:
        yield _left_down(held, options)
    else:
        yield Finding(subject=lease.name, message=f"was left by run {held.holder}, and is stale")


def _left_down(held: Held, options: Options) -> Problem:
    replicas = held.record.replicas if held.record else 0
    return Problem(
        exit_code=BillingDownError.exit_code,
        message=f"run {held.holder} has scaled {options.statefulset} down from {replicas}, and "
        "is gone",
        hints=("journal-backup resume-billing, which the guard runs too, brings it back",),
    )


def _billing(
    api: Api, options: Options, lease: Lease, has_source: Callable[[], bool]
) -> Iterator[Item]:
    billing = read_billing(api, options.statefulset)
    yield from _replicas(billing, lease, options)
    if options.may_scale:
        require_harmless(api, billing)
    promised = {_journal(options, n) for n in range(options.expect_replicas)}
    volumes = read_volumes(api.list("persistentvolumeclaims"), billing, expected=promised)
    for volume in volumes:
        yield _claim(volume)
    bound = {journal for volume in volumes if volume.is_bound for journal in volume.journals}
    running = {_journal(options, n) for n in range(billing.replicas)}
    for journal in sorted((promised | running) - bound):
        yield Problem(
            exit_code=JournalMissingError.exit_code,
            message="expected, but there is no volume claim of it that is bound",
            journal=journal,
        )
    yield Finding(subject=billing.name, message=_way(volumes, options, has_source=has_source()))


def _replicas(billing: StatefulSet, lease: Lease, options: Options) -> Iterator[Item]:
    ready = billing.body.get("status", {}).get("readyReplicas", 0)
    of = f"{ready} of {billing.replicas} replicas"
    held = lease.read()
    if billing.replicas == 0 and not (held and held.record) and not options.allow_stopped:
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


def _way(volumes: tuple[Volume, ...], options: Options, *, has_source: bool) -> str:
    strategy: Strategy = (
        choose(volumes, has_source=has_source, may_scale=options.may_scale)
        if options.strategy == "auto"
        else options.strategy
    )
    require_readable(volumes, strategy)
    chosen = ", chosen by auto" if options.strategy == "auto" else ""
    return f"would be backed up by strategy {strategy}{chosen}"


def _journal(options: Options, ordinal: int) -> str:
    return Journal(statefulset=options.statefulset, ordinal=ordinal).name
