"""A record belongs to one function of the image: whatever of a network was changed, its number is
never that of another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite.bounds.certifier import BoundCertifier
from robustbench_lite.errors import RecordError
from robustbench_lite.evaluation import probes
from robustbench_lite.evaluation.certified import Proved, certify_all
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.evaluation.subject import subject_from
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.records.cell import read_record, write_record
from robustbench_lite.records.journal import open_journal
from robustbench_lite.records.npz import read_images, write_images
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, small_network

SCALE = {"global": 1.0}
Build = Callable[[bool], nn.Module]


class Code(nn.Module):
    """The second code prints as the first, and has its weights."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.net, self.change = small_network(), change

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(self.change(x))
        return logits


class Plain(Code):
    """It has a tensor that is no parameter and no buffer."""

    def __init__(self, scale: float) -> None:
        super().__init__(lambda x: x * self.scale)
        self.scale = torch.tensor(scale)


class Buffered(Code):
    """Its buffer is not in the state dict."""

    scale: Tensor

    def __init__(self, scale: float) -> None:
        super().__init__(lambda x: x * self.scale)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)


class Listed(Code):
    """It has a module in a list, where torch does not find it."""

    def __init__(self, scale: float) -> None:
        super().__init__(lambda x: self.parts[0](x))
        self.parts = [nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False).eval()]
        self.parts[0].weight.fill_(scale)


class Global(Code):
    """It reads a variable of its module."""

    def __init__(self) -> None:
        super().__init__(lambda x: x * SCALE["global"])


def is_hooked(edited: bool) -> nn.Module:
    network = small_network()
    if edited:
        network.register_forward_hook(
            lambda module, args, out: out * torch.tensor([1.0, -1.0, 1.0])
        )
    return network


def with_global(edited: bool) -> nn.Module:
    SCALE["global"] = 0.3 if edited else 1.0
    return Global().eval()


NETWORKS: dict[str, Build] = {
    "code": lambda edited: Code((lambda x: 1 - x) if edited else (lambda x: x)).eval(),
    "plain tensor": lambda edited: Plain(0.3 if edited else 1.0).eval(),
    "buffer": lambda edited: Buffered(0.3 if edited else 1.0).eval(),
    "module in a list": lambda edited: Listed(0.3 if edited else 1.0).eval(),
    "hook": is_hooked,
    "global": with_global,
}


def data() -> tuple[Tensor, Tensor]:
    x = images(40)
    return x, small_network()(x).argmax(1)


def cell(network: nn.Module, folder: Path | None, **options: Any) -> Cell:
    return rbl.evaluate(
        network, data(), **{"attacks": "pgd steps=3", "eps": 0.02, "output": folder, **options}
    ).cells[0]


def verdicts(found: Cell) -> tuple[list[bool], list[bool]]:
    return found.clean_correct.tolist(), found.robust.tolist()


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_edited_network_is_measured_anew_and_the_cell_says_so(kind: str, tmp_path: Path) -> None:
    build = NETWORKS[kind]
    first = cell(build(False), tmp_path)
    assert cell(build(False), tmp_path).cached
    edited = cell(build(True), tmp_path)
    assert edited.key == first.key
    assert not edited.cached
    assert "other answers, was recorded here before" in str(edited.note)
    assert str(tmp_path / "replaced") in str(edited.note)
    assert edited.to_dict()["note"] == edited.note
    assert verdicts(edited) == verdicts(cell(build(True), None)) != verdicts(first)
    again = cell(build(True), tmp_path)
    assert (again.cached, again.note) == (True, None)


def test_the_replaced_record_is_kept_with_its_images(tmp_path: Path) -> None:
    first = cell(NETWORKS["code"](False), tmp_path, keep_adversarials=True)
    edited = cell(NETWORKS["code"](True), tmp_path, keep_adversarials=True)
    assert first.record is not None
    kept = tmp_path / "replaced" / f"{first.key}-{first.record.digest[:8]}.json"
    assert read_record(kept)[0] == first.record
    assert kept.with_suffix(".npz").exists()
    assert edited.path is not None
    assert read_record(edited.path)[0] == edited.record
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == [
        f"{first.key}.json",
        f"{first.key}.npz",
    ]


class Stepped(Code):
    """It rounds; whether a gradient passes changes none of its answers."""

    def __init__(self, passing: bool) -> None:
        super().__init__(
            lambda x: x + ((x * 8).round() / 8 - x).detach() if passing else (x * 8).round() / 8
        )


