"""What each stage of a suite breaks and costs, and what the reference breaks that it does not.

    python benchmarks/suite.py --suite standard --networks fashion_mnist-adversarial_training:0.1
    python benchmarks/suite.py --suite standard --against autoattack --n 1000

Networks are ``NAME:EPS``, bundled ones by name; ``FILE.pth@DATASET:EPS`` reads a state dict of the
network of Wong and Kolter 2018 (conv16, conv32, fc100, fc10). Costs are in forward passes a sample
that is attacked, a backward pass being two. The reference is the authors' package of AutoAttack
(``pip install git+https://github.com/fra31/auto-attack``), on the same images; what it came to is
kept in ``--keep DIR`` and read from there. Seconds are of CPU time. ``--json FILE`` writes
everything.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from outside import wong_kolter
from suite_peers import PEERS, Found, Trial, recall
from tabulate import tabulate

import robustbench_lite as rbl
from robustbench_lite.evaluation.inputs import attack_from
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.report import Cell
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.suite import Suite
from robustbench_lite.sources.models import named_network
from robustbench_lite.threat import ThreatModel

ROBUST = (
    "fashion_mnist-adversarial_training:0.1",
    "mnist-adversarial_training:0.3",
    "mnist-adversarial_training-0.1:0.1",
    "cifar10-jpeg-adversarial_training:8/255",
    "cifar10-jpeg-adversarial_training-residual:8/255",
    "fashion_mnist-dual_network:0.1",
    "mnist-dual_network:0.1",
    "mnist-dual_network-0.3:0.3",
    "cifar10-jpeg-dual_network:2/255",
)


def trial_of(text: str, options: argparse.Namespace) -> Trial:
    """Load what ``NAME:EPS`` names."""
    name, _, eps = text.rpartition(":")
    file, _, known = name.partition("@")
    if known:
        model = wong_kolter(Path(file))
    else:
        found = named_network(name)
        model = found.module
        known = name.partition("-")[0] if not name.startswith("cifar") else "cifar10-jpeg"
    data = rbl.load_dataset(known, limit=options.n, data_dir=options.data_dir)
    return Trial(Path(name).stem if file != name else name, model, data, eps)


def run_suite(trial: Trial, attack: Attack | str, options: argparse.Namespace) -> Cell:
    """Measure a cell; nothing is written."""
    data = (trial.data.x, trial.data.y)
    return rbl.evaluate(
        trial.model,
        data,
        attack,
        norm=options.norm,
        eps=trial.eps,
        seed=options.seed,
        certify=options.certify,
    ).cells[0]


def found_by(cell: Cell, seconds: float) -> Found:
    """Sum up a cell."""
    attacked = max(1, int(cell.clean_correct.sum()))
    cost = float(cell.forward_queries.sum() + 2 * cell.backward_queries.sum()) / attacked
    return Found(cell.robust, cost, seconds)


def stage_rows(cell: Cell, suite: Suite, eps: str, norm: str) -> list[dict[str, Any]]:
    """What each stage has seen, broken and cost."""
    arrays = cell.arrays
    if arrays is None or arrays.staged is None or cell.record is None:
        return []
    stages = suite.stages(ThreatModel.parse(norm, eps))
    seconds = cell.record.provenance.stage_seconds or []
    return [
        {
            "stage": short_label("attack", stages[tally.stage].attack),
            "begins at": stages[tally.stage].start,
            "saw": tally.seen,
            "broke": tally.broken,
            "cost of one": round((tally.forward + 2 * tally.backward) / max(1, tally.seen)),
            "seconds": round(took, 1),
        }
        for tally, took in zip(arrays.staged.tallies, seconds, strict=True)
    ]


def compare(trial: Trial, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one network; print and return what came out."""
    suite = attack_from(options.suite)
    if not isinstance(suite, Suite):
        raise SystemExit(f"{options.suite} is no suite: see `rbl list suites`.")
    few = trial._replace(
        data=dataclasses.replace(trial.data, x=trial.data.x[:2], y=trial.data.y[:2])
    )
    run_suite(few, suite, options)  # imports what it needs
    started = time.process_time()
    cell = run_suite(trial, suite, options)
    ours = found_by(cell, time.process_time() - started)
    rows = stage_rows(cell, suite, trial.eps, options.norm)
    print(f"\n## {trial.label}, {options.norm} {trial.eps}, n = {len(trial.data):,}\n")
    print(tabulate(rows, headers="keys", tablefmt="github"))
    left = int(ours.robust.sum())
    print(f"\n{options.suite}: {left} left, cost {ours.cost:,.0f}, {ours.seconds:.1f} s")
    result: dict[str, Any] = {
        "network": trial.label,
        "eps": trial.eps,
        "stages": rows,
        "left": left,
        "cost": ours.cost,
        "seconds": ours.seconds,
    }
    for peer in options.against:
        theirs = recall(peer, trial, cell.clean_correct, options)
        only = np.flatnonzero(ours.robust & ~theirs.robust).tolist()
        more = np.flatnonzero(~ours.robust & theirs.robust).tolist()
        share = f"{ours.cost / theirs.cost:.3f} of its cost"
        print(
            f"{peer}: {int(theirs.robust.sum())} left, cost {theirs.cost:,.0f}, "
            f"{theirs.seconds:.1f} s; broken by it alone {only}, by {options.suite} alone {more}; "
            f"{share}, {ours.seconds / theirs.seconds:.3f} of its time"
        )
        result[peer] = {
            "left": int(theirs.robust.sum()),
            "cost": theirs.cost,
            "seconds": theirs.seconds,
            "broken by it alone": only,
            "broken by ours alone": more,
        }
    return result


def main() -> None:
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--networks", nargs="+", default=list(ROBUST), metavar="NAME:EPS")
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--certify", default="off", help="own: certificates first")
    parser.add_argument("--batch-size", type=int, default=250, help="of the peer")
    parser.add_argument("--against", nargs="*", default=[], choices=sorted(PEERS))
    parser.add_argument("--keep", type=Path, default=None, metavar="DIR")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for text in options.networks:
        found.append(compare(trial_of(text, options), options))
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
