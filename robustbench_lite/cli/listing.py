"""``rbl list``: what there is, by name.

Reads package metadata and source text; imports no plug-in and no torch.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from robustbench_lite import registry
from robustbench_lite.cli import options as opt
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.files.reading import CARD_BYTES, Form
from robustbench_lite.files.text import printable, read_json
from robustbench_lite.leaderboard.words import threat_in_short
from robustbench_lite.sources.model_zoo import network_files

Row = dict[str, str]
_CARD = Form(
    noun="card", what="no card", most=CARD_BYTES, error=UsageError, fix="See `rbl doctor`."
)
#: Written down here because reading them from sources/ and threat/ would import torch; a test
#: compares the names.
_DATASETS = {
    "fashion_mnist": "28 x 28 grey, 10 classes; its first 1,000 images of each split are bundled",
    "mnist": "28 x 28 grey, 10 classes; its first 1,000 images of each split are bundled",
    "cifar10": "32 x 32 colour, 10 classes",
    "cifar10-jpeg": "JPEG copies of CIFAR-10: never report them as CIFAR-10",
    "npz:FILE": "your own: arrays x and y, float in [0, 1] or uint8",
    "folder:DIR": "your own: images in one sub-folder a class",
}
_NORMS = {
    "linf": "largest absolute change of any value",
    "l2": "Euclidean length of the change",
    "l1": "sum of absolute changes",
    "l0": "number of pixels that change",
}


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[attacks|suites|defenses|datasets|models|norms]", show_default=False
        ),
    ] = None,
    format_name: Annotated[
        str, typer.Option("--format", metavar="NAME", help="table or json.")
    ] = "table",
    networks: Annotated[str | None, opt.Networks] = None,
) -> None:
    """List attacks, suites of attacks, defenses, data sets, networks and norms."""
    if kind is not None and kind not in SECTIONS:
        raise UnknownNameError("section of the list", kind, SECTIONS)
    if format_name not in ("table", "json"):
        raise UnknownNameError("format", format_name, ("table", "json"))
    sections = {name: rows() for name, rows in _sections(kind).items()}
    if format_name == "json":
        print(json.dumps(sections, indent=1))
        return
    typer.echo(
        "\n\n".join(
            _section(name, rows, heading=len(sections) > 1) for name, rows in sections.items()
        )
    )


def _section(name: str, rows: list[Row], heading: bool) -> str:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [f"{row['name']:<{width}}  {row['description']}" for row in rows] or [
        f"no {name} are installed"
    ]
    if not heading:
        return "\n".join(lines)
    return "\n".join([typer.style(name, bold=True), *(f"  {line}" for line in lines)])


def _sections(kind: str | None) -> dict[str, Callable[[], list[Row]]]:
    """Gather the sections of one kind, or all.

    Attacks and defenses that come from a source have one of their own after ours.
    """
    chosen: dict[str, Callable[[], list[Row]]] = {}
    for name, rows in SECTIONS.items():
        if kind in (None, name):
            chosen[name] = rows
            if name in _SOURCED:
                for source in registry.sources(_SOURCED[name]):
                    chosen[f"{name} of {source}"] = partial(_list_sourced, _SOURCED[name], source)
    return chosen


def _list_sourced(kind: registry.Kind, source: str) -> list[Row]:
    try:
        catalogue = registry.source(kind, source).catalogue()
    except (ImportError, AttributeError):
        return [{"name": source, "description": "cannot be read: see `rbl doctor`"}]
    return [{"name": f"{source}:{name}", "description": text} for name, text in catalogue.items()]


def _plugins(kind: registry.Kind) -> list[Row]:
    return [
        {"name": name, "description": describe(target)}
        for name, target in registry.targets(kind).items()
    ]


def describe(target: str) -> str:
    """Describe the plug-in ``module:Class`` in one line, from its source.

    The line is the first sentence of the module, and the paper of the class.
    """
    module, _, class_name = target.partition(":")
    try:
        # Imports the parent package, which is empty, and not the plug-in.
        found = importlib.util.find_spec(module)
        tree = ast.parse(Path(found.origin or "").read_bytes() if found else b"\0")
    except (ImportError, OSError, SyntaxError, ValueError):
        return f"cannot be read from {target}: see `rbl doctor`"
    docstring = ast.get_docstring(tree) or ""
    sentence = re.split(r"\.(?:\s|$)|\n", docstring, maxsplit=1)[0]
    paper = _paper(tree, class_name)
    return f"{sentence} ({paper})" if paper else sentence


def _paper(tree: ast.Module, class_name: str) -> str:
    """The value of ``paper: ClassVar[str] = "..."`` in the class, if it is written so."""
    classes = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name
    ]
    for statement in classes[0].body if classes else ():
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.target.id == "paper"
        ):
            return str(statement.value.value) if isinstance(statement.value, ast.Constant) else ""
    return ""


def _models() -> list[Row]:
    return [
        {"name": n, "description": _card_line(path.with_suffix(".json"))}
        for n, path in network_files().items()
    ]


def _card_line(path: Path) -> str:
    try:
        card = read_json(path, _CARD)
        threat = threat_in_short(card["norm"], f"{card['eps']:g}", "untargeted")
        attack = " ".join(card["attack"].split()[:2])  # name and steps; `rbl show` has the rest
        clean = f"{card['clean_accuracy']:.1%} clean"
        robust = f"{card['robust_accuracy']:.1%} under {attack}, {threat}"
        return printable(
            ", ".join([f"{card['network']}: {clean}", robust, *_state_certified(card)])
        )
    except (UsageError, ValueError, KeyError, TypeError, AttributeError):
        return "its card cannot be read: see `rbl doctor`"


def _state_certified(card: Any) -> list[str]:
    """The largest share that is proved at the radius of the card, if any is."""
    proved = [
        one
        for one in card.get("certified") or ()
        if (one["norm"], one["eps"]) == (card["norm"], card["eps"])
    ]
    best = max(proved, key=lambda one: float(one["certified_accuracy"]), default=None)
    return (
        [] if best is None else [f"{best['certified_accuracy']:.1%} certified ({best['method']})"]
    )


SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "attacks": lambda: _plugins("attack"),
    "suites": lambda: _plugins("suite"),
    "defenses": lambda: _plugins("defense"),
    "datasets": lambda: [{"name": name, "description": text} for name, text in _DATASETS.items()],
    "models": _models,
    "norms": lambda: [{"name": name, "description": text} for name, text in _NORMS.items()],
}
_SOURCED: dict[str, registry.Kind] = {"attacks": "attack", "defenses": "defense"}
