"""The one trainer: defenses change what a step lowers and what follows it, never the loop.

A training can be killed at any moment. Run again, it continues from its last checkpoint and ends
with the same weights, bit for bit, as if it had never stopped: whatever is random in a step follows
from (seed, epoch, step) alone.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from robustbench_lite.defense.protocol import Defense, TrainingBatch
from robustbench_lite.errors import ModelError, UsageError, as_model_error
from robustbench_lite.files.numerals import require_seed
from robustbench_lite.machine.generators import own_generators
from robustbench_lite.machine.memory import keep_freed_memory
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.registry import parameters
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.training.checkpoint import Checkpoint, Position, Stateful

logger = logging.getLogger(__name__)
_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train.

    The learning rate rises over the first fifth of the steps, then falls to 0.
    """

    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)
        if not (
            1 <= self.epochs <= _MOST
            and 1 <= self.batch_size <= _MOST
            and 0 < self.learning_rate < math.inf
        ):
            raise UsageError(
                "Training needs epochs >= 1, a batch size >= 1 (both below 2^31) and a finite "
                f"learning rate > 0, not epochs={self.epochs}, batch size={self.batch_size}, "
                f"learning rate={self.learning_rate}."
            )


class TrainingProgress(NamedTuple):
    """Where a training stands after a step; ``loss`` is the mean over the steps of this epoch."""

    epoch: int
    step: int
    steps_per_epoch: int
    loss: float


@exactly
def train(
    model: nn.Module,
    defense: Defense,
    data: Dataset,
    recipe: Recipe,
    *,
    checkpoint: Path,
    device: torch.device | str = "cpu",
    checkpoint_seconds: float = 30.0,
    on_progress: Callable[[TrainingProgress], None] = lambda progress: None,
) -> list[dict[str, float]]:
    """Train ``model`` in place, from ``checkpoint`` where there is one, and leave it in eval mode.

    Args:
        checkpoint: file written at the start, after every epoch, and in between every
            ``checkpoint_seconds``.

    Returns:
        The learning curve, one entry an epoch: ``epoch``, ``loss``, ``learning_rate``.

    Raises:
        UsageError: the checkpoint is that of another training, or cannot be written.
        ModelError: the loss left the real numbers.
    """
    model.to(device)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    with seeded(f"{recipe.seed}/prepare", device):
        defense.prepare(model)
    steps = len(_sizes(len(data), recipe.batch_size))
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _triangle(recipe.epochs * steps))
    state: dict[str, Stateful] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    store = Checkpoint(checkpoint, _configuration(model, defense, data, recipe), state)
    at = store.resume()
    store.save(at)  # before any work: a folder that cannot be written to shows now
    saved = time.monotonic()
    model.train()
    for epoch in range(at.epoch, recipe.epochs):
        for batch in _batches(data, recipe, epoch, at.step, device):
            with seeded(f"{recipe.seed}/step/{epoch}/{at.step}", device):
                loss = _step(model, defense, optimizer, batch)
            scheduler.step()
            at = replace(at, step=at.step + 1, loss_sum=at.loss_sum + loss)
            on_progress(TrainingProgress(epoch, at.step, steps, at.loss_sum / at.step))
            if time.monotonic() - saved > checkpoint_seconds and at.step < steps:
                store.save(at)
                saved = time.monotonic()
        rate = float(scheduler.get_last_lr()[0])
        entry = {"epoch": epoch + 1, "loss": at.loss_sum / steps, "learning_rate": rate}
        at = Position(epoch + 1, curve=[*at.curve, entry])
        store.save(at)
        saved = time.monotonic()
        logger.info("epoch %d of %d: loss %.4f", at.epoch, recipe.epochs, entry["loss"])
    model.eval()
    return at.curve


def _configuration(
    model: nn.Module, defense: Defense, data: Dataset, recipe: Recipe
) -> dict[str, Any]:
    """Everything that decides a training: a checkpoint of another one is not continued."""
    joined = max(_sizes(len(data), recipe.batch_size)) > recipe.batch_size
    return {
        "defense": f"{describe(defense)} (version {defense.version})",
        "data": data.fingerprint,
        "initial weights": weights_hash(model),
        **asdict(recipe),
        **({"last image": "joined to the batch before"} if joined else {}),
    }


def initialise(
    factory: Callable[[], nn.Module], seed: int, device: torch.device | str = "cpu"
) -> nn.Module:
    """Build a network, on the CPU or ``device``; its weights follow from ``seed`` alone."""
    with seeded(f"{seed}/initial weights", device):
        return factory()


@contextmanager
def seeded(purpose: str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Give code that draws from torch's global generators a stream of its own.

    Dropout and initialisation do. The stream follows from ``purpose`` alone; the generators are put
    back afterwards.
    """
    with own_generators(_number(purpose), device):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode inside; afterwards every module is back in its own mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def describe(plugin: Any) -> str:
    """Write a plug-in with all its hyper-parameters as text that ``registry.create`` reads."""
    values = [f"{key}={value}" for key, value in parameters(plugin).items()]
    return shlex.join([plugin.name, *values])


def _batches(
    data: Dataset, recipe: Recipe, epoch: int, first: int, device: torch.device | str
) -> Iterator[TrainingBatch]:
    """The batches of an epoch from step ``first`` on; the order follows from (seed, epoch)."""
    generator = torch.Generator().manual_seed(_number(f"{recipe.seed}/order/{epoch}"))
    order = torch.randperm(len(data), generator=generator)  # (N,)
    steps = torch.split(order, _sizes(len(data), recipe.batch_size))
    for step, rows in enumerate(steps[first:], first):
        x, y, index = (tensor[rows].to(device) for tensor in (data.x, data.y, data.ids))
        progress = (epoch + step / len(steps)) / recipe.epochs
        yield TrainingBatch(x=x, y=y, index=index, progress=progress, epoch=epoch, seed=recipe.seed)


def _sizes(count: int, batch_size: int) -> list[int]:
    """How many of ``count`` images each step of an epoch takes.

    What is left for the last step is smaller. A single image is not left, but joined to the step
    before: batch norm has no statistics of one image.
    """
    full, rest = divmod(count, batch_size)
    sizes = [batch_size] * full
    if rest == 1 and full:
        return [*sizes[:-1], batch_size + 1]
    return [*sizes, rest] if rest else sizes


def _step(
    model: nn.Module, defense: Defense, optimizer: torch.optim.Optimizer, batch: TrainingBatch
) -> float:
    """Take one step of the training; the loss that it lowered."""
    where = (
        f"The training of {type(model).__name__} fails in epoch {batch.epoch + 1} on a batch of "
        f"{len(batch.y)} images"
    )
    optimizer.zero_grad()
    with as_model_error(where):
        loss = defense.loss(model, batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ModelError(
            f"The training loss is {value} in epoch {batch.epoch + 1}. Lower --learning-rate."
        )
    with as_model_error(where):
        loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    defense.after_step(model)
    return value


def _triangle(steps: int) -> Callable[[int], float]:
    """A factor for the learning rate by step: it rises to 1, then falls to 0."""
    rise = max(1, steps // 5)
    return lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _number(purpose: str) -> int:
    """A seed of 56 bits that follows from ``purpose``."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:7], "little")
