"""What is asked of every saved adversarial; no question that fails hides another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.search.judge import Finding
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.model import HIGH, LOW
from robustbench_lite.verification.examples import Adversarials, Context
from robustbench_lite.verification.replay import Replay

_SAME_DISTANCE = 1e-6
"""Relative difference that float32 rounding of a stated distance explains."""


class Check(NamedTuple):
    """One thing that is asked of every adversarial."""

    name: str
    held: int
    failed: int
    unchecked: int


@dataclass(frozen=True)
class Test:
    """One thing that is asked of every row: the outcome, and how a failure reads."""

    name: str
    failed: Tensor
    """(M,) bool."""
    checked: Tensor
    """(M,) bool: rows that fail before, or lack what is needed, are not asked."""
    reason: Callable[[int], str]

    def counts(self) -> Check:
        """Count the rows that hold, that fail, and that were not asked."""
        failed = int((self.failed & self.checked).sum())
        checked = int(self.checked.sum())
        return Check(self.name, checked - failed, failed, len(self.failed) - checked)


def of_geometry(saved: Adversarials, threat: ThreatModel, finding: Finding) -> list[Test]:
    """Test where the adversarials lie."""
    values = saved.x_adv.flatten(1)
    image = values.isfinite().all(1) & (values >= LOW).all(1) & (values <= HIGH).all(1)
    everyone = torch.ones_like(image)
    size = finding.size
    stated = torch.stack([saved.distance, saved.recorded_distance]).double()  # (2, M)
    differs = ~torch.isclose(stated, size, rtol=_SAME_DISTANCE, atol=0)
    eps = "" if threat.eps is None else f" of {threat.eps:g}"

    def distance(row: int) -> str:
        wrong = float(stated[differs[:, row], row][0])
        return f"its distance is {float(size[row]):.6g}, the file says {wrong:.6g}"

    return [
        Test(
            "finite, in [0, 1]",
            ~image,
            everyone,
            lambda row: "it has values that are not finite, or lie outside of [0, 1]",
        ),
        Test(
            f"in the {threat.norm.label} ball{eps}" if eps else "in the ball (any size)",
            ~(finding.excess <= 0),
            image,
            lambda row: (
                f"it leaves the {threat.norm.label} ball{eps} by {float(finding.excess[row]):.3g}"
            ),
        ),
        Test("at the stated distance", differs.any(0), everyone, distance),
    ]


def of_images(rows: Dataset, here: Dataset | None) -> Test:
    """Test whether the clean images and their labels are those of the data set."""
    unchecked = torch.zeros_like(rows.y, dtype=torch.bool)
    name = "clean image is the data set's"
    if here is None:
        return Test(name, unchecked, unchecked, lambda row: "")
    same_shape = rows.x.shape == here.x.shape
    images = (rows.x != here.x).flatten(1).any(1) if same_shape else ~unchecked
    labels = rows.y != here.y

    def reason(row: int) -> str:
        sample = f"sample {int(here.ids[row])} of {here.name} ({here.split})"
        if bool(images[row]):
            return f"its clean image is not {sample}"
        return f"its label is {int(rows.y[row])}; {sample} is of class {int(here.y[row])}"

    return Test(name, images | labels, ~unchecked, reason)


def of_predictions(saved: Adversarials, rows: Dataset, seen: Replay, *, random: bool) -> list[Test]:
    """Test what the model says, and whether the file says the same."""
    label = seen.finding.label
    inside = seen.finding.excess <= 0
    everyone = torch.ones_like(seen.correct)

    def missed(row: int) -> str:
        target = int(seen.target[row])
        gap = abs(float(seen.finding.margin[row]))
        if target < 0:
            return f"the model still takes it for class {int(rows.y[row])} (by {gap:.2g})"
        took = int(label[row])
        return f"the model takes it for class {took}, not for the target {target} (by {gap:.2g})"

    def mistaken(row: int) -> str:
        took = int(seen.before[row])
        return f"the model takes its clean image for class {took}, not {int(rows.y[row])}"

    tests = [
        Test("clean image classified right", ~seen.correct, everyone, mistaken),
        Test("adversarial reaches the goal", ~seen.finding.reached, inside, missed),
    ]
    if saved.context is not None:
        # The mean logits of a random model may waver between two classes while the vote is clear.
        asked = torch.zeros_like(inside) if random else inside
        tests.append(_of_classes(saved.context, seen, asked))
    return tests


def _of_classes(context: Context, seen: Replay, asked: Tensor) -> Test:
    """Test whether the classes in the file are those that the model gives, where ``asked`` (M,)."""
    columns = [context.target, context.prediction_before, context.prediction_after]
    stated = torch.stack(columns, dim=1)  # (M, 3)
    found = torch.stack([seen.target, seen.before, seen.finding.label], dim=1)  # (M, 3)

    def restated(row: int) -> str:
        names = ("target", "class before", "class after")
        wrong = int((stated[row] != found[row]).nonzero()[0])
        said = int(stated[row, wrong])
        return f"its {names[wrong]} is {int(found[row, wrong])}, the file says {said}"

    return Test("classes as stated", (stated != found).any(1), asked, restated)
