"""What may be typed: the verbs, their options, and what ``--help`` says of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import backup
from backup.errors import ConfigError

Arguments = argparse.Namespace
"""What was typed."""

STDOUT = "-"
"""As a file's name."""

_USAGE = "journal-backup VERB [OPTIONS]"
_DESCRIPTION = """\
Back up the usage journals of Deepgram Self-Hosted, and prove that the copies
are whole.
"""
EPILOG = """\
Settings come from the environment (BACKUP_SOURCE, BACKUP_SINKS, ...): see
journal-backup config.

exit codes (of several, the most severe one):
  0      all is well
  1      an unexpected error: please report it
  2      wrong settings or arguments
  3      all is safe, but something needs a look
  4      an expected journal was not read, or is suspect
  5      a journal reached no sink, or a sink cannot be read
  6      integrity: damaged, or a journal's alarm stands
  7      the cluster refused something, or another run is under way
  8      billing was not brought back
  9      the deadline, or the time that billing may be down, is over
  128+N  ended by signal N
Take any other code for a failure.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """What ``--help`` says of a verb, what it takes, and what it needs."""

    summary: str
    more: str = ""
    examples: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Keys of :data:`_OPTIONS`; every verb takes ``json`` besides."""
    is_hidden: bool = False
    """Whether people need not know it: this program runs it in Jobs, and reads its answer."""
    has_deadline: bool = False
    """Whether BACKUP_DEADLINE is about it."""
    needs_sinks: bool = True
    settings: tuple[str, ...] = ()
    """All that it reads, where it has to do its work whatever the others say."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Let :func:`main` say what is wrong, in the form of all errors."""
        raise ConfigError(message, f"see: {self.prog} --help")


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Make the parser of the command line; for one verb only, where that is known (start-up)."""
    width = max(map(len, _shown_verbs()))
    lines = [f"  {name:<{width}}  {VERBS[name].summary}" for name in _shown_verbs()]
    made = _Parser(
        prog="journal-backup",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog="\n".join(["verbs (each has a --help of its own):", *lines, "", EPILOG]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=backup.__version__)
    verbs = made.add_subparsers(
        dest="verb", required=True, metavar="VERB", help=argparse.SUPPRESS, prog=made.prog
    )
    for name in [only] if only else VERBS:
        _add(verbs, name, VERBS[name])
    return made


def _shown_verbs() -> list[str]:
    return [name for name, verb in VERBS.items() if not verb.is_hidden]


def _add(verbs: Any, name: str, verb: Verb) -> None:
    parts = [f"{verb.summary[0].upper()}{verb.summary[1:]}.", *([verb.more] if verb.more else [])]
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        description="\n\n".join(parts),
        epilog="\n  ".join(["examples:", *verb.examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for key in (*verb.options, "json"):
        flag, how = _OPTIONS[key]
        parser.add_argument(flag, **how)


def _option(name: str, **how: Any) -> tuple[str, dict[str, Any]]:
    """Say how an option is written, as ``ArgumentParser.add_argument`` takes it."""
    return name, how


_SELECTOR = "'latest' (the latest good one), an id, or the beginning of one"
_OPTIONS = {
    "json": _option("--json", action="store_true", help="print the result as one JSON object"),
    "sink": _option(
        "--sink",
        action="append",
        default=[],
        metavar="URL",
        help="this sink instead of BACKUP_SINKS (may be repeated)",
    ),
    "journal": _option("--journal", metavar="NAME", help="only this journal"),
    "by": _option("--by", metavar="NAME", help="who says so; kept with the backup"),
    "note": _option("--note", metavar="TEXT", help="why; kept with the backup"),
    "long": _option("--long", action="store_true", help="read the manifests too"),
    "deep": _option(
        "--deep", action="store_true", help="also unpack archives and parse every record"
    ),
    "target": _option(
        "--target", required=True, metavar="DIR", help="directory that gets <journal>/journal"
    ),
    "bundle": _option("--target", metavar="DIR", help="make this directory, the bundle"),
    "output": _option("--output", metavar="FILE", help="make this one tar instead; '-' is stdout"),
    "selector": _option("selector", metavar="SELECTOR", help=_SELECTOR),
    "selectors": _option("selectors", metavar="SELECTOR", nargs="+", help=_SELECTOR),
    "selector?": _option(
        "selector", metavar="SELECTOR", nargs="?", help=f"{_SELECTOR}; without it: every backup"
    ),
    "ids": _option(
        "what", nargs="+", metavar="ID", help="what was delivered, or the beginning of its id"
    ),
    "reference": _option(
        "--reference",
        metavar="TEXT",
        help="what the delivery is called there; kept with the backup",
    ),
    "id": _option("what", metavar="ID", help="the backup that raised it, or the beginning of one"),
    "confirm": _option(
        "--confirm", action="store_true", help="remove; without it, only say what would be removed"
    ),
    "only": _option(
        "--only",
        action="append",
        choices=("sinks", "journals", "cluster"),
        default=[],
        help="look at nothing else (may be repeated)",
    ),
    "run": _option("--run", required=True, metavar="ID", help="the run that it belongs to"),
    "journals": _option(
        "--journal", dest="journals", required=True, metavar="NAMES", help="with commas between"
    ),
    "strategy": _option(
        "--strategy",
        default="colocated",
        choices=("colocated", "scale-down"),
        help="whose part it is",
    ),
    "draft": _option("--draft", action="store_true", help="put, and leave the rest to commit"),
    "take-over": _option(
        "--take-over",
        action="store_true",
        help="also if that run is under way: it is to be stopped",
    ),
    "which": _option("what", metavar="JOURNAL", help="journal-<statefulset>-<ordinal>"),
}


def require_verb(given: Sequence[str]) -> None:
    """Refuse a word that is no verb, naming the nearest."""
    word = given[0]
    if word.startswith("-") or verb_in(given):
        return
    names = _shown_verbs()
    import difflib

    near = difflib.get_close_matches(word, names, n=1)
    fix = f"did you mean {near[0]}?" if near else f"verbs are {', '.join(names)}"
    message = f"there is no verb {word!r}"
    raise ConfigError(message, fix)


def verb_in(given: Sequence[str]) -> str | None:
    """Give the verb of a command line; None if it begins with none."""
    return given[0] if given[0] in VERBS else None


VERBS: dict[str, Verb] = {
    "backup": Verb(
        summary="back up every journal to every sink",
        more="""\
