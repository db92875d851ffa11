"""Input gradients of strided convolutions on a CPU, and of what flattens them.

They come at the speed of a forward convolution. An attack wants the gradient of the input and of
nothing else. For a stride above 1 the general backward kernel spends most of its time between the
positions that count. Sorting the input's positions by their remainder modulo the stride turns the
gradient into an ordinary convolution with one set of output channels a remainder, whose results are
then put side by side (the sub-pixel convolution of Shi et al. 2016, arXiv:1609.05158, read
backwards). The forward pass is torch's own, bit by bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]

FEW_CHANNELS = 4
"""Up to so many input channels (images), a matrix product and a sum beat a convolution."""


class InputGradient:
    """The gradient of a convolution's input from that of its output.

    The weight is (O, C, kh, kw), without dilation or groups. It is linear in the output's gradient
    and made of torch's own operations, so it can be differentiated again.
    """

    def __init__(
        self, weight: Tensor, stride: Pair, padding: Pair, few: bool | None = None
    ) -> None:
        kernel = weight.shape[2:]
        self.stride = stride
        self.padding = padding
        self.reach: Pair = (-(-kernel[0] // stride[0]), -(-kernel[1] // stride[1]))
        self.few = weight.shape[1] <= FEW_CHANNELS if few is None else few
        self.phases = self._sort_by_remainder(weight)

    phases: Tensor
    """The weights by remainder.

    They are kernels, (sh sw C, O, jh, jw); for few channels a matrix, (jh jw sh sw C, O).
    """

    def __call__(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """Compute the gradient of the input.

        Args:
            grad: that of the output, (N, O, oh, ow).
            shape: that of the input, (N, C, H, W).
        """
        sh, sw = self.stride
        top, left = self.padding
        # Rows of the padded input in groups of one stride each: input row s q + r gets its gradient
        # from output rows q - j.
        groups = -(-(shape[2] + 2 * top) // sh), -(-(shape[3] + 2 * left) // sw)
        spread = self._by_product(grad, groups) if self.few else self._by_convolution(grad, groups)
        return spread[:, :, top : top + shape[2], left : left + shape[3]]

    def _by_convolution(self, grad: Tensor, groups: Pair) -> Tensor:
        sh, sw = self.stride
        jh, jw = self.reach
        after = groups[0] - grad.shape[2], groups[1] - grad.shape[3]
        if after == (jh - 1, jw - 1):
            out = F.conv2d(grad, self.phases, padding=after)
        else:
            out = F.conv2d(F.pad(grad, (jw - 1, after[1], jh - 1, after[0])), self.phases)
        # No copy when channels are last.
        parts = out.permute(0, 2, 3, 1).reshape(len(grad), *groups, sh, sw, -1)
        rows = parts.transpose(2, 3)
        joined = rows.reshape(len(grad), sh * groups[0], sw * groups[1], -1)  # (N, H', W', C)
        return joined.permute(0, 3, 1, 2)

    def _by_product(self, grad: Tensor, groups: Pair) -> Tensor:
        sh, sw = self.stride
        jh, jw = self.reach
        n, outputs, high, wide = grad.shape
        product = self.phases @ grad.permute(1, 0, 2, 3).reshape(outputs, -1)
        parts = product.reshape(jh, jw, -1, n, high, wide)
        out = product.new_zeros(parts.shape[2], n, *groups)
        for row in range(jh):
            for column in range(jw):
                out[:, :, row : row + high, column : column + wide] += parts[row, column]
        ordered = out.reshape(sh, sw, -1, n, *groups).permute(3, 2, 4, 0, 5, 1)
        return ordered.reshape(n, -1, sh * groups[0], sw * groups[1])

    def _sort_by_remainder(self, weight: Tensor) -> Tensor:
        sh, sw = self.stride
        jh, jw = self.reach
        out_channels, channels, kh, kw = weight.shape
        padded = F.pad(weight, (0, sw * jw - kw, 0, sh * jh - kh))
        taps = padded.reshape(out_channels, channels, jh, sh, jw, sw)
        if self.few:
            return taps.permute(2, 4, 3, 5, 1, 0).reshape(-1, out_channels).contiguous()
        turned = taps.permute(3, 5, 1, 0, 2, 4).flip(4, 5)
        kernels = turned.reshape(sh * sw * channels, out_channels, jh, jw)
        return kernels.contiguous(memory_format=torch.channels_last)


class _Convolution(torch.autograd.Function):
    """The layer's own forward, with another way to its input's gradient.

    The weights gather none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Conv2d, gradient: InputGradient) -> Tensor:
        ctx.gradient = gradient
        ctx.shape = x.shape
        return nn.Conv2d.forward(layer, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient(grads[0], ctx.shape), None, None


def _forward(layer: nn.Conv2d, gradient: InputGradient, x: Tensor) -> Tensor:
    return _Convolution.apply(x, layer, gradient)  # type: ignore[no-any-return]


class _Flatten(torch.autograd.Function):
    """Flattening whose gradient comes in the layout of the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last)
        return x.flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        return grads[0].reshape(ctx.shape).contiguous(memory_format=layout)


def _flatten(x: Tensor) -> Tensor:
    return _Flatten.apply(x) if x.dim() == 4 else x.flatten(1)


def speed_up_input_gradients(module: nn.Module) -> int:
    """Give layers inside of the frozen ``module``, in place, faster input gradients.

    Every layer stays the object that it is, with its class, attributes and hooks: it is its
    ``forward`` that changes. A flattening layer hands its gradient on in the layout of its input,
    so that what comes before it need not work on a mixture.

    Returns:
        How many convolutions have one.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and _gains(layer)]
    for layer in layers:
        stride = (layer.stride[0], layer.stride[1])
        padding = (int(layer.padding[0]), int(layer.padding[1]))
        gradient = InputGradient(layer.weight.detach(), stride, padding)
        layer.forward = partial(_forward, layer, gradient)  # type: ignore[method-assign]
    for part in module.modules():
        own = "forward" in vars(part)
        if type(part) is nn.Flatten and (part.start_dim, part.end_dim) == (1, -1) and not own:
            part.forward = _flatten  # type: ignore[assignment, method-assign]
    return len(layers)


def _gains(layer: nn.Conv2d) -> bool:
    """Tell whether ``layer`` is torch's own, with a fixed weight, and gains by it.

    Its kernel has to be a multiple of its stride, so that no tap is padding.
    ``python benchmarks/fast_paths.py`` measures it: with no padding it takes 0.3 to 0.95 of the
    general kernel's time, with padding (3x3 at stride 2, as in a ResNet) up to twice as much.
    """
    return (
        type(layer) is nn.Conv2d
        and "forward" not in vars(layer)
        and layer._parameters.get("weight") is not None
        and not layer.weight.requires_grad
        and max(layer.stride) > 1
        and all(
            kernel % stride == 0
            for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True)
        )
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and isinstance(layer.padding, tuple)
    )
