"""What a cell is known by."""

from __future__ import annotations

import numpy as np

from robustbench_lite.records.identity import DataId, ranges


def test_ranges_keep_the_order_of_the_samples() -> None:
    ids = np.array([5, 6, 7, 2, 3, 9])
    assert ranges(ids) == [(5, 8), (2, 4), (9, 10)]
    assert (
        DataId(name="d", split="s", fingerprint="f", id_ranges=ranges(ids)).ids().tolist()
        == ids.tolist()
    )
