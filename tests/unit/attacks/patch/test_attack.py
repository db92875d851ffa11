"""The patch: where it lies to the pixel, what a brute-force search says, and what fitting one for
all images gives.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.patch.attack import Patch
from rbl_attacks.patch.fit import log_chance
from rbl_attacks.patch.placement import Geometry, Placement
from robustbench_lite.errors import ModelError, RecordError, UsageError
from robustbench_lite.evaluation import fitting
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.fit import read_fit, write_fit
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.fitted import Fit, UniversalAttack
from robustbench_lite.search.task import Task
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from tests.conftest import present

Shape = Literal["circle", "square"]
ROWS = 200


def placements(
    shape: Shape,
    rotation: float,
    pixels: int = 30,
    size: tuple[int, int] = (17, 14),
    scale_min: float = 1.0,
) -> tuple[Geometry, Placement, Tensor]:
    """Places of a black patch on white images, and where its middle lies."""
    geometry = Geometry(shape, pixels, *size, rotation, scale_min, 1.0)
    geometry.check()
    placement = geometry.draw(SampleRng.create(3, "test", torch.arange(ROWS)), 0)
    colours, covered = geometry.place(torch.zeros(ROWS, 2, geometry.side, geometry.side), placement)
    assert colours.shape == (ROWS, 2, *size)
    assert not colours.any()
    return geometry, placement, covered


@pytest.mark.parametrize("rotation", [0.0, 22.5, 180.0])
@pytest.mark.parametrize("shape", ["circle", "square"])
class TestPlacement:
    def test_it_covers_exactly_its_pixels(self, shape: Shape, rotation: float) -> None:
        for pixels in (1, 2, 30):
            _, _, covered = placements(shape, rotation, pixels)
            assert (covered.flatten(1).sum(1) == pixels).all()

    def test_smaller_scales_cover_their_share(self, shape: Shape, rotation: float) -> None:
        _, placement, covered = placements(shape, rotation, scale_min=0.25)
        count = covered.flatten(1).sum(1)
        assert torch.equal(count, placement.pixels)
        assert count.min() < 12
        assert count.max() <= 30

    def test_it_is_turned_to_both_sides_as_far_as_it_may(
        self, shape: Shape, rotation: float
    ) -> None:
        _, placement, _ = placements(shape, rotation)
        turned = torch.atan2(-placement.affine[:, 1, 0], placement.affine[:, 0, 0]) * 180 / math.pi
        assert (turned.abs() <= rotation + 1e-3).all()
        assert turned.max() >= 0.95 * rotation
        assert turned.min() <= -0.95 * rotation

    def test_every_pixel_of_it_lies_within_its_outline_and_the_image(
        self, shape: Shape, rotation: float
    ) -> None:
        geometry, placement, covered = placements(shape, rotation)
        height, width = 17, 14
        down = (torch.arange(height) + 0.5) * 2 / height - 1
        across = (torch.arange(width) + 0.5) * 2 / width - 1
        ones = torch.ones(height, width)
        place = torch.stack([across * ones, down.unsqueeze(1) * ones, ones], 2)  # (H, W, 3)
        where = (
            torch.einsum("bij,hwj->bhwi", placement.affine, place) * 1.25
        )  # in half widths of the patch
        reach = where.norm(dim=3) if shape == "circle" else where.abs().amax(3)
        # As many as the area says: those of the raster within the outline, give or take what the
        # raster cannot hit.
        assert reach[covered.squeeze(1)].max() < 1 + 1 / geometry.half
        assert reach[~covered.squeeze(1)].min() > 1 - 1 / geometry.half
        rows = covered.squeeze(1).any(2)
        columns = covered.squeeze(1).any(1)
        for line in (
            rows,
            columns,
        ):  # one stretch without a gap: nothing sticks out of the image and comes back elsewhere
            assert (line.int().diff(dim=1).abs().sum(1) <= 2).all()

    def test_it_gets_everywhere(self, shape: Shape, rotation: float) -> None:
        _, _, covered = placements(shape, rotation, pixels=16)
        assert covered.any(0)[0, 2:-2, 2:-2].all()


def test_a_patch_that_cannot_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="does not fit into images of 9 x 5"):
        Geometry("circle", 30, 9, 5, 0.0, 1.0, 1.0).check()
    Geometry("square", 25, 9, 5, 0.0, 1.0, 1.0).check()
    with pytest.raises(UsageError, match="does not fit"):
        Geometry("square", 25, 9, 5, 22.5, 1.0, 1.0).check()


def test_without_rotation_the_patch_is_the_texture_itself() -> None:
    geometry = Geometry("square", 16, 8, 8, 0.0, 1.0, 1.0)
    ramp = torch.linspace(0, 1, geometry.side).expand(1, 1, geometry.side, geometry.side)
    placement = geometry.draw(SampleRng.create(0, "test", torch.arange(1)), 0)
    colours, covered = geometry.place(ramp, placement)
    line = colours[covered].reshape(4, 4)
    assert torch.allclose(line, line[:1].expand(4, 4))
    # Four pixels across a patch that takes 1 / 1.25 of the ramp.
    torch.testing.assert_close(line[0].diff(), torch.full((3,), 0.25 / 1.25))


class Linear(nn.Module):
    """A linear model over images of ``shape``, whose classes differ by a few pixels."""

    def __init__(self, shape: tuple[int, int, int], classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.weight = torch.randn(
            classes, math.prod(shape), generator=torch.Generator().manual_seed(seed)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def images(
    model: nn.Module, shape: tuple[int, int, int], rows: int, seed: int = 1
) -> tuple[Tensor, Tensor]:
    x = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed))
    return x, model(x).argmax(1)


def search(
    attack: Patch,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    target: int = -1,
    seed: int = 0,
) -> Tensor:
    threat = ThreatModel.parse("l0", eps)
    engine = Engine(attack, Passes(DefendedModel(model), 128), threat, seed=seed)
    found = torch.zeros(len(y), dtype=torch.bool)
    for rows in engine.search(Task(x, y, torch.full_like(y, target), torch.arange(len(y)))):
        found[rows.position] = rows.found
        assert (threat.excess(rows.x_adv, x[rows.position]) <= 0).all()
    return found


@pytest.mark.parametrize("target", [-1, 0])
def test_an_images_own_patch_of_one_pixel_finds_what_brute_force_finds(target: int) -> None:
    shape = (2, 3, 4)
    model = Linear(shape)
    x = images(model, shape, 40)[
        0
    ].round()  # far from grey, and so from each other: some are out of a pixel's reach
    y = model(x).argmax(1)
    keep = y != target
    x, y = x[keep], y[keep]
    hit = torch.zeros(len(y), dtype=torch.bool)
    for row, column, colour in product(
        range(3), range(4), product((0.0, 1.0), repeat=2)
    ):  # on a linear model a corner is best
        changed = x.clone()
        changed[:, :, row, column] = torch.tensor(colour)
        label = model(changed).argmax(1)
        hit |= (label != y) if target < 0 else (label == target)
    assert 3 < hit.sum() < len(y) - 3
    attack = Patch(
        universal=False, draws=300, steps=8, learning_rate=0.5
    )  # 300 places in 12 pixels: none stays untried
    assert torch.equal(search(attack, model, x, y, 1, target), hit)


SHAPE, PIXELS = (1, 9, 9), 12


@pytest.fixture(scope="module")
def net() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(54, 4)
    )
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)
    with torch.no_grad():  # every class wins somewhere
        model[-1].bias -= model(torch.rand(200, *SHAPE, generator=generator)).mean(0)
    return model.eval().requires_grad_(False)


def fit(
    model: nn.Module,
    attack: Patch,
    batch_size: int = 64,
    goal: str | None = None,
    start: Fit | None = None,
    seed: int = 0,
    rows: int = 100,
) -> list[Fit]:
    x, y = images(model, SHAPE, rows, seed=2)
    threat = ThreatModel.parse("l0", PIXELS, goal)
    keep = threat.goal.applies_to(y)
    target = threat.goal.targets(model(x), y, torch.zeros(rows))
    points = Points(x, y, target, torch.arange(rows), torch.zeros_like(y)).take(keep)
    return list(attack.fit(Passes(DefendedModel(model), batch_size), points, threat, seed, start))


ATTACK = Patch(steps=60, fit_batch=40, draws=1)


def test_model_batches_of_any_size_fit_the_same_patch(net: nn.Module) -> None:
    whole = fit(net, ATTACK)[-1].result
    assert torch.equal(fit(net, ATTACK)[-1].result, whole)
    assert not torch.equal(fit(net, ATTACK, seed=1)[-1].result, whole)
    for batch_size in (7, 16, 250):
        torch.testing.assert_close(
            fit(net, ATTACK, batch_size)[-1].result, whole, atol=1e-4, rtol=0
        )


def test_a_fit_goes_on_from_any_step_to_the_same_patch(net: nn.Module) -> None:
    states = fit(net, ATTACK)
    assert [state.step for state in states] == list(range(1, 61))
    again = fit(net, ATTACK, start=states[22])
    assert again[0].step == 24
    assert torch.equal(again[-1].result, states[-1].result)


@pytest.mark.parametrize("goal", [None, "class:1"])
def test_a_fitted_patch_breaks_more_held_out_images_than_a_random_one(
    net: nn.Module, goal: str | None
) -> None:
    x, y = images(net, SHAPE, 300, seed=3)
    target = -1 if goal is None else 1
    x, y = x[y != target], y[y != target]
    fitted = fit(net, ATTACK, goal=goal)[-1].result
    random = torch.rand(fitted.shape, generator=torch.Generator().manual_seed(4))
    rate = [
        search(dataclasses.replace(ATTACK, fitted=patch), net, x, y, PIXELS, target).float().mean()
        for patch in (fitted, random)
    ]
    assert rate[0] > rate[1] + 0.1


def test_more_draws_break_more_images_and_cost_one_query_each(net: nn.Module) -> None:
    x, y = images(net, SHAPE, 100, seed=3)
    fitted = dataclasses.replace(ATTACK, fitted=fit(net, ATTACK)[-1].result)
    once = search(fitted, net, x, y, PIXELS)
    any_of_8 = search(dataclasses.replace(fitted, draws=8), net, x, y, PIXELS)
    assert any_of_8[once].all()
    assert any_of_8.sum() > once.sum()


def evaluate(net: nn.Module, fit_rows: int = 100, **options: Any) -> rbl.Cell:
    x, y = images(net, SHAPE, 60, seed=3)
    train = images(net, SHAPE, fit_rows, seed=2)
    return rbl.evaluate(
        net,
        (x, y),
        **{"attacks": ATTACK, "norm": "l0", "eps": PIXELS, "fit_data": train, **options},
    ).cells[0]


def test_an_evaluation_fits_once_and_says_on_what(net: nn.Module, tmp_path: Path) -> None:
    cell = evaluate(net, output=tmp_path)
    assert cell.attack == "patch draws=1 steps=60 fit_batch=40"
    assert cell.fitted is not None
    assert cell.identity.fit_data is not None
    assert (tmp_path / "fits" / f"{cell.key}.safetensors").exists()
    assert "fitted" not in cell.identity.attack.parameters
    assert evaluate(net, output=tmp_path).cached
    assert evaluate(net, fit_rows=99, output=tmp_path).key != cell.key
    assert present(evaluate(net, batch_size=16).record).digest == present(cell.record).digest
    assert evaluate(net, attacks="pgd steps=2", norm="l2", eps=1).identity.fit_data is None


def test_a_killed_fit_goes_on_where_it_was(
    net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(net, output=tmp_path / "whole")
    steps, original = [], Patch.fit

    def watched(self: Patch, *arguments: Any) -> Iterator[Fit]:
        for state in original(self, *arguments):
            steps.append(state.step)
            yield state
            if len(steps) == 25:
                raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Patch, "fit", watched)
    with pytest.raises(KeyboardInterrupt):
        evaluate(net, output=tmp_path / "killed")
    resumed = evaluate(net, output=tmp_path / "killed")
    assert steps == list(range(1, 61))
    assert present(resumed.record).digest == present(whole.record).digest
    assert torch.equal(present(resumed.fitted), present(whole.fitted))


def test_a_fit_that_was_changed_is_refused(net: nn.Module, tmp_path: Path) -> None:
    cell = evaluate(net, output=tmp_path)
    path: Path = tmp_path / "fits" / f"{cell.key}.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-8] + b"\0" * 8, whole[:40], b""):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="damaged or was changed"):
            evaluate(net, output=tmp_path, keep_adversarials=True)
    assert (
        present(evaluate(net, output=tmp_path, fresh=True).record).digest
        == present(cell.record).digest
    )


@pytest.mark.parametrize(
    "result", [torch.zeros(1, 1, 2, 2), torch.zeros(5), torch.full((1, 1, 3, 3), float("nan"))]
)
def test_a_fit_of_other_shapes_is_refused_though_its_seal_is_right(
    net: nn.Module, tmp_path: Path, result: Tensor
) -> None:
    cell = evaluate(net, output=tmp_path)
    path: Path = tmp_path / "fits" / f"{cell.key}.safetensors"
    stored = read_fit(path, cell.key)
    write_fit(path, cell.key, stored._replace(tensors={"result": result}))
    with pytest.raises(RecordError, match=r"no fit of patch for images of .*--fresh"):
        evaluate(net, output=tmp_path, keep_adversarials=True)


def test_progress_tells_of_the_fit_before_the_search(
    net: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_TELL_SECONDS", 0.0)
    heard: list[Any] = []
    evaluate(net, on_progress=heard.append)
    kinds = [progress.before for progress in heard]
    assert kinds == sorted(kinds, reverse=True)
    assert (heard[0].rows, heard[0].of, heard[0].label[-5:]) == (1, 60, ": fit")
    assert not kinds[-1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fit_data": None}, "fit_data="),
        ({"targeted": "random"}, "class:K"),
        ({"targeted": "least_likely"}, "universal=false"),
        ({"attacks": "patch area=0.5"}, "--eps 40"),
        ({"attacks": "patch area=0.001"}, "eps allows 1 to 12"),
        ({"attacks": "patch shape=star"}, "shape"),
        ({"attacks": "patch scale_min=0.5 scale_max=0.2"}, "scale_min"),
        ({"attacks": "patch fitted=1"}, "No parameter"),
        (
            {"fit_data": (torch.zeros(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64))},
            "of the same kind",
        ),
        ({"eps": None}, "radius"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_cannot_be_fitted_is_explained(
    net: nn.Module, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        evaluate(net, **options)


def test_it_is_never_scored_on_what_it_was_fitted_on(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="that it is scored on"):
        evaluate(net, fit_data=images(net, SHAPE, 60, seed=3))
    x, y = images(net, SHAPE, 60)
    whole = Dataset("mine", "all", x, y, torch.arange(60), None, 60)
    other = dataclasses.replace(whole, x=x[40:], y=y[40:], ids=whole.ids[40:])
    with pytest.raises(UsageError, match="that it is scored on"):
        rbl.evaluate(net, whole.first(45), ATTACK, norm="l0", eps=PIXELS, fit_data=other)
    assert (
        rbl.evaluate(net, whole.first(40), ATTACK, norm="l0", eps=PIXELS, fit_data=other).cells[0].n
        == 40
    )


def test_what_is_lost_for_good_hardly_pulls_and_what_holds_pulls_in_full() -> None:
    logits = torch.tensor([[0.0, 30.0], [30.0, 0.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(
        log_chance(logits, torch.zeros(2).long(), torch.full((2,), -1)).sum(), logits
    )
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [-1.0, 1.0]]))


def test_images_that_are_wrong_already_teach_nothing(net: nn.Module) -> None:
    x, y = images(net, SHAPE, 80, seed=2)
    wrong = torch.cat([x, images(net, SHAPE, 30, seed=5)[0]])
    labels = torch.cat([y, (net(wrong[80:]).argmax(1) + 1) % 4])
    first, second = (
        evaluate(net, fit_data=fit_data).fitted for fit_data in ((wrong, labels), (x, y))
    )
    assert torch.equal(present(first), present(second))
    with pytest.raises(UsageError, match="classifies none correctly"):
        evaluate(net, fit_data=(x, (y + 1) % 4))


def test_a_model_that_returns_nan_is_named(net: nn.Module) -> None:
    class Breaks(nn.Module):
        """Finite at uniform noise, NaN at what has a grey spot."""

        def forward(self, x: Tensor) -> Tensor:
            return net(x) / (x == 0.5).flatten(1).any(1, keepdim=True).logical_not()  # type: ignore[no-any-return]

    with pytest.raises(ModelError, match="NaN or inf while patch"):
        evaluate(Breaks().eval())


def test_an_unfitted_patch_does_not_run(net: nn.Module) -> None:
    x, y = images(net, SHAPE, 4)
    assert isinstance(ATTACK, UniversalAttack)
    with pytest.raises(UsageError, match="not fitted"):
        search(ATTACK, net, x, y, PIXELS)
