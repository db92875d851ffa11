"""What plug-ins are called, in tables and in records."""

from __future__ import annotations

from typing import Any

from robustbench_lite import registry
from robustbench_lite.defense.composition import Composition


def registered_name(kind: registry.Kind, plugin: Any) -> str:
    """Find the name that a plug-in is registered under, ``source:name``, or ``module:Class``."""
    if isinstance(plugin, Composition):
        return "+".join(registered_name(kind, part) for part in plugin.parts)
    if registry.of_source(kind, plugin.name):
        return str(plugin.name)
    path = f"{type(plugin).__module__}:{type(plugin).__qualname__}"
    known = registry.targets(registry.kind_of(kind, plugin.name))
    return next((name for name, target in known.items() if target == path), path)


def short_label(kind: registry.Kind, plugin: Any) -> str:
    """Write a plug-in as a user would, without what is at its default: ``pgd steps=10``."""
    if isinstance(plugin, Composition):
        labels = [short_label(kind, part) for part in plugin.parts]
        return (" + " if any(" " in label for label in labels) else "+").join(labels)
    words = [registered_name(kind, plugin)]
    for field in registry.hyperparameters(plugin):
        value = getattr(plugin, field.name)
        if value != field.default:
            words.append(f"{field.name}={value}")
    return " ".join(words)
