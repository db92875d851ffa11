"""Copies of a user's network: one of its own for the toolkit, and a frozen twin that shares its
weights.
"""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustbench_lite.errors import ModelError

M = TypeVar("M")
_LOCKS: dict[type, Callable[[], Any]] = {
    type(make()): make for make in (threading.Lock, threading.RLock)
}


def own_copy(model: nn.Module) -> nn.Module:
    """A deep copy of ``model``, which is left as it is.

    What ``copy.deepcopy`` refuses is copied by what it holds: tensors that a forward pass left
    behind (features that are kept, the weight of an old weight norm, spectral norm or pruning),
    random generators, locks.

    Raises:
        ModelError: it holds something else that cannot be copied; names the attribute, and what to
        do.
    """
    memo = _replacements(model)
    try:
        with (
            torch.no_grad()
        ):  # a TorchScript module clones its parameters, which are to stay leaves
            return copy.deepcopy(model, memo)
    except Exception as error:
        where, what, reason = _culprit(model) or ("it", model, error)
        raise ModelError(
            f"The model cannot be copied: {where} is a {type(what).__name__}, and copying that "
            f"fails ({reason}). Give its "
            "class a __deepcopy__, or make it anew in forward instead of keeping it on the model."
        ) from error


def frozen_twin(modules: M) -> M:
    """A copy of ``modules`` (one, or a tuple of some that share parts) whose parameters gather no
    gradient.

    Parameters share their memory with the original, everything else is a copy.

    Raises:
        Exception: whatever copying raises.
    """
    memo = _replacements(modules)
    for module in _found(modules, nn.Module):
        for parameter in module.parameters(recurse=False):
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(modules, memo)


def _replacements(root: Any) -> dict[int, Any]:
    """id -> copy, for what ``deepcopy`` cannot copy itself."""
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


def _culprit(root: Any) -> tuple[str, Any, Exception] | None:
    """Where the innermost thing lies that cannot be copied, the thing itself, and why."""
    for where, item in reversed(list(_reachable(root))):
        try:
            copy.deepcopy(item, _replacements(item))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what is told
            return where, item, error
    return None


def _reachable(root: Any) -> Iterator[tuple[str, Any]]:
    """All objects that ``deepcopy`` would visit, outer ones first, each with the path to it."""
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
            inside += [(_joined(where, key), part) for key, part in value.items()]
        else:
            inside.append((_joined(where, name), value))
    return inside


def _joined(where: str, name: str) -> str:
    return (
        f"its {name!r}"
        if where == "it"
        else f"{where[:-1]}.{name}'"
        if where.endswith("'")
        else f"{where}.{name}"
    )
