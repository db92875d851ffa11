"""What decides an outcome, as the keys of cells and certificates have it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import Any

from robustbench_lite import registry
from robustbench_lite.bounds.certifier import Certifier
from robustbench_lite.defense.composition import Composition
from robustbench_lite.evaluation.names import registered_name
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.records.identity import DataId, ModelId, PluginId, ThreatId, ranges
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.suite import Stage, Suite
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.weights import weights_hash
from robustbench_lite.threat import ThreatModel

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""What a layer prints of a function or an object of its own; another one in each process."""


def threat_id(threat: ThreatModel) -> ThreatId:
    """Identify a threat model, with how eps was written where that says exactly what it is."""
    found = ThreatId(
        norm=threat.norm.name, eps=threat.eps, eps_written=threat.written, goal=threat.goal.spec()
    )
    if found.is_as_written:
        return found
    written = None if threat.eps is None else repr(threat.eps)  # of float32, say
    return found.model_copy(update={"eps_written": written})


def model_id(subject: Subject, outputs: Outputs) -> ModelId:
    """Identify a network by its name, and by the hashes of its weights and of its structure."""
    printed = f"{type(subject.module).__module__}.{subject.module!r}/{outputs}"
    architecture = _ADDRESS.sub("", printed)
    return ModelId(
        name=subject.name,
        weights_sha256=weights_hash(subject.module),
        architecture_sha256=hashlib.sha256(architecture.encode()).hexdigest(),
    )


def attack_id(attack: Attack, threat: ThreatModel) -> PluginId:
    """Identify an attack; a suite also by its stages under ``threat``."""
    found = plugin_id("attack", attack)
    if not isinstance(attack, Suite):
        return found
    stages = [_stage_id(stage) for stage in attack.stages(threat)]
    inconclusive = None if attack.conclusive else True
    return found.model_copy(update={"stages": stages, "inconclusive": inconclusive})


def _stage_id(stage: Stage) -> PluginId:
    """Identify a stage: its attack, and how it is called where that is not as it runs alone."""
    found = plugin_id("attack", stage.attack)
    called = {
        f"stage.{field.name}": getattr(stage, field.name)
        for field in dataclasses.fields(stage)
        if field.name in ("start", "draw", "when") and getattr(stage, field.name) != field.default
    }
    return found.model_copy(update={"parameters": found.parameters | called})


def plugin_id(kind: registry.Kind, plugin: Any) -> PluginId:
    """Identify an attack or a defense by its name, its version and all hyper-parameters."""
    name = registered_name(kind, plugin)
    version = type(plugin).version
    if isinstance(plugin, Composition):
        parts = [plugin_id(kind, part) for part in plugin.parts]
        return PluginId(name=name, version=version, parameters={}, parts=parts)
    values = {
        key: value if isinstance(value, int | float | str | None) else repr(value)
        for key, value in registry.parameters(plugin).items()
    }
    return PluginId(name=name, version=version, parameters=values)


def certifier_id(certifier: Certifier) -> PluginId:
    """Identify a certifier, in the keys of cells and of certificates."""
    return PluginId(
        name=certifier.name,
        version=type(certifier).version,
        parameters=registry.parameters(certifier),
    )


def data_id(data: Dataset) -> DataId:
    """Identify images by their content and by the samples that they are of a split."""
    return DataId(
        name=data.name,
        split=data.split,
        fingerprint=data.fingerprint,
        id_ranges=ranges(data.ids.numpy()),
    )
