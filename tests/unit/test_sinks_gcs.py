"""A bucket of Google Cloud Storage as a sink: what it does when things go wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
from google.cloud.storage.exceptions import DataCorruption

from backup.errors import (
    ObjectExistsError,
    ObjectMissingError,
    ReadbackError,
    SignalledError,
    SinkDeniedError,
    SinkError,
    SinkFullError,
    SinkMissingError,
    SinkUnavailableError,
    StreamAbortedError,
)
from backup.settings import StoreSettings
from backup.sinks import Sink, open_sink
from backup.sinks.gcs import PART_BYTES
from backup.stop import Stop
from tests.gcs_store import (
    BUCKET,
    FOREVER,
    Handler,
    Held,
    Kind,
    Store,
    answer,
    cut_after,
    lose_reply,
    says,
    serving,
    truncate,
)
from tests.servers import certificates

KEY = "journal-a-0/x.tar.gz"
NAME = f"site/{KEY}"
LARGE = os.urandom(2 * PART_BYTES + 12_345)
"""Two whole parts and the last."""


@pytest.fixture(autouse=True)
def anonymous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Need no credentials; no proxy stands between."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def store() -> Iterator[Store]:
    """Serve an empty bucket."""
    with serving(Store()) as store:
        yield store


def sink_on(
    endpoint: str, *, bucket: str = BUCKET, ca: Path | None = None, stop: Stop | None = None
) -> Sink:
    """Open a sink on it."""
    options = StoreSettings(source=Path("/journals"), ca_cert_file=ca)
    return open_sink(
        f"gs://{bucket}/site?endpoint={endpoint}", options, stop=stop or Stop(), stall_seconds=10
    )


@pytest.fixture
def sink(store: Store) -> Sink:
    """Open a sink on the bucket."""
    return sink_on(store.endpoint)


def chunks(data: bytes = LARGE, size: int = 1 << 20) -> Iterator[bytes]:
    """Cut data."""
    return (data[i : i + size] for i in range(0, len(data), size))


def hints(error: SinkError) -> str:
    """Give all that is hinted."""
    return " ".join(error.hints)


# -- storing


def test_a_small_object_takes_one_request(sink: Sink, store: Store) -> None:
    """Most of what is stored is small."""
    sink.put(KEY, [b"small"])
    sink.put_exclusive("x", b"{}")

    assert store.asked == ["create", "create"]
    assert store.objects[NAME].data == b"small"


def test_a_large_object_goes_in_parts(sink: Sink, store: Store) -> None:
    """One in memory at a time; the last one tells the size, and the checksum of all."""
    seen: list[int] = []

    sink.put(KEY, chunks(), alive=lambda: seen.append(len(store.asked)))

    assert store.asked == ["begin", "part", "part", "last"]
    assert store.objects[NAME].data == LARGE
    assert store.headers[-1]["X-Goog-Hash"].startswith("crc32c=")
    assert len(seen) > 3 * 40, "a slow link takes long over one part"


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, PART_BYTES, PART_BYTES + 1])
def test_every_size_is_stored_whole(sink: Sink, store: Store, size: int) -> None:
    """At each boundary."""
    sink.put(KEY, chunks(LARGE[:size], 300_001))

    assert store.objects[NAME].data == LARGE[:size]
    assert store.uploads == {}


def test_two_puts_of_the_same_bytes_are_told_apart(sink: Sink, store: Store) -> None:
    """By the token of each."""
    sink.put("a", [b"x"])
    sink.put("b", [b"x"])

    assert store.objects["site/a"].metadata != store.objects["site/b"].metadata


@pytest.mark.parametrize("kept", [0, 1, 300_000, PART_BYTES])
@pytest.mark.parametrize("kind", ["part", "last"])
def test_a_part_that_broke_is_taken_up(sink: Sink, store: Store, kind: Kind, kept: int) -> None:
    """Where the server says that it stopped: before, in or after it."""
    store.fault(kind, cut_after(kept))

    sink.put(KEY, chunks())

    assert store.objects[NAME].data == LARGE
    assert "ask" in store.asked


@pytest.mark.parametrize("status", [408, 429, 500, 503])
@pytest.mark.parametrize("kind", ["begin", "part", "last"])
def test_an_upload_outlives_a_bad_moment(sink: Sink, store: Store, kind: Kind, status: int) -> None:
    """Of the server."""
    store.fault(kind, answer(status), times=2)

    sink.put(KEY, chunks())

    assert store.objects[NAME].data == LARGE


def test_many_bad_moments_are_not_too_many(sink: Sink, store: Store) -> None:
    """As long as the upload moves on between them."""
    store.fault("last", cut_after(1_000), times=8)

    sink.put(KEY, chunks())

    assert store.objects[NAME].data == LARGE


@pytest.mark.parametrize("kind", ["begin", "part", "last"])
def test_a_server_that_stays_bad_is_given_up(sink: Sink, store: Store, kind: Kind) -> None:
    """After some tries; the upload is cancelled, and nothing is there."""
    store.fault(kind, answer(503, "Backend Error."), times=FOREVER)

    with pytest.raises(SinkUnavailableError, match=r"cannot store .*: backend Error \(503\)$"):
        sink.put(KEY, chunks())

    assert store.asked.count(kind) == 4
    assert store.objects == {}
    assert store.uploads == {}


def test_a_server_that_takes_nothing_is_given_up(sink: Sink, store: Store) -> None:
    """It says that all is well, for ever."""
    store.fault("part", says(308), times=FOREVER)

    with pytest.raises(SinkUnavailableError, match="the server takes nothing"):
        sink.put(KEY, chunks())


def test_a_server_that_does_not_finish_is_asked_to(sink: Sink, store: Store) -> None:
    """It has all the bytes, but has not made the object."""

    def keep(handler: Handler) -> bool:
        data = store.uploads[handler.query["upload_id"]].data
        data += handler.body()
        handler.answer(308, Range=f"bytes=0-{len(data) - 1}")
        return True

    store.fault("last", keep)

    sink.put(KEY, chunks())

    assert store.asked[-1] == "ask"
    assert store.objects[NAME].data == LARGE


def test_data_that_the_server_lost_ends_the_put(sink: Sink, store: Store) -> None:
    """What was acknowledged is no more in memory; another put may succeed."""
    store.fault("last", says(308, Range="bytes=0-9"))

    with pytest.raises(SinkUnavailableError, match="the server lost data"):
        sink.put(KEY, chunks())

    assert store.objects == {}


@pytest.mark.parametrize("status", [404, 410])
def test_an_upload_that_is_gone_ends_the_put(sink: Sink, store: Store, status: int) -> None:
    """It has to be begun anew; another put may succeed, so it is transient."""
    store.fault("part", answer(status))

    with pytest.raises(SinkUnavailableError, match="the upload is gone") as caught:
        sink.put(KEY, chunks())

    assert caught.value.transient
    assert store.asked.count("part") == 1
    assert store.objects == {}


def test_a_lost_reply_to_the_last_part_is_a_success(sink: Sink, store: Store) -> None:
    """The upload is gone when it is asked for, but the object is there, and is ours."""
    store.fault("last", lose_reply)

    sink.put(KEY, chunks())

    assert store.asked[-3:] == ["ask", "cancel", "get"]
    assert store.objects[NAME].data == LARGE


def test_a_lost_reply_to_the_only_request_is_a_success(sink: Sink, store: Store) -> None:
    """The repeat is told that the object exists."""
    store.fault("create", lose_reply)

    sink.put(KEY, [b"small"])

    assert store.asked == ["create", "create", "get"]


def test_a_conflict_on_the_last_part_is_a_success_if_it_is_ours(sink: Sink, store: Store) -> None:
    """As a server said that answered 412 to the repeat."""

    def finish(handler: Handler) -> bool:
        handler.store.fault("ask", answer(412, "conditionNotMet"))
        return lose_reply(handler)

    store.fault("last", finish)

    sink.put(KEY, chunks())

    assert store.objects[NAME].data == LARGE


def test_a_conflict_with_another_is_told(sink: Sink, store: Store) -> None:
    """Whoever was first has it, be it with metadata of their own or without."""
    theirs: list[dict[str, str]] = [{}, {"journal-backup-put": "theirs"}]

    def first(handler: Handler) -> bool:
        handler.store.objects[NAME] = Held(b"theirs", theirs.pop())
        return False

    while theirs:
        store.objects.clear()
        store.fault("last", first)
        with pytest.raises(ObjectExistsError, match=r"it exists$"):
            sink.put(KEY, chunks())

        assert store.objects[NAME].data == b"theirs"
        assert store.uploads == {}


def test_what_was_damaged_on_the_way_is_refused(sink: Sink, store: Store) -> None:
    """The server compares; another put may succeed."""

    def flip(handler: Handler) -> bool:
        next(iter(store.uploads.values())).data[5] ^= 1
        return False

    store.fault("last", flip)

    with pytest.raises(SinkUnavailableError, match="CRC32C does not match"):
        sink.put(KEY, chunks())

    assert store.objects == {}


@pytest.mark.parametrize("lost", [True, False])
def test_an_object_that_is_not_what_was_sent_is_no_success(
    sink: Sink, store: Store, *, lost: bool
) -> None:
    """A server that compares nothing makes something else of it."""

    def damage(handler: Handler) -> bool:
        handler.headers.replace_header("X-Goog-Hash", "")
        next(iter(store.uploads.values())).data[5] ^= 1
        return lose_reply(handler) if lost else False

    store.fault("last", damage)

    with pytest.raises(ReadbackError, match="another checksum"):
        sink.put(KEY, chunks())


@pytest.mark.parametrize(
    "error", [StreamAbortedError("elsewhere"), ValueError("bad"), KeyboardInterrupt()]
)
def test_a_source_that_fails_leaves_nothing(sink: Sink, store: Store, error: BaseException) -> None:
    """Neither an object of half the data nor an upload."""

    def breaking() -> Iterator[bytes]:
        yield from chunks()
        raise error

    with pytest.raises((type(error), SinkError)):
        sink.put(KEY, breaking())

    assert store.asked[-1] == "cancel"
    assert store.objects == {}
    assert store.uploads == {}


def test_a_stop_ends_a_part_midway(store: Store) -> None:
    """A slow link takes long over one part, and a run that is told to end has no time."""
    stop = Stop()
    sink = sink_on(store.endpoint, stop=stop)
    seen: list[None] = []

    def alive() -> None:
        seen.append(None)
        if len(seen) == 70:
            stop.request(signal.SIGTERM)

    with pytest.raises(SignalledError):
        sink.put(KEY, chunks(), alive=alive)

    assert len(seen) == 70
    assert store.objects == {}
    assert store.uploads == {}


def test_a_stop_comes_before_a_small_object(store: Store) -> None:
    """Nothing is begun after it."""
    stop = Stop()
    stop.request(signal.SIGTERM)

    with pytest.raises(SignalledError):
        sink_on(store.endpoint, stop=stop).put(KEY, [b"x"])

    assert store.asked == []


def test_cancelling_never_takes_long(store: Store) -> None:
    """A process that was told to end has 0.6 s; and what it raises is the cause."""
    released = threading.Event()

    def hang(_handler: Handler) -> bool:
        released.wait(10)
        return False

    def breaking() -> Iterator[bytes]:
        yield from chunks()
        raise StreamAbortedError("elsewhere")

    store.fault("cancel", hang)
    begun = time.monotonic()
    with pytest.raises(StreamAbortedError):
        sink_on(store.endpoint).put(KEY, breaking())
    released.set()

    assert time.monotonic() - begun < 1.5


# -- reading


def test_a_truncated_answer_is_taken_up(sink: Sink, store: Store) -> None:
    """It is not taken for the end."""
    sink.put(KEY, chunks())
    store.fault("media", truncate(3 << 20), times=3)

    assert b"".join(sink.open(KEY)) == LARGE


def test_reading_from_the_end_gives_nothing(sink: Sink, store: Store) -> None:
    """A stream may break just there."""
    sink.put(KEY, [b"12345"])

    assert list(sink.open(KEY, 5)) == []
    assert list(sink.open(KEY, 4)) == [b"5"]
    assert sink.size(KEY) == 5


def test_a_refusal_to_read_is_told(sink: Sink, store: Store) -> None:
    """With the reason, which stands in what would have been the object."""
    store.fault("media", answer(403, "No storage.objects.get access."), times=FOREVER)

    with pytest.raises(SinkDeniedError, match=r"no storage\.objects\.get access"):
        list(sink.open(KEY))


def test_a_server_that_ignores_the_offset_is_refused(sink: Sink, store: Store) -> None:
    """Its bytes are not those that were asked for."""
    sink.put(KEY, [b"12345"])
    store.fault("media", says(200, b"12345"))

    with pytest.raises(SinkError, match="the server answered 200"):
        list(sink.open(KEY, 3))


def test_nothing_is_encoded_on_the_way(sink: Sink, store: Store) -> None:
    """What is stored is compressed already, and read back as it is stored."""
    store.objects[NAME] = Held(b"\x1f\x8b\x08\0raw", {})
    store.fault("media", says(200, b"\x1f\x8b\x08\0raw", Content_Encoding="gzip"))

    assert b"".join(sink.open(KEY)) == b"\x1f\x8b\x08\0raw"
    assert store.headers[-1]["Accept-Encoding"] == "identity"


def test_a_listing_knows_no_end(sink: Sink, store: Store) -> None:
    """Pages are turned; times are UTC."""
    store.objects = {f"site/journal-a-0/{n:05}": Held(b"x", {}) for n in range(2_345)}
    store.objects["sites/x"] = Held(b"", {})

    found = sink.list()

    assert [o.key for o in found] == [f"journal-a-0/{n:05}" for n in range(2_345)]
    assert found[0].modified_at == datetime(2026, 11, 23, 12, 0, 0, 123_000, tzinfo=UTC)


def test_the_whole_bucket_may_be_the_place(store: Store) -> None:
    """No prefix: no slash."""
    sink = open_sink(
        f"gs://{BUCKET}?endpoint={store.endpoint}",
        StoreSettings(source=Path("/journals")),
        stop=Stop(),
    )

    sink.put(KEY, [b"x"])

    assert [*store.objects] == [KEY]


def test_probe_asks_for_what_a_backup_needs(sink: Sink, store: Store) -> None:
    """To list, and to create; it leaves nothing."""
    sink.probe()

    assert store.asked == ["list", "begin", "cancel"]
    assert store.uploads == {}


def test_there_is_nothing_to_sweep(sink: Sink, store: Store) -> None:
    """Unfinished uploads expire by themselves; nobody is asked."""
    assert sink.sweep(datetime.now(UTC)) == 0
    assert store.asked == []


def test_a_missing_object_is_no_missing_bucket(sink: Sink, store: Store) -> None:
    """The status is the same."""
    with pytest.raises(ObjectMissingError, match="there is no such object"):
        sink.size(KEY)
    with pytest.raises(ObjectMissingError):
        sink.read(KEY)
    sink.delete(KEY)


def test_a_missing_bucket_is_told(store: Store) -> None:
    """Whatever is done there."""
    sink = sink_on(store.endpoint, bucket="elsewhere")

    for call in (
        sink.probe,
        sink.list,
        lambda: sink.size(KEY),
        lambda: sink.read(KEY),
        lambda: sink.delete(KEY),
        lambda: sink.put(KEY, [b"x"]),
        lambda: sink.put(KEY, chunks()),
        lambda: sink.put_exclusive(KEY, b"x"),
    ):
        with pytest.raises(SinkMissingError, match="bucket elsewhere does not exist") as caught:
            call()

        assert "create it" in hints(caught.value)


def test_a_missing_object_may_be_a_missing_permission(sink: Sink, store: Store) -> None:
    """Whoever may not list cannot know."""
    store.fault("list", answer(403, "No storage.objects.list access."), times=FOREVER)

    with pytest.raises(SinkDeniedError, match=r"cannot list: no storage.objects.list access \(403"):
        sink.size(KEY)


# -- errors


@pytest.mark.parametrize(
    ("message", "role"),
    [
        (
            "Permission 'storage.objects.create' denied on it.",
            "grant it roles/storage.objectCreator",
        ),
        ("x lacks storage.objects.get access.", "grant it roles/storage.objectViewer on"),
        ("x lacks storage.objects.list access.", "grant it roles/storage.objectViewer on"),
        ("x lacks storage.objects.delete access.", "roles/storage.objectUser"),
        ("Forbidden", "objectCreator and roles/storage.objectViewer"),
    ],
)
def test_a_refusal_tells_who_we_are_and_what_is_missing(
    sink: Sink, store: Store, message: str, role: str
) -> None:
    """At once: no second try will fare better."""
    store.fault("list", answer(403, message, "forbidden"), times=FOREVER)

    with pytest.raises(SinkDeniedError) as caught:
        sink.list()

    assert store.asked == ["list"]
    assert role in hints(caught.value)
    assert "we are nobody, as STORAGE_EMULATOR_HOST is set" in hints(caught.value)


def test_a_refused_token_is_told(sink: Sink, store: Store) -> None:
    """There is none here that could be renewed."""
    store.fault("list", answer(401), times=FOREVER)

    with pytest.raises(SinkDeniedError, match="anonymous credentials cannot be refreshed"):
        sink.list()


@pytest.mark.parametrize(
    ("status", "message", "reason", "kind", "tries"),
    [
        (400, "Bad", "", SinkError, 1),
        (400, "The MD5 you specified is wrong", "", SinkUnavailableError, 4),
        (403, "Slow down", "rateLimitExceeded", SinkUnavailableError, 4),
        (403, "Too much", "quotaExceeded", SinkFullError, 1),
        (403, "Held", "retentionPolicyNotMet", SinkDeniedError, 1),
        (412, "Not so", "conditionNotMet", ObjectExistsError, 1),
        (429, "Slow down", "", SinkUnavailableError, 4),
        (500, "Oops", "", SinkUnavailableError, 4),
        (507, "Full", "", SinkFullError, 1),
    ],
)
def test_each_answer_has_its_meaning(  # noqa: PLR0917 - a table
    sink: Sink, store: Store, status: int, message: str, reason: str, kind: type, tries: int
) -> None:
    """And only what may pass is tried again."""
    store.fault("delete", answer(status, message, reason), times=FOREVER)

    with pytest.raises(SinkError) as caught:
        sink.delete(KEY)

    assert type(caught.value) is kind
    assert store.asked == ["delete"] * tries
    assert f"({status})" in caught.value.message
    assert "retention" in hints(caught.value) or "Held" not in message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": {}}'])
def test_an_answer_that_is_not_of_google_is_understood(
    sink: Sink, store: Store, body: bytes
) -> None:
    """A gateway's, say."""
    store.fault("list", says(503, body), times=FOREVER)

    with pytest.raises(SinkUnavailableError, match=r"cannot list: service Unavailable \(503\)$"):
        sink.list()


