"""Replay saved adversarials against the model, and say of each whether it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.adversarials import Adversarials
from robustbench_lite.errors import DataError
from robustbench_lite.evaluation import Settings
from robustbench_lite.inputs import Subject
from robustbench_lite.numerics import exactly
from robustbench_lite.probes import ask
from robustbench_lite.records.behaviour import TOLERANCE
from robustbench_lite.records.provenance import other_torch
from robustbench_lite.replay import Replay, Setup, replay, set_up
from robustbench_lite.search.judge import Finding
from robustbench_lite.sources.datasets import Dataset
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.model import HIGH, LOW

_SAME_DISTANCE = 1e-6
"""Relative difference that float32 rounding of a stated distance explains."""


class Check(NamedTuple):
    """One thing that is asked of every adversarial."""

    name: str
    held: int
    failed: int
    unchecked: int


@dataclass(frozen=True)
class Verification:
    """What became of ``n`` adversarials."""

    n: int
    checks: list[Check]
    failures: dict[int, list[str]]
    """Data-set index of each that does not hold -> why."""
    note: str | None = None
    """What a reader must know of the network that was asked."""

    @property
    def held(self) -> int:
        return self.n - len(self.failures)


@exactly
def verify(
    saved: Adversarials,
    subject: Subject,
    threat: ThreatModel,
    data: Dataset | None,
    settings: Settings,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Verification:
    """Examine every adversarial of ``saved`` anew; none that fails hides another.

    Args:
        subject: the network with its defense, rebuilt from the record (``origin.subject_of``).
        data: the samples that were attacked (``origin.images_of``); without them the clean images are believed.
        settings: device, batch size and ``outputs``; the seed is that of the record.
        on_rows: hears how many rows are done.
    """
    identity = saved.record.identity
    if not len(saved):
        return Verification(0, [], {})
    rows, here = _clean_rows(saved, data)
    setup = set_up(subject, rows, dataclasses.replace(settings, seed=identity.seed))
    seen = replay(setup, rows, saved.x_adv, threat, on_rows)
    predicted = _predictions(saved, rows, seen, random=setup.model.traits.random)
    near, rounding = _near(saved, seen, predicted)
    tests = [
        *_geometry(saved, threat, seen.finding),
        *([] if saved.context is None else [_same_images(rows, here)]),
        *(dataclasses.replace(test, checked=test.checked & ~near) for test in predicted),
    ]
    failures: dict[int, list[str]] = {}
    for row, sample in enumerate(saved.ids.tolist()):
        reasons = [test.reason(row) for test in tests if bool(test.checked[row] & test.failed[row])]
        if reasons:
            failures[sample] = reasons
    said = " ".join(note for note in (_note(saved, setup, rows, data), rounding) if note is not None)
    return Verification(len(saved), [test.counts() for test in tests], failures, said or None)


def _near(saved: Adversarials, seen: Replay, tests: list[_Test]) -> tuple[Tensor, str | None]:
    """Rows that fail on a margin within rounding, (M,) bool, under another torch than saved them; and what to say of them."""
    versions = other_torch(saved.record.provenance)
    closeness = torch.minimum(seen.closeness, seen.finding.closeness)
    near = torch.stack([test.failed & test.checked for test in tests]).any(0) & (closeness <= TOLERANCE)
    if versions is None or not bool(near.any()):
        return torch.zeros_like(near), None
    margin = float(closeness[near].max())
    return near, (
        f"Of {int(near.sum()):,} the verdict stands on a margin of {margin:.1g} of the largest logit, which is rounding: they "
        f"were saved under torch {versions[0]}, and what {versions[1]} makes of them is not held against them."
    )


def _note(saved: Adversarials, setup: Setup, rows: Dataset, data: Dataset | None) -> str | None:
    """That the network answers otherwise than the one that was attacked; without the data, to the fixed images alone."""
    kept, named = saved.record.behaviour, saved.record.identity.data
    if kept is None:
        return "The record does not say what the network that was attacked answers: it may be another one."
    whole = data is not None and data.fingerprint == named.fingerprint
    here = ask(setup.model, data if data is not None and whole else rows, setup.device)
    if kept.agrees(here, images=whole):
        return None
    return "The network answers otherwise than the one that was attacked, whose weights are the same: its code is another."


@dataclass(frozen=True)
class _Test:
    """One thing that is asked of every row: the outcome, and how a failure reads."""

    name: str
    failed: Tensor
    """(M,) bool."""
    checked: Tensor
    """(M,) bool: rows that fail before, or lack what is needed, are not asked."""
    reason: Callable[[int], str]

    def counts(self) -> Check:
        failed, checked = int((self.failed & self.checked).sum()), int(self.checked.sum())
        return Check(self.name, checked - failed, failed, len(self.failed) - checked)


def _geometry(saved: Adversarials, threat: ThreatModel, finding: Finding) -> list[_Test]:
    """Where the adversarials lie."""
    values = saved.x_adv.flatten(1)
    image = values.isfinite().all(1) & (values >= LOW).all(1) & (values <= HIGH).all(1)
    everyone, size = torch.ones_like(image), finding.size
    stated = torch.stack([saved.distance, saved.recorded_distance]).double()  # (2, M)
    differs = ~torch.isclose(stated, size, rtol=_SAME_DISTANCE, atol=0)
    eps = "" if threat.eps is None else f" of {threat.eps:g}"

    def distance(row: int) -> str:
        wrong = float(stated[differs[:, row], row][0])
        return f"its distance is {float(size[row]):.6g}, the file says {wrong:.6g}"

    return [
        _Test("finite, in [0, 1]", ~image, everyone, lambda row: "it has values that are not finite, or lie outside of [0, 1]"),
        _Test(
            f"in the {threat.norm.label} ball{eps}" if eps else "in the ball (any size)", ~(finding.excess <= 0), image,
            lambda row: f"it leaves the {threat.norm.label} ball{eps} by {float(finding.excess[row]):.3g}",
        ),
        _Test("at the stated distance", differs.any(0), everyone, distance),
    ]  # fmt: skip


def _same_images(rows: Dataset, here: Dataset | None) -> _Test:
    """The clean images and their labels are those of the data set."""
    unchecked = torch.zeros_like(rows.y, dtype=torch.bool)
    name = "clean image is the data set's"
    if here is None:
        return _Test(name, unchecked, unchecked, lambda row: "")
    same_shape = rows.x.shape == here.x.shape
    images = (rows.x != here.x).flatten(1).any(1) if same_shape else ~unchecked
    labels = rows.y != here.y

    def reason(row: int) -> str:
        sample = f"sample {int(here.ids[row])} of {here.name} ({here.split})"
        if bool(images[row]):
            return f"its clean image is not {sample}"
        return f"its label is {int(rows.y[row])}; {sample} is of class {int(here.y[row])}"

    return _Test(name, images | labels, ~unchecked, reason)


def _predictions(saved: Adversarials, rows: Dataset, seen: Replay, *, random: bool) -> list[_Test]:
    """What the model says."""
    label, inside, everyone = seen.finding.label, seen.finding.excess <= 0, torch.ones_like(seen.correct)

    def missed(row: int) -> str:
        target, gap = int(seen.target[row]), abs(float(seen.finding.margin[row]))
        if target < 0:
            return f"the model still takes it for class {int(rows.y[row])} (by {gap:.2g})"
        return f"the model takes it for class {int(label[row])}, not for the target {target} (by {gap:.2g})"

    tests = [
        _Test(
            "clean image classified right", ~seen.correct, everyone,
            lambda row: f"the model takes its clean image for class {int(seen.before[row])}, not {int(rows.y[row])}",
        ),
        _Test("adversarial reaches the goal", ~seen.finding.reached, inside, missed),
    ]  # fmt: skip
    if saved.context is None:
        return tests
    stated = torch.stack([saved.context.target, saved.context.prediction_before, saved.context.prediction_after], dim=1)
    found = torch.stack([seen.target, seen.before, label], dim=1)  # (M, 3)
    # The mean logits of a random model may waver between two classes while the vote is clear.
    asked = torch.zeros_like(inside) if random else inside

    def restated(row: int) -> str:
        names = ("target", "class before", "class after")
        wrong = int((stated[row] != found[row]).nonzero()[0])
        return f"its {names[wrong]} is {int(found[row, wrong])}, the file says {int(stated[row, wrong])}"

    return [*tests, _Test("classes as stated", (stated != found).any(1), asked, restated)]


def _clean_rows(saved: Adversarials, data: Dataset | None) -> tuple[Dataset, Dataset | None]:
    """The clean images as saved, or else from the data set; and those of the data set, if it is here."""
    named, here = saved.record.identity.data, None
    if data is not None:
        broken = torch.from_numpy(saved.outcomes.broken)
        here = data.take(broken)
    if saved.context is not None:
        x, y = saved.context.x, saved.context.y
        return Dataset(named.name, named.split, x, y, saved.ids, None, len(y)), here
    if data is None or here is None or data.fingerprint != named.fingerprint:
        raise DataError(
            f"The clean images lie in the data set alone, and {named.name} ({named.split}) is not here as it was measured "
            f"(fingerprint {named.fingerprint[:16]}...). Name it with --dataset and --data-dir."
        )
    return here, here
