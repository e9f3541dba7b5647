"""The tool on a stage: a test decides when each of its pods goes on, and what befalls it.

    stage = set_stage(cluster, namespace)
    tool = install(cluster, namespace, "scale-down", **stage.props())
    stage.tell(worker(0), "hold")
    job = tool.run()
    stage.await_pod(worker(0))       # it runs, has its volume, and does nothing
    stage.tell(worker(0), "")        # and goes on

So what happens in the middle of a backup does so however fast the machine is. The stage is a volume
that all pods of the tool have; `staged.py` is what they run first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.cluster.controlplane import until
from tests.e2e import staged
from tests.e2e.billing import NAME
from tests.e2e.cluster import Cluster
from tests.e2e.volumes import Volume, create_volume

Record = Callable[[str, object], None]
"""The fixture `record_property` of pytest."""

_CLAIM = "stage"
_SCRIPT = "staged"
_SECONDS = 90.0


def worker(ordinal: int) -> str:
    """Name the part of the worker of a journal."""
    return f"worker-journal-{NAME}-{ordinal}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where pods of the tool look what they are to do."""

    volume: Volume

    def tell(self, part: str, act: str) -> None:
        """Say what a pod does first: `hold`, another act of `staged.py`, or nothing."""
        new = self.volume.directory / f"{part}.new"
        new.write_text(act)
        new.rename(self.volume.directory / part)

    def came(self, part: str) -> list[str]:
        """Name the pods that had a part."""
        came = self.volume.directory / f"{part}.came"
        return came.read_text().split() if came.exists() else []

    def await_pod(self, part: str, *, number: int = 1) -> str:
        """Wait until a pod has come, or so many after each other; give the name of the last."""
        until(lambda: len(self.came(part)) >= number, f"there is a {part}", seconds=_SECONDS)
        return self.came(part)[number - 1]

    @staticmethod
    def props(
        *,
        env: Mapping[str, str] = MappingProxyType({}),
        container: Mapping[str, Any] = MappingProxyType({}),
        pod: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Give what `install` is told to put the tool on the stage."""
        return {
            "env": env,
            "container": {
                "command": ["python3", "/staged/staged.py"],
                **container,
                "volumeMounts": [
                    {"name": "stage", "mountPath": "/stage"},
                    {"name": "script", "mountPath": "/staged"},
                    {"name": "scratch", "mountPath": "/scratch"},
                ],
            },
            "pod": {
                **pod,
                "volumes": [
                    {"name": "stage", "persistentVolumeClaim": {"claimName": _CLAIM}},
                    {"name": "script", "configMap": {"name": _SCRIPT}},
                    {"name": "scratch", "emptyDir": {}},
                ],
            },
        }


def set_stage(cluster: Cluster, namespace: str) -> Stage:
    """Make a stage; only where the nodes are ours."""
    volume = create_volume(cluster, namespace, _CLAIM, mode="ReadWriteMany")
    cluster.create(
        namespace,
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": _SCRIPT},
            "data": {"staged.py": Path(staged.__file__).read_text()},
        },
    )
    return Stage(volume=volume)


def note(record: Record, what: str, **seconds: float) -> None:
    """Keep times: in the report that pytest can write, and shown by `-s`."""
    for name, value in seconds.items():
        record(f"{what} {name}", round(value, 1))
        sys.stdout.write(f"{what} {name}: {value:.1f} s\n")
