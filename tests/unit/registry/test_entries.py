"""Plug-ins are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_lite import registry
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.registry import Trust


def test_listing_names_needs_no_plugin() -> None:
    assert {"fgsm", "pgd", "boundary"} <= set(registry.names("attack"))
    assert {"none", "parseval", "adversarial_training"} <= set(registry.names("defense"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    error = UnknownNameError("norm", "linff", ["linf", "l2"])
    assert str(error) == "No norm is named 'linff'. Did you mean 'linf'? Known: l2, linf."


def test_a_module_that_fails_as_it_is_imported_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_at_once.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("fails_at_once:A", ":A", "..:A", "a..b:A"):
        with pytest.raises(UsageError, match="cannot be imported"):
            registry.import_object(path, "attack", Trust.INSTALLED)
