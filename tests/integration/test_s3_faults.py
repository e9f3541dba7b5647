"""The S3 sink on a network and a store that fail, beside a sink that does not.

The rules, for every fault: a backup there is absent or whole, what failed is told with its sink,
no upload is left under way, the other sink has its backup, and the next run is good.
"""

from __future__ import annotations

import base64
import functools
import gzip
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import create_loader
from botocore.retries.standard import ExponentialBackoff
from tenacity import wait_none

from backup.errors import SignalledError, SinkDeniedError
from backup.events import Event, PassRepeated
from backup.report import worst
from backup.settings import StoreSettings
from backup.sinks import Sink, open_sink, s3
from backup.stop import Stop
from backup.verbs.outcome import BackupResult
from backup.verbs.verify import verify
from tests import httpd, journal_data, servers
from tests.httpd import is_
from tests.journal_data import in_run

CHECKOUT = Path(__file__).parents[2]
JOURNAL = journal_data.NAME
KEY = f"{JOURNAL}/{JOURNAL}-20261123T120000Z-3f9a1c.tar.gz"
MIB = 1 << 20
SITE = "site"

create = is_("POST", query="uploads")
part = is_("PUT", query="partNumber")
complete = is_("POST", query="uploadId")
abort = is_("DELETE", query="uploadId")
sweep = is_("GET", query="uploads")
archive = is_("PUT", ends=".tar.gz")
fetch = is_("GET", ends=".tar.gz")
checksums = is_("PUT", ends=".sha256")
manifest = is_("PUT", ends=".manifest.json")
anything = is_()


def refusal(code: str) -> bytes:
    """Write an error as S3 does."""
    return f"<Error><Code>{code}</Code><Message>Because.</Message></Error>".encode()


def refuse(status: int, code: str) -> httpd.Act:
    """Answer with it."""
    return httpd.answer(status, refusal(code))


# -- a store behind a door, and a sink that does not fail


@pytest.fixture(params=["versitygw"])
def store(
    request: pytest.FixtureRequest, start: Callable[[servers.Name], servers.S3Server]
) -> servers.S3Server:
    """Start a server, once."""
    return start(request.param)


@pytest.fixture
def door(store: servers.S3Server) -> Iterator[httpd.Door]:
    """Stand before it."""
    with httpd.serving(store.address) as made:
        yield made


@pytest.fixture
def slow_line(store: servers.S3Server, network: servers.Toxiproxy) -> Iterator[servers.Proxy]:
    """Lead a line to the store."""
    with network.proxy(store.address) as made:
        yield made


