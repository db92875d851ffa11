"""The cross product: models and defenses x attacks -> cells, resumable, each verdict confirmed by the judge."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from robustbench_lite import inputs
from robustbench_lite.bounds.certifier import Certifier
from robustbench_lite.cells import NO_GRADIENT, Workplace, cell_of
from robustbench_lite.certification import OWN, Claim, Proved, certifier_for, prove
from robustbench_lite.clean import clean_logits
from robustbench_lite.defense import Defense
from robustbench_lite.diagnosis import Outputs, dead_gradients, diagnose, prepare
from robustbench_lite.errors import UnknownNameError, UsageError
from robustbench_lite.fitting import calibrate_defense, check_fit_data, needs_fit
from robustbench_lite.inputs import Subject
from robustbench_lite.job import Job, Scene, Terms
from robustbench_lite.numerals import require_seed
from robustbench_lite.numerics import exactly
from robustbench_lite.probes import ask
from robustbench_lite.progress import Progress, Teller
from robustbench_lite.records.cell import Identity
from robustbench_lite.records.files import require_writable
from robustbench_lite.records.journal import open_journal
from robustbench_lite.registry import Trust
from robustbench_lite.report import Cell, Report
from robustbench_lite.search.attack import Access, Attack
from robustbench_lite.search.defended import DefendedModel, Traits
from robustbench_lite.search.fast import PROBES, with_fast_path
from robustbench_lite.search.rng import SampleRng
from robustbench_lite.sources.datasets import Dataset, load_dataset
from robustbench_lite.threat import Norm, ThreatModel

_MOST = 2**31
"""Queries are counted in int32."""
OnError = Literal["raise", "record"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How cells are run. None of it but ``seed``, ``query_budget`` and ``certify`` goes into a cell's key."""

    seed: int = 0
    query_budget: int | None = None
    batch_size: int | Literal["auto"] = "auto"
    device: str = "auto"
    output: Path | None = None
    fresh: bool = False
    keep_adversarials: bool = False
    outputs: Outputs = "logits"
    on_error: OnError = "raise"
    on_progress: Callable[[Progress], None] | None = None
    plain: bool = False
    """Beside every attack on a defense that declares something, measure one that ignores it (``Identity.adaptive``)."""
    certify: str = OWN
    """What samples are certified with before they are attacked: ``own`` (what the defense brings), ``off``, or a method."""
    certify_seconds: float | None = 300.0
    """Time for the certificate of one network; the rest counts as not certified. ``None``: as long as it takes."""

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and not (_whole(self.batch_size) and 1 <= self.batch_size < _MOST):
            raise UsageError(f"batch_size is {self.batch_size!r}; it must be a whole number of at least 1, or 'auto'.")
        if self.query_budget is not None and not (_whole(self.query_budget) and 1 <= self.query_budget < _MOST):
            raise UsageError(f"query_budget is {self.query_budget!r}; it must be a whole number of at least 1, below 2**31.")
        require_seed(self.seed)
        if self.certify_seconds is not None and not self.certify_seconds > 0:
            raise UsageError(
                f"certify_seconds is {self.certify_seconds}; it must be above 0. To certify nothing: certify='off'."
            )
        for field, kind in (("outputs", Outputs), ("on_error", OnError)):
            if getattr(self, field) not in get_args(kind):
                raise UnknownNameError(field, str(getattr(self, field)), get_args(kind))


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
            ``output`` (folder for journal and records; ``None`` writes nothing), ``fresh``, ``outputs``, ``plain``,
            ``certify``, ``certify_seconds``, ``on_error``, ``on_progress``.

    Raises:
        UsageError: anything about the input that is wrong, before any work is done.
        CellError: an attack left the ball or produced NaN (with ``on_error="record"`` the cell says so instead).
        ContradictionError: a sample is both certified and broken: the certificate or the attack is wrong.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    for key in settings:
        if key not in known:
            raise UnknownNameError("setting of evaluate", key, known)
    options = Settings(**settings)
    threat = ThreatModel.parse(norm, eps, targeted)
    dataset = inputs.dataset_from(data, ids)
    chosen = [inputs.attack_from(item, Trust.INSTALLED) for item in inputs.listed(attacks)]
    subjects = [inputs.subject_from(item, model, name, dataset, Trust.INSTALLED) for item in inputs.listed(defenses)]
    images = None if fit_data is None else inputs.dataset_from(fit_data)
    if images is not None and not isinstance(fit_data, Dataset):
        images = dataclasses.replace(images, split="fit")
    wanted = any(map(needs_fit, chosen)) or any(subject.defense.calibrates for subject in subjects)
    if data is None and images is None and wanted:
        images = load_dataset(dataset.name, split="train")
    subjects = [calibrate_defense(subject, images, dataset, options.device, options.outputs) for subject in subjects]
    return run(subjects, dataset, chosen, threat, options, fit_data=images)


