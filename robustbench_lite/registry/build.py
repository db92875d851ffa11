"""Build plug-ins, and other things that text names, from the text of their parameters."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.files.numerals import convert
from robustbench_lite.registry.entries import Kind, load
from robustbench_lite.registry.spec import Spec, split
from robustbench_lite.registry.trust import Trust


def create(kind: Kind, spec: Spec | str, trust: Trust = Trust.REGISTERED) -> Any:
    """Build a plug-in from its spec.

    Raises:
        UsageError: an unknown key, or a value that does not fit; says what does.
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

    Args:
        factory: a function, or a class.
        params: values, as text or as they are.
        what: is called so in errors.
        trust: what names among the values may lead to.

    Raises:
        UsageError: a parameter is unknown, missing, or does not fit.
    """
    known = _keywords(factory)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    hints = typing.get_type_hints(factory if not inspect.isclass(factory) else _annotated(factory))
    inner = _inner_specs(factory)
    values: dict[str, Any] = {}
    for key, value in params.items():
        if key not in known and not takes_any:
            raise UnknownNameError(f"parameter of {what}", key, known)
        values[key] = convert(value, hints.get(key, Any), f"{key} of {what}")
        if key in inner:
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
        problem = f"does not accept {dict(params)}" if params else "cannot be made"
        raise UsageError(f"The {what} {problem}: {error}") from error


def _keywords(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that ``factory`` takes by name; of a plug-in its hyper-parameters alone."""
    known = {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    }
    if not dataclasses.is_dataclass(factory):
        return known
    hyper = {field.name for field in hyperparameters(factory)}
    return {name: parameter for name, parameter in known.items() if name in hyper}


def _inner_specs(factory: Callable[..., Any]) -> dict[str, Kind]:
    """Hyper-parameters that are specs -> of what."""
    return {f.name: f.metadata["spec"] for f in hyperparameters(factory) if "spec" in f.metadata}


def _annotated(cls: type[Any]) -> Any:
    """What carries the annotations of the parameters of a class."""
    return cls if dataclasses.is_dataclass(cls) else cls.__init__


def parameters(plugin: Any) -> dict[str, Any]:
    """Read the hyper-parameters of a plug-in as plain values: what goes into a cell's key."""
    return {f.name: getattr(plugin, f.name) for f in hyperparameters(plugin)}


def hyperparameters(plugin: Any) -> list[dataclasses.Field[Any]]:
    """List the fields of a plug-in, or of its class, that a user sets.

    ``metadata={"hyperparameter": False}`` marks the others.
    """
    fields = dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ()
    return [field for field in fields if field.metadata.get("hyperparameter", True)]
