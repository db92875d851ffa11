"""A suite is one cell: stages on what is left, with starts, budgets, and a place in the journal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_attacks.pgd import PGD, PGDState
from robustbench_lite.errors import RecordError, UsageError
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.records.cell import Record, read_record, write_record
from robustbench_lite.records.journal import Journal, open_journal
from robustbench_lite.records.samples import NearMiss, stage_key
from robustbench_lite.records.seal import sha256_of
from robustbench_lite.records.stages import StageArrays
from robustbench_lite.search import Access, Answer, Query, SampleRng
from robustbench_lite.search.suite import Stage, Suite, keeps_lowest
from robustbench_lite.threat import ThreatModel
from tests.conftest import images, present, small_network

EPS = 0.05
Batch = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Suite):
    """A suite of the stages that a test gives it."""

    name: ClassVar[str] = "given"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    paper: ClassVar[str] = ""

    plan: tuple[Stage, ...] = dataclasses.field(
        default=(), metadata={"hyperparameter": False}, repr=False
    )

    def stages(self, threat: ThreatModel) -> Sequence[Stage]:
        return self.plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Early(Given):
    conclusive: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeing(PGD):
    """Remembers where its rows began, and with which restart."""

    name: ClassVar[str] = "seeing"
    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def init_at(
        self, start: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng
    ) -> PGDState:
        self.seen.append((start.clone(), rng.restart.clone()))
        return super().init_at(start, x, y, threat, rng)


PLAN = (
    Stage.of("fgsm", cost=3),
    Stage.of("pgd steps=3 loss=margin", cost=9),
    Stage.of("pgd steps=10 loss=margin restarts=3", cost=90, draw=1),
)


@pytest.fixture
def network() -> nn.Module:
    return small_network()


@pytest.fixture
def batch(network: nn.Module) -> Batch:
    x = images(80)
    return x, network(x).argmax(1)


def run(network: nn.Module, batch: Batch, suite: Suite, **settings: Any) -> Cell:
    return rbl.evaluate(network, batch, suite, norm="linf", eps=EPS, **settings).cells[0]


def staged(cell: Cell) -> StageArrays:
    return present(present(cell.arrays).staged)


def test_each_stage_sees_what_is_left_and_the_record_says_which_broke_what(
    network: nn.Module, batch: Batch, tmp_path: Path
) -> None:
    cell = run(network, batch, Given(plan=PLAN), output=tmp_path)
    by, tallies = staged(cell)
    assert [tally.stage for tally in tallies] == [0, 1, 2]
    left = int(cell.clean_correct.sum())
    for tally in tallies:
        assert tally.seen == left
        assert tally.broken == int((by == tally.stage).sum())
        left -= tally.broken
    assert tallies[0].broken > 0
    assert tallies[1].broken + tallies[2].broken > 0
    assert left == int(cell.robust.sum())
    assert np.array_equal(by >= 0, present(cell.arrays).broken)
    assert (np.isfinite(cell.distance) == (by >= 0)).all()
    record, arrays = read_record(present(cell.path))
    assert np.array_equal(present(arrays.staged).broken_by, by)
    assert len(present(record.provenance.stage_seconds)) == 3
    assert [stage.name for stage in present(record.identity.attack.stages)] == [
        "fgsm",
        "pgd",
        "pgd",
    ]


def test_the_verdicts_are_those_of_the_attacks_alone(network: nn.Module, batch: Batch) -> None:
    cell = run(network, batch, Given(plan=PLAN[:2]))
    alone = [
        rbl.evaluate(network, batch, stage.attack, norm="linf", eps=EPS).cells[0]
        for stage in PLAN[:2]
    ]
    assert np.array_equal(cell.robust, alone[0].robust & alone[1].robust)
    by = staged(cell).broken_by
    assert np.array_equal(by == 0, alone[0].clean_correct & ~alone[0].robust)
    assert (cell.forward_queries >= alone[0].forward_queries).all()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_no_verdict_depends_on_the_batch(network: nn.Module, batch: Batch, batch_size: int) -> None:
    plan = (*PLAN, Stage.of("pgd steps=5 loss=ce", start="lowest", draw=2))
    first = run(network, batch, Given(plan=plan))
    second = run(network, batch, Given(plan=plan), batch_size=batch_size)
    assert present(first.record).digest == present(second.record).digest


def test_a_budget_is_one_of_all_stages(network: nn.Module, batch: Batch) -> None:
    cell = run(network, batch, Given(plan=PLAN), query_budget=12)
    spent = cell.forward_queries + cell.backward_queries
    assert spent.max() <= 12
    assert spent.max() > 6  # of the first stage alone


def test_a_stage_begins_at_the_point_nearest_to_success(network: nn.Module, batch: Batch) -> None:
    Seeing.seen.clear()
    plan = (
        Stage.of("pgd steps=2 loss=margin"),
        Stage(Seeing(steps=1, loss="margin"), start="lowest", draw=3),
    )
    run(network, batch, Given(plan=plan))
    start, restart = Seeing.seen[0]
    assert (restart == 3).all()
    x = batch[0]
    from_image = torch.stack([(point - x).abs().flatten(1).amax(1).min() for point in start])
    assert (from_image <= EPS + 1e-6).all()
    lowest = torch.cdist(start.flatten(1), x.flatten(1)).argmin(1)
    clean = network(x[lowest]).sort(1).values
    moved = network(start).sort(1).values
    assert ((moved[:, -1] - moved[:, -2]) < (clean[:, -1] - clean[:, -2])).float().mean() > 0.9


def test_what_a_later_stage_has_seen_from_afar_is_no_start(
    network: nn.Module, batch: Batch
) -> None:
    Seeing.seen.clear()
    plan = (
        Stage.of("pgd steps=3 loss=margin"),
        Stage.of("pgd steps=1 step_size=0.0001 random_start=false"),
        Stage(Seeing(steps=1, loss="margin"), start="lowest"),
    )
    run(network, batch, Given(plan=plan))
    start, _ = Seeing.seen[0]
    x = batch[0]
    apart = torch.stack([(point - x).abs().flatten(1).amax(1).min() for point in start])
    assert (apart > 0.001).all()


def test_a_run_that_was_killed_goes_on_within_its_stage(
    network: nn.Module, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = (*PLAN[:2], Stage.of("pgd steps=4 loss=margin", start="lowest", draw=5))
    whole = run(network, batch, Given(plan=plan), output=tmp_path / "whole", batch_size=16)
    add, calls = Journal.add, []

    def dying(self: Journal, key: str, *args: Any, **options: Any) -> None:
        add(self, key, *args, **options)
        calls.append(key)
        if key.endswith("/2"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        run(network, batch, Given(plan=plan), output=tmp_path / "killed", batch_size=16)
    monkeypatch.setattr(Journal, "add", add)
    before = len(calls)

    def noting(self: Journal, key: str, *args: Any, **options: Any) -> None:
        calls.append(key)
        add(self, key, *args, **options)

    monkeypatch.setattr(Journal, "add", noting)
    again = run(network, batch, Given(plan=plan), output=tmp_path / "killed", batch_size=16)
    assert {key[-2:] for key in calls[before:]} == {"/2"}
    assert present(again.record).digest == present(whole.record).digest
    with open_journal(tmp_path / "killed" / "journal.sqlite") as journal:
        assert journal.count(again.key) == 0


def test_an_alarm_calls_for_a_stage_on_the_samples_where_it_rings(
    network: nn.Module, batch: Batch
) -> None:
    weak = Stage.of("pgd steps=1 step_size=0.0001 random_start=false")
    blind = Stage(BlindNoise())
    more = Stage.of("pgd steps=2", when="alarm")
    cell = run(network, batch, Given(plan=(weak, blind, more)))
    _, second, third = staged(cell).tallies
    assert 0 < third.seen < second.seen - second.broken
    # Noise that brings nobody nearer rings no alarm.
    still = run(network, batch, Given(plan=(PLAN[2], blind, more)))
    assert sum(tally.seen for tally in staged(still).tallies[2:]) < third.seen


def test_an_alarm_rings_for_a_sample_whoever_stands_beside_it(
    network: nn.Module, batch: Batch
) -> None:
    plan = (
        Stage.of("pgd steps=1 step_size=0.0001 random_start=false"),
        Stage(BlindNoise()),
        Stage.of("pgd steps=3 loss=margin", start="lowest", when="alarm"),
    )
    whole = present(run(network, batch, Given(plan=plan)).arrays)
    index = torch.arange(0, len(batch[1]), 3)
    part = rbl.evaluate(
        network,
        (batch[0][index], batch[1][index]),
        Given(plan=plan),
        norm="linf",
        eps=EPS,
        ids=index,
    ).cells[0]
    arrays = present(part.arrays)
    assert np.array_equal(arrays.broken, whole.broken[index])
    assert np.array_equal(arrays.forward_queries, whole.forward_queries[index])
    assert np.array_equal(present(arrays.staged).broken_by, present(whole.staged).broken_by[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindNoise(PGD):
    """One step by scores alone: random signs."""

    name: ClassVar[str] = "blind_noise"
    access: ClassVar[Access] = Access.SCORES
    steps: int = 1

    def init(self, x: Tensor, y: Tensor, threat: ThreatModel, rng: SampleRng) -> PGDState:
        signs = (rng.uniform(0, tuple(x.shape[1:])) - 0.5).sign()
        return self.init_at((x + EPS * signs).clamp(0, 1), x, y, threat, rng)

    def ask(self, state: PGDState) -> Query:
        return Query.scores(state.x_adv)

    def tell(self, state: PGDState, answer: Answer) -> PGDState:
        return state.replace(finished=torch.ones_like(state.finished))


def test_what_stops_early_says_so(network: nn.Module, batch: Batch, tmp_path: Path) -> None:
    cell = run(network, batch, Early(plan=PLAN[:1]), output=tmp_path)
    (flag,) = [flag for flag in present(cell.record).provenance.flags if "not attacked" in flag]
    assert "at most" in flag
    assert run(network, batch, Given(plan=PLAN[:1])).key != cell.key


def test_stages_are_part_of_the_key(network: nn.Module, batch: Batch) -> None:
    keys = {
        run(network, batch, Given(plan=plan)).key
        for plan in (PLAN, PLAN[:2], (PLAN[0], dataclasses.replace(PLAN[1], draw=1)))
    }
    assert len(keys) == 3


def test_images_are_those_that_the_stages_found(network: nn.Module, batch: Batch) -> None:
    cell = run(network, batch, Given(plan=PLAN), keep_adversarials=True)
    broken = torch.from_numpy(present(cell.arrays).broken)
    x_adv = present(cell.x_adv)
    assert (network(x_adv[broken]).argmax(1) != batch[1][broken]).all()
    assert torch.equal(x_adv[~broken], batch[0][~broken])


def forge_broken(stages: list[dict[str, int]]) -> None:
    stages[0]["broken"] += 1


def forge_number(stages: list[dict[str, int]]) -> None:
    """A stage that the suite does not have: readers look its attack up."""
    assert stages[-1]["broken"] == 0
    stages[-1]["stage"] = 99


def forge_twice(stages: list[dict[str, int]]) -> None:
    stages.append({**stages[-1], "forward": 0, "backward": 0})


def forge_queries(stages: list[dict[str, int]]) -> None:
    stages[0]["backward"] += 1


@pytest.mark.parametrize("forge", [forge_broken, forge_number, forge_twice, forge_queries])
def test_a_record_whose_stages_do_not_add_up_is_refused(
    network: nn.Module,
    batch: Batch,
    tmp_path: Path,
    forge: Callable[[list[dict[str, int]]], None],
) -> None:
    plan = (*PLAN, Stage.of("pgd steps=1 step_size=0.0001 random_start=false"))
    path = present(run(network, batch, Given(plan=plan), output=tmp_path).path)
    document = json.loads(path.read_text())
    forge(document["outcomes"]["stages"])
    record = Record.model_validate(document)
    digest = sha256_of({"key": record.key, "outcomes": document["outcomes"]})
    forged = record.model_copy(update={"digest": digest}).sealed()
    write_record(forged, path)
    with pytest.raises(RecordError, match="stages"):
        read_record(path)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage.of("one_pixel"), "cannot work in linf"),
        (Stage.of("patch"), "run alone"),
        (Stage.of("fgsm", start="lowest"), "chooses its own start"),
        (Stage(Given(plan=PLAN)), "run alone"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(
    network: nn.Module, batch: Batch, stage: Stage, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(network, batch, Given(plan=(stage,)))


def test_a_suite_has_no_targeted_mode(network: nn.Module, batch: Batch) -> None:
    with pytest.raises(UsageError, match="no targeted mode"):
        rbl.evaluate(network, batch, Given(plan=PLAN), norm="linf", eps=EPS, targeted="random")


def test_points_are_kept_only_for_stages_that_want_them() -> None:
    plan = (PLAN[0], PLAN[1], Stage.of("pgd", start="previous"), PLAN[2])
    assert [keeps_lowest(plan, number) for number in range(4)] == [False, True, False, False]
    plan = (PLAN[0], PLAN[1], Stage.of("pgd", start="lowest"), PLAN[2])
    assert [keeps_lowest(plan, number) for number in range(4)] == [True, True, False, False]


def test_the_journal_keeps_near_misses_with_their_stage(tmp_path: Path) -> None:
    miss = NearMiss(3, 0.25, b"\0" * 16)
    with open_journal(tmp_path / "journal.sqlite") as journal:
        journal.add(stage_key("ab", 1), [], 1.0, misses=[miss])
        assert journal.misses(stage_key("ab", 1), 5) == [miss]
        assert journal.misses(stage_key("ab", 2), 5) == []
        with pytest.raises(RecordError, match="sample 3 of 3"):
            journal.misses(stage_key("ab", 1), 3)
        journal._connection.execute("UPDATE misses SET margin = 0.5")
        with pytest.raises(RecordError, match="does not agree with its seal"):
            journal.misses(stage_key("ab", 1), 5)
        journal.forget("ab")
        assert journal.misses(stage_key("ab", 1), 5) == []
