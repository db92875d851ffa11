"""The arithmetic of tensors that networks write, by the names of its methods and functions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "iadd": operator.add,
    "sub": operator.sub,
    "isub": operator.sub,
    "subtract": operator.sub,
    "mul": operator.mul,
    "imul": operator.mul,
    "multiply": operator.mul,
    "truediv": operator.truediv,
    "itruediv": operator.truediv,
    "div": operator.truediv,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
}
"""Name, without underscores around it -> the operator that gives the same."""
