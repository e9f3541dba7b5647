"""The Kubernetes API by HTTP: what is asked, what answers mean, and what is asked again.

The API server is a door (:mod:`tests.httpd`) that answers what a test has scripted. The real one
is in ``tests/cluster``.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any, get_args

import pytest
from kubernetes import client
from kubernetes.config import incluster_config

from backup.cluster import api
from backup.cluster.api import Api, Calls, Change, Rule, connect
from backup.cluster.strategies import RULES
from backup.errors import (
    ClusterConflictError,
    ClusterDeniedError,
    ClusterError,
    ClusterMissingError,
    ClusterUnavailableError,
    ConfigError,
    DeadlineError,
    SignalledError,
)
from backup.stop import Stop
from tests import httpd
from tests.httpd import Act, Answer, Door, Exchange
from tests.servers.certificates import Certificates, certificates

LEASES = "/apis/coordination.k8s.io/v1/namespaces/billing/leases"
PODS = "/api/v1/namespaces/billing/pods"
POD = {"kind": "Pod", "metadata": {"name": "a", "resourceVersion": "8"}}
LONG = 30.0
"""Seconds: more than any of this takes."""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take watches up at once, and go through no proxy of the machine."""
    monkeypatch.setattr(api, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def door() -> Iterator[Door]:
    """Serve."""
    with httpd.serving() as door:
        yield door


def asking(door: Door, *, stop: Stop | None = None, patience: float = 0.0) -> Api:
    """Make the client; without patience it asks once."""
    settings: Any = client.Configuration()
    settings.host = door.endpoint
    settings.retries = False
    return Api(client.ApiClient(settings), "billing", stop=stop or Stop(), patience=patience)


def serving_as(made: Certificates) -> SSLContext:
    """Give a server's side of TLS."""
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server.chain, made.server.key)
    return context


def says(status: int, body: Any = None) -> Act:
    """Answer with JSON, having read what was sent."""
    data = b"" if body is None else json.dumps(body).encode()

    def act(exchange: Exchange) -> None:
        exchange.body  # noqa: B018 - it is read
        exchange.reply(Answer(status=status, body=data))

    return act


def refuses(status: int, message: str) -> Act:
    """Answer with a Status, as the API server does."""
    return says(status, {"kind": "Status", "message": message, "code": status})


def hang_up(exchange: Exchange) -> None:
    """Drop the connection."""
    exchange.hang_up()


