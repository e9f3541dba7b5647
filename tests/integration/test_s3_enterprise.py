"""S3 as companies have it: own endpoints, own CAs, proxies, locks, versions, encryption.

What a server stores is asked of the server. What none of ours enforces or shows is proved by the
requests that were made: VersityGW forgets storage class and encryption, MinIO has neither without
a KMS, and neither of them insists on a checksum where an object lock is, as AWS does.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from backup.config import SETTINGS
from backup.report import worst
from backup.settings import StoreSettings
from backup.sinks import open_sink
from backup.sinks.kinds import S3Options
from backup.stop import Stop
from tests import servers
from tests.commands import Answer, Asked, Site, Witness, refusal, run, run_here, witness
from tests.journal_data import NAME, Clock, records, run_backup, write_journal
from tests.servers import Certificates, S3Server

NOWHERE = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x"}
PAGE = Path(__file__).parents[2] / "docs" / "s3.md"
SINK = "s3://acme-journals/plant-7?endpoint=https://s3.plant-7.example:9000"
ORPHAN = f"{NAME}/{NAME}-20260101T000000Z-abcdef.tar.gz"


def require(name: servers.Name) -> None:
    """Leave out a test whose server is not here."""
    if reason := servers.unavailable(name):
        pytest.skip(reason)


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make a CA and its certificates."""
    return servers.certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def private(issued: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Serve S3 by TLS, with a certificate of that CA."""
    require("versitygw")
    with servers.versitygw(tmp_path_factory.mktemp("private"), tls=issued.server) as server:
        yield server


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give a place with one journal."""
    return Site.at(tmp_path)


def keys(server: S3Server, bucket: str, **trust: Any) -> list[str]:
    """Name what a bucket holds."""
    listed = server.client(**trust).list_objects_v2(Bucket=bucket)
    return [o["Key"] for o in listed.get("Contents", ())]


# -- certificates


@pytest.mark.parametrize("setting", ["BACKUP_CA_CERT_FILE", "AWS_CA_BUNDLE"])
def test_a_private_ca_is_trusted_when_told(
    private: S3Server, issued: Certificates, site: Site, setting: str
) -> None:
    """By our setting, beside the public CAs, or by the SDK's own."""
    bucket = private.fresh_bucket(ca=issued.ca)
    trusting = {**private.environment, setting: str(issued.ca)}

    done = run(site.environment(f"s3://{bucket}/site", **trusting), "backup")
    assert (done.code, len(keys(private, bucket, ca=issued.ca))) == (0, 3), done.said


@pytest.mark.parametrize(
    ("shown", "trusted", "scheme", "problem", "hint"),
    [
        ("server", None, "https", "signed by a CA that is not trusted", "BACKUP_CA_CERT_FILE"),
        ("server", "other_ca", "https", "signed by a CA that is not", "BACKUP_CA_CERT_FILE"),
        ("expired", "ca", "https", "the server's certificate has expired", "renew it"),
        ("elsewhere", "ca", "https", "certificate is for another host name", "the endpoint"),
        (None, "ca", "https", "the server does not speak TLS there", "http://"),
        ("server", "ca", "http", "cannot probe: ", "https://"),
    ],
)
def test_what_is_wrong_with_tls_is_said(
    issued: Certificates,
    site: Site,
    *,
    shown: str | None,
    trusted: str | None,
    scheme: str,
    problem: str,
    hint: str,
) -> None:
    """A sentence and a hint, exit 5, and soon: it will not get better by itself."""
    require("versitygw")
    certificate = getattr(issued, shown) if shown else None
    with servers.versitygw(site.root, tls=certificate) as server:
        endpoint = f"{scheme}://{server.address}"
        trust = {"BACKUP_CA_CERT_FILE": str(getattr(issued, trusted))} if trusted else {}
        environment = site.environment(
            f"s3://bucket/site?endpoint={endpoint}", **server.environment, **trust
        )
        begun = time.monotonic()
        done = run_here(environment, "backup")
        seconds = time.monotonic() - begun

    assert done.code == 5
    assert problem in done.stdout
    assert re.search(rf"^  hint: .*{hint}", done.stdout, re.MULTILINE), done.stdout
    assert seconds < 15


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot read"), ("not a certificate", "holds no certificate")]
)
def test_a_ca_file_that_is_none_is_a_wrong_setting(
    site: Site, content: str | None, problem: str
) -> None:
    """It names the setting and the file, and nothing is asked of anybody."""
    path = site.root / "ca.pem"
    if content:
        path.write_text(content)
    environment = site.environment("s3://b-1/x", **NOWHERE, BACKUP_CA_CERT_FILE=str(path))

    done = run_here(environment, "list")
    assert done.code == 2
    assert f"error: BACKUP_CA_CERT_FILE: {problem}" in done.stderr.replace(f" {path}", "", 1)


