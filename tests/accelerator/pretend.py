"""A pretend accelerator: tensors that say they are on another device, and carry values of the CPU.

So every branch for accelerators runs, on values that can be compared. Devices may not be mixed, but
as on CUDA: CPU tensors without dimensions join, and CPU tensors index. There is no float64, as on
MPS. What a real device would have to be waited for is counted, with the line that makes it wait.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
DEVICE = torch.device("privateuseone", 0)
"""Prints as ``pretend:0`` once the backend is registered."""
CAN = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""This torch lets Python be a backend."""

_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_LOOKS = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
    "equal",
    "bincount",
}
_SOURCES = ("robustbench_lite", "rbl_attacks", "rbl_defenses")


def register() -> None:
    """Make torch know the device, for the rest of this process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Backend())


class _Backend(backend_registration._DummyBackendModule if CAN else object):  # type: ignore[misc]
    """``torch.pretend``. Its kernels draw from the CPU's generator: its own is there to be
    forked.
    """

    device = nullcontext

    def get_device_name(self, device: object = None) -> str:
        return "CPU in disguise"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16]

    def get_rng_state(self, device: object = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        pass


class Waits:
    """What a real device would have been waited for, and what it would not have done at all."""

    def __init__(self) -> None:
        self.looks: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.refused: list[str] = []

    @property
    def count(self) -> int:
        return self.looks.total() + self.copies.total()


class _Pretended(Tensor):
    """A tensor on the pretend device."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> _Pretended:
        made: _Pretended = Tensor._make_wrapper_subclass(
            cls,
            value.size(),
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=DEVICE,
        )
        made.value = value
        return made

    def __repr__(self, **options: Any) -> str:  # type: ignore[override]
        return f"pretended({self.value!r})"

    def numpy(self, **options: Any) -> NoReturn:
        raise TypeError("can't convert pretend:0 device type tensor to numpy")

    def tolist(self) -> Any:
        _active().waits.looks[f"tolist at {_line()}"] += 1
        return self.value.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pretended:
        made = _Pretended(self.value.detach().clone())
        made.requires_grad_(self.requires_grad)
        if isinstance(self, nn.Parameter):
            made._is_param = True  # how torch knows a parameter of another class
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _active().run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Pretend(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, the device is there."""

    _stack: list[Pretend] = []  # noqa: RUF012 -- those that are entered, the innermost last

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits = Waits()

    def __enter__(self) -> Pretend:
        self._before = torch._C._only_lift_cpu_tensors(), torch._C._is_multithreading_enabled()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(values, device=...) is made on the CPU, and copied
        torch._C._set_multithreading_enabled(
            False
        )  # a mode is of its thread, and so must be the backward
        Pretend._stack.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        Pretend._stack.pop()
        torch._C._set_only_lift_cpu_tensors(self._before[0])
        torch._C._set_multithreading_enabled(self._before[1])

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What ``func`` gives, on the device that torch would give it on."""
        name, tensors = (
            func._schema.name.split("::")[1],
            [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)],
        )
        asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        here = any(isinstance(t, _Pretended) for t in tensors)
        self._check(func, name, args, tensors)
        self._count(name, args, kwargs, asked, here)
        there = asked.type == DEVICE.type if asked is not None else here
        if asked is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        out = func(*tree_map(_value, args), **tree_map(_value, kwargs))
        if name == "_to_copy" and there and not here:
            out = out.clone()  # on one device torch would give the same memory
        return self._given(func, args, kwargs, out) if there else out

    def _given(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> Any:
        """``out`` on the device; what was written to is the object that was given."""
        written = [
            args[i] if i < len(args) else kwargs[argument.name]
            for i, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        if (
            torch.Tag.inplace_view in func.tags
        ):  # the memory has another shape now: so must what stands for it
            with no_dispatch():
                func(*args, **kwargs)
        if written and func._schema.returns:
            return written[0] if len(written) == 1 else tuple(written)
        if any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
            self._refuse(TypeError, f"the device has no float64: {func} at {_line()}")
        return tree_map(lambda t: _Pretended(t) if isinstance(t, Tensor) else t, out)

    def _check(self, func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
        strangers = [t for t in tensors if not isinstance(t, _Pretended)]
        if len(strangers) in (0, len(tensors)) or name in ("copy_", "_to_copy"):
            return
        if name in _INDEXING:
            written = args[2] if len(args) > 2 and isinstance(args[2], Tensor) else args[0]
            if isinstance(args[0], _Pretended) and (
                isinstance(written, _Pretended) or written.dim() == 0
            ):
                self.waits.copies[f"index at {_line()}"] += 1
                return
        elif all(t.dim() == 0 for t in strangers):
            return
        self._refuse(RuntimeError, f"all tensors must be on the same device: {func} at {_line()}")

    def _refuse(self, kind: Callable[[str], Exception], reason: str) -> NoReturn:
        self.waits.refused.append(reason)
        raise kind(reason)

    def _count(
        self, name: str, args: Any, kwargs: dict[str, Any], asked: torch.device | None, here: bool
    ) -> None:
        if name == "copy_":
            source, target = isinstance(args[1], _Pretended), isinstance(args[0], _Pretended)
        elif name == "_to_copy":
            source, target = here, here if asked is None else asked.type == DEVICE.type
        else:
            source = target = here
        if source and not target:
            self.waits.looks[f"copy to the CPU at {_line()}"] += 1
        elif target and not source:
            self.waits.copies[f"copy to the device at {_line()}"] += 1
        elif here and _looks(name, args, kwargs):
            self.waits.looks[f"{name} at {_line()}"] += 1


def _looks(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """The size or the kind of what comes out follows from values."""
    if name in _INDEXING:
        return any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
    return name in _LOOKS or (name == "repeat_interleave" and kwargs.get("output_size") is None)


def _active() -> Pretend:
    if not Pretend._stack:
        raise RuntimeError("A tensor of the pretend device is used outside of Pretend.")
    return Pretend._stack[-1]


def _value(item: Any) -> Any:
    return item.value if isinstance(item, _Pretended) else item


def _line() -> str:
    """The line of the project that is at work."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = Path(frame.f_code.co_filename)
        if any(part in _SOURCES for part in path.parts):
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "the test"
