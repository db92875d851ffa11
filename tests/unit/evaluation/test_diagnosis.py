"""Networks that cannot be measured are refused before they turn into numbers, each with what
to do.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rbl_defenses.none import NoDefense
from robustbench_lite.errors import ModelError
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.defended import DefendedModel
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
def test_a_model_that_cannot_be_measured_is_refused(
    function: Callable[[Tensor], object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        check(After(function))


def test_too_many_classes_for_a_known_data_set_are_refused() -> None:
    with pytest.raises(ModelError, match="needs 2"):
        check(small_network(), Y % 2, classes=2)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_batch_norm_without_running_statistics_is_refused_and_named(count: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    with pytest.raises(ModelError, match=r"layer '1' \(BatchNorm2d\).*track_running_stats"):
        diagnose(prepare(model.eval(), NoDefense(), torch.device("cpu")), X[:count], Y[:count])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rows_that_are_mixed_are_noticed_with_few_images(count: int) -> None:
    model = After(lambda z: z - z.mean(0)).eval()
    with pytest.raises(ModelError, match="mixes rows"):
        diagnose(prepare(model, NoDefense(), torch.device("cpu")), X[:count], Y[:count])


def test_a_network_that_takes_nothing_but_the_users_image_is_measured_all_the_same() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 1:
                raise AssertionError
            logits: Tensor = self.inner(x)
            return logits

    diagnose(prepare(Picky().eval(), NoDefense(), torch.device("cpu")), X[:1], Y[:1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_of_another_precision_is_told_how_to_be_wrapped(dtype: torch.dtype) -> None:
    with pytest.raises(ModelError, match=f"parameters are {str(dtype)[6:]}.*{dtype}"):
        check(small_network().to(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_is_measured_once_it_is_wrapped_as_told(
    dtype: torch.dtype,
) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_network().to(dtype)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x.to(dtype)).float()
            return logits

    assert not check(Wrapped()).remarks


def test_an_error_without_words_is_told() -> None:
    def fail(z: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(ModelError, match=r"without a word \(AssertionError\)"):
        check(After(fail))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_half_precision_are_refused_unless_declared(dtype: torch.dtype) -> None:
    for last in (lambda z: z.to(dtype).softmax(1), lambda z: z.to(dtype).softmax(1).float()):
        with pytest.raises(ModelError, match="probabilities"):
            check(After(last))
        prepared = diagnose(
            prepare(After(last).eval(), NoDefense(), torch.device("cpu"), "probabilities"), X, Y
        )
        assert prepared.module(X).dtype == torch.float32


def test_outputs_that_are_hardly_logits_are_measured_and_flagged() -> None:
    (remark,) = check(After(lambda z: z.sigmoid())).remarks
    assert "sigmoid" in remark


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
