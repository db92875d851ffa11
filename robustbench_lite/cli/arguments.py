"""From options to what they name: images, networks, attacks, radius. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from robustbench_lite import registry
from robustbench_lite.defense.composition import defense_from, trained_part
from robustbench_lite.errors import RobustBenchError, UnknownNameError, UsageError
from robustbench_lite.evaluation import inputs
from robustbench_lite.evaluation.fitting import calibrate_defense, check_fit_data, needs_fit
from robustbench_lite.evaluation.outputs import Outputs
from robustbench_lite.evaluation.plan import Plan
from robustbench_lite.evaluation.settings import Settings
from robustbench_lite.evaluation.subject import Subject, subject_from
from robustbench_lite.files.numerals import parse_whole
from robustbench_lite.registry import Trust
from robustbench_lite.search.attack import Attack
from robustbench_lite.sources.dataset import Dataset
from robustbench_lite.sources.load_data import load_dataset
from robustbench_lite.sources.model_zoo import network_files, network_name
from robustbench_lite.sources.models import LoadedModel, load_model, trained_model
from robustbench_lite.threat import ThreatModel, norm_by_name

#: The radii that the papers report most, by norm and data set.
_USUAL_EPS = {
    ("linf", "fashion_mnist"): "0.1",
    ("linf", "mnist"): "0.1",
    ("linf", "cifar10"): "8/255",
    ("linf", "cifar10-jpeg"): "8/255",
}
Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The options under "Data": which images a command works on."""

    dataset: str
    split: str = "test"
    limit: int | None = None
    data_dir: Path | None = None
    download: bool = False

    def load(self) -> Dataset:
        """Read them."""
        return load_dataset(
            self.dataset,
            split=self.split,  # type: ignore[arg-type]
            limit=self.limit,
            data_dir=self.data_dir,
            download=self.download,
        )

    def load_training(self) -> Dataset:
        """Read all training images of the same data set."""
        return replace(self, split="train", limit=None).load()


def radius(eps: str | None, norm: str, dataset: str, default: str | None = None) -> str | None:
    """Take ``--eps``, else the usual radius of that norm and data set, else ``default``."""
    return _USUAL_EPS.get((norm_by_name(norm).name, dataset), default) if eps is None else eps


def batch_size(text: str) -> int | Literal["auto"]:
    """Read ``--batch-size``: a number or ``auto``."""
    if text == "auto":
        return "auto"
    number = parse_whole(text)
    if number is None:
        raise UsageError(
            f"--batch-size is {text!r}; it must be a whole number of at least 1, or auto."
        )
    return number


def outputs(text: str) -> Outputs:
    """Read ``--outputs``."""
    known: tuple[Outputs, ...] = get_args(Outputs)
    for kind in known:
        if text == kind:
            return kind
    raise UnknownNameError("kind of outputs", text, known)


def attacks(
    specs: Sequence[str], threat: ThreatModel, note: Note, trust: Trust = Trust.REGISTERED
) -> list[Attack]:
    """Make the attacks of ``specs``.

    ``all`` stands for every registered one that can work under ``threat``; ``note`` is told of
    those that cannot.
    """
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
        raise UsageError(
            "No registered attack can work under this norm, eps and goal: see `rbl list attacks`."
        )
    return list(dict.fromkeys(chosen))


def calibrate(plan: Plan, images: ImageSource, settings: Settings) -> Plan:
    """Let the defenses of ``plan`` set what they set from training images, if any does."""
    if not any(subject.defense.calibrates for subject in plan.subjects):
        return plan
    training = images.load_training()
    subjects = [
        calibrate_defense(s, training, plan.data, settings.device, settings.outputs)
        for s in plan.subjects
    ]
    return replace(plan, subjects=subjects)


def add_fit_data(plan: Plan, specs: Sequence[str], images: ImageSource, note: Note) -> Plan:
    """Give ``plan`` the training images, if an attack is fitted on some.

    Without any, an attack that is not in ``specs`` but came with ``all`` is left out.
    """
    universal = [attack for attack in plan.attacks if needs_fit(attack)]
    if not universal:
        return plan
    try:
        training = images.load_training()
        check_fit_data(universal[0], training, plan.data)
        return replace(plan, fit_data=training)
    except UsageError as error:
        rest = [attack for attack in plan.attacks if attack not in universal]
        typed = {registry.Spec.parse(spec).name for spec in specs}
        if not rest or typed & {attack.name for attack in universal}:
            raise UsageError(f"No training images for {universal[0].name}: {error}") from error
        note(f"{universal[0].name} is left out: {error}")
        return replace(plan, attacks=rest)


def subjects(
    specs: Sequence[str] | None,
    data: Dataset,
    network: LoadedModel | None,
    note: Note,
    trust: Trust = Trust.REGISTERED,
) -> list[Subject]:
    """Put the defenses of ``specs`` around ``network``, or around the bundled networks.

    ``all`` stands for all that can stand there; ``note`` is told of those that cannot.
    """
    if not specs:
        trust = trust.in_files
        card = None if network is None else network.card
        specs = ["none" if card is None else card.defense]
    chosen: list[str] = []
    for spec in specs:
        chosen += [spec] if spec != "all" else _all_defenses(data, network, note)
    module, name = (None, None) if network is None else (network.module, network.name)
    if network is not None:
        _compare(network, chosen, data, note, trust)
    return [subject_from(spec, module, name, data, trust) for spec in dict.fromkeys(chosen)]


def _compare(
    network: LoadedModel, defenses: Sequence[str], data: Dataset, note: Note, trust: Trust
) -> None:
    """Say where a trained network is not what its defense or its images make it look like."""
    card = network.card
    trained = None if card is None else trained_part(defense_from(card.defense, trust.in_files))
    for spec in defenses:
        asked = trained_part(defense_from(spec, trust))
        if asked is not None and (trained is None or asked.name != trained.name):
            note(
                f"{spec} acts in training, and nothing says that {network.name} was trained with "
                "it: the name is yours."
            )
        elif asked is None and trained is not None:
            note(
                f"{network.name} was trained with {trained.name}; the column says {spec}, which "
                "stands around it."
            )
    if card is not None and card.dataset != data.name:
        note(
            f"{network.name} was trained on {card.dataset} and is measured on {data.name}: is that "
            "what you want (--dataset)?"
        )


def network_from(
    model: str | None, weights: Path | None, trust: Trust = Trust.REGISTERED
) -> LoadedModel | None:
    """Load the user's network; ``None`` when no option names one."""
    if model is not None:
        return load_model(model, weights, trust)
    return None if weights is None else trained_model(weights, trust)


def _all_defenses(data: Dataset, network: LoadedModel | None, note: Note) -> list[str]:
    """Name the defenses that can stand before the network at hand."""
    chosen = []
    for name in registry.names("defense"):
        trains = registry.load("defense", name).trains
        bundled = network_name(data.name, name if trains else "none")
        if network is None and bundled not in network_files():
            note(f"{name} is left out: no bundled network was trained on {data.name} with it.")
        elif network is not None and trains:
            note(f"{name} is left out: it acts in training, and the network comes trained.")
        else:
            chosen.append(name)
    if not chosen:
        raise UsageError(
            f"No bundled network was trained on {data.name}: train one with `rbl train`, or use "
            "--model."
        )
    return chosen
