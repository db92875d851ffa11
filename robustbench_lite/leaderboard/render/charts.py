"""The pictures of a page, as SVG text.

Its bytes depend on the verdicts and on the version of matplotlib alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from robustbench_lite.leaderboard import words
from robustbench_lite.leaderboard.render.curves import (
    has_curve,
    has_points,
    radii_series,
    success_over_queries,
)
from robustbench_lite.leaderboard.render.looks import look_of
from robustbench_lite.leaderboard.render.panels import (
    STYLE,
    TEXT,
    draw_line,
    grid_of_panels,
    panel_with_labels,
    panel_with_legend,
    put_words,
)
from robustbench_lite.leaderboard.render.svg import inline
from robustbench_lite.leaderboard.standing.document import (
    Counted,
    Document,
    MeasuredCell,
    Missing,
)
from robustbench_lite.leaderboard.standing.sheet import Row, Sheet

_WIDE = 7.5
"""Inches from which a picture stands alone in its line."""
_SHARES = (-2, 102)
"""Percents that an axis shows, with room for a marker at either end."""
_DARK = 55
"""Percents below which a field of the heat map is too dark for black."""


class Chart(NamedTuple):
    """A picture with the words that stand for it."""

    id: str
    title: str
    note: str
    svg: str
    wide: bool
    """It needs the width of the page."""


class Ranked(NamedTuple):
    """A sheet with its document, whose rows stand in order of rank."""

    sheet: Sheet
    doc: Document
    order: list[int]
    """Of each row of the document, its number in the sheet."""
    names: list[str]
    """Of each row of the document, what it is called in a picture."""


class Drawing(NamedTuple):
    """A figure of matplotlib, with its title and a note."""

    title: str
    note: str
    figure: Any


def charts(sheet: Sheet, doc: Document) -> list[Chart]:
    """Every picture that there is something to draw for."""
    import matplotlib as mpl

    order = [sheet.row_number(Row(row.model, row.defense)) for row in doc.rows]
    ranked = Ranked(sheet, doc, order, [sheet.short_name(row) for row in order])
    drawn = []
    for kind, draw in _DRAWINGS.items():
        name = f"{sheet.name}-{kind}"
        with mpl.rc_context({**STYLE, "svg.hashsalt": name}):  # type: ignore[dict-item]
            drawing = draw(ranked)
            if drawing is not None:
                drawn.append(_chart(name, drawing))
    return drawn


def _chart(name: str, drawing: Drawing) -> Chart:
    title, note, figure = drawing
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", metadata=metadata)
    svg = inline(text.getvalue().replace(TEXT, "currentColor"), name, f"{title}. {note}")
    return Chart(name, title, note, svg, wide=figure.get_figwidth() > _WIDE)


def _heat_map(ranked: Ranked) -> Drawing:
    columns = [(threat, attack) for threat in ranked.doc.threats for attack in threat.attacks]
    labels = [f"{attack.heading}\n{threat.title}" for threat, attack in columns]
    values = np.full((len(ranked.names), len(columns)), np.nan)
    for i, row in enumerate(ranked.doc.rows):
        for j, (threat, attack) in enumerate(columns):
            cell = row.threats[threat.id].attacks[attack.id]
            if isinstance(cell, MeasuredCell):
                values[i, j] = 100 * cell.accuracy
    figure, axes = panel_with_labels(
        0.75 * len(columns),
        0.34 * len(ranked.names),
        left=0.3 + 0.075 * max(map(len, ranked.names)),
        bottom=0.3 + 0.035 * max(map(len, labels)),
    )
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=100, edgecolors="none"
    )
    for i, j in np.ndindex(*values.shape):
        _write_value(axes, j + 0.5, i + 0.5, float(values[i, j]))
    axes.set_xticks(np.arange(len(columns)) + 0.5, labels, rotation=35, ha="right")
    axes.set_yticks(np.arange(len(ranked.names)) + 0.5, ranked.names)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    return Drawing("Attack x defense", "Robust accuracy in %.", figure)


def _write_value(axes: Any, x: float, y: float, value: float) -> None:
    """A number in its field, in a colour that can be read on it."""
    if np.isnan(value):
        shown = words.MISSING
        colour = TEXT
    else:
        shown = f"{value:.1f}"
        colour = "#ffffff" if value < _DARK else "#000000"
    axes.text(x, y, shown, ha="center", va="center", color=colour)


def _scatter(ranked: Ranked) -> Drawing | None:
    threat = ranked.sheet.ranking
    figure, axes = panel_with_legend(ranked.names)
    shown = 0
    for place, row in enumerate(ranked.doc.rows):
        clean = row.clean
        worst = row.threats[threat].worst
        if isinstance(clean, Missing) or isinstance(worst, Missing):
            continue
        look = look_of(place)
        axes.errorbar(
            100 * clean.accuracy,
            100 * worst.accuracy,
            xerr=_error(clean),
            yerr=_error(worst),
            fmt=look.marker,
            color=look.colour,
            label=ranked.names[place],
            capsize=2,
            linewidth=1,
        )
        shown += 1
    if not shown:
        return None
    title = next(group.title for group in ranked.sheet.groups if group.id == threat)
    put_words(axes, x="clean accuracy, %", y=f"worst case, {title}, %")
    axes.set_ylim(*_SHARES)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return Drawing("Clean against robust", "Bars are 95 % intervals.", figure)


def _error(share: Counted) -> list[list[float]]:
    """How far its interval reaches below and above."""
    below = 100 * (share.accuracy - share.interval.low)
    above = 100 * (share.interval.high - share.accuracy)
    return [[below], [above]]


def _over_eps(ranked: Ranked) -> Drawing | None:
    """Accuracy at several radii by one attack.

    For records of any size it is the share that no found distance has reached.
    """
    known = sorted(radii_series(ranked.sheet).items())
    series = {key: rows for key, rows in known if has_points(rows)}
    if not series:
        return None
    grid = grid_of_panels(ranked.names, len(series), across=2, width=4.0, height=3.2)
    for axes, ((norm, attack), rows) in zip(grid.panels, series.items(), strict=True):
        for place, row in enumerate(ranked.order):
            if row in rows:
                xs = sorted(rows[row])
                ys = [100 * rows[row][x] for x in xs]
                draw_line(axes, xs, ys, place, ranked.names[place], marked=len(xs) < 20)
        put_words(axes, title=f"{attack}, {norm}", x=f"eps, {norm}", y="robust accuracy, %")
        axes.set_ylim(*_SHARES)
    grid.draw_legend()
    return Drawing("Accuracy against eps", "At 0 it is the clean accuracy.", grid.figure)


def _over_queries(ranked: Ranked) -> Drawing | None:
    sheet = ranked.sheet
    columns = [(group, column) for group in sheet.groups for column in group.attacks]
    shown = [
        (group, column)
        for group, column in columns
        if column.id not in group.suites and has_curve(sheet, column)
    ]
    if not shown:
        return None
    grid = grid_of_panels(ranked.names, len(shown), across=4, width=3.0, height=2.3)
    for axes, (group, column) in zip(grid.panels, shown, strict=True):
        for place, row in enumerate(ranked.order):
            found = sheet.cells.get((row, column.id))
            if found is not None:
                curve = success_over_queries(found)
                draw_line(axes, *curve, place, ranked.names[place], marked=False)
        _scale_queries(axes)
        y = "attack success, %" if axes is grid.panels[0] else ""
        put_words(axes, title=f"{column.heading}, {group.title}", x="queries a sample", y=y)
    grid.draw_legend()
    note = "Share of the correctly classified samples that were broken within so many queries."
    return Drawing("Success against queries", note, grid.figure)


def _scale_queries(axes: Any) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator

    axes.set_xscale("log")
    axes.xaxis.set(major_locator=LogLocator(numticks=5), major_formatter=EngFormatter(sep=""))
    axes.minorticks_off()
    axes.set_yticks([0, 50, 100])
    axes.set_ylim(*_SHARES)


def drawn_by() -> str:
    """What the bytes of the pictures depend on."""
    import matplotlib as mpl

    return f"matplotlib {mpl.__version__}"


_DRAWINGS: dict[str, Callable[[Ranked], Drawing | None]] = {
    "heat-map": _heat_map,
    "scatter": _scatter,
    "over-eps": _over_eps,
    "over-queries": _over_queries,
}
"""Kind, as in the id of a picture -> what draws it."""
