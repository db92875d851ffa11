"""``rbl.evaluate``: what a user calls to have models measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from robustbench_lite.defense.protocol import Defense
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.fitting import calibrate_defense, needs_fit
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.report import Report
from robustbench_lite.evaluation.run import run
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import subject_from
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
        UsageError: anything about the input that is wrong, before any work is done. CellError: an
        attack left the ball or produced NaN (with ``on_error="record"`` the cell says so instead).
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