@pytest.fixture(autouse=True)
def environment(
    store: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """Let the SDK know the store's credentials, and nothing else of the machine."""
    for name in [n for n in os.environ if n.startswith(("AWS_", "BACKUP_"))]:
        monkeypatch.delenv(name)
    given = store.environment | {
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "*",
    }
    given.pop("AWS_ENDPOINT_URL_S3")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


@functools.cache
def models(search_path: str | None = None) -> Any:
    """Make what reads them."""
    return create_loader(search_path)


@functools.cache
def beside(store: servers.S3Server) -> Any:
    """Open the door beside the sink."""
    return store.client()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tries of one process follow each other soon, and parts be as small as S3 takes.

    The SDK reads its models of AWS once.
    """
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda _self, _context: 0.0)
    monkeypatch.setattr("tenacity.wait_random_exponential", lambda **_how: wait_none())
    monkeypatch.setattr("backup.transfer.destination._BETWEEN_PROBES_SECONDS", 0.05)
    monkeypatch.setattr("botocore.session.create_loader", models)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3, "MEMORY_BYTES", 15 * MIB)


@functools.cache
def large_journal(size: int) -> bytes:
    """Make records of at least so many bytes in all, a quarter of which compression saves."""
    draw = random.Random(1)
    lines = [b'{"d":"' + base64.b64encode(draw.randbytes(99_000)) + b'"}\n' for _ in range(40)]
    return b"".join(islice(cycle(lines), size // len(lines[0]) + 1))


SIZES = {"small": 100_000, "large": 14 * MIB}
"""The archive of the one is stored at once, that of the other in three parts."""


@dataclass(slots=True)
class Two:
    """A sink in a store that fails, and one that does not."""

    source: Path
    good: Path
    store: servers.S3Server
    bucket: str
    endpoint: str
    options: str = ""
    clock: journal_data.Clock = field(default_factory=journal_data.Clock)

    @property
    def url(self) -> str:
        """The URL of the sink that fails."""
        return f"s3://{self.bucket}/{SITE}?endpoint={self.endpoint}{self.options}"

    def open(
        self,
        *,
        endpoint: str | None = None,
        stall_seconds: float = 20.0,
        stop: Stop | None = None,
    ) -> Sink:
        """Open it, or one without the faults."""
        url = self.url if endpoint is None else self.url.replace(self.endpoint, endpoint)
        options = StoreSettings(source=self.source)
        return open_sink(url, options, stop=stop or Stop(), stall_seconds=stall_seconds)

    def run(
        self,
        *,
        emit: Callable[[Event], None] = lambda _event: None,
        alone: bool = False,
        endpoint: str | None = None,
        stall_seconds: float = 20.0,
        **options: Any,
    ) -> BackupResult:
        """Back up to both of them; a later run has a later clock."""
        self.clock.advance(minutes=1)
        good = open_sink(f"file://{self.good}", StoreSettings(source=self.source), stop=Stop())
        bad = self.open(endpoint=endpoint, stall_seconds=stall_seconds)
        settings = {"stall_seconds": stall_seconds, "recovery_seconds": 0.0} | options
        sinks = [bad] if alone else [bad, good]
        return journal_data.run_backup(self.source, sinks, clock=self.clock, emit=emit, **settings)

    def problem(self, result: BackupResult, code: int = 3) -> str:
        """Insist that all problems are the bad sink's; give them."""
        assert worst(result.exit_codes) == code, journal_data.said(result)
        assert {p.sink for p in result.problems} == {self.open().url}
        assert len(manifests(self.good)) == (1 if code == 3 else 0)
        return journal_data.said(result)

    def names(self, suffix: str = "") -> list[str]:
        """List the store, by the door beside the sink."""
        listed = beside(self.store).list_objects_v2(Bucket=self.bucket).get("Contents", [])
        return [str(o["Key"]) for o in listed if str(o["Key"]).endswith(suffix)]

    def content(self, key: str) -> bytes:
        """Read an object, by that door."""
        got = beside(self.store).get_object(Bucket=self.bucket, Key=key)
        return bytes(got["Body"].read())

    def uploads(self) -> list[str]:
        """List the uploads that are under way."""
        listed = beside(self.store).list_multipart_uploads(Bucket=self.bucket)
        return [str(upload["Key"]) for upload in listed.get("Uploads", [])]

    def require_sound(self, backups: int) -> None:
        """Insist that what is there is whole, and that the next run adds a good one."""
        assert len(self.names(".manifest.json")) == backups
        for key in self.names(".tar.gz"):
            assert gzip.decompress(self.content(key)), "whatever has the name of an archive is one"
        assert self.uploads() == []
        if not backups:  # without a history there, any journal will do: a small one
            journal_data.write_journal(self.source, 0, large_journal(SIZES["small"]))
        assert self.run(endpoint=self.store.endpoint, alone=not backups).exit_codes == ()
        assert len(self.names(".manifest.json")) == backups + 1
        self.verify_deep()

    def verify_deep(self) -> None:
        """Insist that all backups are good, archives and records."""
        found = in_run(
            verify,
            [self.open(endpoint=self.store.endpoint)],
            None,
            journal=None,
            deep=True,
            emit=lambda _event: None,
            stop=Stop(),
        )
        assert [p.message for p in found.problems] == []


def manifests(root: Path) -> list[Path]:
    """List the manifests in a directory."""
    return sorted(root.glob("journal-*/*.manifest.json"))


@pytest.fixture
def two(tmp_path: Path, store: servers.S3Server, door: httpd.Door) -> Two:
    """Make them, with a small journal."""
    (tmp_path / "good").mkdir()
    journal_data.write_journal(tmp_path / "source", 0, large_journal(SIZES["small"]))
    return Two(
        source=tmp_path / "source",
        good=tmp_path / "good",
        store=store,
        bucket=store.fresh_bucket(),
        endpoint=door.endpoint,
    )


def enlarge(two: Two) -> None:
    """Let the journal be so large that its archive is stored in parts."""
    journal_data.write_journal(two.source, 0, large_journal(SIZES["large"]))


def sized(two: Two, size: str) -> Two:
    """Give them a journal of that size."""
    if size == "large":
        enlarge(two)
    return two


# -- replies that are lost


STEPS = {
    "archive": ("small", archive),
    "checksums": ("small", checksums),
    "manifest": ("small", manifest),
    "create": ("large", create),
    "part": ("large", part),
    "complete": ("large", complete),
}


@pytest.mark.parametrize(
    ("store", "step", "times"),
    [
        *(("versitygw", step, 2) for step in STEPS),
        *(("versitygw", step, 1) for step in ("archive", "complete")),
        *(("minio", step, 2) for step in ("archive", "manifest", "complete")),
    ],
    indirect=["store"],
)
def test_a_reply_that_is_lost_after_the_store_is_no_conflict(
    two: Two, door: httpd.Door, step: str, times: int
) -> None:
    """Twice is more than the SDK tries: our own success is met by another try, as a conflict."""
    size, lost = STEPS[step]
    sized(two, size)
    door.on(_not_a_probe(lost), httpd.lose_reply(), times=times)
    events = journal_data.Events()

    assert two.run(emit=events).exit_codes == ()
    assert events.of(PassRepeated) == [], "one pass did"
    assert len(door.seen(_not_a_probe(lost))) > times
    if lost is create:  # nobody knows the id of an upload whose begin was not told
        assert len(two.uploads()) == times
        assert two.open().sweep(datetime.now(UTC) + timedelta(hours=1)) == times
    two.require_sound(backups=1)


def _not_a_probe(condition: httpd.Condition) -> httpd.Condition:
    return lambda request: condition(request) and s3.PROBE_KEY not in request.path


@pytest.mark.parametrize("operation", [archive, complete], ids=["small", "large"])
def test_a_reply_that_is_lost_for_good_is_found_by_looking(
    two: Two, door: httpd.Door, operation: httpd.Condition
) -> None:
    """The first try has stored it, the others reach nobody; the object bears the put's token."""
    sized(two, "large" if operation is complete else "small")
    door.on(operation, httpd.lose_reply(), times=1)
    door.on(operation, lambda exchange: exchange.hang_up())

    assert two.run().exit_codes == ()
    two.require_sound(backups=1)


def test_a_completion_that_fails_within_a_200_is_repeated(two: Two, door: httpd.Door) -> None:
    """S3 keeps the line open by blanks and may say no at the end (API Reference)."""
    enlarge(two)
    door.on(complete, refuse(200, "InternalError"), times=1)

    assert two.run().exit_codes == ()
    assert len(door.seen(complete)) == 2
    two.require_sound(backups=1)


# -- connections that break


def test_a_part_that_is_cut_is_sent_again(two: Two, door: httpd.Door) -> None:
    """That part, and no other."""
    enlarge(two)
    door.on(lambda r: part(r) and r.query["partNumber"] == "2", httpd.cut_request(3 * MIB), times=3)

    assert two.run().exit_codes == ()
    numbers = [r.query["partNumber"] for r in door.seen(part)]
    assert sorted(numbers) == ["1", "2", "2", "2", "2", "3"]
    two.require_sound(backups=1)


@pytest.mark.parametrize(("size", "is_reset"), [("small", False), ("large", True)])
def test_a_read_back_that_breaks_goes_on_where_it_broke(
    two: Two, door: httpd.Door, size: str, *, is_reset: bool
) -> None:
    """Nothing is read twice: a slow link would never come to an end."""
    sized(two, size)
    reached = 50_000
    door.on(fetch, httpd.cut_reply(reached, reset=is_reset), times=1)
    door.on(fetch, httpd.cut_reply(1, reset=is_reset), times=2)
    events = journal_data.Events()

    assert two.run(emit=events).exit_codes == ()
    assert events.of(PassRepeated) == []
    asked = [r.headers.get("range", "bytes=0-") for r in door.seen(fetch)]
    reads = [r for r in asked if r != "bytes=0-0"]  # that asks how large it is
    offsets = [int(r.removeprefix("bytes=").removesuffix("-")) for r in reads]
    assert len(offsets) == 4
    assert offsets == sorted(offsets)
    if not is_reset:  # a reset takes what was under way with it
        assert offsets == [0, reached, reached + 1, reached + 2]
    two.require_sound(backups=1)


@pytest.mark.parametrize("kind", ["reset_peer", "limit_data"])
def test_a_line_that_breaks_again_and_again_is_told(
    two: Two, slow_line: servers.Proxy, kind: str
) -> None:
    """Each connection dies; it is tried for a while, and the other sink has its backup."""
    enlarge(two)
    two.endpoint = f"http://{slow_line.address}"
    attributes = {"reset_peer": {"timeout": 50}, "limit_data": {"bytes": 2 * MIB}}[kind]
    slow_line.toxic(kind, stream="upstream", **attributes)

    assert "is the store up" in two.problem(two.run())
    slow_line.disable()
    two.open(endpoint=two.store.endpoint).sweep(datetime.now(UTC) + timedelta(hours=1))
    two.require_sound(backups=0)


# -- links that are slow, and links that are dead


def test_a_slow_link_is_not_a_dead_one(
    two: Two, slow_line: servers.Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part takes longer than a stall may, but data moves all the while."""
    monkeypatch.setattr(s3, "PART_BYTES", 10 * MIB)
    enlarge(two)
    two.endpoint = f"http://{slow_line.address}"
    slow_line.toxic("bandwidth", stream="upstream", rate=4 * 1024)
    begun = time.monotonic()

    result = two.run(stall_seconds=1.6)

    assert result.exit_codes == (), journal_data.said(result)
    assert time.monotonic() - begun > 2
    two.require_sound(backups=1)


@pytest.mark.parametrize("stalled", ["upload", "download", "completion"])
def test_a_dead_link_is_dropped(two: Two, door: httpd.Door, stalled: str) -> None:
    """Soon, and the other sink does not wait for it; nothing of it looks whole later."""
    enlarge(two)
    where = {"upload": part, "download": fetch, "completion": complete}[stalled]
    door.on(where, httpd.deaf)
    begun = time.monotonic()

    problem = two.problem(two.run(stall_seconds=1.5))

    assert time.monotonic() - begun < 12, "a try that starts anew is no sign of life for ever"
    assert "no data moved for 1.5 s" in problem or "is the store up" in problem
    door.closing.set()
    wait_until(lambda: two.uploads() == [])
    two.require_sound(backups=0)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- answers that lie


def test_a_shortened_answer_is_no_read_back(two: Two, door: httpd.Door) -> None:
    """A 200 with less than is stored, in itself consistent: only the hash knows."""
    door.on(fetch, httpd.shorten_reply(1_000))

    assert "do not trust it" in two.problem(two.run())
    assert two.names() == [], "what is not as it was sent is discarded"
    two.require_sound(backups=0)


def signed_anew(
    store: servers.S3Server, change: Callable[[bytes], bytes]
) -> Callable[[httpd.Request, bytes], tuple[httpd.Request, bytes]]:
    """Change a body, and sign the request for it, without the checksums that were made for it."""

    def run(request: httpd.Request, body: bytes) -> tuple[httpd.Request, bytes]:
        body = change(body)
        kept = ("host", "content-type", "if-none-match", "x-amz-meta-journal-backup-put")
        return _signed(store, request, body, kept), body

    return run


def without_condition(
    store: servers.S3Server,
) -> Callable[[httpd.Request, bytes], tuple[httpd.Request, bytes]]:
    """Take the precondition away, as a server that does not know it."""

    def run(request: httpd.Request, body: bytes) -> tuple[httpd.Request, bytes]:
        kept = ("host", "content-type", "x-amz-meta-journal-backup-put")
        return _signed(store, request, body, kept), body

    return run


def _signed(
    store: servers.S3Server, request: httpd.Request, body: bytes, kept: tuple[str, ...]
) -> httpd.Request:
    headers = {name: value for name, value in request.headers.items() if name in kept}
    made = AWSRequest(
        method=request.method,
        url=f"http://{headers['host']}{request.target}",
        data=body,
        headers=headers,
    )
    made.context["payload_signing_enabled"] = True
    S3SigV4Auth(Credentials(store.access_key, store.secret_key), "s3", "us-east-1").add_auth(made)
    signed = {name.lower(): str(value) for name, value in made.headers.items()}
    return httpd.Request(method=request.method, target=request.target, headers=signed)


def framed(body: bytes) -> bytes:
    """Write a body as aws-chunked does, with a trailer."""
    return b"%x\r\n%b\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n" % (len(body), body)


def flipped(body: bytes) -> bytes:
    """Flip a bit in the middle."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


LIES = {"framed": framed, "flipped": flipped, "empty": lambda _b: b""}


@pytest.mark.parametrize("lie", LIES)
def test_a_store_that_changes_what_it_stores_is_not_trusted(
    two: Two, door: httpd.Door, lie: str
) -> None:
    """It says 200; what it holds is read, and discarded (velero-io/velero#9951)."""
    door.on(archive, httpd.change_request(signed_anew(two.store, LIES[lie])))
    events = journal_data.Events()

    problem = two.problem(two.run(emit=events, alone=True), code=6)

    assert "this sink changes what it stores: do not trust it" in problem
    assert len(events.of(PassRepeated)) == 1, "it may have been an accident"
    assert two.names() == []
    two.require_sound(backups=0)


def test_a_part_that_is_changed_unseen_is_not_trusted(two: Two, door: httpd.Door) -> None:
    """Where a store compares nothing, the read-back does."""
    enlarge(two)
    two.options = "&checksum_mode=none"
    door.on(part, httpd.change_request(signed_anew(two.store, flipped)))

    assert "do not trust it" in two.problem(two.run())
    assert two.names() == []
    two.require_sound(backups=0)


@pytest.mark.parametrize(
    ("size", "mode"),
    [("small", "crc32"), ("small", "sha256"), ("small", "md5"), ("large", "crc32")],
)
def test_a_byte_that_flips_on_its_way_is_refused_by_the_store(
    two: Two, door: httpd.Door, size: str, mode: str
) -> None:
    """And sent again at once: no read-back has to find it."""
    sized(two, size)
    two.options = f"&checksum_mode={mode}"
    flip = httpd.change_request(lambda request, body: (request, flipped(body)))
    door.on(archive, flip, times=1)
    events = journal_data.Events()

    assert two.run(emit=events).exit_codes == ()
    assert events.of(PassRepeated) == []
    two.require_sound(backups=1)


def test_a_manifest_that_is_changed_is_told(two: Two, door: httpd.Door) -> None:
    """Everything else is judged by it."""
    door.on(manifest, httpd.change_request(signed_anew(two.store, flipped)))

    problem = two.problem(two.run(alone=True), code=6)

    assert "does not hold what was written" in problem


def test_a_store_that_ignores_preconditions_is_still_safe(two: Two, door: httpd.Door) -> None:
    """Every key is new, so a run overwrites nothing; and a lost reply is no conflict there."""
    enlarge(two)
    conditional = is_(header="if-none-match")
    door.on(complete, httpd.lose_reply(), times=1)
    door.on(conditional, httpd.change_request(without_condition(two.store)))

    assert two.run().exit_codes == ()
    assert len(door.seen(conditional)) >= 3
    before = {key: two.content(key) for key in two.names()}
    two.require_sound(backups=1)
    assert {key: two.content(key) for key in before} == before


# -- a store that is not there for a while


@pytest.mark.parametrize(
    ("size", "status", "code"),
    [("large", 503, "SlowDown"), ("small", 503, ""), ("large", 429, "TooManyRequests")],
)
def test_an_outage_costs_a_second_pass(
    two: Two, door: httpd.Door, size: str, status: int, code: str
) -> None:
    """It begins while an archive is sent and ends while the run waits for the store."""
    sized(two, size)
    listing = is_("GET", query="list-type")
    begun = httpd.since(part if size == "large" else archive)

    def outage(request: httpd.Request) -> bool:
        return begun(request) and len(door.seen(listing)) < 5  # two were before, three are probes

    door.on(outage, httpd.answer(status, refusal(code) if code else b"<html>later"))
    events = journal_data.Events()

    result = two.run(emit=events, recovery_seconds=60.0)

    assert result.exit_codes == (), journal_data.said(result)
    assert len(events.of(PassRepeated)) == 1
    assert [key[-9:] for key in two.names(".tar.gz")] == [".2.tar.gz"]
    two.open().sweep(datetime.now(UTC) + timedelta(hours=1))  # an abort was refused too
    two.require_sound(backups=1)


def test_an_outage_that_does_not_end_is_told(two: Two, door: httpd.Door) -> None:
    """The other sink has its backup; nothing that is left looks whole."""
    enlarge(two)
    door.on(httpd.since(part), refuse(503, "SlowDown"))

    assert "SlowDown: Because" in two.problem(two.run())
    two.open(endpoint=two.store.endpoint).sweep(datetime.now(UTC) + timedelta(hours=1))
    two.require_sound(backups=0)


@pytest.mark.parametrize(
    ("size", "status", "code", "says"),
    [
        ("large", 400, "ExpiredToken", "the credentials have expired"),
        ("small", 403, "RequestTimeTooSkewed", "clock and the store's differ"),
        ("large", 403, "AccessDenied", "the credentials lack s3:PutObject"),
        ("small", 404, "NoSuchBucket", "create the bucket"),
        ("large", 507, "XMinioStorageFull", "make room"),
    ],
)
def test_what_will_not_pass_is_told_at_once(
    two: Two, door: httpd.Door, *, size: str, status: int, code: str, says: str
) -> None:
    """In the middle of a run: no further try, no second pass, the upload aborted."""
    sized(two, size)
    failing = is_("PUT", query="partNumber") if size == "large" else archive
    door.on(lambda r: failing(r) and r.query.get("partNumber", "1") == "1", refuse(status, code))
    events = journal_data.Events()

    problem = two.problem(two.run(emit=events))

    assert says in problem
    assert code in problem
    assert events.of(PassRepeated) == []
    assert len([r for r in door.seen(failing) if r.query.get("partNumber", "1") == "1"]) == 1
    assert len(door.seen(abort)) == (2 if size == "large" else 1), "the probe's, and this"
    two.require_sound(backups=0)


def test_a_bucket_that_vanishes_is_told(two: Two, door: httpd.Door) -> None:
    """Really, by the store's own words."""
    client, bucket = beside(two.store), two.bucket
    door.on(archive, httpd.first(partial(client.delete_bucket, Bucket=bucket)), times=1)

    assert "NoSuchBucket" in two.problem(two.run())

    client.create_bucket(Bucket=bucket)
    two.require_sound(backups=0)


def test_uploads_that_may_not_be_listed_are_no_failure(two: Two, door: httpd.Door) -> None:
    """Sweeping is a convenience; a run without the permission is good and says what it lacks."""
    two.run()  # what is on a sink tells the time there, without which nothing is old
    door.on(sweep, refuse(403, "AccessDenied"))
    result = two.run()

    assert result.exit_codes == ()
    (warning,) = [w for w in result.warnings if "not swept" in w.message]
    assert "cannot sweep" in warning.message
    assert "AccessDenied" in warning.message


# -- the command itself


def begin(
    two: Two, *sinks: str, settings: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[str]:
    """Start the real command."""
    ours = {"BACKUP_SOURCE": str(two.source), "BACKUP_SINKS": ",".join(sinks or (two.url,))}
    return subprocess.Popen(
        [sys.executable, "-m", "backup", "backup"],
        cwd=CHECKOUT,
        env={**os.environ, **ours, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(two: Two, *sinks: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    process = begin(two, *sinks, **how)
    try:
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


REFUSED = {
    "no-dns": ("s3://bucket/site?endpoint=http://store.invalid", 5, "endpoint's name and port"),
    "no-bucket": ("s3://no-such-bucket/site?endpoint={door}", 5, "create the bucket"),
    "no-profile": ("s3://bucket/site?endpoint={door}&profile=absent", 2, "AWS_PROFILE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_place_that_is_none_is_told(two: Two, door: httpd.Door, case: str) -> None:
    """By the real command, with what to do."""
    url, code, hint = REFUSED[case]
    url = url.format(door=door.endpoint)
    ended = command(two, url)

    assert ended.returncode == code
    assert hint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_place_that_is_none_is_no_disaster_beside_a_good_one(two: Two) -> None:
    """The journals are safe; somebody has to look."""
    ended = command(two, REFUSED["no-dns"][0], f"file://{two.good}")

    assert ended.returncode == 3
    assert len(manifests(two.good)) == 1


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, "ExpiredToken", "the credentials have expired"),
        (403, "RequestTimeTooSkewed", "set it right (NTP)"),
    ],
)
def test_credentials_and_clocks_that_are_wrong_are_told_at_once(
    two: Two, door: httpd.Door, status: int, code: str, hint: str
) -> None:
    """By one request: a static token does not get younger."""
    door.on(anything, refuse(status, code))
    ended = command(two)

    assert ended.returncode == 5
    assert hint in ended.stderr
    assert len(door.requests) == 1
    assert two.store.secret_key not in ended.stdout + ended.stderr


def test_a_clock_that_is_wrong_is_known_to_a_real_store(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compares the time of the signature with its own."""
    later = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_kwargs: later)

    with pytest.raises(SinkDeniedError, match="RequestTimeTooSkewed"):
        two.open().probe()


# -- the end, in the middle of an upload


def end(process: subprocess.Popen[str], signum: int) -> tuple[int, str, float]:
    """Send a signal; give the exit code, what was said, and the seconds that it took."""
    begun = time.monotonic()
    process.send_signal(signum)
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    return process.returncode, said, time.monotonic() - begun


MIDDLES: dict[str, tuple[httpd.Condition, httpd.Act]] = {
    "part-under-way": (part, httpd.deaf),
    "part-is-throttled": (part, refuse(429, "TooManyRequests")),
    "store-is-down": (part, httpd.answer(503)),
    "completion-under-way": (complete, httpd.deaf),
}


@pytest.mark.parametrize("middle", MIDDLES)
def test_a_signal_aborts_the_upload(two: Two, door: httpd.Door, middle: str) -> None:
    """Promptly, whatever the upload was doing; Kubernetes sends SIGKILL when the grace is over.

    What could not be aborted so soon, or may be done by now, is for the sweep of a later run.
    """
    enlarge(two)
    where, act = MIDDLES[middle]
    door.on(where, act)
    process = begin(two)
    door.wait(where)
    code, said, seconds = end(process, signal.SIGTERM)

    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in said
    assert seconds < 5
    if where is complete or len(door.seen(abort)) < 2:  # the probe's, and this
        door.clear()
        two.open().sweep(datetime.now(UTC) + timedelta(hours=1))
    two.require_sound(backups=0)


def put_and_stop(two: Two, began: Callable[[], object]) -> BaseException | None:
    """Put a large object, and ask for the end once something has happened."""
    stop = Stop()
    sink = two.open(stop=stop)
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(sink.put, KEY, islice(cycle([bytes(MIB)]), 40), max_bytes=40 * MIB)
        began()
        stop.request(signal.SIGTERM)
        return put.exception(20)


@pytest.mark.parametrize("middle", ["part-under-way", "part-is-throttled", "store-is-down"])
def test_a_stop_aborts_the_upload(two: Two, door: httpd.Door, middle: str) -> None:
    """At once, and not when the part that is under way has come to an end."""
    where, act = MIDDLES[middle]
    door.on(where, act)

    assert isinstance(put_and_stop(two, lambda: door.wait(where)), SignalledError)
    assert len(door.seen(abort)) == 1
    assert two.uploads() == []


def test_a_part_that_arrives_after_the_abort_changes_nothing(two: Two, door: httpd.Door) -> None:
    """A request that is under way cannot be called back."""
    arrived, forwarded = threading.Event(), threading.Event()
    answers: list[int] = []

    def late(exchange: httpd.Exchange) -> None:
        exchange.body  # noqa: B018 - it is read
        arrived.set()  # whole: a stop before that would cut it short
        wait_until(lambda: two.uploads() == [])
        with suppress(ConnectionError):  # refused before it was read to its end
            answers.append(exchange.forward().status)
        forwarded.set()

    door.on(part, late, times=1)
    door.on(part, httpd.deaf)  # one that the store takes during the abort may outlive it

    assert isinstance(put_and_stop(two, lambda: arrived.wait(20)), SignalledError)
    assert forwarded.wait(20)
    assert set(answers) <= {404}
    assert (two.names(), two.uploads()) == ([], [])


@pytest.mark.parametrize("middle", ["part-under-way", "completion-under-way"])
def test_what_a_killed_run_leaves_is_swept(two: Two, door: httpd.Door, middle: str) -> None:
    """Nobody sees it, and somebody pays for it; a run past the grace removes it, and no other."""
    enlarge(two)
    where, act = MIDDLES[middle]
    door.on(where, act, times=2)
    process = begin(two)
    door.wait(where)
    code, _, _ = end(process, signal.SIGKILL)

    assert code == -signal.SIGKILL
    assert two.names() == []
    (left,) = two.uploads()
    assert left.startswith(f"{SITE}/{JOURNAL}/")

    sink = two.open()
    assert sink.sweep(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert sink.sweep(datetime.now(UTC) + timedelta(hours=1)) == 1
    two.require_sound(backups=0)


def test_a_run_that_is_killed_between_archive_and_manifest_leaves_no_backup(
    two: Two, door: httpd.Door
) -> None:
    """The archive is whole, and nothing names it."""
    door.on(manifest, httpd.deaf, times=1)
    process = begin(two)
    door.wait(manifest)
    end(process, signal.SIGKILL)

    assert [key.rpartition(".")[2] for key in two.names()] == ["sha256", "gz"]
    two.require_sound(backups=0)
