"""Which cells and samples are looked at again.

A hash of their content says it, so that nobody picks them and all pick the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.leaderboard.results import Found


def choose_samples(ids: NDArray[np.int64], digest: str, salt: str, count: int) -> NDArray[np.int64]:
    """Choose ``count`` of ``ids`` (N,), in ascending order.

    They are those whose hash with ``digest`` and ``salt`` is smallest.
    """
    ordered = sorted(ids.tolist(), key=lambda sample: _hash(f"{salt}/{digest}/{sample}"))
    return np.array(sorted(ordered[:count]), dtype=np.int64)


def cells_in_turn(found: Sequence[Found], salt: str) -> list[int]:
    """Positions of ``found`` in the order of the hash of their digests."""
    return sorted(range(len(found)), key=lambda i: _hash(f"{salt}/{found[i].record.digest}"))


def queries_of(found: Found, ids: NDArray[np.int64]) -> int:
    """What the samples ``ids`` cost when the cell was measured."""
    rows = np.isin(found.record.identity.data.ids(), ids)
    return int(found.arrays.forward_queries[rows].sum()) + int(
        found.arrays.backward_queries[rows].sum()
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
