"""Registered suites by class name: ``from robustbench_lite.suites import Standard`` imports that
plug-in and no other.
"""

from __future__ import annotations

from robustbench_lite._facade import facade

__getattr__, __all__ = facade("suite")


def __dir__() -> list[str]:
    return list(__all__)
