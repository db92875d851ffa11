"""What a network's answers are: logits, or something that makes it look robust.

Attacks and margins need logits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from robustbench_lite.errors import ModelError

Outputs = Literal["logits", "probabilities"]

_EXACT = 1e-4
"""Of float32: how far from 1 a row of probabilities may sum, and by how much of their range sums
that are equal may differ.
"""
_COARSE = (torch.bfloat16, torch.float16)
_COARSEST = 0.02
"""Of the range of the answers: sums that are known less well than this say nothing."""
_MOVES = 0.01
"""Of the range of the answers: what an answer moves at least, from image to image, in a network
that looks at images.
"""
_CENTRED = 0.05


def check_outputs(logits: Tensor, highest_label: int, classes: int | None) -> None:
    """Refuse what cannot be logits (N, K) of a network for these labels.

    Raises:
        ModelError: a wrong shape or number of classes, NaN, or probabilities; says what to do.
    """
    if logits.dim() != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ModelError(
            f"The model returns {tuple(logits.shape)}, {logits.dtype}; float logits (B, K), K >= "
            "2, are needed."
        )
    found = logits.shape[1]
    if found <= highest_label or (classes is not None and found != classes):
        needed = classes if classes is not None else f"at least {highest_label + 1}"
        raise ModelError(
            f"The model has {found} classes, the data needs {needed}: is it the network for this "
            "data set?"
        )
    if not bool(logits.isfinite().all()):
        raise ModelError(
            "The model returns NaN or inf on clean images: check its weights and normalisation."
        )
    if _are_probabilities(logits):
        raise ModelError(
            "The model returns probabilities, whose gradients vanish and make it look robust. "
            "Return logits (no softmax), or pass outputs='probabilities' (--outputs probabilities) "
            "to have their logarithm used."
        )


def check_probabilities(found: object) -> None:
    """Refuse what was said to be probabilities (N, K) and is not.

    Raises:
        ModelError: a row has a negative entry, or does not sum to 1 as well as its numbers can
        tell.
    """
    if not (isinstance(found, Tensor) and found.dim() == 2 and _are_probabilities(found, 1e-3)):
        raise ModelError(
            "The model was said to return probabilities, and its rows are not at least 0 with a "
            "sum of 1: leave out outputs='probabilities' (--outputs) if it returns logits."
        )


def doubt(logits: Tensor) -> str | None:
    """Say what a reader must know of answers (N, K) that are hardly logits.

    They are those to different images; None for ordinary ones.

    Softmax and sigmoid saturate: gradients vanish, and a network looks robust that is not. Where
    that cannot be told for sure, it is no reason to refuse the network.
    """
    values = logits.cpu().double()
    low = float(values.min())
    high = float(values.max())
    if not _look_at_images(values):
        return None
    if low >= 0 and high <= 1:
        return (
            f"every output lies in [0, 1] ({low:.3g} to {high:.3g}), as after a sigmoid, whose "
            "gradients vanish: return what comes before it"
        )
    total = _common_sum(logits)
    if total is None or _is_centred(values, total):
        return None
    return (
        f"the outputs of every image sum to {total:.4g}, as scaled or shifted probabilities do, "
        "whose gradients vanish: return logits, or plain probabilities with "
        "outputs='probabilities' (--outputs probabilities)"
    )


def _are_probabilities(found: Tensor, tolerance: float = _EXACT) -> bool:
    sums = found.cpu().double().sum(1)
    return bool((found >= 0).all()) and bool(
        ((sums - 1).abs() < max(tolerance, 2 * _resolution(found))).all()
    )


def _resolution(values: Tensor) -> float:
    """The relative distance of neighbours on the coarsest grid that all ``values`` lie on.

    They may have been rounded to it.
    """
    kept = values.cpu().float()
    for dtype in _COARSE:
        if values.dtype == dtype or torch.equal(kept.to(dtype).float(), kept):
            return float(torch.finfo(dtype).eps)
    return float(torch.finfo(torch.float32).eps)


def _look_at_images(values: Tensor) -> bool:
    """The answers (N, K) of different images differ."""
    return float((values.amax(0) - values.amin(0)).max()) > _MOVES * float(
        values.max() - values.min()
    )


def _common_sum(logits: Tensor) -> float | None:
    """What every row of (N, K) sums to, as well as its numbers can tell.

    None where sums differ or tell nothing.
    """
    values = logits.cpu().double()
    sums = values.sum(1)
    spread = float(values.max() - values.min())
    tolerance = (
        _EXACT * spread + _resolution(logits) * float(values.abs().max()) * values.shape[1] ** 0.5
    )
    if (
        len(values) < 2
        or tolerance > _COARSEST * spread
        or float(sums.max() - sums.min()) > 2 * tolerance
    ):
        return None
    return float(sums.mean())


def _is_centred(values: Tensor, total: float) -> bool:
    """Whether the rows (N, K) are logits around their mean.

    They sum to 0, and reach further down than probabilities less their mean can.
    """
    classes = values.shape[1]
    low = float(values.min())
    high = float(values.max())
    if abs(total) > _EXACT * classes * (high - low):
        return False
    return classes == 2 or abs(-low * (classes - 1) / high - 1) > _CENTRED
