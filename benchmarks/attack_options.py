"""The options of ``attacks.py``."""

from __future__ import annotations

import argparse
from pathlib import Path

from architectures import ARCHITECTURES
from peers import PEERS

ATTACKS = [
    *("pgd", "fgsm", "boundary", "one_pixel", "zoo", "carlini_wagner", "patch"),
    *("apgd", "fab", "square", "ddn", "fmn", "pdpgd", "sigma_zero"),
]
_USUAL_NORM = {
    "ddn": "l2",
    "fmn": "l2",
    "pdpgd": "l2",
    "sigma_zero": "l0",
    "boundary": "l2",
    "zoo": "l2",
    "carlini_wagner": "l2",
    "one_pixel": "l0",
    "patch": "l0",
}
_NEAREST = ("boundary", "zoo", "carlini_wagner", "ddn", "fmn", "pdpgd", "sigma_zero")
"""Attacks that look for the nearest adversarial, whatever ``--eps``."""


def parse(description: str | None, arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, with the usual norm where none is named."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for add in (add_contest, add_subject, add_search, add_measurement):
        add(parser)
    options = parser.parse_args(arguments, argparse.Namespace(seed=0))
    options.norm = options.norm or _USUAL_NORM.get(options.attack, "linf")
    if options.attack in _NEAREST:
        options.eps = None
    return options


def add_contest(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who takes part."""
    parser.add_argument(
        "--attack",
        choices=ATTACKS,
        default="pgd",
    )
    parser.add_argument(
        "--against", nargs="+", choices=sorted(PEERS), default=["foolbox", "torchattacks"]
    )
    parser.add_argument(
        "--peer-steps", type=int, help="steps of the peers, where theirs are to be others than ours"
    )
    parser.add_argument(
        "--art-batch-size",
        type=int,
        default=1,
        help="zoo: 1 is ART's default, 256 packs a step in one call",
    )


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the network and the images."""
    parser.add_argument(
        "--model", default="none", help="defense whose bundled reference network is attacked"
    )
    parser.add_argument(
        "--architecture",
        choices=sorted(ARCHITECTURES),
        help="random weights, on images of CIFAR-10's size",
    )
    parser.add_argument(
        "--weights", type=Path, help="a network that rbl train wrote, instead of a bundled one"
    )
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path, help="where data sets lie that are not bundled")
    parser.add_argument("--images", type=int, default=1000)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the adversary searches."""
    parser.add_argument(
        "--norm",
        choices=["linf", "l2", "l1", "l0"],
        help="linf; l2 for boundary, zoo, C&W; l0: one_pixel, patch",
    )
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step-size", type=float, default=0.01)
    parser.add_argument(
        "--population",
        type=int,
        default=400,
        help="one_pixel; --steps are its generations, --eps its pixels",
    )
    parser.add_argument(
        "--search", choices=["evolution", "exhaustive"], default="evolution", help="one_pixel, ours"
    )
    parser.add_argument(
        "--grains", type=int, default=2, help="boundary, ours: kinds of noise; 1 is the paper's"
    )
    parser.add_argument(
        "--fit-batch",
        type=int,
        default=64,
        help="patch: training images a step; --eps are its pixels",
    )
    parser.add_argument(
        "--search-steps", type=int, default=9, help="zoo, carlini_wagner: values of c"
    )


def add_measurement(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how it is measured."""
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
