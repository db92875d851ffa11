"""What the class of a Foolbox attack says of itself: hyper-parameters, paper, documentation."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Any

_HIDDEN = {"self", "distance", "constraint", "channel_axis", "init_attack", "tensorboard"}
"""Not for the user to choose.

The threat model has norms and axes, and what is no plain value has no place in a record.
"""


def fields_of(target: Any) -> list[Any]:
    """Read the hyper-parameters from the constructor, as ``make_dataclass`` takes them."""
    if not inspect.isfunction(target.__init__):  # inherited from object: nothing to choose
        return []
    hints = typing.get_type_hints(target.__init__)
    fields: list[Any] = []
    for parameter in inspect.signature(target.__init__).parameters.values():
        if parameter.name in _HIDDEN:
            continue
        kind = hints[parameter.name]
        default = parameter.default
        if default is parameter.empty:
            fields.append((parameter.name, kind))
            continue
        if kind is float:  # 0 and 0.0 would make two keys of one cell
            default = float(default)
        fields.append((parameter.name, kind, dataclasses.field(default=default)))
    return fields


def paper_of(target: Any) -> str:
    """Find the paper that its documentation names."""
    found = re.search(r"arxiv\.org/abs/([\d.]+\d)", inspect.getdoc(target) or "")
    named = f"arXiv:{found[1]}, " if found else ""
    return f"{named}as in Foolbox (Rauber et al. 2020, JOSS 5(53), 2607)"


def docstring_of(target: Any) -> str:
    """Take Foolbox's own text, with its arguments written as ours are (``steps: ...``)."""
    return re.sub(r"^( +\w+) +: ?", r"\1: ", inspect.getdoc(target) or "", flags=re.MULTILINE)
