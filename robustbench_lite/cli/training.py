"""What ``rbl train`` trains and examines, and what it refuses. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from robustbench_lite import registry
from robustbench_lite.cli.arguments import ImageSource
from robustbench_lite.cli.progress import progress_bar, training_bar
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import CellError, DataError, RobustBenchError, UsageError, told
from robustbench_lite.evaluation.inputs import check_fit
from robustbench_lite.evaluation.modes import require_separate_rows
from robustbench_lite.registry import Spec, Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources import models
from robustbench_lite.sources.card import Card
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import data_root
from robustbench_lite.sources.model_zoo import network_name
from robustbench_lite.threat import ThreatModel
from robustbench_lite.training import trainer
from robustbench_lite.training.card import Training, make_card

_NAME_LENGTH = 100


class Splits(NamedTuple):
    """The images that a network is trained on, and those that it is examined on."""

    train: Dataset
    test: Dataset


@dataclass(frozen=True, kw_only=True)
class Examiner:
    """The attack and the threat that a card states the robust accuracy for."""

    attack: Attack
    threat: ThreatModel

    def require_radius(self) -> None:
        """Refuse a threat without a radius, or one that the attack cannot work under."""
        check_fit(self.attack, self.threat)
        if self.threat.eps is None:
            raise UsageError(
                "The card states the accuracy at one radius: give --eps, for example --eps 0.1."
            )


@dataclass(frozen=True, kw_only=True)
class Course:
    """A network that is to be trained, with what it takes."""

    name: str
    network: Spec
    module: nn.Module
    defense: Defense
    splits: Splits
    recipe: trainer.Recipe

    def train(self, checkpoint: Path, device: torch.device, quiet: bool) -> list[dict[str, float]]:
        """Train the network, from ``checkpoint`` on where there is one; returns its curve."""
        with training_bar(self.name, self.recipe.epochs, quiet) as on_progress:
            return trainer.train(
                self.module,
                self.defense,
                self.splits.train,
                self.recipe,
                checkpoint=checkpoint,
                device=device,
                on_progress=on_progress,
            )

    def examine(
        self, examiner: Examiner, curve: list[dict[str, float]], command: str, quiet: bool
    ) -> Card:
        """Measure the trained network, and write its card."""
        about = {
            "name": self.name,
            "network": self.network.name,
            "network_params": dict(self.network.params),
            "command": command,
        }
        training = Training(
            defense=self.defense,
            recipe=self.recipe,
            data=self.splits.train,
            curve=curve,
            about=about,
        )
        with progress_bar(quiet) as on_progress:
            return make_card(
                self.module,
                training,
                attack=examiner.attack,
                threat=examiner.threat,
                test=self.splits.test,
                on_progress=on_progress,
            )


def initialise(network: Spec, trust: Trust, seed: int, device: torch.device) -> nn.Module:
    """Make a network with the first weights of ``seed``; refuse one whose rows see each other."""
    module = trainer.initialise(lambda: models.build(network, trust), seed, device)
    require_separate_rows(module)  # no weights that come out of its training could be examined
    return module


def defense_from(spec: str, trust: Trust) -> Defense:
    """Make the one defense that a network is trained with."""
    if len(registry.split("defense", spec)) > 1:
        raise UsageError(
            f"A network is trained with one defense, not with {spec!r}: train with the part "
            "that acts in training, and compose when you evaluate."
        )
    defense: Defense = registry.create("defense", spec, trust)
    return defense


def load_splits(images: ImageSource) -> Splits:
    """Read the images to train on, and those to test on."""
    images = replace(images, data_dir=data_root(images.data_dir))
    train = replace(images, split="train").load()
    test = replace(images, limit=None).load()
    if train.split == test.split:
        raise DataError(
            f"{images.dataset} has no test split: give x_train, y_train, x_test and y_test, or "
            "two folders."
        )
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{images.dataset} has images of {tuple(train.x.shape[1:])} to train on, and "
            f"{tuple(test.x.shape[1:])} to test on."
        )
    return Splits(train, test)


def name_of(name: str | None, dataset: str, defense: Defense, network: Spec) -> str:
    """Take the name that was given, or make the usual one: what a network's files are called."""
    if name is None:
        source = Path(dataset.partition(":")[2] or dataset).stem
        name = network_name(source, defense.name, network.name)
    _require_name(name)
    return name


def _require_name(name: str) -> None:
    """Refuse what cannot be the stem of two files, or would be a hidden one."""
    whole = (
        Path(name).name == name
        and name.strip() == name
        and name.isprintable()
        and not name.startswith(".")
    )
    if not whole or not 0 < len(name) <= _NAME_LENGTH:
        raise UsageError(
            f"--name is {name!r}; it names files in --output, so it has 1 to {_NAME_LENGTH} "
            "characters, no slash, no line end, no space around it and no dot before it."
        )


@contextmanager
def naming_weights(path: Path) -> Iterator[None]:
    """Let whatever ends the examination say, too, that the weights are at ``path``."""
    kept = (
        f"The training is done and its weights are in {path}: the same command goes on with the "
        "examination."
    )
    try:
        yield
    except RobustBenchError as error:
        error.args = (f"{error} {kept}",)
        raise
    except Exception as error:  # what it is, nobody can know; hours of training stand behind it
        raise CellError(f"The examination failed: {told(error)} {kept}") from error
