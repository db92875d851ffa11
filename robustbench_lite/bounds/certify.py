"""Certificates: which samples no perturbation of the threat can break.

Bounds are computed in float32. A sample whose margin comes near zero is done again in float64,
whose rounding no margin that is reported can notice; and every margin is lowered by what the
network's own float32 logits may be off.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from robustbench_lite.bounds.certificate import Certificate as Certificate
from robustbench_lite.bounds.certificate import join
from robustbench_lite.bounds.margins import ByMethods, Graphs, by_lipschitz
from robustbench_lite.bounds.methods import STAGES
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.machine.devices import device_of, proving_device
from robustbench_lite.machine.memory import keep_freed_memory
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.model.copies import own_copy
from robustbench_lite.threat.norms import Norm, norm_by_name

METHODS = (*STAGES, "auto", "lipschitz")


def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | Norm = "linf",
    eps: float | Tensor,
    method: str = "auto",
    box: bool = True,
    batch_size: int = 64,
) -> Certificate:
    """Bound the margin of every sample from below; see :func:`proofs`."""
    parts = proofs(model, x, y, norm=norm, eps=eps, method=method, box=box, batch_size=batch_size)
    return join(list(parts))


@exactly
@torch.no_grad()
def proofs(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str | Norm = "linf",
    eps: float | Tensor,
    method: str = "auto",
    box: bool = True,
    batch_size: int = 64,
) -> Iterator[Certificate]:
    """Bound the margins from below, ``batch_size`` samples after the other.

    Args:
        model: a network in eval mode, on the device that shall do the work (a copy on the CPU does
            it where that device has no float64); images (B, C, H, W) -> logits (B, K).
        x: images (N, C, H, W) in [0, 1].
        y: labels (N,).
        norm: of the ball, by name or as an object.
        eps: radius in input units, one number or one a sample (N,).
        method: one of ``METHODS``. ``alpha`` starts from ``dual`` and ``crown``; ``auto`` runs all
            but ``lipschitz`` in the order of their cost, each only on what is still open.
        box: perturbed images stay within [0, 1]; without, the whole ball is covered.
        batch_size: samples at a time; no bound depends on it.

    Raises:
        UnsupportedLayerError: names the layer that no bound is known for.
    """
    if method not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    chosen = norm_by_name(norm)
    radii = torch.as_tensor(eps, dtype=torch.float64).expand(len(x))
    if not bool((radii >= 0).all()):
        raise UsageError("eps must be a number of at least 0, or one for each sample.")
    device = proving_device(device_of(model))
    if device != device_of(model):
        model = own_copy(model).to(device)
    if device.type == "cpu":
        keep_freed_memory()
    graphs = Graphs(model, tuple(x.shape[1:]))
    if method == "lipschitz":
        prove = by_lipschitz(graphs, chosen)
    else:
        prove = ByMethods(graphs, chosen, method, box).prove
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        yield prove(x[part].to(device), y[part].to(device), radii[part].to(device))
