"""The card of a trained network: how it came about, and how accurate it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from robustbench_lite.defense.protocol import Defense
from robustbench_lite.evaluation.claim import OFF
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.devices import device_of
from robustbench_lite.progress import Progress
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.card import Card
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import NOTES
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.threat import ThreatModel
from robustbench_lite.training.trainer import Recipe, describe


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network came about."""

    defense: Defense
    recipe: Recipe
    data: Dataset
    """The images that it was trained on."""
    curve: list[dict[str, float]]
    """What ``train`` has given back."""
    about: dict[str, Any]
    """What only the caller knows: name, network, network_params, command."""


def make_card(
    model: nn.Module,
    training: Training,
    *,
    attack: Attack,
    threat: ThreatModel,
    test: Dataset,
    on_progress: Callable[[Progress], None] | None = None,
) -> Card:
    """Evaluate a trained network on ``test``, as ``rbl evaluate`` would, and make its card."""
    defense = training.defense
    recipe = training.recipe
    data = training.data
    subject = Subject(
        training.about["name"], model.eval(), defense, short_label("defense", defense)
    )
    settings = Settings(
        seed=recipe.seed, device=str(device_of(model)), on_progress=on_progress, certify=OFF
    )
    plan = Plan(subjects=[subject], attacks=[attack], data=test, threat=threat, fit_data=data)
    cell = run(plan, settings).cells[0]
    return Card(
        dataset=data.name,
        split=f"{data.split}[:{len(data)}]" if data.partial else data.split,
        data_fingerprint=data.fingerprint,
        defense=describe(defense),
        defense_version=defense.version,
        weights_sha256=weights_hash(model),
        clean_accuracy=cell.clean_accuracy,
        robust_accuracy=cell.robust_accuracy,
        attack=short_label("attack", attack),
        norm=threat.norm.name,
        eps=threat.radius,
        n_test=len(test),
        test_fingerprint=test.fingerprint,
        curve=training.curve,
        torch_version=torch.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=NOTES.get(data.name, ""),
        **asdict(recipe),
        **training.about,
    )
