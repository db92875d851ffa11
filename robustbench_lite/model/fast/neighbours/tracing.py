"""torch.fx follows a network's forward down to the calls that windows may know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from robustbench_lite.model.fast.neighbours.layers import is_hooked
from robustbench_lite.model.layers import ConvexAggregation, Pointwise


class Tracer(fx.Tracer):
    """A module that somebody listens to, or whose forward cannot be followed, stays one call."""

    def __init__(self) -> None:
        super().__init__(param_shapes_constant=True)
        self.not_followed: dict[str, str] = {}
        """Why, by the module's name."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return (
            is_hooked(module)
            or isinstance(module, Pointwise | ConvexAggregation)
            or super().is_leaf_module(module, name)
        )

    def call_module(
        self,
        module: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        made = len(self.graph.nodes)
        stack = self.module_stack.copy()
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception as error:  # noqa: BLE001 -- whatever the network's own code raises when it meets a symbol
            for node in reversed(list(self.graph.nodes)[made:]):
                self.graph.erase_node(node)
            self.module_stack = stack
            name = self.path_of_module(module)
            self.not_followed[name] = (
                f"cannot be followed ({(str(error) or type(error).__name__).splitlines()[0]})"
            )
            return self.create_proxy("call_module", name, args, kwargs)


def asks_shape(node: fx.Node) -> bool:
    """Tell whether the result depends on nothing but the shape, or the like, of a tensor."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "ndimension", "numel")
    return node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")


def place_of(node: fx.Node) -> str:
    """Say in words where in the network ``node`` is."""
    if node.op != "call_module":
        return f"{node.name}()"
    if node.target == "0":  # the network is the only child of what was traced
        return "the network"
    return f"layer {str(node.target).removeprefix('0.')!r}"
