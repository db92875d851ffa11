"""The certified side: proofs are kept, a cell is bracketed by them, and a contradiction stops the
run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from robustbench_lite.attacks import PGD
from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.bounds.certify import Certificate
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import (
    ContradictionError,
    RecordError,
    UnsupportedLayerError,
    UsageError,
)
from robustbench_lite.evaluation import judging
from robustbench_lite.evaluation.certified import certify_all
from robustbench_lite.evaluation.job import AUDIT
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject, subject_from
from robustbench_lite.records.certificate import read_certificate
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.threat import ThreatModel
from tests.conftest import present

EPS = 0.1
#: What no digest covers, and a reader is shown all the same: as it is written, and changed.
SEALED = {
    "stages": ('"ibp"\n', '"crown"\n'),
    "partial": ('"partial": true', '"partial": false'),
    "device": ('"cpu"', '"cuda"'),
    "eps_written": ('"eps_written": "0.1"', '"eps_written": "1e-1"'),
    "schema_version": ('"schema_version": 2', '"schema_version": 99'),
    "protocol_version": ('"protocol_version": 1', '"protocol_version": 0'),
}


@dataclass(frozen=True, kw_only=True)
class Everything(Certifier):
    """Unsound: it calls every sample certified."""

    name: ClassVar[str] = "everything"

    def prove(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
    ) -> Iterator[Certificate]:
        for _ in x:
            yield Certificate(
                torch.ones(1, dtype=torch.bool), torch.ones(1, dtype=torch.float64), ("everything",)
            )


@dataclass(frozen=True, kw_only=True)
class Unsound(Defense):
    name: ClassVar[str] = "unsound"

    def certifier(self, threat: ThreatModel) -> Certifier:
        return Everything()


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("fashion_mnist", limit=48)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return rbl.reference_model("fashion_mnist", "adversarial_training").module


def test_a_cell_with_a_certificate_says_certified_is_at_most_robust_and_asks_less(
    network: nn.Module, data: Dataset
) -> None:
    options: dict[str, Any] = {"norm": "linf", "eps": EPS}
    attacked = rbl.evaluate(network, data, "pgd", **options).cells[0]
    both = rbl.evaluate(network, data, "pgd", **options, certify="dual").cells[0]
    assert attacked.certified is None
    assert attacked.certified_accuracy is None
    assert (both.robust == attacked.robust).all()
    assert (present(both.certified) <= both.robust).all()
    assert 0.2 < present(both.certified_accuracy) < present(both.robust_accuracy)
    skipped = both.certified & (np.arange(48) % AUDIT != 0)
    assert skipped.any()
    assert not both.forward_queries[skipped].any()
    assert (both.forward_queries[~skipped] == attacked.forward_queries[~skipped]).all()
    assert both.key != attacked.key


def test_what_is_certified_is_what_the_bounds_say(network: nn.Module, data: Dataset) -> None:
    found = rbl.certify(network, (data.x, data.y), norm="linf", eps="0.1", method="dual")
    cell = rbl.evaluate(network, data, "fgsm", norm="linf", eps=EPS, certify="dual").cells[0]
    assert (found.certified.numpy() == cell.certified).all()
    assert ((found.margins > 0) == found.certified).all()
    assert set(found.stage) == {"dual"}


def test_a_sample_that_is_certified_and_broken_stops_the_run_and_is_named(
    network: nn.Module, data: Dataset
) -> None:
    with pytest.raises(ContradictionError, match=r"Sample \d+ is certified, and pgd broke it"):
        rbl.evaluate(
            network, data, "pgd", defenses=Unsound(), norm="linf", eps=0.4, on_error="record"
        )


def test_a_lying_attack_is_found_out_by_a_sound_bound(
    network: nn.Module, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = judging._judge

    def lying(job: Any, judge: Any, waiting: Any) -> Any:
        judged = honest(job, judge, waiting)
        lies = [outcome._replace(broken=True, distance=0.05) for outcome in judged.outcomes]
        return judged._replace(outcomes=lies)

    monkeypatch.setattr(judging, "_judge", lying)
    with pytest.raises(ContradictionError, match="is certified"):
        rbl.evaluate(
            network, data, PGD(steps=2), norm="linf", eps=EPS, certify="dual", on_error="record"
        )


def subjects(network: nn.Module) -> list[Subject]:
    defense = subject_from("none", network, "net", None).defense  # type: ignore[arg-type]
    return [Subject("net", network, defense, "none")]


def test_an_interrupted_certificate_continues_and_ends_the_same(
    network: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    threat, certifier = ThreatModel.parse("linf", EPS), BoundCertifier(method="dual")

    class Killed(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.rows > 24:
            raise Killed

    with pytest.raises(Killed):
        certify_all(subjects(network), data, threat, certifier, output=tmp_path, on_progress=kill)
    heard = []
    found = certify_all(
        subjects(network),
        data,
        threat,
        certifier,
        output=tmp_path,
        on_progress=lambda p: heard.append(p.rows),
    )[0]
    assert heard[0] >= 16  # what the first run has proved is there
    whole = certify_all(subjects(network), data, threat, certifier)[0]
    assert present(found.record).digest == present(whole.record).digest
    assert present(found.path).exists()
    again = certify_all(subjects(network), data, threat, certifier, output=tmp_path)[0]
    assert again.cached
    assert again.arrays.stage == whole.arrays.stage
    assert (again.arrays.certified == whole.arrays.certified).all()


def test_a_misclassified_sample_is_not_certified_whatever_the_certifier_says(
    network: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    threat = ThreatModel.parse("linf", EPS)
    found = certify_all(subjects(network), data, threat, Everything(), output=tmp_path)[0]
    correct = network(data.x).argmax(1) == data.y
    assert 0 < correct.sum() < 48
    assert found.certified.tolist() == correct.tolist()
    assert found.of == correct.sum()
    assert (read_certificate(present(found.path))[1].certified == found.arrays.certified).all()


def test_a_margin_of_exactly_0_proves_nothing(network: nn.Module, data: Dataset) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Level(Everything):
        def prove(
            self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
        ) -> Iterator[Certificate]:
            for part in super().prove(model, x, y, threat):
                yield Certificate(part.certified, part.margins * 0, part.stage)

    assert not certify_all(subjects(network), data, ThreatModel.parse("linf", EPS), Level())[
        0
    ].certified.any()


@pytest.mark.parametrize("what", ["certified", "margins", "clean_correct", "eps", *SEALED])
def test_a_changed_certificate_is_refused(
    network: nn.Module, data: Dataset, tmp_path: Path, what: str
) -> None:
    threat = ThreatModel.parse("linf", EPS)
    found = certify_all(
        subjects(network), data, threat, BoundCertifier(method="ibp"), output=tmp_path
    )[0]
    path = present(found.path)
    text = path.read_text(encoding="utf-8")
    record, arrays = read_certificate(path)
    if what in SEALED:
        old, new = SEALED[what]
        assert old in text
        text = text.replace(old, new, 1)
    elif what == "eps":
        text = text.replace('"eps": 0.1', '"eps": 0.2')
    else:
        old = getattr(record.outcomes, what)
        text = (
            text.replace(old, ("B" if old[0] == "A" else "A") + old[1:])
            if what != "margins"
            else text.replace(old, "AAAA")
        )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match="--fresh"):
        read_certificate(path)
    assert len(arrays.certified) == 48


def test_time_that_runs_out_is_flagged_and_what_was_not_tried_is_not_certified(
    network: nn.Module, data: Dataset
) -> None:
    cell = rbl.evaluate(
        network, data, "fgsm", norm="linf", eps=EPS, certify="dual", certify_seconds=1e-9
    ).cells[0]
    assert any("ran out of time" in flag for flag in present(cell.record).provenance.flags)
    assert not present(cell.certified)[24:].any()


def test_the_certificate_that_a_defense_brings_is_taken_where_it_applies(data: Dataset) -> None:
    cells = rbl.evaluate(data=data, attacks="fgsm", defenses="parseval", norm="l2", eps=0.01).cells
    assert present(cells[0].identity.certifier).name == "lipschitz"
    assert present(cells[0].certified_accuracy) > 0.5
    assert (
        rbl.evaluate(data=data, attacks="fgsm", defenses="parseval", eps=EPS)
        .cells[0]
        .identity.certifier
        is None
    )


def test_a_network_without_bounds_is_attacked_all_the_same_unless_a_certificate_was_asked_for(
    data: Dataset,
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Sigmoid()).eval()
    cell = rbl.evaluate(model, data, "fgsm", defenses="parseval", norm="l2", eps=0.01).cells[0]
    assert cell.certified is None
    with pytest.raises(UnsupportedLayerError, match="Sigmoid"):
        rbl.evaluate(model, data, "fgsm", norm="linf", eps=0.01, certify="auto")
    with pytest.raises(UsageError, match="radius"):
        rbl.evaluate(model, data, "boundary", norm="l2", certify="auto")


def test_a_later_network_that_has_no_bound_is_refused_before_the_first_is_measured(
    network: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    def subject(module: nn.Module) -> Subject:
        return subject_from("none", module, "given", data)

    unknown = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Sigmoid()).eval()
    threat, settings = ThreatModel.parse("linf", EPS), Settings(certify="ibp", output=tmp_path)
    with pytest.raises(UnsupportedLayerError, match="Sigmoid"):
        run(
            Plan(
                subjects=[subject(network), subject(unknown)],
                attacks=[PGD(steps=1)],
                data=data,
                threat=threat,
            ),
            settings,
        )
    assert not list(tmp_path.rglob("*.json"))


def test_a_network_of_the_dual_training_is_certified_before_it_is_attacked() -> None:
    cell = rbl.evaluate(
        data=load_dataset("mnist", limit=40),
        attacks="pgd steps=5",
        defenses="dual_network",
        eps=0.1,
    ).cells[0]
    assert present(cell.identity.certifier).name == "auto"
    assert 0.8 < present(cell.certified_accuracy) <= present(cell.robust_accuracy)
    assert cell.forward_queries[cell.certified].mean() < 2


def test_a_cell_is_measured_again_once_its_certificate_went_on(
    network: nn.Module, data: Dataset, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"norm": "linf", "eps": EPS, "certify": "ibp", "output": tmp_path}
    small = load_dataset("mnist", limit=200)
    dual = rbl.reference_model("mnist", "dual_network").module
    first = rbl.evaluate(dual, small, "fgsm", **options, certify_seconds=1e-9).cells[0]
    assert "ran out of time" in present(first.record).provenance.flags[0]
    whole = rbl.evaluate(dual, small, "fgsm", **options).cells[0]
    assert whole.key == first.key
    assert present(whole.certified).sum() > present(first.certified).sum()
    again = rbl.evaluate(dual, small, "fgsm", **options, certify_seconds=1e-9).cells[0]
    assert again.cached
    assert present(again.record).digest == present(whole.record).digest


def test_a_random_defense_has_no_certificate(network: nn.Module, data: Dataset) -> None:
    with pytest.raises(UnsupportedLayerError, match="random"):
        rbl.evaluate(
            network, data, "fgsm", defenses="gaussian_noise", norm="linf", eps=EPS, certify="ibp"
        )


def test_a_radius_that_fits_no_image_is_refused(network: nn.Module, data: Dataset) -> None:
    with pytest.raises(UsageError, match=r"eps has the shape \(3,\)"):
        rbl.certify(network, data, eps=torch.full((3,), 0.1), method="ibp")
    with pytest.raises(UsageError, match="batch_size"):
        rbl.certify(network, data, eps=0.1, method="ibp", batch_size=0)