class Taken:
    """An act that remembers what was sent, and answers with it."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def __call__(self, exchange: Exchange) -> None:
        """Take a request."""
        self.bodies.append(json.loads(exchange.body))
        exchange.reply(Answer(status=200, body=exchange.body))


# -- requests


@pytest.mark.parametrize("answer", [True, False, None])
def test_a_right_is_asked_for(door: Door, answer: bool | None) -> None:  # noqa: FBT001 - the answer
    """Of ourselves, which anybody may."""
    taken = Taken()
    status = {} if answer is None else {"allowed": answer}

    def reply(exchange: Exchange) -> None:
        taken.bodies.append(json.loads(exchange.body))
        exchange.reply(Answer(status=201, body=json.dumps({"status": status}).encode()))

    door.on(httpd.is_("POST"), reply)
    rule = Rule(group="apps", resource="statefulsets/scale", verbs=("get", "update"), named=True)

    assert asking(door).may("update", rule, name="deepgram-billing") is bool(answer)
    (asked,) = door.requests
    assert asked.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert taken.bodies[0]["spec"]["resourceAttributes"] == {
        "namespace": "billing",
        "verb": "update",
        "group": "apps",
        "resource": "statefulsets",
        "subresource": "scale",
        "name": "deepgram-billing",
    }


def test_an_object_is_read(door: Door) -> None:
    """As the API sends it; without an account there is no token to send."""
    door.on(httpd.is_("GET"), says(200, POD))

    assert asking(door).get("pods", "a") == POD
    (asked,) = door.requests
    assert (asked.path, asked.query) == (f"{PODS}/a", {})
    assert "authorization" not in asked.headers


def test_an_object_that_is_not_there_is_none(door: Door) -> None:
    """That is an answer, and no error; nor is it asked again."""
    door.on(httpd.is_("GET"), refuses(404, "not found"))

    assert asking(door, patience=LONG).get("pods", "a") is None
    assert len(door.requests) == 1


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("statefulsets", "/apis/apps/v1/namespaces/billing/statefulsets/a/scale"),
        ("pods", f"{PODS}/a/scale"),
        ("persistentvolumeclaims", "/api/v1/namespaces/billing/persistentvolumeclaims/a/scale"),
        ("jobs", "/apis/batch/v1/namespaces/billing/jobs/a/scale"),
        ("leases", f"{LEASES}/a/scale"),
        ("events", "/api/v1/namespaces/billing/events/a/scale"),
    ],
)
def test_each_kind_has_its_path(door: Door, kind: api.Kind, path: str) -> None:
    """Its group, the namespace, and the subresource last."""
    door.on(httpd.is_("GET"), says(200, {}))

    asking(door).get(kind, "a", sub="scale")
    assert door.requests[0].path == path


@pytest.mark.parametrize(
    ("selectors", "query"),
    [
        ({}, {}),
        ({"labels": "run=1,of in (a,b)"}, {"labelSelector": "run=1,of in (a,b)"}),
        (
            {"labels": "x=y", "fields": "involvedObject.name=a"},
            {"labelSelector": "x=y", "fieldSelector": "involvedObject.name=a"},
        ),
    ],
)
def test_a_list_is_selected_by_the_server(
    door: Door, selectors: dict[str, str], query: dict[str, str]
) -> None:
    """Not by us: there may be thousands. What is not selected by is not sent at all."""
    door.on(httpd.is_("GET"), says(200, {"items": [POD]}))

    assert asking(door).list("pods", **selectors) == [POD]
    assert (door.requests[0].path, door.requests[0].query) == (PODS, query)


def test_an_object_is_created(door: Door) -> None:
    """What is given back is what was stored: with a uid, say."""
    taken = Taken()
    door.on(httpd.is_("POST", ends="/pods"), taken)

    assert asking(door).create("pods", POD) == POD
    assert taken.bodies == [POD]


def test_a_name_that_is_taken_is_a_conflict(door: Door) -> None:
    """The server's words are kept; asking again would not help."""
    door.on(httpd.is_("POST"), refuses(409, 'pods "a" already exists'))

    with pytest.raises(ClusterConflictError, match='pods "a" already exists'):
        asking(door, patience=LONG).create("pods", POD)
    assert len(door.requests) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda asked: asked.create("pods", POD),
        lambda asked: asked.list("pods"),
        lambda asked: next(asked.changes("pods")),
    ],
)
def test_a_namespace_that_is_not_there_is_an_error(
    door: Door, ask: Callable[[Api], object]
) -> None:
    """Nothing was made, and nothing is not what there is: neither may look like success."""
    door.on(httpd.is_(), refuses(404, 'namespaces "billing" not found'))

    with pytest.raises(ClusterMissingError, match="is there a namespace billing"):
        ask(asking(door))


def test_an_object_is_replaced(door: Door) -> None:
    """By PUT, with the version that was read: the server compares."""
    taken = Taken()
    door.on(httpd.is_("PUT", ends="/statefulsets/a/scale"), taken)

    assert asking(door).replace("statefulsets", "a", POD, sub="scale") == POD
    assert taken.bodies == [POD]


@pytest.mark.parametrize(
    ("status", "message"), [(409, "the object has been modified"), (404, "pods a is gone")]
)
def test_an_object_that_changed_or_went_is_a_conflict(
    door: Door, status: int, message: str
) -> None:
    """Whoever writes reads again then, and sees which of them it is."""
    door.on(httpd.is_("PUT"), refuses(status, "the object has been modified"))

    with pytest.raises(ClusterConflictError, match=message):
        asking(door).replace("pods", "a", POD)


