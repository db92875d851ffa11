"""Passes through a defended model, for rows that must not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.errors import ModelError, RobustBenchError, told
from robustbench_lite.machine.generators import own_generators
from robustbench_lite.machine.kernels import works_in_caches
from robustbench_lite.machine.numerics import exact
from robustbench_lite.model.defended import DefendedModel, credit_abstention, takes_rng
from robustbench_lite.model.fast.incremental import Attempt, Incremental, attempt
from robustbench_lite.rows.losses import Loss
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.rows.rows import SMALLEST_BATCH, at_least

_BY_WINDOWS = "neighbours by what one pixel reaches"
_COARSE = (torch.float16, torch.bfloat16)
"""Logits of these become float32, which holds each of them: their differences would be rounded."""
_NAMED = 5
"""Samples that an error message names."""


class Points(NamedTuple):
    """What a pass needs of N points."""

    x: Tensor
    """Where the model is asked, (N, C, H, W)."""
    y: Tensor
    """True classes, (N,)."""
    target: Tensor
    """Classes to reach, -1 for none, (N,)."""
    sample: Tensor
    """Data-set indices, (N,)."""
    draw: Tensor
    """How often the row's model was asked before, (N,): keys the draws of a random model."""

    def take(self, index: Tensor | slice) -> Points:
        """Give those at ``index``."""
        return Points(*(field[index] for field in self))

    def __str__(self) -> str:
        """Name them for an error message."""
        found = sorted(set(self.sample.tolist()))
        rest = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        shown = ", ".join(map(str, found[:_NAMED]))
        return (
            f"{len(self.x)} images of shape {tuple(self.x.shape[1:])} at once (of "
            f"sample{'s' * (len(found) > 1)} {shown}{rest})"
        )

    def pad(self) -> Points:
        """Repeat the last until there are enough of them."""
        if len(self.x) >= SMALLEST_BATCH:
            return self
        return Points(*(at_least(field, SMALLEST_BATCH) for field in self))


class LogitsAndGradient(NamedTuple):
    """What a pass forth and back gives."""

    logits: Tensor
    """(N, K)."""
    gradient: Tensor
    """Of the per-sample loss by the images, (N, C, H, W)."""


