"""Float32 is float32 wherever a network is asked, and what the user had set is there again
afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import robustbench_lite as rbl
from robustbench_lite.bounds import certify as bounds
from robustbench_lite.bounds.graph.tracing import graph_of
from robustbench_lite.defense import Defense
from robustbench_lite.errors import ModelError
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.machine import numerics
from robustbench_lite.machine.devices import name_of
from robustbench_lite.machine.numerics import exact, exactly
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.records.provenance import Provenance, make_provenance
from robustbench_lite.registry import create
from robustbench_lite.rows.losses import margin
from robustbench_lite.search.lock_step import craft
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel
from robustbench_lite.training.trainer import Recipe, train
from tests.conftest import images, present, small_network, toy

EVERY = (*numerics._KERNELS, *numerics._OLD, *numerics._PRECISION)
NEW = pytest.mark.skipif(
    not numerics._HAS_NEW, reason="torch before 2.9 has one name for each setting"
)


def state() -> dict[str, object]:
    return {setting.name: numerics._read(setting) for setting in EVERY}


def is_exact() -> bool:
    return all(setting.holds() for setting in (*numerics._KERNELS, *numerics._PRECISION))


@pytest.fixture(autouse=True)
def loose() -> Iterator[None]:
    """Everything as fast and as rough as a user may set it; afterwards as it was."""
    before = [(setting, numerics._read(setting)) for setting in EVERY]
    (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    ) = True, False, True
    torch.set_float32_matmul_precision("medium")
    yield
    for setting, value in before:
        if value is not None:
            setting.write(value)


class TestExact:
    def test_it_is_so_inside_and_as_the_user_had_it_outside(self) -> None:
        before = state()
        assert not is_exact()
        with exact():
            assert is_exact()
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert state() == before

    def test_an_error_puts_everything_back(self) -> None:
        before = state()
        with pytest.raises(ZeroDivisionError), exact():
            1 / 0  # noqa: B018
        assert state() == before

    def test_it_nests_and_the_last_one_out_puts_back(self) -> None:
        before = state()
        with exact():
            with exact():
                pass
            assert is_exact()
        assert state() == before

    def test_what_a_network_sets_is_undone_for_the_next_call_and_left_to_the_user_afterwards(
        self,
    ) -> None:
        torch.backends.cudnn.benchmark = False
        with exact():
            torch.backends.cudnn.benchmark = True
            with exact():
                assert is_exact()
        assert torch.backends.cudnn.benchmark

    def test_another_thread_that_leaves_takes_nothing_from_this_one(self) -> None:
        before, entered, leave = state(), threading.Event(), threading.Event()

        def other() -> None:
            with exact():
                entered.set()
                leave.wait(10)

        thread = threading.Thread(target=other)
        thread.start()
        entered.wait(10)
        with exact():
            leave.set()
            thread.join()
            assert is_exact()
        assert state() == before

    def test_between_its_yields_a_generator_leaves_the_settings_to_its_caller(self) -> None:
        before = state()

        @exactly
        def numbers() -> Iterator[bool]:
            yield is_exact()
            yield is_exact()

        for inside in numbers():
            assert inside
            assert state() == before

    def test_nothing_is_written_where_everything_is_so_already(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with exact():
            monkeypatch.setattr(numerics._Held, "_hold", lambda self: pytest.fail("written"))
            with exact():
                pass

    @NEW
    def test_a_setting_that_stood_at_that_of_its_parent_goes_on_following_it(self) -> None:
        backends: Any = torch.backends
        backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        backends.cuda.matmul.fp32_precision = backends.cudnn.conv.fp32_precision = "none"
        backends.fp32_precision = "tf32"
        try:
            with exact():
                assert (
                    backends.cuda.matmul.fp32_precision
                    == backends.cudnn.conv.fp32_precision
                    == "ieee"
                )
            assert (
                backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "tf32"
            )
        finally:
            backends.fp32_precision = "none"
        assert backends.cuda.matmul.fp32_precision == backends.cudnn.conv.fp32_precision == "none"

    @NEW
    def test_settings_under_new_names_alone_are_taken_and_put_back(self) -> None:
        backends: Any = torch.backends
        torch.set_float32_matmul_precision("highest")
        backends.cuda.matmul.fp32_precision = (
            "tf32"  # from now on torch refuses to read the old name
        )
        backends.mkldnn.matmul.fp32_precision = "bf16"
        before = state()
        with exact():
            assert is_exact()
        assert state() == before

    def test_the_settings_of_an_older_torch_will_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(numerics, "_HAS_NEW", False)
        monkeypatch.setattr(numerics, "_PRECISION", numerics._OLD)
        before = state()
        with exact():
            assert not torch.backends.cudnn.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
        assert state() == before


def data(n: int = 8) -> Dataset:
    x = images(n)
    return toy(x, small_network()(x).argmax(1), 3, "given")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the settings held, at each convolution."""
    found, convolve = [], F.conv2d

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        found.append(is_exact())
        return convolve(*args, **kwargs)

    monkeypatch.setattr(F, "conv2d", watched)
    return found


