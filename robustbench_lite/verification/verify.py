"""``rbl.verify``: saved adversarials, replayed against the model; of each it is said whether it
holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.errors import DataError, RobustBenchError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.probes import ask
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.machine.numerics import exactly
from robustbench_lite.progress import Teller
from robustbench_lite.records.behaviour import TOLERANCE
from robustbench_lite.records.cell import Record
from robustbench_lite.records.identity import Identity
from robustbench_lite.records.provenance import other_torch
from robustbench_lite.registry import Trust
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.models import LoadedModel
from robustbench_lite.threat import ThreatModel
from robustbench_lite.verification import examples, rebuild
from robustbench_lite.verification.checks import Check, Test, of_geometry, of_images, of_predictions
from robustbench_lite.verification.examples import Adversarials
from robustbench_lite.verification.replay import Replay, Setup, replay, set_up


@dataclass(frozen=True)
class Verification:
    """What became of ``n`` adversarials."""

    record: Record
    """Of the cell that they were saved from."""
    n: int
    checks: list[Check]
    failures: dict[int, list[str]]
    """Data-set index of each that does not hold -> why."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the network and the images that were asked."""

    @property
    def held(self) -> int:
        return self.n - len(self.failures)


def verify(
    file: str | Path,
    model: nn.Module | LoadedModel | None = None,
    data: tuple[Any, Any] | Dataset | str | None = None,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    allow_code: bool = False,
    **settings: Any,
) -> Verification:
    """Replay saved adversarials against the model and judge each.

    Args:
        file: what ``rbl attack`` wrote (``.npz``), or a record (``.json``) with its ``.npz`` beside
            it.
        model: the network that was attacked; ``None`` finds a bundled one by its name.
        data: the images that were attacked, as ``evaluate`` takes them, or the name of a data set;
            ``None`` takes the one that the record names, and where it is not here, believes the
            clean images in the file.
        data_dir: folder in which data sets are looked for.
        download: let torchvision fetch a data set that is missing.
        allow_code: run code that the record names; without it only registered defenses are built.
        settings: ``device``, ``batch_size``, ``outputs`` and ``on_progress`` of :class:`Settings`.

    Returns:
        ``.n``, ``.held`` and ``.failures``: the data-set index of each that does not hold, and why;
        ``.checks`` counts.

    Raises:
        RecordError: the file is damaged, or was changed.
        WeightsError: the weights are not those that were attacked.
        UsageError: the network or the defense is not to be had.
        DataError: the clean images are neither in the file nor here.
    """
    options = Settings.of(settings, "verify")
    saved = examples.read(Path(file))
    identity = saved.record.identity
    if isinstance(model, nn.Module):
        model = LoadedModel(model, type(model).__name__)
    subject = rebuild.subject_of(identity, model, Trust.ANY if allow_code else Trust.REGISTERED)
    found = _images(saved, data, data_dir, download)
    notes = [] if found.missing is None else [found.missing]
    if not rebuild.same_structure(identity, subject, options.outputs):
        notes.append(
            "The network prints otherwise than the one that was attacked: other code, outputs or "
            "torch."
        )
    tell = Teller(options.on_progress, 0, 1, len(saved), f"verify {identity.attack.name}")
    threat = rebuild.threat_of(identity)
    verification = examine_each(saved, subject, threat, found.data, options, tell.rows)
    return replace(verification, notes=(*notes, *verification.notes))


class _Images(NamedTuple):
    """The samples that were attacked; without them, why they could not be had."""

    data: Dataset | None
    missing: str | None


def _images(
    saved: Adversarials,
    given: tuple[Any, Any] | Dataset | str | None,
    data_dir: str | Path | None,
    download: bool,
) -> _Images:
    identity = saved.record.identity
    if given is not None and not isinstance(given, str):
        return _Images(_among(inputs.dataset_from(given), identity), None)
    try:
        return _Images(
            rebuild.images_of(identity, given, data_dir=data_dir, download=download), None
        )
    except RobustBenchError as error:
        # What the user named must be there; and without clean images there is nothing to judge.
        if given is not None or data_dir is not None or download or saved.context is None:
            raise
        return _Images(None, f"The clean images could not be compared with the data set: {error}")


def _among(data: Dataset, identity: Identity) -> Dataset:
    """The samples of ``data`` that were attacked, by their ids."""
    position = {sample: row for row, sample in enumerate(data.ids.tolist())}
    wanted = identity.data.ids().tolist()
    missing = [sample for sample in wanted if sample not in position]
    if missing:
        raise DataError(
            f"Sample {missing[0]} was attacked, and the data that was given has none of that id: "
            "give the images of the call "
            "that measured, with the same ids."
        )
    return data.take(torch.tensor([position[sample] for sample in wanted], dtype=torch.int64))