def test_an_object_is_patched(door: Door) -> None:
    """By JSON patch, which the client sends as such only under its own content type."""
    taken = Taken()
    door.on(httpd.is_("PATCH", ends="/pods/a"), taken)
    change = [{"op": "remove", "path": "/spec/schedulingGates"}]

    asking(door).patch("pods", "a", change)
    assert taken.bodies == [change]
    assert door.requests[0].headers["content-type"] == "application/json-patch+json"


def test_a_patch_of_what_is_gone_is_fine(door: Door) -> None:
    """Its node died: there is nothing left to change."""
    door.on(httpd.is_("PATCH"), refuses(404, "not found"))

    asking(door).patch("pods", "a", [])
    assert len(door.requests) == 1


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {"propagationPolicy": "Background"}),
        (
            {"uid": "u-1"},
            {"propagationPolicy": "Background", "preconditions": {"uid": "u-1"}},
        ),
    ],
)
def test_an_object_is_deleted_with_what_it_owns(
    door: Door, options: dict[str, Any], sent: dict[str, Any]
) -> None:
    """A Job without the policy would leave its pods, and these hold volumes."""
    taken = Taken()
    door.on(httpd.is_("DELETE", ends="/jobs/a"), taken)

    asking(door).delete("jobs", "a", **options)
    assert taken.bodies == [sent]


@pytest.mark.parametrize("status", [404, 409])
def test_deleting_what_is_gone_is_fine(door: Door, status: int) -> None:
    """Or what has another uid now: that one is not ours."""
    door.on(httpd.is_("DELETE"), refuses(status, "no"))

    asking(door, patience=LONG).delete("jobs", "a", uid="u-1")
    assert len(door.requests) == 1


# -- what answers mean


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_with_what_to_do(door: Door, status: int) -> None:
    """The server names the right that is missing; asking again would not grant it."""
    words = 'pods is forbidden: User "x" cannot list resource "pods"'
    door.on(httpd.is_(), refuses(status, words))

    with pytest.raises(ClusterDeniedError, match=re.escape(words)) as caught:
        asking(door, patience=LONG).list("pods")
    assert caught.value.hints == ("grant it: docs/security.md lists what each strategy needs",)
    assert len(door.requests) == 1


def test_another_refusal_says_what_was_asked(door: Door) -> None:
    """What was sent is wrong: the place and the server's words tell where."""
    door.on(httpd.is_(), refuses(422, "spec.template: invalid"))

    with pytest.raises(ClusterError) as caught:
        asking(door, patience=LONG).create("pods", POD)
    assert type(caught.value) is ClusterError
    assert caught.value.message == (f"the cluster refuses POST {PODS}: 422 spec.template: invalid")


@pytest.mark.parametrize(
    ("body", "told"),
    [(b"<html>no</html>\n", "<html>no</html>"), (b"[]", "[]"), (b'{"kind":"x"}', '{"kind":"x"}')],
)
def test_a_refusal_in_other_words_is_told_in_them(door: Door, body: bytes, told: str) -> None:
    """A proxy answers in HTML; webhooks in whatever they like."""
    door.on(httpd.is_(), httpd.answer(400, body))

    with pytest.raises(ClusterError, match=re.escape(f"400 {told}")):
        asking(door).get("pods", "a")


def test_an_answer_that_is_none_of_an_api_server_is_told(door: Door) -> None:
    """A proxy's login page comes with 200."""
    door.on(httpd.is_(), httpd.answer(200, b"<html>log in</html>"))

    with pytest.raises(ClusterError, match="is no API server: <html>log in") as caught:
        asking(door).get("pods", "a")
    assert caught.value.hints == ("is there a proxy between? set NO_PROXY",)


