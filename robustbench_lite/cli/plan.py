"""From the options of ``rbl evaluate`` to what is run: networks, attacks, threat model. Imports torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from robustbench_lite import inputs, registry
from robustbench_lite.certification import certifier_for
from robustbench_lite.composition import defense_from, trained_part
from robustbench_lite.diagnosis import Outputs, diagnose, prepare
from robustbench_lite.errors import RobustBenchError, UnknownNameError, UsageError
from robustbench_lite.evaluation import Settings, attackers, identify
from robustbench_lite.fitting import calibrate_defense, check_fit_data, needs_fit
from robustbench_lite.inputs import Subject
from robustbench_lite.probes import ask
from robustbench_lite.records.behaviour import Behaviour, objection
from robustbench_lite.records.cell import read_record
from robustbench_lite.records.journal import Journal, open_journal
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.datasets import Dataset, load_dataset
from robustbench_lite.sources.models import LoadedModel, load_model, trained_model
from robustbench_lite.sources.zoo import network_files, network_name
from robustbench_lite.threat import ThreatModel, norm_by_name

#: The radii that the papers report most, by norm and data set.
_USUAL_EPS = {
    ("linf", "fashion_mnist"): "0.1",
    ("linf", "mnist"): "0.1",
    ("linf", "cifar10"): "8/255",
    ("linf", "cifar10-jpeg"): "8/255",
}
Note = Callable[[str], None]


class Plan(NamedTuple):
    """Every subject is put under every attack."""

    subjects: list[Subject]
    data: Dataset
    attacks: list[Attack]
    threat: ThreatModel
    fit_data: Dataset | None = None
    """What universal attacks are fitted on."""


class PlannedCell(NamedTuple):
    """A cell that an evaluation would measure."""

    key: str
    defense: str
    attack: str
    n: int
    state: str


def radius(eps: str | None, norm: str, dataset: str) -> str | None:
    """``--eps``, or the usual radius of that norm and data set; ``None`` where there is none."""
    return _USUAL_EPS.get((norm_by_name(norm).name, dataset)) if eps is None else eps


def batch_size(text: str) -> int | Literal["auto"]:
    """``--batch-size``: a number or ``auto``."""
    if text == "auto":
        return "auto"
    number = registry.parse_whole(text)
    if number is None:
        raise UsageError(f"--batch-size is {text!r}; it must be a whole number of at least 1, or auto.")
    return number


def outputs(text: str) -> Outputs:
    """``--outputs``."""
    known: tuple[Outputs, ...] = get_args(Outputs)
    for kind in known:
        if text == kind:
            return kind
    raise UnknownNameError("kind of outputs", text, known)


def attacks(specs: Sequence[str], threat: ThreatModel, note: Note, trust: Trust = Trust.REGISTERED) -> list[Attack]:
    """The attacks of ``specs``; ``all`` stands for every registered one that can work under ``threat``."""
    chosen: list[Attack] = []
    for spec in specs:
        if spec != "all":
            chosen.append(inputs.attack_from(spec, trust))
            continue
        for name in registry.names("attack"):
            try:
                attack = inputs.attack_from(name)
                inputs.check_fit(attack, threat)
            except (RobustBenchError, ImportError) as error:
                note(f"{name} is left out: {error}")
            else:
                chosen.append(attack)
    if not chosen:
        raise UsageError("No registered attack can work under this norm, eps and goal: see `rbl list attacks`.")
    return list(dict.fromkeys(chosen))


def calibrate(plan: Plan, dataset: str, data_dir: Path | None, download: bool, settings: Settings) -> Plan:
    """``plan`` with what its defenses set from the training images of ``dataset``."""
    if not any(subject.defense.calibrates for subject in plan.subjects):
        return plan
    images = load_dataset(dataset, split="train", data_dir=data_dir, download=download)
    subjects = [calibrate_defense(s, images, plan.data, settings.device, settings.outputs) for s in plan.subjects]
    return plan._replace(subjects=subjects)


def fit_data(plan: Plan, specs: Sequence[str], dataset: str, data_dir: Path | None, download: bool, note: Note) -> Plan:
    """``plan`` with the training images of ``dataset``, if an attack is fitted on some.

    Without any, an attack that is not in ``specs`` but came with ``all`` is left out.
    """
    universal = [attack for attack in plan.attacks if needs_fit(attack)]
    if not universal:
        return plan
    try:
        images = load_dataset(dataset, split="train", data_dir=data_dir, download=download)
        check_fit_data(universal[0], images, plan.data)
        return plan._replace(fit_data=images)
    except UsageError as error:
        rest = [attack for attack in plan.attacks if attack not in universal]
        if not rest or {registry.Spec.parse(spec).name for spec in specs} & {attack.name for attack in universal}:
            raise UsageError(f"No training images for {universal[0].name}: {error}") from error
        note(f"{universal[0].name} is left out: {error}")
        return plan._replace(attacks=rest)


def subjects(
    specs: Sequence[str] | None,
    data: Dataset,
    network: LoadedModel | None,
    note: Note,
    trust: Trust = Trust.REGISTERED,
) -> list[Subject]:
    """The defenses of ``specs`` around ``network``, or around the bundled networks; ``all`` stands for all that there are."""
    if not specs:
        trust = trust.in_files
        specs = [network.card.defense if network is not None and network.card is not None else "none"]
    chosen: list[str] = []
    for spec in specs:
        chosen += [spec] if spec != "all" else _all_defenses(data, network, note)
    module, name = (None, None) if network is None else (network.module, network.name)
    if network is not None:
        _compare(network, chosen, data, note, trust)
    return [inputs.subject_from(spec, module, name, data, trust) for spec in dict.fromkeys(chosen)]


def _compare(network: LoadedModel, defenses: Sequence[str], data: Dataset, note: Note, trust: Trust) -> None:
    """Say where a network that comes trained is not what its defense or its images make it look like."""
    card = network.card
    trained = None if card is None else trained_part(defense_from(card.defense, trust.in_files))
    for spec in defenses:
        asked = trained_part(defense_from(spec, trust))
        if asked is not None and (trained is None or asked.name != trained.name):
            note(f"{spec} acts in training, and nothing says that {network.name} was trained with it: the name is yours.")
        elif asked is None and trained is not None:
            note(f"{network.name} was trained with {trained.name}; the column says {spec}, which stands around it.")
    if card is not None and card.dataset != data.name:
        note(f"{network.name} was trained on {card.dataset} and is measured on {data.name}: is that what you want (--dataset)?")


def network_from(model: str | None, weights: Path | None, trust: Trust = Trust.REGISTERED) -> LoadedModel | None:
    """The user's network; ``None`` when no option names one."""
    if model is not None:
        return load_model(model, weights, trust)
    return None if weights is None else trained_model(weights, trust)


