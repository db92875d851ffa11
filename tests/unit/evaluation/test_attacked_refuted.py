"""What one cell comes to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rbl_attacks.pgd import PGD
from robustbench_lite.evaluation import attacked
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.job import Job, Scene, Terms
from robustbench_lite.model.defended import DefendedModel, FastPath, Traits
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.journal import open_journal
from robustbench_lite.records.outcomes import Margins
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel

CPU = torch.device("cpu")


class Above(nn.Module):
    """Class 1 leads by ten times what the first pixel is above 0.25, and ``more``; a third logit is
    -10.
    """

    def __init__(self, more: float = 0.0) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        p = x[:, 0, 0, 0]
        return torch.stack([0 * p, 10 * (p - 0.25) + self.more, 0 * p - 10], 1)


def job(
    more: float,
    traits: Traits = Traits(),  # noqa: B008 -- frozen
    query_budget: int | None = None,
) -> Job:
    """Images at 0.125, 0.1875 and 0 of class 0, a ball of 0.125, and a search that sees class 1
    ``more`` in the lead.
    """
    quick = Above(more)
    model = DefendedModel(Above(), traits, FastPath(quick, quick, None, ("quick",)))
    x = torch.tensor([0.125, 0.1875, 0.0]).reshape(3, 1, 1, 1).repeat(1, 1, 2, 2)
    data = Dataset("data", "given", x, torch.zeros(3, dtype=torch.int64), torch.arange(3), 3, 3)
    clean = clean_logits(model, data, 16, CPU, 0)
    scene = Scene(
        model=model,
        threat=ThreatModel.parse("linf", 0.125),
        data=data,
        clean=clean,
        target=torch.full((3,), -1),
        behaviour=Behaviour.of(np.ones((1, 1), np.float32), fixed=1, probes=1),
    )
    attack = PGD(steps=4, step_size=0.0625, random_start=False)
    return Job(
        "cell", scene, attack, Terms(seed=0, batch_size=16, device=CPU, query_budget=query_budget)
    )


def test_a_tie_that_only_the_quick_way_breaks_does_not_end_the_search() -> None:
    """Two images come to a tie, which the quick way takes for a success; the second goes beyond it
    with its next step.
    """
    with open_journal(None) as journal:
        found = attacked.measure(job(1e-6), journal)
        again = attacked.measure(job(1e-6), journal)
    with open_journal(None) as journal:
        exact = attacked.measure(job(0.0), journal)
    assert (
        found.arrays.broken.tolist()
        == exact.arrays.broken.tolist()
        == again.arrays.broken.tolist()
        == [False, True, False]
    )
    assert found.arrays.pack() == exact.arrays.pack() == again.arrays.pack()
    assert found.margins == Margins(clean=0.0625, judged=0.0)


def test_a_budget_is_not_spent_twice() -> None:
    with open_journal(None) as journal:
        found = attacked.measure(job(1e-6, query_budget=100), journal)
    assert found.arrays.broken.tolist() == [False, False, False]
    assert found.arrays.unconfirmed == 2
