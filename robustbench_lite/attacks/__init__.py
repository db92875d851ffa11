"""Registered attacks by class name: ``from robustbench_lite.attacks import PGD`` imports that
plug-in and no other.
"""

from __future__ import annotations

from robustbench_lite._facade import facade

__getattr__, __all__ = facade("attack")


def __dir__() -> list[str]:
    return list(__all__)
