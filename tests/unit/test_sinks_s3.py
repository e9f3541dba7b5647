"""The S3 sink's own rules: how objects are cut and sent, and what is asked of the store."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import example, given
from hypothesis import strategies as st

from backup.errors import (
    ObjectExistsError,
    SinkDeniedError,
    SinkError,
    SinkUnavailableError,
    StreamAbortedError,
)
from backup.model import CHUNK_BYTES
from backup.settings import StoreSettings
from backup.sinks import locate, s3
from backup.sinks.kinds import S3Options
from backup.sinks.s3 import MAX_PARTS, MEMORY_BYTES, PART_BYTES, S3Sink, part_bytes
from backup.stop import Stop

GIB = 1 << 30
TIB = 1 << 40
JOURNAL = "journal-deepgram-billing-0"
KEY = f"{JOURNAL}/{JOURNAL}-20261123T120000Z-3f9a1c.tar.gz"
NAME = f"site/{KEY}"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

OPERATIONS = ("create_multipart_upload", "upload_part", "complete_multipart_upload")


def error(word: str, status: int = 400, operation: str = "PutObject") -> ClientError:
    """Make what the SDK raises for an answer that says no."""
    answer = {
        "Error": {"Code": word, "Message": "x"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(cast("Any", answer), operation)


class Client:
    """What the sink asks of the SDK, and a script of what it is answered."""

    def __init__(self, **script: list[Any]) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.sent: dict[int, bytes] = {}
        self.keeps = True
        self._script = script
        self._lock = threading.Lock()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        """Be every operation."""

        def run(**params: Any) -> Any:
            has_body, body = "Body" in params, params.pop("Body", None)
            content = b"" if body is None else b"".join(iter(body.read, b""))
            del body  # what was sent is not kept
            with self._lock:
                self.calls.append((operation, params))
                script = self._script.get(operation, [])
                answer = script.pop(0) if script else {"UploadId": "upload", "ETag": "etag"}
                if self.keeps and has_body:
                    self.sent[params.get("PartNumber", 1)] = content
            if isinstance(answer, Exception):
                raise answer
            return answer(params) if callable(answer) else answer

        return run

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """Give the parameters of each call of an operation."""
        return [params for name, params in self.calls if name == operation]


class Pages:
    """A client whose paginators give these pages."""

    def __init__(self, *pages: Mapping[str, Any]) -> None:
        self.aborted: list[str] = []
        self._pages = pages

    def get_paginator(self, _operation: str) -> Pages:
        """Give what gives the pages."""
        return self

    def paginate(self, **_params: Any) -> Iterator[Mapping[str, Any]]:
        """Give them."""
        yield from self._pages

    def abort_multipart_upload(self, **params: Any) -> None:
        """Remember it."""
        self.aborted.append(params["Key"])


def make(client: object, *, stop: Stop | None = None, **options: Any) -> S3Sink:
    """Open a sink over such a client."""
    sink = S3Sink(
        replace(locate("s3://bucket/site"), options=S3Options(**options)),
        StoreSettings(),
        stop=stop or Stop(),
        stall_seconds=20,
    )
    sink.__dict__["_client"] = client
    return sink


def part(*chunks: bytes) -> s3._Part:
    """Make a part."""
    return s3._Part(number=1, chunks=tuple(map(memoryview, chunks)), is_last=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part have eight bytes."""
    monkeypatch.setattr(s3, "PART_BYTES", 8)
    monkeypatch.setattr(s3, "MEMORY_BYTES", 40)


# -- the arithmetic of parts


@given(st.none() | st.integers(0, 5 * TIB))
@example(5 * TIB)
@example(MAX_PARTS * PART_BYTES)
@example(MAX_PARTS * PART_BYTES + 1)
def test_parts_always_suffice(max_bytes: int | None) -> None:
    """S3 numbers them up to 10,000; an object of 5 TiB is the largest that it takes."""
    size = part_bytes(max_bytes)

    assert size % PART_BYTES == 0
    assert (max_bytes or 0) <= MAX_PARTS * size
    assert 5 << 20 <= size <= 5 * GIB, "what S3 takes for a part"
    assert size == PART_BYTES or (max_bytes or 0) > MAX_PARTS * (size - PART_BYTES), "no larger"


