"""What a record names, found again: its network, defense, threat model and images.

A record may come from anyone, so nothing that it names is imported or run: bundled networks and
registered defenses are built, everything else is handed in by the user.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from robustbench_lite import registry
from robustbench_lite.defense.composition import Composition
from robustbench_lite.defense.protocol import Defense
from robustbench_lite.errors import DataError, UsageError, WeightsError
from robustbench_lite.evaluation.identity import model_id
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.records.identity import Identity, PluginId
from robustbench_lite.registry import Trust
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import given_root, load_dataset, load_named
from robustbench_lite.sources.model_zoo import network_files
from robustbench_lite.sources.models import LoadedModel, named_network
from robustbench_lite.threat import ThreatModel


def threat_of(identity: Identity) -> ThreatModel:
    """The threat model that the attack was held against."""
    return ThreatModel.parse(identity.threat.norm, identity.threat.eps, identity.threat.goal)


def subject_of(
    identity: Identity, network: LoadedModel | None, trust: Trust = Trust.REGISTERED
) -> Subject:
    """Find the network that was attacked, and build its defense.

    It is ``network``, else the one at hand of that name.

    Raises:
        WeightsError: its weights are not those that were attacked; names both hashes.
        UsageError: the network is not at hand and none was given, or the defense is not to be had.
    """
    wanted = identity.model
    if network is None:
        if wanted.name not in network_files():
            raise UsageError(
                f"The network that was attacked, {wanted.name!r}, is not at hand: name it as `rbl "
                "evaluate` took it, with --weights (and --model for your own), or the folder that "
                "it is in with --networks; in Python, give model."
            )
        network = named_network(wanted.name, trust)
    subject = Subject(
        network.name, network.module, _defense(identity.defense, trust), identity.defense.name
    )
    found = model_id(subject, "logits")
    if found.weights_sha256 != wanted.weights_sha256:
        raise WeightsError(
            f"The weights of {network.name!r} are not those that were attacked ({wanted.name!r}): "
            f"their hash is {found.weights_sha256[:16]}..., the record says "
            f"{wanted.weights_sha256[:16]}.... Name others with --weights."
        )
    return subject


def same_structure(identity: Identity, subject: Subject, outputs: Outputs) -> bool:
    """Whether the network prints as the one that was attacked.

    Other code, or another torch, may print otherwise.
    """
    return model_id(subject, outputs).architecture_sha256 == identity.model.architecture_sha256


def images_of(
    identity: Identity,
    spec: str | None = None,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
) -> Dataset:
    """The samples that were attacked, from ``spec``, else from the data set that the record names.

    A record may come from anyone: a path that it names is looked for below ``data_dir`` alone.

    Raises:
        DataError: the data set is not here, or it has fewer images.
        UnknownNameError: no data set has that name (arrays given in Python have none).
    """
    wanted = identity.data
    # "test[:1000]" is the bundled slice of "test"; "all" and "given" know no splits.
    split: Literal["train", "test"] = "train" if wanted.split.startswith("train") else "test"
    if spec is not None:
        data = load_dataset(spec, split=split, data_dir=data_dir, download=download)
    else:
        data = load_named(
            wanted.name, given_root(data_dir), split=split, data_dir=data_dir, download=download
        )
    ids = torch.from_numpy(wanted.ids())
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(data):
        raise DataError(
            f"{data.name} ({data.split}) has {len(data):,} images here, and sample "
            f"{int(ids.max())} was attacked."
        )
    return data.take(ids)


def _defense(named: PluginId, trust: Trust) -> Defense:
    """Build the defense that a record names, in the version that it names."""
    if named.parts is not None:
        return Composition(parts=tuple(_defense(part, trust) for part in named.parts))
    kind = registry.load("defense", named.name, trust)
    if kind.version != named.version:
        raise UsageError(
            f"The record was made with version {named.version} of the defense {named.name!r}; "
            f"installed is {kind.version}, which is another one. Install the package that made the "
            "record."
        )
    defense: Defense = registry.call_with_text(
        kind, named.parameters, f"defense {named.name!r}", trust
    )
    return defense
