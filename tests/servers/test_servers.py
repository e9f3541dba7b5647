"""The servers start, enforce what tests of sinks count on, and end whatever happens.

What a server does not enforce is an expected failure here, so that nobody counts on it.
"""

from __future__ import annotations

import base64
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.servers import process

REPOSITORY = Path(__file__).parents[2]

WRONG_MD5 = base64.b64encode(bytes(16)).decode()
WRONG_CRC32 = base64.b64encode(bytes(4)).decode()
WRONG_SHA256 = base64.b64encode(bytes(32)).decode()
WRONG = (
    pytest.param({"ContentMD5": WRONG_MD5}, id="md5"),
    pytest.param({"ChecksumCRC32": WRONG_CRC32}, id="crc32"),
    pytest.param({"ChecksumSHA256": WRONG_SHA256}, id="sha256"),
)

not_by_moto = pytest.mark.parametrize(
    "s3",
    [
        "minio",
        pytest.param("moto", marks=pytest.mark.xfail(reason="moto does not enforce it")),
        "versitygw",
    ],
    indirect=True,
)


def refusal(client: Any, call: str, **arguments: Any) -> int | None:
    """Return the status with which S3 refuses a call, or None."""
    try:
        getattr(client, call)(**arguments)
    except client.exceptions.ClientError as error:
        status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status
    return None


def keys(server: servers.S3Server, bucket: str) -> list[str]:
    """List a small bucket."""
    listed = server.client().list_objects_v2(Bucket=bucket)
    return [item["Key"] for item in listed.get("Contents", [])]


def content(server: servers.S3Server, bucket: str, key: str) -> bytes:
    """Read an object."""
    body: bytes = server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def parts_sent(client: Any, bucket: str, key: str) -> dict[str, Any]:
    """Upload an object in one part, up to what completes it: that call's arguments."""
    place = {"Bucket": bucket, "Key": key}
    upload = client.create_multipart_upload(**place)["UploadId"]
    part = client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"new")
    parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
    return place | {"UploadId": upload, "MultipartUpload": {"Parts": parts}}


def skip_unless(name: servers.Name) -> None:
    """Skip where a server cannot run."""
    if reason := servers.unavailable(name):
        pytest.skip(reason)


# S3


def test_s3_stores_and_lists(s3: servers.S3Server) -> None:
    """The door beside the sink works."""
    bucket = s3.fresh_bucket()
    s3.client().put_object(Bucket=bucket, Key="journal-a/b c", Body=b"v")
    assert (
        keys(s3, bucket),
        content(s3, bucket, "journal-a/b c"),
    ) == (["journal-a/b c"], b"v")


def test_s3_put_refuses_a_key_that_is_taken(s3: servers.S3Server) -> None:
    """Without it no test shows that a sink asks for it."""
    bucket, client = s3.fresh_bucket(), s3.client()
    exclusive = {"Bucket": bucket, "Key": "k", "IfNoneMatch": "*"}
    answers = [refusal(client, "put_object", **exclusive, Body=body) for body in (b"1", b"2")]
    assert (answers, content(s3, bucket, "k")) == ([None, 412], b"1")


def test_s3_completion_of_an_upload_refuses_a_key_that_is_taken(s3: servers.S3Server) -> None:
    """A large object comes to its key by another call, and the upload stays to be aborted."""
    bucket, client = s3.fresh_bucket(), s3.client()
    client.put_object(Bucket=bucket, Key="k", Body=b"1")
    taken, free = (parts_sent(client, bucket, key) for key in ("k", "free"))
    answers = [
        refusal(client, "complete_multipart_upload", **sent, IfNoneMatch="*")
        for sent in (taken, free)
    ]
    left = [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]]
    assert (
        answers,
        left,
        content(s3, bucket, "k"),
        content(s3, bucket, "free"),
    ) == ([412, None], ["k"], b"1", b"new")


@not_by_moto
@pytest.mark.parametrize("wrong", WRONG)
def test_s3_put_refuses_what_was_damaged_on_the_way(
    s3: servers.S3Server, wrong: dict[str, str]
) -> None:
    """The store compares with the checksum that was sent along."""
    bucket = s3.fresh_bucket()
    refused = refusal(s3.client(), "put_object", Bucket=bucket, Key="k", Body=b"v", **wrong)
    assert (refused, keys(s3, bucket)) == (400, [])


