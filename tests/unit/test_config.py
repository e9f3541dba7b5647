"""Settings: every problem at once, no name misread, no secret shown."""

from __future__ import annotations

import os
import re
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup import config
from backup.config import describe, load, require_sinks
from backup.errors import ConfigError, SettingsError
from backup.settings import RetentionSettings, Settings, duration_text
from backup.sinks import open_sink
from backup.sinks.kinds import SCHEMES, S3Options
from backup.stop import Stop
from docs.generate import settings_table


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without any setting: the machine may have some."""
    for name in list(os.environ):
        if name.upper().startswith("BACKUP_"):
            monkeypatch.delenv(name)


def problems(monkeypatch: pytest.MonkeyPatch, **given: str) -> list[tuple[str, str]]:
    """Load these settings; give what is wrong with them."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load()
    return list(caught.value.problems)


def accepted(monkeypatch: pytest.MonkeyPatch, **given: str) -> Settings:
    """Load these settings, which are right."""
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return load()


def test_nothing_but_sinks_has_to_be_set() -> None:
    """The defaults fit the chart's own names and mount paths."""
    settings = load()

    assert (settings.source, settings.statefulset) == (Path("/journals"), "deepgram-billing")
    assert settings.deadline == timedelta(hours=6)
    assert (settings.log_level, settings.log_format) == ("info", None)
    assert (settings.strategy, settings.workers) == ("direct", 4)
    assert (settings.max_downtime, settings.allow_stopped) == (None, False)
    with pytest.raises(SettingsError, match="1 setting is wrong") as caught:
        require_sinks(settings)
    assert "BACKUP_SINKS is not set" in caught.value.problems[0][0]


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of value is read as it is written there."""
    settings = accepted(
        monkeypatch,
        BACKUP_SOURCE="/data",
        BACKUP_EXPECT_REPLICAS="3",
        BACKUP_SINKS="file:///a,file:///b\nfile:///c",
        BACKUP_DEADLINE="90s",
        BACKUP_FILE_REQUIRE_MOUNT="true",
        BACKUP_SITE="plant-7",
        BACKUP_STRATEGY="scale-down",
        BACKUP_WORKERS="8",
        BACKUP_MAX_DOWNTIME="90s",
        BACKUP_ALLOW_STOPPED="true",
    )

    assert (settings.strategy, settings.workers) == ("scale-down", 8)
    assert (settings.max_downtime, settings.allow_stopped) == (timedelta(seconds=90), True)
    assert settings.source == Path("/data")
    assert settings.expect_replicas == 3
    assert settings.sinks == ("file:///a", "file:///b", "file:///c")
    assert settings.deadline == timedelta(seconds=90)
    assert settings.site == "plant-7"
    assert (settings.source, settings.file.require_mount) == (Path("/data"), True)
    require_sinks(settings)


def test_sinks_of_the_command_line_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who types --sink means that one, whatever the environment says."""
    monkeypatch.setenv("BACKUP_SINKS", "file:///environment")

    assert load(sinks=["file:///typed"]).sinks == ("file:///typed",)


PREMISES = "s3://journals/prod?endpoint=https://minio.example:9000&profile=minio"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("s3://journals/prod?endpoint=https://minio.example:9000", PREMISES),
        ("s3://journals/prod", PREMISES),
        ("s3://journals/prod/", PREMISES),
        (PREMISES, PREMISES),
        ("file:///mnt", "file:///mnt?require_mount=true"),
        ("file:///mnt/other", "file:///mnt/other"),
        ("s3://journals", "s3://journals"),
    ],
)
def test_a_typed_sink_keeps_its_configured_options(
    monkeypatch: pytest.MonkeyPatch, typed: str, meant: str
) -> None:
    """Nobody types a profile and an endpoint at 3 a.m., and without them it is another place."""
    monkeypatch.setenv("BACKUP_SINKS", f"nonsense,{PREMISES},file:///mnt?require_mount=true")

    assert load(sinks=[typed]).sinks == (meant,)


