"""``rbl evaluate``: cross attacks with defenses, measure, and print one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli import tables
from robustbench_lite.cli.progress import progress_bar

if TYPE_CHECKING:
    from robustbench_lite.evaluation.report import Report

_A_CELL_FAILED = 3


def evaluate(
    ctx: typer.Context,
    attack: Annotated[list[str] | None, opt.Attack] = None,
    defense: Annotated[list[str] | None, opt.Defense] = None,
    norm: Annotated[str, opt.NormName] = "linf",
    eps: Annotated[str | None, opt.Eps] = None,
    targeted: Annotated[str | None, opt.Goal] = None,
    plain: Annotated[bool, opt.Plain] = False,
    certify: Annotated[str, opt.Certify] = "own",
    certify_seconds: Annotated[float, opt.CertifySeconds] = 300.0,
    model: Annotated[str | None, opt.Model] = None,
    weights: Annotated[Path | None, opt.Weights] = None,
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.AllowCode] = False,
    outputs: Annotated[str, opt.Outputs] = "logits",
    dataset: Annotated[str, opt.DataName] = "fashion_mnist",
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    split: Annotated[str, opt.Split] = "test",
    limit: Annotated[int | None, opt.Limit] = None,
    seed: Annotated[int, opt.Seed] = 0,
    batch_size: Annotated[str, opt.BatchSize] = "auto",
    device: Annotated[str, opt.Device] = "auto",
    query_budget: Annotated[int | None, opt.Budget] = None,
    fresh: Annotated[bool, opt.Fresh] = False,
    dry_run: Annotated[bool, opt.DryRun] = False,
    output: Annotated[Path, opt.Output] = Path("rbl-results"),
    format_name: Annotated[str, opt.Format] = "table",
    keep_adversarials: Annotated[bool, opt.Keep] = False,
    config: Annotated[Path | None, opt.Config] = None,
    verbose: Annotated[bool, opt.Verbose] = False,
    quiet: Annotated[bool, opt.Quiet] = False,
) -> None:
    """Attack networks and print how many samples stay right. Interrupted, the same command
    continues where it was.

    Without --model it attacks the bundled network that was trained with the defense, on the bundled
    images.
    """
    tables.check_format(format_name)
    left_out: list[str] = []
    with progress_bar(quiet) as on_progress:
        from robustbench_lite.cli import arguments
        from robustbench_lite.cli.crossing import Crossing
        from robustbench_lite.evaluation.plan import foresee
        from robustbench_lite.evaluation.run import run
        from robustbench_lite.evaluation.settings import Settings

        settings = Settings(
            seed=seed,
            query_budget=query_budget,
            batch_size=arguments.batch_size(batch_size),
            device=device,
            output=output,
            fresh=fresh,
            keep_adversarials=keep_adversarials,
            outputs=arguments.outputs(outputs),
            on_error="record",
            on_progress=on_progress,
            plain=plain,
            certify=certify,
            certify_seconds=certify_seconds,
        )
        crossing = Crossing(
            attacks=attack or ["pgd"],
            defenses=defense,
            norm=norm,
            eps=eps,
            targeted=targeted,
            model=model,
            weights=weights,
            images=arguments.ImageSource(
                dataset=dataset, split=split, limit=limit, data_dir=data_dir, download=download
            ),
            trust=lambda option: opt.trust(ctx, option, allow_code),
        )
        plan = crossing.plan(settings, left_out.append)
        report = None if dry_run else run(plan, settings)
    if not quiet:
        _say(left_out)
    if report is None:
        print(tables.foreseen(foresee(plan, settings), format_name))
    else:
        _print_report(report, format_name, quiet)


def _print_report(report: Report, format_name: str, quiet: bool) -> None:
    """Print the table with what belongs to it; for other formats stdout holds nothing else."""
    print(tables.render(report, format_name))
    remarks = [] if format_name == "md" else tables.notes(report)
    written = tables.say_where(report)
    if written:
        remarks.append(written)
    if format_name == "table":
        print("\n" + "\n".join(remarks))
    elif not quiet:
        _say(remarks)
    _say([f"Error in {cell.defense} x {cell.attack}: {cell.error}" for cell in report.failed])
    if report.failed:
        raise typer.Exit(_A_CELL_FAILED)


def _say(lines: list[str]) -> None:
    for line in lines:
        typer.echo(line, err=True)
