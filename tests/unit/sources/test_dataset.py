"""What a data set must be, and what each kind of bad input is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustbench_lite.errors import DataError
from robustbench_lite.sources.dataset import check_data, tensor_from

GOOD_X, GOOD_Y = torch.full((2, 1, 3, 3), 0.5), torch.tensor([0, 1])


def _with(value: float) -> torch.Tensor:
    x = GOOD_X.clone()
    x[1, 0, 2, 2] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (GOOD_X[0], GOOD_Y, "N, C, H, W"),
        (GOOD_X.double(), GOOD_Y, "x.float"),
        ((GOOD_X * 255).to(torch.uint8), GOOD_Y, "divide by 255"),
        (_with(float("nan")), GOOD_Y, "first in image 1"),
        (_with(float("inf")), GOOD_Y, "first in image 1"),
        (_with(1.5), GOOD_Y, "divide by 255"),
        (_with(-0.5), GOOD_Y, "normalisation"),
        (GOOD_X[:0], GOOD_Y[:0], "no samples"),
        (GOOD_X, GOOD_Y[:1], "2 images and 1 labels"),
        (GOOD_X, GOOD_Y.int(), "y.long"),
        (GOOD_X, GOOD_Y - 1, "0 to 1 is allowed"),
        (GOOD_X, GOOD_Y + 1, "0 to 1 is allowed"),
    ],
)
def test_each_kind_of_bad_data_is_told_the_likely_fix(
    x: torch.Tensor, y: torch.Tensor, message: str
) -> None:
    check_data(GOOD_X, GOOD_Y, 2)
    with pytest.raises(DataError, match=message):
        check_data(x, y, 2)


def test_arrays_of_any_strides_become_tensors() -> None:
    x = np.arange(12, dtype=">f4").reshape(3, 4)[::-1, ::-1]
    assert tensor_from(x).tolist() == x.tolist()
    assert tensor_from(np.broadcast_to(np.float32(1), (2, 2))).tolist() == [[1, 1], [1, 1]]
    for odd in (
        np.zeros(2, object),
        np.zeros(2, "U3"),
        np.zeros(2, [("a", "i4")]),
        [[1], [1, 2]],
        object(),
    ):
        with pytest.raises(DataError, match="no array of numbers"):
            tensor_from(odd)
