"""What a traced call of a network does, and to which values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from robustbench_lite.model.fast.neighbours.arithmetic import call_of_arithmetic
from robustbench_lite.model.fast.neighbours.calls import call_of_function, name_of, writes
from robustbench_lite.model.fast.neighbours.layers import call_of_module, is_hooked
from robustbench_lite.model.fast.neighbours.operations import Call
from robustbench_lite.model.fast.neighbours.rules import Unfit
from robustbench_lite.model.fast.neighbours.values import Fact, Windowed


class Application(NamedTuple):
    """A call, and the values that it takes."""

    call: Call
    among: list[Windowed]


class Reader:
    """Reads the calls of ``root``, where what they take is in ``values`` by then."""

    def __init__(
        self,
        root: nn.Module,
        not_followed: Mapping[str, str],
        values: Mapping[fx.Node, Windowed | Fact],
    ) -> None:
        self.root = root
        self.not_followed = not_followed
        self.values = values

    def module_of(self, node: fx.Node) -> nn.Module:
        """Find the module that ``node`` calls."""
        return self.root.get_submodule(str(node.target))

    def writes(self, node: fx.Node) -> bool:
        """Tell whether ``node`` writes its result over its first argument."""
        if node.op == "call_module":
            return bool(getattr(self.module_of(node), "inplace", False))
        return writes(node.target, node.kwargs, node.args)

    def evaluate(self, node: fx.Node) -> Any:
        """Run ``node`` on the probes."""

        def plain(source: fx.Node) -> Any:
            value = self.values[source]
            return value.value if isinstance(value, Fact) else value.shown

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), plain)
        if node.op == "call_module":
            return self.module_of(node)(*args, **kwargs)
        if callable(node.target):
            return node.target(*args, **kwargs)
        return getattr(args[0], node.target)(*args[1:], **kwargs)

    def read(self, node: fx.Node) -> Application:
        """Find out what ``node`` does, and to which values.

        Raises:
            Unfit: windows have no rule for it.
        """
        args = list(node.args) or [value for key, value in node.kwargs.items() if key == "input"]
        operands = [self.values[arg] if isinstance(arg, fx.Node) else arg for arg in args]
        among = [value for value in operands if isinstance(value, Windowed)]
        shapes = [value.shown.shape for value in among]
        if node.op == "call_module":
            alone = len(among) == len(operands) and not node.kwargs
            return Application(self._of_module(node, shapes, alone), among)
        call = None
        if len(args) == 2 and not node.kwargs and len({tuple(shape) for shape in shapes}) == 1:
            left, right = (
                None if isinstance(value, Windowed) else self._constant(arg)
                for arg, value in zip(args, operands, strict=True)
            )
            call = call_of_arithmetic(node.target, left, right, shapes[0])
        if call is None and len(among) == 1 and operands[0] is among[0]:
            call = self._of_function(node, args[1:], shapes[0])
        if call is None:
            raise Unfit("has no rule for windows")
        return Application(call, among)

    def _of_module(self, node: fx.Node, shapes: list[torch.Size], alone: bool) -> Call:
        """Read a module, called with tensors of ``shapes``, and ``alone`` with them."""
        module = self.module_of(node)
        call = call_of_module(module, shapes) if alone else None
        if call is not None:
            return call
        if is_hooked(module):
            raise Unfit("has hooks")
        reason = self.not_followed.get(str(node.target), "has no rule for windows")
        raise Unfit(f"({type(module).__name__}) {reason}")

    def _of_function(self, node: fx.Node, later: list[Any], shape: torch.Size) -> Call | None:
        """Read a function of a tensor of ``shape``; ``later`` are the arguments behind it."""
        resized = name_of(node.target) in ("view", "reshape")
        rest, kwargs = fx.node.map_arg(
            (tuple(later), node.kwargs), lambda source: self._constant(source, resized)
        )
        kwargs = {key: value for key, value in kwargs.items() if key != "input"}
        return call_of_function(node.target, rest, kwargs, shape)

    def _constant(self, arg: Any, resized: bool = False) -> Any:
        """Give ``arg`` where it depends on nothing; where something is ``resized``, on no image.

        Raises:
            Unfit: it depends on more.
        """
        value = self.values[arg] if isinstance(arg, fx.Node) else Fact(arg, fixed=True)
        if not isinstance(value, Fact) or not (value.fixed or resized):
            raise Unfit("depends on the image in more than one way")
        return value.value
