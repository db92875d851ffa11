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

import torch
from architectures import with_random_weights
from attack_options import parse
from contestants import Contestant, median
from harness import Counter, Subject, as_evaluated, broken, training_images
from peers import PEERS
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
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import reference_model, trained_model
from robustbench_lite.threat import ThreatModel


def parameters(options: argparse.Namespace) -> dict[str, object]:
    """Say what our attack is made with."""
    steps = {"steps": options.steps}
    searched = {"search_steps": options.search_steps}
    rate = {"learning_rate": options.step_size}
    match options.attack:
        case "fgsm":
            return {"sweep": False}
        case "pgd":
            return steps | {"step_size": options.step_size}
        case "boundary":
            return steps | {"grains": options.grains}
        case "one_pixel":
            return {
                "population": options.population,
                "generations": options.steps,
                "search": options.search,
            }
        case "zoo":
            return steps | searched
        case "carlini_wagner":
            return steps | searched | rate
        case "patch":
            return steps | rate | {"draws": 1, "fit_batch": options.fit_batch}
        case "square":
            return {"queries": options.steps}
        case _:
            return steps


def ours(options: argparse.Namespace) -> Callable[[DefendedModel, Tensor, Tensor], Tensor]:
    """Make what runs our attack: engine and judge, without records."""
    attack = registry.load("attack", options.attack)(**parameters(options))
    threat = ThreatModel.parse(options.norm, options.eps)

    def run(model: DefendedModel, x: Tensor, y: Tensor) -> Tensor:
        passes = Passes(model, options.batch_size, fast=True)
        index = torch.arange(len(y))
        none = torch.full_like(y, -1)
        x_adv = x.clone()
        engine = Engine(
            fit(attack, passes, threat, options),
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


def fit(attack: Attack, passes: Passes, threat: ThreatModel, options: argparse.Namespace) -> Attack:
    """Fit a universal attack to the training images; leave any other as it is."""
    if not isinstance(attack, FittedAttack) or not attack.fits:
        return attack
    x, y = training_images(passes.module, options)
    zeros = torch.zeros_like(y)
    points = Points(x, y, zeros - 1, torch.arange(len(y), device=y.device), zeros)
    *_, last = attack.fit(passes, points, threat, options.seed)
    return dataclasses.replace(attack, fitted=last.result)


def load_subject(options: argparse.Namespace) -> Subject:
    """Load the model, and those of the first ``--images`` images that it classifies correctly."""
    if options.architecture:
        return with_random_weights(options)
    data = load_dataset(options.dataset, data_dir=options.data_dir)
    if options.weights:
        loaded = trained_model(options.weights)
    else:
        loaded = reference_model(options.dataset, options.model)
    model = loaded.module.to(options.device).eval().requires_grad_(False)
    x = data.x[: options.images].to(options.device)
    y = data.y[: options.images].to(options.device)
    keep = ~broken(model, x, y)
    if options.attack == "boundary" and "foolbox" in options.against:
        # foolbox starts from uniform noise, and fails as a whole when that is of an image's class.
        noise = model(torch.rand(32, *x.shape[1:], device=x.device)).argmax(1)
        keep &= (y.unsqueeze(1) != noise).all(1)
    return Subject(model, x[keep], y[keep])


def measure(contestants: list[Contestant], subject: Subject, options: argparse.Namespace) -> None:
    """Run all contestants in turn, so that a busy moment of the machine hits all alike."""
    model, x, y = subject
    for one in contestants:  # once to count, and to warm up
        counter = Counter(model).eval()
        one.note(model, one.run(one.prepare(counter, x), x, y), x, y, options.norm)
        one.evaluations = counter.rows / len(y)
    for repeat in range(1, options.repeats + 1):
        options.seed = repeat
        for one in contestants:
            torch.manual_seed(options.seed)  # the peers draw from the global generator
            x_adv = run_timed(one, subject, judged=one is contestants[0])
            one.note(model, x_adv, x, y, options.norm)


def run_timed(one: Contestant, subject: Subject, *, judged: bool) -> Tensor:
    """Run ``one``, and note how long its preparation and its search take.

    A number needs a verdict for each image: it is part of the time. ``judged``: the search has
    given it.
    """
    model, x, y = subject
    start = time.perf_counter()
    prepared = one.prepare(model, x)
    one.preparing.append(time.perf_counter() - start)
    start = time.perf_counter()
    x_adv = one.run(prepared, x, y)
    if not judged:
        broken(model, x_adv, y)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    one.seconds.append(time.perf_counter() - start)
    return x_adv


def report(contestants: list[Contestant], subject: Subject, options: argparse.Namespace) -> None:
    """Print the table, and write it where ``--json`` says."""
    model, x, y = subject
    first = median(contestants[0].seconds)
    rows = [one.row(first) for one in contestants]
    print(
        f"{options.attack} on {options.architecture or options.model}, {len(y)} images, "
        f"{options.norm}, {vars(options)}\n"
    )
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    microseconds = forward_microseconds(model, x, options.batch_size)
    print(f"\nA forward pass alone, a row: {microseconds:.0f} microseconds")
    print(f"Peak memory of the process: {peak_memory(x.device):.0f} MiB")
    if options.json:
        told = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"options": told, "rows": rows}, indent=1))


def forward_microseconds(model: nn.Module, x: Tensor, batch_size: int) -> float:
    """Time what one row of the network's own pass takes, which no attack saves.

    It is the median of 21 full batches, laid out as ours.
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
    """Give the network whose gradient a search follows: the fast path, where there is one."""
    prepared = as_evaluated(model, x)
    return prepared.module if prepared.fast is None else prepared.fast.gradient


def peak_memory(device: torch.device) -> float:
    """Ask for the peak in MiB: of the accelerator where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    options = parse(__doc__)
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
    contestants = [Contestant("robustbench_lite", ours(options), as_evaluated), *peers]
    subject = load_subject(options)
    measure(contestants, subject, options)
    report(contestants, subject, options)


if __name__ == "__main__":
    main()
