"""A device is taken as it was meant, or refused with what there is."""

from __future__ import annotations

import pytest
import torch

from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.evaluation.devices import pick_device


@pytest.mark.parametrize(
    ("count", "there"), [(1, "1 cuda device: cuda:0"), (2, "2 cuda devices: cuda:0 to cuda:1")]
)
def test_a_device_that_is_not_there_is_refused_with_what_is(
    monkeypatch: pytest.MonkeyPatch, count: int, there: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(UsageError, match=f"There is no cuda:7; this machine has {there}"):
        pick_device("cuda:7")


def test_the_last_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)


def test_a_family_without_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="no cuda device"):
        pick_device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:one", "cuda:-1", "cuda:0:1", ""])
def test_a_name_that_is_none_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(UnknownNameError, match="cuda"):
        pick_device(name)
