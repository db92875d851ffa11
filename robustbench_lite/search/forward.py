"""Passes through a defended model: logits and input gradients, for rows that must not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search.defended import DefendedModel
from robustbench_lite.search.losses import Loss
from robustbench_lite.search.rng import SampleRng

SMALLEST_BATCH = 16
"""Smaller batches are padded: below it, matrix kernels change and the last bits of a row would depend on its company."""


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
        return Points(*(field[index] for field in self))

    def padded(self) -> Points:
        missing = SMALLEST_BATCH - len(self.x)
        if missing <= 0:
            return self
        return Points(*(torch.cat([field, field[-1:].expand(missing, *field.shape[1:])]) for field in self))


class Passes:
    """Runs a model on batches of at most ``batch_size`` points. Parameters gather no gradients and nothing is recorded."""

    def __init__(self, model: DefendedModel, batch_size: int, seed: int = 0) -> None:
        self.model, self.batch_size, self.seed = model, batch_size, seed

    @property
    def forwards_per_point(self) -> int:
        """Model calls that one point costs: the draws of a random model are all counted."""
        return self.model.traits.draws if self.model.traits.random else 1

    def logits(self, points: Points, draws: int | None = None) -> Tensor:
        """(N, K) logits, averaged over the draws of a random model."""
        draws = draws or self.forwards_per_point
        parts = (points.take(slice(i, i + self.batch_size)) for i in range(0, len(points.x), self.batch_size))
        chunks = [self._mean_logits(part, draws) for part in parts]
        return chunks[0] if len(chunks) == 1 else torch.cat(chunks)

    def votes(self, points: Points, count: int) -> Iterator[Tensor]:
        """The (N, K) logits of ``count`` separate draws of a random model, for at most ``batch_size`` points."""
        padded = points.padded()
        for draw in range(count):
            yield self._logits(padded, draw)[: len(points.x)]

    def gradient(self, points: Points, loss: Loss) -> tuple[Tensor, Tensor]:
        """(N, K) logits and (N, C, H, W) gradient of the per-sample loss, for at most ``batch_size`` points."""
        padded, draws = points.padded(), self.forwards_per_point
        surrogate = self.model.traits.surrogate
        sums: list[Tensor] = []
        for draw in range(draws):
            x = padded.x.detach().requires_grad_()
            with torch.enable_grad():
                logits = surrogate(x) if surrogate is not None else self._call(padded._replace(x=x), draw)
                (gradient,) = torch.autograd.grad(loss(logits, padded.y, padded.target).sum(), x)
            logits = self._logits(padded, draw) if surrogate is not None else logits.detach()
            sums = [sums[0] + logits, sums[1] + gradient] if sums else [logits, gradient]
        logits, gradient = (part / draws if draws > 1 else part for part in sums)
        return logits[: len(points.x)], gradient[: len(points.x)]

    def _mean_logits(self, points: Points, draws: int) -> Tensor:
        padded = points.padded()
        total = self._logits(padded, 0)
        for draw in range(1, draws):
            total = total + self._logits(padded, draw)
        return (total / draws if draws > 1 else total)[: len(points.x)]

    @torch.no_grad()
    def _logits(self, points: Points, draw: int) -> Tensor:
        return self._call(points, draw)

    def _call(self, points: Points, draw: int) -> Tensor:
        module, x = self.model.module, points.x
        if not self.model.traits.random:
            return module(x)  # type: ignore[no-any-return]
        if getattr(module, "takes_rng", False):
            # A random defense of ours draws per sample: its verdicts do not depend on the batch either.
            rng = SampleRng.create(self.seed, "model", points.sample, points.draw + draw)
            return module(x, rng)  # type: ignore[no-any-return]
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(self.seed * 1_000_003 + draw)
            return module(x)  # type: ignore[no-any-return]
