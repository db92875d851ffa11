"""What ``evaluate`` gives back: cells with their samples, and tables of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.records.cell import Record
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.outcomes import CellArrays
from robustbench_lite.records.statistics import WilsonInterval

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cell:
    """One model under one attack.

    Arrays have one entry a sample, in the order of the data; fractions are in [0, 1].

    A cell whose measurement failed has ``status == "error"``, the reason in ``error``, and no
    arrays.
    """

    identity: Identity
    model: str
    defense: str
    attack: str
    status: str
    """``complete``, ``partial`` (not the whole split) or ``error``."""
    n: int
    arrays: CellArrays | None = field(default=None, repr=False)
    record: Record | None = field(default=None, repr=False)
    path: Path | None = None
    """Where the record was written, if it was."""
    x_adv: Tensor | None = field(default=None, repr=False)
    """(N, C, H, W) with ``keep_adversarials``; the clean image where none was found."""
    fitted: Tensor | None = field(default=None, repr=False)
    """What the attack made of training images, if it is fitted: the perturbation of a universal
    one.
    """
    forwards_per_point: int = 1
    """Model calls that one point costs: the draws of a random model."""
    cached: bool = False
    """Read from an earlier run's record."""
    note: str | None = None
    """What became of earlier results under the same key that are of another network; None where
    there were none.
    """
    error: str | None = None

    @property
    def key(self) -> str:
        return self.identity.key()

    @property
    def robust(self) -> NDArray[np.bool_]:
        """Correct before and after the attack, (N,)."""
        return self._measured.robust

    @property
    def clean_correct(self) -> NDArray[np.bool_]:
        """(N,)."""
        return self._measured.clean_correct

    @property
    def distance(self) -> NDArray[np.float32]:
        """Size of the perturbation found, (N,).

        It is 0 where the clean image is wrong already, nan where none was found.
        """
        return self._measured.distance

    @property
    def forward_queries(self) -> NDArray[np.int32]:
        """(N,)."""
        return self._measured.forward_queries

    @property
    def backward_queries(self) -> NDArray[np.int32]:
        """(N,)."""
        return self._measured.backward_queries

    @property
    def clean_accuracy(self) -> float:
        return self._measured.clean_accuracy

    @property
    def robust_accuracy(self) -> float:
        return self._measured.robust_accuracy

    @property
    def interval(self) -> WilsonInterval:
        """The 95 % Wilson interval of the robust accuracy."""
        return self._measured.interval

    @property
    def median_distance(self) -> float | None:
        """Over the samples that were correct; ``None`` when fewer than half of them were broken."""
        return self._measured.median_distance

    @property
    def certified(self) -> NDArray[np.bool_] | None:
        """Proved robust, (N,); ``None`` where nothing was to be certified."""
        return self._measured.certified

    @property
    def certified_accuracy(self) -> float | None:
        """The share of samples that are proved robust.

        certified <= true <= attacked: it lies below ``robust_accuracy``, with the true robust
        accuracy in between.
        """
        return self._measured.certified_accuracy

    @property
    def certified_interval(self) -> WilsonInterval | None:
        """The 95 % Wilson interval of the certified accuracy."""
        return self._measured.certified_interval

    @property
    def seconds(self) -> float | None:
        return self.record.provenance.seconds if self.record else None

    @property
    def _measured(self) -> CellArrays:
        if self.arrays is None:
            raise ValueError(f"The cell was not measured: {self.error}")
        return self.arrays

    def to_dict(self) -> dict[str, Any]:
        """One flat row: what ``--format json`` prints of the cell."""
        identity = self.identity
        provenance = self.record.provenance if self.record else None
        return {
            "model": self.model,
            "defense": self.defense,
            "attack": self.attack,
            "dataset": identity.data.name,
            "split": identity.data.split,
            "norm": identity.threat.norm,
            "eps": identity.threat.eps,
            "goal": identity.threat.goal,
            "n": self.n,
            "adaptive": identity.adaptive is None,
            **self._figures(),
            **self._certified_figures(),
            "seconds": self.seconds,
            "status": self.status,
            "cached": self.cached,
            "flags": list(provenance.flags) if provenance else [],
            "note": self.note,
            "error": self.error,
            "seed": identity.seed,
            "query_budget": identity.query_budget,
            "cell_key": self.key,
            "digest": self.record.digest if self.record else None,
            "record": str(self.path) if self.path else None,
        }

    def _figures(self) -> dict[str, Any]:
        """What the attack has left; None for each where the cell was not measured."""
        arrays = self.arrays
        queries = None if arrays is None else arrays.mean_queries()
        return {
            "clean_accuracy": None if arrays is None else arrays.clean_accuracy,
            "robust_accuracy": None if arrays is None else arrays.robust_accuracy,
            "robust_interval": None if arrays is None else list(arrays.interval),
            "median_distance": None if arrays is None else arrays.median_distance,
            "forward_queries_mean": None if queries is None else queries.forward,
            "backward_queries_mean": None if queries is None else queries.backward,
        }

    def _certified_figures(self) -> dict[str, Any]:
        """What is proved; None for each where nothing was to be."""
        certifier = self.identity.certifier
        interval = None if self.arrays is None else self.arrays.certified_interval
        if self.arrays is None or interval is None or certifier is None:
            return dict.fromkeys(("certifier", "certified_accuracy", "certified_interval"))
        return {
            "certifier": certifier.name,
            "certified_accuracy": self.arrays.certified_accuracy,
            "certified_interval": list(interval),
        }


PLAIN_GAP = 0.05
"""An attacker that ignores a defense's declaration may lag behind the adaptive one by this much
before the cell is flagged.
"""


@dataclass(frozen=True)
class Report:
    """All cells of one evaluation, defenses outside, attacks inside."""

    cells: list[Cell]

    def to_dict(self) -> dict[str, Any]:
        """``{"cells": [...]}``, ready for JSON."""
        return {"cells": [self._row(cell) for cell in self.cells]}

    def _row(self, cell: Cell) -> dict[str, Any]:
        row = cell.to_dict()
        return row | {"flags": [*row["flags"], *filter(None, [self.masking(cell)])]}

    def to_frame(self) -> pd.DataFrame:
        """A pandas data frame, one row a cell."""
        import pandas as pd

        return pd.DataFrame([self._row(cell) for cell in self.cells])

    def masking(self, cell: Cell) -> str | None:
        """Say how far a cell that is not adaptive is from the adaptive attacker, if that is far."""
        if cell.identity.adaptive is None or cell.arrays is None:
            return None
        twin = cell.identity.model_copy(update={"adaptive": None}).key()
        for other in self.cells:
            if other.key == twin and other.arrays is not None:
                gap = cell.robust_accuracy - other.robust_accuracy
                numbers = (
                    f"{cell.robust_accuracy:.1%} robust under it, {other.robust_accuracy:.1%} "
                    "under the adaptive one"
                )
                if gap > PLAIN_GAP:
                    return (
                        f"{100 * gap:.1f} points of the plain number are masked gradients or a "
                        f"blocking detector: {numbers}"
                    )
                if gap < -PLAIN_GAP:
                    return (
                        "the plain attack is the stronger one, so the defense's surrogate "
                        f"misleads: {numbers}"
                    )
        return None

    @property
    def failed(self) -> list[Cell]:
        """Cells that could not be measured."""
        return [cell for cell in self.cells if cell.status == "error"]
