"""Defenses in a row: ``adversarial_training+feature_squeezing``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustbench_lite as rbl
from rbl_defenses.feature_squeezing.squeezers import BitDepth
from robustbench_lite.defense.composition import Composition, defense_from
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.evaluation.identity import plugin_id
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.subject import subject_from
from robustbench_lite.model.defended import DefendedModel, Traits, credit_abstention
from robustbench_lite.records.identity import PluginId
from robustbench_lite.registry import Spec, split
from robustbench_lite.rows.losses import margin
from robustbench_lite.sources.models import reference_model
from robustbench_lite.verification.rebuild import subject_of
from tests.conftest import images, small_network


@pytest.mark.parametrize("text", ["a+b x=1", "a + b x=1", "a +b x=1", "a+ b x=1"])
def test_parts_are_joined_by_a_plus(text: str) -> None:
    assert split("defense", text) == [Spec("a"), Spec("b", {"x": "1"})]


def test_every_part_keeps_its_own_hyperparameters() -> None:
    assert split("defense", "a x='p q' + b y=1e+5 + c") == [
        Spec("a", {"x": "p q"}),
        Spec("b", {"y": "1e+5"}),
        Spec("c"),
    ]
    assert split("defense", "none x=1e+5+parseval y=2+none") == [
        Spec("none", {"x": "1e+5"}),
        Spec("parseval", {"y": "2"}),
        Spec("none"),
    ]
    assert split("defense", "none x=a+b") == [Spec("none", {"x": "a+b"})]


@pytest.mark.parametrize("text", ["a+", "+a", "a + + b", "a b+c", "a 'x=1 + b"])
def test_a_malformed_composition_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        split("defense", text)


def test_two_trained_parts_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"adversarial_training and parseval .*one training"):
        defense_from("adversarial_training+parseval")


def test_an_unknown_part_gets_a_hint() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'feature_squeezing'"):
        defense_from("adversarial_training+feature_squezing bits=3")
    with pytest.raises(UnknownNameError, match="parameter of defense 'feature_squeezing'"):
        defense_from("adversarial_training+feature_squeezing bit=3")


def test_two_detectors_are_refused() -> None:
    detector = "feature_squeezing detect=true threshold=1"
    with pytest.raises(UsageError, match="abstain"):
        defense_from(f"{detector} + {detector}").wrap(small_network())


def test_the_part_on_the_right_stands_before_what_is_left_of_it() -> None:
    model, x = small_network(), images(10)
    deployed = defense_from("parseval logit_scale=3 + feature_squeezing bits=1").wrap(model).module
    torch.testing.assert_close(deployed(x), 3 * model(BitDepth(1)(x)))


def test_traits_compose() -> None:
    model = small_network()
    alone = defense_from("parseval").wrap(model).traits
    rounded = defense_from("parseval+feature_squeezing").wrap(model).traits
    noisy = defense_from("feature_squeezing+gaussian_noise votes=5 draws=3").wrap(model).traits
    detecting = (
        defense_from("feature_squeezing detect=true threshold=1 + gaussian_noise")
        .wrap(model)
        .traits
    )
    assert alone == Traits()
    assert rounded.surrogate is not None
    assert not rounded.random
    assert (noisy.random, noisy.votes, noisy.draws, noisy.surrogate is None) == (True, 5, 3, False)
    assert detecting.abstains
    assert detecting.random


def test_the_stand_ins_of_all_parts_are_chained() -> None:
    """Rounding behind rounding: a gradient is there only if both are replaced."""
    defended: DefendedModel = defense_from(
        "feature_squeezing bits=3 + feature_squeezing bits=2"
    ).wrap(small_network())
    x = images(5).requires_grad_()
    assert defended.traits.surrogate is not None
    seen = defended.traits.surrogate(x)
    torch.testing.assert_close(seen, defended.module(x))
    (gradient,) = torch.autograd.grad(seen[:, 0].sum(), x)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_the_weights_come_from_the_part_that_acts_in_training() -> None:
    data = rbl.load_dataset("fashion_mnist", limit=5)
    subject = subject_from("adversarial_training+feature_squeezing bits=3", None, None, data)
    assert subject.name == "fashion_mnist-adversarial_training"
    trained_with = subject_from("adversarial_training", None, None, data).defense
    assert isinstance(subject.defense, Composition)
    assert subject.defense.parts[0] == trained_with
    assert (
        subject_from("feature_squeezing+gaussian_noise", None, None, data).name
        == "fashion_mnist-none"
    )
    with pytest.raises(UsageError, match="was trained with"):
        subject_from("adversarial_training eps=0.3 + feature_squeezing", None, None, data)


def test_label_and_record_name_every_part() -> None:
    defense = defense_from("parseval + feature_squeezing bits=3")
    assert short_label("defense", defense) == "parseval + feature_squeezing bits=3"
    assert (
        short_label("defense", defense_from("parseval + gaussian_noise"))
        == "parseval+gaussian_noise"
    )
    named = plugin_id("defense", defense)
    assert named.name == "parseval+feature_squeezing"
    assert named.parts is not None
    assert [part.name for part in named.parts] == ["parseval", "feature_squeezing"]
    assert named.parts[1].parameters["bits"] == 3
    assert PluginId.model_validate_json(named.model_dump_json()) == named
    assert "parts" not in plugin_id("defense", defense_from("parseval")).model_dump()


def test_a_recorded_composition_is_rebuilt_from_its_record(tmp_path: Path) -> None:
    data = rbl.load_dataset("fashion_mnist", limit=20)
    cell = rbl.evaluate(
        data=data,
        attacks="pgd steps=3",
        defenses="parseval + feature_squeezing bits=3",
        eps=0.05,
        output=tmp_path,
    ).cells[0]
    rebuilt = subject_of(cell.identity, None)
    subject = subject_from("parseval + feature_squeezing bits=3", None, None, data)
    assert rebuilt.defense == subject.defense


def test_an_attack_is_up_against_the_true_class_and_the_abstention() -> None:
    none = torch.tensor([-1, -1, -1, 2])
    y = torch.zeros(4, dtype=torch.int64)
    #               class 0  1  2  abstain
    logits = torch.tensor([[1.0, 3, 0, 2], [1, 3, 0, 4], [3, 1, 0, 2], [1, 3, 4, 3.5]])
    margins = margin(credit_abstention(logits, y), y, none)
    assert margins.tolist() == [-1, 1, 2, -0.5]


def test_the_network_is_given_by_the_user_too() -> None:
    network, x = small_network(), images(30)
    report = rbl.evaluate(
        network,
        (x, network(x).argmax(1)),
        "pgd steps=3",
        eps=0.02,
        defenses=["none", "feature_squeezing bits=5+gaussian_noise", reference_defense()],
    )
    assert [cell.status for cell in report.cells] == ["complete"] * 3


def reference_defense() -> Composition:
    card = reference_model("fashion_mnist", "parseval").card
    assert card is not None
    return Composition(parts=(defense_from(card.defense), defense_from("feature_squeezing")))


@pytest.mark.parametrize("text", ["{noise} + {other}", "{other} + {noise}"])
def test_what_one_part_declares_the_whole_declares_in_any_order(text: str) -> None:
    noise = "gaussian_noise votes=5 draws=3"
    for other in (
        "none",
        "feature_squeezing bits=3",
        "feature_squeezing detect=true threshold=0.5",
    ):
        model = defense_from(text.format(noise=noise, other=other)).wrap(small_network())
        assert (model.traits.random, model.traits.votes, model.traits.draws) == (True, 5, 3)
        assert model.traits.abstains == ("detect" in other)
        assert (model.traits.surrogate is None) == (other == "none")
