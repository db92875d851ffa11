"""No file makes this project import or run what it names: every format that is read, with a
callable planted in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from robustbench_lite.leaderboard.lock import read_lock
from robustbench_lite.records.cell import make_record, read_record, write_record
from robustbench_lite.sources.model_zoo import bundled_networks
from robustbench_lite.verification import examples
from tests.end_to_end.boards import BOARD
from tests.end_to_end.conftest import Rbl

#: What leaves the file ``planted`` behind when it is imported, and what does when it is called.
CODE = """
from pathlib import Path
from torch import nn
Path("planted").touch()


class Plugin:
    name, version, trains, calibrates = "planted", 1, False, False
    ask = wrap = None


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
NAMES = ("planted_module:Plugin", "os:system command='touch planted'", "planted_file.py:net")
NETWORK = "fashion_mnist-none"


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("planted_module.py", "planted_file.py"):
        (tmp_path / name).write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planted_module", raising=False)


@pytest.fixture
def refused(rbl: Rbl) -> Callable[..., Any]:
    """Run a command line: it must fail with a line of help, and have imported and run nothing that
    is planted.
    """

    def run(*words: str, says: str = "--allow-code", codes: tuple[int, ...] = (2,)) -> None:
        result = rbl(*words)
        assert result.code in codes, result
        assert says in result.out + result.err, result
        untouched()

    return run


def untouched() -> None:
    assert not Path("planted").exists()
    assert "planted_module" not in sys.modules


def quoted(name: str) -> str:
    return json.dumps(name)


def board(text: str) -> None:
    Path("boards").mkdir(exist_ok=True)
    Path("boards/tiny.toml").write_text(text)


