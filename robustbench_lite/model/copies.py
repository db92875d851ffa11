"""Copies of a user's network: the toolkit's own, and a frozen twin that shares its weights."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from robustbench_lite.errors import ModelError

M = TypeVar("M")
_LOCKS: dict[type, Callable[[], Any]] = {
    type(make()): make for make in (threading.Lock, threading.RLock)
}


def own_copy(model: nn.Module) -> nn.Module:
    """Copy ``model``, which is left as it is, with all that it holds.

    What ``copy.deepcopy`` refuses is copied by what it holds: tensors that a forward pass left
    behind (features that are kept, the weight of an old weight norm, spectral norm or pruning),
    random generators, locks.

    Raises:
        ModelError: it holds something else that cannot be copied; names the attribute, and what to
        do.
    """
    memo = _replacements(model)
    try:
        # A TorchScript module clones its parameters, which are to stay leaves.
        with torch.no_grad():
            return copy.deepcopy(model, memo)
    except Exception as error:
        culprit = _culprit(model) or Culprit("it", model, error)
        raise ModelError(
            f"The model cannot be copied: {culprit.where} is a {type(culprit.what).__name__}, and "
            f"copying that fails ({culprit.reason}). Give its class a __deepcopy__, or make it "
            "anew in forward instead of keeping it on the model."
        ) from error


def frozen_twin(modules: M) -> M:
    """Copy ``modules`` so that their parameters gather no gradient.

    Parameters share their memory with the original, everything else is a copy.

    Args:
        modules: one, or a tuple of some that share parts.

    Raises:
        Exception: whatever copying raises.
    """
    memo = _replacements(modules)
    for module in _found(modules, nn.Module):
        for parameter in module.parameters(recurse=False):
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(modules, memo)


def _replacements(root: Any) -> dict[int, Any]:
    """Copy what ``deepcopy`` cannot copy itself: {id: copy}."""
    memo: dict[int, Any] = {}
    for _, item in _reachable(root):
        if isinstance(item, Tensor) and not item.is_leaf:
            memo[id(item)] = item.detach().clone()
        elif isinstance(item, torch.Generator):
            memo[id(item)] = torch.Generator(item.device).set_state(item.get_state())
        elif isinstance(item, tuple(_LOCKS)):
            memo[id(item)] = next(make() for kind, make in _LOCKS.items() if isinstance(item, kind))
    return memo


def _found(root: Any, kind: type[M]) -> list[M]:
    return [item for _, item in _reachable(root) if isinstance(item, kind)]


class Culprit(NamedTuple):
    """What keeps a network from being copied."""

    where: str
    """The path to it, in words."""
    what: Any
    reason: Exception


def _culprit(root: Any) -> Culprit | None:
    """Find the innermost thing that cannot be copied."""
    for where, item in reversed(list(_reachable(root))):
        try:
            copy.deepcopy(item, _replacements(item))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what is told
            return Culprit(where, item, error)
    return None


def _reachable(root: Any) -> Iterator[tuple[str, Any]]:
    """Go over all objects that ``deepcopy`` would visit, outer ones first, each with its path."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("it", root)]
    while waiting:
        where, item = waiting.pop(0)
        if id(item) in seen or isinstance(item, _ATOMS):
            continue
        seen.add(id(item))
        yield where, item
        waiting += _inside(where, item)


_ATOMS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
)
"""What ``deepcopy`` takes as it is."""


def _inside(where: str, item: Any) -> list[tuple[str, Any]]:
    if isinstance(item, Tensor | torch.jit.ScriptModule):
        return []
    if isinstance(item, dict):
        inside = [(f"{where}[{key!r}]", value) for key, value in item.items()]
    elif isinstance(item, list | tuple | set | frozenset):
        inside = [(f"{where}[{number}]", value) for number, value in enumerate(item)]
    elif isinstance(item, types.MethodType):
        inside = [(where, item.__self__)]
    elif isinstance(item, partial):
        inside = [(where, (item.func, item.args, item.keywords))]
    else:
        inside = []
    for name, value in list(getattr(item, "__dict__", {}).items()):
        if isinstance(item, nn.Module) and name in ("_parameters", "_buffers", "_modules"):
            inside += [(_path_to(where, key), part) for key, part in value.items()]
        else:
            inside.append((_path_to(where, name), value))
    return inside


def _path_to(where: str, name: str) -> str:
    if where == "it":
        return f"its {name!r}"
    return f"{where[:-1]}.{name}'" if where.endswith("'") else f"{where}.{name}"
