"""The cross product: models and defenses x attacks -> cells, resumable, each verdict confirmed by the judge."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_lite import inputs
from robustbench_lite.defense import Defense
from robustbench_lite.diagnosis import Outputs, diagnose, prepare
from robustbench_lite.errors import CellError, ModelError, RecordError, UnknownNameError, UsageError
from robustbench_lite.fitting import check_fit_data, fitted, needs_fit
from robustbench_lite.inputs import Subject
from robustbench_lite.measure import Job, Measured, clean_logits, measure
from robustbench_lite.progress import Progress, Teller
from robustbench_lite.records.cell import Identity, ModelId, ThreatId, make_record, read_record, write_record
from robustbench_lite.records.files import require_writable
from robustbench_lite.records.journal import Journal, open_journal
from robustbench_lite.records.npz import read_images, write_images
from robustbench_lite.records.outcomes import CellArrays
from robustbench_lite.records.provenance import provenance
from robustbench_lite.report import Cell, Report
from robustbench_lite.search.attack import Attack, UniversalAttack
from robustbench_lite.search.forward import Passes
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.sources.datasets import Dataset, load_dataset
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.threat import Norm, ThreatModel


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How cells are run. None of it but ``seed`` and ``query_budget`` can change a verdict."""

    seed: int = 0
    query_budget: int | None = None
    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    output: Path | None = None
    fresh: bool = False
    keep_adversarials: bool = False
    outputs: Outputs = "logits"
    on_error: Literal["raise", "record"] = "raise"
    on_progress: Callable[[Progress], None] | None = None

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and self.batch_size < 1:
            raise UsageError(f"batch_size is {self.batch_size}; it must be at least 1, or 'auto'.")
        if self.query_budget is not None and self.query_budget < 1:
            raise UsageError(f"query_budget is {self.query_budget}; it must be at least 1.")


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
        model: images (B, C, H, W) in [0, 1] -> logits (B, K), in eval mode. It is copied, never changed. ``None`` takes the
            bundled reference networks, one a defense.
        data: images (N, C, H, W) float in [0, 1] and labels (N,); ``None`` takes the bundled Fashion-MNIST images.
        attacks: specs (``"pgd steps=40 step_size=0.01"``) or objects (``PGD(steps=40)``), one or several.
        defenses: specs or objects; each wraps the model.
        norm: ``linf``, ``l2``, ``l1`` or ``l0``.
        eps: radius in input units, a number or text such as ``"8/255"``; for L0 a number of pixels. ``None`` asks
            minimal-distance attacks for the nearest adversarial, whatever its distance.
        targeted: ``None``, ``"random"`` (or True), ``"least_likely"`` or ``"class:K"``.
        fit_data: training images that universal attacks, such as ``patch``, are fitted on, as ``data``; for the bundled images
            ``None`` takes the bundled training images.
        ids: data-set indices of the samples, (N,); they key the random numbers, so a shard of a data set gets the numbers that
            the whole would give it. Default 0 .. N - 1.
        name: what the model is called in tables and records.
        settings: fields of :class:`Settings`: ``seed``, ``batch_size``, ``device``, ``query_budget``, ``keep_adversarials``,
            ``output`` (folder for journal and records; ``None`` writes nothing), ``fresh``, ``outputs``, ``on_error``,
            ``on_progress``.

    Raises:
        UsageError: anything about the input that is wrong, before any work is done.
        CellError: an attack left the ball or produced NaN (with ``on_error="record"`` the cell says so instead).
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    for key in settings:
        if key not in known:
            raise UnknownNameError("setting of evaluate", key, known)
    options = Settings(**settings)
    threat = ThreatModel.parse(norm, eps, targeted)
    dataset = inputs.dataset_from(data, ids)
    chosen = [inputs.attack_from(item) for item in inputs.listed(attacks)]
    subjects = [inputs.subject_from(item, model, name, dataset) for item in inputs.listed(defenses)]
    images = None if fit_data is None else inputs.dataset_from(fit_data)
    if images is not None and not isinstance(fit_data, Dataset):
        images = dataclasses.replace(images, split="fit")
    if data is None and images is None and any(map(needs_fit, chosen)):
        images = load_dataset(dataset.name, split="train")
    eps_written = None if eps is None else str(eps)
    return run(subjects, dataset, chosen, threat, options, eps_written=eps_written, fit_data=images)


