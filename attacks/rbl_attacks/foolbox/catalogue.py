"""The Foolbox attacks that run here, as ``foolbox:NAME``; known without importing foolbox."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rbl_attacks.foolbox.table import ALIASES, ENTRIES, Entry
from robustbench_lite.errors import MissingDependency, UnknownNameError

if TYPE_CHECKING:
    from rbl_attacks.foolbox.adapter import FoolboxAttack


def catalogue() -> Mapping[str, str]:
    """List the attacks that run with what is installed: name -> one line."""
    return {
        name: _line(name, entry)
        for name, entry in ENTRIES.items()
        if entry.needs is None or find_spec(entry.needs)
    }


def load(name: str) -> type[FoolboxAttack]:
    """Make the attack of that name an attack of ours.

    Raises:
        UnknownNameError: lists the names that there are.
        MissingDependency: names the package without which it does not run.
    """
    name = ALIASES.get(name, name)
    if name not in ENTRIES:
        raise UnknownNameError("foolbox attack", name, [*catalogue(), *ALIASES])
    needs = ENTRIES[name].needs
    if needs is not None and find_spec(needs) is None:
        raise MissingDependency(f"foolbox:{name} needs {needs}: pip install {needs}.")
    from rbl_attacks.foolbox.adapter import attack_class

    return attack_class(name, ENTRIES[name])


def _line(name: str, entry: Entry) -> str:
    """Say in one line what an attack can do."""
    short = [alias for alias, meant in ALIASES.items() if meant == name]
    seeks = "nearest adversarial" if entry.kind == "minimal_distance" else "needs eps"
    words = [", ".join(sorted(entry.norms)), seeks, f"sees {entry.access}"]
    if entry.targeted:
        words.append("targeted too")
    if short:
        words.append(f"also {', '.join(short)}")
    return "; ".join(words)
