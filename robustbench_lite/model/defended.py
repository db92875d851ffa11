"""A defended model, and what it declares, so that every attack is adaptive by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from robustbench_lite.rows.rng import SampleRng


@dataclass(frozen=True)
class Traits:
    """What an attacker must know about a model."""

    surrogate: nn.Module | None = None
    """A differentiable stand-in whose gradient replaces the model's.

    This is BPDA: Athalye et al. 2018, arXiv:1802.00420.
    """
    random: bool = False
    """Repeated forwards differ."""
    draws: int = 1
    """Those that gradients of a random model are averaged over."""
    votes: int = 1
    """Those of a random model whose majority is a verdict."""
    abstains: bool = False
    """There is one logit more than there are classes, the last.

    Where it is the largest, the model declines to answer. That is wrong on a clean image, and no
    success on an attacked one.
    """

    def plain_differs(self, gradients: bool) -> bool:
        """Tell whether an attacker that ignores all this is another one.

        Args:
            gradients: the attacker follows gradients.
        """
        return self.random or (gradients and (self.surrogate is not None or self.abstains))


class FastPath(NamedTuple):
    """The same function in less time.

    These are networks beside the one that is judged, seen to agree with it (``model.fast.path``).
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
    """Tell whether ``module`` draws per sample."""
    return bool(getattr(module, "takes_rng", False))


class Wrapper(nn.Module):
    """Base of modules that stand around another.

    Whatever that one needs to draw from is handed on.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.takes_rng = takes_rng(model)

    def in_sequence(self) -> tuple[nn.Module, ...] | None:
        """Give the modules that, one after the other, are all that it does.

        None where it does more.
        """
        return None

    def inner(self, x: Tensor, rng: SampleRng | None) -> Tensor:
        """Ask the module inside, at ``x``.

        What it draws is none of what its surroundings draw from ``rng``.
        """
        if rng is None or not takes_rng(self.model):
            return self.model(x)  # type: ignore[no-any-return]
        return self.model(x, rng.nested())  # type: ignore[no-any-return]


def credit_abstention(logits: Tensor, y: Tensor) -> Tensor:
    """Count an abstention for the true class.

    To decline to answer serves the defender as well as the right answer does. So a margin below 0
    is a wrong class *and* no abstention, for any goal, and every loss pushes both.

    Args:
        logits: those of a model that abstains, (N, K + 1).
        y: the true classes, (N,).

    Returns:
        What an attack is up against, (N, K).
    """
    answers = logits[:, :-1]
    own = answers.gather(1, y.unsqueeze(1))  # (N, 1)
    return answers.scatter(1, y.unsqueeze(1), own.maximum(logits[:, -1:]))
