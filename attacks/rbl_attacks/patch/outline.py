"""The outline of a patch: a circle or a square in the middle of its texture."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Shape = Literal["circle", "square"]
MARGIN = 1.25
"""Half the width of the texture in half widths of the patch.

Beyond the patch's edge there is colour too, for pixels on the edge.
"""


def mask_of(shape: Shape, side: int, device: torch.device) -> Tensor:
    """1 in the middle of the texture, 0.5 at the edge of the patch, less beyond: (side, side)."""
    return 1 - _distance(shape, side, device) / 2


def show(texture: Tensor, shape: Shape) -> Tensor:
    """The patch upright, as a picture.

    Args:
        texture: (C, side, side).
        shape: of the patch.

    Returns:
        (C + 1, side, side): the last channel says how opaque it is.
    """
    inside = _distance(shape, texture.shape[-1], texture.device) <= 1
    return torch.cat([texture, inside.to(texture.dtype).unsqueeze(0)])


def _distance(shape: Shape, side: int, device: torch.device) -> Tensor:
    """From the middle of a texture to each texel, (side, side); 1 at the edge of the patch."""
    axis = torch.linspace(-MARGIN, MARGIN, side, device=device)
    down = axis.unsqueeze(1)
    across = axis.unsqueeze(0)
    if shape == "circle":
        return torch.hypot(down, across)
    return torch.maximum(down.abs(), across.abs())
