"""The public names: complete, typed, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import robustbench_lite

FACES = [
    "robustbench_lite",
    *(f"robustbench_lite.{room}" for room in ("search", "bounds", "records", "defense")),
]
EAGER = ["robustbench_lite.threat"]
LOOKED_FOR = {
    "errors",
    "Settings",
    "train",
    "certify",
    "evaluate",
    "Attack",
    "Defense",
    "ThreatModel",
}


@pytest.mark.parametrize("name", [*FACES, *EAGER])
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert inspect.getdoc(module)
    for public in module.__all__:
        value = getattr(module, public)
        assert public in dir(module)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), public
            assert value.__name__ == public


@pytest.mark.parametrize("name", FACES)
def test_type_checkers_see_the_names_that_are_loaded_lazily(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: str(node.module).removeprefix("robustbench_lite.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == module._HOMES


def test_the_package_has_what_its_users_look_for() -> None:
    assert set(robustbench_lite.__all__) >= LOOKED_FOR
    assert issubclass(robustbench_lite.errors.UsageError, Exception)
    with pytest.raises(AttributeError, match="it has Attack, "):
        _ = robustbench_lite.Atack


@pytest.mark.parametrize("name", FACES)
def test_importing_a_face_imports_no_torch(name: str) -> None:
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
