"""What a number is: float32 that is float32, float64 that is there, and generators that nobody else
notices.

torch lets an accelerator round the factors of a convolution to ten bits (TF32) and choose among
kernels whose sums come in any order. Both are settings of the process. ``exact`` holds them still
while a network is asked, and puts back what the user had.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")


class _Setting(NamedTuple):
    """A setting of the process: how it is read and written, and the values that are as we want it,
    the first to be written.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    exact: tuple[Any, ...]

    def holds(self) -> bool:
        return self.read() in self.exact


def _attribute(path: str, *exact: Any) -> _Setting:
    """A setting that is an attribute below ``torch.backends``."""
    *modules, name = path.split(".")
    owner = functools.reduce(getattr, modules, torch.backends)
    return _Setting(
        path, lambda: getattr(owner, name), lambda value: setattr(owner, name, value), exact
    )


def _precision(name: str, backend: str, operation: str) -> _Setting:
    """A setting that came with torch 2.9. ``torch.backends`` takes a microsecond to read it, what
    lies below a tenth.
    """
    public = _attribute(f"{name}.fp32_precision", "ieee", "none")
    read = getattr(torch._C, "_get_fp32_precision_getter", None)
    return (
        public
        if read is None
        else public._replace(read=functools.partial(read, backend, operation))
    )


_MATMUL = _Setting(
    "float32_matmul_precision",
    torch.get_float32_matmul_precision,
    torch.set_float32_matmul_precision,
    ("highest",),
)
_OLD = (_attribute("cudnn.allow_tf32", False), _MATMUL)
"""What torch had before 2.9, and still keeps beside the settings that came then."""
_NEW_NAMES = (
    ("cudnn.conv", "cuda", "conv"),
    ("cudnn.rnn", "cuda", "rnn"),
    ("cuda.matmul", "cuda", "matmul"),
    ("mkldnn.conv", "mkldnn", "conv"),
    ("mkldnn.rnn", "mkldnn", "rnn"),
    ("mkldnn.matmul", "mkldnn", "matmul"),
)
_HAS_NEW = hasattr(getattr(torch.backends.cudnn, "conv", None), "fp32_precision")
_PRECISION = tuple(_precision(*names) for names in _NEW_NAMES) if _HAS_NEW else _OLD
_KERNELS = (_attribute("cudnn.deterministic", True), _attribute("cudnn.benchmark", False))


class _Held:
    """Who is inside of ``exact`` now, in all threads together, and what the user had before the
    first of them.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.before: list[tuple[_Setting, Any]] = []

    def enter(self) -> None:
        with self.lock:
            self.depth += 1
            if not all(setting.holds() for setting in (*_KERNELS, *_PRECISION)):
                self._hold()

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if not self.depth and self.before:
                self._put_back()

    def _hold(self) -> None:
        # What came with torch 2.9 refuses to be read under its old name once both names have been
        # written to.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = (*_KERNELS, *(_OLD if _HAS_NEW else ()), *_PRECISION)
            known = {setting.name for setting, _ in self.before}
            found = [(setting, _read(setting)) for setting in both if setting.name not in known]
            self.before += [
                (setting, value)
                for setting, value in found
                if value is not None and value not in setting.exact
            ]
            for setting in both:
                value = _read(setting)
                if value is not None and value not in setting.exact:
                    setting.write(setting.exact[0])

    def _put_back(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for setting, value in self.before:
                # What stood at another setting's value goes on doing so.
                if setting.name.endswith("fp32_precision") and setting.read() != value:
                    setting.write("none")
                if setting.read() != value:
                    setting.write(value)
            self.before = []


def _read(setting: _Setting) -> Any:
    """Its value; None where torch cannot say, because old and new names contradict each other."""
    try:
        return setting.read()
    except RuntimeError:
        return None


_held = _Held()


class exact:
    """Inside, float32 is not rounded further and convolutions take kernels that repeat themselves.

    Set are, for the whole process: no TF32 (nor bfloat16) in convolutions, recurrent layers and
    matrix products, on CUDA and in oneDNN; ``cudnn.deterministic``; no ``cudnn.benchmark``. It
    nests, across threads too: the last one out puts back what was there before the first. Where
    everything is so already, it costs a few microseconds and writes nothing.
    """

    def __enter__(self) -> None:
        _held.enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _held.leave()


def exactly(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` inside of ``exact``; a generator between its yields only, so that its caller has
    settings of its own.
    """
    if not inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with exact():
                return function(*args, **kwargs)

        return called

    @functools.wraps(function)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        items = function(*args, **kwargs)
        try:
            while True:
                try:
                    with exact():
                        item = next(items)
                except StopIteration:
                    return
                yield item
        finally:
            items.close()

    return steps  # type: ignore[return-value]


def settings_of(device: torch.device) -> dict[str, str] | None:
    """What numbers on ``device`` depend on beside the versions: the settings in force and its
    libraries; None on a CPU.
    """
    if device.type == "cpu":
        return None
    found = {
        setting.name: str(_read(setting))
        for setting in (*_KERNELS, *_PRECISION)
        if not setting.name.startswith("mkldnn")
    }
    if device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found


def name_of(device: torch.device) -> str:
    """``cpu``, or the kind of an accelerator with the card that it is: ``cuda: NVIDIA H100 80GB
    HBM3``.
    """
    named = getattr(_module_of(device), "get_device_name", None)
    return f"{device.type}: {named(device)}" if callable(named) else device.type


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of ``module`` lie, or else its buffers; the CPU where it has neither."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


@functools.cache
def has_float64(kind: str) -> bool:
    """Devices of this type can hold float64; MPS cannot."""
    try:
        torch.zeros((), device=kind).double()
    except (TypeError, RuntimeError):
        return False
    return True


def in_float64(tensor: Tensor) -> Tensor:
    """``tensor`` in float64: where it lies, or on the CPU where there is no float64."""
    return (tensor if has_float64(tensor.device.type) else tensor.cpu()).double()


def proving_device(device: torch.device) -> torch.device:
    """Where to bound a network that is searched on ``device``: there, or on the CPU where there is
    no float64.
    """
    return device if has_float64(device.type) else torch.device("cpu")


@contextmanager
def own_generators(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, torch's global generators of the CPU and of ``device`` follow from ``seed``;
    afterwards they are put back.

    Those of other devices are not touched.
    """
    device = torch.device(device)
    module = _module_of(device)
    kept = torch.get_rng_state()
    there = None if module is None else _state(module, device)
    try:
        torch.default_generator.manual_seed(seed)
        if module is not None and there is not None:
            _seed(module, device, seed)
        yield
    finally:
        torch.set_rng_state(kept)
        if module is not None and there is not None:
            module.set_rng_state(there, *_place(device))


def _module_of(device: torch.device) -> Any:
    """``torch.cuda`` and the like; None for a CPU."""
    return None if device.type == "cpu" else getattr(torch, device.type, None)


def _place(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # there is but one


def _state(module: Any, device: torch.device) -> Tensor | None:
    found: Tensor | None = (
        module.get_rng_state(*_place(device)) if hasattr(module, "get_rng_state") else None
    )
    return found


def _seed(module: Any, device: torch.device, seed: int) -> None:
    if device.type == "mps":
        module.manual_seed(seed)
        return
    with getattr(module, "device", nullcontext)(device):
        module.manual_seed(seed)
