"""The Kubernetes API, as narrow as this package needs it. The only importer of ``kubernetes``.

Rules:

- Objects are what the API sends: dictionaries. Nothing here knows what they mean.
- Errors are mapped once, here and in :mod:`backup.cluster.replies`. 404, 409, 401 and 403 are
  answers. After 429, 500, 503, 504 and lost connections it is asked again, until the patience is
  over: an API server that is upgraded is away for half a minute.
- So a write may be made twice, and the second time meet itself as a conflict. Whoever writes has
  to be fine with that: names are unique to a run, and what was lost is read again.
- Writes of what others write too carry the ``resourceVersion`` that was read: compare and swap.
  Billing is scaled by PUT on ``statefulsets/scale`` and in no other way. (With ``patch`` on the
  main object one could change its image; and a patch there takes the field over, so that later
  server-side applies meet a conflict.)
- What happens to pods is learned by one list and one watch, whatever their number.
- The token is read anew for each request: the kubelet rotates it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from backup.cluster.replies import BUSY, DENIED, OK, cause_of, lines, message_of, read_reply
from backup.errors import (
    ClusterConflictError,
    ClusterMissingError,
    ClusterUnavailableError,
    ConfigError,
    DeadlineError,
)
from backup.stop import Stop
from backup.streams import call

Object = dict[str, Any]
"""An object of the API, as JSON has it."""
Objects = list[Object]
_Query = Mapping[str, str]
_Body = Object | Objects | None

Kind = Literal["statefulsets", "pods", "persistentvolumeclaims", "jobs", "leases", "events"]

PATIENCE_SECONDS: Final = 90.0
"""How long an API server that is away is waited for."""
ANSWER_SECONDS: Final = 20.0
"""How long one request may take to be answered."""
ROLES_SECONDS: Final = 15.0
"""For this long after an outage 401 and 403 are retried: an API server listens before it has loaded
its roles (seen at 1.34)."""
PAUSE_SECONDS: Final = 1.0
"""Before a watch is opened again, so that a server that ends each at once is not flooded."""
WATCH_SECONDS: Final = 300
"""After this long the server ends a watch, and it is taken up where it ended."""

_GROUPS: Mapping[str, str] = {
    "statefulsets": "apps",
    "jobs": "batch",
    "leases": "coordination.k8s.io",
}
"""Of the kinds that are not in the core."""
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_PIECE_BYTES = 1 << 16
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A right that a strategy needs in its namespace."""

    group: str
    resource: str
    verbs: tuple[str, ...]
    named: bool = False
    """Whether it can be granted on the one object that it is about, by its name."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch reports: an object as it is now, or gone; or, first, all that there are."""

    objects: tuple[Object, ...]
    kind: Literal["all", "there", "gone"]


@dataclass(slots=True)
class Calls:
    """What is remembered of requests."""

    made: int = 0
    away_at: float = -math.inf
    """When the API server was last not there, in seconds of :func:`time.monotonic`."""


