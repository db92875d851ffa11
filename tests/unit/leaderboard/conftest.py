"""Sheets from made-up verdicts: no network, no attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from robustbench_lite.leaderboard.results import Found
from robustbench_lite.leaderboard.standing.run_sheet import of_records
from robustbench_lite.leaderboard.standing.sheet import Sheet
from robustbench_lite.records.cell import make_record
from robustbench_lite.records.identity import DataId, Identity, ModelId, PluginId, ThreatId
from robustbench_lite.records.outcomes import CellArrays
from robustbench_lite.records.provenance import Provenance


def bits(text: str) -> NDArray[np.bool_]:
    """``"1101"`` as verdicts."""
    return np.array([character == "1" for character in text])


def cell(
    defense: str,
    attack: str,
    clean: str,
    robust: str,
    *,
    eps: float | None = 0.1,
    norm: str = "linf",
    certified: str | None = None,
    flags: Sequence[str] = (),
    parameters: Mapping[str, object] | None = None,
    queries: int = 10,
    first: int = 0,
) -> Found:
    """A record of samples ``first``, ``first`` + 1, ... with these verdicts."""
    right, held = bits(clean), bits(robust)
    identity = Identity(
        model=ModelId(
            name=f"net-{defense}",
            weights_sha256=f"{defense:0<64}"[:64],
            architecture_sha256="a" * 64,
        ),
        defense=PluginId(name=defense, version=1, parameters={}),
        attack=PluginId(name=attack, version=1, parameters=dict(parameters or {})),
        threat=ThreatId(
            norm=norm, eps=eps, eps_written=None if eps is None else f"{eps:g}", goal="untargeted"
        ),
        data=DataId(
            name="images",
            split="test",
            fingerprint="f" * 64,
            id_ranges=[(first, first + len(right))],
        ),
        seed=0,
    )
    broken = right & ~held
    spent = np.where(right, queries, 0).astype(np.int32)
    distance = np.where(
        broken, np.float32(0.05), np.where(right, np.float32("nan"), np.float32(0))
    ).astype(np.float32)
    proved = None if certified is None else bits(certified)
    arrays = CellArrays(right, broken, distance, spent, spent * 0, 0, proved)
    made = Provenance(
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        device="cpu",
        batch_size=16,
        command="rbl evaluate",
        partial=True,
        versions={"torch": "2"},
        flags=list(flags),
    )
    record = make_record(identity, arrays, made)
    return Found(Path(f"cells/{record.key}.json"), record, arrays)


@pytest.fixture
def sheet() -> Callable[..., Sheet]:
    """``sheet(cell(...), cell(...))``."""

    def make(*cells: Found) -> Sheet:
        return of_records(list(cells), "made-up", "Made up")

    return make