@exactly
def run(
    subjects: Sequence[Subject],
    data: Dataset,
    attacks: Sequence[Attack],
    threat: ThreatModel,
    options: Settings,
    *,
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
    prepared = [with_fast_path(model, data.x[:PROBES].to(device)) for model in prepared]
    crossed = [attackers(attacks, model.traits, options.plain) for model in prepared]
    dead = [_dead_gradients(attacks, model, data) for model in prepared]
    certifiers = [certifier_for(options.certify, subject, threat, tuple(data.x.shape[1:])) for subject in subjects]
    terms = Terms(
        seed=options.seed,
        batch_size=batch_size,
        device=device,
        query_budget=options.query_budget,
        keep_adversarials=options.keep_adversarials,
    )
    cells: list[Cell] = []
    with open_journal(None if folder is None else folder / "journal.sqlite") as journal:
        at = Workplace(folder, journal, options.fresh, options.on_error)
        for subject, model, faced, certifier, signs in zip(subjects, prepared, crossed, certifiers, dead, strict=True):
            clean = clean_logits(model, data, batch_size, device, options.seed)
            target, behaviour = targets(threat, clean.logits, data, options.seed), ask(model, data, device)
            tell = Teller(options.on_progress, len(cells), sum(map(len, crossed)), len(data), subject.label)
            certificate, remarks = None, list(model.remarks)
            if certifier is not None:
                claim = Claim.of(subject, certifier, threat, data, clean.correct, device, behaviour, options.outputs)
                certificate = prove(
                    claim, journal, folder, fresh=options.fresh, seconds=options.certify_seconds,
                    on_rows=partial(tell.steps, of=len(data), before="certify"),
                )  # fmt: skip
                remarks += _unfinished(certificate)
            proved = None if certificate is None else certificate.certified
            scene = Scene(model, threat, data, clean, target, behaviour, proved)
            for attack, adaptive in faced:
                identity = identify(subject, attack, threat, data, options, fit_data, certifier=certifier, adaptive=adaptive)
                job = Job(identity.key(), scene, attack, terms, adaptive)
                label = f"{subject.label} x {inputs.short_label('attack', attack)}"
                tell = tell._replace(cell=len(cells), label=label)
                flags = remarks + (signs if adaptive and attack.access == Access.GRADIENT else [])
                cells.append(_noted(cell_of(subject, identity, job, at, tell, fit_data, flags), certificate))
    return Report(cells)


def _noted(cell: Cell, certificate: Proved | None) -> Cell:
    """``cell`` with what is to be said of its certificate."""
    said = None if certificate is None or certificate.note is None else f"the certificate was {certificate.note}"
    notes = [note for note in (cell.note, said) if note is not None]
    return dataclasses.replace(cell, note="; ".join(notes) or None)


def attackers(attacks: Sequence[Attack], traits: Traits, plain: bool) -> list[tuple[Attack, bool]]:
    """Every attack as it is, adaptive, and, if ``plain``, where that is another one, ignoring ``traits``."""
    chosen = []
    for attack in attacks:
        chosen.append((attack, True))
        if plain and traits.plain_differs(attack.access == Access.GRADIENT):
            chosen.append((attack, False))
    return chosen


def _dead_gradients(attacks: Sequence[Attack], model: DefendedModel, data: Dataset) -> list[str]:
    """What a reader must know of a model that attacks by gradients learn nothing from."""
    if not any(attack.access == Access.GRADIENT for attack in attacks):
        return []
    dead, probed = dead_gradients(model, data.x, data.y)
    if dead * 2 <= probed:
        return []
    return [f"{NO_GRADIENT} {dead} of {probed} images that were looked at: masked gradients? Attack by labels too"]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unfinished(certificate: Proved) -> list[str]:
    """What a reader must know of a certificate that ran out of time."""
    if certificate.tried == certificate.of:
        return []
    return [
        f"the certificate ran out of time ({certificate.seconds:.0f} s) at {certificate.tried:,} of {certificate.of:,} "
        "samples: the others count as not certified"
    ]


def identify(
    subject: Subject,
    attack: Attack,
    threat: ThreatModel,
    data: Dataset,
    options: Settings,
    fit_data: Dataset | None = None,
    *,
    certifier: Certifier | None,
    adaptive: bool = True,
) -> Identity:
    """Everything that decides the outcome of a cell."""
    return Identity(
        model=inputs.model_id(subject, options.outputs),
        defense=inputs.plugin_id("defense", subject.defense),
        attack=inputs.plugin_id("attack", attack),
        threat=inputs.threat_id(threat),
        data=inputs.data_id(data),
        seed=options.seed,
        query_budget=options.query_budget,
        fit_data=inputs.data_id(fit_data) if fit_data is not None and needs_fit(attack) else None,
        certifier=None if certifier is None else inputs.certifier_id(certifier),
        adaptive=None if adaptive else False,
    )


def targets(threat: ThreatModel, logits: Tensor, data: Dataset, seed: int) -> Tensor:
    """The class that each sample of ``data`` is driven to, (N,), from its clean ``logits`` (N, K); -1 for any wrong one."""
    uniform = SampleRng.create(seed, "goal", data.ids).uniform(0, (1,)).squeeze(1)
    return threat.goal.targets(logits, data.y, uniform)
