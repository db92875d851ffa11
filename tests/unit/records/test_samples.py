"""Rows of the journal."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_lite.errors import RecordError
from robustbench_lite.records.samples import image_bytes, image_from_bytes


def test_images_survive_the_journal_bit_by_bit() -> None:
    x = np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(image_from_bytes(image_bytes(x), (1, 3, 4)), x)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(RecordError, match="has 16 bytes"):
        image_from_bytes(bytes(16), (1, 2, 3))
