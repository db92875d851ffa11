"""What a defense may change, and what it must declare; what a defense is written with.

A defense is a :class:`Defense`: it may take part in training, stand around the network at
inference, say what an attacker must know (:class:`Traits`), and certify. Names are imported when
they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.defense.protocol import Defense as Defense
    from robustbench_lite.defense.protocol import TrainingBatch as TrainingBatch
    from robustbench_lite.model.defended import DefendedModel as DefendedModel
    from robustbench_lite.model.defended import Traits as Traits
    from robustbench_lite.model.defended import Wrapper as Wrapper

_HOMES = {
    "DefendedModel": "model.defended",
    "Defense": "defense.protocol",
    "TrainingBatch": "defense.protocol",
    "Traits": "model.defended",
    "Wrapper": "model.defended",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
