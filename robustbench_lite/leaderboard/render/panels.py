"""Figures of matplotlib with room for their words.

Margins are in inches and set by hand: a layout that measures every label takes longer than all the
rest of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from robustbench_lite.leaderboard.render.looks import look_of

TEXT = "#0a0b0c"
"""A colour that nothing else has: in the page it becomes the colour of the text around."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "path.simplify": False,
    "axes.titlesize": 9,
}
_EDGE = 0.1
"""Inches at an edge without words."""
_LETTER = 0.065
"""Inches that a letter of a legend is wide, on average."""
_LEGEND_COLUMNS = 4


class Panel(NamedTuple):
    """A figure with one panel."""

    figure: Any
    axes: Any


class Grid(NamedTuple):
    """A figure with panels side by side and below each other."""

    figure: Any
    panels: list[Any]
    legend_columns: int

    def draw_legend(self) -> None:
        """One legend above all panels; not every line is in each."""
        lines: dict[str, Any] = {}
        for axes in self.panels:
            handles, labels = axes.get_legend_handles_labels()
            lines |= zip(labels, handles, strict=True)
        place = {"loc": "upper center", "ncols": self.legend_columns, "fontsize": 8}
        self.figure.legend(lines.values(), lines.keys(), **place)


def panel_with_labels(width: float, height: float, *, left: float, bottom: float) -> Panel:
    """A panel of so many inches, with so much room for the words beside and below."""
    across = left + width + _EDGE
    up = bottom + height + _EDGE
    figure = _figure(across, up)
    inner_width = 1 - (left + _EDGE) / across
    inner_height = 1 - (bottom + _EDGE) / up
    return Panel(figure, figure.add_axes((left / across, bottom / up, inner_width, inner_height)))


def panel_with_legend(names: Sequence[str]) -> Panel:
    """A panel with room for a legend of ``names`` on the right."""
    width = 4 + 0.6 + 0.075 * max(map(len, names))
    figure = _figure(width, 3.6)
    return Panel(figure, figure.add_axes((0.55 / width, 0.14, 3.4 / width, 0.83)))


def grid_of_panels(
    names: Sequence[str],
    count: int,
    *,
    across: int,
    width: float,
    height: float,
) -> Grid:
    """Panels under a legend.

    Args:
        names: what the legend has.
        count: how many panels.
        across: how many there are in a row, at most.
        width: of each, in inches.
        height: of each.
    """
    columns = min(count, across)
    rows = -(-count // columns)
    entry = 0.6 + _LETTER * max(map(len, names))
    wide = max(columns * width, entry)
    legend_columns = max(1, min(_LEGEND_COLUMNS, len(names), int(wide / entry)))
    legend = 0.5 + 0.16 * -(-len(names) // legend_columns)
    high = rows * height + legend
    figure = _figure(wide, high)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.55 / wide,
        right=1 - _EDGE / wide,
        bottom=0.5 / high,
        top=1 - legend / high,
        wspace=0.25,
        hspace=0.6,
    )
    panels = [figure.add_subplot(grid[divmod(place, columns)]) for place in range(count)]
    return Grid(figure, panels, legend_columns)


def _figure(width: float, height: float) -> Any:
    # Not pyplot: it would pick a display and keep state of its own.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def put_words(axes: Any, *, x: str, y: str = "", title: str = "") -> None:
    """Words around a panel, at a fixed distance from it.

    To measure the labels of every tick takes longer than to draw them.
    """
    from matplotlib.transforms import ScaledTranslation

    inch = axes.figure.dpi_scale_trans
    axes.set_title(title, y=1)
    axes.set_xlabel(x, va="top")
    axes.set_ylabel(y, va="bottom")
    axes.xaxis.set_label_coords(0.5, 0, axes.transAxes + ScaledTranslation(0, -0.25, inch))
    axes.yaxis.set_label_coords(0, 0.5, axes.transAxes + ScaledTranslation(-0.33, 0, inch))


def draw_line(
    axes: Any,
    xs: Sequence[float],
    ys: Sequence[float],
    place: int,
    label: str,
    *,
    marked: bool,
) -> None:
    """A line through marked points, or steps between points that are not marked."""
    look = look_of(place)
    axes.plot(
        xs,
        ys,
        linestyle=look.dash,
        marker=look.marker if marked else None,
        markersize=4,
        color=look.colour,
        label=label,
        linewidth=1.5,
        drawstyle="default" if marked else "steps-post",
    )
