"""The judge believes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.errors import AttackError
from robustbench_lite.search.defended import DefendedModel, Traits
from robustbench_lite.search.forward import Passes
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.threat import ThreatModel


class Threshold(nn.Module):
    """Class 1 where the first pixel is above 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        score = x[:, 0, 0, 0] - 0.5
        return torch.stack([-score, score], dim=1)


class Noisy(nn.Module):
    """Class 1 with the probability that the first pixel states, drawn per sample and draw."""

    takes_rng = True

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
        score = x[:, 0, 0, 0] - rng.uniform(0, (1,)).squeeze(1)
        return torch.stack([-score, score], dim=1)


def judge(model: nn.Module, traits: Traits = Traits(), eps: float = 0.3) -> Judge:  # noqa: B008 -- frozen
    return Judge(Passes(DefendedModel(model, traits), 4), ThreatModel.parse("linf", eps), "an_attack", "cpu")


def claim(values: list[float], start: float = 0.4) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = len(values)
    x = torch.full((n, 1, 2, 2), start)
    x_adv = x.clone()
    x_adv[:, 0, 0, 0] = torch.tensor(values)
    return x_adv, x, torch.zeros(n, dtype=torch.int64), torch.full((n,), -1), torch.arange(n) + 100


def test_only_what_is_wrong_is_confirmed() -> None:
    verdict = judge(Threshold()).confirm(*claim([0.6, 0.45, 0.51, 0.2, 0.7]))
    assert verdict.confirmed.tolist() == [True, False, True, False, True]
    torch.testing.assert_close(verdict.size, torch.tensor([0.2, 0.05, 0.11, 0.2, 0.3], dtype=torch.float64), atol=1e-7, rtol=0)


def test_a_tie_is_no_success() -> None:
    assert not judge(Threshold()).confirm(*claim([0.5])).confirmed.any()


@pytest.mark.parametrize(("value", "message"), [(0.8, "by 0.1"), (float("nan"), "not finite"), (float("inf"), "by inf")])
def test_a_claim_outside_the_ball_names_attack_sample_and_excess(value: float, message: str) -> None:
    with pytest.raises(AttackError, match=f"an_attack.* sample 101 .*{message}"):
        judge(Threshold()).confirm(*claim([0.6, value]))


def test_a_claim_outside_the_bounds_is_refused() -> None:
    with pytest.raises(AttackError, match="bounds"):
        judge(Threshold(), eps=1).confirm(*claim([1.01]))


def test_a_random_model_must_be_fooled_in_a_majority_of_votes() -> None:
    traits = Traits(random=True, draws=1, votes=101)
    verdict = judge(Noisy(), traits, eps=1).confirm(*claim([0.9, 0.1, 0.7, 0.3]))
    assert verdict.confirmed.tolist() == [True, False, True, False]


def test_nothing_claimed_is_nothing_confirmed() -> None:
    assert len(judge(Threshold()).confirm(*claim([])).confirmed) == 0


def test_an_examination_judges_every_row_although_others_lie_outside() -> None:
    finding = judge(Threshold()).examine(*claim([0.8, 0.6, float("nan"), 0.45, 0.55, -0.1]))
    assert finding.reached.tolist() == [False, True, False, False, True, False]
    assert [not bool(e <= 0) for e in finding.excess] == [True, False, True, False, False, True]
    # What is no image is not shown to the model: the clean one, of class 0, stands in.
    assert finding.label.tolist() == [0, 1, 0, 0, 1, 0]
    torch.testing.assert_close(finding.margin[[1, 3]], torch.tensor([-0.2, 0.1]), atol=1e-6, rtol=0)


def test_an_examination_of_a_row_does_not_depend_on_the_others() -> None:
    rows = claim([0.8, 0.6, float("nan"), 0.45, 0.55, 0.51, 0.7])
    together = judge(Threshold()).examine(*rows)
    for row in range(7):
        alone = judge(Threshold()).examine(*(column[row : row + 1] for column in rows))
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], equal_nan=True, atol=0, rtol=0)