def test_a_missing_bundle_of_the_sdk_is_named(site: Site) -> None:
    """It is not the server's certificate that is wrong."""
    with witness() as store:
        endpoint = f"https://{store.address}"
        environment = site.environment(
            f"s3://b-1/x?endpoint={endpoint}", **NOWHERE, AWS_CA_BUNDLE="/no/such/file"
        )
        done = run_here(environment, "list")

    assert done.code == 5
    assert "the file of trusted certificates is not there" in done.stderr
    assert "hint: check AWS_CA_BUNDLE" in done.stderr


# -- endpoints


@pytest.mark.parametrize(
    ("query", "given", "target"),
    [
        ("?endpoint=http://store.example", {}, "http://store.example/acme?"),
        ("", {"AWS_ENDPOINT_URL": "http://store.example"}, "http://store.example/acme?"),
        ("", {"AWS_ENDPOINT_URL_S3": "http://store.example"}, "http://store.example/acme?"),
        ("?endpoint=http://store.example&path_style=false", {}, "http://acme.store.example/?"),
        (
            "?endpoint=http://store.example",
            {"BACKUP_S3_PATH_STYLE": "false"},
            "http://acme.store.example/?",
        ),
        (
            "?endpoint=http://store.example&path_style=true",
            {"BACKUP_S3_PATH_STYLE": "false"},
            "http://store.example/acme?",
        ),
        ("", {}, "acme.s3.amazonaws.com:443"),
        ("", {"AWS_REGION": "eu-west-1"}, "acme.s3.eu-west-1.amazonaws.com:443"),
        ("?path_style=true", {"AWS_REGION": "eu-west-1"}, "s3.eu-west-1.amazonaws.com:443"),
        ("?region=eu-central-1", {}, "acme.s3.eu-central-1.amazonaws.com:443"),
    ],
)
def test_the_bucket_is_in_the_host_or_in_the_path(
    site: Site, query: str, given: dict[str, str], target: str
) -> None:
    """In the host at AWS; in the path at an endpoint of one's own, unless told otherwise."""
    with witness(lambda _: refusal(403, "AccessDenied", "no")) as proxy:
        through = {"HTTP_PROXY": proxy.endpoint, "HTTPS_PROXY": proxy.endpoint}
        environment = site.environment(f"s3://acme/x{query}", **NOWHERE | through | given)
        assert run_here(environment, "list").code == 5

    assert {a.target[: len(target)] for a in proxy.asked} == {target}


def test_two_stores_of_one_run_have_their_own_options(
    private: S3Server, minio: S3Server, issued: Certificates, site: Site
) -> None:
    """The same bucket on two endpoints is two sinks, and the report tells them apart."""
    bucket = private.fresh_bucket(ca=issued.ca)
    minio.client().create_bucket(Bucket=bucket)
    urls = [
        f"s3://{bucket}/site?endpoint={private.endpoint}&checksum_mode=sha256",
        f"s3://{bucket}/site?endpoint={minio.endpoint}",
    ]
    given = {k: v for k, v in minio.environment.items() if "ENDPOINT" not in k}
    environment = site.environment(*urls, **given, BACKUP_CA_CERT_FILE=str(issued.ca))

    done = run_here(environment, "backup", "--json")
    assert done.code == 0, done.said
    (journal,) = json.loads(done.stdout)["journals"]
    assert [copy["sink"] for copy in journal["copies"]] == [
        f"s3://{bucket}/site?endpoint={server.endpoint}" for server in (private, minio)
    ]
    trust: Mapping[str, Any]
    for server, trust, checksum in (
        (private, {"ca": issued.ca}, "ChecksumSHA256"),
        (minio, {}, "ChecksumCRC32"),
    ):
        stored = keys(server, bucket, **trust)
        assert len(stored) == 3
        client = server.client("s3", **trust)
        for key in stored:
            assert checksum in client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")


