"""Attacks of Foolbox behind this project's oracle, judge and records.

Rauber et al. 2020, "Foolbox Native: Fast adversarial attacks to benchmark the robustness of machine
learning models in PyTorch, TensorFlow, and JAX", Journal of Open Source Software 5(53), 2607. The
attacks' own papers are named in their docstrings.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
import traceback
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version as installed_version
from typing import Any, ClassVar

from torch import Tensor, nn

from rbl_attacks.foolbox.description import docstring_of, fields_of, paper_of
from rbl_attacks.foolbox.table import Entry
from robustbench_lite.errors import UsageError
from robustbench_lite.search import Access
from robustbench_lite.search.driven import DrivenAttack
from robustbench_lite.threat import ThreatModel

with warnings.catch_warnings():
    # foolbox 3.3.4 imports a SciPy module by its old name.
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox
    from foolbox.models.pytorch import PyTorchModel

ADAPTER_VERSION = 1
_BUDGETS = ("restarts", "steps", "binary_search_steps", "repeats")
"""Of 0 or fewer Foolbox itself makes a search that finds nothing."""
_GAVE_UP = re.compile(r"init_attack failed|Gradient vanished")
"""How a Foolbox attack says that it found no way on: a search without success, and no error."""
_START_FAILED = re.compile(r"assert .*\bis_adv(ersarial)?\(")
"""How it says that it found no place to start from."""


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(DrivenAttack):
    """Base of the classes that ``attack_class`` makes, one a Foolbox attack.

    Their fields are the arguments of its constructor.
    """

    foolbox_class: ClassVar[Any]

    restarts: int = 1

    def __post_init__(self) -> None:
        for field in _BUDGETS:
            value = getattr(self, field, None)
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{self.name} needs {field} of at least 1, not {value}.")
        self.build(None)  # what its constructor refuses is refused now

    def build(self, threat: ThreatModel | None) -> Any:
        """Make the attack as an object of foolbox."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "restarts"]
        values = {name: getattr(self, name) for name in names}
        takes = inspect.signature(self.foolbox_class.__init__).parameters
        if threat is not None and "constraint" in takes:
            values["constraint"] = threat.norm.name
        return self.foolbox_class(**values)

    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel
    ) -> Tensor | None:
        wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
        criterion: foolbox.criteria.Criterion = foolbox.criteria.Misclassification(y)
        if int(target) >= 0:
            criterion = foolbox.criteria.TargetedMisclassification(target)
        radius = {"epsilon": threat.radius} if self.kind == "fixed_eps" else {}
        try:
            with _spare_root_logger():
                return self.build(threat).run(wrapped, x, criterion, **radius)  # type: ignore[no-any-return]
        except (AssertionError, RuntimeError, ValueError) as error:
            if _gave_up(error):
                return None
            raise


def _gave_up(error: Exception) -> bool:
    """Tell a search that found no start, or no way on, from a mistake."""
    if isinstance(error, AssertionError):
        # Foolbox's assertions carry no message: the line says what it is about.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "foolbox" in frame.filename and bool(_START_FAILED.search(frame.line or ""))
    return bool(_GAVE_UP.search(str(error)))


@contextmanager
def _spare_root_logger() -> Iterator[None]:
    """Take away the handlers that the root logger gets meanwhile.

    Some attacks log through it, which gives it one where the program has set up none.
    """
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        yield
    finally:
        for handler in [h for h in root.handlers if h not in before]:
            root.removeHandler(handler)


@cache
def attack_class(name: str, entry: Entry) -> type[FoolboxAttack]:
    """Make a dataclass with the hyper-parameters of ``foolbox.attacks.<name>`` as fields."""
    target = getattr(foolbox.attacks, name)
    members = {
        "__module__": __name__,
        "__doc__": docstring_of(target),
        "paper": paper_of(target),
        "foolbox_class": target,
        "name": f"foolbox:{name}",
        "version": _version(),
        "access": Access[entry.access.upper()],
        "norms": entry.norms,
        "kind": entry.kind,
        "targeted": entry.targeted,
    }
    made = dataclasses.make_dataclass(
        name,
        fields_of(target),
        bases=(FoolboxAttack,),
        namespace=members,
        frozen=True,
        kw_only=True,
    )
    return typing.cast("type[FoolboxAttack]", made)


def _version() -> int:
    """Put the adapter's version and Foolbox's into one number, 1_030304.

    Another Foolbox may give other verdicts.
    """
    parts = [int(part) for part in re.findall(r"\d+", installed_version("foolbox"))[:3]]
    major, minor, patch = [*parts, 0, 0, 0][:3]
    return ADAPTER_VERSION * 1_000_000 + major * 10_000 + minor * 100 + patch