# -- asked again

busy = pytest.mark.parametrize("status", [429, 500, 503, 504])


@busy
def test_a_busy_server_is_asked_again(door: Door, status: int) -> None:
    """It is upgraded, or has much to do; each request is counted."""
    door.on(httpd.is_(), refuses(status, "come back"), times=2)
    door.on(httpd.is_(), says(200, POD))
    asked = asking(door, patience=LONG)

    assert asked.get("pods", "a") == POD
    assert (len(door.requests), asked.calls) == (3, Calls(made=3))


@busy
def test_a_server_that_stays_busy_is_told_when_the_patience_is_over(
    door: Door, status: int
) -> None:
    """With its own words; and writes are repeated as reads are."""
    door.on(httpd.is_(), refuses(status, "etcd has no leader"))

    with pytest.raises(ClusterUnavailableError) as caught:
        asking(door, patience=0.2).create("pods", POD)
    assert caught.value.message == f"the API server is busy: {status} etcd has no leader"
    assert caught.value.hints == ("is the control plane up? what can be reached from this pod?",)
    assert len(door.requests) > 1


@pytest.mark.parametrize(
    "act",
    [
        hang_up,
        lambda exchange: exchange.reply(Answer(status=200, body=b"x" * 99), cut_after=9),
    ],
    ids=["dropped", "cut"],
)
def test_a_lost_connection_is_asked_again(door: Door, act: Act) -> None:
    """Also in the middle of an answer: half an object is none."""
    door.on(httpd.is_(), act, times=2)
    door.on(httpd.is_(), says(200, POD))

    assert asking(door, patience=LONG).get("pods", "a") == POD
    assert len(door.requests) == 3


def test_a_server_that_is_away_is_told_when_the_patience_is_over() -> None:
    """With the cause."""
    with httpd.serving() as door:
        asked = asking(door, patience=0.2)

    with pytest.raises(ClusterUnavailableError, match=r"does not answer: .*refused"):
        asked.get("pods", "a")
    assert asked.calls.made > 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_begins_refuses_before_it_knows_better(door: Door, status: int) -> None:
    """It was away, and has not read yet who may do what: that is no answer to believe."""
    door.on(httpd.is_(), hang_up, times=1)
    door.on(httpd.is_(), refuses(status, "forbidden"), times=2)
    door.on(httpd.is_(), says(200, POD))

    assert asking(door, patience=LONG).get("pods", "a") == POD
    assert len(door.requests) == 4


