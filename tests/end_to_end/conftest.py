"""A command line in this process, and a small network of the user's own that needs no training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from robustbench_lite.cli import main
from robustbench_lite.sources.load_data import load_dataset

NETWORK = """
import torch
from torch import nn


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        return self.inner(x).softmax(1)


class Apply(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.inner, self.change = linear(), change

    def forward(self, x):
        return self.change(self.inner(x))


def linear(classes: int = 10):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))


def probabilities():
    return Softmax()


def nan():
    return Apply(lambda logits: logits * float("nan"))


def mixes_rows():
    return Apply(lambda logits: logits - logits.mean(0))


def not_a_network():
    return "a string"
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


Rbl = Callable[..., Result]
"""What the fixture ``rbl`` gives: words of a command line to what came of it."""


@pytest.fixture
def rbl(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rbl]:
    """``rbl("evaluate", "-a", "pgd")`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RBL_DATA_DIR", raising=False)
    monkeypatch.setenv("RBL_NETWORKS", "")  # what --networks sets is put back afterwards

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = main(arguments)
        return Result(code, *capsys.readouterr())

    yield run
    logging.getLogger("robustbench_lite").setLevel(logging.NOTSET)  # what -q sets


@pytest.fixture(scope="session")
def own_network(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The options that name a linear network: each class is scored by the distance to its mean
    image.
    """
    folder = tmp_path_factory.mktemp("network")
    (folder / "net.py").write_text(NETWORK)
    data = load_dataset("fashion_mnist")
    means = torch.stack([data.x[data.y == label].mean(0).flatten() for label in range(10)])
    save_file({"1.weight": means, "1.bias": -means.square().sum(1) / 2}, folder / "net.safetensors")
    return (
        "--model",
        f"{folder / 'net.py'}:linear",
        "--weights",
        str(folder / "net.safetensors"),
        "--allow-code",
    )
