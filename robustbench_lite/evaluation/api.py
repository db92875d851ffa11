"""``rbl.evaluate`` and ``rbl.certify``: what a user calls, with everything that may be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_lite.bounds import certify as bounds
from robustbench_lite.bounds.certifier import BoundCertifier, Certifier
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import UsageError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.certified import certify_all
from robustbench_lite.evaluation.devices import pick_device
from robustbench_lite.evaluation.fitting import calibrate_defense, needs_fit
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.prepare import copy_in_eval_mode
from robustbench_lite.evaluation.report import Report
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject, subject_from
from robustbench_lite.files.numerals import parse_number
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.threat import Norm, ThreatModel


def evaluate(
    model: nn.Module | None = None,
    data: tuple[Any, Any] | Dataset | None = None,
    attacks: Sequence[str | Attack] | str | Attack = "pgd",
    *,
    defenses: Sequence[str | Defense] | str | Defense = "none",
    norm: str | Norm = "linf",
    eps: float | str | None = None,
    targeted: object = None,
    fit_data: tuple[Any, Any] | Dataset | None = None,
    ids: Any = None,
    name: str | None = None,
    **settings: Any,
) -> Report:
    """Attack a model and record a verdict for every sample.

    Args:
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in eval mode. It is copied, never
            changed. ``None`` takes the bundled reference networks, one a defense.
        data: images (N, C, H, W) float in [0, 1] and labels (N,); ``None`` takes the bundled
            Fashion-MNIST images.
        attacks: specs (``"pgd steps=40 step_size=0.01"``) or objects (``PGD(steps=40)``), one or
            several.
        defenses: specs or objects; each wraps the model.
        norm: ``linf``, ``l2``, ``l1`` or ``l0``.
        eps: radius in input units, a number or text such as ``"8/255"``; for L0 a number of pixels.
            ``None`` asks minimal-distance attacks for the nearest adversarial, whatever its
            distance.
        targeted: ``None``, ``"random"`` (or True), ``"least_likely"`` or ``"class:K"``.
        fit_data: training images that universal attacks, such as ``patch``, are fitted on, as
            ``data``; for the bundled images ``None`` takes the bundled training images.
        ids: data-set indices of the samples, (N,); they key the random numbers, so a shard of a
            data set gets the numbers that the whole would give it. Default 0 .. N - 1.
        name: what the model is called in tables and records.
        settings: fields of :class:`Settings`: ``seed``, ``batch_size``, ``device``,
            ``query_budget``, ``keep_adversarials``, ``output`` (folder for journal and records;
            ``None`` writes nothing), ``fresh``, ``outputs``, ``plain``, ``certify``,
            ``certify_seconds``, ``on_error``, ``on_progress``.

    Raises:
        UsageError: anything about the input that is wrong, before any work is done.
        CellError: an attack left the ball or produced NaN (with ``on_error="record"`` the cell says
            so instead).
        ContradictionError: a sample is both certified and broken: the certificate or the attack is
            wrong.
    """
    options = Settings.of(settings, "evaluate")
    threat = ThreatModel.parse(norm, eps, targeted)
    dataset = inputs.dataset_from(data, ids)
    chosen = [inputs.attack_from(item, Trust.INSTALLED) for item in inputs.as_list(attacks)]
    subjects = [
        subject_from(item, model, name, dataset, Trust.INSTALLED)
        for item in inputs.as_list(defenses)
    ]
    images = None if fit_data is None else inputs.dataset_from(fit_data)
    if images is not None and not isinstance(fit_data, Dataset):
        images = dataclasses.replace(images, split="fit")
    wanted = any(map(needs_fit, chosen)) or any(subject.defense.calibrates for subject in subjects)
    if data is None and images is None and wanted:
        images = load_dataset(dataset.name, split="train")
    subjects = [
        calibrate_defense(subject, images, dataset, options.device, options.outputs)
        for subject in subjects
    ]
    return run(
        Plan(subjects=subjects, attacks=chosen, data=dataset, threat=threat, fit_data=images),
        options,
    )


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
            branches. It is copied, never changed.
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
        if isinstance(eps, Tensor) and eps.dim():
            raise UsageError("A record is of one eps: give a number, or leave out output.")
        written = str(float(eps)) if isinstance(eps, Tensor) else str(eps)
        threat = ThreatModel.parse(norm, written)
        subject = subject_from("none", model, name, dataset)
        certifier = BoundCertifier(method=method, box=box)
        return _certify_on_disk(subject, dataset, threat, certifier, Path(output), device, fresh)
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


def _certify_on_disk(
    subject: Subject,
    data: Dataset,
    threat: ThreatModel,
    certifier: Certifier,
    output: Path,
    device: str,
    fresh: bool,
) -> bounds.Certificate:
    """Read the record in ``output``, which is made or continued where it must be."""
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
