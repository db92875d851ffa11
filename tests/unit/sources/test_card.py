"""The card beside a weights file."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_lite.errors import WeightsError
from robustbench_lite.sources.card import load_card


def test_a_card_with_an_unknown_or_missing_field_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text('{"name": "x"}')
    with pytest.raises(WeightsError, match="is damaged"):
        load_card(path)
