"""What was saved is believed by nobody: each row is examined anew, and a failure says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite import registry
from robustbench_lite.defense import Defense
from robustbench_lite.errors import (
    DataError,
    RecordError,
    UnknownNameError,
    UsageError,
    WeightsError,
)
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.inputs import attack_from
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.records.npz import read_npz, write_npz
from robustbench_lite.registry import Trust
from robustbench_lite.rows.rng import SampleRng
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.models import LoadedModel
from robustbench_lite.threat import ThreatModel
from robustbench_lite.verification import examples, pictures, rebuild, replay
from robustbench_lite.verification.examine import Verification, examine_each
from robustbench_lite.verification.examples import Adversarials
from tests.conftest import images, present, small_network

EPS = 0.2


class Crafted(NamedTuple):
    saved: Adversarials
    subject: Subject
    threat: ThreatModel
    data: Dataset


class Noisy(nn.Module):
    """The network with noise on its logits; the draws belong to the sample."""

    takes_rng = True

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor, rng: SampleRng) -> Tensor:
        return self.network(x) + self.scale * rng.uniform(0, (3,))  # type: ignore[no-any-return]


class NoiseAdded(Defense):
    name: ClassVar[str] = "noise_added"
    scale: ClassVar[float] = 0.05

    def wrap(self, model: nn.Module) -> DefendedModel:
        return DefendedModel(Noisy(model, self.scale), Traits(random=True, draws=2, votes=5))


class NoiseDecides(NoiseAdded):
    """So much noise that other draws give other classes."""

    name: ClassVar[str] = "noise_decides"
    scale: ClassVar[float] = 2.0


def crafted(
    shape: tuple[int, int, int] = (1, 6, 6),
    targeted: str | None = None,
    eps: float = EPS,
    defense: Defense | None = None,
    seed: int = 0,
) -> Crafted:
    """Adversarials of an untrained network, with what is needed to verify them."""
    network, x = small_network(shape), images(40, shape)
    y = network(x).argmax(1)
    data = Dataset("data", "given", x, y, torch.arange(40) + 100, 3, 40)
    subject = Subject("a network", network, defense or registry.create("defense", "none"), "none")
    threat = ThreatModel.parse("linf", eps, targeted)
    settings = Settings(batch_size=16, keep_adversarials=True, seed=seed)
    plan = Plan(subjects=[subject], attacks=[attack_from("pgd steps=10")], data=data, threat=threat)
    cell = run(plan, settings).cells[0]
    return Crafted(
        replay.gather(cell, subject, data, threat, settings),
        subject,
        threat,
        inputs.keep_applicable(data, threat),
    )


def check(
    saved: Adversarials, subject: Subject, threat: ThreatModel, data: Dataset | None
) -> Verification:
    return examine_each(saved, subject, threat, data, Settings(batch_size=7))


def failed_checks(found: Verification) -> set[str]:
    return {test.name for test in found.checks if test.failed}


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7), (2, 4, 4)])
@pytest.mark.parametrize("targeted", [None, "random", "least_likely", "class:1"])
def test_what_was_crafted_holds_after_a_round_trip(
    tmp_path: Path, shape: tuple[int, int, int], targeted: str | None
) -> None:
    saved, subject, _, data = crafted(shape, targeted)
    examples.write(saved, tmp_path / "a.npz")
    read = examples.read(tmp_path / "a.npz")
    assert (read.record, len(read)) == (saved.record, len(saved))
    assert len(read) > 5
    found = check(read, subject, rebuild.threat_of(read.record.identity), data)
    assert not found.failures
    assert {(test.held, test.failed, test.unchecked) for test in found.checks} == {
        (len(saved), 0, 0)
    }
    assert pictures.write_sheet(read, tmp_path / "a.png", 3) == 3
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def spoil_x_adv(saved: Adversarials, change: Callable[[Tensor, Tensor], Tensor]) -> Adversarials:
    x_adv = saved.x_adv.clone()
    x_adv[1] = change(saved.x_adv[1], present(saved.context).x[1])
    return dataclasses.replace(saved, x_adv=x_adv)


def spoil(saved: Adversarials, field: str, value: Tensor | int | float) -> Adversarials:
    column = (saved.distance if field == "distance" else getattr(saved.context, field)).clone()
    column[1] = value
    if field == "distance":
        return dataclasses.replace(saved, distance=column)
    return dataclasses.replace(saved, context=present(saved.context)._replace(**{field: column}))


#: What is done to row 1 -> the check that must fail, and a word of the reason.
SPOILT = {
    "nan": (
        lambda s: spoil_x_adv(s, lambda a, x: a * float("nan")),
        "finite, in [0, 1]",
        "not finite",
    ),
    "below 0": (
        lambda s: spoil_x_adv(s, lambda a, x: a - 1),
        "finite, in [0, 1]",
        "outside of [0, 1]",
    ),
    "too far": (
        lambda s: spoil_x_adv(s, lambda a, x: (x + 0.9 * (x < 0.5)).clamp(0, 1)),
        f"in the Linf ball of {EPS}",
        "leaves",
    ),
    "clean": (
        lambda s: spoil_x_adv(s, lambda a, x: x),
        "adversarial reaches the goal",
        "still takes it",
    ),
    "distance": (
        lambda s: spoil(s, "distance", 0.01),
        "at the stated distance",
        "the file says 0.01",
    ),
    "clean image": (
        lambda s: spoil(s, "x", s.context.x[1] * 0.999),
        "clean image is the data set's",
        "is not sample 10",
    ),
    "label": (
        lambda s: spoil(s, "y", (s.context.y[1] + 1) % 3),
        "clean image classified right",
        "not",
    ),
    "class after": (lambda s: spoil(s, "prediction_after", 7), "classes as stated", "class after"),
    "class before": (
        lambda s: spoil(s, "prediction_before", 7),
        "classes as stated",
        "class before",
    ),
    "target": (lambda s: spoil(s, "target", 2), "classes as stated", "target"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_row_fails_its_check_and_no_other_row_does(case: str) -> None:
    change, name, reason = SPOILT[case]
    saved, subject, threat, data = crafted()
    found = check(change(saved), subject, threat, data)  # type: ignore[no-untyped-call]
    assert list(found.failures) == [int(saved.ids[1])]
    assert name in failed_checks(found)
    assert any(reason in text for text in found.failures[int(saved.ids[1])])
    assert found.held == len(saved) - 1


def test_a_distance_that_differs_from_the_sealed_record_fails() -> None:
    saved, subject, threat, data = crafted()
    moved = spoil_x_adv(saved, lambda a, x: x + (a - x) * 0.99)
    size = float((moved.x_adv[1] - present(saved.context).x[1]).abs().max())
    assert "at the stated distance" in failed_checks(
        check(spoil(moved, "distance", size), subject, threat, data)
    )


def test_another_class_is_not_the_target() -> None:
    saved, subject, _, data = crafted(targeted="least_likely")
    reached = present(saved.context).target
    other = saved.x_adv.roll(1, 0)
    swapped = dataclasses.replace(saved, x_adv=other)
    found = check(swapped, subject, ThreatModel.parse("linf", 1.0, "least_likely"), data)
    wrong = (subject.module(other).argmax(1) != reached).sum()
    assert (
        {t.name: t.failed for t in found.checks}["adversarial reaches the goal"] == int(wrong) > 0
    )


def test_another_model_does_not_confirm() -> None:
    saved, subject, threat, data = crafted()
    strange = dataclasses.replace(subject, module=small_network(seed=5))
    assert "clean image classified right" in failed_checks(check(saved, strange, threat, data))


def test_without_the_data_set_the_clean_images_are_not_called_checked() -> None:
    saved, subject, threat, _ = crafted()
    found = check(saved, subject, threat, None)
    assert not found.failures
    assert {t.name: t.unchecked for t in found.checks}["clean image is the data set's"] == len(
        saved
    )


def test_images_beside_a_record_need_the_very_data_set() -> None:
    saved, subject, threat, data = crafted()
    bare = dataclasses.replace(saved, context=None)
    assert not check(bare, subject, threat, data).failures
    for other in (None, dataclasses.replace(data, x=data.x * 0.5)):
        with pytest.raises(DataError, match="fingerprint"):
            check(bare, subject, threat, other)


def test_nothing_broken_is_nothing_to_check(tmp_path: Path) -> None:
    saved, subject, threat, data = crafted(eps=0.0)
    examples.write(saved, tmp_path / "a.npz")
    found = check(examples.read(tmp_path / "a.npz"), subject, threat, data)
    assert (found.n, found.failures) == (0, {})
    assert pictures.write_sheet(saved, tmp_path / "a.png", 3) == 0
    assert not (tmp_path / "a.png").exists()


def test_a_random_model_votes_as_it_did_and_is_not_held_to_a_single_class() -> None:
    saved, subject, threat, data = crafted(defense=NoiseAdded())
    assert len(saved) > 5
    found = check(saved, subject, threat, data)
    assert not found.failures
    assert found.checks[-1] == ("classes as stated", 0, 0, len(saved))


@pytest.mark.parametrize("seed", [0, 3])
def test_a_random_model_is_asked_under_the_seed_of_its_record_whatever_the_settings_say(
    seed: int,
) -> None:
    saved, subject, threat, data = crafted(defense=NoiseDecides(), seed=seed)
    assert len(saved) > 5
    for other in (0, 3):
        found = examine_each(saved, subject, threat, data, Settings(batch_size=7, seed=other))
        assert not found.failures


def test_the_weights_must_be_those_that_were_attacked() -> None:
    saved, subject, _, _ = crafted()
    identity = saved.record.identity
    assert (
        rebuild.subject_of(identity, LoadedModel(subject.module, "mine")).module is subject.module
    )
    other = small_network(seed=1)
    with pytest.raises(
        WeightsError, match=rf"'mine'.*'a network'.*{identity.model.weights_sha256[:16]}"
    ):
        rebuild.subject_of(identity, LoadedModel(other, "mine"))
    with pytest.raises(UsageError, match="not at hand"):
        rebuild.subject_of(identity, None)


def test_no_code_that_a_record_names_is_run() -> None:
    saved, subject, _, _ = crafted()
    identity = saved.record.identity
    evil = identity.defense.model_copy(
        update={"name": "os:system", "parameters": {"command": "exit 3"}}
    )
    forged = identity.model_copy(update={"defense": evil})
    network = LoadedModel(subject.module, "mine")
    with pytest.raises(UsageError, match="--allow-code"):
        rebuild.subject_of(forged, network)
    with pytest.raises(UsageError, match="no defense"):
        rebuild.subject_of(forged, network, Trust.ANY)


def test_a_defense_of_another_version_is_refused() -> None:
    saved, subject, _, _ = crafted()
    identity = saved.record.identity
    older = identity.model_copy(
        update={"defense": identity.defense.model_copy(update={"version": 0})}
    )
    with pytest.raises(UsageError, match="version 0"):
        rebuild.subject_of(older, LoadedModel(subject.module, "mine"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda a: {k: v for k, v in a.items() if k != "y"}, "lacks the array y"),
        (lambda a: a | {"x_adv": a["x_adv"][1:]}, "broken samples"),
        (lambda a: a | {"x_adv": a["x_adv"].astype("float64")}, "float64"),
        (lambda a: a | {"ids": a["ids"] + 1}, "ids"),
        (lambda a: a | {"x": a["x"] * float("nan")}, "nan"),
        (lambda a: a | {"y": a["y"] - 5}, "Labels"),
        (lambda a: a | {"x": a["x"][:, :, 1:]}, "x_adv is"),
        (lambda a: a | {"record": str(a["record"]).replace('"seed":0', '"seed":1')}, "its key"),
        (lambda a: a | {"record": "{"}, "cannot be read"),
        (lambda a: {"x": a["x"], "y": a["y"]}, "holds no record, but x, y"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], text: str
) -> None:
    saved, *_ = crafted()
    examples.write(saved, tmp_path / "a.npz")
    write_npz(tmp_path / "a.npz", **change(read_npz(tmp_path / "a.npz")))
    with pytest.raises(RecordError, match=text):
        examples.read(tmp_path / "a.npz")


@pytest.mark.parametrize(("torch_then", "excused"), [("1.0.0", True), (None, False)])
def test_only_another_torch_excuses_a_verdict_on_rounding(
    torch_then: str | None, excused: bool
) -> None:
    """An adversarial is moved to where its class and the clean one are equal but for rounding, on
    the wrong side.
    """
    made = crafted()
    saved, x = made.saved, present(made.saved.context).x
    low, high = torch.zeros(len(saved)), torch.ones(len(saved))
    network, y = made.subject.module, present(made.saved.context).y
    for _ in range(40):
        middle = (low + high) / 2
        wrong = network(x + middle.reshape(-1, 1, 1, 1) * (saved.x_adv - x)).argmax(1) != y
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    x_adv = x + low.reshape(-1, 1, 1, 1) * (saved.x_adv - x)  # the last point that is still right
    made_under = saved.record.provenance
    versions = {**made_under.versions, **({} if torch_then is None else {"torch": torch_then})}
    record = saved.record.model_copy(
        update={"provenance": made_under.model_copy(update={"versions": versions})}
    )
    found = check(
        dataclasses.replace(saved, x_adv=x_adv, record=record), made.subject, made.threat, made.data
    )
    goal = next(test for test in found.checks if test.name == "adversarial reaches the goal")
    assert (goal.failed == 0) == excused
    assert (goal.unchecked > 0) == excused
    assert ("which is rounding" in " ".join(found.notes)) == excused


def test_one_call_leads_from_a_file_to_its_result(tmp_path: Path) -> None:
    saved, subject, _, data = crafted()
    examples.write(saved, tmp_path / "a.npz")
    heard: list[float] = []
    found = rbl.verify(
        tmp_path / "a.npz",
        subject.module,
        data,
        on_progress=lambda progress: heard.append(progress.rows),
    )
    assert (found.n, found.held, found.failures) == (len(saved), len(saved), {})
    assert found.record == saved.record
    assert heard[-1] == len(saved)
    shuffled = data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(0)))
    assert not rbl.verify(
        tmp_path / "a.npz", subject.module, shuffled
    ).failures  # ids say which image is which
    with pytest.raises(DataError, match="none of that id"):
        rbl.verify(tmp_path / "a.npz", subject.module, data.take(slice(0, 10)))
    with pytest.raises(UsageError, match="in Python, give model"):
        rbl.verify(tmp_path / "a.npz")
    with pytest.raises(UnknownNameError, match="setting of verify"):
        rbl.verify(tmp_path / "a.npz", subject.module, sede=1)
    with pytest.raises(UnknownNameError, match="setting of verify"):
        rbl.verify(tmp_path / "a.npz", subject.module, seed=1)  # the record's counts
    alone = rbl.verify(tmp_path / "a.npz", subject.module)
    assert not alone.failures
    assert any("could not be compared" in note for note in alone.notes)