@dataclass(slots=True, eq=False, repr=False)
class Api:  # half of its methods are what can be asked, and half how
    """What the cluster wing asks of Kubernetes, in one namespace, by HTTP."""

    client: Any
    """A kubernetes.client.ApiClient, which has no types: it knows where and who we are."""
    namespace: str
    _: KW_ONLY
    stop: Stop
    """Asked wherever there is something to wait for."""
    patience: float = PATIENCE_SECONDS
    """Seconds for retries."""
    calls: Calls = field(default_factory=Calls)

    def under(self, stop: Stop, *, patience: float | None = None) -> Self:
        """Return this API with another stop, and perhaps another patience."""
        return replace(self, stop=stop, patience=self.patience if patience is None else patience)

    def get(self, kind: Kind, name: str, *, sub: str = "") -> Object | None:
        """Read an object, or a subresource of it; None if it is not there."""
        return self._ask("GET", self._path(kind, name, sub))

    def list(self, kind: Kind, *, labels: str = "", fields: str = "") -> Objects:
        """List the objects that selectors fit."""
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {name: value for name, value in selectors.items() if value}
        items: Objects = self._ask_about_all("GET", kind, query=query)["items"]
        return items

    def create(self, kind: Kind, body: Object) -> Object:
        """Create an object.

        Raises:
            ClusterConflictError: the name is taken; perhaps by a try of ours whose reply was lost.
        """
        return self._ask_about_all("POST", kind, body)

    def replace(self, kind: Kind, name: str, body: Object, *, sub: str = "") -> Object:
        """Write an object whose ``resourceVersion`` is still what the body says.

        Raises:
            ClusterConflictError: it is not; perhaps by a try of ours whose reply was lost.
        """
        stored = self._ask("PUT", self._path(kind, name, sub), body)
        if stored is None:
            message = f"{kind} {name} is gone"
            raise ClusterConflictError(message)
        return stored

    def patch(self, kind: Kind, name: str, body: Objects) -> None:
        """Change an object by JSON patch; one that does not exist is ignored."""
        self._ask("PATCH", self._path(kind, name), body)

    def delete(self, kind: Kind, name: str, *, uid: str | None = None) -> None:
        """Delete an object and, in the background, what it owns.

        One that does not exist is ignored.

        Args:
            kind: its kind.
            name: its name.
            uid: delete only the object that has it.
        """
        options: Object = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        with suppress(ClusterConflictError):  # another one has its name now
            self._ask("DELETE", self._path(kind, name), options)

    def may(self, verb: str, rule: Rule, *, name: str = "") -> bool:
        """Ask whether we have a right, as anybody who is somebody may (``system:basic-user``).

        Args:
            verb: one of the rule's.
            rule: about which resource.
            name: on the object of this name; empty: on all.
        """
        resource, _, sub = rule.resource.partition("/")
        wanted = {"namespace": self.namespace, "verb": verb, "group": rule.group, "name": name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**wanted, "resource": resource, "subresource": sub}},
        }
        review = self._ask("POST", _REVIEWS, body) or {}
        return bool(review["status"].get("allowed"))

    def changes(self, kind: Kind) -> Iterator[Change]:
        """Report all objects of a kind, and then what changes, for ever."""
        while True:
            listed = self._ask_about_all("GET", kind)
            version = listed["metadata"]["resourceVersion"]
            yield Change(tuple(listed["items"]), "all")
            while version:
                for kind_of_change, changed in self._watch(kind, version):
                    is_broken = kind_of_change == "ERROR"  # and then all is listed anew
                    version = "" if is_broken else changed["metadata"]["resourceVersion"]
                    if kind_of_change in _KINDS_OF_CHANGE:
                        yield Change((changed,), _KINDS_OF_CHANGE[kind_of_change])
                self.stop.sleep(PAUSE_SECONDS)

    def _watch(self, kind: Kind, version: str) -> Iterator[tuple[str, Object]]:
        """Read one watch to its end. A broken watch yields ``ERROR``, and the caller lists anew."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        try:
            response = self._send("GET", self._path(kind), query, seconds=WATCH_SECONDS + 30)
            if response.status == OK:
                for line in lines(response.stream(_PIECE_BYTES)):
                    event = json.loads(line)
                    yield event["type"], event["object"]
                return
            content = response.read()
            if response.status in DENIED and not self._may_not_know_roles_yet(response.status):
                read_reply(response.status, content, "a watch")
        except self._lost:
            self.calls.away_at = time.monotonic()
        except ValueError:  # what came is no event
            pass
        yield "ERROR", {}

    # -- requests

    def _path(self, kind: Kind, name: str = "", sub: str = "") -> str:
        version = f"apis/{_GROUPS[kind]}/v1" if kind in _GROUPS else "api/v1"
        parts = (version, "namespaces", self.namespace, kind, name, sub)
        return "/" + "/".join(part for part in parts if part)

    @property
    def _lost(self) -> tuple[type[Exception], ...]:
        """What the client raises where there is no answer; the latter for TLS that fails."""
        from kubernetes.client import ApiException  # noqa: PLC0415 - start-up
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - start-up

        return HTTPError, ApiException

    def _ask_about_all(
        self, method: str, kind: Kind, body: Object | None = None, *, query: _Query | None = None
    ) -> Object:
        """Ask about a whole kind, where 404 can only mean that the namespace is missing."""
        found = self._ask(method, self._path(kind), body, query=query)
        if found is None:
            message = f"there are no {kind} to ask for: is there a namespace {self.namespace}?"
            raise ClusterMissingError(message)
        return found

    def _ask(
        self, method: str, path: str, body: _Body = None, *, query: _Query | None = None
    ) -> Object | None:
        """Ask until there is an answer; give it, or None where nothing is there.

        Raises:
            ClusterUnavailableError: there is none.
            ClusterDeniedError, ClusterConflictError, ClusterError: the answer is no.
        """
        failed: list[str] = []
        retrying = Retrying(
            stop=stop_after_delay(self.patience),
            wait=wait_random_exponential(multiplier=0.2, max=5),
            retry=retry_if_exception_type(ClusterUnavailableError),
            before_sleep=lambda now: failed.append(str(now.outcome and now.outcome.exception())),
            sleep=self.stop.sleep,
            reraise=True,
        )
        try:
            return retrying(self._ask_once, method, path, query or {}, body)
        except DeadlineError as error:
            if not failed:
                raise
            message = f"{failed[-1]}, and {error.message}"
            raise DeadlineError(message, _AWAY) from error

    def _ask_once(self, method: str, path: str, query: _Query, body: _Body) -> Object | None:
        def request() -> tuple[int, bytes]:
            response = self._send(method, path, query, body)
            return response.status, response.read()

        try:
            status, content = call(request, stop=self.stop)
        except self._lost as error:
            self.calls.away_at = time.monotonic()
            message = f"the API server does not answer: {cause_of(error)}"
            raise ClusterUnavailableError(message, _AWAY) from error
        if status in BUSY or self._may_not_know_roles_yet(status):
            message = f"the API server is busy: {status} {message_of(content)}"
            raise ClusterUnavailableError(message, _AWAY)
        return read_reply(status, content, f"{method} {path}")

    def _may_not_know_roles_yet(self, status: int) -> bool:
        """Whether a refusal is that of an API server that was away until a moment ago."""
        return status in DENIED and time.monotonic() - self.calls.away_at < ROLES_SECONDS

    def _send(
        self,
        method: str,
        path: str,
        query: _Query,
        body: _Body = None,
        *,
        seconds: float = ANSWER_SECONDS,
    ) -> Any:  # noqa: ANN401 - as the client
        self.calls.made += 1
        sent = "application/json-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": sent}
        request = self.client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return self.client.call_api(*request, _request_timeout=(ANSWER_SECONDS, seconds)).response


_AWAY = "is the control plane up? what can be reached from this pod?"
_KINDS_OF_CHANGE: Mapping[str, Literal["there", "gone"]] = {
    "ADDED": "there",
    "MODIFIED": "there",
    "DELETED": "gone",
}


# -- where we are


def connect(*, stop: Stop) -> Api:
    """Find the cluster: that of the pod, or of ``KUBECONFIG`` outside of one.

    Raises:
        ConfigError: there is none.
    """
    from kubernetes import client, config  # noqa: PLC0415 - start-up: 0.4 s
    from yaml import YAMLError  # noqa: PLC0415 - comes with it

    load: Any = config
    settings: Any = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            load.load_incluster_config(client_configuration=settings)
            settings.refresh_api_key_hook = _read_token
            namespace = (_ACCOUNT / "namespace").read_text().strip()
        else:
            path = os.environ.get("KUBECONFIG")  # the package reads it when it is imported
            load.load_kube_config(path, client_configuration=settings)
            _, active = load.list_kube_config_contexts(path)
            namespace = active["context"].get("namespace", "default")
    except (config.ConfigException, OSError, YAMLError) as error:
        what = " ".join(str(error).split()).rstrip(".").lower()
        message = f"there is no cluster to ask: {what}"
        raise ConfigError(
            message,
            "a backup by BACKUP_STRATEGY=direct needs none",
            "in a pod: automountServiceAccountToken: true",
            f"elsewhere: KUBECONFIG, which is {os.environ.get('KUBECONFIG') or 'not set'}",
        ) from error
    settings.retries = False  # they are made here
    settings.keep_alive = True  # a watch whose server has vanished is to end within a minute
    namespace = os.environ.get("POD_NAMESPACE") or namespace
    return Api(client.ApiClient(settings), namespace, stop=stop)


def _read_token(settings: Any) -> None:  # noqa: ANN401 - as the client
    settings.api_key["BearerToken"] = f"Bearer {(_ACCOUNT / 'token').read_text().strip()}"
