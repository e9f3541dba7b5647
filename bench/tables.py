"""The tables: for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from bench.requirements import judge
from bench.results import Results, Series
from bench.sizes import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table's title, its headings and its rows, all of them text."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def grids(results: Results) -> list[Grid]:
    """Put the results into tables; those without a row are left out."""
    every = (_contenders(results), _singles(results), _requirements(results))
    return [grid for grid in every if grid.rows]


def _contenders(results: Results) -> Grid:
    size = results.contenders[0].journal_bytes // MIB if results.contenders else 0
    ratios = tuple(f"/ {name}" for name in results.against)
    return Grid(
        title=f"{results.subject.format(f'{size:,} MiB')}, medians",
        headings=("", "s", "min to max", *ratios, "CPU s", "RSS MiB", "written MiB"),
        rows=[
            (
                series.title,
                f"{series.wall_seconds:.2f}",
                _spread(series),
                *(_ratio(series, results.get(name)) for name in results.against),
                f"{series.cpu_seconds:.2f}",
                f"{series.peak_rss_bytes / MIB:.0f}",
                f"{series.written_bytes / MIB:.0f}",
            )
            for series in results.contenders
            if series.samples
        ],
    )


def _singles(results: Results) -> Grid:
    return Grid(
        title="Everything else, medians",
        headings=("", "runs", "s", "min to max", "CPU s", "RSS MiB", "MiB/s of journal"),
        rows=[
            (
                series.title,
                str(len(series.samples)),
                f"{series.wall_seconds:.2f}",
                _spread(series),
                f"{series.cpu_seconds:.2f}",
                f"{series.peak_rss_bytes / MIB:.0f}",
                f"{series.mib_per_second:.0f}" if series.journal_bytes else "",
            )
            for series in results.singles
            if series.samples
        ],
    )


def _requirements(results: Results) -> Grid:
    return Grid(
        title="Required and reached",
        headings=("", "required", "measured", "ok"),
        rows=[
            (row.subject, row.required, row.measured, "yes" if row.ok else "NO")
            for row in judge(results)
        ],
    )


def _spread(series: Series) -> str:
    low, high = series.spread
    return f"{low:.2f} to {high:.2f}"


def _ratio(series: Series, to: Series | None) -> str:
    return f"{series.wall_seconds / to.wall_seconds:.2f}" if to else ""


def show(results: Results) -> None:
    """Print the tables."""
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for grid in grids(results):
        table = Table(title=grid.title, title_justify="left", box=box.SIMPLE_HEAD)
        for index, heading in enumerate(grid.headings):
            table.add_column(heading, justify="right" if index else "left", no_wrap=not index)
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)


def markdown(results: Results) -> str:
    """Write the tables in Markdown, after what they were measured on."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    parts = [f"`{results.command}`: {machine}.", *map(_markdown_table, grids(results))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(grid: Grid) -> str:
    rule = ["---", *["---:"] * (len(grid.headings) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (grid.headings, rule, *grid.rows)]
    return "\n".join((f"**{grid.title}**", "", *lines))
