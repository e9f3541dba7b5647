"""The workflows of the repository cannot run here; what can be said of them without is said."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chart import helm, programs
from tests.chart.helm import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)


def jobs(workflow: Path) -> dict[str, Any]:
    """Return the jobs of a workflow."""
    found: dict[str, Any] = helm.load(workflow)["jobs"]
    return found


def steps(workflow: Path) -> Iterator[Any]:
    """Give all steps of a workflow."""
    for job in jobs(workflow).values():
        yield from job.get("steps", [])


def test_actionlint_has_nothing_to_say() -> None:
    """Of syntax, expressions, contexts and needs."""
    if reason := programs.unavailable("actionlint"):
        pytest.skip(reason)
    # what else may be installed is not asked, so that the answer is the same everywhere
    files = [str(workflow) for workflow in WORKFLOWS]
    command = [str(programs.program("actionlint")), "-shellcheck=", "-pyflakes=", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    assert (done.stdout, done.returncode) == ("", 0)


def test_zizmor_has_nothing_to_say() -> None:
    """Of what an attacker would use."""
    if shutil.which("zizmor") is None:
        pytest.skip("zizmor is not installed (PyPI)")
    command = ["zizmor", "--offline", "--quiet", "--persona=pedantic", ".github"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)

    assert done.returncode == 0, done.stdout


@each_workflow
def test_actions_are_pinned(workflow: Path) -> None:
    """By commit, with the version beside it, and by the same one everywhere."""
    for line in workflow.read_text().splitlines():
        if match := re.search(r"uses: (\S+)(.*)", line):
            action, rest = match.groups()
            if not action.startswith("./"):
                assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@[0-9a-f]{40}", action), action
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), line


def test_an_action_is_of_one_version() -> None:
    """In all workflows."""
    used = {step["uses"] for workflow in WORKFLOWS for step in steps(workflow) if "uses" in step}

    assert len(used) == len({action.partition("@")[0] for action in used})


@each_workflow
def test_rights_are_given_to_jobs_alone(workflow: Path) -> None:
    """And to write, only in a release."""
    assert helm.load(workflow)["permissions"] == {}
    granted = {
        right for job in jobs(workflow).values() for right in job.get("permissions", {}).items()
    }

    if workflow.stem != "release":
        assert granted == {("contents", "read")}


@each_workflow
def test_no_job_runs_for_ever(workflow: Path) -> None:
    """Nor keeps the token of a checkout for what it runs later."""
    for job in jobs(workflow).values():
        assert "uses" in job or 0 < job["timeout-minutes"] <= 60
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@each_workflow
def test_targets_of_make_exist(workflow: Path) -> None:
    """A workflow does nothing that nobody can do by hand."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {
        target
        for step in steps(workflow)
        for target in re.findall(r"\bmake ([a-z0-9-]+)", step.get("run", ""))
    }
    assert named <= targets


def test_ci_does_what_is_done_by_hand() -> None:
    """Each target of `.ci/run`: what it does not run, no release waits for."""
    by_hand = re.findall(
        r"^quietly ([a-z0-9-]+)|\bmake (test)\b", (ROOT / ".ci/run").read_text(), re.MULTILINE
    )
    ci = ROOT / ".github" / "workflows" / "ci.yml"
    done = " ".join(step.get("run", "") for step in steps(ci))

    targets = {first or second for first, second in by_hand}
    assert targets >= {"test", "test-e2e"}
    assert targets == targets & {*re.findall(r"\bmake ([a-z0-9-]+)", done)}


def test_all_jobs_have_to_pass() -> None:
    """The one that is required to merge needs all others."""
    found = jobs(ROOT / ".github" / "workflows" / "ci.yml")

    assert {*found["passed"]["needs"]} == {*found} - {"passed"}