def test_a_bad_moment_passes(sink: Sink, store: Store) -> None:
    """Small calls are repeated too."""
    store.fault("list", answer(429), times=2)
    store.fault("create", answer(503), times=2)

    assert sink.list() == []
    sink.put(KEY, [b"x"])


def test_no_secret_is_shown(sink: Sink, store: Store) -> None:
    """Who knows the URL of an upload may write to it; a server may repeat what it was told."""
    store.fault("part", answer(400, f"Bad token ya29.{'x' * 40} for\n you."))

    with pytest.raises(SinkError, match=r": bad token ya29.… for you \(400\)$"):
        sink.put(KEY, chunks())
    store.fault("part", cut_after(0), times=FOREVER)
    with pytest.raises(SinkUnavailableError) as caught:
        sink.put(KEY, chunks())

    assert "upload_id" not in str(caught.value)


def test_nobody_there_is_told() -> None:
    """With what the operating system says."""
    with pytest.raises(SinkUnavailableError, match=r"cannot list: connection refused$") as caught:
        sink_on("http://127.0.0.1:9").list()

    assert "can it be reached" in hints(caught.value)


def test_a_proxy_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the store that is down."""
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    with pytest.raises(SinkUnavailableError, match="the proxy: connection refused") as caught:
        sink_on("https://store.example").list()

    assert "HTTPS_PROXY" in hints(caught.value)
    assert "password" not in str(caught.value)


def test_a_site_may_have_its_own_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trusted for all that is done, whatever the environment says."""
    made = certificates(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(made.other_ca))

    with serving(Store(), made.server) as store:
        sink = sink_on(store.endpoint, ca=made.ca)
        sink.put(KEY, chunks())

        assert b"".join(sink.open(KEY)) == LARGE