def test_a_typed_sink_that_may_be_two_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """To guess would be to read, or to restore from, the wrong store."""
    monkeypatch.setenv("BACKUP_SINKS", f"s3://journals/prod,{PREMISES}")

    assert load(sinks=["s3://journals/prod"]).sinks == ("s3://journals/prod",), "is shown so"
    monkeypatch.setenv("BACKUP_SINKS", f"{PREMISES},s3://journals/prod?endpoint=http://b")
    with pytest.raises(ConfigError, match="names 2 sinks of BACKUP_SINKS") as caught:
        load(sinks=["s3://journals/prod"])
    assert "s3://journals/prod?endpoint=http://b" in caught.value.hints[0]


def test_settings_are_the_defaults_of_s3_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """One URL may differ from the others: AWS and a store on the premises in one run."""
    settings = accepted(
        monkeypatch,
        BACKUP_S3_PATH_STYLE="true",
        BACKUP_S3_CHECKSUM_MODE="sha256",
        BACKUP_S3_STORAGE_CLASS="STANDARD_IA",
        BACKUP_S3_SSE="aws:kms",
        BACKUP_S3_SSE_KMS_KEY_ID="alias/journals",
        BACKUP_S3_OBJECT_LOCK_MODE="GOVERNANCE",
        BACKUP_S3_OBJECT_LOCK_DAYS="30",
        BACKUP_CA_CERT_FILE="/etc/ca.pem",
    )

    assert settings.ca_cert_file == Path("/etc/ca.pem")
    assert settings.s3 == S3Options(
        path_style=True,
        checksum_mode="sha256",
        storage_class="STANDARD_IA",
        sse="aws:kms",
        sse_kms_key_id="alias/journals",
        object_lock_mode="GOVERNANCE",
        object_lock_days=30,
    )


@pytest.mark.parametrize(
    ("given", "says", "rest"),
    [
        (
            {"BACKUP_S3_OBJECT_LOCK_DAYS": "30"},
            "object_lock_mode and object_lock_days go together",
            "object_lock_mode=COMPLIANCE",
        ),
        ({"BACKUP_S3_SSE_KMS_KEY_ID": "k"}, "sse_kms_key_id needs KMS", "sse=aws:kms"),
    ],
)
def test_settings_and_url_are_judged_together(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], says: str, rest: str
) -> None:
    """Half of what is needed may stand in each."""
    found = problems(monkeypatch, BACKUP_SINKS="file:///a,s3://bucket", **given)

    assert [message for message, _ in found] == [f"BACKUP_SINKS: s3://bucket: {says}"]
    monkeypatch.setenv("BACKUP_SINKS", f"s3://bucket?{rest}")
    assert len(load().sinks) == 1


def test_sinks_are_shown_as_reports_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """What config prints is what --sink takes."""
    settings = accepted(monkeypatch, BACKUP_SINKS=PREMISES)
    (row,) = [row for row in describe(settings) if row["name"] == "BACKUP_SINKS"]
    opened = open_sink(PREMISES, settings, stop=Stop())

    assert (
        row["value"] == [opened.url] == ["s3://journals/prod?endpoint=https://minio.example:9000"]
    )
    assert load(sinks=row["value"]).sinks == (PREMISES,)


