"""The clean images: what a model says of them before anything is done to them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin, relative
from robustbench_lite.sources.dataset import Dataset


class Clean(NamedTuple):
    """What a model says of N clean images, on the CPU."""

    logits: Tensor
    """(N, K)."""
    correct: Tensor
    """(N,) bool; by a majority of votes if it is random."""
    closeness: Tensor
    """Size of the margin that decides, in shares of the row's largest logit, (N,): see
    ``search.judge.Finding``.
    """

    @property
    def nearest(self) -> float | None:
        return float(self.closeness.min()) if len(self.closeness) else None


def clean_logits(
    model: DefendedModel, data: Dataset, batch_size: int, device: torch.device, seed: int
) -> Clean:
    """Ask ``model`` about the clean images of ``data``, a batch at a time."""
    passes = Passes(model, batch_size, seed)
    votes = model.traits.votes if model.traits.random else 1
    logits = []
    correct = []
    closeness = []
    for start in range(0, len(data), batch_size):
        part = slice(start, start + batch_size)
        y = data.y[part].to(device)
        none = torch.full_like(y, -1)
        points = Points(
            data.x[part].to(device), y, none, data.ids[part].to(device), torch.zeros_like(y)
        )
        ballots = list(passes.ballots(points, votes))  # an abstention on a clean image is wrong
        margins = [margin(ballot, y, none) for ballot in ballots]
        right = (torch.stack(margins) > 0).sum(0) * 2 > votes
        shares = torch.stack([relative(*pair) for pair in zip(margins, ballots, strict=True)])
        logits.append(torch.stack(ballots).mean(0).cpu())
        correct.append(right.cpu())
        closeness.append(shares.sort(0, descending=True).values[votes // 2].abs().cpu())
    return Clean(
        torch.cat(logits)[:, : -1 if model.traits.abstains else None],
        torch.cat(correct),
        torch.cat(closeness),
    )