def test_a_refusal_long_after_the_server_was_away_is_believed(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows by then."""
    monkeypatch.setattr(api, "ROLES_SECONDS", 0.0)
    door.on(httpd.is_(), hang_up, times=1)
    door.on(httpd.is_(), refuses(403, "forbidden"))

    with pytest.raises(ClusterDeniedError, match="forbidden"):
        asking(door, patience=LONG).get("pods", "a")
    assert len(door.requests) == 2


def test_all_ways_to_the_cluster_know_that_it_was_away(door: Door) -> None:
    """What cleans up after a run asks under a stop of its own."""
    door.on(httpd.is_(), hang_up, times=1)
    door.on(httpd.is_(), refuses(403, "forbidden"))
    asked = asking(door)

    for each in (asked, asked.under(Stop())):
        with pytest.raises(ClusterUnavailableError):
            each.get("pods", "a")


def test_a_server_of_another_authority_is_told_as_such(tmp_path: Path) -> None:
    """What it says is not believed; and it is no bug of this program."""
    made = certificates(tmp_path)
    settings: Any = client.Configuration()
    settings.retries = False
    settings.ssl_ca_cert = str(made.other_ca)
    with httpd.serving(tls=serving_as(made)) as door:
        settings.host = door.endpoint
        asked = Api(client.ApiClient(settings), "billing", stop=Stop(), patience=0.0)
        with pytest.raises(ClusterUnavailableError, match=r"SSLError: .*certificate verify failed"):
            asked.get("pods", "a")


def test_a_signal_ends_a_call_that_waits(door: Door) -> None:
    """The server holds the connection: the run ends all the same."""
    stop = Stop()
    door.on(httpd.is_(), httpd.silence)

    def ask_for_the_end() -> None:
        door.wait(httpd.is_())
        stop.request(signal.SIGTERM)

    threading.Thread(target=ask_for_the_end, daemon=True).start()

    with pytest.raises(SignalledError):
        asking(door, stop=stop, patience=LONG).get("pods", "a")


def test_a_signal_ends_the_wait_between_two_calls(door: Door) -> None:
    """What is asked again is asked only while the run goes on; it does not sleep till then."""
    slept: list[float] = []

    class Noting(Stop):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)
            super().sleep(LONG)

    stop = Noting()

    def act(exchange: Exchange) -> None:
        stop.request(signal.SIGTERM)
        exchange.reply(Answer(status=503))

    door.on(httpd.is_(), act)

    with pytest.raises(SignalledError):
        asking(door, stop=stop, patience=LONG).get("pods", "a")
    assert (len(slept), len(door.requests)) == (1, 1)


def test_cleaning_up_goes_on_after_a_stop(door: Door) -> None:
    """Under a stop of its own; the requests are counted together."""
    door.on(httpd.is_(), says(200, POD))
    stop = Stop()
    stop.request(signal.SIGTERM)
    asked = asking(door, stop=stop)
    with pytest.raises(SignalledError):
        asked.get("pods", "a")

    after = asked.under(Stop(seconds=LONG))
    assert after.get("pods", "a") == POD
    assert after.namespace == "billing"
    assert after.calls is asked.calls
    assert asked.calls.made == 1


def test_another_stop_ends_waiting_too(door: Door) -> None:
    """And keeps the patience: cleaning up may not take longer than that."""
    door.on(httpd.is_(), refuses(503, "away"))

    with pytest.raises(DeadlineError, match=r"is busy: 503 .*away, and the deadline") as caught:
        asking(door, patience=LONG).under(Stop(seconds=0.3)).get("pods", "a")

    assert caught.value.hints == ("is the control plane up? what can be reached from this pod?",)


def test_a_stop_that_comes_before_any_answer_has_no_other_cause(door: Door) -> None:
    """The server holds the connection until the time is over."""
    door.on(httpd.is_(), httpd.silence)

    with pytest.raises(DeadlineError, match=r"^the deadline of 0\.3 s is over$"):
        asking(door).under(Stop(seconds=0.3)).get("pods", "a")


def test_what_must_not_fail_is_asked_more_patiently(door: Door) -> None:
    """Billing's return waits for a control plane that is away for minutes."""
    door.on(httpd.is_(), refuses(503, "away"), times=2)
    door.on(httpd.is_(), says(200, POD))

    with pytest.raises(ClusterUnavailableError):
        asking(door, patience=0.0).get("pods", "a")
    assert asking(door, patience=0.0).under(Stop(), patience=LONG).get("pods", "a") == POD


# -- watching


def event(kind: str, name: str, version: int) -> bytes:
    """Make a line of a watch."""
    metadata = {"name": name, "resourceVersion": str(version)}
    return json.dumps({"type": kind, "object": {"metadata": metadata}}).encode() + b"\n"


def listed(version: int, *names: str) -> Act:
    """Answer a list."""
    items = [{"metadata": {"name": name}} for name in names]
    return says(200, {"metadata": {"resourceVersion": str(version)}, "items": items})


def told(changes: Iterator[Change], count: int) -> list[tuple[str, list[str]]]:
    """Take so many changes: kind and names."""
    return [
        (change.kind, [o["metadata"]["name"] for o in change.objects])
        for change in itertools.islice(changes, count)
    ]


LIST = httpd.is_("GET", ends="/pods")
WATCH = httpd.is_("GET", query="watch")


def watched_from(door: Door) -> list[str]:
    """Say from which version each watch went on."""
    return [request.query["resourceVersion"] for request in door.seen(WATCH)]


def lists(door: Door) -> int:
    """Count the lists."""
    return len(door.seen(LIST)) - len(door.seen(WATCH))


def test_first_all_is_told_and_then_what_changes(door: Door) -> None:
    """One list and one watch, whatever their number; it goes on where the list ended."""
    lines = [event("ADDED", "b", 12), event("MODIFIED", "a", 13), event("DELETED", "b", 14)]
    door.on(WATCH, httpd.answer(200, b"\n".join(lines)))
    door.on(LIST, listed(11, "a"))

    assert told(asking(door).changes("pods"), 4) == [
        ("all", ["a"]),
        ("there", ["b"]),
        ("there", ["a"]),
        ("gone", ["b"]),
    ]
    assert door.seen(WATCH)[0].query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": "11",
        "timeoutSeconds": "300",
    }
    assert lists(door) == 1


