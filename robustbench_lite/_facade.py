"""Names that are imported when they are first used: those of plug-ins, and a room's public ones."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from robustbench_lite import registry


class Facade(NamedTuple):
    """``__getattr__`` and ``__all__`` of a module of plug-ins."""

    get: Callable[[str], Any]
    """Loads the registered class of a name."""
    names: list[str]
    """Those that it knows, sorted."""


class Face(NamedTuple):
    """``__getattr__``, ``__dir__`` and ``__all__`` of a room."""

    get: Callable[[str], Any]
    """Finds a name in the core module of its home."""
    list_names: Callable[[], list[str]]
    names: list[str]
    """Those that it knows, sorted."""


def facade(kind: registry.Kind) -> Facade:
    """Make the module of all registered plug-ins of ``kind``."""
    from robustbench_lite import registry  # a face needs none of it

    classes = {target.partition(":")[2]: name for name, target in registry.targets(kind).items()}

    def get(class_name: str) -> Any:
        if class_name not in classes:
            raise AttributeError(
                f"No registered {kind} class is named {class_name!r}. Known: "
                f"{', '.join(sorted(classes))}."
            )
        return registry.load(kind, classes[class_name])

    return Facade(get, sorted(classes))


def face(package: str, homes: Mapping[str, str]) -> Face:
    """Make the public names of ``package``; ``homes``: name -> core module that defines it."""
    names = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}"
            )
        return getattr(importlib.import_module(f"robustbench_lite.{homes[name]}"), name)

    return Face(get, lambda: [*vars(sys.modules[package]), *names], names)
