"""robustbench_lite: how robust is this image classifier, really, and can anyone check it?

``import robustbench_lite as rbl`` is cheap: torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite import errors as errors
from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.bounds.certify import Certificate as Certificate
    from robustbench_lite.defense import Defense as Defense
    from robustbench_lite.evaluation import evaluate as evaluate
    from robustbench_lite.proving import certify as certify
    from robustbench_lite.report import Cell as Cell
    from robustbench_lite.report import Report as Report
    from robustbench_lite.search.attack import Attack as Attack
    from robustbench_lite.settings import Settings as Settings
    from robustbench_lite.sources.datasets import Dataset as Dataset
    from robustbench_lite.sources.datasets import load_dataset as load_dataset
    from robustbench_lite.sources.models import reference_model as reference_model
    from robustbench_lite.threat import ThreatModel as ThreatModel
    from robustbench_lite.training import Recipe as Recipe
    from robustbench_lite.training import train as train
    from robustbench_lite.verification import Verification as Verification
    from robustbench_lite.verification import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "Attack": "search.attack",
    "Cell": "report",
    "Certificate": "bounds.certify",
    "Dataset": "sources.datasets",
    "Defense": "defense",
    "Recipe": "training",
    "Report": "report",
    "Settings": "settings",
    "ThreatModel": "threat",
    "certify": "proving",
    "evaluate": "evaluation",
    "load_dataset": "sources.datasets",
    "reference_model": "sources.models",
    "Verification": "verification",
    "train": "training",
    "verify": "verification",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
__all__ += ["errors"]