@not_by_moto
@pytest.mark.parametrize("wrong", WRONG)
def test_s3_part_refuses_what_was_damaged_on_the_way(
    s3: servers.S3Server, wrong: dict[str, str]
) -> None:
    """The parts of a large object are compared one by one."""
    bucket, client = s3.fresh_bucket(), s3.client()
    upload = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    place = {"Bucket": bucket, "Key": "k", "UploadId": upload, "PartNumber": 1}
    assert refusal(client, "upload_part", **place, Body=b"v", **wrong) == 400


@not_by_moto
def test_s3_refuses_a_wrong_secret(s3: servers.S3Server) -> None:
    """Signatures are looked at."""
    stranger = replace(s3, secret_key="x" * 15).client()
    assert refusal(stranger, "list_objects_v2", Bucket=s3.fresh_bucket()) == 403


def test_s3_keeps_versions(s3: servers.S3Server) -> None:
    """A bucket with versions has them all, and another bucket has none."""
    counts = []
    for versioning in (True, False):
        bucket, client = s3.fresh_bucket(versioning=versioning), s3.client()
        for body in (b"1", b"2"):
            client.put_object(Bucket=bucket, Key="k", Body=body)
        counts.append(len(client.list_object_versions(Bucket=bucket)["Versions"]))
    assert counts == [2, 1]


def test_s3_locks_objects(s3: servers.S3Server) -> None:
    """What is retained can be hidden, but not destroyed."""
    bucket, client = s3.fresh_bucket("locked", ObjectLockEnabledForBucket=True), s3.client()
    until = datetime.now(UTC) + timedelta(hours=1)
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
    version = client.put_object(Bucket=bucket, Key="k", Body=b"v", **lock)["VersionId"]
    place = {"Bucket": bucket, "Key": "k"}
    destroyed = refusal(client, "delete_object", **place, VersionId=version)
    hidden = refusal(client, "delete_object", **place)
    kept = client.get_object(**place, VersionId=version)["Body"].read()
    assert (destroyed in (400, 403), hidden, kept) == (True, None, b"v")


# Who is allowed only so much: the sink's documents say which permissions it needs.

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "s3:PutObject": ("put_object", {"Key": "new", "Body": b""}),
    "s3:GetObject": ("get_object", {"Key": "k"}),
    "s3:ListBucket": ("list_objects_v2", {}),
    "s3:ListBucketMultipartUploads": ("list_multipart_uploads", {}),
    "s3:AbortMultipartUpload": ("abort_multipart_upload", {"Key": "m"}),
    "s3:DeleteObject": ("delete_object", {"Key": "k"}),
}


@pytest.mark.parametrize("allowed", CALLS)
def test_a_limited_user_may_do_what_is_allowed_and_nothing_else(
    minio: servers.S3Server, allowed: str
) -> None:
    """Each permission is a door of its own, also to the bucket beside."""
    bucket, other, root = minio.fresh_bucket(), minio.fresh_bucket(), minio.client()
    uploads = {}
    for place in (bucket, other):
        root.put_object(Bucket=place, Key="k", Body=b"")
        uploads[place] = root.create_multipart_upload(Bucket=place, Key="m")["UploadId"]
    client = minio.limited([allowed], bucket).client()

    def answer(action: str, place: str) -> int | None:
        call, arguments = CALLS[action]
        upload = {"UploadId": uploads[place]} if "Abort" in action else {}
        return refusal(client, call, Bucket=place, **arguments, **upload)

    assert {action: (None if action == allowed else 403, 403) for action in CALLS} == {
        action: (answer(action, bucket), answer(action, other)) for action in CALLS
    }


# TLS


@pytest.mark.parametrize("name", ["minio", "versitygw"])
def test_serves_tls_by_the_certificate_it_is_given(name: servers.Name, tmp_path: Path) -> None:
    """A client that trusts the CA gets through; one that trusts another does not."""
    skip_unless(name)
    made = servers.certificates(tmp_path / "certificates")
    serve = getattr(servers, name)
    with serve(tmp_path, tls=made.server) as server:
        assert isinstance(server, servers.S3Server)
        bucket = server.fresh_bucket(ca=made.ca)
        listed = server.client(ca=made.ca).list_buckets()["Buckets"]
        reasons = [reason_of_distrust(server, ca) for ca in (made.ca, made.other_ca)]
    assert ([bucket], [None, "unable to get local issuer certificate"]) == (
        [item["Name"] for item in listed],
        reasons,
    )


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("expired", "certificate has expired"),
        ("elsewhere", "IP address mismatch, certificate is not valid for '127.0.0.1'."),
    ],
)
def test_serves_tls_by_a_bad_certificate(kind: str, reason: str, tmp_path: Path) -> None:
    """The server does not mind, so that a client can."""
    skip_unless("versitygw")
    made = servers.certificates(tmp_path / "certificates")
    with servers.versitygw(tmp_path, tls=getattr(made, kind)) as server:
        assert reason == reason_of_distrust(server, made.ca)


