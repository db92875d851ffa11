"""Networks that cannot be measured are refused before they turn into numbers, each with what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rbl_defenses.none import NoDefense
from robustbench_lite.diagnosis import diagnose, prepare
from robustbench_lite.errors import ModelError
from robustbench_lite.search.defended import DefendedModel
from tests.conftest import images, small_network

X = images(40)
Y = torch.arange(40) % 3


class After(nn.Module):
    """The small network, with its logits passed through a function."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.function = small_network(), function

    def forward(self, x: Tensor) -> object:
        return self.function(self.network(x))


def check(model: nn.Module, y: Tensor = Y, classes: int | None = None) -> DefendedModel:
    prepared = prepare(model.eval(), NoDefense(), torch.device("cpu"))
    return diagnose(prepared, X, y, classes)


def test_a_sound_model_passes() -> None:
    assert not check(small_network(), classes=3).traits.random


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z.softmax(1), "probabilities"),
        (lambda z: z * float("nan"), "NaN"),
        (lambda z: z / 0, "NaN or inf"),
        (lambda z: z[:, :2], "2 classes"),
        (lambda z: z - z.mean(0), "batch"),
        (lambda z: z.argmax(1), "logits"),
        (lambda z: (z, z), "tuple"),
        (lambda z: z.reshape(7, -1, 11), "fails on images of shape"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused(function: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check(After(function))


def test_too_many_classes_for_a_known_data_set_are_refused() -> None:
    with pytest.raises(ModelError, match="needs 2"):
        check(small_network(), Y % 2, classes=2)


def test_train_mode_is_refused_and_names_the_module() -> None:
    model = small_network()
    model[1].train()
    with pytest.raises(ModelError, match=r"train mode \(1\).*eval"):
        prepare(model, NoDefense(), torch.device("cpu"))


def test_the_users_model_is_left_as_it_is() -> None:
    model = small_network()
    prepared = prepare(model, NoDefense(), torch.device("cpu"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[0].weight.is_contiguous()
    theirs, ours = set(map(id, model.parameters())), set(map(id, prepared.module.parameters()))
    assert not theirs & ours


def test_probabilities_can_be_declared() -> None:
    model = After(lambda z: z.softmax(1)).eval()
    prepared = diagnose(prepare(model, NoDefense(), torch.device("cpu"), "probabilities"), X, Y)
    torch.testing.assert_close(prepared.module(X).softmax(1), model(X))


def test_a_random_model_is_found_out(caplog: pytest.LogCaptureFixture) -> None:
    with torch.random.fork_rng():
        traits = check(After(lambda z: z + torch.randn_like(z))).traits
    assert traits.random
    assert traits.votes % 2 == 1
    assert "random" in caplog.text