def test_a_gradient_that_passes_since_an_edit_is_followed(tmp_path: Path) -> None:
    masked = cell(Stepped(False).eval(), tmp_path)
    assert cell(Stepped(False).eval(), tmp_path).cached
    edited, alone = cell(Stepped(True).eval(), tmp_path), cell(Stepped(True).eval(), None)
    assert edited.key == masked.key
    assert "other gradients" in str(edited.note)
    assert verdicts(edited) == verdicts(alone) != verdicts(masked)


def test_images_that_are_not_those_of_the_record_are_refused(tmp_path: Path) -> None:
    first = cell(small_network(), tmp_path, keep_adversarials=True)
    assert first.path is not None
    assert first.arrays is not None
    broken, kept = (
        first.arrays.broken,
        read_images(first.path.with_suffix(".npz"), first.arrays.broken),
    )
    assert broken.any()
    whole = np.zeros((len(broken), *kept.shape[1:]), np.float32)
    whole[broken] = kept.clip(0.1, 0.9)
    write_images(first.path.with_suffix(".npz"), broken, whole)
    with pytest.raises(RecordError, match="not as far from the clean ones"):
        cell(small_network(), tmp_path, keep_adversarials=True)


def test_two_networks_of_one_key_take_turns_and_never_get_each_others_number(
    tmp_path: Path,
) -> None:
    build = NETWORKS["plain tensor"]
    alone = [verdicts(cell(build(edited), None)) for edited in (False, True)]
    for edited in (False, True, False, True):
        found = cell(build(edited), tmp_path)
        assert verdicts(found) == alone[edited]
        assert not found.cached
    assert len(list((tmp_path / "replaced").iterdir())) == 2


def test_a_network_is_asked_once_however_many_cells_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answers = probes._answers

    def counted(model: DefendedModel, x: Tensor, device: torch.device) -> Any:
        asked.append(len(x))
        return answers(model, x, device)

    monkeypatch.setattr(probes, "_answers", counted)
    attacks = ["pgd steps=1", "pgd steps=2", "fgsm"]
    cell(small_network(), tmp_path, attacks=attacks)
    report = rbl.evaluate(small_network(), data(), attacks, eps=0.02, output=tmp_path)
    assert all(found.cached for found in report.cells)
    assert asked == [probes.FIXED + probes.IMAGES] * 2


class Killed(BaseException):
    pass


def killed_after(rows: int) -> Callable[[Any], None]:
    def stop(progress: Any) -> None:
        if progress.rows > rows:
            raise Killed

    return stop


def test_a_killed_run_is_not_continued_by_an_edited_network(tmp_path: Path) -> None:
    build, options = NETWORKS["buffer"], {"attacks": "pgd steps=20", "batch_size": 16}
    with pytest.raises(Killed):
        cell(build(False), tmp_path, on_progress=killed_after(16), **options)
    with open_journal(tmp_path / "journal.sqlite") as journal:
        (key,) = {cell(build(False), None, **options).key}
        assert journal.outcomes(key)
    edited = cell(build(True), tmp_path, **options)
    assert verdicts(edited) == verdicts(cell(build(True), None, **options))
    assert "an unfinished run has left here" in str(edited.note)


def test_a_killed_run_of_an_edited_network_leaves_the_record_of_the_first_where_it_is(
    tmp_path: Path,
) -> None:
    build, options = NETWORKS["buffer"], {"attacks": "pgd steps=20", "batch_size": 16}
    cell(build(False), tmp_path, **options)
    with pytest.raises(Killed):
        cell(build(True), tmp_path, on_progress=killed_after(16), **options)
    assert cell(build(False), tmp_path, **options).cached
    heard: list[float] = []
    edited = cell(build(True), tmp_path, on_progress=lambda p: heard.append(p.rows), **options)
    assert heard[0] >= 16  # what its own killed run has found is there
    assert verdicts(edited) == verdicts(cell(build(True), None, **options))


def test_a_record_that_does_not_say_how_its_network_answers_is_measured_anew_with_a_note(
    tmp_path: Path,
) -> None:
    first = cell(small_network(), tmp_path)
    assert first.record is not None
    assert first.path is not None
    write_record(first.record.model_copy(update={"behaviour": None}).sealed(), first.path)
    again = cell(small_network(), tmp_path)
    assert not again.cached
    assert "does not say how its network answers" in str(again.note)
    assert again.record is not None
    assert again.record.digest == first.record.digest
    assert cell(small_network(), tmp_path).cached


