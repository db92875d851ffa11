"""Which differentiable stand-in for a squeezer makes attacks strongest.

    python benchmarks/stand_ins.py
    python benchmarks/stand_ins.py --dataset mnist --data-dir data --weights mnist-none.safetensors

Prints the comparison of docs/explanation/adaptive.md: the robust accuracy of the network behind the
real squeezer for attacks that follow each candidate. Lower is better.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tabulate import tabulate
from torch import nn

import robustbench_lite as rbl
from rbl_defenses.feature_squeezing.non_local_means import NonLocalMeans
from rbl_defenses.feature_squeezing.squeezers import BitDepth, Median
from rbl_defenses.feature_squeezing.stand_ins import SoftBitDepth, StraightThrough
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.sources.models import reference_model, trained_model


@dataclass(frozen=True, kw_only=True)
class Candidate(rbl.Defense):
    """A squeezer, and what attacks follow instead of it.

    ``None`` is the squeezer's own gradient.
    """

    name: ClassVar[str] = "candidate"

    label: str
    squeezer: nn.Module = field(compare=False)
    stand_in: nn.Module | None = field(compare=False)

    def wrap(self, model: nn.Module) -> DefendedModel:
        surrogate = None if self.stand_in is None else nn.Sequential(self.stand_in, model)
        return DefendedModel(nn.Sequential(self.squeezer, model), Traits(surrogate=surrogate))


class Steep(SoftBitDepth):
    """``SoftBitDepth`` of another steepness."""

    def __init__(self, hard: BitDepth, steepness: float) -> None:
        super().__init__(hard)
        self.STEEPNESS = steepness


def candidates() -> list[Candidate]:
    """Every squeezer with every stand-in that was considered."""
    found = []
    for bits in (1, 3):
        rounding = BitDepth(bits)
        label = f"rounding, bits={bits}"
        found.append(
            Candidate(
                label=f"{label}: identity", squeezer=rounding, stand_in=StraightThrough(rounding)
            )
        )
        found += [
            Candidate(
                label=f"{label}: ramps, {steepness:g}",
                squeezer=rounding,
                stand_in=Steep(rounding, steepness),
            )
            for steepness in (3.0, 4.0, 5.0, 6.0, 8.0, 12.0)
        ]
    smooth = {
        "median 2x2": Median(2),
        "median 3x3": Median(3),
        "non-local means": NonLocalMeans(13, 3, 2 / 255),
    }
    for label, squeezer in smooth.items():
        found.append(Candidate(label=f"{label}: own", squeezer=squeezer, stand_in=None))
        found.append(
            Candidate(
                label=f"{label}: identity", squeezer=squeezer, stand_in=StraightThrough(squeezer)
            )
        )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--weights",
        type=Path,
        help="a network of `rbl train`; default: the bundled one without a defense",
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--l2", type=float, default=0.7)
    parser.add_argument("--linf", type=float, default=0.05)
    options = parser.parse_args()
    data = rbl.load_dataset(options.dataset, limit=options.images, data_dir=options.data_dir)
    network = (
        trained_model(options.weights) if options.weights else reference_model(data.name, "none")
    )
    rows = []
    for candidate in candidates():
        row = {"squeezer: stand-in": candidate.label}
        for norm, eps in (("l2", options.l2), ("linf", options.linf)):
            attack = f"pgd loss=margin steps={options.steps}"
            cell = rbl.evaluate(
                network.module, data, attack, defenses=candidate, norm=norm, eps=eps
            ).cells[0]
            row |= {
                "clean": f"{cell.clean_accuracy:.1%}",
                f"PGD {norm} {eps:g}": f"{cell.robust_accuracy:.1%}",
            }
        rows.append(row)
    print(tabulate(rows, headers="keys", disable_numparse=True))


if __name__ == "__main__":
    main()
