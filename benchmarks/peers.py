"""Other toolkits' attacks behind one signature, set up to do what ours does: the same steps, step
size, restarts and start.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite import registry
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.fast.path import PROBES, with_fast_path
from robustbench_lite.rows.losses import margin
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.threat.norms import norm_by_name

Runner = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> the perturbed images; a row that no adversarial was found for may come back as
it is.
"""


class Counter(nn.Module):
    """Counts the rows that pass through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.model(x)  # type: ignore[no-any-return]


@torch.no_grad()
def broken(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    return torch.cat(
        [
            margin(model(a), b, torch.full_like(b, -1)) < 0
            for a, b in zip(x_adv.split(256), y.split(256), strict=True)  # type: ignore[no-untyped-call]
        ]
    )


def in_batches(run: Runner, size: int) -> Runner:
    """How other toolkits work through a data set: one batch after the other, each from the first
    step to the last.
    """

    def whole(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat(
            [run(model, x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]
        )

    return whole


def as_evaluated(model: nn.Module, x: Tensor) -> DefendedModel:
    """The copy that evaluate() works on, with its fast path; a counter is left as it is."""
    if isinstance(model, Counter):
        return DefendedModel(model)
    return with_fast_path(prepare(model, registry.create("defense", "none"), x.device), x[:PROBES])


def training_images(model: nn.Module, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Those of the training images that the model classifies correctly."""
    data = load_dataset(options.dataset, split="train", data_dir=options.data_dir)
    x = data.x.to(options.device)
    y = data.y.to(options.device)
    keep = ~broken(model, x, y)
    return x[keep], y[keep]