@exactly
def examine_each(
    saved: Adversarials,
    subject: Subject,
    threat: ThreatModel,
    data: Dataset | None,
    settings: Settings,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> Verification:
    """Examine every adversarial of ``saved`` anew; none that fails hides another.

    Args:
        subject: the network with its defense, rebuilt from the record (``rebuild.subject_of``).
        threat: what they are held against (``rebuild.threat_of``).
        data: the samples that were attacked (``rebuild.images_of``); without them the clean images
            are believed.
        settings: device, batch size and ``outputs``; the seed is that of the record.
        on_rows: hears how many rows are done.
    """
    record = saved.record
    if not len(saved):
        return Verification(record, 0, [], {})
    rows, here = _clean_rows(saved, data)
    setup = set_up(subject, rows, replace(settings, seed=record.identity.seed))
    seen = replay(setup, rows, saved.x_adv, threat, on_rows)
    predicted = of_predictions(saved, rows, seen, random=setup.model.traits.random)
    near = _near(saved, seen, predicted)
    tests = [
        *of_geometry(saved, threat, seen.finding),
        *([] if saved.context is None else [of_images(rows, here)]),
        *(replace(test, checked=test.checked & ~near.rows) for test in predicted),
    ]
    failures: dict[int, list[str]] = {}
    for row, sample in enumerate(saved.ids.tolist()):
        reasons = [test.reason(row) for test in tests if bool(test.checked[row] & test.failed[row])]
        if reasons:
            failures[sample] = reasons
    notes = tuple(note for note in (_note(saved, setup, rows, data), near.note) if note is not None)
    return Verification(record, len(saved), [test.counts() for test in tests], failures, notes)


class _Near(NamedTuple):
    """Rows that fail on a margin within rounding."""

    rows: Tensor
    """(M,) bool."""
    note: str | None


def _near(saved: Adversarials, seen: Replay, tests: list[Test]) -> _Near:
    """Rows that fail on a margin within rounding, (M,) bool, under another torch than saved them;
    and what to say of them.
    """
    versions = other_torch(saved.record.provenance)
    closeness = torch.minimum(seen.closeness, seen.finding.closeness)
    near = torch.stack([test.failed & test.checked for test in tests]).any(0) & (
        closeness <= TOLERANCE
    )
    if versions is None or not bool(near.any()):
        return _Near(torch.zeros_like(near), None)
    margin = float(closeness[near].max())
    return _Near(
        near,
        f"Of {int(near.sum()):,} the verdict stands on a margin of {margin:.1g} of the largest "
        "logit, which is rounding: they "
        f"were saved under torch {versions[0]}, and what {versions[1]} makes of them is not held "
        "against them.",
    )


def _note(saved: Adversarials, setup: Setup, rows: Dataset, data: Dataset | None) -> str | None:
    """That the network answers otherwise than the one that was attacked; without the data, to the
    fixed images alone.
    """
    kept = saved.record.behaviour
    named = saved.record.identity.data
    if kept is None:
        return (
            "The record does not say what the network that was attacked answers: it may be another "
            "one."
        )
    whole = data is not None and data.fingerprint == named.fingerprint
    here = ask(setup.model, data if data is not None and whole else rows, setup.device)
    if kept.agrees(here, images=whole):
        return None
    return (
        "The network answers otherwise than the one that was attacked, whose weights are the same: "
        "its code is another."
    )


class _CleanRows(NamedTuple):
    """The M clean images that are shown to the model."""

    rows: Dataset
    here: Dataset | None
    """Those of the data set, if it is here."""


def _clean_rows(saved: Adversarials, data: Dataset | None) -> _CleanRows:
    """The clean images as saved, or else from the data set; and those of the data set, if it is
    here.
    """
    named = saved.record.identity.data
    here = None
    if data is not None:
        broken = torch.from_numpy(saved.outcomes.broken)
        here = data.take(broken)
    if saved.context is not None:
        x = saved.context.x
        y = saved.context.y
        return _CleanRows(Dataset(named.name, named.split, x, y, saved.ids, None, len(y)), here)
    if data is None or here is None or data.fingerprint != named.fingerprint:
        raise DataError(
            f"The clean images lie in the data set alone, and {named.name} ({named.split}) is not "
            "here as it was measured "
            f"(fingerprint {named.fingerprint[:16]}...). Name it with --dataset and --data-dir."
        )
    return _CleanRows(here, here)
