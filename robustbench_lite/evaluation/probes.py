"""Ask a network about probe images.

Its answers belong to its records: another network answers otherwise.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.errors import ModelError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.sources.dataset import Dataset

logger = logging.getLogger(__name__)

VERSION = 1
"""Of the images below: raised when one of them changes."""
FIXED = 8
IMAGES = 8
"""How many images are the same for all data, and how many of the data's own first ones are asked
about at most.
"""
_COLUMNS = 100
"""Most numbers that are kept of an answer: a record stays small whatever the network has been
trained on.
"""
_BLOCKS = 4


def fixed_images(shape: tuple[int, int, int]) -> Tensor:
    """(8, C, H, W) in [0, 1], the same to the bit on any machine.

    Noise shows what clips, rounds and scales; blocks what smooths; black, grey and white what
    shifts.
    """
    channels, height, width = shape
    noise = SampleRng.create(0, "probes", torch.arange(FIXED)).uniform(0, shape)
    coarse = SampleRng.create(1, "probes", torch.arange(FIXED)).uniform(
        0, (channels, _BLOCKS, _BLOCKS)
    )
    rows = torch.arange(height) * _BLOCKS // height
    columns = torch.arange(width) * _BLOCKS // width
    blocks = coarse[:, :, rows][:, :, :, columns]  # (8, C, H, W)
    flat = torch.ones(shape)
    return torch.stack(
        [
            noise[0],
            noise[1],
            0.375 + noise[2] / 4,
            blocks[3],
            0.375 + blocks[4] / 4,
            0 * flat,
            0.5 * flat,
            flat,
        ]
    )


def ask(model: DefendedModel, data: Dataset, device: torch.device) -> Behaviour:
    """Ask ``model``, as it is judged, about the fixed images and the first ones of ``data``.

    Takes one forward.

    A network that fails on an image that is none of its kind is asked about those of the data
    alone.
    """
    own = data.x[:IMAGES]
    c, h, w = own.shape[1:]
    try:
        return Behaviour.of(
            _answers(model, torch.cat([fixed_images((c, h, w)), own]), device),
            fixed=FIXED,
            probes=VERSION,
        )
    except Exception as error:  # noqa: BLE001 -- a network raises whatever it likes
        logger.info(
            "The network fails on a probe image, and is asked about the first images of the data "
            "alone: %s",
            error,
        )
    try:
        return Behaviour.of(_answers(model, own, device), fixed=0, probes=VERSION)
    except Exception as error:
        raise ModelError(
            f"The model fails on images of shape {(c, h, w)}: {str(error).partition(chr(10))[0]}"
        ) from error


def _answers(model: DefendedModel, x: Tensor, device: torch.device) -> NDArray[np.float32]:
    zeros = torch.zeros(len(x), dtype=torch.int64, device=device)
    points = Points(x.to(device), zeros, zeros - 1, torch.arange(len(x), device=device), zeros)
    logits = next(iter(Passes(model, len(x)).ballots(points, 1)))
    return _fold(logits.to("cpu", torch.float64).numpy())


def _fold(answers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Fold answers (P, K) into (P, min(K, 100)).

    Every class has its part in a column, at a weight that no other of the column has.
    """
    rows, classes = answers.shape
    if classes <= _COLUMNS:
        return answers.astype(np.float32)
    padded = np.zeros((rows, -(-classes // _COLUMNS) * _COLUMNS))
    padded[:, :classes] = answers
    layers = padded.reshape(rows, -1, _COLUMNS)  # (P, layers, 100)
    folded: NDArray[np.float32] = (
        (layers / np.arange(1, layers.shape[1] + 1)[:, None]).sum(1).astype(np.float32)
    )
    return folded
