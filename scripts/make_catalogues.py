"""Write attacks/README.md and defenses/README.md from the registry.

    python scripts/make_catalogues.py

A test holds the files to what this script would write.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from tabulate import tabulate

from robustbench_lite import registry

ROOT = Path(__file__).parents[1]


def _defaults(plugin: type) -> str:
    return ", ".join(f"`{f.name}={f.default}`" for f in registry.hyperparameters(plugin)) or "-"


def _summary(plugin: type) -> str:
    return " ".join((inspect.getdoc(plugin) or "").partition("\n\n")[0].split())


def attacks() -> str:
    """The text of attacks/README.md."""
    rows = []
    details = []
    for name in registry.names("attack"):
        attack = registry.load("attack", name)
        searches = "nearest adversarial; eps is optional"
        if attack.kind == "fixed_eps":
            searches = "inside a ball of radius eps"
        rows.append(
            [
                f"`{name}`",
                attack.access.name.lower(),
                ", ".join(sorted(attack.norms)),
                searches,
                "yes" if attack.targeted else "no",
                attack.version,
                attack.paper,
            ]
        )
        details.append(f"## {name}\n\n{inspect.getdoc(attack)}\n\nDefaults: {_defaults(attack)}\n")
    headers = ["attack", "sees", "norms", "searches", "targeted", "version", "paper"]
    table = tabulate(rows, headers, tablefmt="github")
    return "\n".join(
        [
            "# Attacks\n",
            "One file an attack in [rbl_attacks/](rbl_attacks/). Use one by name, `rbl evaluate "
            "--attack 'pgd steps=100'`, or",
            "as an object, `from robustbench_lite.attacks import PGD`. *Sees* is what the oracle "
            "lets the attack have: labels,",
            "scores or gradients. This page is written by `python scripts/make_catalogues.py`.\n",
            table + "\n",
            *details,
            *suites(),
        ]
    )


def suites() -> list[str]:
    """The part of attacks/README.md on what runs several attacks."""
    parts = [
        "# Suites\n",
        "Attacks one after the other, each on what the ones before have left; a suite goes "
        "wherever an attack does, `rbl",
        "evaluate --attack standard`. `rbl show standard` lists its stages.\n",
    ]
    for name in registry.names("suite"):
        suite = registry.load("suite", name)
        norms = ", ".join(sorted(suite.norms))
        parts.append(f"## {name}\n\n{inspect.getdoc(suite)}\n\nNorms: {norms}\n")
    return parts if len(parts) > 3 else []


def defenses() -> str:
    """The text of defenses/README.md."""
    rows = []
    details = []
    for name in registry.names("defense"):
        defense = registry.load("defense", name)
        rows.append(
            [
                f"`{name}`",
                "yes" if defense.trains else "no",
                defense.version,
                defense.paper or "-",
                _summary(defense),
            ]
        )
        details.append(
            f"## {name}\n\n{inspect.getdoc(defense)}\n\nDefaults: {_defaults(defense)}\n"
        )
    table = tabulate(
        rows, ["defense", "acts in training", "version", "paper", "what it does"], tablefmt="github"
    )
    return "\n".join(
        [
            "# Defenses\n",
            "One file a defense in [rbl_defenses/](rbl_defenses/). Measure one with `rbl evaluate "
            "--defense parseval`, train with",
            "one by `rbl train --defense 'adversarial_training eps=0.1'`. Written by `python "
            "scripts/make_catalogues.py`.\n",
            table + "\n",
            *details,
        ]
    )


def main() -> None:
    """Write both files."""
    (ROOT / "attacks" / "README.md").write_text(attacks(), encoding="utf-8")
    (ROOT / "defenses" / "README.md").write_text(defenses(), encoding="utf-8")


if __name__ == "__main__":
    main()
