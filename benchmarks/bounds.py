"""Certificates, ours and theirs: the same networks, images and radius, in one run.

    python benchmarks/bounds.py --networks none dual_network --against plain auto_LiRPA

Prints milliseconds of CPU time a sample, the certified share and the margins, as a table; ``--json
FILE`` writes the same. ``plain`` is the dual network as published, written by hand with one row for
every unit of every layer. auto_LiRPA (with equal slopes, the same bound) is what ``import
auto_LiRPA`` finds; its version of 2022 on PyPI does not run with numpy 2.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite.bounds.certify import certify
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import reference_model, trained_model

Bounder = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
"""(model, x, y, eps) -> a lower bound of each margin over the whole Linf ball, (N,)."""


def ours(method: str, batch_size: int) -> Bounder:
    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return certify(
            model, x, y, eps=eps, method=method, box=False, batch_size=batch_size
        ).margins

    return run


def in_batches(one: Bounder, batch_size: int) -> Bounder:
    def run(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([one(model, *part, eps) for part in parts])

    return run


def class_rows(y: Tensor, classes: int) -> Tensor:
    """Make e_y - e_j for the other classes j, (B, K - 1, K)."""
    eye = torch.eye(classes)
    others = ~F.one_hot(y, classes).bool()
    rows = eye[y].unsqueeze(1) - eye  # (B, K, K)
    return rows.masked_select(others.unsqueeze(2)).reshape(len(y), classes - 1, classes)


class Chain:
    """Wong and Kolter 2018, algorithm 1, with one row for every unit of every layer.

    It is for a chain of convolutions, linear layers and ReLUs, the images ``x``, and an Linf ball.
    """

    def __init__(self, model: nn.Module, x: Tensor, eps: float) -> None:
        self.layers: list[Any] = list(model)  # type: ignore[call-overload]
        self.x = x
        self.eps = eps
        self.shapes = [x.shape[1:]]
        for layer in self.layers:
            self.shapes.append(layer(torch.zeros(1, *self.shapes[-1])).shape[1:])
        self.slopes: dict[int, tuple[Tensor, Tensor]] = {}
        """Slope and intercept of each ReLU, by its index."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, nn.ReLU):
                self.relax(index)

    def relax(self, index: int) -> None:
        """Bound the units before a ReLU, and put parallel lines around it."""
        shape = self.shapes[index]
        units = torch.eye(shape.numel()).reshape(1, -1, *shape)
        low, high = (side.reshape(len(self.x), *shape) for side in self.bounds(units, index))
        crosses = (low < 0) & (high > 0)
        slope = torch.where(crosses, high / (high - low), (low >= 0).float())
        self.slopes[index] = slope, torch.where(crosses, -low * slope, 0.0)

    def bounds(self, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Bound rows (B or 1, R, *shape) over the output of the first ``depth`` layers.

        Returns:
            Lower and upper bounds, (B, R) each.
        """
        low = torch.zeros(rows.shape[:2])
        high = torch.zeros(rows.shape[:2])
        for index in reversed(range(depth)):
            layer = self.layers[index]
            if isinstance(layer, nn.ReLU):
                slope, intercept = (part.unsqueeze(1) for part in self.slopes[index])
                low = low + (rows.clamp(max=0) * intercept).flatten(2).sum(2)
                high = high + (rows.clamp_min(0) * intercept).flatten(2).sum(2)
                rows = rows * slope  # (B, R, *shape), also where all samples began with the same
                continue
            if not isinstance(layer, nn.Flatten):
                bias = layer.bias.reshape(-1, *([1] * (len(self.shapes[index + 1]) - 1)))
                offset = (rows * bias).flatten(2).sum(2)
                low = low + offset
                high = high + offset
            rows = transpose(layer, rows, self.shapes[index])
        centre = (rows * self.x.unsqueeze(1)).flatten(2).sum(2)
        radius = self.eps * rows.abs().flatten(2).sum(2)
        return low + centre - radius, high + centre + radius


def transpose(layer: Any, rows: Tensor, shape: torch.Size) -> Tensor:
    """Take rows over the output of a linear ``layer`` to rows over its input of ``shape``."""
    flat = rows.flatten(0, 1)
    if isinstance(layer, nn.Conv2d):
        flat = F.conv_transpose2d(flat, layer.weight, None, layer.stride, layer.padding)  # type: ignore[arg-type]
    elif isinstance(layer, nn.Linear):
        flat = flat @ layer.weight
    return flat.reshape(*rows.shape[:2], *shape)


@torch.no_grad()
def plain(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Bound the margins with the dual network as published."""
    chain = Chain(model, x, eps)
    rows = class_rows(y, chain.shapes[-1][0])
    return chain.bounds(rows, len(chain.layers))[0].amin(1)


def auto_lirpa(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    key = (id(model), len(x))
    if key not in _BOUNDED:  # made once for a network and a batch size, outside of what is timed
        _BOUNDED[key] = BoundedModule(
            model, torch.empty_like(x), bound_opts={"activation_bound_option": "same-slope"}
        )
    image = BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), eps=eps))
    rows = class_rows(y, 10)
    lower, _ = _BOUNDED[key].compute_bounds(x=(image,), C=rows, method="CROWN", bound_upper=False)
    return lower.detach().amin(1)  # type: ignore[no-any-return]


