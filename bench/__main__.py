"""``python -m bench``: compares this tool with its peers; see README.md."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench import restic
from bench.contenders import Contender, compete, contenders
from bench.machine import describe
from bench.measure import CommandError
from bench.requirements import JUDGED_RESTIC, judge
from bench.results import Results, Series
from bench.singles import SINGLES, Extent
from bench.sizes import MIB, parse_size, show_size
from bench.stage import ROOT, Stage
from bench.tables import markdown, show

RESULTS = ROOT / "bench" / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done."""

    size: int
    """Of the journal, in bytes."""
    big: int
    """Of the large one."""
    rounds: int
    extent: Extent
    only: tuple[str, ...]
    """Names; none means all."""
    judged: bool
    """Whether a requirement that is missed is a failure."""

    def wants(self, name: str) -> bool:
        """Whether something was asked for; ``restic`` asks for each restic."""
        return not self.only or name in self.only or name.partition("-")[0] in self.only


FULL = Extent(rounds=5, starts=10, journals=10, backups=500)
QUICK = Extent(rounds=2, starts=3, journals=10, backups=50)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison; 1 if a requirement was missed or something failed."""
    args = _parser().parse_args(argv)
    plan = _plan(args)
    with _directory(args.dir) as directory:
        try:
            _check_space(directory, plan)
            results = _measure(directory, plan, _restics(args, plan), _said(args))
        except CommandError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    show(results)
    target = args.out or (RESULTS if plan.judged and not plan.only else None)
    if target is not None:
        _publish(results, target)
    missed = [row.subject for row in judge(results) if not row.ok]
    return 1 if plan.judged and missed else 0


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


_NAMES = ("ours", "growing", "size", "floor", "restic", "guide", *SINGLES)


def _plan(args: argparse.Namespace) -> Plan:
    size, big, rounds = (64 * MIB, 256 * MIB, 2) if args.quick else (1024 * MIB, 8192 * MIB, 5)
    only = tuple(filter(None, args.only.split(",")))
    unknown = [name for name in only if name.partition("-")[0] not in _NAMES]
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
    """A journal, its backups and a restored copy have room: at most three times its size."""
    needed = 3 * plan.size + (3 * plan.big if plan.wants("large") else 0)
    free = shutil.disk_usage(directory).free
    if free < needed:
        message = f"{show_size(needed)} are needed for temporary files, {show_size(free)} are free"
        raise CommandError(message)


def _restics(args: argparse.Namespace, plan: Plan) -> list[restic.Restic]:
    if not plan.wants("restic"):
        return []
    found = map(restic.find, args.restic) if args.restic else (restic.find(), restic.build())
    restics = [program for program in found if program is not None]
    if JUDGED_RESTIC not in {program.version for program in restics}:
        print(f"there is no restic {JUDGED_RESTIC}: the requirement about it is not judged")
    return restics


def _measure(
    directory: Path, plan: Plan, restics: Iterable[restic.Restic], command: str
) -> Results:
    results = Results(command=command, machine=describe(directory))
    stage = Stage(directory=directory / "usual", journal_bytes=plan.size)
    chosen = [c for c in contenders(restics) if plan.wants(c.name)]
    _warm(chosen, directory / "warm")
    print(f"a journal of {show_size(plan.size)} …")
    stage.set()
    _compete(chosen, stage, plan, results)
    large = Stage(directory=directory / "large", journal_bytes=plan.big)
    for name, measure in SINGLES.items():
        if plan.wants(name):
            print(f"{name} …", flush=True)
            with _failures(results, f"failures of {name}"):
                measure(large if name == "large" else stage, results, plan.extent)
    return results


@contextmanager
def _failures(results: Results, subject: str) -> Iterator[None]:
    """Go on after a command failed, and keep that it did; what it said is printed."""
    try:
        yield
    except CommandError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        results.findings.setdefault(subject, []).append("a command failed")


def _compete(chosen: Sequence[Contender], stage: Stage, plan: Plan, results: Results) -> None:
    results.contenders = [
        Series(name=c.name, title=c.title, journal_bytes=stage.journal_bytes) for c in chosen
    ]
    for number in range(plan.rounds):
        for contender, series in zip(chosen, results.contenders, strict=True):
            with _failures(results, f"failures of {contender.title}"):
                series.samples.append(compete(contender, stage))
                took = series.samples[-1].wall_seconds
                print(f"round {number + 1}: {contender.title}: {took:.2f} s", flush=True)


def _warm(chosen: Sequence[Contender], directory: Path) -> None:
    """Let each contender run once, uncounted: the first run of a program reads and compiles it."""
    stage = Stage(directory=directory, journal_bytes=8 * MIB)
    stage.set()
    for contender in chosen:
        with suppress(CommandError):  # it will fail again, and be heard
            compete(contender, stage)


def _publish(results: Results, target: Path) -> None:
    from bench.plot import draw  # noqa: PLC0415 - matplotlib is slow to import, and seldom needed

    results.write(target / "core.json")
    (target / "core.md").write_text(markdown(results))
    if results.contenders:
        draw(results, target / "core.svg")
    print(f"written to {target}")


if __name__ == "__main__":
    sys.exit(main())
