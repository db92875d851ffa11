"""What the fast paths gain, layer by layer and network by network.

    python benchmarks/fast_paths.py

The rules of ``model/fast`` come from here. It prints the CPU time of one thread for the input
gradient of strided convolutions, by torch's kernel and by ours, in both layouts; and for a gradient
of whole networks, as they were given and on the path that ``evaluate`` searches. Shares are of the
first column.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from architectures import ARCHITECTURES
from harness import as_evaluated
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from robustbench_lite.model.fast.convolution import InputGradient
from robustbench_lite.sources.models import reference_model

LAYERS = [  # channels before and after, kernel, stride, padding, side of the image
    (1, 16, 4, 2, 1, 28),
    (3, 16, 4, 2, 1, 32),
    (3, 128, 4, 4, 0, 32),
    (3, 768, 16, 16, 0, 224),
    (3, 96, 4, 4, 0, 224),
    (16, 32, 4, 2, 1, 14),
    (96, 192, 2, 2, 0, 28),
    (3, 64, 7, 2, 3, 224),
    (3, 16, 3, 2, 1, 64),
    (16, 32, 3, 2, 1, 32),
    (64, 128, 3, 2, 1, 8),
]
LAST = torch.channels_last


def shares(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time each run, in turn, after a warm-up.

    Returns:
        The median CPU time, of the first in milliseconds, of the others as shares of it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    return {
        name: 1e3 * value if name == next(iter(medians)) else value / first
        for name, value in medians.items()
    }


def of_layer(sizes: tuple[int, ...], rows: int, repeats: int) -> dict[str, float | str]:
    before, after, kernel, stride, padding, side = sizes
    layer = nn.Conv2d(before, after, kernel, stride, padding).requires_grad_(False)
    x = torch.rand(rows, before, side, side)
    ours = InputGradient(layer.weight, (stride, stride), (padding, padding))
    grad = torch.ones_like(layer(x))
    weight = layer.weight.contiguous(memory_format=LAST)
    last = grad.contiguous(memory_format=LAST)

    def general(grad: Tensor, weight: Tensor) -> Tensor:
        return conv2d_input(list(x.shape), weight, grad, stride, padding)  # type: ignore[no-untyped-call,no-any-return]

    found = shares(
        {
            "torch, ms": lambda: general(grad, layer.weight),
            "torch, channels last": lambda: general(last, weight),
            "ours": lambda: ours(grad, x.shape),
            "ours, channels last": lambda: ours(last, x.shape),
        },
        repeats,
    )
    return {
        "layer": f"{before} to {after}, {kernel}x{kernel} at stride {stride}, {side} pixels",
        **found,
    }


def of_network(name: str, model: nn.Module, x: Tensor, repeats: int) -> dict[str, float | str]:
    model = model.eval().requires_grad_(False)
    prepared = as_evaluated(model, x)
    path = prepared.fast

    def gradient(network: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(network(leaf).square().sum(), leaf)[0]

    found = shares(
        {
            "as given, ms": lambda: gradient(prepared.module),
            "searched": lambda: gradient(path.module if path else model),
        },
        repeats,
    )
    return {
        "network": name,
        **found,
        "path": "as given" if path is None or not path.what else ", ".join(path.what),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rows", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        tabulate(
            [of_layer(sizes, options.rows, options.repeats) for sizes in LAYERS],
            headers="keys",
            floatfmt=".2f",
        ),
        "\n",
    )
    bundled = [
        ("fashion_mnist", "none", "convolutional", 1, 28),
        ("cifar10-jpeg", "none", "convolutional", 3, 32),
        ("cifar10-jpeg", "none", "residual", 3, 32),
    ]
    networks = [
        (
            f"{data}, {kind}",
            reference_model(data, defense, kind).module,
            torch.rand(options.rows, channels, side, side),
        )
        for data, defense, kind, channels, side in bundled
    ]
    networks += [
        (name, make(), torch.rand(options.rows, 3, 32, 32)) for name, make in ARCHITECTURES.items()
    ]
    print(
        tabulate(
            [of_network(*one, options.repeats) for one in networks], headers="keys", floatfmt=".2f"
        )
    )


if __name__ == "__main__":
    main()
