"""The command line within this process: arguments, and what is done when something breaks."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

import backup
from backup import answer, cli, config, report
from backup.answer import Answer, JournalAnswer
from backup.catalog import holdings, manifest_key
from backup.cli import command, grammar, wiring
from backup.cluster.lease import Lease, Owner, Record
from backup.cluster.rescue import RUN_LABEL
from backup.errors import (
    BackupError,
    ClusterError,
    ConfigError,
    DeadlineError,
    SinkDeniedError,
    SinkError,
)
from backup.events import Problem
from backup.run import Run
from backup.sinks import Sink, open_sink
from backup.stop import Stop
from backup.transfer.plan import Plan
from tests.handmade import Chain
from tests.journal_data import NOON, records, run_backup, write_journal
from tests.simulated_cluster import SimulatedCluster, Worker
from tests.simulated_sink import Held, SimulatedSink

JOURNAL = "journal-deepgram-billing-0"
SELECTOR = "20261123T020000Z-3f9a1c"


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    """Leave no configuration behind: it belongs to the process."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a place with a journal and a sink, and the settings that name them."""
    for name in list(os.environ):
        if name.upper().startswith("BACKUP_"):
            monkeypatch.delenv(name)
    (tmp_path / "sink").mkdir()
    write_journal(tmp_path / "journals", 0, records(3))
    monkeypatch.setenv("BACKUP_SOURCE", f"{tmp_path}/journals")
    monkeypatch.setenv("BACKUP_SINKS", f"file://{tmp_path}/sink")
    return tmp_path


class Terminal(io.StringIO):
    """A stream that says it is a terminal, of no known width."""

    def isatty(self) -> bool:
        """Say so."""
        return True

    def fileno(self) -> int:
        """Give one of a device that has no size."""
        return self._fd

    def __init__(self) -> None:
        """Open a pseudo-terminal nobody has sized."""
        super().__init__()
        self._fd, self.other = os.openpty()


@contextmanager
def terminals() -> Iterator[tuple[Terminal, Terminal]]:
    """Make stdout and stderr one terminal, as far as the command can tell."""
    out, err = Terminal(), Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_COLOR", "1")
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        yield out, err
    for stream in (out, err):
        os.close(stream.fileno())
        os.close(stream.other)


def on_terminals(*argv: str) -> tuple[int, str, str]:
    """Run a verb there; give the exit code and what stdout and stderr were told."""
    with terminals() as (out, err):
        code = cli.main(argv)
    return code, out.getvalue(), err.getvalue()


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Run a verb; stdout has to be exactly one JSON object."""
    code = cli.main(argv)
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert content["exit_code"] == code
    return code, content


def test_every_verb_on_one_journal(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each does its work, and says it in one JSON object that names the verb."""
    monkeypatch.setenv("BACKUP_KEEP_DAILY", "30")
    _, made = run_json(capsys, "backup", "--json")
    backup_id = made["journals"][0]["copies"][0]["id"]

    for argv in (
        ["list", "--long"],
        ["show", "latest"],
        ["verify", "--deep"],
        ["verify", backup_id, "--journal", JOURNAL],
        ["restore", backup_id[:12], "--target", f"{site}/restored"],
        ["export", "latest", "--target", f"{site}/bundle"],
        ["export", "latest", "--output", f"{site}/bundle.tar"],
        ["mark-delivered", backup_id, "--by", "ada", "--reference", "CASE-17"],
        ["prune", "--journal", JOURNAL],
        ["doctor"],
        ["doctor", "--only", "sinks", "--only", "journals"],
        ["retire", JOURNAL, "--by", "ada", "--note", "why"],
        ["config"],
        ["version"],
    ):
        code, content = run_json(capsys, *argv, "--json")
        assert (code, content["verb"]) == (0, argv[0])
    assert (site / "restored" / JOURNAL / "journal").read_bytes() == records(3)


