"""The plot: how long each contender takes, and what else it takes.

One SVG serves light and dark pages: a style sheet in it exchanges the colours where the reader
prefers a dark scheme, ground included, so that it can be read on any page. What knows no style
sheets shows the light one.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.results import Results, Series
from bench.sizes import MIB, show_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of one scheme; no two are the same, for they are exchanged by their value."""

    ground: str
    ink: str
    pale: str
    line: str
    ours: str
    peer: str


LIGHT = Palette(
    ground="#fdfdfe", ink="#1c2430", pale="#586474", line="#dde2e8", ours="#1268c4", peer="#a3afbe"
)
DARK = Palette(
    ground="#10151c", ink="#e7ecf2", pale="#9ba7b6", line="#2b3440", ours="#4c9ff5", peer="#5d6b7e"
)
_OURS = {"ours", "growing", "size", "file", "s3", "gcs", "three"}
_BAR = 0.62
_ROOM = 1.42
"""The axis goes on for what is written beside the longest bar."""


def draw(results: Results, target: Path) -> None:
    """Draw the contenders' medians into an SVG."""
    svg = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "bench"}):
        figure(results, LIGHT).savefig(svg, format="svg", metadata={"Date": None})
    head, tag, rest = svg.getvalue().partition("<defs>")
    target.write_text(f"{head}<style>{_exchange(LIGHT, DARK)}</style>\n {tag}{rest}")


def figure(results: Results, palette: Palette) -> Figure:
    """Make the figure in one scheme."""
    series = sorted((s for s in results.contenders if s.samples), key=lambda s: s.wall_seconds)
    height = 0.95 + 0.42 * len(series)
    made = Figure(figsize=(9.2, height), facecolor=palette.ground)
    axes = made.add_axes((0.31, 0.12 / height, 0.67, 1 - 0.9 / height))
    _bars(axes, series, palette)
    _frame(axes, series, palette)
    size = show_size(series[0].journal_bytes)
    _title(made, results.subject.format(size), _small_print(results), palette)
    return made


def _bars(axes: Axes, series: list[Series], palette: Palette) -> None:
    for place, one in enumerate(series):
        colour = palette.ours if one.name in _OURS else palette.peer
        axes.barh(place, one.wall_seconds, height=_BAR, color=colour)
        axes.plot(one.spread, (place, place), color=palette.ink, linewidth=1.2)
        end = axes.annotate(
            f"{one.wall_seconds:.1f} s",
            (max(one.spread), place),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=palette.ink,
            weight="bold",
        )
        axes.annotate(
            f"CPU {one.cpu_seconds:.1f} s, {one.peak_rss_bytes / MIB:.0f} MiB",
            (1, 0.5),
            (7, 0),
            xycoords=end,
            textcoords="offset points",
            va="center",
            color=palette.pale,
            fontsize=9,
        )


def _frame(axes: Axes, series: list[Series], palette: Palette) -> None:
    axes.set_facecolor(palette.ground)
    axes.set_yticks(range(len(series)), [s.title for s in series])
    axes.tick_params(length=0, labelcolor=palette.ink)
    axes.invert_yaxis()
    axes.set_xlim(0, max(max(s.spread) for s in series) * _ROOM)
    axes.xaxis.set_visible(False)
    for name, side in axes.spines.items():
        side.set_visible(name == "left")
        side.set_color(palette.line)


def _title(made: Figure, title: str, small: str, palette: Palette) -> None:
    height = made.get_figheight()
    made.text(0.02, 1 - 0.32 / height, title, color=palette.ink, fontsize=13, weight="bold")
    made.text(0.02, 1 - 0.57 / height, small, color=palette.pale, fontsize=9)


def _small_print(results: Results) -> str:
    machine = results.machine
    rounds = max(len(s.samples) for s in results.contenders)
    return (
        f"wall time, median of {rounds} with the shortest and the longest; processor time and peak "
        f"memory; {machine['cores']} cores, {machine['processor']}, {machine['file system']}"
    )


def _exchange(light: Palette, dark: Palette) -> str:
    others = asdict(dark)
    rules = [
        f'[style*="{what}: {colour}"]{{{what}:{others[name]}!important}}'
        for name, colour in asdict(light).items()
        for what in ("fill", "stroke")
    ]
    return f"@media (prefers-color-scheme: dark){{{''.join(rules)}}}"
