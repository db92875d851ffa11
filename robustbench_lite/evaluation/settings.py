"""How cells are run: what a caller chooses beside models, attacks and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.evaluation.claim import OWN
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.files.numerals import require_seed
from robustbench_lite.progress import Progress

_MOST = 2**31
"""Queries are counted in int32."""
OnError = Literal["raise", "record"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How cells are run.

    None of it but ``seed``, ``query_budget`` and ``certify`` goes into a cell's key.
    """

    seed: int = 0
    query_budget: int | None = None
    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    output: Path | None = None
    fresh: bool = False
    keep_adversarials: bool = False
    outputs: Outputs = "logits"
    on_error: OnError = "raise"
    on_progress: Callable[[Progress], None] | None = None
    plain: bool = False
    """Beside every attack on a defense that declares something, measure one that ignores it
    (``Identity.adaptive``).
    """
    certify: str = OWN
    """What samples are certified with before they are attacked: ``own`` (what the defense brings),
    ``off``, or a method.
    """
    certify_seconds: float | None = 300.0
    """Time for the certificate of one network; the rest counts as not certified. ``None``: as long
    as it takes.
    """

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and not (
            _is_whole(self.batch_size) and 1 <= self.batch_size < _MOST
        ):
            raise UsageError(
                f"batch_size is {self.batch_size!r}; it must be a whole number of at least 1, or "
                "'auto'."
            )
        if self.query_budget is not None and not (
            _is_whole(self.query_budget) and 1 <= self.query_budget < _MOST
        ):
            raise UsageError(
                f"query_budget is {self.query_budget!r}; it must be a whole number of at least 1, "
                "below 2**31."
            )
        require_seed(self.seed)
        if self.certify_seconds is not None and not self.certify_seconds > 0:
            raise UsageError(
                f"certify_seconds is {self.certify_seconds}; it must be above 0. To certify "
                "nothing: certify='off'."
            )
        for field, kind in (("outputs", Outputs), ("on_error", OnError)):
            if getattr(self, field) not in get_args(kind):
                raise UnknownNameError(field, str(getattr(self, field)), get_args(kind))

    @classmethod
    def of(cls, given: Mapping[str, Any], call: str, names: Collection[str] = ()) -> Settings:
        """Make the settings that were ``given`` to ``call`` as keywords.

        Args:
            given: name and value of each.
            call: what the user called, for the message.
            names: those that mean something to ``call``; all of them if there are none.

        Raises:
            UnknownNameError: ``call`` takes no setting of a name; says which it takes.
        """
        known = names or {field.name for field in dataclasses.fields(cls)}
        for name in given:
            if name not in known:
                raise UnknownNameError(f"setting of {call}", name, known)
        return cls(**given)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
