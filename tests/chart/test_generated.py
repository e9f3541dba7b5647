"""What is generated is as the chart says: run `make chart-docs` after changing it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from backup.config import SETTINGS
from tests.chart import generate, helm, programs, shapes
from tests.chart.helm import CHART, ROOT

PAGES = [CHART / "README.md", ROOT / "docs" / "chart.md"]
DOCUMENTS = [
    *PAGES,
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("airgapped", "operations")),
    ROOT / "examples" / "cronjob.yaml",
]

each_document = pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)


@pytest.fixture(autouse=True)
def _helm_docs() -> None:
    """Skip where it cannot be generated."""
    if reason := programs.unavailable("helm-docs"):
        pytest.skip(reason)


def test_generated_files_are_as_the_chart_says() -> None:
    """The chart's README, and the manifest for those without Helm."""
    assert [str(path.relative_to(ROOT)) for path, _ in generate.outdated()] == []


def test_an_outdated_file_is_found_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check itself has to be able to fail."""
    examples = tmp_path / "examples"
    shutil.copytree(generate.EXAMPLES, examples)
    (examples / "cronjob.yaml").write_text("")
    monkeypatch.setattr(helm, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "EXAMPLES", examples)

    monkeypatch.setattr("sys.argv", ["generate", "--check"])
    assert generate.main() == 1
    assert capsys.readouterr().out == "examples/cronjob.yaml: outdated\n"
    monkeypatch.setattr("sys.argv", ["generate"])
    assert generate.main() == 0
    monkeypatch.setattr("sys.argv", ["generate", "--check"])
    assert generate.main() == 0


def test_the_plain_manifest_is_nobodys_release() -> None:
    """No hooks, nothing that says it is Helm's, and what there is to change is marked."""
    text = (ROOT / "examples" / "cronjob.yaml").read_text()

    assert "helm.sh" not in text
    assert "managed-by" not in text
    for value in ("s3://acme-journals", "dg-models-aws-efs-pvc", "image: ", "role-arn"):
        lines = [line for line in text.splitlines() if value in line]
        assert lines
        assert all("# CHANGE: " in line for line in lines), value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_values_that_are_mentioned_exist(page: Path) -> None:
    """`billing.replicas`, `toolbox.restoreTargets`, ..."""
    values = helm.load(CHART / "values.yaml")
    for mention in re.findall(r"`([a-z][A-Za-z]+(?:\.[A-Za-z]+)+)(?:=[a-z]+)?`", page.read_text()):
        first, *rest = mention.split(".")
        if first in values:
            value = values[first]
            for key in rest:
                is_ours = isinstance(value, dict) and key in value
                assert is_ours or not value or isinstance(value, list), mention
                value = value[key] if is_ours else None


def test_values_that_are_shown_render() -> None:
    """In the page, on the command line."""
    text = (ROOT / "docs" / "chart.md").read_text()
    lines = re.findall(r"helm install .*?(?<!\\)\n", text, re.DOTALL)
    options = [[w for w in shlex.split(line) if "=" in w] for line in lines]
    given = [[f"--set={word}" for word in words] for words in options if words]

    assert len(given) == 1
    (cronjob, _) = helm.render(options=given[0]).of("CronJob")
    assert cronjob["spec"]["suspend"] is True


@each_document
def test_an_upgrade_is_shown_with_a_file_of_values(page: Path) -> None:
    """What is only set on the command line takes the place of what the release had."""
    for command in commands(page, "helm upgrade"):
        assert any(word.startswith("--values") for word in command), command
        assert not any(word.startswith("--set") for word in command), command


@each_document
def test_a_namespace_is_shown(page: Path) -> None:
    """The default one is hardly ever the one of billing."""
    for command in (*commands(page, "kubectl"), *commands(page, "helm template")):
        is_only_named = len(command) <= 3
        file_names_it = "archive.yaml" in command or command[1:3] == ["apply", "-f"]
        assert is_only_named or file_names_it or {"--namespace", "-n"} & {*command}, command


@each_document
def test_objects_that_are_named_are_made(page: Path) -> None:
    """`cronjob/…`, `deployment/…`: under the chart's own name or the plain manifest's."""
    prefixes = (helm.NAME, "journal-backup")
    made = [helm.render(shapes.SCALE_DOWN | {"namePrefix": prefix}).names for prefix in prefixes]
    kinds = {"cronjob": "CronJob", "deployment": "Deployment"}

    found = re.findall(r"\b(cronjob|deployment)/([a-z][a-z-]+[a-z])", page.read_text())
    assert {(kinds[kind], name) for kind, name in found} <= set().union(*made)


def test_values_for_an_umbrella_render() -> None:
    """Those of the README, which are added to what a release has."""
    shown = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (values,) = [each for text in shown if helm.NAME in (each := yaml.safe_load(text))]
    rendered = helm.render(values[helm.NAME])

    assert helm.environment(rendered.pods[helm.NAME])["BACKUP_STRATEGY"] == "direct"
    assert rendered.one("CronJob", helm.NAME)["spec"]["suspend"] is False


def commands(page: Path, start: str) -> Iterator[list[str]]:
    """Give the commands of a page's shell blocks and running text that begin so, in words."""
    text = page.read_text().replace("\\\n", " ")
    blocks = "".join(re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE))
    lines = [part.strip() for line in blocks.splitlines() for part in re.split(r"[|(]|alias", line)]
    lines += re.findall(rf"`({start} [^`]+)`", text)
    lines += [line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")]
    for line in lines:
        if line.startswith(f"{start} "):
            yield line.partition(" #")[0].replace("'", "").replace('"', "").split()


def test_settings_that_are_mentioned_exist() -> None:
    """In the chart's README and in its values; docs/ have a test of their own."""
    known = SETTINGS.keys()
    for path in (CHART / "README.md", CHART / "values.yaml", *(CHART / "ci").iterdir()):
        assert set(re.findall(r"\bBACKUP_[A-Z0-9_]+", path.read_text())) <= known


def test_the_notes_say_how_to_run_it_now() -> None:
    """Helm shows them after an install; `helm template` has a flag for it in no version."""
    notes = (CHART / "templates" / "NOTES.txt").read_text()

    assert "create job --from=cronjob/" in notes
    assert "warnings" in notes
