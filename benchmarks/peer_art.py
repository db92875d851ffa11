"""Attacks of the Adversarial Robustness Toolbox, set up to do what ours does."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness import Runner, training_images
from torch import Tensor, nn
from torch.nn import functional as F


def art(options: argparse.Namespace) -> Runner:
    """Make what runs ART's attack of that name."""
    from art.estimators.classification import PyTorchClassifier

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        classes = model(x[:1]).shape[1]
        wrapped = PyTorchClassifier(
            InSinglePrecision(model),
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
            device_type=x.device.type,
        )
        if options.attack == "patch":
            return patch(wrapped, model, x, classes, options)
        if options.attack not in ATTACKS:
            sys.exit(f"Nothing is set up for ART's {options.attack}: leave it out of --against.")
        attack = ATTACKS[options.attack](wrapped, options)
        x_adv = attack.generate(x.cpu().numpy(), F.one_hot(y, classes).cpu().numpy())
        return torch.as_tensor(x_adv).to(x)

    return run


class InSinglePrecision(nn.Module):
    """ART's boundary attack hands on images in float64."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.float())  # type: ignore[no-any-return]


def one_pixel(wrapped: object, options: argparse.Namespace) -> Any:
    """Make its one-pixel attack; its population is 400."""
    from art.attacks.evasion import PixelAttack

    return PixelAttack(wrapped, th=int(options.eps), es=1, max_iter=options.steps - 1)


def boundary(wrapped: object, options: argparse.Namespace) -> Any:
    """Make its boundary attack, with as many queries in all as ours.

    An iteration of its 20 orthogonal proposals asks about 30 queries.
    """
    from art.attacks.evasion import BoundaryAttack

    return BoundaryAttack(
        wrapped,
        targeted=False,
        max_iter=options.steps // 27,
        batch_size=options.batch_size,
        verbose=False,
    )


def carlini_wagner(wrapped: object, options: argparse.Namespace) -> Any:
    """Make its attack of Carlini and Wagner."""
    from art.attacks.evasion import CarliniL2Method

    return CarliniL2Method(
        wrapped,
        max_iter=options.steps,
        binary_search_steps=options.search_steps,
        initial_const=1e-3,
        learning_rate=options.step_size,
        batch_size=options.batch_size,
        verbose=False,
    )


def zoo(wrapped: object, options: argparse.Namespace) -> Any:
    """Make its ZOO, run image by image: of a batch of several it moves the first one only."""
    from art.attacks.evasion import ZooAttack

    attack = ZooAttack(
        wrapped,
        max_iter=options.steps,
        binary_search_steps=options.search_steps,
        initial_const=0.01,
        nb_parallel=128,
        use_resize=False,
        use_importance=False,
        variable_h=1e-4,
        verbose=False,
        batch_size=options.art_batch_size,
    )
    run_one = attack.generate
    attack.generate = lambda x, y: np.concatenate(
        [run_one(a[None], b[None]) for a, b in zip(x, y, strict=True)]
    )
    return attack


def patch(
    wrapped: object, model: nn.Module, x: Tensor, classes: int, options: argparse.Namespace
) -> Tensor:
    """Fit its patch for at least as many steps, and put it on each image once.

    Its epochs are whole ones.
    """
    from art.attacks.evasion import AdversarialPatchPyTorch

    side = min(x.shape[2:])
    training = training_images(model, options)
    scale = (4 * options.eps / math.pi) ** 0.5 / side
    attack = AdversarialPatchPyTorch(
        wrapped,
        rotation_max=22.5,
        scale_min=scale,
        scale_max=scale,
        learning_rate=options.step_size,
        batch_size=options.fit_batch,
        max_iter=math.ceil(options.steps / math.ceil(len(training.y) / options.fit_batch)),
        patch_shape=(x.shape[1], side, side),
        patch_type="circle",
        targeted=False,
        verbose=False,
    )
    labels = F.one_hot(training.y, classes).float()
    attack.generate(training.x.cpu().numpy(), labels.cpu().numpy())
    return torch.as_tensor(attack.apply_patch(x.cpu().numpy(), scale=scale)).to(x)


ATTACKS: dict[str, Callable[[object, argparse.Namespace], Any]] = {
    "boundary": boundary,
    "carlini_wagner": carlini_wagner,
    "one_pixel": one_pixel,
    "zoo": zoo,
}
