"""What it takes to measure the cells of a board: its data, its networks, and the places where results are kept."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite import evaluation, inputs
from robustbench_lite.clean import clean_logits
from robustbench_lite.errors import DataError, RobustBenchError
from robustbench_lite.evaluation import Settings, targets
from robustbench_lite.fitting import calibrate_defense, fit_attack, needs_fit
from robustbench_lite.inputs import Subject
from robustbench_lite.job import Job, Scene, Terms
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.entrants import subject_of
from robustbench_lite.leaderboard.gallery import Example, example, write_examples
from robustbench_lite.leaderboard.near_ties import ROUNDINGS, rounded, watched
from robustbench_lite.leaderboard.results import FITS, GALLERY, Found, results_folder
from robustbench_lite.leaderboard.selection import chosen_samples
from robustbench_lite.leaderboard.slots import Slot, expand, positions
from robustbench_lite.measure import Measured, measure
from robustbench_lite.probes import IMAGES, ask
from robustbench_lite.progress import Progress
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.cell import DataId, ModelId, PluginId, read_record
from robustbench_lite.records.journal import open_journal
from robustbench_lite.records.outcomes import Margins
from robustbench_lite.registry import Trust
from robustbench_lite.replay import Setup, replay, set_up
from robustbench_lite.sources.datasets import Dataset, given_root, load_named


@dataclass(frozen=True, kw_only=True)
class Means:
    """How cells are measured; none of it changes a verdict."""

    data_dir: Path | None = None
    download: bool = False
    device: str = "auto"
    batch_size: int | None = None
    trust: Trust = Trust.REGISTERED
    """For code that a board names."""


_DIAGNOSED = 32
"""Images that a network is examined on before it is asked."""
Verdicts = dict[int, tuple[bool, bool]]
"""Data-set index -> correct on the clean image, broken by the attack."""


class Bench:
    """A board with what is needed to measure it; data and networks are read when they are first asked for."""

    def __init__(self, board: Board, root: Path, means: Means) -> None:
        self.board, self.root, self.means = board, root, means
        self.folder = results_folder(board, root)
        self._subjects: dict[int, Subject] = {}
        self._fingerprints: dict[str, str] = {}
        self._answers: dict[tuple[int, tuple[int, ...]], Behaviour] = {}

    @cached_property
    def slots(self) -> list[Slot]:
        """The cells of the board."""
        return expand(self.board, self.root, self.means.trust)

    @cached_property
    def data(self) -> Dataset:
        """The samples of the board."""
        wanted = self.board.data
        data = self._load("train" if wanted.split == "train" else "test")
        ids = wanted.sample_ids()
        if int(ids.max()) >= len(data):
            data.first(int(ids.max()) + 1)  # says how many there are
        return _part(data, ids)

    def has_data(self) -> bool:
        """The images are here. Those that come with the package always are: that they cannot be read is an error."""
        try:
            return bool(len(self.data))
        except DataError:
            if self.board.data.bundled:
                raise
            return False

    @cached_property
    def fit_data(self) -> Dataset:
        """The training images that universal attacks are fitted on."""
        return self._load("train")

    def _load(self, split: str) -> Dataset:
        wanted, means = self.board.data, self.means
        root = given_root(means.data_dir) or self.root
        return load_named(
            wanted.name, root, split=split, data_dir=means.data_dir, download=means.download, bundled=wanted.bundled,  # type: ignore[arg-type]
        )  # fmt: skip

    def subject(self, row: int) -> Subject:
        """The network of a row behind its defense."""
        if row not in self._subjects:
            entrant = self.board.rows[row]
            subject = subject_of(entrant, self.board, self.root, self.means.trust)
            if subject.defense.calibrates:
                subject = calibrate_defense(subject, self.fit_data, self.data, self.means.device, entrant.outputs)
            self._subjects[row] = subject
        return self._subjects[row]

    def row_of(self, model: ModelId, defense: PluginId) -> int | None:
        """The row whose network, as it is at hand, has the weights of ``model`` and stands behind ``defense``."""
        wanted = _as_recorded(defense)
        for row, weights, stated in self._at_hand:
            if weights == model.weights_sha256 and _covers(_as_recorded(stated), wanted):
                return row
        return None

    @cached_property
    def _at_hand(self) -> list[tuple[int, str, PluginId]]:
        """Row, hash of the weights and defense, of the networks that can be had."""
        known = []
        for row, entrant in enumerate(self.board.rows):
            with contextlib.suppress(RobustBenchError):
                subject = self.subject(row)
                weights = inputs.model_id(subject, entrant.outputs).weights_sha256
                known.append((row, weights, inputs.plugin_id("defense", subject.defense)))
        return known

    def has_images_of(self, wanted: DataId) -> bool:
        """The samples of a record are here, and their images are those that it was measured on."""
        key = str(wanted.id_ranges)
        if key not in self._fingerprints:
            try:
                self._fingerprints[key] = _part(self.data, wanted.ids()).fingerprint
            except DataError:
                self._fingerprints[key] = ""
        return self._fingerprints[key] == wanted.fingerprint

    def answers(self, row: int, ids: NDArray[np.int64]) -> Behaviour:
        """What the network of a row answers on probe images, those of the samples ``ids`` (N,) among them."""
        key = (row, tuple(ids[:IMAGES].tolist()))
        if key not in self._answers:
            data = _part(self.data, ids[:_DIAGNOSED])
            setup = set_up(self.subject(row), data, self._settings(row))
            self._answers[key] = ask(setup.model, data, setup.device)
        return self._answers[key]

    def _settings(self, row: int, query_budget: int | None = None, **others: object) -> Settings:
        means, size = self.means, self.means.batch_size
        return Settings(
            seed=self.board.seed, query_budget=query_budget, device=means.device, batch_size=size or "auto",
            outputs=self.board.rows[row].outputs, certify=self.board.certify, certify_seconds=None, **others,  # type: ignore[arg-type]
        )  # fmt: skip

    def measure(self, slot: Slot, on_progress: Callable[[Progress], None] | None = None) -> Found:
        """Measure the cell, or continue it, and write its record into the results of the board."""
        data = _part(self.data, slot.expected.data.ids())
        settings = self._settings(slot.row, slot.expected.query_budget, output=self.folder, on_progress=on_progress)
        report = evaluation.run(
            [self.subject(slot.row)], data, [slot.attack], slot.threat, settings,
            fit_data=self.fit_data if needs_fit(slot.attack) else None,
        )  # fmt: skip
        path = report.cells[0].path
        if path is None:
            raise RuntimeError("evaluation.run was given a folder, and has written no record")
        return Found(path, *read_record(path))

    def show(self, slot: Slot, found: Found) -> None:
        """Keep a few adversarial examples of a measured cell for the page."""
        ids = found.record.identity.data.ids()[found.arrays.broken]
        if not self.board.gallery or not len(ids):
            return
        chosen = chosen_samples(ids, found.record.digest, "gallery", self.board.gallery)
        write_examples(self.folder / GALLERY / found.path.name, found, self._examples(slot, found, chosen))

    def again(self, slot: Slot, found: Found, ids: NDArray[np.int64]) -> Verdicts:
        """Measure the samples ``ids`` of a recorded cell once more, and nothing else of it."""
        data = inputs.applicable(_part(self.data, ids), slot.threat)
        if needs_fit(slot.attack):
            arrays = self._from_fit(slot, found, data, self._set_up(slot, data)).arrays
        else:
            report = evaluation.run(
                [self.subject(slot.row)], data, [slot.attack], slot.threat, self._settings(slot.row, slot.expected.query_budget)
            )
            arrays = report.cells[0].arrays  # type: ignore[assignment]
        verdicts = zip(arrays.clean_correct.tolist(), arrays.broken.tolist(), strict=True)
        return dict(zip(data.ids.tolist(), verdicts, strict=True))

    def closeness(self, slot: Slot, found: Found, sample: int) -> tuple[float, float]:
        """How near to a tie one sample stands when it is measured once more: its clean image, and what the attack finds.

        Where that finds nothing, the nearest point in the ball that it asked about counts. In shares of the largest logit.
        """
        data = inputs.applicable(_part(self.data, np.array([sample])), slot.threat)
        setup = self._set_up(slot, data)
        logits = clean_logits(setup.model, data, setup.batch_size, setup.device, setup.seed).logits
        model, watch = watched(setup.model, data, targets(slot.threat, logits, data, setup.seed), slot.threat)
        margins = self._from_fit(slot, found, data, setup._replace(model=model)).margins or Margins()
        here, there = margins.clean, margins.judged if margins.judged is not None else watch.nearest
        return (math.inf if here is None else here), there

    def roundings_to(self, slot: Slot, found: Found, sample: int, verdict: tuple[bool, bool]) -> int | None:
        """How many searches with logits rounded otherwise it takes until a sample gets ``verdict``; None if none does."""
        data = inputs.applicable(_part(self.data, np.array([sample])), slot.threat)
        setup = self._set_up(slot, data)
        for number in range(1, ROUNDINGS + 1):
            arrays = self._from_fit(slot, found, data, setup._replace(model=rounded(setup.model, number))).arrays
            if (bool(arrays.clean_correct[0]), bool(arrays.broken[0])) == verdict:
                return number
        return None

    def _set_up(self, slot: Slot, data: Dataset) -> Setup:
        return set_up(self.subject(slot.row), data, self._settings(slot.row))

    def _from_fit(self, slot: Slot, found: Found, data: Dataset, setup: Setup, *, keep: bool = False) -> Measured:
        """Some samples under an attack that was fitted when the cell was measured: with that fit, if it lies in the results."""
        model, seed, batch_size, device = setup
        clean = clean_logits(model, data, batch_size, device, seed)
        scene = Scene(
            model=model,
            threat=slot.threat,
            data=data,
            clean=clean,
            target=targets(slot.threat, clean.logits, data, seed),
            behaviour=self.answers(slot.row, found.record.identity.data.ids()),
        )
        terms = Terms(
            seed=seed,
            batch_size=batch_size,
            device=device,
            query_budget=slot.expected.query_budget,
            keep_adversarials=keep,
        )
        job = Job(found.record.key, scene, slot.attack, terms)
        with _copy_of(self.folder / FITS / f"{found.record.key}.safetensors") as fit, open_journal(None) as journal:
            return measure(fit_attack(job, self.fit_data if needs_fit(slot.attack) else None, fit), journal)

    def _examples(self, slot: Slot, found: Found, ids: NDArray[np.int64]) -> list[Example]:
        data = inputs.applicable(_part(self.data, ids), slot.threat)
        setup = self._set_up(slot, data)
        measured = self._from_fit(slot, found, data, setup, keep=True)
        broken, x_adv = torch.from_numpy(measured.arrays.broken), measured.x_adv
        if x_adv is None or not broken.any():
            return []
        shown, x_adv = data.take(broken), x_adv[broken]
        seen = replay(setup, shown, x_adv, slot.threat, lambda done: None)
        said = (shown.ids.tolist(), seen.before.tolist(), seen.finding.label.tolist(), shown.x.numpy(), x_adv.numpy())
        return [
            example(sample, _class_name(data, before), _class_name(data, after), x, changed)
            for sample, before, after, x, changed in zip(*said, strict=True)
        ]


def _as_recorded(plugin: PluginId) -> list[dict[str, Any]]:
    """Its parts, or itself, as they come back from a file: JSON knows no infinity."""
    return [part.model_dump(mode="json") for part in plugin.parts or [plugin]]


def _covers(stated: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Whether ``stated`` is what ``wanted`` says; parameters that came later, and so are not in it, may be anything."""
    if [(part["name"], part["version"]) for part in stated] != [(part["name"], part["version"]) for part in wanted]:
        return False
    pairs = ((a["parameters"], b["parameters"]) for a, b in zip(stated, wanted, strict=True))
    return all(name in a and a[name] == value for a, b in pairs for name, value in b.items())


def _class_name(data: Dataset, label: int) -> str:
    return "rejected" if data.classes is not None and label >= data.classes else data.class_name(label)


def _part(data: Dataset, ids: NDArray[np.int64]) -> Dataset:
    """The samples ``ids``, in that order."""
    missing = ids[~np.isin(ids, data.ids.numpy())]
    if len(missing):
        raise DataError(f"Sample {missing[0]} is none of those of the board ({data.name} {data.split}).")
    return data.take(torch.from_numpy(positions(ids, data.ids.numpy())))


@contextlib.contextmanager
def _copy_of(fit: Path) -> Iterator[Path]:
    """A copy of a fit, if there is one: nothing is written into the results."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / fit.name
        if fit.exists():
            shutil.copyfile(fit, copy)
        yield copy
