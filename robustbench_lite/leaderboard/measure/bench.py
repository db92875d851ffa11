"""What it takes to measure a board: its data, its networks, and where results are kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite.errors import DataError, RobustBenchError
from robustbench_lite.evaluation.fitting import calibrate_defense, needs_fit
from robustbench_lite.evaluation.identity import model_id, plugin_id
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.probes import IMAGES, ask
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.leaderboard.board import Board
from robustbench_lite.leaderboard.entrants import subject_of
from robustbench_lite.leaderboard.results import Found, results_folder
from robustbench_lite.leaderboard.slots import Slot, expand, positions
from robustbench_lite.progress import Progress
from robustbench_lite.records.behaviour import Behaviour
from robustbench_lite.records.identity import DataId, ModelId, PluginId
from robustbench_lite.registry import Trust
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import given_root, load_named
from robustbench_lite.verification.replay import set_up


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


class AtHand(NamedTuple):
    """A row whose network can be had."""

    row: int
    weights_sha256: str
    defense: PluginId


class Bench:
    """A board with what is needed to measure it.

    Data and networks are read when they are first asked for.
    """

    def __init__(self, board: Board, root: Path, means: Means) -> None:
        self.board = board
        self.root = root
        self.means = means
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
        """Say whether the images are here.

        Those that come with the package always are: that they cannot be read is an error.
        """
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
        wanted = self.board.data
        means = self.means
        root = given_root(means.data_dir) or self.root
        return load_named(
            wanted.name,
            root,
            split=split,  # type: ignore[arg-type]
            data_dir=means.data_dir,
            download=means.download,
            bundled=wanted.bundled,
        )

    def subject(self, row: int) -> Subject:
        """The network of a row behind its defense."""
        if row not in self._subjects:
            entrant = self.board.rows[row]
            subject = subject_of(entrant, self.board, self.root, self.means.trust)
            if subject.defense.calibrates:
                subject = calibrate_defense(
                    subject, self.fit_data, self.data, self.means.device, entrant.outputs
                )
            self._subjects[row] = subject
        return self._subjects[row]

    def row_of(self, model: ModelId, defense: PluginId) -> int | None:
        """Find the row whose network has the weights of ``model`` and stands behind ``defense``.

        It is the network as it is at hand that counts.
        """
        wanted = _as_recorded(defense)
        for known in self._at_hand:
            same_weights = known.weights_sha256 == model.weights_sha256
            if same_weights and _covers(_as_recorded(known.defense), wanted):
                return known.row
        return None

    @cached_property
    def _at_hand(self) -> list[AtHand]:
        known = []
        for row, entrant in enumerate(self.board.rows):
            with contextlib.suppress(RobustBenchError):
                subject = self.subject(row)
                weights = model_id(subject, entrant.outputs).weights_sha256
                defense = plugin_id("defense", subject.defense)
                known.append(AtHand(row, weights, defense))
        return known

    def part(self, ids: NDArray[np.int64]) -> Dataset:
        """The samples ``ids``, in that order."""
        return _part(self.data, ids)

    def has_images_of(self, wanted: DataId) -> bool:
        """The samples of a record are here, and their images are those that it was measured on."""
        key = str(wanted.id_ranges)
        if key not in self._fingerprints:
            try:
                self._fingerprints[key] = self.part(wanted.ids()).fingerprint
            except DataError:
                self._fingerprints[key] = ""
        return self._fingerprints[key] == wanted.fingerprint

    def answers(self, row: int, ids: NDArray[np.int64]) -> Behaviour:
        """Ask the network of a row about probe images, the samples ``ids`` (N,) among them."""
        key = (row, tuple(ids[:IMAGES].tolist()))
        if key not in self._answers:
            data = self.part(ids[:_DIAGNOSED])
            setup = set_up(self.subject(row), data, self.settings(row))
            self._answers[key] = ask(setup.model, data, setup.device)
        return self._answers[key]

    def settings(self, row: int, query_budget: int | None = None) -> Settings:
        """How the cells of a row are measured."""
        return Settings(
            seed=self.board.seed,
            query_budget=query_budget,
            device=self.means.device,
            batch_size=self.means.batch_size or "auto",
            outputs=self.board.rows[row].outputs,
            certify=self.board.certify,
            certify_seconds=None,
        )

    def plan(self, slot: Slot, data: Dataset, fit_data: Dataset | None = None) -> Plan:
        """The one cell of ``slot``, on the samples ``data``."""
        return Plan(
            subjects=[self.subject(slot.row)],
            attacks=[slot.attack],
            data=data,
            threat=slot.threat,
            fit_data=fit_data,
        )

    def measure(self, slot: Slot, on_progress: Callable[[Progress], None] | None = None) -> Found:
        """Measure the cell, or continue it, and write its record into the results of the board."""
        settings = dataclasses.replace(
            self.settings(slot.row, slot.expected.query_budget),
            output=self.folder,
            on_progress=on_progress,
        )
        fit_data = self.fit_data if needs_fit(slot.attack) else None
        report = run(self.plan(slot, self.part(slot.expected.data.ids()), fit_data), settings)
        path = report.cells[0].path
        if path is None:
            raise RuntimeError("run was given a folder, and has written no record")
        return Found.read(path)


def _as_recorded(plugin: PluginId) -> list[dict[str, Any]]:
    """Its parts, or itself, as they come back from a file: JSON knows no infinity."""
    return [part.model_dump(mode="json") for part in plugin.parts or [plugin]]


def _covers(stated: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Say whether ``stated`` is what ``wanted`` says.

    Parameters that came later, and so are not in it, may be anything.
    """
    one, other = ([(part["name"], part["version"]) for part in parts] for parts in (stated, wanted))
    if one != other:
        return False
    pairs = ((a["parameters"], b["parameters"]) for a, b in zip(stated, wanted, strict=True))
    return all(name in a and a[name] == value for a, b in pairs for name, value in b.items())


def _part(data: Dataset, ids: NDArray[np.int64]) -> Dataset:
    missing = ids[~np.isin(ids, data.ids.numpy())]
    if len(missing):
        none = f"Sample {missing[0]} is none of those of the board"
        raise DataError(f"{none} ({data.name} {data.split}).")
    return data.take(torch.from_numpy(positions(ids, data.ids.numpy())))
