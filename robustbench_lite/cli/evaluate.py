"""``rbl evaluate``: cross attacks with defenses, measure, and print one table."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_lite.cli import tables
from robustbench_lite.cli.config import read_config
from robustbench_lite.cli.progress import progress_bar

if TYPE_CHECKING:
    from robustbench_lite.cli.plan import PlannedCell
    from robustbench_lite.report import Report

_A_CELL_FAILED = 3


def _option(panel: str, *flags: str, text: str, metavar: str = "") -> Any:
    """An option under the heading ``panel`` of the help."""
    return typer.Option(*flags, help=text, metavar=metavar, rich_help_panel=panel)


_WHAT, _THREAT, _NET, _DATA, _RUN, _OUT = "What is crossed", "Threat model", "Your own network", "Data", "Run", "Output"
Attack = _option(_WHAT, "--attack", "-a", metavar="SPEC", text="'name key=value ...' or all; repeatable. Default: pgd.")
Defense = _option(_WHAT, "--defense", "-d", metavar="SPEC", text="'name key=value ...' or all; repeatable. Default: none.")
NormName = _option(_THREAT, "--norm", metavar="NAME", text="linf, l2, l1 or l0.")
Eps = _option(_THREAT, "--eps", metavar="RADIUS", text="0.1 or 8/255; l0: pixels; or none. Default: linf 0.1, cifar10 8/255.")
Goal = _option(_THREAT, "--targeted", metavar="RULE", text="random, least_likely or class:K.")
Model = _option(_NET, "--model", metavar="SPEC", text="'package.module:factory key=value ...' or file.py:factory.")
Weights = _option(_NET, "--weights", metavar="FILE", text="Its weights; alone: a network of `rbl train`, with its card.")
AllowCode = _option(_NET, "--allow-code", text="Let --model run the code of a file.")
Outputs = _option(_NET, "--outputs", metavar="KIND", text="What it returns: logits or probabilities.")
DataName = _option(_DATA, "--dataset", metavar="NAME", text="fashion_mnist, mnist, cifar10, npz:FILE or folder:DIR.")
DataDir = _option(_DATA, "--data-dir", metavar="DIR", text="Where torchvision keeps its files.")
Download = _option(_DATA, "--download", text="Let torchvision fetch what is missing.")
Split = _option(_DATA, "--split", metavar="NAME", text="test or train.")
Limit = _option(_DATA, "--limit", metavar="N", text="The first N samples only; marked partial.")
Seed = _option(_RUN, "--seed", metavar="N", text="All random numbers follow from it.")
BatchSize = _option(_RUN, "--batch-size", metavar="N", text="Images a model call, or auto; no verdict depends on it.")
Device = _option(_RUN, "--device", metavar="NAME", text="auto, cpu, cuda or mps.")
Budget = _option(_RUN, "--query-budget", metavar="N", text="Most model calls a sample, forward and backward.")
Fresh = _option(_RUN, "--fresh", text="Measure again what is recorded.")
DryRun = _option(_RUN, "--dry-run", text="Say what would be measured, and stop.")
Output = _option(_OUT, "--output", metavar="DIR", text="Folder for journal and records.")
Format = _option(_OUT, "--format", metavar="NAME", text="table, json, csv or md.")
Keep = _option(_OUT, "--keep-adversarials", text="Write the adversarial images too.")
Config = typer.Option(
    "--config", metavar="FILE", help="TOML with these names; the command line wins.", is_eager=True, callback=read_config
)
Verbose = typer.Option("--verbose", "-v", metavar="", help="Logs, warnings and tracebacks.")
Quiet = typer.Option("--quiet", "-q", metavar="", help="No progress bar, no notes.")


def evaluate(
    attack: Annotated[list[str] | None, Attack] = None,
    defense: Annotated[list[str] | None, Defense] = None,
    norm: Annotated[str, NormName] = "linf",
    eps: Annotated[str | None, Eps] = None,
    targeted: Annotated[str | None, Goal] = None,
    model: Annotated[str | None, Model] = None,
    weights: Annotated[Path | None, Weights] = None,
    allow_code: Annotated[bool, AllowCode] = False,
    outputs: Annotated[str, Outputs] = "logits",
    dataset: Annotated[str, DataName] = "fashion_mnist",
    data_dir: Annotated[Path | None, DataDir] = None,
    download: Annotated[bool, Download] = False,
    split: Annotated[str, Split] = "test",
    limit: Annotated[int | None, Limit] = None,
    seed: Annotated[int, Seed] = 0,
    batch_size: Annotated[str, BatchSize] = "auto",
    device: Annotated[str, Device] = "auto",
    query_budget: Annotated[int | None, Budget] = None,
    fresh: Annotated[bool, Fresh] = False,
    dry_run: Annotated[bool, DryRun] = False,
    output: Annotated[Path, Output] = Path("rbl-results"),
    format_name: Annotated[str, Format] = "table",
    keep_adversarials: Annotated[bool, Keep] = False,
    config: Annotated[Path | None, Config] = None,
    verbose: Annotated[bool, Verbose] = False,
    quiet: Annotated[bool, Quiet] = False,
) -> None:
    """Attack networks and print how many samples stay right. Interrupted, the same command continues where it was.

    Without --model it attacks the bundled network that was trained with the defense, on the bundled images.
    """
    tables.check_format(format_name)
    if quiet:
        logging.getLogger("robustbench_lite").setLevel(logging.ERROR)
    left_out: list[str] = []
    with progress_bar(quiet) as on_progress:
        from robustbench_lite import evaluation
        from robustbench_lite.cli import plan
        from robustbench_lite.sources.datasets import load_dataset
        from robustbench_lite.threat import ThreatModel

        settings = evaluation.Settings(
            seed=seed, query_budget=query_budget, batch_size=plan.batch_size(batch_size), device=device, output=output,
            fresh=fresh, keep_adversarials=keep_adversarials, outputs=plan.outputs(outputs),
            on_error="record", on_progress=on_progress,
        )  # fmt: skip
        eps = eps or plan.usual_eps(norm, dataset)
        threat = ThreatModel.parse(norm, eps, targeted)
        attacks = plan.attacks(attack or ["pgd"], threat, left_out.append)
        data = load_dataset(dataset, split=split, limit=limit, data_dir=data_dir, download=download)  # type: ignore[arg-type]
        network = plan.network_from(model, weights, allow_code)
        work = plan.Plan(plan.subjects(defense, data, network, left_out.append), data, attacks, threat, eps)
        if not dry_run:
            report = evaluation.run(*work[:4], settings, eps_written=work.eps_written)
    if not quiet:
        _say(left_out)
    if dry_run:
        _print_planned(plan.dry_run(work, settings), format_name)
    else:
        _print_report(report, format_name, quiet)


def _print_report(report: Report, format_name: str, quiet: bool) -> None:
    """The table on stdout with what belongs to it; for other formats stdout holds nothing else."""
    print(tables.render(report, format_name))
    remarks = [*tables.notes(report), *filter(None, [tables.written(report)])]
    if format_name == "table":
        print("\n" + "\n".join(remarks))
    elif not quiet:
        _say(remarks)
    _say([f"Error in {cell.defense} x {cell.attack}: {cell.error}" for cell in report.failed])
    if report.failed:
        raise typer.Exit(_A_CELL_FAILED)


def _print_planned(cells: list[PlannedCell], format_name: str) -> None:
    from tabulate import tabulate

    if format_name == "json":
        print(json.dumps({"cells": [cell._asdict() for cell in cells]}, indent=1))
    else:
        print(tabulate(cells, headers=["cell", "defense", "attack", "n", "state"]))


def _say(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line, err=True)