def test_a_watch_that_the_server_ends_goes_on_where_it_was(door: Door) -> None:
    """It does so every few minutes. A bookmark tells how far it is, and is no change."""
    door.on(WATCH, httpd.answer(200, event("ADDED", "b", 12)), times=1)
    door.on(WATCH, httpd.answer(200, event("BOOKMARK", "", 40)), times=1)
    door.on(WATCH, httpd.answer(200), times=1)
    door.on(WATCH, httpd.answer(200, event("ADDED", "c", 41)), times=1)
    door.on(LIST, listed(11))

    assert told(asking(door).changes("pods"), 3) == [
        ("all", []),
        ("there", ["b"]),
        ("there", ["c"]),
    ]
    assert watched_from(door) == ["11", "12", "40", "40"]
    assert lists(door) == 1


GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}\n'


@pytest.mark.parametrize(
    "act",
    [
        httpd.answer(200, GONE),
        refuses(410, "too old resource version"),
        refuses(503, "away"),
        httpd.answer(200, b'{"type": "ADD\n'),
        hang_up,
        lambda exchange: exchange.reply(
            Answer(status=200, body=event("ADDED", "torn", 12)), cut_after=30
        ),
    ],
    ids=["error", "410", "503", "not JSON", "dropped", "cut"],
)
def test_a_watch_that_breaks_is_begun_with_a_new_list(door: Door, act: Act) -> None:
    """What was missed is in it; nothing that was torn is told."""
    door.on(WATCH, act, times=1)
    door.on(WATCH, httpd.answer(200, event("ADDED", "c", 21)))
    door.on(LIST, listed(11, "a"), times=1)
    door.on(LIST, listed(20, "a", "b"))

    assert told(asking(door).changes("pods"), 3) == [
        ("all", ["a"]),
        ("all", ["a", "b"]),
        ("there", ["c"]),
    ]
    assert watched_from(door) == ["11", "20"]


