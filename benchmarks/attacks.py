"""Ours and theirs in turn: the same model, images, steps and step size.

    python benchmarks/attacks.py --attack pgd --against foolbox torchattacks

Prints robust accuracy (or the median distance), model evaluations a sample, seconds and the ratio,
as a table; ``--json FILE`` writes the same. Peers: ``pip install robustbench_lite[peers]``.
``--against plain`` is a PGD loop written by hand. What comes once a network, whatever the number of
attacks and images (its copy, its fast path), is timed apart, as "prepare".
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from architectures import ARCHITECTURES, with_random_weights
from peers import PEERS, Counter, as_evaluated, broken, training_images
from tabulate import tabulate
from torch import Tensor, nn

from robustbench_lite import registry
from robustbench_lite.model.defended import DefendedModel
from robustbench_lite.model.passes import Passes, Points
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.engine import Engine
from robustbench_lite.search.fitted import FittedAttack
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.task import Task
from robustbench_lite.sources.datasets import load_dataset
from robustbench_lite.sources.models import reference_model, trained_model
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import norm_by_name

Prepare = Callable[[nn.Module, Tensor], Any]
"""What comes once a network: (model, x) -> what ``Contestant.run`` takes as its model."""


@dataclass
class Contestant:
    name: str
    run: Callable[[Any, Tensor, Tensor], Tensor]  # the model is what `prepare` makes
    prepare: Prepare = lambda model, x: model
    seconds: list[float] = field(default_factory=list)
    evaluations: float = float("nan")
    robust: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    preparing: list[float] = field(default_factory=list)

    def note(self, model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, norm: str) -> None:
        """What one run found: robust accuracy, and the median distance over all images."""
        hit = broken(model, x_adv, y)
        self.robust.append(1 - float(hit.float().mean()))
        self.distance.append(
            float(norm_by_name(norm).size(x_adv - x).masked_fill(~hit, float("inf")).median())
        )


def ours(options: argparse.Namespace) -> Callable[[DefendedModel, Tensor, Tensor], Tensor]:
    params: dict[str, object] = {"steps": options.steps}
    if options.attack == "fgsm":
        params = {"sweep": False}
    elif options.attack == "pgd":
        params["step_size"] = options.step_size
    elif options.attack == "boundary":
        params["grains"] = options.grains
    elif options.attack == "one_pixel":
        params = {
            "population": options.population,
            "generations": options.steps,
            "search": options.search,
        }
    elif options.attack == "zoo":
        params |= {"search_steps": options.search_steps}
    elif options.attack == "carlini_wagner":
        params |= {"search_steps": options.search_steps, "learning_rate": options.step_size}
    elif options.attack == "patch":
        params |= {"draws": 1, "fit_batch": options.fit_batch, "learning_rate": options.step_size}
    attack = registry.load("attack", options.attack)(**params)
    threat = ThreatModel.parse(options.norm, options.eps)

    def run(model: DefendedModel, x: Tensor, y: Tensor) -> Tensor:
        passes = Passes(model, options.batch_size, fast=True)
        index = torch.arange(len(y))
        none = torch.full_like(y, -1)
        x_adv = x.clone()
        engine = Engine(
            ready(attack, passes, threat, options),
            passes,
            threat,
            seed=options.seed,
            device=x.device,
        )
        judge = Judge(passes, threat, attack.name, x.device)
        for rows in engine.search(Task(x, y, none, index)):
            at = rows.position[rows.claimed]
            claims = rows.x_adv[rows.claimed]
            judge.confirm(claims, x[at], y[at], none[at], index.to(at.device)[at])
            x_adv[at] = claims
        return x_adv

    return run


def ready(
    attack: Attack, passes: Passes, threat: ThreatModel, options: argparse.Namespace
) -> Attack:
    """A universal attack fitted to the training images; any other as it is."""
    if not isinstance(attack, FittedAttack) or not attack.fits:
        return attack
    x, y = training_images(passes.module, options)
    zeros = torch.zeros_like(y)
    *_, last = attack.fit(
        passes,
        Points(x, y, zeros - 1, torch.arange(len(y), device=y.device), zeros),
        threat,
        options.seed,
    )
    return dataclasses.replace(attack, fitted=last.result)


def subject(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, and those of the first ``--images`` images that it classifies correctly."""
    if options.architecture:
        return with_random_weights(options)
    data = load_dataset(options.dataset, data_dir=options.data_dir)
    loaded = (
        trained_model(options.weights)
        if options.weights
        else reference_model(options.dataset, options.model)
    )
    model = loaded.module.to(options.device).eval().requires_grad_(False)
    x = data.x[: options.images].to(options.device)
    y = data.y[: options.images].to(options.device)
    keep = ~broken(model, x, y)
    if options.attack == "boundary" and "foolbox" in options.against:
        # foolbox starts from uniform noise and fails as a whole when the noise is of an image's own
        # class.
        noise = model(torch.rand(32, *x.shape[1:], device=x.device)).argmax(1)
        keep &= (y.unsqueeze(1) != noise).all(1)
    return model, x[keep], y[keep]


