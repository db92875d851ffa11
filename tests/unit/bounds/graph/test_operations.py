"""Layers going back: the transpose of every kind of convolution is its adjoint, and activations
cost what their lines say.
"""

import pytest
import torch
from torch import Tensor

from robustbench_lite.bounds.graph.operations import Convolution
from robustbench_lite.bounds.relaxation import Lines
from robustbench_lite.bounds.relaxed import relax
from robustbench_lite.bounds.windows import Segment


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 1), (8, 1), (8, 2), (8, 8)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        (3, 1, 1, 1, 8),
        (3, 2, 1, 1, 8),
        (3, 2, 1, 1, 9),
        (4, 2, 1, 1, 8),
        (1, 2, 0, 1, 8),
        (3, 3, 0, 1, 11),
        (3, 2, 2, 2, 8),
    ],
)
def test_the_transpose_of_a_convolution_is_its_adjoint(
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    size: int,
    channels: int,
    groups: int,
    dtype: torch.dtype,
    live: bool,
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(
        8, channels // groups, kernel, kernel, generator=generator, dtype=dtype
    ).requires_grad_(live)
    layer = Convolution(
        weight, None, (stride, stride), (padding, padding), (dilation, dilation), groups
    )
    x = torch.randn(3, channels, size, size, generator=generator, dtype=dtype, requires_grad=True)
    y = layer.forward(x)
    a = torch.randn(y.shape, generator=generator, dtype=dtype)
    (expected,) = torch.autograd.grad(y, x, a)
    torch.testing.assert_close(
        layer.transpose(a, (channels, size, size)).detach(), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_rows_through_an_activation_are_those_of_its_lines_and_so_is_their_gradient(
    parallel: bool, channels_last: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, 2, 3, 3, generator=generator, dtype=torch.float64)
    below, above, intercept = (
        torch.rand(3, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    if channels_last:
        a = a.contiguous(memory_format=torch.channels_last)
    segments, owner = (
        [Segment(0, slice(0, 2)), Segment(2, slice(2, 5))],
        torch.tensor([0, 0, 2, 2, 2]),
    )

    def fused(a: Tensor, below: Tensor, above: Tensor, intercept: Tensor) -> tuple[Tensor, ...]:
        return tuple(relax(a, Lines(above if parallel else below, above, intercept), segments))

    def literal(a: Tensor, below: Tensor, above: Tensor, intercept: Tensor) -> tuple[Tensor, ...]:
        up, down = a.clamp_min(0), a.clamp(max=0)
        rows = up * (above if parallel else below)[owner] + down * above[owner]
        return (
            rows,
            (down * intercept[owner]).flatten(1).sum(1),
            -(up * intercept[owner]).flatten(1).sum(1),
        )

    given = [part.requires_grad_() for part in (a, below, above, intercept)]
    for one, other in zip(fused(*given), literal(*given), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(fused, given)
