"""``rbl train``: train a network with a defense, and write its weights with a card that says how
they came about.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.errors import CellError, DataError, RobustBenchError, UsageError, told

if TYPE_CHECKING:
    from robustbench_lite.sources.card import Card
    from robustbench_lite.training.trainer import Progress, Recipe

#: Options that change no weight: they stay out of the command that the card records.
_NAME_LENGTH = 100
_UNRECORDED = {"device", "output", "fresh", "verbose", "quiet", "download"}


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
    from robustbench_lite.cli.arguments import radius
    from robustbench_lite.evaluation.devices import pick_device
    from robustbench_lite.evaluation.inputs import check_fit
    from robustbench_lite.evaluation.modes import require_separate_rows
    from robustbench_lite.sources import model_zoo, models
    from robustbench_lite.sources.load_data import data_root, load_dataset
    from robustbench_lite.threat import ThreatModel
    from robustbench_lite.training import trainer
    from robustbench_lite.training.card import Training, make_card

    trust = registry.Trust.ANY if allow_code else registry.Trust.INSTALLED
    recipe = trainer.Recipe(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    if len(registry.split("defense", defense)) > 1:
        raise UsageError(
            f"A network is trained with one defense, not with {defense!r}: train with the part "
            "that acts in training, and "
            "compose when you evaluate."
        )
    chosen = registry.create("defense", defense, trust)
    judge = registry.create("attack", attack, trust)
    threat = ThreatModel.parse(norm, radius(eps, norm, dataset))
    where = pick_device(device)
    check_fit(judge, threat)
    if threat.eps is None:
        raise UsageError(
            "The card states the accuracy at one radius: give --eps, for example --eps 0.1."
        )
    root = data_root(data_dir)
    data = load_dataset(dataset, split="train", limit=limit, data_dir=root, download=download)
    test = load_dataset(dataset, split="test", data_dir=root, download=download)
    if data.split == test.split:
        raise DataError(
            f"{dataset} has no test split: give x_train, y_train, x_test and y_test, or two "
            "folders."
        )
    if data.x.shape[1:] != test.x.shape[1:]:
        raise DataError(
            f"{dataset} has images of {tuple(data.x.shape[1:])} to train on, and "
            f"{tuple(test.x.shape[1:])} to test on."
        )
    spec = models.network_spec(registry.Spec.parse(network if model is None else model), data)
    module = trainer.initialise(lambda: models.build(spec, trust), seed, where)
    require_separate_rows(module)  # no weights that come out of its training could be examined
    if name is None:
        name = model_zoo.network_name(
            Path(dataset.partition(":")[2] or dataset).stem, chosen.name, spec.name
        )
    _require_name(name)
    checkpoint = output / f"{name}.checkpoint.pt"
    if fresh:
        checkpoint.unlink(missing_ok=True)
    with _progress_bar(name, recipe, quiet) as on_progress:
        curve = trainer.train(
            module,
            chosen,
            data,
            recipe,
            checkpoint=checkpoint,
            device=where,
            on_progress=on_progress,
        )
    about = {
        "name": name,
        "network": spec.name,
        "network_params": dict(spec.params),
        "command": _command(ctx),
    }
    with _kept(models.save_uncarded(module, name, output)), progress_bar(quiet) as on_test:
        training = Training(defense=chosen, recipe=recipe, data=data, curve=curve, about=about)
        card = make_card(
            module, training, attack=judge, threat=threat, test=test, on_progress=on_test
        )
    path = models.save_trained(module, card, output)
    if not quiet:
        _print_table(card, path)


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
            "characters, no slash, no line end, "
            "no space around it and no dot before it."
        )


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Whatever ends the examination, its message says that the weights, at ``path``, are there."""
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


def _command(ctx: typer.Context) -> str:
    """The command as typed, with a neutral data folder and without what changes no weight."""
    words = ["rbl", "train"]
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        value = ctx.params.get(option.name or "")
        if source is None or source.name != "COMMANDLINE" or option.name in _UNRECORDED:
            continue
        flag = max(option.opts, key=len)
        words += (
            [flag] if value is True else [flag, "data" if option.name == "data_dir" else str(value)]
        )
    return shlex.join(words)


@contextmanager
def _progress_bar(name: str, recipe: Recipe, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr, with the loss and the time that is left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    ]
    with Bar(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(name, total=None)

        def show(progress: Progress) -> None:
            steps = progress.steps_per_epoch
            done = progress.epoch * steps + progress.step
            text = f"{name}  epoch {progress.epoch + 1}/{recipe.epochs}  loss {progress.loss:.3f}"
            bar.update(task, description=text, total=recipe.epochs * steps, completed=done)

        yield show


def _print_table(card: Card, path: Path) -> None:
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
