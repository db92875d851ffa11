"""``rbl attack``: craft adversarial examples with one attack, and save them where they can be
looked at and verified.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from robustbench_lite.cli import options as opt
from robustbench_lite.cli import tables
from robustbench_lite.cli.progress import progress_bar
from robustbench_lite.errors import UsageError

if TYPE_CHECKING:
    from robustbench_lite.evaluation.report import Cell, Report
    from robustbench_lite.search.attack import Attack
    from robustbench_lite.verification.examples import Adversarials


ADVERSARIALS = "adversarials.npz"
EXAMPLES = "examples.png"
PATCH = "patch.npz"
PATCH_PICTURE = "patch.png"


class Saved(NamedTuple):
    """What was written."""

    adversarials: Path
    examples: Path | None
    shown: int
    """Rows of the sheet."""
    verify: str
    """The command that checks it."""
    patch: Path | None = None
    """Of an attack that is fitted: the picture of its perturbation; the array is beside it."""
    success: Success | None = None


class Success(NamedTuple):
    """Of a universal perturbation, as shares of the images that were right before."""

    mean: float
    """At one draw of where and how it is applied: the first of each image."""
    any: float
    """At any of ``draws``."""
    draws: int


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
    chosen_attack = _one("attack", attack, "pgd")
    chosen_defense = None if defense is None else _one("defense", defense, "none")
    if examples < 0:
        raise UsageError(f"--examples is {examples}; it must be at least 0.")
    with progress_bar(quiet) as on_progress:
        from robustbench_lite.cli import arguments
        from robustbench_lite.evaluation.plan import Plan, foresee
        from robustbench_lite.evaluation.run import run
        from robustbench_lite.evaluation.settings import Settings
        from robustbench_lite.records.files import require_writable
        from robustbench_lite.sources.datasets import load_dataset
        from robustbench_lite.threat import ThreatModel
        from robustbench_lite.verification import replay

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
        eps = arguments.radius(eps, norm, dataset)
        threat = ThreatModel.parse(norm, eps, targeted)
        attacks = arguments.attacks(
            chosen_attack, threat, _unheard, opt.trust(ctx, "attack", allow_code)
        )
        data = load_dataset(dataset, split=split, limit=limit, data_dir=data_dir, download=download)  # type: ignore[arg-type]
        network = arguments.network_from(model, weights, opt.trust(ctx, "model", allow_code))
        subjects = arguments.subjects(
            chosen_defense, data, network, _unheard, opt.trust(ctx, "defense", allow_code)
        )
        work = Plan(subjects=subjects, attacks=attacks, data=data, threat=threat)
        work = arguments.fit_data(work, chosen_attack, dataset, data_dir, download, _unheard)
        work = arguments.calibrate(work, dataset, data_dir, download, settings)
        if not dry_run:
            require_writable(save, 2_000_000 + 2 * data.x.numel() * data.x.element_size(), "--save")
            report = run(work, settings)
            crafted = replay.gather(report.cells[0], work.subjects[0], data, threat, settings)
            shown = _write(crafted, save, examples, data.class_name)
            success = _write_perturbation(attacks[0], report.cells[0], save)
    if dry_run:
        print(tables.foreseen(foresee(work, settings), format_name))
        return
    told = None if outputs == "logits" else outputs
    own = (
        dataset if dataset.startswith(("npz:", "folder:")) else None
    )  # a path that only the record has is not opened
    how = {
        "--model": model,
        "--weights": weights,
        "--outputs": told,
        "--dataset": own,
        "--data-dir": data_dir,
    }
    path = save / ADVERSARIALS
    saved = Saved(
        path, save / EXAMPLES if shown else None, shown, _verify_command(path, how, allow_code)
    )
    if success is not None:
        saved = saved._replace(patch=save / PATCH_PICTURE, success=success)
    print(
        _json(report, crafted, saved) if format_name == "json" else _table(report, crafted, saved)
    )


def _one(kind: str, given: list[str] | None, default: str) -> list[str]:
    """The one attack or defense of the command line."""
    given = given or [default]
    if len(given) > 1 or given[0] == "all":
        raise UsageError(
            f"`rbl attack` takes one {kind}, not {' and '.join(given)}: `rbl evaluate` crosses "
            "several."
        )
    return given


def _unheard(note: str) -> None:
    """Nothing is left out of a list of one."""


def _write(crafted: Adversarials, folder: Path, most: int, class_name: Callable[[int], str]) -> int:
    """Both files; returns the rows of the sheet."""
    from robustbench_lite.verification import examples, pictures

    examples.write(crafted, folder / ADVERSARIALS)
    (folder / EXAMPLES).unlink(
        missing_ok=True
    )  # an earlier sheet would show other images than those beside it
    return pictures.write_sheet(crafted, folder / EXAMPLES, most, class_name)


def _write_perturbation(attack: Attack, cell: Cell, folder: Path) -> Success | None:
    """What a universal attack was fitted to, as an array and a picture, and how it did; None for
    other attacks.
    """
    from robustbench_lite.records.npz import write_npz
    from robustbench_lite.search.fitted import UniversalAttack
    from robustbench_lite.verification import pictures

    for name in (PATCH, PATCH_PICTURE):
        (folder / name).unlink(missing_ok=True)
    if not isinstance(attack, UniversalAttack) or cell.fitted is None:
        return None
    picture = attack.picture(cell.fitted)
    write_npz(folder / PATCH, perturbation=cell.fitted.numpy(), picture=picture.numpy())
    pictures.write_picture(picture, folder / PATCH_PICTURE)
    right = cell.clean_correct
    broken = cell.clean_correct & ~cell.robust
    first = broken & (cell.forward_queries == cell.forwards_per_point)
    return Success(
        float(first.sum() / max(1, right.sum())),
        float(broken.sum() / max(1, right.sum())),
        attack.draws,
    )


def _verify_command(path: Path, how: Mapping[str, object], allow_code: bool) -> str:
    words = ["rbl", "verify", str(path)]
    for flag, value in how.items():
        words += [flag, str(value)] if value is not None else []
    return shlex.join([*words, "--allow-code"] if allow_code else words)


def _median(crafted: Adversarials) -> float | None:
    return float(crafted.distance.double().quantile(0.5)) if len(crafted) else None


def _json(report: Report, crafted: Adversarials, saved: Saved) -> str:
    """The cell as in `rbl evaluate`, and what was saved."""
    files: dict[str, object] = {
        "adversarials": str(saved.adversarials),
        "examples": saved.examples and str(saved.examples),
        "broken": len(crafted),
        "median_distance": _median(crafted),
        "verify": saved.verify,
    }
    if saved.success is not None:
        files |= {"patch": str(saved.patch), "success": saved.success._asdict()}
    return json.dumps(report.to_dict() | {"saved": files}, indent=1, allow_nan=False)


def _table(report: Report, crafted: Adversarials, saved: Saved) -> str:
    from tabulate import tabulate

    (cell,) = report.cells
    median = _median(crafted)
    row = {
        "model": cell.model,
        "defense": cell.defense,
        "attack": cell.attack,
        "threat": tables.threat(cell),
        "n": f"{cell.n:,}",
        "right\nbefore": f"{int(cell.clean_correct.sum()):,}",
        "broken": f"{len(crafted):,}",
        "median distance\nof the broken": "-" if median is None else f"{median:.4g}",
    }
    lines = [
        tabulate([row], headers="keys", disable_numparse=True, colglobalalign="left"),
        "",
        *tables.notes(report),
    ]
    if saved.success is not None:
        mean, anywhere, draws = saved.success
        lines.append(
            f"Success: {mean:.1%} at one placement (mean), {anywhere:.1%} at any of {draws}"
        )
        lines.append(f"Patch: {saved.patch}, as an array in {PATCH}")
    lines.append(f"Adversarials: {saved.adversarials}")
    if saved.examples is not None:
        lines.append(f"Examples: {saved.examples} ({saved.shown} of {len(crafted):,})")
    return "\n".join([*lines, f"Record: {cell.path}", f"Check them: {saved.verify}"])