def test_an_event_is_read_across_pieces_and_a_torn_one_is_left(door: Door) -> None:
    """A stream has no lines; what ends without one is told again by the next watch."""
    whole = event("ADDED", "b" * 200_000, 12)
    door.on(WATCH, httpd.answer(200, whole + event("ADDED", "torn", 13)[:-1]), times=1)
    door.on(WATCH, httpd.answer(200, event("ADDED", "torn", 13)), times=1)
    door.on(LIST, listed(11))

    assert told(asking(door).changes("pods"), 3)[1:] == [
        ("there", ["b" * 200_000]),
        ("there", ["torn"]),
    ]
    assert watched_from(door) == ["11", "12"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_watch_that_is_refused_is_an_error(door: Door, status: int) -> None:
    """Listing for ever in its place would storm the server, and hide what is missing."""
    door.on(WATCH, refuses(status, "cannot watch resource"))
    door.on(LIST, listed(11))
    changes = asking(door).changes("pods")

    assert told(changes, 1) == [("all", [])]
    with pytest.raises(ClusterDeniedError, match="cannot watch resource"):
        next(changes)
    assert len(door.requests) == 2


def test_a_watch_that_is_refused_by_a_server_that_begins_is_begun_again(door: Door) -> None:
    """It was cut because the server went away: that it may watch, the next one knows again."""
    door.on(WATCH, hang_up, times=1)
    door.on(WATCH, refuses(403, "forbidden"), times=1)
    door.on(WATCH, httpd.answer(200, event("ADDED", "c", 21)))
    door.on(LIST, listed(11))

    assert told(asking(door).changes("pods"), 4) == [
        ("all", []),
        ("all", []),
        ("all", []),
        ("there", ["c"]),
    ]


@pytest.mark.parametrize("act", [httpd.answer(200), refuses(503, "away")], ids=["ended", "broken"])
def test_a_watch_that_always_ends_at_once_is_no_storm(
    door: Door, monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    """There may be a proxy between that knows no streams: a second each, and a stop ends it."""
    monkeypatch.setattr(api, "PAUSE_SECONDS", LONG)
    stop = Stop()

    def once(exchange: Exchange) -> None:
        stop.request(signal.SIGTERM)
        act(exchange)

    door.on(WATCH, once)
    door.on(LIST, listed(11))
    changes = asking(door, stop=stop).changes("pods")
    assert told(changes, 1) == [("all", [])]

    with pytest.raises(SignalledError):
        next(changes)
    assert len(door.seen(WATCH)) == 1


# -- where we are


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in no cluster."""
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "POD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/kubeconfig")


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Door, Path]]:
    """Serve with TLS; give the certificate of its authority too."""
    made = certificates(tmp_path / "certificates")
    with httpd.serving(tls=serving_as(made)) as door:
        door.on(httpd.is_(), says(200, POD))
        yield door, made.ca


@pytest.fixture
def account(
    nowhere: None, tmp_path: Path, secured: tuple[Door, Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Be in a pod of that cluster, with what the kubelet mounts there."""
    door, authority = secured
    host, _, port = door.endpoint.removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text("first\n")
    (account / "ca.crt").write_bytes(authority.read_bytes())
    (account / "namespace").write_text("billing\n")
    monkeypatch.setattr(api, "_ACCOUNT", account)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    return account


def test_in_a_pod_its_account_is_used_and_the_token_read_anew(
    account: Path, secured: tuple[Door, Path]
) -> None:
    """The kubelet rotates it every hour; a run of six hours would end with a refusal."""
    asked = connect(stop=Stop())
    assert asked.get("pods", "a") == POD
    (account / "token").write_text("second\n")
    assert asked.get("pods", "a") == POD

    requests = secured[0].requests
    assert [r.headers["authorization"] for r in requests] == ["Bearer first", "Bearer second"]
    assert {r.path for r in requests} == {f"{PODS}/a"}


def test_the_namespace_may_be_told(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the downward API: some clusters mount no namespace file that is right."""
    monkeypatch.setenv("POD_NAMESPACE", "elsewhere")

    assert connect(stop=Stop()).namespace == "elsewhere"


def test_a_pod_without_a_token_says_so(account: Path) -> None:
    """Exit 2, and which setting of the pod it is."""
    (account / "token").unlink()

    with pytest.raises(
        ConfigError, match="no cluster to ask: service token file does not"
    ) as caught:
        connect(stop=Stop())
    assert "automountServiceAccountToken: true" in caught.value.hints[1]


def test_a_pod_without_a_namespace_says_so(account: Path) -> None:
    """The same, where only a part of the account is there."""
    (account / "namespace").unlink()

    with pytest.raises(ConfigError, match=r"no such file or directory: .*namespace"):
        connect(stop=Stop())


def kubeconfig(path: Path, server: str, authority: Path, **context: str) -> None:
    """Write one."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority": str(authority)},
            }
        ],
        "users": [{"name": "ada", "user": {"token": "hers"}}],
        "contexts": [{"name": "here", "context": {"cluster": "test", "user": "ada", **context}}],
    }
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("context", "namespace"), [({"namespace": "billing"}, "billing"), ({}, "default")]
)
def test_elsewhere_kubeconfig_is_used(
    nowhere: None,
    tmp_path: Path,
    secured: tuple[Door, Path],
    context: dict[str, str],
    namespace: str,
) -> None:
    """As kubectl does it: by somebody at a terminal."""
    door, authority = secured
    kubeconfig(tmp_path / "kubeconfig", door.endpoint, authority, **context)
    asked = connect(stop=Stop())

    assert asked.get("pods", "a") == POD
    (request,) = door.requests
    assert request.path == f"/api/v1/namespaces/{namespace}/pods/a"
    assert request.headers["authorization"] == "Bearer hers"


