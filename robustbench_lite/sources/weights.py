"""Weights on disk, and their hash.

Nothing here ever unpickles objects.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from robustbench_lite.errors import WeightsError
from robustbench_lite.files.npz import require_members
from robustbench_lite.files.reading import WEIGHTS_BYTES, Form, reading, require_memory
from robustbench_lite.files.writing import write_bytes

_MAX_TENSORS = 100_000
"""Of a file: the largest image classifiers have some thousands."""
WEIGHTS = Form(
    noun="weights file",
    what="no readable weights file, or was cut short",
    most=WEIGHTS_BYTES,
    error=WeightsError,
    fix="Save model.state_dict() with torch.save, or as safetensors.",
)


def weights_hash(module: nn.Module) -> str:
    """Hash (SHA-256) all parameters and buffers.

    Over names, dtypes, shapes and bytes, sorted by name.
    """
    return _tensors_hash(module.state_dict())


def weights_file_hash(path: Path) -> str:
    """The ``weights_hash`` of a network that is filled from ``path``, without building it."""
    return _tensors_hash(_read(path))


def _tensors_hash(tensors: Mapping[str, Any]) -> str:
    """Hash a state dict, whatever the order of its entries."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        for part in _contents(value):
            digest.update(part)
    return digest.hexdigest()


def _contents(value: Any) -> Iterator[bytes]:
    """The bytes of an entry of a state dict: a tensor, or what quantised layers keep there."""
    if isinstance(value, Tensor) and value.is_quantized:
        yield f"{value.qscheme()} ".encode()
        per_channel = value.qscheme() in (
            torch.per_channel_affine,
            torch.per_channel_affine_float_qparams,
        )
        scales = (
            (value.q_per_channel_scales(), value.q_per_channel_zero_points()) if per_channel else ()
        )
        yield b"" if per_channel else repr((value.q_scale(), value.q_zero_point())).encode()
        for part in (*scales, value.int_repr()):
            yield from _contents(part)
    elif isinstance(value, Tensor):
        content = (
            value.detach().cpu().to_dense()
            if value.layout != torch.strided
            else value.detach().cpu()
        )
        yield (
            content.resolve_conj()
            .resolve_neg()
            .reshape(-1)
            .contiguous()
            .view(torch.uint8)
            .numpy()
            .tobytes()
        )
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield repr(key).encode()
            yield from _contents(value[key])
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _contents(part)
    # a number, a name, a dtype; of any other object its kind, since its text may hold an address
    else:
        plain = value is None or isinstance(value, int | float | str | bytes | torch.dtype)
        yield repr(value if plain else type(value).__qualname__).encode()


def save_weights(module: nn.Module, path: Path) -> None:
    """Write all parameters and buffers as safetensors."""
    # A copy each: safetensors refuses tensors that share memory.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in module.state_dict().items()
    }
    write_bytes(path, save(tensors))


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Fill ``module`` from a file of weights.

    It is a ``.safetensors`` file, or a state dict of ``torch.save`` (``weights_only=True``).

    Raises:
        WeightsError: no file, a damaged one, one that holds more than tensors, or tensors that do
        not fit (names them).
    """
    module.load_state_dict(fitting_weights(module, path))


def fitting_weights(module: nn.Module, path: str | Path) -> Mapping[str, Tensor]:
    """Read the tensors of ``path``, which must be those that ``module`` has (on any device)."""
    path = Path(path)
    found = _read(path)
    wanted = module.state_dict()
    problems = []
    if wanted.keys() - found.keys():
        problems.append(f"missing: {_names(wanted.keys() - found.keys())}")
    if found.keys() - wanted.keys():
        problems.append(f"not in the network: {_names(found.keys() - wanted.keys())}")
    problems += [
        f"{name} is {tuple(found[name].shape)}, the network's is {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name].shape != found[name].shape
    ]
    problems += [
        f"{name} is {found[name].dtype}, the network's is {wanted[name].dtype}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].is_complex() and not wanted[name].is_complex()
    ]
    if problems:
        raise WeightsError(f"The weights in {path} do not fit the network: {'; '.join(problems)}.")
    return found


def _read(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file, each of its own size: none that repeats a few values into many."""
    with reading(path, WEIGHTS):
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    require_members(archive, WEIGHTS, path, _MAX_TENSORS)
            found = _unpickle(path)
        if not isinstance(found, Mapping) or not all(
            isinstance(tensor, Tensor) for tensor in found.values()
        ):
            raise WeightsError(
                f"{path} holds no plain state dict. Save model.state_dict(), not the model."
            )
        if len(found) > _MAX_TENSORS or not all(isinstance(name, str) for name in found):
            raise ValueError(
                f"it holds {len(found):,} tensors; at most {_MAX_TENSORS:,}, each with a name, are "
                "read"
            )
        if not all(map(_plain, found.values())):
            raise ValueError(
                "it holds tensors that are sparse, quantized, or larger than what they store"
            )
        require_memory(sum(tensor.nbytes for tensor in found.values()), str(path), WEIGHTS)
        return found


def _unpickle(path: Path) -> Any:
    """``torch.load`` of tensors alone."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds more than tensors, which is not loaded because it can "
            "run code. Save model.state_dict() with torch.save, or as safetensors."
        ) from error


def _plain(tensor: Tensor) -> bool:
    dense = (
        tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    )
    return dense and tensor.nbytes <= tensor.untyped_storage().nbytes()


def _names(names: Any) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:8]) + (f" and {len(ordered) - 8} more" if len(ordered) > 8 else "")
