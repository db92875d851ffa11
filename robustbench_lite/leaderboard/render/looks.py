"""How a row is told from the others, the same in every picture of a board."""

from __future__ import annotations

from typing import NamedTuple

#: Told apart with any colour vision, on white and on black (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#a08a00", "#8f8f8f")
_MARKERS = "osD^vP*X"
_DASHES = ("-", "--", "-.", ":")


class Look(NamedTuple):
    """In matplotlib's words."""

    colour: str
    marker: str
    dash: str


def look_of(place: int) -> Look:
    """Choose the look of the row in that place, from 0 on.

    A colour that comes again does so with another marker and another dash.
    """
    again = place // len(_COLOURS)
    return Look(
        _COLOURS[place % len(_COLOURS)],
        _MARKERS[(place + 3 * again) % len(_MARKERS)],
        _DASHES[(place // 2 + again) % len(_DASHES)],
    )
