"""Proofs that no adversarial example exists: bounds, Lipschitz constants, certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.bounds.certificate import Certificate as Certificate
    from robustbench_lite.bounds.certifier import Certifier as Certifier
    from robustbench_lite.bounds.certify import METHODS as METHODS
    from robustbench_lite.bounds.lipschitz import lipschitz_constant as lipschitz_constant

_HOMES = {
    "Certificate": "bounds.certificate",
    "Certifier": "bounds.certifier",
    "METHODS": "bounds.certify",
    "lipschitz_constant": "bounds.lipschitz",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