_BOUNDED: dict[tuple[int, int], Any] = {}
PEERS = {"plain": plain, "auto_LiRPA": auto_lirpa}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument(
        "--networks",
        nargs="+",
        default=["none", "adversarial_training"],
        help="bundled ones, or .safetensors",
    )
    parser.add_argument("--methods", nargs="+", default=["ibp", "crown-ibp", "dual", "crown"])
    parser.add_argument("--against", nargs="*", default=["plain"], choices=sorted(PEERS))
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64, help="ours")
    parser.add_argument(
        "--peer-batch-size", type=int, default=10, help="theirs: dense rows outgrow the caches soon"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def network_of(text: str, dataset: str) -> nn.Module:
    loaded = (
        trained_model(text) if text.endswith(".safetensors") else reference_model(dataset, text)
    )
    return loaded.module.requires_grad_(False).eval()


def measure(
    name: str, model: nn.Module, data: Dataset, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Run all contestants in turn, ``--repeats`` times; CPU time is the median."""
    contestants = {f"rbl {method}": ours(method, options.batch_size) for method in options.methods}
    contestants |= {
        f"{peer} (dual)": in_batches(PEERS[peer], options.peer_batch_size)
        for peer in options.against
    }
    margins: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for repeat in range(options.repeats + 1):  # the first is a warm-up
        for contestant, bound in contestants.items():
            start = time.process_time()
            margins[contestant] = bound(model, data.x, data.y, options.eps).double()
            if repeat:
                seconds[contestant].append(time.process_time() - start)
    dual = margins.get("rbl dual")
    rows: list[dict[str, Any]] = []
    for contestant, found in margins.items():
        off = None
        if dual is not None and contestant.endswith("(dual)"):
            off = float((found - dual).abs().max())
        rows.append(
            {
                "network": name,
                "bound": contestant,
                "ms a sample": 1000 * statistics.median(seconds[contestant]) / len(data),
                "certified": float((found > 0).double().mean()),
                "mean margin": float(found.mean()),
                "off rbl dual": off,
            }
        )
    return rows


def main() -> None:
    options = parse()
    if "auto_LiRPA" in options.against and importlib.util.find_spec("auto_LiRPA") is None:
        sys.exit(
            "auto_LiRPA is not installed: leave it out of --against, or put a clone of its "
            "repository on PYTHONPATH."
        )
    torch.set_num_threads(options.threads)
    data = load_dataset(options.dataset, limit=options.samples, data_dir=options.data_dir)
    rows = [
        row
        for name in options.networks
        for row in measure(name, network_of(name, options.dataset), data, options)
    ]
    print(
        f"{options.dataset}, {len(data)} images, Linf eps {options.eps}, whole ball, "
        f"{options.threads} thread(s)"
    )
    print(tabulate(rows, headers="keys", floatfmt=("", "", ".2f", ".3f", ".3f", ".1e")))
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options), "rows": rows}, indent=2, default=str),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
