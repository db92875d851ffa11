"""The pictures of a page, as SVG text whose bytes depend on the verdicts and on the version of matplotlib alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.looks import look_of
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.sheet import Column, Sheet, short_attack
from robustbench_lite.leaderboard.standing import Document
from robustbench_lite.leaderboard.svg import inline

_TEXT = "#0a0b0c"
"""A colour that nothing else has: in the page it becomes the colour of the text around."""
_GRID = 31
"""Points of a curve over queries, at most."""
_WIDE = 7.5
"""Inches from which a picture stands alone in its line."""
_FEW = 10
"""Queries up to which an attack, on the middle row, has no curve: there is nothing to see of one step."""
_ACROSS = 4
"""Panels side by side."""


class Chart(NamedTuple):
    """A picture with the words that stand for it."""

    id: str
    title: str
    note: str
    svg: str
    wide: bool
    """It needs the width of the page."""


def charts(sheet: Sheet, doc: Document) -> list[Chart]:
    """Every picture that there is something to draw for."""
    import matplotlib as mpl

    order = [_number(sheet, row) for row in doc["rows"]]
    style: dict[Any, Any] = {
        "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": _TEXT, "axes.labelcolor": _TEXT,
        "text.color": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT, "axes.facecolor": "none", "figure.facecolor": "none",
        "savefig.facecolor": "none", "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        "path.simplify": False, "axes.titlesize": 9,
    }  # fmt: skip
    drawings: list[Callable[[Sheet, Document, list[int]], tuple[str, str, Any] | None]] = [
        _heat_map,
        _scatter,
        _over_eps,
        _over_queries,
    ]
    found = []
    for draw in drawings:
        name = f"{sheet.name}-{draw.__name__.strip('_').replace('_', '-')}"
        with mpl.rc_context({**style, "svg.hashsalt": name}):
            drawn = draw(sheet, doc, order)
            if drawn is not None:
                title, note, figure = drawn
                wide = figure.get_figwidth() > _WIDE
                found.append(Chart(name, title, note, _svg(figure, name, f"{title}. {note}"), wide))
    return found


def _number(sheet: Sheet, row: Document) -> int:
    return next(i for i, known in enumerate(sheet.rows) if (known.model, known.defense) == (row["model"], row["defense"]))


def _figure(width: float, height: float) -> Any:
    """Inches. Margins are set by hand: a layout that measures every label takes longer than all the rest of a page."""
    # Not pyplot: it would pick a display and keep state of its own.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _panels(names: Sequence[str], count: int, *, across: int, width: float, height: float) -> tuple[Any, list[Any], int]:
    """``count`` panels of so many inches, rows filled one after the other, under a legend of ``names`` in so many columns."""
    columns = min(count, across)
    rows = -(-count // columns)
    entry = 0.6 + 0.065 * max(map(len, names))
    wide = max(columns * width, entry)
    beside = max(1, min(4, len(names), int(wide / entry)))
    top = 0.5 + 0.16 * -(-len(names) // beside)
    figure = _figure(wide, rows * height + top)
    grid = figure.add_gridspec(
        rows, columns, left=0.55 / wide, right=1 - 0.1 / wide, wspace=0.25, hspace=0.6,
        bottom=0.5 / (rows * height + top), top=1 - top / (rows * height + top),
    )  # fmt: skip
    return figure, [figure.add_subplot(grid[place // columns, place % columns]) for place in range(count)], beside


def _words(axes: Any, *, x: str, y: str = "", title: str = "") -> None:
    """Words around a panel, at a fixed distance from it: to measure the labels of every tick takes longer than to draw them."""
    from matplotlib.transforms import ScaledTranslation

    inch = axes.figure.dpi_scale_trans
    axes.set_title(title, y=1)
    axes.set_xlabel(x, va="top")
    axes.set_ylabel(y, va="bottom")
    axes.xaxis.set_label_coords(0.5, 0, axes.transAxes + ScaledTranslation(0, -0.25, inch))
    axes.yaxis.set_label_coords(0, 0.5, axes.transAxes + ScaledTranslation(-0.33, 0, inch))


def _name(sheet: Sheet, row: int) -> str:
    known = sheet.rows[row]
    twice = sum(other.defense == known.defense for other in sheet.rows) > 1
    return f"{known.defense} ({known.model})" if twice else known.defense


def _heat_map(sheet: Sheet, doc: Document, order: list[int]) -> tuple[str, str, Any]:
    columns = [(threat, attack) for threat in doc["threats"] for attack in threat["attacks"]]
    values = np.full((len(order), len(columns)), np.nan)
    for i, row in enumerate(doc["rows"]):
        for j, (threat, attack) in enumerate(columns):
            values[i, j] = 100 * row["threats"][threat["id"]]["attacks"][attack["id"]].get("accuracy", np.nan)
    names = [_name(sheet, row) for row in order]
    labels = [f"{attack['heading']}\n{threat['title']}" for threat, attack in columns]
    left, bottom = (0.3 + inches * max(map(len, texts)) for inches, texts in ((0.075, names), (0.035, labels)))
    width, height = left + 0.75 * len(columns) + 0.1, bottom + 0.34 * len(order) + 0.1
    figure = _figure(width, height)
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + 0.1) / width, 1 - (bottom + 0.1) / height))
    axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=100, edgecolors="none")
    for i, j in np.ndindex(*values.shape):
        shown = "-" if np.isnan(values[i, j]) else f"{values[i, j]:.1f}"
        colour = _TEXT if np.isnan(values[i, j]) else "#ffffff" if values[i, j] < 55 else "#000000"
        axes.text(j + 0.5, i + 0.5, shown, ha="center", va="center", color=colour)
    axes.set_xticks(np.arange(len(columns)) + 0.5, labels, rotation=35, ha="right")
    axes.set_yticks(np.arange(len(order)) + 0.5, names)
    axes.invert_yaxis()
    axes.tick_params(length=0)
    return "Attack x defense", "Robust accuracy in %.", figure


def _scatter(sheet: Sheet, doc: Document, order: list[int]) -> tuple[str, str, Any] | None:
    group = next(group for group in sheet.groups if group.id == sheet.ranking)
    legend = 0.6 + 0.075 * max(len(_name(sheet, row)) for row in order)
    figure = _figure(4 + legend, 3.6)
    axes = figure.add_axes((0.55 / (4 + legend), 0.14, 3.4 / (4 + legend), 0.83))
    shown = 0
    for place, row in enumerate(doc["rows"]):
        clean, worst = row["clean"], row["threats"][group.id]["worst"]
        if "missing" in clean or "missing" in worst:
            continue
        x, y = 100 * clean["accuracy"], 100 * worst["accuracy"]
        error = (
            [[100 * (w["accuracy"] - w["interval"][0])] for w in (clean, worst)],
            [[100 * (w["interval"][1] - w["accuracy"])] for w in (clean, worst)],
        )
        look = look_of(place)
        axes.errorbar(
            x, y, xerr=[error[0][0], error[1][0]], yerr=[error[0][1], error[1][1]], fmt=look.marker, color=look.colour,
            label=_name(sheet, order[place]), capsize=2, linewidth=1,
        )  # fmt: skip
        shown += 1
    if not shown:
        return None
    _words(axes, x="clean accuracy, %", y=f"worst case, {group.title}, %")
    axes.set_ylim(-2, 102)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return "Clean against robust", "Bars are 95 % intervals.", figure


def _over_eps(sheet: Sheet, doc: Document, order: list[int]) -> tuple[str, str, Any] | None:
    """Accuracy at several radii by one attack; or, for records of any size, the share that no found distance has reached."""
    series: dict[tuple[str, str], dict[int, dict[float, float]]] = {}
    for row, found in sheet.records():
        threat = found.record.identity.threat
        if threat.goal == "untargeted":
            points = series.setdefault((threat.norm, short_attack(found.record.identity)), {}).setdefault(
                row, {0.0: found.arrays.clean_accuracy}
            )
            points.update(_points(found) if threat.eps is None else {threat.eps: found.arrays.robust_accuracy})
    wide = {key: rows for key, rows in sorted(series.items()) if max(map(len, rows.values())) > 2}
    if not wide:
        return None
    names = [_name(sheet, row) for row in order]
    figure, panels, columns = _panels(names, len(wide), across=2, width=4.0, height=3.2)
    for axes, ((norm, attack), rows) in zip(panels, wide.items(), strict=False):
        for place, row in enumerate(order):
            if row in rows:
                xs = sorted(rows[row])
                _line(axes, xs, [100 * rows[row][x] for x in xs], place, _name(sheet, row), marked=len(xs) < 20)
        _words(axes, title=f"{attack}, {norm}", x=f"eps, {norm}", y="robust accuracy, %")
        axes.set_ylim(-2, 102)
    _legend(figure, panels, columns)
    return "Accuracy against eps", "At 0 it is the clean accuracy.", figure


def _legend(figure: Any, panels: list[Any], columns: int) -> None:
    """One legend above all panels; not every row is in each."""
    lines = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(lines.values(), lines.keys(), loc="upper center", ncols=columns, fontsize=8)


def _points(found: Found) -> dict[float, float]:
    """Radius -> share of the samples with no adversarial nearer than that, thinned out."""
    distance = np.where(np.isnan(found.arrays.distance), np.inf, found.arrays.distance)
    finite = np.unique(distance[np.isfinite(distance) & (distance > 0)])
    radii = finite[np.unique(np.linspace(0, len(finite) - 1, min(len(finite), _GRID)).astype(int))] if len(finite) else finite
    return {float(r): float((found.arrays.clean_correct & (distance > r)).mean()) for r in radii}


def _over_queries(sheet: Sheet, doc: Document, order: list[int]) -> tuple[str, str, Any] | None:
    from matplotlib.ticker import EngFormatter, LogLocator

    panels = [(group, column) for group in sheet.groups for column in group.columns if _has_curve(sheet, column)]
    if not panels:
        return None
    names = [_name(sheet, row) for row in order]
    figure, grid, columns = _panels(names, len(panels), across=_ACROSS, width=3.0, height=2.3)
    for axes, (group, column) in zip(grid, panels, strict=False):
        for place, row in enumerate(order):
            found = sheet.cells.get((row, column.id))
            if found is not None:
                _line(axes, *_success(found), place, _name(sheet, row), marked=False)
        axes.set_xscale("log")
        axes.xaxis.set(major_locator=LogLocator(numticks=5), major_formatter=EngFormatter(sep=""))
        axes.minorticks_off()
        axes.set_yticks([0, 50, 100])
        axes.set_ylim(-2, 102)
        y = "attack success, %" if axes is grid[0] else ""
        _words(axes, title=f"{column.heading}, {group.title}", x="queries a sample", y=y)
    _legend(figure, grid, columns)
    return (
        "Success against queries",
        "Share of the correctly classified samples that were broken within so many queries.",
        figure,
    )


def _has_curve(sheet: Sheet, column: Column) -> bool:
    most = [_most_queries(found) for (_, id_), found in sheet.cells.items() if id_ == column.id]
    return bool(most) and float(np.median(most)) > _FEW


def _most_queries(found: Found) -> int:
    return int((found.arrays.forward_queries.astype(np.int64) + found.arrays.backward_queries).max(initial=0))


def _success(found: Found) -> tuple[Sequence[float], Sequence[float]]:
    arrays = found.arrays
    spent = (arrays.forward_queries + arrays.backward_queries).astype(np.int64)
    attacked, total = max(1, int(arrays.clean_correct.sum())), _most_queries(found)
    at: NDArray[np.int64] = np.unique(np.geomspace(1, max(total, 2), _GRID).round().astype(np.int64))
    hits = np.searchsorted(np.sort(spent[arrays.broken]), at, side="right")
    kept = np.flatnonzero(np.diff(hits, prepend=-1))  # where the line rises, and its end
    kept = np.union1d(kept, [len(at) - 1])
    return at[kept].tolist(), (100 * hits[kept] / attacked).tolist()


def _line(axes: Any, xs: Sequence[float], ys: Sequence[float], place: int, label: str, *, marked: bool) -> None:
    """A line through marked points, or steps between points that are not marked."""
    look = look_of(place)
    axes.plot(
        xs, ys, linestyle=look.dash, marker=look.marker if marked else None, markersize=4, color=look.colour, label=label,
        linewidth=1.5, drawstyle="default" if marked else "steps-post",
    )  # fmt: skip


def _svg(figure: Any, name: str, words: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return inline(text.getvalue().replace(_TEXT, "currentColor"), name, words)


def drawn_by() -> str:
    """What the bytes of the pictures depend on."""
    import matplotlib as mpl

    return f"matplotlib {mpl.__version__}"