@pytest.mark.parametrize("prefix", ["", "/a/b%20c/d.e/-f"])
def test_a_prefix_may_be_nothing_or_deep(minio: S3Server, site: Site, prefix: str) -> None:
    """And every verb finds what is below it, and there alone."""
    bucket = minio.fresh_bucket()
    environment = site.environment(f"s3://{bucket}{prefix}", **minio.environment)
    assert run_here(environment, "backup").code == 0
    begin = prefix.replace("%20", " ").strip("/")
    begin += "/" if begin else ""

    stored = keys(minio, bucket)
    assert [k for k in stored if k.startswith(f"{begin}{NAME}/{NAME}-")] == stored
    target = site.root / "restored"
    for command in ("verify", f"restore latest --target {target}"):
        assert run_here(environment, *command.split()).code == 0
    original = site.root / "journals" / NAME / "journal"
    assert (target / NAME / "journal").read_bytes() == original.read_bytes()


def test_a_page_for_people_is_no_empty_listing(site: Site) -> None:
    """As the console of a store, or a portal, has at its port: nobody may read '0 backups'."""
    page = Answer(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"})
    with witness(lambda _: page) as store:
        environment = site.environment(f"s3://b-1/x?endpoint={store.endpoint}", **NOWHERE)
        assert run_here(environment, "list").code == 5


# -- proxies


def through(proxy: Witness) -> str:
    """Give the URL of a proxy that wants a password."""
    return f"http://ada:pass-word@{proxy.address}"


@pytest.mark.parametrize("bypass", ["", "127.0.0.1"])
def test_a_proxy_is_used_unless_told_otherwise(
    private: S3Server, minio: S3Server, issued: Certificates, site: Site, bypass: str
) -> None:
    """Plain requests go to it whole, those by TLS through a tunnel; NO_PROXY is heeded."""
    bucket = private.fresh_bucket(ca=issued.ca)
    minio.client().create_bucket(Bucket=bucket)
    urls = [f"s3://{bucket}/site?endpoint={s.endpoint}" for s in (private, minio)]
    given = {k: v for k, v in minio.environment.items() if "ENDPOINT" not in k}
    with witness() as plain, witness() as tunnels:
        environment = site.environment(
            *urls,
            **given,
            BACKUP_CA_CERT_FILE=str(issued.ca),
            HTTP_PROXY=through(plain),
            HTTPS_PROXY=through(tunnels),
            NO_PROXY=bypass,
        )
        done = (run_here if bypass else run)(environment, "backup")

    assert done.code == 0, done.said
    assert (len(keys(private, bucket, ca=issued.ca)), len(keys(minio, bucket))) == (3, 3)
    if bypass:
        assert not plain.asked + tunnels.asked
        return
    assert len(plain.of("PUT")) == 3
    assert {a.target.partition("/" + bucket)[0] for a in plain.asked} == {minio.endpoint}
    assert {(a.method, a.target) for a in tunnels.asked} == {("CONNECT", private.address)}
    assert all("proxy-authorization" in a.headers for a in plain.asked + tunnels.asked)


@pytest.mark.parametrize(
    ("scheme", "answer", "hint"),
    [
        ("http", None, "check HTTPS_PROXY and NO_PROXY"),
        ("https", None, "check HTTPS_PROXY and NO_PROXY"),
        ("https", Answer(status=407), "check HTTPS_PROXY and NO_PROXY"),
        ("http", Answer(status=407), "HTTP_PROXY"),
    ],
)
def test_a_proxy_that_does_not_serve_is_named_without_its_password(
    site: Site, scheme: str, answer: Answer | None, hint: str
) -> None:
    """It is down, or does not know us: exit 5, and nobody looks at the store for the cause."""
    with witness(lambda _: answer) as proxy:
        url = through(proxy)
        environment = site.environment(
            f"s3://b-1/x?endpoint={scheme}://store.example",
            **NOWHERE,
            HTTP_PROXY=url,
            HTTPS_PROXY=url,
        )
        done = run_here(environment, "list") if answer else None
    done = done or run_here(environment, "list")  # the proxy is gone now

    assert done.code == 5
    assert "pass-word" not in done.said
    assert answer or proxy.address in done.stderr
    assert re.search(rf"^  hint: .*{hint}", done.stderr, re.MULTILINE), done.stderr


# -- what is asked of the store for each object


@pytest.mark.parametrize(
    ("mode", "header"),
    [
        ("crc32", "x-amz-checksum-crc32"),
        ("sha256", "x-amz-checksum-sha256"),
        ("md5", "content-md5"),
        ("none", None),
    ],
)
def test_the_checksum_is_a_header_of_every_upload(
    minio: S3Server, site: Site, mode: str, header: str | None
) -> None:
    """Just the one that was chosen, never a trailer, and nothing is sent in the SDK's chunks."""
    bucket = minio.fresh_bucket()
    with witness(upstream=minio.address) as store:
        done = run_here(
            site.environment(
                f"s3://{bucket}/x?endpoint={store.endpoint}&checksum_mode={mode}",
                **minio.environment,
            ),
            "backup",
        )

    assert done.code == 0, done.said
    uploads = store.of("PUT")
    assert len(uploads) == 3
    for upload in uploads:
        known = {"content-md5", *(h for h in upload.headers if h.startswith("x-amz-checksum"))}
        assert known & {*upload.headers} == ({header} if header else set())
        assert "x-amz-trailer" not in upload.headers
        assert "aws-chunked" not in upload.headers.get("content-encoding", "")
    for key in keys(minio, bucket) if mode in {"crc32", "sha256"} else ():
        head = minio.client().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        assert head[f"Checksum{mode.upper()}"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("sse=AES256", {"ServerSideEncryption": "AES256"}),
        ("sse=aws:kms", {"ServerSideEncryption": "aws:kms"}),
        (
            "sse=aws:kms&sse_kms_key_id=alias/journals",
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/journals"},
        ),
        ("storage_class=STANDARD_IA", {"StorageClass": "STANDARD_IA"}),
    ],
)
def test_encryption_and_storage_class_are_asked_for_each_object(
    moto: S3Server, site: Site, query: str, shown: dict[str, str]
) -> None:
    """Archives, checksum files and manifests alike, and multipart uploads, as the probe makes."""
    bucket = moto.fresh_bucket()
    with witness(upstream=moto.address) as store:
        url = f"s3://{bucket}/x?endpoint={store.endpoint}&{query}"
        done = run_here(site.environment(url, **moto.environment), "backup")

    assert done.code == 0, done.said
    stored = [moto.client().head_object(Bucket=bucket, Key=key) for key in keys(moto, bucket)]
    assert [{name: head[name] for name in shown} for head in stored] == [shown] * 3
    making = [*store.of("PUT"), *store.of("POST")]
    assert len(making) == 4
    for request in making:
        assert {*shown.values()} <= {*request.headers.values()}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"BACKUP_S3_SSE_KMS_KEY_ID": "k"}, "sse_kms_key_id needs KMS"),
        ({"BACKUP_S3_OBJECT_LOCK_MODE": "COMPLIANCE"}, "object_lock_days go together"),
        ({"BACKUP_S3_OBJECT_LOCK_DAYS": "3"}, "object_lock_days go together"),
        (
            {
                "BACKUP_S3_OBJECT_LOCK_MODE": "COMPLIANCE",
                "BACKUP_S3_OBJECT_LOCK_DAYS": "3",
                "BACKUP_S3_CHECKSUM_MODE": "none",
            },
            "an object lock needs a checksum",
        ),
    ],
)
def test_what_does_not_go_together_is_a_wrong_setting(
    site: Site, given: dict[str, str], problem: str
) -> None:
    """Before a store refuses each single object."""
    done = run_here(site.environment("s3://b-1/x", **given), "backup")

    assert done.code == 2
    assert problem in done.stderr


