"""What a platform engineer relies on without looking inside, and what a scanner looks for."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import statistics
import time
import tomllib
from pathlib import Path

import pytest

import backup
from tests.figures import Figure
from tests.image.container import Container, Image, Mount
from tests.journal_data import records, write_journal

USER = 65532
MIB = 1 << 20
PROJECT = Path(__file__).parents[2]


def packages(container: Container) -> Path:
    """Give where the Python packages are."""
    (found,) = container.root.glob("opt/journal-backup/lib/python3.*/site-packages")
    return found


# -- what it says


def test_it_starts_as_a_pod_expects(image: Image) -> None:
    """Exec form: process 1 is the command and gets SIGTERM. A name for a user cannot be checked."""
    config = image.config
    said = (config["User"], config["Entrypoint"], config["Cmd"], config["WorkingDir"])
    assert (f"{USER}:{USER}", ["journal-backup"], ["backup"], "/") == said


def test_its_environment_is_fit_for_a_read_only_root(image: Image) -> None:
    """And no variable of the machine that built it, such as an index with a password, is in it."""
    variables = dict(entry.split("=", 1) for entry in image.config["Env"])
    path = variables.pop("PATH")
    of_base = {"GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256"}  # python:slim has these
    ours = {name: value for name, value in variables.items() if name not in of_base}
    assert path.startswith("/opt/journal-backup/bin:")
    assert ours == {
        "BACKUP_FILE_REQUIRE_MOUNT": "true",
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def test_its_labels_tell_what_it_is(image: Image) -> None:
    """An image on a site without a network is known by nothing else."""
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in image.config["Labels"].items()}
    assert labels["title"] == "deepgram-journal-backup"
    assert labels["licenses"] == "Apache-2.0"
    assert backup.__version__ == labels["version"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["revision"])


def test_it_is_for_this_machine(image: Image) -> None:
    """The other tests run it."""
    here = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    assert (here, "linux") == (image.document["architecture"], image.document["os"])


# -- what it holds


def test_only_what_is_needed_at_run_time_is_installed(container: Container) -> None:
    """Each thing more is one more to patch."""
    locked = {
        package["name"]: package
        for package in tomllib.loads((PROJECT / "uv.lock").read_text())["package"]
    }
    wanted, open_ = set[str](), ["deepgram-journal-backup"]
    while open_:
        name = open_.pop()
        if name not in wanted:
            wanted.add(name)
            open_ += [dependency["name"] for dependency in locked[name].get("dependencies", ())]
    found = {path.stem for path in packages(container).glob("*.dist-info")}
    installed = {re.sub(r"[-_.]+", "-", each.rpartition("-")[0]).lower() for each in found}
    direct = {each["name"] for each in locked["deepgram-journal-backup"]["dependencies"]}
    assert set() == installed - wanted
    assert {"deepgram-journal-backup", *direct} <= installed


def test_nothing_in_it_installs_or_compiles(container: Container) -> None:
    """No code is fetched: an intruder does not find the means either."""
    root = container.root
    directories = [root / name for name in ("opt/journal-backup/bin", "usr/bin", "usr/local/bin")]
    commands = {path.name for each in directories if each.is_dir() for path in each.iterdir()}
    tools = r"pip[\d.]*|uv|hatch\w*|gcc.*|cc|c\+\+|g\+\+.*|clang.*|ld|as|make|go|rustc|cargo"
    assert set() == {name for name in commands if re.fullmatch(tools, name)}
    for kept in ("pip", "setuptools", "ensurepip", "hatchling", "uv"):
        assert [str(path) for path in root.glob(f"**/python3*/**/{kept}/__init__.py")] == []
    assert [str(path) for path in root.rglob("*.whl")] == []


def test_no_cache_and_no_secret_is_left(image: Image, container: Container) -> None:
    """What a build needed for a moment stays in a layer for ever, unless it was never in one."""
    root = container.root
    for directory in ("root/.cache", "run/secrets", "var/cache/apt", "var/lib/apt/lists", "build"):
        left = [path for path in (root / directory).rglob("*") if path.is_file()]
        assert left == [], directory
    ours = {
        "/".join(Path(member.name).parts[:2])
        for layer in image.own_layers()
        for member in image.members(layer)
        if not member.isdir() and not Path(member.name).name.startswith(".wh.")
    }
    assert {"opt/journal-backup"} == {each for each in ours if not each.startswith("usr/")}


def test_every_module_is_compiled(container: Container) -> None:
    """Nothing can be compiled later, on a read-only root, and each start would try again."""
    sources = [
        path
        for path in packages(container).rglob("*.py")
        if "{{" not in str(path) and path.parent.name != "__pycache__"
    ]
    missing, checked = [], []
    for source in sources:
        compiled = next((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc"), None)
        if compiled is None:
            missing.append(str(source))
        elif compiled.read_bytes()[4:8] != (0b01).to_bytes(4, "little"):
            checked.append(str(compiled))
    assert len(sources) > 500
    assert (missing, checked) == ([], [])


def test_its_standard_library_is_compiled_too(container: Container) -> None:
    """Not every base brings bytecode: python:slim does not."""
    (cached,) = container.root.glob("usr/**/lib*/python3.*/__pycache__/argparse.cpython-*.pyc")
    assert cached.stat().st_size > 0


def test_nobody_but_root_can_change_it(container: Container) -> None:
    """Where the root file system is not read-only, at least this is."""
    changeable = [
        str(path)
        for path in (container.root / "opt").rglob("*")
        if not path.is_symlink() and (path.stat().st_uid != 0 or path.stat().st_mode & 0o022)
    ]
    assert changeable == []


def test_it_is_small(image: Image) -> None:
    """At most 60 MiB on top of a base that has Python: it is carried into places by hand."""
    ours = image.own_layers()
    size = sum(image.compressed_bytes(layer) for layer in ours)
    assert len(ours) >= 1
    assert size <= 60 * MIB


# -- how it runs


class Site:
    """Two journals and a sink, as volumes."""

    def __init__(self, path: Path) -> None:
        self.journals = path / "journals"
        self.sink = path / "sink"
        self.sink.mkdir(mode=0o700)
        os.chown(self.sink, USER, USER)
        for ordinal in range(2):
            write_journal(self.journals, ordinal, records(200, seed=ordinal))
        self.mounts = [
            Mount(source=self.journals, target="/journals", mode="ro"),
            Mount(source=self.sink, target="/sinks/nas"),
        ]
        self.settings = {"BACKUP_SINKS": "file:///sinks/nas", "BACKUP_EXPECT_REPLICAS": "2"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Give one; below `tmp_path`, which other users may not enter, but a mount is beyond that."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give the sink to the image's user")
    return Site(tmp_path)


def test_it_tells_its_version(container: Container) -> None:
    """The least that can be asked of it."""
    done = container.run("version")
    said = (done.returncode, done.stdout, done.stderr)
    assert (0, f"deepgram-journal-backup {backup.__version__}\n", "") == said


def test_it_is_the_user_that_it_says(container: Container, tmp_path: Path) -> None:
    """That the runner of these tests is as strict as it claims, or they would show nothing."""
    config = {**container.config, "Entrypoint": ["sh", "-c"]}
    script = "id -u; id -g; echo $$; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; : >/x"
    done = Container(root=container.root, config=config).run(script)
    expected = "65532 65532 1 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1"
    assert expected == " ".join(done.stdout.split())
    assert "Read-only file system" in done.stderr


def test_all_that_it_may_need_can_be_imported(container: Container) -> None:
    """Modules in C want the Python and the libraries of the base; crc32c in Python takes hours."""
    config = {**container.config, "Entrypoint": ["/opt/journal-backup/bin/python3", "-c"]}
    script = (
        "import boto3, google.cloud.storage, google_crc32c, isal.igzip, orjson, rich, ssl\n"
        "import backup.sinks.file, backup.sinks.gcs, backup.sinks.s3\n"
        "print(google_crc32c.implementation)"
    )
    done = Container(root=container.root, config=config).run(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "c\n", "")


def test_it_prints_its_settings(container: Container) -> None:
    """And where each came from: the image has one of its own."""
    done = container.run("config", "--json", BACKUP_SINKS="file:///sinks/nas")
    rows = json.loads(done.stdout)["settings"]
    (mount,) = [row for row in rows if row["name"] == "BACKUP_FILE_REQUIRE_MOUNT"]
    assert (done.returncode, done.stderr) == (0, "")
    assert mount["value"] in {True, "true"}


def test_without_arguments_it_backs_up(container: Container, site: Site) -> None:
    """The CMD, as a CronJob runs it; then the other verbs find whole backups."""
    done = container.run(mounts=site.mounts, **site.settings)
    assert done.returncode == 0, done.stderr
    stored = sorted(site.sink.glob("journal-deepgram-billing-*/*.manifest.json"))
    assert len(stored) == 2
    assert {USER} == {path.stat().st_uid for path in site.sink.rglob("*")}
    verified = container.run("verify", "--deep", mounts=site.mounts, **site.settings)
    assert verified.returncode == 0, verified.stderr


def test_it_restores_into_a_volume(container: Container, site: Site, tmp_path: Path) -> None:
    """The toolbox does."""
    assert container.run(mounts=site.mounts, **site.settings).returncode == 0
    target = tmp_path / "target"
    target.mkdir()
    os.chown(target, USER, USER)
    mounts = [*site.mounts, Mount(source=target, target="/restored")]
    done = container.run(
        "restore", "latest", "--target", "/restored/all", mounts=mounts, **site.settings
    )
    assert done.returncode == 0, done.stderr
    for journal in site.journals.glob("*/journal"):
        restored = target / "all" / journal.relative_to(site.journals)
        assert journal.read_bytes() == restored.read_bytes()


def test_a_sink_that_is_no_mounted_volume_is_refused(container: Container, site: Site) -> None:
    """What lands in the container's own files is gone with it."""
    (container.root / "sinks" / "nas").mkdir(parents=True, exist_ok=True)
    done = container.run(mounts=site.mounts[:1], **site.settings)
    assert done.returncode == 5
    assert "BACKUP_FILE_REQUIRE_MOUNT=false" in done.stderr


