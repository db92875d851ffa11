"""robustbench_lite: how robust is this image classifier, really, and can anyone check it?

``import robustbench_lite as rbl`` is cheap: torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_lite.bounds.certify import Certificate as Certificate
    from robustbench_lite.defense import Defense as Defense
    from robustbench_lite.evaluation import evaluate as evaluate
    from robustbench_lite.proving import certify as certify
    from robustbench_lite.report import Cell as Cell
    from robustbench_lite.report import Report as Report
    from robustbench_lite.search.attack import Attack as Attack
    from robustbench_lite.sources.datasets import Dataset as Dataset
    from robustbench_lite.sources.datasets import load_dataset as load_dataset
    from robustbench_lite.sources.models import reference_model as reference_model
    from robustbench_lite.threat import ThreatModel as ThreatModel

__version__ = "0.1.0"

_HOMES = {
    "Attack": "search.attack",
    "Cell": "report",
    "Certificate": "bounds.certify",
    "Dataset": "sources.datasets",
    "Defense": "defense",
    "Report": "report",
    "ThreatModel": "threat",
    "certify": "proving",
    "evaluate": "evaluation",
    "load_dataset": "sources.datasets",
    "reference_model": "sources.models",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'robustbench_lite' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"robustbench_lite.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
