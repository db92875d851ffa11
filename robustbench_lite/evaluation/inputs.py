"""From what a user writes to what an evaluation takes: attacks, defenses, data and devices, checked
with clear errors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from robustbench_lite import registry
from robustbench_lite.bounds.certifier import Certifier
from robustbench_lite.defense.composition import (
    Composition,
    defense_from,
    trained_part,
    with_trained_part,
)
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import DataError, UnknownNameError, UsageError
from robustbench_lite.evaluation.diagnosis import Outputs
from robustbench_lite.records.identity import DataId, ModelId, PluginId, ThreatId, ranges
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.dataset import Dataset, check_data, tensor_from
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.models import reference_model
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.threat import ThreatModel, Untargeted

# Enough rows to keep the kernels busy, few enough images that a batch stays in the caches (CPU) or
# in memory.
_CPU_ROWS = 128
_CPU_VALUES = 2**20
_ACCELERATOR_ROWS = 1024
_ACCELERATOR_VALUES = 2**27
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class Subject:
    """A network under a defense: what is attacked. ``label`` is the defense as the user wrote
    it.
    """

    name: str
    module: nn.Module
    defense: Defense
    label: str


def listed(value: Any) -> list[Any]:
    """One item or several, as a list."""
    items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not items:
        raise UsageError("Name at least one attack and one defense.")
    return items


def attack_from(value: str | Attack, trust: Trust = Trust.REGISTERED) -> Attack:
    """A spec such as ``"pgd steps=40"``, or an attack object."""
    attack = registry.create("attack", value, trust) if isinstance(value, str) else value
    if not isinstance(attack, Attack):
        raise UsageError(
            f"{value!r} is no attack: give a spec such as 'pgd steps=40' or an object such as "
            "PGD(steps=40)."
        )
    return attack


def subject_from(
    value: str | Defense,
    model: nn.Module | None,
    name: str | None,
    data: Dataset,
    trust: Trust = Trust.REGISTERED,
) -> Subject:
    """A defense around ``model``, or around the bundled network that was trained with it."""
    defense = defense_from(value, trust) if isinstance(value, str) else value
    if not isinstance(defense, Defense):
        raise UsageError(
            f"{value!r} is no defense: give a spec such as 'parseval' or a Defense object."
        )
    label = short_label("defense", defense)
    if model is not None:
        return Subject(name or type(model).__name__, model, defense, label)
    wanted = trained_part(defense)
    trained = "none" if wanted is None else registered_name("defense", wanted)
    reference = reference_model(data.name, trained, trust=trust)
    if wanted is None:
        return Subject(name or reference.name, reference.module, defense, label)
    trained_with = (
        wanted
        if reference.card is None
        else registry.create("defense", reference.card.defense, trust.in_files)
    )
    if wanted not in (trained_with, type(wanted)()):
        label = short_label("defense", wanted)
        raise UsageError(
            f"The bundled {reference.name} was trained with "
            f"{short_label('defense', trained_with)!r}, not with {label!r}: "
            "leave the hyper-parameters out, or train your own with `rbl train --defense "
            f"'{label}' --dataset {data.name}`."
        )
    defense = with_trained_part(defense, trained_with)
    return Subject(
        name or reference.name, reference.module, defense, short_label("defense", defense)
    )


def dataset_from(data: Any, ids: Any = None) -> Dataset:
    """Images and labels as a pair of arrays or tensors, a Dataset, or ``None`` for the bundled
    images.
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
    index = torch.arange(len(y)) if ids is None else tensor_from(ids).to(torch.int64)
    if index.shape != y.shape:
        raise DataError(f"There are {len(index)} ids for {len(y)} images: give one an image.")
    if ids is not None and (
        int(index.min()) < 0 or len(set(index.tolist())) < len(index) or not _are_whole(ids)
    ):
        raise DataError("ids are data-set indices: whole numbers of at least 0, each once.")
    x = x.detach().to("cpu", torch.float32).contiguous()
    y = y.detach().to("cpu", torch.int64)
    return Dataset(name="data", split="given", x=x, y=y, ids=index, classes=None, full_size=len(y))


def _are_whole(values: Any) -> bool:
    return bool((np.asarray(values) == np.asarray(values).astype(np.int64)).all())


def check_fit(attack: Attack, threat: ThreatModel) -> None:
    """The attack can work in this norm, at this eps, towards this goal."""
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


