"""What a feature-squeezing detector catches: attacks that do not know of it, and attacks that do.

    python benchmarks/feature_squeezing.py python benchmarks/feature_squeezing.py --dataset mnist
    --data-dir data --weights mnist-none.safetensors \
        --squeeze 'bits=1 median=2' --eps 0.3 --json mnist.json

"plain" examples are made against the network alone, as in the paper, and shown to the detector
afterwards; "joint" ones are made against network and detector together. A joint attack succeeds
only with a wrong class that is not declined, so its examples pass the detector by construction;
what says how good it is, is the share of images that it breaks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn

import robustbench_lite as rbl
from rbl_defenses.feature_squeezing.defense import FeatureSqueezing
from rbl_defenses.feature_squeezing.detector import detection_scores, roc_area
from robustbench_lite import registry
from robustbench_lite.sources.models import reference_model, trained_model


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The detector on clean images, and each attack of ``options``, plain and joint."""
    network, test, training = subject(options)
    calibration = training.x[: options.calibration]
    spec = (
        f"feature_squeezing {options.squeeze} detect=true false_positives={options.false_positives}"
    )
    defense: FeatureSqueezing = registry.create("defense", spec).calibrated(network, calibration)
    threshold = defense.threshold or 0.0

    def scores(x: Tensor) -> Tensor:
        return detection_scores(network, defense.squeezers(), x)

    clean = scores(test.x)
    found = {
        "squeezers": options.squeeze,
        "dataset": test.name,
        "n": len(test),
        "threshold": threshold,
        "calibrated on": len(calibration),
        "false positives, training": share(scores(calibration) > threshold),
        "false positives, test": share(clean > threshold),
        "attacks": [],
    }
    for attack, norm, eps in attacks(options):
        shared = {
            "norm": norm,
            "eps": eps,
            "keep_adversarials": True,
            "batch_size": options.batch_size,
        }
        plain = rbl.evaluate(network, test, attack, **shared).cells[0]
        joint = rbl.evaluate(network, test, attack, defenses=defense, **shared).cells[0]
        found |= {
            "clean accuracy, undefended": plain.clean_accuracy,
            "clean accuracy, defended": joint.clean_accuracy,
        }
        for how, cell in (("plain", plain), ("joint", joint)):
            broken = torch.from_numpy(cell.clean_correct & ~cell.robust)
            own = scores(cell.x_adv[broken]) if bool(broken.any()) else torch.zeros(0)  # type: ignore[index]  # kept
            met = (
                cell.robust_accuracy
                if how == "joint"
                else left(cell, broken, own > threshold, clean > threshold)
            )
            found["attacks"].append(
                {
                    "attack": f"{attack}, {norm} {eps or 'any size'}",
                    "made": how,
                    "examples": int(broken.sum()),
                    "caught (true positives)": share(own > threshold),
                    "ROC area": roc_area(clean, own) if len(own) else None,
                    "median distance": cell.median_distance,
                    "robust accuracy": met,
                }
            )
    return found


def left(cell: rbl.Cell, broken: Tensor, caught: Tensor, declined: Tensor) -> float:
    """Accuracy of the defended network under examples that do not know of it; a clean image that is
    declined is wrong.
    """
    passed = broken.clone()
    passed[broken] = ~caught
    right = torch.from_numpy(np.asarray(cell.clean_correct)) & ~declined
    return share(right & ~passed)


def attacks(options: argparse.Namespace) -> list[tuple[str, str, float | None]]:
    """Attack, norm and radius. With fewer or smaller steps Carlini-Wagner never crosses the
    rounding of MNIST to one bit.
    """
    return [
        ("pgd steps=40", "linf", options.eps),
        ("carlini_wagner steps=200 search_steps=5 learning_rate=0.05", "l2", None),
    ]


def subject(options: argparse.Namespace) -> tuple[nn.Module, rbl.Dataset, rbl.Dataset]:
    """The network, the images that are attacked, and those that set the threshold."""
    where = {"data_dir": options.data_dir}
    test = rbl.load_dataset(options.dataset, limit=options.images, **where)
    loaded = (
        trained_model(options.weights) if options.weights else reference_model(test.name, "none")
    )
    return loaded.module, test, rbl.load_dataset(options.dataset, split="train", **where)


def share(claims: Tensor) -> float:
    """nan for none."""
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
