"""A training's state on disk.

A kill at any moment loses at most the steps since the last save.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import TypeAdapter

from robustbench_lite.errors import UsageError, WeightsError
from robustbench_lite.files.reading import WEIGHTS_BYTES, Form, explain, reading
from robustbench_lite.files.writing import replacing

_CHECKPOINT = Form(
    noun="checkpoint",
    what="a checkpoint that is damaged",
    most=WEIGHTS_BYTES,
    error=WeightsError,
    fix="Start over with --fresh.",
)


class Stateful(Protocol):
    """A module, an optimizer or a scheduler."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class Position:
    """Where a training stands: ``step`` steps into ``epoch`` (both from 0)."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    """Over the steps of this epoch."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One entry for each epoch that is done."""


@dataclass(frozen=True)
class Checkpoint:
    """One file that holds the state of ``parts``.

    It is for the training that ``configuration`` (plain values) identifies.
    """

    path: Path
    configuration: dict[str, Any]
    parts: dict[str, Stateful]

    def save(self, at: Position) -> None:
        """Write the present state; a kill leaves the old file or the new one, never half of one."""
        content = {name: part.state_dict() for name, part in self.parts.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(
                self.path, UsageError
            ) as file:  # two trainings in one folder write to files of their own
                torch.save({"configuration": self.configuration, "at": asdict(at), **content}, file)
        except (OSError, RuntimeError, UsageError) as error:
            raise UsageError(
                f"The checkpoint {self.path} cannot be written: {error}. Free the disk, or choose "
                "another --output."
            ) from error

    def resume(self) -> Position:
        """Load the state from the file and say where it stood; without a file, the start."""
        if not os.path.lexists(self.path):
            return Position()
        try:
            with reading(self.path, _CHECKPOINT):
                content = torch.load(self.path, map_location="cpu", weights_only=True)
                found = content["configuration"]
                at = TypeAdapter(Position).validate_python(content["at"])
                if not (isinstance(found, dict) and min(at.epoch, at.step) >= 0):
                    raise ValueError("it does not say where the training stood")
        except WeightsError:
            if os.path.lexists(self.path):
                raise
            return Position()  # another run, which starts over, has deleted it meanwhile
        changed = [
            f"{key} was {found.get(key)!r}, now {value!r}"
            for key, value in self.configuration.items()
            if found.get(key) != value
        ]
        if changed:
            raise UsageError(
                f"The checkpoint {self.path} is that of another training: {'; '.join(changed)}. "
                "Repeat its settings, choose another --output, or start over with --fresh."
            )
        with explain(str(self.path), _CHECKPOINT):
            for name, part in self.parts.items():
                part.load_state_dict(content[name])
        return at
