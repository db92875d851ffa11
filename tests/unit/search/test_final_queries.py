"""Where nothing depends on the answer to a last point, the judge's pass is its one query, and no
record shows it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.fgsm import FGSM
from robustbench_lite.errors import ModelError
from robustbench_lite.search.attack import State
from robustbench_lite.search.query import Query


@pytest.mark.parametrize(
    "defense", ["none", "gaussian_noise sigma=0.02", "feature_squeezing bits=4"]
)
def test_a_record_does_not_show_who_made_the_last_query(
    network: nn.Module, batch: tuple[Tensor, Tensor], defense: str
) -> None:
    left, asked = (
        rbl.evaluate(network, batch, attack(sweep=False), defenses=defense, eps=0.05).cells[0]
        for attack in (FGSM, Asking)
    )
    for field in ("robust", "distance", "forward_queries", "backward_queries"):
        np.testing.assert_array_equal(getattr(left, field), getattr(asked, field))
    assert 0 < left.robust.sum() < left.clean_correct.sum()
    assert left.record.outcomes == asked.record.outcomes  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True)
class Asking(FGSM):
    """FGSM that wants to hear how its last point did."""

    def ask(self, state: State) -> Query:
        return dataclasses.replace(super().ask(state), final=False)  # type: ignore[arg-type]


def test_a_model_that_returns_nan_at_the_last_point_is_an_error_and_not_a_robust_sample() -> None:
    class Fragile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1).mean(1)
            return torch.stack([0.5 - mean, torch.where(mean > 0.58, float("nan"), mean - 0.5)], 1)

    x = torch.full((40, 1, 3, 4), 0.4)
    with pytest.raises(ModelError, match="NaN or inf near sample 0"):
        rbl.evaluate(
            Fragile().eval(), (x, torch.zeros(40, dtype=torch.int64)), FGSM(sweep=False), eps=0.2
        )
