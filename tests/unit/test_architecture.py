"""The layout holds: arrows point one way, the core names no plug-in, files and functions stay
short.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "robustbench_lite"
PLUGINS = [ROOT / "attacks" / "rbl_attacks", ROOT / "defenses" / "rbl_defenses"]
SOURCES = sorted(path for folder in [CORE, *PLUGINS] for path in folder.rglob("*.py"))

#: From the ground up: a room imports from rooms before it (or from itself).
ROOMS = [
    {"errors", "machine", "progress"},
    {"rows", "files"},
    {"registry"},
    {"_facade", "attacks", "defenses", "threat"},
    {"model"},
    {"search", "sources"},
    {"bounds"},
    {"defense"},
    {"records"},
    {"evaluation"},
    {"training", "verification"},
    {"leaderboard"},
    {"cli"},
]


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def room_of(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "robustbench_lite" or len(parts) < 2:
        return None
    return next((floor for floor, names in enumerate(ROOMS) if parts[1] in names), None)


def floor_of(path: Path) -> int | None:
    return room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_core_names_no_plugin(path: Path) -> None:
    assert not {
        m for m in imported_modules(path) if m.split(".")[0] in ("rbl_attacks", "rbl_defenses")
    }


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_runs_back_up(path: Path) -> None:
    floor = floor_of(path)
    if path.name == "__init__.py" and path.parent == CORE:
        return  # the package's face hands on names lazily
    assert floor is not None, f"{path.name} belongs to no room: add it to ROOMS"
    upward = {
        m for m in imported_modules(path) if (target := room_of(m)) is not None and target > floor
    }
    assert not upward


def test_no_two_files_import_each_other() -> None:
    def name(path: Path) -> str:
        return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    graph = {name(p): imported_modules(p) for p in CORE.rglob("*.py") if p.name != "__init__.py"}
    assert not [(a, b) for a in graph for b in graph if a < b and b in graph[a] and a in graph[b]]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    limit = 200 if any(folder in path.parents for folder in PLUGINS) else 400
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
            body = [
                n
                for n in node.body
                if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
            ]
            assert node.end_lineno - body[0].lineno < 90 if body else True, node.name


def test_the_typed_facades_name_every_registered_class() -> None:
    from robustbench_lite import registry

    for kind in ("attack", "defense"):
        stub = (CORE / f"{kind}s" / "__init__.pyi").read_text(encoding="utf-8")
        lines = set(stub.splitlines())
        for target in registry.targets(kind).values():
            module, _, cls = target.partition(":")
            if module.startswith("rbl_"):
                assert f"from {module} import {cls} as {cls}" in lines
