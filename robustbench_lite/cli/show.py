"""``rbl show``: everything about one attack, defense, network or record."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from robustbench_lite import registry
from robustbench_lite.cli import options as opt
from robustbench_lite.cli.show_record import Rows, print_rows, show_file
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.registry import Trust

if TYPE_CHECKING:
    from robustbench_lite.search.suite import Suite
    from robustbench_lite.sources.card import Card

_KEY = re.compile(r"[0-9a-f]{4,32}")


def show(
    what: Annotated[str, typer.Argument(metavar="NAME|RECORD|KEY", show_default=False)],
    output: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the record of a KEY is looked for.")
    ] = Path("rbl-results"),
    networks: Annotated[str | None, opt.Networks] = None,
    allow_code: Annotated[bool, opt.CardCode] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", metavar="", help="Tracebacks.")
    ] = False,
) -> None:
    """Show an attack, a suite, a defense, a network, or a record: a file, or the first four digits
    or more of its key.

    A record is checked as it is read: version, seal, key, digest and summary must agree with its
    contents.
    """
    kinds: tuple[registry.Kind, ...] = ("attack", "suite", "defense")
    if what.endswith(".npz"):
        raise UsageError(f"{what} holds adversarial examples: `rbl verify {what}` examines them.")
    if what.endswith(".json") or os.path.isfile(what):
        return show_file(Path(what))
    for kind in kinds:
        if what in registry.names(kind) or registry.of_source(kind, what):
            return _show_plugin(kind, what)
    if ":" in what:
        return _show_plugin(_kind_of(what), what)
    if _KEY.fullmatch(what):
        return show_file(_by_key(what, output))
    return _show_network(what, opt.trust_in_files(allow_code))


def _kind_of(path: str) -> registry.Kind:
    """Of a plug-in that is not registered: the first kind that it can be."""
    try:
        registry.load("attack", path, Trust.INSTALLED)
    except UsageError:
        return "defense"  # or nothing, which is said when it is loaded as one
    return "attack"


def _show_plugin(kind: registry.Kind, name: str) -> None:
    plugin = registry.load(kind, name, Trust.INSTALLED)
    summary, documented = Documentation.of(plugin)
    rows: Rows = [
        (kind, name),
        ("what", summary),
        ("paper", getattr(plugin, "paper", "") or "-"),
        ("version", plugin.version),
    ]
    if hasattr(plugin, "access"):
        norms = ", ".join(sorted(plugin.norms))
        rows += [("sees", plugin.access.name.lower()), ("norms", norms)]
        rows += [("search", plugin.kind.replace("_", " ")), ("targeted", _yes(plugin.targeted))]
    else:
        rows += [("acts in training", _yes(plugin.trains))]
    print_rows(rows)
    if kind == "suite":
        _print_stages(plugin())
    fields = registry.hyperparameters(plugin)
    if fields:
        from tabulate import tabulate

        table = [(f.name, _type(f), _default(f), documented.get(f.name, "")) for f in fields]
        headers = ["parameter", "type", "default", "meaning"]
        print(
            "\n"
            + tabulate(
                table, headers=headers, disable_numparse=True, maxcolwidths=[None, None, None, 72]
            )
        )


def _print_stages(suite: Suite) -> None:
    """List what runs in each norm, in its order."""
    from tabulate import tabulate

    from robustbench_lite.evaluation.names import short_label
    from robustbench_lite.threat import ThreatModel

    headers = ["norm", "stage", "attack", "begins at", "runs"]
    table = [
        (norm, number, short_label("attack", stage.attack), stage.start, stage.when)
        for norm in sorted(suite.norms)
        for number, stage in enumerate(suite.stages(ThreatModel.parse(norm, 1)))
    ]
    print("\n" + tabulate(table, headers=headers, disable_numparse=True))


class Documentation(NamedTuple):
    """What a docstring says of a plug-in."""

    summary: str
    """The first paragraph."""
    parameters: dict[str, str]
    """From the ``Args:`` section."""

    @classmethod
    def of(cls, plugin: Any) -> Documentation:
        """That of a class."""
        text = inspect.getdoc(plugin) or ""
        _, _, section = text.partition("\nArgs:\n")
        section = re.split(r"\n(?=\S)", section, maxsplit=1)[0]
        entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
        summary = " ".join(text.split("\n\n")[0].split())
        return cls(summary, {name: " ".join(words.split()) for name, words in entries})


def _type(field: dataclasses.Field[Any]) -> str:
    return field.type if isinstance(field.type, str) else inspect.formatannotation(field.type)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return str(field.default)
    return (
        "needed" if field.default_factory is dataclasses.MISSING else str(field.default_factory())
    )


def _by_key(key: str, output: Path) -> Path:
    folders = [
        folder for part in ("cells", "certificates") if os.path.isdir(folder := output / part)
    ]
    found = sorted(path for folder in folders for path in folder.glob(f"{key}*.json"))
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{len(found)} records in {output} begin with {key!r}: give more digits, as in "
            f"{found[0].stem}."
        )
    raise UsageError(
        f"No record in {output} begins with {key!r}. Name another folder with --output, or give "
        "the file."
    )


def _show_network(name: str, trust: Trust) -> None:
    from robustbench_lite.sources.model_zoo import network_files
    from robustbench_lite.sources.models import named_network

    known = network_files()
    if name not in known:
        kinds: tuple[registry.Kind, ...] = ("attack", "suite", "defense")
        names = [name for kind in kinds for name in registry.names(kind)]
        raise UnknownNameError("attack, suite, defense, network or record", name, [*names, *known])
    model = named_network(name, trust)
    if model.card is not None:
        print_rows(_card(model.card))


def _card(card: Card) -> Rows:
    rows: Rows = [
        (key.replace("_", " "), value)
        for key, value in card.model_dump(exclude={"curve", "certified"}).items()
    ]
    for one in card.certified or ():
        ball = f"{one.norm} {one.eps:g}{'' if one.box else ', no box'}"
        figures = f"{one.certified_accuracy:.2%}, an error of {1 - one.certified_accuracy:.2%}"
        rows.append(
            ("certified", f"{figures} ({one.method}, {ball}, n = {one.n:,}): {one.command}")
        )
    return [*rows, ("last epoch", card.curve[-1] if card.curve else "-")]


def _yes(claim: bool) -> str:
    return "yes" if claim else "no"
