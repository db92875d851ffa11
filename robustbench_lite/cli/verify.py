"""``rbl verify``: replay saved adversarials against the model, and judge each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli import tables
from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.files.text import printable
from robustbench_lite.registry import Trust

if TYPE_CHECKING:
    from robustbench_lite.verification.examine import Verification

_ONE_DOES_NOT_HOLD = 1
_SHOWN = 20
"""Failures that the table names; JSON has them all."""
File = typer.Argument(
    metavar="FILE",
    show_default=False,
    help="Of `rbl attack` (.npz), or a record (.json) with its .npz.",
)


def verify(
    file: Annotated[Path, File],
    model: Annotated[str | None, opt.Model] = None,
    weights: Annotated[Path | None, opt.Weights] = None,
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.AllowCode] = False,
    outputs: Annotated[str, opt.Outputs] = "logits",
    dataset: Annotated[str | None, opt.SameData] = None,
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    batch_size: Annotated[str, opt.BatchSize] = "auto",
    device: Annotated[str, opt.Device] = "auto",
    format_name: Annotated[str, opt.TableOrJson] = "table",
    verbose: Annotated[bool, opt.Verbose] = False,
    quiet: Annotated[bool, opt.Quiet] = False,
) -> None:
    """Replay saved adversarials against the model and judge each; exit 1 if one does not hold.

    A bundled network is found by its name. Your own is named as for `rbl evaluate`; its weights
    must be those attacked.
    """
    tables.check_format(format_name, ("table", "json"))
    with progress_bar(quiet) as on_progress:
        from robustbench_lite.cli import arguments
        from robustbench_lite.verification import verify

        found = verify.verify(
            file,
            arguments.network_from(model, weights, Trust.ANY if allow_code else Trust.INSTALLED),
            dataset,
            data_dir=data_dir,
            download=download,
            allow_code=allow_code,
            batch_size=arguments.batch_size(batch_size),
            device=device,
            outputs=arguments.outputs(outputs),
            on_progress=on_progress,
        )
    print(_json(found) if format_name == "json" else printable(_table(found)))
    if found.failures:
        raise typer.Exit(_ONE_DOES_NOT_HOLD)


def _json(found: Verification) -> str:
    failures = [{"id": sample, "reasons": reasons} for sample, reasons in found.failures.items()]
    return json.dumps(
        {
            "cell_key": found.record.key,
            "n": found.n,
            "held": found.held,
            "failed": len(failures),
            "checks": [check._asdict() for check in found.checks],
            "failures": failures,
            "notes": found.notes,
        },
        indent=1,
    )


def _table(found: Verification) -> str:
    from tabulate import tabulate

    identity = found.record.identity
    parts = [
        f"{identity.attack.label()}\nagainst {identity.model.name} behind "
        f"{identity.defense.label()}"
    ]
    if found.checks:
        rows = [(check.name, check.held, check.failed, check.unchecked) for check in found.checks]
        parts.append(tabulate(rows, headers=["check", "held", "failed", "not checked"]))
    failures = [
        f"sample {sample}: {'; '.join(reasons)}" for sample, reasons in found.failures.items()
    ]
    if len(failures) > _SHOWN:
        failures[_SHOWN:] = [f"and {len(failures) - _SHOWN:,} more: --format json names them all"]
    parts += ["\n".join(failures)] if failures else []
    parts += ["\n".join(found.notes)] if found.notes else []
    return "\n\n".join([*parts, _conclusion(found)])


def _conclusion(found: Verification) -> str:
    if found.n == 0:
        return "The attack broke no sample: there is nothing to check."
    if not found.failures:
        return f"All {found.n:,} adversarials hold."
    return f"{len(found.failures):,} of {found.n:,} adversarials do not hold."