def reason_of_distrust(server: servers.S3Server, ca: Path) -> str | None:
    """Return why a client that trusts just this CA does not trust a server."""
    host, _, port = server.address.partition(":")
    context = ssl.create_default_context(cafile=ca)
    try:
        with socket.create_connection((host, int(port)), 10) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    return None


# GCS


def test_gcs_stores_and_lists(gcs: servers.GcsServer) -> None:
    """The door beside the sink works, by plain requests and by Google's client."""
    bucket = gcs.fresh_bucket()
    gcs.put(bucket, "journal-a/b c", b"v")
    blob = gcs.client().bucket(bucket).blob("journal-a/b c")
    assert (
        gcs.keys(bucket),
        gcs.get(bucket, "journal-a/b c"),
        blob.download_as_bytes(),
    ) == (["journal-a/b c"], b"v", b"v")


def test_gcs_put_refuses_a_key_that_is_taken(gcs: servers.GcsServer) -> None:
    """Without it no test shows that a sink asks for it."""
    bucket = gcs.fresh_bucket()
    gcs.put(bucket, "k", b"1", ifGenerationMatch=0)
    with pytest.raises(servers.RefusedError) as refused:
        gcs.put(bucket, "k", b"2", ifGenerationMatch=0)
    assert (refused.value.status, gcs.get(bucket, "k")) == (412, b"1")


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("md5_hash", WRONG_MD5),
        pytest.param(
            "crc32c",
            WRONG_CRC32,
            marks=pytest.mark.xfail(reason="fake-gcs-server does not look at it"),
        ),
    ],
)
def test_gcs_put_refuses_what_was_damaged_on_the_way(
    gcs: servers.GcsServer, field: str, wrong: str
) -> None:
    """The store compares with the checksum that was sent along."""
    bucket = gcs.fresh_bucket()
    blob = gcs.client().bucket(bucket).blob("k")
    setattr(blob, field, wrong)
    with pytest.raises(Exception, match="hash"):
        blob.upload_from_string(b"v")
    assert gcs.keys(bucket) == []


# the network between


def ask_through(proxy: servers.Proxy) -> Any:
    """Ask a Toxiproxy, which stands behind its own proxy here, for its version."""
    return process.ask(f"http://{proxy.address}/version")


def address(network: servers.Toxiproxy) -> str:
    """Return where a Toxiproxy listens."""
    return network.endpoint.partition("://")[2]


def test_proxy_cuts_connections_and_takes_them_again(network: servers.Toxiproxy) -> None:
    """A server that is gone for a while comes back at its address."""
    with network.proxy(address(network)) as proxy:
        host, _, port = proxy.address.partition(":")
        before = ask_through(proxy)
        with socket.create_connection((host, int(port)), 10) as connection:
            proxy.disable()
            ended = connection.recv(1)
        with pytest.raises(OSError, match="refused"):
            ask_through(proxy)
        proxy.enable()
        after = ask_through(proxy)
    assert (b"", before) == (ended, after)


def test_proxy_cuts_an_answer_short(
    network: servers.Toxiproxy, versitygw: servers.S3Server
) -> None:
    """The fault which a download must not take for the end."""
    bucket = versitygw.fresh_bucket()
    versitygw.client().put_object(Bucket=bucket, Key="k", Body=bytes(100_000))
    with network.proxy(versitygw.address) as proxy:
        beyond = replace(versitygw, endpoint=f"http://{proxy.address}")
        with proxy.toxic("limit_data", bytes=50_000):
            body = beyond.client().get_object(Bucket=bucket, Key="k")["Body"]
            with pytest.raises(Exception, match="IncompleteRead"):
                body.read()
        whole = content(beyond, bucket, "k")
    assert len(whole) == 100_000


