"""Measured again under another torch, a verdict on a margin within rounding is told from another
verdict.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustbench_lite.leaderboard.load import load
from robustbench_lite.leaderboard.measure.bench import Bench, Means
from robustbench_lite.leaderboard.measure.repeat import Repeat, SampleVerdict
from robustbench_lite.leaderboard.measure.rerun import compare
from robustbench_lite.leaderboard.results import Found
from robustbench_lite.records.cell import make_record, read_record, write_record
from robustbench_lite.records.provenance import torch_version
from robustbench_lite.registry import Trust
from tests.conftest import present
from tests.end_to_end.boards import BOARD, declare
from tests.end_to_end.conftest import Rbl

NETWORK = """
import torch
from torch import nn


class Near(nn.Module):
    # Class 9, that of the first image, leads class 0 by GAP; logits are about 100.
    # The first pixel of the image is 0.
    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        p, others = x[:, :1, 0, 0], x.flatten(1)[:, 400:408]
        return torch.cat([100 + 0 * p, others, 100 + GAP], 1)


def net():
    return Near()
"""
CLEAN, ATTACKED = "1e-3 * p + {}", "10 * (0.1 - p) + {}"
"""A lead of ``{}`` on the clean image, or where an attack has raised the pixel to 0.1."""
LEADS, TRAILS = "1e-4", "-1e-4"
"""A millionth of the largest logit."""
OTHER = "1.0.0"
BOARDS = Path(__file__).parents[2] / "leaderboards"


@pytest.fixture
def board(rbl: Rbl, tmp_path: Path) -> Callable[[str, str], tuple[str, ...]]:
    def measured(gap: str, torch: str) -> tuple[str, ...]:
        """Options of a board that was measured on a network with this gap, under a torch of this
        name.
        """
        row = '[[rows]]\nname = "near"\nmodel = "mine.py:net"\n'
        one = BOARD.replace('[[rows]]\ndefense = "none"\n', row).replace(
            '[[rows]]\ndefense = "adversarial_training"\n', ""
        )
        declare(tmp_path, one.replace("gallery = 1\n", "").partition("[[curves]]")[0])
        edit(gap, tmp_path)
        common = ("--root", str(tmp_path), "--allow-code")
        assert rbl("leaderboard", "run", "-q", *common).code == 0
        for path in (tmp_path / "results" / "tiny" / "cells").glob("*.json"):
            record, arrays = read_record(path)
            made = record.provenance.model_copy(
                update={"versions": {**record.provenance.versions, "torch": torch}}
            )
            write_record(
                make_record(record.identity, arrays, made, record.behaviour, record.margins), path
            )
        for command in ("lock", "build"):
            assert rbl("leaderboard", command, "--root", str(tmp_path)).code == 0
        return common

    return measured


def edit(gap: str, root: Path) -> None:
    (root / "mine.py").write_text(NETWORK.replace("GAP", gap))


KINDS = {
    "clean": (CLEAN, "robust", "wrong from the start"),
    "attacked": (ATTACKED, "robust", "broken"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_another_verdict_within_rounding_under_another_torch_is_a_note(
    rbl: Rbl, board: Callable[[str, str], tuple[str, ...]], tmp_path: Path, kind: str, turned: bool
) -> None:
    gap, *words = KINDS[kind]
    before, after = (TRAILS, LEADS) if turned else (LEADS, TRAILS)
    common = board(gap.format(before), OTHER)
    same = rbl("leaderboard", "check", "--rerun", "24", *common)
    assert same.code == 0, same.out
    assert "rounding" not in same.out
    edit(gap.format(after), tmp_path)
    checked = rbl("leaderboard", "check", "--rerun", "24", *common)
    assert checked.code == 0, checked.out
    first, second = reversed(words) if turned else words
    assert (
        f"sample 0 is recorded as {first}; measured again, it is {second} (recorded under torch "
        f"{OTHER}, " in checked.out
    )
    assert (
        f"measured again under {torch_version()}, on a margin of 1e-06 of the largest logit, which "
        "is rounding" in checked.out
    )


def test_the_same_torch_excuses_nothing(
    rbl: Rbl, board: Callable[[str, str], tuple[str, ...]], tmp_path: Path
) -> None:
    common = board(ATTACKED.format(LEADS), torch_version())
    edit(ATTACKED.format(TRAILS), tmp_path)
    checked = rbl("leaderboard", "check", "--rerun", "24", *common)
    assert checked.code == 1
    assert "sample 0 is recorded as robust; measured again, it is broken\n" in checked.out
    assert "rounding" not in checked.out


def test_another_torch_excuses_no_clear_margin(
    rbl: Rbl, board: Callable[[str, str], tuple[str, ...]], tmp_path: Path
) -> None:
    common = board(ATTACKED.format("0.002"), OTHER)
    edit(
        ATTACKED.format("(0.002 - 0.0064 * ((p - 0.1).abs() < 1e-3))"), tmp_path
    )  # no probe image is near
    checked = rbl("leaderboard", "check", "--rerun", "24", *common)
    assert checked.code == 1, checked.out
    assert "sample 0 is recorded as robust; measured again, it is broken\n" in checked.out
    assert "network at hand" not in checked.out


def test_a_record_says_how_near_to_a_tie_its_verdicts_came(
    rbl: Rbl, board: Callable[[str, str], tuple[str, ...]], tmp_path: Path
) -> None:
    board(ATTACKED.format(TRAILS), OTHER)
    margins = [
        present(read_record(path)[0].margins)
        for path in (tmp_path / "results" / "tiny" / "cells").glob("*.json")
    ]
    assert len(margins) == 2
    assert all(kept.judged == pytest.approx(1e-6, rel=0.2) for kept in margins)
    assert all(kept.clean == pytest.approx(0.01, rel=0.02) for kept in margins)


@pytest.fixture(scope="module")
def evolution() -> Repeat:
    """The cell of the MNIST board where differential evolution meets the adversarially trained
    network, three pixels.
    """
    one = load(BOARDS, ["mnist"], Trust.REGISTERED)[0]
    bench = Bench(one.board, BOARDS, Means(device="cpu"))
    name = "b8e1a0646fd3eedcc5ed822bb701f66e.json"
    repeats = (Repeat(bench, slot, found) for slot, found in one.filled.pairs() if found)
    return next(repeat for repeat in repeats if repeat.found.path.name == name)


HANGS, STANDS = 24, 0
"""Samples: the first was recorded as robust under torch 2.15.0, and is broken under 2.14.1 and
2.4.0.
"""


def test_a_search_may_hang_on_the_last_bits_of_logits_where_no_margin_is_small(
    evolution: Repeat,
) -> None:
    robust, broken = (
        SampleVerdict(correct=True, broken=False),
        SampleVerdict(correct=True, broken=True),
    )
    assert evolution.roundings_to(HANGS, robust) is not None
    assert evolution.roundings_to(HANGS, broken) is not None
    assert evolution.roundings_to(STANDS, robust) == 1
    assert evolution.roundings_to(STANDS, broken) is None


@pytest.mark.parametrize("torch_then", [OTHER, torch_version()])
@pytest.mark.parametrize("sample", [HANGS, STANDS])
def test_only_such_a_search_under_another_torch_is_excused(
    evolution: Repeat, sample: int, torch_then: str
) -> None:
    found = evolution.found
    now = evolution.verdicts(np.array([sample]))[sample]
    assert found.record.identity.data.ids()[sample] == sample
    arrays = copy.copy(found.arrays)
    arrays.broken = arrays.broken.copy()
    arrays.broken[sample] = not now.broken
    made = found.record.provenance.model_copy(update={"versions": {"torch": torch_then}})
    record = found.record.model_copy(update={"provenance": made})
    cell = dataclasses.replace(evolution, found=Found(found.path, record, arrays))
    problems, notes = compare(cell, np.array([sample]))
    if sample == HANGS and torch_then == OTHER:
        assert problems == []
        assert "the way of this search hangs on the last bits of the logits" in notes[0]
    else:
        assert len(problems) == 1
        assert notes == []
