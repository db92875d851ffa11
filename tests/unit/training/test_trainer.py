"""The trainer: the same command always ends with the same weights, however often it was stopped."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rbl_attacks.pgd import PGD
from rbl_defenses.none import NoDefense
from robustbench_lite.errors import ModelError, UsageError, WeightsError
from robustbench_lite.registry import create
from robustbench_lite.search.lock_step import check_lock_step
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.threat import ThreatModel
from robustbench_lite.training.card import Training, make_card
from robustbench_lite.training.trainer import (
    Recipe,
    TrainingProgress,
    _sizes,
    describe,
    evaluating,
    initialise,
    train,
)
from tests.conftest import toy

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=0.01, seed=5)


def _data(count: int = 70) -> Dataset:
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    y = (x[:, 0, 0, 0] > 0.5).long()
    return toy(x, y, 2)


def _network(seed: int = 0) -> nn.Module:
    return initialise(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
        ),
        seed,
    )


class Stopped(Exception):
    """Stands for a kill."""


def _stop_at(epoch: int, step: int) -> Callable[[TrainingProgress], None]:
    def check(progress: TrainingProgress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            raise Stopped

    return check


def _uninterrupted(folder: Path) -> str:
    network = _network()
    train(network, NoDefense(), _data(), RECIPE, checkpoint=folder / "whole.pt")
    return weights_hash(network)


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (0, 5), (1, 3), (2, 4)])
def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path, epoch: int, step: int) -> None:
    checkpoint = tmp_path / "stopped.pt"
    with pytest.raises(Stopped):
        train(
            _network(),
            NoDefense(),
            _data(),
            RECIPE,
            checkpoint=checkpoint,
            checkpoint_seconds=0,
            on_progress=_stop_at(epoch, step),
        )
    network = _network()
    first: list[Any] = []
    curve = train(
        network, NoDefense(), _data(), RECIPE, checkpoint=checkpoint, on_progress=first.append
    )
    assert weights_hash(network) == _uninterrupted(tmp_path)
    assert first[0].epoch * 5 + first[0].step == max(
        1, epoch * 5 + step
    )  # the last step is repeated, nothing before it
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]


def test_a_process_killed_five_times_ends_with_the_same_bits(tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_trainer as t
        def kill(progress):
            if (progress.epoch, progress.step) == (int(sys.argv[1]), int(sys.argv[2])):
                os.kill(os.getpid(), signal.SIGKILL)
        checkpoint = Path({str(tmp_path / "k.pt")!r})
        t.train(t._network(), t.NoDefense(), t._data(), t.RECIPE, checkpoint=checkpoint,
                checkpoint_seconds=0, on_progress=kill)
    """
    for epoch, step in [(0, 2), (0, 5), (1, 3), (2, 1), (2, 4)]:
        command = [sys.executable, "-c", textwrap.dedent(script), str(epoch), str(step)]
        killed = subprocess.run(command, check=False, capture_output=True)
        assert killed.returncode == -9, killed.stderr.decode()
    network = _network()
    train(network, NoDefense(), _data(), RECIPE, checkpoint=tmp_path / "k.pt")
    assert weights_hash(network) == _uninterrupted(tmp_path)


def _normed() -> nn.Module:
    return initialise(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)
        ),
        0,
    )


DEFENSES = [
    "none",
    "adversarial_training eps=0.05 attack='pgd steps=2'",
    "dual_network eps=0.01",
    "parseval",
]


@pytest.mark.parametrize("defense", DEFENSES)
def test_an_image_that_is_left_over_joins_the_batch_before(tmp_path: Path, defense: str) -> None:
    steps: list[TrainingProgress] = []
    curve = train(
        _normed(),
        create("defense", defense),
        _data(65),
        RECIPE,
        checkpoint=tmp_path / "c.pt",
        on_progress=steps.append,
    )
    assert [at.step for at in steps] == [1, 2, 3, 4] * RECIPE.epochs
    assert len(curve) == RECIPE.epochs


def test_a_stopped_training_with_a_joined_image_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, stopped = _normed(), _normed()
    train(whole, NoDefense(), _data(65), RECIPE, checkpoint=tmp_path / "whole.pt")
    for epoch, step in [(0, 3), (0, 4), (1, 2)]:
        with pytest.raises(Stopped):
            train(
                _normed(),
                NoDefense(),
                _data(65),
                RECIPE,
                checkpoint=tmp_path / "c.pt",
                checkpoint_seconds=0,
                on_progress=_stop_at(epoch, step),
            )
    train(stopped, NoDefense(), _data(65), RECIPE, checkpoint=tmp_path / "c.pt")
    assert weights_hash(stopped) == weights_hash(whole)


@pytest.mark.parametrize("count", range(1, 40))
@pytest.mark.parametrize("batch_size", [1, 2, 3, 16, 50])
def test_every_image_is_in_one_batch_and_none_but_a_left_over_one_is_moved(
    count: int, batch_size: int
) -> None:
    sizes = [len(part) for part in torch.split(torch.arange(count), batch_size)]
    if len(sizes) > 1 and batch_size > 1 and sizes[-1] == 1:
        sizes = [*sizes[:-2], batch_size + 1]
    assert _sizes(count, batch_size) == sizes