def run(
    subjects: Sequence[Subject],
    data: Dataset,
    attacks: Sequence[Attack],
    threat: ThreatModel,
    options: Settings,
    *,
    eps_written: str | None = None,
    fit_data: Dataset | None = None,
) -> Report:
    """Measure every subject under every attack. All input is checked before the first cell starts."""
    for attack in attacks:
        inputs.check_fit(attack, threat)
        if needs_fit(attack):
            check_fit_data(attack, fit_data, data)
    data = inputs.applicable(data, threat)
    device = inputs.pick_device(options.device)
    batch_size = inputs.pick_batch_size(options.batch_size, data, device)
    folder = None if options.output is None else Path(options.output)
    if folder is not None:
        kept = data.x.numel() * 4 * len(attacks) * len(subjects) if options.keep_adversarials else 0
        require_writable(folder, 20_000_000 + kept)
    # Every network is checked before the first of them is attacked.
    prepared = [prepare(subject.module, subject.defense, device, options.outputs) for subject in subjects]
    prepared = [diagnose(model, data.x, data.y, data.classes) for model in prepared]
    cells: list[Cell] = []
    with open_journal(None if folder is None else folder / "journal.sqlite") as journal:
        for subject, model in zip(subjects, prepared, strict=True):
            logits, correct = clean_logits(model, data, batch_size, device, options.seed)
            target = targets(threat, logits, data, options.seed)
            for attack in attacks:
                identity = identify(subject, attack, threat, data, options, eps_written, fit_data)
                job = Job(
                    key=identity.key(), model=model, attack=attack, threat=threat, data=data, clean_correct=correct,
                    target=target, seed=options.seed, batch_size=batch_size, device=device,
                    query_budget=options.query_budget, keep_adversarials=options.keep_adversarials,
                )  # fmt: skip
                label = f"{subject.label} x {inputs.short_label('attack', attack)}"
                tell = Teller(options.on_progress, len(cells), len(subjects) * len(attacks), len(data), label)
                cells.append(_cell(subject, identity, job, options, folder, journal, tell, fit_data))
    return Report(cells)


def identify(
    subject: Subject,
    attack: Attack,
    threat: ThreatModel,
    data: Dataset,
    options: Settings,
    eps_written: str | None = None,
    fit_data: Dataset | None = None,
) -> Identity:
    """Everything that decides the outcome of a cell."""
    return Identity(
        model=model_id(subject, options.outputs),
        defense=inputs.plugin_id("defense", subject.defense),
        attack=inputs.plugin_id("attack", attack),
        threat=ThreatId(norm=threat.norm.name, eps=threat.eps, eps_written=eps_written, goal=threat.goal.spec()),
        data=inputs.data_id(data),
        seed=options.seed,
        query_budget=options.query_budget,
        fit_data=inputs.data_id(fit_data) if fit_data is not None and needs_fit(attack) else None,
    )


def model_id(subject: Subject, outputs: Outputs) -> ModelId:
    """The network by its name, and by the hashes of its weights and of its structure."""
    architecture = f"{type(subject.module).__module__}.{subject.module!r}/{outputs}"
    return ModelId(
        name=subject.name,
        weights_sha256=weights_hash(subject.module),
        architecture_sha256=hashlib.sha256(architecture.encode()).hexdigest(),
    )


def targets(threat: ThreatModel, logits: Tensor, data: Dataset, seed: int) -> Tensor:
    """The class that each sample of ``data`` is driven to, (N,), from its clean ``logits`` (N, K); -1 for any wrong one."""
    uniform = SampleRng.create(seed, "goal", data.ids).uniform(0, (1,)).squeeze(1)
    return threat.goal.targets(logits, data.y, uniform)