def measure(contestants: list[Contestant], options: argparse.Namespace) -> None:
    """Every contestant once to count and warm up, then in turn, so that a busy moment of the
    machine hits all alike.
    """
    model, x, y = subject(options)
    for one in contestants:
        counter = Counter(model).eval()
        one.note(model, one.run(one.prepare(counter, x), x, y), x, y, options.norm)
        one.evaluations = counter.rows / len(y)
    for repeat in range(1, options.repeats + 1):
        options.seed = repeat
        for one in contestants:
            torch.manual_seed(options.seed)  # the peers draw from the global generator
            start = time.perf_counter()
            prepared = one.prepare(model, x)
            one.preparing.append(time.perf_counter() - start)
            start = time.perf_counter()
            x_adv = one.run(prepared, x, y)
            if (
                one is not contestants[0]
            ):  # a number needs a verdict for each image, and ours are judged already
                broken(model, x_adv, y)
            if x.device.type == "cuda":
                torch.cuda.synchronize()
            one.seconds.append(time.perf_counter() - start)
            one.note(model, x_adv, x, y, options.norm)
    first = statistics.median(contestants[0].seconds) if options.repeats else float("nan")
    rows = [row(one, first) for one in contestants]
    print(
        f"{options.attack} on {options.architecture or options.model}, {len(y)} images, "
        f"{options.norm}, {vars(options)}\n"
    )
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    print(
        f"\nA forward pass alone, a row: {forward_microseconds(model, x, options.batch_size):.0f} "
        "microseconds"
    )
    print(f"Peak memory of the process: {peak_memory(x.device):.0f} MiB")
    if options.json:
        options.json.write_text(
            json.dumps(
                {"options": {k: str(v) for k, v in vars(options).items()}, "rows": rows}, indent=1
            )
        )


def row(one: Contestant, first: float) -> dict[str, float | str]:
    seconds = statistics.median(one.seconds) if one.seconds else float("nan")
    return {
        "toolkit": one.name,
        "robust accuracy": statistics.mean(one.robust),
        "median distance": statistics.mean(one.distance),
        "model evaluations a sample": one.evaluations,
        "prepare": statistics.median(one.preparing) if one.preparing else float("nan"),
        "seconds": seconds,
        "slower than ours": seconds / first,
    }


def forward_microseconds(model: nn.Module, x: Tensor, batch_size: int) -> float:
    """What one row of the network's own pass takes, in full batches, laid out as ours: the median
    of 21. No attack saves it.
    """
    network = searched(model, x)
    batch = x[torch.arange(batch_size, device=x.device) % len(x)]
    seconds = []
    with torch.no_grad():
        for _ in range(21):
            start = time.perf_counter()
            network(batch)
            if x.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / batch_size * 1e6


def searched(model: nn.Module, x: Tensor) -> nn.Module:
    """The network that a search follows the gradient of: the fast path of ``model``, where there is
    one.
    """
    prepared = as_evaluated(model, x)
    return prepared.module if prepared.fast is None else prepared.fast.gradient


def peak_memory(device: torch.device) -> float:
    """In MiB: of the accelerator where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--attack",
        choices=["pgd", "fgsm", "boundary", "one_pixel", "zoo", "carlini_wagner", "patch"],
        default="pgd",
    )
    parser.add_argument(
        "--against", nargs="+", choices=sorted(PEERS), default=["foolbox", "torchattacks"]
    )
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
    parser.add_argument(
        "--norm",
        choices=["linf", "l2", "l1", "l0"],
        help="linf; l2 for boundary, zoo, C&W; l0: one_pixel, patch",
    )
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument(
        "--peer-steps", type=int, help="steps of the peers, where theirs are to be others than ours"
    )
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
    parser.add_argument(
        "--art-batch-size",
        type=int,
        default=1,
        help="zoo: 1 is ART's default, 256 packs a step in one call",
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments, argparse.Namespace(seed=0))
    usual = {
        "boundary": "l2",
        "zoo": "l2",
        "carlini_wagner": "l2",
        "one_pixel": "l0",
        "patch": "l0",
    }
    options.norm = options.norm or usual.get(options.attack, "linf")
    if options.attack in ("boundary", "zoo", "carlini_wagner"):
        options.eps = None
    return options


def main() -> None:
    options = parse()
    missing = [
        name
        for name in options.against
        if not name.startswith("plain") and importlib.util.find_spec(name) is None
    ]
    if missing:
        sys.exit(
            f"{' and '.join(missing)} not installed: pip install 'robustbench_lite[peers]', or "
            "leave it out of --against."
        )
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    theirs = argparse.Namespace(**vars(options) | {"steps": options.peer_steps or options.steps})
    peers = [Contestant(n, PEERS[n](theirs)) for n in options.against]
    for one in peers:
        one.prepare = searched if one.name == "plain_prepared" else one.prepare
    measure([Contestant("robustbench_lite", ours(options), as_evaluated), *peers], options)


if __name__ == "__main__":
    main()
