"""The chart, rendered by the real Helm, and what comes out, taken apart.

    rendered = helm.render({"billing": {"replicas": 2}, "sinks": [...]})
    rendered.one("CronJob", "deepgram-journal-backup")["spec"]["schedule"]

Always for a version of Kubernetes that is said: a Helm built from its module takes the cluster for
1.20, which the chart refuses.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.chart.programs import program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "deepgram-journal-backup"
PRESETS = sorted((CHART / "ci").glob("*-values.yaml"))
NAME = "deepgram-journal-backup"
RELEASE = "acme"
NAMESPACE = "dg-self-hosted"
KUBERNETES = "1.34.0"

_SECONDS = 60.0

Object = dict[str, Any]


class HelmError(RuntimeError):
    """What Helm said on stderr instead of doing it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The objects of a release, hooks among them."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        """Return all of a kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def one(self, kind: str, name: str) -> Object:
        """Return the one of that kind and name."""
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def names(self) -> set[tuple[str, str]]:
        """Kind and name of each."""
        return {(each["kind"], each["metadata"]["name"]) for each in self.objects}

    @property
    def hooks(self) -> dict[tuple[str, str], str]:
        """Kind and name of each hook, and its events."""
        return {
            (each["kind"], each["metadata"]["name"]): event
            for each in self.objects
            if (event := (each["metadata"].get("annotations") or {}).get("helm.sh/hook"))
        }

    @property
    def pods(self) -> dict[str, Object]:
        """The template of each object that makes pods, by that object's name."""
        return {each["metadata"]["name"]: pod for each in self.objects if (pod := _pod(each))}


def render(
    values: Mapping[str, Any] | None = None,
    *presets: Path,
    chart: Path = CHART,
    release: str = RELEASE,
    kubernetes: str = KUBERNETES,
    options: Sequence[str] = (),
) -> Rendered:
    """Render the chart with values, on top of files of values.

    Raises:
        HelmError: it does not render; with what the user is told.
    """
    text = template(
        json.dumps(values or {}),
        presets,
        chart=chart,
        release=release,
        kubernetes=kubernetes,
        options=tuple(options),
    )
    return Rendered(tuple(each for each in yaml.safe_load_all(text) if each))


@functools.lru_cache(maxsize=256)
def template(
    values: str,
    presets: Sequence[Path],
    *,
    chart: Path,
    release: str,
    kubernetes: str,
    options: Sequence[str],
) -> str:
    """Return what `helm template` prints; the same is not asked for twice."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        files = [f"--values={path}" for path in (*presets, file.name)]
        where = [f"--namespace={NAMESPACE}", f"--kube-version={kubernetes}"]
        return run("template", release, str(chart), *files, *where, *options)


def run(*arguments: str, kubeconfig: str = os.devnull, seconds: float = _SECONDS) -> str:
    """Run Helm, without anything of whose machine it is; return what it prints.

    Args:
        arguments: as on the command line.
        kubeconfig: of the cluster to talk to; without it, none.
        seconds: how long it may take.

    Raises:
        HelmError: it ended with another code than 0.
    """
    with tempfile.TemporaryDirectory(prefix="helm-") as home:
        done = subprocess.run(
            [program("helm"), *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": home, "KUBECONFIG": kubeconfig},
        )
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def containers(pod: Object) -> Iterator[Object]:
    """Give all containers of a pod."""
    yield from pod["spec"].get("initContainers") or []
    yield from pod["spec"]["containers"]


def environment(pod: Object) -> dict[str, Any]:
    """Return the environment of a pod's last container: a value, or where it comes from."""
    *_, container = containers(pod)
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def mounts(pod: Object) -> dict[str, Object]:
    """Return the mounts of a pod's last container, by their path."""
    *_, container = containers(pod)
    return {each["mountPath"]: each for each in container.get("volumeMounts") or []}


def volumes(pod: Object) -> dict[str, Object]:
    """Return the volumes of a pod, by their name."""
    return {each["name"]: each for each in pod["spec"].get("volumes") or []}


def load(path: Path) -> Any:
    """Read a file of YAML."""
    return yaml.safe_load(path.read_text())


def _pod(each: Object) -> Object | None:
    spec = each.get("spec") or {}
    if each["kind"] == "Pod":
        return each
    if each["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod: Object | None = spec.get("template") if each["kind"] != "PrometheusRule" else None
    return pod
