"""Where networks come from: the package, a training, a user's own code."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_lite.errors import ModelError, UnknownNameError, UsageError, WeightsError
from robustbench_lite.registry import Spec, Trust
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.model_zoo import bundled_networks
from robustbench_lite.sources.models import load_model, network_spec, reference_model, trained_model
from robustbench_lite.sources.networks import convolutional
from robustbench_lite.sources.weights import save_weights, weights_hash

BUNDLED = bundled_networks()


@pytest.mark.parametrize("defense", ["none", "adversarial_training", "parseval"])
def test_every_bundled_network_is_as_good_as_its_card_says(defense: str) -> None:
    loaded = reference_model("fashion_mnist", defense)
    data = load_dataset("fashion_mnist")
    with torch.no_grad():
        accuracy = float((loaded.module(data.x).argmax(1) == data.y).float().mean())
    assert not loaded.module.training
    assert loaded.card is not None
    assert abs(accuracy - loaded.card.clean_accuracy) < 0.03  # 1,000 of the 10,000 test images
    assert loaded.card.clean_accuracy >= (0.75 if defense == "adversarial_training" else 0.85)
    if defense == "adversarial_training":
        assert loaded.card.robust_accuracy > 0.6


def test_cards_name_no_folder_of_the_machine_they_were_made_on() -> None:
    cards = sorted(BUNDLED.glob("*.json"))
    assert len(cards) >= 8
    for path in cards:
        command = shlex.split(json.loads(path.read_text())["command"])
        assert command[:2] == ["rbl", "train"]
        assert not [word for word in command if word.startswith(("/", "~", "."))]
        assert command[command.index("--data-dir") + 1] == "data"


def test_a_network_that_is_not_bundled_says_how_to_train_it() -> None:
    with pytest.raises(UsageError, match="rbl train --defense parseval --dataset cifar10"):
        reference_model("cifar10", "parseval")


def test_changed_weights_do_not_pass_for_the_ones_on_the_card(tmp_path: Path) -> None:
    for form in ("safetensors", "json"):
        shutil.copy(BUNDLED / f"fashion_mnist-none.{form}", tmp_path)
    path = tmp_path / "fashion_mnist-none.safetensors"
    assert trained_model(path).name == "fashion_mnist-none"
    network = trained_model(path).module
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1e-3
    save_weights(network, path)
    with pytest.raises(WeightsError, match="are not those of its card"):
        trained_model(path)


def test_a_users_factory_gets_typed_arguments_and_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    saved = convolutional(channels=3, size=8, classes=2)
    save_weights(saved, path)
    text = "robustbench_lite.sources.networks:convolutional channels=3 size=8 classes=2"
    loaded = load_model(text, path, Trust.INSTALLED)
    assert weights_hash(loaded.module) == weights_hash(saved)
    assert not loaded.module.training


def test_code_from_a_file_runs_only_when_allowed(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\ndef net(width: int = 1) -> nn.Module:\n    return nn.Linear(width, "
        "2)\n"
    )
    with pytest.raises(UsageError, match="--allow-code"):
        load_model(f"{path}:net", trust=Trust.INSTALLED)
    module = load_model(f"{path}:net width=4", trust=Trust.ANY).module
    assert isinstance(module, nn.Linear)
    assert module.in_features == 4
    with pytest.raises(UnknownNameError, match="Did you mean 'net'"):
        load_model(f"{path}:nett", trust=Trust.ANY)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("convolutionl", UnknownNameError, "Did you mean 'convolutional'"),
        ("convolutional", UsageError, "--weights"),
        ("no_such_package.models:net", UsageError, "no module 'no_such_package'"),
        (
            "robustbench_lite.sources.networks:convolutional chanels=3",
            UnknownNameError,
            "Did you mean 'channels'",
        ),
        ("robustbench_lite.sources.networks:NETWORKS", ModelError, "is no factory"),
        ("robustbench_lite.sources.load_data:data_root", ModelError, "gave a "),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_model(text, trust=Trust.INSTALLED)


def test_loading_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    load_model("robustbench_lite.sources.networks:convolutional", trust=Trust.INSTALLED)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_built_in_network_takes_its_shape_from_the_data() -> None:
    data = load_dataset("fashion_mnist", limit=2)
    spec = network_spec(Spec.parse("residual width=4"), data)
    assert spec.params == {"channels": 1, "size": 28, "classes": 10, "width": 4}


@pytest.mark.parametrize("size", [8192, 10**9])
def test_the_size_that_a_card_states_takes_no_memory_before_it_is_compared(
    tmp_path: Path, size: int
) -> None:
    for form in ("safetensors", "json"):
        shutil.copy(BUNDLED / f"fashion_mnist-none.{form}", tmp_path)
    card = tmp_path / "fashion_mnist-none.json"
    content = json.loads(card.read_text())
    card.write_text(
        json.dumps(content | {"network_params": {"channels": 1, "size": size, "classes": 100_000}})
    )
    with pytest.raises(UsageError, match=r"do not fit the network|size in \[4, 8192\]"):
        trained_model(card.with_suffix(".safetensors"))
