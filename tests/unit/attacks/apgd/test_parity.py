"""Auto-PGD walks where the authors' code walks, point for point, from the same start.

``trajectories.json`` holds what github.com/fra31/auto-attack (APGDAttack and APGDAttack_targeted of
autopgd_base.py, float32 on a CPU) asked this network about: of each case the points of three rows,
40 steps, as their losses and three of their coordinates. In L1 the three radii of decr_eps_pgd
follow each other. The rows are some in which nothing hangs on what differs: the authors compare the
first step with 0 and not with the loss at the start, and in L1 they count changes of 1e-9, which
rounding makes.
"""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.apgd.attack import APGD
from robustbench_lite.rows.losses import LOSSES
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.query import Answer
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.box import project_l1_in_box

STORED = json.loads((Path(__file__).parent / "trajectories.json").read_text(encoding="utf-8"))
SEEDS, STEPS = (2, 18, 40), 40
COORDINATES = [0, 21, 47]
EPS = {"linf": 0.1, "l2": 0.8, "l1": 1.5}
CASES = [
    (norm, loss, aimed)
    for norm in EPS
    for loss, aimed in (("ce", False), ("dlr", False), ("dlr", True))
]


def numbers(seed: int, *shape: int) -> Tensor:
    """Numbers on [0, 1) that no generator of any version draws otherwise."""
    count = torch.Size(shape).numel()
    wild = torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * 12.9898 + seed) * 4375.8545
    return (wild - wild.floor()).float().reshape(shape)


def network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 48, 5)
    ).requires_grad_(False)
    for seed, parameter in enumerate(model.parameters()):
        parameter.copy_(2 * numbers(seed, *parameter.shape) - 1)
    return model


def images() -> Tensor:
    return torch.cat([numbers(seed, 1, 1, 6, 8) for seed in SEEDS])


def goal(logits: Tensor, y: Tensor, aimed: bool) -> Tensor:
    """The class of the second largest logit, or none."""
    second = logits.scatter(1, y.unsqueeze(1), float("-inf")).argmax(1)
    return second if aimed else torch.full_like(y, -1)


def start(norm: str) -> Tensor:
    x = images()
    delta = 2 * torch.cat([numbers(seed + 100, 1, 1, 6, 8) for seed in SEEDS]) - 1
    if norm == "l1":
        # A ball of 3 eps, not 1: the search begins there.
        sparse = delta * (delta > 0)
        return (x + project_l1_in_box(sparse, torch.full((len(x),), 3 * EPS["l1"]), x)).clamp(0, 1)
    threat = ThreatModel.parse(norm, EPS[norm])
    size = threat.norm.size(delta).reshape(-1, 1, 1, 1)
    return (x + delta * EPS[norm] / size).clamp(0, 1)


def walk(norm: str, loss: Literal["ce", "dlr"], aimed: bool) -> tuple[Tensor, Tensor]:
    """The points asked about, (steps, B, C, H, W), and their losses, (steps, B)."""
    model = network()
    x = images()
    logits = model(x)
    y = logits.argmax(1)
    target = goal(logits, y, aimed)
    attack = APGD(steps=STEPS, loss=loss)
    threat = ThreatModel.parse(norm, EPS[norm])
    rng = SampleRng.create(0, "parity", torch.arange(len(x)))
    state = attack.init_at(start(norm), x, y, threat, rng)
    asked, losses = [], []
    while not state.finished.all():
        query = attack.ask(state)
        assert query.loss is LOSSES[loss]
        points = query.points.clone().requires_grad_()
        logits = model(points)
        value = query.loss(logits, y, target)
        (gradient,) = torch.autograd.grad(value.sum(), points)
        asked.append(query.points)
        losses.append(value.detach())
        answer = Answer(
            logits.argmax(1) != y, logits.argmax(1), logits.detach(), gradient, value.detach
        )
        state = attack.tell(state, answer)
    return torch.stack(asked), torch.stack(losses)


@pytest.mark.parametrize(("norm", "loss", "aimed"), CASES)
def test_points_and_losses_are_those_of_the_authors(
    norm: str, loss: Literal["ce", "dlr"], aimed: bool
) -> None:
    stored = STORED[f"{norm} {loss}{' aimed' * aimed}"]
    asked, losses = walk(norm, loss, aimed)
    assert len(asked) == STEPS + (3 if norm == "l1" else 1)
    torch.testing.assert_close(losses, torch.tensor(stored["loss"]), atol=2e-4, rtol=0)
    found = asked.flatten(2)[:, :, COORDINATES]
    torch.testing.assert_close(found, torch.tensor(stored["at"]), atol=2e-4, rtol=0)
