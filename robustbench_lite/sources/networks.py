"""The networks this project trains itself.

Each takes images (B, C, H, W) in [0, 1] and returns logits (B, K).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.errors import UsageError
from robustbench_lite.files.reading import MAX_CLASSES
from robustbench_lite.model.layers import ConvexAggregation


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity.

    Where the shape changes, beside a 1x1 convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)
        changes = stride != 1 or channels_in != channels
        self.shortcut: nn.Module = (
            nn.Conv2d(channels_in, channels, 1, stride) if changes else nn.Identity()
        )
        self.join = ConvexAggregation(2)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(F.relu(self.first(x)))
        return F.relu(self.join(self.shortcut(x), branch))


def convolutional(channels: int = 1, size: int = 28, classes: int = 10) -> nn.Module:
    """conv16-conv32-fc100-fc: the small network of the certification papers.

    Wong and Kolter, arXiv:1711.00851.
    """
    _check(channels, size, classes)
    side = size // 2 // 2
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * side * side, 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def residual(channels: int = 1, size: int = 28, classes: int = 10, width: int = 16) -> nn.Module:
    """Three residual blocks without batch norm.

    A row's logits depend on that row alone, in training too.
    """
    _check(channels, size, classes, width)
    side = math.ceil(math.ceil(size / 2) / 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        ResidualBlock(width, width, stride=1),
        ResidualBlock(width, 2 * width, stride=2),
        ResidualBlock(2 * width, 4 * width, stride=2),
        nn.AvgPool2d(side),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


_MOST = 8192
"""Channels, pixels a side, or width: a card in a file says how many, and each has weights."""


def _check(channels: int, size: int, classes: int, width: int = 1) -> None:
    if not (
        1 <= channels <= _MOST
        and 4 <= size <= _MOST
        and 2 <= classes <= MAX_CLASSES
        and 1 <= width <= _MOST
    ):
        raise UsageError(
            f"A network needs channels in [1, {_MOST}], size in [4, {_MOST}], classes in [2, "
            f"{MAX_CLASSES}] and width in [1, {_MOST}], not channels={channels}, size={size}, "
            f"classes={classes}, width={width}."
        )


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "convolutional": convolutional,
    "residual": residual,
}
"""Network name -> factory with the arguments ``channels``, ``size`` and ``classes``."""
