"""Dual network: the loss is the certificate's, its gradient is right, and a stopped training goes
on with the same bits.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbl_defenses.dual_network import DualNetwork
from robustbench_lite.bounds.certify import certify
from robustbench_lite.bounds.training import TRAINING_BOUNDS, Effort, margin_bounds
from robustbench_lite.defense import TrainingBatch
from robustbench_lite.errors import UnsupportedLayerError, UsageError
from robustbench_lite.model.layers import ConvexAggregation
from robustbench_lite.registry import create
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.networks import convolutional, residual
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import norm_by_name
from robustbench_lite.training.trainer import Recipe, TrainingProgress, initialise, train
from tests.conftest import toy

NETWORKS = {
    "convolutional": lambda: convolutional(channels=1, size=8, classes=3),
    "residual": lambda: residual(channels=1, size=8, classes=3, width=4),
    "leaky, batch norm, pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 6, 3, 2, 1),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
}


def _network(name: str) -> nn.Module:
    """With weights that leave many units open."""
    model = initialise(NETWORKS[name], 0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def _batch(progress: float = 0.9, rows: int = 6) -> TrainingBatch:
    x = torch.rand(rows, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return TrainingBatch(
        x=x, y=torch.arange(rows) % 3, index=torch.arange(rows), progress=progress, epoch=0, seed=0
    )


def _data() -> Dataset:
    """A brighter stripe is the class."""
    x, y = (
        0.5 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(2)),
        torch.arange(64) % 3,
    )
    for row, label in enumerate(y.tolist()):
        x[row, :, :, 2 * label : 2 * label + 2] += 0.4
    return toy(x, y, 3)


def _smallest(margins: Tensor, y: Tensor) -> Tensor:
    return (
        margins.detach()
        .double()
        .masked_fill(F.one_hot(y, margins.shape[1]).bool(), torch.inf)
        .amin(1)
    )


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bound", ["ibp", "crown-ibp", "dual"])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_bounds_that_certify_reports(
    name: str, bound: str, norm: str, box: bool
) -> None:
    model, batch = _network(name), _batch()
    effort = Effort(bound=bound)
    found = margin_bounds(
        model, batch.x, batch.y, norm=norm_by_name(norm), eps=0.05, effort=effort, box=box
    )
    expected = certify(model, batch.x, batch.y, norm=norm, eps=0.05, method=bound, box=box).margins
    torch.testing.assert_close(_smallest(found, batch.y), expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_the_cross_entropy_of_the_negative_margins_of_every_class() -> None:
    model: Any
    model, batch = _network("convolutional"), _batch()
    found = DualNetwork(eps=0.05, dual_from=0).loss(model, batch)
    margins = torch.zeros(6, 3)
    for row in range(6):
        for other in {0, 1, 2} - {int(batch.y[row])}:
            pair = [int(batch.y[row]), other]  # a network of these two classes alone has one margin
            two = copy.deepcopy(model).eval()
            two[-1].weight, two[-1].bias = (
                nn.Parameter(model[-1].weight[pair]),
                nn.Parameter(model[-1].bias[pair]),
            )
            proved = certify(
                two, batch.x[row : row + 1], torch.tensor([0]), eps=0.05, method="dual", box=False
            )
            margins[row, other] = proved.margins
    assert float(found.detach()) == pytest.approx(
        float(F.cross_entropy(-margins, batch.y)), abs=1e-4
    )


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bound", TRAINING_BOUNDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_every_weight_is_that_of_finite_differences(
    name: str, bound: str, norm: str
) -> None:
    model, batch = _network(name).double(), _batch(rows=3)

    def loss() -> Tensor:
        ball: dict[str, Any] = {"norm": norm_by_name(norm), "eps": 0.05}
        margins = margin_bounds(
            model, batch.x.double(), batch.y, effort=Effort(bound=bound), **ball
        )
        return F.cross_entropy(-margins, batch.y)

    loss().backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters():
        assert parameter.grad is not None
        way = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        ends = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                parameter.add_(way, alpha=step)
                ends.append(float(loss()))
        with torch.no_grad():
            parameter.add_(way, alpha=1e-6)
        slope = (ends[0] - ends[1]) / 2e-6
        assert float((parameter.grad * way).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_more_projections_come_nearer_to_the_bound(name: str, norm: str) -> None:
    model, batch = _network(name), _batch()
    given: dict[str, Any] = {"norm": norm_by_name(norm), "eps": 0.05}
    exact = margin_bounds(model, batch.x, batch.y, effort=Effort(bound="dual"), **given).detach()
    errors = []
    for count in (11, 3001):
        torch.manual_seed(0)
        effort = Effort(bound="dual", projections=count)
        found = margin_bounds(model, batch.x, batch.y, effort=effort, **given).detach()
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[1] < min(0.04, errors[0])
    assert errors[0] > 0, "with a handful of projections the bound is an estimate"


def test_projections_let_gradients_through() -> None:
    model = _network("residual")
    DualNetwork(eps=0.05, dual_from=0, projections=5).loss(model, _batch()).backward()  # type: ignore[no-untyped-call]
    assert all(
        bool(parameter.grad.abs().sum() > 0)
        for parameter in model.parameters()
        if parameter.grad is not None
    )
    assert sum(parameter.grad is not None for parameter in model.parameters()) == len(
        list(model.parameters())
    )


@pytest.mark.parametrize("text", ["", "projections=9", "settled=1", "dual_from=1 clean_weight=0.2"])
def test_training_certifies_what_plain_training_does_not(text: str, tmp_path: Path) -> None:
    data = _data()
    certified: list[Any] = []
    for defense in ("none", f"dual_network eps=0.15 {text}"):
        model = _network("convolutional")
        recipe = Recipe(epochs=8, batch_size=16, learning_rate=3e-3)
        train(
            model,
            create("defense", defense),
            data,
            recipe,
            checkpoint=tmp_path / f"{len(certified)}.pt",
        )
        certified.append(
            certify(model, data.x, data.y, eps=0.15, method="dual", box=False).certified_accuracy
        )
    assert certified[1] > certified[0] + 0.1


def test_settled_margins_are_interval_bounds_and_the_others_the_dual_network_s() -> None:
    model: Any
    model, batch = _network("convolutional"), _batch()
    given: dict[str, Any] = {"norm": norm_by_name("linf"), "eps": 0.003}
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([1.0, 0.5, 0.0]))
    intervals, dual = (
        margin_bounds(model, batch.x, batch.y, effort=Effort(bound=bound), **given).detach()
        for bound in ("ibp", "dual")
    )
    own = F.one_hot(batch.y, 3).bool()
    settled = float(intervals[~own].median())
    kept = (intervals >= settled) & ~own
    assert 0 < int(kept.sum()) < int((~own).sum())
    effort = Effort(bound="dual", settled=settled)
    mixed = margin_bounds(model, batch.x, batch.y, effort=effort, **given).detach()
    torch.testing.assert_close(mixed, torch.where(kept, intervals, dual))


@pytest.mark.parametrize("text", ["dual_network", "dual_network projections=3"])
def test_a_training_that_was_stopped_goes_on_with_the_same_bits(text: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: TrainingProgress) -> None:
        if (progress.epoch, progress.step) == (2, 2):
            raise Stop

    defense, hashes = create("defense", text), []
    for stopped in (False, True):
        given: dict[str, Any] = {
            "data": _data(),
            "recipe": Recipe(epochs=3, batch_size=16),
            "checkpoint": tmp_path / f"{stopped}.pt",
        }
        if stopped:
            with pytest.raises(Stop):
                train(
                    _network("convolutional"),
                    defense,
                    checkpoint_seconds=0,
                    on_progress=stop,
                    **given,
                )
        model = _network("convolutional")
        train(model, defense, **given)
        hashes.append(weights_hash(model))
    assert hashes[0] == hashes[1]


def test_the_schedule_ends_at_the_full_radius_with_the_dual_bound() -> None:
    defense = DualNetwork(eps=0.1, warmup=0.5, interval_until=0.25, dual_from=0.75)
    assert [defense.radius(p) for p in (0, 0.25, 0.5, 0.99)] == pytest.approx([0, 0.05, 0.1, 0.1])
    assert [defense.bound(p) for p in (0, 0.25, 0.5, 0.75)] == [
        "ibp",
        "crown-ibp-chord",
        "crown-ibp-chord",
        "dual",
    ]
    assert DualNetwork(warmup=0).radius(0) == 0.1


def test_the_first_steps_are_plain_training() -> None:
    model, batch = _network("convolutional"), _batch(progress=0)
    plain = F.cross_entropy(model(batch.x), batch.y)
    assert float(DualNetwork().loss(model, batch).detach()) == pytest.approx(
        float(plain.detach()), abs=1e-5
    )


def test_batch_norm_statistics_stay_as_they_are_and_rows_apart() -> None:
    model: Any
    model, batch = _network("leaky, batch norm, pooling").train(), _batch()
    before = model[1].running_mean.clone()
    DualNetwork(eps=0.05).loss(model, batch).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(model[1].running_mean, before)
    assert model.training


def test_the_mean_of_branches_learns_its_weights_too() -> None:
    model = _network("residual")
    DualNetwork(eps=0.05, dual_from=0).loss(model, _batch()).backward()  # type: ignore[no-untyped-call]
    joins = [
        module.coefficients.grad
        for module in model.modules()
        if isinstance(module, ConvexAggregation)
    ]
    assert joins
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in joins)


def test_a_layer_without_a_bound_is_named() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Sigmoid(), nn.Linear(8, 3))
    with pytest.raises(UnsupportedLayerError, match=r"'2'.*Sigmoid"):
        DualNetwork().loss(model, _batch())


@pytest.mark.parametrize(
    "text",
    [
        "eps=0",
        "norm=l1",
        "warmup=2",
        "dual_from=-1",
        "clean_weight=1.5",
        "projections=-1",
        "settled=nan",
    ],
)
def test_values_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="dual_network"):
        create("defense", f"dual_network {text}")


def test_a_certificate_is_brought_for_the_norm_of_the_training_alone() -> None:
    for own, other in (("linf", "l2"), ("l2", "linf")):
        defense = DualNetwork(norm=own)
        assert defense.certifier(ThreatModel.parse(own, 0.1)) is not None
        assert defense.certifier(ThreatModel.parse(other, 0.1)) is None
