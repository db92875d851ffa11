"""Input gradients of strided convolutions on a CPU, at the speed of a forward convolution.

An attack wants the gradient of the input and of nothing else. For a stride above 1 the general backward kernel spends most of
its time between the positions that count. Sorting the input's positions by their remainder modulo the stride turns the gradient
into an ordinary convolution with one set of output channels a remainder, whose results are then put side by side (the sub-pixel
convolution of Shi et al. 2016, arXiv:1609.05158, read backwards). The forward pass is torch's own, bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]


class _StridedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenStridedConv2d) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.input_gradient(grad, ctx.shape), None


class FrozenStridedConv2d(nn.Module):
    """A convolution whose weights gather no gradient; same output as the layer it is made of."""

    FEW_CHANNELS = 4
    """Up to so many input channels (images), a matrix product and its pieces added up beat a convolution."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride: Pair = (conv.stride[0], conv.stride[1])
        self.padding: Pair = (int(conv.padding[0]), int(conv.padding[1]))
        self.reach: Pair = (-(-conv.kernel_size[0] // self.stride[0]), -(-conv.kernel_size[1] // self.stride[1]))
        self.few = conv.in_channels <= self.FEW_CHANNELS
        self.register_buffer("phases", self.sorted_by_remainder(self.weight.detach()), persistent=False)

    phases: Tensor
    """The weights by remainder: (sh sw C, O, jh, jw) as kernels, or (jh jw sh sw C, O) as a matrix for few channels."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _StridedConvolution.apply(x, self)
        return out

    def input_gradient(self, grad: Tensor, shape: torch.Size) -> Tensor:
        """The gradient of the input, of ``shape`` (N, C, H, W), from that of the output (N, O, oh, ow)."""
        (sh, sw), (top, left) = self.stride, self.padding
        # Rows of the padded input in groups of one stride each: input row s q + r gets its gradient from output rows q - j.
        groups = -(-(shape[2] + 2 * top) // sh), -(-(shape[3] + 2 * left) // sw)
        spread = self._by_product(grad, groups) if self.few else self._by_convolution(grad, groups)
        return spread[:, :, top : top + shape[2], left : left + shape[3]]

    def _by_convolution(self, grad: Tensor, groups: Pair) -> Tensor:
        (sh, sw), (jh, jw) = self.stride, self.reach
        after = groups[0] - grad.shape[2], groups[1] - grad.shape[3]
        if after == (jh - 1, jw - 1):
            out = F.conv2d(grad, self.phases, padding=after)
        else:
            out = F.conv2d(F.pad(grad, (jw - 1, after[1], jh - 1, after[0])), self.phases)
        out = out.permute(0, 2, 3, 1).reshape(len(grad), *groups, sh, sw, -1)  # no copy when channels are last
        return out.transpose(2, 3).reshape(len(grad), sh * groups[0], sw * groups[1], -1).permute(0, 3, 1, 2)

    def _by_product(self, grad: Tensor, groups: Pair) -> Tensor:
        (sh, sw), (jh, jw) = self.stride, self.reach
        n, outputs, high, wide = grad.shape
        product = self.phases @ grad.permute(1, 0, 2, 3).reshape(outputs, -1)
        parts = product.reshape(jh, jw, -1, n, high, wide)
        out = product.new_zeros(parts.shape[2], n, *groups)
        for row in range(jh):
            for column in range(jw):
                out[:, :, row : row + high, column : column + wide] += parts[row, column]
        return out.reshape(sh, sw, -1, n, *groups).permute(3, 2, 4, 0, 5, 1).reshape(n, -1, sh * groups[0], sw * groups[1])

    def sorted_by_remainder(self, weight: Tensor) -> Tensor:
        """``phases`` of a weight of this layer's shape."""
        (sh, sw), (jh, jw) = self.stride, self.reach
        out_channels, channels, kh, kw = weight.shape
        padded = F.pad(weight, (0, sw * jw - kw, 0, sh * jh - kh))
        taps = padded.reshape(out_channels, channels, jh, sh, jw, sw)
        if self.few:
            return taps.permute(2, 4, 3, 5, 1, 0).reshape(-1, out_channels).contiguous()
        kernels = taps.permute(3, 5, 1, 0, 2, 4).flip(4, 5).reshape(sh * sw * channels, out_channels, jh, jw)
        return kernels.contiguous(memory_format=torch.channels_last)


class _Flattened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape, ctx.channels_last = x.shape, x.is_contiguous(memory_format=torch.channels_last)
        return x.flatten(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        return grad.reshape(ctx.shape).contiguous(memory_format=layout)


class LayoutKeepingFlatten(nn.Module):
    """``nn.Flatten`` whose gradient has the layout of its input: what comes before it need not work on a mixture of layouts."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Flattened.apply(x) if x.dim() == 4 else x.flatten(1)
        return out


def speed_up_input_gradients(model: nn.Module) -> nn.Module:
    """Exchange layers inside of ``model``, in place, where the gradient stays the same and no hook would be lost."""
    for name, child in model.named_children():
        if _can_be_exchanged(child):
            setattr(model, name, FrozenStridedConv2d(child).train(child.training))  # type: ignore[arg-type]
        elif type(child) is nn.Flatten and (child.start_dim, child.end_dim) == (1, -1) and not hooked(child):
            setattr(model, name, LayoutKeepingFlatten().train(child.training))
        else:
            speed_up_input_gradients(child)
    return model


def hooked(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _can_be_exchanged(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and max(layer.stride) > 1
        and all(kernel >= stride for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True))
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and isinstance(layer.padding, tuple)
        and not hooked(layer)
        and not layer.weight.requires_grad
    )
