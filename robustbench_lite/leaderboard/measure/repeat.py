"""A few samples of a recorded cell, measured once more: as they are, watched, or rounded."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.attacked import Measured
from robustbench_lite.evaluation.clean import clean_logits
from robustbench_lite.evaluation.fitting import fit_attack, needs_fit
from robustbench_lite.evaluation.job import Job, Scene, Terms
from robustbench_lite.evaluation.run import run, targets
from robustbench_lite.evaluation.stages import measure_cell
from robustbench_lite.leaderboard.examples import Example, Images, write_examples
from robustbench_lite.leaderboard.measure.bench import Bench
from robustbench_lite.leaderboard.measure.near_ties import ROUNDINGS, round_otherwise, watch
from robustbench_lite.leaderboard.measure.selection import choose_samples
from robustbench_lite.leaderboard.results import FITS, GALLERY, Found
from robustbench_lite.leaderboard.slots import Slot
from robustbench_lite.records.journal import open_journal
from robustbench_lite.records.outcomes import CellArrays, Margins
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.verification.replay import Setup, replay, set_up


class SampleVerdict(NamedTuple):
    """What a cell says of a sample."""

    correct: bool
    """On the clean image."""
    broken: bool
    """By the attack."""

    def __str__(self) -> str:
        if self.broken:
            return "broken"
        return "robust" if self.correct else "wrong from the start"


class Closeness(NamedTuple):
    """How near to a tie a sample stands, in shares of the largest logit."""

    clean: float
    attacked: float


def verdicts_of(ids: NDArray[np.int64], arrays: CellArrays) -> dict[int, SampleVerdict]:
    """Data-set index -> verdict, of the samples ``ids`` (N,)."""
    verdicts = map(SampleVerdict, arrays.clean_correct.tolist(), arrays.broken.tolist())
    return dict(zip(ids.tolist(), verdicts, strict=True))


@dataclass(frozen=True)
class Repeat:
    """A recorded cell of a board, whose samples can be measured again without the others."""

    bench: Bench
    slot: Slot
    found: Found

    def verdicts(self, ids: NDArray[np.int64]) -> dict[int, SampleVerdict]:
        """What the samples ``ids`` are now."""
        slot = self.slot
        data = self._part(ids)
        if needs_fit(slot.attack):
            arrays = self._measure(data, self._set_up(data)).arrays
        else:
            settings = self.bench.settings(slot.row, slot.expected.query_budget)
            report = run(self.bench.plan(slot, data), settings)
            arrays = report.cells[0].arrays  # type: ignore[assignment]
        return verdicts_of(data.ids.numpy(), arrays)

    def closeness(self, sample: int) -> Closeness:
        """How near to a tie one sample stands: its clean image, and what the attack finds.

        Where that finds nothing, the nearest point in the ball that it asked about counts.
        """
        threat = self.slot.threat
        data = self._part(np.array([sample]))
        setup = self._set_up(data)
        logits = clean_logits(setup.model, data, setup.batch_size, setup.device, setup.seed).logits
        model, watcher = watch(setup.model, data, targets(threat, logits, data, setup.seed), threat)
        margins = self._measure(data, setup._replace(model=model)).margins or Margins()
        return Closeness(
            clean=math.inf if margins.clean is None else margins.clean,
            attacked=watcher.nearest if margins.judged is None else margins.judged,
        )

    def roundings_to(self, sample: int, verdict: SampleVerdict) -> int | None:
        """How many searches with logits rounded otherwise it takes until a sample gets ``verdict``.

        None if none does.
        """
        data = self._part(np.array([sample]))
        setup = self._set_up(data)
        for number in range(1, ROUNDINGS + 1):
            model = round_otherwise(setup.model, number)
            arrays = self._measure(data, setup._replace(model=model)).arrays
            if verdicts_of(data.ids.numpy(), arrays)[sample] == verdict:
                return number
        return None

    def examples(self, ids: NDArray[np.int64]) -> list[Example]:
        """Those of the samples ``ids`` that are broken again, as the page shows them."""
        data = self._part(ids)
        setup = self._set_up(data)
        measured = self._measure(data, setup, keep=True)
        broken = torch.from_numpy(measured.arrays.broken)
        x_adv = measured.x_adv
        if x_adv is None or not broken.any():
            return []
        shown = data.take(broken)
        x_adv = x_adv[broken]
        seen = replay(setup, shown, x_adv, self.slot.threat, lambda done: None)
        before = [_class_name(data, label) for label in seen.before.tolist()]
        after = [_class_name(data, label) for label in seen.finding.label.tolist()]
        images = map(Images, shown.x.numpy(), x_adv.numpy())
        return list(map(Example.of, shown.ids.tolist(), before, after, images))

    def _part(self, ids: NDArray[np.int64]) -> Dataset:
        return inputs.keep_applicable(self.bench.part(ids), self.slot.threat)

    def _set_up(self, data: Dataset) -> Setup:
        row = self.slot.row
        return set_up(self.bench.subject(row), data, self.bench.settings(row))

    def _measure(self, data: Dataset, setup: Setup, *, keep: bool = False) -> Measured:
        """Measure samples; with the fit that lies beside the record, if there is one."""
        slot = self.slot
        key = self.found.record.key
        model, seed, batch_size, device = setup
        clean = clean_logits(model, data, batch_size, device, seed)
        scene = Scene(
            model=model,
            threat=slot.threat,
            data=data,
            clean=clean,
            target=targets(slot.threat, clean.logits, data, seed),
            behaviour=self.bench.answers(slot.row, self.found.record.identity.data.ids()),
        )
        terms = Terms(
            seed=seed,
            batch_size=batch_size,
            device=device,
            query_budget=slot.expected.query_budget,
            keep_adversarials=keep,
        )
        job = Job(key, scene, slot.attack, terms)
        images = self.bench.fit_data if needs_fit(slot.attack) else None
        kept = self.bench.folder / FITS / f"{key}.safetensors"
        with _copy_of(kept) as fit, open_journal(None) as journal:
            return measure_cell(fit_attack(job, images, fit), journal)


def keep_examples(bench: Bench, slot: Slot, found: Found) -> None:
    """Keep a few adversarial examples of a measured cell for the page."""
    ids = found.record.identity.data.ids()[found.arrays.broken]
    if not bench.board.gallery or not len(ids):
        return
    chosen = choose_samples(ids, found.record.digest, "gallery", bench.board.gallery)
    examples = Repeat(bench, slot, found).examples(chosen)
    write_examples(bench.folder / GALLERY / found.path.name, found, examples)


def _class_name(data: Dataset, label: int) -> str:
    rejected = data.classes is not None and label >= data.classes
    return "rejected" if rejected else data.class_name(label)


@contextlib.contextmanager
def _copy_of(fit: Path) -> Iterator[Path]:
    """A copy of a fit, if there is one: nothing is written into the results."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / fit.name
        if fit.exists():
            shutil.copyfile(fit, copy)
        yield copy
