"""The judge believes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.errors import AttackError
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.judge import Judge
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
    return Judge(
        Passes(DefendedModel(model, traits), 4), ThreatModel.parse("linf", eps), "an_attack", "cpu"
    )


def claim(values: list[float], start: float = 0.4) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n = len(values)
    x = torch.full((n, 1, 2, 2), start)
    x_adv = x.clone()
    x_adv[:, 0, 0, 0] = torch.tensor(values)
    return x_adv, x, torch.zeros(n, dtype=torch.int64), torch.full((n,), -1), torch.arange(n) + 100


def test_only_what_is_wrong_is_confirmed() -> None:
    verdict = judge(Threshold()).confirm(*claim([0.6, 0.45, 0.51, 0.2, 0.7]))
    assert verdict.confirmed.tolist() == [True, False, True, False, True]
    torch.testing.assert_close(
        verdict.size,
        torch.tensor([0.2, 0.05, 0.11, 0.2, 0.3], dtype=torch.float64),
        atol=1e-7,
        rtol=0,
    )


def test_a_tie_is_no_success() -> None:
    assert not judge(Threshold()).confirm(*claim([0.5])).confirmed.any()


@pytest.mark.parametrize(
    ("value", "message"), [(0.8, "by 0.1"), (float("nan"), "not finite"), (float("inf"), "by inf")]
)
def test_a_claim_outside_the_ball_names_attack_sample_and_excess(
    value: float, message: str
) -> None:
    with pytest.raises(AttackError, match=f"an_attack.* sample 101 .*{message}"):
        judge(Threshold()).confirm(*claim([0.6, value]))


def test_a_claim_outside_the_bounds_is_refused() -> None:
    with pytest.raises(AttackError, match="bounds"):
        judge(Threshold(), eps=1).confirm(*claim([1.01]))


def test_a_random_model_must_be_fooled_in_a_majority_of_votes() -> None:
    traits = Traits(random=True, draws=1, votes=101)
    verdict = judge(Noisy(), traits, eps=1).confirm(*claim([0.9, 0.1, 0.7, 0.3]))
    assert verdict.confirmed.tolist() == [True, False, True, False]


def test_half_of_the_votes_is_no_majority() -> None:
    class InTurn(nn.Module):
        takes_rng = True

        def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
            wrong = (rng.restart % 2 == 0).float()
            return torch.stack([1 - wrong, wrong], dim=1)

    for votes, fooled in ((1, True), (2, False), (3, True), (4, False)):
        verdict = judge(InTurn(), Traits(random=True, votes=votes)).confirm(*claim([0.5] * 5))
        assert verdict.confirmed.tolist() == [fooled] * 5


def test_votes_belong_to_the_index_in_the_data_set_wherever_a_claim_stands() -> None:
    rows = claim([0.5] * 30)
    whole = judge(Noisy(), Traits(random=True, votes=1)).confirm(*rows).confirmed
    assert 0 < whole.sum() < 30
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    mixed = (
        judge(Noisy(), Traits(random=True, votes=1))
        .confirm(*(column[order] for column in rows))
        .confirmed
    )
    assert torch.equal(mixed, whole[order])


def test_a_wrong_class_that_is_not_the_target_is_no_success() -> None:
    class Bands(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -(x[:, 0, 0, :1] - torch.tensor([0.4, 0.5, 0.6])).abs()

    x_adv, x, y, _, index = claim([0.41, 0.51, 0.61])
    for target, reached in (
        (-1, [False, True, True]),
        (1, [False, True, False]),
        (2, [False, False, True]),
    ):
        assert (
            judge(Bands()).confirm(x_adv, x, y, y * 0 + target, index).confirmed.tolist() == reached
        )
    zero = judge(Bands()).confirm(x_adv, x, y + 2, y, index)  # class 0 is a target like any other
    assert zero.confirmed.tolist() == [True, False, False]


def test_an_image_that_the_model_declines_is_no_success() -> None:
    class Careful(nn.Module):
        """Class 1 above 0.5, and an abstention above 0.6."""

        def forward(self, x: Tensor) -> Tensor:
            value = x[:, 0, 0, 0]
            return torch.stack([0.5 + 0 * value, value, 0.6 + 10 * (value - 0.6)], dim=1)

    verdict = judge(Careful(), Traits(abstains=True)).confirm(*claim([0.45, 0.55, 0.65]))
    assert verdict.confirmed.tolist() == [False, True, False]


def test_nothing_claimed_is_nothing_confirmed() -> None:
    assert len(judge(Threshold()).confirm(*claim([])).confirmed) == 0


def test_an_examination_judges_every_row_although_others_lie_outside() -> None:
    finding = judge(Threshold()).examine(*claim([0.8, 0.6, float("nan"), 0.45, 0.55, -0.1]))
    assert finding.reached.tolist() == [False, True, False, False, True, False]
    assert [not bool(e <= 0) for e in finding.excess] == [True, False, True, False, False, True]
    # What is no image is not shown to the model: the clean one, of class 0, stands in.
    assert finding.label.tolist() == [0, 1, 0, 0, 1, 0]
    torch.testing.assert_close(finding.margin[[1, 3]], torch.tensor([-0.2, 0.1]), atol=1e-6, rtol=0)


def test_what_lies_outside_reaches_nothing_even_where_the_clean_image_is_wrong() -> None:
    finding = judge(Threshold()).examine(*claim([0.95, 0.7], start=0.6))
    assert finding.reached.tolist() == [False, True]


def test_an_examination_of_a_row_does_not_depend_on_the_others() -> None:
    rows = claim([0.8, 0.6, float("nan"), 0.45, 0.55, 0.51, 0.7])
    together = judge(Threshold()).examine(*rows)
    for row in range(7):
        alone = judge(Threshold()).examine(*(column[row : row + 1] for column in rows))
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], equal_nan=True, atol=0, rtol=0)


def test_closeness_is_the_margin_in_shares_of_the_largest_logit() -> None:
    class Large(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([super().forward(x), torch.full((len(x), 1), -50.0)], 1)

    verdict = judge(Large()).confirm(*claim([0.6, 0.45]))
    torch.testing.assert_close(
        verdict.closeness, torch.tensor([0.2 / 50, 0.1 / 50]), atol=1e-7, rtol=0
    )


def test_the_closeness_of_a_vote_is_that_of_the_ballot_that_decides() -> None:
    class Drawn(nn.Module):
        """One margin a draw, with a third logit of -10."""

        takes_rng = True

        def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
            return torch.tensor([[next(margins), 0.0, -10.0]]).expand(len(x), 3)

    margins = iter([-4.0, 8.0, 1.0, 3.0, -2.0])
    verdict = judge(Drawn(), Traits(random=True, draws=1, votes=5)).confirm(*claim([0.5]))
    assert not verdict.confirmed.any()  # two of five
    assert verdict.closeness.item() == pytest.approx(0.1)
