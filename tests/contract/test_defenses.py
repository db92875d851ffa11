"""What every registered defense promises, whatever its paper, alone and behind another."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from robustbench_lite import registry
from robustbench_lite.defense import Defense
from robustbench_lite.defense.composition import Composition, defense_from
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.fast.path import with_fast_path
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.rows.losses import cross_entropy
from tests.conftest import points_of, small_network

CPU = torch.device("cpu")
SHAPES = [(1, 8, 8), (3, 6, 9), (1, 9, 5)]
CLASSES = 5
#: Forms of a defense that differ in what they declare; one that is not named here runs with its
#: defaults.
FORMS = {
    "feature_squeezing": [
        "feature_squeezing",
        "feature_squeezing bits=1 median=2 nlm=true nlm_search=5",
        "feature_squeezing median=3 detect=true",
    ],
}
SPECS = [spec for name in registry.names("defense") for spec in FORMS.get(name, [name])]
COMPOSED = [
    "gaussian_noise+feature_squeezing bits=2",
    "feature_squeezing bits=2 + gaussian_noise sigma=0.2",
    "parseval + feature_squeezing bits=3 detect=true + gaussian_noise",
]


def images(shape: tuple[int, int, int], rows: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(seed))


def ready(spec: str, model: nn.Module, shape: tuple[int, int, int]) -> Defense:
    """The defense, with what it sets from training images."""
    defense = defense_from(spec)
    return defense.calibrated(model, images(shape, 60, seed=9)) if defense.calibrates else defense


def defended(spec: str, shape: tuple[int, int, int]) -> DefendedModel:
    model = small_network(shape, CLASSES)
    return prepare(model, ready(spec, model, shape), CPU)


def points(x: torch.Tensor) -> Points:
    return points_of(x, torch.arange(len(x)) % CLASSES)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED])
class TestEveryDefense:
    def test_logits_are_float_and_one_a_class_with_one_more_where_it_abstains(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model = defended(spec, shape)
        (ballot,) = Passes(model, 64).ballots(points(images(shape)), 1)
        assert ballot.shape == (24, CLASSES + model.traits.abstains)
        assert ballot.dtype == torch.float32
        assert ballot.isfinite().all()
        assert Passes(model, 64).logits(points(images(shape))).shape == (24, CLASSES)

    def test_it_is_fit_to_be_measured(self, spec: str, shape: tuple[int, int, int]) -> None:
        model, x = defended(spec, shape), images(shape, 40)
        assert diagnose(model, x, torch.arange(40) % CLASSES, CLASSES) is model

    def test_what_is_deployed_is_in_eval_mode_and_what_is_searched_is_frozen(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model = with_fast_path(defended(spec, shape), images(shape))
        assert model.fast is not None
        searched = [model.fast.module, model.fast.gradient, model.fast.surrogate]
        for module in filter(None, [model.module, model.traits.surrogate, *searched]):
            assert not any(part.training for part in module.modules())
        for module in filter(None, searched):
            assert not any(parameter.requires_grad for parameter in module.parameters())

    def test_the_fast_path_is_the_network_behind_its_defense(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model, what = with_fast_path(defended(spec, shape), images(shape)), points(images(shape))
        given, fast = Passes(model, 64), Passes(model, 64, fast=True)
        torch.testing.assert_close(fast.logits(what), given.logits(what), rtol=1e-4, atol=1e-4)
        found, expected = (
            fast.gradient(what, cross_entropy)[1],
            given.gradient(what, cross_entropy)[1],
        )
        torch.testing.assert_close(
            found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )

    def test_the_gradient_is_there_is_finite_and_leads_somewhere(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model, what = defended(spec, shape), points(images(shape))
        (ballot,) = Passes(model, 64).ballots(
            what, 1
        )  # an attack climbs from images that are right
        logits, gradient = Passes(model, 64).gradient(
            what._replace(y=ballot[:, :CLASSES].argmax(1)), cross_entropy
        )
        assert logits.shape == (24, CLASSES)
        assert gradient.shape == (24, *shape)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().sum(1) > 0).float().mean() > 0.9

    def test_logits_and_gradient_of_a_row_do_not_depend_on_its_company(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model, what = defended(spec, shape), points(images(shape))
        order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
        passes = Passes(model, 64)
        whole = passes.gradient(what, cross_entropy)
        mixed = passes.gradient(what.take(order), cross_entropy)
        alone = passes.gradient(what.take(torch.tensor([7])), cross_entropy)
        for expected, shuffled, single in zip(whole, mixed, alone, strict=True):
            torch.testing.assert_close(shuffled, expected[order], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(single[0], expected[7], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            passes.logits(what.take(order)), passes.logits(what)[order], atol=1e-4, rtol=1e-4
        )

    def test_the_same_seed_gives_the_same_and_the_global_generator_is_left_alone(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model, what = defended(spec, shape), points(images(shape))
        state = torch.get_rng_state()
        first, again = (Passes(model, 64, seed=3).gradient(what, cross_entropy) for _ in range(2))
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_users_network_is_left_as_it_is(
        self, spec: str, shape: tuple[int, int, int]
    ) -> None:
        model = small_network(shape, CLASSES)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        prepared = prepare(model, ready(spec, model, shape), CPU)
        Passes(prepared, 64).gradient(points(images(shape)), cross_entropy)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(
            parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
        )

    def test_it_declares_what_it_does(self, spec: str, shape: tuple[int, int, int]) -> None:
        model, what = defended(spec, shape), points(images(shape))
        first, second = Passes(model, 64).ballots(what, 2)
        assert torch.equal(first, second) != model.traits.random
        assert model.traits.votes % 2 == 1
        assert model.traits.random or (model.traits.draws, model.traits.votes) == (1, 1)
        # Where nothing is declared the gradient is exact: a small step changes the logits as it
        # says.
        if model.traits.surrogate is None and not model.traits.random:
            x, module = what.x.double().requires_grad_(), model.module.double()
            step = (
                torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
                - 0.5
            )
            (gradient,) = torch.autograd.grad(module(x)[:, 0].sum(), x)
            change = (module(x + 1e-7 * step) - module(x - 1e-7 * step))[:, 0] / 2e-7
            torch.testing.assert_close(
                (gradient * step).flatten(1).sum(1), change, atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not defense_from(spec).trains])
def test_hyperparameters_round_trip_through_text(spec: str) -> None:
    defense = defense_from(spec)
    text = " ".join(
        [defense.name, *(f"{key}={value}" for key, value in registry.parameters(defense).items())]
    )
    assert defense_from(text) == defense


@pytest.mark.parametrize("name", registry.names("defense"))
def test_it_is_a_frozen_dataclass_with_a_name_of_its_own(name: str) -> None:
    defense = defense_from(name)
    assert defense.name == name
    assert not isinstance(defense, Composition)
    assert dataclasses.is_dataclass(defense)
    assert hash(defense) == hash(defense_from(name))
