"""Attacks that drive the model themselves: what the engine grants them, what it counts, and what it
keeps to itself.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.errors import AttackError, ModelError, UsageError
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.model.passes import Passes
from robustbench_lite.search.driven import DrivenAttack, DrivenEngine
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.lock_step import check_lock_step
from robustbench_lite.search.query import Access
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, joined, untargeted

LINF = ThreatModel.parse("linf", 0.2)
NEAREST = ThreatModel.parse("linf", None)


@dataclass(frozen=True, kw_only=True)
class Guess(DrivenAttack):
    """Tries random points of the box with numbers of all three global generators, then claims one
    more.
    """

    name: ClassVar[str] = "guess"
    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    kind = "minimal_distance"

    tries: int = 30
    points: int = 1  # type: ignore[assignment]
    restarts: int = 1

    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel
    ) -> Tensor | None:
        for _ in range(self.tries):
            model(self._draw(x))
        return self._draw(x)[:1]

    def _draw(self, x: Tensor) -> Tensor:
        scale = 0.5 * random.random() * np.random.random()
        return (x + scale * torch.randn(self.points, *x.shape[1:])).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Probe(DrivenAttack):
    """Runs ``function(model, x, y)``."""

    name: ClassVar[str] = "probe"
    access: ClassVar[Access] = Access.GRADIENT
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    kind = "fixed_eps"

    function: object

    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel
    ) -> Tensor | None:
        return self.function(model, x, y)  # type: ignore[operator,no-any-return]


@dataclass(frozen=True, kw_only=True)
class Blind(Probe):
    access: ClassVar[Access] = Access.LABELS


def task(network: nn.Module, rows: int = 20) -> Task:
    x = images(rows)
    y = network(x).argmax(1)
    return untargeted(x, y, first=100)


def search(
    attack: DrivenAttack,
    model: nn.Module | DefendedModel,
    what: Task,
    threat: ThreatModel = NEAREST,
    batch: int = 32,
    lanes: int = 64,
    seed: int = 0,
    budget: int | None = None,
) -> SearchOutcome:
    model = model if isinstance(model, DefendedModel) else DefendedModel(model)
    engine = DrivenEngine(attack, Passes(model, batch), threat, seed=seed, query_budget=budget)
    engine.LANES = lanes
    return joined(engine.search(what))


def same(a: SearchOutcome, b: SearchOutcome) -> bool:
    return all(
        torch.equal(getattr(a, name), getattr(b, name))
        for name in ("found", "x_adv", "size", "forward", "backward")
    )


@pytest.mark.parametrize(("batch", "lanes"), [(1, 64), (7, 64), (64, 3)])
@pytest.mark.parametrize("points", [1, 5])
def test_a_sample_gets_the_same_draws_and_verdict_in_any_company(
    network: nn.Module, batch: int, lanes: int, points: int
) -> None:
    what, attack = task(network, 12), Guess(points=points, tries=12)
    whole = search(attack, network, what)
    assert whole.found.any()
    assert same(whole, search(attack, network, what, batch=batch, lanes=lanes))
    order = torch.arange(len(what.y)).flip(0)
    turned = Task(what.x[order], what.y[order], what.target[order], what.index[order])
    assert same(whole.select(order), search(attack, network, turned, batch=batch, lanes=lanes))
    part = Task(what.x, what.y, what.target, what.index, torch.arange(7, 12))
    assert same(whole.select(part.positions), search(attack, network, part))  # type: ignore[arg-type]


def test_seeds_and_restarts_draw_anew(network: nn.Module) -> None:
    what = task(network)
    once = search(Guess(), network, what)
    assert not torch.equal(once.x_adv, search(Guess(), network, what, seed=1).x_adv)
    twice = search(Guess(restarts=2), network, what)
    assert torch.equal(twice.forward, 2 * once.forward)
    assert (twice.size <= once.size).all()
    assert (twice.size < once.size).any()


def test_the_global_generators_are_where_they_were_even_after_an_error(network: nn.Module) -> None:
    def states() -> list[object]:
        return [
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[index]
            random.getstate(),
        ]

    def fail(model: nn.Module, x: Tensor, y: Tensor) -> None:
        torch.rand(3), np.random.random(), random.random()
        model(x)
        torch.rand(3), np.random.random(), random.random()
        raise KeyError("lost")

    before, threads = states(), threading.active_count()
    search(Guess(), network, task(network))
    assert states() == before
    with pytest.raises(AttackError, match=r"probe failed on sample 100: KeyError: 'lost'"):
        search(Probe(function=fail), network, task(network))
    assert states() == before
    stream = DrivenEngine(Guess(), Passes(DefendedModel(network), 32), NEAREST).search(
        task(network, 80)
    )
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert states() == before
    assert threading.active_count() == threads


def test_queries_are_counted_by_the_point_forward_and_backward(network: nn.Module) -> None:
    def ask(model: nn.Module, x: Tensor, y: Tensor) -> None:
        model(x.expand(3, -1, -1, -1))
        x = x.clone().requires_grad_()
        model(x)[0, 0].backward()

    result = search(Probe(function=ask), network, task(network), LINF)
    assert result.forward.tolist() == [4] * 20
    assert result.backward.tolist() == [1] * 20


@pytest.mark.parametrize("budget", [1, 4, 10, 29])
def test_a_budget_holds_to_the_query_and_what_was_found_counts(
    network: nn.Module, budget: int
) -> None:
    what = task(network)
    short, whole = (
        search(Guess(), network, what, budget=budget),
        search(Guess(tries=budget), network, what),
    )
    assert short.forward.tolist() == [budget] * 20
    assert (short.size[short.found] >= whole.size[short.found]).all()
    assert short.found.any() or budget < 10
    assert (search(Guess(points=4), network, what, budget=budget).forward == budget // 4 * 4).all()


def test_the_nearest_point_asked_is_kept_and_the_first_in_the_ball_ends_the_row() -> None:
    network: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():  # classes that random images share out evenly
        network[1].weight.copy_(torch.randn(3, 36, generator=torch.Generator().manual_seed(2)))
        network[1].bias.copy_(-network[1].weight.sum(1) / 2)
    what = task(network)
    asked: list[Tensor] = []

    def note(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        for scale in (0.4, 0.2, 0.3, 0.5):
            point = (x + scale * torch.randn(x.shape, generator=generator)).clamp(0, 1)
            asked.append(point)
            model(point)
        return x + 10  # a far point, moved into the ball (and the bounds) before it is judged

    result = search(Probe(function=note), network, what, lanes=1)
    points = torch.stack(asked).reshape(20, 4, *what.x.shape[1:])
    hits = network(points.flatten(0, 1)).argmax(1).reshape(20, 4) != what.y.unsqueeze(1)
    size = (
        (points - what.x.unsqueeze(1))
        .flatten(2)
        .abs()
        .amax(2)
        .masked_fill(~hits, float("inf"))
        .amin(1)
    )
    last = network(torch.ones_like(what.x)).argmax(1) != what.y
    far = (1 - what.x).flatten(1).amax(1).masked_fill(~last, float("inf"))
    torch.testing.assert_close(result.size, torch.minimum(size, far))
    eps = float(size[size.isfinite()].median()) + 1e-4
    inside = search(Probe(function=note), network, what, ThreatModel.parse("linf", eps), lanes=1)
    assert (inside.found >= (size <= eps)).all()
    assert (inside.size[inside.found] <= eps + 2e-6).all()
    assert (inside.forward[inside.found] < 5).any()


def test_the_gradient_is_the_models_own(network: nn.Module) -> None:
    what, seen = task(network, 3), {}

    def ask(model: nn.Module, x: Tensor, y: Tensor) -> None:
        x = x.clone().requires_grad_()
        model(x).log_softmax(1)[0, y[0]].backward()
        seen[float(x.detach().sum())] = x.grad

    search(Probe(function=ask), network, what, LINF)
    for x, y in zip(what.x, what.y, strict=True):
        point = x.unsqueeze(0).clone().requires_grad_()
        network(point).log_softmax(1)[0, y].backward()
        torch.testing.assert_close(seen[float(x.sum())], point.grad, rtol=1e-4, atol=1e-6)


def test_a_surrogate_gives_the_gradient_and_costs_its_passes(network: nn.Module) -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = network((x * 8).round() / 8)
            return logits

    grads: list[float] = []

    def ask(model: nn.Module, x: Tensor, y: Tensor) -> None:
        x = x.clone().requires_grad_()
        model(x)[0, 0].backward()
        grads.append(0.0 if x.grad is None else float(x.grad.abs().sum()))

    stepped = Steps().eval()
    plain = search(Probe(function=ask), stepped, task(stepped, 5), LINF)
    assert max(grads) == 0
    grads.clear()
    adaptive = search(
        Probe(function=ask),
        DefendedModel(stepped, Traits(surrogate=network)),
        task(stepped, 5),
        LINF,
    )
    assert min(grads) > 0
    assert (adaptive.forward - plain.forward).tolist() == [1] * 5


def test_every_draw_of_a_random_model_is_counted(network: nn.Module) -> None:
    result = search(
        Guess(tries=3),
        DefendedModel(network, Traits(random=True, draws=4, votes=3)),
        task(network, 5),
    )
    assert result.forward.tolist() == [16] * 5


def test_label_access_gives_labels_and_no_gradient(network: nn.Module) -> None:
    outputs: list[Tensor] = []
    search(
        Blind(function=lambda model, x, y: outputs.append(model(x))),
        network,
        task(network, 3),
        LINF,
    )
    assert all(sorted(output[0].tolist()) == [0, 0, 1] for output in outputs)

    def climb(model: nn.Module, x: Tensor, y: Tensor) -> None:
        model(x.clone().requires_grad_()).sum().backward()

    with pytest.raises(AttackError, match="asked for GRADIENT but declares access = LABELS"):
        search(Blind(function=climb), network, task(network, 3), LINF)


def test_nan_is_an_error_that_names_its_source(network: nn.Module) -> None:
    with pytest.raises(AttackError, match="probe produced NaN for sample 100"):
        search(
            Probe(function=lambda model, x, y: x * float("nan")), network, task(network, 3), LINF
        )
    broken = nn.Sequential(network, nn.Threshold(1e9, float("nan"))).eval()
    with pytest.raises(ModelError, match="near sample 100"):
        search(Probe(function=lambda model, x, y: model(x)), broken, task(network, 3), LINF)


def test_an_attack_that_swallows_the_stop_gets_no_more_answers(network: nn.Module) -> None:
    def stubborn(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for _ in range(9):
            try:
                model(x)
            except Exception:  # noqa: BLE001 -- what some packages do
                continue

    assert (
        search(Probe(function=stubborn), network, task(network, 3), LINF, budget=4).forward.tolist()
        == [4] * 3
    )


def test_what_drives_the_model_is_refused_where_it_would_have_to_be_asked(
    network: nn.Module,
) -> None:
    attack = Probe(function=lambda model, x, y: None)
    with pytest.raises(TypeError, match="DrivenEngine"):
        next(Engine(attack, Passes(DefendedModel(network), 8), LINF).search(task(network, 2)))
    with pytest.raises(UsageError, match="cannot use 'probe'"):
        check_lock_step(attack, LINF, "adversarial training")
