"""Whatever a network raises or returns while it is asked, the error says of what kind it is and of
which samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.pgd import PGD
from robustbench_lite import certify, evaluate
from robustbench_lite.errors import DataError, ModelError, UnsupportedLayerError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin
from tests.conftest import images, small_network

X = images(40)
Y = small_network()(X).argmax(1)


class Failing(nn.Module):
    """Fails on images that are brighter in the corner than those that are looked at beforehand."""

    def __init__(self, fail: Callable[[Tensor], Any], above: float = 0.999) -> None:
        super().__init__()
        self.inner, self.fail, self.above = small_network(), fail, above

    def forward(self, x: Tensor) -> Any:
        logits = self.inner(x)
        return self.fail(logits) if bool((x[:, 0, 0, 0] > self.above).any()) else logits


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise LookupError("no way back")


def _raise(error: BaseException) -> Callable[[Tensor], Any]:
    def fail(logits: Tensor) -> Any:
        raise error

    return fail


FAILURES = {
    "an assertion": (_raise(AssertionError()), r"without a word \(AssertionError\)"),
    "a key": (_raise(KeyError("features")), r"'features' \(KeyError\)"),
    "no memory": (
        _raise(RuntimeError("CUDA out of memory. Tried to allocate")),
        "Lower --batch-size",
    ),
    "many lines": (_raise(ValueError("\n first\nsecond")), r"first \(ValueError\)"),
    "a tuple": (lambda logits: (logits, logits), "returns a tuple"),
    "None": (lambda logits: None, "returns a NoneType"),
    "too few rows": (lambda logits: logits[:-1], r"returns \(\d+, 3\)"),
    "another shape": (lambda logits: logits[:, :, None], r"returns \(\d+, 3, 1\)"),
}


def _data() -> tuple[Tensor, Tensor]:
    x = X.clone()
    x[:, 0, 0, 0] = 0.5
    x[35, 0, 0, 0] = 1.0
    return x, small_network()(x).argmax(1)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_network_that_fails_on_a_later_image_is_a_model_error_that_names_it(kind: str) -> None:
    fail, said = FAILURES[kind]
    with pytest.raises(ModelError, match=rf"sample.*{said}|{said}.*sample"):
        evaluate(Failing(fail).eval(), _data(), PGD(steps=2), eps=0.01, batch_size=8)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_network_that_fails_during_the_attack_is_a_model_error(kind: str) -> None:
    fail, said = FAILURES[kind]
    x, y = _data()
    x[35, 0, 0, 0] = 0.5
    with pytest.raises(ModelError, match=said):
        evaluate(
            Failing(fail, above=0.501).eval(),
            (x, y),
            "pgd steps=20 random_start=False",
            eps=0.01,
            batch_size=8,
        )


def test_the_error_names_the_samples_and_how_many_images_there_were() -> None:
    zeros = torch.zeros(16, dtype=torch.int64)
    points = Points(X[:16] * 0 + 1, zeros, zeros - 1, torch.arange(20, 36), zeros)
    passes = Passes(DefendedModel(Failing(_raise(KeyError("k")))), 16)
    with pytest.raises(
        ModelError, match=r"16 images of shape \(1, 6, 6\) .*samples 20, 21, 22, 23, 24 and 11 more"
    ):
        passes.logits(points)
    with pytest.raises(ModelError, match="20, 21"):
        passes.gradient(points, margin)


def test_a_backward_that_fails_is_no_gradient() -> None:
    class OneWay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(Backward.apply(x))
            return logits

    with pytest.raises(ModelError, match=r"no gradient by its input.*no way back"):
        evaluate(OneWay().eval(), _data(), PGD(steps=2), eps=0.01)


def test_an_error_of_ours_passes_as_it_is() -> None:
    with pytest.raises(DataError, match="as it is"):
        evaluate(
            Failing(_raise(DataError("as it is"))).eval(),
            _data(),
            PGD(steps=2),
            eps=0.01,
            batch_size=8,
        )


@pytest.mark.parametrize(
    "error",
    [AssertionError(), KeyError("k"), RuntimeError("mat1 and mat2 shapes cannot be multiplied")],
)
def test_a_certificate_of_a_network_that_fails_is_a_model_error(error: Exception) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(
        ModelError, match=type(error).__name__ + "|" + (str(error) or "cannot be followed")
    ):
        certify(Fails().eval(), _data(), eps=0.01)


def test_a_certificate_on_images_of_another_size_is_a_model_error() -> None:
    with pytest.raises(ModelError, match=r"fails on images of shape \(1, 5, 5\)"):
        certify(small_network(), (images(3, (1, 5, 5)), torch.zeros(3).long()), eps=0.01)


def test_complex_weights_have_no_certificate_and_are_attacked_as_they_are() -> None:
    class Phases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            draw = torch.Generator().manual_seed(0)
            self.weight = nn.Parameter(torch.randn(36, 3, dtype=torch.complex64, generator=draw))

        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1).to(self.weight.dtype) @ self.weight).abs()

    model = Phases().eval()
    y = model(X).argmax(1)
    cell = evaluate(model, (X, y), PGD(steps=5), eps=0.3, keep_adversarials=True).cells[0]
    assert cell.clean_accuracy == 1  # a network of the real parts alone answers otherwise
    assert cell.robust_accuracy == float((model(cell.x_adv).argmax(1) == y).double().mean()) < 1
    with pytest.raises(UnsupportedLayerError, match="complex weights"):
        certify(model, (X, y), eps=0.01)


class InPrecision(nn.Module):
    """Computes, and answers, in another precision than that of images."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = small_network().to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.to(self.dtype))
        return logits


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("attack", "norm", "eps"),
    [
        ("fgsm", "linf", 0.1),
        ("pgd steps=3", "linf", 0.1),
        ("boundary steps=10", "l2", None),
        ("carlini_wagner steps=5", "l2", None),
        ("zoo steps=5", "l2", None),
        ("one_pixel generations=5", "l0", 2),
    ],
)
def test_every_attack_works_on_answers_of_another_precision(
    attack: str, norm: str, eps: float | None, dtype: torch.dtype
) -> None:
    model = InPrecision(dtype).eval()
    y = small_network()(X[:12]).argmax(1)
    cell = evaluate(model, (X[:12], y), attack, norm=norm, eps=eps, keep_adversarials=True).cells[0]
    robust = torch.from_numpy(cell.robust)
    assert torch.equal(model(cell.x_adv).argmax(1) == y, robust)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_coarse_answers_lose_nothing_and_their_differences_are_not_rounded(
    dtype: torch.dtype,
) -> None:
    model, zeros = InPrecision(dtype).eval(), torch.zeros(16, dtype=torch.int64)
    logits = Passes(DefendedModel(model), 16).logits(Points(X[:16], zeros, zeros - 1, zeros, zeros))
    assert logits.dtype == torch.float32
    assert torch.equal(logits.to(dtype), model(X[:16]))


def test_a_random_network_takes_every_seed() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small_network()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            return logits + torch.randn_like(logits)

    evaluate(Noisy().eval(), (X[:8], Y[:8]), "fgsm", eps=0.1, seed=2**63 - 1)
