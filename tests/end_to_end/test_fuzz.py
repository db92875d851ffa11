"""Whatever a file or a command line holds, the answer is a result or one line of help: never a
traceback, never code run.

In numbers: 2,000 command lines, 5,000 records and certificates, 500 archives and 500 other files of
images, 400 boards with their locks, 300 files of weights and cards, and 150 of each other format.
Every one follows from its number.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from robustbench_lite.errors import RobustBenchError
from robustbench_lite.leaderboard.lock import read_lock
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.fit import StoredFit, write_fit
from robustbench_lite.sources.model_zoo import bundled_networks
from tests.end_to_end import mutations
from tests.end_to_end.boards import BOARD
from tests.end_to_end.conftest import Rbl

pytestmark = pytest.mark.slow
ROUNDS = 150
Try = Callable[[random.Random], None]
CODES = range(5)
UNEXPECTED = "Error: Unexpected "
"""What the command line says of what it has no words for."""
SECONDS = 20
"""A command that takes longer is led astray by what it reads: all of these end in a fraction of
one.
"""
OUTPUTS = {"page.html", "rbl-results", "rbl-adversarials"}
"""What the commands here may write into the folder that they run in."""


@pytest.fixture
def survives(rbl: Rbl) -> Callable[..., None]:
    """``survives("show", "a.json")``: the command ends in an exit code of its own, and ran nothing
    that was planted.
    """

    def run(*words: str) -> None:
        before, started = seen(), time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = rbl(*words)
        assert time.monotonic() - started < SECONDS, words
        if result.code not in CODES or UNEXPECTED in result.err:
            result = rbl("-v", *words)
        assert result.code in CODES, (words, result)
        assert UNEXPECTED not in result.err, (words, result.err)
        assert seen() - before <= OUTPUTS, (words, seen() - before)

    def seen() -> set[str]:
        """What lies in the folder, and beside it."""
        return {*os.listdir(), *(f"../{name}" for name in os.listdir(".."))}

    return run


def each_round(name: str, rounds: int = ROUNDS, first: int = 0) -> Iterator[random.Random]:
    for number in range(first, first + rounds):
        yield random.Random(f"{name}/{number}")


def write_mutated(
    path: Path, content: bytes, value: Any, dump: Callable[[Any], str], rng: random.Random
) -> None:
    """Half of the time bytes are changed, half of the time a value."""
    if rng.random() < 0.5:
        path.write_bytes(mutations.bytes_of(content, rng))
    else:
        path.write_bytes(
            dump(mutations.value_of(value, rng)).encode("utf-8", errors="surrogatepass")
        )


PLAN = ("evaluate", "-a", "fgsm", "--eps", "0.1", "--dry-run", "-q")


def test_an_npz_of_images(survives: Callable[..., None], own_network: tuple[str, ...]) -> None:
    x, y = np.zeros((6, 1, 28, 28), np.uint8), np.arange(6)
    for rng in each_round("npz", 500):
        if rng.random() < 0.5:
            np.savez_compressed("data.npz", x=x, y=y)
            Path("data.npz").write_bytes(mutations.bytes_of(Path("data.npz").read_bytes(), rng))
        else:
            arrays: dict[str, Any] = {"x": x, "y": y}
            name = rng.choice(["x", "y"])
            other = arrays[name].astype(rng.choice([">f4", ">i8", "?", "f2", "M8[s]", "m8[s]"]))
            arrays[name] = rng.choice([*ODD_ARRAYS, other])
            np.savez_compressed("data.npz", **arrays)
        survives(*PLAN, *own_network, "--dataset", "npz:data.npz")


ODD_ARRAYS = [
    np.zeros(()),
    np.zeros(6, object),
    np.zeros((6, 1, 28, 28), complex),
    np.zeros(6, [("a", "i4")]),
    np.array("text"),
    np.zeros((0, 1, 28, 28)),
    np.zeros((6, 0)),
    np.arange(6)[::-1],
    np.full(6, 10**9),
    np.full(6, 2**63, np.uint64),
    np.full((6, 1, 28, 28), np.nan),
    np.zeros((6, 1, 28, 28))[..., ::-1],
    np.zeros((2,) * 20),
    np.zeros(6, "S3"),
    np.zeros((6, 28, 28, 3), ">f8"),
    np.zeros((6, 1, 28, 28), np.longdouble),
    np.asfortranarray(np.zeros((6, 1, 28, 28))),
]


def test_folders_and_parquet_and_idx_files_of_images(
    survives: Callable[..., None], own_network: tuple[str, ...]
) -> None:
    for name in ("a/0.png", "a/1.bmp", "b/0.jpg", "b/1.webp", "b/2.tif"):
        Path("images", name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((28, 28), 77, np.uint8)).save(Path("images", name))
    Path("cifar10-jpeg").mkdir()
    encoded = Path("images/a/0.png").read_bytes()
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"img": [{"bytes": encoded}] * 3, "label": [0, 1, 2]}),
        "cifar10-jpeg/test.parquet",
    )
    Path("MNIST/raw").mkdir(parents=True)
    images = bytes([0, 0, 8, 3, 0, 0, 0, 4, 0, 0, 0, 28, 0, 0, 0, 28, *[7] * 4 * 784])
    for part in ("train", "t10k"):
        Path(f"MNIST/raw/{part}-images-idx3-ubyte").write_bytes(images)
        Path(f"MNIST/raw/{part}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 2, 3])
        )
    files = [path for path in Path().rglob("*") if path.is_file()]
    for rng in each_round("images", 500):
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(mutations.bytes_of(whole, rng))
        kind = {"images": "folder:images", "MNIST": "mnist"}.get(path.parts[0], "cifar10-jpeg")
        survives(*PLAN, *own_network, "--dataset", kind, "--data-dir", ".")
        path.write_bytes(whole)


CONFIG = {
    "attack": ["fgsm", "pgd steps=2"],
    "defense": "none",
    "eps": "8/255",
    "limit": 4,
    "seed": 1,
    "fresh": True,
}


def test_a_file_of_options(survives: Callable[..., None], own_network: tuple[str, ...]) -> None:
    for rng in each_round("config"):
        write_mutated(
            Path("c.toml"), mutations.toml_of(CONFIG).encode(), CONFIG, mutations.toml_of, rng
        )
        survives("evaluate", *own_network, "--dry-run", "-q", "--config", "c.toml")


def test_a_board_and_its_lock(survives: Callable[..., None]) -> None:
    Path("boards").mkdir()
    board = tomllib.loads(BOARD)
    board["rows"].append({"weights": "w/fashion_mnist-none.safetensors"})
    shutil.copytree(
        bundled_networks(),
        "w",
        ignore=lambda folder, names: [n for n in names if "fashion_mnist-none." not in n],
    )
    lock = {
        "attack": {"fgsm": {"version": 1, "sha256": "0" * 64}},
        "defense": {"none": {"version": 1, "sha256": "0" * 64}},
    }
    for rng in each_round("board", 400):
        write_mutated(
            Path("boards/b.toml"), mutations.toml_of(board).encode(), board, mutations.toml_of, rng
        )
        survives("leaderboard", "plan", "--root", ".")
        write_mutated(
            Path("implementations.json"), json.dumps(lock).encode(), lock, mutations.json_of, rng
        )
        with suppress(RobustBenchError):
            read_lock(Path())


@pytest.mark.parametrize("first", range(0, 5000, 500))
def test_records_and_what_lies_beside_them(
    survives: Callable[..., None], rbl: Rbl, own_network: tuple[str, ...], first: int
) -> None:
    made = rbl("attack", *own_network, "-a", "fgsm", "--limit", "12", "--format", "json")
    record = Path(json.loads(made.out)["cells"][0]["record"])
    assert rbl("certify", *own_network, "--limit", "6", "--eps", "0.01", "-q").code == 0
    certificate = next(Path("rbl-results/certificates").glob("*.json"))
    for rng in each_round("record", 500, first):
        path = rng.choice([record, certificate])
        write_mutated(
            Path("a.json"), path.read_bytes(), json.loads(path.read_text()), mutations.json_of, rng
        )
        survives("show", "a.json")
        if rng.random() < 0.2:
            survives("report", "a.json", "--output", "page.html")
        if rng.random() < 0.1:
            Path("a.npz").write_bytes(
                mutations.bytes_of(Path("rbl-adversarials/adversarials.npz").read_bytes(), rng)
            )
            survives("verify", "a.npz", *own_network)
        if rng.random() < 0.1:
            arrays = dict(np.load("rbl-adversarials/adversarials.npz"))
            content = json.loads(str(arrays["record"]))
            arrays["record"] = np.array(
                mutations.json_of(mutations.value_of(content, rng))
                .encode("utf-8", "replace")
                .decode()
            )
            np.savez(
                "a.npz",
                **arrays | {rng.choice([*arrays]): rng.choice(ODD_ARRAYS)}
                if rng.random() < 0.5
                else arrays,
            )
            survives("verify", "a.npz", *own_network)


def test_cards_and_weights(survives: Callable[..., None], own_network: tuple[str, ...]) -> None:
    source = bundled_networks() / "fashion_mnist-none.safetensors"
    card = source.with_suffix(".json").read_bytes()
    Path("nets").mkdir()
    torch.save(load_file(source), "whole.pt")
    for rng in each_round("weights", 300):
        path = Path("nets/mine.safetensors")
        path.write_bytes(source.read_bytes())
        path.with_suffix(".json").write_bytes(card)
        kind = rng.randrange(3)
        if kind == 0:
            write_mutated(path.with_suffix(".json"), card, json.loads(card), mutations.json_of, rng)
            survives("list", "models", "--networks", "nets")
            survives("show", "mine", "--networks", "nets")
        elif kind == 1:
            path.write_bytes(
                mutations.bytes_of(path.read_bytes()[:3000], rng) + path.read_bytes()[3000:]
            )
        if kind < 2:
            survives(*PLAN, "--weights", str(path))
        else:
            tensors = rng.choice(ODD_STATES) if rng.random() < 0.5 else None
            torch.save(tensors, "odd.pt") if tensors is not None else Path("odd.pt").write_bytes(
                mutations.bytes_of(Path("whole.pt").read_bytes()[:4000], rng)
                + Path("whole.pt").read_bytes()[4000:]
            )
            survives(*PLAN, "--model", "convolutional", "--weights", "odd.pt")


ODD_STATES: list[Any] = [
    {},
    [],
    5,
    {1: torch.zeros(2)},
    {"0.weight": torch.zeros(1).expand(16, 1, 4, 4)},
    {"0.weight": torch.zeros(1).expand(2**50)},
    {"0.weight": torch.zeros(16, 1, 4, 4).to_sparse()},
    {"0.weight": torch.zeros(16, 1, 4, 4, dtype=torch.complex64)},
    {"0.weight": torch.zeros((), device="meta")},
    {"0.weight": None},
    {"": torch.zeros(0)},
    {"é\ud800": torch.zeros(1)},
]


def test_a_journal(survives: Callable[..., None], rbl: Rbl, own_network: tuple[str, ...]) -> None:
    options = ("evaluate", *own_network, "-a", "fgsm", "--limit", "12", "-q", "--format", "json")
    (cell,) = json.loads(rbl(*options, "--dry-run").out)["cells"]
    assert rbl(*options, "--seed", "1").code == 0
    journal = Path("rbl-results/journal.sqlite")
    whole = journal.read_bytes()
    for rng in each_round("journal", ROUNDS // 3):
        for path in journal.parent.rglob("*"):
            if path.is_file():
                path.unlink()
        if rng.random() < 0.5:
            journal.write_bytes(mutations.bytes_of(whole, rng))
        else:
            journal.write_bytes(whole)
            values = [value for value in mutations.ODD if isinstance(value, int | float | str)]
            fitting = [
                v
                for v in values
                if v == v and v != "\ud800" and not (isinstance(v, int) and abs(v) >= 2**63)
            ]
            row: list[Any] = [
                cell["key"],
                *(rng.choice([0, 1, *fitting]) for _ in range(7)),
                "seal",
            ]
            connection = sqlite3.connect(journal)
            with connection:
                connection.execute(
                    "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row
                )
            connection.close()
        survives(*options)


def test_a_fit(survives: Callable[..., None], rbl: Rbl, own_network: tuple[str, ...]) -> None:
    attack = ("-a", "patch steps=4 draws=1 fit_batch=8", "--norm", "l0", "--eps", "30")
    options = ("evaluate", *own_network, *attack, "--limit", "4", "-q")
    assert rbl(*options).code == 0
    (fit,) = Path("rbl-results/fits").glob("*.safetensors")
    whole = fit.read_bytes()
    about, tensors = metadata_of(fit), load_file(fit)
    stored = {"step": int(about["step"]), "of": int(about["of"])}
    behaviour = Behaviour.model_validate_json(about["behaviour"])
    for rng in each_round("fit"):
        for path in (
            *Path("rbl-results").glob("journal*"),
            *Path("rbl-results/cells").glob("*.json"),
        ):
            path.unlink()
        if rng.random() < 0.5:
            fit.write_bytes(mutations.bytes_of(whole, rng))
        else:  # sealed again: what a forger would write
            odd = {"result": rng.choice(ODD_FITS).clone()} if rng.random() < 0.8 else tensors
            odd = odd | (
                {"first": rng.choice(ODD_FITS).clone(), "second": rng.choice(ODD_FITS).clone()}
                if rng.random() < 0.5
                else {}
            )
            step = rng.choice([0, 2, stored["of"]])
            write_fit(fit, fit.stem, StoredFit(step, stored["of"], odd, behaviour))
        survives(*options)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


ODD_FITS = [
    torch.zeros(()),
    torch.zeros(0),
    torch.zeros(1, 1, 3, 3),
    torch.zeros(2, 1, 6, 6),
    torch.zeros(1, 3, 6, 6),
    torch.full((1, 1, 6, 6), float("nan")),
    torch.full((1, 1, 6, 6), 1e30),
    torch.zeros(1, 1, 6, 6, dtype=torch.int64),
    torch.zeros(1, 1, 6, 6, dtype=torch.float16),
    torch.zeros(1, 1, 6, 6, dtype=torch.float64),
    torch.zeros(5),
]


@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_words_of_the_command_line(
    survives: Callable[..., None], own_network: tuple[str, ...], first: int
) -> None:
    options = [
        "--attack",
        "--defense",
        "--norm",
        "--eps",
        "--targeted",
        "--certify",
        "--certify-seconds",
        "--model",
        "--weights",
        "--outputs",
        "--dataset",
        "--data-dir",
        "--split",
        "--limit",
        "--seed",
        "--batch-size",
        "--device",
        "--query-budget",
        "--output",
        "--format",
        "--config",
        "--networks",
    ]
    words = [str(value) for value in mutations.ODD if isinstance(value, int | float | str)]
    words += ["pgd steps=" + word for word in words[:14]]
    words += ["pgd 'a", "+", "none+", "none+none", "pgd step_size=²/3", "class:²"]
    words += [
        ".",
        "boards",
        "folder:.",
        "npz:.",
        "npz:",
        "folder:",
        "npz:/dev/null",
        "class:" + "9" * 5000,
        "sqlite:",
        "1/0",
    ]
    words += [
        "adversarial_training attack='os:no_such'",
        "a=" + "+pgd" * 3000,
        "json:",
        ":",
        "a:b:c",
        ".py:x",
        "x.py:",
    ]
    Path("boards").mkdir()
    plain = [
        word for word in words if not word.startswith("os:system")
    ]  # typed code runs: that is asked for
    for rng in each_round("words", 400, first):
        chosen = [
            item
            for flag in rng.sample(options, rng.choice([1, 1, 2]))
            for item in (flag, rng.choice(plain))
        ]
        survives(
            "evaluate",
            *own_network[:-1],
            "--limit",
            "3",
            *chosen,
            "--dry-run",
            "-q",
            "--allow-code",
        )
    for rng in each_round("other words", 100, first):
        command = rng.choice(
            ["show", "report", "verify", "list", "leaderboard plan --root", "leaderboard diff"]
        )
        survives(*command.split(), rng.choice(plain))


def test_a_checkpoint(rbl: Rbl) -> None:
    from robustbench_lite.training.checkpoint import Checkpoint, Position

    layer = torch.nn.Linear(2, 2)
    store = Checkpoint(
        Path("a.pt"),
        {"data": "x"},
        {"model": layer, "optimizer": torch.optim.Adam(layer.parameters())},
    )
    store.save(Position(1, 2, 3.0, [{"loss": 1.0}]))
    whole = Path("a.pt").read_bytes()
    for rng in each_round("checkpoint"):
        Path("a.pt").write_bytes(mutations.bytes_of(whole, rng))
        with suppress(RobustBenchError):
            store.resume()
