"""The blocks of RayS: an image is halved, quartered, and so on, in the order of its values."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """One of the 2^level equal parts of an image."""

    level: Tensor
    """(B,) int64."""
    number: Tensor
    """Which part, (B,) int64."""

    def after(self, values: int) -> Block:
        """Give the next block: the next part, the first of the next level, or the whole again.

        Args:
            values: of an image; there are no more parts than those.
        """
        number = self.number + 1
        through = number >= 2**self.level
        level = self.level + through
        level = torch.where(2**level > values, 0, level)
        return Block(level, torch.where(through, 0, number))

    def mask(self, like: Tensor) -> Tensor:
        """Find the values that are in it, of images as ``like`` (B, C, H, W), bool."""
        values = like[0].numel()
        # Rounded up: of a part and the next one each value is in exactly one.
        begin, end = (
            (-(-(self.number + step) * values // 2**self.level)).unsqueeze(1) for step in (0, 1)
        )
        place = torch.arange(values, device=like.device)
        return ((place >= begin) & (place < end)).reshape(like.shape)
