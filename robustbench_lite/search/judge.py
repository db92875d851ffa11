"""The judge: no success is believed because an attack says so."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.errors import AttackError
from robustbench_lite.model.passes import Passes, Points, not_finite
from robustbench_lite.rows.losses import margin, relative
from robustbench_lite.threat import ThreatModel


class Verdict(NamedTuple):
    """The judge's word on M claims, on the CPU."""

    confirmed: Tensor
    """The point truly reaches the goal, (M,) bool."""
    size: Tensor
    """Its distance from the clean image in the norm of the threat, in float64, (M,)."""
    closeness: Tensor
    """How near to a tie the verdict is, (M,): see ``Finding``."""


class Finding(NamedTuple):
    """What the judge sees at each of M points, on the CPU."""

    excess: Tensor
    """By how much it leaves the ball or the bounds, (M,); <= 0 is inside, NaN is not finite."""
    reached: Tensor
    """It lies inside and truly reaches the goal, (M,) bool."""
    size: Tensor
    """Its distance from the clean image in the norm of the threat, in float64, (M,)."""
    label: Tensor
    """The class that the model gives it, by the mean logits of all votes, (M,) int64.

    If it lies outside, that of the clean image.
    """
    margin: Tensor
    """How far the goal is missed, (M,): negative where it is reached.

    It is a difference of logits, averaged over the votes.
    """
    closeness: Tensor
    """Size of the margin of the deciding vote, in shares of the row's largest logit, (M,)."""


class Judge:
    """Re-runs claimed adversarials in a fresh forward pass of the real model, in float32.

    It holds them against the threat. Whatever path the search took through ``passes``, the judge
    asks the network as it was given.
    """

    def __init__(
        self, passes: Passes, threat: ThreatModel, attack_name: str, device: torch.device | str
    ) -> None:
        self.passes = passes.as_given()
        self.threat = threat
        self.attack_name = attack_name
        self.device = device

    def confirm(
        self, x_adv: Tensor, x: Tensor, y: Tensor, target: Tensor, index: Tensor
    ) -> Verdict:
        """Judge the rows of ``x_adv`` (M, C, H, W).

        For a random model a row must reach its goal in a majority of the votes.

        Args:
            x_adv: what an attack claims, (M, C, H, W).
            x: the clean images.
            y: their classes, (M,).
            target: the classes to reach, (M,); -1 for none.
            index: data-set indices, (M,).

        Raises:
            AttackError: a point lies outside of the ball or the bounds; it is neither clipped nor
                scored as robust.
            ModelError: the model's output is not finite.
        """
        if not len(y):
            return Verdict(
                torch.zeros(0, dtype=torch.bool),
                torch.zeros(0, dtype=torch.float64),
                torch.zeros(0),
            )
        finding = self.examine(x_adv, x, y, target, index)
        outside = (~(finding.excess <= 0)).nonzero().squeeze(1)
        if len(outside):
            sample = int(index[outside[0]])
            amount = float(finding.excess[outside[0]])
            what = f"leaves the ball or the bounds [0, 1] by {amount:.3g}"
            if math.isnan(amount):
                what = "is not finite"
            raise AttackError(
                f"{self.attack_name}: the adversarial it claims for sample {sample} {what}."
            )
        unknown = (~finding.margin.isfinite()).nonzero().squeeze(1)
        if len(unknown):
            raise not_finite(int(index[unknown[0]]))
        return Verdict(finding.reached, finding.size, finding.closeness)

    def examine(
        self, x_adv: Tensor, x: Tensor, y: Tensor, target: Tensor, index: Tensor
    ) -> Finding:
        """Say what there is to say of each row, M >= 1.

        No row, not even one outside of the ball, is an error.
        """
        size = self.passes.batch_size
        columns = (x_adv, x, y, target, index)
        parts = [
            self._examine(*(column[i : i + size] for column in columns))
            for i in range(0, len(y), size)
        ]
        return Finding(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _examine(
        self, x_adv: Tensor, x: Tensor, y: Tensor, target: Tensor, index: Tensor
    ) -> Finding:
        x_adv, x, y, target, index = (
            t.to(self.device) for t in (x_adv.float(), x, y, target, index)
        )
        excess = self.threat.excess(x_adv, x)
        inside = excess <= 0
        # The model never sees what is no image: the clean one stands in.
        shown = x_adv if bool(inside.all()) else torch.where(inside.reshape(-1, 1, 1, 1), x_adv, x)
        points = Points(shown, y, target, index, torch.zeros_like(y))
        votes = self.passes.model.traits.votes if self.passes.model.traits.random else 1
        ballots = torch.stack(list(self.passes.votes(points, votes)))  # (votes, M, K)
        margins = torch.stack([margin(logits, y, target) for logits in ballots])
        reached = inside & ((margins < 0).sum(0) * 2 > votes)
        shares = torch.stack([relative(*pair) for pair in zip(margins, ballots, strict=True)])
        # The goal is reached where the deciding vote's is below 0.
        closeness = shares.sort(0).values[votes // 2].abs()
        # In float64 a sum does not depend on the order in which a kernel takes it.
        size = self.threat.norm.size(x_adv.cpu().double() - x.cpu().double())
        label = ballots.mean(0).argmax(1)
        return Finding(
            excess=excess.cpu(),
            reached=reached.cpu(),
            size=size,
            label=label.cpu(),
            margin=margins.mean(0).cpu(),
            closeness=closeness.cpu(),
        )
