"""What a number is: float32 that is float32.

torch lets an accelerator round the factors of a convolution to ten bits (TF32) and choose among
kernels whose sums come in any order. Both are settings of the process. ``exact`` holds them still
while a network is asked, and puts back what the user had.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class _Setting(NamedTuple):
    """A setting of the process."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    exact: tuple[Any, ...]
    """The values that are as we want it, the first to be written."""

    def holds(self) -> bool:
        """Tell whether it is as we want it."""
        return self.read() in self.exact


def _attribute(path: str, *exact: Any) -> _Setting:
    """Make a setting of an attribute below ``torch.backends``."""
    *modules, name = path.split(".")
    owner = functools.reduce(getattr, modules, torch.backends)
    return _Setting(
        name=path,
        read=lambda: getattr(owner, name),
        write=lambda value: setattr(owner, name, value),
        exact=exact,
    )


def _precision(name: str, backend: str, operation: str) -> _Setting:
    """Make a setting of what came with torch 2.9.

    ``torch.backends`` takes a microsecond to read it, what lies below a tenth.
    """
    public = _attribute(f"{name}.fp32_precision", "ieee", "none")
    read = getattr(torch._C, "_get_fp32_precision_getter", None)
    if read is None:
        return public
    return public._replace(read=functools.partial(read, backend, operation))


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
    """Who is inside of ``exact`` now, in all threads together.

    It knows what the user had before the first of them.
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
    """Read its value; None where torch cannot say, because old and new names disagree."""
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
    """Run ``function`` inside of ``exact``.

    A generator is inside between its yields only, so that its caller has settings of its own.
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
    """Read what numbers on ``device`` depend on beside the versions.

    Returns:
        The settings in force and its libraries; None on a CPU.
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
