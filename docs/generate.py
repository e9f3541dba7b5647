"""Write the generated parts of the documents anew, or check that they are as they should be.

In a Markdown file, what stands between these two lines is replaced by the block of that name:

    <!-- begin NAME: written by make docs -->
    <!-- end NAME -->

Other files are generated whole. With ``--check`` nothing is written, and the exit code is 1 if
anything would have been.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from backup import config, manifest, report
from backup.cluster.strategies import RULES
from backup.settings import Settings

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
    return json.dumps(schema(), indent=2) + "\n"


def schema() -> dict[str, Any]:
    """Give the JSON schema of the manifest's format v1 (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_explained(manifest.Manifest.model_json_schema(mode="serialization")),
    }


def _explained(found: dict[str, Any]) -> dict[str, Any]:
    """Add the docstring below each field as its description.

    pydantic can do so itself (``use_attribute_docstrings``), but does it at import: it parses the
    file for each class, at every start of every run.
    """
    module = ast.parse(inspect.getsource(manifest))
    classes = {node.name: node.body for node in module.body if isinstance(node, ast.ClassDef)}
    for model in (found, *found.get("$defs", {}).values()):
        for field, note in pairwise(classes[model["title"]]):
            match field, note:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    described = {**model["properties"][name], "description": inspect.cleandoc(text)}
                    model["properties"][name] = dict(sorted(described.items()))
    return found


def settings_table() -> str:
    """Give the table of all settings."""
    rows = [
        f"| `{row['name']}` | {_default(row['name'], row['value'])} | {row['description']} |"
        for row in config.describe(Settings())
    ]
    return "\n".join(["", "| variable | default | meaning |", "|---|---|---|", *rows, "", ""])


def _default(name: str, value: object) -> str:
    if name == "BACKUP_SINKS":
        return "required"
    if value is None:
        return "not set"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def exit_code_table() -> str:
    """Give the table of all exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in report.EXIT_CODES.items()]
    signals = "| 128+N | ended by signal N |"
    return "\n".join(["", "| code | meaning |", "|---|---|", *rows, signals, "", ""])


def rights_table() -> str:
    """Give the table of the rights that each strategy needs in a cluster."""
    users = [name for name, rules in RULES.items() if rules]
    rows: dict[tuple[str, str], set[str]] = {}
    for name in users:
        for rule in RULES[name]:
            where = f"`{rule.resource}`{', one by name' if rule.named else ''}"
            for verb in rule.verbs:
                rows.setdefault((where, verb), set()).add(name)
    lines = [f"| | verb | {' | '.join(f'`{name}`' for name in users)} |"]
    lines.append("|---" * (len(users) + 2) + "|")
    for (where, verb), names in rows.items():
        marks = " | ".join("x" if name in names else "" for name in users)
        lines.append(f"| {where} | {verb} | {marks} |")
    return "\n".join(["", *lines, "", ""])


def manifest_fields() -> str:
    """Give a table of fields for the manifest and for each part of it."""
    whole = schema()
    parts = [("manifest", whole), *whole["$defs"].items()]
    return "".join(_fields(name, part) for name, part in parts if "properties" in part) + "\n"


def mark_fields() -> str:
    """Give the table of a mark's fields."""
    return _fields("mark", _explained(manifest.Mark.model_json_schema())) + "\n"


def _fields(name: str, part: Mapping[str, Any]) -> str:
    lines = ["", f"**{name}**: {_markdown(part['description'].splitlines()[0])}", ""]
    lines += ["| field | type | meaning |", "|---|---|---|"]
    for field, content in part["properties"].items():
        meaning = _markdown(content.get("description", ""))
        lines.append(f"| `{field}` | {_type(content)} | {meaning} |")
    return "\n".join([*lines, ""])


def _markdown(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())


def _type(content: Mapping[str, Any]) -> str:
    if "anyOf" in content:
        return " or ".join(_type(each) for each in content["anyOf"])
    if "$ref" in content:
        return f"*{content['$ref'].rpartition('/')[2]}*"
    if "enum" in content:
        return ", ".join(f"`{value}`" for value in content["enum"])
    if content["type"] == "array":
        return f"list of {_type(content['items'])}"
    return "time" if content.get("format") == "date-time" else str(content["type"])


BLOCKS: Mapping[str, Callable[[], str]] = {
    "help": help_text,
    "settings": settings_table,
    "exit-codes": exit_code_table,
    "rights": rights_table,
    "manifest-fields": manifest_fields,
    "mark-fields": mark_fields,
}
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