def test_proxy_cuts_an_upload(network: servers.Toxiproxy, versitygw: servers.S3Server) -> None:
    """Nothing of half an object is at its key."""
    bucket = versitygw.fresh_bucket()
    with network.proxy(versitygw.address) as proxy:
        beyond = replace(versitygw, endpoint=f"http://{proxy.address}")
        with (
            proxy.toxic("limit_data", stream="upstream", bytes=50_000),
            pytest.raises(Exception, match=r"onnection|roken pipe"),
        ):
            beyond.client().put_object(Bucket=bucket, Key="k", Body=bytes(4_000_000))
    assert keys(versitygw, bucket) == []


def test_proxy_resets_connections(network: servers.Toxiproxy) -> None:
    """An RST is another error than an end."""
    with network.proxy(address(network)) as proxy:
        with proxy.toxic("reset_peer", timeout=0), pytest.raises(ConnectionResetError):
            ask_through(proxy)
        assert ask_through(proxy)


def test_proxy_delays_answers(network: servers.Toxiproxy) -> None:
    """As long as it is told to, for as long as it is told to."""
    with network.proxy(address(network)) as proxy:
        toxic = proxy.toxic("latency", latency=300)
        start = time.monotonic()
        ask_through(proxy)
        seconds = time.monotonic() - start
        toxic.remove()
        toxic.remove()
        assert (seconds >= 0.3, bool(ask_through(proxy))) == (True, True)


def test_proxy_swallows_what_is_sent(network: servers.Toxiproxy) -> None:
    """A black hole: connected, and never an answer."""
    with network.proxy(address(network)) as proxy, proxy.toxic("timeout", timeout=0):
        host, _, port = proxy.address.partition(":")
        with socket.create_connection((host, int(port)), 10) as connection:
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)


# processes


@pytest.mark.parametrize("name", servers.NAMES)
def test_no_process_is_left(name: servers.Name, tmp_path: Path) -> None:
    """Not even a zombie."""
    skip_unless(name)
    with servers.serving(name, tmp_path) as server:
        during = Path(f"/proc/{server.pid}").exists()
    assert (during, Path(f"/proc/{server.pid}").exists()) == (True, False)


def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process takes no SIGTERM."""
    skip_unless("toxiproxy")
    monkeypatch.setattr(process, "_END_SECONDS", 0.2)
    with servers.toxiproxy() as server:
        os.kill(server.pid, signal.SIGSTOP)
    assert not Path(f"/proc/{server.pid}").exists()


def test_a_server_outlives_the_thread_that_asked_for_it() -> None:
    """The kernel would end it with the thread, and tests start servers in threads."""
    skip_unless("toxiproxy")
    manager = servers.toxiproxy()
    started: list[servers.Toxiproxy] = []
    thread = threading.Thread(target=lambda: started.append(manager.__enter__()))
    thread.start()
    thread.join()
    try:
        assert process.ask(f"{started[0].endpoint}/version")
    finally:
        manager.__exit__(None, None, None)


ORPHANING = """
import sys
from tests import servers
with servers.toxiproxy() as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_server_dies_with_the_tests() -> None:
    """Though they are killed, and have no say."""
    skip_unless("toxiproxy")
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        server = os.pidfd_open(int(tests.stdout.readline()))
        tests.kill()
    try:
        ended, _, _ = select.select([server], [], [], 10)
    finally:
        os.close(server)
    assert ended == [server]


def test_a_server_that_dies_says_why() -> None:
    """The end of its log is in the error."""
    with (
        pytest.raises(RuntimeError, match="ended with 3: the disk is full"),
        process.running(lambda _: ["sh", "-c", "echo the disk is full; exit 3"], health="/"),
    ):
        pass


def test_another_port_is_taken_where_one_is_in_use() -> None:
    """By a program that chose it without asking, for each port in turn but the last."""
    ports: list[int] = []

    def command(port: int) -> list[str | Path]:
        ports.append(port)
        if len(ports) < 3:
            return ["sh", "-c", "echo bind: address already in use; exit 1"]
        return [sys.executable, "-m", "http.server", "--bind", process.HOST, str(port)]

    with process.running(command, health="/") as server:
        assert (3, server.port) == (len(set(ports)), ports[-1])


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of a skip tells what to do about it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    reason = process.unavailable.__wrapped__("minio")
    assert reason == "minio is not built (tests/servers/build.sh does it, and needs Go)"
