"""Other clusters than ours will do: what runs there is run, as anyone would who has one.

Ours is taken for one of somebody else's: by its kubeconfig, with volumes that are made when they
are claimed, and nobody knows where.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.cluster import Cluster
from tests.e2e.nodes import Nodes
from tests.e2e.volumes import provisioned

HERE = Path(__file__).parent
TESTS = {
    "test_nodes.py": ("test_the_tool_itself_runs", "test_a_pod_runs_on_each_node"),
    "test_strategies.py": (
        "test_a_live_volume_is_backed_up_beside_billing",
        "test_billing_is_scaled_down_and_back",
    ),
}


def test_the_cluster_of_somebody_else_is_taken(
    cluster: Cluster, nodes: Nodes, tmp_path: Path
) -> None:
    """It is backed up there, live and scaled down; what needs nodes of our own is skipped."""
    named = [f"{HERE / file}::{test}" for file, tests in TESTS.items() for test in tests]
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST_")}
    with provisioned(nodes):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-rs", f"--basetemp={tmp_path / 'given'}", *named],
            capture_output=True,
            text=True,
            check=False,
            cwd=HERE.parents[1],
            env=env
            | {"KUBECONFIG": str(cluster.kubeconfig), "JOURNAL_BACKUP_IMAGE": cluster.image},
        )

    assert done.returncode == 0, done.stdout
    assert "4 passed, 1 skipped" in done.stdout
    assert "needs nodes of its own" in done.stdout