class Passes:
    """Runs a model on batches of at most ``batch_size`` points.

    What may write over its input gets a copy. Logits have K columns here: where the model abstains,
    that counts for the true class (``defended.credit_abstention``). An attacker that is not
    ``adaptive`` follows the gradient of the module itself, of one draw, and of its K classes alone.
    With ``fast`` the model's fast path answers, for a search; without, the network as it was given.
    """

    def __init__(
        self,
        model: DefendedModel,
        batch_size: int,
        seed: int = 0,
        *,
        adaptive: bool = True,
        fast: bool = False,
    ) -> None:
        self.model = model
        self.batch_size = batch_size
        self.seed = seed
        self.adaptive = adaptive
        self.fast = fast
        path = model.fast if fast else None
        self.module = model.module if path is None else path.module
        self._followed = model.module if path is None else path.gradient
        self._copies = path is None or path.writes
        self._surrogate = model.traits.surrogate if path is None else path.surrogate
        self._neighbours: dict[tuple[int, ...], Attempt] = {}

    def as_given(self) -> Passes:
        """Give the same passes through the network itself: what a judge asks."""
        if not self.fast:
            return self
        return Passes(self.model, self.batch_size, self.seed, adaptive=self.adaptive)

    @property
    def paths(self) -> tuple[str, ...]:
        """How answers come about otherwise than by the given network, in words for a record."""
        searched = () if not self.fast or self.model.fast is None else self.model.fast.what
        ways = [
            f"neighbours by whole passes: {found.reason}" if found.reason else _BY_WINDOWS
            for found in self._neighbours.values()
        ]
        return (*searched, *ways)

    @property
    def forwards_per_point(self) -> int:
        """Model calls that one point costs: the draws of a random model are all counted."""
        return self.model.traits.draws if self.model.traits.random and self.adaptive else 1

    @property
    def surrogate(self) -> nn.Module | None:
        """What gradients are taken of instead of the model."""
        return self._surrogate if self.adaptive else None

    def incremental(self, shape: tuple[int, ...], device: torch.device) -> Incremental | None:
        """Find the model's shorter way to neighbours, if any, for images of ``shape`` (C, H, W)."""
        plain = not (self.model.traits.random or self.model.traits.abstains)
        if not (self.fast and plain and works_in_caches(device)):
            return None
        if shape not in self._neighbours:
            self._neighbours[shape] = attempt(self.model.module, shape)
        return self._neighbours[shape].incremental

    def logits(self, points: Points, draws: int | None = None) -> Tensor:
        """Compute logits, (N, K), averaged over the draws of a random model."""
        draws = draws or self.forwards_per_point
        parts = (
            points.take(slice(i, i + self.batch_size))
            for i in range(0, len(points.x), self.batch_size)
        )
        chunks = [self._mean_logits(part, draws) for part in parts]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def votes(self, points: Points, count: int) -> Iterator[Tensor]:
        """Compute logits, (N, K), of ``count`` draws, for at most ``batch_size`` points."""
        for ballot in self.ballots(points, count):
            yield self._credit(ballot, points.y)

    def ballots(self, points: Points, count: int) -> Iterator[Tensor]:
        """Compute ``votes`` as the model gives them: (N, K + 1) where it abstains."""
        padded = points.pad()
        for draw in range(count):
            yield self._logits(padded, draw)[: len(points.x)]

    def gradient(self, points: Points, loss: Loss) -> LogitsAndGradient:
        """Compute logits and the gradient of ``loss``, for at most ``batch_size`` points."""
        padded = points.pad()
        draws = self.forwards_per_point
        surrogate = self.surrogate
        sums: list[Tensor] = []
        for draw in range(draws):
            x = padded.x.detach().requires_grad_()
            watched = padded._replace(x=x)
            with exact(), torch.enable_grad():
                logits = self._call(surrogate or self._followed, watched, draw)
                seen = self._reveal(logits, padded.y)
                gradient = _by_image(loss(seen, padded.y, padded.target).sum(), watched)
            logits = self._logits(padded, draw) if surrogate is not None else logits.detach()
            sums = [sums[0] + logits, sums[1] + gradient] if sums else [logits, gradient]
        logits, gradient = (part / draws if draws > 1 else part for part in sums)
        count = len(points.x)
        return LogitsAndGradient(self._credit(logits, padded.y)[:count], gradient[:count])

    def _mean_logits(self, points: Points, draws: int) -> Tensor:
        padded = points.pad()
        total = self._logits(padded, 0)
        for draw in range(1, draws):
            total = total + self._logits(padded, draw)
        return self._credit(total / draws if draws > 1 else total, padded.y)[: len(points.x)]

    def _credit(self, logits: Tensor, y: Tensor) -> Tensor:
        return credit_abstention(logits, y) if self.model.traits.abstains else logits

    def _reveal(self, logits: Tensor, y: Tensor) -> Tensor:
        """Give what the attacker takes gradients of."""
        if self.model.traits.abstains and not self.adaptive:
            return logits[:, :-1]
        return self._credit(logits, y)

    @torch.no_grad()
    def _logits(self, points: Points, draw: int) -> Tensor:
        with exact():
            logits = self._call(self.module, points, draw)
        return logits.detach()  # a forward may differentiate by itself

    def _call(self, module: nn.Module, points: Points, draw: int) -> Tensor:
        try:
            found = self._ask(module, points, draw)
        except RobustBenchError:
            raise
        except Exception as error:  # a network raises whatever it likes
            raise ModelError(f"The model fails on {points}: {told(error)}") from error
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(points.x):
            what = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ModelError(
                f"The model returns {what} for {points}; logits ({len(points.x)}, K) are needed."
            )
        return found.float() if found.dtype in _COARSE else found

    def _ask(self, module: nn.Module, points: Points, draw: int) -> Any:
        x = points.x.clone() if self._copies else points.x  # a forward may write over its input
        if not self.model.traits.random:
            return module(x)
        if takes_rng(module):
            # A random defense of ours draws per sample: no verdict depends on the batch either.
            rng = SampleRng.create(self.seed, "model", points.sample, points.draw + draw)
            return module(x, rng)
        with own_generators((self.seed * 1_000_003 + draw) % 2**63, x.device):
            return module(x)


def _by_image(loss: Tensor, points: Points) -> Tensor:
    """Differentiate ``loss`` by the images of ``points``, (N, C, H, W)."""
    try:
        (gradient,) = torch.autograd.grad(loss, points.x)
    except RobustBenchError:
        raise
    except Exception as error:  # a network may bring its own backward
        raise ModelError(f"The model's gradient fails on {points}: {told(error)}") from error
    return gradient


def not_finite(sample: int) -> ModelError:
    """Make what is raised when a model's output at a point is no number."""
    return ModelError(
        f"The model returned NaN or inf near sample {sample}: check its weights and normalisation."
    )
