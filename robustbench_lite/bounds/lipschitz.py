"""An upper bound of a network's L2 Lipschitz constant, from the norms of its layers.

Cisse et al. 2017, arXiv:1704.08847. A chain multiplies the norms; a weighted sum of branches adds
up weight times constant, which for a convex combination is at most the largest of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_lite.bounds.graph.graph import Graph, Node
from robustbench_lite.bounds.graph.operations import (
    Activation,
    Affine,
    Convolution,
    Input,
    Linear,
    Reshape,
    Scale,
    Sum,
)

EXACT = 2048
"""Up to so many inputs or outputs, a convolution's norm is that of its whole matrix; beyond, of a
larger, periodic image.
"""
_ROUNDING = 1 + 1e-9
"""What float64 decompositions may be off."""


@torch.no_grad()
def lipschitz_constant(graph: Graph) -> float:
    """Bound L with ``||f(x) - f(x')|| <= L ||x - x'||`` in L2, for images to logits.

    ``graph`` is in float64.
    """
    known: list[float] = []
    for node in graph.nodes:
        before = [known[index] for index in node.inputs]
        match node.operation:
            case Input():
                known.append(1.0)
            case Activation() | Reshape():
                known.append(before[0])
            case Sum():
                sizes = [float(size) for size in node.operation.sizes]
                known.append(sum(size * part for size, part in zip(sizes, before, strict=True)))
            case Affine():
                known.append(before[0] * operator_norm(node, graph.nodes[node.inputs[0]].shape))
    return known[-1]


def operator_norm(node: Node, shape: tuple[int, ...]) -> float:
    """Bound the largest singular value of an affine node that takes inputs of ``shape``.

    The result may be a little more than that, and never less.
    """
    operation = node.operation
    if isinstance(operation, Scale):
        return float(operation.scale.abs().max())
    if isinstance(operation, Linear):
        return _ROUNDING * float(torch.linalg.matrix_norm(operation.weight, 2))
    if not isinstance(operation, Convolution):
        raise TypeError(f"No norm is known for {operation}.")
    inputs = math.prod(shape)
    outputs = math.prod(node.shape)
    if operation.groups == 1 and min(inputs, outputs) <= EXACT:
        return _ROUNDING * _whole_norm(operation, shape, node.shape, inputs, outputs)
    return _ROUNDING * max(
        _periodic_norm(operation, group, shape)
        for group in operation.weight.chunk(operation.groups)
    )


def _whole_norm(
    conv: Convolution, shape: tuple[int, ...], out_shape: tuple[int, ...], inputs: int, outputs: int
) -> float:
    """From the Gram matrix of the convolution as a matrix, on its smaller side."""
    plain = Convolution(conv.weight, None, conv.stride, conv.padding, conv.dilation)
    eye = torch.eye(min(inputs, outputs), dtype=conv.weight.dtype, device=conv.weight.device)
    columns = []
    for part in torch.split(eye, 256):
        if inputs <= outputs:
            columns.append(
                plain.transpose(plain.forward(part.reshape(-1, *shape)), shape).flatten(1)
            )
        else:
            columns.append(
                plain.forward(plain.transpose(part.reshape(-1, *out_shape), shape)).flatten(1)
            )
    gram = torch.cat(columns)
    return float(torch.linalg.eigvalsh((gram + gram.T) / 2)[-1].clamp_min(0).sqrt())


def _periodic_norm(conv: Convolution, weight: Tensor, shape: tuple[int, ...]) -> float:
    """Compute the norm on a periodic image large enough for nothing to wrap around.

    Zero padding is a part of it (Sedghi et al. 2019). A stride is a convolution without one over
    the image's positions sorted by their remainder modulo the stride.
    """
    (sh, sw), (dh, dw) = conv.stride, conv.dilation
    kh, kw = conv.reach
    spread = weight.new_zeros(*weight.shape[:2], kh, kw)
    spread[:, :, ::dh, ::dw] = weight
    jh = -(-kh // sh)
    jw = -(-kw // sw)
    padded = F.pad(spread, (0, sw * jw - kw, 0, sh * jh - kh))
    strided = padded.reshape(*weight.shape[:2], jh, sh, jw, sw)
    kernel = strided.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)  # (O, C sh sw, jh, jw)
    high = -(-(shape[-2] + 2 * conv.padding[0]) // sh) + jh - 1
    wide = -(-(shape[-1] + 2 * conv.padding[1]) // sw) + jw - 1
    waves = torch.fft.rfft2(kernel, s=(high, wide))  # (O, C sh sw, H, W / 2 + 1)
    waves = waves.permute(2, 3, 0, 1)
    return float(torch.linalg.matrix_norm(waves, 2).max())
