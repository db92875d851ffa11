"""Whole suites of others beside ours: what they leave, and what it took."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from harness import Counter
from peer_reference import NAMES
from torch import nn

from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel


class Trial(NamedTuple):
    """A network, and what is asked of it."""

    label: str
    model: nn.Module
    data: Dataset
    eps: str


class Found(NamedTuple):
    """What an attacker has left, and what it took."""

    robust: np.ndarray
    """(N,) bool."""
    cost: float
    """Forward passes a sample that was attacked, a backward pass being two."""
    seconds: float
    """Of CPU time."""


def autoattack(trial: Trial, clean: np.ndarray, options: argparse.Namespace) -> Found:
    """Run the authors' AutoAttack on the samples that are classified correctly."""
    from autoattack import AutoAttack

    counted = Counter(trial.model.eval())
    eps = ThreatModel.parse(options.norm, trial.eps).radius
    attack = AutoAttack(
        counted, norm=NAMES[options.norm], eps=eps, version="standard", device="cpu", verbose=False
    )
    attack.seed = options.seed
    x = trial.data.x[torch.from_numpy(clean)]
    y = trial.data.y[torch.from_numpy(clean)]
    started = time.process_time()
    x_adv = attack.run_standard_evaluation(x, y, bs=options.batch_size)
    seconds = time.process_time() - started
    with torch.no_grad():
        held = (trial.model(x_adv).argmax(1) == y).numpy()
    robust = np.zeros(len(clean), dtype=np.bool_)
    robust[clean] = held
    return Found(robust, (counted.rows + 2 * counted.back) / max(1, len(y)), seconds)


PEERS: dict[str, Callable[[Trial, np.ndarray, argparse.Namespace], Found]] = {
    "autoattack": autoattack
}


def recall(peer: str, trial: Trial, clean: np.ndarray, options: argparse.Namespace) -> Found:
    """Run a peer, or read what it came to."""
    if options.keep is None:
        return PEERS[peer](trial, clean, options)
    eps = trial.eps.replace("/", "_")
    name = f"{peer}-{trial.label}-{options.norm}-{eps}-{len(clean)}-{options.seed}.npz"
    path = options.keep / name
    if path.exists():
        with np.load(path) as kept:
            return Found(kept["robust"], float(kept["cost"]), float(kept["seconds"]))
    found = PEERS[peer](trial, clean, options)
    options.keep.mkdir(parents=True, exist_ok=True)
    np.savez(path, **found._asdict())
    return found
