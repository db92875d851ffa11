"""How an adversarial is looked for; what an attack is written with.

An attack is an :class:`Attack` with its :class:`State`: it asks with a :class:`Query` and is told an :class:`Answer`. Names are
imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.search.attack import Access as Access
    from robustbench_lite.search.attack import Answer as Answer
    from robustbench_lite.search.attack import Attack as Attack
    from robustbench_lite.search.attack import Fit as Fit
    from robustbench_lite.search.attack import FittedAttack as FittedAttack
    from robustbench_lite.search.attack import Neighbours as Neighbours
    from robustbench_lite.search.attack import Query as Query
    from robustbench_lite.search.attack import State as State
    from robustbench_lite.search.attack import UniversalAttack as UniversalAttack
    from robustbench_lite.search.defended import DefendedModel as DefendedModel
    from robustbench_lite.search.defended import FastPath as FastPath
    from robustbench_lite.search.defended import Pointwise as Pointwise
    from robustbench_lite.search.defended import Traits as Traits
    from robustbench_lite.search.defended import Wrapper as Wrapper
    from robustbench_lite.search.looks import free_to_look as free_to_look
    from robustbench_lite.search.looks import surely_all as surely_all
    from robustbench_lite.search.looks import surely_none as surely_none
    from robustbench_lite.search.losses import cross_entropy as cross_entropy
    from robustbench_lite.search.losses import difference_of_logits_ratio as difference_of_logits_ratio
    from robustbench_lite.search.losses import margin as margin
    from robustbench_lite.search.losses import margin_loss as margin_loss
    from robustbench_lite.search.rng import SampleRng as SampleRng
    from robustbench_lite.search.rows import Rows as Rows

_HOMES = {
    "Access": "attack",
    "Answer": "attack",
    "Attack": "attack",
    "DefendedModel": "defended",
    "FastPath": "defended",
    "Fit": "attack",
    "FittedAttack": "attack",
    "Neighbours": "attack",
    "Pointwise": "defended",
    "Query": "attack",
    "Rows": "rows",
    "SampleRng": "rng",
    "State": "attack",
    "Traits": "defended",
    "UniversalAttack": "attack",
    "Wrapper": "defended",
    "cross_entropy": "losses",
    "difference_of_logits_ratio": "losses",
    "free_to_look": "looks",
    "margin": "losses",
    "margin_loss": "losses",
    "surely_all": "looks",
    "surely_none": "looks",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
