"""Gaussian noise: drawn per sample, voted on, and averaged over by attacks."""

from __future__ import annotations

import pytest
import torch

import robustbench_lite as rbl
from rbl_defenses.gaussian_noise import GaussianNoise
from robustbench_lite.defense.composition import defense_from
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from tests.conftest import images, points_of, small_network


def points(x: torch.Tensor, first: int = 0) -> Points:
    return points_of(x, torch.zeros(len(x), dtype=torch.int64), first)


def test_the_noise_has_the_stated_size_and_is_another_one_for_each_sample_and_draw() -> None:
    model = GaussianNoise(sigma=0.3).wrap(torch.nn.Flatten())
    x = torch.zeros(200, 1, 8, 8)
    first, second = Passes(model, 64).ballots(points(x), 2)
    assert float(first.std()) == pytest.approx(0.3, rel=0.02)
    assert float(first.mean()) == pytest.approx(0, abs=0.01)
    assert len(first[:, 0].unique()) == 200  # type: ignore[no-untyped-call]
    assert not torch.equal(first, second)


def test_two_layers_of_noise_are_independent() -> None:
    model = defense_from("gaussian_noise sigma=0.3 + gaussian_noise sigma=0.4").wrap(
        torch.nn.Flatten()
    )
    (noise,) = Passes(model, 64).ballots(points(torch.zeros(200, 1, 8, 8)), 1)
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)  # 0.7 if both drew the same numbers


def test_a_sample_gets_the_same_noise_in_any_shard() -> None:
    model, x = GaussianNoise().wrap(small_network()), images(30)
    (whole,) = Passes(model, 64).ballots(points(x), 1)
    (part,) = Passes(model, 64).ballots(points(x[20:], first=20), 1)
    torch.testing.assert_close(part, whole[20:])


def test_verdicts_do_not_depend_on_the_batch_size() -> None:
    network, x = small_network(), images(40)
    data = (x, network(x).argmax(1))
    digests = {
        rbl.evaluate(
            network, data, "pgd steps=5", defenses="gaussian_noise", eps=0.05, batch_size=size
        )
        .cells[0]
        .record.digest  # type: ignore[union-attr]
        for size in (1, 7, 64)
    }
    assert len(digests) == 1


def test_an_attack_that_averages_gradients_is_stronger_than_one_that_does_not() -> None:
    data = rbl.load_dataset("fashion_mnist", limit=60)
    adaptive, plain = rbl.evaluate(
        data=data,
        attacks="pgd steps=20",
        defenses="gaussian_noise sigma=0.2 draws=8",
        eps=0.03,
        plain=True,
    ).cells
    assert adaptive.robust_accuracy < plain.robust_accuracy - 0.05
    assert adaptive.forward_queries.mean() > plain.forward_queries.mean()


@pytest.mark.parametrize("text", ["sigma=0", "votes=2", "votes=0", "draws=0"])
def test_values_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="gaussian_noise"):
        defense_from(f"gaussian_noise {text}")


def test_it_declares_that_it_is_random() -> None:
    model: DefendedModel = GaussianNoise(votes=5, draws=3).wrap(small_network())
    assert (
        model.traits.random,
        model.traits.votes,
        model.traits.draws,
        model.traits.surrogate,
    ) == (True, 5, 3, None)