def test_batches_of_one_image_are_said_to_be_too_small_for_batch_norm(tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=1)
    with pytest.raises(ModelError, match=r"batch of 1 images.*raise --batch-size"):
        train(_normed(), NoDefense(), _data(4), recipe, checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("defense", DEFENSES)
@pytest.mark.parametrize(
    "error", [AssertionError(), KeyError("features"), IndexError("out of range"), MemoryError()]
)
def test_what_a_network_raises_in_training_says_where(
    tmp_path: Path, defense: str, error: Exception
) -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _normed()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(ModelError, match=rf"Failing.*\({type(error).__name__}\)"):
        train(Failing(), create("defense", defense), _data(), RECIPE, checkpoint=tmp_path / "c.pt")


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    whole, network = _uninterrupted(tmp_path), _network()
    steps: list[Any] = []
    curve = train(
        network,
        NoDefense(),
        _data(),
        RECIPE,
        checkpoint=tmp_path / "whole.pt",
        on_progress=steps.append,
    )
    assert weights_hash(network) == whole
    assert steps == []
    assert len(curve) == 3


def test_training_learns_and_leaves_eval_mode_and_the_global_generator_alone(
    tmp_path: Path,
) -> None:
    before, network = torch.random.get_rng_state(), _network()
    recipe = Recipe(epochs=40, batch_size=16, learning_rate=0.04)
    curve = train(network, NoDefense(), _data(), recipe, checkpoint=tmp_path / "c.pt")
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    assert not network.training
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": Recipe(epochs=4, batch_size=16, learning_rate=0.01, seed=5)},
            "epochs was 3, now 4",
        ),
        ({"data": _data(71)}, "data was"),
        ({"network": 1}, "initial weights was"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _uninterrupted(tmp_path)
    settings: dict[str, Any] = {"recipe": RECIPE, "data": _data(), "network": 0} | change
    network, path = _network(settings["network"]), tmp_path / "whole.pt"
    with pytest.raises(UsageError, match=message):
        train(network, NoDefense(), settings["data"], settings["recipe"], checkpoint=path)


def test_a_damaged_checkpoint_says_to_start_over(tmp_path: Path) -> None:
    _uninterrupted(tmp_path)
    path = tmp_path / "whole.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WeightsError, match="--fresh"):
        train(_network(), NoDefense(), _data(), RECIPE, checkpoint=path)


def test_a_checkpoint_that_another_run_deletes_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = _uninterrupted(tmp_path), tmp_path / "whole.pt"
    path.unlink()
    looks = iter([True])  # it was there at the first look
    monkeypatch.setattr(
        "robustbench_lite.training.checkpoint.os.path.lexists", lambda _: next(looks, False)
    )
    network = _network()
    train(network, NoDefense(), _data(), RECIPE, checkpoint=path)
    assert weights_hash(network) == whole


def test_a_folder_that_cannot_be_written_to_shows_before_any_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    steps: list[TrainingProgress] = []
    with pytest.raises(UsageError, match="cannot be written"):
        train(
            _network(),
            NoDefense(),
            _data(),
            RECIPE,
            checkpoint=tmp_path / "file" / "c.pt",
            on_progress=steps.append,
        )
    assert steps == []


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    network: Any = _network()
    with torch.no_grad():
        network[1].weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="--learning-rate"):
        train(network, NoDefense(), _data(), RECIPE, checkpoint=tmp_path / "c.pt")


def test_a_card_states_the_accuracies_of_a_linear_model() -> None:
    # The logit difference is 2 (x - 0.5): clean 2 of 4 right, and eps 0.2 turns the sample that is
    # 0.1 from the boundary.
    network: Any = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        network[1].bias.copy_(torch.tensor([0.5, -0.5]))
    x = torch.tensor([0.6, 0.9, 0.2, 0.7]).reshape(4, 1, 1, 1)
    data = Dataset("line", "test", x, torch.tensor([1, 1, 1, 0]), torch.arange(4), 2, 4)
    about = {"name": "line", "network": "line", "network_params": {}, "command": "rbl train"}
    training = Training(defense=NoDefense(), recipe=RECIPE, data=data, curve=[], about=about)
    threat = ThreatModel.parse("linf", 0.2)
    card = make_card(network, training, attack=PGD(steps=10), threat=threat, test=data)
    assert (card.clean_accuracy, card.robust_accuracy) == (0.5, 0.25)
    assert card.weights_sha256 == weights_hash(network)


@pytest.mark.parametrize("attack", ["fgsm", "boundary"])
def test_an_attack_that_cannot_run_in_lock_step_is_refused(attack: str) -> None:
    with pytest.raises(UsageError, match="one point at a time"):
        check_lock_step(create("attack", attack), ThreatModel.parse("linf", 0.1), "The training")


def test_evaluating_puts_every_module_back_in_its_own_mode() -> None:
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    network[1].eval()
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]


def test_a_description_builds_the_same_plug_in_again() -> None:
    defense = create("defense", "adversarial_training eps=8/255 attack='pgd steps=3'")
    assert create("defense", describe(defense)) == defense


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}],
)
def test_a_recipe_that_cannot_be_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Training needs"):
        Recipe(**settings)
