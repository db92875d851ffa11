"""What an evaluation measures: every subject under every attack.

It is listed once, for a run and for a dry run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from robustbench_lite.bounds.certifier import Certifier
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.claim import certifier_for
from robustbench_lite.evaluation.devices import pick_device
from robustbench_lite.evaluation.diagnosis import diagnose
from robustbench_lite.evaluation.fitting import check_fit_data, needs_fit
from robustbench_lite.evaluation.identity import (
    attack_id,
    certifier_id,
    data_id,
    model_id,
    plugin_id,
    threat_id,
)
from robustbench_lite.evaluation.names import short_label
from robustbench_lite.evaluation.prepare import prepare
from robustbench_lite.evaluation.probes import ask
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject
from robustbench_lite.model.defended import DefendedModel, Traits
from robustbench_lite.records.behaviour import Behaviour, objection
from robustbench_lite.records.cell import read_record
from robustbench_lite.records.identity import DataId, Identity, ModelId, PluginId, ThreatId
from robustbench_lite.records.journal import Journal, open_journal
from robustbench_lite.search.attack import Attack
from robustbench_lite.search.query import Access
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.threat import ThreatModel


class PlannedCell(NamedTuple):
    """One attack on one subject."""

    subject: Subject
    attack: Attack
    adaptive: bool
    """False for an attacker that ignores what the defense declares."""
    identity: Identity
    """Everything that decides the outcome."""

    @property
    def label(self) -> str:
        """The attack as tables call it."""
        return short_label("attack", self.attack) + ("" if self.adaptive else " (plain)")

    @property
    def by_gradients(self) -> bool:
        return self.attack.access == Access.GRADIENT


@dataclass(frozen=True)
class PlannedSubject:
    """A subject that was found fit to be measured, with the cells that it takes part in."""

    subject: Subject
    model: DefendedModel
    certifier: Certifier | None
    cells: tuple[PlannedCell, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is crossed: every subject under every attack, on the same samples."""

    subjects: Sequence[Subject]
    attacks: Sequence[Attack]
    data: Dataset
    threat: ThreatModel
    fit_data: Dataset | None = None
    """Training images, for attacks that are fitted on some."""

    def check(self) -> Plan:
        """Check that every attack can run; leave out samples that the goal makes no sense for.

        Raises:
            UsageError: an attack cannot work under the threat model, or has no images to be fitted
                on.
            DataError: the goal makes sense for no sample.
        """
        for attack in self.attacks:
            inputs.check_fit(attack, self.threat)
            if needs_fit(attack):
                check_fit_data(attack, self.fit_data, self.data)
        return replace(self, data=inputs.keep_applicable(self.data, self.threat))

    def prepare_all(self, settings: Settings, device: torch.device) -> list[PlannedSubject]:
        """Prepare the model of every subject on ``device``, and find it fit to be measured.

        Raises:
            ModelError: a network fails on the images, or is of a kind that no verdict can be given
                for.
            UnsupportedLayerError: a certificate was asked for by name, and a network has a layer
                without bounds.
        """
        data = self.data
        shape = tuple(self.data.x.shape[1:])
        models = [prepare(s.module, s.defense, device, settings.outputs) for s in self.subjects]
        models = [diagnose(model, data.x, data.y, data.classes) for model in models]
        samples = data_id(data)
        training = None if self.fit_data is None else data_id(self.fit_data)
        planned = []
        for subject, model in zip(self.subjects, models, strict=True):
            certifier = certifier_for(settings.certify, subject, self.threat, shape)
            shared = _Shared(
                model=model_id(subject, settings.outputs),
                defense=plugin_id("defense", subject.defense),
                threat=threat_id(self.threat),
                threat_model=self.threat,
                data=samples,
                fit_data=training,
                certifier=None if certifier is None else certifier_id(certifier),
            )
            cells = tuple(self._plan_cells(subject, model.traits, shared, settings))
            planned.append(PlannedSubject(subject, model, certifier, cells))
        return planned

    def _plan_cells(
        self, subject: Subject, traits: Traits, shared: _Shared, settings: Settings
    ) -> Iterator[PlannedCell]:
        """List the cells of a subject: every attack, and the plain one where that differs."""
        for attack in self.attacks:
            differs = traits.plain_differs(attack.access == Access.GRADIENT)
            for adaptive in (True, False) if settings.plain and differs else (True,):
                identity = shared.identify(attack, settings, adaptive=adaptive)
                yield PlannedCell(subject, attack, adaptive, identity)


class _Shared(NamedTuple):
    """What the identities of all cells of a subject have in common; weights are hashed once."""

    model: ModelId
    defense: PluginId
    threat: ThreatId
    threat_model: ThreatModel
    data: DataId
    fit_data: DataId | None
    certifier: PluginId | None

    def identify(self, attack: Attack, settings: Settings, *, adaptive: bool) -> Identity:
        """Gather everything that decides the outcome of a cell."""
        return Identity(
            model=self.model,
            defense=self.defense,
            attack=attack_id(attack, self.threat_model),
            threat=self.threat,
            data=self.data,
            seed=settings.seed,
            query_budget=settings.query_budget,
            fit_data=self.fit_data if needs_fit(attack) else None,
            certifier=self.certifier,
            adaptive=None if adaptive else False,
        )


class Prospect(NamedTuple):
    """A cell that an evaluation would measure, and what earlier runs left of it."""

    key: str
    defense: str
    attack: str
    n: int
    state: str


def foresee(plan: Plan, settings: Settings) -> list[Prospect]:
    """Say of each cell of ``plan`` what ``run`` would do.

    Measures and writes nothing; raises what ``run`` would raise.
    """
    plan = plan.check()
    device = pick_device(settings.device)
    folder = Path() if settings.output is None else settings.output
    journal_path = folder / "journal.sqlite"
    found = []
    with open_journal(journal_path if os.path.lexists(journal_path) else None) as journal:
        for planned in plan.prepare_all(settings, device):
            behaviour = ask(planned.model, plan.data, device)
            for cell in planned.cells:
                key = cell.identity.key()
                state = "to measure" if settings.fresh else _state(key, behaviour, journal, folder)
                found.append(
                    Prospect(key, planned.subject.label, cell.label, len(plan.data), state)
                )
    return found


def _state(key: str, behaviour: Behaviour, journal: Journal, folder: Path) -> str:
    """What earlier runs left of a cell whose network answers so."""
    path = folder / "cells" / f"{key}.json"
    if path.exists() and objection(read_record(path)[0].behaviour, behaviour) is None:
        return "recorded"
    journaled = 0 if journal.is_of_another(key, behaviour) else journal.count(key)
    if journaled:
        return f"{journaled:,} samples in the journal"
    return "to measure anew: recorded of another network" if path.exists() else "to measure"
