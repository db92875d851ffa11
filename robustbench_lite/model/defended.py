"""A defended model, and what it declares so that every attack is adaptive without a line of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from robustbench_lite.rows.rng import SampleRng


@dataclass(frozen=True)
class Traits:
    """What an attacker must know about a model.

    ``surrogate``: a differentiable stand-in whose gradient replaces the model's (BPDA, Athalye et
    al. 2018, arXiv:1802.00420). ``random``: repeated forwards differ; gradients are averaged over
    ``draws`` and a verdict is a majority over ``votes``. ``abstains``: there is one logit more than
    there are classes, the last; where it is the largest, the model declines to answer. That is
    wrong on a clean image, and no success on an attacked one.
    """

    surrogate: nn.Module | None = None
    random: bool = False
    draws: int = 1
    votes: int = 1
    abstains: bool = False

    def plain_differs(self, gradients: bool) -> bool:
        """Whether an attacker that ignores all this is another one; ``gradients``: one that follows
        them.
        """
        return self.random or (gradients and (self.surrogate is not None or self.abstains))


class FastPath(NamedTuple):
    """The same function in less time: networks beside the one that is judged, seen to agree with it
    (``model.fast.path``).
    """

    module: nn.Module
    """What is asked for logits."""
    gradient: nn.Module
    """What input gradients are taken of, where nothing stands in for the model."""
    surrogate: nn.Module | None
    """What stands in for the model."""
    what: tuple[str, ...]
    """How it differs, in words for a record; empty where only its parameters are frozen."""
    writes: bool = False
    """Its forward writes over its input, and so gets copies of images."""


@dataclass(frozen=True)
class DefendedModel:
    """The network that is judged, (B, C, H, W) in [0, 1] -> logits (B, K), with its traits.

    A random module with ``takes_rng = True`` is called with a ``SampleRng`` too, and draws from
    nothing else.
    """

    module: nn.Module
    """As its author made it: own layout, own layers."""
    traits: Traits = Traits()
    fast: FastPath | None = None
    """What a search may ask instead; the judge, the clean accuracy and certificates never do."""
    remarks: tuple[str, ...] = ()
    """What a reader of its numbers must know."""


def takes_rng(module: nn.Module) -> bool:
    """Whether ``module`` draws per sample."""
    return bool(getattr(module, "takes_rng", False))


class Wrapper(nn.Module):
    """Base of modules that stand around another: whatever that one needs to draw from is
    handed on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.takes_rng = takes_rng(model)

    def in_sequence(self) -> tuple[nn.Module, ...] | None:
        """The modules that, one after the other, are all that it does; ``None`` where it does
        more.
        """
        return None

    def inner(self, x: Tensor, rng: SampleRng | None) -> Tensor:
        """The module inside, at ``x``.

        What it draws is none of what its surroundings draw from ``rng``.
        """
        if rng is None or not takes_rng(self.model):
            return self.model(x)  # type: ignore[no-any-return]
        return self.model(x, rng.nested())  # type: ignore[no-any-return]


def credited(logits: Tensor, y: Tensor) -> Tensor:
    """What an attack is up against, (N, K), from the logits (N, K + 1) of a model that abstains and
    the true classes (N,).

    Declining to answer serves the defender as well as the right answer does: it counts for the true
    class. So a margin below 0 is a wrong class *and* no abstention, for any goal, and every loss
    pushes both.
    """
    answers = logits[:, :-1]
    own = answers.gather(1, y.unsqueeze(1))  # (N, 1)
    return answers.scatter(1, y.unsqueeze(1), own.maximum(logits[:, -1:]))