def test_without_a_cluster_there_is_a_way_out(nowhere: None) -> None:
    """Exit 2: most sites need none."""
    with pytest.raises(
        ConfigError, match="there is no cluster to ask: invalid kube-config"
    ) as caught:
        connect(stop=Stop())
    assert caught.value.hints[0] == "a backup by BACKUP_STRATEGY=direct needs none"
    assert caught.value.hints[-1].startswith("elsewhere: KUBECONFIG, which is ")


def test_a_kubeconfig_that_is_none_says_so(nowhere: None, tmp_path: Path) -> None:
    """Exit 2 in one line, not the parser's own error as a bug of ours."""
    (tmp_path / "kubeconfig").write_text("{: [")

    with pytest.raises(ConfigError, match="there is no cluster to ask: while parsing") as caught:
        connect(stop=Stop())
    assert "\n" not in caught.value.message
    assert caught.value.hints[-1] == f"elsewhere: KUBECONFIG, which is {tmp_path}/kubeconfig"


# -- rights


def test_direct_needs_no_right() -> None:
    """Its pod gets no token at all."""
    assert RULES["direct"] == ()


def test_rights_are_no_wider_than_they_have_to_be() -> None:
    """No wildcard, no secret, no exec; nothing of billing but its scale is written."""
    rules = [rule for strategy in RULES.values() for rule in strategy]
    written = {
        (rule.resource, verb)
        for rule in rules
        for verb in rule.verbs
        if verb not in {"get", "list", "watch"}
    }

    assert written == {
        ("jobs", "create"),
        ("jobs", "delete"),
        ("leases", "create"),
        ("leases", "update"),
        ("pods", "patch"),
        ("statefulsets/scale", "update"),
    }
    assert all("*" not in (rule.group, rule.resource, *rule.verbs) for rule in rules)
    groups = {rule.resource.partition("/")[0]: rule.group for rule in rules}
    assert groups == {kind: api._GROUPS.get(kind, "") for kind in get_args(api.Kind)}


def test_colocated_cannot_scale() -> None:
    """Who chose it may rely on it; whoever scales has all rights of the other strategy too."""
    assert set(RULES["colocated"]) < set(RULES["scale-down"]) == set(RULES["auto"])
    scale = [rule.verbs for rule in RULES["colocated"] if "scale" in rule.resource]
    assert scale == [("get",)]  # to see that nothing has to be brought back


@pytest.mark.parametrize("strategy", RULES)
def test_what_changes_one_object_is_bound_to_it(strategy: str) -> None:
    """Only what has a name of its own for each run, or is not made yet, cannot be."""
    loose = {
        (rule.resource, verb)
        for rule in RULES[strategy]
        for verb in rule.verbs
        if not rule.named and verb not in {"get", "list", "watch", "create"}
    }

    assert loose <= {("jobs", "delete"), ("pods", "patch")}
