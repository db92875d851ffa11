"""The faster input gradient is the gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from robustbench_lite.model.fast.convolution import InputGradient, speed_up_input_gradients
from tests.conftest import images


def frozen(*arguments: object, **settings: object) -> nn.Conv2d:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(*arguments, **settings).requires_grad_(False)  # type: ignore[arg-type]
    for parameter in layer.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("size", [(8, 8), (9, 11), (28, 28), (7, 12)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        (4, 2, 1),
        (3, 2, 1),
        (3, 2, 0),
        (5, 3, 2),
        (2, 2, 0),
        (4, 4, 0),
        ((3, 5), (2, 3), (1, 0)),
        ((2, 3), (1, 2), 1),
        (7, 2, 3),
    ],
)
def test_output_and_gradient_are_those_of_torch(
    size: tuple[int, int], channels: int, kernel: object, stride: object, padding: object
) -> None:
    layer: Any = frozen(channels, 5, kernel, stride=stride, padding=padding)
    x = images(2, (channels, *size)).requires_grad_()
    expected = layer(x)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    for few in (True, False):
        found = InputGradient(layer.weight, layer.stride, layer.padding, few)(weight, x.shape)
        torch.testing.assert_close(found, gradient, atol=2e-5, rtol=1e-5)


def test_a_layer_stays_what_it_is_and_its_output_bit_for_bit() -> None:
    layer, plain = frozen(3, 5, 4, stride=2, padding=1), frozen(3, 5, 4, stride=2, padding=1)
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert speed_up_input_gradients(nn.Sequential(layer)) == 1
    x = images(2, (3, 9, 9)).requires_grad_()
    assert type(layer) is nn.Conv2d
    assert (layer.out_channels, layer.dilation, layer.stride) == (5, (1, 1), (2, 2))
    assert torch.equal(layer(x), plain(x))
    assert len(seen) == 1


@pytest.mark.parametrize("channels", [2, 6])
def test_second_derivatives_are_those_of_torch(channels: int) -> None:
    fast, plain = (frozen(channels, 5, 4, stride=2, padding=1).double() for _ in range(2))
    speed_up_input_gradients(nn.Sequential(fast))
    x = images(2, (channels, 8, 8)).double().requires_grad_()

    def curvature(layer: nn.Module) -> torch.Tensor:
        (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(curvature(fast), curvature(plain))


def test_only_what_gains_and_is_torchs_own_is_made_faster() -> None:
    class Own(nn.Conv2d):
        pass

    model = nn.Sequential(
        frozen(1, 2, 4, stride=2),
        frozen(2, 2, 3),
        frozen(2, 2, 4, stride=2, groups=2),
        frozen(2, 2, 4, stride=2, dilation=2),
        frozen(2, 2, 4, stride=2, padding_mode="reflect", padding=1),
        frozen(2, 2, 3, stride=2),
        nn.Conv2d(2, 2, 4, stride=2),
        nn.Sequential(frozen(2, 2, (2, 4), stride=2)),
        Own(2, 2, 4, stride=2).requires_grad_(False),
        prune.identity(frozen(2, 2, 4, stride=2), "weight"),  # type: ignore[no-untyped-call]
    )
    assert speed_up_input_gradients(model) == 2
    assert [name for name, layer in model.named_modules() if "forward" in vars(layer)] == [
        "0",
        "7.0",
    ]
