"""Many commands at once in one folder: none fails, none takes over half of what another writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite.records.cell import read_record
from robustbench_lite.registry import Trust
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import trained_model
from tests.end_to_end.conftest import Rbl

NETWORK = """
from torch import nn


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
#: Runs its commands one after the other, each as soon as all the other processes are at the same
#: one.
WORKER = """
import json
import sys
import time
from pathlib import Path

from robustbench_lite.evaluation import api
from robustbench_lite.training import card
from robustbench_lite.training import trainer  # noqa: F401 -- what takes long comes first
from robustbench_lite.cli import main
from robustbench_lite.cli import arguments  # noqa: F401

number, of, commands = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
for step, command in enumerate(commands):
    Path(f"ready-{step}-{number}").touch()
    while len(list(Path().glob(f"ready-{step}-*"))) < of:
        time.sleep(0.01)
    code = main(command)
    if code:
        print(f"exit {code}:", *command, file=sys.stderr)
"""
TRAIN = [
    "train",
    "--model",
    "nets.py:linear",
    "--allow-code",
    "--dataset",
    "npz:few.npz",
    "--epochs",
    "3",
    "--batch-size",
    "16",
]
EVALUATE = ["evaluate", "-a", "pgd steps=5", "-a", "fgsm", "--batch-size", "8", "--limit", "24"]


def _commands() -> list[list[list[str]]]:
    """Half of eight trainings and of eight evaluations do the same thing; some start over what
    others are at.
    """
    trainings = [
        [
            [*TRAIN, "-a", "fgsm", "-q", "--name", "same" if i < 4 else f"own-{i}"],
            [*TRAIN, "-a", "fgsm", "-q", "--name", "same", *(["--fresh"] if i % 3 == 0 else [])],
        ]
        for i in range(8)
    ]
    evaluations = [
        [
            [
                *EVALUATE,
                "-q",
                *(["--seed", str(i)] if i > 3 else []),
                *(["--keep-adversarials"] if i % 2 else []),
            ],
            [
                *EVALUATE,
                "-q",
                *(["--certify", "ibp"] if i % 2 else []),
                *(["--fresh"] if i % 3 == 0 else []),
            ],
        ]
        for i in range(8)
    ]
    return trainings + evaluations


@pytest.mark.slow
def test_eight_trainings_and_eight_evaluations_in_one_folder_all_succeed(
    rbl: Rbl, tmp_path: Path
) -> None:
    train, test = (
        load_dataset("fashion_mnist", split="train", limit=65),
        load_dataset("fashion_mnist", limit=24),
    )
    np.savez(
        "few.npz",
        x_train=train.x.numpy(),
        y_train=train.y.numpy(),
        x_test=test.x.numpy(),
        y_test=test.y.numpy(),
    )
    Path("nets.py").write_text(NETWORK, encoding="utf-8")
    commands = _commands()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number), str(len(commands)), json.dumps(mine)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        for number, mine in enumerate(commands)
    ]
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert said == [""] * len(commands)
    assert [process.returncode for process in processes] == [0] * len(commands)
    assert not list(tmp_path.rglob(".*"))  # nothing that was being written is left
    weights = sorted(Path("rbl-models").glob("*.safetensors"))
    assert [path.stem for path in weights] == [*(f"own-{i}" for i in range(4, 8)), "same"]
    assert len({trained_model(path, Trust.ANY).card.weights_sha256 for path in weights}) == 1  # type: ignore[union-attr]
    records = [read_record(path)[0] for path in Path("rbl-results/cells").glob("*.json")]
    assert len(records) == 2 * 5 + 2  # two attacks, five seeds, and once more with a certificate
    again = json.loads(rbl(*EVALUATE, "--format", "json").out)["cells"]
    assert all(cell["cached"] for cell in again)
