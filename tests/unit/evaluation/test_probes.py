"""Probe images are the same anywhere, and edits of a network show in the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.defense import Defense
from robustbench_lite.evaluation import probes
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.defended import DefendedModel, FastPath
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.sources.dataset import Dataset
from tests.conftest import images, small_network

CPU = torch.device("cpu")


def dataset(n: int = 20) -> Dataset:
    x = images(n)
    return Dataset("data", "given", x, torch.zeros(n, dtype=torch.int64), torch.arange(n), None, n)


class Edited(nn.Module):
    """A network whose ``forward`` is another function."""

    def __init__(self, change: Callable[[Tensor], Tensor], classes: int = 3) -> None:
        super().__init__()
        self.net, self.change = small_network(classes=classes), change

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.change(x))
        return logits


def answers(
    change: Callable[[Tensor], Tensor] = lambda x: x, data: Dataset | None = None, classes: int = 3
) -> Behaviour:
    return probes.ask(
        prepare(Edited(change, classes).eval(), Defense(), CPU), data or dataset(), CPU
    )


def test_the_network_is_asked_as_it_was_given_whatever_a_search_asks() -> None:
    network, other = small_network(), small_network(seed=1)
    beside = DefendedModel(network, fast=FastPath(other, other, None, ()))
    assert probes.ask(beside, dataset(), CPU) == probes.ask(DefendedModel(network), dataset(), CPU)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 3), (2, 1, 1)])
def test_probe_images_are_images(shape: tuple[int, int, int]) -> None:
    x = probes.fixed_images(shape)
    assert x.shape == (probes.FIXED, *shape)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    assert len({row.numpy().tobytes() for row in x}) == probes.FIXED


def test_probe_images_are_those_of_their_version() -> None:
    digest = hashlib.sha256(probes.fixed_images((1, 6, 6)).numpy().tobytes()).hexdigest()
    assert (probes.VERSION, digest[:16]) == (1, "bbae5fd38c854ca2")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 0.9 * x + 0.05,
        lambda x: x + 0.01,
        lambda x: x.clamp(0.05, 0.95),
        lambda x: (x * 255).round() / 255,
        lambda x: 1 - x,
        lambda x: x.flip(3),
        lambda x: torch.where(x > 0.999, 0, x),
        lambda x: (x - 0.5) * 0.99 + 0.5,
        lambda x: nn.functional.avg_pool2d(x, 3, 1, 1),
    ],
)
def test_an_edit_of_the_function_shows(change: Callable[[Tensor], Tensor]) -> None:
    assert not answers(change).agrees(answers())
    assert not answers(change).agrees(answers(), images=False)


def test_the_same_function_written_otherwise_agrees() -> None:
    assert answers(lambda x: (x * 2 - 1 + 1) / 2).agrees(answers())


def test_the_first_images_of_the_data_are_asked_about_too() -> None:
    data = dataset()
    known = data.x[0].clone()

    def only_there(x: Tensor) -> Tensor:
        return torch.where((x == known).flatten(1).all(1).view(-1, 1, 1, 1), 1 - x, x)

    assert not answers(only_there, data).agrees(answers(data=data))
    assert answers(only_there, data).agrees(answers(data=data), images=False)
    assert answers(data=dataset(3)).shape == (probes.FIXED + 3, 3)


def test_many_classes_keep_a_record_small_and_each_of_them_shows() -> None:
    class One(nn.Module):
        def __init__(self, klass: int, by: float) -> None:
            super().__init__()
            self.net, self.klass, self.by = small_network(classes=1000), klass, by

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits + self.by * (torch.arange(1000) == self.klass)

    def of(klass: int, by: float) -> Behaviour:
        return probes.ask(prepare(One(klass, by).eval(), Defense(), CPU), dataset(), CPU)

    assert len(of(0, 0).answers) < 10_000
    for klass in (0, 99, 100, 617, 999):
        assert not of(klass, 0.1).agrees(of(0, 0))


def test_a_network_that_fails_on_what_is_none_of_its_images_is_asked_about_the_data() -> None:
    def picky(x: Tensor) -> Tensor:
        if bool((x.flatten(1).amax(1) == x.flatten(1).amin(1)).any()):
            raise ValueError("an image without content")
        return x

    assert answers(picky).shape == (probes.IMAGES, 3)
    assert answers(picky).agrees(answers(picky))
    assert not answers(lambda x: picky(x) * 0.9).agrees(answers(picky))


def test_asking_leaves_the_global_generator_alone() -> None:
    model, data = prepare(Edited(lambda x: x).eval(), Defense(), CPU), dataset()
    before = torch.random.get_rng_state()
    probes.ask(model, data, CPU)
    assert torch.equal(before, torch.random.get_rng_state())
