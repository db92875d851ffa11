"""Everything here runs on the pretend device; where torch is too old for one, each test says so.

Once it is registered, torch takes this process for one on a machine with an accelerator, as it does
on machines that have one: no other test may count on there being none.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.accelerator import pretend


@pytest.fixture(scope="session", autouse=True)
def _registered() -> None:
    if not pretend.CAN:
        pytest.skip(
            "this torch lets no Python be a backend (_setup_privateuseone_for_python_backend)"
        )
    pretend.register()


@pytest.fixture
def device() -> Iterator[pretend.Pretend]:
    """The pretend device, entered; at the end it must have refused nothing, not even where someone
    caught the error.
    """
    from robustbench_lite.machine.devices import has_float64

    has_float64.cache_clear()
    with pretend.Pretend() as entered:
        assert not has_float64(pretend.NAME)
        entered.waits = pretend.Waits()
        yield entered
    has_float64.cache_clear()
    assert not entered.waits.refused
