"""The plain number beside the adaptive one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import robustbench_lite as rbl
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.cell import read_record
from robustbench_lite.rows.losses import margin_loss
from tests.conftest import images, small_network


def cells(spec: str, attack: str = "pgd steps=5", **settings: object) -> list[rbl.Cell]:
    network, x = small_network(), images(40)
    data = (x, network(x).argmax(1))
    return rbl.evaluate(
        network,
        data,
        attack,
        defenses=spec,
        norm="l2",
        eps=0.3,
        plain=True,
        **settings,  # type: ignore[arg-type]
    ).cells


@pytest.mark.parametrize(
    ("spec", "attack", "count"),
    [
        ("none", "pgd steps=5", 1),  # nothing is declared
        ("feature_squeezing bits=2", "pgd steps=5", 2),
        ("feature_squeezing bits=2", "boundary steps=5", 1),  # takes no gradient
        ("gaussian_noise", "boundary steps=5", 2),  # averages over draws all the same
    ],
)
def test_there_is_a_plain_cell_where_the_plain_attacker_is_another_one(
    spec: str, attack: str, count: int
) -> None:
    assert [cell.identity.adaptive for cell in cells(spec, attack)] == [None, False][:count]


def test_an_adaptive_cell_says_nothing_of_it_and_a_plain_one_does(tmp_path: Path) -> None:
    adaptive, plain = cells("feature_squeezing bits=2", output=tmp_path)
    assert "adaptive" not in adaptive.identity.model_dump()
    assert plain.identity.model_dump()["adaptive"] is False
    assert adaptive.key != plain.key
    assert plain.attack == "pgd steps=5 (plain)"
    assert plain.path is not None
    record, _ = read_record(plain.path)
    assert record.identity == plain.identity
    assert any("not adaptive" in flag for flag in record.provenance.flags)


def test_a_gap_is_flagged_also_when_both_are_read_from_records(tmp_path: Path) -> None:
    data = rbl.load_dataset("fashion_mnist", limit=40)
    for _ in range(2):
        report = rbl.evaluate(
            data=data,
            attacks="pgd steps=10",
            defenses="feature_squeezing bits=3",
            eps=0.1,
            plain=True,
            output=tmp_path,
        )
        adaptive, plain = report.cells
        assert report.masking(adaptive) is None
        assert f"{100 * (plain.robust_accuracy - adaptive.robust_accuracy):.1f} points" in str(
            report.masking(plain)
        )
        assert report.to_dict()["cells"][1]["flags"][-1] == report.masking(plain)
    assert plain.cached


def test_the_judge_of_a_plain_attack_judges_the_real_model() -> None:
    """What a detector declines is no success, though the plain attacker does not know of it."""
    network, x = small_network(), images(60)
    data = (x, network(x).argmax(1))
    always = "feature_squeezing bits=1 detect=true threshold=0"
    report = rbl.evaluate(network, data, "pgd steps=10", defenses=always, eps=0.3, plain=True)
    assert not any((cell.clean_correct & ~cell.robust).any() for cell in report.cells)


def test_a_plain_attacker_follows_the_module_and_the_adaptive_one_its_surrogate() -> None:
    x = images(20)
    index = torch.arange(20)
    points = Points(x, index % 3, torch.full_like(index, -1), index, torch.zeros_like(index))
    model = DefendedModel(small_network(seed=1), Traits(surrogate=small_network(seed=2)))
    _, adaptive = Passes(model, 32).gradient(points, margin_loss)
    _, plain = Passes(model, 32, adaptive=False).gradient(points, margin_loss)
    _, of_module = Passes(DefendedModel(small_network(seed=1)), 32).gradient(points, margin_loss)
    _, of_surrogate = Passes(DefendedModel(small_network(seed=2)), 32).gradient(points, margin_loss)
    assert torch.equal(plain, of_module)
    assert torch.equal(adaptive, of_surrogate)
