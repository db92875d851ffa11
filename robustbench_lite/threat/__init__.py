"""What the adversary may do: norms, goals and the threat model that joins them."""

from robustbench_lite.threat.goals import Goal, Targeted, Untargeted, goal_from
from robustbench_lite.threat.model import ThreatModel
from robustbench_lite.threat.norms import L0, L1, L2, NORMS, Linf, Norm, norm_by_name

__all__ = [
    "L0",
    "L1",
    "L2",
    "NORMS",
    "Goal",
    "Linf",
    "Norm",
    "Targeted",
    "ThreatModel",
    "Untargeted",
    "goal_from",
    "norm_by_name",
]
