"""Plug-ins by name, as package metadata has them: listing them imports no plug-in and no torch.

A *source* brings many attacks or defenses at once, those of another package say, under names such
as ``foolbox:L2DeepFoolAttack``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.registry.trust import Trust

Kind = Literal["attack", "defense", "suite"]
"""A suite runs attacks one after the other; its name goes wherever that of an attack does."""


class Source(Protocol):
    """What the entry point of a source leads to, usually a module.

    Importing it and listing must not import what it wraps.
    """

    def catalogue(self) -> Mapping[str, str]:
        """Name -> one line on it."""

    def load(self, name: str) -> type[Any]:
        """Load the plug-in class of that name, which is called ``source:name``.

        Raises:
            UnknownNameError: there is none.
        """


_MARKS: dict[Kind, tuple[str, ...]] = {
    "attack": ("name", "version", "ask"),
    "defense": ("name", "version", "wrap"),
    "suite": ("name", "version", "ask", "stages"),
}
"""What every plug-in class has; looked for before anything is called that a file names."""


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"robustbench_lite.{kind}s")}


def names(kind: Kind) -> list[str]:
    """Registered names, sorted; imports no plug-in."""
    return sorted(_entries(kind))


def kind_of(kind: Kind, name: str) -> Kind:
    """Tell what ``name`` is where a ``kind`` is expected: a suite may stand for an attack."""
    return "suite" if kind == "attack" and name in _entries("suite") else kind


def targets(kind: Kind) -> dict[str, str]:
    """Name -> ``module:Class`` of every registered plug-in; imports none of them."""
    return {name: entry.value for name, entry in sorted(_entries(kind).items())}


@cache
def _source_entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"robustbench_lite.{kind}_sources")}


def sources(kind: Kind) -> list[str]:
    """Names of the registered sources, sorted."""
    return sorted(_source_entries(kind))


def source(kind: Kind, name: str) -> Source:
    """Load the source that is registered as ``name``."""
    return _source_entries(kind)[name].load()  # type: ignore[no-any-return]


def of_source(kind: Kind, name: str) -> bool:
    """Whether ``name`` reads ``source:name`` for a registered source."""
    return ":" in name and name.partition(":")[0] in _source_entries(kind)


def load(kind: Kind, name: str, trust: Trust = Trust.REGISTERED) -> type[Any]:
    """Load the class behind a name.

    Args:
        kind: what the name is of.
        name: a registered name, ``source:name``, or, with the ``trust`` for it, a
            ``package.module:Class`` path.
        trust: what the name may lead to.

    Raises:
        UsageError: there is no such class, or the trust is not enough.
    """
    kind = kind_of(kind, name)
    if of_source(kind, name):
        return source(kind, name.partition(":")[0]).load(name.partition(":")[2])
    if ":" in name:
        found = import_object(name, kind, trust)
    elif name not in _entries(kind):
        known = names(kind) + (names("suite") if kind == "attack" else [])
        raise UnknownNameError(kind, name, known)
    else:
        found = _entries(kind)[name].load()
    if not (isinstance(found, type) and all(hasattr(found, mark) for mark in _MARKS[kind])):
        raise UsageError(
            f"{name!r} is no {kind}: it must be a class derived from robustbench_lite's "
            f"{kind.title()}."
        )
    return found


def import_object(path: str, what: str, trust: Trust = Trust.REGISTERED) -> Any:
    """Import ``package.module:attribute``; the error says which half was not found.

    Raises:
        UsageError: ``trust`` is not enough, nothing is there, or the module fails as it is
        imported.
    """
    trust.require(Trust.INSTALLED, what, path)
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The {what} {path!r} cannot be imported: no module {error.name!r} is installed."
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"The {what} {path!r} cannot be imported: {reason}. Write package.module:Name."
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        public = [name for name in vars(module) if not name.startswith("_")]
        raise UnknownNameError(f"{what} in module {module_name}", attribute, public) from error