def applicable(data: Dataset, threat: ThreatModel) -> Dataset:
    """``data`` without the samples that the goal makes no sense for (those already of the target
    class).
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


def pick_device(name: str) -> torch.device:
    """``auto`` takes CUDA, then MPS, then the CPU. A backend that a package has registered with
    torch goes by its own name.
    """
    name = str(name)  # a torch.device too
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    family, _, number = name.partition(":")
    registered = torch._C._get_privateuse1_backend_name()
    count: dict[str, Callable[[], int]] = {
        "cpu": lambda: 1,
        "cuda": torch.cuda.device_count,
        "mps": lambda: int(torch.backends.mps.is_available()),
    }
    if hasattr(torch, registered):
        count[registered] = getattr(torch, registered).device_count
    if family not in count or (number and not number.isdecimal()):
        raise UnknownNameError("device", name, ["auto", *count])
    there = count[family]()
    if not there:
        raise UsageError(
            f"This machine (or this build of torch) has no {family} device: use --device cpu or "
            "auto."
        )
    if number and int(number) >= there:
        devices = f"{there} {family} device{'s' * (there > 1)}: {family}:0" + (
            f" to {family}:{there - 1}" if there > 1 else ""
        )
        raise UsageError(f"There is no {name}; this machine has {devices}.")
    return torch.device(name)


def pick_batch_size(asked: int | Literal["auto"], data: Dataset, device: torch.device) -> int:
    """Rows of a model call; no verdict depends on it."""
    if asked != "auto":
        return asked
    cpu = device.type == "cpu"
    rows, values = (_CPU_ROWS, _CPU_VALUES) if cpu else (_ACCELERATOR_ROWS, _ACCELERATOR_VALUES)
    return max(16, min(rows, values // data.x[0].numel()))


def registered_name(kind: registry.Kind, plugin: Any) -> str:
    """The name under which the plug-in is registered, or ``source:name``, else ``module:Class``."""
    if isinstance(plugin, Composition):
        return "+".join(registered_name(kind, part) for part in plugin.parts)
    if registry.of_source(kind, plugin.name):
        return str(plugin.name)
    path = f"{type(plugin).__module__}:{type(plugin).__qualname__}"
    return next((name for name, target in registry.targets(kind).items() if target == path), path)


def threat_id(threat: ThreatModel) -> ThreatId:
    """The threat model as records name it; how eps was written, where that says exactly what
    it is.
    """
    found = ThreatId(
        norm=threat.norm.name, eps=threat.eps, eps_written=threat.written, goal=threat.goal.spec()
    )
    if found.is_as_written:
        return found
    return found.model_copy(
        update={"eps_written": None if threat.eps is None else repr(threat.eps)}
    )  # of float32, say


def model_id(subject: Subject, outputs: Outputs) -> ModelId:
    """The network by its name, and by the hashes of its weights and of its structure."""
    # What a layer prints of a function or an object of its own holds an address, which is another
    # one in each process.
    architecture = _ADDRESS.sub(
        "", f"{type(subject.module).__module__}.{subject.module!r}/{outputs}"
    )
    return ModelId(
        name=subject.name,
        weights_sha256=weights_hash(subject.module),
        architecture_sha256=hashlib.sha256(architecture.encode()).hexdigest(),
    )


def plugin_id(kind: registry.Kind, plugin: Any) -> PluginId:
    """What identifies an attack or a defense in a cell's key."""
    if isinstance(plugin, Composition):
        parts = [plugin_id(kind, part) for part in plugin.parts]
        return PluginId(
            name=registered_name(kind, plugin),
            version=type(plugin).version,
            parameters={},
            parts=parts,
        )
    values = {
        k: v if isinstance(v, int | float | str | None) else repr(v)
        for k, v in registry.parameters(plugin).items()
    }
    return PluginId(
        name=registered_name(kind, plugin), version=type(plugin).version, parameters=values
    )


def certifier_id(certifier: Certifier) -> PluginId:
    """What identifies a certifier in the keys of cells and certificates."""
    return PluginId(
        name=certifier.name,
        version=type(certifier).version,
        parameters=registry.parameters(certifier),
    )


def data_id(data: Dataset) -> DataId:
    """What identifies images in a cell's key."""
    return DataId(
        name=data.name,
        split=data.split,
        fingerprint=data.fingerprint,
        id_ranges=ranges(data.ids.numpy()),
    )


def short_label(kind: registry.Kind, plugin: Any) -> str:
    """The name with the hyper-parameters that are not at their default: ``pgd steps=10``."""
    if isinstance(plugin, Composition):
        labels = [short_label(kind, part) for part in plugin.parts]
        return (" + " if any(" " in label for label in labels) else "+").join(labels)
    fields = registry.hyperparameters(plugin)
    changed = [
        f"{f.name}={getattr(plugin, f.name)}"
        for f in fields
        if getattr(plugin, f.name) != f.default
    ]
    return " ".join([registered_name(kind, plugin), *changed])