Reads each journal below BACKUP_SOURCE once, stores it on each sink of
BACKUP_SINKS, reads back what the sink holds, and only then writes the manifest
that makes it a backup. Billing may go on writing.""",
        examples=(
            "BACKUP_SINKS=file:///mnt/nas journal-backup backup",
            "journal-backup backup --json",
        ),
        has_deadline=True,
    ),
    "list": Verb(
        summary="list the backups",
        more="By journal, the oldest first.",
        examples=(
            "journal-backup list --long",
            "journal-backup list --journal journal-deepgram-billing-0",
        ),
        options=("journal", "sink", "long"),
    ),
    "show": Verb(
        summary="show one backup in full",
        examples=(
            "journal-backup show 20261123T020000Z-3f9a1c",
            "journal-backup show latest --journal journal-deepgram-billing-0",
        ),
        options=("selector", "journal", "sink"),
    ),
    "verify": Verb(
        summary="prove that backups are what they claim",
        more="""\
Checks manifests, the chain that they form, and the hash of every archive, on
every sink.""",
        examples=("journal-backup verify", "journal-backup verify latest --deep"),
        options=("selector?", "journal", "sink", "deep"),
    ),
    "restore": Verb(
        summary="restore one journal, or all",
        more="""\
Whole and proved, or not at all; nothing is ever overwritten. 'latest' restores
every journal.""",
        examples=(
            "journal-backup restore latest --target /restored",
            "journal-backup restore 20261123T020000Z-3f9a1c --target /restored",
        ),
        options=("selector", "target", "journal", "sink"),
    ),
    "export": Verb(
        summary="bundle journals, to send them to Deepgram",
        more="""\
Plain journals, their manifests and SHA256SUMS, every hash compared; as a
directory, or as one tar. 'latest' takes every journal.""",
        examples=(
            "journal-backup export latest --target /restored/bundle",
            "kubectl exec ... -- journal-backup export latest --output - > bundle.tar",
        ),
        options=("selectors", "bundle", "output", "journal", "sink"),
    ),
    "mark-delivered": Verb(
        summary="say that Deepgram has a backup",
        more="""\
And with it those before it whose records it holds. Name it by its id, as the
export did: by now another one may be the latest.""",
        examples=("journal-backup mark-delivered 20261123T020000Z-3f9a1c --reference CASE-17",),
        options=("ids", "sink", "by", "note", "reference"),
    ),
    "prune": Verb(
        summary="let go of old backups whose records are safe",
        more="""\
Only says what would go, until --confirm. BACKUP_KEEP_... say what is kept; kept
as well is what is neither delivered nor in a newer good backup.""",
        examples=(
            "BACKUP_KEEP_DAILY=30 BACKUP_KEEP_MONTHLY=24 journal-backup prune",
            "journal-backup prune --confirm",
        ),
        options=("journal", "sink", "confirm"),
    ),
    "doctor": Verb(
        summary="look at all that a backup needs",
        more="""\
Sinks, journals, and with a strategy that asks the cluster its rights, billing
and the volume claims: whatever is wrong is named with its fix, all at once.
Nothing is changed. The exit code is that of the worst.""",
        examples=("journal-backup doctor", "journal-backup doctor --only sinks"),
        options=("sink", "only"),
    ),
    "acknowledge": Verb(
        summary="answer the alarm of a backup",
        more="""\
A journal that shrank or was rewritten raises an alarm, and every run exits with
6 until somebody says that it was looked into.""",
        examples=('journal-backup acknowledge 20261123T020000Z-3f9a1c --by ada --note "moved"',),
        options=("id", "sink", "by", "note"),
    ),
    "retire": Verb(
        summary="say that a journal is gone for good",
        more="""\
A journal that was backed up once is expected for ever, until it is retired. Its
backups stay. Should it come back, it is expected again.""",
        examples=("journal-backup retire journal-deepgram-billing-2 --by ada",),
        options=("which", "sink", "by", "note"),
    ),
    "resume-billing": Verb(
        summary="scale billing back up if a run that is gone has left it down",
        more="""\
Every run does so first. In a cluster a guard does it every two minutes, and the
chart before it is removed or upgraded. A run that is under way is left alone.""",
        examples=("journal-backup resume-billing",),
        options=("take-over",),
        needs_sinks=False,
        settings=("statefulset", "log_level", "log_format"),
    ),
    "worker": Verb(
        summary="back up the journals that a worker Job mounts",
        examples=("journal-backup worker --run ID --journal journal-deepgram-billing-0",),
        options=("run", "journals", "strategy", "draft"),
        has_deadline=True,
        is_hidden=True,
    ),
    "commit": Verb(
        summary="read back what was put while billing was down, and make backups of it",
        examples=("journal-backup commit --run ID",),
        options=("run",),
        has_deadline=True,
        is_hidden=True,
    ),
    "config": Verb(
        summary="print every setting, and where it came from",
        more="Problems of the settings are reported all at once.",
        examples=("journal-backup config", "journal-backup config --json"),
    ),
    "version": Verb(
        summary="print the version",
        examples=("journal-backup version",),
    ),
}
