"""Global generators follow from a seed for a while, and are put back as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from robustbench_lite.machine.generators import own_generators


class TestOwnGenerators:
    def test_they_follow_from_the_seed_and_are_put_back(self) -> None:
        before = torch.get_rng_state()
        with own_generators(3):
            first = torch.rand(4)
        with own_generators(3):
            assert torch.equal(torch.rand(4), first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_those_of_other_devices_are_not_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        called: list[tuple[str, Any]] = []

        def noted(name: str, answer: object) -> Callable[..., object]:
            def call(*args: object) -> object:
                called.append((name, args[-1]))
                return answer

            return call

        for name in ("get_rng_state", "set_rng_state"):
            monkeypatch.setattr(torch.cuda, name, noted(name, torch.zeros(1)))
        monkeypatch.setattr(torch.cuda, "device", noted("device", threading.Lock()))
        monkeypatch.setattr(torch.cuda, "manual_seed", lambda seed: called.append(("seed", seed)))
        monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("seeds every device"))
        here = torch.device("cuda", 1)
        with own_generators(5, here):
            pass
        assert called == [
            ("get_rng_state", here),
            ("device", here),
            ("seed", 5),
            ("set_rng_state", here),
        ]
