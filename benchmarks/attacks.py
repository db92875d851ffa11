"""Ours and theirs in turn: the same model, images, steps and step size.

    python benchmarks/attacks.py --attack pgd --against foolbox torchattacks

Prints robust accuracy (or the median distance), model evaluations a sample, seconds and the ratio, as a table; ``--json FILE``
writes the same. Peers: ``pip install robustbench_lite[peers]``. ``--against plain`` is a PGD loop written by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_lite import registry
from robustbench_lite.diagnosis import prepare
from robustbench_lite.search.attack import Attack, FittedAttack
from robustbench_lite.search.defended import DefendedModel
from robustbench_lite.search.engine import Engine, Task
from robustbench_lite.search.forward import Passes, Points
from robustbench_lite.search.judge import Judge
from robustbench_lite.search.losses import margin
from robustbench_lite.sources.datasets import load_dataset
from robustbench_lite.sources.models import reference_model, trained_model
from robustbench_lite.threat import ThreatModel
from robustbench_lite.threat.norms import norm_by_name

Runner = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, x, y) -> the perturbed images; a row that no adversarial was found for may come back as it is."""


class Counter(nn.Module):
    """Counts the rows that pass through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.model(x)  # type: ignore[no-any-return]


@dataclass
class Contestant:
    name: str
    run: Runner
    seconds: list[float] = field(default_factory=list)
    evaluations: float = float("nan")
    robust: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)

    def note(self, model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, norm: str) -> None:
        """What one run found: robust accuracy, and the median distance over all images."""
        hit = broken(model, x_adv, y)
        self.robust.append(1 - float(hit.float().mean()))
        self.distance.append(float(norm_by_name(norm).size(x_adv - x).masked_fill(~hit, float("inf")).median()))


def in_batches(run: Runner, size: int) -> Runner:
    """How other toolkits work through a data set: one batch after the other, each from the first step to the last."""

    def whole(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([run(model, x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)])

    return whole


def as_evaluated(model: nn.Module) -> nn.Module:
    """The frozen copy that evaluate() works on; a counter is left as it is."""
    if isinstance(model, Counter):
        return model
    device = next(model.parameters()).device
    return prepare(model, registry.create("defense", "none"), device).module


def ours(options: argparse.Namespace) -> Runner:
    params: dict[str, object] = {"steps": options.steps}
    if options.attack == "fgsm":
        params = {"sweep": False}
    elif options.attack == "pgd":
        params["step_size"] = options.step_size
    elif options.attack == "one_pixel":
        params = {"population": options.population, "generations": options.steps, "search": options.search}
    elif options.attack == "zoo":
        params |= {"search_steps": options.search_steps}
    elif options.attack == "carlini_wagner":
        params |= {"search_steps": options.search_steps, "learning_rate": options.step_size}
    elif options.attack == "patch":
        params |= {"draws": 1, "fit_batch": options.fit_batch, "learning_rate": options.step_size}
    attack = registry.load("attack", options.attack)(**params)
    threat = ThreatModel.parse(options.norm, options.eps)

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model = as_evaluated(model)
        passes, index = Passes(DefendedModel(model), options.batch_size), torch.arange(len(y))
        none, x_adv = torch.full_like(y, -1), x.clone()
        engine = Engine(ready(attack, passes, threat, options), passes, threat, seed=options.seed, device=x.device)
        judge = Judge(passes, threat, attack.name, x.device)
        for rows in engine.search(Task(x, y, none, index)):
            at = rows.position[rows.found]
            judge.confirm(rows.x_adv[rows.found], x[at], y[at], none[at], index.to(at.device)[at])
            x_adv[at] = rows.x_adv[rows.found]
        return x_adv

    return run


def ready(attack: Attack, passes: Passes, threat: ThreatModel, options: argparse.Namespace) -> Attack:
    """A universal attack fitted to the training images; any other as it is."""
    if not isinstance(attack, FittedAttack) or not attack.fits:
        return attack
    x, y = training_images(passes.model.module, options)
    zeros = torch.zeros_like(y)
    *_, last = attack.fit(passes, Points(x, y, zeros - 1, torch.arange(len(y), device=y.device), zeros), threat, options.seed)
    return dataclasses.replace(attack, fitted=last.result)


def training_images(model: nn.Module, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Those of the training images that the model classifies correctly."""
    data = load_dataset(options.dataset, split="train", data_dir=options.data_dir)
    x, y = data.x.to(options.device), data.y.to(options.device)
    keep = ~broken(model, x, y)
    return x[keep], y[keep]


