"""``rbl train``: train a network with a defense, and write its weights with a card.

The card says how they came about.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli import options as opt

if TYPE_CHECKING:
    from robustbench_lite.sources.card import Card

_CARD_EPS = "0.1"
"""Radius of the card's accuracy for images that no usual one is known for."""
_UNRECORDED = {"device", "output", "fresh", "verbose", "quiet", "download"}
"""Options that change no weight: they stay out of the command that the card records."""


def train(
    ctx: typer.Context,
    defense: Annotated[str, opt.TrainedDefense] = "none",
    dataset: Annotated[str, opt.DataName] = "fashion_mnist",
    network: Annotated[str, opt.Network] = "convolutional",
    model: Annotated[str | None, opt.Factory] = None,
    allow_code: Annotated[bool, opt.FactoryCode] = False,
    epochs: Annotated[int, opt.Epochs] = 15,
    batch_size: Annotated[int, opt.BatchOfStep] = 128,
    learning_rate: Annotated[float, opt.LearningRate] = 2e-3,
    seed: Annotated[int, opt.Seed] = 0,
    attack: Annotated[str, opt.CardAttack] = "pgd steps=40",
    norm: Annotated[str, opt.NormName] = "linf",
    eps: Annotated[str | None, opt.Eps] = None,
    limit: Annotated[int | None, opt.TrainLimit] = None,
    name: Annotated[str | None, opt.NetworkName] = None,
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    device: Annotated[str, opt.Device] = "auto",
    output: Annotated[Path, opt.Models] = Path("rbl-models"),
    fresh: Annotated[bool, opt.StartOver] = False,
    verbose: Annotated[bool, opt.Verbose] = False,
    quiet: Annotated[bool, opt.Quiet] = False,
) -> None:
    """Train a network. Killed at any moment, the same command continues where it was."""
    from robustbench_lite import registry
    from robustbench_lite.cli import arguments, training
    from robustbench_lite.evaluation.devices import pick_device
    from robustbench_lite.sources import models
    from robustbench_lite.threat import ThreatModel
    from robustbench_lite.training.trainer import Recipe

    trust = registry.Trust.ANY if allow_code else registry.Trust.INSTALLED
    recipe = Recipe(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    acting = training.defense_from(defense, trust)
    judge = registry.create("attack", attack, trust)
    threat = ThreatModel.parse(norm, arguments.radius(eps, norm, dataset, _CARD_EPS))
    where = pick_device(device)
    examiner = training.Examiner(attack=judge, threat=threat)
    examiner.require_radius()
    images = arguments.ImageSource(
        dataset=dataset, limit=limit, data_dir=data_dir, download=download
    )
    splits = training.load_splits(images)
    spec = models.network_spec(
        registry.Spec.parse(network if model is None else model), splits.train
    )
    module = training.initialise(spec, trust, seed, where)
    course = training.Course(
        name=training.name_of(name, dataset, acting, spec),
        network=spec,
        module=module,
        defense=acting,
        splits=splits,
        recipe=recipe,
    )
    checkpoint = output / f"{course.name}.checkpoint.pt"
    if fresh:
        checkpoint.unlink(missing_ok=True)
    curve = course.train(checkpoint, where, quiet)
    with training.naming_weights(models.save_uncarded(module, course.name, output)):
        card = course.examine(examiner, curve, _command(ctx), quiet)
    path = models.save_trained(module, card, output)
    if not quiet:
        _print_table(card, path)


def _command(ctx: typer.Context) -> str:
    """Write the command as typed, but with a neutral data folder and no option of _UNRECORDED."""
    words = ["rbl", "train"]
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        value = ctx.params.get(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in _UNRECORDED:
            continue
        flag = max(option.opts, key=len)
        words.append(flag)
        if value is not True:
            words.append("data" if option.name == "data_dir" else str(value))
    return shlex.join(words)


def _print_table(card: Card, path: Path) -> None:
    """Print what the card says of the network, and where its weights are."""
    from tabulate import tabulate

    rows = [
        ["network", card.network],
        ["defense", card.defense],
        [f"clean accuracy (n = {card.n_test:,})", f"{card.clean_accuracy:.2%}"],
        [f"under {card.attack}, {card.norm} {card.eps:g}", f"{card.robust_accuracy:.2%}"],
        ["weights", str(path)],
        *([["note", card.note]] if card.note else []),
    ]
    print(tabulate(rows, tablefmt="plain"))
