"""Public imports of plug-in classes by name, without this package knowing any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from robustbench_lite import registry


def facade(kind: registry.Kind) -> tuple[Callable[[str], Any], list[str]]:
    """A module-level ``__getattr__`` that loads the registered class of a name, and the names it knows, sorted."""
    classes = {target.partition(":")[2]: name for name, target in registry.targets(kind).items()}

    def get(class_name: str) -> Any:
        if class_name not in classes:
            raise AttributeError(f"No registered {kind} class is named {class_name!r}. Known: {', '.join(sorted(classes))}.")
        return registry.load(kind, classes[class_name])

    return get, sorted(classes)
