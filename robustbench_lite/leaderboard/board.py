"""A board: what is measured, as ``leaderboards/boards/<name>.toml`` declares it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.files.numerals import parse_number
from robustbench_lite.files.reading import MAX_INDEX, MAX_SAMPLES, OPTIONS_BYTES, Form, explain
from robustbench_lite.files.text import read_toml
from robustbench_lite.registry import Spec

BOARDS = "boards"
RESULTS = "results"
TABLES = "tables"
"""Folders of a leaderboards folder."""
PAGE = "index.html"
LOCK = "implementations.json"
"""Files of it."""


_TOML = Form(
    noun="board",
    what="a board that is not valid TOML",
    most=OPTIONS_BYTES,
    error=UsageError,
    fix="Name the folder with one as boards/NAME.toml with --root DIR.",
)
_BOARD = replace(_TOML, what="a board that cannot be used", fix="Mend that field.")


class Part(BaseModel):
    """Base of everything in a board: no unknown field, no change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Part):
    name: str
    split: Literal["train", "test"] = "test"
    n: int | None = Field(None, ge=1, le=MAX_SAMPLES)
    """The first so many of the split."""
    ids: list[tuple[int, int]] | None = None
    """Or half-open ranges of data-set indices."""
    bundled: bool = False
    """The slice that comes with the package, wherever other copies lie."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Data:
        if (self.n is None) == (self.ids is None):
            raise ValueError("give n, the first so many samples, or ids, ranges such as [[0, 500]]")
        if any(not 0 <= low < high <= MAX_INDEX for low, high in self.ids or ()):
            raise ValueError("ids are half-open ranges [low, high] with 0 <= low < high")
        if (
            self.ids is not None
            and not 1 <= sum(high - low for low, high in self.ids) <= MAX_SAMPLES
        ):
            raise ValueError(f"ids are those of 1 to {MAX_SAMPLES:,} samples")
        return self

    def sample_ids(self, n: int | None = None) -> NDArray[np.int64]:
        """(N,) data-set indices: all, or the first ``n``."""
        ranges = self.ids or [(0, self.n or 0)]
        return np.concatenate([np.arange(low, high, dtype=np.int64) for low, high in ranges])[:n]


class Entrant(Part):
    """A row: a network behind a defense."""

    defense: str | None = None
    """Default: the one that the network was trained with."""
    model: str | None = None
    """A bundled network, or ``package.module:factory`` / ``file.py:factory``; without it, and
    without ``weights``, the bundled network that was trained with the defense."""
    weights: str | None = None
    """Of `rbl train`, with their card beside them; or for ``model``. Relative to the leaderboards
    folder.
    """
    name: str | None = None
    """What the network is called; needed for a ``model`` that is not bundled."""
    outputs: Literal["logits", "probabilities"] = "logits"


class Trial(Part):
    """An attack of a threat model."""

    attack: str
    n: int | None = Field(None, ge=1)
    """The first so many of the board's samples, for an attack that asks many queries."""
    query_budget: int | None = Field(None, ge=1, lt=2**31)
    title: str | None = None

    @field_validator("attack")
    @classmethod
    def _reads_as_a_spec(cls, text: str) -> str:
        Spec.parse(text)
        return text

    @property
    def heading(self) -> str:
        return self.title or Spec.parse(self.attack).name


def _eps(value: Any) -> Any:
    """A radius as it was written; TOML may have it as a number."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    if isinstance(text, str) and text != "none":
        parse_number(text)
    return text


class Threat(Part):
    """A threat model: a group of columns."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    norm: str
    eps: str
    goal: str = "untargeted"
    title: str | None = None
    attacks: list[Trial] = Field(min_length=1)

    _read_eps = field_validator("eps", mode="before")(_eps)


class Curve(Part):
    """Cells beside the table: one attack over several radii, for accuracy against eps."""

    norm: str
    eps: list[str] = Field(min_length=1)
    attack: str
    n: int | None = Field(None, ge=1)

    @field_validator("eps", mode="before")
    @classmethod
    def _read_eps(cls, values: Any) -> Any:
        if isinstance(values, str) or not isinstance(values, Sequence):
            return values
        return [_eps(value) for value in values]


class Ranking(Part):
    threat: str
    """Rows are ranked by their worst case over the attacks of this threat model."""
    alpha: float = Field(0.05, gt=0, lt=1)


class Board(Part):
    title: str
    about: str = ""
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    certify: str = "own"
    """What samples are certified with: ``own`` (what each defense brings), ``off``, or a method
    such as ``auto``.
    """
    gallery: int = Field(0, ge=0, le=4)
    """Adversarial examples a cell that the page shows. 0 for data that may not be passed on."""
    data: Data
    ranking: Ranking
    rows: list[Entrant] = Field(min_length=1)
    threats: list[Threat] = Field(min_length=1)
    curves: list[Curve] = []
    _name: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _names_are_clear(self) -> Board:
        ids = [threat.id for threat in self.threats]
        if len(set(ids)) < len(ids):
            raise ValueError("two threats have the same id")
        if self.ranking.threat not in ids:
            raise ValueError(
                f"ranking.threat is {self.ranking.threat!r}; the threats are {', '.join(ids)}"
            )
        for threat in self.threats:
            headings = [trial.heading for trial in threat.attacks]
            if len(set(headings)) < len(headings):
                raise ValueError(
                    f"two attacks of the threat {threat.id!r} have the same heading: give one a "
                    "title"
                )
        largest = len(self.data.sample_ids())
        trials = [(trial.attack, trial.n) for threat in self.threats for trial in threat.attacks]
        for attack, n in [*trials, *((curve.attack, curve.n) for curve in self.curves)]:
            if (n or 0) > largest:
                raise ValueError(f"{attack!r} has n = {n}; the board has {largest} samples")
        return self

    @property
    def name(self) -> str:
        """The stem of its file."""
        return self._name


def load_board(path: Path) -> Board:
    """Read one board; what is wrong with it is a usage error that names file and field."""
    content = read_toml(path, _TOML)
    try:
        with explain(str(path), _BOARD):
            board = Board.model_validate(content)
    except UsageError as error:  # of the registry, about a spec or a number
        if str(path) in str(error):
            raise
        raise UsageError(f"The board {path} cannot be used: {error}") from error
    board._name = path.stem
    return board


def board_names(root: Path) -> list[str]:
    """The boards of a leaderboards folder, sorted."""
    if not os.path.isdir(root / BOARDS):
        return []
    return sorted(path.stem for path in (root / BOARDS).glob("*.toml"))


def load_boards(root: Path, names: Sequence[str] = ()) -> list[Board]:
    """The boards called ``names``, or all, sorted by name."""
    known = board_names(root)
    if not known:
        raise UsageError(
            f"There is no board in {root / BOARDS}. Name the folder that has one with --root DIR."
        )
    for name in names:
        if name not in known:
            raise UnknownNameError("board", name, known)
    return [
        load_board(root / BOARDS / f"{name}.toml") for name in known if not names or name in names
    ]
