"""``rbl.verify``: what a user calls to have saved adversarials examined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from robustbench_lite.errors import DataError, RobustBenchError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.progress import Teller
from robustbench_lite.records.identity import Identity
from robustbench_lite.registry import Trust
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.models import LoadedModel
from robustbench_lite.verification import examples, rebuild
from robustbench_lite.verification.examine import Verification, examine_each
from robustbench_lite.verification.examples import Adversarials

_SETTINGS = ("batch_size", "device", "on_progress", "outputs")
"""Those that mean something here: what decided an outcome is in the record."""


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
    options = Settings.of(settings, "verify", _SETTINGS)
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
    """Find the samples that were attacked, among what was given or by the name in the record."""
    identity = saved.record.identity
    if given is not None and not isinstance(given, str):
        return _Images(_among(inputs.dataset_from(given), identity), None)
    try:
        found = rebuild.images_of(identity, given, data_dir=data_dir, download=download)
    except RobustBenchError as error:
        # What the user named must be there; and without clean images there is nothing to judge.
        if given is not None or data_dir is not None or download or saved.context is None:
            raise
        return _Images(None, f"The clean images could not be compared with the data set: {error}")
    return _Images(found, None)


def _among(data: Dataset, identity: Identity) -> Dataset:
    """The samples of ``data`` that were attacked, by their ids."""
    position = {sample: row for row, sample in enumerate(data.ids.tolist())}
    wanted = identity.data.ids().tolist()
    missing = [sample for sample in wanted if sample not in position]
    if missing:
        raise DataError(
            f"Sample {missing[0]} was attacked, and the data that was given has none of that id: "
            "give the images of the call that measured, with the same ids."
        )
    return data.take(torch.tensor([position[sample] for sample in wanted], dtype=torch.int64))
