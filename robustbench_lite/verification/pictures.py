"""A sheet of adversarial examples: clean image, adversarial, and the difference, a row each."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.records.files import write_bytes
from robustbench_lite.verification.examples import Adversarials, Context

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = 0.5
"""What a difference of 0 looks like."""
_CELL = 1.6
_MARGIN = 0.7
"""Inches: one image with its label, and the heading."""
_PICTURE = 256
"""Pixels that a picture of a perturbation is wide or high, at least."""


def write_sheet(
    saved: Adversarials, path: Path, rows: int, class_name: Callable[[int], str] = str
) -> int:
    """Write the first ``rows`` adversarials as PNG.

    Returns how many there were to show (with 0 nothing is written).
    """
    # Not pyplot: it would pick a display and keep state of its own.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = min(rows, len(saved))
    if shown == 0 or saved.context is None:
        return 0
    figure = Figure(figsize=(3 * _CELL, shown * _CELL + _MARGIN), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(shown, 3, squeeze=False)
    for axis, heading in zip(grid[0], ("clean", "adversarial", "difference"), strict=True):
        axis.set_title(heading, fontsize=9, fontweight="bold")
    for row in range(shown):
        _row(grid[row], saved, saved.context, row, class_name)
    identity = saved.record.identity
    figure.suptitle(f"{identity.attack.name} against {identity.model.name}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getvalue())
    return shown


def write_picture(picture: Tensor, path: Path) -> None:
    """Write (C, H, W) in [0, 1] as PNG, enlarged.

    With 2 or 4 channels the last says how opaque it is.
    """
    from PIL import Image

    channels = len(picture)
    shown = picture if channels <= 4 else picture.mean(0, keepdim=True)
    values = (shown.permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(
        values.squeeze(2) if len(shown) == 1 else values,
        {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(shown)],
    )
    factor = max(1, -(-_PICTURE // max(image.size)))
    buffer = io.BytesIO()
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(
        buffer, format="png"
    )
    write_bytes(path, buffer.getvalue())


class Magnified(NamedTuple):
    """A difference of images that can be seen."""

    picture: NDArray[np.float32]
    """(C, H, W), around grey."""
    factor: float
    """By how much it was magnified."""


def magnify_difference(x_adv: NDArray[np.float32], x: NDArray[np.float32]) -> Magnified:
    """``x_adv - x``, magnified until its largest value is black or white."""
    delta = x_adv - x
    largest = float(np.abs(delta).max())
    factor = _GREY / largest if largest > 0 else 1.0
    return Magnified((_GREY + factor * delta).clip(0, 1), factor)


def _row(
    axes: Any, saved: Adversarials, context: Context, row: int, class_name: Callable[[int], str]
) -> None:
    x = context.x[row].numpy()
    x_adv = saved.x_adv[row].numpy()
    magnified, factor = magnify_difference(x_adv, x)
    target = int(context.target[row])
    norm = saved.record.identity.threat.norm
    before, after = (
        class_name(int(c[row])) for c in (context.prediction_before, context.prediction_after)
    )
    _image(axes[0], x, before)
    _image(axes[1], x_adv, after if target < 0 else f"{after} (target)")
    _image(axes[2], magnified, f"x {factor:.3g}, {norm} {float(saved.distance[row]):.3g}")
    axes[0].set_ylabel(f"#{int(saved.ids[row])}", fontsize=8)


def _image(axis: Axes, image: NDArray[np.float32], label: str) -> None:
    """Turn an image (C, H, W) into a picture.

    What is neither grey nor colour is shown by the mean of its channels.
    """
    if len(image) == 3:
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
    else:
        axis.imshow(image.mean(0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_xlabel(label, fontsize=8)