@pytest.mark.parametrize(
    ("max_bytes", "size", "at_once"),
    [
        (None, 8 << 20, 4),
        (0, 8 << 20, 4),
        (GIB, 8 << 20, 4),
        (78 * GIB, 8 << 20, 4),
        (79 * GIB, 16 << 20, 2),
        (156 * GIB, 16 << 20, 2),
        (157 * GIB, 24 << 20, 1),
        (TIB, 112 << 20, 1),
        (5 * TIB, 528 << 20, 1),
    ],
)
def test_memory_is_bounded(
    monkeypatch: pytest.MonkeyPatch, max_bytes: int | None, size: int, at_once: int
) -> None:
    """Constant up to 156 GiB; beyond that one part at a time, and it grows with the object."""
    told: dict[str, int] = {}
    sink = make(Client())
    monkeypatch.setattr(s3, "_parts", lambda _chunks, size: _two_parts(told, size))
    monkeypatch.setattr(sink, "_multipart", lambda *_args, at_once: told.update(at_once=at_once))

    sink.put(KEY, (), max_bytes=max_bytes)

    assert told == {"size": size, "at_once": at_once}
    assert size * at_once <= max(MEMORY_BYTES, size)


def _two_parts(told: dict[str, int], size: int) -> Iterator[s3._Part]:
    told["size"] = size
    yield s3._Part(number=1, chunks=(), is_last=False)
    yield s3._Part(number=2, chunks=(), is_last=True)


class Chunk(bytearray):
    """Bytes whose end can be seen."""


@pytest.mark.usefixtures("small_parts")
def test_what_was_sent_is_let_go() -> None:
    """No more than the parts' own memory is alive, with several under way at once."""
    alive: set[int] = set()
    held: list[int] = []
    under_way: list[int] = []

    def chunks() -> Iterator[bytes]:
        for number in range(200):
            chunk = Chunk(2)
            alive.add(number)
            weakref.finalize(chunk, alive.remove, number)
            held.append(2 * len(alive))
            yield cast("bytes", chunk)

    def slowly(_params: Mapping[str, Any]) -> dict[str, str]:
        under_way.append(1)
        time.sleep(0.001)
        under_way.append(-1)
        return {"ETag": "etag"}

    client = Client(upload_part=[slowly] * 50)
    client.keeps = False
    make(client).put(KEY, chunks(), max_bytes=400)

    assert max(held) <= 40 + 2
    assert 1 < max(sum(under_way[:n]) for n in range(len(under_way))) <= 5


# -- cutting


@given(st.lists(st.binary(max_size=30), max_size=20), st.integers(1, 50))
def test_a_stream_is_cut_exactly(chunks: list[bytes], size: int) -> None:
    """Nothing is lost or copied; all parts but the last have one size, and none is empty."""
    parts = list(s3._parts(iter(chunks), size))

    assert b"".join(c for p in parts for c in p.chunks) == b"".join(chunks)
    assert [p.number for p in parts] == list(range(1, len(parts) + 1))
    assert [p.is_last for p in parts] == [False] * (len(parts) - 1) + [True]
    assert [p.size_bytes for p in parts[:-1]] == [size] * (len(parts) - 1)
    assert parts[-1].size_bytes > 0 or not any(chunks)
    assert all(any(view.obj is chunk for chunk in chunks) for p in parts for view in p.chunks)
    assert all(len(view) for p in parts for view in p.chunks)


# -- bodies


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=10), st.integers(0, 10))
def test_a_body_is_a_file(chunks: list[bytes], reads: int) -> None:
    """It is read more than once: to sign it, to send it, and to send it again."""
    content = b"".join(chunks)
    body = s3._Body(part(*chunks), s3._Pulse(lambda: None))
    whole = io.BytesIO(content)

    assert len(body) == len(content)
    for _ in range(reads):
        assert bytes(body.read(1)) == whole.read(len(chunks[body._next - 1]) if chunks else 0)
        assert body.tell() == whole.tell()
    assert body.seek(0, os.SEEK_END) == len(content)
    assert (body.tell(), body.read()) == (len(content), b"")
    assert body.seek(0) == body.tell() == 0
    assert b"".join(iter(body.read, b"")) == content