def test_without_settings_it_says_what_is_missing(container: Container) -> None:
    """In one go, exit 2."""
    done = container.run()
    assert done.returncode == 2
    assert "BACKUP_SINKS" in done.stderr


def test_an_unreadable_journal_is_an_error(container: Container, site: Site) -> None:
    """Root's 0600: the pod's user has to be able to read it, and is not helped by a capability."""
    (site.journals / "journal-deepgram-billing-1" / "journal").chmod(0o600)
    done = container.run(mounts=site.mounts, **site.settings)
    assert done.returncode == 4, done.stderr


def test_sigterm_ends_it_although_it_is_process_1(container: Container, site: Site) -> None:
    """The kernel drops signals that process 1 has no handler for: a pod would hang till SIGKILL."""
    write_journal(site.journals, 0, records(1000) * 1000)
    with container.start(mounts=site.mounts, **site.settings) as process:
        assert process.stderr is not None
        process.stderr.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM


def test_the_log_begins_soon(container: Container, site: Site, figure: Figure) -> None:
    """With a line of JSON; the time is from the start of the container, the median of five."""
    seconds = []
    for _ in range(5):
        begun = time.monotonic()
        with container.start(mounts=site.mounts, **site.settings) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            seconds.append(time.monotonic() - begun)
            process.communicate(timeout=30)
        assert json.loads(line)
    figure("start of the image, to its first line", statistics.median(seconds))
