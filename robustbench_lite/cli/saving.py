"""What ``rbl attack`` leaves in the folder of ``--save``: adversarials, pictures, a patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from robustbench_lite.evaluation.plan import Plan
    from robustbench_lite.evaluation.report import Cell, Report
    from robustbench_lite.evaluation.settings import Settings
    from robustbench_lite.search.attack import Attack
    from robustbench_lite.verification.examples import Adversarials

ADVERSARIALS = "adversarials.npz"
EXAMPLES = "examples.png"
PATCH = "patch.npz"
PATCH_PICTURE = "patch.png"
_ROOM = 2_000_000
"""Bytes that the pictures may take."""


class Success(NamedTuple):
    """How a universal perturbation did, as shares of the images that were right before."""

    mean: float
    """At one draw of where and how it is applied: the first of each image."""
    any: float
    """At any of ``draws``."""
    draws: int


class Saved(NamedTuple):
    """What was measured and written."""

    report: Report
    crafted: Adversarials
    adversarials: Path
    examples: Path | None
    shown: int
    """Rows of the sheet."""
    patch: Path | None
    """Of an attack that is fitted: the picture of its perturbation; the array is beside it."""
    success: Success | None


def run_and_save(plan: Plan, settings: Settings, folder: Path, most: int) -> Saved:
    """Run the one cell of ``plan``, and write what it found; ``most``: rows of the sheet."""
    from robustbench_lite.evaluation.run import run
    from robustbench_lite.records.files import require_writable
    from robustbench_lite.verification import replay

    images = plan.data.x
    require_writable(folder, _ROOM + 2 * images.numel() * images.element_size(), "--save")
    report = run(plan, settings)
    (cell,) = report.cells
    crafted = replay.gather(cell, plan.subjects[0], plan.data, plan.threat, settings)
    shown = _write(crafted, folder, most, plan.data.class_name)
    success = _write_perturbation(plan.attacks[0], cell, folder)
    return Saved(
        report=report,
        crafted=crafted,
        adversarials=folder / ADVERSARIALS,
        examples=folder / EXAMPLES if shown else None,
        shown=shown,
        patch=None if success is None else folder / PATCH_PICTURE,
        success=success,
    )


def median_distance(crafted: Adversarials) -> float | None:
    """Take the median over the samples that were broken; ``None``: none was."""
    return float(crafted.distance.double().quantile(0.5)) if len(crafted) else None


def _write(crafted: Adversarials, folder: Path, most: int, class_name: Callable[[int], str]) -> int:
    """Write the adversarials and their sheet; returns the rows of the sheet."""
    from robustbench_lite.verification import examples, pictures

    examples.write(crafted, folder / ADVERSARIALS)
    # An earlier sheet would show other images than those beside it.
    (folder / EXAMPLES).unlink(missing_ok=True)
    return pictures.write_sheet(crafted, folder / EXAMPLES, most, class_name)


def _write_perturbation(attack: Attack, cell: Cell, folder: Path) -> Success | None:
    """Write what a universal attack was fitted to, as an array and a picture; say how it did.

    Returns:
        ``None`` for other attacks.
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
    right = max(1, int(cell.clean_correct.sum()))
    broken = cell.clean_correct & ~cell.robust
    first = broken & (cell.forward_queries == cell.forwards_per_point)
    return Success(mean=int(first.sum()) / right, any=int(broken.sum()) / right, draws=attack.draws)