def plain(options: argparse.Namespace) -> Runner:
    """PGD as one writes it by hand, on the network as it comes."""
    norm, eps = norm_by_name(options.norm), options.eps

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x_adv = (x + (torch.rand_like(x) * 2 - 1) * eps).clamp(0, 1) if norm.name == "linf" else x.clone()
        for _ in range(options.steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach() + options.step_size * norm.steepest(gradient)
            x_adv = (x + norm.project(x_adv - x, eps)).clamp_(0, 1)
        return x_adv

    return in_batches(run, options.batch_size)


def plain_prepared(options: argparse.Namespace) -> Runner:
    """The same loop on the network as ``evaluate`` lays it out, which is faster: what is left is the engine."""
    by_hand = plain(options)
    return lambda model, x, y: by_hand(as_evaluated(model), x, y)


def foolbox(options: argparse.Namespace) -> Runner:
    import foolbox as peer

    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[options.norm]
    if options.attack == "pgd":
        kind = {"linf": "LinfPGD", "l2": "L2PGD", "l1": "SparseL1DescentAttack"}[options.norm]
        attack = getattr(peer.attacks, kind)(steps=options.steps, abs_stepsize=options.step_size, random_start=True)
    elif options.attack == "fgsm":
        attack = getattr(peer.attacks, f"{name}FastGradientAttack")()
    elif options.attack == "carlini_wagner":
        attack = peer.attacks.L2CarliniWagnerAttack(
            steps=options.steps, binary_search_steps=options.search_steps, stepsize=options.step_size, initial_const=1e-3
        )
    else:
        attack = peer.attacks.BoundaryAttack(steps=options.steps)

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        wrapped = peer.PyTorchModel(model, bounds=(0, 1), device=x.device)
        extra = {} if options.eps is None else {"epsilon": options.eps}
        return attack.run(wrapped, x, peer.criteria.Misclassification(y), **extra)  # type: ignore[no-any-return]

    return in_batches(run, options.batch_size)


def torchattacks(options: argparse.Namespace) -> Runner:
    import torchattacks as peer

    if options.attack in ("boundary", "zoo", "carlini_wagner") or options.norm == "l1":
        sys.exit(f"torchattacks has no {options.attack} for {options.norm}: leave it out of --against.")

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if options.attack == "fgsm":
            attack = peer.FGSM(model, eps=options.eps)
        elif options.attack == "one_pixel":  # its first population is not among the steps
            attack = peer.OnePixel(model, int(options.eps), options.steps - 1, options.population, options.batch_size)
        elif options.norm == "l2":
            attack = peer.PGDL2(model, eps=options.eps, alpha=options.step_size, steps=options.steps)
        else:
            attack = peer.PGD(model, eps=options.eps, alpha=options.step_size, steps=options.steps)
        return attack(x, y)  # type: ignore[no-any-return]

    return in_batches(run, options.batch_size)


def art(options: argparse.Namespace) -> Runner:
    from art.attacks.evasion import CarliniL2Method, PixelAttack, ZooAttack
    from art.estimators.classification import PyTorchClassifier

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        shape, classes = tuple(x.shape[1:]), model(x[:1]).shape[1]
        wrapped = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), shape, classes, clip_values=(0.0, 1.0), device_type=x.device.type
        )
        if options.attack == "one_pixel":
            attack = PixelAttack(wrapped, th=int(options.eps), es=1, max_iter=options.steps - 1)  # its population is 400
        elif options.attack == "carlini_wagner":
            attack = CarliniL2Method(
                wrapped, max_iter=options.steps, binary_search_steps=options.search_steps, initial_const=1e-3,
                learning_rate=options.step_size, batch_size=options.batch_size, verbose=False,
            )  # fmt: skip
        elif options.attack == "zoo":
            attack = ZooAttack(
                wrapped, max_iter=options.steps, binary_search_steps=options.search_steps, initial_const=0.01,
                nb_parallel=128, use_resize=False, use_importance=False, variable_h=1e-4, verbose=False,
                batch_size=options.art_batch_size,
            )  # fmt: skip
            # Image by image: of a batch of several it moves the first one only.
            run_one = attack.generate
            attack.generate = lambda x, y: np.concatenate([run_one(a[None], b[None]) for a, b in zip(x, y, strict=True)])
        elif options.attack == "patch":
            return art_patch(wrapped, model, x, classes, options)
        else:
            sys.exit(f"Nothing is set up for ART's {options.attack}: leave it out of --against.")
        x_adv = attack.generate(x.cpu().numpy(), F.one_hot(y, classes).cpu().numpy())
        return torch.as_tensor(x_adv).to(x)

    return run


