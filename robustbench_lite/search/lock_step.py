"""Attacks in lock step on one batch, as adversarial training wants them.

There is no judge, and no row leaves early.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_lite.errors import UsageError
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.rows.losses import margin
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.driven import DrivenAttack
from robustbench_lite.search.query import Access, Answer
from robustbench_lite.threat import ThreatModel


def check_lock_step(attack: Attack, threat: ThreatModel, purpose: str) -> None:
    """Check that ``craft`` can run ``attack``.

    It must ask for one point a row, by gradients, in a ball of that norm.

    Raises:
        UsageError: it does not; ``purpose`` is what it was to be for.
    """
    single = (
        attack.access == Access.GRADIENT
        and attack.kind == "fixed_eps"
        and not isinstance(attack, DrivenAttack)
        and attack.points((3, 32, 32)) == 1
    )
    if not single or threat.norm.name not in attack.norms:
        raise UsageError(
            f"{purpose} cannot use {attack.name!r} in {threat.norm.label}: it needs a gradient "
            "attack with a fixed eps, one point at a time, that does this norm, such as "
            "'pgd steps=7'."
        )


@exactly
def craft(
    model: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    index: Tensor,
    seed: int,
    restart: int = 0,
) -> Tensor:
    """Run a single-point gradient attack, untargeted, to its last step.

    Unlike the engine it keeps a row even when an earlier point was a success, as training wants.

    Args:
        model: in eval mode; its parameters gather no gradients.
        attack: one that passes ``check_lock_step``.
        x: clean images, (B, C, H, W).
        y: their classes, (B,).
        threat: what the adversary may do.
        index: data-set indices, (B,).
        seed: of the draws.
        restart: which of the attack's restarts this is.

    Returns:
        The last point of each row, (B, C, H, W).
    """
    rng = SampleRng.create(seed, f"train/{attack.name}", index, torch.full_like(index, restart))
    away = torch.full_like(y, -1)
    state = attack.init(x, y, threat, rng)
    while True:
        query = attack.ask(state)
        points = query.points.detach()
        last = query.access < Access.GRADIENT or (
            query.gradient_rows is not None and not bool(query.gradient_rows.any())
        )
        if last or query.loss is None or bool(state.finished.all()):
            return points
        points.requires_grad_()
        logits = model(points.clone())  # it may write over its input, which gradients are taken by
        losses = query.loss(logits, y, away if query.toward is None else query.toward)
        (gradient,) = torch.autograd.grad(losses.sum(), points)
        logits = logits.detach()
        success = margin(logits, y, away) < 0
        answer = Answer(success, logits.argmax(1), logits, gradient, losses.detach)
        state = attack.tell(state, answer)
