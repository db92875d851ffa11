"""Where the Boundary attack starts, and which ways it tries."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.boundary.attack import Boundary
from rbl_attacks.boundary.moves import adapt, propose, waves
from rbl_attacks.boundary.starts import ABSENT, PER_CLASS, collect, other_images
from robustbench_lite.errors import UsageError
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.search.query import Answer
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import reference_model
from robustbench_lite.threat import NORMS, ThreatModel
from tests.conftest import images, points_of, present, small_network

SHAPE = (1, 6, 6)


def test_images_to_start_from_are_of_the_other_classes_and_each_is_used() -> None:
    x, y = images(90), torch.arange(90) % 3
    x[y == 2] = x[y == 2][:1]  # a class of one image, many times
    stored = collect(Passes(DefendedModel(small_network()), 32), points_of(x, y), seed=0)
    assert stored.shape == (3, PER_CLASS, *SHAPE)
    rng = SampleRng.create(0, "test", torch.arange(200))
    wanted = torch.zeros(200, dtype=torch.int64)
    starts = other_images(rng, wanted, 5, wanted, stored)  # for rows of class 0
    flat = starts.flatten(0, 1)
    of_class = [
        (flat.unsqueeze(1) == x[y == label].unsqueeze(0)).flatten(2).all(2).any(1).sum()
        for label in range(3)
    ]
    assert of_class[0] == 0
    assert of_class[1] > 300
    assert of_class[2] > 300


def test_which_images_are_kept_does_not_depend_on_their_order_and_a_missing_class_is_left_out() -> (
    None
):
    x, y, passes = images(80), torch.arange(80) % 2, Passes(DefendedModel(small_network()), 32)
    stored, order = collect(passes, points_of(x, y), seed=0), torch.arange(80).flip(0)
    again = collect(passes, points_of(x, y).take(order), seed=0)
    assert torch.equal(stored, again)
    assert not torch.equal(stored, collect(passes, points_of(x, y), seed=1))
    assert (stored[2] == ABSENT).all()
    starts = other_images(
        SampleRng.create(0, "test", torch.arange(50)),
        torch.zeros(50, dtype=torch.int64),
        4,
        y[:50],
        stored,
    )
    assert starts.min() >= 0


def test_starting_from_images_finds_an_adversarial_for_every_row(
    network: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    other = images(60, seed=5)
    cell = rbl.evaluate(
        network,
        batch,
        "boundary start=images steps=200",
        norm="l2",
        fit_data=(other, network(other).argmax(1)),
    ).cells[0]
    assert cell.robust_accuracy == 0
    assert cell.fitted is not None
    assert cell.identity.fit_data is not None
    noise = rbl.evaluate(network, batch, "boundary steps=200", norm="l2").cells[0]
    assert noise.identity.fit_data is None
    assert present(cell.median_distance) < 2 * present(noise.median_distance)


def test_a_targeted_walk_begins_at_images_of_its_class_and_reaches_it(network: Any) -> None:
    x, other = images(60), images(60, seed=5)
    with torch.no_grad():
        network[-1].bias -= network(other).mean(0)  # no class has most of the images
    fit, wanted = (other, network(other).argmax(1)), "class:1"
    cell = rbl.evaluate(
        network,
        (x, network(x).argmax(1)),
        "boundary start=images steps=300",
        norm="l2",
        fit_data=fit,
        targeted=wanted,
        keep_adversarials=True,
    ).cells[0]
    assert 20 < cell.n < 60  # without those that are of the class already
    assert cell.robust_accuracy == 0
    assert (network(cell.x_adv).argmax(1) == 1).all()
    nearest = rbl.evaluate(
        network, (x, network(x).argmax(1)), "carlini_wagner steps=200", norm="l2", targeted=wanted
    ).cells[0]
    assert (
        present(nearest.median_distance)
        < present(cell.median_distance)
        < 2 * present(nearest.median_distance)
    )


def test_noise_is_no_start_for_a_targeted_walk(
    network: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(UsageError, match="boundary start=images"):
        rbl.evaluate(network, batch, "boundary", norm="l2", targeted="least_likely")


def test_without_images_it_says_what_to_do(
    network: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(UsageError, match="fit_data"):
        rbl.evaluate(network, batch, "boundary start=images", norm="l2")
    with pytest.raises(UsageError, match="start=noise"):
        dataclasses.replace(Boundary(), start="nowhere")  # type: ignore[arg-type]


def test_white_and_smooth_noise_belong_to_the_sample_and_the_draw() -> None:
    rng, draw, grain = (
        SampleRng.create(0, "test", torch.arange(60)),
        torch.arange(60),
        torch.arange(60) % 3,
    )
    noise = waves(rng, draw, 4, grain, torch.Size((2, 9, 7)))  # edges that no grain divides
    assert noise.shape == (60, 4, 2, 9, 7)
    assert torch.equal(
        noise[grain == 0],
        rng.select((grain == 0).nonzero().squeeze(1)).normal(draw[grain == 0], (4, 2, 9, 7)),
    )
    part = torch.tensor([7, 2, 33])
    assert torch.allclose(
        waves(rng.select(part), draw[part], 4, grain[part], torch.Size((2, 9, 7))),
        noise[part],
        atol=1e-6,
    )
    neighbours = [
        (noise[grain == g][..., 1:] * noise[grain == g][..., :-1]).mean().item() for g in range(3)
    ]
    assert abs(neighbours[0]) < 0.05 < 0.3 < neighbours[1] < neighbours[2]


def test_smooth_noise_in_turn_ends_nearer_at_the_same_queries() -> None:
    data, model = (
        load_dataset("fashion_mnist", limit=24),
        reference_model("fashion_mnist", "none").module,
    )
    turns, white = rbl.evaluate(
        model, data, ["boundary steps=600", "boundary steps=600 grains=1"], norm="l2"
    ).cells
    assert present(turns.median_distance) < 0.9 * present(white.median_distance)
    assert turns.forward_queries.sum() < 1.01 * white.forward_queries.sum()


def test_a_row_that_finds_no_start_costs_start_draws_queries_and_no_more() -> None:
    deaf: Any = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()
    with torch.no_grad():
        deaf[1].weight.zero_()
        deaf[1].bias.copy_(torch.tensor([0.0, 5.0, 0.0]))
    cell = rbl.evaluate(
        deaf,
        (images(5), torch.ones(5, dtype=torch.int64)),
        "boundary start_draws=4 proposals=6",
        norm="l2",
    ).cells[0]
    assert cell.robust_accuracy == 1
    assert cell.forward_queries.tolist() == [4 * 7] * 5


def test_a_walk_costs_its_proposals_its_tests_and_its_start_to_the_query(
    network: nn.Module, batch: tuple[Tensor, Tensor]
) -> None:
    cell = rbl.evaluate(
        network, batch, "boundary steps=60 proposals=6 bisections=3", norm="l2"
    ).cells[0]
    # Ten places of six proposals; the orthogonal move is due at 0, 12, 24, 30, 42 and 54 of them.
    beside = cell.forward_queries[cell.clean_correct] - (3 * 7 + 10 * 6 + 6)
    assert (beside % 7 == 0).all()  # draws for a start
    assert beside.min() == 7
    assert beside.max() <= 20 * 7


def test_a_walk_never_leads_away_even_to_a_success() -> None:
    attack, x = Boundary(proposals=2), images(2) * 0.4 + 0.3
    zeros = torch.zeros(2, dtype=torch.int64)
    state = attack.init(
        x, zeros, ThreatModel(NORMS["l2"]), SampleRng.create(0, "t", torch.arange(2))
    )
    far = x + 0.1
    distance = (far - x).flatten(1).norm(dim=1)
    points = torch.stack([x + 0.2, x + 0.15, x], 1)
    reach = (points - x.unsqueeze(1)).flatten(2).norm(dim=2)
    walking = state.replace(
        started=zeros == 0,
        to_narrow=zeros,
        current=far,
        distance=distance,
        points=points,
        reach=reach,
    )
    after = attack.tell(
        walking, Answer(torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.int64))
    )
    assert torch.equal(after.current, far)
    assert torch.equal(after.distance, distance)
    nearer = attack.tell(
        walking.replace(points=points - 0.12, reach=reach * 0 + 0.01),
        Answer(torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.int64)),
    )
    assert (nearer.distance < distance).all()


def test_proposals_lie_where_the_figure_has_them() -> None:
    x, far = images(5) * 0.4 + 0.3, (images(5, seed=9) - 0.5) * 0.2  # nothing is clipped
    state = Boundary(proposals=5).init(
        x,
        torch.zeros(5, dtype=torch.int64),
        ThreatModel(NORMS["l2"]),
        SampleRng.create(0, "t", torch.arange(5)),
    )
    distance = far.flatten(1).norm(dim=1)
    state = state.replace(
        current=x + far,
        distance=distance,
        orthogonal=state.orthogonal * 0 + 0.2,
        towards=state.towards * 0 + 0.05,
    )
    noise = waves(state.rng, state.asked, 3, torch.tensor([0, 1, 0, 1, 0]), x.shape[1:])
    points, reach = propose(state, noise)
    offset = (points - x.unsqueeze(1)).flatten(2)
    length = offset.norm(dim=2)
    assert torch.allclose(length, reach, rtol=1e-5)
    assert torch.allclose(length[:, :-1], 0.95 * distance.unsqueeze(1).expand(-1, 5), rtol=1e-5)
    assert torch.allclose(
        length[:, -1], distance, rtol=1e-5
    )  # the orthogonal move stays on the sphere
    cosine = torch.cosine_similarity(offset, far.flatten(1).unsqueeze(1), dim=2)
    assert torch.allclose(
        cosine, torch.full_like(cosine, 1 / 1.04**0.5), atol=1e-5
    )  # tan of the angle is delta
    sideways = offset / length.unsqueeze(2) - cosine.unsqueeze(2) * (
        far.flatten(1) / distance.unsqueeze(1)
    ).unsqueeze(1)
    assert torch.allclose(sideways[:, :2], -sideways[:, 3:5], atol=1e-5)  # opposite pairs
    clipped, reach = propose(state.replace(x=x.round()), noise * 50)
    assert clipped.min() >= 0
    assert clipped.max() <= 1
    assert torch.allclose(
        (clipped - x.round().unsqueeze(1)).flatten(2).norm(dim=2), reach, rtol=1e-5
    )
    assert (reach[:, :-1] <= 0.95 * distance.unsqueeze(1) * (1 + 1e-6)).all()


def _adapted(counts: list[float]) -> tuple[float, float]:
    """The orthogonal and the whole step, in shares of what they were, after these trials and
    successes of both.
    """
    attack, still = Boundary(start="noise", proposals=2), torch.zeros(1, dtype=torch.bool)
    rng = SampleRng.create(0, "test", torch.tensor([0]))
    state = attack.init(
        torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ThreatModel.parse("l2", None), rng
    )
    state = state.replace(counts=torch.tensor([counts]))
    after = adapt(state, torch.zeros(1, 3, dtype=torch.bool), still, still)
    return (after.orthogonal / state.orthogonal).item(), (after.towards / state.towards).item()


@pytest.mark.parametrize(("held", "factor"), [(2, 1 / 1.5), (3, 1), (7, 1), (8, 1.5)])
def test_of_20_orthogonal_moves_3_and_7_change_no_step(held: int, factor: float) -> None:
    assert _adapted([20.0, held, 0.0, 0.0]) == pytest.approx((factor, factor))


@pytest.mark.parametrize(("held", "factor"), [(1, 1 / 1.5), (2, 1), (6, 1), (7, 1.5)])
def test_of_40_proposals_2_and_6_change_no_step(held: int, factor: float) -> None:
    assert _adapted([0.0, 0.0, 40.0, held]) == pytest.approx((1, factor))