def art_patch(wrapped: object, model: nn.Module, x: Tensor, classes: int, options: argparse.Namespace) -> Tensor:
    """Fitted for at least as many steps (its epochs are whole ones), and scored at one placement of each image."""
    from art.attacks.evasion import AdversarialPatchPyTorch

    side, (train, y) = min(x.shape[2:]), training_images(model, options)
    scale = (4 * options.eps / math.pi) ** 0.5 / side
    attack = AdversarialPatchPyTorch(
        wrapped, rotation_max=22.5, scale_min=scale, scale_max=scale, learning_rate=options.step_size,
        batch_size=options.fit_batch, max_iter=math.ceil(options.steps / math.ceil(len(y) / options.fit_batch)),
        patch_shape=(x.shape[1], side, side), patch_type="circle", targeted=False, verbose=False,
    )  # fmt: skip
    attack.generate(train.cpu().numpy(), F.one_hot(y, classes).float().cpu().numpy())
    return torch.as_tensor(attack.apply_patch(x.cpu().numpy(), scale=scale)).to(x)


def adv_lib(options: argparse.Namespace) -> Runner:
    from adv_lib.attacks.carlini_wagner.l2 import carlini_wagner_l2

    if options.attack != "carlini_wagner":
        sys.exit(f"Nothing is set up for adv_lib's {options.attack}: leave it out of --against.")

    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return carlini_wagner_l2(  # type: ignore[no-any-return]
            model, x, y, learning_rate=options.step_size, initial_const=1e-3, binary_search_steps=options.search_steps,
            max_iterations=options.steps,
        )  # fmt: skip

    return in_batches(run, options.batch_size)


PEERS: dict[str, Callable[[argparse.Namespace], Runner]] = {
    "adv_lib": adv_lib,
    "art": art,
    "foolbox": foolbox,
    "torchattacks": torchattacks,
    "plain": plain,
    "plain_prepared": plain_prepared,
}


