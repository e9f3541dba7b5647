"""Write anew what is generated from the chart, or check that it is as it should be.

That is the chart's README.md, by helm-docs from README.md.gotmpl and the comments of values.yaml,
and examples/cronjob.yaml, by Helm from examples/cronjob-values.yaml. With ``--check`` nothing is
written, and the exit code is 1 if anything would have been.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.chart import helm
from tests.chart.programs import program, unavailable

EXAMPLES = helm.ROOT / "examples"
_RELEASE = "journal-backup"
_HEAD = """\
# A backup of billing's journals every night, for `kubectl apply` without Helm: the Deepgram chart's
# default, where all journals are on the EFS of the models. Written by `make chart-docs` from
# cronjob-values.yaml; for anything else render the chart with values of your own:
#
#     helm template journal-backup charts/deepgram-journal-backup --namespace dg-self-hosted \\
#       --no-hooks --values VALUES
#
# Change what is marked, then:  kubectl --namespace dg-self-hosted apply --filename cronjob.yaml
# To run it now:
#     kubectl --namespace dg-self-hosted create job --from=cronjob/journal-backup journal-backup-1
"""
_MARKS = {
    "eks.amazonaws.com/role-arn: ": "the role for the bucket, or a Secret as in docs/s3.md",
    "image: ": "your registry; as it stands, the image has to be imported on each node",
    "name: BACKUP_EXPECT_REPLICAS": "as billing.replicas",
    "name: BACKUP_SITE": "your site",
    "name: AWS_REGION": "the bucket's",
    "value: s3://": "your sink",
    "claimName: ": "the PVC that billing mounts as `journal`",
}
_HELM = re.compile(
    r"^ *(helm\.sh/chart|app\.kubernetes\.io/(managed-by|instance)): .*\n", re.MULTILINE
)


def outdated() -> Iterator[tuple[Path, str]]:
    """Give each file that is not as it should be, and what it should be."""
    for path, content in (
        (helm.CHART / "README.md", readme()),
        (EXAMPLES / "cronjob.yaml", cronjob()),
    ):
        if not path.exists() or path.read_text() != content:
            yield path, content


def readme() -> str:
    """Return what helm-docs makes of the chart."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / helm.NAME
        copy.mkdir()
        for name in ("Chart.yaml", "values.yaml", "README.md.gotmpl"):
            shutil.copy(helm.CHART / name, copy)
        # file: in the order of values.yaml, which is the Deepgram chart's
        subprocess.run(
            [program("helm-docs"), "--sort-values-order=file", "--chart-search-root", copy],
            check=True,
            capture_output=True,
        )
        lines = (copy / "README.md").read_text().rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def cronjob() -> str:
    """Return the plain manifest: no hooks, and no labels that say it is Helm's."""
    text = helm.template(
        "{}",
        (EXAMPLES / "cronjob-values.yaml",),
        chart=helm.CHART,
        release=_RELEASE,
        kubernetes=helm.KUBERNETES,
        options=("--no-hooks", *_only()),
    )
    text = re.sub(r"^(# Source: .*)?\n", "", text, flags=re.MULTILINE)  # Helm 4 adds empty lines
    return _HEAD + "".join(_marked(line) for line in _HELM.sub("", text).splitlines(keepends=True))


def main() -> int:
    """Do it; give the exit code."""
    for name in ("helm", "helm-docs"):
        if reason := unavailable(name):
            sys.stderr.write(f"{reason}\n")
            return 1
    is_check = "--check" in sys.argv[1:]
    found = list(outdated())
    for path, content in found:
        state = "outdated" if is_check else "written"
        sys.stdout.write(f"{path.relative_to(helm.ROOT)}: {state}\n")
        if not is_check:
            path.write_text(content)
    return int(is_check and bool(found))


def _only() -> Iterator[str]:
    """Give the templates that the example is made of: no toolbox, which is for Helm's users."""
    for name in ("backup/backup.serviceaccount", "backup/backup.cronjob", "verify/verify.cronjob"):
        yield f"--show-only=templates/{name}.yaml"


def _marked(line: str) -> str:
    for start, what in _MARKS.items():
        if line.lstrip(" -").replace('"', "").startswith(start):
            return f"{line.rstrip()} # CHANGE: {what}\n"
    return line


if __name__ == "__main__":
    sys.exit(main())
