"""Networks by name: bundled ones first, then folders and Hugging Face repositories, all in one
layout.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from robustbench_lite.errors import UnknownNameError, UsageError, WeightsError
from robustbench_lite.sources import model_zoo
from robustbench_lite.sources.models import named_network, reference_model
from tests.conftest import present

BUNDLED = model_zoo.bundled_networks()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def put(folder: Path, name: str, source: str = "fashion_mnist-none") -> Path:
    """A network called ``name`` in ``folder``: a bundled one under another name."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(BUNDLED / f"{source}.safetensors", folder / f"{name}.safetensors")
    card = json.loads((BUNDLED / f"{source}.json").read_text())
    (folder / f"{name}.json").write_text(json.dumps(card | {"name": name}))
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface_hub without a connection, with the repository somebody/networks in
    it.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    repository = cache / "models--somebody--networks"
    put(repository / "snapshots" / COMMIT, "fashion_mnist-none-wide")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    model_zoo._download.cache_clear()
    return repository


def test_names_say_data_set_defense_and_any_other_network() -> None:
    assert model_zoo.network_name("mnist", "none") == "mnist-none"
    assert model_zoo.network_name("mnist", "none", "residual") == "mnist-none-residual"
    assert model_zoo.network_name("mnist", "none", "package.module:wide") == "mnist-none-wide"


def test_a_folder_adds_networks_and_replaces_no_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "fashion_mnist-none-residual")
    put(tmp_path, "fashion_mnist-parseval")  # in truth the undefended one
    monkeypatch.setenv(model_zoo.ENVIRONMENT, f" {tmp_path} ,")
    assert named_network("fashion_mnist-none-residual").name == "fashion_mnist-none-residual"
    assert (
        reference_model("fashion_mnist", "none", "residual").name == "fashion_mnist-none-residual"
    )
    assert model_zoo.network_files()["fashion_mnist-parseval"].parent == BUNDLED


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(model_zoo.ENVIRONMENT, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="nowhere"):
        model_zoo.network_files()


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="fashion_mnist-parseval"):
        named_network("fashion_mnist-parsevl")


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_networks_come_from_a_repository_of_the_hub(
    hub: Path, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    monkeypatch.setenv(model_zoo.ENVIRONMENT, f"hf:somebody/networks{revision}")
    assert present(named_network("fashion_mnist-none-wide").card).name == "fashion_mnist-none-wide"


@pytest.mark.parametrize(
    "source", ["hf:somebody/nothing", "hf:not a name", "hf:somebody/networks@other"]
)
def test_a_repository_that_cannot_be_had_is_named(
    hub: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv(model_zoo.ENVIRONMENT, source)
    with pytest.raises(WeightsError, match=source):
        model_zoo.network_files()


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv(model_zoo.ENVIRONMENT, "hf:somebody/uninstalled")
    with pytest.raises(UsageError, match=r"robustbench_lite\[hub\]"):
        model_zoo.network_files()


def test_a_network_is_called_what_its_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "second")
    card = json.loads((tmp_path / "second.json").read_text())
    (tmp_path / "second.json").write_text(json.dumps(card | {"name": "fashion_mnist-none"}))
    monkeypatch.setenv(model_zoo.ENVIRONMENT, str(tmp_path))
    assert named_network("second").name == "second"


def test_a_card_runs_no_code_that_nobody_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "theirs")
    card = json.loads((tmp_path / "theirs.json").read_text())
    code = {"network": "os:mkdir", "network_params": {"path": str(tmp_path / "made")}}
    (tmp_path / "theirs.json").write_text(json.dumps(card | code))
    monkeypatch.setenv(model_zoo.ENVIRONMENT, str(tmp_path))
    with pytest.raises(UsageError, match="--allow-code"):
        named_network("theirs")
    assert not (tmp_path / "made").exists()
