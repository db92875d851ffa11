"""Turn what a user writes into what an evaluation takes: attacks and images, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_lite import registry
from robustbench_lite.errors import DataError, UsageError
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.dataset import Dataset, check_data, tensor_from
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.threat import ThreatModel, Untargeted


def as_list(value: Any) -> list[Any]:
    """Make a list of one item or several."""
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not items:
        raise UsageError("Name at least one attack and one defense.")
    return items


def attack_from(value: str | Attack, trust: Trust = Trust.REGISTERED) -> Attack:
    """Build an attack from a spec such as ``"pgd steps=40"``; an object is taken as it is."""
    attack = registry.create("attack", value, trust) if isinstance(value, str) else value
    if not isinstance(attack, Attack):
        raise UsageError(
            f"{value!r} is no attack: give a spec such as 'pgd steps=40' or an object such as "
            "PGD(steps=40)."
        )
    return attack


def dataset_from(data: Any, ids: Any = None) -> Dataset:
    """Make a data set of what a user gives.

    Args:
        data: images and labels as a pair of arrays or tensors, a ``Dataset``, or ``None`` for the
            bundled images.
        ids: data-set indices of the samples, (N,); default 0 .. N - 1.

    Raises:
        DataError: they are not images in [0, 1] with a label each, or the ids are none.
    """
    if data is None:
        return load_dataset("fashion_mnist")
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, Sequence) or len(data) != 2:
        raise DataError(
            "data must be a pair (images, labels), a Dataset, or None for the bundled "
            "Fashion-MNIST images."
        )
    x, y = map(tensor_from, data)
    check_data(x, y)
    index = _index(ids, y)
    x = x.detach().to("cpu", torch.float32).contiguous()
    y = y.detach().to("cpu", torch.int64)
    return Dataset(name="data", split="given", x=x, y=y, ids=index, classes=None, full_size=len(y))


def _index(ids: Any, y: Tensor) -> Tensor:
    """Data-set indices (N,) of samples with the labels ``y`` (N,): ``ids``, or 0 .. N - 1."""
    if ids is None:
        return torch.arange(len(y))
    index = tensor_from(ids).to(torch.int64)
    if index.shape != y.shape:
        raise DataError(f"There are {len(index)} ids for {len(y)} images: give one an image.")
    negative = int(index.min()) < 0
    repeated = len(set(index.tolist())) < len(index)
    if negative or repeated or not _are_whole(ids):
        raise DataError("ids are data-set indices: whole numbers of at least 0, each once.")
    return index


def _are_whole(values: Any) -> bool:
    return bool((np.asarray(values) == np.asarray(values).astype(np.int64)).all())


def check_fit(attack: Attack, threat: ThreatModel) -> None:
    """Check that an attack can work in this norm, at this eps, towards this goal.

    Raises:
        UsageError: it cannot; the message says what to do.
    """
    name = attack.name
    if threat.norm.name not in attack.norms:
        norms = ", ".join(sorted(attack.norms))
        raise UsageError(
            f"{name} cannot work in {threat.norm.name}; it does: {norms}. Choose another attack or "
            "--norm."
        )
    if threat.eps is None and attack.kind == "fixed_eps":
        raise UsageError(
            f"{name} searches inside a ball and needs its radius: give eps, for example --eps 0.1 "
            "or eps='8/255'."
        )
    if not attack.targeted and not isinstance(threat.goal, Untargeted):
        raise UsageError(
            f"{name} has no targeted mode: leave out --targeted, or use an attack that has one, "
            "such as pgd."
        )
    attack.check(threat)


def keep_applicable(data: Dataset, threat: ThreatModel) -> Dataset:
    """Leave out samples that the goal makes no sense for: those already of the target class.

    Raises:
        DataError: no sample is left.
    """
    keep = threat.goal.applies_to(data.y)
    if bool(keep.all()):
        return data
    if not bool(keep.any()):
        raise DataError(
            f"Every sample is of the target class ({threat.goal.spec()}): nothing is left to "
            "attack."
        )
    return dataclasses.replace(
        data,
        x=data.x[keep],
        y=data.y[keep],
        ids=data.ids[keep],
        full_size=data.full_size - int((~keep).sum()),
    )
