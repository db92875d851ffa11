"""robustbench_lite: how robust is this image classifier, really, and can anyone check it?

``import robustbench_lite as rbl`` is cheap: torch is imported when a name that needs it is first
used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite import errors as errors
from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.bounds.certify import Certificate as Certificate
    from robustbench_lite.defense.protocol import Defense as Defense
    from robustbench_lite.evaluation.api import certify as certify
    from robustbench_lite.evaluation.api import evaluate as evaluate
    from robustbench_lite.evaluation.report import Cell as Cell
    from robustbench_lite.evaluation.report import Report as Report
    from robustbench_lite.evaluation.settings import Settings as Settings
    from robustbench_lite.search.attack import Attack as Attack
    from robustbench_lite.sources.dataset import Dataset as Dataset
    from robustbench_lite.sources.load_data import load_dataset as load_dataset
    from robustbench_lite.sources.models import reference_model as reference_model
    from robustbench_lite.threat import ThreatModel as ThreatModel
    from robustbench_lite.training.trainer import Recipe as Recipe
    from robustbench_lite.training.trainer import train as train
    from robustbench_lite.verification.examine import Verification as Verification
    from robustbench_lite.verification.verify import verify as verify

__version__ = "0.1.0"

_HOMES = {
    "Attack": "search.attack",
    "Cell": "evaluation.report",
    "Certificate": "bounds.certify",
    "Dataset": "sources.dataset",
    "Defense": "defense.protocol",
    "Recipe": "training.trainer",
    "Report": "evaluation.report",
    "Settings": "evaluation.settings",
    "ThreatModel": "threat",
    "certify": "evaluation.api",
    "evaluate": "evaluation.api",
    "load_dataset": "sources.load_data",
    "reference_model": "sources.models",
    "Verification": "verification.examine",
    "train": "training.trainer",
    "verify": "verification.verify",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
__all__ += ["errors"]
