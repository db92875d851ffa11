"""Layers whose answers depend on the mode, and layers that mix the rows of a batch."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from robustbench_lite.errors import ModelError

HARMLESS = (
    "the model came in train mode, in which none of its layers behaves otherwise: it was measured "
    "in eval mode"
)
_SHOWN = 3
_NO_FORWARD = {
    "__init__",
    "__repr__",
    "__setstate__",
    "__getstate__",
    "train",
    "eval",
    "extra_repr",
    "state_dict",
}
"""Methods of a layer that decide nothing about its answers."""


def in_train_mode(module: nn.Module) -> bool:
    return bool(getattr(module, "training", False))  # frozen TorchScript has no such attribute


def require_eval_mode(model: nn.Module) -> str | None:
    """Refuse a model in train mode, unless it answers there as it does in eval mode.

    Returns what a reader must know of such a model; None for one in eval mode.

    Raises:
        ModelError: a layer in train mode behaves otherwise there; names it.
    """
    training = [(name, module) for name, module in model.named_modules() if in_train_mode(module)]
    acting = [(name, module) for name, module in training if _acts_in_train_mode(module)]
    if acting:
        raise ModelError(
            f"The model is in train mode, in which {_name_all(acting)} behaves otherwise (dropout, "
            "batch statistics, power iteration): verdicts would be random. Call model.eval() first."
        )
    return HARMLESS if training else None


def require_separate_rows(model: nn.Module) -> None:
    """Refuse a model whose batch norm has no running statistics.

    It takes those of the batch, in eval mode too.

    Raises:
        ModelError: names the layers.
    """
    mixing = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is None
        and module.running_var is None
    ]
    if mixing:
        raise ModelError(
            f"{_name_all(mixing)} has no running statistics (track_running_stats=False): it takes "
            "those of the batch, so that the answer for an image depends on the other images. "
            "Robustness of single images is undefined for such a model; train it with running "
            "statistics, or with a norm of single images (GroupNorm)."
        )


def _name_all(layers: Sequence[tuple[str, nn.Module]]) -> str:
    """``layer '3' (Dropout)``, some of them."""
    kinds = [
        (name, getattr(module, "original_name", type(module).__name__))
        for name, module in layers[:_SHOWN]
    ]
    said = ", ".join(
        f"layer {name!r} ({kind})" if name else f"the model itself ({kind})" for name, kind in kinds
    )
    return f"{said} and {len(layers) - _SHOWN} more" if len(layers) > _SHOWN else said


def _acts_in_train_mode(module: nn.Module) -> bool:
    """Whether ``module`` itself, not what it holds, may answer otherwise in train mode.

    Its code, or a hook's, asks for the mode.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return True  # its code cannot be read
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, types.FunctionType | types.MethodType | partial)
    ]
    if any(_reads_mode(function) for hook in [*hooks, *own] for function in _functions_of(hook)):
        return True
    return any(map(_reads_mode, _methods(type(module)))) and not _same_in_both(module)


def _same_in_both(module: nn.Module) -> bool:
    """A layer of torch that asks for its mode, and, set up as it is, does the same in both."""
    if not type(module).__module__.startswith("torch.nn."):
        return False
    if isinstance(module, _DropoutNd):
        return module.p == 0
    if isinstance(module, _InstanceNorm):
        return module.running_mean is None
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout == 0
    # The dropouts of these are layers in them.
    return isinstance(module, nn.TransformerEncoder | nn.TransformerEncoderLayer)


def _methods(kind: type) -> Iterator[Any]:
    """What ``kind`` and its bases below ``nn.Module`` define."""
    for base in kind.__mro__:
        if issubclass(base, nn.Module) and base is not nn.Module:
            for name, value in vars(base).items():
                if name not in _NO_FORWARD:
                    yield from _functions_of(value)


def _functions_of(value: Any) -> list[Any]:
    """The functions that run when ``value``, a callable or a member of a class, is used."""
    if isinstance(value, partial):
        return _functions_of(value.func)
    if isinstance(value, property):
        return [function for function in (value.fget,) if function is not None]
    inner = getattr(value, "__func__", value)  # of a method, a class method
    if hasattr(inner, "__wrapped__"):
        return [inner, *_functions_of(inner.__wrapped__)]
    if isinstance(inner, types.FunctionType | type) or not callable(inner):
        return [inner]
    return [type(inner).__call__]


def _reads_mode(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and _mentions(code)


def _mentions(code: types.CodeType) -> bool:
    """Whether ``code``, or a function inside it, speaks of ``training``.

    An attribute is called so, or a text as in ``getattr``.
    """
    inside: Iterable[types.CodeType] = (
        part for part in code.co_consts if isinstance(part, types.CodeType)
    )
    return (
        "training" in code.co_names or "training" in code.co_consts or any(map(_mentions, inside))
    )