def test_each_read_is_a_sign_of_life_until_the_upload_is_given_up() -> None:
    """Then the SDK, which is in the middle of sending it, gets no more."""
    beats: list[None] = []
    pulse = s3._Pulse(lambda: beats.append(None))
    body = s3._Body(part(b"a", b"b"), pulse)
    body.read()
    body.read()
    pulse.end()

    with pytest.raises(StreamAbortedError):
        body.read()
    assert len(beats) == 2


# -- checksums


CONTENT = b"some data, in pieces"
CHECKSUMS: dict[str, dict[str, bytes]] = {
    "none": {},
    "crc32": {"ChecksumCRC32": zlib.crc32(CONTENT).to_bytes(4)},
    "sha256": {"ChecksumSHA256": hashlib.sha256(CONTENT).digest()},
    "md5": {"ContentMD5": hashlib.md5(CONTENT, usedforsecurity=False).digest()},
}
PUTS: dict[str, Callable[[S3Sink], None]] = {
    "put": lambda sink: sink.put(KEY, [CONTENT[:7], CONTENT[7:]]),
    "put_exclusive": lambda sink: sink.put_exclusive(KEY, CONTENT),
}


def encoded(checksum: Mapping[str, bytes]) -> dict[str, str]:
    """Write a checksum as a header has it."""
    return {name: base64.b64encode(digest).decode() for name, digest in checksum.items()}


@pytest.mark.parametrize("mode", CHECKSUMS)
@pytest.mark.parametrize("put", PUTS)
def test_a_small_object_carries_its_checksum(put: str, mode: str) -> None:
    """One header, and the condition that nothing is there."""
    client = Client()

    PUTS[put](make(client, checksum_mode=mode))

    (asked,) = client.asked("put_object")
    asked.pop("Metadata", None)
    expected = {"Bucket": "bucket", "Key": NAME, "IfNoneMatch": "*"}
    assert asked == expected | encoded(CHECKSUMS[mode])
    assert client.sent == {1: CONTENT}


@pytest.mark.parametrize(
    ("mode", "algorithm", "told"),
    [
        ("none", None, {"ETag": '"1"'}),
        ("crc32", "CRC32", {"ETag": '"1"', "ChecksumCRC32": "AAAA"}),
        ("sha256", "SHA256", {"ETag": '"1"', "ChecksumSHA256": "AAAA"}),
        ("md5", None, {"ETag": '"1"'}),
    ],
)
@pytest.mark.usefixtures("small_parts")
def test_a_large_object_carries_one_for_each_part(
    mode: str, algorithm: str | None, told: dict[str, str]
) -> None:
    """And its completion repeats what the store has answered to each, in their order."""
    client = Client(upload_part=[told | {"ServerSideEncryption": "AES256"}] * 3)

    make(client, checksum_mode=mode).put(KEY, [CONTENT])

    assert [name for name, _ in client.calls if name != "upload_part"] == [
        "create_multipart_upload",
        "complete_multipart_upload",
    ]
    assert client.asked("create_multipart_upload")[0].get("ChecksumAlgorithm") == algorithm
    assert client.sent[1] + client.sent[2] + client.sent[3] == CONTENT
    for asked in client.asked("upload_part"):
        content = client.sent[asked.pop("PartNumber")]
        again = s3._checksum(cast("Any", mode), part(content))
        assert asked == {"Bucket": "bucket", "Key": NAME, "UploadId": "upload"} | again
    (completed,) = client.asked("complete_multipart_upload")
    assert completed == {
        "Bucket": "bucket",
        "Key": NAME,
        "UploadId": "upload",
        "IfNoneMatch": "*",
        "MultipartUpload": {"Parts": [{"PartNumber": n} | told for n in (1, 2, 3)]},
    }


# -- wishes


