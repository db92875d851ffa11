"""The state of a fit on disk: whole, or as far as a run came before it was killed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from robustbench_lite.errors import RecordError
from robustbench_lite.files.numerals import parse_whole
from robustbench_lite.files.reading import WEIGHTS_BYTES, Form, reading
from robustbench_lite.records.behaviour import Behaviour, objection
from robustbench_lite.records.files import write_bytes

FIT = Form(
    noun="fit",
    what="a fit that is damaged or was changed",
    most=WEIGHTS_BYTES,
    error=RecordError,
    fix="Delete it, or run with --fresh.",
)


class StoredFit(NamedTuple):
    """The content of a file; tensors on the CPU, with the result among them."""

    step: int
    of: int
    tensors: dict[str, Tensor]
    behaviour: Behaviour | None
    """What the network answers that it is of; None where nobody asked it."""


def write_fit(path: Path, key: str, stored: StoredFit) -> None:
    """Write the fit of the cell ``key``, whole or not at all."""
    about = {"step": str(stored.step), "of": str(stored.of), "seal": _seal(key, stored)}
    if stored.behaviour is not None:
        about["behaviour"] = stored.behaviour.model_dump_json()
    path.parent.mkdir(exist_ok=True)
    write_bytes(path, save(stored.tensors, about))


def read_fit(path: Path, key: str) -> StoredFit:
    """Read the fit of the cell ``key``.

    Raises:
        RecordError: it is damaged, or does not agree with its seal.
    """
    with reading(path, FIT):
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        step = parse_whole(about["step"])
        of = parse_whole(about["of"])
        if step is None or of is None or not 0 <= step <= of:
            raise ValueError(f"it stands at step {about['step']} of {about['of']}")
        said = about.get("behaviour")
        behaviour = None if said is None else Behaviour.model_validate_json(said)
        stored = StoredFit(step, of, tensors, behaviour)
        if about["seal"] != _seal(key, stored) or "result" not in tensors:
            raise ValueError("its contents do not agree with its seal")
        return stored


def is_of_another(path: Path, key: str, behaviour: Behaviour) -> bool:
    """Whether a fit lies at ``path``, and not of the network that answers so.

    It is of another one where nobody asked that one, or it answers otherwise.
    """
    return path.exists() and objection(read_fit(path, key).behaviour, behaviour) is not None


def attribute(path: Path, key: str, behaviour: Behaviour) -> bool:
    """Write into a fit of the cell ``key`` what its network answers, if it does not say so yet.

    Returns:
        Whether it was written.
    """
    stored = read_fit(path, key)
    if stored.behaviour is None:
        write_fit(path, key, stored._replace(behaviour=behaviour))
    return stored.behaviour is None


def _seal(key: str, stored: StoredFit) -> str:
    """Hash a state together with the key of its cell, which ties one to the other."""
    said = "" if stored.behaviour is None else f"/{stored.behaviour.model_dump_json()}"
    digest = hashlib.sha256(f"{key}/{stored.step}/{stored.of}{said}".encode())
    for name, tensor in sorted(stored.tensors.items()):
        digest.update(f"/{name}{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
