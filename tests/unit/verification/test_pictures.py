"""The sheet of examples shows what it says."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_lite.verification.pictures import magnify_difference


def test_no_change_is_grey_and_the_largest_is_black_or_white() -> None:
    x = np.full((1, 2, 2), 0.5, dtype=np.float32)
    x_adv = x + np.array([[[0, 0.1], [-0.05, 0]]], dtype=np.float32)
    shown, factor = magnify_difference(x_adv, x)
    np.testing.assert_allclose(shown, [[[0.5, 1.0], [0.25, 0.5]]], atol=1e-6)
    assert factor == pytest.approx(5)


def test_equal_images_are_not_magnified() -> None:
    x = np.zeros((3, 2, 2), dtype=np.float32)
    shown, factor = magnify_difference(x, x)
    assert (factor, set(shown.flatten().tolist())) == (1.0, {0.5})