def plain(options: argparse.Namespace) -> Runner:
    """PGD as one writes it by hand, on the network as it comes."""
    norm = norm_by_name(options.norm)
    eps = options.eps

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = (
            (x + (torch.rand_like(x) * 2 - 1) * eps).clamp(0, 1)
            if norm.name == "linf"
            else x.clone()
        )
        for _ in range(options.steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach() + options.step_size * norm.steepest(gradient)
            x_adv = (x + norm.project(x_adv - x, eps)).clamp_(0, 1)
        return x_adv

    return in_batches(run, options.batch_size)


def foolbox(options: argparse.Namespace) -> Runner:
    import foolbox as peer

    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[options.norm]
    if options.attack == "pgd":
        kind = {"linf": "LinfPGD", "l2": "L2PGD", "l1": "SparseL1DescentAttack"}[options.norm]
        attack = getattr(peer.attacks, kind)(
            steps=options.steps, abs_stepsize=options.step_size, random_start=True
        )
    elif options.attack == "fgsm":
        attack = getattr(peer.attacks, f"{name}FastGradientAttack")()
    elif options.attack == "carlini_wagner":
        attack = peer.attacks.carlini_wagner.L2CarliniWagnerAttack(
            steps=options.steps,
            binary_search_steps=options.search_steps,
            stepsize=options.step_size,
            initial_const=1e-3,
        )
    else:
        attack = peer.attacks.boundary_attack.BoundaryAttack(steps=options.steps)

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wrapped = peer.models.pytorch.PyTorchModel(model, bounds=(0, 1), device=x.device)
        extra = {} if options.eps is None else {"epsilon": options.eps}
        return attack.run(wrapped, x, peer.criteria.Misclassification(y), **extra)  # type: ignore[no-any-return]

    return in_batches(run, options.batch_size)


def torchattacks(options: argparse.Namespace) -> Runner:
    import torchattacks as peer

    if options.attack in ("boundary", "zoo", "carlini_wagner") or options.norm == "l1":
        sys.exit(
            f"torchattacks has no {options.attack} for {options.norm}: leave it out of --against."
        )

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if options.attack == "fgsm":
            attack = peer.FGSM(model, eps=options.eps)
        elif options.attack == "one_pixel":  # its first population is not among the steps
            attack = peer.OnePixel(
                model, int(options.eps), options.steps - 1, options.population, options.batch_size
            )
        elif options.norm == "l2":
            attack = peer.PGDL2(
                model, eps=options.eps, alpha=options.step_size, steps=options.steps
            )
        else:
            attack = peer.PGD(model, eps=options.eps, alpha=options.step_size, steps=options.steps)
        return attack(x, y)  # type: ignore[no-any-return]

    return in_batches(run, options.batch_size)


def art(options: argparse.Namespace) -> Runner:
    from art.attacks.evasion import BoundaryAttack, CarliniL2Method, PixelAttack, ZooAttack
    from art.estimators.classification import PyTorchClassifier

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        shape = tuple(x.shape[1:])
        classes = model(x[:1]).shape[1]
        wrapped = PyTorchClassifier(
            InSinglePrecision(model),
            nn.CrossEntropyLoss(),
            shape,
            classes,
            clip_values=(0.0, 1.0),
            device_type=x.device.type,
        )
        if options.attack == "one_pixel":
            attack = PixelAttack(
                wrapped, th=int(options.eps), es=1, max_iter=options.steps - 1
            )  # its population is 400
        elif options.attack == "boundary":
            # An iteration of its 20 orthogonal proposals asks about 30 queries: as many in all as
            # ours.
            attack = BoundaryAttack(
                wrapped,
                targeted=False,
                max_iter=options.steps // 27,
                batch_size=options.batch_size,
                verbose=False,
            )
        elif options.attack == "carlini_wagner":
            attack = CarliniL2Method(
                wrapped,
                max_iter=options.steps,
                binary_search_steps=options.search_steps,
                initial_const=1e-3,
                learning_rate=options.step_size,
                batch_size=options.batch_size,
                verbose=False,
            )
        elif options.attack == "zoo":
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
            # Image by image: of a batch of several it moves the first one only.
            run_one = attack.generate
            attack.generate = lambda x, y: np.concatenate(
                [run_one(a[None], b[None]) for a, b in zip(x, y, strict=True)]
            )
        elif options.attack == "patch":
            return art_patch(wrapped, model, x, classes, options)
        else:
            sys.exit(f"Nothing is set up for ART's {options.attack}: leave it out of --against.")
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


def art_patch(
    wrapped: object, model: nn.Module, x: Tensor, classes: int, options: argparse.Namespace
) -> Tensor:
    """Fitted for at least as many steps (its epochs are whole ones), and scored at one placement of
    each image.
    """
    from art.attacks.evasion import AdversarialPatchPyTorch

    side, (train, y) = min(x.shape[2:]), training_images(model, options)
    scale = (4 * options.eps / math.pi) ** 0.5 / side
    attack = AdversarialPatchPyTorch(
        wrapped,
        rotation_max=22.5,
        scale_min=scale,
        scale_max=scale,
        learning_rate=options.step_size,
        batch_size=options.fit_batch,
        max_iter=math.ceil(options.steps / math.ceil(len(y) / options.fit_batch)),
        patch_shape=(x.shape[1], side, side),
        patch_type="circle",
        targeted=False,
        verbose=False,
    )
    attack.generate(train.cpu().numpy(), F.one_hot(y, classes).float().cpu().numpy())
    return torch.as_tensor(attack.apply_patch(x.cpu().numpy(), scale=scale)).to(x)


def adv_lib(options: argparse.Namespace) -> Runner:
    from adv_lib.attacks.carlini_wagner.l2 import carlini_wagner_l2

    if options.attack != "carlini_wagner":
        sys.exit(f"Nothing is set up for adv_lib's {options.attack}: leave it out of --against.")

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return carlini_wagner_l2(  # type: ignore[no-any-return]
            model,
            x,
            y,
            learning_rate=options.step_size,
            initial_const=1e-3,
            binary_search_steps=options.search_steps,
            max_iterations=options.steps,
        )

    return in_batches(run, options.batch_size)


PEERS: dict[str, Callable[[argparse.Namespace], Runner]] = {
    "adv_lib": adv_lib,
    "art": art,
    "foolbox": foolbox,
    "torchattacks": torchattacks,
    "plain": plain,
    # on the network as ``evaluate`` searches it: what is left is the engine
    "plain_prepared": plain,
}
