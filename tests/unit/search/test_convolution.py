"""The faster input gradient is the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_lite.search.convolution import FrozenStridedConv2d, speed_up_input_gradients
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
    layer = frozen(channels, 5, kernel, stride=stride, padding=padding)
    ours = FrozenStridedConv2d(layer)
    x = images(2, (channels, *size)).requires_grad_()
    expected = layer(x)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    found = ours(x)
    assert torch.equal(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * weight).sum(), x)[0], gradient, atol=2e-5, rtol=1e-5)


def test_only_what_is_exact_is_exchanged() -> None:
    model = nn.Sequential(
        frozen(1, 2, 4, stride=2), frozen(2, 2, 3), frozen(2, 2, 3, stride=2, groups=2), frozen(2, 2, 3, stride=2, dilation=2),
        frozen(2, 2, 3, stride=2, padding_mode="reflect", padding=1), frozen(2, 2, 1, stride=2), nn.Conv2d(2, 2, 3, stride=2),
        nn.Sequential(frozen(2, 2, 3, stride=2)),
    )  # fmt: skip
    hooked = frozen(2, 2, 3, stride=2)
    hooked.register_forward_hook(lambda *_: None)
    model.append(hooked)
    speed_up_input_gradients(model)
    exchanged = [name for name, layer in model.named_modules() if isinstance(layer, FrozenStridedConv2d)]
    assert exchanged == ["0", "7.0"]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_flatten_returns_the_gradient_in_the_layout_of_its_input(layout: torch.memory_format) -> None:
    model = speed_up_input_gradients(nn.Sequential(nn.Flatten(), nn.Linear(24, 3).requires_grad_(False)))
    x = images(5, (2, 3, 4)).contiguous(memory_format=layout).requires_grad_()
    assert torch.equal(model(x), model[1](x.flatten(1)))
    (gradient,) = torch.autograd.grad(model(x).square().sum(), x)
    (expected,) = torch.autograd.grad(model[1](x.flatten(1)).square().sum(), x)
    torch.testing.assert_close(gradient, expected)
    assert gradient.is_contiguous(memory_format=layout)
