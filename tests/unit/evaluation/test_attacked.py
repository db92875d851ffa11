"""What is written of a sample is of that sample: its label, its target, its draws, its queries,
whatever stands beside it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite.evaluation.clean import Clean, clean_logits
from robustbench_lite.evaluation.job import AUDIT, Scene
from robustbench_lite.model.defended import DefendedModel, FastPath, Traits
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, small_network

CPU = torch.device("cpu")
N = 40


def dataset(x: Tensor, y: Tensor, ids: Tensor) -> Dataset:
    return Dataset("data", "given", x, y, ids, None, len(y))


def labelled() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and images of all its classes with the labels that it gives them."""
    network, x = small_network(), images(N)
    return network, x, network(x).argmax(1)


class Alike(nn.Module):
    """It gives every class the same score."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :3]


class InTurn(nn.Module):
    """Right on draws 0, 2, 4, ..., wrong on the others."""

    takes_rng = True

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
        right = (rng.restart % 2 == 0).float()
        return torch.stack([right, 1 - right], 1)


class Tossed(nn.Module):
    """It says either class by a toss that belongs to the sample and the draw."""

    takes_rng = True

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
        score = rng.uniform(0, (1,)).squeeze(1) - 0.5
        return torch.stack([-score, score], 1)


def test_a_tie_on_a_clean_image_is_no_right_answer() -> None:
    data = dataset(images(N), torch.zeros(N, dtype=torch.int64), torch.arange(N))
    assert not clean_logits(DefendedModel(Alike()), data, 16, CPU, 0).correct.any()


@pytest.mark.parametrize(("votes", "right"), [(1, True), (2, False), (3, True), (4, False)])
def test_a_random_model_is_right_by_more_than_half_of_its_votes(votes: int, right: bool) -> None:
    data = dataset(images(N), torch.zeros(N, dtype=torch.int64), torch.arange(N))
    model = DefendedModel(InTurn(), Traits(random=True, votes=votes))
    assert clean_logits(model, data, 16, CPU, 0).correct.tolist() == [right] * N


def test_votes_on_a_clean_image_belong_to_its_index_wherever_it_stands() -> None:
    data = dataset(images(N), torch.zeros(N, dtype=torch.int64), torch.arange(100, 100 + N))
    model = DefendedModel(Tossed(), Traits(random=True, votes=1))
    whole = clean_logits(model, data, 64, CPU, 0).correct
    assert 0 < whole.sum() < N
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    mixed = clean_logits(model, data.take(order), 7, CPU, 0).correct
    assert torch.equal(mixed, whole[order])


def test_clean_accuracy_is_that_of_the_network_as_it_was_given_whatever_the_search_asks() -> None:
    network, x, y = labelled()
    other = FastPath(Alike(), Alike(), None, ())
    correct = clean_logits(
        DefendedModel(network, fast=other), dataset(x, y, torch.arange(N)), 16, CPU, 0
    ).correct
    assert correct.all()


def test_no_scene_takes_a_certificate_of_a_sample_that_is_classified_wrong() -> None:
    network, x, y = labelled()
    right = torch.arange(N) > 0
    made = partial(
        Scene,
        model=DefendedModel(network),
        threat=ThreatModel.parse("linf", 0.1),
        data=dataset(x, y, torch.arange(N)),
        clean=Clean(network(x), right, torch.ones(N)),
        target=torch.full((N,), -1),
        behaviour=Behaviour.of(np.ones((1, 1), np.float32), fixed=1, probes=1),
    )
    assert made(certified=right).open_rows.tolist() == [i > 0 and i % AUDIT == 0 for i in range(N)]
    with pytest.raises(ValueError, match="classified wrong"):
        made(certified=right | True)


@pytest.mark.parametrize("targeted", [None, "least_likely", "random"])
def test_the_judge_takes_each_claim_for_the_sample_that_it_is_of(targeted: str | None) -> None:
    network, x, y = labelled()
    data = (
        x,
        torch.where(torch.arange(N) % 9 == 0, (y + 1) % 3, y),
    )  # some are wrong, so that rows are not positions
    options = {"eps": 0.08 if targeted else 0.04, "keep_adversarials": True, "batch_size": 8}
    cell = rbl.evaluate(network, data, "pgd steps=10", targeted=targeted, **options).cells[0]  # type: ignore[arg-type]
    broken = cell.clean_correct & ~cell.robust
    assert 5 < broken.sum() < cell.clean_correct.sum()
    assert cell.record is not None
    assert cell.x_adv is not None
    assert (
        cell.record.outcomes.unconfirmed == 0
    )  # what a network without chance was seen to say, it says again
    said = network(cell.x_adv).argmax(1)
    assert (said != y).numpy()[broken].all()
    if targeted == "least_likely":
        assert (said == network(x).argmin(1)).numpy()[broken].all()


def test_verdicts_on_a_random_model_belong_to_the_index_in_the_data_set() -> None:
    network, x, y = labelled()
    options = {
        "attacks": "pgd steps=3",
        "defenses": "gaussian_noise sigma=0.3 votes=3 draws=1",
        "eps": 0.03,
    }
    whole = rbl.evaluate(network, (x, y), **options).cells[0]  # type: ignore[arg-type]
    later = slice(N // 2, N)
    part = rbl.evaluate(network, (x[later], y[later]), ids=np.arange(N)[later], **options).cells[0]  # type: ignore[arg-type]
    for field in ("clean_correct", "robust", "forward_queries", "distance"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[later])
    assert 0 < whole.robust.sum() < whole.clean_correct.sum()


def test_a_success_that_the_judge_does_not_see_again_is_counted_and_the_sample_is_robust() -> None:
    network, x, y = labelled()
    options = {
        "attacks": "pgd steps=5",
        "defenses": "gaussian_noise sigma=0.2",
        "eps": 0.005,
        "plain": True,
    }
    plain = rbl.evaluate(network, (x, y), **options).cells[1]  # type: ignore[arg-type]
    assert plain.record is not None
    count = plain.record.outcomes.unconfirmed
    gave_up = (
        plain.clean_correct & plain.robust & (plain.forward_queries < 6)
    )  # it left early: it had found something
    assert plain.robust.sum() >= count >= gave_up.sum() > 0
    assert any(f"{count} success" in flag for flag in plain.record.provenance.flags)


def test_queries_are_written_down_as_what_they_were() -> None:
    network, x, y = labelled()
    cell = rbl.evaluate(network, (x, y), "pgd steps=7", eps=0.02).cells[0]
    assert cell.robust.any()
    assert set(cell.forward_queries[cell.robust]) == {8}
    assert set(cell.backward_queries[cell.robust]) == {7}


def test_images_that_an_interrupted_run_has_not_kept_are_searched_again(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def stop(progress: object) -> None:
        if progress.rows > 16:  # type: ignore[attr-defined]
            raise Killed

    network, x, y = labelled()
    options = {"attacks": "pgd steps=5", "eps": 0.05, "batch_size": 8, "output": tmp_path}
    with pytest.raises(Killed):
        rbl.evaluate(network, (x, y), on_progress=stop, **options)  # type: ignore[arg-type]
    cell = rbl.evaluate(network, (x, y), keep_adversarials=True, **options).cells[0]  # type: ignore[arg-type]
    assert cell.x_adv is not None
    changed = (cell.x_adv != x).flatten(1).any(1).numpy()
    np.testing.assert_array_equal(changed, cell.clean_correct & ~cell.robust)
