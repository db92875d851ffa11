"""Everything that decides the outcome of a cell; the hash of it is the key."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from robustbench_lite.errors import UsageError
from robustbench_lite.files.numerals import parse_number
from robustbench_lite.files.reading import MAX_INDEX, MAX_SAMPLES
from robustbench_lite.records.schema import Sparse, Strict
from robustbench_lite.records.seal import PROTOCOL_VERSION, sha256_of


class ModelId(Strict):
    name: str
    weights_sha256: str
    architecture_sha256: str


class PluginId(Sparse):
    """An attack or a defense: registered name (or import path), version, all hyper-parameters."""

    name: str
    version: int
    parameters: dict[str, Any]
    parts: list[PluginId] | None = None
    """Of a composition, from the inside out."""
    stages: list[PluginId] | None = None
    """Of a suite, in their order."""
    inconclusive: Literal[True] | None = None
    """A suite that stops early: what it leaves was not attacked further."""

    def label(self) -> str:
        """``pgd steps=40 ...`` as a user could type it."""
        if self.parts is not None:
            return " + ".join(part.label() for part in self.parts)
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.parameters.items())])


class ThreatId(Strict):
    norm: str
    eps: float | None = Field(allow_inf_nan=False)
    eps_written: str | None
    goal: str

    @property
    def radius(self) -> str | None:
        """``eps`` as it was written, or as a number is; None where any distance counts."""
        return None if self.eps is None else self.eps_written or f"{self.eps:g}"

    @property
    def is_as_written(self) -> bool:
        """``eps_written``, where it is there, says what ``eps`` is."""
        if self.eps_written is None:
            return True
        if self.eps is None or self.eps_written.lower() == "none":
            return self.eps is None and self.eps_written.lower() == "none"
        try:
            return parse_number(self.eps_written) == self.eps
        except UsageError:
            return False


class DataId(Strict):
    name: str
    split: str
    fingerprint: str
    id_ranges: list[tuple[int, int]]
    """Data-set indices of the samples, in order, as half-open ranges."""

    @property
    def count(self) -> int:
        """How many samples there are; -1 for ranges that are none. Makes no list of them."""
        count = sum(high - low for low, high in self.id_ranges)
        sound = all(0 <= low < high <= MAX_INDEX for low, high in self.id_ranges)
        return count if count <= MAX_SAMPLES and sound else -1

    def ids(self) -> NDArray[np.int64]:
        """(N,) data-set indices."""
        parts = [np.arange(low, high, dtype=np.int64) for low, high in self.id_ranges]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def ranges(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Consecutive runs of ``ids`` as half-open ranges, in order.

    >>> ranges(np.array([0, 1, 2, 7, 8, 5]))
    [(0, 3), (7, 9), (5, 6)]
    """
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) != 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(ids, cuts)]


class Identity(Sparse):
    """Exactly what decides a cell's outcome."""

    protocol_version: int = PROTOCOL_VERSION
    model: ModelId
    defense: PluginId
    attack: PluginId
    threat: ThreatId
    data: DataId
    seed: int
    query_budget: int | None = None
    fit_data: DataId | None = None
    """The images that a universal attack was fitted on."""

    certifier: PluginId | None = None
    """What samples were certified with before the attack, which leaves most of those alone."""
    adaptive: Literal[False] | None = None
    """False for an attacker that ignores what the model declares (``Traits``); left out otherwise.
    """

    def key(self) -> str:
        """32 hex digits; how eps was written does not matter, its value does."""
        return sha256_of(self.model_dump(mode="json", exclude={"threat": {"eps_written"}}))[:32]
