"""URLs of sinks: what they may say, and what is shown of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backup.errors import ConfigError, SinkMissingError
from backup.settings import StoreSettings
from backup.sinks import check, locate, open_sink, redacted
from backup.sinks.file import FileSink
from backup.sinks.gcs import GcsSink
from backup.sinks.kinds import FileOptions, S3Options, without_users
from backup.sinks.s3 import S3Sink
from backup.stop import Stop

BAD = {
    "": "has the scheme ''",
    "/mnt/sink": "has the scheme ''",
    "s4://bucket": "has the scheme 's4'",
    "FILE": "has the scheme ''",
    "file://": "is not a file URL",
    "file:///": "is not a file URL",
    "file:////": "is not a file URL",
    "file:////mnt": "is not a file URL",
    "file:mnt": "is not a file URL",
    "file://mnt/sink": "is not a file URL",
    "file://user:secret@host/sink": "is not a file URL",
    "file:///mnt/../etc": "is not a file URL",
    "file:///mnt/%2e%2e/etc": "is not a file URL",
    "file:///mnt/%00": "is not a file URL",
    "file://[secret/mnt": "is not a URL",
    "file:///mnt?require_mout=true": "has an unknown option 'require_mout'",
    "file:///mnt?secret": "has an unknown option 'secret'",
    "file:///mnt?endpoint=x&require_mount=true": "has an unknown option 'endpoint'",
    "file:///mnt#secret": "has an unknown option '#'",
    "file:///mnt?require_mount": "require_mount is ''",
    "file:///mnt?require_mount=yes": "require_mount is 'yes'",
    "s3://": "names no bucket",
    "s3:///prefix": "names no bucket",
    "s3://b": "names no bucket",
    "s3://bucket:9000/prefix": "names no bucket",
    "s3://-bucket": "names no bucket",
    "s3://user:secret@bucket/prefix": "holds credentials",
    "s3://secret@bucket": "holds credentials",
    "gs://secret@bucket": "holds credentials",
    "s3://bucket/a//b": "has an unusable prefix",
    "s3://bucket/../b": "has an unusable prefix",
    "s3://bucket/a/./b": "has an unusable prefix",
    "s3://bucket/a%0Ab": "has an unusable prefix",
    f"s3://bucket/{'x' * 601}": "has an unusable prefix",
    "s3://bucket?endpoint=minio:9000": "endpoint is 'minio:9000'",
    "s3://bucket?endpoint=https://": "endpoint is 'https://'",
    "s3://bucket?endpoint=ftp://host": "endpoint is 'ftp://host'",
    "s3://bucket?endpoint=http://host:port": "endpoint is 'http://host:port'",
    "s3://bucket?endpoint=http://host?a=b": "endpoint is 'http://host?a=b'",
    "s3://bucket?endpoint=https://user:secret'@host": "endpoint is not valid",
    "s3://bucket?path_style=1": "path_style is '1'",
    "s3://bucket?region=": "region is ''",
    "s3://bucket?region=a%20b": "region is 'a b'",
    "s3://bucket?checksum_mode=crc32c": "checksum_mode is 'crc32c'",
    "s3://bucket?sse=kms": "sse is 'kms'",
    "s3://bucket?object_lock_mode=governance&object_lock_days=1": "object_lock_mode is",
    "s3://bucket?object_lock_mode=GOVERNANCE&object_lock_days=0": "object_lock_days is '0'",
    "s3://bucket?object_lock_mode=GOVERNANCE&object_lock_days=36501": "object_lock_days is '36501'",
    "s3://bucket?object_lock_mode=GOVERNANCE": "object_lock_mode and object_lock_days go together",
    "s3://bucket?object_lock_days=1": "object_lock_mode and object_lock_days go together",
    "s3://bucket?sse_kms_key_id=k": "sse_kms_key_id needs KMS",
    "s3://bucket?sse=AES256&sse_kms_key_id=k": "sse_kms_key_id needs KMS",
    "s3://bucket?region=a&region=b": "gives an option twice",
    "s3://bucket#x": "has an unknown option '#'",
    "gs://bucket?profile=x": "has an unknown option 'profile'",
}


@pytest.mark.parametrize(("url", "says"), BAD.items())
def test_a_bad_url_is_refused(url: str, says: str, tmp_path: Path) -> None:
    """With what is wrong and how it is written; a secret in it is not repeated."""
    with pytest.raises(ConfigError) as caught:
        check(url, StoreSettings(source=tmp_path))

    assert says in caught.value.message
    assert caught.value.hints
    assert "secret'@" not in caught.value.message
    assert "user:" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("file:///mnt/sink", FileSink, "file:///mnt/sink"),
        ("file:///mnt/sink/", FileSink, "file:///mnt/sink"),
        ("file:///mnt/with%20blank%2C", FileSink, "file:///mnt/with blank,"),
        ("file:///mnt/a..b?require_mount=true", FileSink, "file:///mnt/a..b"),
        ("s3://acme/prod", S3Sink, "s3://acme/prod"),
        ("s3://acme/prod/", S3Sink, "s3://acme/prod"),
        ("s3://acme", S3Sink, "s3://acme"),
        ("s3://acme/", S3Sink, "s3://acme"),
        ("s3://acme/a/b%20c?profile=x&region=eu-west-1", S3Sink, "s3://acme/a/b c"),
        (
            "s3://acme/prod?endpoint=https://minio.example:9000/",
            S3Sink,
            "s3://acme/prod?endpoint=https://minio.example:9000",
        ),
        ("gs://acme/prod", GcsSink, "gs://acme/prod"),
        ("gs://acme?endpoint=http://[::1]:8080", GcsSink, "gs://acme?endpoint=http://[::1]:8080"),
    ],
)
def test_a_url_opens_its_kind_of_sink(url: str, kind: type, shown: str, tmp_path: Path) -> None:
    """Percent-encoded where a blank or a comma would end it in BACKUP_SINKS."""
    sink = open_sink(url, StoreSettings(source=tmp_path), stop=Stop())

    assert isinstance(sink, kind)
    assert sink.url == shown


def test_options_of_a_url_come_before_the_settings() -> None:
    """What the query does not say, the settings say."""
    url = "s3://acme?checksum_mode=md5&path_style=false&object_lock_days=7"
    settings = StoreSettings(
        s3=S3Options(checksum_mode="sha256", path_style=True, sse="AES256"),
        file=FileOptions(require_mount=True),
    )

    assert locate(url, settings.kinds).options == S3Options(
        checksum_mode="md5", path_style=False, sse="AES256", object_lock_days=7
    )
    assert locate(url).options.sse is None
    assert locate("gs://acme?endpoint=http://h").options.endpoint == "http://h"
    assert locate("file:///a?require_mount=false", settings.kinds).options == (
        FileOptions(require_mount=False)
    )


@pytest.mark.parametrize(
    "url", ["file://{}/absent", "s3://acme?endpoint=http://127.0.0.1:1", "gs://acme"]
)
def test_opening_touches_nothing(url: str, tmp_path: Path) -> None:
    """A sink that is not there is found when it is probed, and stops no other."""
    open_sink(url.format(tmp_path), StoreSettings(source=tmp_path / "source"), stop=Stop())

    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_found_by_the_probe(tmp_path: Path) -> None:
    """It is not made: a mistyped path must not become a sink."""
    options: dict[str, Any] = {"source": tmp_path / "source"}
    sink = open_sink(f"file://{tmp_path}/absent", StoreSettings(**options), stop=Stop())

    with pytest.raises(SinkMissingError, match="does not exist"):
        sink.probe()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("file:///mnt/sink?require_mount=true", "file:///mnt/sink"),
        ("s3://key:secret@bucket/prefix?session=secret#secret", "s3://bucket/prefix"),
        ("s3://a@b@bucket/prefix", "s3://bucket/prefix"),
        ("file://[secret", "<not a URL>"),
        ("user:secret@host/x", "<not a URL>"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url: str, shown: str) -> None:
    """It goes into logs, reports and error messages."""
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no answer of https://store:9000/bucket", "no answer of https://store:9000/bucket"),
        ('cannot reach "http://user:secret@store/x"', 'cannot reach "http://***@store/x"'),
        ("cannot reach http://user:se/cr@t@store:1/x", "cannot reach http://***@store:1/x"),
        ('"http://socks5://user:secret@proxy:1080"', '"http://***@proxy:1080"'),
        ("Invalid endpoint: user:secret@store", "Invalid endpoint: ***@store"),
        ("two: a:secret@b, //c:secret@d", "two: ***@b, //***@d"),
    ],
)
def test_what_others_said_is_shown_without_users(said: str, shown: str) -> None:
    """SDKs quote URLs of their own settings, and of proxies."""
    assert without_users(said) == shown
