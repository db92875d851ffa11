"""Other toolkits' attacks behind one signature, set up to do what ours does.

That is the same steps, step size, restarts and start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from harness import Runner, in_batches
from peer_art import art
from peer_reference import autoattack, nearest
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.threat.norms import norm_by_name


def plain(options: argparse.Namespace) -> Runner:
    """Make what runs PGD as one writes it by hand, on the network as it comes."""
    norm = norm_by_name(options.norm)
    eps = options.eps

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = x.clone()
        if norm.name == "linf":
            x_adv = (x + (torch.rand_like(x) * 2 - 1) * eps).clamp(0, 1)
        for _ in range(options.steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach() + options.step_size * norm.steepest(gradient)
            x_adv = (x + norm.project(x_adv - x, eps)).clamp_(0, 1)
        return x_adv

    return in_batches(run, options.batch_size)


def foolbox(options: argparse.Namespace) -> Runner:
    """Make what runs Foolbox's attack of that name."""
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
    """Make what runs the attack of that name of torchattacks."""
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


def adv_lib(options: argparse.Namespace) -> Runner:
    """Make what runs the attack of that name of adv_lib."""
    if options.attack != "carlini_wagner":
        return nearest(options)
    from adv_lib.attacks.carlini_wagner.l2 import carlini_wagner_l2

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
    "autoattack": autoattack,
    "foolbox": foolbox,
    "torchattacks": torchattacks,
    "plain": plain,
    # on the network as ``evaluate`` searches it: what is left is the engine
    "plain_prepared": plain,
}
