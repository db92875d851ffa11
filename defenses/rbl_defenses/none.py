"""No defense: plain training with the cross-entropy. The yardstick for every other row of a
table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustbench_lite.defense import Defense


@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Leaves training and inference as they are."""

    name: ClassVar[str] = "none"
