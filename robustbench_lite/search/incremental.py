"""Logits of images that differ from a known one in a single pixel, at the cost of what that pixel reaches.

Attacks by scores ask for hundreds of such neighbours of one image: ZOO moves one value a question, a one-pixel attack exchanges
one pixel. In a chain of convolutions, ReLUs and linear layers the change stays in a small window for the first layers, where
almost all of the work lies. Only the window's difference from the known image is carried through (``search.pixel_windows``).
The differences are sums of fewer terms than the whole pass, so finite differences of the logits lose less to rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from robustbench_lite.search.convolution import hooked
from robustbench_lite.search.defended import Pointwise, Wrapper
from robustbench_lite.search.pixel_windows import (
    Axis,
    WindowedConvolution,
    WindowedLinear,
    Windows,
    entries,
    windows_of,
)
from robustbench_lite.search.rows import SMALLEST_BATCH, at_least

LEAST_GAIN = 3.0
"""A chain whose windows cost more than the whole pass divided by this is not worth the sorting."""
LARGEST_TABLE = 16_000_000
"""Entries of a layer's matrices, 64 MB: where windows would need more, they have grown too large to gain anything."""


class Incremental:
    """A network as a map of changes. ``of`` tells whether it is one that this can do, and does quicker."""

    def __init__(
        self, front: int, convolutions: Sequence[WindowedConvolution], joining: WindowedLinear, layers: Sequence[nn.Module]
    ) -> None:
        self.front, self.layers = nn.Sequential(*layers[:front]), layers[front:]
        self.convolutions, self.joining = convolutions, joining
        self.linear = [layer for layer in layers if isinstance(layer, nn.Linear)]

    @classmethod
    def of(cls, module: nn.Module, shape: tuple[int, ...]) -> Incremental | None:
        """For images of ``shape`` (C, H, W); ``None`` where layers are of another kind or the windows become too large."""
        layers = list(_flat(module))
        kinds = [_kind(layer) for layer in layers]
        front = next((number for number, kind in enumerate(kinds) if kind != "pointwise"), 0)
        if not re.fullmatch("(convolution relu )+flatten (linear relu )*linear", " ".join(kinds[front:])):
            return None
        flatten = kinds.index("flatten")
        convolutions: list[WindowedConvolution] = []
        axes = Axis(0, shape[1] - 1, 1, shape[1]), Axis(0, shape[2] - 1, 1, shape[2])
        for layer in layers[front:flatten:2]:
            if entries(layer, axes) > LARGEST_TABLE:  # type: ignore[arg-type]
                return None
            convolutions.append(WindowedConvolution.of(layer, axes))  # type: ignore[arg-type]
            axes = convolutions[-1].after
            if any(axis.size < 1 or axis.length > axis.size for axis in axes):
                return None
        first: nn.Linear = layers[flatten + 1]  # type: ignore[assignment]
        channels = len(convolutions[-1].weight)
        fits = first.in_features == channels * axes[0].size * axes[1].size
        table = axes[0].places * axes[1].places * axes[0].length * axes[1].length * channels * first.out_features
        if not fits or table > LARGEST_TABLE or convolutions[0].weight.shape[1] != shape[0]:
            return None
        made = cls(front, convolutions, WindowedLinear.of(first, axes), layers)
        return made if made.gain >= LEAST_GAIN else None

    @cached_property
    def gain(self) -> float:
        """Multiplications of a whole pass for one of a window."""
        rest = sum(layer.weight.numel() for layer in self.linear[1:])
        whole = sum(part.whole_cost for part in self.convolutions) + self.linear[0].weight.numel() + rest
        return float(whole / (sum(part.cost for part in self.convolutions) + self.joining.cost + rest))

    @torch.no_grad()
    def logits(self, base: Tensor, owner: Tensor, place: Tensor, pixel: Tensor) -> Tensor:
        """The logits, (N, K), of images ``base[owner]`` with another value, ``pixel``, at ``place``.

        ``base`` (B, C, H, W); ``owner`` (N,) int64; ``place``, row times width plus column, (N,) int64; ``pixel`` (N, C).
        """
        before = base.flatten(2)[owner, :, place]  # (N, C)
        change = (self.front(pixel[:, :, None, None]) - self.front(before[:, :, None, None])).permute(0, 2, 3, 1)
        known, width = iter(self._outputs(self.front(base))), base.shape[3]
        number = torch.arange(len(change), device=change.device)
        windows = Windows(change, place // width, place % width, owner, number)
        for part in self.convolutions:
            windows = part(windows)
            _rectified(windows.change, windows_of(next(known), windows, part.after))
        windows, change = self.joining(windows)
        for layer in self.linear[1:]:
            change = _rectified(change, next(known)[windows.owner]) @ layer.weight.T
        return torch.empty_like(change).index_copy_(0, windows.number, next(known)[windows.owner] + change)

    def _outputs(self, base: Tensor) -> list[Tensor]:
        """What each convolution and linear layer gives for ``base``, before its ReLU."""
        outputs, x = [], at_least(base, SMALLEST_BATCH)
        for layer in self.layers:
            x = layer(x)
            if _kind(layer) in ("convolution", "linear"):
                outputs.append(x[: len(base)])
        return outputs


def _rectified(change: Tensor, before: Tensor) -> Tensor:
    """The change, in place, of the ReLU of ``before``."""
    return change.add_(before).clamp_min_(0).sub_(before.clamp_min_(0))


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """The layers, in order, that are all that ``module`` does; less those that do nothing when a network is evaluated."""
    parts = module if type(module) is nn.Sequential else module.in_sequence() if isinstance(module, Wrapper) else None
    if hooked(module) or (parts is None and type(module) not in (nn.Identity, nn.Dropout)):
        yield module
    for part in () if hooked(module) or parts is None else parts:
        yield from _flat(part)


def _kind(layer: nn.Module) -> str:
    """What ``layer`` is to an ``Incremental``: ``pointwise``, one of ``_KINDS``, or ``other``."""
    plain = not hooked(layer)
    if isinstance(layer, nn.Conv2d):
        plain &= layer.dilation == (1, 1) and layer.groups == 1
        plain &= layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
    if isinstance(layer, nn.Flatten):
        plain &= (layer.start_dim, layer.end_dim) == (1, -1)
    kind = "pointwise" if isinstance(layer, Pointwise) else _KINDS.get(type(layer), "other")
    return kind if plain else "other"


_KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.ReLU: "relu",
    nn.Flatten: "flatten",
    nn.Linear: "linear",
}