def test_an_alarm_is_acknowledged(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From exit 6 back to 0: the id that the report names is the one to give."""
    assert cli.main(["backup"]) == 0
    write_journal(site / "journals", 0, records(3, seed=2))
    capsys.readouterr()
    code, content = run_json(capsys, "backup", "--json")
    assert code == 6
    (alarm,) = content["journals"][0]["copies"][0]["alarms"]

    assert cli.main(["acknowledge", alarm, "--by", "ada"]) == 0
    assert cli.main(["backup"]) == 0


def test_a_journal_that_is_emptied_after_its_delivery_is_no_alarm(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the export to the next run; without the delivery it would be one."""
    cli.main(["backup"])
    capsys.readouterr()
    _, bundle = run_json(capsys, "export", "latest", "--target", f"{site}/bundle", "--json")
    assert cli.main(["mark-delivered", bundle["exported"][0]["id"]]) == 0
    write_journal(site / "journals", 0, b"")
    capsys.readouterr()
    code, content = run_json(capsys, "backup", "--json")
    (copy,) = content["journals"][0]["copies"]

    assert (code, copy["continuity"], copy["alarms"]) == (0, "shrunk", [])
    write_journal(site / "journals", 0, records(2))
    assert cli.main(["backup"]) == 0
    write_journal(site / "journals", 0, b"")
    assert cli.main(["backup"]) == 6


def stored(site: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Count the backups there are."""
    capsys.readouterr()
    return len(run_json(capsys, "list", "--json")[1]["backups"])


def test_a_run_prunes_if_it_is_told_to_and_all_went_well(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run that has a problem nobody knows yet what it means."""
    for count in range(4):
        write_journal(site / "journals", 0, records(3 + count))
        cli.main(["backup"])
    monkeypatch.setenv("BACKUP_PRUNE", "true")
    monkeypatch.setenv("BACKUP_KEEP_LAST", "2")
    monkeypatch.setenv("BACKUP_KEEP_MIN", "1")
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "2")
    assert cli.main(["backup"]) == 4
    assert "nothing was pruned: that is for a run in which all went well" in capsys.readouterr().out
    assert stored(site, capsys) == 5

    monkeypatch.delenv("BACKUP_EXPECT_REPLICAS")
    assert cli.main(["backup"]) == 0
    assert '"event": "backups_pruned"' in capsys.readouterr().err
    assert stored(site, capsys) == 2
    assert cli.main(["verify", "--deep"]) == 0


def test_what_a_run_cannot_prune_is_no_harm_to_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is safe, but somebody should look."""
    cli.main(["backup"])
    monkeypatch.setenv("BACKUP_PRUNE", "true")
    monkeypatch.setenv("BACKUP_KEEP_LAST", "1")
    monkeypatch.setenv("BACKUP_KEEP_MIN", "1")

    def refuse(_sink: Sink, _key: str) -> None:
        message = "object lock"
        raise SinkDeniedError(message)

    monkeypatch.setattr(Sink, "delete", refuse)
    assert cli.main(["backup"]) == 3
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("error", "code"), [(SinkError("gone"), 3), (DeadlineError("time is up"), 9)]
)
def test_a_run_is_reported_whatever_ends_its_pruning(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BackupError,
    code: int,
) -> None:
    """What was backed up is there, and is told."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("BACKUP_PRUNE", "true")
    monkeypatch.setenv("BACKUP_KEEP_LAST", "1")
    monkeypatch.setattr("backup.verbs.prune.prune", fail)
    seen, content = run_json(capsys, "backup", "--json")

    assert (seen, [p["message"] for p in content["problems"]]) == (code, [error.message])
    assert content["journals"][0]["state"] == "backed up"


def test_pruning_makes_room_once_tombstones_are_old(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no run is made any more, too; but not until it is confirmed."""
    for count in range(2):
        write_journal(site / "journals", 0, records(3 + count))
        cli.main(["backup"])
    monkeypatch.setenv("BACKUP_KEEP_LAST", "1")
    monkeypatch.setenv("BACKUP_KEEP_MIN", "1")
    assert cli.main(["prune", "--confirm"]) == 0
    (pruned,) = (site / "sink" / JOURNAL).glob("*.pruned.json")
    of_it = list(pruned.parent.glob(f"{pruned.name.removesuffix('.pruned.json')}.*"))
    for path in of_it:
        os.utime(path, (path.stat().st_mtime - 86_400 * 3,) * 2)
    assert cli.main(["prune"]) == 0
    assert all(path.exists() for path in of_it)
    assert cli.main(["prune", "--confirm"]) == 0

    assert [path for path in of_it if path.exists()] == [pruned]
    assert '"event": "remains_swept"' in capsys.readouterr().err
    assert cli.main(["verify", "--deep"]) == 0


def test_a_bundle_on_stdout_is_alone_there(
    site: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The report goes to stderr, so that the tar can be sent anywhere."""
    cli.main(["backup"])
    capfdbinary.readouterr()
    code = cli.main(["export", "latest", "--output", "-"])
    out, err = capfdbinary.readouterr()
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        names = tar.getnames()

    assert code == 0
    assert len({name.partition("/")[0] for name in names}) == 1
    assert names[0].startswith("deepgram-journals-")
    assert [name.rpartition("/")[2] for name in names][::2] == ["journal", "SHA256SUMS"]
    assert b"1 backup exported to stdout, every hash compared\n" in err


@pytest.mark.parametrize("more", [[], ["--target", "a", "--output", "b"]])
def test_a_bundle_goes_to_one_place(
    site: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    """Neither nowhere nor to two."""
    assert cli.main(["export", "latest", *more]) == 2
    assert "hint: give one of --target DIR, --output FILE and --output -" in capsys.readouterr().err
    assert not (site / "a").exists()


def test_a_bundle_and_json_do_not_share_stdout(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else neither could be read; and JSON is what the caller asked for."""
    code, content = run_json(capsys, "export", "latest", "--output", "-", "--json")

    assert code == 2
    assert "would both write to stdout" in content["error"]["message"]


def test_no_terminal_gets_a_tar(site: Path) -> None:
    """It would show as rubbish, or do something."""
    cli.main(["backup"])
    code, out, err = on_terminals("export", "latest", "--output", "-")

    assert (code, out) == (2, "")
    assert "stdout is a terminal" in err


def test_text_is_what_people_get(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json, for each kind of verb."""
    assert [cli.main([verb]) for verb in ("backup", "list", "config", "version")] == [0, 0, 0, 0]

    out = capsys.readouterr().out
    assert "1 of 1 journal backed up" in out
    assert "1 backup\n" in out
    assert re.search(rf"BACKUP_SOURCE +{re.escape(str(site))}/journals  \(from the env", out)
    assert f"deepgram-journal-backup {backup.__version__}" in out


def test_sinks_on_the_command_line_replace_the_settings(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several may be named; BACKUP_SINKS is not asked then."""
    assert cli.main(["backup"]) == 0
    (site / "other").mkdir()
    capsys.readouterr()

    _, content = run_json(capsys, "list", "--sink", f"file://{site}/other", "--json")
    assert content["backups"] == []


# -- wrong arguments


def test_no_verb_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """A CronJob that lost its arguments must not look like a success."""
    assert cli.main([]) == 2

    out, err = capsys.readouterr()
    assert (out, err.startswith("usage: journal-backup VERB")) == ("", True)


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        (["bakcup"], "there is no verb 'bakcup'", "did you mean backup?"),
        (
            ["xyz"],
            "there is no verb 'xyz'",
            (
                "verbs are backup, list, show, verify, restore, export, mark-delivered,"
                " prune, doctor, acknowledge, retire, resume-billing, config, version"
            ),
        ),
        (
            ["restore"],
            "the following arguments are required: SELECTOR, --target",
            "see: journal-backup restore --help",
        ),
        (
            ["list", "--lon"],
            "unrecognized arguments: --lon",
            "see: journal-backup --help",
        ),
        (["--json"], "the following arguments are required: VERB", "see: journal-backup --help"),
    ],
)
def test_wrong_arguments_exit_2_with_a_way_out(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str, hint: str
) -> None:
    """In the form of all errors, and as JSON where that was asked for."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert err == f"error: {message}\n  hint: {hint}\n"
    assert bool(out) is ("--json" in argv)

    code, content = run_json(capsys, *argv, "--json")
    assert code == 2
    assert content["error"]["hints"] == [hint]
    assert content["verb"] == (argv[0] if argv[0] in {"restore", "list"} else None)


def test_wrong_settings_exit_2_naming_all(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the verb, config too: nothing is begun with settings that are half understood."""
    monkeypatch.setenv("BACKUP_READBACK", "no")
    monkeypatch.setenv("BACKUP_SINC", "x")

    for verb in ("backup", "list", "config"):
        code, content = run_json(capsys, verb, "--json")
        assert (code, len(content["error"]["problems"])) == (2, 2)


def test_a_verb_without_sinks_exits_2(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing to list is not the same as nowhere to look."""
    monkeypatch.delenv("BACKUP_SINKS")

    assert cli.main(["list"]) == 2
    assert "error: BACKUP_SINKS is not set" in capsys.readouterr().err


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Ask a verb for help."""
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", grammar.VERBS)
def test_each_verb_has_help_with_examples_that_work(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It fits a terminal of 80 columns, and what it shows can be typed."""
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(name, capsys)

    assert max(map(len, text.splitlines())) < 81
    assert f"usage: journal-backup {name}" in text
    for example in grammar.VERBS[name].examples:
        _, _, arguments = example.partition(" > ")[0].partition("journal-backup ")
        parsed = grammar.parser().parse_args(shlex.split(arguments))
        assert parsed.verb == name


# -- what workers run

RUN = "20261123T020000Z-00aa01"
WORKER = ("worker", "--run", RUN, "--journal", JOURNAL)


@pytest.fixture
def termination_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file that a kubelet makes for a container's last words."""
    path = tmp_path / "termination-log"
    path.write_text("what a container before this one has left, however long it was" * 99)
    monkeypatch.setattr(command, "_TERMINATION_LOG", str(path))
    return path


def sink_of(site: Path) -> Sink:
    """Open the sink, as a worker's own process does."""
    return open_sink(f"file://{site}/sink", config.load(), stop=Stop())


def manifest_of(site: Path, suffix: str) -> Any:
    """Read the one manifest or draft on the sink."""
    (path,) = (site / "sink" / JOURNAL).glob(f"*.{suffix}.json")
    return json.loads(path.read_text())


def test_verbs_of_workers_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    """Who looks for a verb is not to try them; who mistypes one is not sent there."""
    hidden = {name for name, verb in grammar.VERBS.items() if verb.is_hidden}
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = re.findall(r"^  ([a-z-]+)  ", capsys.readouterr().out, re.MULTILINE)
    assert hidden == {"worker", "commit"}
    assert [name for name in grammar.VERBS if name not in hidden] == [
        name for name in listed if name in grammar.VERBS
    ]
    assert not hidden & {*listed}

    assert cli.main(["comit"]) == 2
    assert "commit" not in capsys.readouterr().err


def test_a_worker_backs_up_what_it_was_sent_for_and_says_so(
    site: Path,
    termination_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Under the id of the run that sent it; it expects no other journal."""
    monkeypatch.setenv("NODE_NAME", "node-3")
    monkeypatch.setenv("POD_NAME", "worker-7")
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "9")
    code, content = run_json(capsys, *WORKER, "--json")
    made = manifest_of(site, "manifest")

    assert (code, content["run_id"], made["run_id"]) == (0, RUN, RUN)
    assert made["source"] == {
        "strategy": "colocated",
        "consistency": "live",
        "node": "node-3",
        "pod": "worker-7",
    }
    assert answer.read(termination_log.read_text()) == Answer(
        exit_code=0,
        journals=(
            JournalAnswer(
                journal=JOURNAL,
                state="backed up",
                size_bytes=len(records(3)),
                records=3,
                id=made["id"],
            ),
        ),
    )


def test_a_worker_misses_each_journal_that_it_was_sent_for(
    site: Path, termination_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A claim that several share may lack one."""
    other = "journal-deepgram-billing-1"
    code, _ = run_json(capsys, *WORKER[:-1], f"{JOURNAL},{other}", "--json")

    said = answer.read(termination_log.read_text())
    assert said
    assert code == said.exit_code == 4
    assert [journal.state for journal in said.journals] == ["backed up", "missing"]
    assert [problem.journal for problem in said.problems] == [other]


def test_what_is_put_while_billing_is_down_is_committed_afterwards(
    site: Path, termination_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By two workers, of which the second needs no journal at all."""
    drafting = ("--strategy", "scale-down", "--draft")
    assert cli.main([*WORKER, *drafting]) == 0
    drafted = manifest_of(site, "draft")
    assert drafted["source"]["strategy"] == "scale-down"
    assert drafted["source"]["consistency"] == "quiesced"
    said = answer.read(termination_log.read_text())
    assert said
    assert said.journals[0].id == drafted["id"]
    capsys.readouterr()
    (site / "journals" / JOURNAL / "journal").unlink()

    code, content = run_json(capsys, "commit", "--run", RUN, "--json")
    assert (code, [made["id"] for made in content["committed"]]) == (0, [drafted["id"]])
    assert manifest_of(site, "manifest") == drafted
    assert answer.read(termination_log.read_text()) == Answer(exit_code=0)


def test_a_worker_that_cannot_begin_says_why(
    site: Path, termination_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To who sent it: its log may be gone before anybody looks."""
    monkeypatch.setenv("BACKUP_SOURCE", f"{site}/nowhere")

    assert cli.main(WORKER) == 2
    said = answer.read(termination_log.read_text())
    assert said
    assert (said.exit_code, said.journals) == (2, ())
    assert f"{site}/nowhere" in said.problems[0].message


def test_a_worker_without_a_kubelet_does_its_work(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody tries it by hand; no file is made that nobody asked for."""
    path = site / "termination-log"
    monkeypatch.setattr(command, "_TERMINATION_LOG", str(path))

    assert cli.main(WORKER) == 0
    assert not path.exists()


def test_verbs_of_people_leave_no_last_words(site: Path, termination_log: Path) -> None:
    """The pod of a CronJob has its log."""
    before = termination_log.read_text()
    assert cli.main(["backup"]) == 0
    assert cli.main(["show", SELECTOR]) == 2

    assert termination_log.read_text() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["worker"], "the following arguments are required: --run, --journal"),
        (["commit"], "the following arguments are required: --run"),
        (
            [*WORKER, "--strategy", "direct"],
            "argument --strategy: invalid choice: 'direct' (choose from",
        ),
    ],
)
def test_workers_do_not_guess(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    """A worker of no run could never be found again."""
    assert cli.main(argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "verb"),
    [
        (WORKER, "backup.verbs.backup.back_up"),
        (("commit", "--run", RUN), "backup.verbs.commit.commit"),
    ],
    ids=["worker", "commit"],
)
def test_a_worker_has_a_deadline(
    site: Path,
    termination_log: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: Sequence[str],
    verb: str,
) -> None:
    """Exit 9, in the answer as well: who sent it knows that it may be tried again."""

    def last_for_ever(given: Any, *_args: object) -> None:
        stop = getattr(given, "run", given).stop
        stop._monotonic = lambda: float("inf")
        stop.check()

    monkeypatch.setattr(verb, last_for_ever)
    monkeypatch.setenv("BACKUP_DEADLINE", "2h")

    assert cli.main(argv) == 9
    said = answer.read(termination_log.read_text())
    assert said
    assert [(said.exit_code, p.exit_code, p.message) for p in said.problems] == [
        (9, 9, "the deadline of 7200 s is over")
    ]


# -- in a cluster


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedCluster]:
    """Be in a cluster, as the pod of a run."""
    cluster = SimulatedCluster()
    monkeypatch.setattr("backup.cluster.api.connect", lambda *, stop: cluster.under(stop))
    monkeypatch.setenv("POD_NAME", cluster.world.add_run())
    yield cluster
    cluster.world.close()


@pytest.mark.parametrize("strategy", ["auto", "direct"])
def test_what_can_be_read_directly_is(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    strategy: str,
) -> None:
    """On a shared ReadWriteMany volume no worker is needed; and direct asks no cluster at all."""
    monkeypatch.setenv("BACKUP_STRATEGY", strategy)
    cluster.world.add_billing(1, shared=True, modes=("ReadWriteMany",))
    code, content = run_json(capsys, "backup", "--json")

    assert (code, content["journals"][0]["state"]) == (0, "backed up")
    assert manifest_of(site, "manifest")["source"]["strategy"] == "direct"
    assert cluster.writes == []
    assert bool(cluster.asked) is (strategy == "auto")


def test_journals_beside_billing_are_read_by_workers(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even one that loses its last words: its backup is found by the run's id, and told."""
    monkeypatch.setenv("BACKUP_STRATEGY", "colocated")
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "2")
    sinks = [sink_of(site)]
    runs: list[str] = []

    def work() -> None:
        (job,) = [j for j in cluster.world.names("jobs") if "-worker-" in j]
        runs.append(cluster.world.get("jobs", job)["metadata"]["labels"][RUN_LABEL])
        run_backup(site / "journals", sinks, run_id=runs[-1], only=(JOURNAL,))

    cluster.world.script(JOURNAL, Worker(does="stay silent", stores=False, then=work))
    cluster.world.add_billing(1)
    ghost = site / "sink" / JOURNAL / f"{JOURNAL}-20261101T000000Z-00dead.tar.gz"
    ghost.parent.mkdir()
    ghost.write_bytes(b"")
    os.utime(ghost, (0, 0))

    code, content = run_json(capsys, "backup", "--json")
    made = manifest_of(site, "manifest")
    assert [content["run_id"]] == runs == [made["run_id"]]
    read, missing = content["journals"]
    assert (code, content["strategy"]) == (4, "colocated")
    assert (read["state"], read["id"], read["records"]) == ("backed up", made["id"], 3)
    assert missing["state"] == "missing"
    assert content["api_calls"] == cluster.calls.made
    assert not ghost.exists()


def test_the_doctor_asks_the_cluster_where_a_backup_would(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And looks for journals only where a backup here would read them."""
    cluster.world.add_billing(1, shared=True, modes=("ReadWriteMany",))
    seen = {}
    for strategy in ("direct", "auto", "colocated"):
        monkeypatch.setenv("BACKUP_STRATEGY", strategy)
        code, content = run_json(capsys, "doctor", "--json")
        assert code == 0
        subjects = {finding["subject"] for finding in content["findings"]}
        seen[strategy] = (JOURNAL in subjects, "deepgram-billing" in subjects)
    monkeypatch.setenv("BACKUP_SOURCE", f"{site}/nothing-here")
    assert cli.main(["doctor"]) == 0
    assert cli.main(["doctor", "--only", "journals"]) == 0
    monkeypatch.setenv("BACKUP_STRATEGY", "direct")
    assert cli.main(["doctor"]) == 2
    assert cli.main(["doctor", "--only", "sinks"]) == 0

    assert seen == {"direct": (True, False), "auto": (True, True), "colocated": (False, True)}
    assert cluster.writes == []


def test_what_is_not_mounted_is_read_by_workers(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A pod made for another layout has no journals of its own, and can send for them."""
    monkeypatch.setenv("BACKUP_STRATEGY", "auto")
    monkeypatch.setenv("BACKUP_SOURCE", f"{site}/nothing-here")
    cluster.world.add_billing(1, shared=True, modes=("ReadWriteMany",))
    code, content = run_json(capsys, "backup", "--json")

    assert (code, content["strategy"]) == (0, "colocated")


def test_a_source_that_hangs_keeps_no_billing_down(
    site: Path, cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor the run past its deadline: a file server may be dead."""
    monkeypatch.setenv("BACKUP_STRATEGY", "auto")
    cluster.world.add_billing(1, shared=True, modes=("ReadWriteMany",))
    pod = cluster.world.add_run(2)
    left_down(cluster, pod=pod, replicas=1)
    cluster.world.remove("pods", pod)
    seen: list[int] = []
    is_over, dead = threading.Event(), threading.Event()

    def look(_path: object) -> bool:
        seen.append(cluster.world.replicas)
        is_over.set()
        return dead.wait()

    monkeypatch.setattr("os.path.isdir", look)
    monkeypatch.setattr(
        "backup.stop.Stop.check", lambda stop: _expire(stop) if is_over.is_set() else None
    )
    try:
        assert (cli.main(["backup"]), seen) == (9, [1])
    finally:
        dead.set()


def _expire(_stop: Stop) -> None:
    message = "the deadline is over"
    raise DeadlineError(message)


def test_a_run_by_workers_reports_what_its_sinks_would_not_do(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Once each, in the report: on a terminal, that is all there is to read."""
    monkeypatch.setenv("BACKUP_STRATEGY", "colocated")
    cluster.world.add_billing(1)
    denied = SinkDeniedError("403 forbidden")
    sinks = [SimulatedSink(name) for name in ("one", "two")]
    sinks[0].fail("list", denied)
    sinks[1].fail("sweep", denied)
    recent = "journal-other-0/journal-other-0-20261101T000000Z-00dead.sha256"
    sinks[1].place.objects[recent] = Held(b"", NOON)
    opened = iter(sinks)
    monkeypatch.setattr("backup.sinks.open_sink", lambda *_args, **_kwargs: next(opened))
    monkeypatch.setenv("BACKUP_SINKS", "file:///one,file:///two")
    code, content = run_json(capsys, "backup", "--json")

    assert code == 0
    assert [(w["sink"], w["message"]) for w in content["warnings"]] == [
        (sinks[0].url, "what it holds is not known: 403 forbidden"),
        (sinks[1].url, "old remains were not swept: 403 forbidden"),
    ]


def test_a_run_by_workers_tells_of_a_lost_manifest(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit 6, as in a direct run."""
    monkeypatch.setenv("BACKUP_STRATEGY", "colocated")
    cluster.world.add_billing(1)
    sink = SimulatedSink(clock=lambda: NOON - timedelta(days=9))
    chain = Chain(sink)
    lost = chain.full(b"{}\n")
    sink.clock = lambda: NOON
    chain.full(b"{}\n{}\n")
    del sink.place.objects[manifest_key(JOURNAL, lost.id)]
    monkeypatch.setattr("backup.sinks.open_sink", lambda *_args, **_kwargs: sink)
    code, content = run_json(capsys, "backup", "--json")

    assert code == 6
    assert [p["message"] for p in content["problems"] if p["sink"]] == [
        f"the manifest of {lost.id} is gone, its archive is there"
    ]


def test_a_suspect_backup_that_is_found_is_told_as_such(
    site: Path, cluster: SimulatedCluster
) -> None:
    """A lost message must not make it a good one."""
    write_journal(site / "journals", 0, b"torn")
    assert cli.main(WORKER) == 4
    (found,) = holdings.of_run([sink_of(site)], RUN)

    assert wiring._as_answer(found).state == "suspect"


def test_without_a_cluster_a_strategy_that_wants_one_says_so(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, before anything is touched."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none")
    monkeypatch.setenv("BACKUP_STRATEGY", "auto")

    assert cli.main(["backup"]) == 2
    assert "hint: a backup by BACKUP_STRATEGY=direct needs none" in capsys.readouterr().err


def left_down(cluster: SimulatedCluster, *, pod: str, replicas: int = 0) -> None:
    """Leave billing at 0, as a run does that was killed, or one that is under way.

    Args:
        cluster: where; with billing already, of so many replicas, if they are given.
        pod: that of the run.
        replicas: those that billing has.
    """
    if not replicas:
        cluster.world.add_billing(replicas := 2)
    owner = {"pod": pod, "uid": cluster.world.get("pods", pod)["metadata"]["uid"]}
    billing = cluster.world.get("statefulsets", "deepgram-billing")["metadata"]["uid"]
    run = Run(id="20261123T000000Z-other0")
    lease = Lease(run, cluster, "deepgram-billing", owner=Owner(**owner))
    lease.take()
    until = datetime.now(UTC) + timedelta(minutes=5)
    lease.write_record(Record(uid=billing, replicas=replicas, deadline=until))
    cluster.world.scale(0)


def test_nothing_that_is_down_is_nothing_to_do(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Most of the time; no sink has to be set for it."""
    monkeypatch.delenv("BACKUP_SINKS")
    cluster.world.add_billing(2)

    code, content = run_json(capsys, "resume-billing", "--json")
    assert (code, content["state"]) == (0, "nothing to do")
    assert cluster.writes == []


def test_what_a_run_that_is_gone_has_left_down_comes_back(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its pod is gone: at once, without waiting for its heartbeat to be old."""
    pod = cluster.world.add_run(2)
    left_down(cluster, pod=pod)
    cluster.world.remove("pods", pod)
    monkeypatch.setenv("BACKUP_SINKS", "what is wrong elsewhere")

    assert cli.main(["resume-billing"]) == 0
    assert "deepgram-billing is scaled back to 2" in capsys.readouterr().out
    assert cluster.world.replicas == 2


def test_what_went_wrong_in_a_rescue_is_told_by_the_run_that_did_it(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that then reads its journals itself, too."""
    monkeypatch.setenv("BACKUP_STRATEGY", "auto")
    cluster.world.add_billing(1, shared=True, modes=("ReadWriteMany",))
    pod = cluster.world.add_run(2)
    left_down(cluster, pod=pod, replicas=1)
    cluster.world.remove("pods", pod)
    cluster.fail("list jobs", ClusterError("the cluster refuses to list jobs"))
    code, content = run_json(capsys, "backup", "--json")

    assert (code, content["journals"][0]["state"], cluster.world.replicas) == (7, "backed up", 1)
    (problem,), (warning,) = content["problems"], content["warnings"]
    assert problem["message"] == "the cluster refuses to list jobs"
    assert "had left billing at 0: it is back" in warning["message"]


@pytest.mark.parametrize("pod", ["", "not-a-pod", None])
def test_a_run_that_is_under_way_is_left_alone_unless_it_is_taken_over(
    site: Path,
    cluster: SimulatedCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pod: str | None,
) -> None:
    """Before a release is removed, it has to be; from a terminal as well as from a pod."""
    if pod is not None:
        monkeypatch.setenv("POD_NAME", pod)
    left_down(cluster, pod=cluster.world.add_run(2))
    code, content = run_json(capsys, "resume-billing", "--json")
    assert (code, content["state"], content["holder"]) == (
        0,
        "under way",
        "20261123T000000Z-other0",
    )
    assert cluster.world.replicas == 0

    code, content = run_json(capsys, "resume-billing", "--take-over", "--json")
    assert (code, content["state"]) == (0, "restored")
    assert cluster.world.replicas == 2


# -- what breaks


def breaking(error: BaseException) -> Callable[..., Any]:
    """Give something that breaks when it is called."""

    def broken(*_args: object, **_kwargs: object) -> Any:
        raise error

    return broken


def test_a_bug_exits_1_with_a_traceback_and_says_that_it_is_one(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the log for who mends it, in words for who met it, and as JSON for programs."""
    monkeypatch.setattr("backup.verbs.inspect.list_backups", breaking(KeyError("gone")))
    assert cli.main(["list", "--json"]) == 1

    out, err = capsys.readouterr()
    bug = f"this is a bug in version {backup.__version__}"
    assert json.loads(out) == {
        "verb": "list",
        "exit_code": 1,
        "error": {
            "message": "unexpected KeyError: 'gone'",
            "hints": [f"{bug}: please report it, with the log above"],
        },
    }
    entries = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [entry["event"] for entry in entries] == ["run_finished", "bug_met"]
    assert entries[0]["exit_code"] == 1
    assert "Traceback" in entries[1]["exception"]
    assert "error: unexpected KeyError: 'gone'" in err


def test_a_bug_before_the_run_is_told_likewise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even the settings could be read."""
    monkeypatch.setattr(config, "load", breaking(RuntimeError("early")))

    code, content = run_json(capsys, "config", "--json")
    assert (code, content["error"]["message"]) == (1, "unexpected RuntimeError: early")


def test_an_interrupt_before_the_run_is_told_likewise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control-C while modules are being imported is no bug."""
    monkeypatch.setattr(config, "load", breaking(KeyboardInterrupt()))

    code, content = run_json(capsys, "config", "--json")
    assert (code, content["error"]["message"]) == (130, "stopped by SIGINT")


def test_an_error_that_ends_a_run_is_in_its_last_line(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The canonical line says how it ended, whichever way it did."""
    monkeypatch.setattr("backup.verbs.backup.back_up", breaking(DeadlineError("it is over")))

    assert cli.main(["backup"]) == 9
    entry, text = capsys.readouterr().err.split("\n", 1)
    assert json.loads(entry)["exit_code"] == 9
    assert text == "error: it is over\n"


class Broken(io.TextIOWrapper):
    """A stdout that cannot be written."""

    def __init__(self, error: OSError) -> None:
        """Fail like that."""
        super().__init__(io.BytesIO())
        self._error = error

    def flush(self) -> None:
        """Fail."""
        raise self._error

    def fileno(self) -> int:
        """Give the number whose place something harmless takes."""
        return self.number

    number = 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [(BrokenPipeError(), 0), (OSError(28, "No space left on device"), 1)],
)
def test_a_result_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: OSError,
    expected: int,
) -> None:
    """A reader that has had enough changes nothing; a full disk is a failure that is told."""
    stream = Broken(error)
    stream.number = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", stream)

    assert cli.main(["version", "--json"]) == expected
    message = "error: the result cannot be written: No space left on device\n"
    assert capfd.readouterr().err == ("" if expected == 0 else message)
    os.close(stream.number)


# -- terminals


def test_on_a_terminal_problems_are_told_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the report, with their hints; the log beside it tells only what goes on."""
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "2")
    code, out, err = on_terminals("backup")

    assert code == 4
    assert "".join(out.split()).count("journal-deepgram-billing-1isnotthere") == 1
    assert "journal-deepgram-billing-1" not in err
    assert f"{JOURNAL} stored on file://{site}/sink (first)" in err


def test_with_json_the_terminal_still_gets_problems(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no report for people then."""
    monkeypatch.setenv("BACKUP_EXPECT_REPLICAS", "2")
    code, out, err = on_terminals("backup", "--json")

    assert json.loads(out)["exit_code"] == code == 4
    assert err.count("journal-deepgram-billing-1 is not there") == 1


def test_what_a_broken_off_run_had_found_is_not_lost(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No report comes after a deadline, so what was left to it is told after all."""

    def half(plan: Plan, _sinks: object) -> Any:
        plan.run.fail(Problem(exit_code=5, message="a sink is full", hints=("make room",)))
        plan.run.warn("something odd")
        message = "the deadline is over"
        raise DeadlineError(message)

    monkeypatch.setattr("backup.verbs.backup.back_up", half)
    code, out, err = on_terminals("backup")

    assert (code, out) == (9, "")
    assert err.splitlines() == [
        "warning: something odd",
        "error: a sink is full",
        "  hint: make room",
        "error: the deadline is over",
    ]


def test_a_run_that_was_broken_off_without_findings_says_only_why(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No empty line stands for nothing."""
    monkeypatch.setattr("backup.verbs.backup.back_up", breaking(DeadlineError("it is over")))

    assert on_terminals("backup") == (9, "", "error: it is over\n")


def test_json_logs_may_be_asked_for_on_a_terminal(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BACKUP_LOG_FORMAT decides, where it is set; a progress bar would fold the lines."""
    monkeypatch.setenv("BACKUP_LOG_FORMAT", "json")
    assert on_terminals("backup")[0] == 0
    code, _, err = on_terminals("verify", "--deep")

    assert (code, json.loads(err)["event"]) == (0, "run_finished")


def test_a_terminal_of_unknown_width_counts_as_80_columns() -> None:
    """Some terminals say 0, and a division into no columns helps nobody."""
    with terminals() as (out, _):
        assert command._width(out) == 80


# -- secrets


def test_no_secret_of_a_url_is_in_any_output(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of a good URL's options, not of a wrong one, in no verb, in text or JSON."""
    urls = (
        f"file://{site}/sink?require_mount=false",
        "s3://ada:hunter2@bucket/x?token=hunter2",
        "file://ada:hunter2@host/x",
        "ada:hunter2@host/x",
        f"file://{site}/sink?token=hunter2",
        f"file://{site}/sink#hunter2",
    )
    said: list[str] = []
    for url in urls:
        monkeypatch.setenv("BACKUP_SINKS", url)
        for argv in (["backup"], ["list"], ["verify"], ["config"], ["show", SELECTOR]):
            for more in ([], ["--json"]):
                cli.main([*argv, *more])
                said.extend(capsys.readouterr())
    cli.main(["list", "--sink", urls[1]])
    said.extend(capsys.readouterr())

    assert "file://" in "".join(said)
    assert "hunter2" not in "".join(said)


def test_records_of_a_journal_are_never_printed(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are the customer's, and Deepgram's."""
    data = b'{"d":"hunter2","s":"x"}\n{"d":hunter2\n'
    (site / "journals" / JOURNAL / "journal").write_bytes(data)

    assert cli.main(["backup"]) == 0
    assert cli.main(["verify", "--deep"]) == 6
    assert "hunter2" not in "".join(capsys.readouterr())


# -- exit codes


def test_help_and_table_tell_the_same_exit_codes() -> None:
    """--help repeats them, because it may not import the report; so they are compared here."""
    listed = grammar.EPILOG.partition("one):\n")[2].splitlines()[:-1]
    codes = [code.strip() for line in listed for code in line[2:9].split(",")]

    assert codes == [*map(str, report.EXIT_CODES), "128+N"]


def test_an_error_of_usage_is_a_configuration_error() -> None:
    """One code for all that has to be typed anew."""
    assert ConfigError.exit_code == command._USAGE_ERROR
