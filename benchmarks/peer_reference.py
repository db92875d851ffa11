"""The attacks of suites as their authors, or the nearest library, have them.

AutoAttack's parts are those of the authors' package (``pip install
git+https://github.com/fra31/auto-attack``); searches for the nearest adversarial are adv_lib's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from harness import Runner, in_batches
from torch import Tensor, nn

Maker = Callable[[nn.Module, argparse.Namespace], Any]
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
_ORDERS = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}


def autoattack(options: argparse.Namespace) -> Runner:
    """Make what runs APGD on the cross-entropy, FAB towards 9 classes, or Square."""
    makers: dict[str, Maker] = {"apgd": _apgd, "fab": _fab, "square": _square}
    if options.attack not in makers or options.norm not in NAMES:
        sys.exit(f"AutoAttack has no {options.attack} in {options.norm}: leave it out.")
    make = makers[options.attack]

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return make(model, options).perturb(x, y)  # type: ignore[no-any-return]

    return in_batches(run, options.batch_size)


def _shared(options: argparse.Namespace) -> dict[str, Any]:
    """What all parts take."""
    return {
        "norm": NAMES[options.norm],
        "eps": options.eps,
        "seed": options.seed,
        "device": options.device,
    }


def _apgd(model: nn.Module, options: argparse.Namespace) -> Any:
    from autoattack.autopgd_base import APGDAttack

    own = {"n_iter": options.steps, "loss": "ce", "use_largereps": options.norm == "l1"}
    return APGDAttack(model, **own, **_shared(options))


def _fab(model: nn.Module, options: argparse.Namespace) -> Any:
    from autoattack.fab_pt import FABAttack_PT

    own = {"n_iter": options.steps, "targeted": True, "n_target_classes": 9}
    return FABAttack_PT(model, **own, **_shared(options))


def _square(model: nn.Module, options: argparse.Namespace) -> Any:
    from autoattack.square import SquareAttack

    return SquareAttack(model, n_queries=options.steps, resc_schedule=True, **_shared(options))


def nearest(options: argparse.Namespace) -> Runner:
    """Make what runs adv_lib's DDN, FMN, PDPGD or sigma-zero."""
    from adv_lib import attacks

    calls: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
        "ddn": lambda m, x, y: attacks.ddn(m, x, y, steps=options.steps, levels=None),
        "fmn": lambda m, x, y: attacks.fmn(
            m, x, y, norm=_ORDERS[options.norm], steps=options.steps
        ),
        "pdpgd": lambda m, x, y: attacks.pdpgd(
            m, x, y, norm=_ORDERS[options.norm], num_steps=options.steps
        ),
        "sigma_zero": lambda m, x, y: attacks.sigma_zero(m, x, y, num_steps=options.steps),
    }
    if options.attack not in calls:
        sys.exit(f"Nothing is set up for adv_lib's {options.attack}: leave it out of --against.")
    return in_batches(calls[options.attack], options.batch_size)
