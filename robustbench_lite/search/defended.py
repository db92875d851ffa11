"""A defended model, and what it declares so that every attack is adaptive without a line of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Traits:
    """What an attacker must know about a model.

    ``surrogate``: a differentiable stand-in whose gradient replaces the model's (BPDA, Athalye et al. 2018, arXiv:1802.00420).
    ``random``: repeated forwards differ; gradients are averaged over ``draws`` and a verdict is a majority over ``votes``.
    """

    surrogate: nn.Module | None = None
    random: bool = False
    draws: int = 1
    votes: int = 1


@dataclass(frozen=True)
class DefendedModel:
    """The network that is judged, (B, C, H, W) in [0, 1] -> logits (B, K), with its traits."""

    module: nn.Module
    traits: Traits = Traits()
