"""Plug-ins by name, and the text form of their hyper-parameters.

Attacks and defenses register through entry points, the built-in ones exactly as a third party's.
Listing names reads package metadata only: no plug-in and no torch is imported. A *source* brings
many attacks or defenses at once, those of another package say, under names such as
``foolbox:L2DeepFoolAttack``.

Any other name is code, and whether it may run is decided by where the text that has it came from:
see :class:`Trust`.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import shlex
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Protocol

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.files.numerals import convert
from robustbench_lite.files.numerals import parse_number as parse_number
from robustbench_lite.files.numerals import parse_whole as parse_whole

Kind = Literal["attack", "defense"]


class Trust(enum.IntEnum):
    """What a name may lead to, by where its text entered. Everything that takes one denies by
    default.
    """

    REGISTERED = 0
    """Text of a file, be it a board, a card, a record or a file of options: registered names and
    built-in networks.
    """
    INSTALLED = 1
    """Text that was typed, or passed by Python: ``package.module:Class`` too."""
    ANY = 2
    """Whatever the text came from, the user has said ``--allow-code``: ``file.py:factory`` too."""

    @property
    def in_files(self) -> Trust:
        """The same for names in a file that is named: who types the name of a card has not typed
        what stands in it.
        """
        return self if self == Trust.ANY else Trust.REGISTERED

    def require(self, needed: Trust, what: str, name: str) -> None:
        """Refuse ``name``, before anything of it is imported, unless this trust is at least
        ``needed``.
        """
        if self < needed:
            known = (
                "a file may give registered names alone" if needed < Trust.ANY else "it runs a file"
            )
            raise UsageError(
                f"The {what} {name!r} names code, and {known}. If you trust that code, add "
                "--allow-code."
            )


@dataclass(frozen=True)
class Spec:
    """A plug-in's name and its hyper-parameters as the user gave them.

    >>> Spec.parse("pgd steps=40 step_size=2/255")
    Spec(name='pgd', params={'steps': '40', 'step_size': '2/255'})
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Split ``name key=value ...``; a value with spaces goes in quotes."""
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise UsageError(
                f"Cannot read {text!r}: {error}. Write 'name key=value ...'."
            ) from error
        if not words:
            raise UsageError(
                "An empty name was given. Write 'name key=value ...', for example 'pgd steps=40'."
            )
        params: dict[str, str] = {}
        for word in words[1:]:
            key, equals, value = word.partition("=")
            if not equals or not key:
                raise UsageError(f"{word!r} in {text!r} is not of the form key=value.")
            if key in params:
                raise UsageError(f"{key!r} is given twice in {text!r}.")
            params[key] = value
        return cls(words[0], params)


def split(kind: Kind, text: str) -> list[Spec]:
    """The specs that ``+`` joins, in ``a+b key=value`` or ``a key=value + b``.

    Inside of a value a ``+`` joins nothing, but for ``a key=value+b`` where ``b`` is a registered
    name.

    >>> [spec.name for spec in split("defense", "parseval + feature_squeezing bits=3+none")]
    ['parseval', 'feature_squeezing', 'none']
    """
    if "+" not in text:
        return [Spec.parse(text)]
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"Cannot read {text!r}: {error}. Write 'name key=value ... + name ...'."
        ) from error
    parts: list[list[str]] = [[]]
    for word in words:
        first, *more = word.split("+") if "=" not in word else _cut(kind, word)
        parts[-1] += [first] if first else []
        parts += [[name] if name else [] for name in more]
    if not all(parts):
        raise UsageError(
            f"A name is missing beside a '+' in {text!r}. Write 'name key=value ... + name ...'."
        )
    return [Spec.parse(shlex.join(part)) for part in parts]


def _cut(kind: Kind, word: str) -> list[str]:
    """``key=value+name+name`` in pieces, as far from the right as there are registered names."""
    pieces: list[str] = []
    value, plus, name = word.rpartition("+")
    while plus and name in names(kind):
        word = value
        pieces = [name, *pieces]
        value, plus, name = word.rpartition("+")
    return [word, *pieces]


class Source(Protocol):
    """What the entry point of a source leads to, usually a module; importing it and listing must
    not import what it wraps.
    """

    def catalogue(self) -> Mapping[str, str]:
        """Name -> one line on it."""

    def load(self, name: str) -> type[Any]:
        """The plug-in class of that name, which is called ``source:name``; ``UnknownNameError`` if
        there is none.
        """


_MARKS: dict[Kind, tuple[str, ...]] = {
    "attack": ("name", "version", "ask"),
    "defense": ("name", "version", "wrap"),
}
"""What every plug-in class has. Looked for before anything is called that a card or a board names.
"""


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"robustbench_lite.{kind}s")}


def names(kind: Kind) -> list[str]:
    """Registered names, sorted; imports no plug-in."""
    return sorted(_entries(kind))


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
    """The source registered as ``name``."""
    return _source_entries(kind)[name].load()  # type: ignore[no-any-return]


def of_source(kind: Kind, name: str) -> bool:
    """Whether ``name`` reads ``source:name`` for a registered source."""
    return ":" in name and name.partition(":")[0] in _source_entries(kind)


def load(kind: Kind, name: str, trust: Trust = Trust.REGISTERED) -> type[Any]:
    """The class behind a registered name, ``source:name``, or, with the ``trust`` for it, a
    ``package.module:Class`` path.
    """
    if of_source(kind, name):
        return source(kind, name.partition(":")[0]).load(name.partition(":")[2])
    if ":" in name:
        found = import_object(name, kind, trust)
    elif name not in _entries(kind):
        raise UnknownNameError(kind, name, names(kind))
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


def create(kind: Kind, spec: Spec | str, trust: Trust = Trust.REGISTERED) -> Any:
    """Build a plug-in from its spec: unknown keys and values that do not fit are usage errors that
    say what does.
    """
    spec = Spec.parse(spec) if isinstance(spec, str) else spec
    return call_with_text(load(kind, spec.name, trust), spec.params, f"{kind} {spec.name!r}", trust)


def call_with_text(
    factory: Callable[..., Any],
    params: Mapping[str, Any],
    what: str,
    trust: Trust = Trust.REGISTERED,
) -> Any:
    """Call ``factory(**params)`` after turning text values into the types of its signature.

    A field with ``metadata={"spec": "attack"}`` (or defense) is a spec itself: what it names must
    have ``trust`` as well.
    """
    known = {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    if dataclasses.is_dataclass(factory):
        hyper = {field.name for field in hyperparameters(factory)}
        known = {name: parameter for name, parameter in known.items() if name in hyper}
    hints = typing.get_type_hints(factory if not inspect.isclass(factory) else _annotated(factory))
    values: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known and not takes_any:
            raise UnknownNameError(f"parameter of {what}", key, known)
        values[key] = convert(value, hints.get(key, Any), f"{key} of {what}")
        if key in (inner := _inner_specs(factory)):
            for spec in split(inner[key], values[key]):
                create(inner[key], spec, trust)
    missing = [k for k, p in known.items() if p.default is p.empty and k not in values]
    if missing:
        raise UsageError(
            f"The {what} needs {', '.join(missing)}: add {' '.join(f'{m}=...' for m in missing)}."
        )
    try:
        return factory(**values)
    except (ArithmeticError, AssertionError, TypeError, ValueError) as error:
        raise UsageError(
            f"The {what} {f'does not accept {dict(params)}' if params else 'cannot be made'}: "
            f"{error}"
        ) from error


def _inner_specs(factory: Callable[..., Any]) -> dict[str, Kind]:
    """Hyper-parameters that are specs -> of what."""
    return {f.name: f.metadata["spec"] for f in hyperparameters(factory) if "spec" in f.metadata}


def _annotated(cls: type[Any]) -> Any:
    return cls if dataclasses.is_dataclass(cls) else cls.__init__


def parameters(plugin: Any) -> dict[str, Any]:
    """The hyper-parameters of a plug-in object as plain values: what goes into a cell's key."""
    return {f.name: getattr(plugin, f.name) for f in hyperparameters(plugin)}


def hyperparameters(plugin: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a plug-in, or of its class, that a user sets; ``metadata={"hyperparameter":
    False}`` marks the others.
    """
    fields = dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ()
    return [field for field in fields if field.metadata.get("hyperparameter", True)]
