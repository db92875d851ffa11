"""Names that are imported when they are first used: those of plug-ins, and the public ones of a
room.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_lite import registry


def facade(kind: registry.Kind) -> tuple[Callable[[str], Any], list[str]]:
    """A module-level ``__getattr__`` that loads the registered class of a name, and the names it
    knows, sorted.
    """
    from robustbench_lite import registry  # a face needs none of it

    classes = {target.partition(":")[2]: name for name, target in registry.targets(kind).items()}

    def get(class_name: str) -> Any:
        if class_name not in classes:
            raise AttributeError(
                f"No registered {kind} class is named {class_name!r}. Known: "
                f"{', '.join(sorted(classes))}."
            )
        return registry.load(kind, classes[class_name])

    return get, sorted(classes)


def face(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__`` and ``__dir__`` of ``package``, which find a name in the core module of its
    home; the names, sorted.
    """
    names = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; it has {', '.join(names)}"
            )
        return getattr(importlib.import_module(f"robustbench_lite.{homes[name]}"), name)

    return get, lambda: [*vars(sys.modules[package]), *names], names
