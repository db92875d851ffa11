"""Passes: which draws of a random model are asked, what is averaged, and what stands for the user's
network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rbl_attacks.one_pixel.attack import OnePixel
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import margin_loss
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, points_of, small_network, untargeted

N = 20


class OwnNoise(nn.Module):
    """A user's random network: it draws from torch's generator."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 3, device=x.device) + 0 * x.flatten(1)[:, :3]


class Swaying(nn.Module):
    """Its logits and its gradients depend on the draw, and on nothing but sample and draw beside
    the image.
    """

    takes_rng = True

    def __init__(self) -> None:
        super().__init__()
        self.net = small_network()

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
        logits: Tensor = self.net(x + rng.uniform(0, tuple(x.shape[1:])))
        return logits


def points(x: Tensor, first_draw: int = 0) -> Points:
    return points_of(x, torch.arange(len(x)) % 3, draw=first_draw)


def test_a_users_random_network_draws_anew_for_each_vote_and_for_each_seed() -> None:
    model, x = DefendedModel(OwnNoise(), Traits(random=True, votes=3)), points(images(N))
    first, second, third = Passes(model, 64, seed=1).ballots(x, 3)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            (first, second, third), Passes(model, 64, seed=1).ballots(x, 3), strict=True
        )
    )
    assert not torch.equal(first, next(iter(Passes(model, 64, seed=2).ballots(x, 1))))


def test_logits_and_gradient_are_the_mean_over_the_draws() -> None:
    x = images(N)
    together = Passes(DefendedModel(Swaying(), Traits(random=True, draws=4)), 64).gradient(
        points(x), margin_loss
    )
    one = Passes(DefendedModel(Swaying(), Traits(random=True, draws=1)), 64)
    alone = [one.gradient(points(x, draw), margin_loss) for draw in range(4)]
    for found, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(0))
    assert not torch.allclose(alone[0][1], alone[1][1])


def test_an_attacker_that_is_not_adaptive_takes_one_draw() -> None:
    model, x = DefendedModel(Swaying(), Traits(random=True, draws=4)), points(images(N))
    plain = Passes(model, 64, adaptive=False)
    assert (plain.forwards_per_point, Passes(model, 64).forwards_per_point) == (1, 4)
    torch.testing.assert_close(plain.gradient(x, margin_loss)[0], next(iter(plain.ballots(x, 1))))


def test_in_a_search_no_two_points_share_a_draw_of_their_sample() -> None:
    shown: dict[tuple[int, int], set[bytes]] = {}

    class Watched(Swaying):
        def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
            for row, key in enumerate(zip(rng.index.tolist(), rng.restart.tolist(), strict=True)):
                shown.setdefault(key, set()).add(x[row].numpy().tobytes())
            return super().forward(x, rng)

    x = images(N)
    y = small_network()(x).argmax(1)
    model = DefendedModel(Watched(), Traits(random=True, draws=2, votes=3))
    engine = Engine(
        OnePixel(population=6, generations=4), Passes(model, 64), ThreatModel.parse("l0", 1)
    )
    found = list(engine.search(untargeted(x, y)))
    assert sum(len(part.position) for part in found) == N
    assert max(len(asked) for asked in shown.values()) == 1
    assert sum(int(part.forward.sum()) for part in found) == len(shown)