@torch.no_grad()
def broken(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    return torch.cat(
        [margin(model(a), b, torch.full_like(b, -1)) < 0 for a, b in zip(x_adv.split(256), y.split(256), strict=True)]
    )


def subject(options: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, and those of the first ``--images`` images that it classifies correctly."""
    data = load_dataset(options.dataset, data_dir=options.data_dir)
    loaded = trained_model(options.weights) if options.weights else reference_model(options.dataset, options.model)
    model = loaded.module.to(options.device).eval().requires_grad_(False)
    x, y = data.x[: options.images].to(options.device), data.y[: options.images].to(options.device)
    keep = ~broken(model, x, y)
    if options.attack == "boundary" and "foolbox" in options.against:
        # foolbox starts from uniform noise and fails as a whole when the noise is of an image's own class.
        noise = model(torch.rand(32, *x.shape[1:], device=x.device)).argmax(1)
        keep &= (y.unsqueeze(1) != noise).all(1)
    return model, x[keep], y[keep]


def measure(contestants: list[Contestant], options: argparse.Namespace) -> None:
    """Every contestant once to count and warm up, then in turn, so that a busy moment of the machine hits all alike."""
    model, x, y = subject(options)
    for one in contestants:
        counter = Counter(model).eval()
        one.note(model, one.run(counter, x, y), x, y, options.norm)
        one.evaluations = counter.rows / len(y)
    for repeat in range(1, options.repeats + 1):
        options.seed = repeat
        for one in contestants:
            torch.manual_seed(options.seed)  # the peers draw from the global generator
            start = time.perf_counter()
            x_adv = one.run(model, x, y)
            if one is not contestants[0]:  # a number needs a verdict for each image, and ours are judged already
                broken(model, x_adv, y)
            if x.device.type == "cuda":
                torch.cuda.synchronize()
            one.seconds.append(time.perf_counter() - start)
            one.note(model, x_adv, x, y, options.norm)
    first = statistics.median(contestants[0].seconds) if options.repeats else float("nan")
    rows = [row(one, first) for one in contestants]
    print(f"{options.attack} on {options.model}, {len(y)} images, {options.norm}, {vars(options)}\n")
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    print(f"\nPeak memory of the process: {peak_memory(x.device):.0f} MiB")
    if options.json:
        options.json.write_text(json.dumps({"options": {k: str(v) for k, v in vars(options).items()}, "rows": rows}, indent=1))


def row(one: Contestant, first: float) -> dict[str, float | str]:
    seconds = statistics.median(one.seconds) if one.seconds else float("nan")
    return {
        "toolkit": one.name,
        "robust accuracy": statistics.mean(one.robust),
        "median distance": statistics.mean(one.distance),
        "model evaluations a sample": one.evaluations,
        "seconds": seconds,
        "slower than ours": seconds / first,
    }


def peak_memory(device: torch.device) -> float:
    """In MiB: of the accelerator where there is one, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--attack", choices=["pgd", "fgsm", "boundary", "one_pixel", "zoo", "carlini_wagner", "patch"], default="pgd"
    )
    parser.add_argument("--against", nargs="+", choices=sorted(PEERS), default=["foolbox", "torchattacks"])
    parser.add_argument("--model", default="none", help="defense whose bundled reference network is attacked")
    parser.add_argument("--weights", type=Path, help="a network that rbl train wrote, instead of a bundled one")
    parser.add_argument("--dataset", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path, help="where data sets lie that are not bundled")
    parser.add_argument(
        "--norm", choices=["linf", "l2", "l1", "l0"], help="linf; l2 for boundary, zoo, C&W; l0: one_pixel, patch"
    )
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--step-size", type=float, default=0.01)
    parser.add_argument("--population", type=int, default=400, help="one_pixel; --steps are its generations, --eps its pixels")
    parser.add_argument("--search", choices=["evolution", "exhaustive"], default="evolution", help="one_pixel, ours")
    parser.add_argument("--fit-batch", type=int, default=64, help="patch: training images a step; --eps are its pixels")
    parser.add_argument("--search-steps", type=int, default=9, help="zoo, carlini_wagner: values of c")
    parser.add_argument("--art-batch-size", type=int, default=1, help="zoo: 1 is ART's default, 256 packs a step in one call")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments, argparse.Namespace(seed=0))
    usual = {"boundary": "l2", "zoo": "l2", "carlini_wagner": "l2", "one_pixel": "l0", "patch": "l0"}
    options.norm = options.norm or usual.get(options.attack, "linf")
    if options.attack in ("boundary", "zoo", "carlini_wagner"):
        options.eps = None
    return options


def main() -> None:
    options = parse()
    missing = [name for name in options.against if not name.startswith("plain") and importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"{' and '.join(missing)} not installed: pip install 'robustbench_lite[peers]', or leave it out of --against.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    measure(
        [Contestant("robustbench_lite", ours(options)), *(Contestant(n, PEERS[n](options)) for n in options.against)],
        options,
    )


if __name__ == "__main__":
    main()
