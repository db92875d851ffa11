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

from rbl_attacks.foolbox.catalogue import Entry
from robustbench_lite.errors import UsageError
from robustbench_lite.search.attack import Access
from robustbench_lite.search.driven import DrivenAttack
from robustbench_lite.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # foolbox 3.3.4 imports a SciPy module by its old name
    import foolbox
    from foolbox.models.pytorch import PyTorchModel

ADAPTER_VERSION = 1
#: Not for the user to choose: the threat model has norms and axes, and what is no plain value has
#: no place in a record.
_HIDDEN = {"self", "distance", "constraint", "channel_axis", "init_attack", "tensorboard"}
#: Of 0 or fewer Foolbox itself makes a search that finds nothing.
_BUDGETS = ("restarts", "steps", "binary_search_steps", "repeats")
#: How a Foolbox attack says that it found no place to start from, or no way on: a search without
#: success, and no error.
_GAVE_UP = re.compile(r"init_attack failed|Gradient vanished")
_START_FAILED = re.compile(r"assert .*\bis_adv(ersarial)?\(")


@dataclass(frozen=True, kw_only=True)
class FoolboxAttack(DrivenAttack):
    """Base of the classes that ``attack_class`` makes: one a Foolbox attack, with its constructor's
    arguments as fields.
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
        """The attack as an object of foolbox."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "restarts"
        }
        if (
            threat is not None
            and "constraint" in inspect.signature(self.foolbox_class.__init__).parameters
        ):
            values["constraint"] = threat.norm.name
        return self.foolbox_class(**values)

    def run(
        self, model: nn.Module, x: Tensor, y: Tensor, target: Tensor, threat: ThreatModel
    ) -> Tensor | None:
        wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
        aimed = int(target) >= 0
        criterion = (
            foolbox.criteria.TargetedMisclassification(target)
            if aimed
            else foolbox.criteria.Misclassification(y)
        )
        radius = {"epsilon": threat.radius} if self.kind == "fixed_eps" else {}
        try:
            with _root_logger_left_alone():
                return self.build(threat).run(wrapped, x, criterion, **radius)  # type: ignore[no-any-return]
        except (AssertionError, RuntimeError, ValueError) as error:
            if _gave_up(error):
                return None
            raise


def _gave_up(error: Exception) -> bool:
    if isinstance(error, AssertionError):
        # Foolbox's assertions carry no message: the line says whether it is about the start or
        # about a mistake.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "foolbox" in frame.filename and bool(_START_FAILED.search(frame.line or ""))
    return bool(_GAVE_UP.search(str(error)))


@contextmanager
def _root_logger_left_alone() -> Iterator[None]:
    """Some attacks log through the root logger, which gives it a handler where the program has set
    up none.
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
    """A dataclass with the hyper-parameters of ``foolbox.attacks.<name>`` as fields."""
    target = getattr(foolbox.attacks, name)
    members = {
        "__module__": __name__,
        "__doc__": _docstring(target),
        "paper": _paper(target),
        "foolbox_class": target,
        "name": f"foolbox:{name}",
        "version": _version(),
        "access": Access[entry.access.upper()],
        "norms": entry.norms,
        "kind": entry.kind,
        "targeted": entry.targeted,
    }
    made = dataclasses.make_dataclass(
        name, _fields(target), bases=(FoolboxAttack,), namespace=members, frozen=True, kw_only=True
    )
    return typing.cast("type[FoolboxAttack]", made)


def _fields(target: Any) -> list[Any]:
    """(name, type, default) of the hyper-parameters, read from the constructor."""
    if not inspect.isfunction(target.__init__):  # inherited from object: nothing to choose
        return []
    hints = typing.get_type_hints(target.__init__)
    fields: list[Any] = []
    for parameter in inspect.signature(target.__init__).parameters.values():
        if parameter.name in _HIDDEN:
            continue
        kind = hints[parameter.name]
        default = parameter.default
        if default is parameter.empty:
            fields.append((parameter.name, kind))
        else:  # 0 and 0.0 would make two keys of one cell
            fields.append(
                (
                    parameter.name,
                    kind,
                    dataclasses.field(default=float(default) if kind is float else default),
                )
            )
    return fields


def _version() -> int:
    """The adapter's version and Foolbox's in one number, 1_030304: another Foolbox may give other
    verdicts.
    """
    parts = [int(part) for part in re.findall(r"\d+", installed_version("foolbox"))[:3]]
    major, minor, patch = [*parts, 0, 0, 0][:3]
    return ADAPTER_VERSION * 1_000_000 + major * 10_000 + minor * 100 + patch


def _paper(target: Any) -> str:
    found = re.search(r"arxiv\.org/abs/([\d.]+\d)", inspect.getdoc(target) or "")
    return (
        f"{f'arXiv:{found[1]}, ' if found else ''}as in Foolbox (Rauber et al. 2020, JOSS 5(53), "
        "2607)"
    )


def _docstring(target: Any) -> str:
    """Foolbox's own text, with its arguments written as ours are (``steps: ...``)."""
    return re.sub(r"^( +\w+) +: ?", r"\1: ", inspect.getdoc(target) or "", flags=re.MULTILINE)
