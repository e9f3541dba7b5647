"""URLs of sinks: what they may say, and what is shown of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup.errors import ConfigError, SinkMissingError
from backup.sinks import SinkOptions, check_url, open_sink, redacted
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
}


@pytest.mark.parametrize(("url", "says"), BAD.items())
def test_a_bad_url_is_refused(url: str, says: str) -> None:
    """With what is wrong and how it is written; a secret in it is not repeated."""
    with pytest.raises(ConfigError) as caught:
        check_url(url)

    assert says in caught.value.message
    assert caught.value.hints
    assert "secret'@" not in caught.value.message
    assert "user:" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///mnt/sink", "/mnt/sink"),
        ("file:///mnt/sink/", "/mnt/sink"),
        ("file:///mnt/with%20blank%2C", "/mnt/with blank,"),
        ("file:///mnt/a..b", "/mnt/a..b"),
    ],
)
def test_a_file_url_names_a_directory(url: str, path: str, tmp_path: Path) -> None:
    """Percent-encoded where a blank or a comma would end it in BACKUP_SINKS."""
    sink = open_sink(url, SinkOptions(source=tmp_path), stop=Stop())

    assert sink.url == f"file://{path}"


def test_opening_touches_nothing(tmp_path: Path) -> None:
    """A sink that is not there is found when it is probed, and stops no other."""
    url = f"file://{tmp_path}/absent"
    sink = open_sink(url, SinkOptions(source=tmp_path / "source"), stop=Stop())

    assert not (tmp_path / "absent").exists()
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