def test_what_the_store_lacks_is_said_by_the_probe(minio: S3Server, site: Site) -> None:
    """Before a journal is read: MinIO has no KMS here, and no such storage class."""
    bucket = minio.fresh_bucket()
    for query, problem in (
        ("sse=aws:kms", "NotImplemented: Server side encryption specified but KMS is not"),
        ("storage_class=GLACIER", "InvalidStorageClass"),
        ("object_lock_mode=GOVERNANCE&object_lock_days=1", "missing ObjectLockConfiguration"),
    ):
        done = run_here(site.environment(f"s3://{bucket}?{query}", **minio.environment), "backup")
        assert done.code == 5
        assert f"cannot probe: {problem}" in done.stdout or problem in done.stdout


# -- locks and versions


@pytest.fixture(scope="module")
def locked(minio: S3Server) -> str:
    """Make a bucket that locks each object for three days."""
    bucket = minio.fresh_bucket(ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    minio.client().put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )
    return bucket


def insisting(asked: Asked) -> Answer | None:
    """Refuse as AWS does what is to be locked and carries no checksum."""
    if asked.method != "PUT":
        return None
    if any(h == "content-md5" or h.startswith("x-amz-checksum") for h in asked.headers):
        return None
    said = (
        "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests "
        "with Object Lock parameters"
    )
    return refusal(400, "InvalidRequest", said)