def _cell(
    subject: Subject,
    identity: Identity,
    job: Job,
    options: Settings,
    folder: Path | None,
    journal: Journal,
    tell: Teller,
    fit_data: Dataset | None,
) -> Cell:
    """The cell of ``job``: read from its record when there is one, else measured and written down."""
    path = None if folder is None else folder / "cells" / f"{job.key}.json"
    images = None if path is None else path.with_suffix(".npz")
    fit = None if folder is None or not needs_fit(job.attack) else folder / "fits" / f"{job.key}.safetensors"
    needed = [file for file in (images, fit) if file is not None] if job.keep_adversarials else []
    status = "partial" if job.data.partial else "complete"
    cell = Cell(
        identity=identity, model=subject.name, defense=subject.label, attack=inputs.short_label("attack", job.attack),
        status=status, n=len(job.data), path=path, forwards_per_point=Passes(job.model, 1).forwards_per_point,
    )  # fmt: skip
    if options.fresh:
        journal.forget(job.key)
        if fit is not None:
            fit.unlink(missing_ok=True)
    elif path is not None and path.exists() and all(file.exists() for file in needed):
        record, arrays = read_record(path)
        tell.rows(len(job.data))
        if needed:
            cell = dataclasses.replace(cell, perturbation=_perturbation(fitted(job, fit_data, fit)))
        x_adv = _load_images(images, job, arrays) if job.keep_adversarials and images is not None else None
        return dataclasses.replace(cell, arrays=arrays, record=record, x_adv=x_adv, cached=True)
    try:
        attack, started = job.attack, time.perf_counter()
        job = fitted(job, fit_data, fit, tell.steps)
        if needs_fit(attack):
            journal.add(job.key, [], time.perf_counter() - started)
        measured = measure(job, journal, tell.rows)
    except (CellError, ModelError) as error:
        if options.on_error == "raise":
            raise
        return dataclasses.replace(cell, status="error", error=str(error), path=None)
    record = make_record(
        identity,
        measured.arrays,
        provenance(
            seconds=measured.seconds, device=str(job.device), batch_size=job.batch_size, partial=job.data.partial,
            flags=_flags(job, measured),
        ),
    )  # fmt: skip
    if path is not None:
        path.parent.mkdir(exist_ok=True)
        if measured.x_adv is not None and images is not None:
            write_images(images, measured.arrays.broken, measured.x_adv.numpy())
        write_record(record, path)
        journal.forget(job.key)
    cell = dataclasses.replace(cell, perturbation=_perturbation(job))
    return dataclasses.replace(cell, arrays=measured.arrays, record=record, x_adv=measured.x_adv)


def _perturbation(job: Job) -> Tensor | None:
    """What the attack of ``job`` was fitted to, on the CPU."""
    fit = job.attack.perturbation if isinstance(job.attack, UniversalAttack) else None
    return None if fit is None else fit.cpu()


def _flags(job: Job, measured: Measured) -> list[str]:
    """What a reader must know before trusting the number."""
    flags = []
    if job.model.traits.random:
        flags.append(f"random model: gradients over {job.model.traits.draws} draws, verdicts by {job.model.traits.votes} votes")
    if measured.arrays.unconfirmed:
        flags.append(f"{measured.arrays.unconfirmed} successes of the search did not hold before the judge and count as robust")
    return flags


def _load_images(path: Path, job: Job, arrays: CellArrays) -> Tensor:
    x_adv, kept = job.data.x.clone(), read_images(path, arrays.broken)
    if kept.shape[1:] != x_adv.shape[1:]:
        raise RecordError(f"The images in {path} are {kept.shape[1:]}, the data is {tuple(x_adv.shape[1:])}: run with --fresh.")
    x_adv[torch.from_numpy(arrays.broken)] = torch.from_numpy(kept)
    return x_adv
