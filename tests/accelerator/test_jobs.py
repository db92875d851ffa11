"""What a user asks of the toolkit, on a device that is no CPU and has no float64: it comes out as
on a CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robustbench_lite as rbl
from robustbench_lite import registry
from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation.devices import pick_device
from robustbench_lite.evaluation.prepare import copy_in_eval_mode
from robustbench_lite.machine.devices import device_of
from robustbench_lite.records.cell import read_record
from robustbench_lite.records.certificate import read_certificate
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.training.trainer import Recipe, initialise, train
from tests.accelerator.pretend import DEVICE, NAME, Pretend
from tests.conftest import images, present, small_network, toy

TRAINED = (
    "adversarial_training attack='pgd steps=2' warmup=0",
    "parseval",
    "dual_network warmup=0",
    "dual_network warmup=0 interval_until=0",
    "dual_network warmup=0 interval_until=0 dual_from=0",
    "dual_network warmup=0 interval_until=0 dual_from=0 projections=4",
)
"""The defenses that act in training, with all that each does in some step."""


def data(n: int, classes: int = 3) -> Dataset:
    x = images(n)
    return toy(x, small_network(classes=classes)(x).argmax(1), classes, "given")


@pytest.mark.usefixtures("device")
class TestEvaluation:
    def test_the_first_job_of_the_readme_gives_the_digest_of_a_cpu(self, tmp_path: Path) -> None:
        samples = rbl.load_dataset("fashion_mnist", limit=40)
        asked: dict[str, Any] = {
            "data": samples,
            "attacks": "pgd",
            "defenses": "parseval",
            "norm": "linf",
            "eps": "0.1",
        }
        expected = rbl.evaluate(**asked, device="cpu").cells[0]
        found = rbl.evaluate(**asked, device=NAME, output=tmp_path).cells[0]
        assert present(found.record).digest == present(expected.record).digest
        record, _ = read_record(present(found.path))
        assert record.provenance.device == f"{NAME}: CPU in disguise"
        assert present(record.provenance.numerics)["cudnn.deterministic"] == "True"
        assert present(expected.record).provenance.numerics is None

    @pytest.mark.parametrize("defense", ["gaussian_noise", "feature_squeezing"])
    def test_a_defense_around_a_network_gives_the_verdicts_of_a_cpu(self, defense: str) -> None:
        samples = data(10)
        asked: dict[str, Any] = {
            "data": samples,
            "attacks": "pgd steps=3",
            "defenses": defense,
            "eps": "0.1",
        }
        fit = data(60)
        model = small_network()
        expected, found = (
            rbl.evaluate(model, **asked, fit_data=fit, device=where).cells[0]
            for where in ("cpu", NAME)
        )
        assert np.array_equal(found.robust, expected.robust)

    @pytest.mark.parametrize(("norm", "eps"), [("linf", "0.06"), ("l2", "0.4"), ("l0", "2")])
    def test_a_suite_gives_the_digest_of_a_cpu(self, norm: str, eps: str) -> None:
        asked: dict[str, Any] = {"attacks": "standard", "norm": norm, "eps": eps}
        expected, found = (
            rbl.evaluate(
                small_network(), data(8), **asked, query_budget=500, device=where, certify="off"
            ).cells[0]
            for where in ("cpu", NAME)
        )
        assert present(present(expected.arrays).staged).broken_by.max() >= 0
        assert present(found.record).digest == present(expected.record).digest

    def test_probabilities_are_checked_where_there_is_float64(self) -> None:
        model = torch.nn.Sequential(small_network(), torch.nn.Softmax(1)).eval()
        asked: dict[str, Any] = {
            "data": data(10),
            "attacks": "fgsm",
            "eps": "0.1",
            "outputs": "probabilities",
        }
        expected, found = (
            rbl.evaluate(model, **asked, device=where).cells[0] for where in ("cpu", NAME)
        )
        assert np.array_equal(found.robust, expected.robust)

    def test_a_network_that_draws_by_itself_repeats_itself(self) -> None:
        model = torch.nn.Sequential(Noise(), small_network()).eval()
        asked: dict[str, Any] = {"data": data(6), "attacks": "fgsm", "eps": "0.1", "device": NAME}
        first, second = (rbl.evaluate(model, **asked).cells[0] for _ in range(2))
        assert present(first.record).digest == present(second.record).digest


def deeper_network() -> torch.nn.Module:
    layers = (
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(144, 8),
        torch.nn.ReLU(),
    )
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 3))


def flat(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().cpu().flatten() for parameter in model.parameters()])


class Noise(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.05 * torch.randn_like(x)


@pytest.mark.usefixtures("device")
class TestCertificates:
    @pytest.mark.parametrize("method", ["crown-ibp", "dual"])
    def test_what_is_proved_is_what_a_cpu_proves(self, method: str) -> None:
        model, samples = small_network(), data(12)
        expected, found = (
            rbl.certify(model, samples, eps=0.02, method=method, device=where)
            for where in ("cpu", NAME)
        )
        assert torch.equal(found.margins, expected.margins)
        assert expected.certified.any()

    def test_a_certificate_that_stands_beside_an_attack_says_where_it_was_made(
        self, tmp_path: Path
    ) -> None:
        on_device = copy_in_eval_mode(small_network()).to(DEVICE)
        asked: dict[str, Any] = {
            "data": data(12),
            "attacks": "fgsm",
            "eps": "0.02",
            "certify": "crown-ibp",
            "output": tmp_path,
        }
        cell = rbl.evaluate(on_device, **asked, device=NAME).cells[0]
        record, arrays = read_certificate(next((tmp_path / "certificates").glob("*.json")))
        assert record.provenance.device == "cpu"
        assert record.provenance.numerics is None
        assert arrays.certified.any()
        assert not (arrays.certified & ~cell.robust).any()


@pytest.mark.usefixtures("device")
class TestTraining:
    @pytest.mark.parametrize("defense", TRAINED)
    def test_a_step_ends_with_the_weights_of_a_cpu(self, defense: str, tmp_path: Path) -> None:
        chosen, weights = registry.create("defense", defense), {}
        for where in ("cpu", NAME):
            model = initialise(deeper_network, 0, where)
            before, recipe = flat(model), Recipe(epochs=1, batch_size=16)
            train(
                model, chosen, data(16), recipe, checkpoint=tmp_path / f"{where}.pt", device=where
            )
            assert device_of(model).type == where
            weights[where] = flat(model)
            assert (weights[where] - before).abs().max() > 1e-3
        # A CPU takes some sums of the bounds in another order.
        assert torch.allclose(weights["cpu"], weights[NAME], rtol=0, atol=1e-6)

    def test_there_is_a_trained_defense_of_every_kind(self) -> None:
        assert {registry.Spec.parse(spec).name for spec in TRAINED} == {
            name for name in registry.names("defense") if registry.load("defense", name).trains
        }


@pytest.mark.usefixtures("device")
class TestDevices:
    def test_a_backend_that_torch_knows_is_taken_by_its_name(self) -> None:
        assert pick_device(NAME).type == pick_device(f"{NAME}:0").type == DEVICE.type
        assert pick_device(str(DEVICE)) == DEVICE

    def test_a_device_beyond_the_last_is_refused_with_what_there_is(self) -> None:
        with pytest.raises(
            UsageError, match=f"There is no {NAME}:7; this machine has 1 {NAME} device: {NAME}:0"
        ):
            pick_device(f"{NAME}:7")

    def test_a_network_of_buffers_alone_lies_where_they_do(self) -> None:
        network = torch.nn.Module()
        network.register_buffer("level", torch.zeros(1, device=DEVICE))
        assert device_of(network) == DEVICE


class TestThePretendDevice:
    """It refuses what real ones refuse: or else the tests here would hold nothing."""

    def test_devices_cannot_be_mixed(self) -> None:
        with Pretend() as entered:
            x = torch.ones(3, device=DEVICE)
            with pytest.raises(RuntimeError, match="same device"):
                x + torch.ones(3)
            assert torch.equal((x + torch.tensor(2.0)).cpu(), torch.full((3,), 3.0))  # a number may
            assert len(entered.waits.refused) == 1

    def test_there_is_no_float64(self) -> None:
        with Pretend(), pytest.raises(TypeError, match="float64"):
            torch.ones(3, device=DEVICE).double()

    def test_looks_and_copies_are_counted(self) -> None:
        with Pretend() as entered:
            x = torch.ones(3, device=DEVICE)
            assert entered.waits.count == 0
            assert bool((x > 0).all())
            assert x.tolist() == [1, 1, 1]
            assert entered.waits.looks.total() == 2
            torch.tensor(1.0, device=DEVICE)
            assert entered.waits.copies.total() == 1