class TestEveryWayToANetwork:
    def test_evaluation(self, seen: list[bool], tmp_path: Path) -> None:
        model, samples = small_network(), data()
        seen.clear()
        report = rbl.evaluate(
            model, samples, "pgd steps=2", eps="0.1", certify="crown-ibp", output=tmp_path
        )
        assert report.cells
        assert len(seen) > 10
        assert all(seen)

    def test_certificates(self, seen: list[bool]) -> None:
        model, samples = small_network(), data()
        seen.clear()
        assert len(rbl.certify(model, samples, eps=0.01, method="crown")) == len(samples)
        for _ in bounds.proofs(model, samples.x, samples.y, eps=0.01, method="ibp", batch_size=4):
            assert not is_exact()
        assert seen
        assert all(seen)

    def test_training_and_what_it_crafts(self, seen: list[bool], tmp_path: Path) -> None:
        spec = "adversarial_training attack='pgd steps=2'"
        threat, samples, model, other = (
            ThreatModel.parse("linf", 0.1),
            data(),
            small_network().train(),
            small_network(),
        )
        seen.clear()
        train(
            model, create("defense", spec), samples, Recipe(epochs=1), checkpoint=tmp_path / "c.pt"
        )
        craft(
            other,
            create("attack", "pgd steps=2"),
            samples.x,
            samples.y,
            threat,
            index=samples.ids,
            seed=0,
        )
        assert len(seen) == 5
        assert all(seen)

    def test_diagnosis(self, seen: list[bool]) -> None:
        model, samples = small_network(), data()
        seen.clear()
        diagnose(prepare(model, Defense(), torch.device("cpu")), samples.x, samples.y)
        assert len(seen) > 3
        assert all(seen)

    def test_passes_by_themselves(self, seen: list[bool]) -> None:
        samples, passes = data(), Passes(DefendedModel(small_network()), 4)
        zeros = torch.zeros_like(samples.y)
        seen.clear()
        points = Points(samples.x, samples.y, zeros - 1, samples.ids, zeros)
        passes.logits(points)
        passes.gradient(points.take(slice(4)), margin)
        for _ in passes.ballots(points.take(slice(4)), 2):
            assert not is_exact()
        assert len(seen) == 5
        assert all(seen)


def tf32(x: torch.Tensor) -> torch.Tensor:
    """The factors of a product as tensor cores take them: ten bits after the first."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class TestRoundedConvolutions:
    """What an accelerator does unless it is told not to."""

    @pytest.fixture(autouse=True)
    def _rounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        convolve = F.conv2d

        def rounded(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if x.dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
                x, weight = tf32(x), tf32(weight)
            return convolve(x, weight, *args, **kwargs)

        monkeypatch.setattr(F, "conv2d", rounded)

    @pytest.fixture
    def network(self) -> nn.Module:
        return rbl.reference_model("fashion_mnist", "none").module

    def test_they_are_not_taken_for_a_certificate(self, network: nn.Module) -> None:
        graph_of(network, (1, 28, 28))

    def test_without_exact_a_certificate_would_be_refused(
        self, network: nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(numerics._Held, "_hold", lambda self: None)
        with pytest.raises(ModelError, match="something else than its layers say"):
            graph_of(network, (1, 28, 28))

    def test_a_verdict_is_that_of_float32(
        self, network: nn.Module, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        samples = rbl.load_dataset("fashion_mnist", limit=16)
        loose = rbl.evaluate(network, samples, "fgsm", eps="0.1").cells[0]
        torch.backends.cudnn.allow_tf32 = False
        strict = rbl.evaluate(network, samples, "fgsm", eps="0.1").cells[0]
        assert present(loose.record).digest == present(strict.record).digest
        assert present(loose.record).behaviour == present(strict.record).behaviour


class TestRecords:
    def test_a_cpu_adds_nothing(self) -> None:
        said = numerics.settings_of(torch.device("cpu"))
        made = make_provenance(seconds=1, device="cpu", batch_size=1, partial=False, numerics=said)
        assert "numerics" not in made.model_dump(mode="json")

    def test_a_card_is_named_with_the_settings_in_force(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
        card = torch.device("cuda", 0)
        with exact():
            said = numerics.settings_of(card)
        made = make_provenance(
            seconds=1, device=name_of(card), batch_size=1, partial=False, numerics=said
        )
        assert made.device == "cuda: NVIDIA H100 80GB HBM3"
        assert present(made.numerics)["cudnn.deterministic"] == "True"
        assert {"cuda", "cudnn"} <= set(present(made.numerics))
        assert "tf32" not in present(made.numerics).values()
        assert Provenance.model_validate_json(made.model_dump_json()) == made
