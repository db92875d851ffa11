"""Where each row of ZOO stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.search import Bracket, SampleRng, State, surely_none


@dataclass(frozen=True)
class ZOOState(State):
    x: Tensor
    noise: Tensor  # (B, D)
    order: Tensor  # (B, D) coordinates at random; each move takes the next part
    memory: Tensor  # (B, 3, D): Adam's two moments, and how often each coordinate has moved
    const: Tensor  # (B,) c of equation 4
    bracket: Bracket  # of c
    reached: Tensor  # (B,) bool, this c has led to a success
    probing: Tensor  # (B,) bool, asks about the image as it stands only
    milestone: Tensor  # (B,) the objective a tenth of the steps ago
    search: Tensor  # (B,) values of c that are done
    step: Tensor  # (B,) moves with this c
    moves: Tensor  # (B,) moves in all
    rng: SampleRng

    @classmethod
    def begin(cls, x: Tensor, size: int, const: float, rng: SampleRng) -> ZOOState:
        """The images ``x`` (B, C, H, W) with ``size`` coordinates of no noise, at the first c."""
        noise = torch.zeros(len(x), size, device=x.device)
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        consts = torch.full((len(x),), const, device=x.device)
        return cls(
            finished=count.bool(),
            x=x,
            noise=noise,
            order=noise.long(),
            memory=torch.stack([noise] * 3, 1),
            const=consts,
            bracket=Bracket.fresh(consts),
            reached=count.bool(),
            probing=count.bool(),
            milestone=torch.full_like(consts, float("inf")),
            search=count,
            step=count.clone(),
            moves=count.clone(),
            rng=rng,
        )

    def next_const(self, over: Tensor, most: int) -> ZOOState:
        """Go on with the next c, from the image and without a memory, in rows that are ``over``.

        After ``most`` values of c a row is finished.
        """
        if surely_none(over):
            return self
        failed = over & ~self.reached
        won = over & self.reached
        bracket = self.bracket.narrow(self.const, failed=failed, succeeded=won)
        search = self.search + over
        return self.replace(
            bracket=bracket,
            const=torch.where(over, bracket.next_after(self.const), self.const),
            search=search,
            memory=self.memory.masked_fill(over.reshape(-1, 1, 1), 0),
            noise=self.noise.masked_fill(over.unsqueeze(1), 0),
            reached=self.reached & ~over,
            probing=self.probing & ~over,
            step=self.step * ~over,
            milestone=self.milestone.masked_fill(over, float("inf")),
            finished=self.finished | (search >= most),
        )