@pytest.mark.parametrize("value", ["", " ", "\n"])
def test_nothing_but_blanks_means_unset(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A chart sets variables to nothing; that must not differ from leaving them out."""
    settings = accepted(monkeypatch, BACKUP_DEADLINE=value, BACKUP_SITE=value, BACKUP_SINKS=value)

    assert (settings.deadline, settings.site, settings.sinks) == (timedelta(hours=6), None, ())
    sources = {row["source"] for row in describe(settings)}
    assert sources == {"default"}


def test_blanks_around_a_value_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that comes out of a file ends in a newline."""
    settings = accepted(monkeypatch, BACKUP_READBACK=" size\n", BACKUP_DEADLINE="5m\n")

    assert (settings.readback, settings.deadline) == ("size", timedelta(minutes=5))


def test_what_is_packed_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a journal, unless somebody says otherwise; and all of it once a week even then."""
    settings = accepted(monkeypatch)
    assert (settings.mode, settings.full_every) == ("full", timedelta(days=7))

    settings = accepted(monkeypatch, BACKUP_MODE="incremental", BACKUP_FULL_EVERY="12h")
    assert (settings.mode, settings.full_every) == ("incremental", timedelta(hours=12))
    ((said, _),) = problems(monkeypatch, BACKUP_MODE="differential")
    assert said.startswith("BACKUP_MODE is 'differential'")


def test_every_problem_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding one mistake for each nightly run takes a week."""
    found = problems(
        monkeypatch,
        BACKUP_SINKZ="file:///a",
        BACKUP_READBACK="no",
        BACKUP_DEADLINE="5",
        BACKUP_CONCURRENCY="0",
        BACKUP_EXPECT_REPLICAS="two",
        BACKUP_SITE="a b",
    )

    assert found == [
        ("BACKUP_SINKZ is not a setting", "did you mean BACKUP_SINKS?"),
        ("BACKUP_EXPECT_REPLICAS is 'two'", found[1][1]),
        ("BACKUP_SITE is 'a b'", "use letters, digits, dots, dashes and underscores: 63 at most"),
        ("BACKUP_READBACK is 'no'", "it should be 'full' or 'size'"),
        ("BACKUP_CONCURRENCY is '0'", "it should be greater than or equal to 1"),
        ("BACKUP_DEADLINE is '5'", "write a duration: 90s, 5m, 24h or 7d"),
    ]
    assert "it should be a valid integer" in found[1][1]


def test_wrong_settings_of_the_cluster_are_told_like_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A strategy that is misspelt must not quietly become another one."""
    found = problems(
        monkeypatch,
        BACKUP_STRATEGY="scaledown",
        BACKUP_WORKERS="65",
        BACKUP_MAX_DOWNTIME="soon",
        BACKUP_ALLOW_STOPPED="perhaps",
    )

    assert [message for message, _ in found] == [
        "BACKUP_STRATEGY is 'scaledown'",
        "BACKUP_WORKERS is '65'",
        "BACKUP_MAX_DOWNTIME is 'soon'",
        "BACKUP_ALLOW_STOPPED is 'perhaps'",
    ]
    assert found[0][1] == "it should be 'direct', 'colocated', 'scale-down' or 'auto'"
    assert found[2][1] == "write a duration: 90s, 5m, 24h or 7d"


def test_contradictions_are_found_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that are right by themselves can still be wrong together, or name nothing."""
    found = problems(
        monkeypatch,
        BACKUP_STATEFULSET="Not_A_Name",
        BACKUP_SOURCE="journals",
        BACKUP_SINKS="s4://bucket file:///a file:///a/ file:///b//c file:///b/%63?require_mount=true",
    )

    messages = [message for message, _ in found]
    assert messages == [
        "BACKUP_STATEFULSET is 'Not_A_Name', which names no StatefulSet",
        "BACKUP_SOURCE is 'journals', which is not absolute",
        "BACKUP_SINKS: 's4://bucket' has the scheme 's4'",
        "BACKUP_SINKS: 'file:///a' is named twice",
        "BACKUP_SINKS: 'file:///b/c' is named twice",
    ]
    assert all(fix for _, fix in found)


def test_one_directory_by_two_names_is_one_sink(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would pass for a second copy of every backup."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    names = (tmp_path / name for name in ("link", "b", "a", "absent"))
    sinks = " ".join(f"file://{name}" for name in names)

    assert problems(monkeypatch, BACKUP_SINKS=sinks) == [
        (
            f"BACKUP_SINKS: 'file://{tmp_path}/a' and 'file://{tmp_path}/link' are one directory",
            "name each sink once",
        )
    ]


def test_a_directory_that_does_not_answer_is_left_to_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Settings are read before there is a deadline: nothing may hang there."""
    released = threading.Event()
    real = os.stat

    def stat(path: str, **how: Any) -> os.stat_result:
        if str(path).endswith("dead"):
            released.wait(30)
        return real(path, **how)

    monkeypatch.setattr("os.stat", stat)
    monkeypatch.setattr(config, "_LOOK_SECONDS", 0.01)
    try:
        found = accepted(monkeypatch, BACKUP_SINKS=f"file://{tmp_path}/dead file://{tmp_path}")
    finally:
        released.set()

    assert len(found.sinks) == 2


@pytest.mark.parametrize("value", ["0s", "5", "m", "-5m", "5 m", "5w", "1h30m", "9999999d"])
def test_what_is_no_duration_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A deadline that was misread would stop every run, or none."""
    assert problems(monkeypatch, BACKUP_DEADLINE=value) == [
        (f"BACKUP_DEADLINE is {value!r}", "write a duration: 90s, 5m, 24h or 7d")
    ]


@pytest.mark.parametrize("value", ["31d", "721h", "999999d"])
@pytest.mark.parametrize("name", ["BACKUP_DEADLINE", "BACKUP_MAX_DOWNTIME"])
def test_a_duration_that_is_no_deadline_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A calendar ends: the sweep after a run counts back from today by twice its deadline."""
    assert problems(monkeypatch, **{name: value}) == [
        (f"{name} is {value!r}", "give no more than 30d")
    ]


def test_a_policy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule by rule; by default nothing is set, and all is kept."""
    assert not accepted(monkeypatch).is_set
    rules = {"LAST": "7", "WITHIN": "400d", "DAILY": "30", "WEEKLY": "8", "MONTHLY": "24"}
    given = {f"BACKUP_KEEP_{name}": value for name, value in {**rules, "MIN": "5"}.items()}

    settings = accepted(monkeypatch, BACKUP_PRUNE="true", **given)
    assert RetentionSettings(**settings.model_dump(include={*RetentionSettings.model_fields})) == (
        RetentionSettings(
            prune=True,
            keep_last=7,
            keep_within=timedelta(days=400),
            keep_daily=30,
            keep_weekly=8,
            keep_monthly=24,
            keep_min=5,
        )
    )


@pytest.mark.parametrize("name", ["LAST", "DAILY", "WEEKLY", "MONTHLY", "MIN"])
@pytest.mark.parametrize("value", ["0", "-1", "all", "1.5"])
def test_what_is_no_rule_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """To keep none is not to be said by a slip."""
    ((problem, _),) = problems(monkeypatch, **{f"BACKUP_KEEP_{name}": value})

    assert problem == f"BACKUP_KEEP_{name} is {value!r}"


def test_pruning_wants_to_be_told_what_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """BACKUP_KEEP_MIN alone does not say it."""
    expected = [
        (
            "BACKUP_PRUNE is true, and nothing says what to keep",
            "set BACKUP_KEEP_LAST, _WITHIN, _DAILY, _WEEKLY or _MONTHLY",
        )
    ]
    assert problems(monkeypatch, BACKUP_PRUNE="true", BACKUP_KEEP_MIN="9") == expected
    assert problems(monkeypatch, BACKUP_KEEP_WITHIN="99999d") == [
        ("BACKUP_KEEP_WITHIN is '99999d'", "give no more than 36500d")
    ]


@pytest.mark.parametrize("text", ["30d", "1s", "90s", "5m", "24h", "7d", "61m"])
def test_a_duration_is_shown_as_it_is_written(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What config prints can be pasted into the environment."""
    shown = duration_text(accepted(monkeypatch, BACKUP_DEADLINE=text).deadline)

    assert shown == ("1d" if text == "24h" else text)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("BACKUP_SINK", "BACKUP_SINKS"),
        ("BACKUP_STATEFUL_SET", "BACKUP_STATEFULSET"),
        ("BACKUP_REPLICAS", "BACKUP_EXPECT_REPLICAS"),
        ("BACKUP_COMPRESSION", "BACKUP_COMPRESSION_LEVEL"),
        ("BACKUP_LOGLEVEL", "BACKUP_LOG_LEVEL"),
        ("BACKUP_READ_BACK", "BACKUP_READBACK"),
        ("BACKUP_REQUIRE_MOUNT", "BACKUP_FILE_REQUIRE_MOUNT"),
        ("backup_sinks", "BACKUP_SINKS"),
        ("Backup_Deadline", "BACKUP_DEADLINE"),
    ],
)
def test_a_misspelt_name_is_refused_and_the_nearest_one_named(
    monkeypatch: pytest.MonkeyPatch, wrong: str, right: str
) -> None:
    """What it was meant to set would silently keep its default."""
    monkeypatch.delenv("BACKUP_SINKS", raising=False)
    found = problems(monkeypatch, **{wrong: "4" if "LEVEL" in wrong else ""})

    assert found == [(f"{wrong} is not a setting", f"did you mean {right}?")]


def test_a_name_that_is_near_to_none_is_refused_without_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guess that is no help sends people the wrong way."""
    assert problems(monkeypatch, BACKUP_XYZ="1") == [
        ("BACKUP_XYZ is not a setting", "see: journal-backup config")
    ]


SERVICE_LINKS = [
    "BACKUP_SERVICE_HOST",
    "BACKUP_SERVICE_PORT",
    "BACKUP_SERVICE_PORT_HTTP",
    "BACKUP_SERVICE_PORT_WEB_UI",
    "BACKUP_PORT",
    "BACKUP_PORT_80_TCP",
    "BACKUP_PORT_80_TCP_PROTO",
    "BACKUP_PORT_80_TCP_PORT",
    "BACKUP_PORT_80_TCP_ADDR",
    "BACKUP_PORT_53_UDP_ADDR",
    "BACKUP_PORT_9999_SCTP",
    "BACKUP_SINK_SERVICE_HOST",
    "BACKUP_SINK_SERVICE_PORT",
    "BACKUP_SINK_PORT",
    "BACKUP_SINK_PORT_2049_TCP_ADDR",
    "BACKUP_S3_GATEWAY_2_PORT_443_TCP",
]


def test_the_names_that_kubernetes_injects_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Service called backup, or backup-sink, in the namespace is no misspelt setting."""
    links = dict.fromkeys(SERVICE_LINKS, "tcp://10.0.0.7:80")

    assert accepted(monkeypatch, **links) == Settings()


@pytest.mark.parametrize(
    "name",
    [
        "BACKUP_EXPORT",
        "BACKUP_REPORT",
        "BACKUP_PORTS",
        "BACKUP_HOST",
        "BACKUP_SERVICE",
        "BACKUP_SERVICE_HOSTS",
        "BACKUP_PORT_80",
        "BACKUP_PORT_80_TCP_HOST",
        "BACKUP_PORT_TCP",
        "BACKUP_SUPPORT_LEVEL",
    ],
)
def test_what_only_resembles_an_injected_name_is_a_misspelt_one(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The exception must not swallow mistakes."""
    assert problems(monkeypatch, **{name: "1"})[0][0] == f"{name} is not a setting"


def test_no_setting_looks_like_an_injected_name() -> None:
    """Not even with two letters too many, too few or swapped: none of ours ends like those."""
    for name in config.SETTINGS:
        for at in range(len("BACKUP_"), len(name)):
            for typo in (name[:at] + name[at + 1 :], name[:at] + "T" + name[at:], name[: at + 1]):
                assert config._SERVICE_LINK.fullmatch(typo) is None


def test_a_url_that_cannot_be_read_is_told_by_its_number_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is no URL cannot be shown without its secret, for nobody knows where that begins."""
    found = problems(monkeypatch, BACKUP_SINKS="file:///a key:hunter2@host/x s3://[hunter2")

    assert found[0] == ("BACKUP_SINKS: number 2 is not a URL", f"give {SCHEMES}")
    assert len(found) == 2
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "s3://ada:hunter2@bucket/prefix",
        "file://ada:hunter2@host/a",
        "file:///a?token=hunter2",
        "file:///a#hunter2",
        "s3://bucket?endpoint=https://ada:hunter2@host",
        "s3://bucket?sse_kms_key_id=hunter2",
        "s3://bucket?secret_access_key=hunter2",
        "gs://bucket?endpoint=hunter2@host",
    ],
)
def test_no_secret_of_a_url_is_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Errors end up in logs that many can read."""
    assert "hunter2" not in str(problems(monkeypatch, BACKUP_SINKS=url))


def test_every_setting_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value, source and meaning, without the options of URLs."""
    settings = accepted(
        monkeypatch, BACKUP_SINKS="file:///a?require_mount=true", BACKUP_DEADLINE="2h"
    )
    assert settings.max_downtime is None

    rows = {row["name"]: row for row in describe(settings)}
    assert list(rows) == [*config.SETTINGS]
    assert rows["BACKUP_SINKS"]["value"] == ["file:///a"]
    assert rows["BACKUP_SINKS"]["source"] == "environment"
    assert rows["BACKUP_DEADLINE"]["value"] == "2h"
    assert rows["BACKUP_MAX_DOWNTIME"]["value"] is None
    assert rows["BACKUP_SOURCE"] == {
        "name": "BACKUP_SOURCE",
        "value": "/journals",
        "source": "default",
        "description": "directory that holds the journal directories",
    }
    assert all(row["description"] for row in rows.values())


def test_the_table_has_a_row_for_each_setting() -> None:
    """The README is made from it."""
    table = settings_table()
    rows = table.strip().splitlines()[2:]

    named = [re.findall("`(BACKUP_[A-Z0-9_]+)`", row)[0] for row in rows]
    assert named == [*config.SETTINGS]
    assert "| `BACKUP_FILE_REQUIRE_MOUNT` | `false` |" in table
    assert "| `BACKUP_SINKS` | required |" in table
    assert "| `BACKUP_SITE` | not set |" in table


def test_values_of_code_are_taken_as_they_are() -> None:
    """Tests and callers give values of the right type."""
    settings = Settings(deadline=timedelta(seconds=1), sinks=("file:///a",))

    assert (settings.deadline, settings.sinks) == (timedelta(seconds=1), ("file:///a",))


def test_what_is_not_read_may_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who brings billing back asks for one name, and not for the sinks."""
    given = {"SINKS": "ftp://x", "STATEFULSET": "b", "CONCURRENCY": "many", "SINKZ": "?"}
    for name, value in given.items():
        monkeypatch.setenv(f"BACKUP_{name}", value)

    settings = load(only=("statefulset",))

    assert (settings.statefulset, settings.sinks, settings.concurrency) == ("b", (), 4)


def test_what_is_read_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor be misspelt: another StatefulSet would be looked after."""
    monkeypatch.setenv("BACKUP_STATEFULSETS", "b")
    monkeypatch.setenv("BACKUP_LOG_LEVEL", "loud")

    with pytest.raises(SettingsError) as caught:
        load(only=("statefulset", "log_level"))

    assert [problem for problem, _ in caught.value.problems] == [
        "BACKUP_STATEFULSETS is not a setting",
        "BACKUP_LOG_LEVEL is 'loud'",
    ]
