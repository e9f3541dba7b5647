"""Write the generated parts of the documents anew, or check that they are as they should be.

In a Markdown file, what stands between these two lines is replaced by the block of that name:

    <!-- begin NAME: written by make docs -->
    <!-- end NAME -->

Other files are generated whole. With ``--check`` nothing is written, and the exit code is 1 if
anything would have been.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from backup import manifest

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(
    r"(?P<begin><!-- begin (?P<name>[a-z0-9-]+): written by make docs -->\n)"
    r".*?"
    r"(?P<end><!-- end (?P=name) -->)",
    re.DOTALL,
)


def help_text() -> str:
    """Give what ``journal-backup --help`` prints on a terminal of 80 columns, as a code block."""
    done = subprocess.run(
        [sys.executable, "-m", "backup", "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1"},
    )
    return f"```console\n$ journal-backup --help\n{done.stdout}```\n"


def manifest_schema() -> str:
    """Give the published schema of the manifest."""
    return json.dumps(manifest.schema(), indent=2) + "\n"


BLOCKS: Mapping[str, Callable[[], str]] = {"help": help_text}
FILES: Mapping[str, Callable[[], str]] = {"docs/manifest-v1.schema.json": manifest_schema}


def fill(text: str) -> str:
    """Replace every block of this Markdown text; KeyError for a name that is not in BLOCKS."""
    return _BLOCK.sub(lambda block: block["begin"] + BLOCKS[block["name"]]() + block["end"], text)


def outdated() -> Iterator[tuple[Path, str]]:
    """Give each file that is not as it should be, with what it should hold."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        if (new := fill(text)) != text:
            yield path, new
    for name, make in FILES.items():
        path, new = ROOT / name, make()
        if not path.exists() or path.read_text() != new:
            yield path, new


def main() -> int:
    """Write, or check; give the exit code."""
    check = "--check" in sys.argv[1:]
    found = False
    for path, new in outdated():
        found = True
        print(f"{path.relative_to(ROOT)}: {'outdated, run make docs' if check else 'written'}")
        if not check:
            path.write_text(new)
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