def network(**changes: Any) -> Path:
    """A trained network in the folder ``nets``, with a card that says what ``changes`` say."""
    Path("nets").mkdir(exist_ok=True)
    path = Path("nets/mine.safetensors")
    shutil.copy(bundled_networks() / f"{NETWORK}.safetensors", path)
    card = json.loads((bundled_networks() / f"{NETWORK}.json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    return path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("command", ["plan", "run -q", "build", "check", "lock"])
def test_a_board_that_names_code(refused: Callable[..., Any], name: str, command: str) -> None:
    nested = f"adversarial_training attack={json.dumps(name)}"
    for old, new in [
        ('attack = "fgsm"', f"attack = {quoted(name)}"),
        ('eps = [0.05, "0.2"]\nattack = "pgd steps=6"', f"eps = [0.05]\nattack = {quoted(name)}"),
        ('defense = "none"', f"defense = {quoted(name)}"),
        ('defense = "none"', f"defense = {quoted(name)}\nmodel = 'a:b'\nname = 'x'"),
        ('defense = "none"', f"defense = {quoted('none + ' + name)}"),
        ('defense = "none"', f"defense = {quoted(nested)}"),
    ]:
        assert old in BOARD
        board(BOARD.replace(old, new, 1))
        refused("leaderboard", *command.split(), "--root", ".")


@pytest.mark.parametrize("name", NAMES)
def test_a_board_whose_network_is_code(refused: Callable[..., Any], name: str) -> None:
    board(
        BOARD.replace('defense = "none"', f'model = {quoted(name)}\nname = "net"', 1).partition(
            "[[curves]]"
        )[0]
    )
    refused("leaderboard", "run", "--root", ".", codes=(3,))
    network(network=name)
    board(
        BOARD.replace('defense = "none"', 'weights = "nets/mine.safetensors"', 1).partition(
            "[[curves]]"
        )[0]
    )
    refused("leaderboard", "run", "--root", ".", codes=(3,))
    network(defense=name)
    for command in ("plan", "run", "build", "check"):
        refused("leaderboard", command, "--root", ".")


def test_the_code_of_a_board_runs_when_it_is_allowed(rbl: Rbl) -> None:
    board(
        BOARD.replace(
            'defense = "none"', 'model = "planted_file.py:net"\nname = "net"', 1
        ).partition("[[curves]]")[0]
    )
    rbl("leaderboard", "run", "--root", ".", "--allow-code")
    assert Path("planted").exists()


@pytest.mark.parametrize(
    "path", ["../w.safetensors", "/tmp/w.safetensors", "link.safetensors", "~/w.safetensors"]
)
def test_the_weights_of_a_board_lie_below_it(
    refused: Callable[..., Any], tmp_path: Path, path: str
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    shutil.copy(bundled_networks() / f"{NETWORK}.safetensors", outside / "w.safetensors")
    Path("link.safetensors").symlink_to(outside / "w.safetensors")
    board(BOARD.replace('defense = "none"', f"weights = {quoted(path)}", 1))
    for command in ("plan", "check"):
        refused("leaderboard", command, "--root", ".", says="leaderboards folder")


def test_the_images_of_a_board_lie_below_it(refused: Callable[..., Any]) -> None:
    for name in ("npz:/tmp/x.npz", "npz:../x.npz", "folder:/"):
        board(
            BOARD.replace(
                'name = "fashion_mnist"\nn = 24\nbundled = true', f"name = {quoted(name)}\nn = 24"
            )
        )
        refused("leaderboard", "run", "--root", ".", says="by a relative path", codes=(2, 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_card_that_names_code(refused: Callable[..., Any], name: str) -> None:
    path = network(network=name)
    refused("evaluate", "--weights", str(path), "--dry-run")
    refused("show", "mine", "--networks", "nets")
    refused("evaluate", "--model", "mine", "--networks", "nets", "--dry-run")
    path = network(defense=name)
    refused("evaluate", "--weights", str(path), "--dry-run")
    refused("evaluate", "--weights", str(path), "-d", "none", "--dry-run")
    path = network(defense=f"adversarial_training attack={json.dumps(name)}")
    refused("evaluate", "--weights", str(path), "--dry-run")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_options_that_names_code(refused: Callable[..., Any], name: str) -> None:
    for text in (
        f"attack = {quoted(name)}",
        f"attack = ['fgsm', {quoted(name)}]",
        f"defense = {quoted(name)}",
        f"defense = {quoted(f'adversarial_training attack={json.dumps(name)}')}",
        f"model = {quoted(name)}",
    ):
        Path("c.toml").write_text(text)
        refused("evaluate", "--config", "c.toml", "--dry-run", "--limit", "3")
    Path("c.toml").write_text(f"allow_code = true\nmodel = {quoted(name)}")
    refused("evaluate", "--config", "c.toml", "--dry-run", says="on the command line")


def test_what_is_typed_is_imported_as_ever(rbl: Rbl) -> None:
    Path("c.toml").write_text("limit = 3")
    result = rbl("evaluate", "--config", "c.toml", "--model", "planted_module:net", "--dry-run")
    assert (result.code, Path("planted").exists()) == (0, True), result


@pytest.fixture
def saved(rbl: Rbl) -> Path:
    """What `rbl attack` writes for a network that comes with the package."""
    assert rbl("attack", "-a", "fgsm", "--limit", "16", "-q").code == 0
    return Path("rbl-adversarials/adversarials.npz")


def forge(path: Path, part: str, **changes: Any) -> Path:
    """``path`` with the ``part`` of its record's identity changed, and sealed again."""
    whole = examples.read(path)
    identity = whole.record.identity
    identity = identity.model_copy(
        update={part: getattr(identity, part).model_copy(update=changes)}
    )
    record = make_record(identity, whole.outcomes, whole.record.provenance)
    examples.write(dataclasses.replace(whole, record=record), Path("forged.npz"))
    write_record(record, Path("forged.json"))
    read_record(Path("forged.json"))
    return Path("forged.npz")


@pytest.mark.parametrize("name", NAMES)
def test_a_record_that_names_code(
    refused: Callable[..., Any], rbl: Rbl, saved: Path, name: str
) -> None:
    name, _, command = name.partition(" command=")
    given = {"command": command.strip("'")} if command else {}
    defense = examples.read(saved).record.identity.defense
    evil = defense.model_copy(update={"name": name, "parameters": given})
    trained = {
        "name": "adversarial_training",
        "parameters": {"attack": f"{name} command='touch planted'"},
    }
    for changes in (
        {"name": name, "parameters": given},
        {"parts": [evil]},
        {"parts": [defense, evil]},
        trained,
    ):
        path = forge(saved, "defense", **changes)
        refused("verify", str(path))
    path = forge(saved, "attack", name=name, parameters=given)
    for words in (("verify", str(path)), ("show", "forged.json"), ("report", "forged.json")):
        assert rbl(*words).code == 0  # nothing needs the attack to be there
        untouched()


@pytest.mark.parametrize(
    "name", ["npz:/tmp/x.npz", "npz:../x.npz", "folder:/", "npz:x.npz", "folder:~"]
)
def test_a_record_that_names_a_path(rbl: Rbl, saved: Path, name: str) -> None:
    path = forge(saved, "data", name=name)
    result = rbl("verify", str(path))
    assert (result.code, f"--dataset {name.partition(':')[0]}:" in result.out) == (0, True), result
    for beyond in ("/", "..", "~"):
        if beyond in name.replace("x.npz", ""):
            result = rbl("verify", str(path), "--data-dir", ".")
            assert (result.code, "relative path" in result.err) == (2, True), result


def test_a_record_of_ones_own_images_is_verified_against_them(
    rbl: Rbl, own_network: tuple[str, ...]
) -> None:
    from robustbench_lite.sources.load_data import load_dataset

    data = load_dataset("fashion_mnist", limit=16)
    np.savez("mine.npz", x=data.x.numpy(), y=data.y.numpy())
    made = rbl(
        "attack",
        *own_network,
        "-a",
        "fgsm",
        "--eps",
        "0.1",
        "--dataset",
        "npz:mine.npz",
        "--format",
        "json",
    )
    command = json.loads(made.out)["saved"]["verify"]
    assert "--dataset npz:mine.npz" in command
    path = "rbl-adversarials/adversarials.npz"
    for where in (("--dataset", "npz:mine.npz"), ("--data-dir", ".")):
        result = rbl("verify", path, *own_network, *where)
        assert (result.code, "could not be compared" in result.out) == (0, False), result
    assert "could not be compared" in rbl("verify", path, *own_network).out


def test_a_record_moves_no_cursor(rbl: Rbl, saved: Path) -> None:
    forge(saved, "attack", name="a\x1b[2Jb")
    result = rbl("show", "forged.json")
    assert (result.code, "\x1b" in result.out, "a\\x1b[2Jb" in result.out) == (0, False, True)


class Bomb:
    """What unpickles by running a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch planted",)


def test_what_would_be_unpickled(refused: Callable[..., Any], own_network: tuple[str, ...]) -> None:
    torch.save({"1.weight": Bomb()}, "w.pt")
    refused("evaluate", *own_network[:2], "--allow-code", "--weights", "w.pt", says="can run code")
    Path("w.safetensors").write_bytes(pickle.dumps(Bomb()))
    refused(
        "evaluate", *own_network[:2], "--allow-code", "--weights", "w.safetensors", says="cut short"
    )
    np.savez("d.npz", x=np.array([Bomb()], dtype=object), y=np.zeros(1, int))
    refused("evaluate", *own_network, "--dataset", "npz:d.npz", says="plain arrays")
    refused("verify", "d.npz", *own_network, says="plain arrays")
    Path("cifar-10-batches-py").mkdir()
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)), "batches.meta"):
        Path("cifar-10-batches-py", name).write_bytes(pickle.dumps(Bomb()))
    refused(
        "evaluate",
        *own_network,
        "--dataset",
        "cifar10",
        "--data-dir",
        ".",
        "--eps",
        "0.1",
        says="cifar-10-batches-py",
    )


def test_a_checkpoint_that_would_be_unpickled(refused: Callable[..., Any]) -> None:
    Path("rbl-models").mkdir()
    torch.save({"configuration": Bomb(), "at": Bomb()}, "rbl-models/few-none.checkpoint.pt")
    images, labels = np.zeros((4, 28, 28), "u1"), np.arange(4)
    np.savez("few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    refused("train", "--dataset", "npz:few.npz", "--epochs", "1", "-q", says="--fresh")


@pytest.mark.parametrize("name", NAMES)
def test_names_in_what_holds_no_names(rbl: Rbl, own_network: tuple[str, ...], name: str) -> None:
    """Journals, locks, metadata of weights, arrays called like code: read, or refused, and never
    looked up.
    """
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "8", "-q")
    assert rbl(*options).code == 0
    with sqlite3.connect("rbl-results/journal.sqlite") as connection:
        connection.execute("INSERT INTO cells VALUES (?, 1)", (name,))
        connection.execute("INSERT INTO proofs VALUES (?, 0, 1.0, ?, ?)", (name, name, name))
    connection.close()
    assert rbl(*options, "--seed", "3").code == 0
    save_file(load_file(own_network[3]), "w.safetensors", {"format": name, name: name})
    assert (
        rbl(
            "evaluate", *own_network[:2], "--weights", "w.safetensors", "--allow-code", "--dry-run"
        ).code
        == 0
    )
    arrays: dict[str, Any] = {
        "x": np.zeros((8, 28, 28), "u1"),
        "y": np.zeros(8, int),
        name.replace("/", ""): np.zeros(1),
    }
    np.savez("d.npz", **arrays)
    assert rbl(*options, "--dataset", "npz:d.npz", "--eps", "0.1").code == 0
    Path("implementations.json").write_text(
        json.dumps({"attack": {name: {"version": 1, "sha256": name}}})
    )
    assert ("attack", name) in read_lock(Path())
    untouched()
