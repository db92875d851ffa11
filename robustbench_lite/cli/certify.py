"""``rbl certify``: prove for which samples no perturbation changes the class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli import tables
from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.errors import UsageError

if TYPE_CHECKING:
    from robustbench_lite.evaluation.certified import Proved


def certify(
    ctx: typer.Context,
    defense: Annotated[list[str] | None, opt.Defense] = None,
    norm: Annotated[str, opt.NormName] = "linf",
    eps: Annotated[str | None, opt.Eps] = None,
    method: Annotated[str, opt.Method] = "auto",
    no_box: Annotated[bool, opt.NoBox] = False,
    model: Annotated[str | None, opt.Model] = None,
    weights: Annotated[Path | None, opt.Weights] = None,
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.AllowCode] = False,
    dataset: Annotated[str, opt.DataName] = "fashion_mnist",
    data_dir: Annotated[Path | None, opt.DataDir] = None,
    download: Annotated[bool, opt.Download] = False,
    split: Annotated[str, opt.Split] = "test",
    limit: Annotated[int | None, opt.Limit] = None,
    device: Annotated[str, opt.Device] = "auto",
    fresh: Annotated[bool, opt.Fresh] = False,
    output: Annotated[Path, opt.Output] = Path("rbl-results"),
    format_name: Annotated[str, opt.TableOrJson] = "table",
    config: Annotated[Path | None, opt.Config] = None,
    verbose: Annotated[bool, opt.Verbose] = False,
    quiet: Annotated[bool, opt.Quiet] = False,
) -> None:
    """Prove which samples no perturbation can break. Interrupted, the same command continues where
    it was.

    Without --model it takes the bundled network that was trained with the defense, and the bundled
    images.
    """
    tables.check_format(format_name, ("table", "json"))
    left_out: list[str] = []
    with progress_bar(quiet) as on_progress:
        from robustbench_lite.bounds.certifier import BoundCertifier
        from robustbench_lite.cli import arguments
        from robustbench_lite.evaluation.certified import certify_all
        from robustbench_lite.threat import ThreatModel

        eps = arguments.radius(eps, norm, dataset)
        threat = ThreatModel.parse(norm, eps)
        if threat.eps is None:
            raise UsageError(
                "A certificate is for a ball and needs its radius: give --eps, for example "
                "--eps 0.1."
            )
        certifier = BoundCertifier(method=method, box=not no_box)
        images = arguments.ImageSource(
            dataset=dataset, split=split, limit=limit, data_dir=data_dir, download=download
        )
        data = images.load()
        network = arguments.network_from(model, weights, opt.trust(ctx, "model", allow_code))
        subjects = arguments.subjects(
            defense, data, network, left_out.append, opt.trust(ctx, "defense", allow_code)
        )
        found = certify_all(
            subjects,
            data,
            threat,
            certifier,
            output=output,
            device=device,
            fresh=fresh,
            on_progress=on_progress,
        )
    for line in [] if quiet else left_out:
        typer.echo(line, err=True)
    rows = [_row(one, subject.label) for one, subject in zip(found, subjects, strict=True)]
    as_json = format_name == "json"
    print(json.dumps({"certificates": rows}, indent=1) if as_json else _table(rows))


def _row(one: Proved, label: str) -> dict[str, Any]:
    """Write what JSON says of one certificate."""
    record = one.record
    if record is None:
        raise ValueError("A certificate without a limit of time is always finished.")
    identity = record.identity
    stages = [stage for stage in one.arrays.stage if stage]
    return {
        "model": identity.model.name,
        "defense": label,
        "method": identity.certifier.name,
        "box": identity.certifier.parameters.get("box"),
        "dataset": identity.data.name,
        "split": identity.data.split,
        "norm": identity.threat.norm,
        "eps": identity.threat.eps,
        **record.summary.model_dump(mode="json"),
        "stages": {stage: stages.count(stage) for stage in sorted(set(stages))},
        "seconds": one.seconds,
        "cached": one.cached,
        "note": one.note,
        "partial": record.provenance.partial,
        "key": record.key,
        "digest": record.digest,
        "record": str(one.path) if one.path else None,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    """Write the certificates as a table, and below it what a reader must know besides."""
    from tabulate import tabulate

    from robustbench_lite.records.statistics import WilsonInterval

    shown = [
        {
            "model": row["model"],
            "defense": row["defense"],
            "threat": f"{row['norm']} {row['eps']:g}{'' if row['box'] else ', no box'}",
            "method": row["method"],
            "n": f"{row['n']:,}",
            "clean\naccuracy": f"{row['clean_accuracy']:.1%}",
            "certified accuracy\n[95 % interval]": tables.share(
                row["certified_accuracy"], WilsonInterval(*row["certified_interval"])
            ),
            "margins by": ", ".join(f"{name} {count:,}" for name, count in row["stages"].items()),
            "time": tables.duration(row["seconds"]),
        }
        for row in rows
    ]
    lines = [tabulate(shown, headers="keys", disable_numparse=True, colglobalalign="left"), ""]
    partial = [row for row in rows if row["partial"]]
    lines += sorted(
        {f"Partial: the first {row['n']:,} samples of {row['dataset']} only." for row in partial}
    )
    said = [row["note"] for row in rows if row["note"]]
    lines += sorted({f"{note[0].upper()}{note[1:]}." for note in said})
    if any(row["cached"] for row in rows):
        lines.append("Read from an earlier run's certificate; --fresh certifies again.")
    return "\n".join([*lines, *(f"Certificate: {row['record']}" for row in rows)])
