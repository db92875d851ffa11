"""The options that several commands share, as typer takes them. Imports neither torch nor numpy."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from robustbench_lite.cli.config import read_config
from robustbench_lite.registry import Trust
from robustbench_lite.sources.model_zoo import ENVIRONMENT


def _option(
    panel: str,
    *flags: str,
    text: str,
    metavar: str = "",
    parser: Callable[[str], Any] | None = None,
) -> Any:
    """Make an option that stands under the heading ``panel`` of the help."""
    return typer.Option(*flags, help=text, metavar=metavar, rich_help_panel=panel, parser=parser)


def _folder(text: str | Path) -> Path:
    """Read the path of a folder that is written to."""
    # An empty one would be the folder that the user stands in.
    if not str(text).strip() or "\0" in str(text):
        raise typer.BadParameter(f"{str(text)!r} is no folder: write the path of one")
    return Path(text)


def trust(ctx: typer.Context, option: str, allow_code: bool) -> Trust:
    """Say what the names in the value of ``option`` may lead to.

    That depends on where they stood: typed on the command line, or in the file of ``--config``.
    """
    if allow_code:
        return Trust.ANY
    source = ctx.get_parameter_source(option)
    typed = source is None or source.name == "COMMANDLINE"
    return Trust.INSTALLED if typed else Trust.REGISTERED


def trust_in_files(allow_code: bool) -> Trust:
    """Say what the names in boards, cards and records may lead to."""
    return Trust.ANY if allow_code else Trust.REGISTERED


def _add_networks(ctx: typer.Context, sources: str | None) -> str | None:
    """Hand the sources of networks on through the environment, so that workers have them too.

    The environment is as before when the command has ended.
    """
    if sources is not None:
        before = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = sources
        if before is None:
            ctx.call_on_close(lambda: os.environ.pop(ENVIRONMENT, None))
        else:
            ctx.call_on_close(lambda: os.environ.update({ENVIRONMENT: before}))
    return sources


def _hush(ctx: typer.Context, quiet: bool) -> bool:
    """Let nothing below an error be logged while the command runs."""
    if quiet:
        logger = logging.getLogger("robustbench_lite")
        before = logger.level
        logger.setLevel(logging.ERROR)
        ctx.call_on_close(lambda: logger.setLevel(before))
    return quiet


_WHAT = "What is crossed"
_THREAT = "Threat model"
_NET = "Your own network"
_DATA = "Data"
_RUN = "Run"
_OUT = "Output"
_ONE = "Attack and defense"
_TRAIN = "Training"
Attack = _option(
    _WHAT,
    "--attack",
    "-a",
    metavar="SPEC",
    text="'name key=value ...' or all; repeatable. Default: pgd.",
)
Defense = _option(
    _WHAT,
    "--defense",
    "-d",
    metavar="SPEC",
    text="'name key=value ...' or all; repeatable. Default: none.",
)
OneAttack = _option(
    _ONE, "--attack", "-a", metavar="SPEC", text="'name key=value ...'. Default: pgd."
)
TrainedDefense = _option(
    _ONE, "--defense", "-d", metavar="SPEC", text="Defense to train with: 'name key=value ...'."
)
CardAttack = _option(
    _ONE, "--attack", "-a", metavar="SPEC", text="Attack for the accuracy that the card states."
)
OneDefense = _option(
    _ONE, "--defense", "-d", metavar="SPEC", text="'name key=value ...'. Default: none."
)
NormName = _option(_THREAT, "--norm", metavar="NAME", text="linf, l2, l1 or l0.")
Eps = _option(
    _THREAT,
    "--eps",
    metavar="RADIUS",
    text="0.1 or 8/255; l0: pixels; or none. Default: linf 0.1, cifar10 8/255.",
)
Goal = _option(_THREAT, "--targeted", metavar="RULE", text="random, least_likely or class:K.")
Method = _option(
    _THREAT,
    "--method",
    metavar="NAME",
    text="ibp, crown-ibp, dual, crown, alpha, auto or lipschitz.",
)
NoBox = _option(
    _THREAT, "--no-box", text="The whole ball, without the image bounds, as in published tables."
)
Certify = _option(
    _THREAT,
    "--certify",
    metavar="NAME",
    text="own (the defense's certificate), off, or a method such as auto.",
)
CertifySeconds = _option(
    _THREAT, "--certify-seconds", metavar="S", text="Most time for one network's certificate."
)
Model = _option(
    _NET,
    "--model",
    metavar="SPEC",
    text="'package.module:factory key=value ...', file.py:factory or a NAME.",
)
Weights = _option(
    _NET,
    "--weights",
    metavar="FILE",
    text="Its weights; alone: a network of `rbl train`, with its card.",
)
AllowCode = _option(
    _NET,
    "--allow-code",
    text="Run code: of file.py, and of what a card, a record or --config names.",
)
CardCode = _option(_NET, "--allow-code", text="Run code that a card names.")
BoardCode = _option(_NET, "--allow-code", text="Run code that a board or a card names.")
Outputs = _option(
    _NET, "--outputs", metavar="KIND", text="What it returns: logits or probabilities."
)
Network = _option(
    _NET, "--network", metavar="NAME", text="Built-in network: convolutional or residual."
)
Factory = _option(
    _NET,
    "--model",
    metavar="SPEC",
    text="'package.module:factory key=value ...' or file.py:factory.",
)
FactoryCode = _option(_NET, "--allow-code", text="Run code: of file.py.")
NetworkName = _option(
    _NET, "--name", metavar="NAME", text="What it is called. Default: <data set>-<defense>."
)
Epochs = _option(_TRAIN, "--epochs", metavar="N", text="Passes over the training images.")
BatchOfStep = _option(_TRAIN, "--batch-size", metavar="N", text="Images a step.")
LearningRate = _option(
    _TRAIN, "--learning-rate", metavar="RATE", text="Peak learning rate of Adam."
)
TrainLimit = _option(_DATA, "--limit", metavar="N", text="Train on the first N images only.")
StartOver = _option(_RUN, "--fresh", text="Start over instead of continuing a checkpoint.")
SameData = _option(
    _DATA, "--dataset", metavar="NAME", text="The images that were attacked. Default: as recorded."
)
DataName = _option(
    _DATA,
    "--dataset",
    metavar="NAME",
    text="fashion_mnist, mnist, cifar10, npz:FILE or folder:DIR.",
)
DataDir = _option(_DATA, "--data-dir", metavar="DIR", text="Where torchvision keeps its files.")
Download = _option(_DATA, "--download", text="Let torchvision fetch what is missing.")
Split = _option(_DATA, "--split", metavar="NAME", text="test or train.")
Limit = _option(_DATA, "--limit", metavar="N", text="The first N samples only; marked partial.")
Seed = _option(_RUN, "--seed", metavar="N", text="All random numbers follow from it.")
BatchSize = _option(
    _RUN,
    "--batch-size",
    metavar="N",
    text="Images a model call, or auto; no verdict depends on it.",
)
Device = _option(_RUN, "--device", metavar="NAME", text="auto, cpu, cuda or mps.")
Budget = _option(
    _RUN, "--query-budget", metavar="N", text="Most model calls a sample, forward and backward."
)
Plain = _option(
    _WHAT, "--plain", text="Also attack as if the defense declared nothing, and flag the gap."
)
Fresh = _option(_RUN, "--fresh", text="Measure again what is recorded.")
DryRun = _option(_RUN, "--dry-run", text="Say what would be measured, and stop.")
Output = _option(
    _OUT, "--output", metavar="DIR", text="Folder for journal and records.", parser=_folder
)
Save = _option(
    _OUT,
    "--save",
    metavar="DIR",
    parser=_folder,
    text="Folder for adversarials.npz, examples.png and, if one is fitted, patch.png.",
)
Examples = _option(_OUT, "--examples", metavar="N", text="Most rows of examples.png.")
Format = _option(_OUT, "--format", metavar="NAME", text="table, json, csv or md.")
TableOrJson = _option(_OUT, "--format", metavar="NAME", text="table or json.")
Models = _option(
    _OUT, "--output", metavar="DIR", text="Folder for weights, card and checkpoint.", parser=_folder
)
Keep = _option(_OUT, "--keep-adversarials", text="Write the adversarial images too.")
Config = typer.Option(
    "--config",
    metavar="FILE",
    help="TOML with these names; the command line wins.",
    is_eager=True,
    callback=read_config,
)
Networks = typer.Option(
    "--networks",
    metavar="DIR|hf:REPO",
    help=(
        "More trained networks, by name: folders, Hugging Face repositories; with commas. "
        f"Default: ${ENVIRONMENT}."
    ),
    rich_help_panel=_NET,
    callback=_add_networks,
)
Verbose = typer.Option("--verbose", "-v", metavar="", help="Logs, warnings and tracebacks.")
Quiet = typer.Option("--quiet", "-q", metavar="", help="No progress bar, no notes.", callback=_hush)
