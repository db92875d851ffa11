"""What ``rbl evaluate`` and ``rbl attack`` cross: attacks, defenses, images. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustbench_lite.cli import arguments
from robustbench_lite.cli.arguments import ImageSource, Note
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.registry import Trust
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Attacks and defenses as they were typed, with all that says what they meet."""

    attacks: Sequence[str]
    defenses: Sequence[str] | None
    """``None``: the one that the network was trained with."""
    norm: str
    eps: str | None
    targeted: str | None
    model: str | None
    weights: Path | None
    images: ImageSource
    trust: Callable[[str], Trust]
    """What the names in the value of an option may lead to."""

    def plan(self, settings: Settings, note: Note) -> Plan:
        """Load and check everything; ``note`` is told of what ``all`` leaves out."""
        eps = arguments.radius(self.eps, self.norm, self.images.dataset)
        threat = ThreatModel.parse(self.norm, eps, self.targeted)
        attacks = arguments.attacks(self.attacks, threat, note, self.trust("attack"))
        data = self.images.load()
        network = arguments.network_from(self.model, self.weights, self.trust("model"))
        subjects = arguments.subjects(self.defenses, data, network, note, self.trust("defense"))
        plan = Plan(subjects=subjects, attacks=attacks, data=data, threat=threat)
        plan = arguments.add_fit_data(plan, self.attacks, self.images, note)
        return arguments.calibrate(plan, self.images, settings)
