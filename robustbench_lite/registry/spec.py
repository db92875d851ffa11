"""The text form of a plug-in: its name and its hyper-parameters."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustbench_lite.errors import UsageError
from robustbench_lite.registry.entries import Kind, names


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
    """Split text into the specs that ``+`` joins, in ``a+b key=value`` or ``a key=value + b``.

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
