"""How an adversarial is looked for; what an attack is written with.

An attack is an :class:`Attack` with its :class:`State`: it asks with a :class:`Query` and is told
an :class:`Answer`. Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite._facade import face

if TYPE_CHECKING:
    from robustbench_lite.model.defended import DefendedModel as DefendedModel
    from robustbench_lite.model.defended import FastPath as FastPath
    from robustbench_lite.model.defended import Traits as Traits
    from robustbench_lite.model.defended import Wrapper as Wrapper
    from robustbench_lite.model.layers import Pointwise as Pointwise
    from robustbench_lite.rows.looks import free_to_look as free_to_look
    from robustbench_lite.rows.looks import surely_all as surely_all
    from robustbench_lite.rows.looks import surely_none as surely_none
    from robustbench_lite.rows.losses import cross_entropy as cross_entropy
    from robustbench_lite.rows.losses import (
        difference_of_logits_ratio as difference_of_logits_ratio,
    )
    from robustbench_lite.rows.losses import logit_difference as logit_difference
    from robustbench_lite.rows.losses import margin as margin
    from robustbench_lite.rows.losses import margin_loss as margin_loss
    from robustbench_lite.rows.rng import SampleRng as SampleRng
    from robustbench_lite.rows.rows import Rows as Rows
    from robustbench_lite.search.adam import Moments as Moments
    from robustbench_lite.search.adam import adam_update as adam_update
    from robustbench_lite.search.attack import Attack as Attack
    from robustbench_lite.search.attack import Kind as Kind
    from robustbench_lite.search.attack import State as State
    from robustbench_lite.search.bracket import Bracket as Bracket
    from robustbench_lite.search.fitted import Fit as Fit
    from robustbench_lite.search.fitted import FittedAttack as FittedAttack
    from robustbench_lite.search.fitted import UniversalAttack as UniversalAttack
    from robustbench_lite.search.query import Access as Access
    from robustbench_lite.search.query import Answer as Answer
    from robustbench_lite.search.query import Neighbours as Neighbours
    from robustbench_lite.search.query import Query as Query
    from robustbench_lite.search.suite import Stage as Stage
    from robustbench_lite.search.suite import Suite as Suite
    from robustbench_lite.search.suite import WhenName as WhenName

_HOMES = {
    "Access": "search.query",
    "Answer": "search.query",
    "Attack": "search.attack",
    "Bracket": "search.bracket",
    "DefendedModel": "model.defended",
    "FastPath": "model.defended",
    "Fit": "search.fitted",
    "FittedAttack": "search.fitted",
    "Kind": "search.attack",
    "Moments": "search.adam",
    "Neighbours": "search.query",
    "Pointwise": "model.layers",
    "Query": "search.query",
    "Rows": "rows.rows",
    "SampleRng": "rows.rng",
    "Stage": "search.suite",
    "State": "search.attack",
    "Suite": "search.suite",
    "Traits": "model.defended",
    "UniversalAttack": "search.fitted",
    "WhenName": "search.suite",
    "Wrapper": "model.defended",
    "adam_update": "search.adam",
    "cross_entropy": "rows.losses",
    "difference_of_logits_ratio": "rows.losses",
    "free_to_look": "rows.looks",
    "logit_difference": "rows.losses",
    "margin": "rows.losses",
    "margin_loss": "rows.losses",
    "surely_all": "rows.looks",
    "surely_none": "rows.looks",
}
__getattr__, __dir__, __all__ = face(__name__, _HOMES)