def dry_run(plan: Plan, settings: Settings) -> list[PlannedCell]:
    """The cells of ``plan`` with what earlier runs left of them. Measures and writes nothing."""
    for attack in plan.attacks:
        inputs.check_fit(attack, plan.threat)
        if needs_fit(attack):
            check_fit_data(attack, plan.fit_data, plan.data)
    data, device = inputs.applicable(plan.data, plan.threat), inputs.pick_device(settings.device)
    folder = Path() if settings.output is None else settings.output
    journal_path = folder / "journal.sqlite"
    cells = []
    with open_journal(journal_path if os.path.lexists(journal_path) else None) as journal:
        for subject in plan.subjects:
            certifier = certifier_for(settings.certify, subject, plan.threat, tuple(data.x.shape[1:]))
            model = diagnose(prepare(subject.module, subject.defense, device, settings.outputs), data.x, data.y, data.classes)
            behaviour = ask(model, data, device)
            for attack, adaptive in attackers(plan.attacks, model.traits, settings.plain):
                key = identify(
                    subject, attack, plan.threat, data, settings, plan.fit_data,
                    certifier=certifier, adaptive=adaptive,
                ).key()  # fmt: skip
                state = "to measure" if settings.fresh else _state(key, behaviour, journal, folder)
                label = inputs.short_label("attack", attack) + ("" if adaptive else " (plain)")
                cells.append(PlannedCell(key, subject.label, label, len(data), state))
    return cells


def _state(key: str, behaviour: Behaviour, journal: Journal, folder: Path) -> str:
    """What earlier runs left of a cell whose network answers so."""
    path = folder / "cells" / f"{key}.json"
    if path.exists() and objection(read_record(path)[0].behaviour, behaviour) is None:
        return "recorded"
    journaled = 0 if journal.is_of_another(key, behaviour) else len(journal.outcomes(key))
    if journaled:
        return f"{journaled:,} samples in the journal"
    return "to measure anew: recorded of another network" if path.exists() else "to measure"


def _all_defenses(data: Dataset, network: LoadedModel | None, note: Note) -> list[str]:
    """Defenses that can stand before the network at hand."""
    chosen = []
    for name in registry.names("defense"):
        trains = registry.load("defense", name).trains
        if network is None and network_name(data.name, name if trains else "none") not in network_files():
            note(f"{name} is left out: no bundled network was trained on {data.name} with it.")
        elif network is not None and trains:
            note(f"{name} is left out: it acts in training, and the network comes trained.")
        else:
            chosen.append(name)
    if not chosen:
        raise UsageError(f"No bundled network was trained on {data.name}: train one with `rbl train`, or use --model.")
    return chosen
