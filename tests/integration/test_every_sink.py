"""Every verb on every kind of sink, and several kinds in one run, through the command line."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest

from backup import cli
from tests import servers
from tests.journal_data import NAME, records, write_journal

Kind = Literal["file"] | servers.Name
Start = Callable[[servers.Name], servers.Server]

KINDS: tuple[Kind, ...] = ("file", "versitygw", "fake-gcs-server")
DAY_ONE, DAY_TWO = records(2_000), records(3_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """Where a sink is, and what its SDK has to be told."""

    url: str
    environment: Mapping[str, str]
    pid: int | None = None
    """Of its server."""


class Shops(Protocol):
    """Gives a new place of a kind."""

    def __call__(self, kind: Kind) -> Shop:
        """Give one."""
        ...


@pytest.fixture
def shops(start: Start, tmp_path: Path) -> Shops:
    """Make places, each empty."""

    def shop(kind: Kind) -> Shop:
        if kind == "file":
            (tmp_path / "sink").mkdir()
            return Shop(url=f"file://{tmp_path}/sink", environment={})
        if kind == "fake-gcs-server":
            gcs = start(kind)
            assert isinstance(gcs, servers.GcsServer)
            return Shop(
                url=f"gs://{gcs.fresh_bucket()}/site/a",
                environment={"STORAGE_EMULATOR_HOST": gcs.endpoint},
                pid=gcs.pid,
            )
        s3 = start(kind)
        assert isinstance(s3, servers.S3Server)
        keys = {k: v for k, v in s3.environment.items() if k != "AWS_ENDPOINT_URL_S3"}
        return Shop(
            url=f"s3://{s3.fresh_bucket()}/site/a?endpoint={s3.endpoint}",
            environment=keys,
            pid=s3.pid,
        )

    return shop


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a volume with two journals, and the settings of a site."""
    for name in [n for n in os.environ if n.startswith(("BACKUP_", "AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    source = tmp_path / "journals"
    for ordinal in range(2):
        write_journal(source, ordinal, DAY_ONE)
    monkeypatch.setenv("BACKUP_SOURCE", str(source))
    monkeypatch.setenv("BACKUP_LOG_LEVEL", "error")
    return source


@dataclass(frozen=True, slots=True)
class Command:
    """The command line in this process; the settings are in the environment."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *argv: str, code: int = 0) -> dict[str, Any]:
        """Run a verb; give its result."""
        ended = cli.main([*argv, "--json"])
        out, err = self.capsys.readouterr()
        assert ended == code, (argv, out, err)
        result: dict[str, Any] = json.loads(out)
        return result


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Give the command."""
    return Command(capsys)


def use(monkeypatch: pytest.MonkeyPatch, *shops: Shop) -> None:
    """Set the sinks of the runs that follow."""
    monkeypatch.setenv("BACKUP_SINKS", "\n".join(shop.url for shop in shops))
    for shop in shops:
        for name, value in shop.environment.items():
            monkeypatch.setenv(name, value)


@contextmanager
def halted(pid: int | None) -> Iterator[None]:
    """Let a server hang."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("mode", ["full", "incremental"])
@pytest.mark.parametrize("kind", ["file", "versitygw", "minio", "moto", "fake-gcs-server"])
def test_every_verb_works_on_every_sink(  # noqa: PLR0917 - fixtures
    shops: Shops,
    source: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    mode: str,
) -> None:
    """Two days of a site's life, its one bad moment, and what an operator does then."""
    monkeypatch.setenv("BACKUP_MODE", mode)
    use(monkeypatch, shops(kind))
    command("doctor")

    first = command("backup")["journals"]
    for ordinal in range(2):
        write_journal(source, ordinal, DAY_TWO)
    second = command("backup")["journals"]
    assert {j["copies"][0]["continuity"] for j in first} == {"first"}
    assert {j["copies"][0]["continuity"] for j in second} == {"extended"}

    assert len(command("list")["backups"]) == 4
    long = command("list", "--long")["backups"]
    assert {row["details"]["records"] for row in long} == {2_000, 3_000}
    assert command("show", "latest", "--journal", NAME)["against"] is None
    assert {b["findings"] == [] for b in command("verify", "--deep")["backups"]} == {True}

    restored = source.parent / "restored"
    command("restore", "latest", "--journal", NAME, "--target", str(restored))
    assert [path.read_bytes() for path in restored.rglob("journal")] == [DAY_TWO]

    bundle = source.parent / "bundle"
    in_it = command("export", "latest", "--target", str(bundle))["exported"]
    assert [path.read_bytes() for path in bundle.rglob("journal")] == [DAY_TWO] * 2
    command("mark-delivered", in_it[1]["id"], "--by", "ada", "--reference", "CASE-17")
    marks = [row["marks"] for row in command("list")["backups"]]
    assert marks == [[], [], ["delivered"], ["delivered"]]

    write_journal(source, 0, DAY_ONE)
    shrunk = command("backup", code=6)["journals"][0]["copies"][0]
    assert shrunk["continuity"] == "shrunk"
    command("doctor", code=6)
    command("acknowledge", shrunk["id"], "--by", "ada", "--note", "billing was reset")
    command("backup")
    monkeypatch.setenv("BACKUP_KEEP_LAST", "1")
    monkeypatch.setenv("BACKUP_KEEP_MIN", "1")
    command("prune", "--confirm")
    left = [(row["journal"][-1], row["id"]) for row in command("list")["backups"]]
    undelivered = second[0]["copies"][0]["id"]  # and what followed it holds less
    assert [ordinal for ordinal, _ in left] == ["0", "0", "1"]
    assert left[0] == ("0", undelivered)
    assert command("verify", "--deep")["exit_code"] == 0
    command("doctor")

    (source / "journal-deepgram-billing-1" / "journal").unlink()
    (source / "journal-deepgram-billing-1").rmdir()
    command("backup", code=4)
    command("retire", "journal-deepgram-billing-1", "--by", "ada", "--note", "scaled in")
    command("backup")


@pytest.mark.parametrize("mode", ["full", "incremental"])
def test_kinds_share_one_reading_and_keep_histories_of_their_own(
    shops: Shops, source: Path, command: Command, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A sink that missed a night is right again the next."""
    monkeypatch.setenv("BACKUP_MODE", mode)
    all_three = [shops(kind) for kind in KINDS]
    use(monkeypatch, *all_three)
    command("backup")
    write_journal(source, 0, DAY_TWO)
    use(monkeypatch, *all_three[::2])
    command("backup")
    use(monkeypatch, *all_three)

    journal = command("backup")["journals"][0]

    assert [c["continuity"] for c in journal["copies"]] == ["unchanged", "extended", "unchanged"]
    assert command("verify", "--deep")["exit_code"] == 0


@pytest.mark.parametrize("stuck", ["versitygw", "fake-gcs-server"])
def test_a_stuck_store_stops_no_other_kind(
    shops: Shops,
    source: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    stuck: Kind,
) -> None:
    """It is left behind once it has stalled for long enough, and named."""
    places = {kind: shops(kind) for kind in KINDS}
    use(monkeypatch, *places.values())
    command("backup")

    with halted(places[stuck].pid), monkeypatch.context() as impatient:
        impatient.setattr("backup.sinks.open_sink.__kwdefaults__", {"stall_seconds": 1.0})
        result = command("backup", code=3)

    assert {p["sink"].partition("?")[0] for p in result["problems"]} == {
        places[stuck].url.partition("?")[0]
    }
    assert command("backup")["exit_code"] == 0
    assert command("verify")["exit_code"] == 0
