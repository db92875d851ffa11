"""``rbl attack``: craft adversarial examples with one attack, and save them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli import tables
from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.cli.saving import PATCH, Saved, median_distance
from robustbench_lite.errors import UsageError


def attack(
    ctx: typer.Context,
    attack: Annotated[list[str] | None, opt.OneAttack] = None,
    defense: Annotated[list[str] | None, opt.OneDefense] = None,
    norm: Annotated[str, opt.NormName] = "linf",
    eps: Annotated[str | None, opt.Eps] = None,
    targeted: Annotated[str | None, opt.Goal] = None,
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
    save: Annotated[Path, opt.Save] = Path("rbl-adversarials"),
    examples: Annotated[int, opt.Examples] = 8,
    output: Annotated[Path, opt.Output] = Path("rbl-results"),
    format_name: Annotated[str, opt.TableOrJson] = "table",
    config: Annotated[Path | None, opt.Config] = None,
    verbose: Annotated[bool, opt.Verbose] = False,
    quiet: Annotated[bool, opt.Quiet] = False,
) -> None:
    """Craft adversarial examples and save them, with a sheet of pictures. `rbl verify` checks what
    was saved.

    Interrupted, the same command continues where it was. What an earlier run left in --save is
    replaced.
    """
    tables.check_format(format_name, ("table", "json"))
    attacks = _require_one("attack", attack or ["pgd"])
    defenses = None if defense is None else _require_one("defense", defense or ["none"])
    if examples < 0:
        raise UsageError(f"--examples is {examples}; it must be at least 0.")
    with progress_bar(quiet) as on_progress:
        from robustbench_lite.cli import arguments
        from robustbench_lite.cli.crossing import Crossing
        from robustbench_lite.cli.saving import run_and_save
        from robustbench_lite.evaluation.plan import foresee
        from robustbench_lite.evaluation.settings import Settings

        settings = Settings(
            seed=seed,
            query_budget=query_budget,
            batch_size=arguments.batch_size(batch_size),
            device=device,
            output=output,
            fresh=fresh,
            keep_adversarials=True,
            outputs=arguments.outputs(outputs),
            on_progress=on_progress,
        )
        crossing = Crossing(
            attacks=attacks,
            defenses=defenses,
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
        plan = crossing.plan(settings, _ignore)
        saved = None if dry_run else run_and_save(plan, settings, save, examples)
    if saved is None:
        print(tables.foreseen(foresee(plan, settings), format_name))
        return
    how = {
        "--model": model,
        "--weights": weights,
        "--outputs": None if outputs == "logits" else outputs,
        # A path that only the record has is not opened.
        "--dataset": dataset if dataset.startswith(("npz:", "folder:")) else None,
        "--data-dir": data_dir,
    }
    verify = _verify_command(saved.adversarials, how, allow_code)
    print(_json(saved, verify) if format_name == "json" else _table(saved, verify))


def _require_one(kind: str, given: list[str]) -> list[str]:
    """Refuse several attacks or defenses, or all of them."""
    if len(given) > 1 or given[0] == "all":
        raise UsageError(
            f"`rbl attack` takes one {kind}, not {' and '.join(given)}: `rbl evaluate` crosses "
            "several."
        )
    return given


def _ignore(note: str) -> None:
    """Say nothing: of a list of one, nothing is left out."""


def _verify_command(path: Path, how: Mapping[str, object], allow_code: bool) -> str:
    """Write the command that checks the adversarials at ``path``."""
    words = ["rbl", "verify", str(path)]
    for flag, value in how.items():
        words += [flag, str(value)] if value is not None else []
    return shlex.join([*words, "--allow-code"] if allow_code else words)


def _json(saved: Saved, verify: str) -> str:
    """Write the cell as in `rbl evaluate`, and what was saved."""
    files: dict[str, object] = {
        "adversarials": str(saved.adversarials),
        "examples": saved.examples and str(saved.examples),
        "broken": len(saved.crafted),
        "median_distance": median_distance(saved.crafted),
        "verify": verify,
    }
    if saved.success is not None:
        files |= {"patch": str(saved.patch), "success": saved.success._asdict()}
    return json.dumps(saved.report.to_dict() | {"saved": files}, indent=1, allow_nan=False)


def _table(saved: Saved, verify: str) -> str:
    """Write the cell as a table, and below it what was saved."""
    from tabulate import tabulate

    (cell,) = saved.report.cells
    broken = f"{len(saved.crafted):,}"
    median = median_distance(saved.crafted)
    row = {
        "model": cell.model,
        "defense": cell.defense,
        "attack": cell.attack,
        "threat": tables.threat(cell),
        "n": f"{cell.n:,}",
        "right\nbefore": f"{int(cell.clean_correct.sum()):,}",
        "broken": broken,
        "median distance\nof the broken": "-" if median is None else f"{median:.4g}",
    }
    table = tabulate([row], headers="keys", disable_numparse=True, colglobalalign="left")
    lines = [table, "", *tables.notes(saved.report)]
    if saved.success is not None:
        mean, anywhere, draws = saved.success
        lines.append(
            f"Success: {mean:.1%} at one placement (mean), {anywhere:.1%} at any of {draws}"
        )
        lines.append(f"Patch: {saved.patch}, as an array in {PATCH}")
    lines.append(f"Adversarials: {saved.adversarials}")
    if saved.examples is not None:
        lines.append(f"Examples: {saved.examples} ({saved.shown} of {broken})")
    return "\n".join([*lines, f"Record: {cell.path}", f"Check them: {verify}"])