@pytest.mark.parametrize(
    ("query", "mode", "days"),
    [
        ("checksum_mode=crc32", "GOVERNANCE", 3),
        ("checksum_mode=sha256", "GOVERNANCE", 3),
        ("checksum_mode=md5", "GOVERNANCE", 3),
        ("object_lock_mode=COMPLIANCE&object_lock_days=5", "COMPLIANCE", 5),
    ],
)
def test_objects_are_locked_by_default_or_as_told(
    minio: S3Server, site: Site, locked: str, *, query: str, mode: str, days: int
) -> None:
    """Each object that a backup consists of, with every checksum mode that there is."""
    prefix = site.root.name
    with witness(insisting, upstream=minio.address) as store:
        url = f"s3://{locked}/{prefix}?endpoint={store.endpoint}&{query}"
        environment = site.environment(url, **minio.environment)
        assert run_here(environment, "backup").code == 0
        assert run_here(environment, "verify").code == 0

    heads = [
        minio.client().head_object(Bucket=locked, Key=key)
        for key in keys(minio, locked)
        if key.startswith(prefix)
    ]
    assert [head["ObjectLockMode"] for head in heads] == [mode] * 3
    for head in heads:
        left = head["ObjectLockRetainUntilDate"] - datetime.now(UTC)
        assert timedelta(days=days, minutes=-5) < left <= timedelta(days=days)


def test_without_a_checksum_a_locked_bucket_refuses(
    minio: S3Server, site: Site, locked: str
) -> None:
    """In the store's own words, which name what is missing; no manifest comes of it."""
    prefix = site.root.name
    with witness(insisting, upstream=minio.address) as store:
        url = f"s3://{locked}/{prefix}?endpoint={store.endpoint}&checksum_mode=none"
        done = run_here(site.environment(url, **minio.environment), "backup")

    assert done.code == 5
    assert "InvalidRequest: Content-MD5 OR x-amz-checksum- HTTP header is required" in done.stdout
    assert not [key for key in keys(minio, locked) if key.startswith(prefix)]
    assert len(store.of("PUT")) == 1, "asking again is of no use"


