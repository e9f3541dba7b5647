"""``python -m bench``: compares this tool with its peers; see README.md."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import restic
from bench.core import CORE
from bench.machine import describe
from bench.measure import CommandError
from bench.part import Part
from bench.plan import FULL, QUICK, Plan
from bench.remote import REMOTE
from bench.requirements import JUDGED_RESTIC, judge
from bench.results import Results
from bench.sizes import MIB, parse_size, show_size
from bench.stage import ROOT
from bench.tables import markdown, show

RESULTS = ROOT / "bench" / "results"


PARTS = (CORE, REMOTE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if a requirement was missed or something failed."""
    args = _parser().parse_args(argv)
    plan = _plan(args)
    missed = False
    with _directory(args.dir) as directory:
        try:
            _check_space(directory, plan)
            machine = describe(directory)
            restics = _restics(args, plan)
            for part in (part for part in PARTS if part.wanted(plan)):
                results = part.measure(
                    directory, plan, restics, command=_said(args), machine=machine
                )
                show(results)
                if target := _target(args, plan, part):
                    _publish(results, target)
                missed |= not all(row.ok for row in judge(results))
        except CommandError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 1 if plan.judged and missed else 0


def _target(args: argparse.Namespace, plan: Plan, part: Part) -> Path | None:
    """Say where results go; those of a full run of a part have their place."""
    is_full = plan.judged and len(part.wanted(plan)) == len(part.names)
    target: Path | None = args.out or (RESULTS if is_full else None)
    return target


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="compare with peers")
    add = parser.add_argument
    add("--size", help="of the journal; default 1GiB", type=parse_size)
    add("--big", help="size of the large journal; default 8GiB", type=parse_size)
    add("--rounds", help="how often each contender runs; default 5", type=int)
    add("--quick", action="store_true", help="small and few: whether it runs, not how fast")
    add("--only", default="", metavar="NAMES", help=f"some of: {', '.join(_NAMES)}")
    add("--restic", action="append", metavar="PATH", help="this restic, and no other; repeatable")
    add("--dir", type=Path, help="where to work; default: a new directory for temporary files")
    add("--out", type=Path, help="where results go; default: bench/results, of a full run only")
    return parser


_NAMES = tuple(name for part in PARTS for name in (part.name, *part.names))


def _plan(args: argparse.Namespace) -> Plan:
    size, big, rounds = (64 * MIB, 256 * MIB, 2) if args.quick else (1024 * MIB, 8192 * MIB, 5)
    only = tuple(filter(None, args.only.split(",")))
    unknown = [name for name in only if name not in _NAMES]
    if unknown:
        sys.exit(f"error: {', '.join(unknown)}: unknown; there are {', '.join(_NAMES)}")
    return Plan(
        size=args.size or size,
        big=args.big or big,
        rounds=args.rounds or rounds,
        extent=QUICK if args.quick else FULL,
        only=only,
        judged=not args.quick,
    )


def _said(args: argparse.Namespace) -> str:
    """Repeat the command, without what names places on this machine."""
    sizes = {"--size": args.size, "--big": args.big}
    words = [word for name, size in sizes.items() if size for word in (name, show_size(size))]
    words += ["--rounds", str(args.rounds)] if args.rounds else []
    words += ["--quick"] if args.quick else []
    words += ["--only", args.only] if args.only else []
    return " ".join(["python -m bench", *words]).replace(" MiB", "MiB").replace(" GiB", "GiB")


@contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="journal-bench-", dir=wanted)).resolve()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _check_space(directory: Path, plan: Plan) -> None:
    """A journal, its backups and a restored copy have room: less than four times its size."""
    large = any(name.startswith("large") for part in PARTS for name in part.wanted(plan))
    needed = 4 * plan.size + (3 * plan.big if large else 0)
    free = shutil.disk_usage(directory).free
    if free < needed:
        message = f"{show_size(needed)} are needed for temporary files, {show_size(free)} are free"
        raise CommandError(message)


def _restics(args: argparse.Namespace, plan: Plan) -> list[restic.Restic]:
    if not any(name.startswith("restic") for part in PARTS for name in part.wanted(plan)):
        return []
    found = map(restic.find, args.restic) if args.restic else (restic.find(), restic.build())
    restics = [program for program in found if program is not None]
    if JUDGED_RESTIC not in {program.version for program in restics}:
        print(f"there is no restic {JUDGED_RESTIC}: the requirement about it is not judged")
    return restics


def _publish(results: Results, target: Path) -> None:
    from bench.plot import draw  # noqa: PLC0415 - matplotlib is slow to import, and seldom needed

    results.write(target / f"{results.name}.json")
    (target / f"{results.name}.md").write_text(markdown(results))
    if results.contenders:
        draw(results, target / f"{results.name}.svg")
    print(f"written to {target}")


if __name__ == "__main__":
    sys.exit(main())
