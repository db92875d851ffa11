"""One pixel: what each candidate may be, what it costs, and what a brute-force search says."""

from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from rbl_attacks.one_pixel.attack import OnePixel
from rbl_attacks.one_pixel.candidates import locate, paint
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.losses import margin
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.query import Answer
from robustbench_lite.search.task import SearchOutcome, Task
from robustbench_lite.threat import ThreatModel
from tests.conftest import joined, present

SHAPE = (2, 4, 5)


class Watched(nn.Module):
    """A linear model, monotone in every value, that keeps what it is shown."""

    def __init__(
        self, shape: tuple[int, int, int] = SHAPE, classes: int = 3, scale: float = 1.0
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        size = shape[0] * shape[1] * shape[2]
        self.weight = torch.randn(classes, size, generator=generator) * scale
        self.shown: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x)
        return (x - 0.5).flatten(1) @ self.weight.T


def images(
    model: nn.Module, rows: int = 40, shape: tuple[int, int, int] = SHAPE
) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(1))
    return x, model(x).argmax(1)


def search(
    attack: OnePixel,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 1,
    batch_size: int = 512,
    target: Tensor | None = None,
) -> SearchOutcome:
    target = torch.full_like(y, -1) if target is None else target
    threat = ThreatModel.parse("l0", eps)
    engine = Engine(attack, Passes(DefendedModel(model), batch_size, fast=True), threat)
    return joined(engine.search(Task(x, y, target, torch.arange(len(y)))))


