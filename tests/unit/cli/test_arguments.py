"""From options to what is run."""

from __future__ import annotations

import pytest

from robustbench_lite.cli import arguments
from robustbench_lite.errors import UsageError
from robustbench_lite.threat import ThreatModel


@pytest.mark.parametrize(
    ("norm", "dataset", "eps"),
    [
        ("linf", "fashion_mnist", "0.1"),
        ("Linf", "mnist", "0.1"),
        ("linf", "cifar10", "8/255"),
        ("l2", "mnist", None),
        ("linf", "npz:a", None),
    ],
)
def test_the_usual_radius_is_taken_where_there_is_one(
    norm: str, dataset: str, eps: str | None
) -> None:
    assert arguments.radius(None, norm, dataset) == eps
    assert arguments.radius("0.5", norm, dataset) == "0.5"


def test_a_batch_size_is_a_number_or_auto() -> None:
    assert (arguments.batch_size("auto"), arguments.batch_size("7")) == ("auto", 7)
    with pytest.raises(UsageError, match="or auto"):
        arguments.batch_size("-1")


def test_all_leaves_out_attacks_that_cannot_work_and_says_so() -> None:
    said: list[str] = []
    chosen = arguments.attacks(["all", "pgd"], ThreatModel.parse("l2", None), said.append)[:-1]
    assert chosen
    assert all(attack.kind == "minimal_distance" for attack in chosen)
    assert any(line.startswith("pgd is left out") for line in said)


def test_an_attack_named_twice_runs_once() -> None:
    said: list[str] = []
    threat = ThreatModel.parse("linf", 0.1)
    twice = arguments.attacks(["pgd", "pgd steps=40", "all"], threat, said.append)
    assert len(twice) == len(arguments.attacks(["all"], threat, said.append))
