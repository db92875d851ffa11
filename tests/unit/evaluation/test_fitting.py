"""A fit belongs to the network that it was made on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite.attacks import Patch
from robustbench_lite.evaluation import fitting
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.fit import attribute, read_fit, write_fit
from robustbench_lite.search.fitted import Fit
from tests.conftest import images, small_network

SHAPE, PIXELS = (1, 9, 9), 12


class Contrast(nn.Module):
    """The contrast is no parameter."""

    def __init__(self, contrast: float) -> None:
        super().__init__()
        self.net, self.contrast = small_network(SHAPE), contrast

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - 0.5) * self.contrast + 0.5)
        return logits


def cell(contrast: float, folder: Path | None, **options: Any) -> Cell:
    network = small_network(SHAPE)
    x, train = images(60, SHAPE), images(100, SHAPE, seed=2)
    data, fit_data = (x, network(x).argmax(1)), (train, network(train).argmax(1))
    attack = Patch(steps=20, fit_batch=40, draws=1)
    return rbl.evaluate(
        Contrast(contrast).eval(),
        data,
        attack,
        norm="l0",
        eps=PIXELS,
        fit_data=fit_data,
        output=folder,
        **options,
    ).cells[0]


def test_an_edited_network_is_fitted_anew(tmp_path: Path) -> None:
    first, edited, alone = cell(1.0, tmp_path), cell(-1.0, tmp_path), cell(-1.0, None)
    assert first.key == edited.key
    assert first.fitted is not None
    assert edited.fitted is not None
    assert alone.fitted is not None
    assert not torch.equal(edited.fitted, first.fitted)
    assert torch.equal(edited.fitted, alone.fitted)
    assert edited.robust.tolist() == alone.robust.tolist()
    assert cell(-1.0, tmp_path, keep_adversarials=True).record is not None


def test_a_killed_fit_is_not_continued_by_an_edited_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Patch.fit

    def killed(self, *arguments: Any) -> Iterator[Fit]:  # type: ignore[no-untyped-def]
        for state in original(self, *arguments):
            yield state
            if state.step == 10:
                raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "_SAVE_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Patch, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            cell(1.0, tmp_path)
    assert list((tmp_path / "fits").iterdir())
    edited, alone = cell(-1.0, tmp_path), cell(-1.0, None)
    assert edited.fitted is not None
    assert alone.fitted is not None
    assert torch.equal(edited.fitted, alone.fitted)
    assert "an unfinished run has left here" in str(edited.note)


def test_a_fit_without_answers_is_taken_only_once_it_has_some(tmp_path: Path) -> None:
    first = cell(1.0, tmp_path)
    path = tmp_path / "fits" / f"{first.key}.safetensors"
    stored = read_fit(path, first.key)
    write_fit(path, first.key, stored._replace(behaviour=None))
    assert first.record is not None
    answers = first.record.behaviour
    assert isinstance(answers, Behaviour)
    assert attribute(path, first.key, answers)
    again = read_fit(path, first.key)
    assert (again.behaviour, again.step) == (stored.behaviour, stored.step) == (answers, 20)
    assert torch.equal(again.tensors["result"], stored.tensors["result"])
    assert not attribute(path, first.key, answers)