@pytest.mark.parametrize(
    ("options", "wishes"),
    [
        ({}, {}),
        ({"storage_class": "STANDARD_IA"}, {"StorageClass": "STANDARD_IA"}),
        ({"sse": "AES256"}, {"ServerSideEncryption": "AES256"}),
        (
            {"sse": "aws:kms", "sse_kms_key_id": "alias/journals"},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/journals"},
        ),
        (
            {"object_lock_mode": "COMPLIANCE", "object_lock_days": 30},
            {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": timedelta(days=30)},
        ),
    ],
)
@pytest.mark.usefixtures("small_parts")
def test_every_new_object_is_stored_as_the_options_say(
    options: dict[str, Any], wishes: dict[str, Any]
) -> None:
    """The probe asks it as well: what the store refuses is told before an archive is sent."""
    client = Client()
    sink = make(client, **options)
    sink.probe()
    sink.put(KEY, [b"small"])
    sink.put(KEY, [b"larger than a part"])
    sink.put_exclusive(KEY, b"{}")

    asked = [*client.asked("create_multipart_upload"), *client.asked("put_object")]
    assert len(asked) == 4
    for params in asked:
        given_ = {name: params[name] for name in params if name in WISHES}
        if isinstance(days := wishes.get("ObjectLockRetainUntilDate"), timedelta):
            until = given_.pop("ObjectLockRetainUntilDate")
            assert abs(until - datetime.now(UTC) - days) < timedelta(minutes=1)
            assert given_ == {"ObjectLockMode": wishes["ObjectLockMode"]}
        else:
            assert given_ == wishes


WISHES = {
    "StorageClass",
    "ServerSideEncryption",
    "SSEKMSKeyId",
    "ObjectLockMode",
    "ObjectLockRetainUntilDate",
}


# -- our own success, met again


def found(params: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a look at an object that bears this metadata."""
    return {"Body": io.BytesIO(b"x"), "Metadata": dict(params)}


LOST: list[Exception] = [
    error("PreconditionFailed", 412),
    error("ConditionalRequestConflict", 409),
    error("NoSuchUpload", 404),
    EndpointConnectionError(endpoint_url="http://x"),
]


@pytest.mark.parametrize("content", [b"small", b"larger than a part"])
@pytest.mark.parametrize("lost", LOST, ids=lambda e: type(e).__name__ + str(e)[20:45])
@pytest.mark.parametrize("spelling", ["journal-backup-put", "Journal-Backup-Put"])
@pytest.mark.usefixtures("small_parts", "no_waiting")
def test_a_put_whose_reply_was_lost_is_success(
    content: bytes, lost: Exception, spelling: str
) -> None:
    """However the store puts it: the object bears this put's own token."""
    client: Client = Client(
        put_object=[lost] * 4,
        complete_multipart_upload=[lost] * 4,
        get_object=[lambda _params: found({"other": "x", spelling: token(client)})],
    )

    make(client).put(KEY, [content])

    assert client.asked("abort_multipart_upload") == []
    assert client.asked("get_object") == [{"Bucket": "bucket", "Key": NAME, "Range": "bytes=0-0"}]


def token(client: Client) -> str:
    """Give the token that the put bears."""
    tokens = {str(p["Metadata"]) for _, p in client.calls if "Metadata" in p}
    assert len(tokens) == 1, "one for all its tries"
    (metadata,) = (p["Metadata"] for _, p in client.calls[:1])
    (value,) = metadata.values()
    return str(value)


@pytest.mark.parametrize("content", [b"small", b"larger than a part"])
@pytest.mark.parametrize(
    ("lost", "there", "kind"),
    [
        (LOST[0], found({"journal-backup-put": "0" * 32}), ObjectExistsError),
        (LOST[0], found({}), ObjectExistsError),
        (LOST[0], error("AccessDenied", 403, "GetObject"), ObjectExistsError),
        (LOST[3], error("NoSuchKey", 404, "GetObject"), SinkUnavailableError),
        (error("AccessDenied", 403), None, SinkDeniedError),
    ],
)
@pytest.mark.usefixtures("small_parts", "no_waiting")
def test_a_put_of_somebody_else_is_none_of_ours(
    content: bytes, lost: Exception, there: object, kind: type[SinkError]
) -> None:
    """What was said first is raised, and the upload is aborted."""
    client = Client(put_object=[lost] * 4, complete_multipart_upload=[lost] * 4, get_object=[there])

    with pytest.raises(kind) as caught:
        make(client).put(KEY, [content])

    assert type(caught.value) is kind
    assert f"cannot store {KEY}" in caught.value.message
    assert len(client.asked("get_object")) == (0 if there is None else 1)
    aborted = client.asked("abort_multipart_upload")
    assert aborted == ([] if content == b"small" else [MULTIPART])


MULTIPART = {"Bucket": "bucket", "Key": NAME, "UploadId": "upload"}


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between tries."""
    monkeypatch.setattr(Stop, "sleep", lambda _self, _seconds: None)


# -- failures of a multipart upload


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.usefixtures("small_parts", "no_waiting")
def test_what_may_pass_is_tried_again(operation: str) -> None:
    """Each request for itself: nobody sends the other parts again."""
    client = Client(**{operation: [error("SlowDown", 503), error("InternalError", 500)]})

    make(client).put(KEY, [CONTENT])

    counts = {name: len(client.asked(name)) for name in OPERATIONS}
    normal = {OPERATIONS[0]: 1, OPERATIONS[1]: 3, OPERATIONS[2]: 1}
    assert counts == normal | {operation: normal[operation] + 2}
    assert b"".join(client.sent[n] for n in (1, 2, 3)) == CONTENT


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("word", "kind", "tries"),
    [("AccessDenied", SinkDeniedError, 1), ("SlowDown", SinkUnavailableError, 4)],
)
@pytest.mark.usefixtures("small_parts", "no_waiting")
def test_a_failed_upload_is_aborted(
    operation: str, word: str, kind: type[SinkError], tries: int
) -> None:
    """Its parts are invisible and cost money; that the abort fails as well changes nothing."""
    for aborting in ({"UploadId": "upload"}, error("InternalError", 500)):
        client = Client(
            **{operation: [error(word)] * 99},
            get_object=[error("NoSuchKey", 404)],
            abort_multipart_upload=[aborting],
        )

        with pytest.raises(kind):
            make(client).put(KEY, [CONTENT])

        begun = operation != "create_multipart_upload"
        assert client.asked("abort_multipart_upload") == [MULTIPART] * begun
        if operation != "upload_part":
            assert len(client.asked(operation)) == tries


@pytest.mark.usefixtures("small_parts")
def test_a_source_that_fails_aborts_the_upload() -> None:
    """Half an archive must not look whole."""

    def chunks() -> Iterator[bytes]:
        yield CONTENT
        raise StreamAbortedError("the source failed")

    client = Client()
    with pytest.raises(StreamAbortedError):
        make(client).put(KEY, chunks())

    assert client.asked("abort_multipart_upload") == [MULTIPART]
    assert client.asked("complete_multipart_upload") == []


@pytest.mark.usefixtures("small_parts")
def test_a_store_may_take_its_time_to_complete_an_upload() -> None:
    """It says nothing meanwhile that the SDK would pass on: that is not silence."""
    completing, lives = threading.Event(), threading.Event()

    def complete(_params: Mapping[str, Any]) -> dict[str, str]:
        completing.set()
        assert lives.wait(20)
        return {}

    def alive() -> None:
        if completing.is_set():
            lives.set()

    client = Client(complete_multipart_upload=[complete])
    make(client).put(KEY, [CONTENT], alive=alive)

    assert client.asked("abort_multipart_upload") == []


@pytest.mark.usefixtures("small_parts")
def test_a_completion_is_no_sign_of_life_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes are what the largest objects take; after that, it counts as silence."""
    completing = threading.Event()
    signs: list[None] = []
    monkeypatch.setattr(s3, "COMPLETION_SECONDS", 0.0)

    def complete(_params: Mapping[str, Any]) -> dict[str, str]:
        completing.set()
        threading.Event().wait(0.5)
        return {}

    make(Client(complete_multipart_upload=[complete])).put(
        KEY, [CONTENT], alive=lambda: signs.extend([None] * completing.is_set())
    )

    assert signs == []


# -- reading


class Body(io.BytesIO):
    """What the SDK gives to read from; it counts."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read."""
        data = super().read(size)
        self.taken += len(data)
        return data


RANGED = {"ContentRange": "bytes 0-0/1000", "ContentLength": 1}


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (RANGED | {"Body": Body(b"x")}, 1_000),
        ({"ContentLength": 1_000, "Body": Body(b"x" * 1_000)}, 1_000),
        ({"ContentLength": 0, "Body": Body(b"")}, 0),
        (error("InvalidRange", 416, "GetObject"), 0),
    ],
)
def test_a_size_is_asked_by_one_byte(answer: Any, size: int) -> None:
    """HEAD would not say why it fails; a server that ignores the range sends all, in vain."""
    assert make(Client(get_object=[answer])).size(KEY) == size
    if isinstance(answer, dict):
        assert answer["Body"].taken <= 1
        assert answer["Body"].closed


