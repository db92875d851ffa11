"""Weights files, their hash and their card."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite.errors import UsageError, WeightsError
from robustbench_lite.sources.card import load_card
from robustbench_lite.sources.weights import load_weights, save_weights, weights_hash


def _network(value: float = 0.0, out: int = 3) -> Any:
    network: Any = nn.Sequential(nn.Linear(2, out), nn.BatchNorm1d(out))
    with torch.no_grad():
        network[0].weight.fill_(value)
        network[0].bias.zero_()
    return network


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"weights.{form}"
    saved, loaded = _network(0.5), _network(0.0)
    if form == "safetensors":
        save_weights(saved, path)
    else:
        torch.save(saved.state_dict(), path)
    load_weights(loaded, path)
    assert weights_hash(loaded) == weights_hash(saved)


def test_the_hash_sees_a_single_changed_value_and_a_buffer() -> None:
    network = _network()
    before = weights_hash(network)
    assert before == weights_hash(_network())
    network[1].running_mean[0] = 1e-7
    assert weights_hash(network) != before


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(_network(out=4), path)
    with pytest.raises(WeightsError, match=r"0\.weight is \(4, 2\), the network's is \(3, 2\)"):
        load_weights(_network(), path)
    save_weights(nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 3)), path)
    with pytest.raises(
        WeightsError, match=r"missing: .*1\.running_mean.*not in the network: 2\.bias, 2\.weight"
    ):
        load_weights(_network(), path)


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_a_truncated_file_is_a_clear_error_and_leaves_the_network_alone(
    tmp_path: Path, form: str
) -> None:
    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_weights(_network(0.5), path)
    else:
        torch.save(_network(0.5).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-40])
    network = _network()
    with pytest.raises(WeightsError, match="weights"):
        load_weights(network, path)
    assert weights_hash(network) == weights_hash(_network())


def test_a_pickled_model_is_never_unpickled(tmp_path: Path) -> None:
    torch.save(_network(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="can run code"):
        load_weights(_network(), tmp_path / "model.pt")


def test_missing_files_are_weights_errors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No weights file"):
        load_weights(_network(), tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="No card"):
        load_card(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.weight": torch.zeros(1).expand(2**50)}, "larger than what they store"),
        ({"0.weight": torch.zeros(3, 2).to_sparse()}, "sparse"),
        ({1: torch.zeros(2)}, "each with a name"),
        ([], "no plain state dict"),
        ({"0.weight": 3}, "no plain state dict"),
        (
            {name: tensor.to(torch.complex64) for name, tensor in _network().state_dict().items()},
            "is torch.complex64",
        ),
    ],
    ids=["expanded", "sparse", "numbered", "list", "number", "complex"],
)
def test_what_is_no_plain_state_is_refused(tmp_path: Path, state: object, message: str) -> None:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=message):
        load_weights(_network(), tmp_path / "w.pt")


def test_weights_of_an_archive_are_bounded_by_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"0.weight": torch.zeros(10**5)}, tmp_path / "w.pt")
    monkeypatch.setattr("robustbench_lite.files.reading.ARRAYS_BYTES", 10**5)
    monkeypatch.setattr(torch, "load", lambda *rest, **more: pytest.fail("it was read"))
    with pytest.raises(WeightsError, match=r"unpacks to 4\d\d,\d\d\d bytes"):
        load_weights(_network(), tmp_path / "w.pt")


def test_a_pipe_is_no_weights_file_and_no_card(tmp_path: Path) -> None:
    for name in ("w.safetensors", "w.pt", "w.json"):
        os.mkfifo(tmp_path / name)
    for name in ("w.safetensors", "w.pt"):
        with pytest.raises(WeightsError, match="named pipe"):
            load_weights(_network(), tmp_path / name)
    with pytest.raises(WeightsError, match="named pipe"):
        load_card(tmp_path / "w.json")


def test_weights_and_cards_are_replaced_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(_network(0.5), path)
    before = path.read_bytes()
    monkeypatch.setattr(
        os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(UsageError, match="No space left"):
        save_weights(_network(1.0), path)
    assert (path.read_bytes(), [found.name for found in tmp_path.iterdir()]) == (
        before,
        ["w.safetensors"],
    )
