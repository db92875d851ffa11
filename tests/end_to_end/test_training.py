"""``rbl train`` keeps what it has trained, whatever becomes of the examination, and says what
cannot be trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustbench_lite.errors import CellError
from robustbench_lite.registry import Trust
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import trained_model
from robustbench_lite.sources.weights import weights_file_hash
from robustbench_lite.training import card as examination
from tests.conftest import present
from tests.end_to_end.conftest import Rbl

NETWORKS = """
from torch import nn


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def normed():
    first = nn.Linear(784, 8)
    return nn.Sequential(nn.Flatten(), first, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def mixing():
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), norm, nn.Linear(8, 10))


class Fails(nn.Sequential):
    def forward(self, x):
        raise KeyError("features")


def fails():
    return Fails(nn.Linear(1, 1))
"""
TRAIN = (
    "train",
    "--dataset",
    "npz:few.npz",
    "--allow-code",
    "--epochs",
    "2",
    "--batch-size",
    "16",
    "--name",
    "n",
    "-q",
)


@pytest.fixture
def few(rbl: Rbl) -> None:
    """33 training images: one is left over after two batches of 16."""
    train, test = (
        load_dataset("fashion_mnist", split="train", limit=33),
        load_dataset("fashion_mnist", limit=24),
    )
    np.savez(
        "few.npz",
        x_train=train.x.numpy(),
        y_train=train.y.numpy(),
        x_test=test.x.numpy(),
        y_test=test.y.numpy(),
    )
    Path("nets.py").write_text(NETWORKS, encoding="utf-8")


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "error", [ValueError("went wrong"), CellError("went wrong"), KeyboardInterrupt()]
)
def test_weights_outlive_an_examination_that_fails_and_the_same_command_goes_on_with_it(
    rbl: Rbl, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    command, path = (
        (*TRAIN, "--model", "nets.py:normed", "-a", "pgd steps=2"),
        Path("rbl-models") / "n.safetensors",
    )

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(examination, "run", fail)
        failed = rbl(*command)
    assert failed.code == (130 if isinstance(error, KeyboardInterrupt) else 3)
    assert failed.err.count("\n") == 1
    if not isinstance(error, KeyboardInterrupt):
        assert "went wrong" in failed.err
        assert str(path) in failed.err
        assert "same command" in failed.err
    assert not path.with_suffix(".json").exists()
    assert (path.parent / "n.checkpoint.pt").exists()
    kept = weights_file_hash(path)
    monkeypatch.setattr("robustbench_lite.training.trainer._step", fail)  # no step is taken again
    again = rbl(*command)
    assert (again.code, again.err) == (0, "")
    assert present(trained_model(path, Trust.ANY).card).weights_sha256 == kept


@pytest.mark.usefixtures("few")
def test_images_without_a_usual_radius_are_examined_at_one_that_the_card_states(
    rbl: Rbl,
) -> None:
    assert rbl(*TRAIN, "--model", "nets.py:linear", "-a", "fgsm").code == 0
    assert json.loads(Path("rbl-models/n.json").read_text())["eps"] == 0.1
    assert "no number" in rbl(*TRAIN, "--model", "nets.py:linear", "--eps", "").err


@pytest.mark.usefixtures("few")
def test_new_weights_do_not_stand_beside_the_card_of_others(
    rbl: Rbl, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, card = (
        (*TRAIN, "--model", "nets.py:linear", "-a", "pgd steps=2"),
        Path("rbl-models") / "n.json",
    )
    assert rbl(*command).code == 0
    before = card.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise CellError("went wrong")

    monkeypatch.setattr(examination, "run", fail)
    assert rbl(*command).code == 3
    assert card.read_bytes() == before  # the same weights
    assert rbl(*command, "--fresh", "--seed", "1").code == 3
    assert not card.exists()


@pytest.mark.usefixtures("few")
def test_networks_that_no_training_helps_are_refused_in_one_line(rbl: Rbl) -> None:
    for factory, said in (("mixing", "track_running_stats"), ("fails", "'features' (KeyError)")):
        result = rbl(*TRAIN, "--model", f"nets.py:{factory}")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert said in result.err
    assert not list(Path("rbl-models").glob("*.safetensors"))