def test_other_failures_to_tell_a_size_are_told() -> None:
    """Only a range that cannot be is an empty object."""
    with pytest.raises(SinkDeniedError):
        make(Client(get_object=[error("AccessDenied", 403, "GetObject")])).size(KEY)


@pytest.mark.parametrize("is_ranged", [True, False])
@pytest.mark.parametrize("offset", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
def test_an_object_is_read_from_an_offset_on(offset: int, *, is_ranged: bool) -> None:
    """Also where a server ignores the range: what comes before it is passed over."""
    data = bytes(range(256)) * (3 * CHUNK_BYTES // 256)
    answer: dict[str, Any] = {"Body": Body(data[offset:] if is_ranged else data)}
    if is_ranged and offset:
        answer["ContentRange"] = f"bytes {offset}-{len(data) - 1}/{len(data)}"
    client = Client(get_object=[answer])

    assert b"".join(make(client).open(KEY, offset)) == data[offset:]
    wanted = {"Range": f"bytes={offset}-"} if offset else {}
    assert client.asked("get_object") == [{"Bucket": "bucket", "Key": NAME} | wanted]
    assert answer["Body"].closed


def test_an_offset_at_or_past_the_end_is_the_end() -> None:
    """A stream may break after its last byte; and an object may be shorter than it was."""
    at_end = Client(get_object=[error("InvalidRange", 416, "GetObject"), {"Body": Body(b"short")}])

    assert list(make(at_end).open(KEY, 10)) == []
    assert list(make(at_end).open(KEY, 10)) == []


def test_a_range_that_cannot_be_is_no_answer_to_a_whole_object() -> None:
    """Where none was asked for, it is an error as any other."""
    client = Client(get_object=[error("InvalidRange", 416, "GetObject")])

    with pytest.raises(SinkError, match="InvalidRange"):
        list(make(client).open(KEY))


# -- listing, sweeping


def test_a_listing_has_its_own_prefix_and_utc() -> None:
    """Keys are relative to the prefix; times are compared with the run's."""
    local = datetime(2026, 11, 23, 14, tzinfo=datetime.strptime("+0200", "%z").tzinfo)
    item = {"Key": NAME, "Size": 3, "LastModified": local}
    (listed,) = make(
        Pages({"IsTruncated": True}, {"IsTruncated": False, "Contents": [item]})
    ).list()

    assert (listed.key, listed.size_bytes) == (KEY, 3)
    assert (listed.modified_at, listed.modified_at.tzinfo) == (local, UTC)


def test_only_what_is_old_and_ours_is_swept() -> None:
    """Another program may use the bucket, and another run may be at work."""
    now = datetime.now(UTC)
    ours = [NAME, NAME.replace(".tar", ".2.tar"), f"site/{s3.PROBE_KEY}"]
    theirs = ["site/movie.mkv", f"site/{JOURNAL}/movie.mkv", f"site/deeper/{KEY}", KEY]
    uploads = [
        {"Key": key, "UploadId": "1", "Initiated": initiated}
        for key in (*ours, *theirs)
        for initiated in (LONG_AGO, now)
    ]
    pages = Pages({"Uploads": uploads[:5]}, {}, {"Uploads": uploads[5:]})

    assert make(pages).sweep(now - timedelta(hours=1)) == 3
    assert pages.aborted == ours


def test_a_sink_may_be_a_whole_bucket() -> None:
    """Without a prefix, keys begin with no slash."""
    sink = S3Sink(locate("s3://bucket"), StoreSettings(), stop=Stop(), stall_seconds=20)
    client = Client()
    sink.__dict__["_client"] = client
    sink.delete(KEY)

    assert client.asked("delete_object") == [{"Bucket": "bucket", "Key": KEY}]
    assert str(sink) == "s3://bucket"
