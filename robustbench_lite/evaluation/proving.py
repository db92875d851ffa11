"""``rbl.certify``: from a network and images to what is proved of them, in memory or kept in a
folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.bounds import certify as bounds
from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.certified import certify_all
from robustbench_lite.evaluation.devices import pick_device
from robustbench_lite.evaluation.prepare import copy_in_eval_mode
from robustbench_lite.evaluation.subject import subject_from
from robustbench_lite.files.numerals import parse_number
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import Norm, ThreatModel


def certify(
    model: nn.Module,
    data: tuple[Any, Any] | Dataset | None = None,
    *,
    norm: str | Norm = "linf",
    eps: float | str | Tensor,
    method: str = "auto",
    box: bool = True,
    device: str = "auto",
    batch_size: int = 64,
    output: str | Path | None = None,
    name: str | None = None,
    fresh: bool = False,
) -> bounds.Certificate:
    """Prove for which samples no perturbation changes the class.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in eval mode, of layers that have
            bounds: linear, convolution, average pooling, ReLU, leaky ReLU, batch norm, sums of
            branches. It is copy_in_eval_mode, never changed.
        data: images (N, C, H, W) and labels (N,); ``None`` takes the bundled Fashion-MNIST images.
        norm: ``linf`` or ``l2``.
        eps: radius in input units, a number, text such as ``"8/255"``, or one number a sample (N,).
        method: ``ibp``, ``crown-ibp``, ``dual`` (Wong and Kolter 2018, arXiv:1711.00851),
            ``crown``, ``alpha``, ``auto`` (all of these, each only for what the cheaper ones leave
            open) or ``lipschitz`` (L2).
        box: perturbed images stay within [0, 1]; ``False`` gives the plain ball of the published
            tables.
        batch_size: samples at a time; no bound depends on it.
        output: folder for a journal and the sealed record, as ``rbl certify`` has it: a call that
            was stopped is continued, one that was finished is read back, unless the network answers
            otherwise by now. Takes one ``eps`` for all samples.
        name: what the record calls the model.
        fresh: certify again what is recorded.

    Returns:
        ``.certified`` (N,) bool, ``.margins`` (N,) lower bounds of the margin, ``.stage`` (N,) the
        method that each came from. With ``output`` only what is classified correctly is worked on
        (elsewhere the margin is -inf, the stage empty), and ``.path``, ``.cached`` and ``.note``
        tell of the record; there is no ``.radius``.

    Raises:
        UnsupportedLayerError: names the layer that no bound is known for.
    """
    dataset = inputs.dataset_from(data)
    where = pick_device(device)
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
    if isinstance(eps, Tensor) and eps.shape not in ((), (len(dataset),)):
        raise UsageError(
            f"eps has the shape {tuple(eps.shape)}; one number is needed, or one for each of "
            f"{len(dataset)} images."
        )
    if output is not None:
        return _recorded(
            model,
            dataset,
            norm,
            eps,
            BoundCertifier(method=method, box=box),
            device,
            Path(output),
            name,
            fresh,
        )
    radius = eps if isinstance(eps, Tensor) else parse_number(eps)
    network = copy_in_eval_mode(model).to(where)
    return bounds.certify(
        network,
        dataset.x,
        dataset.y,
        norm=norm,
        eps=radius,
        method=method,
        box=box,
        batch_size=batch_size,
    )


def _recorded(
    model: nn.Module,
    data: Dataset,
    norm: str | Norm,
    eps: float | str | Tensor,
    certifier: Certifier,
    device: str,
    output: Path,
    name: str | None,
    fresh: bool,
) -> bounds.Certificate:
    """See :func:`certify`: what the record in ``output`` says, which is made or continued where it
    must be.
    """
    if isinstance(eps, Tensor) and eps.dim():
        raise UsageError("A record is of one eps: give a number, or leave out output.")
    written = str(float(eps)) if isinstance(eps, Tensor) else str(eps)
    threat = ThreatModel.parse(norm, written)
    subject = subject_from("none", model, name, data)
    if threat.eps is None:
        raise UsageError(
            "A certificate is for a ball and needs its radius: give eps, for example eps=0.1."
        )
    (found,) = certify_all(
        [subject], data, threat, certifier, output=output, device=device, fresh=fresh
    )
    margins = torch.from_numpy(found.arrays.margins).double()
    return bounds.Certificate(
        found.certified,
        margins,
        found.arrays.stage,
        path=found.path,
        cached=found.cached,
        note=found.note,
    )