def test_what_is_asked_for_afresh_is_measured_without_a_note(tmp_path: Path) -> None:
    cell(NETWORKS["code"](False), tmp_path)
    fresh = cell(NETWORKS["code"](True), tmp_path, fresh=True)
    assert (fresh.cached, fresh.note) == (False, None)
    assert not (tmp_path / "replaced").exists()


def test_a_random_defense_is_recognised_and_a_change_of_the_network_behind_it_too(
    tmp_path: Path,
) -> None:
    options = {"defenses": "gaussian_noise", "attacks": "pgd steps=2"}
    cell(NETWORKS["code"](False), tmp_path, **options)
    assert cell(NETWORKS["code"](False), tmp_path, batch_size=16, **options).cached
    assert not cell(NETWORKS["code"](True), tmp_path, **options).cached


def test_a_damaged_answer_in_the_journal_is_refused(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal.sqlite") as journal:
        found = cell(small_network(), None).record
        assert found is not None
        assert found.behaviour is not None
        journal.begin(found.key, found.behaviour)
        journal.add(found.key, [], 1.0)
        assert not journal.begin(found.key, found.behaviour)
        with journal._connection:
            journal._connection.execute(
                "UPDATE behaviours SET answers = replace(answers, 'A', 'B')"
            )
        with pytest.raises(RecordError, match="does not agree with its seal"):
            journal.begin(found.key, found.behaviour)


# Certificates


def certify_in(network: nn.Module, folder: Path | None, **options: Any) -> Proved:
    x, y = data()
    dataset = Dataset("data", "given", x, y, torch.arange(len(y)), None, len(y))
    subjects = [subject_from("none", network, "net", dataset)]
    threat, certifier = ThreatModel.parse("linf", 0.005), BoundCertifier(method="dual")
    return certify_all(subjects, dataset, threat, certifier, output=folder, **options)[0]


class Shifted(nn.Module):
    """Affine before the network, so that bounds are known; the shift is no parameter."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.net, self.scale = small_network(), scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x * self.scale)
        return logits


def test_an_edited_network_is_certified_anew_and_the_certificate_says_so(tmp_path: Path) -> None:
    first = certify_in(Shifted(1.0).eval(), tmp_path)
    assert certify_in(Shifted(1.0).eval(), tmp_path).cached
    edited = certify_in(Shifted(0.2).eval(), tmp_path)
    assert not edited.cached
    assert "other answers, was recorded here before" in str(edited.note)
    alone = certify_in(Shifted(0.2).eval(), None)
    assert (
        edited.arrays.certified.tolist()
        == alone.arrays.certified.tolist()
        != first.arrays.certified.tolist()
    )
    assert len(list((tmp_path / "replaced").glob("*.json"))) == 1
    assert certify_in(Shifted(0.2).eval(), tmp_path).cached


def test_a_killed_certificate_is_not_continued_by_an_edited_network(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        certify_in(Shifted(1.0).eval(), tmp_path, on_progress=killed_after(20))
    edited = certify_in(Shifted(0.2).eval(), tmp_path)
    assert "an unfinished run has left here" in str(edited.note)
    assert (
        edited.arrays.certified.tolist()
        == certify_in(Shifted(0.2).eval(), None).arrays.certified.tolist()
    )


def test_a_cell_says_that_its_certificate_was_proved_anew(tmp_path: Path) -> None:
    options = {"certify": "ibp", "eps": 0.005}
    cell(Shifted(1.0).eval(), tmp_path, **options)
    edited = cell(Shifted(0.2).eval(), tmp_path, attacks="fgsm", **options)
    assert "the certificate was measured anew" in str(edited.note)
    alone = cell(Shifted(0.2).eval(), None, attacks="fgsm", **options)
    assert edited.certified is not None
    assert alone.certified is not None
    assert edited.certified.tolist() == alone.certified.tolist()


def test_a_radius_that_its_text_does_not_give_is_written_as_the_number_that_it_is(
    tmp_path: Path,
) -> None:
    found = cell(small_network(), tmp_path, eps=np.float32(0.02))
    assert found.path is not None
    assert (
        float(str(read_record(found.path)[0].identity.threat.eps_written))
        == found.identity.threat.eps
    )
