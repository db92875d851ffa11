"""The Python API: what it gives back, what it writes, what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.pgd import PGD, PGDState
from robustbench_lite.errors import (
    AttackError,
    DataError,
    ModelError,
    RecordError,
    RobustBenchError,
    UsageError,
)
from robustbench_lite.evaluation import inputs
from robustbench_lite.search.query import Answer
from tests.conftest import images, present

Batch = tuple[Tensor, Tensor]
EPS = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutOfBall(PGD):
    """Takes its steps in the ball, then claims a point far outside of it."""

    name = "out_of_ball"

    def tell(self, state: PGDState, answer: Answer) -> PGDState:
        state = super().tell(state, answer)
        return state.replace(x_adv=(state.x_adv + 0.5).clamp(0, 1))


def test_a_report_gives_figures_and_samples(network: nn.Module, batch: Batch) -> None:
    x, y = batch
    y = y.clone()
    y[:5] = (y[:5] + 1) % 3  # five images that are wrong from the start
    report = rbl.evaluate(
        network, (x, y), "pgd steps=10", norm="linf", eps="1/20", keep_adversarials=True
    )
    (cell,) = report.cells
    assert cell.status == "complete"
    assert cell.n == 60
    assert cell.clean_accuracy == pytest.approx(55 / 60)
    assert 0 < cell.robust_accuracy < cell.clean_accuracy
    assert cell.interval.low < cell.robust_accuracy < cell.interval.high
    assert not cell.robust[:5].any()
    assert (cell.distance[:5] == 0).all()
    assert cell.forward_queries[:5].sum() == 0
    assert cell.x_adv is not None
    changed = (cell.x_adv != x).flatten(1).any(1).numpy()
    broken = cell.clean_correct & ~cell.robust
    assert (changed == broken).all()
    assert (network(cell.x_adv).argmax(1) != y).numpy()[broken].all()
    assert np.isnan(cell.distance[cell.robust]).all()
    assert (cell.distance[broken] <= EPS + 1e-6).all()
    np.testing.assert_allclose(
        cell.distance[broken], (cell.x_adv - x).abs().amax((1, 2, 3)).numpy()[broken], atol=1e-7
    )


def test_the_frame_has_one_row_a_cell(network: nn.Module, batch: Batch) -> None:
    frame = rbl.evaluate(network, batch, ["pgd steps=3", PGD(steps=5)], eps=EPS).to_frame()
    assert frame["attack"].tolist() == ["pgd steps=3", "pgd steps=5"]
    assert frame["robust_accuracy"].between(0, 1).all()


def test_specs_and_objects_are_the_same_cell(network: nn.Module, batch: Batch) -> None:
    report = rbl.evaluate(network, batch, ["pgd steps=5", PGD(steps=5)], eps=EPS)
    first, second = (cell.record for cell in report.cells)
    assert first is not None
    assert second is not None
    assert (first.key, first.digest) == (second.key, second.digest)


def test_numpy_arrays_and_tensors_are_the_same_data(network: nn.Module, batch: Batch) -> None:
    x, y = batch
    keys = {
        rbl.evaluate(network, data, "fgsm", eps=EPS).cells[0].key
        for data in [(x, y), (x.numpy(), y.numpy())]
    }
    assert len(keys) == 1


def test_batch_size_does_not_change_the_digest(network: nn.Module, batch: Batch) -> None:
    digests = {
        rbl.evaluate(network, batch, "pgd steps=10 restarts=2", eps=EPS, batch_size=size)
        .cells[0]
        .record.digest  # type: ignore[union-attr]
        for size in (1, 7, 64, "auto")
    }
    assert len(digests) == 1


def test_shards_find_what_the_whole_finds(network: nn.Module, batch: Batch) -> None:
    x, y = batch
    whole = rbl.evaluate(network, batch, "pgd steps=10", eps=EPS).cells[0]
    parts = [
        rbl.evaluate(
            network, (x[part], y[part]), "pgd steps=10", eps=EPS, ids=np.arange(60)[part]
        ).cells[0]
        for part in (slice(0, 25), slice(25, 60))
    ]
    assert np.concatenate([part.robust for part in parts]).tolist() == whole.robust.tolist()


def test_another_seed_draws_other_numbers(network: nn.Module, batch: Batch) -> None:
    cells = [
        rbl.evaluate(
            network, batch, "pgd steps=2", eps=EPS, seed=seed, keep_adversarials=True
        ).cells[0]
        for seed in (0, 1)
    ]
    assert not torch.equal(cells[0].x_adv, cells[1].x_adv)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"query_budget": 5},
        {"eps": 0.06},
        {"norm": "l2"},
        {"targeted": "random"},
        {"certify": "ibp"},
        {"attacks": "pgd steps=2"},
        {"defenses": "parseval"},
        {"ids": range(1, 61)},
    ],
    ids=str,
)
def test_every_setting_that_decides_the_outcome_is_in_the_key(
    network: nn.Module, batch: Batch, change: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"attacks": "fgsm", "eps": EPS}
    one, other = (
        rbl.evaluate(network, batch, **(options | more)).cells[0].key for more in ({}, change)
    )
    assert one != other


def test_a_finished_cell_is_read_and_not_measured_again(
    network: nn.Module, batch: Batch, tmp_path: Path
) -> None:
    first = rbl.evaluate(
        network, batch, "pgd steps=5", eps=EPS, output=tmp_path, keep_adversarials=True
    ).cells[0]
    again = rbl.evaluate(
        network, batch, "pgd steps=5", eps=EPS, output=tmp_path, keep_adversarials=True
    ).cells[0]
    fresh = rbl.evaluate(network, batch, "pgd steps=5", eps=EPS, output=tmp_path, fresh=True).cells[
        0
    ]
    assert (first.cached, again.cached, fresh.cached) == (False, True, False)
    assert first.record is not None
    assert again.record is not None
    assert fresh.record is not None
    assert first.record == again.record
    assert first.record.digest == fresh.record.digest
    assert torch.equal(first.x_adv, again.x_adv)  # type: ignore[arg-type]


def test_a_tampered_record_stops_the_run(network: nn.Module, batch: Batch, tmp_path: Path) -> None:
    cell = rbl.evaluate(network, batch, "fgsm", eps=EPS, output=tmp_path).cells[0]
    assert cell.path is not None
    cell.path.write_text(cell.path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RecordError, match="was changed"):
        rbl.evaluate(network, batch, "fgsm", eps=EPS, output=tmp_path)


def test_an_interrupted_cell_continues(network: nn.Module, batch: Batch, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"norm": "linf", "eps": EPS, "batch_size": 16}
    whole = rbl.evaluate(network, batch, "pgd steps=20", **settings).cells[0].record

    class Killed(BaseException):
        pass

    seen: list[float] = []

    def stop(progress: object) -> None:
        seen.append(progress.rows)  # type: ignore[attr-defined]
        if len(seen) == 3:  # the start, and two batches that the journal holds
            raise Killed

    with pytest.raises(Killed):
        rbl.evaluate(network, batch, "pgd steps=20", output=tmp_path, on_progress=stop, **settings)
    known: list[float] = []
    resumed = rbl.evaluate(
        network,
        batch,
        "pgd steps=20",
        output=tmp_path,
        on_progress=lambda p: known.append(p.rows),
        **settings,
    )
    assert known[0] >= 16, "nothing was taken over from the interrupted run"
    assert whole is not None
    assert resumed.cells[0].record is not None
    assert resumed.cells[0].record.digest == whole.digest


def test_an_attack_that_leaves_the_ball_is_an_error(network: nn.Module, batch: Batch) -> None:
    with pytest.raises(
        AttackError, match=r"out_of_ball left the Linf ball .* on sample \d+, by 0\.\d+"
    ):
        rbl.evaluate(network, batch, OutOfBall(steps=3), eps=EPS)
    report = rbl.evaluate(network, batch, [OutOfBall(steps=3), "fgsm"], eps=EPS, on_error="record")
    assert [cell.status for cell in report.cells] == ["error", "complete"]
    assert report.failed[0].to_dict()["robust_accuracy"] is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"eps": -0.1}, UsageError, "negative"),
        ({"eps": "nan"}, UsageError, "finite"),
        ({"eps": None}, UsageError, "needs its radius"),
        ({"norm": "l0", "eps": 1}, UsageError, "cannot work in l0"),
        ({"norm": "l3"}, UsageError, "No norm"),
        ({"attacks": "pdg"}, UsageError, "Did you mean 'pgd'"),
        ({"attacks": []}, UsageError, "at least one"),
        ({"attacks": 3}, UsageError, "no attack"),
        ({"defenses": "parsival"}, UsageError, "Did you mean 'parseval'"),
        ({"targeted": "class:9"}, UsageError, "Target class 9"),
        ({"batch_size": 0}, UsageError, "batch_size"),
        ({"query_budget": 0}, UsageError, "query_budget"),
        ({"device": "tpu"}, UsageError, "No device"),
        ({"sed": 1}, UsageError, "Did you mean 'seed'"),
        ({"ids": [1, 2]}, DataError, "ids"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    network: nn.Module,
    batch: Batch,
    tmp_path: Path,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    arguments: dict[str, Any] = {
        "data": batch,
        "attacks": "pgd steps=2",
        "eps": EPS,
        "output": tmp_path / "out",
    }
    with pytest.raises(error, match=message):
        rbl.evaluate(network, **(arguments | change))
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (images(4) * 255, torch.zeros(4, dtype=torch.int64), "255"),
        (images(4) - 0.5, torch.zeros(4, dtype=torch.int64), r"\[0, 1\]"),
        (images(4) / 0, torch.zeros(4, dtype=torch.int64), "NaN|nan|finite"),
        (images(4)[:, 0], torch.zeros(4, dtype=torch.int64), "shape"),
        ((images(4) * 255).to(torch.uint8), torch.zeros(4, dtype=torch.int64), "uint8"),
        (images(4), torch.zeros(3, dtype=torch.int64), "3"),
        (images(4), torch.zeros(4), "label"),
        (images(4), torch.full((4,), -1), "Labels"),
        (images(0), torch.zeros(0, dtype=torch.int64), "no samples"),
    ],
)
def test_bad_images_and_labels_are_refused(
    network: nn.Module, x: Tensor, y: Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rbl.evaluate(network, (x, y), "fgsm", eps=EPS)


def test_labels_beyond_the_models_classes_are_refused(network: nn.Module) -> None:
    with pytest.raises(ModelError, match="3 classes"):
        rbl.evaluate(network, (images(4), torch.tensor([0, 1, 2, 3])), "fgsm", eps=EPS)


def test_a_targeted_run_counts_only_the_target_as_success(network: nn.Module, batch: Batch) -> None:
    y = batch[1]
    cell = rbl.evaluate(
        network, batch, "pgd steps=20", eps=0.2, targeted="class:1", keep_adversarials=True
    ).cells[0]
    assert cell.n == int((y != 1).sum())
    assert cell.x_adv is not None
    broken = ~cell.robust
    assert broken.any()
    assert (network(cell.x_adv).argmax(1).numpy()[broken] == 1).all()


class Rounded(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.round())  # type: ignore[no-any-return,no-untyped-call]


class Blind(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)  # type: ignore[no-any-return,no-untyped-call]


def linear(kind: type[nn.Sequential] = nn.Sequential, *more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return kind(nn.Flatten(), nn.Linear(64, 4), *more).eval()


def pictures(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, linear()(x).argmax(1)


def test_a_gradient_of_zero_is_flagged_for_attacks_that_follow_it() -> None:
    cells = rbl.evaluate(
        linear(Rounded), pictures(), ["pgd steps=2", "boundary steps=20"], norm="l2", eps=0.1
    ).cells
    assert [
        any("gradient is 0" in flag for flag in present(cell.record).provenance.flags)
        for cell in cells
    ] == [True, False]


def test_a_model_without_a_gradient_is_told_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"no gradient by its input.*boundary"):
        rbl.evaluate(linear(Blind), pictures(), "pgd steps=2", norm="l2", eps=0.1)
    assert (
        rbl.evaluate(linear(Blind), pictures(), "boundary steps=20", norm="l2", eps=0.1)
        .cells[0]
        .status
        == "complete"
    )


def test_logits_are_not_taken_for_probabilities() -> None:
    with pytest.raises(ModelError, match="said to return probabilities"):
        rbl.evaluate(linear(), pictures(), "fgsm", norm="linf", eps=0.1, outputs="probabilities")
    model = linear(nn.Sequential, nn.Softmax(1))
    assert (
        rbl.evaluate(model, pictures(), "fgsm", norm="linf", eps=0.1, outputs="probabilities")
        .cells[0]
        .clean_accuracy
        == 1
    )


class Broken(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")  # type: ignore[no-any-return,no-untyped-call]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (linear(nn.Sequential, nn.Softmax(1)), "probabilities"),
        (linear(Broken), "NaN"),
        (nn.Flatten().eval(), "64 classes"),
    ],
)
def test_a_random_defense_hides_no_wrong_model(model: nn.Module, words: str) -> None:
    x, y = pictures()
    data = dataclasses.replace(inputs.dataset_from((x, y)), classes=4)
    with pytest.raises(ModelError, match=words):
        rbl.evaluate(model, data, "fgsm", defenses="gaussian_noise", norm="linf", eps=0.1)


def test_samples_of_the_target_class_do_not_make_a_run_partial() -> None:
    cell = rbl.evaluate(
        linear(), pictures(), "fgsm", norm="linf", eps=0.1, targeted="class:0"
    ).cells[0]
    assert cell.n < 24
    assert cell.status == "complete"


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": "a"},
        {"seed": 1.5},
        {"query_budget": 2.5},
        {"batch_size": "x"},
        {"outputs": "foo"},
        {"on_error": "foo"},
        {"certify_seconds": 0},
        {"certify_seconds": float("nan")},
        {"ids": [0] * 24},
        {"ids": [i - 1 for i in range(24)]},
        {"ids": [i + 0.5 for i in range(24)]},
    ],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RobustBenchError, match=next(iter(wrong))):
        rbl.evaluate(linear(), pictures(), "fgsm", norm="linf", eps=0.1, **wrong)


def test_a_report_prints_without_its_arrays() -> None:
    assert (
        len(repr(rbl.evaluate(linear(), pictures(), "fgsm", norm="linf", eps=0.1).cells[0])) < 3000
    )
