"""The layout holds: arrows point one way, files are short, results and classes have names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "robustbench_lite"
PLUGINS = [ROOT / "attacks" / "rbl_attacks", ROOT / "defenses" / "rbl_defenses"]
SOURCES = sorted(path for folder in [CORE, *PLUGINS] for path in folder.rglob("*.py"))

#: From the ground up: a room imports from rooms on floors below (or from itself).
FLOORS = [
    {"errors", "progress", "machine", "rows"},
    {"files", "model"},
    {"registry"},
    {"_facade", "attacks", "suites", "defenses", "threat", "sources", "records"},
    {"search", "bounds"},
    {"defense"},
    {"evaluation"},
    {"training", "verification"},
    {"leaderboard"},
    {"cli"},
]
#: What everybody stands on; all else is in a room.
LOOSE = {"_facade", "errors", "progress"}

FILE_LINES, PLUGIN_LINES, FUNCTION_LINES, PARAMETERS = 250, 150, 40, 8
COMMAND = "typer takes one parameter an option"
CALL = "what a user calls: one keyword a choice, each with a default"
ONE_CLASS = "one class; what it takes from the faces stands one name a line"
AUTOGRAD = "autograd takes a tuple"
#: What is above a limit, and why it stays so.
EXEMPT = {
    "robustbench_lite.bounds.relaxed.forward: a bare tuple": AUTOGRAD,
    "robustbench_lite.model.fast.convolution.backward: a bare tuple": AUTOGRAD,
    "robustbench_lite.rows.losses.backward: a bare tuple": AUTOGRAD,
    "robustbench_lite.search.view.backward: a bare tuple": AUTOGRAD,
    "attacks.rbl_attacks.one_pixel.attack: lines": ONE_CLASS,
    "attacks.rbl_attacks.patch.attack: lines": ONE_CLASS,
    "attacks.rbl_attacks.zoo.attack: lines": ONE_CLASS,
    "robustbench_lite.threat.norms: lines": "one thing: the only place where norms differ",
    "robustbench_lite.evaluation.api.evaluate: parameters": CALL,
    "robustbench_lite.evaluation.api.certify: parameters": CALL,
    "robustbench_lite.cli.attack.attack: parameters": COMMAND,
    "robustbench_lite.cli.attack.attack: lines": "hands thirty options on by name",
    "robustbench_lite.cli.evaluate.evaluate: parameters": COMMAND,
    "robustbench_lite.cli.evaluate.evaluate: lines": "hands thirty options on by name",
    "robustbench_lite.cli.certify.certify: parameters": COMMAND,
    "robustbench_lite.cli.train.train: parameters": COMMAND,
    "robustbench_lite.cli.verify.verify: parameters": COMMAND,
    "robustbench_lite.cli.leaderboard.check.check: parameters": COMMAND,
    "robustbench_lite.cli.leaderboard.run.run: parameters": COMMAND,
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "robustbench_lite" or len(parts) < 2:
        return None
    return next((floor for floor, names in enumerate(FLOORS) if parts[1] in names), None)


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=name_of)
def test_the_core_names_no_plugin(path: Path) -> None:
    packages = {module.split(".")[0] for module in imported_modules(path)}
    assert not packages & {"rbl_attacks", "rbl_defenses"}


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=name_of)
def test_no_import_runs_back_up_or_to_a_neighbour_on_the_same_floor(path: Path) -> None:
    if path.name == "__init__.py":
        return  # the face of a package hands on names lazily
    room = name_of(path).split(".")[1]
    floor = floor_of(name_of(path))
    assert floor is not None, f"{room} is no room: add it to FLOORS"
    for module in imported_modules(path):
        target = floor_of(module)
        same = module.split(".")[1:2] == [room]
        assert target is None or target < floor or same, module


def test_no_two_files_import_each_other() -> None:
    paths = [path for path in SOURCES if path.name != "__init__.py"]
    graph = {
        name_of(path).removeprefix("attacks.").removeprefix("defenses."): path for path in paths
    }
    imports = {name: imported_modules(path) for name, path in graph.items()}
    circles = [
        (one, other)
        for one in imports
        for other in imports[one]
        if one < other and one in imports.get(other, ())
    ]
    assert not circles


def test_the_root_holds_only_what_everybody_stands_on() -> None:
    assert {path.stem for path in CORE.glob("*.py")} - {"__init__"} <= LOOSE


def shortcomings() -> Iterator[str]:
    """What is above the limits: ``module: what`` or ``module.function: what``."""
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        plugin = any(folder in path.parents for folder in PLUGINS)
        if len(lines) > (PLUGIN_LINES if plugin else FILE_LINES):
            yield f"{name_of(path)}: lines"
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                for what in shortcomings_of(node):
                    yield f"{name_of(path)}.{node.name}: {what}"


def shortcomings_of(node: ast.FunctionDef) -> Iterator[str]:
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = node.body[1:] if documented else node.body
    if body and (node.end_lineno or 0) - body[0].lineno >= FUNCTION_LINES:
        yield "lines"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if len([one for one in arguments if one.arg not in ("self", "cls")]) > PARAMETERS:
        yield "parameters"
    result = "" if node.returns is None else ast.unparse(node.returns)
    if result.startswith("tuple[") and "..." not in result:
        yield "a bare tuple"


def test_files_and_functions_are_short_and_results_have_names_or_say_why_not() -> None:
    found = set(shortcomings())
    assert not found - EXEMPT.keys()
    assert not EXEMPT.keys() - found, "these need no exemption any more"


def test_no_public_class_has_the_name_of_another() -> None:
    homes: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(name_of(path))
    twice = {name: found for name, found in homes.items() if len(found) > 1}
    assert not twice


def test_the_typed_facades_name_every_registered_class() -> None:
    from robustbench_lite import registry

    kinds: tuple[registry.Kind, ...] = ("attack", "defense")
    for kind in kinds:
        stub = (CORE / f"{kind}s" / "__init__.pyi").read_text(encoding="utf-8")
        lines = set(stub.splitlines())
        for target in registry.targets(kind).values():
            module, _, cls = target.partition(":")
            if module.startswith("rbl_"):
                assert f"from {module} import {cls} as {cls}" in lines
