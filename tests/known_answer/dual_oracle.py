"""The dual bound of Wong and Kolter 2018 (arXiv:1711.00851, equations 5 and 6 and algorithm 1),
slow and literal.

Every layer becomes a dense float64 matrix, every unit of every layer gets its own backward pass,
nothing is shared or skipped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def layers_of(
    model: nn.Sequential, shape: tuple[int, ...]
) -> tuple[list[tuple[Tensor, Tensor]], list[float]]:
    """(W, b) of each stretch of affine layers between two ReLUs, and the leaky slope of each
    activation.
    """
    matrices, slopes = [], []
    stretch: list[nn.Module] = []
    for module in [*model, nn.ReLU()]:
        if not isinstance(module, nn.ReLU | nn.LeakyReLU):
            stretch.append(module.double())
            continue
        affine = nn.Sequential(*stretch)
        count = int(torch.tensor(shape).prod())
        with torch.no_grad():
            zero = affine(torch.zeros(1, *shape, dtype=torch.float64))
            columns = affine(torch.eye(count, dtype=torch.float64).reshape(count, *shape)) - zero
        matrices.append((columns.reshape(count, -1).T, zero.flatten()))
        shape, stretch = tuple(zero.shape[1:]), []
        slopes.append(getattr(module, "negative_slope", 0.0))
    return matrices, slopes[:-1]


def objective(
    matrices: list[tuple[Tensor, Tensor]],
    slopes: list[float],
    bounds: list[tuple[Tensor, Tensor]],
    x: Tensor,
    eps: float,
    c: Tensor,
    norm: str,
    box: bool,
) -> Tensor:
    """J(c), a lower bound of c . z over the region, from the bounds of all hidden units
    before z.
    """
    total, nu = torch.zeros((), dtype=c.dtype), c
    for i in reversed(range(len(matrices))):
        weight, bias = matrices[i]
        total, hat = total + nu @ bias, weight.T @ nu
        if i == 0:
            break
        (low, high), slope = bounds[i - 1], slopes[i - 1]
        crosses = (low < 0) & (high > 0)
        d = torch.where(
            crosses, (high - slope * low) / (high - low), torch.where(low >= 0, 1.0, slope)
        )
        total += (hat.clamp_max(0) * high * (1 - d))[crosses].sum()
        nu = d * hat
    if norm == "l2":
        return total + x @ hat - eps * hat.norm()  # type: ignore[no-any-return]
    low, high = ((x - eps).clamp_min(0), (x + eps).clamp_max(1)) if box else (x - eps, x + eps)
    return total + low @ hat.clamp_min(0) + high @ hat.clamp_max(0)


def dual_margins(
    model: nn.Sequential, x: Tensor, y: Tensor, eps: float, norm: str = "linf", box: bool = False
) -> Tensor:
    """The smallest J(e_y - e_j) over the other classes j of each row of ``x`` (N, C, H, W),
    (N,).
    """
    matrices, slopes = layers_of(model, tuple(x.shape[1:]))
    found = []
    for row, label in zip(x.double().flatten(1), y.tolist(), strict=True):
        bounds: list[tuple[Tensor, Tensor]] = []
        for depth in range(1, len(matrices)):
            units = torch.eye(len(matrices[depth - 1][1]), dtype=torch.float64)
            low = [
                objective(matrices[:depth], slopes, bounds, row, eps, c, norm, box) for c in units
            ]
            high = [
                -objective(matrices[:depth], slopes, bounds, row, eps, -c, norm, box) for c in units
            ]
            bounds.append((torch.stack(low), torch.stack(high)))
        eye = torch.eye(len(matrices[-1][1]), dtype=torch.float64)
        others = [j for j in range(len(eye)) if j != label]
        found.append(
            min(
                float(objective(matrices, slopes, bounds, row, eps, eye[label] - eye[j], norm, box))
                for j in others
            )
        )
    return torch.tensor(found, dtype=torch.float64)