def brute_force(model: nn.Module, x: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Whether any pixel in any corner colour is a success: on a linear model a corner is the
    optimum at each position.
    """
    channels, height, width = x.shape[1:]
    hit = torch.zeros(len(y), dtype=torch.bool)
    for row, column, colour in product(
        range(height), range(width), product((0.0, 1.0), repeat=channels)
    ):
        changed = x.clone()
        changed[:, :, row, column] = torch.tensor(colour)
        hit |= margin(model(changed), y, target) < 0
    return hit


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("population", [7, 64, 400])
def test_the_exhaustive_search_finds_what_brute_force_finds(goal: str, population: int) -> None:
    model = Watched()
    x, y = images(model)
    target = torch.full_like(y, -1) if goal == "untargeted" else (y + 1) % 3
    hit = search(
        OnePixel(search="exhaustive", population=population), model, x, y, target=target
    ).found
    assert torch.equal(hit, brute_force(model, x, y, target))
    assert 0 < hit.sum() < len(y)


def test_exhaustive_search_finds_all_that_evolution_finds_and_evolution_nearly_all() -> None:
    model = Watched()
    x, y = images(model)
    listed = search(OnePixel(search="exhaustive"), model, x, y).found
    evolved = search(OnePixel(population=40, generations=30), model, x, y).found
    assert not (evolved & ~listed).any()
    assert evolved.sum() >= 0.9 * listed.sum()


@pytest.mark.parametrize("pixels", [1, 3, 5])
def test_no_more_pixels_change_than_eps_and_positions_and_colours_stay_in_the_image(
    pixels: int,
) -> None:
    model = Watched(
        scale=0.0
    )  # no class ever wins over the first: nothing is found and every candidate is shown
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2))
    search(
        OnePixel(population=20, generations=10),
        model,
        x,
        torch.zeros(3, dtype=torch.int64),
        eps=pixels,
        batch_size=60,
    )
    shown = torch.cat(model.shown).reshape(-1, 3, 20, *SHAPE)  # (generations, B, P, C, H, W)
    changed = (shown != x.unsqueeze(1)).any(3).flatten(3).sum(3)
    assert changed.max() == pixels
    assert ((shown >= 0) & (shown <= 1)).all()
    assert (shown != x.unsqueeze(1)).flatten(0, 2).any(0).all()  # every value of the image is tried


@pytest.mark.parametrize(("population", "generations"), [(4, 1), (20, 7), (50, 3)])
def test_a_row_that_holds_costs_population_times_generations(
    population: int, generations: int
) -> None:
    model = Watched(scale=0.0)
    x, y = (
        torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(2)),
        torch.zeros(3, dtype=torch.int64),
    )
    result = search(
        OnePixel(population=population, generations=generations), model, x, y, batch_size=64
    )
    assert result.forward.tolist() == [population * generations] * 3
    listed = search(
        OnePixel(population=population, search="exhaustive"), model, x, y, batch_size=64
    )
    assert listed.forward.tolist() == [4 * 5 * 4] * 3  # H W 2^C


def test_a_parent_is_only_replaced_by_a_child_that_is_no_worse() -> None:
    attack, model = OnePixel(population=12, generations=20), Watched()
    x, y = images(model, rows=4)
    target, threat = torch.full_like(y, -1), ThreatModel.parse("l0", 1)
    state = attack.init(x, y, threat, SampleRng.create(0, "test", torch.arange(4)))
    best = None
    for _ in range(20):
        query = attack.ask(state)
        logits = model(query.points.flatten(0, 1))
        loss = present(query.loss)(
            logits, y.repeat_interleave(12), target.repeat_interleave(12)
        ).reshape(4, 12)
        state = attack.tell(
            state,
            Answer(
                loss < float("-inf"),
                logits.argmax(1).reshape(4, 12),
                loss_of=partial(torch.clone, loss),
            ),
        )
        assert best is None or (state.fitness >= best).all()
        best = state.fitness
    survivors = model(paint(x, locate(state.parents, x.shape[2:]), state.parents).flatten(0, 1))
    again = present(query.loss)(
        survivors, y.repeat_interleave(12), target.repeat_interleave(12)
    ).reshape(4, 12)
    assert torch.allclose(again, state.fitness, atol=1e-6)


def test_a_mutant_comes_from_three_others() -> None:
    attack = OnePixel(population=4)
    x, y = torch.zeros(5, *SHAPE), torch.zeros(5, dtype=torch.int64)
    state = attack.init(
        x, y, ThreatModel.parse("l0", 1), SampleRng.create(0, "test", torch.arange(5))
    )
    # Powers of two tell who took part: a + (b - c) / 2 of three others, before clipping.
    marks = torch.tensor([0.1, 0.2, 0.4, 0.7])
    parents = marks.reshape(1, 4, 1, 1).expand(5, 4, 1, 4).contiguous()
    child = attack._next(state.replace(parents=parents))[..., 2]  # (B, P, 1) a colour
    for own in range(4):
        others = [float(m) for k, m in enumerate(marks) if k != own]
        allowed = {
            round(min(max(a + (b - c) / 2, 0), 1), 4)
            for a, b, c in product(others, repeat=3)
            if len({a, b, c}) == 3
        }
        assert {round(float(v), 4) for v in child[:, own, 0]} <= allowed


@pytest.mark.parametrize(
    "make",
    [
        lambda: OnePixel(population=3),
        lambda: OnePixel(generations=0),
        lambda: OnePixel(search="random"),  # type: ignore[arg-type]
        lambda: search(OnePixel(pixels=3), Watched(), *images(Watched(), rows=1), eps=2),
        lambda: search(OnePixel(search="exhaustive"), Watched(), *images(Watched(), rows=1), eps=2),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], OnePixel]) -> None:
    with pytest.raises(UsageError):
        make()


def test_without_a_lead_to_follow_positions_stay_spread_over_the_whole_image() -> None:
    class Level(Watched):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * super().forward(x) + torch.tensor([1.0, 0, 0])

    model, x = Level((1, 8, 8)), torch.full((10, 1, 8, 8), 0.5)
    search(
        OnePixel(population=40, generations=15),
        model,
        x,
        torch.zeros(10, dtype=torch.int64),
        batch_size=400,
    )
    last = (model.shown[-1] != 0.5).float().mean((0, 1))  # (8, 8)
    for edge in (last[0], last[-1], last[:, 0], last[:, -1]):
        assert 0.06 < edge.sum() / last.sum() < 0.2  # an eighth of all
