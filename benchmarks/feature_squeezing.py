"""What a feature-squeezing detector catches: attacks that do not know of it, and attacks that do.

    python benchmarks/feature_squeezing.py
    python benchmarks/feature_squeezing.py --dataset mnist --data-dir data \
        --weights mnist-none.safetensors --squeeze 'bits=1 median=2' --eps 0.3 --json mnist.json

"plain" examples are made against the network alone, as in the paper, and shown to the detector
afterwards; "joint" ones are made against network and detector together. A joint attack succeeds
only with a wrong class that is not declined, so its examples pass the detector by construction;
what says how good it is, is the share of images that it breaks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_defenses.feature_squeezing.defense import FeatureSqueezing
from rbl_defenses.feature_squeezing.detector import detection_scores, roc_area
from robustbench_lite import registry
from robustbench_lite.sources.models import reference_model, trained_model


class Subject(NamedTuple):
    """A network with the images of the comparison."""

    network: nn.Module
    test: rbl.Dataset
    """The images that are attacked."""
    training: rbl.Dataset
    """Those that set the threshold."""


class Trial:
    """A detector that is set up, and what it says of clean images."""

    def __init__(self, subject: Subject, options: argparse.Namespace) -> None:
        shares = f"false_positives={options.false_positives}"
        spec = f"feature_squeezing {options.squeeze} detect=true {shares}"
        calibration = subject.training.x[: options.calibration]
        plain: FeatureSqueezing = registry.create("defense", spec)
        self.subject = subject
        self.defense = plain.calibrated(subject.network, calibration)
        self.threshold = self.defense.threshold or 0.0
        self.clean = self.score(subject.test.x)
        self.calibration = self.score(calibration)

    def score(self, x: Tensor) -> Tensor:
        """Score images as the detector does, (N,)."""
        return detection_scores(self.subject.network, self.defense.squeezers(), x)

    def judge(self, cell: rbl.Cell, made: str) -> dict[str, Any]:
        """Show the examples of ``cell`` to the detector; ``made``: plain or joint."""
        broken = torch.from_numpy(cell.clean_correct & ~cell.robust)
        own = torch.zeros(0)
        if bool(broken.any()):
            own = self.score(cell.x_adv[broken])  # type: ignore[index]  # kept
        caught = own > self.threshold
        robust = cell.robust_accuracy
        if made == "plain":
            robust = left(cell, broken, caught, self.clean > self.threshold)
        return {
            "made": made,
            "examples": int(broken.sum()),
            "caught (true positives)": share(caught),
            "ROC area": roc_area(self.clean, own) if len(own) else None,
            "median distance": cell.median_distance,
            "robust accuracy": robust,
        }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Show the detector clean images, and each attack of ``options``, plain and joint."""
    subject = load_subject(options)
    trial = Trial(subject, options)
    found = {
        "squeezers": options.squeeze,
        "dataset": subject.test.name,
        "n": len(subject.test),
        "threshold": trial.threshold,
        "calibrated on": len(trial.calibration),
        "false positives, training": share(trial.calibration > trial.threshold),
        "false positives, test": share(trial.clean > trial.threshold),
        "attacks": [],
    }
    for attack, norm, eps in attacks(options):
        settings = {
            "norm": norm,
            "eps": eps,
            "keep_adversarials": True,
            "batch_size": options.batch_size,
        }
        shown = subject.network, subject.test, attack
        plain = rbl.evaluate(*shown, **settings).cells[0]
        joint = rbl.evaluate(*shown, defenses=trial.defense, **settings).cells[0]
        found |= {
            "clean accuracy, undefended": plain.clean_accuracy,
            "clean accuracy, defended": joint.clean_accuracy,
        }
        label = {"attack": f"{attack}, {norm} {eps or 'any size'}"}
        found["attacks"] += [
            label | trial.judge(plain, "plain"),
            label | trial.judge(joint, "joint"),
        ]
    return found


def left(cell: rbl.Cell, broken: Tensor, caught: Tensor, declined: Tensor) -> float:
    """Measure the defended network under examples that do not know of it.

    A clean image that is declined is wrong.
    """
    passed = broken.clone()
    passed[broken] = ~caught
    right = torch.from_numpy(np.asarray(cell.clean_correct)) & ~declined
    return share(right & ~passed)


def attacks(options: argparse.Namespace) -> list[tuple[str, str, float | None]]:
    """List attack, norm and radius."""
    # With fewer or smaller steps Carlini-Wagner never crosses the rounding of MNIST to one bit.
    return [
        ("pgd steps=40", "linf", options.eps),
        ("carlini_wagner steps=200 search_steps=5 learning_rate=0.05", "l2", None),
    ]


def load_subject(options: argparse.Namespace) -> Subject:
    """Load the network and its images."""
    where = {"data_dir": options.data_dir}
    test = rbl.load_dataset(options.dataset, limit=options.images, **where)
    loaded = (
        trained_model(options.weights) if options.weights else reference_model(test.name, "none")
    )
    training = rbl.load_dataset(options.dataset, split="train", **where)
    return Subject(loaded.module, test, training)


def share(claims: Tensor) -> float:
    """Take the share of claims that hold; nan of none."""
    return float(claims.double().mean())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument(
        "--weights",
        type=Path,
        help="a network of `rbl train`; default: the bundled one without a defense",
    )
    parser.add_argument(
        "--squeeze", default="bits=3 median=2", help="hyper-parameters of feature_squeezing"
    )
    parser.add_argument("--false-positives", type=float, default=0.05)
    parser.add_argument(
        "--calibration", type=int, default=5000, help="training images that set the threshold"
    )
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--eps", type=float, default=0.05, help="of the Linf attack")
    parser.add_argument(
        "--batch-size", default="auto", type=lambda text: text if text == "auto" else int(text)
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def main() -> None:
    """Print the tables, and write the JSON."""
    options = parse()
    found = measure(options)
    print(
        tabulate(
            [(key, value) for key, value in found.items() if key != "attacks"],
            tablefmt="plain",
            floatfmt=".4g",
        )
    )
    print("\n" + tabulate(found["attacks"], headers="keys", floatfmt=".3f", missingval="-"))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
