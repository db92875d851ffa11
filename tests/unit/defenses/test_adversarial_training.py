"""Adversarial training: what it trains on, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_defenses.adversarial_training import AdversarialTraining
from rbl_defenses.none import NoDefense
from robustbench_lite.defense import TrainingBatch
from robustbench_lite.errors import UsageError
from robustbench_lite.registry import create
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.training.trainer import Recipe, initialise, train
from tests.conftest import toy


def _data(count: int = 200) -> Dataset:
    """Two features: the first always right but 0.1 from the boundary, the second right nine times
    in ten.
    """
    generator = torch.Generator().manual_seed(3)
    y = torch.randint(0, 2, (count,), generator=generator)
    sign = y.float() * 2 - 1
    liar = torch.where(torch.rand(count, generator=generator) < 0.1, -1.0, 1.0)
    x = torch.stack([0.5 + 0.1 * sign, 0.5 + 0.4 * sign * liar], dim=1).reshape(count, 1, 1, 2)
    return toy(x, y, 2)


def _batch(data: Dataset, progress: float = 1.0) -> TrainingBatch:
    return TrainingBatch(x=data.x, y=data.y, index=data.ids, progress=progress, epoch=0, seed=0)


def _network() -> nn.Module:
    return initialise(lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), 0)


class Spy(nn.Module):
    """Keeps what it was shown, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _network()
        self.seen: list[tuple[bool, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.training, x.detach().clone()))
        logits: Tensor = self.inner(x)
        return logits


def test_attacks_are_made_in_eval_mode_and_the_step_in_train_mode() -> None:
    model = Spy().train()
    AdversarialTraining(attack="pgd steps=3").loss(model, _batch(_data()))
    assert [training for training, _ in model.seen] == [False, False, False, True]
    assert model.training


@pytest.mark.parametrize(("progress", "radius"), [(0.0, 0.0), (0.15, 0.05), (0.3, 0.1), (0.9, 0.1)])
def test_the_radius_rises_over_the_warm_up(progress: float, radius: float) -> None:
    data, model = _data(), Spy().train()
    defense = AdversarialTraining(eps=0.1, warmup=0.3)
    defense.loss(model, _batch(data, progress))
    moved = (model.seen[-1][1] - data.x).abs().max()
    assert float(moved) == pytest.approx(radius, abs=1e-6)


def test_the_loss_is_worse_than_on_clean_images_and_moves_the_weights_only() -> None:
    data, model = _data(), _network()
    batch = _batch(data)
    loss = AdversarialTraining(eps=0.1).loss(model, batch)
    assert float(loss.detach()) > float(NoDefense().loss(model, batch).detach())
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert batch.x.grad is None


def test_it_makes_a_model_rely_on_what_the_attack_cannot_turn(tmp_path: Path) -> None:
    accuracies = {}
    for defense in (NoDefense(), AdversarialTraining(eps=0.15, attack="pgd steps=3")):
        model = _network()
        recipe = Recipe(epochs=40, batch_size=50, learning_rate=0.3)
        train(model, defense, _data(), recipe, checkpoint=tmp_path / f"{defense.name}.pt")
        accuracies[defense.name] = rbl.evaluate(
            model.eval(), _data(), "pgd steps=10", eps=0.15
        ).cells[0]
    plain, robust = accuracies["none"], accuracies["adversarial_training"]
    assert plain.clean_accuracy > 0.95
    assert plain.robust_accuracy < 0.5
    assert robust.robust_accuracy > 0.85


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eps=0", "eps above 0"),
        ("eps=nan", "eps of defense .* no number"),
        ("warmup=1.5", "warmup"),
        ("norm=l0 eps=1", "gradient attack"),
        ("norm=l7", "Known: l0, l1, l2, linf"),
        ("attack=pdg", "Did you mean 'pgd'"),
        ("attack='pgd stepz=3'", "Did you mean 'steps'"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_training(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        create("defense", f"adversarial_training {text}")