def test_a_versioned_bucket_keeps_what_is_removed(minio: S3Server, site: Site) -> None:
    """Sweeping leaves a marker above the bytes, and no request of ours names a version."""
    bucket = minio.fresh_bucket(versioning=True)
    minio.client().put_object(Bucket=bucket, Key=f"x/{ORPHAN}", Body=b"interrupted")
    options = StoreSettings(source=site.root / "journals")
    with (
        witness(upstream=minio.address) as store,
        mock.patch.dict("os.environ", site.environment(**minio.environment), clear=True),
        mock.patch("backup.catalog.holdings.SWEEP_GRACE", timedelta(seconds=1)),
    ):
        sink = open_sink(f"s3://{bucket}/x?endpoint={store.endpoint}", options, stop=Stop())
        time.sleep(2)  # the store's own clock counts, which nobody can set
        now = Clock(datetime.now(UTC))
        result = run_backup(site.root / "journals", [sink], clock=now, deadline=timedelta())

    assert worst(result.exit_codes) == 0
    assert f"x/{ORPHAN}" not in keys(minio, bucket)
    versions = minio.client().list_object_versions(Bucket=bucket, Prefix=f"x/{ORPHAN}")
    assert (len(versions["Versions"]), len(versions["DeleteMarkers"])) == (1, 1)
    assert not [a.target for a in store.asked if "versionId" in a.target]


# -- the page


def test_the_commands_of_the_page_are_those_of_the_api(moto: S3Server) -> None:
    """Names of operations, options and what they hold: a server takes each of them."""
    commands = re.findall(r"^aws s3api (?:.*\\\n|.*\n(?= ))*.*$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        _aws, _service, operation, *options = shlex.split(command.replace("\\\n", " "))
        given: dict[str, Any] = {}
        while options:
            name = "".join(map(str.capitalize, options.pop(0).strip("-").split("-")))
            value = options.pop(0) if options and not options[0].startswith("--") else "true"
            given[name] = value if name == "Bucket" else json.loads(value)
        getattr(moto.client(), operation.replace("-", "_"))(**given)

    client = moto.client()
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket="acme-journals")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert client.get_bucket_versioning(Bucket="acme-journals")["Status"] == "Enabled"
    lock = client.get_object_lock_configuration(Bucket="acme-journals")
    assert lock["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]["Days"] == 90


def test_the_page_has_a_row_for_every_option() -> None:
    """With the setting that is its default, where there is one."""
    chapter = PAGE.read_text().partition("## Options of a sink")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", chapter, re.MULTILINE))

    options = S3Options.model_fields.keys()
    assert options <= rows.keys()
    for name in options:
        if (setting := f"BACKUP_S3_{name.upper()}") in SETTINGS:
            assert rows[name] == f"`{setting}`"


def test_the_example_of_the_page_reads_as_the_command_does(
    private: S3Server, issued: Certificates, site: Site
) -> None:
    """Its lines, but for what differs from run to run: figures, ids, the endpoint."""
    bucket = private.fresh_bucket(ca=issued.ca)
    write_journal(site.root / "journals", 1, records(5))
    trusting = private.environment | {"BACKUP_CA_CERT_FILE": str(issued.ca)}
    del trusting["AWS_ENDPOINT_URL_S3"]
    url = f"s3://{bucket}/plant-7?endpoint={private.endpoint}"
    good = site.environment(url, **trusting, BACKUP_SITE="plant-7", BACKUP_EXPECT_REPLICAS="2")
    text = PAGE.read_text()
    shown = text[text.index("$ journal-backup backup") : text.index("## Permissions")]

    printed = run_here(good, "backup").stdout + run_here(good, "verify").stdout
    for given in ({}, {"BACKUP_CA_CERT_FILE": ""}):
        said = run_here(good | given, "backup").stdout
        printed += "".join(line for line in said.splitlines(keepends=True) if "probe" in line)
    assert "BACKUP_CA_CERT_FILE" in shown
    for line in skeleton(printed.replace(url, SINK)):
        assert line in skeleton(shown), line


def skeleton(text: str) -> list[str]:
    """Take figures, ids and the width of columns out of what the command prints."""
    text = re.sub(r"\d{8}T\d{6}Z-[0-9a-f]{6}", "ID", text)
    text = re.sub(r"[\d.,]+ (?=[KM]iB)|(?<=\s)[\d.,]+(?= )", "N ", text)
    return [" ".join(line.replace("KiB", "MiB").split()) for line in text.splitlines()]
