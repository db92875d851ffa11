"""The catalogues say what is registered."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_catalogues", ROOT / "scripts" / "make_catalogues.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["attacks", "defenses"])
def test_the_catalogue_is_what_the_registry_gives(script: ModuleType, kind: str) -> None:
    written = (ROOT / kind / "README.md").read_text(encoding="utf-8")
    assert written == getattr(script, kind)(), "run `python scripts/make_catalogues.py`"