def test_each_bad_certificate_is_told(tmp_path: Path) -> None:
    """At once, and with the fix."""
    made = certificates(tmp_path)
    for certificate, ca, said in (
        (made.server, made.other_ca, "BACKUP_CA_CERT_FILE"),
        (made.server, None, "BACKUP_CA_CERT_FILE"),
        (made.expired, made.ca, "renew it"),
        (made.elsewhere, made.ca, "name that stands in the certificate"),
    ):
        with serving(Store(), certificate) as store, pytest.raises(SinkError) as caught:
            sink_on(store.endpoint, ca=ca).list()

        assert type(caught.value) is SinkError
        assert said in hints(caught.value)


def test_plain_http_is_told(store: Store) -> None:
    """A wrong scheme is no certificate's fault."""
    with pytest.raises(SinkError, match="does not speak TLS") as caught:
        sink_on(store.endpoint.replace("http:", "https:")).list()

    assert type(caught.value) is SinkError


def _made() -> requests.Response:
    response = requests.Response()
    response.status_code = 200
    return response


# google.auth has types, but these have none.
_transport: Any = TransportError
_refresh: Any = RefreshError
_default: Any = DefaultCredentialsError


class _Answer:
    """What google.auth keeps of an answer."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_transport(requests.ConnectionError("down")), SinkUnavailableError),
        (_transport("Compute Engine Metadata server unavailable"), SinkUnavailableError),
        (_transport("Status: 500", _Answer(500)), SinkUnavailableError),
        (_transport("Status: 403", _Answer(403)), SinkDeniedError),
        (_transport(), SinkUnavailableError),
        (_refresh("internal_failure", retryable=True), SinkUnavailableError),
        (_refresh("invalid_grant: Invalid JWT Signature."), SinkDeniedError),
        (_default("Your default credentials were not found."), SinkDeniedError),
        (requests.exceptions.SSLError("EOF occurred"), SinkUnavailableError),
        (requests.ReadTimeout(), SinkUnavailableError),
        (DataCorruption(_made(), "differs"), SinkUnavailableError),
        (ValueError(""), SinkError),
    ],
)
def test_each_exception_has_its_meaning(sink: Sink, error: Exception, kind: type) -> None:
    """Also those that no server here provokes."""
    said = sink._translate("do this", error)

    assert type(said) is kind
    assert said.message.startswith(f"{sink}: cannot do this: ")
    assert ("Workload Identity" in hints(said)) == (kind is SinkDeniedError)


def test_opening_touches_nothing() -> None:
    """Neither network nor credentials: settings are checked offline."""
    assert str(sink_on("http://127.0.0.1:9")) == "gs://billing/site?endpoint=http://127.0.0.1:9"
